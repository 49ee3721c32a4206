from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core import errors
from serving.core.errors import Overloaded, ShedReason
from serving.triton import wire

SENTENCES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
PLAIN = [
    errors.InvalidRequest,
    errors.InvalidParameter,
    errors.RequestCancelled,
    errors.FrameSuperseded,
    errors.BackendError,
    errors.BackendUnavailable,
]


@given(detail=SENTENCES, kind=st.sampled_from(PLAIN))
def test_plain_errors_survive_the_wire(detail, kind):
    found = wire.error_from_text(wire.error_to_text(kind(detail)))
    assert type(found) is kind
    assert found.detail == detail


@given(detail=SENTENCES, reason=st.sampled_from(ShedReason), after_us=st.integers(0, 10**9))
def test_sheds_survive_the_wire(detail, reason, after_us):
    found = wire.error_from_text(wire.error_to_text(Overloaded(detail, reason, after_us / 1e6)))
    assert isinstance(found, Overloaded)
    assert (found.detail, found.reason) == (detail, reason)
    assert found.retry_after_s == pytest.approx(after_us / 1e6)


@pytest.mark.parametrize(
    "text",
    [
        "Request for unknown model: 'cells_anytime' is not found",
        "[request id: 7] unexpected shape for input 'image'",
        "Stub process 'cells_anytime_0_0' is not healthy.",
        "",
    ],
)
def test_what_triton_says_itself_means_that_the_engine_cannot_be_had(text):
    found = wire.error_from_text(text)
    assert isinstance(found, errors.BackendUnavailable)
    assert text in found.detail


@pytest.mark.parametrize("tag", ["[overloaded because 12us]", "[brand-new]"])
def test_an_error_of_another_version_is_an_engine_error(tag):
    assert type(wire.error_from_text(f"Something. {tag}")) is errors.BackendError


def test_every_error_that_the_executor_can_end_with_has_a_tag():
    kinds: tuple[Any, ...] = (*PLAIN, Overloaded)
    for kind in kinds:
        error = kind("A.", ShedReason.REJECTED_OVERLOAD) if kind is Overloaded else kind("A.")
        assert f"[{kind.slug}" in wire.error_to_text(error)


@given(
    st.integers(0, 16**15 - 1),
    st.integers(0, 64),
    st.integers(0, 64),
    st.integers(0, 64),
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), max_size=7),
)
def test_a_status_survives_as_numbers(digest, waiting, in_flight, held, exits_us):
    exits_s = tuple(us / 1e6 for us, _ in exits_us)
    tails_s = tuple(us / 1e6 for _, us in exits_us)
    status = wire.EngineStatus(digest, waiting, in_flight, held, exits_s, tails_s)
    found = wire.EngineStatus.from_numbers(status.to_numbers())
    assert found.exits_s == pytest.approx(status.exits_s)
    assert found.tails_s == pytest.approx(status.tails_s)
    assert (found.digest, found.num_waiting) == (digest, waiting)
    assert (found.num_in_flight, found.num_held) == (in_flight, held)


def test_too_few_numbers_are_no_status():
    with pytest.raises(ValueError, match="unpack"):
        wire.EngineStatus.from_numbers([1, 2, 3])
    with pytest.raises(ValueError, match="3 times are not two of each exit"):
        wire.EngineStatus.from_numbers([1, 2, 3, 4, 5, 6, 7])


def test_digests_fit_into_an_int64():
    assert 0 <= wire.short_digest("f" * 64) < 2**63
    assert wire.short_digest("0" * 14 + "1" + "f" * 49) == 1
