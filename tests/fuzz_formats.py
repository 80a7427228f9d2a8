"""Fuzz: damaged recordings of every format, thrown at the readers.

Whatever the bytes, a reader ends in time and in bounded memory with events that keep the contract,
or with the error that the importer counts; it never takes its process with it. Each input is a
function of (seed, format, number), and of the real recordings at hand, so that any of them can be
made again.

    python tests/fuzz_formats.py --seconds 600 --seed 1 --format evt3 --save offenders
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import re
import resource
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import fuzz_corpus as corpus
import numpy as np
from conftest import REAL_DATA
from fuzz_corpus import Columns, Seed

from ezsr_shards.errors import EzsrError, InputError
from ezsr_shards.events import EventStream
from ezsr_shards.formats.raw import AS_READ, RecordingError
from ezsr_shards.importer import RecordingList
from ezsr_shards.shard import read_shard

LIMIT_CPU_S, LIMIT_S = 5, 120
"""For one file of a few kilobytes: computing, and waiting on a machine that does other things."""
LIMIT_BYTES = 512 << 20
"""What a process may grow by while it reads such files."""
BATCH = 500
_SHOWN = 20
_IN_PLACE = (0, 2, 7, 8)
"""Kinds of damage that move nothing."""
_ENDINGS = (signal.SIGALRM, signal.SIGPROF)
_NUMBERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    32767,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)
_TEXTS = (
    b"0",
    b"-1",
    b"3",
    b"99999",
    b"200000001",
    b"4294967296",
    b"9" * 30,
    b"nan",
    b"1e400",
    b"",
)


@dataclass(frozen=True)
class Format:
    """How one format is read, what refusals count as, whole files of it, and its own words."""

    suffix: str
    read: Callable[[Path], Iterable[EventStream]]
    write: Callable[[Columns], Seed | list[Seed]]
    refusals: tuple[type[EzsrError], ...] = (RecordingError, InputError)
    words: tuple[bytes, ...] = ()

    def seeds(self, events: Iterable[Columns]) -> list[Seed]:
        """Return whole files of the given events."""
        made: list[Seed] = []
        for columns in events:
            written = self.write(columns)
            made += [written] if isinstance(written, Seed) else written
        return made


def _as(name: str, size: tuple[int, int] | None = None) -> Callable[[Path], list[EventStream]]:
    listed = RecordingList(Path(), name, (), {}, (), None, size, AS_READ)
    return lambda path: [listed.open(str(path))]


def _streams(path: Path) -> list[EventStream]:
    return [sample.events for sample in read_shard(path)]


_DTYPES = (
    b"'|O'",
    b"'<f2'",
    b"'>u4'",
    b"'<i8'",
    b"'?'",
    b"'<f8'",
    b"'S9'",
    b"'<u2'",
    b"'<M8[us]'",
    b"'V8'",
)
FORMATS = {
    "aer40": Format(".bin", _as("n-mnist", (240, 240)), corpus.aer40),
    "aedat2-dvs128": Format(
        ".aedat", _as("cifar10-dvs"), corpus.dvs128, words=(b"#!AER-DAT2.0", b"\r\n")
    ),
    "aedat2-davis346": Format(
        ".aedat", _as("paf"), corpus.davis346, words=(b"#End Of ASCII Header\r\n",)
    ),
    "aedat4": Format(
        ".aedat4",
        _as("aedat4"),
        corpus.aedat4,
        words=(
            b"EVTS",
            b"TRIG",
            b"IOHE",
            b"sizeX",
            b"<attr",
            b"</node>",
            b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
        ),
    ),
    "evt2": Format(
        ".raw", _as("evt"), corpus.evt2, words=(b"% evt 3.0\n", b"% end\n", b"% geometry 0x0\n")
    ),
    "evt3": Format(
        ".raw", _as("evt"), corpus.evt3, words=(b"% evt 2.0\n", b"endianness=big", b"width=")
    ),
    "npy": Format(".npy", _as("npy", (640, 480)), corpus.npy, words=_DTYPES),
    "npz": Format(
        ".npz",
        _as("npz", (640, 480)),
        corpus.npz,
        words=(*_DTYPES, b"PK\1\2", b"PK\5\6", b"PK\6\6"),
    ),
    "mat": Format(".mat", _as("ucf101-dvs"), corpus.mat, words=(b"ts", b"pol", b"MI", b"IM")),
    "mat73": Format(
        ".mat", _as("ucf101-dvs"), corpus.mat73, words=(b"HEAP", b"TREE", b"SNOD", b"OHDR")
    ),
    "hdf5": Format(
        ".h5", _as("hdf5", (640, 480)), corpus.hdf5, words=(b"HEAP", b"TREE", b"SNOD", b"OHDR")
    ),
    "bullying10k": Format(
        ".npy",
        _as("bullying10k"),
        corpus.bullying10k,
        words=(
            b"numpy\n",
            b"cos\nsystem\n",
            b"q\x00",
            b"(",
            b"K",
            b"tR",
            b"b.",
            b"h\x00",
            b"i8",
            b"O8",
            b"V",
        ),
    ),
    "shard": Format(
        ".tar", _streams, corpus.shard, (EzsrError,), (b"null", b"[", b"{", b"key.", b"\x00" * 512)
    ),
}


@dataclass
class Outcomes:
    """What came of the inputs of one format: counts by outcome, and the numbers of offenders."""

    counts: Counter[str] = field(default_factory=Counter)
    offenders: dict[int, str] = field(default_factory=dict)


def make_input(seeds: Sequence[Seed], words: Sequence[bytes], key: tuple[int, ...]) -> bytes:
    """Return a damaged file: a pure function of its arguments."""
    rng = np.random.default_rng(key)
    chosen, other = (seeds[int(n)] for n in rng.integers(0, len(seeds), 2))
    parts = list(chosen.parts)
    if len(parts) > 1 and rng.random() < 0.7:
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(0, len(parts)))
            parts[at] = _damage(rng, parts[at], words, other)
        return chosen.join(parts)
    data = chosen.join(parts)
    for _ in range(int(rng.integers(1, 5))):
        data = _damage(rng, data, words, other)
    return data


def _damage(rng: np.random.Generator, data: bytes, words: Sequence[bytes], other: Seed) -> bytes:
    at = _place(rng, len(data))
    kind = int(rng.choice(_IN_PLACE)) if other.rigid and rng.random() < 0.9 else rng.integers(0, 9)
    if kind == 0:  # a bit
        return (
            data[:at]
            + bytes([(data[at] if data else 0) ^ 1 << int(rng.integers(0, 8))])
            + data[at + 1 :]
        )
    if kind == 1:
        return data[:at]
    if kind == 2:  # a count, an offset, a size
        width, order = int(rng.choice([1, 2, 4, 8])), "<>"[int(rng.integers(0, 2))]
        near = len(data) + int(rng.integers(-16, 17))
        number = int(rng.choice(_NUMBERS)) if rng.random() < 0.8 else max(near, 0)
        number &= (1 << 8 * width) - 1
        packed = number.to_bytes(width, "little" if order == "<" else "big")
        return data[:at] + packed + data[at + width :]
    if kind == 3:  # a number or a word of the header
        found = list(re.finditer(rb"-?\d+", data[:4096]))
        if found:
            one = found[int(rng.integers(0, len(found)))]
            return (
                data[: one.start()] + _TEXTS[int(rng.integers(0, len(_TEXTS)))] + data[one.end() :]
            )
    if kind == 4 and words:
        word = words[int(rng.integers(0, len(words)))]
        replaced = len(word) if rng.random() < 0.5 else 0
        return data[:at] + word + data[at + replaced :]
    if kind == 5:  # splice
        spliced = other.join(other.parts)
        return data[:at] + spliced[_place(rng, len(spliced)) :]
    if kind == 6:  # a piece twice, moved or left out
        end = min(len(data), at + int(rng.integers(1, 200)))
        return data[:end] + data[at:] if rng.random() < 0.5 else data[:at] + data[end:]
    if kind == 7:
        filled = int(rng.integers(1, 64))
        return (
            data[:at]
            + bytes([int(rng.choice([0, 0xFF, 0x20, 0x0A]))]) * filled
            + data[at + filled :]
        )
    drawn = rng.bytes(int(rng.integers(1, 9)))
    return data[:at] + drawn + data[at + len(drawn) :]


def _place(rng: np.random.Generator, size: int) -> int:
    """Return a place in a file, more often near its ends, where counts and directories are."""
    if size == 0:
        return 0
    where = rng.random()
    if where < 0.4:
        return int(rng.integers(0, min(size, 256)))
    if where < 0.6:
        return size - 1 - int(rng.integers(0, min(size, 128)))
    return int(rng.integers(0, size))


def try_input(fmt: Format, path: Path) -> str:
    """Read a file; return "events", the reason of its refusal, or "OFFENDER ..."."""
    try:
        for events in fmt.read(path):
            events.check()
    except fmt.refusals as error:
        if _is_of_memory(error):
            return "OFFENDER memory"
        return getattr(error, "reason", "refused")
    except BaseException as error:
        return f"OFFENDER {type(error).__name__}: {error}"[:200].replace("\n", " ")
    return "events"


def _is_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def fuzz(name: str, seed: int, numbers: Iterator[int], until: float, save: Path | None) -> Outcomes:
    """Try inputs of one format until the clock or the numbers end; offenders are saved."""
    fmt, outcomes = FORMATS[name], Outcomes()
    seeds = fmt.seeds([corpus.drawn(1), *corpus.recorded(REAL_DATA)])
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"input{fmt.suffix}"
        _prove_whole(fmt, seeds, path)
        pending: list[int] = []
        while time.monotonic() < until:
            pending = pending or [n for n, _ in zip(numbers, range(BATCH), strict=False)]
            if not pending:
                break

            def act(number: int) -> str:
                return _one(fmt, seeds, (seed, zlib.crc32(name.encode()), number), path)

            said, how = _in_child(act, pending)
            if how == "hang":  # or a process that others held up: it is tried once more, alone
                again, how = _in_child(act, pending[len(said) : len(said) + 1])
                said += again
            for number, outcome in zip(pending, said, strict=False):
                _count(outcomes, number, outcome)
            done = len(said)
            if how and done < len(pending):
                _count(outcomes, pending[done], f"OFFENDER {how}")
                done += 1
            elif done < len(pending) and not said:
                raise RuntimeError("a child stopped without a word")
            pending = pending[done:]
    for number, outcome in [*outcomes.offenders.items()][:_SHOWN]:
        print(f"{name} {seed} {number}: {outcome}", flush=True)
        if save:
            save.mkdir(parents=True, exist_ok=True)
            data = make_input(seeds, fmt.words, (seed, zlib.crc32(name.encode()), number))
            (save / f"{name}-{seed}-{number}{fmt.suffix}").write_bytes(data)
    return outcomes


def _prove_whole(fmt: Format, seeds: Sequence[Seed], path: Path) -> None:
    """Raise unless the undamaged files are read: else the damage would prove nothing."""
    for seed in seeds:
        path.write_bytes(seed.join(seed.parts))
        assert sum(len(events) for events in fmt.read(path)) >= 60


def _one(fmt: Format, seeds: Sequence[Seed], key: tuple[int, ...], path: Path) -> str:
    path.write_bytes(make_input(seeds, fmt.words, key))
    return try_input(fmt, path)


def _count(outcomes: Outcomes, number: int, outcome: str) -> None:
    bad = outcome.startswith("OFFENDER")
    outcomes.counts[outcome if not bad else "OFFENDER"] += 1
    if bad:
        outcomes.offenders[number] = outcome


def _in_child(act: Callable[[int], str], numbers: Sequence[int]) -> tuple[list[str], str]:
    """Call `act` on numbers in a process with limits; return what it said, and how it died."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _work(act, numbers, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode(errors="replace").splitlines()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return said, "hang" if number in _ENDINGS else signal.Signals(number).name
    return said, "" if os.WEXITSTATUS(status) == 0 else f"exit {os.WEXITSTATUS(status)}"


