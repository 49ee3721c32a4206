"""The published SSDLite's arrays: renamed, reordered, and refused where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builder.importing import WeightsError, load_ssdlite, read_arrays
from builder.modeling.checkpoint import load_checkpoint
from builder.modeling.ssdlite import SSDLite
from serving.__main__ import main


def published() -> dict[str, np.ndarray]:
    """Made-up arrays under the published names."""
    random = np.random.default_rng(0)
    arrays = {}
    for name, value in SSDLite(80).state_dict().items():
        shape = list(value.shape)
        if ".classes.pointwise" in name:
            shape[0] = shape[0] // 80 * 91
        theirs = name.replace("classes", "class").replace("boxes", "box")
        for plural in ("blocks.", "extras.", "heads."):
            theirs = theirs.replace(plural, plural[:-2])
        arrays[theirs] = random.normal(size=shape).astype(np.float32)
    return arrays


def test_arrays_are_renamed_and_reordered() -> None:
    arrays, model = published(), SSDLite(80)
    assert {"stem.weight", "block16.project.bias", "head0.class.pointwise.weight"} < set(arrays)
    load_ssdlite(model, arrays)
    state = model.state_dict()
    theirs = arrays["head1.class.pointwise.weight"].reshape(6, 91, 1280)
    ours = state["heads.1.classes.pointwise.weight"].reshape(6, 80, 1280)
    # Person, fire hydrant (11), stop sign (13), toothbrush (90): COCO's ids have gaps.
    for label, identifier in ((0, 1), (10, 11), (11, 13), (79, 90)):
        np.testing.assert_array_equal(ours[:, label], theirs[:, identifier])
    boxes = arrays["head1.box.pointwise.bias"].reshape(6, 4)
    ours = state["heads.1.boxes.pointwise.bias"].reshape(6, 4)
    np.testing.assert_array_equal(ours, boxes[:, [1, 0, 3, 2]])  # y x h w -> x y w h
    np.testing.assert_array_equal(state["blocks.3.expand.bias"], arrays["block3.expand.bias"])


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("head0.class.pointwise.bias", np.zeros(100), "not of 91 outputs"),
        ("head0.class.pointwise.bias", np.zeros(91), r"would be \(80,\) here, not \(240,\)"),
        ("stem.bias", np.zeros(()), "'stem.bias' is not"),
        ("stem.colour", np.zeros(3), "nothing here corresponds to 'stem.colour'"),
        ("last.weight", None, "'last.weight' is missing"),
    ],
)
def test_other_arrays_are_refused(name: str, value: np.ndarray | None, sentence: str) -> None:
    arrays = published()
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    with pytest.raises(WeightsError, match=sentence):
        load_ssdlite(SSDLite(80), arrays)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(WeightsError, match="no npz file"):
        read_arrays(path)


def test_import_makes_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "weights.npz", tmp_path / "everyday.pt"
    arrays: dict[str, Any] = {**published()}
    np.savez(path, **arrays)
    base = ["import", str(path), "--layout", "ssdlite-arrays", "--out", str(out)]
    assert main([*base, "--config", "everyday", "--license", "Apache-2.0"]) == 0
    assert f"{len(arrays)} keys" in capsys.readouterr().out
    detector, config, _ = load_checkpoint(out)
    assert (config.name, config.license) == ("everyday", "Apache-2.0")
    stem = torch.from_numpy(arrays["stem.weight"])
    assert torch.equal(detector.state_dict()["backbone.stem.weight"], stem)
    for options, said in (
        (["--config", "bccd"], "is no ssdlite"),
        ([], "needs a --config"),
        (["--config", "everyday", "--every-exit"], "only for the layout mmdet"),
    ):
        assert main([*base, *options]) == 2
        assert said in capsys.readouterr().err
