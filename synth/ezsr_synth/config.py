"""What can be configured, as typed values that check themselves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import atan, atan2, cos, hypot, log, radians, sin, tan
from typing import Any, Literal

from ezsr_shards.errors import ConfigError, check_number
from ezsr_synth.presets import CAMERAS, MOTIONS, Values

Range = tuple[float, float]
MAX_SIDE_PX = 4096
_LEAST_BANDWIDTH_HZ = 1e-3
MAX_TILT_DEG = 40.0
LEAST_NEARNESS = 0.3
"""How near a tilted picture must be wherever it is seen: 1 as near as its middle, 0 the horizon."""


@dataclass(frozen=True)
class SensorSize:
    """Sensor width and height in pixels, written WxH."""

    width: int
    height: int

    def __post_init__(self) -> None:
        """Refuse sensors that no camera has."""
        sides = (self.width, self.height)
        if not all(isinstance(side, int) and 8 <= side <= MAX_SIDE_PX for side in sides):
            raise ConfigError(
                f"size {self}: give WxH with both sides from 8 to {MAX_SIDE_PX} whole pixels"
            )

    @property
    def longer_px(self) -> int:
        """Return the longer side."""
        return max(self.width, self.height)

    def __str__(self) -> str:
        """Return WxH."""
        return f"{self.width}x{self.height}"

    @staticmethod
    def parse(text: str) -> SensorSize:
        """Read "WxH"."""
        width, x, height = text.lower().partition("x")
        if not (x and width.isdecimal() and height.isdecimal()):
            raise ConfigError(f"size {text!r}: write WxH in pixels, such as 224x224")
        return SensorSize(int(width), int(height))


PRESET: Any = None
"""Stands for the value of the preset, and is replaced by it."""


@dataclass(frozen=True)
class MotionConfig:
    """The path along which the picture moves; what is left out has the family's own value.

    After a mixture, every family has its own values for what was left out: `of` tells them.
    """

    family: str = "affine"
    """Motion family, or a mixture by weight, such as affine:2,drift:1 (see --list motions)."""
    duration_us: int = PRESET
    """Length of the whole path in microseconds; the event cap may end the recording sooner."""
    translation_px: Range = PRESET
    """Least and most shift, in sensor pixels: from start to end, or the side of a closed path."""
    rotation_deg: float = PRESET
    """Most rotation over the whole path, in degrees, either way."""
    zoom_percent: float = PRESET
    """Most change of scale over the whole path, in percent, either way."""
    tilt_deg: float = PRESET
    """Most tilt of the picture's plane over the whole path, in degrees (homography)."""
    max_step_px: float = 0.5
    """Most that any point of the picture moves between two time samples, which are a microsecond
    apart or more: the JSON of a sample that was too fast for it tells the largest step."""

    def __post_init__(self) -> None:
        """Take a family's values where none are given; refuse paths that cannot be simulated."""
        _check_kind("motion.family", self.family, str)
        weights = self.weights()
        if len(weights) == 1:
            _fill(self, MOTIONS[next(iter(weights))])
        if self.translation_px is not None:
            check_range("motion.translation_px", self.translation_px, 0.0, 4096.0)
        for name, least, most in (
            ("duration_us", 100, 60_000_000),
            ("rotation_deg", 0.0, 180.0),
            ("zoom_percent", 0.0, 90.0),
            ("tilt_deg", 0.0, MAX_TILT_DEG),
            ("max_step_px", 0.01, 4.0),
        ):
            if getattr(self, name) is not None:
                check_number(f"motion.{name}", getattr(self, name), least, most)
        if self.tilt_deg and not any(MOTIONS[family]["tilt_deg"] for family in weights):
            raise ConfigError(
                f"motion.tilt_deg {self.tilt_deg}: {self.family} does not tilt; leave it out, or "
                f"give motion homography"
            )

    def weights(self) -> dict[str, float]:
        """Return each family's share of the samples."""
        parts = [part.strip().partition(":") for part in self.family.split(",")]
        shares: dict[str, float] = {}
        for name, colon, weight in parts:
            if name not in MOTIONS:
                raise ConfigError(f"motion {name!r}: give one of {', '.join(MOTIONS)}")
            try:
                shares[name] = float(weight) if colon else 1.0
            except ValueError:
                raise ConfigError(f"motion {name}:{weight}: the weight is no number") from None
            check_number(f"motion {name}: weight", shares[name], 1e-6, 1e6)
        if len(shares) < len(parts):
            raise ConfigError(f"motion {self.family}: a family is named twice")
        return {name: share / sum(shares.values()) for name, share in shares.items()}

    def of(self, family: str) -> MotionConfig:
        """Return the configuration of one family of the mixture."""
        tilt_deg = self.tilt_deg if MOTIONS[family]["tilt_deg"] else PRESET
        return replace(self, family=family, tilt_deg=tilt_deg)

    def nearness(self, size: SensorSize, tilt_deg: float) -> float:
        """Return how near the picture is, at the least, where a corner of the sensor sees it.

        The ray through (x, y) px from the middle meets a plane that is panned by a and nodded by b
        at 1 / (1 + x tan(a) / (f cos(b)) - y tan(b) / f) times the distance of its middle, with
        the focal length f of `families.draw_homography`. A corner is worst where it is turned
        towards the direction (1 / cos(b), 1), as far as `rotation_deg` allows.
        """
        tilt, turn = radians(tilt_deg), radians(self.rotation_deg)
        corner = atan2(size.height - 1, size.width - 1)
        worst = min(max(atan(cos(tilt)), corner - turn), corner + turn)
        reach_px = (1 + self.zoom_percent / 100) * hypot(size.width - 1, size.height - 1) / 2
        slope = tan(tilt) * (cos(worst) / cos(tilt) + sin(worst))
        return 1 - reach_px / size.longer_px * slope

    def largest_tilt_deg(self, size: SensorSize) -> float:
        """Return the largest tilt, to a tenth of a degree, that keeps the picture near enough."""
        tilts = (tenths / 10 for tenths in range(int(10 * MAX_TILT_DEG) + 1))
        return max(tilt for tilt in tilts if self.nearness(size, tilt) >= LEAST_NEARNESS)


