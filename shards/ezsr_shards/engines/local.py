"""Local: the engine of one machine, a pool of processes."""

from __future__ import annotations

import multiprocessing as mp
import signal
from collections import deque
from collections.abc import Generator
from contextlib import nullcontext, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from ezsr_shards.engines.forks import FORKS, hold_interrupt, prepare_workers
from ezsr_shards.engines.outcomes import (
    Attempt,
    MakeShard,
    NextTask,
    Outcome,
    Working,
    answer,
    counts_of,
    next_attempt,
)
from ezsr_shards.errors import RunError
from ezsr_shards.process import available_cpus, follow_parent
from ezsr_shards.tally import Tally

_SECONDS_BETWEEN_LOOKS = 1.0


def run_local(
    next_task: NextTask, make: MakeShard, workers: int, preload: str | None = None
) -> Generator[Outcome, None, None]:
    """Map `make` over tasks with a pool of processes on this machine; see `outcomes.Engine`."""
    workers = workers or available_cpus()
    pool: list[_Worker] = []
    waiting: deque[Attempt] = deque()
    prepare_workers(preload or getattr(make, "func", make).__module__)
    try:
        while True:
            while sum(worker.attempt is not None for worker in pool) < workers:
                attempt = next_attempt(waiting, next_task)
                if attempt is None:
                    break
                _idle(pool, make).start(attempt)
            busy = [worker for worker in pool if worker.attempt]
            if not busy:
                return
            free = _SECONDS_BETWEEN_LOOKS if len(busy) < workers else None
            ready = wait([worker.connection for worker in busy], free)
            for worker in [worker for worker in busy if worker.connection in ready]:
                outcome = worker.receive()
                if isinstance(outcome, Attempt):
                    waiting.append(outcome)
                else:
                    yield outcome
            pool = [worker for worker in pool if worker.attempt or worker.process.is_alive()]
    finally:
        for worker in pool:
            worker.process.kill()
        for worker in pool:
            worker.process.join()


class _Worker:
    """A process that makes one shard at a time, and a connection to it."""

    def __init__(self, make: MakeShard) -> None:
        context: Any = mp.get_context("forkserver" if FORKS else "spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        try:
            with nullcontext() if FORKS else hold_interrupt():
                self.process.start()
        except (EOFError, OSError) as error:
            raise RunError(
                f"workers cannot be started ({error or 'their parent process ended'}); run the "
                f"same command again to continue"
            ) from error
        theirs.close()
        self.attempt: Attempt | None = None
        self._at = ""

    def start(self, attempt: Attempt) -> None:
        self.attempt, self._at = attempt, ""
        with suppress(OSError):  # the process is gone: `receive` will find the connection closed
            self.connection.send(attempt.task)

    def receive(self) -> Outcome | Attempt:
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
            return attempt.retry(f"worker process ended ({code}) at {self._at!r}")
        if isinstance(message, tuple):
            self._at, outcome = message
            return Working(attempt.task.index, *outcome)
        self.attempt = None
        return attempt.judge(message)


def _idle(pool: list[_Worker], make: MakeShard) -> _Worker:
    """Return a worker of the pool without work, or a new one."""
    for worker in pool:
        if worker.attempt is None:
            return worker
    pool.append(_Worker(make))
    return pool[-1]


def _serve(connection: Connection, make: MakeShard) -> None:
    """Make shards until the parent hangs up; say what happens after every input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides how a run ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    follow_parent()  # a killed run leaves nobody writing

    def say(source: str, tally: Tally) -> None:
        connection.send((source, counts_of(tally)))

    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(answer(make, task, say))
