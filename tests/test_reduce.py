"""Reduction by areas against its twin, and against OpenCV's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import reference
from conftest import smooth_picture

from ezsr_synth.reduce import reduce_luminance, reduce_rgb
from ezsr_synth.scene import _LUMINANCE_OF_CODE

SHAPES = [
    (20, 30, 20, 15),
    (23, 31, 17, 9),
    (7, 5, 5, 7),
    (9, 40, 3, 1),
    (1, 1, 1, 1),
    (6, 9, 4, 6),
]


@pytest.mark.parametrize(("height", "width", "reduced_width", "reduced_height"), SHAPES)
def test_reduced_pictures_agree_with_the_twin(
    height: int, width: int, reduced_width: int, reduced_height: int
) -> None:
    rgb = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = (reduced_width, reduced_height)
    means = reference.area_means(rgb, *size)
    reduced = reduce_rgb(rgb, size, (0, 0, *size))
    assert np.abs(reduced - means).max() <= 0.5 + 1e-4
    light = reference.area_means(reference.luminance(rgb)[..., None], *size)[..., 0]
    assert np.abs(reduce_luminance(rgb, _LUMINANCE_OF_CODE, size) - light).max() < 1e-6


def test_a_window_is_a_part_of_the_whole() -> None:
    rgb = smooth_picture(2, 61, 83)
    size = (40, 37)
    whole = reduce_rgb(rgb, size, (0, 0, *size))
    for x0, y0, x1, y1 in ((0, 0, 40, 37), (3, 5, 4, 6), (17, 2, 40, 30), (39, 36, 40, 37)):
        assert np.array_equal(reduce_rgb(rgb, size, (x0, y0, x1, y1)), whole[y0:y1, x0:x1])


def test_the_crop_of_a_picture_is_reduced_like_a_picture_of_its_own() -> None:
    rgb = smooth_picture(4, 50, 60)
    crop = rgb[7:41, 9:55]
    size = (23, 19)
    window = (0, 0, *size)
    assert np.array_equal(reduce_rgb(crop, size, window), reduce_rgb(crop.copy(), size, window))


def test_reduction_is_opencvs() -> None:
    rgb = smooth_picture(5, 375, 500)
    for size in ((344, 258), (200, 190), (499, 374), (77, 51)):
        ours = reduce_rgb(rgb, size, (0, 0, *size)).astype(int)
        theirs = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        assert np.abs(ours - theirs).max() <= 1
        assert (ours != theirs).mean() < 1e-3
