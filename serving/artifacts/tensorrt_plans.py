"""TensorRT plans: what is known of them beside their bytes, ``tensorrt/plans.json``.

The file lies next to the catalogue. A plan runs on the GPU and with the TensorRT version that
compiled it, and computes what the segments with the model's digest compute; a runner refuses it
anywhere else. So a store, from which machines of several kinds take theirs, has a whole model
repository for each such triple:

    STORE/NVIDIA-H200-sm90-trt10.13.3.9-3f2a8c01d4e5/<model>_anytime/1/tensorrt/plans.json
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.artifacts.cuda import Gpu
from serving.core.command_errors import CommandError
from serving.core.model_entry import ModelEntry

FORMAT = 1
"""Version of the manifest's form; others are refused."""
FOLDER = "tensorrt"
"""Folder of the plans, beside the catalogue."""
MANIFEST = "plans.json"
"""Name of the list of plans, in ``FOLDER``."""
DIGEST_DIGITS = 12
"""Number of digits of a model's digest in the name of a repository in a store; all are compared on
loading."""

BATCH_SIZES = (1, 4, 8)
"""Batch sizes that batches are padded to, so that a segment has a CUDA graph for each. Eight rows
of the default model's features are 20 MB; larger batches mostly add waiting."""

PROFILES = ((1, 1, 1), (2, 4, 8))
"""Optimisation profiles of every plan: smallest, tuned-for and largest batch. One profile for all
sizes would give batch 1 kernels that were chosen for 4."""


def profile_of(batch_size: int) -> int:
    """Return the index of the profile that takes a batch of this size.

    Raises ValueError if none does.
    """
    for index, (smallest, _, largest) in enumerate(PROFILES):
        if smallest <= batch_size <= largest:
            return index
    raise ValueError(f"no optimisation profile takes a batch of {batch_size}")


class PlansError(CommandError, ValueError):
    """An error for plans that cannot be used here; the message is one sentence."""


@dataclass(frozen=True)
class Plan:
    """One compiled segment."""

    file: str
    """Name of the plan's file, relative to the manifest's folder."""
    sha256: str
    inputs: tuple[str, ...]
    """Names of the inputs, in the order in which segments hand tensors on."""
    outputs: tuple[str, ...]
    """Names of the outputs, in the same order."""
    layers: int | None
    """Number of layers; None: not known."""
    reformats: int | None
    """Number of layers that do nothing but change a tensor's layout or type; None: not known."""


@dataclass(frozen=True)
class Plans:
    """The plans of all segments of a model, and what they were compiled for."""

    tensorrt: str
    """Version of TensorRT, such as ``10.13.3.9``."""
    gpu: Gpu
    model_digest: str
    """``Catalog.digest`` of the segments that were compiled."""
    precision: str
    """Precision of convolutions: ``fp16`` or ``int8``."""
    level: int
    """Optimisation level of TensorRT's builder."""
    profiles: tuple[tuple[int, int, int], ...]
    """Optimisation profiles, as ``PROFILES`` has them."""
    date: str
    plans: Mapping[str, Plan]
    """Plans by segment name."""

    def check(self, tensorrt: str, gpu: Gpu, model_digest: str) -> None:
        """Raise PlansError unless the plans were made for exactly these.

        The error says what was expected and what was found.
        """
        facts = (
            ("TensorRT", self.tensorrt, tensorrt),
            ("GPU", str(self.gpu), str(gpu)),
            ("model digest", self.model_digest, model_digest),
        )
        if any(made_for != here for _, made_for, here in facts) or self.profiles != PROFILES:
            described = "; ".join(f"{name}: {was}, here {now}" for name, was, now in facts)
            raise PlansError(
                f"the TensorRT plans were compiled for something else ({described}; profiles: "
                f"{self.profiles}, here {PROFILES}): build them again on this machine"
            )

    def plan(self, segment: str) -> Plan:
        """Return the plan of the segment called so. Raises PlansError if there is none."""
        if segment not in self.plans:
            raise PlansError(f"there is no TensorRT plan of {segment}: build them again")
        return self.plans[segment]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plans:
        """Parse what ``to_json`` writes. Raises PlansError naming what is wrong."""
        if not isinstance(data, Mapping):
            raise PlansError("the list of plans is no JSON object")
        if data.get("format") != FORMAT:
            raise PlansError(f"plans in format {data.get('format')!r}, this version reads {FORMAT}")
        try:
            return cls(
                tensorrt=data["tensorrt"],
                gpu=Gpu(**data["gpu"]),
                model_digest=data["model_digest"],
                precision=data["precision"],
                level=data["level"],
                profiles=tuple((low, best, high) for low, best, high in data["profiles"]),
                date=data["date"],
                plans={
                    name: Plan(
                        entry["file"],
                        entry["sha256"],
                        tuple(entry["inputs"]),
                        tuple(entry["outputs"]),
                        entry["layers"],
                        entry["reformats"],
                    )
                    for name, entry in data["plans"].items()
                },
            )
        except KeyError as error:
            raise PlansError(f"the list of plans lacks {error.args[0]!r}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise PlansError(f"the list of plans has a malformed entry: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return the list of plans in a JSON-serialisable form."""
        return {"format": FORMAT, **asdict(self)}


def read_plans(folder: Path, manifest: str = MANIFEST) -> Plans:
    """Return the list of plans called ``manifest`` beside the catalogue in ``folder``.

    Of one input size of several its name carries the size. Raises PlansError.
    """
    path = folder / FOLDER / manifest
    try:
        return Plans.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        raise PlansError(f"there are no TensorRT plans: {path} is missing") from None
    except PlansError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise PlansError(f"{path} cannot be used: {error}") from error


def read_plan(folder: Path, plan: Plan) -> bytes:
    """Return the bytes of ``plan``, from the folder of its manifest.

    Raises PlansError if they are not those that were built.
    """
    try:
        data = (folder / plan.file).read_bytes()
    except OSError as error:
        raise PlansError(f"{folder / plan.file} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != plan.sha256:
        raise PlansError(f"{folder / plan.file} is not the plan that was built")
    return data


def store_key(tensorrt: str, gpu: Gpu, model_digest: str) -> str:
    """Return the name that the repository with the plans for these has in a store."""
    product = re.sub(r"[^A-Za-z0-9]+", "-", gpu.name).strip("-")
    capability = gpu.compute_capability.replace(".", "")
    return f"{product}-sm{capability}-trt{tensorrt}-{model_digest[:DIGEST_DIGITS]}"


def check_stored(
    repository: Path, folder: str, tensorrt: str, gpu: Gpu, entry: ModelEntry
) -> tuple[Plans, ...]:
    """Return the plans of each input size of ``entry`` in ``repository``, whose ``folder`` has it.

    They are for exactly these, and every one as it was built; else it raises PlansError.
    """
    store = repository.parent
    if not repository.is_dir():
        others = sorted(path.name for path in store.glob("[!.]*") if path.is_dir())
        raise PlansError(
            f"{store} has no TensorRT plans for {gpu}, TensorRT {tensorrt} and model digest "
            f"{entry.digest[:DIGEST_DIGITS]} (no {repository.name}; there is "
            f"{', '.join(others) or 'nothing'}): they must be built on such a GPU"
        )
    of_sizes = []
    for catalog in entry.catalogs:
        plans = read_plans(repository / folder, catalog.file_name(MANIFEST))
        plans.check(tensorrt, gpu, catalog.digest)
        for plan in plans.plans.values():
            read_plan(repository / folder / FOLDER, plan)
        of_sizes.append(plans)
    return tuple(of_sizes)
