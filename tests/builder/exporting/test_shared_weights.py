"""Weights that several models have in one file: equal ones once, and every runtime finds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from builder.exporting.shared_weights import ALIGNMENT, MIN_BYTES, share_weights

NUM_VALUES = 301
"""Of a tensor that is moved, and whose bytes are no multiple of the alignment."""


def write_model(path: Path, **tensors: np.ndarray) -> Path:
    """The sum of its input and all of ``tensors``."""
    nodes = [
        helper.make_node("Add", [f"sum_{index}" if index else "x", name], [f"sum_{index + 1}"])
        for index, name in enumerate(tensors)
    ]
    last = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [NUM_VALUES])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [NUM_VALUES])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def models(tmp_path: Path) -> tuple[list[Path], Path, dict[str, np.ndarray]]:
    """Two models that have one tensor in common, under different names; the other one is small."""
    random = np.random.default_rng(0)
    a, b, c = (random.normal(size=NUM_VALUES).astype(np.float32) for _ in range(3))
    one = np.ones(1, np.float32)
    paths = [
        write_model(tmp_path / "first.onnx", a=a, common=b, one=one),
        write_model(tmp_path / "second.onnx", same=b.copy(), c=c),
    ]
    weights = tmp_path / "weights.bin"
    share_weights(paths, weights)
    return paths, weights, {"first.onnx": a + b + one, "second.onnx": b + c}


def test_equal_tensors_are_there_once(
    models: tuple[list[Path], Path, dict[str, np.ndarray]],
) -> None:
    paths, weights, _ = models
    size = NUM_VALUES * 4
    assert size >= MIN_BYTES
    assert 3 * size <= weights.stat().st_size < 3 * size + 3 * ALIGNMENT
    assert max(path.stat().st_size for path in paths) < size
    for path in paths:
        onnx.checker.check_model(path, full_check=True)


def test_runtimes_find_them_beside_the_model(
    models: tuple[list[Path], Path, dict[str, np.ndarray]],
) -> None:
    paths, _, expected = models
    x = np.arange(NUM_VALUES, dtype=np.float32)
    core = openvino.Core()
    for path in paths:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"x": x})
        np.testing.assert_allclose(found, x + expected[path.name], rtol=1e-6)
        compiled = core.compile_model(
            core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        np.testing.assert_allclose(compiled([x])[0], x + expected[path.name], rtol=1e-6)


def test_the_same_models_give_the_same_files(tmp_path: Path) -> None:
    """Digests of files are what plans and quantised segments are matched by."""
    array = np.arange(NUM_VALUES, dtype=np.float32)
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        path = write_model(tmp_path / name / "model.onnx", a=array)
        share_weights([path], tmp_path / name / "weights.bin")
        contents.append((path.read_bytes(), (tmp_path / name / "weights.bin").read_bytes()))
    assert contents[0] == contents[1]
