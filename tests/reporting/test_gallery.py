"""A picture comes back from its address with the same pixels, larger or smaller."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from sourcetrace.reporting.gallery import _LARGEST_SIDE, _SMALLEST_SIDE, _picture_uri


def decoded(uri):
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image)


@pytest.mark.parametrize("shape", [(8, 8), (8, 5, 3), (1, 1), (30, 7)])
def test_small_pictures_grow_by_whole_pixels(shape):
    values = np.random.default_rng(0).random(shape)
    shown = decoded(_picture_uri(values))
    factor = shown.shape[0] // shape[0]
    assert max(shown.shape[:2]) >= _SMALLEST_SIDE
    expected = np.round(values * 255).repeat(factor, axis=0).repeat(factor, axis=1)
    np.testing.assert_array_equal(shown, expected)


def test_large_pictures_shrink_and_keep_their_proportions():
    shown = decoded(_picture_uri(np.ones((1000, 500, 3), dtype=np.float32)))
    assert shown.shape == (_LARGEST_SIDE, _LARGEST_SIDE // 2, 3)


def test_values_outside_the_range_are_clipped():
    shown = decoded(_picture_uri(np.array([[np.nan, -3.0], [7.0, 0.5]])))
    assert [shown[0, 0], shown[0, -1], shown[-1, 0], shown[-1, -1]] == [0, 0, 255, 128]


@pytest.mark.parametrize("shape", [(3, 8, 8), (8,), (8, 8, 4), (0, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \[H, W\] or \[H, W, 3\]"):
        _picture_uri(np.zeros(shape))
