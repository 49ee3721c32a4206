"""Reports: intervals, paired comparisons and what tables say of them."""

import json

import pytest

from loadtest.simulation.report import SimulationReport
from loadtest.simulation.study import Conditions, Point, RunResult, study
from loadtest.simulation.tables import markdown

POINT = Point("cpu-lite", "poisson", 0.5)
CONDITIONS = Conditions("2x", 100)


def run(policy: str, seed: int, in_time: int, ap: float, point: Point = POINT) -> RunResult:
    """100 requests, ``in_time`` of them answered at exit 1 with ``ap``, the others shed."""
    return RunResult(
        point=point,
        policy=policy,
        seed=seed,
        num_requests=100,
        num_in_time=in_time,
        num_late=0,
        shed={"rejected-overload": 100 - in_time},
        points={"320x320/1": in_time},
        sum_ap=in_time * ap,
        duration_s=2.0,
        bound_ap=95.0,
        stability=0.5,
        num_decisions=300,
        cpu_s=0.5,
        timeline=None,
    )


def report(**in_time: tuple[tuple[int, float], ...]) -> SimulationReport:
    """Policy -> (answered in time, AP) by seed; ``fixed`` stands for fixed:1."""
    runs = [
        run(name.replace("fixed", "fixed:1"), seed, *figures)
        for name, by_seed in in_time.items()
        for seed, figures in enumerate(by_seed)
    ]
    policies = tuple(dict.fromkeys(r.policy for r in runs))
    return SimulationReport(CONDITIONS, [POINT], policies, reversed(runs))


def test_metrics_of_a_cell() -> None:
    metrics = report(deadline=((80, 0.5), (90, 0.5))).cells[POINT]["deadline"].metrics
    assert metrics["attainment"].mean == pytest.approx(0.85)
    assert metrics["in_time_accuracy"].mean == pytest.approx(0.425)
    assert metrics["goodput_hz"].mean == pytest.approx(42.5)
    assert metrics["share_of_oracle"].mean == pytest.approx(42.5 / 95)
    assert metrics["bound"].mean == pytest.approx(0.95)


def test_comparisons_are_paired_by_seed() -> None:
    """Seeds differ by far more than policies do, and yet the difference is certain."""
    found = report(
        deadline=((20, 0.5), (90, 0.5), (50, 0.5)),
        slackfit=((22, 0.5), (92, 0.5), (52, 0.5)),
        greedy=((10, 0.5), (30, 0.5), (70, 0.5)),
    )
    (lost,) = found.not_won()
    assert (lost.point, lost.rival) == (POINT, "slackfit")
    assert lost.difference.mean == pytest.approx(-0.01)
    assert lost.is_certain
    assert len(found.versus("in_time_accuracy")) == 2


def test_an_uncertain_loss_is_told_apart() -> None:
    (lost,) = report(deadline=((50, 0.5), (50, 0.5)), slackfit=((49, 0.5), (60, 0.5))).not_won()
    assert not lost.is_certain


@pytest.mark.parametrize(
    ("ours", "shallowest", "is_less"),
    [(93, 95, True), (95, 95, False), (94.5, 95, False), (80, 89, False)],
)
def test_attainment_is_held_against_the_shallowest_exit_where_that_attains_much(
    ours: float, shallowest: float, is_less: bool
) -> None:
    found = report(deadline=((ours, 0.6),) * 2, fixed=((shallowest, 0.5),) * 2)  # type: ignore[arg-type]
    assert bool(found.attains_less()) == is_less


def test_the_table_has_the_best_in_bold_and_names_losses() -> None:
    text = markdown(report(deadline=((92, 0.5), (92, 0.5)), fixed=((95, 0.5), (95, 0.5))))
    assert "| load | 0.5 |" in text
    assert "| deadline | 92.0 / .500 / .460 ±.000 |" in text
    assert "| fixed:1 | 95.0 / .500 / **.475** ±.000 |" in text
    assert "| oracle's bound | .950 |" in text
    assert "deadline has the higher in-time accuracy in 0 of 1 comparisons; in 1 the whole" in text
    assert "cpu-lite, poisson, load 0.5, against fixed:1: -0.0150 ±0.0000, certain" in text
    assert "attains over 1 point less at 1 points" in text
    assert "deadline reaches 48.4% of the oracle's bound" in text
    assert "deadline: 200 requests and 600 decisions simulated per second" in text


