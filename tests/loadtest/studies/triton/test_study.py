"""The study of Triton: what it makes of reports and samples, how it goes about its servers, and one
small run of all of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.cli import triton as cli
from loadtest.environment.spread import Spread
from loadtest.servers import processes
from loadtest.servers.free_ports import free_port
from loadtest.servers.processes import StudyError
from loadtest.servers.tritonserver import default_folder
from loadtest.studies.triton import memory, overhead, perf
from loadtest.studies.triton import report as triton_report
from loadtest.studies.triton import study as triton_study
from loadtest.studies.triton.memory import Case, Resident
from loadtest.studies.triton.overhead import BASELINE, OverheadFigures, OverheadSample, Refused
from loadtest.studies.triton.perf import Load, PerfTarget, Window
from loadtest.studies.triton.report import TritonReport
from serving.artifacts.model_folders import ModelNotFound
from serving.core import segment as segments
from serving.core.command_errors import InvalidArgument
from tests import trained
from tests.e2e.backends import noise
from tests.e2e.process import ROOT, eventually

HEADINGS = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,"
    "Server Compute Input,Server Compute Infer,Server Compute Output,Client Recv,p50 latency,"
    "p90 latency,p95 latency,p99 latency"
)
LINE = "1,19.9869,115,3279,879,180,36116,1223,5,39762,60330,69040,89654"
ONCE, TWICE, FOUR_TIMES = (Window(factor * 10.0, 8.0 / factor, 9.0, 10.0) for factor in (1, 2, 4))


def test_spread() -> None:
    assert Spread.of(range(1, 11)) == Spread(1, 5, 9)
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(1.0, 2.0, 3.0)
    assert Spread(1.0, 2.0, 3.04).text(1) == "2.0 (1.0 .. 3.0)"
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


# -- perf_analyzer -------------------------------------------------------------------------------


def test_a_report_is_read() -> None:
    expected = Window(per_s=19.9869, p50_ms=39.762, p90_ms=60.33, p99_ms=89.654)
    assert perf.parse_report(f"{HEADINGS}\n{LINE}\n") == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "0 lines instead of one"),
        (f"{HEADINGS}\n{LINE}\n{LINE}\n", "2 lines instead of one"),
        ("Concurrency,p50 latency\n1,2\n", "cannot be read: KeyError"),
        (f"{HEADINGS}\n1,many\n", "cannot be read: ValueError"),
    ],
)
def test_another_report_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(StudyError, match=complaint):
        perf.parse_report(text)


def every_load() -> list[Load]:
    callers = (1, 2)
    return [
        *(load for depth in (1, 7) for load in perf.depth_loads("m", depth, callers)),
        *perf.anytime_loads("m", (1, 7), 512, 640, callers),
        *perf.gateway_loads("m", 7, 512, 640, callers),
    ]


def test_every_load_has_one_to_be_compared_with() -> None:
    loads = every_load()
    assert len(set(loads)) == len(loads)
    plain = {(load.depth, load.concurrency) for load in loads if load.transport == perf.PLAIN}
    assert {(load.depth, load.concurrency) for load in loads} == plain


def test_ratios_are_taken_within_a_round() -> None:
    plain, shared = perf.depth_loads("m", 1, (1,))
    lines = perf.summarise([plain, shared], {plain: [ONCE, TWICE], shared: [TWICE, FOUR_TIMES]})
    assert [line.transport for line in lines] == ["gRPC", "gRPC, shared memory"]
    assert lines[0].per_s_to_plain == lines[0].p50_to_plain == Spread(1.0, 1.0, 1.0)
    assert lines[1].per_s_to_plain == Spread(2.0, 2.0, 2.0)
    assert lines[1].p50_to_plain == Spread(0.5, 0.5, 0.5)
    assert lines[1].per_s == Spread(20.0, 20.0, 40.0)
    assert lines[1].rounds == (TWICE, FOUR_TIMES)


class FakeAnalyzer(perf.PerfAnalyzer):
    """Notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def warm_up(self, protocol: str, address: str, load: Load) -> None:
        self.calls.append(f"warm {address} {load.concurrency}")

    def measure(self, protocol: str, address: str, load: Load) -> Window:
        self.calls.append(f"{address} {load.concurrency}")
        return ONCE


