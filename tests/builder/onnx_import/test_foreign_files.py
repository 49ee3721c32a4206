"""Files that are no detector, damaged, or after something else: what is said of each.

The guide has the same table for people; a test holds both together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from builder.onnx_import import postprocessing
from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.importing import Wanted, import_model
from builder.onnx_import.layouts import LAYOUTS
from serving.core.command_errors import CommandError
from tests.builder.onnx_import.detectors import (
    NAMES,
    SIDE,
    image_port,
    known_detector,
    model_of,
    random_detector,
)

GUIDE = Path(__file__).parents[3] / "docs/guides/own-detector.md"

Change = Callable[[Path], None]


@dataclass(frozen=True)
class Foreign:
    """A file that is refused."""

    what: str
    """What it is, as the guide calls it."""
    said: str
    """Part of what is said of it, without names and numbers: as in the guide."""
    write: Change
    options: dict[str, Any] = field(default_factory=dict)


def written(model: onnx.ModelProto) -> Change:
    return lambda path: onnx.save(model, path)


def of_bytes(data: bytes) -> Change:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def truncated(path: Path) -> None:
    data = random_detector().SerializeToString()
    path.write_bytes(data[: len(data) // 2])


def external(location: str, length: int | None = None) -> Change:
    def write(path: Path) -> None:
        model = random_detector()
        tensor = model.graph.initializer[0]
        facts = {"location": location, "offset": 0, "length": length or len(tensor.raw_data)}
        path.with_name("short.bin").write_bytes(b"\0" * 8)
        outside = path.parent.parent / "outside.bin"
        outside.write_bytes(tensor.raw_data)
        link = path.with_name("link.bin")
        link.unlink(missing_ok=True)
        link.symlink_to(outside)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in facts.items():
            tensor.external_data.add(key=key, value=str(value))
        onnx.save(model, path)

    return write


def with_operator(kind: str, domain: str = "") -> onnx.ModelProto:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(kind, ["output0"], ["more"], domain=domain))
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return random_detector(change=change)


def of_shapes(*shapes: tuple[Any, ...], image: onnx.ValueInfoProto | None = None) -> Any:
    """A model with constant outputs of these shapes, for one image."""
    nodes, weights, outputs = [], [], []
    for number, shape in enumerate(shapes):
        name = f"output{number}"
        weights.append(numpy_helper.from_array(np.full(shape, 0.5, np.float32), f"known{number}"))
        nodes += [
            helper.make_node("ReduceMean", ["image"], [f"mean{number}"], keepdims=0),
            helper.make_node("Add", [f"mean{number}", f"known{number}"], [name]),
        ]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model_of(nodes, weights, [image or image_port(1)], outputs)


def looping() -> onnx.ModelProto:
    inside = helper.make_graph(
        [helper.make_node("Identity", ["output0"], ["inner"])],
        "inside",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        model.graph.node.append(
            helper.make_node("If", ["yes"], ["more"], then_branch=inside, else_branch=inside)
        )

    return random_detector(change=change)


def of_opset(version: int) -> onnx.ModelProto:
    model = random_detector()
    model.opset_import[0].version = version
    return model


def without_outputs() -> onnx.ModelProto:
    model = random_detector()
    del model.graph.output[:]
    return model


ANY = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["a", "b", "c", "d"])
TEXT = helper.make_tensor_value_info("image", TensorProto.INT64, [1, 128])
GREY = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIDE, SIDE])

FOREIGN = (
    Foreign("Not ONNX", "is not ONNX", of_bytes(b"hello " * 99)),
    Foreign("Empty", "is not ONNX, or has no graph", of_bytes(b"")),
    Foreign("Truncated", "or not all of it", truncated),
    Foreign("Weights in a file that is missing", "it is not there", external("weights.bin")),
    Foreign(
        "Weights outside its folder", "is not in the folder of the file", external("../outside.bin")
    ),
    Foreign(
        "Weights at an absolute path", "is not in the folder of the file", external("/etc/hostname")
    ),
    Foreign(
        "Weights behind a link out of it", "is not in the folder of the file", external("link.bin")
    ),
    Foreign("Weights that are too short", "which has not so many there", external("short.bin")),
    Foreign("An operator set of the future", "are read", written(of_opset(99))),
    Foreign("An operator set of long ago", "are read", written(of_opset(5))),
    Foreign("An unknown operator", "is no operator of ONNX's set", written(with_operator("Swirl"))),
    Foreign(
        "An operator of one runtime alone",
        "not every runtime has it",
        written(with_operator("FusedConv", "com.microsoft")),
    ),
    Foreign("Branches and loops", "it branches or loops", written(looping())),
    Foreign("A classifier", "are those of no detector", written(of_shapes((1, 1000)))),
    Foreign(
        "A segmentation model",
        "are those of no detector",
        written(of_shapes((1, 4 + len(NAMES) + 32, 84), (1, 32, 16, 16))),
    ),
    Foreign("A model of text", "images are taken as", written(of_shapes((1, 7, 84), image=TEXT))),
    Foreign("Grey images", "an image is [B, 3, H, W]", written(of_shapes((1, 7, 84), image=GREY))),
    Foreign("Any size", "say which ones with --sizes", written(of_shapes((1, 7, 84), image=ANY))),
    Foreign("No outputs", "its graph has no outputs", written(without_outputs())),
    Foreign(
        "Another number of classes",
        "are those of no detector of 80/91/90 classes",
        written(random_detector()),
        {"classes": "coco"},
    ),
    Foreign(
        "No names of classes",
        "its metadata has no names of classes",
        written(random_detector()),
        {"classes": "metadata"},
    ),
)


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda foreign: foreign.what)
def test_a_foreign_file_is_refused_in_one_sentence(foreign, tmp_path, labels):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "detector.onnx"
    foreign.write(path)
    wanted = Wanted((path,), "mine", **{"classes": labels, **foreign.options})
    with pytest.raises(CommandError) as refused:
        import_model(wanted, tmp_path / "repo", lambda _: (), lambda *_: None)
    sentence = str(refused.value)
    assert sentence.startswith(f"{path}: ")
    assert foreign.said in sentence
    assert "\n" not in sentence
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda foreign: foreign.what)
def test_the_guide_says_so(foreign):
    (row,) = (
        line for line in GUIDE.read_text().splitlines() if line.startswith(f"| {foreign.what} |")
    )
    assert foreign.said in row


def test_what_can_be_mended_is_read(imported, find, tmp_path, labels):
    """Older operator sets, weights beside the file, and half precision are no reason to refuse."""
    expected = find(imported(random_detector()), [np.zeros((SIDE, SIDE, 3), np.uint8)])
    path = tmp_path / "beside.onnx"
    model = random_detector()
    model.opset_import[0].version = 13
    onnx.save(model, path, save_as_external_data=True, location="beside.bin", size_threshold=0)
    wanted = Wanted((path,), "mine", classes=labels)
    entry = import_model(wanted, tmp_path / "repo", lambda _: (), lambda *_: None)
    assert find(entry, [np.zeros((SIDE, SIDE, 3), np.uint8)]) == expected


def test_a_file_may_not_be_larger_than_the_bound(monkeypatch, imported):
    monkeypatch.setattr("builder.onnx_import.reading.MAX_BYTES", 1000)
    with pytest.raises(ForeignModelError, match="no more than 1000 are read"):
        imported(random_detector())


def test_tensors_may_not_be_larger_than_the_bound(monkeypatch, imported):
    monkeypatch.setattr("builder.onnx_import.sizing.MAX_ELEMENTS", 100)
    with pytest.raises(ForeignModelError, match="elements, more than 100"):
        imported(known_detector(LAYOUTS["yolov8"]))


def test_segments_that_find_something_else_are_not_written(monkeypatch, imported):
    real = postprocessing.add_detections

    def wrong(ops, outputs, layout, numbers, *rest):
        real(ops, outputs, layout.changed({"boxes": "yxyx"}), numbers, *rest)

    monkeypatch.setattr("builder.onnx_import.assembling.add_detections", wrong)
    with pytest.raises(ForeignModelError, match="do not find what the file finds"):
        imported(known_detector(LAYOUTS["boxes-scores"]))
    assert not imported.repository.exists()
