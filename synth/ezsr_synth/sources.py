"""Sources: what the user calls IMAGES, listed and cut into tasks of one shard each.

A listing holds plain strings only, so that millions of paths fit in memory; records exist one at
a time, in the process that makes the shard.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Literal

from ezsr_shards.classnames import read_classnames, words_of
from ezsr_shards.errors import ConfigError, InputError
from ezsr_shards.keys import key_of, mix
from ezsr_shards.plan import choose_shard_size, fingerprint
from ezsr_shards.shardset import ShardClass
from ezsr_shards.urls import is_url, local_path, protocol_of
from ezsr_synth.decode import EXTENSIONS
from ezsr_synth.files import FilePictures, class_folder, list_folder, read_list
from ezsr_synth.records import ImageRecord, Pictures, ShardTask
from ezsr_synth.remote_files import list_remote
from ezsr_synth.tars import TarPictures, expand_urls, short_names
from ezsr_synth.toy import CLASS_NAMES, PAIRS, draw_pair, draw_toy, parse_toy, toy_label

_PAIR_PX = 512  # each shape is as large as it is alone on 256


@dataclass(frozen=True)
class SourceOptions:
    """How IMAGES is read and cut into shards."""

    shard_size: int = 0
    """Pictures per shard; 0: about 64 shards of 25 to 1000 pictures. One input tar is one shard."""
    labels: Literal["auto", "folder", "none"] = "auto"
    """folder: the first folder is the class; auto: if all pictures lie exactly one folder deep."""
    classnames: str | None = None
    """File that maps folder names (wnids, say) or labels to words: lines 'n01440764 tench'."""
    split: str | None = None
    """Name of the split, noted in classes.json."""
    allow_pipe: bool = False
    """Run the commands of `pipe:COMMAND` in IMAGES, as you wrote them, to read tars from them."""

    def __post_init__(self) -> None:
        """Refuse shard sizes that make no shards."""
        if not 0 <= self.shard_size <= 1_000_000:
            raise ConfigError(f"shard_size {self.shard_size}: give 1 to 1000000, or 0 to choose")


@dataclass(frozen=True)
class Listing:
    """All pictures of a run, cut into shards, as a function from shard index to task.

    pictures     how many there are, or None where only reading the tars can tell
    shard_size   pictures in a shard, or None where a tar is a shard
    classes      every class there is, by label
    fingerprint  sha256 of what is listed, in order: two equal listings make equal shards
    """

    pictures: int | None
    shards: int
    shard_size: int | None
    classes: tuple[ShardClass, ...]
    split: str | None
    fingerprint: str
    pictures_of: Callable[[int], Pictures]

    def tasks(self) -> Iterator[ShardTask]:
        """Yield the tasks one by one; they are made when asked for."""
        return map(self.task, range(self.shards))

    def task(self, index: int) -> ShardTask:
        """Return the task of one shard."""
        return ShardTask(index, self.pictures_of(index))


def list_pictures(images: str, options: SourceOptions, out: str | None = None) -> Listing:
    """List IMAGES: a picture, a folder, a class tree, a `.txt` list, tars, or `toy:N`.

    A folder `out` inside IMAGES, or at a URL below it, is left out. Raises InputError with a
    remedy where there is nothing to read.
    """
    names = read_classnames(Path(options.classnames)) if options.classnames else {}
    if images.startswith("toy:"):
        return _list_toy(images, options)
    images = local_path(images)
    if _is_remote_folder(images):
        return _list_remote(images, names, options, out)
    if os.path.isdir(images):
        if out and os.path.isdir(out) and os.path.samefile(images, out):
            raise InputError(f"IMAGES {images!r}: is also OUT; give another folder for the shards")
        paths = list_folder(images, leave_out=out)
        tars = [] if paths else list_folder(images, frozenset([".tar"]), out)
        if tars:
            return _list_tars([os.path.join(images, tar) for tar in tars], names, options)
        return _list_files(images, mix(paths), names, options)
    suffix = Path(images).suffix.lower()
    if os.path.exists(images) and suffix != ".tar":
        paths = read_list(Path(images)) if suffix == ".txt" else [os.path.basename(images)]
        return _list_files(os.path.dirname(images), paths, names, options)
    if ".tar" in images or "://" in images or images.startswith("pipe:"):
        return _list_tars(expand_urls(images, options.allow_pipe), names, options)
    raise InputError(
        f"IMAGES {images!r}: no such file or folder; give a picture, a folder, a .txt list, "
        f"tars such as 'data/{{000..123}}.tar', or toy:N"
    )


def _is_remote_folder(images: str) -> bool:
    """Tell whether a URL names a folder or a picture; of http, which has no folders, only tars."""
    listed = is_url(images) and protocol_of(images) not in ("http", "https")
    return listed and ".tar" not in images and "::" not in images


def _list_remote(
    url: str, names: Mapping[str, str], options: SourceOptions, out: str | None
) -> Listing:
    folder = list_remote(url, out)
    if folder.tars and not folder.pictures:
        root = url.rstrip("/")
        return _list_tars([f"{root}/{tar}" for tar in folder.tars], names, options)
    paths = list(folder.pictures) if folder.chosen else mix(list(folder.pictures))
    return _list_files(folder.store.url, paths, names, options, folder.pictures_of)


MakePictures = Callable[[tuple[str, ...], tuple[int, ...], tuple[str, ...]], Pictures]
"""Makes the work of one shard of paths, with their labels and class names, or none of them."""


def _list_files(
    root: str,
    paths: list[str],
    names: Mapping[str, str],
    options: SourceOptions,
    make_pictures: MakePictures | None = None,
) -> Listing:
    if not paths:
        kinds = " ".join(sorted(EXTENSIONS))
        raise InputError(f"IMAGES {root!r}: no pictures here; looked for {kinds}, and for .tar")
    by_folder = options.labels == "folder" or (
        options.labels == "auto" and all(path.count("/") == 1 and path[0] != "/" for path in paths)
    )
    if options.labels == "auto" and not by_folder:
        _warn_of_strays(paths)
    folders = sorted({class_folder(path) for path in paths}) if by_folder else []
    if "" in folders:
        stray = next(path for path in paths if not class_folder(path))
        raise InputError(f"labels folder: {stray!r} lies in no class folder; use --labels none")
    label_of = {folder: label for label, folder in enumerate(folders)}
    classes = tuple(ShardClass(n, words_of(f, names), f) for n, f in enumerate(folders))
    size = choose_shard_size(len(paths), options.shard_size)
    make_pictures = make_pictures or partial(FilePictures, root)

    def pictures_of(index: int) -> Pictures:
        part = tuple(paths[index * size : (index + 1) * size])
        labels = tuple(label_of[class_folder(path)] for path in part) if by_folder else ()
        return make_pictures(part, labels, tuple(classes[label].name for label in labels))

    shards = ceil(len(paths) / size)
    return Listing(
        len(paths), shards, size, classes, options.split, fingerprint(paths, classes), pictures_of
    )


def _warn_of_strays(paths: list[str]) -> None:
    """Say so where a class tree with a few stray pictures goes without labels."""
    strays = [path for path in paths if path.count("/") != 1]
    if len(strays) < len(paths) / 10:
        print(
            f"note: no classes, because {len(strays)} pictures such as {strays[0]!r} do not lie "
            f"exactly one folder deep; --labels folder or none decides",
            file=sys.stderr,
        )


def _list_tars(urls: list[str], names: Mapping[str, str], options: SourceOptions) -> Listing:
    if options.labels == "folder":
        raise ConfigError(
            "labels folder: tars have no class folders; labels come from .cls members"
        )
    shorts = short_names(urls)
    numbered = sorted((int(label), words) for label, words in names.items() if label.isdecimal())
    classes = tuple(ShardClass(label, words) for label, words in numbered)

    def pictures_of(index: int) -> TarPictures:
        return TarPictures(urls[index], shorts[index], names)

    return Listing(
        None, len(urls), None, classes, options.split, fingerprint(shorts, classes), pictures_of
    )


@dataclass(frozen=True)
class ToyPictures:
    """Pictures start..stop of one split of the toy world, drawn when read."""

    start: int
    stop: int
    split: str

    def __iter__(self) -> Iterator[ImageRecord]:
        """Yield a record per picture."""
        for index in range(self.start, self.stop):
            if self.split == PAIRS:
                yield _pair_record(index)
                continue
            label = toy_label(index, self.split)
            source = f"toy:{self.split}:{index:08d}"
            yield ImageRecord(
                key=key_of(source),
                source=source,
                read=lambda index=index: draw_toy(index, self.split),  # type: ignore[misc]
                caption=CLASS_NAMES[label],
                label=label,
                class_name=CLASS_NAMES[label],
            )


def _pair_record(index: int) -> ImageRecord:
    source = f"toy:{PAIRS}:{index:08d}"
    pair = draw_pair(index, _PAIR_PX)
    return ImageRecord(key_of(source), source, lambda: pair.rgb, caption=pair.caption)


def _list_toy(images: str, options: SourceOptions) -> Listing:
    spec = parse_toy(images)
    classes = tuple(ShardClass(label, name) for label, name in enumerate(CLASS_NAMES))
    size = choose_shard_size(spec.count, options.shard_size)

    def pictures_of(index: int) -> ToyPictures:
        return ToyPictures(index * size, min(spec.count, (index + 1) * size), spec.split)

    listed = fingerprint([f"toy:{spec.count}:{spec.split}"], classes)
    shards = ceil(spec.count / size)
    split = options.split or spec.split
    return Listing(spec.count, shards, size, classes, split, listed, pictures_of)
