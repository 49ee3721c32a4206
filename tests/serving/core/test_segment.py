import itertools

import pytest

from serving.core import segment as segments


@pytest.mark.parametrize(
    "segment", [*segments.unit_segments(7), *segments.fused_segments(7)], ids=lambda s: s.name
)
def test_names_round_trip(segment):
    assert segments.parse(segment.name) == segment


@pytest.mark.parametrize("name", ["", "stem_1", "stack_0", "head", "exit_01", "exit_1 ", "tail_1"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="not a segment name"):
        segments.parse(name)


def test_unit_path_connects_image_to_boxes():
    path = segments.unit_path(3)
    assert segments.names(path) == ("stem", "stack_1", "stack_2", "stack_3", "head_3")
    assert path[0].start == segments.IMAGE
    assert all(before.stop == after.start for before, after in itertools.pairwise(path))
    assert path[-1].head
