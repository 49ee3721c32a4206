"""``punctual figure``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from builder.cli import figure as figure_cli
from builder.measuring import untrained
from builder.measuring.figures import FIGURES
from builder.modeling.backbones.mobilenet_v2 import MobileNetV2
from serving.__main__ import main
from serving.artifacts.folder_locks import only_writer
from tests.builder.cli.commands import refused

TINY = [
    "detector.input_size=[128,128]",
    "detector.num_stacks=1",
    "detector.neck_channels=12",
    "detector.head_channels=12",
    'train.split="train"',
    'train.validation_split="val"',
    "train.batch_size=3",
    "train.warmup_steps=1",
]
CHANGES = [word for change in TINY for word in ("--set", change)]


def test_figures_are_those_of_the_package() -> None:
    assert list(FIGURES) == list(figure_cli.CONFIG_OF) == list(figure_cli.SHOWS)


@pytest.mark.parametrize("name", ["backbones", "widths"])
def test_costs_are_counted(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / name
    assert main(["figure", name, "--count", *CHANGES, "--out", str(out)]) == 0
    assert capsys.readouterr().out == (out / "figure.md").read_text()
    points = json.loads((out / "figure.json").read_text())["points"]
    assert all(point["macs"] > 0 and not point["ap"] for point in points)
    assert "GMAC against" in (out / "figure.html").read_text()
    assert {path.name for path in out.iterdir()} == {"figure.html", "figure.json", "figure.md"}


def test_one_figure_at_a_time_is_made_in_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with only_writer(tmp_path):
        assert main(["figure", "widths", "--count", *CHANGES, "--out", str(tmp_path)]) == 1
    assert "another process writes into" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_lite_detectors_are_trained_from_one_backbone_and_measured(
    bccd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    backbone = tmp_path / "mobilenet.pth"
    torch.save(MobileNetV2(32).state_dict(), backbone)
    out = tmp_path / "lite"
    changes = [*CHANGES, "--set", "detector.input_size=[64,64]"]
    asked = ["figure", "lite", "--data", str(bccd), *changes, "--epochs", "1", "--seeds", "4"]
    asked += ["--backbone", str(backbone), "--rounds", "2", "--threads", "1", "--out", str(out)]
    assert main(asked) == 0
    capsys.readouterr()
    figure = json.loads((out / "figure.json").read_text())
    assert [point["series"] for point in figure["points"]] == [
        *("nas_fpn_p6", "FPNLite", "SSDLite") * 2
    ]
    for point in figure["points"]:
        assert len(point["ap"]) == 1
        assert point["ms"] > 0
    assert "AP against ms" in (out / "figure.html").read_text()
    (runs,) = out.glob("from_*")
    assert len(list(runs.glob("*/seed_4/checkpoint.pt"))) == 6
    # Nothing is trained again.
    assert main(asked) == 0
    assert "epochs\n" not in capsys.readouterr().out


@pytest.mark.slow
def test_stacks_are_trained_and_drawn(bccd: Path, tmp_path: Path) -> None:
    out = tmp_path / "stacking"
    asked = ["figure", "stacking", "--data", str(bccd), *CHANGES, "--epochs", "1", "--seeds", "0"]
    assert main([*asked, "--out", str(out)]) == 0
    points = json.loads((out / "figure.json").read_text())["points"]
    assert [point["name"] for point in points] == ["nas_fpn-1", "fpn-1"]
    assert "AP against stacks" in (out / "figure.html").read_text()


@pytest.mark.slow
def test_times_are_made_equal_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many milliseconds as channels, on a machine of the test's; twice as many when asked
    again."""
    measured = []

    def times(wanted: list, *_: object, **__: object) -> list[dict[int, float]]:
        measured.append(wanted)
        return [
            {e: float(d.neck_channels if d.num_stacks else sum(d.input_size) / 16) for e in exits}
            for d, exits in wanted
        ]

    monkeypatch.setattr(untrained, "exit_times", times)
    equal = ["--count", "--equal", "ms", "--rounds", "1", "--out", str(tmp_path)]
    assert main(["figure", "lite", *CHANGES, *equal]) == 0
    points = json.loads((tmp_path / "figure.json").read_text())["points"]
    assert [point["ms"] for point in points] == pytest.approx([12] * 3 + [16] * 3, rel=0.1)
    assert points[1]["channels"] == points[0]["channels"]

    # What has been chosen by times stays chosen.
    before = len(measured)
    assert main(["figure", "lite", *CHANGES, *equal]) == 0
    assert len(measured) == before
    assert json.loads((tmp_path / "figure.json").read_text())["points"] == points


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["lite", "--equal", "ms"], "--equal ms needs --rounds"),
        (["stacking", "--set", "train.seed=3"], "--seeds say that"),
        (["stacking", "--config", "bccd"], "give --validation-split"),
        (["lite", "--config", "bccd_small"], "ssdlite is mobilenet_v2 of width 32"),
        (["stacking", "--backbone", "gone.pth"], "gone.pth"),
        (["stacking", "--backbone", __file__], "--backbone"),
    ],
)
def test_misuse_is_explained_before_any_work(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, "figure", *arguments, "--out", "x")
    assert not list(tmp_path.iterdir())
