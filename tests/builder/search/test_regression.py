"""Features and the regression on them."""

from __future__ import annotations

import numpy as np

from builder.config.pyramid_graphs import GRAPHS
from builder.search.canonical import canonical_key
from builder.search.evaluators.analytic import AnalyticEvaluator
from builder.search.features import features, hops
from builder.search.regression import Regression
from builder.search.space import SPACES
from builder.search.statistics import kendall


def test_hops_of_the_seven_cells() -> None:
    table = hops(GRAPHS["nas_fpn"])
    assert table[0, 0] == 1  # P3 is an input of the cell at P3
    assert table[0, 1] == 2  # P4 by #6
    assert table[0, 3] == 3  # P6 by #5 and #6
    assert table[2, 2] == table[4, 4] == 1  # added, as nothing else takes them
    assert np.isinf(table[0, 4])


def test_features_are_of_the_network() -> None:
    micro = SPACES["micro"]
    found: dict[str, np.ndarray] = {}
    for encoding in micro.enumerate():
        graph = micro.decode(encoding)
        values = features(graph)
        assert np.array_equal(found.setdefault(canonical_key(graph), values), values)


def test_what_is_smooth_is_foretold() -> None:
    space = SPACES["nas-fpn"]
    random = np.random.default_rng(0)
    graphs = [space.decode(space.sample(random)) for _ in range(300)]
    evaluator = AnalyticEvaluator()
    inputs = np.array([features(graph) for graph in graphs])
    outputs = np.array([evaluator.truth(graph) for graph in graphs])
    regression = Regression(inputs[:200], outputs[:200])
    left = regression.predict(inputs[200:])
    assert kendall(left[:, 0], outputs[200:, 0]) > 0.35
    # Each example from the others, foretold as well as examples that it has never seen.
    out_of_fit = np.abs(regression.foretold - outputs[:200]).mean()
    unseen = np.abs(left - outputs[200:]).mean()
    assert 0.7 < out_of_fit / unseen < 1.4
