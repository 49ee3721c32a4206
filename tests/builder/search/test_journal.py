"""Journals: what is written is read, and what is none is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.search.journal import (
    JOURNAL,
    Child,
    JournalError,
    JournalSet,
    SearchJournalFile,
    read_journal,
)
from builder.search.latency_table import synthetic_table
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
        ('{"format": 1, "search": {}}\n', "is no journal of a search: KeyError\\('space'\\)"),
        ('{"format": 1, "search": []}\n', "the search is no mapping"),
        (b"\xff\xd8\xff\n", "it is no text"),
    ],
)
def test_what_is_no_journal_is_refused(text: str | bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(JournalError, match=problem):
        read_journal(path)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("evaluator", {}),
        ("reward", "ap"),
        ("seed", None),
        ("seed", 10**400),
        ("latency", {}),
        ("latency", synthetic_table().to_dict() | {"stem": float("nan")}),
        ("latency", synthetic_table().to_dict() | {"terms": {"pooling": "1"}}),
    ],
)
def test_a_damaged_description_is_refused(part: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    search = analytic_search("random").describe()
    path.write_text(json.dumps({"format": 1, "search": search}) + "\n")
    assert not read_journal(path).children
    path.write_text(json.dumps({"format": 1, "search": search | {part: value}}) + "\n")
    with pytest.raises(JournalError, match="is no journal of a search"):
        read_journal(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("aps", ["a", "b"]),
        ("aps", [0.5]),
        ("times", [float("nan")] * 3),
        ("status", "fine"),
        ("training_seed", "0"),
        ("made_by", None),
        ("made_by", {}),
        ("made_by", {"seconds": "long"}),
        ("reward", float("inf")),
        ("rows", [[3]]),
        ("key", 7),
        ("key", "<script>"),
        ("reward", 10**400),
        ("rows", [[10**9, "sum", [0, 1], True]]),
        ("rows", [[3, "sum", [0, 1], True]] * 10_000),
    ],
)
def test_a_damaged_child_is_refused(children: tuple[Child, ...], field: str, value: object) -> None:
    data = json.loads(children[0].to_line())
    with pytest.raises(JournalError, match="no child of a search"):
        Child.from_line(json.dumps(data | {field: value}))


def test_children_out_of_order_are_refused(children: tuple[Child, ...], tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    head, first, *others = path.read_text().splitlines(True)
    path.write_text("".join([head, *others, first]))
    with pytest.raises(JournalError, match="line 2: child 1 is out of order"):
        read_journal(path)


def test_children_of_different_detectors_are_refused(
    children: tuple[Child, ...], tmp_path: Path
) -> None:
    path, other = tmp_path / JOURNAL, tmp_path / "other.jsonl"
    head, first, second, third = path.read_text().splitlines(True)

    def of_one_exit(line: str) -> str:
        data = json.loads(line)
        return json.dumps(data | {name: data[name][:1] for name in ("aps", "times")}) + "\n"

    other.write_text("".join([head, first, of_one_exit(second), third]))
    with pytest.raises(JournalError, match=r"child 1 has another number of exits, 1, than .* 3$"):
        read_journal(other)
    other.write_text("".join([head, *map(of_one_exit, (first, second, third))]))
    assert JournalSet.read([path, path]).children == children * 2
    with pytest.raises(JournalError, match=r"other\.jsonl: child 0 has another number of exits"):
        JournalSet.read([path, other])


def test_a_description_of_other_types_is_read_as_it_is(tmp_path: Path) -> None:
    """What it is of, comparing says: it is the journal of another search."""
    path = tmp_path / JOURNAL
    search = analytic_search("random").describe()
    search["evaluator"] = {"name": "train", "detector": [], "train": "x"}
    path.write_text(json.dumps({"format": 1, "search": search}) + "\n")
    assert read_journal(path).search["evaluator"] == search["evaluator"]


def test_what_is_no_journal_of_this_search_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    search = analytic_search("random").describe()
    path.write_text("all that I know")
    with pytest.raises(JournalError, match="choose another folder"):
        SearchJournalFile(path, search)
    assert path.read_text() == "all that I know"
    path.unlink()
    SearchJournalFile(path, search).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:40])  # as a full disk leaves it
    SearchJournalFile(path, search).close()
    assert path.read_bytes() == whole


def test_a_line_is_in_the_file_when_it_was_added(
    children: tuple[Child, ...], tmp_path: Path
) -> None:
    path = tmp_path / "other" / JOURNAL
    journal = SearchJournalFile(path, analytic_search("random").describe())
    for count, child in enumerate(children, start=1):
        journal.add(child)
        assert len(read_journal(path).children) == count
    journal.close()
    assert journal.best_reward == max(child.reward for child in children)
