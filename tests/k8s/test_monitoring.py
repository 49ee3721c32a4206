"""Rules, runbook and dashboard: what they speak of exists, and each alert does what it is for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from loadtest.servers.prometheus import SCRAPE_INTERVAL_S, read_rules, shortened
from loadtest.studies.drills.alerts import STEPS
from serving.observability.metrics import Metrics
from tests.k8s.manifests import containers, find, pod_specs, render, render_folder
from tests.serving.fakes import FakeBackend, FakeClock

MONITORING = Path("k8s/monitoring")
UNIT_TESTS = Path(__file__).parent / "alerts.yaml"
RUNBOOK = (MONITORING / "runbook.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
SPEC = read_rules(MONITORING / "rules.yaml")
RULE_LIST = [rule for group in SPEC["groups"] for rule in group["rules"]]
ALERTS = [rule["alert"] for rule in RULE_LIST if "alert" in rule]
_MATCHERS = re.compile(r"(punctual_\w+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
SCRAPED = {"namespace", "job", "pod"}
"""Labels that Prometheus adds to whatever it scrapes."""


def run(promtool: str, *arguments: object) -> str:
    command = [promtool, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def expressions() -> Iterator[str]:
    """Of rules and dashboard."""
    yield from (rule["expr"] for rule in RULE_LIST)
    yield from (target["expr"] for panel in panels() for target in panel["targets"])


def samples() -> dict[str, dict[str, set[str]]]:
    """What a gateway exports: sample -> label -> values."""
    metrics = Metrics(CollectorRegistry(), FakeClock())
    metrics.describe(FakeBackend(FakeClock()), version="0", runtime="openvino")
    found: dict[str, dict[str, set[str]]] = {}
    text = metrics.exposition("text/plain")[0].decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


# -- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [1, 60])
def test_rules_are_valid(promtool: str, tmp_path: Path, speed: float) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(shortened(SPEC, speed)))
    assert f"{len(RULE_LIST)} rules found" in run(promtool, "check", "rules", rules)


def test_each_alert_fires_and_stays_silent(promtool: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(SPEC))
    shutil.copy(UNIT_TESTS, tmp_path)
    run(promtool, "test", "rules", tmp_path / UNIT_TESTS.name)


def test_each_alert_is_tested_both_ways_and_drilled() -> None:
    asserted = [
        (case["alertname"], bool(case["exp_alerts"]))
        for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    wanted = {(name, fires) for name in ALERTS for fires in (True, False)}
    assert set(asserted) == wanted
    assert sorted(alert for step in STEPS for alert in step.alerts) == sorted(ALERTS)


def test_each_alert_has_a_paragraph_in_the_runbook() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE)
    assert headings == ALERTS
    for rule in RULE_LIST:
        if "alert" in rule:
            path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
            assert Path(path) == MONITORING / "runbook.md"
            assert anchor == rule["alert"].lower()
            assert rule["labels"]["severity"] in ("critical", "warning")


def test_the_runbook_names_panels_and_settings_that_exist() -> None:
    from serving.settings import Settings, variable

    titles = {panel["title"] for panel in panels()}
    quoted = set(re.findall(r'"([^"]+)"', " ".join(RUNBOOK.split())))
    named = {title.removesuffix(" by pod") for title in quoted - titles}
    assert named <= titles
    settings = set(re.findall(r"PUNCTUAL_\w+", RUNBOOK))
    assert settings <= set(map(variable, Settings.model_fields))


# -- what rules and dashboard speak of ------------------------------------------------------------


def test_every_metric_exists() -> None:
    exported = set(samples())
    recorded = {rule["record"] for rule in RULE_LIST if "record" in rule}
    for expression in expressions():
        rules = set(re.findall(r"namespace_job:[\w:]+", expression))
        assert rules <= recorded, expression
        named = set(re.findall(r"(?<![:\w])punctual_\w+", expression))
        assert named or rules, expression
        assert named <= exported, expression


def test_every_label_and_every_value_exists() -> None:
    exported = samples()
    for expression in expressions():
        for metric, matchers in _MATCHERS.findall(expression):
            for label, operator, value in _MATCHER.findall(matchers):
                if label in SCRAPED or (metric, value) == ("punctual_build_info", "triton"):
                    continue
                known = exported[metric][label]
                values = value.split("|")
                alternatives = (
                    [v for v in known if re.fullmatch(value, v)] if "(" in value else values
                )
                assert alternatives, expression
                assert set(alternatives) <= known, expression
                assert operator != "=" or len(values) == 1, expression


# -- the dashboard --------------------------------------------------------------------------------


def test_panels_are_where_they_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_use_the_variables_of_the_dashboard() -> None:
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    builtin = {"__rate_interval", "__range"}
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables | builtin
            assert "$namespace" in target["expr"]


def test_it_becomes_a_config_map() -> None:
    rendered = find(render_folder(MONITORING), "ConfigMap")
    assert json.loads(rendered["data"]["punctual.json"]) == DASHBOARD
    assert rendered["metadata"]["labels"]["grafana_dashboard"] == "1"


# -- what is scraped ------------------------------------------------------------------------------


@pytest.mark.parametrize(("overlay", "ports"), [("cpu", 1), ("gpu", 2)])
def test_pods_have_the_labels_and_ports_that_are_scraped(overlay: str, ports: int) -> None:
    monitor = find(render_folder(MONITORING), "PodMonitor")
    manifests = render(overlay)
    deployment = find(manifests, "Deployment")
    assert monitor["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels
    named = {
        port["name"]
        for container in containers(pod_specs(manifests)["Deployment"])
        for port in container.get("ports", ())
    }
    scraped = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    assert len(scraped & named) == ports
    allowed = {
        port["port"]
        for rule in find(manifests, "NetworkPolicy")["spec"]["ingress"]
        for port in rule["ports"]
    }
    assert scraped & named <= allowed


def test_what_the_rules_take_a_scrape_to_be() -> None:
    monitor = find(render_folder(MONITORING), "PodMonitor")
    intervals = {endpoint["interval"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    assert intervals == {f"{SCRAPE_INTERVAL_S:g}s"}
