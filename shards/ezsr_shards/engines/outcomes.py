"""Outcomes: what every engine says of its shards, and when one is tried again."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

from ezsr_shards.errors import EzsrError, RunError
from ezsr_shards.shardset import ShardRecord
from ezsr_shards.tally import OnInput, Tally

ATTEMPTS = 3
"""How often a shard is tried before it is given up; the other shards go on."""


class Task(Protocol):
    """The unit of work: a shard's number, and whatever it is made of; small and picklable."""

    @property
    def index(self) -> int:
        """Number of the shard."""
        ...


MakeShard = Callable[[Any, OnInput], ShardRecord]
"""Makes the shard of a task, and says what it is about to read; picklable."""


@dataclass(frozen=True)
class Working:
    """A worker began another input of a shard; the counts are of that shard so far."""

    index: int
    inputs: int
    samples: int
    events: int
    failures: int


@dataclass(frozen=True)
class Done:
    """A shard is complete on disk."""

    index: int
    record: ShardRecord


@dataclass(frozen=True)
class Lost:
    """A shard was tried as often as allowed and given up, with the last reason."""

    index: int
    why: str


Outcome = Working | Done | Lost
NextTask = Callable[[], Task | None]
"""Gives a task that nobody is at, None where there is none now; later there may be one again."""
Engine = Callable[[NextTask, MakeShard, int, str | None], Generator[Outcome, None, None]]
"""Maps (next_task, make, workers, preload) to outcomes, in whatever order they come.

It asks for a task whenever a worker is free, also while others are still at theirs, and ends when
all workers are free and there is none.

workers  shards under way at a time; 0: as many as there are CPUs
preload  a module that makes the work ready when it is imported; without it, `make`'s own

A worker that dies, or cannot reach its input, costs its shard an attempt. An output that cannot be
written raises RunError, as does an error in this code. Closing the generator ends the workers;
unfinished shards then leave no file under a final name.
"""

Counts = tuple[int, int, int, int]
Answer = ShardRecord | EzsrError | OSError | str
"""What a worker answers: the record, or why there is none; a text is the traceback of a bug."""


def answer(make: MakeShard, task: Task, on_input: OnInput) -> Answer:
    """Make a shard; return what came of it in a form that reaches another process."""
    try:
        return make(task, on_input)
    except EzsrError as error:
        return type(error)(str(error))
    except OSError as error:
        return OSError(error.errno, error.strerror or str(error))
    except Exception:
        return traceback.format_exc()


def counts_of(tally: Tally) -> Counts:
    """Return inputs, samples, events and failures so far."""
    return tally.inputs, tally.samples, tally.events, len(tally.failures)


@dataclass(frozen=True)
class Attempt:
    """One try, from 1, at a task."""

    task: Task
    number: int = 1

    def judge(self, said: Answer) -> Done | Lost | Attempt:
        """Return the shard, its loss or the next attempt; raise RunError where none would help."""
        index = self.task.index
        if isinstance(said, ShardRecord):
            return Done(index, said)
        if isinstance(said, EzsrError):
            return self.retry(str(said))
        if isinstance(said, FileNotFoundError) and self.number < ATTEMPTS:
            return self.retry(str(said))  # others may have taken this run for dead and tidied up
        if isinstance(said, OSError):
            raise RunError(
                f"OUT: shard {index} could not be written ({said}); mend this and "
                f"run the same command again to continue"
            )
        raise RunError(f"shard {index} hit an error in this program:\n{said}")

    def retry(self, why: str) -> Lost | Attempt:
        """Return the next attempt, or the loss after the last one."""
        if self.number == ATTEMPTS:
            return Lost(self.task.index, why)
        return Attempt(self.task, self.number + 1)


def next_attempt(waiting: deque[Attempt], next_task: NextTask) -> Attempt | None:
    """Return what is to be tried again, or the first attempt at another task, if there is one."""
    if waiting:
        return waiting.popleft()
    task = next_task()
    return Attempt(task) if task else None
