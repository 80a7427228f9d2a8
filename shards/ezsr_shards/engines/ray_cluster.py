"""Ray: the engine of many machines, a running Ray cluster that all see the same OUT."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from ezsr_shards.engines.outcomes import (
    Answer,
    Attempt,
    Counts,
    MakeShard,
    NextTask,
    Outcome,
    Task,
    Working,
    answer,
    counts_of,
    next_attempt,
)
from ezsr_shards.errors import ConfigError, RunError
from ezsr_shards.tally import Tally

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_STOP = 10.0
_SECONDS_TO_ANSWER = 10.0
_QUEUED = 2  # tasks beyond the CPUs, so that no CPU waits for this process


def run_ray(
    next_task: NextTask, make: MakeShard, workers: int, preload: str | None = None
) -> Generator[Outcome, None, None]:
    """Map `make` over tasks on a Ray cluster, a CPU each; see `outcomes.Engine`.

    The cluster may grow and shrink under way. Raises ConfigError where there is none.
    """
    module = preload or getattr(make, "func", make).__module__
    with _connected() as ray:
        board = ray.remote(num_cpus=0, max_restarts=-1)(_Board).remote()
        start = ray.remote(num_cpus=1, max_retries=0)(_make_one)
        shared = ray.put((make, module, os.getcwd()))
        under_way: dict[Any, Attempt] = {}
        waiting: deque[Attempt] = deque()
        try:
            while True:
                most = workers or int(ray.cluster_resources().get("CPU", 1)) + _QUEUED
                while len(under_way) < most:
                    attempt = next_attempt(waiting, next_task)
                    if attempt is None:
                        break
                    under_way[start.remote(attempt.task, shared, board)] = attempt
                if not under_way:
                    return
                ended, _ = ray.wait(list(under_way), timeout=_SECONDS_BETWEEN_LOOKS)
                said = _look_at(ray, board, [one.task.index for one in under_way.values()])
                for index, (_, counts) in said.items():
                    yield Working(index, *counts)
                for reference in ended:
                    attempt = under_way.pop(reference)
                    outcome = _judge(ray, reference, attempt, said)
                    if isinstance(outcome, Attempt):
                        waiting.append(outcome)
                    else:
                        yield outcome
        finally:
            _stop(ray, list(under_way))


def _judge(
    ray: Any, reference: Any, attempt: Attempt, said: dict[int, tuple[str, Counts]]
) -> Outcome | Attempt:
    """Return what came of an attempt that has ended, or of a worker that has."""
    try:
        message: Answer = ray.get(reference)
    except ray.exceptions.RaySystemError as error:
        raise RunError(
            f"engine ray: the cluster is gone ({_first_line(error)}); start it and run the same "
            f"command again to continue"
        ) from error
    except ray.exceptions.RayTaskError as error:  # such as a module that a machine does not have
        message = f"on a machine of the cluster: {error}"
    except ray.exceptions.RayError as error:
        at, _ = said.get(attempt.task.index, ("", None))
        return attempt.retry(f"worker process ended ({type(error).__name__}) at or after {at!r}")
    return attempt.judge(message)


class _Board:
    """An actor to which workers report; what is on it may be lost, the work is not."""

    def __init__(self) -> None:
        self.said: dict[int, tuple[str, Counts]] = {}

    def put(self, index: int, source: str, counts: Counts) -> None:
        self.said[index] = (source, counts)

    def see(self, under_way: list[int]) -> dict[int, tuple[str, Counts]]:
        self.said = {index: self.said[index] for index in under_way if index in self.said}
        return self.said


def _make_one(task: Task, shared: tuple[MakeShard, str, str], board: Any) -> Answer:
    """Make a shard in a worker of the cluster; report about once a second."""
    make, module, folder = shared
    try:
        os.chdir(folder)  # so that relative paths mean there what they mean here
    except OSError:
        return ConfigError(
            f"engine ray: {socket.gethostname()} has no folder {folder}, in which the run was "
            f"started; start it in one that all machines have"
        )
    import_module(module)
    said = 0.0

    def say(source: str, tally: Tally) -> None:
        nonlocal said
        if not said or time.monotonic() - said >= _SECONDS_BETWEEN_LOOKS:
            said = time.monotonic()
            board.put.remote(task.index, source, counts_of(tally))

    return answer(make, task, say)


def _look_at(ray: Any, board: Any, under_way: list[int]) -> dict[int, tuple[str, Counts]]:
    """Return what was reported last of each shard; nothing while the board is out of reach."""
    try:
        said: dict[int, tuple[str, Counts]] = ray.get(
            board.see.remote(under_way), timeout=_SECONDS_BETWEEN_LOOKS
        )
    except ray.exceptions.RayError:
        return {}
    return said


def _stop(ray: Any, references: list[Any]) -> None:
    """End the tasks that run, and wait until their processes are gone."""
    with suppress(ray.exceptions.RayError):
        for reference in references:
            ray.cancel(reference, force=True)
        if references:
            ray.wait(references, num_returns=len(references), timeout=_SECONDS_TO_STOP)


@contextmanager
def _connected() -> Iterator[Any]:
    """Connect to the cluster that RAY_ADDRESS names, or that runs on this machine."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError('engine ray: is not installed; pip install "ezsr[ray]"') from error
    if ray.is_initialized():  # by the program that calls us
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS", "")
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"engine ray: no cluster can be reached {f'at {address}' if address else 'from here'} "
            f"({_first_line(error)}); start one with 'ray start --head', or set RAY_ADDRESS"
        ) from error
    try:
        if main:
            signal.signal(signal.SIGTERM, before)  # which Ray takes for itself
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody answers at `[ray://]HOST:PORT`; Ray would try for minutes."""
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
