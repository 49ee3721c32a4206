"""Names that classes go by."""

from __future__ import annotations

import pytest

from serving.core.class_names import SYNONYMS, known_names


@pytest.mark.parametrize(("voc", "coco"), SYNONYMS)
def test_a_class_goes_by_either_name(voc, coco):
    assert known_names(["cat", coco]) == {"cat": "cat", coco: coco, voc: coco}
    assert known_names([voc]) == {voc: voc, coco: voc}


def test_what_has_both_names_means_them():
    voc, coco = SYNONYMS[0]
    assert known_names([voc, coco]) == {voc: voc, coco: coco}


def test_other_names_are_not_known():
    assert known_names(["cat", "dog"]).keys() == {"cat", "dog"}
