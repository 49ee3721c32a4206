"""The controller of Ghiasi et al. (NAS-FPN, 2019): a recurrent network that makes a table's
decisions one after the other, trained by proximal policy optimization.

    choice t-1 -> embedding -> LSTM -> softmax of decision t -> choice t, among those that are open

Each decision has a softmax of its own. The reward of a table, less a moving average of rewards, is
the advantage of every decision in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from builder.config.pyramid_graphs import Graph
from builder.search.space import Decision, SearchSpace


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Settings of the controller: how it is made and how it learns."""

    hidden: int
    batch_size: int
    """Number of children between two updates."""
    learning_rate: float
    epochs: int
    """Number of steps of the optimizer on the same batch."""
    clip: float
    """Bound on how much the ratio of new to old probability differs from 1."""
    entropy: float
    """Weight of the policy's entropy in what is maximised, at the beginning."""
    final_entropy: float
    entropy_half_life: float
    """Number of children after which the weight is half-way to its final value, in logarithms."""
    baseline_decay: float
    """Decay of the moving average of rewards."""
    normalised: bool
    """Whether advantages are divided by their standard deviation."""
    initial_range: float = 0.1
    """Range of the first weights, which are uniform about 0."""


PRESETS = {
    # Zoph et al. (NASNet, 2017), to which the paper refers. Clip and epochs are not given there.
    "paper": ControllerSettings(
        hidden=100,
        batch_size=20,
        learning_rate=3.5e-4,
        epochs=4,
        clip=0.2,
        entropy=1e-5,
        final_entropy=1e-5,
        entropy_half_life=1000.0,
        baseline_decay=0.95,
        normalised=False,
    ),
    # For some hundred children: small batches, rewards normalised within each, a quicker baseline.
    "small": ControllerSettings(
        hidden=64,
        batch_size=10,
        learning_rate=5e-3,
        epochs=4,
        clip=0.2,
        entropy=0.01,
        final_entropy=0.001,
        entropy_half_life=200.0,
        baseline_decay=0.8,
        normalised=True,
    ),
}
"""Name -> settings."""


