"""What exits learn, on tensors small enough to follow by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from builder.config import TrainConfig, replace
from builder.losses import assign, exit_loss
from builder.modeling.boxes import decode_boxes, encode_boxes
from builder.supervision import (
    EXIT_WEIGHTS,
    TEACHERS,
    Supervised,
    distillation_loss,
    draw_exits,
    feature_distillation_loss,
    in_force,
    scale_gradient,
    step_loss,
)

CONFIG = TrainConfig(dataset="bccd", box_weight=2.0)
ANCHORS = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [40.0, 0.0, 80.0, 40.0]])


class Chain(nn.Module):
    """One number through four stacks that leave it as it is; an exit gives it as its logits."""

    def stem(self, images: Tensor) -> list[Tensor]:
        return [images]

    def stack(self, depth: int, features: list[Tensor]) -> list[Tensor]:
        return [x.view_as(x) for x in features]

    def head(self, depth: int, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        return features[0], features[0]


def test_exits_are_drawn() -> None:
    random = np.random.default_rng(0)
    assert draw_exits(5, None, random) == draw_exits(5, 9, random) == [1, 2, 3, 4, 5]
    drawn = [draw_exits(5, 3, random) for _ in range(50)]
    assert all(len(set(row)) == 3 and row == sorted(row) and row[-1] == 5 for row in drawn)
    assert {depth for row in drawn for depth in row} == {1, 2, 3, 4, 5}


def test_one_exit_beside_the_last() -> None:
    random = np.random.default_rng(0)
    drawn = [draw_exits(5, 2, random) for _ in range(400)]
    counts = [sum(row[0] == depth for row in drawn) for depth in range(1, 5)]
    assert all(row[1] == 5 for row in drawn)
    assert min(counts) > 70


@pytest.mark.parametrize("name", EXIT_WEIGHTS)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_weights_are_one_on_average(name: str, count: int) -> None:
    weights = EXIT_WEIGHTS[name](count)
    assert len(weights) == count
    assert sum(weights) == pytest.approx(count)


def test_weights() -> None:
    assert EXIT_WEIGHTS["uniform"](3) == [1, 1, 1]
    assert EXIT_WEIGHTS["rising"](3) == pytest.approx([0.5, 1.0, 1.5])
    assert EXIT_WEIGHTS["last"](3) == pytest.approx([0.75, 0.75, 1.5])


def test_scaling_a_gradient_leaves_the_value() -> None:
    x = torch.tensor([0.1, 0.7], requires_grad=True)
    y = scale_gradient(x, 0.25)
    assert y.tolist() == x.tolist()
    (y * torch.tensor([2.0, 4.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.5, 1.0]


def gradient(gradient_equilibrium: bool, exits: list[int], of: list[int]) -> float:
    """What comes back to the stem when the outputs of some of the exits are summed."""
    x = torch.ones(1, requires_grad=True)
    chain: Any = Chain()
    outputs, features = Supervised(chain, gradient_equilibrium)(x, exits)
    assert list(outputs) == list(features) == exits
    torch.stack([outputs[depth][0] for depth in of]).sum().backward()
    assert x.grad is not None
    return x.grad.item()


def test_without_equilibrium_gradients_add_up() -> None:
    assert gradient(False, [1, 2, 3, 4], [1, 2, 3, 4]) == 4
    assert gradient(False, [2, 4], [4]) == 1


@pytest.mark.parametrize("exits", [[1, 2, 3, 4], [2, 4], [4], [1, 3, 4]])
def test_equilibrium_is_that_of_one_exit(exits: list[int]) -> None:
    assert gradient(True, exits, exits) == pytest.approx(1.0)


def test_equilibrium_gives_every_exit_its_share() -> None:
    """Exit i of k sends back 1 / (k - i + 1), through (k - j) / (k - j + 1) at each j before it:
    in all 1 / k."""
    shares = [gradient(True, [1, 2, 3, 4], [depth]) for depth in (1, 2, 3, 4)]
    assert shares == pytest.approx([0.25] * 4)


def test_values_do_not_depend_on_equilibrium() -> None:
    x, chain = torch.tensor([0.3]), Chain()
    outputs: list[Any] = [Supervised(chain, flag)(x, [1, 4]) for flag in (True, False)]  # type: ignore[arg-type]
    assert outputs[0] == outputs[1]


def raw(logits: list[list[float]], deltas: list[list[float]]) -> tuple[Tensor, Tensor]:
    return torch.tensor([logits], requires_grad=True), torch.tensor([deltas], requires_grad=True)


NO_DELTAS = [[0.0] * 4] * 3
TEACHER = raw([[2.0, -3.0], [-4.0, -4.0], [-2.0, 1.0]], [[0.1, 0, 0, 0], [0.0] * 4, [0, 0, 0.2, 0]])


def test_nothing_to_learn_from_the_same_outputs() -> None:
    student = raw(TEACHER[0].tolist()[0], TEACHER[1].tolist()[0])
    loss = distillation_loss(student, TEACHER, ANCHORS, CONFIG, 1.0)
    assert loss.classes.item() == pytest.approx(0.0, abs=1e-6)
    assert loss.boxes.item() == pytest.approx(0.0, abs=1e-6)


def test_classes_are_distilled_by_their_formula() -> None:
    student = raw([[0.0, 0.0]] * 3, NO_DELTAS)
    loss = distillation_loss(student, TEACHER, ANCHORS, CONFIG, 2.0)
    q = torch.sigmoid(TEACHER[0])
    expected = ((q - 0.5).abs() ** CONFIG.focal_gamma * -torch.log(torch.tensor(0.5))).sum() / 2
    assert loss.classes.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("box_loss", ["giou", "huber"])
def test_boxes_are_distilled_where_the_teacher_is_sure(box_loss: str) -> None:
    """Anchors 0 and 2; the box of anchor 1, where it sees nothing, is left alone."""
    config = replace(CONFIG, box_loss=box_loss)
    student = raw([[0.0, 0.0]] * 3, NO_DELTAS)
    loss = distillation_loss(student, TEACHER, ANCHORS, config, 1.0)
    loss.boxes.backward()
    assert student[1].grad is not None
    assert student[1].grad[0].abs().sum(dim=1).gt(0).tolist() == [True, False, True]
    assert TEACHER[1].grad is None


def test_the_teacher_is_not_moved() -> None:
    loss = distillation_loss(raw([[0.0, 0.0]] * 3, NO_DELTAS), TEACHER, ANCHORS, CONFIG, 1.0)
    (loss.classes + loss.boxes).backward()
    assert TEACHER[0].grad is None


def test_descent_reaches_the_teacher() -> None:
    student = raw([[0.0, 0.0]] * 3, NO_DELTAS)
    optimizer = torch.optim.Adam(student, lr=0.05)
    for _ in range(400):
        loss = distillation_loss(student, TEACHER, ANCHORS, CONFIG, 1.0)
        optimizer.zero_grad()
        (loss.classes + loss.boxes).backward()
        optimizer.step()
    torch.testing.assert_close(
        torch.sigmoid(student[0]), torch.sigmoid(TEACHER[0]), atol=0.05, rtol=0.0
    )
    boxes = [decode_boxes(deltas[0, ::2], ANCHORS[::2]) for deltas in (student[1], TEACHER[1])]
    torch.testing.assert_close(*boxes, atol=0.3, rtol=0.0)


def test_teachers() -> None:
    other = raw([[0.0, 1.0]] * 3, NO_DELTAS)
    outputs = {1: other, 4: TEACHER}
    assert TEACHERS["deepest"](outputs) is TEACHER
    logits, deltas = TEACHERS["ensemble"](outputs)
    torch.testing.assert_close(logits, (other[0] + TEACHER[0]) / 2)
    torch.testing.assert_close(deltas, (other[1] + TEACHER[1]) / 2)


def features(*scales: float) -> list[Tensor]:
    """Two levels of two channels, (3, 2, 4, 4) and (3, 2, 2, 2)."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 2, 4, 4), (3, 2, 2, 2))
    return [
        scale * torch.randn(shape, generator=generator)
        for scale, shape in zip(scales, shapes, strict=True)
    ]


