"""Times that were measured, kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from builder.config.detector import DetectorConfig
from builder.config.named import CONFIGS
from builder.measuring.kept_times import KeptTimes, Times
from serving.core.command_errors import CommandError

DETECTOR = CONFIGS["bccd_small"].detector
OTHER = replace(DETECTOR, neck_channels=48)


class Machine:
    """One that never takes as long as before."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> Times:
        self.asked += 1
        return [{1: 1.5 * self.asked, 2: 2.5}, {2: 4.0}]


def test_what_is_kept_is_not_measured_again(tmp_path: Path) -> None:
    path, machine = tmp_path / "times.json", Machine()
    wanted = [(DETECTOR, [1, 2]), (OTHER, [2])]
    found = KeptTimes(path, {"threads": 1}).of(wanted, machine)
    assert found == [{1: 1.5, 2: 2.5}, {2: 4.0}]
    assert KeptTimes(path, {"threads": 1}).of(wanted, machine) == found
    assert machine.asked == 1


def test_others_are_measured_and_kept_too(tmp_path: Path) -> None:
    """Other detectors, other exits, measured in another way."""
    path, machine = tmp_path / "times.json", Machine()
    asked = [
        ({"threads": 1}, [(DETECTOR, [1, 2]), (OTHER, [2])]),
        ({"threads": 1}, [(DETECTOR, [1, 2]), (DETECTOR, [2])]),
        ({"threads": 1}, [(DETECTOR, [1]), (OTHER, [2])]),
        ({"threads": 2}, [(DETECTOR, [1, 2]), (OTHER, [2])]),
    ]

    def found() -> list[Times]:
        def measured(wanted: Sequence[tuple[DetectorConfig, Sequence[int]]]) -> Times:
            machine()
            return [dict.fromkeys(exits, float(machine.asked)) for _, exits in wanted]

        return [KeptTimes(path, on).of(w, partial(measured, w)) for on, w in asked]

    first = found()
    assert machine.asked == len(asked)
    assert found() == first


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "3", "{", '{"a": 1}', '{"a": {}}', '{"a": {"times": [{"x": 1}]}}', "[" * 9999),
        *(f'{{"a": {{"times": [{{"1": {ms}}}]}}}}' for ms in ("0", "-1", "NaN", "1e999")),
        f'{{"a": {{"times": [{{"1": {"9" * 400}}}]}}}}',
    ],
)
def test_a_file_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(CommandError, match=r"times\.json holds no times that were measured"):
        KeptTimes(path, {})


def test_kept_times_of_other_exits_are_refused(tmp_path: Path) -> None:
    path, wanted = tmp_path / "times.json", [(DETECTOR, [1, 2]), (OTHER, [2])]
    KeptTimes(path, {}).of(wanted, Machine())
    (digest,) = kept = json.loads(path.read_text())
    for times in ([{"1": 1.5, "2": 2.5}], [{"1": 1.5}, {"2": 4.0}]):
        kept[digest]["times"] = times
        path.write_text(json.dumps(kept))
        with pytest.raises(CommandError, match="of other exits"):
            KeptTimes(path, {}).of(wanted, Machine())
