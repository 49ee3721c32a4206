"""Descriptions of the problems that routes may answer with, for OpenAPI."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from serving.api.problems import MEDIA_TYPE, PROBLEMS
from serving.api.schemas import ProblemDetails

UNSEEN = frozenset({404, 405, 499})
"""Statuses that say that a route is not there, or that nobody reads."""
OF_ANY_ROUTE = frozenset({400, 401, 403, 408, 421, 429, 431, 500, 503})
"""Statuses of what may be wrong with any request, its connection, or its sender."""
OF_DETECTION = frozenset(problem.status for problem in PROBLEMS.values()) - UNSEEN


def problem_responses(
    statuses: Iterable[int], in_json: type[BaseModel] | None = None
) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's descriptions of replies with ``statuses``, by status.

    ``in_json`` is what they are where another protocol is spoken, and nobody asks for problems.
    """
    content = {MEDIA_TYPE: {"schema": ProblemDetails.model_json_schema()}}
    if in_json is not None:
        content = {"application/json": {"schema": in_json.model_json_schema()}, **content}
    return {
        status: {"description": _titles(status), "content": content} for status in sorted(statuses)
    }


def _titles(status: int) -> str:
    """Return slugs and titles of the problems with a status."""
    return " ".join(f"`{slug}`: {p.title}." for slug, p in PROBLEMS.items() if p.status == status)
