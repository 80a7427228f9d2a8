"""The photoreceptor: a low-pass whose speed is proportional to the light."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ezsr_synth.jit import jit_into
from ezsr_synth.lanes import LANES, choose, floor, least, load, raise_two, spread, store

F32 = npt.NDArray[np.float32]

_DARK = np.float32(20.0 / 255.0)
"""Light, as a share of white, at which a photoreceptor is at half of its lowest speed: its dark
current, in v2e's words the 20 of 255 digital numbers that are added to the intensity."""

_ZERO, _HALF, _ONE, _TWO = (np.float32(n) for n in (0.0, 0.5, 1.0, 2.0))
_STILL, _MOST = np.float32(1e-3), np.float32(80.0)


@jit_into
def exp_parts(x: Any) -> tuple[Any, Any]:
    """Return s and q of e^x = s (1 + q), |x| < 87: s = 2^n, and q = 2^f - 1 with |f| <= 1/2.

    Of a float32 number, or of lanes; without loss where e^x is near 1. The polynomial is Taylor's
    of 2^f, which ends below float32's rounding.
    """
    exponent = x * np.float32(1.44269504)
    n = floor(exponent + _HALF)
    f = exponent - n
    q = f * np.float32(1.54035304e-04) + np.float32(1.33335581e-03)
    q = q * f + np.float32(9.61812911e-03)
    q = q * f + np.float32(5.55041087e-02)
    q = q * f + np.float32(2.40226507e-01)
    q = q * f + np.float32(6.93147181e-01)
    return raise_two(n), q * f


@jit_into
def exp(x: Any) -> Any:
    """Return e^x, |x| < 87, of a float32 number, or of lanes."""
    scale, rest = exp_parts(x)
    return scale + scale * rest


@jit_into
def filter_row(
    radians: float, light: F32, filtered: F32, row: F32, room: tuple[F32, F32, F32]
) -> None:
    """Pass a row through each pixel's photoreceptor, a low-pass of first order, for one time step.

    radians   how far a white pixel's cut-off frequency turns in the step: 2 pi f T
    light     log intensity before the step; becomes that of now
    filtered  what the photoreceptor gave before the step; becomes what it gives now
    row       log intensity now; becomes what the photoreceptor gives now
    room      three rows for what is half done: in one loop, a pixel's long chain of operations
              would be waited for

    All are a whole number of LANES long.

    The cut-off frequency is proportional to the light, dark current included. Solved for light
    whose logarithm is linear in time: with S(t) the integral of the speed and z the whole of it,

        out' = now - (now - before) lag - (before - out) exp(-z),  lag = mean of exp(S(t) - z),

    to the first order in how much the speed changes within the step.
    """
    white = np.float32(radians) / (_ONE + _DARK)
    turned, scales, rests = room
    for n in range(0, len(row), LANES):
        light_now = exp(_HALF * (load(light, n) + load(row, n)))
        store(turned, n, white * (light_now + _DARK))
    for n in range(0, len(row), LANES):
        scale, rest = exp_parts(_ZERO - least(load(turned, n), spread(_MOST)))
        store(scales, n, scale)
        store(rests, n, rest)
    for n in range(0, len(row), LANES):
        before, out, now = load(light, n), load(filtered, n), load(row, n)
        z, scale, rest = load(turned, n), load(scales, n), load(rests, n)
        kept, inverse = scale + scale * rest, _ONE / z
        lag = ((_ONE - scale) - scale * rest) * inverse
        first = (lag - kept) * inverse
        second = (_TWO * first - kept) * inverse
        change = _HALF * (now - before) * (z - white * _DARK)
        change = choose(z > _STILL, change, spread(_ZERO))  # too little to matter, and all rounding
        lag = lag - change * (first - second)
        seen = now - (now - before) * lag + (out - before) * kept
        store(row, n, seen)
        store(filtered, n, seen)
        store(light, n, now)
