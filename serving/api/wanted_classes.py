"""The classes that a client wants boxes of, as ``classes=person,traffic light,7`` states them.

Each is a name, whatever its case, or a number as replies have it in ``class_id``. A name that is
written as the model writes it comes before one that differs in case, and a name before a number.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.api.numbers import integer, shown
from serving.core.errors import InvalidParameter

CLASSES = "classes"
"""Name of the parameter."""
MAX_LENGTH = 4096
"""Most characters of its value."""
MAX_UNKNOWN_SHOWN = 5
"""Most unknown classes that an error names."""


def parse_classes(given: object, names: Sequence[str]) -> frozenset[int]:
    """Return the positions in ``names`` of the classes that ``given`` states, at least one.

    ``given`` is text, or the number of one class. Raises InvalidParameter, which says which classes
    there are not, or what else is wrong.
    """
    # type(), since a bool is an int to isinstance().
    text = str(given) if type(given) is int else given
    if not isinstance(text, str):
        raise InvalidParameter(
            f"{CLASSES} must be names or numbers of classes, with commas between them; it is "
            f"{shown(given)}."
        )
    if len(text) > MAX_LENGTH:
        raise InvalidParameter(
            f"{CLASSES} has {len(text)} characters; at most {MAX_LENGTH} are read."
        )
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise InvalidParameter(
            f"{CLASSES} must be names or numbers of classes, with commas between them and none "
            f"left out; it is {shown(text)}."
        )
    alike: dict[str, set[int]] = {}
    for label, name in enumerate(names):
        alike.setdefault(name.casefold(), set()).add(label)
    found: set[int] = set()
    unknown = []
    for item in dict.fromkeys(items):
        labels = alike.get(item.casefold(), set())
        exact = {label for label in labels if names[label] == item}
        number = integer(item)
        if labels:
            found |= exact or labels
        elif number is not None and number < len(names):
            found.add(number)
        else:
            unknown.append(item)
    if unknown:
        listed = ", ".join(map(shown, unknown[:MAX_UNKNOWN_SHOWN]))
        more = len(unknown) - MAX_UNKNOWN_SHOWN
        listed += f" and {more} more" if more > 0 else ""
        raise InvalidParameter(
            f"There is no class {listed}; GET /v1/models lists all {len(names)}, such as "
            f"{names[0]!r}, number 0."
        )
    return frozenset(found)
