"""What a search is: a file with a line for each of its children, in the order they were asked for.

    OUT/journal.jsonl   {"format": 1, "search": {...}}      what is searched, how, and on what
                        {"index": 0, "rows": [...], ...}    a child
                        ...

A searcher is told the lines of the journal again to go on with it: there is no other state. What a
child took, where, and with which versions is in ``made_by``; all else is a function of the search.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from builder.config.detector import DetectorConfig
from builder.config.json_record import JsonRecord
from builder.config.pyramid_graphs import Graph, Row
from builder.config.recipe import TrainConfig
from builder.config.rules import (
    MAPPING,
    NON_NEGATIVE,
    NUMBER,
    TEXT,
    Rule,
    check,
    one_of,
    optional,
    several,
    whole,
)
from builder.config.user_files import read_bytes
from builder.search.canonical import canonical_key
from builder.search.latency_table import TERMS, LatencyTable
from serving.core.command_errors import CommandError

JOURNAL = "journal.jsonl"
FORMAT = 1

OK, FAILED, REPEATED = "ok", "failed", "repeated"
"""Status of a child: it was evaluated; it could not be, and is worth nothing; or it has been
evaluated often enough, and is worth what it was on average."""


class JournalError(CommandError, ValueError):
    """Error of a journal that cannot be read, or is of another search."""


@dataclass(frozen=True, slots=True)
class Child:
    """One table that a searcher asked for, and what it is worth."""

    index: int
    rows: tuple[Row, ...]
    key: str
    """Key of the table, of ``canonical_key``."""
    training_seed: int | None
    """Seed that it was evaluated with; None of one that was not."""
    status: str
    aps: tuple[float, ...]
    """APs by exit; none of a failed child."""
    times: tuple[float, ...]
    """Times to each exit, in the unit of the latency table."""
    reward: float
    made_by: Mapping[str, Any]
    """Seconds, machine and versions that made it, which nothing depends on."""

    @property
    def graph(self) -> Graph:
        """Table of the child."""
        return Graph.from_rows(self.rows)

    def to_line(self) -> str:
        """Return JSON, on one line."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Return the child that ``to_line`` wrote. Raises JournalError."""
        try:
            data = json.loads(line)
            values = {**data, "rows": rows_of(data["rows"]), "aps": tuple(data["aps"])}
            child = cls(**{**values, "times": tuple(data["times"])})
            check(child, CHILD_RULES)
            if len(child.times) != len(child.aps) or (child.status == OK and not child.aps):
                raise ValueError("accuracies and times are not of the same exits")
            if child.key != canonical_key(child.graph):
                raise ValueError("its key is not that of its rows")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise JournalError(f"no child of a search: {error}") from error
        return child


CHILD_RULES = {
    "index": whole(0),
    "key": TEXT,
    "training_seed": optional(whole(0)),
    "status": one_of((OK, FAILED, REPEATED)),
    "aps": several(NUMBER),
    "times": several(NUMBER),
    "reward": NUMBER,
    "made_by": Rule(
        lambda value: MAPPING.holds(value) and NON_NEGATIVE.holds(value.get("seconds")),
        "a mapping with the seconds that it took",
    ),
}


def rows_of(data: Iterable[Sequence[Any]]) -> tuple[Row, ...]:
    """Return the rows of a table that went through JSON, which has only lists."""
    return tuple((level, op, tuple(pair), out) for level, op, pair, out in data)


@dataclass(frozen=True, slots=True)
class Contents:
    """Contents of a journal."""

    search: Mapping[str, Any]
    """Description of what is searched, how, and on what."""
    children: tuple[Child, ...]


def read_journal(path: Path) -> Contents:
    """Return a journal, without a last line that was not written to its end.

    Raises JournalError, CommandError for no regular file, and OSError.
    """
    return _parse(path, read_bytes(path))[0]


@dataclass(frozen=True, slots=True)
class JournalSet:
    """Journals whose children go together, each read once."""

    paths: tuple[Path, ...]
    contents: tuple[Contents, ...]
    """Contents of each."""
    digest: str
    """SHA-256 of the bytes of all, one after the other, as hexadecimal text."""

    @property
    def children(self) -> tuple[Child, ...]:
        """Children of one journal after those of the other."""
        return tuple(child for each in self.contents for child in each.children)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Self:
        """Read them.

        Raises JournalError where detectors have not the same number of exits, and what
        ``read_journal`` raises.
        """
        contents: list[Contents] = []
        digest = hashlib.sha256()
        earlier: list[Child] = []
        for path in paths:
            data = read_bytes(path)
            digest.update(data)
            found, _ = _parse(path, data)
            for child in found.children:
                _check_exits(path, child, earlier or found.children)
            earlier += found.children
            contents.append(found)
        return cls(tuple(paths), tuple(contents), digest.hexdigest())


