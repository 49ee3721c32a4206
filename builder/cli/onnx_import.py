"""``punctual import-onnx``: a detector that others exported. Light to import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.options import (
    add_command,
    add_repository,
    add_threads,
    command_line,
    files_of_glob,
    input_sizes,
)
from builder.cli.smoke_run import run_every_segment
from builder.config.detector import MODEL_NAME
from serving.core.command_errors import (
    CommandError,
    files_of_the_user,
    stoppable,
)
from serving.core.command_numbers import at_least, share

if TYPE_CHECKING:
    from builder.onnx_import.checking import Image
    from builder.onnx_import.importing import ImportOptions
    from serving.artifacts.serving_tools import ServingTools
    from serving.core.letterbox import ModelInput
    from serving.core.model_entry import ModelEntry

AUTO = "auto"
LAYOUTS = (
    "boxes-scores",
    "detr",
    "detr-softmax",
    "rf-detr",
    "rtdetr-rows",
    "rtdetr-scores",
    "yolov8",
    "yolov5",
    "yolox",
    "yolox-decoded",
    "end-to-end",
    "boxes-labels-scores",
    "torchvision",
    "tensorflow",
    "paddle",
)
"""As in ``builder.onnx_import.layouts``, which --help need not import; a test compares them."""
CHANGES = {
    "boxes": ("xyxy", "yxyx", "xywh", "cxcywh"),
    "units": ("pixels", "shares"),
    "activation": ("none", "sigmoid", "softmax"),
}
"""Fields of a layout that an option replaces, and what they can be."""
RESIZES = ("letterbox", "letterbox-centre", "stretch")
"""As in ``serving.core.letterbox``."""
PIXELS = ("resize", "color", "scale", "mean", "std")
"""Fields of a layout's preprocessing that an option replaces."""
SELECTION = ("score_threshold", "iou_threshold", "max_candidates", "max_detections")

RUNTIME = "openvino"
"""What the segments are tried out on before they are written, and what serves them."""
MAX_IMAGES = 16
"""Most images that segments are checked on; others are left out."""


def add_parser(commands: Any, tools: ServingTools) -> None:
    """Add ``import-onnx`` to the subparsers ``commands``."""
    parser = add_command(
        commands,
        "import-onnx",
        "Write a model repository of a detector in ONNX files.",
        "What the outputs mean is a layout, which is recognised where that is possible. Pixels "
        "before the network and suppression behind it become part of the graph. Before anything is "
        "written, the result is checked on images against the files, with boxes decoded in plain "
        "numpy. Needs no torch.",
    )
    parser.add_argument("files", type=Path, nargs="+", help="an ONNX file, or one for each size")
    parser.add_argument("--name", required=True, help="what to call the model")
    parser.add_argument(
        "--layout", choices=(AUTO, *LAYOUTS), default=AUTO, help="what the outputs are"
    )
    parser.add_argument(
        "--classes",
        default="metadata",
        metavar="FILE|coco|coco-ids|metadata",
        help="names of classes: a file with one a line, a line - for a number that no class has; "
        "COCO's, in their order or by their ids; or those that the file names itself",
    )
    parser.add_argument(
        "--sizes",
        type=input_sizes,
        default=(),
        metavar="SIZE,...",
        help="input sizes, as 320 or 640x512, width first, of a file for images of any size",
    )
    parser.add_argument(
        "--exits",
        type=_exits,
        default=(),
        metavar="TENSOR[+TENSOR...],...",
        help="tensors that each exit ends in, the first exit first [one exit, with all outputs]",
    )
    add_repository(parser)
    parser.add_argument(
        "--images", metavar="GLOB", help="image files to check on [images are made up]"
    )
    parser.add_argument("--license", default="unknown", help="of the weights, for the catalogue")
    parser.add_argument("--origin", default="", help="of the weights, for the catalogue [the file]")
    add_threads(parser)
    layout = parser.add_argument_group("what the layout says, unless it is said here")
    for field, choices in CHANGES.items():
        layout.add_argument(f"--{field}", choices=choices)
    layout.add_argument("--resize", choices=RESIZES, help="how an image becomes an input")
    layout.add_argument("--color", choices=("rgb", "bgr"), help="order of the channels")
    layout.add_argument("--scale", type=_number, help="factor of pixels from 0 to 255")
    layout.add_argument("--mean", type=_three, help="to be subtracted then, as .5 or .4,.5,.6")
    layout.add_argument("--std", type=_three, help="to be divided by then")
    boxes = parser.add_argument_group("which boxes are answers")
    boxes.add_argument("--score-threshold", type=share, default=0.05)
    boxes.add_argument("--iou-threshold", type=share, default=0.55)
    boxes.add_argument("--max-candidates", type=at_least(1), default=256)
    boxes.add_argument("--max-detections", type=at_least(1), default=100)
    parser.set_defaults(run=lambda options: _import(options, tools))


