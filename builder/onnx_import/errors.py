"""What is said of an ONNX file that cannot be served."""

import re

from serving.core.command_errors import CommandError

MAX_LENGTH = 8_000
"""Most characters of a message."""
_LONG_WORD = re.compile(r"(\S{100})\S{900,}")
"""What no path is and a name in a file may be."""


def printable(text: str) -> str:
    """Return a text with names of a file in it as it may go to a terminal, on one line."""
    kept = "".join(c if c.isprintable() else "?" for c in text[: 2**22])
    return _LONG_WORD.sub(r"\1...", kept)[:MAX_LENGTH]


class ForeignModelError(CommandError):
    """A file is no detector that can be imported.

    The message is one sentence that says why, with names and shapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
