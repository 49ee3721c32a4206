"""Text files of a Triton model repository, as a pure function of the catalogue.

    <model>_anytime/          the executor, hosted by Triton's Python backend
    <model>_d1 .. <model>_dN/ the fused exit of one depth: a plan on Triton's own TensorRT backend;
                              on a CPU, the Python backend. Of several input sizes each has its own,
                              <model>_300x300_d1 and so on
      config.pbtxt            for a GPU
      configs/cpu.pbtxt       the same name, inputs and outputs on a CPU
      1/model.py              what the Python backend loads

Triton takes the second configuration when it is started with ``--model-config-name=cpu``.

No model has a queue policy. Any limit, timeout or priority in ``dynamic_batching`` switches
Triton's prefetching off and stalls bursts for up to 500 ms; deadlines are the executor's business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from serving.artifacts import tensorrt_plans as plans
from serving.artifacts.model_folders import MODEL_SUFFIX, VERSION, depth_model
from serving.core.catalog import Catalog
from serving.core.model_entry import ModelEntry

CONFIG = "config.pbtxt"
CPU_CONFIG = "configs/cpu.pbtxt"
MODEL = f"{VERSION}/model.py"
PLAN = f"{VERSION}/model.plan"
"""Path of a plan, which is compiled for one GPU.

So it is written by the build that has one and kept out of version control.
"""

GPU_RUNTIME = "tensorrt"
MAX_BATCH_CPU = 4
"""Largest batch of the CPU runners."""

PROFILES = tuple(map(str, range(len(plans.PROFILES))))
"""Names of a plan's optimisation profiles, all of them.

Triton gives each an execution context and picks the one that takes the batch. Profile 0 is what it
uses by default, and that takes no batch above 1.
"""
GRAPHS = tuple(pairwise((0, *plans.BATCH_SIZES)))
"""Batch sizes of the CUDA graphs: each runs batches above its first number and up to its second.

