"""Scene: what lies under the sensor while the picture moves, as RGB and as log intensity.

The model, from the picture file to the photoreceptor: linearise sRGB, take the luminance, reduce
the picture to the sensor's scale in linear light, blur by the lens, take the logarithm above a
floor. The kernel then looks this log picture up bilinearly.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ezsr_synth.config import CameraConfig, SensorSize, SynthConfig
from ezsr_synth.motion import Motion, warp_points
from ezsr_synth.reduce import reduce_luminance, reduce_rgb

MARGIN_PX = 2
"""Picture kept around the path for bilinear look-ups; three times the lens blur comes on top."""

_LUMINANCE = (0.2126, 0.7152, 0.0722)  # Rec. ITU-R BT.709-6, item 3.2


def _srgb_to_linear() -> npt.NDArray[np.float64]:
    """Return linear light for the 256 sRGB codes (IEC 61966-2-1)."""
    code = np.arange(256) / 255.0
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


_LUMINANCE_OF_CODE = np.outer(_LUMINANCE, _srgb_to_linear()).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Placement:
    """Which part of the picture is needed, how large it becomes, and on how large a screen.

    crop    (x0, y0, x1, y1) in the picture's own pixels
    scaled  (width, height) of that crop at the sensor's scale
    screen  (width, height) of the whole scene; the crop lies on it at `offset` (x, y)
    motion  the motion with warps into scene pixels
    """

    crop: tuple[int, int, int, int]
    scaled: tuple[int, int]
    screen: tuple[int, int]
    offset: tuple[int, int]
    motion: Motion

    def cut(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the crop of a picture."""
        x0, y0, x1, y1 = self.crop
        return rgb[y0:y1, x0:x1]

    @property
    def shrinks(self) -> bool:
        """Tell whether the crop is reduced along both axes, so that areas must be averaged."""
        x0, y0, x1, y1 = self.crop
        return self.scaled[0] <= x1 - x0 and self.scaled[1] <= y1 - y0


def place_picture(
    picture_size: tuple[int, int], motion: Motion, config: SynthConfig, contain_scale: float
) -> Placement:
    """Lay a picture (width, height) under the sensor's path; only the part it sees is kept.

    The middle of the path's bounding box is the middle of the picture. `cover` scales the picture
    up until the path stays inside it; `contain` makes it `contain_scale` of the largest that the
    sensor holds, on a black screen.
    """
    corners = motion.corners(config.size).reshape(-1, 2)
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = MARGIN_PX + ceil(3 * config.camera.lens_blur_px)
    needed = [ceil(side) + 1 + 2 * margin for side in high - low]
    width, height = picture_size
    if config.fit == "cover":
        scale = max(needed[0] / width, needed[1] / height)
        across, down = _middle(width, needed[0] / scale), _middle(height, needed[1] / scale)
        scaled = (ceil((across[1] - across[0]) * scale), ceil((down[1] - down[0]) * scale))
        screen, offset = scaled, (0, 0)
    else:
        scale = contain_scale * min(config.size.width / width, config.size.height / height)
        across, down = (0, width), (0, height)
        scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
        screen = (needed[0], needed[1])
        offset = ((screen[0] - scaled[0]) // 2, (screen[1] - scaled[1]) // 2)
    start = (low + high) / 2 - (np.array(screen) - 1) / 2
    crop = (across[0], down[0], across[1], down[1])
    return Placement(crop, scaled, screen, offset, motion.shifted(-start[0], -start[1]))


def _middle(length: int, needed: float) -> tuple[int, int]:
    """Return whole [start, stop) of at least `needed` pixels around the middle of `length`."""
    start = max(0, floor((length - needed) / 2))
    return start, max(start + 1, length - start)


def log_picture(
    rgb: npt.NDArray[np.uint8], placement: Placement, camera: CameraConfig
) -> npt.NDArray[np.float32]:
    """Return the scene's log intensity, float32 (H, W), from an RGB picture uint8 (h, w, 3)."""
    x0, y0, x1, y1 = placement.crop
    reduced = placement.scaled if placement.shrinks else (x1 - x0, y1 - y0)
    scaled = reduce_luminance(rgb, placement.crop, _LUMINANCE_OF_CODE, reduced)
    if not placement.shrinks:
        scaled = _enlarge(scaled, placement)
    scene = _lay(scaled, placement)
    if camera.lens_blur_px > 0:
        scene = cv2.GaussianBlur(scene, (0, 0), camera.lens_blur_px, borderType=cv2.BORDER_REFLECT)
    return np.log(scene + np.float32(camera.log_floor))


def snapshot(
    rgb: npt.NDArray[np.uint8], placement: Placement, t_us: float, size: SensorSize
) -> npt.NDArray[np.uint8]:
    """Return the RGB picture that the sensor sees at one moment, uint8 (height, width, 3)."""
    warp, crop = placement.motion.at(t_us), placement.crop
    if not placement.shrinks:
        scene = _lay(_enlarge(placement.cut(rgb), placement), placement)
    elif placement.scaled != placement.screen:
        scene = _lay(reduce_rgb(rgb, crop, placement.scaled, (0, 0, *placement.scaled)), placement)
    else:
        x0, y0, x1, y1 = _seen_window(warp, size, placement.scaled)
        scene = reduce_rgb(rgb, crop, placement.scaled, (x0, y0, x1, y1))
        warp = np.array([[1.0, 0.0, -x0], [0.0, 1.0, -y0], [0.0, 0.0, 1.0]]) @ warp
    seen = cv2.warpPerspective(
        scene,
        warp,
        (size.width, size.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return seen.astype(np.uint8, copy=False)


def _seen_window(
    warp: npt.NDArray[np.float64], size: SensorSize, scene: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the part (x0, y0, x1, y1) of a scene (width, height) that the sensor looks up."""
    corners = warp_points(warp[None], size, 2)[0]
    low, high = np.floor(corners.min(axis=0)), np.floor(corners.max(axis=0)) + 2
    x0, y0 = (min(max(int(n), 0), side - 1) for n, side in zip(low, scene, strict=True))
    x1, y1 = (
        min(max(int(n), first + 1), side)
        for n, first, side in zip(high, (x0, y0), scene, strict=True)
    )
    return x0, y0, x1, y1


def _enlarge(part: npt.NDArray[Any], placement: Placement) -> npt.NDArray[Any]:
    return cv2.resize(part, placement.scaled, interpolation=cv2.INTER_LINEAR)


def _lay(scaled: npt.NDArray[Any], placement: Placement) -> npt.NDArray[Any]:
    """Lay the scaled picture on the black screen, where it does not fill it."""
    if placement.scaled == placement.screen:
        return scaled
    screen = np.zeros((placement.screen[1], placement.screen[0], *scaled.shape[2:]), scaled.dtype)
    (x, y), (width, height) = placement.offset, placement.scaled
    screen[y : y + height, x : x + width] = scaled
    return screen
