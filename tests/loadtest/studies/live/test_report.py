"""Figures of a live study over its rounds."""

import json
from dataclasses import replace

import pytest

from loadtest.environment.spread import Spread
from loadtest.load.outcomes import Outcome
from loadtest.studies.live.report import ACCURACY, ATTAINMENT, METRICS, to_json, worth_of
from reporting.intervals import MeanInterval
from tests.loadtest.load.runs import answer, failure
from tests.loadtest.studies.live.runs import REFERENCE, report


def test_what_was_measured_is_in_order() -> None:
    found = report()
    assert found.systems == ["deadline", "fixed:1", "litserve:1"]
    assert found.arrivals == ["poisson", "trace:azure_conv"]
    assert found.loads == [0.3, 0.9]


def test_spreads_are_over_rounds() -> None:
    found = report()
    assert found.spread(ATTAINMENT, "deadline", "poisson", 0.9) == Spread(60.0, 60.0, 90.0)
    assert found.spread(ATTAINMENT, "deadline", "trace:azure_conv", 0.9) is None
    spread = found.spread(ACCURACY, "deadline", "poisson", 0.3)
    assert spread is not None
    assert spread.p90 == pytest.approx(0.9 * 0.2)  # depth 2 promises an AP of .2


def test_the_lead_is_taken_within_a_round() -> None:
    found = report()
    lead = found.lead(ATTAINMENT, "litserve:1", "poisson", 0.3)
    assert lead is not None
    assert (lead.p10, lead.p90) == pytest.approx((-10.0, 20.0))
    found.runs = [run for run in found.runs if (run.system, run.round) != ("deadline", 1)]
    lead = found.lead(ATTAINMENT, "litserve:1", "poisson", 0.3)
    assert lead is not None
    assert (lead.p10, lead.p90) == pytest.approx((20.0, 20.0))
    found.runs = []
    assert found.lead(ATTAINMENT, "litserve:1", "poisson", 0.3) is None


def test_the_difference_is_taken_between_the_same_requests() -> None:
    found = report()
    difference = found.difference("fixed:1", "poisson", 0.3)
    # In the first round 9 of .2 and 8 of .1, in the second 6 of each.
    per_part = [0.1] * 8 + [0.2, 0.0] + [0.1] * 6 + [0.0] * 4
    assert difference == MeanInterval.of(per_part)
    found.runs = [run for run in found.runs if (run.system, run.round) != ("deadline", 1)]
    assert found.difference("fixed:1", "poisson", 0.3) == MeanInterval.of(per_part[:10])
    found.runs = [run for run in found.runs if run.system != "deadline"]
    assert found.difference("fixed:1", "poisson", 0.3) is None


def test_the_best_of_a_kind_is_by_the_mean_of_its_rounds() -> None:
    found = report()
    other = [replace(run, system="fixed:2") for run in found.runs if run.system == "deadline"]
    found.runs += other
    assert found.kinds == ["fixed", "litserve"]
    assert found.best("fixed", "poisson", 0.3) == "fixed:2"
    assert found.best("litserve", "poisson", 0.3) == "litserve:1"
    assert found.best("bentoml", "poisson", 0.3) is None
    assert found.best("fixed", "poisson", 77) is None


def test_the_parts_of_a_run_have_as_many_requests_each() -> None:
    rows = [answer(0.1 * i, 0.01, depth=2) for i in range(12)]
    rows += [answer(2.0, 9.0, depth=2), failure(2.1, Outcome.REFUSED), *rows[:6]]
    worth = worth_of(rows)  # 20 in ten parts
    assert worth == pytest.approx([0.2] * 6 + [0.0] + [0.2] * 3)
    assert worth_of(rows[:3]) == pytest.approx([0.2] * 3)
    silent = replace(rows[0], expected_ap=None)
    assert worth_of([silent]) == (0.0,)


def test_accounts_are_of_all_runs_of_a_system() -> None:
    accounts = report().accounts()
    assert {name: account.scheduled for name, account in accounts.items()} == {
        "deadline": 80,
        "fixed:1": 80,
        "litserve:1": 60,
    }
    assert all(account.is_complete and account.agrees for account in accounts.values())


def test_goodput_after_a_burst() -> None:
    assert report().through_bursts()[0].goodput_after_hz == pytest.approx(9.0)


def test_bursts_are_summed_by_system_and_compared_by_round() -> None:
    found = report()
    ours, theirs = found.through_bursts()
    assert (ours.system, theirs.system) == ("deadline", "fixed:1")
    assert ours.timeline.in_time[4:8] == (50,) * 4
    assert ours.timeline.arrived[4:8] == (100,) * 4
    assert ours.recovery is not None
    assert ours.recovery.during.goodput_hz == 25.0
    ratio = found.burst_ratio("fixed:1")
    assert ratio is not None
    assert (ratio.p10, ratio.p90) == pytest.approx((20 / 25, 30 / 20))
    found.bursts = [run for run in found.bursts if (run.system, run.round) != ("fixed:1", 0)]
    ratio = found.burst_ratio("fixed:1")
    assert ratio is not None
    assert ratio.p10 == pytest.approx(30 / 20)
    assert found.burst_ratio("another") is None


def test_each_request_takes_as_much_of_the_machine_as_at_capacity() -> None:
    # At 100/s a third of it, since the engine alone would answer 150.
    assert REFERENCE.slowdown_at(0.0) == pytest.approx(1.0)
    assert REFERENCE.slowdown_at(50.0) == pytest.approx(1 / (1 - 1 / 6))
    assert REFERENCE.slowdown_at(100.0) == pytest.approx(1.5)
    assert REFERENCE.slowdown_at(300.0) == pytest.approx(1.5)
    noisy = replace(REFERENCE, engine_capacity_hz=80.0)  # timed while the machine did other things
    assert noisy.slowdown_at(100.0) == 1.0


def test_json_has_every_run() -> None:
    data = json.loads(json.dumps(to_json(report())))
    assert data["reference"]["slowdown"] == 1.5
    assert data["reference"]["profile"]["segments"]["stem"]["1"]["p50_s"] > 0
    assert len(data["runs"]) == 18
    first = data["runs"][0]
    assert (first["system"], first["arrivals"], first["load"], first["round"]) == (
        *("fixed:1", "poisson", 0.3),
        0,
    )
    assert first["attainment"] == 0.8
    assert first["depths"] == {"1": 8}
    assert first["points"] == {"exit 1": 8}
    assert first["worth"] == [0.1] * 8 + [0.0] * 2
    assert first["reasons"] == {"refused": {"rejected-overload": 2}}
    assert first["served_ap_with_misses"] is not None
    assert first["simulated"]["engine"]["attainment"] == 1.0
    assert [burst["round"] for burst in data["bursts"]] == [0, 0, 1, 1]
    assert data["recovery"]["deadline"]["before"]["goodput_hz"] == 9.0
    assert data["recovery"]["deadline"]["goodput_after_hz"] == 9.0
    hindsight = data["in_hindsight"][0]
    assert (hindsight["arrivals"], hindsight["load"], hindsight["system"]) == (
        *("poisson", 0.3),
        "fixed:1",
    )
    assert hindsight["difference"]["mean"] == pytest.approx(0.08)
    assert data["accounts"]["deadline"]["client"]["answered"] == 6 * 7.5 + 2 * 9


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_run_has_every_figure(metric) -> None:
    assert all(metric.get(run.summary) is not None for run in report().runs)
