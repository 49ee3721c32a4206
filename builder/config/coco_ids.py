"""COCO's ids of its classes, which leave some numbers out."""

from __future__ import annotations

ID_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Numbers among COCO's ids 1 to 90 that no class has."""
