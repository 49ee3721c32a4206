"""Promises of rates: never more than there is, and something for whoever comes."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.errors import Overloaded, ShedReason
from serving.core.promises import PROMISED_SHARE, Promises

FRAME_S = 0.02


def test_an_idle_server_promises_most_of_its_time():
    assert 0.8 * PROMISED_SHARE < Promises().rate_hz(FRAME_S) * FRAME_S < PROMISED_SHARE


def test_what_is_promised_is_kept_until_it_ends():
    promises = Promises()
    before_hz = promises.rate_hz(FRAME_S)
    with promises.made(before_hz / 2, FRAME_S):
        left_hz = promises.rate_hz(FRAME_S)
        assert left_hz < before_hz
        assert promises.rate_hz(2 * FRAME_S) == pytest.approx(left_hz / 2)
        with (
            pytest.raises(Overloaded, match=f"can promise {left_hz:.1f} frames") as refused,
            promises.made(left_hz * 1.01, FRAME_S),
        ):
            pass
        assert refused.value.reason is ShedReason.REJECTED_SATURATED
    assert promises.rate_hz(FRAME_S) == pytest.approx(before_hz)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.01, 1.0)), max_size=30))
def test_there_is_always_something_for_a_newcomer(wanted: list[tuple[str, float]]):
    promises = Promises()
    with ExitStack() as made:
        total = 0.0
        for principal, of_most in wanted:
            rate_hz = of_most * promises.rate_hz(FRAME_S, principal)
            made.enter_context(promises.made(rate_hz, FRAME_S, principal))
            total += rate_hz * FRAME_S
        assert total < PROMISED_SHARE
        assert promises.rate_hz(FRAME_S, "newcomer") > 0.0
    assert promises.rate_hz(FRAME_S) == pytest.approx(Promises().rate_hz(FRAME_S))
