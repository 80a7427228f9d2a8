"""The toy world: pictures of shapes in textures, drawn when asked for, where there are no others.

A class is a shape in a texture, "a striped star" say, and never a colour: an event camera sees
none. Some compositions are held out for ever, so that a model can be asked for what it has never
seen although it knows the shape and the texture.

Everything is drawn in linear light from signed distances, negative inside: a clipped distance is a
crisp edge without stair-steps, and a stretched one is a soft shadow. Points of the plane are
complex numbers x + iy, x right and y down, so that to turn is to multiply.
"""

from __future__ import annotations

import re
from cmath import rect
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, cos, hypot, pi, radians, tau
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ezsr_shards.errors import InputError
from ezsr_synth.randomness import rng_for

_Points = npt.NDArray[np.complex64]
_Reals = npt.NDArray[np.floating[Any]]
_Shape = Callable[[_Points], _Reals]
_Texture = Callable[[_Points, float], _Reals]

_MOST = 10**9
_STRIDE = 7  # prime to the size of every split, so that neighbours differ in shape and in texture
_MARGIN = 0.07  # of the picture's side, left free: what a moving sensor may not see
_SHADOW = 0.03  # of the picture's side, from the shape to its shadow
_BLOBS = ((-0.5, -0.5, 0.15, -0.5), (0.5, 0.5, 0.4, 0.5))  # least and most x, y, width, strength
_COARSE = 64  # samples per side of the backdrop, which is smooth enough to be enlarged
_LUMA = np.array([0.2126, 0.7152, 0.0722])
# Linear luminance: one band for the backdrop and two for the shape, so that every edge shows.
_BANDS = ((0.04, 0.08), (0.37, 0.45), (0.78, 0.92))


# Shapes: the distance to the outline, in the unit disc.


def _star(z: _Points, points: int = 5, notch: float = 0.5) -> _Reals:
    """Return a star; with notches at radius cos(pi / points) it is a regular polygon."""
    half = pi / points
    angle = abs((np.angle(z) + half) % (2 * half) - half)  # one half of one ray stands for all
    along, across = abs(z) * np.cos(angle) - 1.0, abs(z) * np.sin(angle)
    side = rect(notch, half) - 1.0
    share = np.clip((along * side.real + across * side.imag) / abs(side) ** 2, 0.0, 1.0)
    distance = np.hypot(along - share * side.real, across - share * side.imag)
    star: _Reals = np.copysign(distance, along * side.imag - across * side.real)
    return star


def _box(z: _Points, half_width: float, half_height: float) -> _Reals:
    x, y = abs(z.real) - half_width, abs(z.imag) - half_height
    inside = np.minimum(np.maximum(x, y), 0)
    box: _Reals = inside + np.hypot(np.maximum(x, 0), np.maximum(y, 0))
    return box


def _heart(z: _Points) -> _Reals:
    x, y = abs(z.real) * 0.635, 0.625 - z.imag * 0.635  # the tip in the origin, lobes at (1/4, 3/4)
    lobe = np.hypot(x - 0.25, y - 0.75) - hypot(0.25, 0.25)
    foot = 0.5 * np.maximum(x + y, 0)  # of the perpendicular on the straight side
    side = np.minimum(np.hypot(x, y - 1.0), np.hypot(x - foot, y - foot))
    heart: _Reals = np.where(x + y > 1.0, lobe, np.copysign(side, x - y)) / 0.635
    return heart


def _crescent(z: _Points) -> _Reals:
    x, y = z.real, abs(z.imag)
    bite, tip = 0.48, 0.615 + 0.7885j  # a disc of radius 0.8 bites; both outlines meet at the tip
    past_tip = x * tip.imag - y * tip.real > bite * np.maximum(tip.imag - y, 0)
    arcs = np.maximum(abs(z) - 1.0, 0.8 - abs(z - bite))
    crescent: _Reals = np.where(past_tip, np.hypot(x - tip.real, y - tip.imag), arcs)
    return crescent


def _arrow(z: _Points) -> _Reals:
    slope = ((z.real - 1.0) * 0.8 + abs(z.imag) * 0.95) / hypot(0.8, 0.95)
    arrow: _Reals = np.minimum(np.maximum(slope, 0.05 - z.real), _box(z + 0.4, 0.53, 0.3))
    return arrow


