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
from conftest import REAL_DATA
from fuzz_corpus import Columns, Seed
from fuzz_damage import make_input

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
_ENDINGS = (signal.SIGALRM, signal.SIGPROF)


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


_DTYPES = tuple(b"'|O' '<f2' '>u4' '<i8' '?' '<f8' 'S9' '<u2' '<M8[us]' 'V8'".split())
_HDF5 = (b"HEAP", b"TREE", b"SNOD", b"OHDR")
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
    "mat73": Format(".mat", _as("ucf101-dvs"), corpus.mat73, words=_HDF5),
    "hdf5": Format(".h5", _as("hdf5", (640, 480)), corpus.hdf5, words=_HDF5),
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
