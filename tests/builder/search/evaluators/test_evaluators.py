"""Evaluators that look up, foretell or make up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builder.config.pyramid_graphs import GRAPHS
from builder.search.canonical import canonical_key
from builder.search.evaluators.analytic import AnalyticEvaluator
from builder.search.evaluators.base import Job
from builder.search.evaluators.surrogate import PoorSurrogate, SurrogateEvaluator
from builder.search.evaluators.tabular import NotInTable, TabularEvaluator
from builder.search.journal import FAILED, JOURNAL, Child, JournalSet
from builder.search.run import run
from builder.search.space import SPACES
from builder.search.statistics import kendall
from tests.builder.search.children import analytic_search


def job(name: str = "nas_fpn", seed: int = 0) -> Job:
    return Job(0, GRAPHS[name], canonical_key(GRAPHS[name]), seed)


# -- analytic ------------------------------------------------------------------------------------


def test_made_up_accuracies_are_of_the_network() -> None:
    micro, evaluator = SPACES["micro"], AnalyticEvaluator()
    found: dict[str, tuple[float, ...]] = {}
    for encoding in micro.enumerate():
        graph = micro.decode(encoding)
        truth = evaluator.truth(graph)
        assert found.setdefault(canonical_key(graph), truth) == pytest.approx(truth)
    assert np.std(list(found.values())) > 0.005


def test_made_up_accuracies_rise_with_depth() -> None:
    space, random = SPACES["nas-fpn"], np.random.default_rng(0)
    graphs = [space.decode(space.sample(random)) for _ in range(100)]
    aps = np.array([AnalyticEvaluator().truth(graph) for graph in graphs])
    first, second, third = aps.mean(axis=0)
    assert first < second < third
    assert 0.3 < aps.min() < aps.max() < 0.6


def test_noise_is_of_the_seed_and_as_large_as_asked_for() -> None:
    evaluator = AnalyticEvaluator(noise=0.01)
    truth = evaluator.truth(GRAPHS["nas_fpn"])
    found = np.array([evaluator.evaluate(job(seed=seed)).aps for seed in range(2000)]) - truth
    assert evaluator.evaluate(job(seed=5)) == evaluator.evaluate(job(seed=5))
    assert found.mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-3)
    assert found.std(axis=0) == pytest.approx([0.01] * 3, rel=0.1)


# -- tabular -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exhaustive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Child, ...]]:
    """All of the micro space, and 59 of it with a second seed."""
    out = tmp_path_factory.mktemp("micro")
    return out / JOURNAL, run(analytic_search("exhaustive", space="micro"), out, 700)


def test_a_table_gives_what_was_measured(
    exhaustive: tuple[Path, tuple[Child, ...]],
) -> None:
    path, children = exhaustive
    table = TabularEvaluator.of(JournalSet.read([path]))
    assert table.num_exits == 3
    first, again, other = children[0], children[641], children[100]
    assert first.key == again.key
    assert first.aps != again.aps

    def look_up(child: Child, seed: int) -> tuple[float, ...]:
        return table.evaluate(Job(0, child.graph, child.key, seed)).aps

    assert [look_up(first, seed) for seed in range(3)] == [first.aps, again.aps, first.aps]
    assert look_up(other, 0) == look_up(other, 1) == other.aps
    assert table.truth(first.graph) == pytest.approx(np.mean([first.aps, again.aps], axis=0))


def test_a_graph_that_is_not_in_the_table_is_refused(
    exhaustive: tuple[Path, tuple[Child, ...]],
) -> None:
    with pytest.raises(NotInTable, match="of another space"):
        TabularEvaluator.of(JournalSet.read([exhaustive[0]])).evaluate(job())


def test_a_table_of_nothing_but_failures_is_none(
    exhaustive: tuple[Path, tuple[Child, ...]], tmp_path: Path
) -> None:
    head = exhaustive[0].read_text().splitlines(True)[0]
    failed = replace(exhaustive[1][0], status=FAILED, aps=(), times=(), reward=0.0)
    path = tmp_path / JOURNAL
    path.write_text(head + failed.to_line())
    with pytest.raises(NotInTable, match="was evaluated"):
        TabularEvaluator.of(JournalSet.read([path]), is_partial=True)


def test_of_a_partial_table_what_is_not_there_fails(
    exhaustive: tuple[Path, tuple[Child, ...]],
) -> None:
    path, children = exhaustive
    found = TabularEvaluator.of(JournalSet.read([path]), is_partial=True)
    evaluation = found.evaluate(job())
    assert evaluation.aps == ()
    assert "not in the table" in evaluation.problem
    assert found.truth(GRAPHS["nas_fpn"]) == (0.0,) * found.num_exits
    assert not found.knows(GRAPHS["nas_fpn"])
    assert found.knows(children[0].graph)
    assert found.truth(children[0].graph) == TabularEvaluator.of(JournalSet.read([path])).truth(
        children[0].graph
    )
    assert found.describe() != TabularEvaluator.of(JournalSet.read([path])).describe()


def test_searching_a_table_is_searching_what_it_was_made_of(
    exhaustive: tuple[Path, tuple[Child, ...]], tmp_path: Path
) -> None:
    path, children = exhaustive
    measured = {child.key: child.aps for child in reversed(children)}
    search = analytic_search(
        "random", space="micro", evaluator=TabularEvaluator.of(JournalSet.read([path]))
    )
    for child in run(search, tmp_path, 40):
        if child.training_seed == 0:
            assert child.aps == measured[child.key]


# -- surrogate -----------------------------------------------------------------------------------


def test_a_surrogate_foretells_what_it_has_not_seen(tmp_path: Path) -> None:
    search = analytic_search("random", evaluator=AnalyticEvaluator(noise=0.001))
    run(search, tmp_path, 400)
    surrogate = SurrogateEvaluator.of(JournalSet.read([tmp_path / JOURNAL]), min_kendall=0.3)
    space, random = SPACES["nas-fpn"], np.random.default_rng(99)
    graphs = [space.decode(space.sample(random)) for _ in range(100)]
    truth = [AnalyticEvaluator().truth(graph)[0] for graph in graphs]
    foretold = [
        float(
            np.mean([surrogate.evaluate(Job(0, g, canonical_key(g), s)).aps[0] for s in range(20)])
        )
        for g in graphs
    ]
    assert kendall(foretold, truth) > 0.4
    assert surrogate.describe()["kendall"] == round(surrogate.kendall, 4)
    assert surrogate.evaluate(job(seed=1)) == surrogate.evaluate(job(seed=1))
    assert surrogate.evaluate(job(seed=1)) != surrogate.evaluate(job(seed=2))


def test_a_surrogate_of_noise_is_refused(tmp_path: Path) -> None:
    children = run(analytic_search("random"), tmp_path, 100)
    random = np.random.default_rng(0)
    noise = [replace(child, aps=tuple(random.normal(size=3))) for child in children]
    with pytest.raises(PoorSurrogate, match=r"less than 0\.5"):
        SurrogateEvaluator(noise, "", 0.5)


def test_a_surrogate_of_few_graphs_is_refused(tmp_path: Path) -> None:
    children = run(analytic_search("random"), tmp_path, 10)
    with pytest.raises(PoorSurrogate, match="10 graphs are too few"):
        SurrogateEvaluator(children, "", -1.0)
