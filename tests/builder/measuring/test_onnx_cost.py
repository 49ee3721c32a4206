"""Cost counted on exported segments against cost counted on the detector."""

from __future__ import annotations

from pathlib import Path

from builder.measuring.onnx_cost import exit_macs, segment_macs
from builder.modeling import cost
from serving.core import segment as segments
from tests.exported import exported_detector


def test_segments_cost_what_the_detector_costs(tmp_path: Path) -> None:
    exported = exported_detector(tmp_path, num_stacks=2, neck_channels=8, head_channels=8)
    counted = exit_macs(exported.catalog, tmp_path)
    assert counted == tuple(exit.macs for exit in cost.exit_costs(exported.frozen.config))
    stack = segment_macs(tmp_path / f"{segments.stack(2).name}.onnx")
    assert counted[1] - counted[0] == stack > 0
