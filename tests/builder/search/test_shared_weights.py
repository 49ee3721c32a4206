"""Weights that all tables share: each detector has its share of them, at whatever step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builder.config.configuration import Config
from builder.config.pyramid_graphs import Graph
from builder.modeling.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
from builder.search.canonical import canonical_key
from builder.search.controls import reference
from builder.search.evaluators.base import Job
from builder.search.evaluators.shared import (
    ABOUT,
    AboutShared,
    NoSharedWeights,
    SharedEvaluator,
    read_about,
)
from builder.search.evaluators.training import held_out_digest
from builder.search.shared_weights import (
    RandomTables,
    SharedPyramid,
    detector_of,
    shared_detector,
    train_shared,
)
from builder.search.space import SPACES
from builder.training import loop
from builder.training.epoch import Run
from builder.training.loop import CHECKPOINT
from tests.builder.search.children import PROXY

SPACE = SPACES["nas-fpn"]
CHILD = Config(
    replace(PROXY.detector, neck="searched", graph=reference(SPACE.levels).rows), PROXY.train
)


def graphs(count: int, space: str = "nas-fpn") -> list[Graph]:
    random = np.random.default_rng(5)
    return [SPACES[space].decode(SPACES[space].sample(random)) for _ in range(count)]


def chosen(stack: torch.nn.Module) -> list[str]:
    assert isinstance(stack, SharedPyramid)
    return stack._names


# -- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nas-fpn", "lite", "micro"])
def test_a_detector_with_its_share_is_what_the_weights_are_while_its_table_is_chosen(
    name: str,
) -> None:
    space = SPACES[name]
    config = replace(CHILD.detector, graph=reference(space.levels).rows)
    torch.manual_seed(0)
    shared = shared_detector(space, config).eval()
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    )
    for graph in [config.pyramid, *graphs(4, name)]:
        for stack in shared.stacks:
            assert isinstance(stack, SharedPyramid)
            stack.choose(graph)
        alone = detector_of(shared.state_dict(), space, config, graph)
        with torch.no_grad():
            for depth, expected in shared(images).items():
                torch.testing.assert_close(alone(images)[depth], expected)


def test_a_cell_is_shared_by_row_and_level_and_an_output_by_its_level_alone() -> None:
    stack = SharedPyramid(SPACE, CHILD.detector.pyramid, CHILD.detector)
    # Two intermediate rows at four levels each, and five outputs.
    assert len(stack.cells) == 2 * 4 + 5
    first, second = (
        Graph.from_rows(
            [
                (4, "sum", (1, 3), False),
                (5, "sum", (0, 1), False),
                *((level, "sum", (level - 3, 5), True) for level in order),
            ]
        )
        for order in ((3, 4, 5, 6, 7), (7, 6, 5, 4, 3))
    )
    names = []
    for graph in (first, second):
        stack.choose(graph)
        names.append(chosen(stack))
    assert names[0][:2] == names[1][:2] == ["row0_p4", "row1_p5"]
    assert names[0][2:] == names[1][:1:-1] == [f"output_p{level}" for level in range(3, 8)]


def test_weights_of_another_structure_are_refused() -> None:
    weights = shared_detector(SPACE, CHILD.detector).state_dict()
    wider = replace(CHILD.detector, neck_channels=16)
    with pytest.raises(RuntimeError):
        detector_of(weights, SPACE, wider, wider.pyramid)
    deeper = replace(CHILD.detector, num_stacks=4)
    with pytest.raises(KeyError):
        detector_of(weights, SPACE, deeper, deeper.pyramid)


# -- training -----------------------------------------------------------------------------------


class Epochs:
    """Views of four steps an epoch, which say what epoch they are of."""

    def steps(self, epoch: int) -> Iterator[Any]:
        return iter([epoch] * 4)

    def held_out(self) -> Iterator[Any]:
        return iter(["held out"])


def test_each_step_has_a_table_that_is_a_function_of_seed_and_epoch() -> None:
    model = shared_detector(SPACE, CHILD.detector)

    def course(seed: int, epoch: int) -> list[tuple[Any, list[str]]]:
        views = RandomTables(SPACE, seed, 3, model, Epochs())
        return [(views_of, chosen(model.stacks[0])) for views_of in views.steps(epoch)]

    assert course(0, 1) == course(0, 1)
    assert len({tuple(names) for _, names in course(0, 1)}) > 1
    assert [names for _, names in course(0, 1)] != [names for _, names in course(1, 1)]
    assert [names for _, names in course(0, 4)] != [names for _, names in course(0, 1)]
    assert [views_of for views_of, _ in course(0, 4)] == [1] * 4  # the second of three, once more
    assert len({tuple(chosen(stack)) for stack in model.stacks}) == 1  # one table, in all stacks
    assert list(RandomTables(SPACE, 0, 3, model, Epochs()).held_out()) == ["held out"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights that were hardly trained, and images beside it."""
    folder = tmp_path_factory.mktemp("shared")
    save_checkpoint(
        folder / CHECKPOINT,
        CHILD.detector,
        shared_detector(SPACE, CHILD.detector).state_dict(),
        {},
    )
    return folder


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(
    bccd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(folder: str) -> dict[str, torch.Tensor]:
        path = train_shared(SPACE, CHILD, 3, bccd, tmp_path / folder)
        found: dict[str, torch.Tensor] = read_checkpoint(path)["weights"]
        return found

    expected = weights("whole")
    train_epoch: Any = loop.train_epoch
    begun: list[int] = []

    def killed_in_the_third(run: Run, *more: object) -> object:
        begun.append(run.epoch)
        if begun == [0, 1, 2]:
            raise KeyboardInterrupt
        return train_epoch(run, *more)

    monkeypatch.setattr(loop, "train_epoch", killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        weights("stopped")
    found = weights("stopped")
    assert begun == [0, 1, 2, 2]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# -- evaluator ----------------------------------------------------------------------------------


def written(folder: Path, data: Path) -> AboutShared:
    about = replace(AboutShared.of(SPACE.name, CHILD, 2, held_out_digest(CHILD, data)), kendall=0.7)
    (folder / ABOUT).write_text(about.to_json())
    return about


def test_what_a_graph_is_worth_depends_on_no_other(bccd: Path, trained: Path) -> None:
    about = written(trained, bccd)
    assert read_about(trained) == about
    evaluator = SharedEvaluator.of(trained, bccd)
    first, second = graphs(2)

    def aps(graph: Graph, seed: int = 0) -> tuple[float, ...]:
        return evaluator.evaluate(Job(0, graph, canonical_key(graph), seed)).aps

    found = aps(first)
    assert len(found) == evaluator.num_exits == CHILD.detector.num_exits
    aps(second)
    assert aps(first) == aps(first, seed=1) == found
    described = evaluator.describe()
    assert (described["name"], described["data"]) == ("shared", about.data)
    other = shared_detector(SPACE, CHILD.detector).state_dict()
    save_checkpoint(trained / CHECKPOINT, CHILD.detector, other, {})
    assert SharedEvaluator.of(trained, bccd).describe() != described


def test_weights_that_are_not_shared_are_refused(bccd: Path, tmp_path: Path) -> None:
    written(tmp_path, bccd)
    save_checkpoint(tmp_path / CHECKPOINT, CHILD.detector, {}, {})
    (graph,) = graphs(1)
    with pytest.raises(CheckpointError, match="has no weights that graphs share"):
        SharedEvaluator.of(tmp_path, bccd).evaluate(Job(0, graph, canonical_key(graph), 0))


def test_weights_that_are_no_numbers_are_refused(bccd: Path, tmp_path: Path) -> None:
    written(tmp_path, bccd)
    weights = shared_detector(SPACE, CHILD.detector).state_dict()
    name = next(name for name in weights if ".cells." in name)
    weights[name][:] = float("nan")
    save_checkpoint(tmp_path / CHECKPOINT, CHILD.detector, weights, {})
    (graph,) = graphs(1)
    with pytest.raises(CheckpointError, match=f"{name} has values that are not finite"):
        SharedEvaluator.of(tmp_path, bccd).evaluate(Job(0, graph, canonical_key(graph), 0))


def test_weights_are_of_their_images(bccd: Path, trained: Path) -> None:
    written(trained, bccd)
    names = bccd / "ImageSets/Main/val.txt"
    names.write_text("".join(names.read_text().splitlines(True)[:-2]))
    with pytest.raises(NoSharedWeights, match="is of other images"):
        SharedEvaluator.of(trained, bccd)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"space": 1}',
        '{"space": "nas-fpn", "detector": {}, "train": {}, "data": "x"}',
        '{"space": "none", "detector": {}, "train": {}, "data": "x", "kendall": "high"}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:20] or "nothing",
)
def test_a_record_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / ABOUT).write_text(text)
    with pytest.raises(NoSharedWeights, match="is of no weights that graphs share"):
        read_about(tmp_path)
