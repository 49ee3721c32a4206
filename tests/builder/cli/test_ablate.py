"""``punctual ablate``."""

from __future__ import annotations

import pytest

from serving.__main__ import main
from tests.builder.cli.commands import SMALL, refused, usage_shown

ABLATE = ["ablate", "--config", "bccd_small", "--out", "x"]


@pytest.mark.slow
def test_a_comparison(bccd, tmp_path, capsys):
    changes = [text for change in SMALL for text in ("--set", change)]
    options = [
        "--options",
        "random",
        "fpn/separate",
        "--depths",
        "2",
        "--seeds",
        "3",
        "--epochs",
        "1",
    ]
    splits = ["--split", "train", "--validation-split", "val"]
    where = ["--data", str(bccd), *splits, "--out", str(tmp_path / "out")]
    asked = ["ablate", "--config", "bccd_small", *where, *options, *changes]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "random/seed_3: 1 epochs" in said
    assert "fpn/separate/depth_2/seed_3: 1 epochs" in said
    assert "| AP less that of random | exit 1 | exit 2 |" in said
    assert main(asked) == 0
    assert capsys.readouterr().out == (tmp_path / "out/ablation.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*ABLATE, "--options", "sinking"], "'sinking' is not one of joint, random, separate"),
        ([*ABLATE, "--options", "bifpn/joint"], "'bifpn' is not one of nas_fpn"),
        ([*ABLATE, "--options", "/joint"], "'' is not one of nas_fpn"),
    ],
)
def test_options_that_are_none(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in usage_shown(capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*ABLATE, "--set", "train.seed=1"], "--set train.seed=1: --options and --seeds say that"),
        ([*ABLATE, "--depths", "6"], "depths are 1 to 5, not 6"),
        ([*ABLATE[:2], "bccd", *ABLATE[3:]], "give --validation-split"),
    ],
)
def test_misuse_is_explained_before_any_work(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, *arguments)
    assert not list(tmp_path.iterdir())
