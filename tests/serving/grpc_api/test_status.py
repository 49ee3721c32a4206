from __future__ import annotations

from grpc import StatusCode

from serving.api.problems import PROBLEMS
from serving.core.errors import BudgetInfeasible, InvalidImage, Overloaded, ShedReason
from serving.grpc_api.status import CODES, code_of, metadata_of


def test_every_problem_has_a_status() -> None:
    assert CODES.keys() == PROBLEMS.keys()
    assert StatusCode.OK not in CODES.values()
    assert StatusCode.UNKNOWN not in CODES.values()


def test_who_comes_while_the_server_ends_should_go_elsewhere() -> None:
    codes = {reason: code_of(Overloaded("No.", reason)) for reason in ShedReason}
    assert codes.pop(ShedReason.REJECTED_DRAINING) is StatusCode.UNAVAILABLE
    assert set(codes.values()) == {StatusCode.RESOURCE_EXHAUSTED}


def test_what_a_program_can_read() -> None:
    assert metadata_of(InvalidImage("It is none.")) == (("punctual-problem", "invalid-image"),)
    assert dict(metadata_of(Overloaded("No.", ShedReason.REJECTED_OVERLOAD, 0.25))) == {
        "punctual-problem": "overloaded",
        "punctual-reason": "rejected-overload",
        "grpc-retry-pushback-ms": "250",
    }
    told = dict(metadata_of(BudgetInfeasible("Too little.", 0.04)))
    assert told["punctual-min-budget-ms"] == "40.0"
