"""Budgets: what each text draws, and texts that name no distribution."""

import numpy as np
import pytest

from loadtest.workload.budgets import parse_budgets


def draw(spec: str, count: int = 20_000, full_depth_s: float = 0.1) -> dict[float, float]:
    """Budget in milliseconds -> its share."""
    rng = np.random.default_rng(0)
    values, counts = np.unique(
        parse_budgets(spec).sample_s(count, full_depth_s, rng).round(6), return_counts=True
    )
    return {float(v) * 1e3: float(c) / count for v, c in zip(values, counts, strict=True)}


@pytest.mark.parametrize(
    ("spec", "shares"),
    [
        ("1.2x,2x,4x", {120: 1 / 3, 200: 1 / 3, 400: 1 / 3}),
        ("40,80", {40: 0.5, 80: 0.5}),
        ("1.2x@2, 400@1", {120: 2 / 3, 400: 1 / 3}),
        ("70", {70: 1.0}),
    ],
)
def test_choices_and_weights(spec: str, shares: dict[float, float]) -> None:
    assert draw(spec) == pytest.approx(shares, abs=0.015)


def test_uniform() -> None:
    values = parse_budgets("uniform:20:200").sample_s(20_000, 1.0, np.random.default_rng(0))
    assert values.min() >= 0.02
    assert values.max() <= 0.2
    assert values.mean() == pytest.approx(0.11, rel=0.02)


def test_lognormal() -> None:
    values = parse_budgets("lognormal:80:0.5").sample_s(20_000, 1.0, np.random.default_rng(0))
    assert np.median(values) == pytest.approx(0.08, rel=0.02)
    assert np.log(values).std() == pytest.approx(0.5, rel=0.02)


def test_the_same_seed_draws_the_same() -> None:
    first, second = (
        parse_budgets("1x,2x").sample_s(100, 0.1, np.random.default_rng(3)) for _ in range(2)
    )
    assert (first == second).all()


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "x",
        "1.2y",
        "0x",
        "-1",
        "nan",
        "inf",
        "40,",
        "40@0",
        "40@x",
        "uniform:20",
        "uniform:0:10",
        "uniform:30:20",
        "lognormal:0:1",
        "lognormal:80:9",
        "normal:80:1",
        ",".join(["40"] * 101),
    ],
)
def test_a_text_that_names_no_distribution(spec: str) -> None:
    with pytest.raises(ValueError, match="budgets"):
        parse_budgets(spec)


@pytest.mark.parametrize("full_depth_s", [0.0, -1.0, np.nan, np.inf])
def test_multiples_need_a_time(full_depth_s: float) -> None:
    with pytest.raises(ValueError, match="full-depth time"):
        parse_budgets("2x").sample_s(1, full_depth_s, np.random.default_rng(0))
