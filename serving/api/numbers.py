"""Numbers and booleans as clients may write them: plain ASCII decimals and nothing else.

``float()`` and ``int()`` take "nan", "inf", "1_0", " 5" and digits of every script; a budget or a
threshold must not.
"""

from __future__ import annotations

import json
import re

_DECIMAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,20})?")  # 0.1 + 0.2 prints seventeen places
_INTEGER = re.compile(r"[0-9]{1,15}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

LARGEST = 10**15 - 1
"""Largest number that may be written."""
SMALLEST = 1e-4
"""Smallest positive number for which programs need no exponent, which must not be written."""


def decimal(text: str) -> float | None:
    """Return ``12`` or ``12.5`` as a float, None for anything else."""
    return float(text) if _DECIMAL.fullmatch(text) else None


def integer(text: str) -> int | None:
    """Return ``12`` as an int, None for anything else."""
    return int(text) if _INTEGER.fullmatch(text) else None


def boolean(text: str) -> bool | None:
    """Return ``true`` or ``1`` as True, ``false`` or ``0`` as False, None for anything else.

    They may be in capitals as well, which Python writes.
    """
    return _BOOLEANS.get(text.lower())


def shown(given: object) -> str:
    """Return what a client has stated as it may appear in a sentence: quoted, and short.

    It is text, or what JSON holds. Lists and objects are not written out: they may be nested deeper
    than that is possible.
    """
    if isinstance(given, str):
        text = given
    elif given is None or isinstance(given, (int, float)):
        text = json.dumps(given)
    else:
        return "a list or an object"
    return repr(text if len(text) <= 40 else text[:40] + "...")
