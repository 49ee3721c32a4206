"""How a live study goes about its servers, and one small study."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from loadtest.load.open_loop import LoadSettings
from loadtest.load.summary import summarise
from loadtest.peers.detector import PeerDetector, PeerDetectorSettings, PeerSettingsError
from loadtest.servers.processes import RunningServer, StudyError
from loadtest.simulation.profiles import load_profile
from loadtest.studies.live import study as live_study
from loadtest.studies.live.candidates import choose, find_candidates
from loadtest.studies.live.reference import reserve_of
from loadtest.studies.live.study import (
    described,
    measure_loads,
    measure_recovery,
    plan,
    timeline_of,
)
from loadtest.studies.live.subject import LiveStudySettings, LiveSubject
from loadtest.studies.live.systems import POLICIES, Measured, System
from serving.artifacts.model_folders import version_folder
from serving.core.catalog import Exit
from serving.core.command_errors import InvalidArgument
from serving.core.latency_profile import LatencyProfile
from tests import trained
from tests.loadtest.load.runs import ROWS, answer, result
from tests.loadtest.studies.live.runs import REFERENCE, report, run
from tests.serving.world import FakeClock

SETTINGS = LiveStudySettings(
    model_repository=trained.REPOSITORY,
    model=trained.MODEL,
    runtime="openvino",
    data=trained.DATA,
    split="test",
    peers_python=None,
    loads=(0.3, 0.9),
    rates_hz=(),
    fixed=(),
    num_fixed=2,
    arrivals=("poisson", "trace:azure_conv"),
    budgets="1.2x,2x,4x",
    rounds=2,
    seconds=5.0,
    burst_s=(4.0, 4.0, 12.0),
    segment_rounds=1,
    reference_s=1.0,
    seed=7,
)
NAMES = ("deadline", "fixed:1", "litserve:1")


def test_everything_takes_its_turn() -> None:
    rounds = list(plan(SETTINGS.points, NAMES, 20, seed=7))
    assert len(rounds) == 20
    for starts, points in rounds:
        assert sorted(starts) == sorted(NAMES)
        assert Counter(point[:2] for point in points) == Counter(SETTINGS.points)
        assert all(sorted(point.names) == sorted(NAMES) for point in points)
    assert len({starts for starts, _ in rounds}) > 3
    assert {starts[0] for starts, _ in rounds} == set(NAMES)
    assert len({point.names for _, points in rounds for point in points}) == 6
    assert len({tuple(p[:2] for p in points) for _, points in rounds}) > 10
    seeds = [point.seed for _, points in rounds for point in points]
    assert len(set(seeds)) == 20 * len(SETTINGS.points)
    assert rounds == list(plan(SETTINGS.points, NAMES, 20, seed=7))


class Starts:
    """Servers that are none, how to start them, and what became of them."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []

    def of(self, *names: str) -> dict[str, Callable[[], AbstractContextManager[System]]]:
        return {name: partial(self._start, name) for name in names}

    @contextmanager
    def _start(self, name: str) -> Iterator[System]:
        self.log.append(("start", name))
        yield System(name, RunningServer("http://server", 0), None, None)  # type: ignore[arg-type]
        self.log.append(("end", name))


def measured(load: LoadSettings) -> Measured:
    return Measured(result(ROWS), summarise(result(ROWS)), run("deadline", "x", 1, 0, 8).account)


def test_systems_of_a_point_are_sent_the_same(tmp_path: Path, monkeypatch) -> None:
    asked: list[tuple[str, LoadSettings]] = []

    def measure(system: System, load: LoadSettings) -> Measured:
        asked.append((system.name, load))
        return measured(load)

    monkeypatch.setattr(live_study, "measure", measure)
    found = replace(report(), runs=[], bursts=[])
    said: list[str] = []
    starts = Starts()
    subject, starters = LiveSubject.find(SETTINGS), starts.of(*NAMES)
    measure_loads(subject, starters, found, tmp_path / "live", said.append)
    assert len(asked) == len(found.runs) == 2 * 4 * 3
    assert len(said) == 2 * (1 + 4)
    # Every round has servers of its own, which are all there from its beginning to its end.
    assert [what for what, _ in starts.log] == [*["start"] * 3, *["end"] * 3] * 2
    assert Counter(starts.log) == {(what, name): 2 for what in ("start", "end") for name in NAMES}
    for turn in range(0, len(asked), 3):
        names, loads = zip(*asked[turn : turn + 3], strict=True)
        assert set(names) == set(NAMES)
        assert {load.target.name for load in loads} == set(NAMES)
        assert len({(load.seed, load.rate_hz, load.arrivals.name) for load in loads}) == 1
    assert {round(load.rate_hz, 6) for _, load in asked} == {30.0, 90.0}
    assert {load.full_depth_s for _, load in asked} == {REFERENCE.full_depth_s}
    assert len(json.loads((tmp_path / "live.json").read_text())["runs"]) == 24