def test_json_says_the_same() -> None:
    found = report(deadline=((92, 0.5), (92, 0.5)), fixed=((95, 0.5), (95, 0.5)))
    data = json.loads(json.dumps(found.to_json()))
    assert data["profiles"]["cpu-lite"]["accuracy"]["320x320/1"] == 0.8
    assert data["points"][0]["policies"]["fixed:1"]["metrics"]["attainment"]["mean"] == 0.95
    assert data["points"][0]["policies"]["deadline"]["shed"] == {"rejected-overload": 16}
    assert data["points"][0]["policies"]["deadline"]["points"] == {"320x320/1": 184}
    assert data["not_won"][0]["rival"] == "fixed:1"
    assert data["attains_less"][0]["certain"] is True


def test_hindsight_is_the_fixed_point_with_the_highest_mean() -> None:
    """Exit 2 is better in one seed, exit 3 over both; the policy is between them."""
    figures = {
        "deadline": (80, 82),
        **{f"fixed:320x320/{depth}": (70, 70) for depth in (1, 4, 5)},
        "fixed:320x320/2": (90, 60),
        "fixed:320x320/3": (82, 83),
    }
    runs = [
        run(policy, seed, in_time, 0.5)
        for policy, by_seed in figures.items()
        for seed, in_time in enumerate(by_seed)
    ]
    found = SimulationReport(CONDITIONS, [POINT], ("deadline", "hindsight"), runs)
    assert found.best_fixed == {POINT: "fixed:320x320/3"}
    regret = found.regrets()[POINT]
    assert regret.mean == pytest.approx(0.0075)
    assert regret.half == pytest.approx(12.706 * 0.0025)
    text, data = markdown(found), found.to_json()["points"][0]
    assert (
        "| best fixed point in hindsight | 82.5 / .500 / **.412** ±.032, fixed:320x320/3 |" in text
    )
    assert "| regret of deadline | +0.0075 ±0.0318 |" in text
    assert "| deadline, % of the bound | 42.6 |" in text
    assert "| stability score, deadline | 0.50 |" in text
    assert data["best_fixed"] == "fixed:320x320/3"
    assert data["fixed"]["fixed:320x320/2"] == pytest.approx(0.375)
    assert data["regret"]["mean"] == regret.mean
    assert set(found.speed()) == {"deadline"}


def test_without_hindsight_there_is_no_regret() -> None:
    found = report(deadline=((80, 0.5),), fixed=((95, 0.5),))
    assert found.regrets() == {}
    assert found.to_json()["points"][0]["regret"] is None
    assert "regret" not in markdown(found)


def test_without_the_shipped_policy_nothing_is_compared() -> None:
    found = report(fixed=((95, 0.5),), slackfit=((80, 0.5),))
    assert found.not_won() == []
    assert found.share_of_oracle() is None
    assert "comparisons" not in markdown(found)


def test_a_burst_is_followed_to_its_end() -> None:
    """At half of what exit 1 could do, a burst of ten times that costs depth, and depth returns."""
    point = Point("gpu-like", "burst:2:1:10", 0.3)
    conditions = Conditions("1.2x,2x,4x", 0, duration_s=6.0, with_oracle=False)
    policies = ("deadline", "fixed:max")
    found = SimulationReport(
        conditions, [point], policies, study([point], policies, conditions, 1, 1)
    )
    (_, _, ours), (_, _, deepest) = found.recoveries()
    assert ours.during.depth < ours.before.depth
    assert ours.depth_back_s is not None
    assert 0 < ours.depth_back_s < 2
    assert deepest.during.depth == deepest.before.depth == 5
    assert "| gpu-like, burst:2:1:10, load 0.3 | fixed:max |" in markdown(found)
    assert found.to_json()["recoveries"][0]["policy"] == "deadline"
