"""A quicker precision is taken by itself where it was made, costs no accuracy and gains here."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.artifacts.int8_segments import Quantized
from serving.artifacts.model_folders import find_models
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.models.precision import settle_precision
from serving.models.repository import read_family
from serving.models.runtime_options import RuntimeOptions
from tests.serving.fakes import CATALOG, write_catalogs
from tests.serving.world import FakeClock, FakeRunner, cost_s


@pytest.mark.parametrize(("share", "precision"), [(0.5, "int8"), (1.1, None)])
def test_both_are_timed_in_turn(
    share: float, precision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, opened = FakeClock(), []
    openvino, onnxruntime = RuntimeOptions("openvino", 2), RuntimeOptions("onnxruntime", 2)

    def create(_: Path, catalog: Catalog, threads: int | None, **choice: Any) -> FakeRunner:
        factor = share if choice.get("precision") else 1.0
        opened.append((threads, catalog.size, choice["wanted"], choice.get("precision")))
        return FakeRunner(clock, cost=lambda segment, batch: factor * cost_s(segment, batch))

    module = SimpleNamespace(OpenVinoRunner=create)
    monkeypatch.setitem(sys.modules, "serving.runners.openvino.runner", module)  # type: ignore[arg-type]
    measured = CATALOG.with_figures(replace(CATALOG, precision="int8"))
    folders = find_models(write_catalogs(tmp_path, measured), ())
    assert settle_precision(folders, openvino, clock) == (openvino, None), "nothing was quantised"
    quantized = folders[0] / "int8"
    quantized.mkdir()
    record = Quantized(read_family(folders).entries[0].digest, 1, "test")
    (quantized / "quantized.json").write_text(json.dumps(asdict(record)))
    assert settle_precision(folders, onnxruntime, clock) == (onnxruntime, None), "it runs no int8"
    assert settle_precision(folders, replace(openvino, precision="f32"), clock) == (
        replace(openvino, precision="f32"),
        None,
    ), "it was asked for"
    assert opened == [], "nothing was to be timed"
    settled, reason = settle_precision(folders, openvino, clock)
    assert settled == replace(openvino, precision=precision)
    assert reason is not None
    assert f"{share:.2f} of the time here" in reason
    wanted = {segments.fused_exit(3)}
    assert opened == [(2, "128x96", wanted, "int8"), (2, "128x96", wanted, None)]
    family = read_family(folders, settled.precision, reason)
    assert family.precision_reason == reason
