"""Catalogue of a detector as it was exported."""

from __future__ import annotations

from collections.abc import Mapping

from builder.config.detector import DetectorConfig
from serving.core.catalog import Catalog, Exit, SegmentFile

TITLES = {"retinanet": "RetinaNet", "ssdlite": "SSDLite"}
"""Names of architectures for people: architecture -> title in a catalogue's description."""


def build_catalog(
    config: DetectorConfig,
    files: Mapping[str, SegmentFile],
    command: str,
    weights: SegmentFile | None = None,
) -> Catalog:
    """Return a catalogue of what the export knows; accuracy and latency are measured later.

    ``weights`` is the file that the segments share with those of other input sizes.
    """
    return Catalog(
        name=config.name,
        version="1",
        description=_description(config),
        license=config.license,
        flavour=config.flavour,
        classes=config.classes,
        input_height=config.input_size[0],
        input_width=config.input_size[1],
        resize=config.resize,
        max_detections=config.max_detections,
        score_threshold=config.score_threshold,
        exits=tuple(Exit(depth, 0.0, 0.0, {}) for depth in range(1, config.num_exits + 1)),
        evaluation=None,
        segments=files,
        profiles={},
        command=command,
        weights=weights,
    )


def _description(config: DetectorConfig) -> str:
    title = f"{TITLES[config.architecture]} on {config.backbone} (width {config.backbone_width})"
    if not config.num_stacks:
        return title
    exits = "an exit after each"
    if config.stacks_per_exit > 1:
        exits = f"an exit after every {config.stacks_per_exit} of them"
    if config.plain_exit:
        exits += " and one before them"
    return (
        f"{title}, {config.num_stacks} stacks of {config.neck} with {config.neck_channels} "
        f"channels ({config.conv}), {exits}"
    )
