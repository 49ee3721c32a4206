"""The one number of suppression that every head has, whatever its graph was made with.

``builder.modeling.postprocess`` explains the iteration.
"""

from __future__ import annotations

SUPPRESSION_ITERATIONS = 12
"""Number of iterations of suppression.

Chains this long are suppressed exactly as greedy suppression does.
"""
