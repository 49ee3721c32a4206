"""What the configuration of a model in Triton says: what ``triton_config`` of the builder wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping

from serving.models.runtime_options import RuntimeOptions


def parameters(model_config: str) -> Mapping[str, str]:
    """Return the ``parameters`` of a model's configuration."""
    entries = json.loads(model_config)["parameters"]
    return {name: value["string_value"] for name, value in entries.items()}


def runtime_options(parameters: Mapping[str, str]) -> RuntimeOptions:
    """Return how the model is run, by the parameters of its configuration."""
    threads = parameters.get("num_threads")
    return RuntimeOptions(parameters["runtime"], int(threads) if threads else None)