def test_servers_take_turns() -> None:
    analyzer = FakeAnalyzer()
    calls = analyzer.calls

    def target(name: str, loads: tuple[Load, ...]) -> PerfTarget:
        @contextlib.contextmanager
        def start():
            calls.append(f"start {name}")
            yield name
            calls.append(f"stop {name}")

        return PerfTarget("grpc", start, loads)

    a, b = perf.depth_loads("m", 1, (1,))[:1], perf.depth_loads("m", 2, (2,))[:1]
    lines = perf.measure([target("a", a), target("b", b)], analyzer, 2, lambda _: None)
    on_a = ["start a", "warm a 1", "a 1", "stop a"]
    on_b = ["start b", "warm b 2", "b 2", "stop b"]
    assert calls == [*on_a, *on_b, *on_b, *on_a]
    assert [(line.depth, len(line.rounds)) for line in lines] == [(1, 2), (2, 2)]


def exits(**counts: int) -> str:
    name = "punctual_exit_depth_total"
    lines = (f'{name}{{depth="{d[1:]}",model="m"}} {n}.0' for d, n in counts.items())
    return "\n".join(("# TYPE punctual_exit_depth counter", *lines, "other 3.0"))


def test_a_gateway_that_answers_shallower_is_not_measured() -> None:
    perf.check_full_depth(exits(d1=0, d7=120), 7)
    with pytest.raises(StudyError, match=r"exit 7 only; by depth, it gave \{1: 2.0, 7: 5.0\}"):
        perf.check_full_depth(exits(d1=2, d7=5), 7)
    with pytest.raises(StudyError, match="exit 7 only"):
        perf.check_full_depth(exits(d7=0), 7)


# -- overhead ------------------------------------------------------------------------------------


class FakeGateway:
    """Takes 10 ms in the engine, and more outside it at every call."""

    def __init__(self, name: str, order: list[str], refuse: tuple[int, ...] = ()) -> None:
        self.name = name
        self.order = order
        self.refuse = refuse
        self.count = 0

    def __call__(self, depth: int) -> OverheadSample:
        self.order.append(f"{self.name} {depth}")
        self.count += 1
        if self.count in self.refuse:
            raise Refused(f"{self.name}: 503 overloaded")
        return OverheadSample(10.0 + self.count, 10.0)


def test_gateways_take_turns() -> None:
    order: list[str] = []
    gateways = {name: FakeGateway(name, order) for name in "abc"}
    turns = overhead.measure(gateways, (1, 7), 20, seed=0)
    number = overhead.WARM_UP_TURNS + 20
    rows = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert len(rows) == 2 * number
    for index, row in enumerate(rows):
        depth = (1, 7)[index % 2]
        assert sorted(row) == [f"a {depth}", f"b {depth}", f"c {depth}"]
    assert len({tuple(row) for row in rows}) == 12  # every order, at both depths
    assert {depth: len(found) for depth, found in turns.samples.items()} == {1: 20, 7: 20}
    assert all(list(found) == ["a", "b", "c"] for found in turns.samples[1])
    assert turns.lost == {}


def test_a_turn_with_a_refusal_is_left_out_whole() -> None:
    order: list[str] = []
    first = overhead.WARM_UP_TURNS + 1
    b = FakeGateway("b", order, refuse=(1, first))  # in the warm-up, and after it
    turns = overhead.measure({"a": FakeGateway("a", order), "b": b}, (1,), 20, seed=0)
    assert len(turns.samples[1]) == 19
    assert turns.lost == {"b: 503 overloaded": 1}


def test_too_many_refusals_end_the_study() -> None:
    refuse = tuple(range(overhead.WARM_UP_TURNS + 1, 1000))
    gateways = {"a": FakeGateway("a", [], refuse)}
    with pytest.raises(StudyError, match=r"not answered as asked: a: 503 overloaded \(3\)"):
        overhead.measure(gateways, (1,), 20, seed=0)


