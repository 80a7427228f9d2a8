"""A short slice of the fuzzing, always the same, and that it would see what it looks for."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fuzz_formats
import numpy as np
import pytest
from fuzz_corpus import Seed
from fuzz_formats import FORMATS, Format, Outcomes, fuzz

from ezsr_shards.events import EventStream
from ezsr_shards.formats.raw import RecordingError

NEEDS = {"hdf5": "h5py", "mat73": "h5py", "aedat4": "zstandard"}


def slice_of(name: str, seed: int, count: int) -> Outcomes:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} comes with an extra of ezsr")
    return fuzz(name, seed, iter(range(count)), time.monotonic() + 3600, None)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_refused_or_read_by_the_contract(name: str) -> None:
    found = slice_of(name, 0, 250)
    assert found.offenders == {}
    assert sum(found.counts.values()) == 250
    assert found.counts["events"] > 0, "damage that any reader sees at once proves little"
    assert len(found.counts) > 1


@pytest.mark.faults
@pytest.mark.parametrize("name", FORMATS)
def test_many_damaged_files(name: str) -> None:
    assert slice_of(name, 1, 20_000).offenders == {}


@pytest.mark.parametrize("name", FORMATS)
def test_inputs_can_be_made_again(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} comes with an extra of ezsr")
    fmt = FORMATS[name]
    seeds = fmt.seeds([fuzz_formats.corpus.drawn(1)])
    made = [fuzz_formats.make_input(seeds, fmt.words, (0, n)) for n in range(20)]
    assert made == [fuzz_formats.make_input(seeds, fmt.words, (0, n)) for n in range(20)]
    assert len(set(made)) > 10


def good(path: Path) -> list[EventStream]:
    columns = (np.arange(60) for _ in range(3))
    return [EventStream(*columns, np.zeros(60, np.uint8), 64, 64, 100)]


def crashes(path: Path) -> Any:
    return ctypes.string_at(0)


def never_ends(path: Path) -> Any:
    while True:
        pass


def takes_memory(path: Path) -> Any:
    return [np.ones(40 << 20)]


def takes_memory_and_hides_it(path: Path) -> Any:
    try:
        np.ones(1 << 40)
    except MemoryError as error:
        raise RecordingError("unreadable") from error


def lets_others_out(path: Path) -> Any:
    raise KeyError("x")


def accepts_what_is_wrong(path: Path) -> list[EventStream]:
    columns = (np.full(60, 99) for _ in range(3))
    return [EventStream(*columns, np.zeros(60, np.uint8), 64, 64, 100)]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (crashes, "SIGSEGV"),
        (never_ends, "hang"),
        (takes_memory, "memory"),
        (takes_memory_and_hides_it, "memory"),
        (lets_others_out, "KeyError"),
        (accepts_what_is_wrong, "ShardError"),
    ],
)
def test_what_breaks_a_reader_is_seen_and_saved(
    bad: Callable[[Path], Iterable[EventStream]],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = b"whole" * 9

    def read(path: Path) -> Iterable[EventStream]:
        return good(path) if path.read_bytes() == whole else bad(path)

    monkeypatch.setitem(FORMATS, "bad", Format(".bad", read, lambda _: Seed((whole,))))
    if says == "hang":
        monkeypatch.setattr(fuzz_formats, "LIMIT_CPU_S", 0.5)
    monkeypatch.setattr(fuzz_formats, "LIMIT_BYTES", 256 << 20)
    found = fuzz("bad", 0, iter(range(2)), time.monotonic() + 600, tmp_path / "saved")
    assert says in found.offenders[0]
    assert found.counts["OFFENDER"] == len(list((tmp_path / "saved").iterdir())) > 0
