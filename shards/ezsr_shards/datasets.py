"""Data sets: how recorded event data lie on disk, and how their files are read.

Sensor sizes, folder names and splits are those of the data sets' own descriptions; a split is
never taken from the order of a directory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ezsr_shards.errors import ConfigError, InputError
from ezsr_shards.events import EventStream
from ezsr_shards.formats.aedat2 import (
    read_aedat2_davis346,
    read_aedat2_dvs128,
    read_aedat2_jaer,
)
from ezsr_shards.formats.aedat4 import read_aedat4
from ezsr_shards.formats.aer40 import read_aer40
from ezsr_shards.formats.arrays import read_npy, read_npz
from ezsr_shards.formats.evt import read_evt
from ezsr_shards.formats.hdf5 import read_hdf5
from ezsr_shards.formats.matlab import read_mat
from ezsr_shards.formats.pickled import read_bullying10k
from ezsr_shards.formats.raw import AS_READ, Convention, RawEvents, arrange
from ezsr_shards.formats.reading import optional_package
from ezsr_shards.shardset import ShardClass

Reader = Callable[[Path], RawEvents]
_CLASSES = Path(__file__).parent / "classes"


@dataclass(frozen=True)
class DataSet:
    """A data set, or a file format where class folders and sensor are the user's own.

    readers   suffix -> how such a file is read
    size      sensor (width, height) in pixels; None where the file or the user must tell
    classes   whether `classes/NAME.json` lists them; else the folders are the classes
    splits    split -> what paths under ROOT belong to it, a pattern found in "folder/file"
    pickled   whether the files are pickles, so that the user must allow them
    copies    whether the archive holds files twice, the second as `name(1).suffix`
    advice    where the split that others use is to be had, if the files do not tell
    """

    name: str
    readers: Mapping[str, Reader]
    size: tuple[int, int] | None = None
    classes: bool = False
    splits: Mapping[str, str] = field(default_factory=dict)
    pickled: bool = False
    copies: bool = False
    advice: str = ""


def _group_of_ucf101(first: int) -> str:
    groups = "|".join(f"{n:02d}" for n in range(first, first + 7))
    return rf"_g({groups})_c\d+\.mat$"


_N_IMAGENET = {
    "train": r"(^|/)extracted_train/",
    "val": r"(^|/)extracted_val/",
    **{f"val-mode-{n}": rf"(^|/)extracted_val_mode_{n}/" for n in (1, 3, 5, 6, 7)},
    **{f"val-brightness-{n}": rf"(^|/)extracted_val_(mode_)?brightness_{n}/" for n in range(4, 8)},
}
_NO_SPLIT = "it has no official split; name the files of yours with --list FILE"

DATA_SETS: Mapping[str, DataSet] = {
    one.name: one
    for one in (
        DataSet("n-imagenet", {".npz": read_npz}, (640, 480), True, _N_IMAGENET),
        DataSet(
            "n-caltech101",
            {".bin": read_aer40, ".npy": read_npy},
            (240, 180),
            True,
            {name: rf"(^|/){name}/" for name in ("training", "validation", "testing")},
            advice="its splits come as lists (EventBind's, say): --list FILE; the EST copy has "
            "the folders training, validation and testing",
        ),
        DataSet(
            "n-mnist",
            {".bin": read_aer40},
            (34, 34),
            True,
            {"train": r"(^|/)Train/", "test": r"(^|/)Test/"},
        ),
        DataSet(
            "cifar10-dvs",
            {".aedat": read_aedat2_dvs128, ".aedat4": read_aedat4},
            (128, 128),
            True,
            advice=_NO_SPLIT,
        ),
        DataSet(
            "hardvs",
            {".npz": read_npz},
            (346, 260),
            True,
            advice="its splits are train_label.txt, val_label.txt, test_label.txt: --list FILE",
        ),
        DataSet(
            "dailydvs-200",
            {".aedat4": read_aedat4},
            (320, 240),
            True,
            advice="its splits are train.txt, val.txt, test.txt, of which the last two share 555 "
            "recordings: --list FILE",
        ),
        DataSet(
            "daily-action",
            {".aedat": read_aedat2_jaer},
            (128, 128),
            True,
            copies=True,
            advice=_NO_SPLIT,
        ),
        DataSet("paf", {".aedat": read_aedat2_davis346}, (346, 260), True, advice=_NO_SPLIT),
        DataSet(
            "bullying10k",
            {".npy": read_bullying10k},
            (346, 260),
            True,
            pickled=True,
            advice="its split is every fifth file of a directory in no order, which nobody can "
            "repeat; name the files of yours with --list FILE",
        ),
        DataSet(
            "ucf101-dvs",
            {".mat": read_mat},
            (240, 180),
            True,
            {f"test{n + 1:02d}": _group_of_ucf101(1 + 7 * n) for n in range(3)},
        ),
        DataSet("npz", {".npz": read_npz}),
        DataSet("npy", {".npy": read_npy}),
        DataSet("hdf5", {".h5": read_hdf5, ".hdf5": read_hdf5}),
        DataSet("evt", {".raw": read_evt}),
        DataSet("aedat4", {".aedat4": read_aedat4}),
    )
}

_BY_SUFFIX = {
    suffix: reader
    for name in ("npz", "npy", "hdf5", "evt", "aedat4")
    for suffix, reader in DATA_SETS[name].readers.items()
} | {".bin": read_aer40, ".mat": read_mat}


_NEEDS = {".h5": ("h5py", "hdf5"), ".hdf5": ("h5py", "hdf5")}


def check_packages(paths: Iterable[str]) -> None:
    """Raise ConfigError where files need a package that is not installed."""
    for suffix in sorted({Path(path).suffix.lower() for path in paths} & _NEEDS.keys()):
        optional_package(*_NEEDS[suffix], f"reading {suffix} files")


def find_data_set(name: str) -> DataSet:
    """Return a data set by name; raise ConfigError listing those there are."""
    if name not in DATA_SETS:
        raise ConfigError(f"format {name!r}: give one of {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


@dataclass(frozen=True)
class KnownClass:
    """A class of a data set: its label, its words, and every spelling of its folder."""

    shown: ShardClass
    folders: tuple[str, ...]


@lru_cache
def known_classes(name: str) -> tuple[KnownClass, ...]:
    """Return all classes of a data set, by label."""
    entries = json.loads((_CLASSES / f"{name}.json").read_text(encoding="utf-8"))["classes"]
    return tuple(
        KnownClass(
            ShardClass(label, entry["name"], entry["folder"]),
            (entry["folder"], *entry.get("also", ())),
        )
        for label, entry in enumerate(entries)
    )


def parse_size(text: str) -> tuple[int, int]:
    """Read a sensor size "WxH"; raise ConfigError."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.lower())
    if not found or not (0 < int(found[1]) <= 32767 and 0 < int(found[2]) <= 32767):
        raise ConfigError(f"size {text!r}: write the sensor's WxH in pixels, such as 640x480")
    return int(found[1]), int(found[2])