def test_overhead_is_compared_within_a_turn() -> None:
    rows = [
        {BASELINE: OverheadSample(12.0, 10.0), "triton": OverheadSample(14.0, 11.0)},
        {BASELINE: OverheadSample(30.0, 10.0), "triton": OverheadSample(32.0, 11.0)},
        {BASELINE: OverheadSample(13.0, 10.0), "triton": OverheadSample(16.0, 11.0)},
    ]
    baseline, triton = overhead.summarise(overhead.Turns({7: rows}, {}))
    assert (baseline.gateway, baseline.depth, baseline.num_turns) == (BASELINE, 7, 3)
    assert baseline.added_ms == Spread(0.0, 0.0, 0.0)
    assert (baseline.overhead_p50_ms, baseline.overhead_p99_ms) == (3.0, 20.0)
    assert (triton.elapsed_p50_ms, triton.engine_p50_ms) == (16.0, 11.0)
    assert triton.added_ms == Spread(1.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("counts", "engine_ms"),
    [((5, 6), 2.0), ((5, 5, 5, 6), 2.0), ((5, 7), None), ((5,) + (5,) * 100, None)],
    ids=["at once", "later", "another as well", "never"],
)
def test_the_engine_of_depth_models_is_timed_by_triton(
    monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...], engine_ms: float | None
) -> None:
    left = iter(counts)

    def statistics(url: str) -> object:
        assert url == "http://t/v2/models/m_d3/stats"
        count = next(left)
        infer = {"count": count, "ns": count * 2_000_000}
        return {"model_stats": [{"inference_stats": {"compute_infer": infer}}]}

    monkeypatch.setattr(processes, "get_json", statistics)
    monkeypatch.setattr(overhead, "STATISTICS_RETRY_S", 0.0)
    ask = overhead.DepthGateway(lambda _: OverheadSample(9.0, 8.0), "http://t", "m")
    if engine_ms is None:
        with pytest.raises(Refused, match="runs instead of one"):
            ask(3)
    else:
        assert ask(3) == OverheadSample(9.0, engine_ms)


def test_images_are_told_by_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    assert overhead.read_image(tmp_path / "a.png") == (b"png", "image/png")
    with pytest.raises(InvalidArgument, match="no suffix of an image"):
        overhead.read_image(tmp_path / "a.txt")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        overhead.read_image(tmp_path / "b.jpg")


# -- memory --------------------------------------------------------------------------------------


def test_cases_hold_what_they_say() -> None:
    alone, unit, both, one_process, many = memory.cases(2)
    assert alone.processes == (((),),)
    assert unit.processes == ((segments.unit_segments(2),),)
    assert set(both.processes[0][0]) == set(segments.every_segment(2))
    exits = tuple((segments.fused_exit(depth),) for depth in (1, 2))
    assert one_process.processes == (exits,)
    assert many.processes == tuple((each,) for each in exits)


def test_a_file_counts_once_in_a_runner_and_again_in_the_next() -> None:
    sizes = {segment: 10**index for index, segment in enumerate(segments.unit_segments(2))}
    # stem 1, stack_1 10, stack_2 100, head_1 1000, head_2 10000
    counted = [memory.disk_bytes(case, sizes) for case in memory.cases(2)]
    assert counted == [0, 11111, 11111, 1011 + 10111, 1011 + 10111]


def test_memory_is_read() -> None:
    rollup = "00400000-7ffe [rollup]\nRss:  900 kB\nPss:   10 kB\nPss_Dirty: 5 kB\nPss_Anon: 4 kB\n"
    assert Resident.of(rollup) == Resident(10240, 4096)
    assert Resident(1, 2) + Resident(10, 20) == Resident(11, 22)
    with pytest.raises(StudyError, match="does not tell 'Pss_Anon'"):
        Resident.of("Pss: 10 kB\n")


def test_the_runtime_counts_once_for_each_process() -> None:
    alone, *_, many = memory.cases(2)
    sizes = dict.fromkeys(segments.unit_segments(2), 500_000)
    measured = {
        alone: [Resident(40_000_000, 20_000_000)],
        many: [Resident(150_000_000, 100_000_000)],
    }
    first, second = memory.summarise(measured, sizes)
    assert first.over_runtime_mb == Spread(0.0, 0.0, 0.0)
    assert second.resident_mb == Spread(150.0, 150.0, 150.0)
    assert second.over_runtime_mb == Spread(60.0, 60.0, 60.0)
    assert (second.num_processes, second.num_runners, second.disk_mb) == (2, 2, 3.5)