_SHAPES: dict[str, _Shape] = {
    "disc": lambda z: abs(z) - 1.0,
    "ring": lambda z: abs(abs(z) - 0.71) - 0.29,
    "square": lambda z: _star(z, 4, cos(pi / 4)),
    "triangle": lambda z: _star(z, 3, cos(pi / 3)),
    "star": _star,
    "cross": lambda z: np.minimum(_box(z, 0.94, 0.32), _box(z, 0.32, 0.94)),
    "heart": _heart,
    "crescent": _crescent,
    "hexagon": lambda z: _star(z, 6, cos(pi / 6)),
    "arrow": _arrow,
}


# Textures: the distance to the border between two tones, given the pitch of the pattern.


def _wave(u: _Reals, pitch: float) -> _Reals:
    """Return a triangle wave of slope 1, lowest at 0: its signs are stripes."""
    return abs((u / pitch + 0.5) % 1.0 - 0.5) * pitch - pitch / 4


def _dotted(z: _Points, pitch: float) -> _Reals:
    from_dot = _wave(z.real, pitch) + 1j * _wave(z.imag, pitch) + (1 + 1j) * pitch / 4
    return abs(from_dot) - 0.3 * pitch


def _checkered(z: _Points, pitch: float) -> _Reals:
    x, y = _wave(z.real, pitch), _wave(z.imag, pitch)
    checks: _Reals = np.maximum(np.minimum(x, y), np.minimum(-x, -y))
    return checks


_TEXTURES: dict[str, _Texture] = {
    "plain": lambda z, pitch: np.ones_like(z.real),
    "striped": lambda z, pitch: _wave(z.real, pitch),
    "dotted": _dotted,
    "checkered": _checkered,
    "ringed": lambda z, pitch: _wave(abs(z), 0.85 * pitch),
    "zigzag": lambda z, pitch: _wave(z.real + 1.2 * _wave(z.imag, 1.6 * pitch), pitch) / 1.56,
}


SHAPES: tuple[str, ...] = tuple(_SHAPES)
TEXTURES: tuple[str, ...] = tuple(_TEXTURES)
CLASS_NAMES: tuple[str, ...] = tuple(f"a {how} {what}" for what in SHAPES for how in TEXTURES)
"""Every composition by label, all textures of the first shape first."""
UNSEEN: frozenset[int] = frozenset(
    label for label in range(len(CLASS_NAMES)) if sum(divmod(label, len(TEXTURES))) % 4 == 2
)
"""Labels held out for ever: diagonals, and so about a quarter of each shape and each texture."""

PAIRS = "pairs"
"""Not a split but pictures with two shapes each, without a label."""
_LABELS = {
    "seen": tuple(label for label in range(len(CLASS_NAMES)) if label not in UNSEEN),
    "unseen": tuple(sorted(UNSEEN)),
    "all": tuple(range(len(CLASS_NAMES))),
}


@dataclass(frozen=True)
class ToySpec:
    """How many pictures of the toy world, 1 to 10**9, and which: seen, unseen, all or pairs."""

    count: int
    split: str


def parse_toy(spec: str) -> ToySpec:
    """Read 'toy:COUNT' or 'toy:COUNT:SPLIT'; the split is 'seen' unless given, or pairs.

    Raises InputError where the count is not 1 to 10**9 or the split is unknown.
    """
    world, _, rest = spec.partition(":")
    count, colon, split = rest.partition(":")
    if world != "toy" or not re.fullmatch("[0-9]{1,10}", count) or not 1 <= int(count) <= _MOST:
        raise InputError(
            f"IMAGES {spec!r}: {count!r} is no count from 1 to {_MOST}; write toy:200, say"
        )
    if colon and split not in (*_LABELS, PAIRS):
        raise InputError(
            f"IMAGES {spec!r}: {split!r} is no split; write toy:{count}:seen, toy:{count}:unseen, "
            f"toy:{count}:all or toy:{count}:pairs"
        )
    return ToySpec(int(count), split or "seen")


def toy_label(index: int, split: str) -> int:
    """Return the class of picture `index` (from 0): an index into CLASS_NAMES.

    The classes of a split take turns: in any prefix of it, their counts differ by one at most.
    Raises KeyError where the split is unknown.
    """
    labels = _LABELS[split]
    return labels[index * _STRIDE % len(labels)]


