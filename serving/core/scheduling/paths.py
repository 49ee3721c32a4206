"""Paths through a model's segments: from the image to each exit."""

from __future__ import annotations

from collections.abc import Collection

from serving.core import segment as segments
from serving.core.segment import Segment


class Paths:
    """The paths from the image to each exit that a runner's segments of one model make.

    ``units``: whether unit segments are among them; ``fused``: the exits of fused segments.
    """

    def __init__(self, available: Collection[Segment], num_exits: int, model: int = 0) -> None:
        """Find the paths through model number ``model`` in ``available``.

        Raises ValueError unless ``available`` has every unit segment or every fused one.
        """
        unit = {segment.of(model) for segment in segments.unit_segments(num_exits)}
        fused = {segment.of(model) for segment in segments.fused_segments(num_exits)}
        no_unit, no_fused = unit - set(available), fused - set(available)
        if no_unit and no_fused:
            lacking = (", ".join(sorted(segments.names(kind))) for kind in (no_unit, no_fused))
            raise ValueError(
                f"the runner lacks {' and '.join(lacking)}: it needs every unit segment or every "
                "fused one"
            )
        self.model = model
        self.num_exits = num_exits
        self.units = not no_unit
        self.fused = frozenset(segment.stop for segment in fused if segment in available)
        # Segments by depth, made once: naming a segment takes longer than looking its time up.
        depths = range(num_exits + 1)
        self.stem = segments.STEM.of(model)
        self.stacks = tuple(segments.stack(depth).of(model) for depth in depths)
        self.heads = tuple(segments.head(depth).of(model) for depth in depths)
        self.exits = tuple(segments.fused_exit(depth).of(model) for depth in depths)

    def to(self, depth: int, *, streams: bool = False) -> tuple[tuple[Segment, ...], ...]:
        """Return each path from the image to the boxes of exit ``depth``.

        The one through unit segments comes first, then the fused one. With ``streams``, only the
        path that leaves features to go on with.
        """
        unit_path = (self.stem, *self.stacks[1 : depth + 1], self.heads[depth])
        unit = (unit_path,) if self.units else ()
        fused = ((self.exits[depth],),) if depth in self.fused else ()
        return unit if streams else unit + fused


def paths_of(available: Collection[Segment]) -> tuple[Paths, ...]:
    """Return the paths through each model that ``available`` has segments of, in model order.

    Raises ValueError as ``Paths`` does.
    """
    exits: dict[int, int] = {} if available else {0: 1}
    for segment in available:
        exits[segment.model] = max(exits.get(segment.model, 1), segment.stop)
    return tuple(Paths(available, exits[model], model) for model in sorted(exits))