def _parse(path: Path, data: bytes) -> tuple[Contents, int]:
    """Return the contents, and after how many bytes they end."""
    ended = data[: data.rfind(b"\n") + 1]
    try:
        lines = ended.decode().splitlines()
    except UnicodeDecodeError as error:
        raise JournalError(f"{path} is no journal of a search: it is no text") from error
    if not lines:
        raise JournalError(f"{path} is empty")
    try:
        head = json.loads(lines[0])
        known = head["format"] == FORMAT
        search = _described(head["search"]) if known else {}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise JournalError(f"{path} is no journal of a search: {error!r}") from error
    if not known:
        raise JournalError(f"{path} is a journal of another version")
    children: list[Child] = []
    for number, line in enumerate(lines[1:]):
        try:
            child = Child.from_line(line)
        except JournalError as error:
            raise JournalError(f"{path}, line {number + 2}: {error}") from error
        if child.index != number:
            raise JournalError(f"{path}, line {number + 2}: child {child.index} is out of order")
        _check_exits(path, child, children)
        children.append(child)
    return Contents(search, tuple(children)), len(ended)


def _check_exits(path: Path, child: Child, others: Sequence[Child]) -> None:
    """Raise JournalError for a child with another number of exits than ``others`` have."""
    if not child.aps:
        return
    count = next((len(other.aps) for other in others if other.aps), len(child.aps))
    if len(child.aps) != count:
        raise JournalError(
            f"{path}: child {child.index} has another number of exits, {len(child.aps)}, than "
            f"those before it, {count}"
        )


class SearchJournal:
    """A journal in memory: children in order."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.best_reward = -math.inf

    def add(self, child: Child) -> None:
        """Take in one more child."""
        self.children.append(child)
        self.best_reward = max(self.best_reward, child.reward)


class SearchJournalFile(SearchJournal):
    """A journal in a file, opened where it ends, or begun."""

    def __init__(self, path: Path, search: Mapping[str, Any]) -> None:
        """Open it. Raises JournalError for a journal of another search, and OSError."""
        super().__init__()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, "search": search}, separators=(",", ":"))
        data = read_bytes(path) if path.exists() else b""
        if b"\n" in data:
            contents, length = _parse(path, data)
            _check_same(path, contents.search, search)
            for child in contents.children:
                super().add(child)
            with path.open("r+b") as file:
                file.truncate(length)
        elif text.encode().startswith(data):  # nothing, or what was cut while it was written
            path.write_text(text + "\n")
        else:
            raise JournalError(f"{path} is no journal of this search: choose another folder")
        self._file = path.open("a")

    def add(self, child: Child) -> None:
        """Write one more child; it is in the file when this returns."""
        self._file.write(child.to_line())
        self._file.flush()
        super().add(child)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _check_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    now = json.loads(json.dumps(now))
    for name in [*before, *(name for name in now if name not in before)]:
        if before.get(name) != now.get(name):
            raise JournalError(
                f"{path} is of a search with {name} {before.get(name)!r}, not {now.get(name)!r}: "
                "go on with what it has, or choose another folder"
            )


RECORDS: dict[str, type[JsonRecord]] = {"detector": DetectorConfig, "train": TrainConfig}
"""Records in the description of an evaluator."""


def _described(search: Any) -> dict[str, Any]:
    """Return a description with its defaults.

    Raises KeyError, TypeError or ValueError for what describes no search.
    """
    if not isinstance(search, dict):
        raise TypeError("the search is no mapping")
    named = [search["space"], search["searcher"]]
    named += [search[part]["name"] for part in ("evaluator", "reward")]
    if not all(map(TEXT.holds, named)) or not NUMBER.holds(search["seed"]):
        raise ValueError("the search has no name where it has to have one, or no seed")
    found = _with_defaults(search)
    LatencyTable(**found["latency"])
    return found


def _with_defaults(search: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description with the fields that its records have got since it was written.

    They have their defaults, which is how everything was before. Terms that latency tables have got
    since are nothing.
    """
    evaluator = dict(search.get("evaluator", {}))
    for name, record in RECORDS.items():
        if name in evaluator:
            try:
                evaluator[name] = record.from_dict(evaluator[name]).to_dict()
            except (TypeError, ValueError):
                continue  # of a version that had other fields: another search, as comparing says
    found: dict[str, Any] = json.loads(json.dumps({**search, "evaluator": evaluator}))
    if latency := found.get("latency"):
        latency["terms"] = dict.fromkeys(TERMS, 0.0) | latency["terms"]
    return found