@dataclass(frozen=True, eq=False)
class _Look:
    """Where the shape is and how all is lit; lengths in sides of the picture, the pitch in radii.

    light   unit vector towards the light
    colors  linear RGB, float32 (4, 3): two of the backdrop, two of the shape
    """

    center: complex
    radius: float
    turn: float
    texture_turn: float
    pitch: float
    light: complex
    colors: _Reals

    def own(self, points: _Points) -> _Points:
        """Return points of the picture in the shape's own frame: turned back, in radii."""
        return (points - self.center) / rect(self.radius, self.turn)


def draw_toy(index: int, split: str, size_px: int = 256) -> npt.NDArray[np.uint8]:
    """Draw picture `index` (from 0) of a split: one shape, wholly in view, on a soft backdrop.

    The picture is RGB uint8 (size_px, size_px, 3), a pure function of the arguments.
    Raises KeyError where the split is unknown.
    """
    what, how = divmod(toy_label(index, split), len(TEXTURES))
    shape, texture = _SHAPES[SHAPES[what]], _TEXTURES[TEXTURES[how]]
    rng = rng_for(0, f"toy/{split}/{index}", 0, "picture")
    look = _draw_look(rng, most_turn=radians(30) if SHAPES[what] == "heart" else pi)
    linear = _draw_backdrop(rng, look, shape, size_px)
    _paint(linear, look, shape, texture)
    gamma = np.sqrt(np.clip(linear, 0.0, 1.0))  # near enough to sRGB, and quick
    return (gamma * 255.0 + 0.5).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ToyPair:
    """A picture with two shapes side by side, for asking where something is.

    rgb     uint8 (S, S, 3)
    labels  of the left and the right shape; they differ in shape
    boxes   left, top, right, bottom of each shape, in shares of the side
    """

    rgb: npt.NDArray[np.uint8]
    labels: tuple[int, int]
    boxes: tuple[tuple[float, float, float, float], ...]

    @property
    def caption(self) -> str:
        """Both class names."""
        return " and ".join(CLASS_NAMES[label] for label in self.labels)


def draw_pair(index: int, size_px: int = 256) -> ToyPair:
    """Draw pair `index` (from 0): two shapes of half their usual size on one backdrop."""
    rng = rng_for(0, f"toy/pair/{index}", 0, "picture")
    whats = rng.choice(len(SHAPES), 2, replace=False).tolist()
    hows = rng.integers(len(TEXTURES), size=2).tolist()
    ground = _draw_look(rng, pi)
    linear = _draw_backdrop(rng, ground, lambda z: np.ones_like(z.real), size_px)
    boxes = []
    for middle, what, how in zip((0.26, 0.74), whats, hows, strict=True):
        look = _draw_look_on(ground, rng, radians(30) if SHAPES[what] == "heart" else pi)
        center = complex(middle, rng.uniform(0.28, 0.72))
        look = replace(look, center=center, radius=look.radius / 2, light=ground.light)
        before = linear.copy()
        _paint(linear, look, _SHAPES[SHAPES[what]], _TEXTURES[TEXTURES[how]])
        rows, columns = np.nonzero((linear != before).any(2))
        box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        boxes.append(tuple(float(side) / size_px for side in box))
    gamma = np.sqrt(np.clip(linear, 0.0, 1.0))
    labels = tuple(what * len(TEXTURES) + how for what, how in zip(whats, hows, strict=True))
    rgb = (gamma * 255.0 + 0.5).astype(np.uint8)
    return ToyPair(rgb, labels, tuple(boxes))  # type: ignore[arg-type]


def _draw_look_on(ground: _Look, rng: np.random.Generator, most_turn: float) -> _Look:
    """Draw a look whose tones show on a given ground: its own would have lain in the same band."""
    lit = float(_LUMA @ ground.colors[0])
    low, high = next(band for band in _BANDS if band[0] <= lit + 1e-6 and lit <= band[1] + 1e-6)
    while True:
        look = _draw_look(rng, most_turn)
        if low <= float(_LUMA @ look.colors[0]) + 1e-6 <= high + 2e-6:
            return look


