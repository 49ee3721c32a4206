"""Keys: equal ones are one network, different ones are different functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from builder.config.pyramid_graphs import GRAPHS, Graph
from builder.modeling.pyramid import Pyramid
from builder.search.canonical import canonical_key, canonical_order
from builder.search.searchers.listed import distinct_graphs
from builder.search.space import SPACES, SearchSpace

CHANNELS, SIDE = 4, 8
"""SIDE at the coarsest level."""


def outputs(graph: Graph, seed: int = 0) -> list[torch.Tensor]:
    """Of a pyramid whose cells have weights by their place in the canonical order, for inputs that
    are the same for all graphs."""
    pyramid = Pyramid(
        graph, channels=CHANNELS, conv="dense", flavour="google", activation="relu"
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for offset in canonical_order(graph):
            for parameter in pyramid.cells[offset - len(graph.levels)].parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    coarsest = graph.levels[-1]
    inputs = [
        torch.randn(1, CHANNELS, *(2 * (SIDE << coarsest - level,)), generator=generator)
        for level in graph.levels
    ]
    with torch.inference_mode():
        return pyramid(inputs)


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(one, other, strict=True))


def rewritten(graph: Graph, random: np.random.Generator) -> tuple[Graph, bool]:
    """The table with rows in another order that respects what they read, and inputs of sums
    exchanged; and whether it adds unused maps where the first one does."""
    inputs = len(graph.levels)
    steps = graph.steps()
    needs = {
        offset: {s for s in (step.coarse, step.fine, *step.unused) if s >= inputs}
        for offset, step in enumerate(steps, start=inputs)
    }
    order: list[int] = []
    while len(order) < len(steps):
        ready = [o for o in needs if o not in order and needs[o] <= set(order)]
        order.append(int(random.choice(ready)))
    new = {offset: offset for offset in range(inputs)}
    new |= {offset: inputs + place for place, offset in enumerate(order)}
    rows = []
    for offset in order:
        cell = steps[offset - inputs].cell
        first, second = (new[o] for o in cell.inputs)
        if cell.op == "sum" and random.random() < 0.5:
            first, second = second, first
        rows.append((cell.level, cell.op, (first, second), cell.is_output))
    other = Graph.from_rows(rows)
    added = {new[o]: {new[u] for u in s.unused} for o, s in enumerate(steps, start=inputs)}
    return other, added == {
        offset: set(step.unused) for offset, step in enumerate(other.steps(), start=inputs)
    }


def test_the_micro_space_has_641_networks() -> None:
    assert len(distinct_graphs(SPACES["micro"])) == 641


@pytest.mark.parametrize("name", ["nas-fpn", "lite", "lite-15"])
@given(seed=st.integers(0, 2**32 - 1))
def test_a_key_does_not_depend_on_how_a_table_is_written(name: str, seed: int) -> None:
    space: SearchSpace = SPACES[name]
    random = np.random.default_rng(seed)
    graph = space.decode(space.sample(random))
    other, is_same = rewritten(graph, random)
    assume(is_same)
    assert canonical_key(graph) == canonical_key(other)


def test_equal_keys_give_equal_outputs_with_permuted_weights() -> None:
    groups: dict[str, list[Graph]] = {}
    micro = SPACES["micro"]
    for encoding in micro.enumerate():
        graph = micro.decode(encoding)
        groups.setdefault(canonical_key(graph), []).append(graph)
    written_otherwise = [group for group in groups.values() if len(group) > 1][:60]
    assert len(written_otherwise) == 60
    for first, *others in written_otherwise:
        expected = outputs(first)
        for other in others:
            assert first.rows != other.rows
            assert same(expected, outputs(other))


def test_different_keys_give_different_outputs() -> None:
    graphs = distinct_graphs(SPACES["micro"])[::5]
    found = [torch.cat([each.flatten()[:64] for each in outputs(graph)]) for graph in graphs]
    table = torch.stack(found)
    distances = torch.cdist(table, table) + 1e9 * torch.eye(len(table))
    assert distances.min() > 1e-2


def test_inputs_of_attention_are_not_exchanged() -> None:
    rows = list(GRAPHS["nas_fpn"].rows)
    rows[1] = (4, "attention", (1, 5), False)
    exchanged = [*rows]
    exchanged[1] = (4, "attention", (5, 1), False)
    assert canonical_key(Graph.from_rows(rows)) != canonical_key(Graph.from_rows(exchanged))
