"""Reading of foreign state dicts, and translation of one into another by a key map."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from builder.modeling.checkpoint import load_tensors
from serving.core.command_errors import InvalidArgument

StateDict = Mapping[str, Tensor]

WRAPPERS = ("state_dict", "model", "model_state")
"""Entries of a training checkpoint that may hold the weights."""

DATA_PARALLEL = "module."
"""Prefix that torch's data-parallel wrappers put before every key."""

COUNTER = "num_batches_tracked"
"""Last part of the key of a normalisation's counter of batches.

Files older than torch 0.4.1 lack it, and inference does not read it.
"""


class WeightsError(InvalidArgument):
    """Error of a file that does not hold the weights asked for.

    The message names the first key that differs.
    """


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights in a torch file, and whatever lies beside them in it.

    Nothing in the file is executed. Raises WeightsError and OSError.
    """
    try:
        data = load_tensors(path)
    except ValueError as error:
        raise WeightsError(
            f"{error}; if it is a training checkpoint with more in it, save its weights by "
            "themselves"
        ) from error
    beside: dict[str, Any] = {}
    for wrapper in WRAPPERS:
        if isinstance(data, dict) and isinstance(data.get(wrapper), dict):
            beside = {key: value for key, value in data.items() if key != wrapper}
            data = data[wrapper]
            break
    if not isinstance(data, dict) or not data:
        raise WeightsError("no state dict")
    for key, value in data.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"no state dict: {key!r} is a {type(value).__name__}")
        if value.layout is not torch.strided or value.device.type != "cpu":
            raise WeightsError(f"{key!r} is no dense tensor with values")
    if all(key.startswith(DATA_PARALLEL) for key in data):
        data = {key.removeprefix(DATA_PARALLEL): value for key, value in data.items()}
    return data, beside


@dataclass(frozen=True, slots=True)
class Source:
    """One target key's source: where its weights come from in a foreign file."""

    keys: tuple[str, ...]
    """Keys of the foreign file; the first counts, the others must be copies of it."""
    convert: Callable[[Tensor], Tensor] | None = None
    """Function that puts the values into the target's order; the shape stays."""
    optional: bool = False
    """Whether the file may lack the key, which leaves zeros: a bias that it did not have."""


def translate(
    state: StateDict, sources: Mapping[str, Source], target: StateDict, ignored: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Return the weights of ``target`` (which gives keys and shapes) from ``state``.

    ``sources`` has an entry for every key of ``target``. Every key of ``state`` must be used or
    begin with one of the prefixes ``ignored``. Raises WeightsError.
    """
    result: dict[str, Tensor] = {}
    used: set[str] = set()
    for key, wanted in target.items():
        source = sources[key]
        present = [name for name in source.keys if name in state]
        if not present and (source.optional or key.endswith(COUNTER)):
            result[key] = torch.zeros_like(wanted, device="cpu")
            continue
        for name in source.keys:
            _check(state, name, wanted)
        for name in source.keys[1:]:
            if not torch.equal(state[name], state[source.keys[0]]):
                raise WeightsError(
                    f"{name!r} differs from {source.keys[0]!r}, which it should be a copy of"
                )
        used.update(source.keys)
        value = state[source.keys[0]]
        result[key] = value if source.convert is None else source.convert(value)
    prefixes = tuple(ignored)
    for name, value in state.items():
        if name not in used and not name.startswith(prefixes):
            raise WeightsError(f"nothing here corresponds to {name!r} {tuple(value.shape)}")
    return result


def _check(state: StateDict, name: str, wanted: Tensor) -> None:
    if name not in state:
        raise WeightsError(f"{name!r} {tuple(wanted.shape)} is missing")
    if state[name].shape != wanted.shape:
        raise WeightsError(
            f"{name!r} has shape {tuple(state[name].shape)}, expected {tuple(wanted.shape)}"
        )
    if wanted.is_floating_point():
        if not state[name].is_floating_point():
            raise WeightsError(f"{name!r} is of type {state[name].dtype}, expected real numbers")
        if not state[name].isfinite().all():
            raise WeightsError(f"{name!r} has values that are not finite")


def count_children(state: Collection[str], prefix: str) -> int:
    """Return how many of ``prefix`` + 0, 1, ... have keys, without a gap from 0."""
    heads = {key.removeprefix(prefix).partition(".")[0] for key in state if key.startswith(prefix)}
    count = 0
    while str(count) in heads:
        count += 1
    return count
