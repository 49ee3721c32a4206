import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.letterbox import PLACEMENTS, fit, fit_centre, stretch

SIDES = st.integers(1, 5000)


def test_same_size_is_left_alone():
    box = fit(640, 480, 640, 512)
    assert (box.resized_width, box.resized_height) == (640, 480)


@given(width=SIDES, height=SIDES, input_width=SIDES, input_height=SIDES)
def test_fits_and_fills_one_side(width, height, input_width, input_height):
    box = fit(width, height, input_width, input_height)
    assert 1 <= box.resized_width <= input_width
    assert 1 <= box.resized_height <= input_height
    assert box.resized_width == input_width or box.resized_height == input_height


@pytest.mark.parametrize("place", PLACEMENTS.values(), ids=PLACEMENTS)
@given(width=SIDES, height=SIDES)
def test_the_whole_image_maps_back_to_itself_and_nothing_leaves_it(place, width, height):
    box = place(width, height, 640, 512)
    right, bottom = box.left + box.resized_width, box.top + box.resized_height
    assert right <= 640
    assert bottom <= 512
    inside = np.array([[box.left, box.top, right, bottom]], dtype=np.float32)
    np.testing.assert_allclose(box.to_original(inside), [[0, 0, width, height]], rtol=1e-5)
    beyond = np.array([[-5, -5, 9999, 9999]], dtype=np.float32)
    np.testing.assert_allclose(box.to_original(beyond), [[0, 0, width, height]], rtol=1e-6)


def test_an_odd_pixel_of_padding_is_right_or_below():
    wide, high = fit_centre(100, 50, 100, 57), fit_centre(50, 100, 57, 100)
    assert (wide.left, wide.top) == (0, 3)
    assert (high.left, high.top) == (3, 0)


def test_no_boxes():
    assert fit(640, 480, 512, 384).to_original(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_stretching_fills_the_input_and_maps_back():
    placement = stretch(400, 200, 100, 100)
    assert (placement.resized_width, placement.resized_height) == (100, 100)
    boxes = placement.to_original(np.array([[0, 0, 100, 100], [25, 25, 50, 50]], dtype=np.float32))
    assert boxes.tolist() == [[0, 0, 400, 200], [100, 50, 200, 100]]
