"""The detector's three cuts, its whole, and its file."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builder.config.detector import DetectorConfig
from builder.config.named import CONFIGS
from builder.modeling.architectures import first_exits
from builder.modeling.checkpoint import (
    CheckpointError,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
    start_from,
    structure_of,
)
from builder.modeling.detector import PIXEL_MEAN, Detector

CONFIG = replace(
    CONFIGS["bccd"].detector,
    input_size=(128, 256),
    num_stacks=3,
    neck_channels=8,
    head_channels=8,
    max_candidates=20,
    max_detections=10,
)


def detector(config: DetectorConfig = CONFIG) -> Detector:
    torch.manual_seed(0)
    return Detector(config).eval()


def images(batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 128, 256, 3), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_segments_chain_to_the_whole() -> None:
    model = detector()
    features, parts = model.stem(images()), {}
    for depth in (1, 2, 3):
        features = model.stack(depth, features)
        parts[depth] = model.head(depth, features)
    for depth, outputs in model(images()).items():
        assert all(map(torch.equal, outputs, parts[depth]))


@torch.no_grad()
def test_the_first_exits_alone() -> None:
    model = detector(replace(CONFIG, light_exits=1))
    part = first_exits(model, 2)
    assert not part.training
    whole = model(images())
    for depth, outputs in part(images()).items():
        assert all(map(torch.equal, outputs, whole[depth]))
    with pytest.raises(ValueError, match="the last exit has the head"):
        first_exits(model, 1)


@torch.no_grad()
def test_exits_are_chosen() -> None:
    model = detector()
    assert list(model(images(), [3, 1])) == [1, 3]
    assert all(map(torch.equal, model(images(), [1])[1], model(images())[1]))


@torch.no_grad()
def test_raw_and_final_shapes() -> None:
    model = detector()
    logits, deltas = model(images(), [2])[2]
    rows = len(model.anchors)
    assert logits.shape == (2, rows, 3)
    assert deltas.shape == (2, rows, 4)
    shapes = [tuple(x.shape) for x in model.postprocess((logits, deltas))]
    assert shapes == [(2, 10, 4), (2, 10), (2, 10), (2,)]


def test_normalisation_is_inside() -> None:
    """An image of the mean colour reaches the backbone as zeros, up to rounding."""
    model, seen = detector(), []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mean = torch.tensor(PIXEL_MEAN).round().to(torch.uint8)
    with torch.no_grad():
        model.stem(mean.expand(1, 128, 256, 3))
    assert seen[0].shape == (1, 3, 128, 256)
    assert seen[0].abs().max() < 0.01


@pytest.mark.parametrize(
    "change",
    [
        {"conv": "separable"},
        {"neck": "fpn"},
        {"backbone": "mobilenet_v2"},
        {"head_convs": 3, "head_channels": 12},
        {"neck": "nas_fpn_p6", "light_exits": 1},
    ],
)
@torch.no_grad()
def test_variants_run(change: dict[str, Any]) -> None:
    model = detector(replace(CONFIG, **change))
    outputs = model(images(1))
    assert set(outputs) == {1, 2, 3}
    assert all(logits.shape[1] == len(model.anchors) for logits, _ in outputs.values())


@torch.no_grad()
def test_early_exits_share_a_light_head_of_their_own() -> None:
    config = replace(CONFIG, light_exits=2, light_head_channels=5, light_head_convs=2)
    model = detector(config)
    assert model.light_head is not None
    assert [model.head_of(depth) for depth in (1, 2, 3)] == [
        (model.light_head, 1),
        (model.light_head, 2),
        (model.retina_head, 1),
    ]
    assert model.light_head.classes.norms[0][0][0].num_features == 5
    assert len(model.light_head.classes.norms) == 2
    assert len(model.retina_head.classes.norms) == 1
    before = model(images(1))
    for parameter in model.light_head.classes.predict.parameters():
        parameter.add_(1.0)
    after = model(images(1))
    changed = {depth for depth in before if not torch.equal(before[depth][0], after[depth][0])}
    assert changed == {1, 2}


@torch.no_grad()
def test_several_stacks_between_exits_are_the_stacks_one_after_another() -> None:
    every = detector(replace(CONFIG, num_stacks=4))
    second = detector(replace(CONFIG, num_stacks=4, stacks_per_exit=2))
    second.backbone.load_state_dict(every.backbone.state_dict())
    second.neck_input.load_state_dict(every.neck_input.state_dict())
    second.stacks.load_state_dict(every.stacks.state_dict())
    features, parts = every.stem(images(1)), second.stem(images(1))
    for depth in (1, 2):
        features = every.stack(2 * depth, every.stack(2 * depth - 1, features))
        parts = second.stack(depth, parts)
        assert all(map(torch.equal, features, parts))
    assert second.config.num_exits == 2


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    model = detector()
    path = tmp_path / "deep" / "checkpoint.pt"
    save_checkpoint(path, CONFIG, model.state_dict(), {"seed": 1}, {"epoch": 4})
    loaded, config, metadata = load_checkpoint(path)
    assert config == CONFIG
    assert metadata == {"seed": 1}
    assert not loaded.training
    assert read_checkpoint(path)["resume"] == {"epoch": 4}
    with torch.no_grad():
        assert all(map(torch.equal, loaded(images())[3], model(images())[3]))
    assert [item.name for item in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_detector_starts_from_a_checkpoint_of_its_structure(tmp_path: Path) -> None:
    stored = detector()
    save_checkpoint(tmp_path / "x.pt", CONFIG, stored.state_dict(), {})
    mine = replace(CONFIG, name="mine", classes=("a",), input_size=(256, 128))
    assert structure_of(tmp_path / "x.pt", replace(mine, neck="fpn")) == mine
    torch.manual_seed(1)
    started = Detector(mine)
    drawn = started.state_dict()["retina_head.classes.predict.weight"].clone()
    start_from(started, tmp_path / "x.pt")
    for name, value in started.state_dict().items():
        same = drawn if name == "retina_head.classes.predict.weight" else stored.state_dict()[name]
        if name != "retina_head.classes.predict.bias":
            assert torch.equal(value, same)


def test_what_predicts_other_classes_is_not_taken_over(tmp_path: Path) -> None:
    """Not even where they are as many: of the same in another order each would mean another."""
    stored = detector()
    save_checkpoint(tmp_path / "x.pt", CONFIG, stored.state_dict(), {})
    started = Detector(replace(CONFIG, classes=CONFIG.classes[::-1]))
    own = {name: value.clone() for name, value in started.state_dict().items()}
    start_from(started, tmp_path / "x.pt")
    for name, value in started.state_dict().items():
        expected = own if ".classes.predict." in name else stored.state_dict()
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neck": "nas_fpn_p6"}, "another structure"),
        ({"neck_channels": 12}, r"another structure: .* differs"),
    ],
)
def test_another_structure_is_no_start(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "x.pt", CONFIG, detector().state_dict(), {})
    with pytest.raises(ValueError, match=message):
        start_from(detector(replace(CONFIG, **change)), tmp_path / "x.pt")


def test_a_pyramid_of_ones_own_is_in_the_checkpoint(tmp_path: Path) -> None:
    rows = CONFIGS["coco_mobilenet_lite"].detector.pyramid.rows
    config = replace(CONFIG, neck="mine", graph=rows)
    save_checkpoint(tmp_path / "x.pt", config, detector(config).state_dict(), {})
    loaded, read, _ = load_checkpoint(tmp_path / "x.pt")
    assert read == config
    assert loaded.config.levels == (3, 4, 5, 6)


def test_a_pipe_that_nobody_writes_to_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no regular file"):
        read_checkpoint(tmp_path / "pipe")


def test_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="format"):
        load_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("detector", None, "its 'detector' are missing"),
        ("detector", {"name": "x"}, "x.pt: "),
        ("weights", [1], "its 'weights' are missing"),
        ("weights", {"stem.weight": 1.0}, "have 'stem.weight', which is none"),
        ("metadata", "run", "its 'metadata' are missing"),
        ("format", "1", "checkpoint format 1, expected 1"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    part: str, value: object, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    save_checkpoint(path, CONFIG, detector().state_dict(), {})
    torch.save(torch.load(path, weights_only=True) | {part: value}, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: torch.full_like(x, torch.nan), "has values that are not finite"),
        (lambda x: x.to(torch.int64), "is of type torch.int64"),
        (lambda x: x.to_sparse(), "is no dense tensor"),
    ],
)
def test_weights_of_no_detector_are_refused(
    wrong: Callable[[torch.Tensor], torch.Tensor], message: str, tmp_path: Path
) -> None:
    weights = detector().state_dict()
    name = "retina_head.classes.predict.weight"
    save_checkpoint(tmp_path / "x.pt", CONFIG, weights | {name: wrong(weights[name])}, {})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "x.pt")


def test_a_checkpoint_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    """What was there stays, and the error is the operating system's, which torch's own is not."""
    path = tmp_path / "x.pt"
    save_checkpoint(path, CONFIG, {}, {})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*x\.pt'"):
            save_checkpoint(path, CONFIG, {"large": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
