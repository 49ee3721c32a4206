"""Whether one version of a model can take the place of another while clients send requests.

Whoever has sent a request has chosen depths and classes, and its image has been brought to an
input, for the version that was there then. Another may answer it only if all of these mean the
same to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.core.family import Family

_SHARED: dict[str, Callable[[Family], Any]] = {
    "name": lambda family: family.name,
    "classes": lambda family: family.classes,
    "way to make an input of an image": lambda family: family.input.resize,
    "input sizes": lambda family: family.ladder.sizes,
    "numbers of exits": lambda family: tuple(each.num_exits for each in family.catalogs),
    "smallest score": lambda family: family.score_threshold,
}
"""What must be the same, as it is called in sentences, and where it is found."""


def find_obstacle(old: Family, new: Family) -> str | None:
    """Return why ``new`` cannot take the place of ``old``, as a sentence; None if it can."""
    for what, of in _SHARED.items():
        if of(old) != of(new):
            return (
                f"{new.name} {new.release} cannot take the place of {old.release} while clients "
                f"send requests, for its {what} {'are' if what.endswith('s') else 'is'} another: "
                f"{_shown(of(old))}; {_shown(of(new))}. Start a server with it instead"
            )
    return None


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
