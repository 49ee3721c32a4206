"""Import of whole files: batches, sizes, pixels and exits."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from builder.onnx_import.checking import expect, open_session, run_session, synthetic_images
from builder.onnx_import.comparing import Expected, compare
from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.layouts import LAYOUTS
from builder.onnx_import.postprocessing import Selection
from serving.artifacts.model_folders import read_entry
from serving.core import segment as segments
from tests.builder.onnx_import.detectors import (
    NAMES,
    NUM_ROWS,
    SIDE,
    THINGS,
    branched,
    decoder_detector,
    first_image,
    known_detector,
    model_of,
    random_detector,
    unbatched,
)

IMAGES = synthetic_images((SIDE, SIDE))
EXITS = tuple((f"logits_{number}", f"boxes_{number}") for number in (1, 2, 3))
LOW = Selection(score_threshold=0.01)


def without_order(found):
    """Boxes of images at exits as they are told apart: a detector may score two alike."""
    return [[sorted((a, round(s, 3)) for a, s, _ in rows) for rows in each] for each in found]


def assert_alike(found, others):
    """The same boxes, whatever comes first of what scores alike."""
    expected = [[Expected(rows, rows) for rows in each] for each in others]
    checked = compare(found, expected, (SIDE, SIDE))
    assert (checked.num_unmatched, checked.num_undecided) == (0, 0)


def test_random_weights_find_alike_in_a_batch_and_alone(imported, find):
    entry = imported(random_detector(), selection=LOW)
    together, alone = (find(entry, IMAGES, at_once) for at_once in (3, 1))
    assert all(rows for (images,) in [together] for rows in images)
    assert_alike(together, alone)


def test_a_graph_for_one_image_takes_several_where_it_only_reshapes(imported, find):
    for_any = find(imported(random_detector(), selection=LOW), IMAGES)
    for_one = imported(random_detector(batch=1, rows_of_batch=1), selection=LOW)
    assert for_one.catalogs[0].max_batch is None
    assert find(for_one, IMAGES) == for_any


def test_a_graph_that_takes_the_first_image_takes_several(imported, find):
    for_any = find(imported(random_detector(), selection=LOW), IMAGES)
    for_one = imported(random_detector(batch=1, change=first_image), selection=LOW)
    assert for_one.catalogs[0].max_batch is None
    assert_alike(find(for_one, IMAGES), for_any)


def test_a_graph_that_turns_the_first_image_is_run_on_one_at_a_time(imported, find, capsys):
    for_any = find(imported(random_detector(), selection=LOW), IMAGES)
    entry = imported(random_detector(batch=1, change=unbatched), selection=LOW)
    assert "it is run on one image at a time" in capsys.readouterr().out
    assert entry.catalogs[0].max_batch == 1
    assert read_entry(imported.folder) == entry
    assert find(entry, IMAGES, at_once=1) == for_any


def test_a_graph_that_branches_takes_the_branch_of_each_image(imported, find):
    plain = imported(random_detector(), selection=LOW)
    images = [*IMAGES, IMAGES[0] // 4]
    (whole,) = find(plain, images)
    entry = imported(random_detector(change=branched), selection=LOW)
    assert entry.catalogs[0].max_batch == 1, "one condition is for all images"
    (found,) = find(entry, images, 1)
    shares = [mine[0][1] / theirs[0][1] for mine, theirs in zip(found, whole, strict=True)]
    light = [image.mean() > 255 / 2 for image in images]
    assert shares == pytest.approx([1.0 if each else 0.5 for each in light], rel=1e-3)
    assert len(set(light)) == 2


def test_rows_that_vary_are_padded(imported, find):
    """As of detectors that suppress in their graph: no axis of images, a row for each box."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[0, 1], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "zero"], ["means"]),  # (1, SIDE)
        helper.make_node("NonZero", ["means"], ["found"]),  # (2, columns that are not black)
        helper.make_node("Shape", ["found"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["count"]),
        helper.make_node("Concat", ["count", "four"], ["of_boxes"], axis=0),
        helper.make_node("Expand", ["box", "of_boxes"], ["boxes"]),
        helper.make_node("Expand", ["score", "count"], ["scores"]),
        helper.make_node("Expand", ["label", "count"], ["labels"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([0]), "zero"),
        numpy_helper.from_array(np.array([1]), "one"),
        numpy_helper.from_array(np.array([4]), "four"),
        numpy_helper.from_array(np.array([[1, 2, 30, 40]], np.float32), "box"),
        numpy_helper.from_array(np.array([0.5], np.float32), "score"),
        numpy_helper.from_array(np.array([1]), "label"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [3, SIDE, SIDE])
    outputs = [
        helper.make_tensor_value_info(name, kind, ["k", *rest])
        for name, kind, rest in (
            ("boxes", TensorProto.FLOAT, [4]),
            ("labels", TensorProto.INT64, []),
            ("scores", TensorProto.FLOAT, []),
        )
    ]
    entry = imported(model_of(nodes, weights, [image], outputs))
    assert entry.catalogs[0].max_batch == 1
    images = [np.zeros((SIDE, SIDE, 3), np.uint8) for _ in range(3)]
    images[1][:, :5], images[2][:, :2] = 255, 255
    (found,) = find(entry, images, at_once=1)
    assert [len(rows) for rows in found] == [0, 5, 2]
    assert found[1][0] == (0, 0.5, (1.0, 2.0, 30.0, 40.0))


def test_what_scores_little_is_compared_whatever_it_scores(imported, capsys):
    faint = [replace(thing, score=thing.score / 100) for thing in THINGS]
    entry = imported(known_detector(LAYOUTS["yolov8"], faint))
    assert entry.catalogs[0].score_threshold == 0.05
    counted = re.search(r"on 3 images, (\d+) boxes", capsys.readouterr().out)
    assert counted is not None
    assert int(counted[1]) > 3 * len(THINGS)


def test_what_finds_nothing_is_not_checked_and_not_written(imported):
    nothing = [replace(thing, score=-1.0) for thing in THINGS]
    layout = LAYOUTS["end-to-end"]
    model = known_detector(layout, nothing)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("known_"):
            rows = numpy_helper.to_array(tensor).copy()
            rows[..., 4] = 0.0
            tensor.CopyFrom(numpy_helper.from_array(rows, tensor.name))
    with pytest.raises(ForeignModelError, match="it finds nothing in the images"):
        imported(model, layout=layout.name)
    assert not imported.repository.exists()


# -- sizes ----------------------------------------------------------------------------------------


def test_a_file_for_any_size_has_several_that_share_weights(imported, find):
    entry = imported(random_detector(side="side"), sizes=((64, 64), (32, 64)), selection=LOW)
    assert entry.sizes == ("64x32", "64x64")
    weights = entry.catalogs[0].weights
    assert weights is not None
    assert (imported.folder / weights.file).is_file()
    for catalog in entry.catalogs:
        images = synthetic_images((catalog.input_height, catalog.input_width))
        found = find(entry, images, size=catalog.size)
        assert all(found[0])


def test_each_size_may_have_a_file_of_its_own(imported, find):
    models = [random_detector(side=side) for side in (96, 64)]
    entry = imported(*models, selection=LOW)
    assert entry.sizes == ("64x64", "96x96")
    alone = imported(random_detector(), selection=LOW)
    assert alone.sizes == ("64x64",)
    assert find(alone, IMAGES)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (random_detector(side="side"), {}, "say which ones with --sizes"),
        (random_detector(), {"sizes": ((32, 32),)}, "was exported for 64x64 alone"),
        (random_detector(side="side"), {"sizes": ((9000, 64),)}, "no side is above 4096"),
        (random_detector(side="side"), {"sizes": ((64, 64),) * 2}, "64x64 is given twice"),
    ],
    ids=["none", "another", "large", "twice"],
)
def test_sizes_that_cannot_be(model, options, said, imported):
    with pytest.raises(ForeignModelError, match=said):
        imported(model, **options)
    assert not imported.repository.exists()


