"""The latency table: what it counts, and that a fit gives back what measurements were made of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builder.config.named import CONFIGS
from builder.config.pyramid_graphs import GRAPHS, Graph
from builder.modeling.cost import exit_costs
from builder.search.latency_table import (
    LatencyTable,
    MeasuredStack,
    counted,
    fit,
    quality,
    stack_terms,
    synthetic_table,
)
from builder.search.space import SPACES
from serving.core.command_errors import CommandError

SPACE = SPACES["nas-fpn"]


def graphs(count: int) -> list[Graph]:
    random = np.random.default_rng(0)
    return [SPACE.decode(SPACE.sample(random)) for _ in range(count)]


def test_the_terms_of_the_seven_cells() -> None:
    p3, p4, p5, p6, p7 = (4.0**-exponent for exponent in range(5))
    assert stack_terms(GRAPHS["nas_fpn"]) == {
        "convolution": p4 + p4 + p3 + p4 + p5 + p7 + p6,
        # P3 to P4; P4 and P3 to P5; P5 and P4 to P7; P5 to P6
        "pooling": p3 + (p4 + p3) + (p5 + p4) + p5,
        "attention": 4,
        "entry": 0,
        "both_ways": 0,
    }


def test_inputs_that_go_straight_into_a_pooling() -> None:
    p3, p4 = 1.0, 0.25
    cells = [
        (5, "sum", (0, 1), False),  # P3 and P4 are made coarser
        (4, "sum", (1, 0), True),  # P4 is read as it is, P3 is made coarser again
        (3, "sum", (3, 2), True),  # of maps that the stack makes, nothing is changed
        (5, "sum", (2, 4), True),
    ]
    terms = stack_terms(Graph.from_rows(cells))
    assert terms["entry"] == p3 + p4
    assert terms["both_ways"] == p4


@pytest.mark.parametrize("name", ["bccd_proxy", "bccd_proxy_lite", "bccd_proxy_p5"])
def test_counted_tables_are_exact(name: str) -> None:
    config = CONFIGS[name].detector
    table = counted(config)
    space = next(each for each in SPACES.values() if each.levels == config.levels)
    random = np.random.default_rng(1)
    for _ in range(3):
        graph = space.decode(space.sample(random))
        costs = exit_costs(replace(config, neck="searched", graph=graph.rows))
        assert table.exits(graph, config.num_exits) == pytest.approx(
            [cost.macs / 1e6 for cost in costs]
        )


def measured(count: int, noise: float) -> list[MeasuredStack]:
    """Stacks of a machine on which cells, poolings and attention all take time."""
    random = np.random.default_rng(2)
    found = []
    for graph in graphs(count):
        ms = 0.4
        for step in graph.steps():
            level = step.cell.level
            ms += 2.0 / 3.5 ** (level - 3) + 0.1 * (step.cell.op == "attention")
            sources = (graph.map_levels[each] for each in (step.coarse, step.fine))
            ms += sum(0.3 / 3.5 ** (source - 3) for source in sources if source < level)
        found.append(MeasuredStack(graph, 5.0, ms * (1 + noise * random.normal()), 7.0))
    return found


def test_a_fit_foretells_graphs_that_it_has_not_seen() -> None:
    stacks = measured(80, 0.0)
    table = fit(stacks[:60], "ms", {})
    errors = [abs(table.stack(each.graph) / each.stack - 1) for each in stacks[60:]]
    assert np.mean(errors) < 0.05
    assert max(errors) < 0.2
    first, second = table.exits(stacks[0].graph, 2)
    assert second - first == pytest.approx(table.stack(stacks[0].graph))
    assert first == pytest.approx(5.0 + 7.0 + second - first)


def test_nothing_takes_less_than_no_time() -> None:
    # Attention that saves time is luck.
    found = [
        replace(each, stack=4.0 - 0.1 * stack_terms(each.graph)["attention"])
        for each in measured(40, 0.0)
    ]
    table = fit(found, "ms", {})
    assert table.terms["attention"] == 0
    assert min(table.terms.values()) >= 0


def test_quality_tells_a_good_fit_from_noise() -> None:
    assert quality(measured(40, 0.01)).is_good
    assert not quality(measured(40, 0.5)).is_good


def test_a_table_of_before_there_was_a_term_has_none_of_it(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    table = synthetic_table()
    named = {name: ms for name, ms in table.terms.items() if name not in ("entry", "both_ways")}
    path.write_text(json.dumps(table.to_dict() | {"terms": named}))
    for graph in graphs(3):
        assert LatencyTable.read(path).stack(graph) == table.stack(graph)


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    table = synthetic_table()
    path.write_text(json.dumps(table.to_dict()))
    assert LatencyTable.read(path) == table


OF_ANOTHER_KIND = LatencyTable("ms", 1.0, 1.0, 0.0, {"P3 sum": 1.0}).to_dict()


@pytest.mark.parametrize(
    "text",
    [
        *("{}", "[]", "no", '{"unit": "ms"}', json.dumps(OF_ANOTHER_KIND)),
        json.dumps(synthetic_table().to_dict() | {"head": float("nan")}),
        json.dumps(synthetic_table().to_dict() | {"terms": []}),
        json.dumps(synthetic_table().to_dict() | {"constant": "1"}),
        json.dumps(synthetic_table().to_dict() | {"stem": 10**400}),
    ],
)
def test_what_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(CommandError, match=r"latency.json is no latency table"):
        LatencyTable.read(path)


@pytest.mark.parametrize(
    "parts",
    [{"constant": -1e3}, {"constant": 0.0, "terms": {}}, {"stem": 1e308, "head": 1e308}],
)
def test_times_that_do_not_rise_are_refused(parts: dict[str, object]) -> None:
    table = LatencyTable(**(synthetic_table().to_dict() | parts))
    with pytest.raises(CommandError, match="no exit can come after another"):
        table.exits(GRAPHS["nas_fpn"], 3)
