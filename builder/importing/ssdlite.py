"""SSDLite-MobileNetV2 as TensorFlow's detection models were published, its arrays in one npz file.

The arrays are called ``stem.weight``, ``block0.expand.bias``, ``head0.class.pointwise.weight`` and
so on, and are laid out as torch's, with the normalisation folded into the convolutions. Classes are
COCO's ids with background first, of which the eighty that have objects are kept; deltas are y x h w
there and x y w h here.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from builder.config.coco import ID_GAPS
from builder.importing.state_dict import WeightsError
from builder.modeling.ssdlite import SSDLite

Arrays = Mapping[str, npt.NDArray[np.float32]]

RENAMED = (
    (r"^(block|extra|head)(\d+)\.", r"\1s.\2."),
    (r"\.class\.", ".classes."),
    (r"\.box\.", ".boxes."),
)
"""Patterns in the published names, and what stands in their place in names of weights here."""

REORDERED = {
    "classes.pointwise": (91, np.setdiff1d(np.arange(1, 91), ID_GAPS)),
    "boxes.pointwise": (4, np.array([1, 0, 3, 2])),
}
"""Outputs to reorder: module -> how many an anchor has in the file, and the order of those here."""

AS_IT_IS = (1, np.array([0]))


def read_arrays(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return the arrays in an npz file, as float32.

    Nothing in the file is executed. Raises WeightsError and OSError.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name].astype(np.float32) for name in file.files}
    except (ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError("no npz file of arrays of numbers") from error


def load_ssdlite(model: SSDLite, arrays: Arrays) -> None:
    """Give ``model``, which has COCO's eighty classes, the published weights.

    Raises WeightsError for the first array that is missing, or that is none of the model's or of
    another shape.
    """
    target = model.state_dict()
    state = {}
    for name, array in arrays.items():
        renamed = name
        for old, new in RENAMED:
            renamed = re.sub(old, new, renamed)
        num_outputs, kept = REORDERED.get(".".join(renamed.split(".")[-3:-1]), AS_IT_IS)
        if renamed not in target:
            raise WeightsError(f"nothing here corresponds to {name!r}")
        if array.ndim == 0 or len(array) % num_outputs:
            raise WeightsError(f"{name!r} is not of {num_outputs} outputs an anchor")
        of_anchor = array.reshape(-1, num_outputs, *array.shape[1:])
        ours = of_anchor[:, kept].reshape(-1, *array.shape[1:])
        if ours.shape != tuple(target[renamed].shape):
            raise WeightsError(
                f"{name!r} would be {ours.shape} here, not {tuple(target[renamed].shape)}"
            )
        state[renamed] = torch.from_numpy(np.ascontiguousarray(ours))
    for name in target:
        if name not in state:
            raise WeightsError(f"{name!r} is missing")
    model.load_state_dict(state)
