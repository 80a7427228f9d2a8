"""What can be configured, as typed values that check themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ezsr_shards.errors import ConfigError, check_number

Range = tuple[float, float]
MAX_SIDE_PX = 4096


@dataclass(frozen=True)
class SensorSize:
    """Sensor width and height in pixels, written WxH."""

    width: int
    height: int

    def __post_init__(self) -> None:
        """Refuse sensors that no camera has."""
        if not (8 <= self.width <= MAX_SIDE_PX and 8 <= self.height <= MAX_SIDE_PX):
            raise ConfigError(
                f"size {self}: give WxH with both sides from 8 to {MAX_SIDE_PX} pixels"
            )

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


@dataclass(frozen=True)
class MotionConfig:
    """The random affine path along which the picture moves (EZSR, section on synthesis)."""

    duration_us: int = 50_000
    """Length of the whole path in microseconds; the event cap may end the recording sooner."""
    translation_px: Range = (8.0, 24.0)
    """Least and most shift over the whole path, in sensor pixels; the direction is random."""
    rotation_deg: float = 5.0
    """Most rotation over the whole path, in degrees, either way."""
    zoom_percent: float = 5.0
    """Most change of scale over the whole path, in percent, either way."""
    max_step_px: float = 0.5
    """Most that any point of the picture moves between two time samples."""

    def __post_init__(self) -> None:
        """Refuse paths that cannot be simulated."""
        check_range("motion.translation_px", self.translation_px, 0.0, 4096.0)
        check_number("motion.duration_us", self.duration_us, 100, 60_000_000)
        check_number("motion.rotation_deg", self.rotation_deg, 0.0, 180.0)
        check_number("motion.zoom_percent", self.zoom_percent, 0.0, 90.0)
        check_number("motion.max_step_px", self.max_step_px, 0.01, 4.0)


@dataclass(frozen=True)
class CameraConfig:
    """The event camera: how it sees the picture and when its pixels fire."""

    threshold_on: Range = (0.1, 0.3)
    """Range of the ON contrast threshold, in log intensity; one draw per sample."""
    threshold_off: Range = (0.1, 0.3)
    """Range of the OFF contrast threshold, in log intensity; one draw per sample."""
    lens_blur_px: float = 0.8
    """Standard deviation of the lens blur, in sensor pixels."""
    log_floor: float = 1e-3
    """Added to the linear luminance (white = 1) before the logarithm."""

    def __post_init__(self) -> None:
        """Refuse cameras that would fire without end."""
        check_range("camera.threshold_on", self.threshold_on, 0.01, 10.0)
        check_range("camera.threshold_off", self.threshold_off, 0.01, 10.0)
        check_number("camera.lens_blur_px", self.lens_blur_px, 0.0, 20.0)
        check_number("camera.log_floor", self.log_floor, 1e-3, 1.0)


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
        check_range("contain_scale", self.contain_scale, 0.05, 1.0)
        check_number("views", self.views, 1, 100)
        check_number("seed", self.seed, 0, 2**63 - 1)
        check_number("max_events", self.max_events, 1, 50_000_000)
        check_number("min_events", self.min_events, 0, self.max_events)
        check_number("jpeg_quality", self.jpeg_quality, 1, 100)
        check_number("max_pixels", self.max_pixels, 1, 178_000_000)  # Pillow refuses more
        shorter = min(self.size.width, self.size.height)
        if self.motion.translation_px[1] > shorter:
            raise ConfigError(
                f"motion.translation_px {self.motion.translation_px}: the picture would leave a "
                f"{self.size} sensor; keep the largest shift at or under {shorter} pixels"
            )


def check_range(field_name: str, value: Range, least: float, most: float) -> None:
    """Raise ConfigError unless value is an ordered pair inside [least, most]."""
    low, high = value
    if low > high:
        raise ConfigError(f"{field_name} {value}: the first value is the larger; swap them")
    check_number(field_name, low, least, most)
    check_number(field_name, high, least, most)
