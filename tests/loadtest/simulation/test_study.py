"""Studies by simulation: paired runs, and figures that add up."""

from dataclasses import replace

import pytest

from loadtest.simulation import study as simulation
from loadtest.simulation.simulator import Outliers, Slowdown, SlowPeriods, Stalls
from loadtest.simulation.study import Conditions, Point, RunResult, draw_requests, run_policy, study

CONDITIONS = Conditions("1.2x,2x,4x", 200)
POINT = Point("cpu-lite", "poisson", 0.9)
POLICIES = ("deadline", "fixed:1", "fixed:max", "slackfit")


def without_time(run: RunResult) -> RunResult:
    return replace(run, cpu_s=0.0)


def test_a_load_of_one_is_what_the_executors_can_do() -> None:
    capacity_hz = simulation._profile("cpu-lite").capacity_hz
    assert POINT.rate_hz(CONDITIONS) == pytest.approx(0.9 * capacity_hz)
    assert POINT.rate_hz(replace(CONDITIONS, executors=3)) == pytest.approx(2.7 * capacity_hz)
    assert POINT.duration_s(CONDITIONS) == pytest.approx(200 / (0.9 * capacity_hz))
    assert POINT.duration_s(replace(CONDITIONS, duration_s=7.0)) == 7.0


def test_requests_follow_from_point_and_seed_alone() -> None:
    first = draw_requests(POINT, CONDITIONS, 3)
    assert first == draw_requests(POINT, CONDITIONS, 3)
    assert first != draw_requests(POINT, CONDITIONS, 4)
    full_s = simulation._profile("cpu-lite").full_depth_s
    multiples = {round((r.deadline_s - r.arrival_s) / full_s, 6) for r in first}
    assert multiples == {1.2, 2.0, 4.0}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("executors", [1, 3])
def test_every_request_is_counted_once(policy: str, executors: int) -> None:
    conditions = replace(CONDITIONS, executors=executors, balancer="power-of-two")
    run = run_policy(replace(POINT, load=1.5), policy, conditions, 0)
    assert run.num_requests == len(draw_requests(run.point, conditions, 0))
    assert run.num_in_time + run.num_late + sum(run.shed.values()) == run.num_requests
    assert sum(run.points.values()) == run.num_in_time
    ladder = simulation._profile(run.point.profile).ladder
    assert run.sum_ap == pytest.approx(
        sum(ladder.ap(ladder.find(label)) * count for label, count in run.points.items())
    )
    assert run.in_time_accuracy == pytest.approx(run.attainment * run.mean_ap)
    assert run.goodput_hz == pytest.approx(run.num_in_time / run.duration_s)
    assert run.bound_ap is not None
    assert run.sum_ap <= run.bound_ap


def test_the_same_run_twice() -> None:
    first, second = (run_policy(POINT, "deadline", CONDITIONS, 1) for _ in range(2))
    assert without_time(first) == without_time(second)


def test_an_exit_for_everybody() -> None:
    run = run_policy(replace(POINT, load=0.2), "fixed:2", CONDITIONS, 0)
    assert run.points == {"320x320/2": run.num_in_time}
    assert run.num_in_time > 0
    assert run.mean_ap == pytest.approx(0.9)


@pytest.mark.parametrize(
    "worse",
    [
        {"slowdowns": (Slowdown(0.0, 1e9, 2.0),)},
        {"stalls": Stalls(0.5, 0.2)},
        {"slow_periods": SlowPeriods(1.0, 1.0, 3.0)},
        {"outliers": Outliers(0.1, 10.0)},
    ],
    ids=["slow", "stalled", "slow now and then", "outliers"],
)
def test_a_worse_machine_answers_less(worse: dict[str, object]) -> None:
    plain = run_policy(POINT, "deadline", CONDITIONS, 0)
    run = run_policy(POINT, "deadline", replace(CONDITIONS, **worse), 0)  # type: ignore[arg-type]
    assert run.sum_ap < plain.sum_ap


def test_a_run_without_oracle() -> None:
    run = run_policy(POINT, "fixed:1", replace(CONDITIONS, with_oracle=False), 0)
    assert run.bound_ap is None
    assert run.share_of_oracle is None


def test_a_timeline_counts_what_the_run_counts() -> None:
    assert run_policy(POINT, "fixed:1", CONDITIONS, 0).timeline is None
    run = run_policy(replace(POINT, arrivals="burst:1:1:3"), "deadline", CONDITIONS, 0)
    assert run.timeline is not None
    assert sum(run.timeline.arrived) == run.num_requests
    assert sum(run.timeline.in_time) == run.num_in_time
    assert sum(run.timeline.depths) == sum(
        int(label.rpartition("/")[2]) * count for label, count in run.points.items()
    )


def test_each_decision_can_be_heard_of() -> None:
    heard: list[float] = []
    run = run_policy(
        POINT, "deadline", CONDITIONS, 0, decided=lambda snapshot, _: heard.append(snapshot.now_s)
    )
    assert len(heard) == run.num_decisions
    assert heard == sorted(heard)


def test_processes_give_what_one_gives() -> None:
    points = (POINT, replace(POINT, arrivals="gamma:4"))
    conditions = replace(CONDITIONS, num_requests=40)

    def results(jobs: int) -> set[str]:
        return {
            repr(without_time(run))
            for run in study(points, ("fixed:1", "deadline"), conditions, 2, jobs)
        }

    alone = results(1)
    assert len(alone) == 8
    assert results(2) == alone


def test_a_study_has_a_bound() -> None:
    with pytest.raises(ValueError, match="200,000 simulations are more than 100,000"):
        next(study((POINT,), ("fixed:1", "fixed:2"), CONDITIONS, 100_000, 1))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("profile", ["sizes", "three-by-three"])
def test_a_family_of_sizes_is_served_by_every_policy(profile: str, policy: str) -> None:
    conditions = replace(CONDITIONS, num_requests=300)
    run = run_policy(Point(profile, "poisson", 0.8), policy, conditions, 0)
    assert run.num_in_time + run.num_late + sum(run.shed.values()) == run.num_requests
    ladder = simulation._profile(profile).ladder
    worth = [ladder.ap(ladder.find(label)) * count for label, count in run.points.items()]
    assert run.sum_ap == pytest.approx(sum(worth))
    assert run.bound_ap is not None
    assert 0 < run.sum_ap <= run.bound_ap


def test_a_fixed_point_is_of_one_size() -> None:
    point = Point("three-by-three", "poisson", 0.2)
    run = run_policy(point, "fixed:320x320/2", CONDITIONS, 0)
    assert run.points == {"320x320/2": run.num_in_time}
    with pytest.raises(ValueError, match="no operating point '300x300/1'; there are 192x192/1, "):
        run_policy(point, "fixed:300x300/1", CONDITIONS, 0)


def test_the_policy_that_serves_uses_several_sizes() -> None:
    run = run_policy(Point("sizes", "poisson", 0.5), "deadline", CONDITIONS, 0)
    assert len({label.partition("/")[0] for label in run.points}) > 1
