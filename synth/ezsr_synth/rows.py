"""Rows: what a row of the sensor sees in the log picture, bilinearly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ezsr_synth.jit import jit_into
from ezsr_synth.lookup import POINT_BITS, RUN, look_up_run, sees_runs
from ezsr_synth.vector import peek_scene, poke_row

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_CHUNK, _MIDDLE = 64, np.int32(32)
_FIXED = 2.0**POINT_BITS
_FRACTION = np.int32(2**POINT_BITS - 1)
_WHOLE_BITS = np.int32(POINT_BITS)
_UNIT = np.float32(2.0**-POINT_BITS)
_MOST_STEP = 3.9


@jit_into
def sample_row(log_picture: F32, warp: F64, y: int, width: int, row: F32) -> None:
    """Look up sensor row y, of a width, in the log picture, bilinearly; it must lie inside.

    row  float32, of the width or more
    """
    steps = max(abs(warp[0, 0]), abs(warp[1, 0]))
    if warp[2, 0] == 0.0 and warp[2, 1] == 0.0 and warp[2, 2] == 1.0 and steps < _MOST_STEP:
        _sample_affine(log_picture, warp, y, width, row)
        return
    stride = log_picture.shape[1]
    x0, y0 = warp[0, 1] * y + warp[0, 2], warp[1, 1] * y + warp[1, 2]
    w0 = warp[2, 1] * y + warp[2, 2]
    for x in range(width):
        w = warp[2, 0] * x + w0
        qx, qy = (warp[0, 0] * x + x0) / w, (warp[1, 0] * x + y0) / w
        i, j = np.int32(qx), np.int32(qy)
        fx, fy = np.float32(qx - i), np.float32(qy - j)
        at = np.int64(j) * stride + i
        above, below = peek_scene(log_picture, 0, at), peek_scene(log_picture, stride, at)
        above += fx * (peek_scene(log_picture, 1, at) - above)
        below += fx * (peek_scene(log_picture, stride + 1, at) - below)
        poke_row(row, 0, x, above + fy * (below - above))


@jit_into
def _sample_affine(log_picture: F32, warp: F64, y: int, width: int, row: F32) -> None:
    """Step through the picture in fixed point, 8 bits before the point and 24 behind it.

    Positions are relative to the picture pixel under the middle of 64 sensor pixels, so that a
    step's rounding adds up to at most 1e-6 px: far below that of float32 coordinates (3e-5 px at
    600 px, too much on steep edges), in half of float64's width.
    """
    stride = log_picture.shape[1]
    x0, y0 = warp[0, 1] * y + warp[0, 2], warp[1, 1] * y + warp[1, 2]
    step_x, step_y = np.int32(round(warp[0, 0] * _FIXED)), np.int32(round(warp[1, 0] * _FIXED))
    line = np.int32(stride)
    ends = y0, y0 + warp[1, 0] * width
    runs = sees_runs(log_picture.shape, (step_x, step_y), (min(ends), max(ends)))
    for first in range(0, width, _CHUNK):
        middle = first + _CHUNK // 2
        qx, qy = x0 + warp[0, 0] * middle, y0 + warp[1, 0] * middle
        left, top = int(np.floor(qx)), int(np.floor(qy))
        off_x, off_y = np.int32((qx - left) * _FIXED), np.int32((qy - top) * _FIXED)
        corner = top * stride + left
        count, done = min(_CHUNK, width - first), 0
        while runs and done + RUN <= count:
            away = np.int32(np.int32(done) - _MIDDLE)
            px = np.int32(off_x + np.int32(step_x * away))
            py = np.int32(off_y + np.int32(step_y * away))
            look_up_run(log_picture, corner, (px, step_x), (py, step_y), row, first + done)
            done += RUN
        for n in range(np.int32(done), np.int32(count)):
            away = np.int32(np.int32(n) - _MIDDLE)
            px = np.int32(off_x + np.int32(step_x * away))
            py = np.int32(off_y + np.int32(step_y * away))
            fx = np.float32(np.int32(px & _FRACTION)) * _UNIT
            fy = np.float32(np.int32(py & _FRACTION)) * _UNIT
            at = np.int32(np.int32(py >> _WHOLE_BITS) * line + np.int32(px >> _WHOLE_BITS))
            above, below = (
                peek_scene(log_picture, corner, at),
                peek_scene(log_picture, corner + stride, at),
            )
            above += fx * (peek_scene(log_picture, corner + 1, at) - above)
            below += fx * (peek_scene(log_picture, corner + stride + 1, at) - below)
            poke_row(row, first, np.int32(n), above + fy * (below - above))