def _exits(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(names.split("+")) for names in text.split(","))


def _number(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    try:
        value = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not 0 < abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number other than 0, such as 1/255")
    return value


def _three(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(abs(value) < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not one number or three")
    return values * (3 // len(values))


@files_of_the_user()
def _import(options: argparse.Namespace, tools: ServingTools) -> None:
    # What is not installed is to be missed before the work, not after it.
    from builder.exporting.repository import write_texts
    from builder.onnx_import.importing import import_model
    from serving.artifacts.model_folders import version_folder

    if not MODEL_NAME.holds(options.name):
        raise CommandError(f"a model's name has {MODEL_NAME.what}: it is not {options.name!r}")
    if len(options.files) > 1 and options.sizes:
        raise CommandError("--sizes: only of a single file, for images of any size")
    if options.images and not files_of_glob(options.images):
        raise CommandError(f"no file is called {options.images}")
    with stoppable("the same command imports it from the start"):
        entry = import_model(
            _wanted(options),
            options.model_repository,
            lambda model_input: _images(options, model_input, tools),
            lambda folder, entry: _try_out(folder, entry, options, tools),
        )
    num_texts = write_texts(options.model_repository, entry, RUNTIME)
    print(f"wrote {num_texts} configurations and adapters for Triton")
    folder = version_folder(options.model_repository, entry.name)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"wrote {folder} ({size / 1e6:.1f} MB); next: punctual evaluate, punctual profile")


def _wanted(options: argparse.Namespace) -> ImportOptions:
    from builder.onnx_import.importing import ImportOptions
    from builder.onnx_import.postprocessing import Selection

    def given(names: Any) -> dict[str, Any]:
        return {name: x for name in names if (x := getattr(options, name)) is not None}

    return ImportOptions(
        files=tuple(options.files),
        name=options.name,
        layout=options.layout,
        classes=options.classes,
        sizes=options.sizes,
        exits=options.exits,
        changes=given(CHANGES),
        preprocessing=given(PIXELS),
        selection=Selection(**given(SELECTION)),
        license=options.license,
        origin=options.origin,
        command=command_line(),
    )


def _images(
    options: argparse.Namespace, model_input: ModelInput, tools: ServingTools
) -> list[Image]:
    from builder.measuring.images import read_image

    paths = files_of_glob(options.images)[:MAX_IMAGES] if options.images else []
    return [read_image(path, model_input, tools.load_image)[0] for path in paths]


def _try_out(
    folder: Path, entry: ModelEntry, options: argparse.Namespace, tools: ServingTools
) -> None:
    """Run all segments once as they will be served. Raises CommandError where that cannot be."""
    for catalog in entry.catalogs:
        try:
            runner = tools.open_runner(RUNTIME, folder, options.threads, size=catalog.size)
        except (RuntimeError, ValueError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise CommandError(
                f"{RUNTIME} cannot run it at {catalog.size}: {first_line}"
            ) from error
        where = f" at {catalog.size}" if catalog.one_of_several else ""
        print(f"  {run_every_segment(runner, catalog, where)}")
