"""Kernel regression from a table's features to what it is worth.

Radial kernels on standardised features; their width and the ridge are those that best foretell each
example from the others, which has a closed form.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WIDTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Widths of the kernel that are tried, in median distances."""
RIDGES = (0.01, 0.1, 0.3, 1.0, 3.0)


class Regression:
    """A regression, fitted to (n, features) and (n, outputs) of at least two examples."""

    def __init__(self, inputs: NDArray[np.float64], outputs: NDArray[np.float64]) -> None:
        self._mean, self._scale = inputs.mean(axis=0), inputs.std(axis=0)
        self._scale[self._scale == 0] = 1.0
        self._inputs = (inputs - self._mean) / self._scale
        self._offset = outputs.mean(axis=0)
        centred = outputs - self._offset
        squares = _squares(self._inputs, self._inputs)
        typical = float(np.median(squares[np.triu_indices(len(inputs), 1)])) or 1.0
        best = np.inf
        for width in WIDTHS:
            gamma = 0.5 / (width**2 * typical)
            kernel = np.exp(-gamma * squares)
            values, vectors = np.linalg.eigh(kernel)
            for ridge in RIDGES:
                inverse = (vectors / (np.maximum(values, 0) + ridge)) @ vectors.T
                weights = inverse @ centred
                # What fitting without an example would have missed it by.
                residuals = weights / np.diag(inverse)[:, None]
                error = float((residuals**2).sum())
                if error < best:
                    best, self._gamma, self._weights = error, gamma, weights
                    self.foretold = outputs - residuals
                    """Outputs of each example, as the others foretell them."""

    def predict(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (m, outputs) that (m, features) foretell."""
        standard = (inputs - self._mean) / self._scale
        kernel = np.exp(-self._gamma * _squares(standard, self._inputs))
        return kernel @ self._weights + self._offset


def _squares(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared distances between the rows."""
    products = one @ other.T
    lengths = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)
    return np.maximum(lengths - 2 * products, 0.0)
