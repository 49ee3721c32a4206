"""Journals: what is written is read, and what is none is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.search.journal import (
    JOURNAL,
    Child,
    JournalError,
    SearchJournalFile,
    read_journal,
)
from builder.search.run import run
from tests.builder.search.children import analytic_search


@pytest.fixture
def children(tmp_path: Path) -> tuple[Child, ...]:
    return run(analytic_search("random"), tmp_path, 3)


def test_a_child_comes_back_from_its_line(children: tuple[Child, ...]) -> None:
    for child in children:
        assert Child.from_line(child.to_line()) == child
        assert child.graph.rows == child.rows


def test_a_journal_comes_back(children: tuple[Child, ...], tmp_path: Path) -> None:
    contents = read_journal(tmp_path / JOURNAL)
    assert contents.children == children
    assert contents.search["evaluator"]["name"] == "analytic"
    assert contents.search["reward"]["name"] == "anytime"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("{}\n", "is no journal of a search"),
        ("[]\n", "is no journal of a search"),
        ('{"format": 2, "search": {}}\n', "is a journal of another version"),
        ('{"format": 1, "search": {}}\n{"index": 0}\n', "line 2: no child"),
    ],
)
def test_what_is_no_journal_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    path.write_text(text)
    with pytest.raises(JournalError, match=problem):
        read_journal(path)


def test_children_out_of_order_are_refused(children: tuple[Child, ...], tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    head, first, *others = path.read_text().splitlines(True)
    path.write_text("".join([head, *others, first]))
    with pytest.raises(JournalError, match="line 2: child 1 is out of order"):
        read_journal(path)


def test_a_line_is_in_the_file_when_it_was_added(
    children: tuple[Child, ...], tmp_path: Path
) -> None:
    path = tmp_path / "other" / JOURNAL
    journal = SearchJournalFile(path, {"seed": 0})
    for count, child in enumerate(children, start=1):
        journal.add(child)
        assert len(read_journal(path).children) == count
    journal.close()
    assert journal.best_reward == max(child.reward for child in children)
