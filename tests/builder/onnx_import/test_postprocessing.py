"""Suppression in standard operators against that of all heads, which is written in torch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from builder.exporting.contract import DETECTIONS
from builder.modeling.postprocess import PostprocessFacts, decode_and_suppress
from builder.onnx_import.classes import ClassNumbers
from builder.onnx_import.graphs import Operators
from builder.onnx_import.layouts import LAYOUTS
from builder.onnx_import.postprocessing import Selection, add_detections
from tests.builder.onnx_import.detectors import model_of

SIZE = (96, 128)
ROWS = 200


@pytest.mark.parametrize("opset", [17, 18])
def test_it_is_that_of_heads(opset):
    random = np.random.default_rng(0)
    centres = random.uniform(10, 90, (2, 12, 2)).repeat(ROWS // 10, axis=1)[:, :ROWS]
    centres = (centres + random.normal(0, 3, centres.shape)).astype(np.float32)
    sides = random.uniform(5, 40, (2, ROWS, 2)).astype(np.float32)
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=-1)
    logits = random.normal(-1, 2, (2, ROWS, 3)).astype(np.float32)

    chosen = Selection(0.2, 0.3, 150, 140)
    ops = Operators("test", opset)
    layout = LAYOUTS["boxes-scores"].changed({"activation": "sigmoid"})
    numbers = ClassNumbers(("a", "b", "c"))
    add_detections(ops, ("boxes_in", "logits"), layout, numbers, SIZE, ROWS, chosen)
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", ROWS, width])
        for name, width in (("boxes_in", 4), ("logits", 3))
    ]
    results = [helper.make_empty_tensor_value_info(name) for name in DETECTIONS]
    model = model_of(ops.nodes, list(ops.initializers.values()), ports, results, opset)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = session.run(list(DETECTIONS), {"boxes_in": boxes, "logits": logits})

    facts = PostprocessFacts(SIZE, 0.2, 0.3, 150, 140)
    for image in range(2):
        anchors = torch.from_numpy(boxes[image])
        expected = decode_and_suppress(
            torch.from_numpy(logits[image : image + 1]), torch.zeros(1, ROWS, 4), anchors, facts
        )
        count = int(expected[3][0])
        assert 10 < count < 140, "some are suppressed"
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine[image], theirs[0].numpy(), rtol=1e-4, atol=1e-4)
