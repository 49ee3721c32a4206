"""What is said of an ONNX file that cannot be served."""

from __future__ import annotations

from serving.core.command_errors import CommandError


class ForeignModelError(CommandError):
    """A file is no detector that can be imported; the message is one sentence that says why, with
    names and shapes."""
