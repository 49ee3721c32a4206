"""Import of weights that others trained, as weights of a detector here.

    file -> state dict -> key map of its origin, every key accounted for -> a detector's weights

A file that does not fit is refused with the first key that differs; nothing is skipped in silence.
Depends on ``builder.config``, ``builder.modeling`` and ``serving.core``. Begin with ``state_dict``,
then ``mmdet``, which has the longest key map.
"""

from builder.importing.folding import load_folded_backbone
from builder.importing.imagenet import load_backbone
from builder.importing.mmdet import class_names, load_nas_fpn
from builder.importing.ssdlite import load_ssdlite, read_arrays
from builder.importing.state_dict import WeightsError, read_state_dict

__all__ = [
    "WeightsError",
    "class_names",
    "load_backbone",
    "load_folded_backbone",
    "load_nas_fpn",
    "load_ssdlite",
    "read_arrays",
    "read_state_dict",
]
