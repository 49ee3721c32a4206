"""Measurements of ``punctual gpu``.

Nothing here is particular to CUDA but the default device: on a CPU the same code runs through the
CPU's runners.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from builder.config.detector import DetectorConfig
from builder.config.named import CONFIGS
from builder.exporting.catalog import build_catalog
from builder.exporting.repository import write_entry
from builder.exporting.torch_programs import export_programs
from builder.gpu.report import GpuReport, ModelFigures, PathFigures, RuntimeFigures, with_rate
from builder.measuring.latency import WARM_UP_ROUNDS, compare_paths
from builder.modeling.architectures import AnyDetector, make_detector
from builder.modeling.cost import exit_costs
from builder.modeling.frozen import freeze
from builder.training.distributed import device_called
from reporting.machine import machine
from serving.artifacts.model_folders import ModelError, read_catalog, version_folder
from serving.artifacts.serving_tools import ServingTools
from serving.artifacts.torch_programs import FOLDER, RECORD, Programs
from serving.core.catalog import Catalog
from serving.core.command_errors import CommandError
from serving.core.family import Family
from serving.core.model_entry import ModelEntry
from serving.core.ports import SegmentRunner
from serving.core.quantiles import quantile

CEILING_SIDE = {"cuda": 8192, "cpu": 512}
"""Side of the square matrices by device: large enough to fill it."""
CEILING_ROUNDS = 20
HALF = {"cuda": torch.float16, "cpu": torch.bfloat16}
"""Half-precision type that convolutions are computed in, by device."""


class MeasureError(CommandError):
    """Error of something that cannot be measured here; the message is one sentence."""


@dataclass(frozen=True)
class _Model:
    """One model that is ready to be opened by a runner."""

    name: str
    weights: str
    config: DetectorConfig
    catalog: Catalog
    folder: Path
    detector: AnyDetector
    """Detector of the model, frozen."""


def measure(options: argparse.Namespace, tools: ServingTools) -> GpuReport:
    """Measure everything that ``options`` ask for; ``options.out`` is rewritten after every step.

    Raises MeasureError, and DeviceError.
    """
    device = device_called(options.device)
    report = GpuReport(machine(), _versions(), time.strftime("%Y-%m-%d", time.gmtime()))
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for model in _models(options, scratch):
            if options.depth and max(options.depth) > model.catalog.num_exits:
                raise MeasureError(
                    f"{model.name} has the exits 1 to {model.catalog.num_exits}, not "
                    f"{max(options.depth)}"
                )
            macs = [cost.macs for cost in exit_costs(model.config)]
            figures = ModelFigures(
                model.name,
                model.weights,
                round(matrix_ceiling(device, CEILING_ROUNDS), 4),
                {depth: round(count / 1e9, 2) for depth, count in enumerate(macs, start=1)},
            )
            report.models.append(figures)
            for measured in _runtimes(model, options, tools, device):
                measured.paths = [
                    with_rate(row, macs[row.depth - 1], figures.ceiling_tflops)
                    for row in measured.paths
                ]
                figures.runtimes.append(measured)
                report.write(options.out)
                print(f"{model.name}: {measured.runtime} {measured.skipped or 'measured'}")
    return report


def matrix_ceiling(device: torch.device, rounds: int) -> float:
    """Return the TFLOP/s of a large half-precision matrix product on random data.

    On zeros a GPU draws less power and clocks higher than any model lets it.
    """
    side, dtype = CEILING_SIDE[device.type], HALF[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = _timed(lambda: a @ b, device, rounds)
    return 2 * side**3 / quantile(seconds, 0.5) / 1e12


def _models(options: argparse.Namespace, scratch: Path) -> Iterator[_Model]:
    for name in options.model:
        from builder.exporting.onnx_weights import read_frozen  # random weights need no ONNX

        if name not in CONFIGS:
            raise MeasureError(f"there is no configuration {name!r} to build the model from")
        folder = version_folder(options.model_repository, name)
        try:
            catalog = read_catalog(folder)
            config = CONFIGS[name].detector
            detector = read_frozen(config, catalog, folder)
        except (ModelError, OSError, ValueError) as error:
            raise MeasureError(f"the model {name!r} cannot be used: {error}") from error
        if not _has_programs(folder, catalog):
            export_programs(detector, folder)
        yield _Model(name, "of the repository", config, catalog, folder, detector)
    for name in options.config:
        torch.manual_seed(0)
        config = CONFIGS[name].detector
        detector = freeze(make_detector(config).eval())
        catalog = build_catalog(config, {}, "random weights")
        folder = version_folder(scratch, name)
        folder.mkdir(parents=True)
        write_entry(ModelEntry((catalog,)), folder)
        export_programs(detector, folder)
        yield _Model(name, "random", config, catalog, folder, detector)


def _has_programs(folder: Path, catalog: Catalog) -> bool:
    """Return whether this library wrote programs of this catalogue's model.

    It need not read those of another version.
    """
    try:
        record = Programs.from_json(json.loads((folder / FOLDER / RECORD).read_bytes()))
    except (OSError, ValueError):
        return False
    return (record.torch, record.model) == (str(torch.__version__), catalog.digest)


def _runtimes(
    model: _Model, options: argparse.Namespace, tools: ServingTools, device: torch.device
) -> Iterator[RuntimeFigures]:
    def through_runner(name: str) -> RuntimeFigures:
        runner = tools.open_runner(name, model.folder, None)
        figures = RuntimeFigures(runner.runtime)
        for batch in options.batch:
            if batch <= runner.batch_sizes[-1]:
                figures.paths += measure_paths(runner, model.catalog, batch, options)
        _measure_accuracy(figures, runner, model, options, tools)
        runner.close()
        return figures

    def by_itself(kind: str) -> RuntimeFigures:
        depth = max(options.depth or [model.catalog.num_exits])
        rows = [measure_framework(model, kind, b, depth, device, options) for b in options.batch]
        return RuntimeFigures(f"torch {torch.__version__}, {kind}", paths=rows)

    works: list[tuple[str, Callable[[str], RuntimeFigures]]] = [
        *((name, through_runner) for name in options.runtime),
        *((kind, by_itself) for kind in options.framework),
    ]
    for name, work in works:
        try:
            yield work(name)
        except Exception as error:  # one that does not work here must not cost the others' figures
            if not isinstance(error, ImportError | CommandError):
                traceback.print_exc()
            yield RuntimeFigures(name, skipped=f"{type(error).__name__}: {error}")


def measure_paths(
    runner: SegmentRunner, catalog: Catalog, batch: int, options: argparse.Namespace
) -> list[PathFigures]:
    """Measure unit segments against fused exits at one batch size."""
    points = [(0, depth) for depth in options.depth or range(1, catalog.num_exits + 1)]
    rows = compare_paths(runner, _family(catalog), points, options.rounds, time.perf_counter, batch)
    return [
        PathFigures(
            batch,
            row.point[1],
            round(1e3 * row.fused_s, 4),
            round(1e3 * row.unit_s, 4),
            *(round(ratio, 4) for ratio in (row.ratio_p10, row.ratio_p50, row.ratio_p90)),
        )
        for row in rows
    ]


def _measure_accuracy(
    figures: RuntimeFigures,
    runner: SegmentRunner,
    model: _Model,
    options: argparse.Namespace,
    tools: ServingTools,
) -> None:
    data = options.data or Path("data") / options.dataset
    if not model.catalog.segments or not data.exists():
        figures.ap_skipped = "random weights" if data.exists() else f"there is no {data}"
        return
    try:
        from builder.data import read_dataset
        from builder.measuring.accuracy import accuracy_of, detect_all
    except ImportError as error:
        figures.ap_skipped = str(error)
        return
    dataset = read_dataset(options.dataset, data, options.split)
    answers = detect_all(runner, _family(model.catalog), dataset, tools.load_image)
    figures.ap = {
        depth: round(accuracy_of(answers, rows).average.ap, 4)
        for (_, depth), rows in answers.found.items()
    }


def _family(catalog: Catalog) -> Family:
    return Family((ModelEntry((catalog,)),))


def measure_framework(
    model: _Model,
    kind: str,
    batch: int,
    depth: int,
    device: torch.device,
    options: argparse.Namespace,
) -> PathFigures:
    """Measure the fused path of the frozen detector without a runner, in half precision.

    It is channels last and runs as it is (``eager``) or ``compiled`` (with CUDA graphs, as torch
    makes them itself).
    """
    detector = copy.deepcopy(model.detector)
    detector.to(device=device, dtype=HALF[device.type], memory_format=torch.channels_last)
    for name in ("anchors", "pixel_mean", "pixel_std"):  # float32 in every runtime
        setattr(detector, name, getattr(model.detector, name).to(device))
    images = torch.randint(0, 256, (batch, *model.config.input_size, 3), dtype=torch.uint8)
    images = images.to(device)

    def path(images: Tensor) -> tuple[Tensor, ...]:
        # Autocast only for the first convolution, which is given float32 pixels.
        with torch.autocast(device.type, HALF[device.type]):
            raw = detector(images, [depth])[depth]
        return detector.postprocess(raw)

    if kind == "compiled":
        path = torch.compile(path, mode="reduce-overhead", dynamic=False)

    def run() -> None:
        for output in path(images):
            output.cpu()

    with torch.inference_mode():
        seconds = _timed(run, device, options.rounds)
    return PathFigures(batch, depth, round(1e3 * quantile(seconds, 0.5), 4))


def _timed(work: Callable[[], object], device: torch.device, rounds: int) -> Sequence[float]:
    """Return the seconds of each of ``rounds`` runs, until the device is done."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    seconds = []
    for round_index in range(-WARM_UP_ROUNDS, rounds):
        wait()
        started_s = time.perf_counter()
        work()
        wait()
        if round_index >= 0:
            seconds.append(time.perf_counter() - started_s)
    return seconds


def _versions() -> dict[str, str]:
    """Return the versions of what computes."""
    found = {"python": sys.version.split()[0], "torch": str(torch.__version__)}
    if torch.version.cuda is not None:
        found["CUDA"] = torch.version.cuda
        found["cuDNN"] = str(torch.backends.cudnn.version())
    try:
        found["tensorrt"] = version("tensorrt")
    except PackageNotFoundError:
        found["tensorrt"] = "not installed"
    return found
