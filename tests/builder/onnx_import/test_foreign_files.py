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
from builder.onnx_import.importing import ImportOptions, import_model
from builder.onnx_import.layouts import LAYOUTS
from serving.core.command_errors import CommandError
from tests.builder.onnx_import.detectors import (
    NAMES,
    SIDE,
    branched,
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
    scalar = [helper.make_tensor_value_info("n", TensorProto.INT64, [])]
    yes = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
    inside = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["go_on_still"])],
        "inside",
        [*scalar, yes],
        [helper.make_tensor_value_info("go_on_still", TensorProto.BOOL, [])],
    )

    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Loop", ["", ""], [], body=inside))

    return random_detector(change=change)


def branching(opset: int) -> onnx.ModelProto:
    model = random_detector(change=branched)
    model.opset_import[0].version = opset
    return model


def of_opset(version: int) -> onnx.ModelProto:
    model = random_detector()
    model.opset_import[0].version = version
    return model


def without_outputs() -> onnx.ModelProto:
    model = random_detector()
    del model.graph.output[:]
    return model


def with_functions(*bodies: tuple[str, ...]) -> onnx.ModelProto:
    """A model of functions f0, f1, ..., each a chain of what is called so; the last is called."""
    opset = helper.make_opsetid("", 17)

    def change(model: onnx.ModelProto) -> None:
        for number, called in enumerate(bodies):
            tensors = ["x", *(f"t{place}" for place in range(len(called) - 1)), "y"]
            nodes = [
                helper.make_node(name, [given], [made], domain="own" if name[0] == "f" else "")
                for name, given, made in zip(called, tensors, tensors[1:], strict=False)
            ]
            opsets = [opset, helper.make_opsetid("own", 1)]
            model.functions.append(
                helper.make_function("own", f"f{number}", ["x"], ["y"], nodes, opsets)
            )
        model.opset_import.append(helper.make_opsetid("own", 1))
        last = f"f{len(bodies) - 1}"
        model.graph.node.append(helper.make_node(last, ["output0"], ["more"], domain="own"))

    return random_detector(change=change)


def with_weights_of(*dims: int) -> onnx.ModelProto:
    """A model with weights that say they are of this shape, and are not."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[:] = dims

    return random_detector(change=change)


def with_tensor_of(*dims: int) -> onnx.ModelProto:
    """A model that makes a tensor of this shape while it runs."""

    def change(model: onnx.ModelProto) -> None:
        shape = numpy_helper.from_array(np.array(dims), "how_large")
        model.graph.initializer.append(shape)
        model.graph.node.extend(
            [
                helper.make_node("ConstantOfShape", ["how_large"], ["large"]),
                helper.make_node("ReduceMax", ["large"], ["nothing"], keepdims=0),
                helper.make_node("Add", ["output0", "nothing"], ["more"]),
            ]
        )
        model.graph.output[0].name = "more"

    return random_detector(change=change)


def circular() -> onnx.ModelProto:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].input[0] = "output0"

    return random_detector(change=change)


def sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("values", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("places", TensorProto.INT64, [1], [0])
    tensor = helper.make_sparse_tensor(values, places, [8])
    model.graph.node.append(helper.make_node("Constant", [], ["few"], sparse_value=tensor))


def of_sequence() -> onnx.ModelProto:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("SequenceConstruct", ["output0"], ["several"]))
        model.graph.output.append(
            helper.make_tensor_sequence_value_info("several", TensorProto.FLOAT, [None] * 3)
        )

    return random_detector(change=change)


def of_outputs(count: int) -> onnx.ModelProto:
    def change(model: onnx.ModelProto) -> None:
        for number in range(count):
            model.graph.node.append(helper.make_node("Identity", ["output0"], [f"same_{number}"]))
            model.graph.output.append(
                helper.make_tensor_value_info(f"same_{number}", TensorProto.FLOAT, [None] * 3)
            )

    return random_detector(change=change)


def blind() -> onnx.ModelProto:
    """A model that gives the same whatever it sees."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 7, 84)), "same"))
        model.graph.node.append(helper.make_node("Identity", ["same"], ["given"]))
        model.graph.output[0].name = "given"
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE

    return random_detector(change=change)


def with_names(text: str) -> onnx.ModelProto:
    """A model with an output of this name, of no layout."""
    model = of_shapes((1, 1000))
    model.graph.node[-1].output[0] = text
    model.graph.output[0].name = text
    return model


def for_task(task: str) -> onnx.ModelProto:
    model = random_detector()
    helper.set_model_props(model, {"task": task})
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
    Foreign("Weights that are shorter than they say", "cannot be run", written(with_weights_of(9))),
    Foreign(
        "Weights that say they are huge", "is not valid", written(with_weights_of(2**40, 2**20))
    ),
    Foreign("Sparse weights", "sparse weights", written(random_detector(change=sparse))),
    Foreign("A graph that goes in a circle", "goes in a circle", written(circular())),
    Foreign(
        "A function that calls itself",
        "calls itself",
        written(with_functions(("Relu", "f1"), ("f0",))),
    ),
    Foreign(
        "Functions that grow a hundredfold each",
        "with those of its functions",
        written(with_functions(("Relu",) * 100, *((f"f{n}",) * 100 for n in range(9)))),
    ),
    Foreign("A tensor of a terabyte", "elements, more than", written(with_tensor_of(2**20, 2**20))),
    Foreign("A sequence of tensors", "not a tensor", written(of_sequence())),
    Foreign("A hundred outputs", "outputs; 1 to 64 are read", written(of_outputs(100))),
    Foreign("Outputs that never change", "none of its outputs depends on", written(blind())),
    Foreign("Several images at a time", "images at a time", written(random_detector(batch=4))),
    Foreign("Another task", "its metadata says that its task is", written(for_task("segment"))),
    Foreign(
        "Names that would move a cursor",
        "are those of no detector",
        written(with_names("\x1b[2J\n")),
    ),
    Foreign("Names as long as books", "are those of no detector", written(with_names("x" * 10**6))),
    Foreign("An operator set of the future", "are read", written(of_opset(99))),
    Foreign("An operator set of long ago", "are read", written(of_opset(5))),
    Foreign("An unknown operator", "is no operator of ONNX's set", written(with_operator("Swirl"))),
    Foreign(
        "An operator of one runtime alone",
        "not every runtime has it",
        written(with_operator("FusedConv", "com.microsoft")),
    ),
    Foreign("Loops", "it loops", written(looping())),
    Foreign(
        "Branches in an old operator set",
        "what is in branches cannot be raised",
        written(branching(13)),
    ),
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
        "are those of no detector of 91/90 classes",
        written(random_detector()),
        {"classes": "coco-ids"},
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
    wanted = ImportOptions((path,), "mine", **{"classes": labels, **foreign.options})
    with pytest.raises(CommandError) as refused:
        import_model(wanted, tmp_path / "repo", lambda _: (), lambda *_: None)
    sentence = str(refused.value)
    assert sentence.startswith(f"{path}: ")
    assert foreign.said in sentence
    assert sentence.isprintable()
    assert len(sentence) < 5000
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
    wanted = ImportOptions((path,), "mine", classes=labels)
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
