"""Weights that all tables of a space have in common, and detectors made of them.

A cell at a place of the table has the same tensors whatever its inputs are and however it merges
them, so one set of weights serves all tables: of each stack, a cell for every level at which an
intermediate row may be, and one for every output. They are trained as those of one detector, but
for the table, which is another random one at each step. Statistics of normalisation are no table's
own, and are measured for each (after Guo et al., Single Path One-Shot, 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from builder.config.configuration import Config
from builder.config.detector import DetectorConfig
from builder.config.pyramid_graphs import Graph
from builder.data.class_names import numbered_as
from builder.modeling.architectures import AnyDetector, freeze_backbone, make_detector
from builder.modeling.checkpoint import CheckpointError, read_checkpoint
from builder.modeling.exits import Inputs
from builder.modeling.pyramid import FLAVOURS, MergingCell, Wiring, initialise_cells
from builder.modeling.recalibration import measure_statistics
from builder.search.space import SearchSpace
from builder.training.batch import Batch
from builder.training.frozen_features import stored_views
from builder.training.loop import read_split, train
from builder.training.validation import validate
from builder.training.views import AugmentedViews, Views

NUM_BATCHES = 8
"""Number of batches of the training set over which a detector's normalisation is measured."""


def cell_name(space: SearchSpace, row: int, level: int) -> str:
    """Return the name of the cell that all tables of ``space`` share at a row and level."""
    return f"output_p{level}" if space.is_output(row) else f"row{row}_p{level}"


class SharedPyramid(nn.Module):
    """One stack of the neck that is any table of a space: the one that was chosen last."""

    def __init__(self, space: SearchSpace, graph: Graph, config: DetectorConfig) -> None:
        super().__init__()
        self._space, self._flavour = space, FLAVOURS[config.flavour]
        names = [
            cell_name(space, row, level)
            for row, level in product(range(space.num_cells), space.levels)
            if space.is_output(row) or level in space.intermediate_levels
        ]
        self.cells = nn.ModuleDict(
            {
                name: MergingCell(config.neck_channels, config.conv, config.activation)
                for name in dict.fromkeys(names)
            }
        )
        initialise_cells(self)
        self.choose(graph)

    def choose(self, graph: Graph) -> None:
        """Be a table of the space from now on."""
        self._wiring = Wiring.of(graph)
        self._names = [
            cell_name(self._space, row, cell.level) for row, cell in enumerate(graph.cells)
        ]

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return one map for each level, as ``features`` has them.

        Each is (B, C, H / stride, W / stride).
        """
        return self._wiring.run((self.cells[n] for n in self._names), self._flavour, features)


def shared_detector(space: SearchSpace, config: DetectorConfig) -> AnyDetector:
    """Return a detector whose stacks are any table of ``space``, at first that of ``config``."""
    detector = make_detector(config)
    detector.stacks = nn.ModuleList(
        SharedPyramid(space, config.pyramid, config) for _ in range(config.num_stacks)
    )
    return detector


class RandomTables:
    """Views of a training in which the detector is a random table at each step."""

    def __init__(
        self, space: SearchSpace, seed: int, epochs: int, model: AnyDetector, views: Views
    ) -> None:
        """Go through the first ``epochs`` of some views, again and again."""
        self._space, self._seed, self._epochs = space, seed, epochs
        self._model, self._views = model, views

    def steps(self, epoch: int) -> Iterator[list[Batch]]:
        """Yield the batches of an epoch, each after another table was chosen."""
        random = np.random.default_rng((self._seed, epoch))
        for batches in self._views.steps(epoch % self._epochs):
            graph = self._space.decode(self._space.sample(random))
            for stack in self._model.stacks:
                assert isinstance(stack, SharedPyramid)
                stack.choose(graph)
            yield batches

    def held_out(self) -> Iterator[Any]:
        """Yield held-out images as they are."""
        return self._views.held_out()


def train_shared(
    space: SearchSpace,
    config: Config,
    epochs: int,
    data: Path,
    out: Path,
    **options: Any,
) -> Path:
    """Train weights for all tables of a space; return the path of their checkpoint.

    ``config`` is what a child of a search is, whose views they see over and over for ``epochs``.
    Options, and what is raised, are those of ``builder.training.loop.train``.
    """
    recipe = replace(config.train, epochs=epochs, validation_split=None, validate_every=0)
    make: Callable[[DetectorConfig], AnyDetector] = partial(shared_detector, space)
    seen = partial(RandomTables, space, config.train.seed, config.train.epochs)
    return train(
        Config(config.detector, recipe), data, out, resume=True, make=make, seen=seen, **options
    )


def detector_of(
    weights: Mapping[str, Tensor], space: SearchSpace, config: DetectorConfig, graph: Graph
) -> AnyDetector:
    """Return the detector with a table of the space that has its share of ``weights``.

    Its statistics of normalisation are to be measured. Raises KeyError and RuntimeError for weights
    of another structure.
    """
    detector = make_detector(replace(config, graph=graph.rows))
    detector.load_state_dict(
        {name: weights[_shared_name(name, space, graph)] for name in detector.state_dict()}
    )
    return detector.eval()


def _shared_name(name: str, space: SearchSpace, graph: Graph) -> str:
    """Return where the weights are that a detector with ``graph`` has at ``name``."""
    part, _, rest = name.partition(".cells.")
    if not rest:
        return name
    row, _, of_cell = rest.partition(".")
    return f"{part}.cells.{cell_name(space, int(row), graph.cells[int(row)].level)}.{of_cell}"


class SharedDetectors:
    """Detectors with shared weights, and the images that they are measured on."""

    def __init__(
        self,
        path: Path,
        space: SearchSpace,
        config: Config,
        data: Path,
        features: Path | None,
    ) -> None:
        """Read weights and images. Raises CheckpointError, DatasetError and OSError."""
        recipe = config.train
        self._path = path
        self._weights = read_checkpoint(path)["weights"]
        for name, value in self._weights.items():
            if not value.isfinite().all():
                raise CheckpointError(f"{path}: {name} has values that are not finite")
        self._space, self._config = space, config.detector
        train, held_out = (
            read_split(recipe, data, split, "skip")
            for split in (recipe.split, str(recipe.validation_split))
        )
        self._held_out = numbered_as(config.detector.classes, held_out)
        detector = self._of(config.detector.pyramid)
        freeze_backbone(detector, recipe.frozen_stages, recipe.frozen_norms)
        views = AugmentedViews(config, train, self._held_out)
        self._views = views if features is None else stored_views(features, detector, views)
        batches = chain.from_iterable(self._views.steps(0))
        self._batches = [_widened(batch.inputs) for batch in islice(batches, NUM_BATCHES)]

    def measure(self, graph: Graph) -> tuple[float, ...]:
        """Return the AP of each exit of the detector with a table, on held-out images."""
        detector = self._of(graph)
        measure_statistics(detector, self._batches)
        found = validate(detector, self._held_out, self._views.held_out())
        return tuple(of_exit.ap for of_exit in found.values())

    def _of(self, graph: Graph) -> AnyDetector:
        try:
            return detector_of(self._weights, self._space, self._config, graph)
        except (KeyError, RuntimeError) as error:
            why = str(error).partition("\n")[0]
            raise CheckpointError(
                f"{self._path} has no weights that graphs share: {why}"
            ) from error


def _widened(inputs: Inputs) -> Inputs:
    """Return inputs with maps in the precision that detectors are measured in."""
    return inputs if isinstance(inputs, Tensor) else [x.float() for x in inputs]
