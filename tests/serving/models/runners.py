"""Runtimes whose runners tell what they were made with."""

from __future__ import annotations

from typing import Any


class OtherRunners:
    """A module with a runner that reads none of the files that the catalogue describes."""

    @staticmethod
    def TorchRunner(*arguments: Any, **named: Any) -> tuple[Any, ...]:  # noqa: N802
        return (*arguments, *named.values())


def unused(*_: Any) -> Any:
    """Models of one input size need no other."""
    raise AssertionError("resized")


class Runners:
    """A module whose runner is the arguments it was made with."""

    @staticmethod
    def OpenVinoRunner(*arguments: Any, **named: Any) -> tuple[Any, ...]:  # noqa: N802
        return (*arguments, *named.values())