class ChoicePolicy(nn.Module):
    """A distribution over sequences of choices.

    Of C choices, a decision has as many as it has; the others are closed to it.
    """

    def __init__(
        self, space: SearchSpace, settings: ControllerSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._decisions, self._open_choices = space.decisions, space.open_choices
        sizes = [decision.num_choices for decision in space.decisions]
        self._num_choices = max(sizes)
        hidden = settings.hidden
        self.start = nn.Parameter(torch.empty(hidden))
        self.embeddings = nn.Parameter(torch.empty(len(sizes) - 1, self._num_choices, hidden))
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.weights = nn.Parameter(torch.empty(len(sizes), hidden, self._num_choices))
        self.biases = nn.Parameter(torch.empty(len(sizes), self._num_choices))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(
                    -settings.initial_range, settings.initial_range, generator=generator
                )

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (count, decisions) choices, in the order in which they are made."""
        made = [[0] * len(self._decisions) for _ in range(count)]
        columns: list[Tensor] = []
        x, state = self.start.expand(count, 1, -1), None
        for step, decision in enumerate(self._decisions):
            if columns:
                x = self.embeddings[step - 1, columns[-1]][:, None]
            hidden, state = self.lstm(x, state)
            closed = torch.tensor([[self._closed(decision, of_row)] for of_row in made])
            scores = self._log_softmax(hidden, closed, slice(step, step + 1))
            columns.append(torch.multinomial(scores[:, 0].exp(), 1, generator=generator)[:, 0])
            for of_row, choice in zip(made, columns[-1].tolist(), strict=True):
                of_row[decision.position] = choice
        return torch.stack(columns, dim=1)

    def closed(self, choices: Tensor) -> Tensor:
        """Return (B, decisions, C) whether a choice was closed, by those that were made before."""
        rows = []
        for row in choices.tolist():
            made, of_row = [0] * len(row), []
            for decision, choice in zip(self._decisions, row, strict=True):
                of_row.append(self._closed(decision, made))
                made[decision.position] = choice
            rows.append(of_row)
        return torch.tensor(rows)

    def forward(self, choices: Tensor, closed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of choices, and the entropies of what they were chosen from.

        ``choices`` and both results are (B, decisions), ``closed`` is that of the choices.
        """
        before = self.embeddings[torch.arange(len(self.embeddings)), choices[:, :-1]]
        x = torch.cat([self.start.expand(len(choices), 1, -1), before], dim=1)
        scores = self._log_softmax(self.lstm(x)[0], closed, slice(None))
        log_probabilities = scores.gather(2, choices[:, :, None])[:, :, 0]
        # 0 log 0 is 0.
        entropies = -(scores.exp() * scores.masked_fill(closed, 0.0)).sum(dim=2)
        return log_probabilities, entropies

    def _log_softmax(self, hidden: Tensor, closed: Tensor, steps: slice) -> Tensor:
        """Return (B, steps, C) logarithms of probabilities after (B, steps, hidden)."""
        logits = torch.einsum("bsh,shc->bsc", hidden, self.weights[steps]) + self.biases[steps]
        return logits.masked_fill(closed, float("-inf")).log_softmax(dim=2)

    def _closed(self, decision: Decision, made: Sequence[int]) -> list[bool]:
        row = [True] * self._num_choices
        for choice in self._open_choices(decision, made):
            row[choice] = False
        return row


class Controller:
    """A searcher that samples tables from a policy, and learns from what they are worth."""

    def __init__(self, space: SearchSpace, seed: int, settings: ControllerSettings) -> None:
        self.batch_size = settings.batch_size
        self._space, self._settings = space, settings
        self._generator = torch.Generator().manual_seed(seed)
        self.policy = ChoicePolicy(space, settings, self._generator)
        self._optimizer = torch.optim.Adam(self.policy.parameters(), lr=settings.learning_rate)
        self._baseline: float | None = None
        self._told = 0
        self._choices = torch.empty(0)

    def ask(self) -> list[Graph]:
        """Return a batch of samples."""
        self._choices = self.policy.sample(self.batch_size, self._generator)
        return [self._decode(row) for row in self._choices.tolist()]

    def _decode(self, row: Sequence[int]) -> Graph:
        made = [0] * len(row)
        for decision, choice in zip(self._space.decisions, row, strict=True):
            made[decision.position] = choice
        return self._space.decode(made)

    def tell(self, rewards: Sequence[float]) -> None:
        """Make better tables more likely."""
        settings = self._settings
        advantages = torch.tensor(self._advantages(rewards))
        if settings.normalised:
            advantages = advantages / (advantages.std() + 1e-8)
        weight = self._entropy_weight()
        closed = self.policy.closed(self._choices)
        before: Tensor | None = None
        for _ in range(settings.epochs):
            now, entropies = self.policy(self._choices, closed)
            before = now.detach() if before is None else before
            ratio = (now - before).exp()
            clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
            gains = torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None])
            loss = -(gains.sum(dim=1) + weight * entropies.sum(dim=1)).mean()
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        self._told += len(rewards)

    def _advantages(self, rewards: Sequence[float]) -> list[float]:
        """Return each reward less the moving average of those before its batch.

        The average takes them in.
        """
        decay = self._settings.baseline_decay
        if self._baseline is None:
            self._baseline = sum(rewards) / len(rewards)
        baseline = self._baseline
        for reward in rewards:
            self._baseline = decay * self._baseline + (1 - decay) * reward
        return [reward - baseline for reward in rewards]

    def _entropy_weight(self) -> float:
        settings = self._settings
        left = 0.5 ** (self._told / settings.entropy_half_life)
        return settings.entropy**left * settings.final_entropy ** (1 - left)