def _work(act: Callable[[int], str], numbers: Sequence[int], pipe: int) -> None:
    """Be the child: limits, then one line an input; a process that grew too much stops there."""
    faulthandler.disable()  # pytest's, which tells at length what is counted here
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_DFL)  # ends native code, too
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * LIMIT_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number in numbers:
        signal.alarm(LIMIT_S)
        signal.setitimer(signal.ITIMER_PROF, LIMIT_CPU_S)
        outcome = act(number)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - start > LIMIT_BYTES
        os.write(pipe, ("OFFENDER memory" if grown else outcome).encode(errors="replace") + b"\n")
        if grown:
            break
    os._exit(0)


def main() -> int:
    """Fuzz from the command line; return 1 where anything broke."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="for each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", action="append", choices=FORMATS, help="default: all")
    parser.add_argument("--save", type=Path, help="folder for inputs that broke a reader")
    options = parser.parse_args()
    broken = 0
    for name in options.format or FORMATS:
        numbers = iter(range(sys.maxsize))
        found = fuzz(name, options.seed, numbers, time.monotonic() + options.seconds, options.save)
        broken += len(found.offenders)
        listed = ", ".join(f"{count} {outcome}" for outcome, count in found.counts.most_common())
        print(f"{name}: {sum(found.counts.values())} inputs: {listed}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