def test_a_burst_is_five_times_capacity(tmp_path: Path, monkeypatch) -> None:
    asked: list[LoadSettings] = []

    def measure(system: System, load: LoadSettings) -> Measured:
        asked.append(load)
        return measured(load)

    monkeypatch.setattr(live_study, "measure", measure)
    found = replace(report(), runs=[], bursts=[])
    subject = LiveSubject.find(SETTINGS)
    names = ("deadline", f"fixed:{subject.quickest}", "slackfit")
    starts = Starts()
    starters = starts.of("another", *names)
    measure_recovery(subject, starters, found, tmp_path / "live", lambda _: None)
    order = [burst.system for burst in found.bursts]
    assert starts.log == [(what, name) for name in order for what in ("start", "end")]
    for number, turns in enumerate((order[:3], order[3:])):
        assert sorted(turns) == sorted(names)
        assert len({load.seed for load in asked[3 * number : 3 * number + 3]}) == 1
    assert [burst.round for burst in found.bursts] == [0] * 3 + [1] * 3
    assert len({load.seed for load in asked}) == 2
    assert {load.arrivals.name for load in asked} == {"burst:4:4:20"}
    assert {load.rate_hz * 20 for load in asked} == {5 * REFERENCE.capacity_hz}
    assert found.bursts[0].duration_s == 20.0
    assert found.bursts[0].burst_s == (4.0, 8.0)


def test_a_timeline_is_by_the_instant_of_arrival() -> None:
    rows = [answer(0.1, 0.01, depth=3), answer(0.4, 0.5), answer(0.6, 0.01, depth=None)]
    timeline = timeline_of([*rows, answer(1.9, 0.01, depth=2)], 2.0)
    assert timeline.arrived == (2, 1, 0, 1)
    assert timeline.in_time == (1, 1, 0, 1)
    assert timeline.depths == (3, 0, 0, 2)


def test_what_a_gateway_keeps_of_a_budget() -> None:
    assert reserve_of({"reserve_ms": 4.5}) == pytest.approx(0.0045)
    unknowns: tuple[Any, ...] = (None, {"exits": []}, {"reserve_ms": None})
    for unknown in unknowns:
        with pytest.raises(StudyError, match="does not say what it keeps"):
            reserve_of(unknown)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"budgets": "x"}, "budgets 'x'"),
        ({"arrivals": ("sometimes",)}, "arrivals 'sometimes'"),
        ({"loads": (0.0,)}, "loads and rates must be positive"),
        ({"rates_hz": (0.0,)}, "loads and rates must be positive"),
        ({"loads": tuple(range(1, 502))}, "too many"),
    ],
)
def test_settings_that_make_no_sense(changes, problem: str) -> None:
    SETTINGS.check()
    with pytest.raises(ValueError, match=problem):
        replace(SETTINGS, **changes).check()


def test_rates_are_in_the_place_of_loads() -> None:
    assert replace(SETTINGS, rates_hz=(20.0,)).points == [
        ("poisson", 20.0),
        ("trace:azure_conv", 20.0),
    ]


def test_the_report_repeats_rates_and_points_once() -> None:
    subject = LiveSubject.find(replace(SETTINGS, rates_hz=(20.0, 40.5), budgets="60,100"))
    told = described(subject, ("640x512/1", "640x512/3"))
    assert (told["requests/s"], told["budgets"]) == ("20 40.5", "60,100")
    assert "loads" not in told
    assert told["fixed operating points"] == "640x512/1 640x512/3 (simulated)"
    assert described(LiveSubject.find(SETTINGS), ())["loads"] == "0.3 0.9"


def test_a_point_that_the_model_lacks_is_refused() -> None:
    subject = LiveSubject.find(replace(SETTINGS, fixed=("640x512/2",)))
    assert subject.quickest == "640x512/1"
    assert subject.best == "640x512/7"
    with pytest.raises(InvalidArgument, match="no operating point '640x512/9'"):
        LiveSubject.find(replace(SETTINGS, fixed=("640x512/9",)))


def test_candidates_are_the_best_in_simulation_at_some_load() -> None:
    """At little load depth costs nothing, in a flood only the quickest is worth anything."""
    subject = LiveSubject.find(replace(SETTINGS, arrivals=("poisson",), loads=(0.1, 3.0)))
    reference = replace(REFERENCE, profile=bccd_profile(), reserve_s=0.0)
    first, second = find_candidates(subject, reference)
    assert first == "640x512/1"
    assert int(second.rpartition("/")[2]) > 1
    named = replace(SETTINGS, fixed=("640x512/3", "640x512/2"))
    assert find_candidates(LiveSubject.find(named), reference) == ("640x512/2", "640x512/3")


