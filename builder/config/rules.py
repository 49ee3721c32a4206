"""Rules for the fields of a configuration: predicates with a description, and their check.

The builder's configurations come from command lines and from checkpoints, that is from people and
from files, so every value is checked where a record is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

MAX_SHOWN = 200
"""Most characters of a value that are repeated where it is refused."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of value that a field may have: a predicate and its description."""

    holds: Callable[[Any], bool]
    what: str
    """Description of the value, which completes "it must be ..."."""


def _finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number that no float is as large as
        return False


FLAG = Rule(lambda value: isinstance(value, bool), "true or false")
TEXT = Rule(lambda value: isinstance(value, str) and bool(value.strip()), "a text")


def whole(least: int, most: int | None = None) -> Rule:
    """Return the rule of an int (not a bool) in ``least``..``most``."""

    def holds(value: Any) -> bool:
        return type(value) is int and value >= least and (most is None or value <= most)

    span = f"of at least {least}" if most is None else f"from {least} to {most}"
    return Rule(holds, f"a whole number {span}")


def share(*, below_one: bool = False) -> Rule:
    """Return the rule of a number in 0..1, perhaps without 1."""

    def holds(value: Any) -> bool:
        return _finite(value) and 0 <= value <= 1 and not (below_one and value == 1)

    return Rule(holds, "a number from 0 to less than 1" if below_one else "a number from 0 to 1")


NUMBER = Rule(_finite, "a number")
MAPPING = Rule(lambda value: isinstance(value, Mapping), "a mapping")
NON_NEGATIVE = Rule(lambda value: _finite(value) and value >= 0, "a number of at least 0")
POSITIVE = Rule(lambda value: _finite(value) and value > 0, "a number greater than 0")


def one_of(choices: Collection[str]) -> Rule:
    """Return the rule of one of the names ``choices``."""
    return Rule(
        lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}"
    )


def matching(pattern: str, what: str) -> Rule:
    """Return the rule of a text that ``pattern`` matches as a whole."""
    return Rule(
        lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, what
    )


def optional(rule: Rule) -> Rule:
    """Return the rule of None or what ``rule`` allows."""
    return Rule(lambda value: value is None or rule.holds(value), f"{rule.what}, or null")


def several(rule: Rule, least: int = 0, most: int | None = None) -> Rule:
    """Return the rule of a tuple of ``least`` to ``most`` values that each keep ``rule``."""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, tuple)
            and len(value) >= least
            and (most is None or len(value) <= most)
            and all(map(rule.holds, value))
        )

    if most is None:
        count = f"{least} or more"
    else:
        count = f"{least}" if least == most else f"{least} to {most}"
    return Rule(holds, f"a list of {count}, each {rule.what}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def check(record: object, rules: Mapping[str, Rule]) -> None:
    """Raise ValueError for the first field of ``record`` that breaks its rule."""
    for name, rule in rules.items():
        value = getattr(record, name)
        if not rule.holds(value):
            raise ValueError(f"{name} is {_shown(value)}, it must be {rule.what}")