def open_recording(
    path: str | Path,
    format: str | None = None,
    size: tuple[int, int] | None = None,
    convention: Convention = AS_READ,
    allow_pickle: bool = False,
) -> EventStream:
    """Read one recording of any importable format.

    The reader is told by `format`, a data set's or format's name, else by the suffix; the sensor's
    (width, height) by `size`, else by the file, else by the data set.
    Raises ConfigError where neither is told, InputError where there is no such file, and
    RecordingError where it cannot be used.
    """
    path = Path(path)
    data_set = find_data_set(format) if format is not None else None
    readers = data_set.readers if data_set else _BY_SUFFIX
    reader = readers.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(readers)
        hint = "" if data_set else "; say which with --format (.aedat is cifar10-dvs, or paf)"
        raise ConfigError(f"recording {path}: its suffix is none of {known}{hint}")
    if not path.is_file():
        raise InputError(f"recording {path}: no such file")
    if data_set and data_set.pickled and not allow_pickle:
        raise ConfigError(
            f"recording {path}: a Python pickle, which can run code; import it first, with "
            f"ezsr-shards import --allow-pickle (in Python open_recording(..., allow_pickle=True))"
        )
    raw = reader(path)
    told = (raw.width, raw.height) if raw.width and raw.height else None
    sensor = size or told or (data_set.size if data_set else None)
    if sensor is None:
        raise ConfigError(
            f"recording {path}: it does not tell its sensor; give --size WxH, or --format where "
            f"it is a known data set's (in Python size=(W, H), format=...)"
        )
    return arrange(raw, *sensor, convention)