def test_a_process_that_cannot_hold_is_quoted(tmp_path: Path) -> None:
    case = Case("nothing", (((),),))
    with pytest.raises(StudyError, match=r"(?s)ended with 2:.*catalog\.json cannot be used"):
        memory.held(case, tmp_path, "openvino")


# -- servers -------------------------------------------------------------------------------------


def test_a_server_that_ends_is_quoted(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "print('no such port'); raise SystemExit(3)")
    url = f"http://127.0.0.1:{free_port()}/"
    started = processes.running("it", command, os.environ, url, tmp_path / "log")
    with (
        pytest.raises(StudyError, match=r"(?s)it ended with 3; its last lines:\n  no such"),
        started,
    ):
        pass


def test_a_server_that_is_never_ready_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "pid"

    def not_yet(_: str) -> bool:
        eventually(lambda: note.exists() and note.read_text().endswith("\n"))
        return False

    monkeypatch.setattr(processes, "START_TIMEOUT_S", 0.0)
    monkeypatch.setattr(processes, "is_ok", not_yet)
    command = ("sh", "-c", f"sleep 600 & echo $! > {note}; wait")
    started = processes.running("it", command, os.environ, "http://unused/", tmp_path / "log")
    with pytest.raises(StudyError, match="it was not ready after 0 s; it said nothing"), started:
        pass
    sleeper = Path("/proc", note.read_text().strip(), "stat")
    eventually(lambda: not sleeper.exists() or " Z " in sleeper.read_text())  # not yet reaped


def test_a_gateway_without_a_model_is_quoted(tmp_path: Path) -> None:
    started = processes.gateway("embedded", {"model_repository": tmp_path}, tmp_path / "log")
    expected = r"(?s)the gateway \(embedded\) ended with 2; .*there is no model in"
    with pytest.raises(StudyError, match=expected), started:
        pass


def test_a_triton_that_cannot_load_its_models_is_quoted(
    tritonserver: None, small_repository: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(small_repository / "bccd_d1", repository / "bccd_d1")  # without the segments
    started = processes.triton_server(
        default_folder(), repository, "cpu", ["bccd_d1"], tmp_path / "log"
    )
    expected = r"(?s)Triton with bccd_d1 could not load every model; .*catalog.json cannot be used"
    with pytest.raises(StudyError, match=expected), started:
        pass


# -- the report ----------------------------------------------------------------------------------


def report() -> TritonReport:
    perf_lines = perf.summarise(perf.depth_loads("m", 1, (1,))[:1], PLAIN_WINDOWS)
    added = Spread(0.5, 1.5, 2.5)
    line = OverheadFigures("triton", 7, 300, 30.0, 25.0, 5.0, 6.0, 7.0, added)
    return TritonReport(
        machine="a machine, 2 cores",
        load_average=0.04,
        versions={"punctual": "0"},
        date="2026-01-02",
        model="m",
        model_digest="0123456789abcdef",
        settings={"rounds": 1},
        perf=perf_lines,
        overhead=[
            replace(line, gateway=BASELINE, added_ms=Spread(0.0, 0.0, 0.0)),
            line,
            replace(line, gateway="triton-depth", added_ms=Spread(2.0, 2.1, 3.0)),
        ],
        lost_turns={"triton: 503 overloaded": 2},
        memory=memory.summarise(
            {memory.cases(1)[0]: [Resident(1, 1)]}, dict.fromkeys(segments.unit_segments(1), 1)
        ),
    )


PLAIN_WINDOWS = {load: [ONCE] for load in perf.depth_loads("m", 1, (1,))}


def test_the_tables() -> None:
    text = triton_report.markdown(report())
    assert "a machine, 2 cores, 2026-01-02, load average 0.04 before. punctual 0. Model m, " in text
    assert "| Triton | m_d1 | gRPC | 1 | 1 | 10.0 (10.0 .. 10.0) | 8.0 (8.0 .. 8.0) |" in text
    assert "| embedded | 7 | 300 | 30.00 | 25.00 | 5.00 | 6.00 | 7.00 |  |  |" in text
    assert "| 5.00 | 6.00 | 7.00 | 1.50 (0.50 .. 2.50) | yes |" in text
    assert "| 2.10 (2.00 .. 3.00) | no |" in text
    assert "did not answer as asked: triton: 503 overloaded: 2." in text
    assert "| the runtime alone | 1 | 1 | 0 (0 .. 0) | 0 (0 .. 0) | 0.00 |" in text
    for row in text.splitlines():
        if row.startswith("|---"):
            assert set(row) == {"|", "-"}


def test_only_what_was_measured_is_told() -> None:
    text = triton_report.markdown(replace(report(), perf=None, memory=None, lost_turns={}))
    assert "What Triton adds" in text
    assert "Throughput" not in text
    assert "left out" not in text
    assert "holding the model" not in text


def test_the_report_is_written_twice(tmp_path: Path) -> None:
    report().write(tmp_path / "triton-2026-01-02")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "triton-2026-01-02.json",
        "triton-2026-01-02.md",
    ]
    data = json.loads((tmp_path / "triton-2026-01-02.json").read_text())
    assert data["overhead"][1]["added_ms"] == {"p10": 0.5, "p50": 1.5, "p90": 2.5}
    assert data["perf"][0]["rounds"][0]["per_s"] == 10.0


