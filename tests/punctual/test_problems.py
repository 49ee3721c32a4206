"""Problems as the client has them, and as the server does."""

from __future__ import annotations

import pytest

import punctual
from punctual import problems
from punctual.problems import (
    KINDS,
    BudgetInfeasible,
    Overloaded,
    Problem,
    UnexpectedReply,
    read_problem,
)
from serving.api.problems import PROBLEMS, TYPE_PREFIX


def test_every_problem_of_the_server_has_its_class() -> None:
    assert set(KINDS) == set(PROBLEMS)
    assert problems.TYPE_PREFIX == TYPE_PREFIX


def test_every_class_can_be_had_from_the_package() -> None:
    assert {kind.__name__ for kind in KINDS.values()} <= set(punctual.__all__)
    for name in punctual.__all__:
        assert getattr(punctual, name).__name__ == name or name == "Box"
    with pytest.raises(AttributeError, match="Nothing"):
        punctual.Nothing  # noqa: B018


def body(slug: str, **members: object) -> dict[str, object]:
    return {"type": TYPE_PREFIX + slug, "title": "Title", "detail": "Detail.", **members}


def test_what_a_problem_says_can_be_read() -> None:
    problem = read_problem(
        422, body("budget-infeasible", min_budget_ms=12.5, budget_ms=2, request_id="a")
    )
    assert isinstance(problem, BudgetInfeasible)
    assert (problem.slug, problem.status) == ("budget-infeasible", 422)
    assert (problem.min_budget_ms, problem.budget_ms, problem.request_id) == (12.5, 2.0, "a")
    assert problem.retry_after_s is None
    assert str(problem) == "Title: Detail."


@pytest.mark.parametrize(
    ("member", "header", "seconds"),
    [
        (250.0, "1", 0.25),  # the body's is finer
        (None, "3", 3.0),
        (None, None, None),
        (None, "Wed, 21 Oct 2026 07:28:00 GMT", None),
        (None, "-1", None),
        (None, "²", None),
        (-5, "2", 2.0),
        (float("nan"), "2", 2.0),
        (True, None, None),
    ],
)
def test_when_to_try_again(member: object, header: str | None, seconds: float | None) -> None:
    problem = read_problem(
        503, body("overloaded", retry_after_ms=member, reason="rejected-share"), header
    )
    assert isinstance(problem, Overloaded)
    assert problem.retry_after_s == seconds
    assert problem.reason == "rejected-share"


def test_a_problem_of_a_newer_server_is_a_problem() -> None:
    assert type(read_problem(418, body("teapot"))) is Problem


@pytest.mark.parametrize("kind", [None, 7, "about:blank"])
def test_what_is_no_problem_of_this_server_is_unexpected(kind: object) -> None:
    with pytest.raises(UnexpectedReply, match="502"):
        read_problem(502, {"type": kind})
