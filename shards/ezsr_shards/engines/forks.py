"""Forks: the process that workers are forked from, which gets ready while its parent goes on.

It imports what the work needs, NumPy and Numba among it, so this file imports nothing of the kind.
"""

from __future__ import annotations

import multiprocessing as mp
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import forkserver, resource_tracker

FORKS = "forkserver" in mp.get_all_start_methods()
_PREPARED: set[str] = set()
"""Modules that workers need not import anew: the first by the process that they are forked from."""


def prepare_workers(module: str) -> None:
    """Start the process that workers are forked from; it imports `module`, once for them all.

    Where there is none, or it already serves other work, the module is imported here, so that what
    it leaves on disk is there for the workers.
    """
    if module in _PREPARED:
        return
    if FORKS and not _PREPARED:
        mp.get_context("forkserver").set_forkserver_preload([module])
        resource_tracker.ensure_running()  # which would let Ctrl-C through again
        with hold_interrupt():
            forkserver.ensure_running()
    else:
        import_module(module)
    _PREPARED.add(module)


@contextmanager
def hold_interrupt() -> Iterator[None]:
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
