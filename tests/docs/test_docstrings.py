"""Docstrings of functions begin with a verb: "Return the ...", not "The ..."."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.docs.examples import ROOT

ROOTS = ("serving", "builder", "loadtest", "punctual", "reporting", "docs")
NO_VERBS = frozenset(
    (
        *("A", "All", "An", "As", "By", "Every", "From", "How", "In", "Of", "One", "Raises", "So"),
        *("Some", "That", "The", "Those", "What", "Where", "Whether", "Which", "Who", "Whose"),
    )
)


def fragments(root: str) -> Iterator[str]:
    """Functions whose docstring does not begin with a verb. Properties are what they name."""
    for path in sorted((ROOT / root).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            decorators = {each.id for each in node.decorator_list if isinstance(each, ast.Name)}
            words = (ast.get_docstring(node) or "").split()
            if words and words[0] in NO_VERBS and not decorators & {"property", "cached_property"}:
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


@pytest.mark.parametrize("root", ROOTS)
def test_the_docstring_of_a_function_begins_with_a_verb(root: str) -> None:
    assert list(fragments(root)) == []