# -- the command ---------------------------------------------------------------------------------


def test_parts_are_named_as_they_are() -> None:
    assert tuple(triton_study.PARTS) == cli.STUDY_PARTS


def settings(repository: Path) -> triton_study.TritonStudySettings:
    return triton_study.TritonStudySettings(
        model_repository=repository,
        config_name="cpu",
        server_folder=repository,
        image=repository,
        rounds=1,
        callers=(1,),
        turns=1,
        window_ms=1,
        seed=0,
    )


def test_the_model_is_found(tmp_path: Path) -> None:
    subject = triton_study.find_subject(settings(trained.REPOSITORY), trained.MODEL)
    assert (subject.name, subject.runtime, subject.depths) == (trained.MODEL, "openvino", (1, 7))
    with pytest.raises(ModelNotFound, match=r"there is no model 'other' in .*; there is bccd"):
        triton_study.find_subject(settings(trained.REPOSITORY), "other")
    with pytest.raises(ModelNotFound, match=r"there is no model in .*\*_anytime/1/catalog.json"):
        triton_study.find_subject(settings(tmp_path), None)


def test_it_all_at_once(tritonserver: None, small_repository: Path, tmp_path: Path) -> None:
    image = tmp_path / "noise.png"
    image.write_bytes(noise())
    command = [sys.executable, "-m", "serving", "study", "triton", "--rounds", "1", "--turns", "3"]
    command += ["--window-ms", "250", "--callers", "1", "--image", str(image)]
    command += ["--model-repository", str(small_repository), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    as_json, as_table = sorted((tmp_path / "out").iterdir())
    assert done.stdout == as_table.read_text()
    found = json.loads(as_json.read_text())
    assert found["versions"]["Triton"] == "2.51.0"
    served = {
        (row["server"], row["model"], row["transport"], row["depth"]) for row in found["perf"]
    }
    assert served == {
        ("Triton", "bccd_d1", "gRPC", 1),
        ("Triton", "bccd_d1", "gRPC, shared memory", 1),
        ("Triton", "bccd_d3", "gRPC", 3),
        ("Triton", "bccd_d3", "gRPC, shared memory", 3),
        ("Triton", "bccd_anytime", "gRPC stream", 1),
        ("Triton", "bccd_anytime", "gRPC stream", 3),
        ("gateway", "bccd", "HTTP", 3),
    }
    assert all(row["per_s"]["p50"] > 0 for row in found["perf"])
    asked = [(row["gateway"], row["depth"]) for row in found["overhead"]]
    assert asked == [(name, depth) for depth in (1, 3) for name in overhead.BACKENDS]
    assert all(0 < row["engine_p50_ms"] < row["elapsed_p50_ms"] for row in found["overhead"])
    held = {row["name"]: row["over_runtime_mb"]["p50"] for row in found["memory"]}
    assert list(held) == [case.name for case in memory.cases(3)]
    assert 0 == held["the runtime alone"] < held["unit segments"] < held["unit and fused segments"]
