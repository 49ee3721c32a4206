"""What commands say of their progress, on standard error."""

from __future__ import annotations

import sys
import time


def say(text: str) -> None:
    """Write a line."""
    print(text, file=sys.stderr, flush=True)


def say_with_time(text: str) -> None:
    """Write a line that begins with the time of day."""
    say(f"{time.strftime('%H:%M:%S')} {text}")
