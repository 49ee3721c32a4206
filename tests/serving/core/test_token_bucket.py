"""How much may be had now, if no more than a rate may be had for long."""

from __future__ import annotations

import pytest

from serving.core.token_bucket import TokenBucket


def test_a_burst_then_the_rate():
    bucket = TokenBucket(rate_hz=10.0, burst=3.0, now_s=5.0)
    for _ in range(3):
        assert bucket.wait_s(5.0, 1.0) == 0.0
        bucket.take(5.0)
    assert bucket.wait_s(5.0, 1.0) == pytest.approx(0.1)
    assert bucket.wait_s(5.05, 1.0) == pytest.approx(0.05)
    assert bucket.wait_s(5.1, 1.0) == pytest.approx(0.0)


def test_it_never_holds_more_than_the_burst():
    bucket = TokenBucket(rate_hz=10.0, burst=3.0, now_s=0.0)
    bucket.take(1000.0, 3.0)
    assert bucket.wait_s(1000.0, 1.0) == pytest.approx(0.1)


def test_what_was_taken_beyond_it_is_paid_back():
    bucket = TokenBucket(rate_hz=0.1, burst=0.5, now_s=0.0)
    bucket.take(0.0, 0.75)
    assert bucket.wait_s(0.0) == pytest.approx(2.5)
    assert bucket.wait_s(2.5) == pytest.approx(0.0)


def test_a_clock_that_goes_back_fills_nothing():
    bucket = TokenBucket(rate_hz=1.0, burst=1.0, now_s=10.0)
    bucket.take(10.0)
    assert bucket.wait_s(9.0, 1.0) == pytest.approx(1.0)
    assert bucket.wait_s(10.5, 1.0) == pytest.approx(0.5)
