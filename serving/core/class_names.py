"""Names of classes: what Pascal VOC and COCO call differently though it is the same.

Labels of one are then labels of a model of the other.
"""

from __future__ import annotations

from collections.abc import Collection

SYNONYMS = (
    ("aeroplane", "airplane"),
    ("diningtable", "dining table"),
    ("motorbike", "motorcycle"),
    ("pottedplant", "potted plant"),
    ("sofa", "couch"),
    ("tvmonitor", "tv"),
)
"""Names of the same class: Pascal VOC's, then COCO's."""


def known_names(classes: Collection[str]) -> dict[str, str]:
    """Return every name that a class of ``classes`` goes by, and what it is called there.

    A name that is among them is that class's own, whatever else it is a name of.
    """
    known = {name: name for name in classes}
    for voc, coco in SYNONYMS:
        for name, other in ((voc, coco), (coco, voc)):
            if other in classes:
                known.setdefault(name, other)
    return known
