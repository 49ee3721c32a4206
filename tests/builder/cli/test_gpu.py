"""The GPU measurements: their arithmetic, their table, and all of it once on a CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from builder.cli import gpu
from builder.config.configuration import Config
from builder.config.named import CONFIGS
from builder.exporting.onnx_weights import read_frozen
from builder.exporting.repository import write_entry
from builder.gpu.report import (
    COLUMNS,
    GpuReport,
    ModelFigures,
    PathFigures,
    RuntimeFigures,
    markdown,
    with_rate,
)
from serving.artifacts.model_folders import version_folder
from serving.core.model_entry import ModelEntry
from serving.imaging.decoding import load_image
from serving.runners.torch.runner import TorchRunner
from tests.commands import run_command
from tests.exported import exported_detector

MODEL = "tiny"


class Tools:
    """``ServingTools`` that opens torch on the CPU; ``tensorrt`` is not installed."""

    def open_runner(self, runtime, folder, num_threads):
        if runtime != "torch":
            raise ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt")
        from serving.artifacts.model_folders import read_catalog

        return TorchRunner(folder, read_catalog(folder), num_threads, "cpu", "f32")

    load_image = staticmethod(load_image)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with one exported model, which has a configuration."""
    root = tmp_path_factory.mktemp("repository")
    folder = version_folder(root, MODEL)
    exported = exported_detector(folder)
    write_entry(ModelEntry((exported.catalog,)), folder)
    config = replace(exported.frozen.config, name=MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, MODEL, Config(config))
        yield root, exported


def run(repository, out, *arguments, tools: Any = None):
    tools = tools or Tools()
    where = ("--model-repository", repository[0], "--out", out)
    return run_command(lambda commands: gpu.add_parser(commands, tools), "gpu", *where, *arguments)


def test_rates_count_two_operations_a_multiply_accumulate():
    row = with_rate(PathFigures(4, 1, fused_ms=2.0), macs=10**9, ceiling_tflops=16.0)
    assert row.tflops == pytest.approx(4.0)
    assert row.ceiling_share == pytest.approx(0.25)
    assert (row.batch, row.depth, row.fused_ms) == (4, 1, 2.0)


def test_the_table_has_every_path_and_says_what_is_missing():
    paths = [PathFigures(1, 7, 2.0, 2.2, 1.05, 1.1, 1.15, 12.3, 0.456), PathFigures(8, 7, 9.0)]
    runtimes = [
        RuntimeFigures("torch 1", paths=paths, ap={1: 0.5, 7: 0.625}),
        RuntimeFigures("tensorrt", skipped="ImportError: none"),
    ]
    model = ModelFigures("bccd", "random", 700.0, {7: 24.9}, runtimes)
    text = markdown(GpuReport("a machine", {"torch": "1"}, "2026-01-01", [model]))
    assert "| 1 | 7 | 2.000 | 2.200 | 1.100 (1.050 .. 1.150) | 12.3 | 45.6 % |" in text
    assert "| 8 | 7 | 9.000 | - | - | 0.0 | 0.0 % |" in text
    assert "AP by exit: 1: 0.5000, 7: 0.6250" in text
    assert "Not measured: ImportError: none" in text
    header, rule = (line for line in text.splitlines() if line.startswith(("| batch", "|---")))
    assert header.count("|") == rule.count("|") == len(COLUMNS) + 1


def test_a_machine_without_a_gpu_is_refused(repository, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert run(repository, tmp_path / "gpu.json") == 2
    assert "torch finds no cuda here, but 0 GPUs" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_there_is_refused(repository, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    assert run(repository, out, "--device", "cpu", "--model", "other") == 2
    assert run(repository, out, "--device", "cpu", "--model", "bccd") == 2
    errors = capsys.readouterr().err.splitlines()
    assert "no configuration 'other'" in errors[0]
    assert "'bccd' cannot be used" in errors[1]


@pytest.mark.slow
def test_everything_runs_on_a_cpu(repository, tmp_path, bccd):
    out = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--model", MODEL, "--config", MODEL, "--batch", "1", "8"]
    arguments += ["--depth", "1", "3", "--rounds", "2", "--data", str(bccd), "--split", "val"]
    assert run(repository, out, *arguments) == 0
    report = json.loads(out.read_text())
    assert [model["weights"] for model in report["models"]] == ["of the repository", "random"]
    for model in report["models"]:
        assert model["ceiling_tflops"] > 0
        torch_figures, tensorrt, eager = model["runtimes"]
        assert "tensorrt" in tensorrt["skipped"]
        # The CPU runner takes no batch of 8.
        assert [(row["batch"], row["depth"]) for row in torch_figures["paths"]] == [(1, 1), (1, 3)]
        for row in torch_figures["paths"]:
            assert row["unit_ms"] > 0
            assert row["ratio_p10"] <= row["ratio_p50"] <= row["ratio_p90"]
        assert [(row["batch"], row["depth"]) for row in eager["paths"]] == [(1, 3), (8, 3)]
    of_repository, random = (model["runtimes"][0] for model in report["models"])
    assert set(of_repository["ap"]) == {"1", "2", "3"}
    assert random["ap_skipped"] == "random weights"
    assert "| batch |" in out.with_suffix(".md").read_text()


@pytest.mark.slow
def test_what_was_measured_survives_an_interruption(repository, tmp_path):
    class Interrupted(Tools):
        def open_runner(self, runtime, folder, num_threads):
            if runtime == "tensorrt":
                raise KeyboardInterrupt
            return super().open_runner(runtime, folder, num_threads)

    out = tmp_path / "gpu.json"
    arguments = ("--device", "cpu", "--model", MODEL, "--batch", "1", "--depth", "1")
    assert run(repository, out, *arguments, "--rounds", "1", tools=Interrupted()) == 130
    (model,) = json.loads(out.read_text())["models"]
    assert len(model["runtimes"]) == 1


def test_weights_come_back_from_onnx_as_they_were_exported(repository):
    root, exported = repository
    folder = version_folder(root, MODEL)
    back = read_frozen(CONFIGS[MODEL].detector, exported.catalog, folder).state_dict()
    expected = exported.frozen.state_dict()
    assert back.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(back[name], tensor, rtol=1e-6, atol=0)


def test_weights_of_another_structure_are_refused(repository):
    root, exported = repository
    wider = replace(CONFIGS[MODEL].detector, neck_channels=64)
    with pytest.raises(ValueError, match="not those of the configuration 'tiny'"):
        read_frozen(wider, exported.catalog, version_folder(root, MODEL))
