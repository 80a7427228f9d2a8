"""Backends: engines that make shards of tasks. Each is a small generator of outcomes."""

from __future__ import annotations

import multiprocessing as mp
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from ezsr_shards.errors import EzsrError, RunError
from ezsr_shards.process import follow_parent
from ezsr_shards.shardset import ShardRecord
from ezsr_shards.tally import OnInput, Tally

ATTEMPTS = 3
"""How often a shard is tried before it is given up; the other shards go on."""


_FORKS = "forkserver" in mp.get_all_start_methods()
_PREPARED: set[str] = set()
"""Modules that workers need not import anew: the first by the process that they are forked from."""


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


def run_local(
    tasks: Iterator[Task], make: MakeShard, workers: int, preload: str | None = None
) -> Generator[Outcome, None, None]:
    """Map `make` over tasks with a pool of processes on this machine; yield what happens.

    preload  a module that makes the work ready when it is imported; without it, `make`'s own

    A worker that dies, or cannot reach its input, costs its shard an attempt. An output that
    cannot be written raises RunError, as does an error in this code. Closing the generator
    kills the workers; unfinished shards then leave no file under a final name.
    """
    pool: list[_Worker] = []
    waiting: deque[_Attempt] = deque()
    _prepare(preload or getattr(make, "func", make).__module__)
    try:
        while True:
            while (idle := _idle(pool, workers, make)) is not None:
                attempt = waiting.popleft() if waiting else _next_attempt(tasks)
                if attempt is None:
                    break
                idle.start(attempt)
            busy = [worker for worker in pool if worker.attempt]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                outcome = worker.receive()
                if isinstance(outcome, _Attempt):
                    waiting.append(outcome)
                else:
                    yield outcome
            pool = [worker for worker in pool if worker.attempt or worker.process.is_alive()]
    finally:
        for worker in pool:
            worker.process.kill()
        for worker in pool:
            worker.process.join()


@dataclass(frozen=True)
class _Attempt:
    task: Task
    number: int


class _Worker:
    """A process that makes one shard at a time, and a connection to it."""

    def __init__(self, make: MakeShard) -> None:
        context: Any = mp.get_context("forkserver" if _FORKS else "spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        try:
            with nullcontext() if _FORKS else _no_interrupt():
                self.process.start()
        except (EOFError, OSError) as error:
            raise RunError(
                f"workers cannot be started ({error or 'their parent process ended'}); run the "
                f"same command again to continue"
            ) from error
        theirs.close()
        self.attempt: _Attempt | None = None
        self._at = ""

    def start(self, attempt: _Attempt) -> None:
        self.attempt, self._at = attempt, ""
        with suppress(OSError):  # the process is gone: `receive` will find the connection closed
            self.connection.send(attempt.task)

    def receive(self) -> Outcome | _Attempt:
        """Return what the worker says; if it died or failed, the next attempt or the loss."""
        attempt = self.attempt
        if attempt is None:
            raise RuntimeError("a worker spoke without a task")
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self.attempt = None
            code = self.process.exitcode
            return self._retry(attempt, f"worker process ended ({code}) at {self._at!r}")
        if isinstance(message, tuple):
            self._at, outcome = message
            return Working(attempt.task.index, *outcome)
        self.attempt = None
        if isinstance(message, ShardRecord):
            return Done(attempt.task.index, message)
        if isinstance(message, EzsrError):
            return self._retry(attempt, str(message))
        if isinstance(message, OSError):
            raise RunError(
                f"OUT: shard {attempt.task.index} could not be written ({message}); mend this and "
                f"run the same command again to continue"
            )
        raise RunError(f"shard {attempt.task.index} hit an error in this program:\n{message}")

    def _retry(self, attempt: _Attempt, why: str) -> Lost | _Attempt:
        if attempt.number == ATTEMPTS:
            return Lost(attempt.task.index, why)
        return _Attempt(attempt.task, attempt.number + 1)


def _prepare(module: str) -> None:
    """Start the process that workers are forked from; it imports `module`, once for them all.

    Where there is none, or it already serves other work, the module is imported here, so that what
    it leaves on disk is there for the workers.
    """
    if module in _PREPARED:
        return
    if _FORKS and not _PREPARED:
        mp.get_context("forkserver").set_forkserver_preload([module])
        resource_tracker.ensure_running()  # which would let Ctrl-C through again
        with _no_interrupt():
            forkserver.ensure_running()
    else:
        import_module(module)
    _PREPARED.add(module)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back while a process starts: what it starts inherits that, for good.

    A terminal signals the whole group, and only the parent is to decide how a run ends.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _idle(pool: list[_Worker], workers: int, make: MakeShard) -> _Worker | None:
    for worker in pool:
        if worker.attempt is None:
            return worker
    if len(pool) >= workers:
        return None
    pool.append(_Worker(make))
    return pool[-1]


def _next_attempt(tasks: Iterator[Task]) -> _Attempt | None:
    task = next(tasks, None)
    return _Attempt(task, 1) if task else None


def _serve(connection: Connection, make: MakeShard) -> None:
    """Make shards until the parent hangs up; say what happens after every input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides how a run ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    follow_parent()  # a killed run leaves nobody writing

    def say(source: str, tally: Tally) -> None:
        counts = (tally.inputs, tally.samples, tally.events, len(tally.failures))
        connection.send((source, counts))

    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            connection.send(make(task, say))
        except EzsrError as error:
            connection.send(type(error)(str(error)))
        except OSError as error:
            connection.send(OSError(error.errno, error.strerror or str(error)))
        except Exception:
            connection.send(traceback.format_exc())