def _draw_look(rng: np.random.Generator, most_turn: float) -> _Look:
    radius = rng.uniform(0.26, 0.36)
    room = 0.5 - radius - _MARGIN
    ground, *tones = (rng.uniform(*_BANDS[band]) for band in rng.permutation(3))
    hue, near = rng.uniform(), rng.uniform(0.04, 0.12)
    far = hue + rng.choice([0.33, 0.42, 0.5, 0.58])
    colors = zip(
        (ground, 0.9 * ground, *tones),
        (hue, hue + near, far, far + near),
        rng.uniform((0.15, 0.15, 0.4, 0.4), (0.5, 0.5, 0.8, 0.8)),
        strict=True,
    )
    return _Look(
        center=complex(*rng.uniform(0.5 - room, 0.5 + room, 2)),
        radius=radius,
        turn=rng.uniform(-most_turn, most_turn),
        texture_turn=rng.uniform(-pi, pi),
        pitch=rng.uniform(0.36, 0.48),
        light=rect(1.0, rng.uniform(-0.85 * pi, -0.15 * pi)),  # from above, as nearly everywhere
        colors=np.array([_tint(*color) for color in colors], np.float32),
    )


def _tint(luminance: float, hue: float, strength: float) -> _Reals:
    """Return the linear RGB (3,) of a luminance, `strength` of the way from grey to the purest."""
    wheel = np.cos(tau * (hue - np.arange(3) / 3))
    away: _Reals = wheel - _LUMA @ wheel
    purest = float(np.maximum((1.0 - luminance) / away, -luminance / away).min())
    return luminance + strength * purest * away


def _draw_backdrop(rng: np.random.Generator, look: _Look, shape: _Shape, size_px: int) -> _Reals:
    """Draw two soft colours, at times faint waves, and the shadow: linear (size_px, size_px, 3)."""
    points = _grid(_COARSE)
    around = points - (0.5 + 0.5j)
    mix = 0.5 - 0.5 * (around * look.light.conjugate()).real
    for x, y, width, strength in rng.uniform(*_BLOBS, (4, 4)).tolist():
        mix = mix + strength * np.exp(-((abs(around - complex(x, y)) / width) ** 2))
    across = (around * rect(1.0, rng.uniform(-pi, pi))).real
    waves = float(rng.choice([0.0, 0.0, 0.03])) * np.sin(tau * rng.uniform(3.0, 7.0) * across)
    shadow = look.radius * shape(look.own(points + _SHADOW * look.light))
    shade = 1.0 + waves - 0.4 * _smooth(0.5 - shadow / (4.0 * _SHADOW))
    backdrop = _blend(look.colors[:2], _smooth(mix)) * shade[..., None]
    large: _Reals = cv2.resize(backdrop, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    return large


def _paint(linear: _Reals, look: _Look, shape: _Shape, texture: _Texture) -> None:
    """Lay the shape over a picture, in place; only the square around the shape is worked on."""
    size_px = len(linear)
    x, y = (
        slice(int((c - look.radius) * size_px), ceil((c + look.radius) * size_px))
        for c in (look.center.real, look.center.imag)
    )
    own = look.own(_grid(size_px)[y, x])
    radius_px = look.radius * size_px
    tone = _smooth(0.5 + radius_px * texture(own * rect(1.0, look.texture_turn), look.pitch))
    facing = (own * rect(1.0, look.turn) * look.light.conjugate()).real
    paint = _blend(look.colors[2:], tone) * (0.95 + 0.12 * facing)[..., None]
    cover = _smooth(0.5 - radius_px * shape(own))
    linear[y, x] += cover[..., None] * (paint - linear[y, x])


def _grid(size: int) -> _Points:
    """Return the centres of size x size pixels in the unit square."""
    centers = (np.arange(size, dtype=np.float32) + 0.5) / size
    return centers + 1j * centers[:, None]


def _smooth(share: _Reals) -> _Reals:
    clipped: _Reals = np.clip(share, 0.0, 1.0)
    return clipped * clipped * (3.0 - 2.0 * clipped)


def _blend(colors: _Reals, share: _Reals) -> _Reals:
    """Return colours (H, W, 3) between the two of (2, 3), by shares (H, W)."""
    blend: _Reals = colors[0] + share[..., None] * (colors[1] - colors[0])
    return blend