@dataclass(frozen=True)
class CameraConfig:
    """The event camera, by name; what is left out has the preset's value.

    Pairs are ranges, drawn from once per sample.
    """

    preset: str = "ideal"
    """Camera that the other values are taken from (see --list cameras)."""
    threshold_on: Range = PRESET
    """ON contrast threshold, in log intensity."""
    threshold_off: Range = PRESET
    """OFF contrast threshold, in log intensity."""
    threshold_mismatch: Range = PRESET
    """Standard deviation of the thresholds over the pixels, as a share of the threshold."""
    random_phase: bool = PRESET
    """Pixels start anywhere between their thresholds; false: at the light they first see."""
    refractory_us: Range = PRESET
    """After an event the pixel rests this long, then takes the light it sees for its reference."""
    bandwidth_hz: Range = PRESET
    """Cut-off frequency of a white pixel's photoreceptor, lower in the dark; 0: without limit."""
    leak_hz: Range = PRESET
    """Rate of the ON events of a pixel that sees no change; it varies by 0.1 decade over pixels."""
    shot_noise_hz: Range = PRESET
    """Rate of noise events of a black pixel, ON and OFF together; a quarter of it in white."""
    hot_pixels: Range = PRESET
    """Share of pixels that fire ON events all the time."""
    hot_pixel_hz: Range = PRESET
    """Least and most rate of a hot pixel; each has its own f, less with a refractory period r:
    1 / (1 / f + r)."""
    timestamp_us: int = PRESET
    """Time stamps are multiples of this many microseconds."""
    row_readout_us: float = PRESET
    """Time in which an arbiter reads all waiting events of one row; 0: at once."""
    lens_blur_px: float = PRESET
    """Standard deviation of the lens blur, in sensor pixels."""
    log_floor: float = PRESET
    """Added to the linear luminance (white = 1) before the logarithm."""

    def __post_init__(self) -> None:
        """Take the preset's values where none are given; refuse cameras that cannot be."""
        _check_kind("camera.preset", self.preset, str)
        if self.preset not in CAMERAS:
            raise ConfigError(f"camera {self.preset!r}: give one of {', '.join(CAMERAS)}")
        _fill(self, CAMERAS[self.preset])
        for name, least, most in (
            ("threshold_on", 0.01, 10.0),
            ("threshold_off", 0.01, 10.0),
            ("threshold_mismatch", 0.0, 0.5),
            ("refractory_us", 0.0, 1e6),
            ("bandwidth_hz", 0.0, 1e6),
            ("leak_hz", 0.0, 1000.0),
            ("shot_noise_hz", 0.0, 1000.0),
            ("hot_pixels", 0.0, 0.1),
            ("hot_pixel_hz", 0.01, 10_000.0),
        ):
            check_range(f"camera.{name}", getattr(self, name), least, most)
        _check_kind("camera.random_phase", self.random_phase, bool)
        if 0 < self.bandwidth_hz[1] < _LEAST_BANDWIDTH_HZ:
            raise ConfigError(
                f"camera.bandwidth_hz {self.bandwidth_hz}: give 0 for no limit, or at least "
                f"{_LEAST_BANDWIDTH_HZ} Hz"
            )
        check_number("camera.timestamp_us", self.timestamp_us, 1, 100_000)
        check_number("camera.row_readout_us", self.row_readout_us, 0.0, 1000.0)
        check_number("camera.lens_blur_px", self.lens_blur_px, 0.0, 20.0)
        check_number("camera.log_floor", self.log_floor, 1e-3, 1.0)
        self._check_thresholds()

    def scene_facts(self) -> dict[str, float]:
        """Return what was given instead of the preset's lens and floor, for the sample's JSON."""
        named = {name: getattr(self, name) for name in ("lens_blur_px", "log_floor")}
        preset = CAMERAS[self.preset]
        return {name: value for name, value in named.items() if value != preset[name]}

    def _check_thresholds(self) -> None:
        """Refuse thresholds that no change of light, from black to white or back, can reach."""
        most = log((1 + self.log_floor) / self.log_floor)
        for name in ("threshold_on", "threshold_off"):
            if getattr(self, name)[0] > most:
                raise ConfigError(
                    f"camera.{name} {getattr(self, name)}: black and white are {most:.3g} apart "
                    f"with camera.log_floor {self.log_floor}; begin the range below that"
                )