A batch is padded to the second. So does the TensorRT runner, and what was measured there holds
here. Triton tries to capture each in every context and logs an error where the profile does not
take it; nothing comes of that.
"""

Message = Mapping[str, Any]
"""One protobuf message: field -> text, number, boolean, ``Name``, message, or a list of those."""
LINE = 100


class Name(str):
    """Name of an enumerated value, which the text format writes without quotes."""

    __slots__ = ()


def repository_files(entry: ModelEntry, cpu_runtime: str) -> dict[str, str]:
    """Return every text file of the repository: path below it -> contents.

    ``cpu_runtime`` is what the CPU variants run segments on.
    """
    anytime = f"{entry.name}{MODEL_SUFFIX}"
    files = {
        f"{anytime}/{CONFIG}": _text(_anytime(entry, "KIND_GPU", GPU_RUNTIME)),
        f"{anytime}/{CPU_CONFIG}": _text(_anytime(entry, "KIND_CPU", cpu_runtime)),
        f"{anytime}/{MODEL}": _adapter("The executor of one model.", "anytime"),
    }
    points = ((catalog, each.depth) for catalog in entry.catalogs for each in catalog.exits)
    for catalog, depth in points:
        model = depth_model(catalog, depth)
        files[f"{model}/{CONFIG}"] = _text(_depth_gpu(catalog, depth))
        files[f"{model}/{CPU_CONFIG}"] = _text(_depth_cpu(catalog, depth, cpu_runtime))
        files[f"{model}/{MODEL}"] = _adapter("One exit of a model, on a CPU.", "depth")
    return files


def _adapter(docstring: str, module: str) -> str:
    return (
        f'"""{docstring} Written by ``punctual build``."""\n\n'
        f"from serving.triton_backend.{module} import TritonPythonModel\n\n"
        '__all__ = ["TritonPythonModel"]\n'
    )


# -- configurations ------------------------------------------------------------------------------


def _anytime(entry: ModelEntry, kind: str, runtime: str) -> Message:
    """Return the executor's configuration, without batching by Triton.

    The executor forms batches itself, at every boundary. It takes images at the largest size.
    """
    return {
        "name": f"{entry.name}{MODEL_SUFFIX}",
        "backend": "python",
        "max_batch_size": 0,
        "input": [
            # Optional, since some requests ask for the executor's status instead.
            {**_tensor("image", "TYPE_UINT8", *_image(entry.catalogs[-1])), "optional": True},
        ],
        "output": [
            _tensor("boxes", "TYPE_FP32", -1, 4),
            _tensor("scores", "TYPE_FP32", -1),
            _tensor("labels", "TYPE_INT32", -1),
            _tensor("exit_depth", "TYPE_INT32", 1),
            _tensor("operating_point", "TYPE_INT32", -1),
            _tensor("times_us", "TYPE_INT64", -1),
            _tensor("status", "TYPE_INT64", -1),
        ],
        "model_transaction_policy": {"decoupled": True},
        "instance_group": [_one_instance(kind)],
        "parameters": [_resize(entry.catalogs[-1]), _parameter("runtime", runtime)],
    }


def _depth_gpu(catalog: Catalog, depth: int) -> Message:
    return {
        "name": depth_model(catalog, depth),
        "platform": "tensorrt_plan",
        "default_model_filename": PLAN.removeprefix(f"{VERSION}/"),
        "max_batch_size": plans.BATCH_SIZES[-1],
        **_detection(catalog),
        "dynamic_batching": {},
        "instance_group": [{**_one_instance("KIND_GPU"), "profile": PROFILES}],
        "optimization": {
            "cuda": {
                "graphs": True,
                "graph_spec": [_graph(catalog, *sizes) for sizes in GRAPHS],
            }
        },
        "parameters": [_resize(catalog)],
    }


def _depth_cpu(catalog: Catalog, depth: int, runtime: str) -> Message:
    size = [_parameter("size", catalog.size)] if catalog.one_of_several else []
    return {
        "name": depth_model(catalog, depth),
        "backend": "python",
        "max_batch_size": min(MAX_BATCH_CPU, catalog.max_batch or MAX_BATCH_CPU),
        **_detection(catalog),
        "dynamic_batching": {},
        "instance_group": [_one_instance("KIND_CPU")],
        "parameters": [
            _parameter("depth", str(depth)),
            _resize(catalog),
            *size,
            _parameter("runtime", runtime),
        ],
    }


def _detection(catalog: Catalog) -> Message:
    """Return the inputs and outputs of a fused exit; a batch comes first."""
    rows = catalog.max_detections
    return {
        "input": [_tensor("images", "TYPE_UINT8", *_image(catalog))],
        "output": [
            _tensor("boxes", "TYPE_FP32", rows, 4),
            _tensor("scores", "TYPE_FP32", rows),
            _tensor("labels", "TYPE_INT32", rows),
            # A number for each image. Triton wants at least one dimension besides the batch.
            {**_tensor("counts", "TYPE_INT32", 1), "reshape": {"shape": []}},
        ],
    }


def _image(catalog: Catalog) -> tuple[int, int, int]:
    return catalog.input_height, catalog.input_width, 3


def _tensor(name: str, data_type: str, *dims: int) -> Message:
    return {"name": name, "data_type": Name(data_type), "dims": dims}


def _one_instance(kind: str) -> Message:
    """Return the instance group of the only instance there is to be.

    One executor owns one device and runs one segment at a time. A group that names no GPU would
    have an instance on each.
    """
    gpus = {"gpus": [0]} if kind == "KIND_GPU" else {}
    return {"kind": Name(kind), "count": 1, **gpus}


def _resize(catalog: Catalog) -> Message:
    """Return the parameter by which clients learn how an image becomes the input."""
    return _parameter("resize", catalog.resize)


def _parameter(key: str, value: str) -> Message:
    return {"key": key, "value": {"string_value": value}}


def _graph(catalog: Catalog, above: int, batch: int) -> Message:
    images = {"key": "images", "value": {"dim": _image(catalog)}}
    bound = {"graph_lower_bound": {"batch_size": above + 1, "input": [images]}}
    return {"batch_size": batch, "input": [images], **(bound if above + 1 < batch else {})}


# -- protobuf's text format ----------------------------------------------------------------------


def _text(message: Message) -> str:
    return "# Written by punctual build.\n" + "".join(f"{line}\n" for line in _lines(message, ""))


def _lines(message: Message, indent: str) -> Iterator[str]:
    """Yield the lines of ``field: value`` or ``field { ... }``, on one line where that fits."""
    for name, value in message.items():
        repeated = isinstance(value, list) and value and isinstance(value[0], Mapping)
        for item in value if repeated else [value]:
            if not isinstance(item, Mapping):
                yield f"{indent}{name}: {_scalar(item)}"
                continue
            line = f"{indent}{name} {' '.join(('{', *_lines(item, ''), '}'))}"
            if len(line) <= LINE:
                yield line
            else:
                yield f"{indent}{name} {{"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}"


def _scalar(value: Any) -> str:
    if isinstance(value, Name):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_scalar, value))}]"
    return json.dumps(value)  # true, 7 and "text" are written as in JSON
