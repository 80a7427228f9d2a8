"""Importer: recordings of real event cameras become a shard set."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from pathlib import Path
from typing import Literal

from ezsr_shards.datasets import (
    DataSet,
    check_packages,
    find_data_set,
    known_classes,
    open_recording,
    parse_size,
)
from ezsr_shards.errors import ConfigError, InputError, check_number
from ezsr_shards.events import EventStream
from ezsr_shards.formats.raw import Convention, RecordingError
from ezsr_shards.keys import key_of, mix, printable
from ezsr_shards.making import RunReport, make_set
from ezsr_shards.output import open_output
from ezsr_shards.plan import (
    RunOptions,
    SetPlan,
    Work,
    check_set_name,
    choose_shard_size,
    describe_set,
    fingerprint,
)
from ezsr_shards.sample import Sample
from ezsr_shards.shardset import Failure, ShardClass, ShardRecord, shard_name
from ezsr_shards.store import Place, Store
from ezsr_shards.tally import OnInput, Tally, finish_shard

IMPORT_VERSION = 1
"""Raised whenever the same files give other bytes."""

_TRIED = 20
_MOST_LIST_BYTES, _MOST_LINE = 1 << 28, 4096
_COPY = re.compile(r" ?\(\d+\)$")


@dataclass(frozen=True)
class ImportOptions:
    """Which recordings are imported, and how their columns are read."""

    split: str | None = None
    """Split to import, where the data set's files tell: train, val, test or such."""
    list: str | None = None
    """File that lists the recordings of a split, one path a line; the last two parts count."""
    size: str | None = None
    """Sensor WxH in pixels, where neither the data set nor the file tells, or tells wrongly."""
    labels: Literal["auto", "none"] = "auto"
    """none: import without labels, whatever the folders."""
    shard_size: int = 0
    """Recordings in a shard; 0 chooses."""
    allow_pickle: bool = False
    """Read data sets that were saved as pickles, by a reader that knows arrays only."""
    convention: Convention = field(default_factory=Convention)

    def __post_init__(self) -> None:
        """Refuse what cannot be read."""
        check_number("shard_size", self.shard_size, 0, 1_000_000)
        if self.split is not None and self.list is not None:
            raise ConfigError(f"split {self.split}: a list of your own names its files; leave out")


@dataclass(frozen=True)
class RecordingList:
    """Recordings of a data set, in mixed order.

    paths   relative to ROOT; labels by path, None where the folders are no classes
    split   what they are called together, or None
    size    the sensor's (width, height) in pixels, where known
    """

    root: Path
    format: str
    paths: tuple[str, ...]
    labels: Mapping[str, int | None]
    classes: tuple[ShardClass, ...]
    split: str | None
    size: tuple[int, int] | None
    convention: Convention

    def __post_init__(self) -> None:
        """Raise ConfigError where recordings cannot be read for want of an option."""
        for path in self.paths[:_TRIED]:
            with suppress(RecordingError, InputError):
                self._open(path)
                break

    def open(self, path: str) -> EventStream:
        """Read one; raise RecordingError where it cannot be used."""
        try:
            return self._open(path)
        except ConfigError as error:  # the first ones did without: this one's own fault
            raise RecordingError("needs-option", str(error)) from error

    def _open(self, path: str) -> EventStream:
        return open_recording(self.root / path, self.format, self.size, self.convention, True)


def list_recordings(
    format: str, root: str | Path, options: ImportOptions | None = None
) -> RecordingList:
    """List a data set's recordings; raise ConfigError or InputError with a remedy."""
    options, data_set, root = options or ImportOptions(), find_data_set(format), Path(root)
    if data_set.pickled and not options.allow_pickle:
        raise ConfigError(
            f"format {format}: its files are Python pickles, which can run code; say "
            f"--allow-pickle to read them by a reader that knows numpy arrays only"
        )
    size = parse_size(options.size) if options.size else None
    there = _find_files(data_set, root)
    check_packages(there)
    paths, split = _select(data_set, root, there, options)
    classes, labels = _label(data_set, root, there, paths, options)
    return RecordingList(
        root, format, tuple(paths), labels, classes, split, size, options.convention
    )


@dataclass(frozen=True)
class ImportTask:
    """The unit of work: a shard's number, and its recordings with their labels."""

    index: int
    paths: tuple[str, ...]
    labels: tuple[int | None, ...]


@dataclass(frozen=True)
class ImportPlan:
    """What all shards of an import share; `listed` names no paths, the tasks do."""

    listed: RecordingList
    store: Store
    name: str
    config_hash: str


