"""Recording: one sample, of which only what is asked for is unpacked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from ezsr_shards.events import EventStream
from ezsr_shards.shardset import ShardClass


class Recording(Protocol):
    """One recording.

    key            its name
    width, height  of the sensor in pixels
    events         number of events N
    label          class, or -1
    jpeg           the picture's bytes, or None
    """

    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def height(self) -> int: ...  # noqa: D102
    @property
    def events(self) -> int: ...  # noqa: D102
    @property
    def label(self) -> int: ...  # noqa: D102
    @property
    def jpeg(self) -> bytes | None: ...  # noqa: D102

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Return events start to stop of column x, y, t or p; raise ShardError where broken."""
        ...


class Recordings(Protocol):
    """Recordings by number, with all classes there are."""

    @property
    def classes(self) -> tuple[ShardClass, ...]:
        """Every class, present or not, by label."""
        ...

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def read(self, number: int, with_picture: bool) -> Recording:
        """Return a recording; raise ShardError where it is broken."""
        ...

    def origin(self, number: int) -> str:
        """Return the file that a recording lies in."""
        ...


@dataclass(frozen=True)
class StreamRecording:
    """A recording that is in memory as an event stream."""

    stream: EventStream
    key: str = "recording"
    label: int = -1
    jpeg: bytes | None = None

    @property
    def width(self) -> int:
        """Of the sensor in pixels."""
        return self.stream.width

    @property
    def height(self) -> int:
        """Of the sensor in pixels."""
        return self.stream.height

    @property
    def events(self) -> int:
        """Number of events."""
        return len(self.stream)

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Return events start to stop of a column."""
        column: npt.NDArray[Any] = getattr(self.stream, name)
        return column[start:stop]
