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
    (38, 211, 200, 31),  # runs of sixteen, by registers
    (30, 190, 97, 20),  # of nearly too many pixels for them
    (20, 300, 60, 11),  # of too many
]


@pytest.mark.parametrize(("height", "width", "reduced_width", "reduced_height"), SHAPES)
def test_reduced_pictures_agree_with_the_twin(
    height: int, width: int, reduced_width: int, reduced_height: int
) -> None:
    rgb = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = (reduced_width, reduced_height)
    means = reference.area_means(rgb, *size)
    reduced = reduce_rgb(rgb, whole_of(rgb), size, (0, 0, *size))
    assert np.abs(reduced - means).max() <= 0.5 + 1e-4
    light = reference.area_means(reference.luminance(rgb)[..., None], *size)[..., 0]
    seen = reduce_luminance(rgb, whole_of(rgb), _LUMINANCE_OF_CODE, size)
    assert np.abs(seen - light).max() < 1e-6


def whole_of(rgb: np.ndarray) -> tuple[int, int, int, int]:
    return 0, 0, rgb.shape[1], rgb.shape[0]


def test_a_window_is_a_part_of_the_whole() -> None:
    rgb = smooth_picture(2, 61, 83)
    size = (40, 37)
    crop = whole_of(rgb)
    whole = reduce_rgb(rgb, crop, size, (0, 0, *size))
    for x0, y0, x1, y1 in ((0, 0, 40, 37), (3, 5, 4, 6), (17, 2, 40, 30), (39, 36, 40, 37)):
        part = reduce_rgb(rgb, crop, size, (x0, y0, x1, y1))
        assert np.array_equal(part, whole[y0:y1, x0:x1])


def test_the_crop_of_a_picture_is_reduced_like_a_picture_of_its_own() -> None:
    rgb = smooth_picture(4, 50, 60)
    crop, size = (9, 7, 55, 41), (23, 19)
    own = rgb[7:41, 9:55].copy()
    for window in ((0, 0, *size), (5, 3, 22, 17)):
        part = reduce_rgb(rgb, crop, size, window)
        assert np.array_equal(part, reduce_rgb(own, whole_of(own), size, window))
    light = reduce_luminance(rgb, crop, _LUMINANCE_OF_CODE, size)
    assert np.array_equal(light, reduce_luminance(own, whole_of(own), _LUMINANCE_OF_CODE, size))


def test_reduction_is_opencvs() -> None:
    rgb = smooth_picture(5, 375, 500)
    for size in ((344, 258), (200, 190), (499, 374), (77, 51)):
        ours = reduce_rgb(rgb, whole_of(rgb), size, (0, 0, *size)).astype(int)
        theirs = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        assert np.abs(ours - theirs).max() <= 1
        assert (ours != theirs).mean() < 1e-3