def import_recordings(
    format: str,
    root: str | Path,
    out: Place,
    options: ImportOptions | None = None,
    run: RunOptions | None = None,
    name: str = "events",
) -> RunReport:
    """Turn recordings under ROOT into a shard set in OUT; what is complete already is kept.

    Raises ConfigError, InputError or OutputError before any work; RunError if too many recordings
    could not be used.
    """
    check_set_name(name)
    options = options or ImportOptions()
    listed = list_recordings(format, root, options)
    per_shard = choose_shard_size(len(listed.paths), options.shard_size)
    shards = ceil(len(listed.paths) / per_shard)
    deciding = {
        "import_version": IMPORT_VERSION,
        "name": name,
        "recordings": len(listed.paths),
        "shards": shards,
        "shard_size": per_shard,
        "split": listed.split,
        "listing": fingerprint(listed.paths, listed.classes),
        "import": {
            "format": format,
            "size": options.size,
            "labels": options.labels,
            **asdict(listed.convention),
        },
    }
    plan = SetPlan(
        store=open_output(out),
        name=name,
        facts=describe_set(deciding, "root", str(root)),
        shards=shards,
        inputs=len(listed.paths),
        classes=listed.classes,
        split=listed.split,
        noun="recordings",
    )

    def task(index: int) -> ImportTask:
        part = listed.paths[index * per_shard : (index + 1) * per_shard]
        return ImportTask(index, part, tuple(listed.labels[path] for path in part))

    shared = replace(listed, paths=(), labels={})  # the workers are sent what they need
    how = ImportPlan(shared, plan.store, name, plan.config_hash)
    return make_set(plan, Work(task, partial(make_import_shard, plan=how)), run or RunOptions())


def _select(
    data_set: DataSet, root: Path, paths: list[str], options: ImportOptions
) -> tuple[list[str], str | None]:
    """Return the paths to import, relative to ROOT in mixed order, and what the split is called."""
    if options.list is not None:
        listed = Path(options.list)
        return mix(_keep_listed(paths, listed)), f"{listed.stem} {_hash_file(listed)[:12]}"
    above = root.resolve().name  # ROOT may be the split's own folder
    there = {
        name: [path for path in paths if re.search(pattern, f"{above}/{path}")]
        for name, pattern in data_set.splits.items()
    }
    there = {name: found for name, found in there.items() if found}
    if options.split is None:
        if sum(map(len, there.values())) and len(there) > 1:
            raise ConfigError(
                f"split: ROOT {root} holds {', '.join(there)}; choose one with --split"
            )
        (only,) = there or (None,)
        whole = only is not None and len(there[only]) == len(paths)
        return mix(paths), only if whole else None
    if options.split not in there:
        wanted = data_set.splits.get(options.split)
        known = ", ".join(there) or "no split that paths tell"
        advice = f"; paths of this one match {wanted}" if wanted else ""
        advice += f"; {data_set.advice}" if data_set.advice else ""
        raise ConfigError(f"split {options.split!r}: ROOT {root} holds {known}{advice}")
    return mix(there[options.split]), options.split


def _find_files(data_set: DataSet, root: Path) -> list[str]:
    """Return all recordings under ROOT, sorted; of copies such as `name(1).aedat` the first.

    Links to files are followed, wherever they lead: people gather subsets so, and what is read must
    be a recording all the same. Links to folders, which may go round, are not.
    """
    if not root.is_dir():
        raise InputError(f"ROOT {root}: no such folder")
    paths = []
    for folder, below, files in os.walk(root):
        below.sort()
        inside = os.path.relpath(folder, root)
        there = set(files)
        for file in sorted(files):
            stem, suffix = os.path.splitext(file)
            if suffix.lower() in data_set.readers and not file.startswith("."):
                original = _COPY.sub("", stem) + suffix
                if not data_set.copies or original == file or original not in there:
                    paths.append(os.path.normpath(os.path.join(inside, file)).replace(os.sep, "/"))
    if not paths:
        suffixes = " or ".join(data_set.readers)
        raise InputError(f"ROOT {root}: no {suffixes} file, at any depth")
    return paths


