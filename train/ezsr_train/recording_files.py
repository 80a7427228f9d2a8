"""RecordingFiles: a data set's own files, scored without being made into shards first."""

from __future__ import annotations

from dataclasses import dataclass

from ezsr_shards.errors import InputError, ShardError
from ezsr_shards.formats.raw import RecordingError
from ezsr_shards.importer import RecordingList
from ezsr_shards.keys import printable
from ezsr_shards.shardset import ShardClass
from ezsr_train.recording import StreamRecording


@dataclass(frozen=True)
class RecordingFiles:
    """Recordings of a data set, read when asked for."""

    listed: RecordingList

    @property
    def classes(self) -> tuple[ShardClass, ...]:
        """Every class of the data set."""
        return self.listed.classes

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.listed.paths)

    def read(self, number: int, with_picture: bool) -> StreamRecording:
        """Read a file; raise ShardError where it cannot be used."""
        path = self.listed.paths[number]
        label = self.listed.labels[path]
        try:
            return StreamRecording(
                self.listed.open(path), printable(path), -1 if label is None else label
            )
        except (RecordingError, InputError) as error:
            raise ShardError(f"recording {path}: {error}") from error

    def origin(self, number: int) -> str:
        """Return the path."""
        return printable(self.listed.paths[number])
