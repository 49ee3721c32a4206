"""Checks of the facts that a catalogue states, in sentences that name what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Real
from typing import Any, TypeVar

T = TypeVar("T")


def check_keys(
    data: Mapping[str, Any], keys: Sequence[str], what: str, optional: Collection[str] = ()
) -> None:
    """Raise KeyError with the first of ``keys`` that is missing, ValueError for any other key."""
    for key in keys:
        if key not in data:
            raise KeyError(key)
    for key in data:
        if key not in keys and key not in optional:
            raise ValueError(f"the {what} has {key!r}, which is nothing that it can have")


def optional_record(create: Callable[..., T], data: Mapping[str, Any] | None) -> T | None:
    """Return what ``create`` makes of the fields in ``data``; None of None."""
    return None if data is None else create(**data)


def is_plain_name(name: str) -> bool:
    """Return whether ``name`` is that of something in a folder, and leads nowhere else."""
    return (
        bool(name) and name not in (".", "..") and name.isprintable() and not set(name) & set("/\\")
    )


def is_number(value: object, least: float) -> bool:
    """Return whether ``value`` is a finite number, of at least ``least``."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return least <= float(value) < math.inf


def check_whole(value: object, what: str, least: int, most: int | None = None) -> None:
    """Raise ValueError unless ``value`` is a whole number from ``least``, to ``most`` if given."""
    if type(value) is not int or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{what} is a whole number {span}, not {value!r}")


def check_share(value: object, what: str) -> None:
    """Raise ValueError unless ``value`` is a number from 0 to 1; NaN is none."""
    if not (is_number(value, 0.0) and float(value) <= 1.0):  # type: ignore[arg-type]
        raise ValueError(f"{what} is a number from 0 to 1, not {value!r}")


def check_texts(facts: object, names: Sequence[str]) -> None:
    """Raise ValueError unless these facts are texts."""
    for name in names:
        if not isinstance(getattr(facts, name), str):
            raise ValueError(f"{name!r} is a text, not {getattr(facts, name)!r}")


def boolean(value: object, name: str) -> bool:
    """Return ``value``. Raises ValueError unless it is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name!r} is true or false, not {value!r}")
    return value
