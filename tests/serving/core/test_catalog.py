"""The catalogue: the figures of one precision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.core.catalog import Catalog, Exit
from tests.serving.fakes import CATALOG
from tests.serving.world import exact_profile


def measured() -> Catalog:
    """With figures of int8 beside those of the runtime's choice."""
    exits = tuple(replace(entry, ap=entry.ap - 0.01) for entry in CATALOG.exits)
    int8 = replace(CATALOG.at("int8"), exits=exits, profiles={"fake": exact_profile()})
    return CATALOG.with_figures(int8)


def test_figures_are_those_of_the_precision() -> None:
    catalog = measured()
    assert [catalog.expected_ap(d) for d in (1, 2, 3)] == pytest.approx([0.4, 0.5, 0.6])
    int8 = catalog.at("int8")
    assert [int8.expected_ap(d) for d in (1, 2, 3)] == pytest.approx([0.39, 0.49, 0.59])
    assert (set(catalog.profiles), set(int8.profiles)) == (set(), {"fake"})
    assert (catalog.precision, int8.precision) == (None, "int8")
    assert catalog.at(None) is catalog
    assert catalog.digest == int8.digest


def test_what_was_not_measured_is_not_that_of_another() -> None:
    bf16 = measured().at("bf16")
    assert bf16.exits == tuple(Exit(depth, 0.0, 0.0, {}) for depth in (1, 2, 3))
    assert bf16.evaluation is None
    assert not bf16.profiles


def test_figures_of_one_precision_leave_the_others() -> None:
    catalog = measured()
    again = catalog.with_figures(replace(catalog.at("f32"), evaluation=CATALOG.evaluation))
    assert again.precisions["int8"] == catalog.precisions["int8"]
    assert again.precisions["f32"].evaluation == CATALOG.evaluation
    assert again.at(None).exits == CATALOG.exits
    own = replace(catalog, evaluation=None)
    assert catalog.with_figures(own) == own
