"""Records as JSON: a frozen dataclass to a plain dict and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Self


def _tuples(value: Any) -> Any:
    """Return ``value`` with its lists as tuples, all the way down: JSON has only lists."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


class JsonRecord:
    """Mix-in of a frozen record that converts it to a plain dict of JSON types and back."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict of JSON-serialisable values."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the record whose ``to_dict`` is ``data``.

        Raises ValueError for an unknown field, and for what is no mapping.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"{cls.__name__} is no mapping of fields")
        unknown = set(data) - {item.name for item in fields(cls)}  # type: ignore[arg-type]
        if unknown:
            raise ValueError(f"{cls.__name__} has no field {sorted(unknown)}")
        return cls(**{name: _tuples(value) for name, value in data.items()})
