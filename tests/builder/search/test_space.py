"""Spaces: what they hold, and what connects decisions, encodings, tables and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.config.named import CONFIGS
from builder.config.pyramid_graphs import GRAPHS, Graph, graph_json, parse_graph, read_graph
from builder.search.space import CELL, LEVEL, SPACES, NotInSpace, SearchSpace
from tests.properties import examples

PUBLISHED = "3,1,1,3 3,0,1,5 4,0,0,6 3,0,6,7 2,1,7,8 0,1,6,9 1,1,9,10"
"""The seven cells, as in the history of tensorflow/tpu."""

every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("name", "size"),
    [("nas-fpn", 1_931_334_451_200_000), ("lite", 263_363_788_800), ("micro", 1_080)],
)
def test_sizes(name: str, size: int) -> None:
    assert SPACES[name].size == size


def test_the_published_cells_encode_to_their_string() -> None:
    space = SPACES["nas-fpn"]
    encoding = space.encode(GRAPHS["nas_fpn"])
    assert space.to_text(encoding) == PUBLISHED
    assert space.decode(encoding) == GRAPHS["nas_fpn"]


@every_space
@examples(10_000)
@given(seed=seeds)
def test_a_sample_is_a_table_and_comes_back(space: SearchSpace, seed: int) -> None:
    encoding = space.sample(np.random.default_rng(seed))
    graph = space.decode(encoding)  # Graph refuses what is no pyramid
    assert space.encode(graph) == encoding
    assert space.normal(encoding) == encoding
    assert parse_graph(graph_json(graph)) == graph


@every_space
def test_a_table_comes_back_from_its_file(space: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    for seed in range(20):
        graph = space.decode(space.sample(np.random.default_rng(seed)))
        path.write_text(graph_json(graph))
        assert read_graph(path) == graph


@every_space
@given(seed=seeds)
def test_a_mutation_changes_one_decision_or_two_output_levels(
    space: SearchSpace, seed: int
) -> None:
    random = np.random.default_rng(seed)
    before = space.sample(random)
    after = space.mutate(before, random)
    space.decode(after)
    cells = [
        (before[start : start + CELL], after[start : start + CELL])
        for start in range(0, len(before), CELL)
    ]
    changed = [(old, new) for old, new in cells if old != new]
    assert 1 <= len(changed) <= 2
    if len(changed) == 2:
        assert all(old[:LEVEL] + old[1:] == new[:LEVEL] + new[1:] for old, new in changed)
        assert {old[LEVEL] for old, _ in changed} == {new[LEVEL] for _, new in changed}
    else:
        ((old, new),) = changed
        assert len({*old[2:]} ^ {*new[2:]}) in (0, 2)
        assert sum(a != b for a, b in zip(old[:2], new[:2], strict=True)) <= 1


def test_intermediate_cells_are_never_at_the_finest_level() -> None:
    space = SPACES["nas-fpn"]
    decision = next(each for each in space.decisions if each.kind == LEVEL)
    levels = {space.levels[-1] - choice for choice in space.open_choices(decision, [0] * 28)}
    assert levels == {4, 5, 6, 7}


@pytest.mark.parametrize(
    ("position", "value", "text"),
    [
        (0, 4, "4 is no choice at number 1"),  # an intermediate cell at P3
        (3, 1, "1 is no choice at number 4"),  # the same input twice
        (12, 4, "4 is no choice at number 13"),  # a level that has an output
        (2, 5, "5 is no choice at number 3"),  # a map that does not exist yet
    ],
)
def test_an_encoding_that_breaks_a_rule_is_refused(position: int, value: int, text: str) -> None:
    space = SPACES["nas-fpn"]
    encoding = list(space.encode(GRAPHS["nas_fpn"]))
    encoding[position] = value
    with pytest.raises(NotInSpace, match=text):
        space.decode(encoding)


@pytest.mark.parametrize("name", ["fpn", "fpn_p6"])
def test_a_graph_of_another_shape_is_refused(name: str) -> None:
    with pytest.raises(NotInSpace):
        SPACES["nas-fpn"].encode(GRAPHS[name])


def test_attention_by_the_later_of_equal_levels_is_not_in_the_space() -> None:
    rows = list(GRAPHS["nas_fpn"].rows)
    rows[1] = (4, "attention", (5, 1), False)
    with pytest.raises(NotInSpace, match="row 2 is gated by the later"):
        SPACES["nas-fpn"].encode(Graph.from_rows(rows))


def test_a_small_space_is_enumerated_and_a_large_one_is_not() -> None:
    micro = SPACES["micro"]
    encodings = list(micro.enumerate())
    assert len(encodings) == len(set(encodings)) == micro.size
    for encoding in encodings:
        assert micro.encode(micro.decode(encoding)) == encoding
    with pytest.raises(NotInSpace, match="too many to list"):
        next(SPACES["nas-fpn"].enumerate())


def test_samples_of_a_small_space_are_uniform() -> None:
    micro = SPACES["micro"]
    random = np.random.default_rng(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(10 * micro.size):
        encoding = micro.sample(random)
        counts[encoding] = counts.get(encoding, 0) + 1
    drawn = np.array(list(counts.values()))
    # Of a Poisson variable with a mean of ten the variance is ten.
    assert len(drawn) > 0.99 * micro.size
    assert 8 < drawn.var() < 12


def test_a_decoded_graph_is_the_neck_of_a_detector() -> None:
    space = SPACES["nas-fpn"]
    graph = space.decode(space.sample(np.random.default_rng(0)))
    config = replace(CONFIGS["bccd_proxy"].detector, neck="searched", graph=graph.rows)
    assert config.pyramid == graph