def test_features_are_as_far_apart_as_they_are_uncorrelated() -> None:
    student = [x + torch.roll(x, 1, dims=0) for x in features(1.0, 1.0)]
    teacher = features(1.0, 1.0)
    correlations = []
    for ours, theirs in zip(student, teacher, strict=True):
        for channel in range(2):
            rows = torch.stack([ours[:, channel].flatten(), theirs[:, channel].flatten()])
            correlations.append(torch.corrcoef(rows)[0, 1])
    expected = 1 - torch.stack(correlations).mean()
    loss = feature_distillation_loss(student, teacher)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    assert 0.1 < loss.item() < 1


def test_features_that_differ_in_scale_and_shift_alone_are_the_same() -> None:
    teacher = features(1.0, 1.0)
    scale = torch.tensor([0.5, 20.0]).reshape(1, 2, 1, 1)
    student = [x * scale + 3 for x in teacher]
    assert feature_distillation_loss(student, teacher).item() == pytest.approx(0, abs=1e-3)
    opposite = [-x for x in teacher]
    assert feature_distillation_loss(opposite, teacher).item() == pytest.approx(2, abs=1e-3)


def test_the_teacher_of_features_is_not_moved() -> None:
    student, teacher = features(1.0, 2.0), features(1.0, 1.0)
    student[0] = student[0].roll(1, dims=0)
    for x in (*student, *teacher):
        x.requires_grad_()
    feature_distillation_loss(student, teacher).backward()
    assert all(x.grad is None for x in teacher)
    assert student[0].grad is not None
    assert student[0].grad.abs().sum() > 0