# -- pixels ---------------------------------------------------------------------------------------


def pixel_reader(kind=TensorProto.FLOAT, dims=("n", 3, SIDE, SIDE)) -> onnx.ModelProto:
    """A detector whose three scores are the means of the channels as it gets them, over 1000."""
    last = dims[-1] == 3
    axes = [1, 2] if last else [2, 3]
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=axes, keepdims=0),
        helper.make_node("Mul", ["means", "small"], ["shares"]),
        helper.make_node("Unsqueeze", ["shares", "one"], ["row"]),  # (n, 1, 3)
        helper.make_node("Expand", ["row", "rows"], ["scores"]),
        helper.make_node("Mul", ["scores", "nothing"], ["zeros"]),
        helper.make_node("Slice", ["zeros", "zero", "one", "two"], ["column"]),
        helper.make_node("Add", ["column", "box"], ["boxes"]),
    ]
    weights = [
        numpy_helper.from_array(np.array(0.001, np.float32), "small"),
        numpy_helper.from_array(np.array(0, np.float32), "nothing"),
        numpy_helper.from_array(np.array([0]), "zero"),
        numpy_helper.from_array(np.array([1]), "one"),
        numpy_helper.from_array(np.array([2]), "two"),
        numpy_helper.from_array(np.array([1, 5, 1]), "rows"),
        numpy_helper.from_array(np.array([[[3, 4, 30, 40]]], np.float32), "box"),
    ]
    image = helper.make_tensor_value_info("image", kind, list(dims))
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 5, columns])
        for name, columns in (("boxes", 4), ("scores", 3))
    ]
    return model_of(nodes, weights, [image], outputs)


