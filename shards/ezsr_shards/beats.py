"""Beats: how runs that share an OUT show each other that they are alive.

A run writes `.TOKEN.beat` anew every few seconds. It is taken for dead once that file has not
changed for `expiry_s` by the clock of the process that looks: clocks of two machines are never
compared, and none needs to be right. On the machine where it ran, its process tells at once.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ezsr_shards.errors import EzsrError
from ezsr_shards.shardset import write_json
from ezsr_shards.store import Store

BEATS_IN_EXPIRY = 6
NOBODY = "0" * 16
"""A token that no run has."""

_UNREADABLE_EXPIRY_S = 60.0
_SECONDS_TO_STOP = 5.0
_BEAT = re.compile(r"\.([0-9a-f]{16})\.beat")
_LIVING_HERE: set[str] = set()
"""Tokens of the runs of this process."""


@dataclass(frozen=True)
class Beat:
    """What a run says of itself.

    token      its name, drawn at random
    host, pid  where it runs; `machine` tells machines, containers and boots apart
    expiry_s   silence after which it is taken for dead
    started_s, said_s  its own clock, in seconds since 1970
    count      grows with every beat
    work       what it is doing
    """

    token: str
    host: str
    pid: int
    machine: str
    expiry_s: float
    started_s: float
    said_s: float
    count: int
    work: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return who it is, for a sentence."""
        return f"process {self.pid} on {self.host}"

    @staticmethod
    def parse(data: bytes) -> Beat | None:
        """Return the beat in a file, None where it holds none."""
        try:
            beat = Beat(**json.loads(data))
        except (ValueError, TypeError, RecursionError):
            return None
        numbers = beat.expiry_s, beat.started_s, beat.said_s
        kinds = (beat.pid, int), (beat.count, int), (beat.work, dict), (beat.host, str)
        whole = all(isinstance(value, kind) for value, kind in kinds)
        return beat if whole and all(isinstance(n, int | float) for n in numbers) else None


def find_beats(names: Iterable[str]) -> list[str]:
    """Return the tokens of all runs that have a beat among a folder's names."""
    return [match[1] for match in map(_BEAT.fullmatch, names) if match]


def beat_name(token: str) -> str:
    """Return the file name of a run's beat."""
    return f".{token}.beat"


def is_token(text: str) -> bool:
    """Tell whether a text could be a run's token."""
    return _BEAT.fullmatch(beat_name(text)) is not None


class Heart:
    """Writes this run's beat until it is stopped; `work` is asked for what the run is doing."""

    def __init__(self, store: Store, expiry_s: float) -> None:
        """Draw a token; nothing is written yet."""
        self.token = uuid.uuid4().hex[:16]
        self.work: Callable[[], Mapping[str, Any]] = dict
        self._store, self._expiry_s = store, expiry_s
        self._started_s, self._count = time.time(), 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def start(self) -> None:
        """Beat once, and then in the background; raise OSError where OUT cannot be written."""
        self._beat()
        _LIVING_HERE.add(self.token)
        self._thread.start()

    def stop(self) -> None:
        """Beat no more, and take the beat away."""
        self._ended.set()
        self._thread.join(_SECONDS_TO_STOP)
        _LIVING_HERE.discard(self.token)
        with suppress(OSError, EzsrError):
            self._store.delete(beat_name(self.token))

    def _go_on(self) -> None:
        while not self._ended.wait(self._expiry_s / BEATS_IN_EXPIRY):
            with suppress(Exception):  # the work will meet it, too, and can say so
                self._beat()

    def _beat(self) -> None:
        self._count += 1
        beat = Beat(
            token=self.token,
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            expiry_s=self._expiry_s,
            started_s=self._started_s,
            said_s=time.time(),
            count=self._count,
            work=self.work(),
        )
        write_json(self._store, beat_name(self.token), asdict(beat))


class Lookout:
    """Tells living runs from dead ones by looking again and again."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never go back; it is injected by tests."""
        self._store, self._clock = store, clock
        self._seen: dict[str, tuple[bytes, float]] = {}

    def read(self, token: str) -> Beat | None:
        """Return a run's beat as it is now, None where there is none that can be read."""
        try:
            return Beat.parse(self._store.read(beat_name(token)))
        except FileNotFoundError:
            return None

    def is_alive(self, token: str) -> bool | None:
        """Look at a run once more; None where it cannot be told yet."""
        if token in _LIVING_HERE:
            return True
        try:
            data = self._store.read(beat_name(token))
        except FileNotFoundError:  # it ended, or somebody found it dead
            return False
        beat, now = Beat.parse(data), self._clock()
        if beat and _is_gone(beat):
            return False
        before, since = self._seen.setdefault(token, (data, now))
        if data != before:
            self._seen[token] = (data, now)
            return True
        return False if now - since >= (beat.expiry_s if beat else _UNREADABLE_EXPIRY_S) else None


def _is_gone(beat: Beat) -> bool:
    """Tell whether a run's process is known to have ended, which only its own machine knows."""
    if beat.machine != _machine() or os.name != "posix":
        return False
    if beat.pid == os.getpid():  # a run of this process that is not among the living
        return True
    try:
        os.kill(beat.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _machine() -> str:
    """Return what no other machine, container or boot is called."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        parts.append(f"{uuid.getnode():012x}")
    return " ".join(parts)