def test_descent_reaches_the_teachers_features() -> None:
    student = [torch.roll(x, 1, dims=0).requires_grad_() for x in features(1.0, 1.0)]
    optimizer = torch.optim.Adam(student, lr=0.05)
    for _ in range(200):
        loss = feature_distillation_loss(student, features(1.0, 1.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


def test_features_are_distilled_by_share_and_weight() -> None:
    targets = assign(ANCHORS, [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)], 2)
    outputs = {1: raw([[0.0, 1.0]] * 3, NO_DELTAS), 2: TEACHER, 3: TEACHER}
    deep = features(1.0, 1.0)
    of_exits = {1: [x.roll(1, dims=0) for x in deep], 2: [x.roll(2, dims=0) for x in deep], 3: deep}
    plain, taught = (
        step_loss(outputs, of_exits, targets, ANCHORS, recipe, [0.5, 1.0, 1.5], 4.0, 0.25)[0].item()
        for recipe in (CONFIG, replace(CONFIG, feature_distillation_weight=3.0))
    )
    first, second = (feature_distillation_loss(of_exits[k], deep).item() for k in (1, 2))
    assert taught == pytest.approx(plain + 3.0 * 0.25 * (0.5 * first + 1.0 * second))


def test_an_ensemble_teaches_every_exit() -> None:
    boxes, labels = torch.tensor([[0.0, 0.0, 10.0, 12.0]]), torch.tensor([1])
    targets = assign(ANCHORS, [boxes], [labels], 2)
    outputs = {1: raw([[0.0, 1.0]] * 3, NO_DELTAS), 2: TEACHER}
    config = replace(CONFIG, distillation_weight=2.0, teacher="ensemble")
    plain = replace(config, distillation_weight=0.0)
    loss, without = (
        step_loss(outputs, {}, targets, ANCHORS, recipe, [0.5, 1.5], 4.0, 1.0)[0].item()
        for recipe in (config, plain)
    )
    teacher = TEACHERS["ensemble"](outputs)
    expected = without
    for weight, student in zip([0.5, 1.5], outputs.values(), strict=True):
        taught = distillation_loss(student, teacher, ANCHORS, config, 4.0)
        expected += 2.0 * weight * (taught.classes + 2.0 * taught.boxes).item()
    assert loss == pytest.approx(expected)


def test_a_step_is_weighted_and_distilled() -> None:
    boxes, labels = torch.tensor([[0.0, 0.0, 10.0, 12.0]]), torch.tensor([1])
    targets = assign(ANCHORS, [boxes], [labels], 2)
    deltas = encode_boxes(boxes, ANCHORS[:1]).tolist() + NO_DELTAS[:2]
    outputs = {1: raw([[0.0, 0.0]] * 3, NO_DELTAS), 3: raw([[1.0, 2.0]] * 3, deltas)}
    weights = [0.5, 9.0, 1.5]

    def total(distillation_weight: float) -> tuple[float, Any]:
        config = replace(CONFIG, distillation_weight=distillation_weight)
        loss, parts = step_loss(outputs, {}, targets, ANCHORS, config, weights, 4.0, 1.0)
        return loss.item(), parts

    plain, parts = total(0.0)
    for depth, (logits, of_boxes) in outputs.items():
        alone = exit_loss(logits, of_boxes, targets, CONFIG, 4.0)
        assert parts[depth].classes.item() == alone.classes.item()
        assert parts[depth].boxes.item() == alone.boxes.item()
    by_hand = {depth: part.classes + 2.0 * part.boxes for depth, part in parts.items()}
    assert plain == pytest.approx((0.5 * by_hand[1] + 1.5 * by_hand[3]).item())

    taught = distillation_loss(outputs[1], outputs[3], ANCHORS, CONFIG, 4.0)
    extra = 3.0 * 0.5 * (taught.classes + 2.0 * taught.boxes)
    assert total(3.0)[0] == pytest.approx(plain + extra.item())


def test_until_it_has_learnt_a_teacher_has_nothing_to_teach() -> None:
    config = replace(CONFIG, distillation_weight=1.0, feature_distillation_weight=2.0)
    plain = replace(config, distillation_weight=0.0, feature_distillation_weight=0.0)
    late = replace(config, distillation_start=0.5)
    assert in_force(config, 0.0) == config
    assert in_force(late, 0.49) == replace(plain, distillation_start=0.5)
    assert in_force(late, 0.5) == late
