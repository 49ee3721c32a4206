"""``punctual search``, as it is typed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.cli.search import kinds
from builder.cli.search import run as search_run
from builder.cli.search import times as search_times
from builder.config.configuration import override
from builder.config.named import CONFIGS
from builder.config.pyramid_graphs import GRAPHS, Graph, graph_json, read_graph
from builder.modeling.architectures import make_detector
from builder.modeling.checkpoint import save_checkpoint
from builder.search import stack_latency
from builder.search.evaluators.shared import ABOUT
from builder.search.journal import JOURNAL, read_journal
from builder.search.latency_table import LatencyTable, counted, fit, synthetic_table
from builder.search.report import WHAT_REWARDS_ARE
from builder.search.rewards import REWARDS
from builder.search.searchers import SEARCHERS
from builder.search.space import SPACES
from builder.search.stack_rounds import StackRounds
from serving.__main__ import _Tools, main
from tests.builder.search.children import same_but_for_machine

TINY = [
    "detector.input_size=[128,128]",
    "detector.num_stacks=2",
    "detector.neck_channels=8",
    "detector.head_channels=8",
    "train.batch_size=3",
    "train.epochs=1",
    "train.warmup_steps=1",
]


RANDOM = np.random.default_rng(3)


def search(*arguments: object) -> int:
    return main(["search", *map(str, arguments)])


MICRO = "a journal of the space micro"


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("micro")
    run = ("run", "--space", "micro", "--evaluator", "analytic", "--searcher", "random")
    assert search(*run, "--children", 2, "--out", out) == 0
    return out / JOURNAL


def test_names_are_those_of_the_package() -> None:
    assert tuple(SPACES) == kinds.SPACE_NAMES == tuple(kinds.PROXIES)
    assert tuple(SPACES) == tuple(kinds.FROZEN_PROXIES)
    of_spaces = {**kinds.PROXIES, **kinds.FROZEN_PROXIES, **kinds.TIMES_OF}
    assert {*of_spaces, *of_spaces.values()} - {*SPACES} <= {*CONFIGS}
    assert tuple(SEARCHERS) == search_run.SEARCHER_NAMES
    assert tuple(REWARDS) == kinds.REWARD_NAMES
    assert tuple(search_run.POOLS) == search_run.POOL_NAMES
    assert set(WHAT_REWARDS_ARE) == set(kinds.EVALUATOR_NAMES)


def test_spaces_are_shown_with_a_graph_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(graph_json(GRAPHS["nas_fpn"]))
    assert search("space", "--neck", path) == 0
    said = capsys.readouterr().out
    assert "1,931,334,451,200,000" in said
    assert "in nas-fpn: 3,1,1,3 3,0,1,5 4,0,0,6 3,0,6,7 2,1,7,8 0,1,6,9 1,1,9,10" in said
    assert "not in micro" in said


def test_a_search_is_run_extended_reported_and_its_winner_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, *more: object) -> Path:
        out = tmp_path / name
        assert search("run", "--evaluator", "analytic", "--out", out, *more) == 0
        return out / JOURNAL

    found = run("evolution", "--children", 20)
    run("evolution", "--children", 60)
    whole = run("whole", "--children", 60)
    assert same_but_for_machine(read_journal(found).children, read_journal(whole).children)
    random = run("random", "--searcher", "random", "--children", 60)
    controls = run("controls", "--searcher", "controls")
    finalists = run("finalists", "--searcher", "finalists", "--of", found, random, "--top", 2)
    assert len(read_journal(controls).children) == 4 * search_run.NUM_SEEDS
    seeds = [child.training_seed for child in read_journal(finalists).children]
    assert seeds == [100, 100, 101, 101, 102, 102]
    capsys.readouterr()

    out = tmp_path / "report"
    assert search("report", found, random, "--controls", controls, "--out", out) == 0
    assert capsys.readouterr().out == (out / "report.md").read_text()
    assert "<svg" in (out / "report.html").read_text()
    assert read_graph(out / "best.json").levels == (3, 4, 5, 6, 7)


def test_searchers_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures" / "micro-v1"
    assert (
        search(
            *("benchmark", "--space", "micro", "--searchers", "random", "evolution"),
            *("--seeds", 2, "--budgets", 20, 10, "--out", out),
        )
        == 0
    )
    report = json.loads(out.with_suffix(".json").read_text())
    assert {(row["searcher"], row["budget"]) for row in report["regrets"]} == {
        (name, budget) for name in ("random", "evolution") for budget in (10, 20)
    }
    assert capsys.readouterr().out == out.with_suffix(".md").read_text()


def stacks(noise: float) -> Callable[..., StackRounds]:
    """A machine on which a cell takes what its convolution does, and some luck."""
    random = np.random.default_rng(0)

    def measure(
        _: object, graphs: Sequence[Graph], *__: object, made_of: dict[str, Any], **___: object
    ) -> StackRounds:
        ms = np.empty((len(graphs), 2, 3, 3))
        ms[..., 0], ms[..., 2] = 5.0, 7.0
        for of_graph, graph in zip(ms, graphs, strict=True):
            luck = np.exp(noise * random.normal(size=(2, 1)))
            of_graph[..., 1] = synthetic_table().stack(graph) * luck
        return StackRounds(tuple(graphs), ms, made_of)

    return measure


def test_a_latency_table_is_fitted_and_searched_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stack_latency, "measure_stacks", stacks(0.01))
    path = tmp_path / "tables" / "latency.json"
    assert search("latency", "--out", path) == 0
    said = capsys.readouterr().out
    assert "each of 28 graphs is foretold" in said
    table = LatencyTable.read(path)
    assert table.unit == "ms"
    expected = synthetic_table().stack(GRAPHS["nas_fpn"])
    assert table.stack(GRAPHS["nas_fpn"]) == pytest.approx(expected, rel=0.05)
    rounds = StackRounds.read(path.with_suffix(search_times.ROUNDS_SUFFIX))
    assert f"agree with one of {rounds.repeats_with():.2f}" in said
    again = fit(rounds.stacks(), "ms", {})
    for graph in rounds.graphs:
        assert again.stack(graph) == pytest.approx(table.stack(graph), rel=1e-4)
    out = tmp_path / "searched"
    run = ("run", "--evaluator", "analytic", "--latency", path, "--children", 2, "--out", out)
    assert search(*run) == 0
    contents = read_journal(out / JOURNAL)
    assert contents.search["latency"] == table.to_dict()


def test_a_latency_table_that_foretells_nothing_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stack_latency, "measure_stacks", stacks(0.5))
    path = tmp_path / "latency.json"
    assert search("latency", "--out", path) == 1
    assert "not well enough" in capsys.readouterr().err
    assert not path.exists()
    # What it took minutes to measure is there to be looked at.
    assert len(StackRounds.read(path.with_suffix(search_times.ROUNDS_SUFFIX)).graphs) == 28


def test_graphs_are_compared_seed_by_seed_and_at_measured_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, *more: object) -> Path:
        out = tmp_path / name
        assert search("run", "--evaluator", "analytic", "--out", out, *more) == 0
        return out / JOURNAL

    mine = tmp_path / "mine.json"
    mine.write_text(graph_json(SPACES["nas-fpn"].decode(SPACES["nas-fpn"].sample(RANDOM))))
    many = run("many", "--searcher", "necks", "--necks", mine, "nas_fpn", "--seeds", 4)
    few = run("few", "--searcher", "necks", "--necks", "fpn")
    assert [len(read_journal(path).children) for path in (many, few)] == [8, 3]
    monkeypatch.setattr(stack_latency, "measure_stacks", stacks(0.01))
    times = tmp_path / "measured" / "times.json"
    assert search("times", many, few, "--out", times) == 0
    assert "Kendall's tau" in capsys.readouterr().out
    out = tmp_path / "figures" / "contest"
    assert search("contest", many, few, "--times", times, "--out", out) == 0
    said = capsys.readouterr().out
    assert re.search(r"\| `nas_fpn` \| 4 \|", said)
    assert re.search(r"\| `fpn` \| 3 \|", said)
    assert out.with_suffix(".md").read_text().endswith(said)
    assert "<svg" in out.with_suffix(".html").read_text()
    capsys.readouterr()
    assert search("contest", run("other", "--searcher", "controls"), "--times", times) == 2
    assert "was not measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("times", MICRO, "--out", "times.json"), "of the space micro"),
        (("latency", "--rounds", "1", "--out", "latency.json"), "1 is less than 2"),
        (("contest", MICRO, "--out", "."), "'.' is no name of a file"),
        (("benchmark", "--out", ".."), "'..' is no name of a file"),
        (("benchmark", "--out", "README.md/x"), "is no name of a file"),
        (("benchmark", "--seeds", "9999999999"), "9999999999 is more than 10000"),
    ],
)
def test_what_cannot_be_measured_or_written_is_said_beforehand(
    arguments: tuple[object, ...], sentence: str, micro: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code: object
    try:
        code = search(*(micro if each is MICRO else each for each in arguments))
    except SystemExit as ended:  # what argparse refuses
        code = ended.code
    assert code == 2
    assert sentence in capsys.readouterr().err


def test_two_ways_of_training_are_compared_on_the_graphs_of_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, *more: object) -> Path:
        out = tmp_path / name
        assert search("run", "--evaluator", "analytic", "--out", out, *more) == 0
        return out / JOURNAL

    proxy = run("proxy", "--searcher", "random", "--children", 30)
    spread = ("--searcher", "spread", "--of", proxy, "--graphs", 12, "--seeds", 1)
    other = run("other", *spread, "--training-seed", 7)
    out = tmp_path / "tables" / "agreement.md"
    capsys.readouterr()
    assert search("agreement", proxy, other, "--out", out) == 0
    said = capsys.readouterr().out
    assert "12 graphs trained both ways" in said
    assert out.read_text().endswith(said)
    few = run("few", *spread[:-4], "--graphs", 4)
    capsys.readouterr()
    assert search("agreement", proxy, few) == 2
    assert "have 4 graphs in common" in capsys.readouterr().err


@pytest.mark.slow
def test_stacks_are_measured_on_the_runner_that_serves(tmp_path: Path) -> None:
    space = SPACES["nas-fpn"]
    graphs = [space.decode(space.sample(np.random.default_rng(seed))) for seed in range(2)]
    config = override(CONFIGS["bccd_proxy"], TINY[:4]).detector
    measured = stack_latency.measure_stacks(
        config,
        graphs,
        _Tools(),
        tmp_path,
        runtime="openvino",
        threads=1,
        instances=2,
        rounds=2,
        clock=time.perf_counter,
        made_of={},
    )
    assert measured.ms.shape == (2, 2, 2, 3)
    assert [each.graph for each in measured.stacks()] == graphs
    assert measured.ms.min() > 0


@pytest.mark.slow
def test_children_are_trained_and_become_a_table_and_the_winner_is_trained(
    bccd: Path, tmp_path: Path
) -> None:
    settings = [text for change in TINY for text in ("--set", change)]
    out = tmp_path / "trained"
    trained = ("run", "--evaluator", "train", "--data", bccd, "--searcher", "random", *settings)
    assert search(*trained, "--children", 2, "--out", out) == 0
    children = read_journal(out / JOURNAL).children
    assert [child.status for child in children] == ["ok", "ok"]
    assert read_journal(out / JOURNAL).search["latency"]["unit"] == "MMAC"
    looked_up = tmp_path / "looked_up"
    table = ("run", "--evaluator", "table", "--journal", out / JOURNAL, "--searcher", "random")
    assert search(*table, "--children", 2, "--out", looked_up) == 0
    assert [c.reward for c in read_journal(looked_up / JOURNAL).children] == [
        c.reward for c in children
    ]
    report = tmp_path / "report"
    assert search("report", out / JOURNAL, "--out", report) == 0
    neck = report / "best.json"
    winner = tmp_path / "winner"
    train = ["train", "--config", "bccd_proxy", "--neck", neck, "--data", bccd, "--out", winner]
    assert main([*map(str, train), *settings]) == 0


@pytest.mark.slow
def test_children_with_a_backbone_in_common_are_a_signal_of_the_detector_they_stand_for(
    bccd: Path, tmp_path: Path
) -> None:
    config = CONFIGS["bccd_frozen"].detector
    backbone = tmp_path / "backbone.pt"
    save_checkpoint(backbone, config, make_detector(config).state_dict(), {})
    settings = [text for change in TINY for text in ("--set", change)]
    out, features = tmp_path / "signal", tmp_path / "features"
    trained = ("run", "--data", bccd, "--searcher", "signal", "--graphs", 2, *settings)
    common = ("--backbone", backbone, "--features", features)
    assert search(*trained, *common, "--out", out) == 0
    contents = read_journal(out / JOURNAL)
    assert [child.training_seed for child in contents.children] == [0, 0, 1, 1, 2, 2]
    assert len({child.key for child in contents.children}) == 2
    assert len(list(features.iterdir())) == 3  # one for each seed
    expected = counted(replace(CONFIGS["bccd"].detector, neck="nas_fpn"))
    assert contents.search["latency"] == json.loads(json.dumps(expected.to_dict()))
    of_proxy = tmp_path / "of_proxy"
    assert search(*trained, *common, "--times-of", "bccd_frozen", "--out", of_proxy) == 0
    assert read_journal(of_proxy / JOURNAL).search["latency"] != contents.search["latency"]
    # Another backbone is another search, and without one there is none.
    assert search(*trained, "--backbone", tmp_path / "gone.pt", "--out", out) == 2
    save_checkpoint(backbone, config, make_detector(config).state_dict(), {})
    assert search(*trained, *common, "--out", out) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--evaluator", "table"), "need --journal"),
        (("--config", "bccd_frozen"), "needs to have learnt before: --backbone"),
        (("--evaluator", "analytic", "--journal", "x"), "need --journal, and no other does"),
        (("--searcher", "finalists"), "need --of"),
        (("--of", "gone.jsonl"), "need --of, and no other does"),
        (("--searcher", "necks"), "needs --necks"),
        (("--searcher", "necks", "--necks", "gone"), "gone: neither of fpn, panet, bifpn, nas_fpn"),
        (("--evaluator", "analytic", "--partial"), "--partial is for the evaluator table"),
        (("--ray-address", "auto"), "needs --pool ray"),
        (("--config", "bccd"), "measures on no images"),
        (("--config", "bccd_proxy_p5"), "cannot have the levels of nas-fpn"),
        (("--children", "0"), "0 is less than 1"),
        (("--children", "9999999999"), "9999999999 is more than 1000000"),
        (("--workers", "9999999999"), "9999999999 is more than 1024"),
        (("--seed", "9999999999"), "9999999999 is more than 2147483647"),
        (("--searcher", "necks", "--necks", "fpn", "fpn"), "one before it is the same network"),
        (("--searcher", "finalists", "--of", MICRO), "of the space micro"),
        (("--searcher", "spread", "--of", MICRO), "of the space micro"),
        (("--evaluator", "table", "--partial", "--journal", MICRO), "of the space micro"),
        (("--evaluator", "surrogate", "--journal", MICRO), "of the space micro"),
        (("--evaluator", "analytic", "--searcher", "exhaustive"), "too many to list"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    arguments: tuple[str, ...],
    sentence: str,
    micro: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code: object
    given = [micro if each is MICRO else each for each in arguments]
    try:
        code = search("run", *given, "--out", tmp_path)
    except SystemExit as ended:  # what argparse refuses
        code = ended.code
    assert code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "gone.jsonl", "--out", "."),
        ("run", "--evaluator", "surrogate", "--journal", "gone.jsonl", "--out", "."),
        ("run", "--evaluator", "train", "--data", "gone", "--out", "."),
        ("run", "--evaluator", "analytic", "--latency", "gone.json", "--out", "."),
    ],
)
def test_what_is_not_there_is_said(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert search(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("punctual: ")
    assert "gone" in said


@pytest.mark.slow
def test_weights_that_graphs_share_are_trained_and_searched_by(
    bccd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [text for change in TINY for text in ("--set", change)]
    out, folder = tmp_path / "trained", tmp_path / "shared"
    trained = ("run", "--data", bccd, "--searcher", "random", "--children", 5, *settings)
    assert search(*trained, "--out", out) == 0
    share = ("share", "--data", bccd, *settings, "--of", out / JOURNAL, "--out", folder)
    lenient = ("--min-kendall", -1)
    assert search(*share, "--epochs", 2, *lenient) == 0
    assert "5 graphs trained both ways" in capsys.readouterr().out
    assert len(read_journal(folder / JOURNAL).children) == 5
    before = (folder / ABOUT).read_bytes()
    assert search(*share, "--epochs", 2, *lenient) == 0  # nothing is left to do
    assert (folder / ABOUT).read_bytes() == before
    for epochs, of_other in ((2, ("--set", "detector.neck_channels=16")), (3, ())):
        assert search(*share, *of_other, "--epochs", epochs) == 2
        assert "is of other weights" in capsys.readouterr().err

    found = tmp_path / "found"
    run = ("run", "--data", bccd, "--evaluator", "shared", "--shared", folder)
    assert search(*run, "--children", 3, "--out", found, *lenient) == 0
    children = read_journal(found / JOURNAL).children
    assert [child.status for child in children] == ["ok"] * 3
    in_two = tmp_path / "in_two"
    assert search(*run, "--children", 3, "--workers", 2, "--out", in_two, *lenient) == 0
    assert same_but_for_machine(read_journal(in_two / JOURNAL).children, children)

    about = json.loads(before)
    for kendall, code, told in (
        (0.2, 1, "Kendall's tau of 0.20: less than 0.5"),
        (None, 2, "is not known yet"),
    ):
        (folder / ABOUT).write_text(json.dumps(about | {"kendall": kendall}))
        assert search(*run, "--children", 4, "--out", found) == code
        assert told in capsys.readouterr().err
    assert search(*run, "--space", "lite", "--out", found) == 2
    assert "of the space nas-fpn, not lite" in capsys.readouterr().err


def test_weights_are_judged_by_enough_graphs_that_were_trained(
    bccd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up = tmp_path / "made_up"
    assert search("run", "--evaluator", "analytic", "--children", 4, "--out", made_up) == 0
    settings = [text for change in TINY for text in ("--set", change)]
    share = ("share", "--data", bccd, *settings, "--of", made_up / JOURNAL, "--out", tmp_path / "x")
    capsys.readouterr()
    assert search(*share) == 2
    assert "were not trained" in capsys.readouterr().err
    journal = made_up / JOURNAL
    journal.write_text(journal.read_text().replace('"analytic"', '"train"', 1))
    assert search(*share) == 2
    assert "there are 4 graphs in the journals, and 5 tell" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    for name, told in (
        ('"ap"', "has not the reward that"),
        ('"speed"', "a reward that there is not"),
    ):
        other.write_text(journal.read_text().replace('"anytime"', name, 1))
        both = (other, journal) if name == '"ap"' else (other,)
        assert search(*share[:-4], "--of", *both, "--out", tmp_path / "x") == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