LAST = ("n", SIDE, SIDE, 3)
COLOUR = (200, 100, 50)


@pytest.mark.parametrize(
    ("model", "preprocessing", "seen"),
    [
        (pixel_reader(), {}, COLOUR),
        (pixel_reader(), {"color": "bgr"}, COLOUR[::-1]),
        (
            pixel_reader(),
            {"scale": 2.0, "mean": (10.0, 20.0, 30.0), "std": (1.0, 2.0, 0.5)},
            (390, 90, 140),
        ),
        (
            pixel_reader(),
            {"color": "bgr", "mean": (0.0, 0.0, 100.0)},
            (50, 100, 100),
        ),
        (pixel_reader(dims=LAST), {"scale": 0.5}, (100, 50, 25)),
        (pixel_reader(TensorProto.UINT8, LAST), {}, COLOUR),
        (pixel_reader(TensorProto.UINT8), {"color": "bgr"}, COLOUR[::-1]),
        (pixel_reader(TensorProto.FLOAT16), {"scale": 0.5}, (100, 50, 25)),
    ],
    ids=["plain", "bgr", "normalised", "bgr-mean", "last", "uint8", "uint8-first", "half"],
)
def test_pixels_arrive_as_the_network_wants_them(model, preprocessing, seen, imported, find):
    entry = imported(model, layout="boxes-scores", preprocessing=preprocessing)
    image = np.full((SIDE, SIDE, 3), COLOUR, np.uint8)
    ((rows,),) = find(entry, [image])
    scores = {label: score for label, score, _ in rows}
    expected = {n: value / 1000 for n, value in enumerate(seen) if value / 1000 > 0.05}
    assert scores == pytest.approx(expected, abs=2e-4)


def test_whole_numbers_cannot_be_scaled(imported):
    with pytest.raises(ForeignModelError, match="without --scale"):
        imported(
            pixel_reader(TensorProto.UINT8), layout="boxes-scores", preprocessing={"scale": 0.5}
        )


# -- exits ----------------------------------------------------------------------------------------