def bccd_profile() -> LatencyProfile:
    return load_profile("bccd").latency


def test_points_are_chosen_to_be_best_together() -> None:
    light = {"a": 0.3, "b": 0.5, "c": 0.55}
    heavy = {"a": 0.35, "b": 0.25, "c": 0.1}
    assert choose([light, heavy], 1) == ("b",)
    assert choose([light, heavy], 2) == ("b", "a")
    assert set(choose([light, heavy], 9)) == {"a", "b", "c"}
    assert choose([light], 2) == ("c", "b")
    assert choose([], 2) == ()


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an untrained model of two input sizes, with accuracies made up for it."""
    from dataclasses import replace as changed

    from builder.config.named import CONFIGS
    from builder.exporting.build import at_sizes, write_model
    from builder.exporting.repository import write_entry
    from builder.modeling.architectures import make_detector

    root = tmp_path_factory.mktemp("model_repo")
    classes = LiveSubject.find(SETTINGS).family.classes
    config = changed(CONFIGS["everyday"].detector, classes=classes, neck_channels=8, num_stacks=1)
    detectors = at_sizes(make_detector(config).eval(), [(76, 76), (172, 172)], 1)
    entry = write_model(detectors, "toy", "test", root, FakeClock())
    catalogs = tuple(
        replace(catalog, exits=(Exit(1, ap, ap, {}),))
        for catalog, ap in zip(entry.catalogs, (0.3, 0.5), strict=True)
    )
    write_entry(replace(entry, catalogs=catalogs), version_folder(root, "toy"))
    return root


@pytest.mark.slow
def test_a_small_study(two_sizes: Path, tmp_path: Path) -> None:
    """Of a model that knows nothing, by servers that are slow: figures mean nothing, but every
    request is accounted for."""
    data = tmp_path / "data"
    shutil.copytree(SETTINGS.data, data)
    command = [sys.executable, "-m", "serving", "study", "live", "--rounds", "1"]
    command += ["--seconds", "0.5", "--loads", "0.5", "--arrivals", "poisson"]
    command += ["--burst-seconds", "1", "1", "3", "--segment-rounds", "1", "--data", str(data)]
    command += ["--reference-seconds", "0.3", "--num-fixed", "2"]
    command += ["--runtime", "onnxruntime", "--model-repository", str(two_sizes), "--model", "toy"]
    command += ["--out", str(tmp_path / "out")]
    done = subprocess.run(
        command,
        cwd=trained.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    paths = {path.suffix: path for path in (tmp_path / "out").iterdir()}
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert done.stdout == paths[".md"].read_text()
    found = json.loads(paths[".json"].read_text())
    fixed = {"fixed:76x76/1", "fixed:172x172/1"}
    assert {row["system"] for row in found["runs"]} == {*POLICIES, *fixed}
    assert {row["system"] for row in found["bursts"]} == {*POLICIES, "fixed:76x76/1"}
    assert {row["system"] for row in found["in_hindsight"]} < fixed
    assert {"exit_1", "exit_1@1"} < set(found["reference"]["profile"]["segments"])
    for row in found["runs"]:
        if row["system"] in fixed:
            assert set(row["points"]) <= {row["system"].partition(":")[2]}
            aps = {"fixed:76x76/1": 0.3, "fixed:172x172/1": 0.5}
            assert row["expected_ap"] in (None, pytest.approx(aps[row["system"]]))
    assert len({row["schedule_digest"] for row in found["runs"]}) == 1
    for row in (*found["runs"], *found["bursts"]):
        ends = row["account"]
        assert sum(ends["client"].values()) == ends["scheduled"] == row["count"]
        assert all(ends["server"][end] >= count for end, count in ends["client"].items())
        assert sum(ends["server"].values()) == row["count"] + 1
        assert ends["connection_errors"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("size", "ap"), [("76x76", 0.3), ("172x172", 0.5)])
def test_a_peer_serves_any_operating_point(two_sizes: Path, size: str, ap: float) -> None:
    told = {
        "PEER_MODEL_REPOSITORY": str(two_sizes),
        "PEER_SIZE": size,
        "PEER_DEPTH": "1",
        "PEER_PORT": "8101",
        "PEER_TIMEOUT_MS": "85",
    }
    settings = PeerDetectorSettings.read(told)
    detector = PeerDetector(settings.folder, settings.size, settings.depth)
    image = LiveSubject.find(SETTINGS).images[0]
    (reply,) = map(json.loads, detector.detect([detector.decode(image.data)]))
    detector.close()
    assert reply["operating_point"] == f"{size}/1"
    assert reply["expected_ap"] == ap
    with pytest.raises(PeerSettingsError, match="several input sizes, of which one is to be named"):
        PeerDetectorSettings.read({k: v for k, v in told.items() if k != "PEER_SIZE"})