def _fill(config: Any, values: Values) -> None:
    """Give the fields of a frozen configuration that were left out the values of a preset."""
    for name, value in values.items():
        if getattr(config, name) is PRESET:
            object.__setattr__(config, name, value)


@dataclass(frozen=True)
class SynthConfig:
    """Everything that decides the bytes of a sample, besides its picture."""

    size: SensorSize = SensorSize(224, 224)
    """Sensor size, WxH in pixels."""
    fit: Literal["cover", "contain"] = "cover"
    """cover: the picture fills the sensor, no border is ever seen; contain: on a black screen."""
    contain_scale: Range = (0.6, 0.9)
    """With fit=contain, the picture's size as a share of the largest that the sensor holds."""
    views: int = 1
    """Recordings of each picture, each with its own motion and thresholds."""
    seed: int = 0
    """Seed of all randomness."""
    max_events: int = 50_000
    """Most events in a sample: the first are kept and the recorded duration shortened."""
    min_events: int = 100
    """Fewest events in a sample: a picture that gives fewer is counted as a failure."""
    jpeg_quality: int = 90
    """Quality of the stored RGB picture."""
    max_pixels: int = 64_000_000
    """Pictures with more pixels are refused before they are decoded."""
    motion: MotionConfig = field(default_factory=MotionConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)

    def __post_init__(self) -> None:
        """Refuse settings that contradict one another."""
        for name, kind in (
            ("size", SensorSize),
            ("motion", MotionConfig),
            ("camera", CameraConfig),
        ):
            _check_kind(name, getattr(self, name), kind)
        if self.fit not in ("cover", "contain"):
            raise ConfigError(f"fit {self.fit!r}: give cover or contain")
        check_range("contain_scale", self.contain_scale, 0.05, 1.0)
        check_number("views", self.views, 1, 100)
        check_number("seed", self.seed, 0, 2**63 - 1)
        check_number("max_events", self.max_events, 1, 50_000_000)
        check_number("min_events", self.min_events, 0, 50_000_000)
        if self.max_events < self.min_events:
            raise ConfigError(
                f"max_events {self.max_events}: no sample would have min_events "
                f"{self.min_events}; raise the one or lower the other"
            )
        check_number("jpeg_quality", self.jpeg_quality, 1, 100)
        check_number("max_pixels", self.max_pixels, 1, 178_000_000)  # Pillow refuses more
        for family in self.motion.weights():
            self._check_path(family, self.motion.of(family))
            self._check_clock(family, self.motion.of(family))

    def _check_clock(self, family: str, motion: MotionConfig) -> None:
        """Refuse clocks that do not tick within the path, after its start."""
        if self.camera.timestamp_us >= motion.duration_us:
            raise ConfigError(
                f"camera.timestamp_us {self.camera.timestamp_us}: every event would be at 0; keep "
                f"it under motion.duration_us {motion.duration_us} ({family})"
            )

    def _check_path(self, family: str, motion: MotionConfig) -> None:
        """Refuse paths of one family on which this sensor would lose sight of the picture."""
        shorter = min(self.size.width, self.size.height)
        if motion.translation_px[1] > shorter:
            raise ConfigError(
                f"motion.translation_px {motion.translation_px} ({family}): the picture would "
                f"leave a {self.size} sensor; keep the largest shift at or under {shorter} pixels"
            )
        if motion.nearness(self.size, motion.tilt_deg) < LEAST_NEARNESS:
            raise ConfigError(
                f"motion.tilt_deg {motion.tilt_deg} ({family}): a corner of a {self.size} sensor "
                f"would look towards the picture's horizon; keep it at or under "
                f"{motion.largest_tilt_deg(self.size)} degrees, or lower motion.zoom_percent "
                f"{motion.zoom_percent}"
            )


def check_range(field_name: str, value: Range, least: float, most: float) -> None:
    """Raise ConfigError unless value is an ordered pair inside [least, most]."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ConfigError(f"{field_name} {value!r}: give two numbers, least and most")
    for end in value:
        check_number(field_name, end, least, most)
    if value[0] > value[1]:
        raise ConfigError(f"{field_name} {value}: the first value is the larger; swap them")


def _check_kind(field_name: str, value: object, kind: type) -> None:
    """Raise ConfigError unless value is of the kind that its field holds."""
    if not isinstance(value, kind):
        remedy = {str: "a name", bool: "true or false"}.get(kind, f"a {kind.__name__}")
        raise ConfigError(f"{field_name} {value!r}: give {remedy}")
