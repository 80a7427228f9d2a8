"""Picture files behind a URL: folders, class trees, lists and single pictures in a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ezsr_shards.errors import InputError
from ezsr_shards.keys import key_of, printable
from ezsr_shards.remote import RemoteStore
from ezsr_shards.urls import show_url
from ezsr_synth.decode import EXTENSIONS, MAX_FILE_BYTES, PictureError
from ezsr_synth.files import parse_list
from ezsr_synth.records import ImageRecord, tidy_caption

_MAX_CAPTION_BYTES = 1 << 16


@dataclass(frozen=True)
class RemoteFolder:
    """What lies below a URL, at any depth, as sorted paths relative to it.

    pictures, tars  by their extensions; hidden names are left out
    texts           the `.txt` files, some of them captions
    chosen          the user named the pictures, whose order is kept
    """

    store: RemoteStore
    pictures: tuple[str, ...]
    tars: tuple[str, ...] = ()
    texts: frozenset[str] = frozenset()
    chosen: bool = False

    def pictures_of(
        self, paths: tuple[str, ...], labels: tuple[int, ...], names: tuple[str, ...]
    ) -> RemotePictures:
        """Return some of the pictures as the work of one shard."""
        captioned = frozenset(path for path in paths if _caption_path(path) in self.texts)
        return RemotePictures(self.store, paths, labels, names, captioned)


def list_remote(url: str, out: str | None = None) -> RemoteFolder:
    """List a folder, or name one picture or those of a `.txt` list, without a look at them.

    What lies at the URL `out` is left out. Raises InputError where there is nothing to list.
    """
    root, _, name = url.rpartition("/")
    extension = os.path.splitext(name)[1].lower()
    try:
        if extension in EXTENSIONS:
            return RemoteFolder(RemoteStore(root), (name,), chosen=True)
        if extension == ".txt":
            store = RemoteStore(root)
            listed = parse_list(store.read(name), f"{store.url}/{name}")
            return RemoteFolder(store, tuple(listed), chosen=True)
        return _list_folder(RemoteStore(url), out)
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"IMAGES {show_url(url)}: cannot be read ({why})") from None


def _list_folder(store: RemoteStore, out: str | None) -> RemoteFolder:
    root, left_out = store.url.rstrip("/") + "/", show_url(out or "").rstrip("/") + "/"
    if root == left_out:
        raise InputError(f"IMAGES {store.url}: is also OUT; give another folder for the shards")
    below = left_out.removeprefix(root) if left_out.startswith(root) else "/"
    paths = (path for path in store.find() if not path.startswith(below))
    found = sorted(path for path in paths if not _is_hidden(path))
    by_kind: dict[str, list[str]] = {"picture": [], ".tar": [], ".txt": []}
    for path in found:
        extension = os.path.splitext(path)[1].lower()
        by_kind.setdefault("picture" if extension in EXTENSIONS else extension, []).append(path)
    return RemoteFolder(
        store, tuple(by_kind["picture"]), tuple(by_kind[".tar"]), frozenset(by_kind[".txt"])
    )


@dataclass(frozen=True)
class RemotePictures:
    """Picture files of a store; `labels` and `names` run beside `paths`, or are empty."""

    store: RemoteStore
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    captioned: frozenset[str]

    def __iter__(self) -> Iterator[ImageRecord]:
        """Yield a record per file, in order; files are fetched when the record is read."""
        for n, path in enumerate(self.paths):
            yield ImageRecord(
                key=key_of(path),
                source=printable(path),
                read=lambda path=path: _read_picture(self.store, path),  # type: ignore[misc]
                caption=_read_caption(self.store, path) if path in self.captioned else None,
                label=self.labels[n] if self.labels else None,
                class_name=self.names[n] if self.names else None,
            )


def _read_picture(store: RemoteStore, path: str) -> bytes:
    """Return a file's bytes; raise PictureError where it is missing, refused or too large.

    Raises StoreError where the store is out of reach: no fault of the picture.
    """
    try:
        size = store.size(path)
        if size is None:
            raise PictureError("missing", "no such file")
        if size > MAX_FILE_BYTES:
            raise PictureError("too-large", f"{size} bytes, over {MAX_FILE_BYTES}")
        return store.read(path)
    except OSError as error:
        raise PictureError("unreadable", error.strerror or str(error)) from None


def _read_caption(store: RemoteStore, path: str) -> str | None:
    try:
        with store.open(_caption_path(path)) as file:
            return tidy_caption(file.read(_MAX_CAPTION_BYTES).decode("utf-8", "replace"))
    except OSError:
        return None


def _caption_path(path: str) -> str:
    return os.path.splitext(path)[0] + ".txt"


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
