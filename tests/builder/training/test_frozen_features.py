"""What a frozen backbone makes of the images is kept, and changes nothing but the time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builder.config.configuration import Config
from builder.config.named import CONFIGS
from builder.config.recipe import TrainConfig
from builder.data import read_bccd
from builder.data.loader import epoch_batches
from builder.modeling.architectures import freeze_backbone, make_detector
from builder.modeling.backbones.resnet import ResNet
from builder.modeling.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
from builder.training import frozen_features
from builder.training.frozen_features import VIEW_FIELDS, StoredViews, stored_views
from builder.training.loop import train
from builder.training.views import AugmentedViews
from tests.builder.tiny import TINY

FROZEN = Config(
    TINY.detector,
    replace(
        TINY.train, backbone_learning_rate_ratio=0.0, frozen_norms=True, validation_split="val"
    ),
)


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A detector with another neck, whose backbone others may begin with."""
    torch.manual_seed(5)
    config = replace(TINY.detector, neck="fpn", neck_channels=16)
    model = make_detector(config)
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    path = tmp_path / "backbone.pt"
    save_checkpoint(path, config, model.state_dict(), {})
    return path


def outcome(path: Path) -> tuple[dict[str, torch.Tensor], Any]:
    data = read_checkpoint(path)
    return data["weights"], data["metadata"]["validation"]


def assert_equal(one: Path, other: Path) -> None:
    (weights, accuracy), (others, its_accuracy) = outcome(one), outcome(other)
    assert accuracy == its_accuracy
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"batch_size": 6, "micro_batches": 3}, {"input_sizes": (128, 256)}, {"drop_block": 0.3}],
    ids=["plain", "micro-batches", "sizes", "drop-block"],
)
def test_training_comes_out_as_without_bit_for_bit(
    changes: dict[str, Any],
    bccd: Path,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(FROZEN, train=replace(FROZEN.train, **changes))

    def trained(name: str, features: Path | None) -> Path:
        return train(config, bccd, tmp_path / name, backbone=backbone, features=features)

    plain = trained("plain", None)
    assert_equal(trained("first", tmp_path / "features"), plain)
    calls: list[int] = []
    forward = ResNet.forward

    def noted(network: ResNet, x: torch.Tensor) -> list[torch.Tensor]:
        calls.append(len(x))
        return forward(network, x)

    monkeypatch.setattr(ResNet, "forward", noted)
    assert_equal(trained("second", tmp_path / "features"), plain)
    assert calls == [1]  # the one that tells how much there is to keep
    weights = outcome(plain)[0]
    for name, value in read_checkpoint(backbone)["weights"].items():
        if name.startswith("backbone."):
            assert torch.equal(weights[name], value)


@pytest.mark.slow
def test_trainings_with_other_necks_share_them(bccd: Path, backbone: Path, tmp_path: Path) -> None:
    features = tmp_path / "features"
    for neck in ("fpn", "nas_fpn"):
        config = replace(FROZEN, detector=replace(FROZEN.detector, neck=neck))
        train(config, bccd, tmp_path / neck, backbone=backbone, features=features)
    (folder,) = features.iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "epoch_0000.pt",
        "epoch_0001.pt",
        "held_out.pt",
        "lock",
    }


def views(bccd: Path, recipe: TrainConfig) -> AugmentedViews:
    return AugmentedViews(replace(FROZEN, train=recipe), read_bccd(bccd, "train"))


def a_model() -> Any:
    torch.manual_seed(0)
    model = make_detector(FROZEN.detector)
    freeze_backbone(model, 0, norms=True)
    return model.train()


def folder_of(bccd: Path, recipe: TrainConfig) -> Path:
    found = stored_views(Path("kept"), a_model(), views(bccd, recipe))
    assert isinstance(found, StoredViews)
    return found.folder


OTHERWISE: dict[str, Any] = {
    "aspect_jitter": 0.5,
    "batch_size": 2,
    "brightness_jitter": 0.5,
    "contrast_jitter": 0.5,
    "horizontal_flip": False,
    "images_per_epoch": 12,
    "input_sizes": (128,),
    "micro_batches": 3,
    "scale_jitter": (0.5, 1.5),
    "seed": 1,
    "vertical_flip": False,
}


@pytest.mark.parametrize("name", VIEW_FIELDS)
def test_other_views_are_kept_elsewhere(name: str, bccd: Path) -> None:
    recipe = replace(FROZEN.train, **{name: OTHERWISE[name]})
    assert folder_of(bccd, recipe) != folder_of(bccd, FROZEN.train)


@pytest.mark.parametrize("changes", [{"epochs": 7}, {"learning_rate": 0.1}, {"drop_block": 0.1}])
def test_what_views_do_not_depend_on_changes_nothing(changes: dict[str, Any], bccd: Path) -> None:
    assert folder_of(bccd, replace(FROZEN.train, **changes)) == folder_of(bccd, FROZEN.train)


def test_another_backbone_has_other_maps(bccd: Path) -> None:
    model = a_model()
    views_ = views(bccd, FROZEN.train)
    before = stored_views(Path("kept"), model, views_)
    with torch.no_grad():
        model.backbone.bn1.running_mean[0] += 1
    after = stored_views(Path("kept"), model, views_)
    assert isinstance(before, StoredViews)
    assert isinstance(after, StoredViews)
    assert before.folder != after.folder


class Noting:
    """A recipe that notes which of its fields are read."""

    def __init__(self, recipe: TrainConfig) -> None:
        self.recipe, self.read = recipe, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self.recipe, name)


def test_the_fields_are_those_that_views_are_made_by(bccd: Path) -> None:
    recipe: Any = Noting(replace(FROZEN.train, aspect_jitter=0.1, input_sizes=(128,)))
    examples = [*epoch_batches(read_bccd(bccd, "train"), (128, 128), recipe, 0)]
    assert len(examples) == 2
    assert recipe.read | {"micro_batches"} == set(VIEW_FIELDS)


@pytest.mark.parametrize(
    "changes", [{"backbone_learning_rate_ratio": 0.1}, {"frozen_norms": False}]
)
def test_a_backbone_that_learns_is_not_kept(changes: dict[str, Any], bccd: Path) -> None:
    plain = views(bccd, replace(FROZEN.train, **changes))
    assert stored_views(Path("kept"), a_model(), plain) is plain


def test_too_much_is_not_kept(
    bccd: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plain = views(bccd, FROZEN.train)
    kept = stored_views(Path("kept"), a_model(), plain)
    assert isinstance(kept, StoredViews)
    size = kept.num_bytes()
    channels = CONFIGS["bccd"].detector.backbone_width
    cells = np.array([2 * 16 * 16, 4 * 8 * 8, 8 * 4 * 4]).sum()
    images = FROZEN.train.epochs * 6
    assert size in {images * channels * int(cells) * width for width in (2, 4)}
    monkeypatch.setattr(frozen_features, "MAX_BYTES", size)
    assert isinstance(stored_views(Path("kept"), a_model(), plain), StoredViews)
    monkeypatch.setattr(frozen_features, "MAX_BYTES", size - 1)
    assert stored_views(Path("kept"), a_model(), plain) is plain
    assert "are not kept" in caplog.text


@pytest.mark.slow
def test_a_backbone_of_another_structure_is_refused(
    bccd: Path, backbone: Path, tmp_path: Path
) -> None:
    config = replace(FROZEN, detector=replace(FROZEN.detector, backbone_width=16))
    with pytest.raises(CheckpointError, match=r"of another structure: conv1\.weight differs"):
        train(config, bccd, tmp_path / "run", backbone=backbone)
