"""How many examples a property test tries.

Two profiles of Hypothesis, registered in ``tests/conftest.py``, say how many one tries that asks
for no number: ``quick``, which is the default, and ``full`` (``--hypothesis-profile=full``).
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

FULL = settings(
    max_examples=100,
    deadline=None,  # a machine that is busy is no error
    suppress_health_check=[HealthCheck.too_slow],
)
QUICK = settings(FULL, max_examples=10)


def examples(full: int) -> settings:
    """A property test that tries ``full`` examples under the profile ``full`` tries the same share
    of them under another as tests without a number do."""
    share = settings().max_examples / FULL.max_examples
    return settings(max_examples=max(1, round(full * share)))