def test_a_graph_that_is_cut_finds_what_the_whole_finds(imported, find):
    """Three exits: a stem, a stack that computes, and heads of different size."""
    model = decoder_detector()
    entry = imported(model, exits=EXITS, layout="detr", selection=LOW)
    (catalog,) = entry.catalogs
    assert catalog.num_exits == 3
    assert set(catalog.segments) == {s.name for s in segments.unit_segments(3)}
    together = find(entry, IMAGES)
    session = open_session(model)
    for number, names in enumerate(EXITS):
        from builder.onnx_import.classes import ClassNumbers
        from builder.onnx_import.recognising import Reading

        layout = LAYOUTS["detr"]
        reading = Reading(layout, ClassNumbers(NAMES), names, 12)
        for image, mine in zip(IMAGES, together[number], strict=True):
            pixels = (image / 255).astype(np.float32).transpose(2, 0, 1)[None]
            every = run_session(session, {"image": pixels})
            outputs = dict(zip([port.name for port in session.get_outputs()], every, strict=True))
            whole = expect(outputs, reading, (SIDE, SIDE), LOW)
            assert whole.rows
            assert compare([[mine]], [[whole]], (SIDE, SIDE)).num_unmatched == 0
    first, last = together[0][0], together[2][0]
    assert without_order([[first]]) != without_order([[last]]), "exits differ"


def test_each_part_has_the_nodes_that_it_needs(imported):
    imported(decoder_detector(), exits=EXITS, layout="detr")
    kinds = {}
    for name in ("stem", "stack_1", "stack_2", "stack_3", "head_1", "head_3"):
        graph = onnx.load(imported.folder / f"{name}.onnx").graph
        theirs = [node for node in graph.node if any(x.startswith("net/") for x in node.output)]
        computing = [node.op_type for node in theirs if node.op_type not in ("Identity", "Cast")]
        kinds[name] = [computing.count("Conv"), computing.count("Softmax")]
    assert kinds == {
        "stem": [1, 1],  # with the first layer, which is on the way to every exit
        "stack_1": [0, 0],
        "stack_2": [0, 1],
        "stack_3": [0, 0],
        "head_1": [0, 0],
        "head_3": [0, 1],  # the last layer, which nobody else needs
    }


@pytest.mark.parametrize(
    ("exits", "said"),
    [
        ((("logits_1", "nothing"),), "no tensor 'nothing'"),
        ((("asked", "boxes_1"),), "no tensor 'asked'"),
        ((("logits_1",),), "are those of no detector of 3 classes"),
    ],
)
def test_exits_that_cannot_be(exits, said, imported):
    with pytest.raises(ForeignModelError, match=said):
        imported(decoder_detector(), exits=exits, layout="detr")


def test_one_exit_may_be_any_tensors(imported, find):
    entry = imported(decoder_detector(), exits=EXITS[1:2], layout="detr", selection=LOW)
    every = imported(decoder_detector(), exits=EXITS, layout="detr", selection=LOW)
    every_found = find(every, IMAGES)
    entry = imported(decoder_detector(), exits=EXITS[1:2], layout="detr", selection=LOW)
    assert_alike(find(entry, IMAGES), every_found[1:2])


# -- the catalogue --------------------------------------------------------------------------------


def test_the_catalogue_says_where_it_comes_from(imported):
    layout = LAYOUTS["yolov8"]
    entry = imported(known_detector(layout), license="MIT", command="punctual import-onnx x")
    (catalog,) = read_entry(imported.folder).catalogs
    assert (catalog.license, catalog.command) == ("MIT", "punctual import-onnx x")
    assert catalog.origin.startswith("detector_0.onnx, SHA-256 ")
    assert catalog.max_detections == min(100, NUM_ROWS * len(NAMES))
    again = imported(known_detector(layout), origin="https://example.com")
    assert again.catalogs[0].origin == "https://example.com"
    assert again.digest == entry.digest
