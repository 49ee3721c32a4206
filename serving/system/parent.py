"""The end of a process that must not outlive the one which started it.

A server that crashes cannot end it, and the executor or engine in it would go on for ever.
"""

from __future__ import annotations

import os
import threading
import time

CHECK_EVERY_S = 1.0
"""Seconds between two looks at whether the parent is there."""


def end_with_parent() -> None:
    """End this process, at once, when the one that started it has gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(CHECK_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
