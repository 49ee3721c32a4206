"""The controller: a distribution over tables, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from builder.config.pyramid_graphs import Graph
from builder.search.searchers.controller import PRESETS, ChoicePolicy, Controller
from builder.search.space import SPACES, SearchSpace

MICRO = SPACES["micro"]
FINER = SearchSpace("two-choices", (3, 4, 5), 0, ())
"""Micro, with both ops: where the op of each cell is a choice of its own."""


def every_sequence(space: SearchSpace) -> torch.Tensor:
    """All that a policy can choose, in the order in which it does."""
    rows: list[list[int]] = [[]]
    for step, decision in enumerate(space.decisions):
        longer = []
        for row in rows:
            made = [0] * len(space.decisions)
            for before, choice in zip(space.decisions[:step], row, strict=True):
                made[before.position] = choice
            longer += [[*row, choice] for choice in space.open_choices(decision, made)]
        rows = longer
    return torch.tensor(rows)


def test_probabilities_of_all_sequences_sum_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    settings = replace(PRESETS["paper"], initial_range=1.0)
    policy = ChoicePolicy(MICRO, settings, generator).double()
    # Each pair of inputs can be chosen in two orders.
    sequences = every_sequence(MICRO)
    assert len(sequences) == MICRO.size * 2**MICRO.num_cells
    with torch.no_grad():
        log_probabilities, _ = policy(sequences, policy.closed(sequences))
    totals = log_probabilities.sum(dim=1)
    assert totals.std() > 0.1
    assert torch.logsumexp(totals, dim=0).item() == pytest.approx(0.0, abs=1e-6)


def test_samples_are_as_likely_as_the_policy_says() -> None:
    generator = torch.Generator().manual_seed(0)
    policy = ChoicePolicy(MICRO, replace(PRESETS["paper"], initial_range=1.0), generator)
    drawn = policy.sample(4000, generator)
    first = torch.bincount(drawn[:, 0], minlength=3) / len(drawn)
    with torch.no_grad():
        log_probabilities, _ = policy(drawn, policy.closed(drawn))
    for choice in range(3):
        of_choice = log_probabilities[drawn[:, 0] == choice, 0]
        assert first[choice].item() == pytest.approx(of_choice[0].exp().item(), abs=0.03)


def test_the_entropy_is_that_of_the_choices() -> None:
    """Of decisions with equal weights, the logarithm of how many choices are open."""
    generator = torch.Generator().manual_seed(0)
    policy = ChoicePolicy(
        SPACES["nas-fpn"], replace(PRESETS["paper"], initial_range=0.0), generator
    )
    drawn = policy.sample(3, generator)
    _, entropies = policy(drawn, policy.closed(drawn))
    # Two inputs of five maps, without replacement; a level of four; one of two ops.
    assert entropies[0, :4].exp().tolist() == pytest.approx([5, 4, 4, 2])
    assert entropies[0, -2].item() == pytest.approx(0.0, abs=1e-6)  # one level is left


@pytest.mark.parametrize("name", ["nas-fpn", "lite-15"])
def test_every_sample_is_a_table(name: str) -> None:
    controller = Controller(SPACES[name], 0, PRESETS["small"])
    for graph in controller.ask():
        SPACES[name].encode(graph)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_controller_is_a_function_of_its_seed(preset: str) -> None:
    def asked(seed: int) -> list[Graph]:
        controller = Controller(MICRO, seed, PRESETS[preset])
        found: list[Graph] = []
        for _ in range(3):
            graphs = controller.ask()
            controller.tell([float(cell.inputs[0]) for g in graphs for cell in g.cells[:1]])
            found += graphs
        return found

    assert asked(0) == asked(0) != asked(1)


def test_a_bandit_of_two_decisions_is_solved() -> None:
    """Only the ops of the first two cells matter."""
    controller = Controller(FINER, 0, replace(PRESETS["small"], learning_rate=0.01))
    means = []
    for _ in range(40):
        graphs = controller.ask()
        rewards = [
            float(g.cells[0].op == "attention") + float(g.cells[1].op == "sum") for g in graphs
        ]
        controller.tell(rewards)
        means.append(np.mean(rewards))
    assert means[0] < 1.5
    assert np.mean(means[-5:]) > 1.9


def test_the_gradient_is_that_of_the_expected_reward() -> None:
    """With one step of plain ascent, the policy moves as the exact gradient over all sequences
    says."""
    generator = torch.Generator().manual_seed(3)
    policy = ChoicePolicy(MICRO, replace(PRESETS["paper"], hidden=8, initial_range=0.5), generator)
    sequences = every_sequence(MICRO)
    rewards = (sequences[:, 0] == 1).float() + sequences[:, 5] / 4
    log_probabilities, _ = policy(sequences, policy.closed(sequences))
    totals = log_probabilities.sum(dim=1)
    expected = (totals.exp() * rewards).sum()
    weight = policy.biases
    (exact,) = torch.autograd.grad(expected, weight, retain_graph=True)
    drawn = torch.multinomial(totals.exp(), 20_000, replacement=True, generator=generator)
    of_drawn, _ = policy(sequences[drawn], policy.closed(sequences[drawn]))
    advantages = rewards[drawn] - rewards[drawn].mean()
    # What ``tell`` maximises: at the first step, the ratio of probabilities is 1.
    ratio = (of_drawn - of_drawn.detach()).exp()
    gain = (ratio * advantages[:, None]).sum(dim=1).mean()
    (estimated,) = torch.autograd.grad(gain, weight)
    assert torch.allclose(estimated, exact, atol=0.02)
    assert exact.abs().max() > 0.1