def _keep_listed(paths: list[str], listed: Path) -> list[str]:
    """Return the paths that a list names; such lists hold their authors' own absolute paths."""
    try:
        if not listed.is_file() or listed.stat().st_size > _MOST_LIST_BYTES:
            raise InputError(f"list {listed}: no such file, or over {_MOST_LIST_BYTES} bytes")
        lines = listed.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"list {listed}: cannot be read ({error})") from error
    by_end = {_end_of(path): path for path in paths}
    if len(by_end) < len(paths):
        raise InputError(f"list {listed}: ROOT holds several files of one folder and name")
    suffixes = sorted({Path(path).suffix for path in paths})
    path_of = re.compile(rf"(.*?({'|'.join(map(re.escape, suffixes))}))\b", re.IGNORECASE)
    found: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        bare = line.strip().lstrip('"').replace("\\", "/")
        if not bare:
            continue
        match = path_of.match(bare[:_MOST_LINE])
        text = match[1] if match else bare[:_MOST_LINE].split()[0]
        end = _end_of(text)
        candidates = [end, *(f"{end}{suffix}" for suffix in suffixes)]
        hit = next((by_end[one] for one in candidates if one in by_end), None)
        if hit is None:
            raise InputError(f"list {listed}, line {number}: {text!r} is not under ROOT")
        found[hit] = None
    if not found:
        raise InputError(f"list {listed}: names no file")
    return sorted(found)


def _end_of(path: str) -> str:
    return "/".join(path.split("/")[-2:]).lower()


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _label(
    data_set: DataSet, root: Path, there: list[str], paths: list[str], options: ImportOptions
) -> tuple[tuple[ShardClass, ...], Mapping[str, int | None]]:
    """Return all classes there are, chosen or not, and the label of each path."""
    if options.labels == "none":
        return (), dict.fromkeys(paths)
    if data_set.classes:
        known = known_classes(data_set.name)
        folders = {_bare(f): one.shown.index for one in known for f in one.folders}
        labels = {path: _label_by_folder(path, folders) for path in paths}
        for path, label in labels.items():
            if label is None:
                raise InputError(
                    f"ROOT {root}: {path!r} lies in no class folder of {data_set.name}, such as "
                    f"{known[0].shown.folder!r}; leave it out with --list FILE, or import all "
                    f"without labels, ezsr-shards import --labels none"
                )
        return tuple(one.shown for one in known), labels
    if all("/" not in path for path in there):
        return (), dict.fromkeys(paths)
    stray = next((path for path in there if path.count("/") != 1), None)
    if stray is not None:
        raise InputError(
            f"ROOT {root}: {stray!r} does not lie exactly one folder deep, so folders are no "
            f"classes; give the folder that holds the class folders, or say --labels none"
        )
    own = {folder: n for n, folder in enumerate(sorted({path.split("/")[0] for path in there}))}
    named = ((n, printable(folder)) for folder, n in own.items())
    classes = tuple(ShardClass(n, folder.replace("_", " "), folder) for n, folder in named)
    return classes, {path: own[path.split("/")[0]] for path in paths}


def _label_by_folder(path: str, folders: Mapping[str, int]) -> int | None:
    """Return the label that the deepest known class folder of a path names."""
    for part in reversed(path.split("/")[:-1]):
        if _bare(part) in folders:
            return folders[_bare(part)]
    return None


def _bare(folder: str) -> str:
    """Return a folder's name without what copies of a data set spell differently."""
    return re.sub(r"[-_ ]", "", folder.lower())


def make_import_shard(
    task: ImportTask, on_recording: OnInput | None = None, *, plan: ImportPlan
) -> ShardRecord:
    """Make one shard of recordings; those that cannot be used are counted and listed."""
    tally = Tally()
    samples = _read_samples(task, plan, tally, on_recording)
    versions = {"python": platform.python_version()}
    for library in ("ezsr", "numpy", "isal", "lz4", "zstandard", "h5py", "hdf5plugin"):
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    name = shard_name(plan.name, task.index)
    return finish_shard(plan.store, name, samples, tally, plan.config_hash, versions)


def _read_samples(
    task: ImportTask, plan: ImportPlan, tally: Tally, on_recording: OnInput | None
) -> Iterator[Sample]:
    for path, label in zip(task.paths, task.labels, strict=True):
        source = printable(path)
        if on_recording:
            on_recording(source, tally)
        tally.inputs += 1
        try:
            events = plan.listed.open(path)
        except RecordingError as error:
            tally.failures.append(Failure(source, error.reason, error.detail))
            continue
        except InputError as error:
            tally.failures.append(Failure(source, "missing", str(error)))
            continue
        meta = {
            "kind": "recorded",
            "source": source,
            "class_name": None if label is None else plan.listed.classes[label].name,
            "data_set": plan.listed.format,
        }
        sample = Sample(key_of(path), events, None, None, label, meta)
        tally.add(sample)
        yield sample
