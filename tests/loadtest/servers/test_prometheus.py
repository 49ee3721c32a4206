"""Rules made quicker, and the programs that are asked to be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.servers.prometheus import (
    ProgramMissing,
    find_program,
    read_rules,
    shortened,
)
from serving.core.command_errors import InvalidArgument

RULES = """
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
spec:
  groups:
    - name: g
      rules:
        - {record: "a:b:rate5m", expr: "rate(x[5m]) / rate(y{le=\\"1.5\\"}[1d]) > 14.4"}
        - {alert: Bad, expr: "a:b:rate5m > 0.5", for: 90s}
        - {alert: Worse, expr: "quantile_over_time(0.5, a:b:rate5m[1h]) > 1"}
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


def test_every_duration_is_divided_and_nothing_else(rules: Path) -> None:
    spec = read_rules(rules)
    (group,) = shortened(spec, 60)["groups"]
    assert [rule["expr"] for rule in group["rules"]] == [
        'rate(x[5000ms]) / rate(y{le="1.5"}[1440000ms]) > 14.4',
        "a:b:rate5m > 0.5",
        "quantile_over_time(0.5, a:b:rate5m[60000ms]) > 1",
    ]
    assert group["rules"][1]["for"] == "1500ms"
    assert spec == read_rules(rules), "the rules that were given are as before"


@pytest.mark.parametrize(
    "text",
    [
        *("", "spec", "{a: 1}", "]", "spec: {}", "spec: {groups: [{rules: [{alert: Bad}]}]}"),
        *("spec: {groups: [{rules: [{expr: 3}]}]}", "spec: {groups: [{rules: [up]}]}"),
    ],
)
def test_a_file_without_rules(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rules.yaml"
    with pytest.raises(InvalidArgument, match="has no rules"):
        read_rules(path)
    path.write_text(text)
    with pytest.raises(InvalidArgument, match="has no rules"):
        read_rules(path)


def test_a_duration_of_two_units_is_not_understood(rules: Path) -> None:
    rules.write_text(RULES.replace("90s", "1m30s"))
    with pytest.raises(InvalidArgument, match="1m30s is not one number"):
        shortened(read_rules(rules), 2)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ProgramMissing, match="apt-get install no-such-program"):
        find_program("no-such-program")
