"""What a page shows to be typed, and what it says comes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|[\s/`(])(?<!-n )punctual (?P<words>[a-z][^\n`|;)]*)")


@dataclass
class Example:
    """A block of shell commands, and the JSON that is shown after it, if any is."""

    command: str
    reply: Any = None


def examples(page: Path) -> list[Example]:
    """Return the blocks of shell commands of a page, in order."""
    found: list[Example] = []
    for block in _FENCE.finditer(page.read_text()):
        if block["kind"] == "sh":
            found.append(Example(block["text"].strip()))
        elif block["kind"] == "json":
            found[-1].reply = json.loads(block["text"])
    return found


def invocations(text: str) -> Iterator[list[str]]:
    """Yield the words of each ``punctual ...`` that a page has, in code or in prose."""
    for found in _COMMAND.finditer(text.replace("\\\n", " ")):
        yield found["words"].split()


def shape(value: Any) -> Any:
    """Return the names in a JSON value, without what they hold; of a list, of its first element."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(element) for element in value[:1]]
    return None
