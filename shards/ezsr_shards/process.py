"""Worker processes: what all of ours share."""

from __future__ import annotations

import multiprocessing as mp
import os
import threading
from multiprocessing.connection import wait
from pathlib import Path


def follow_parent() -> None:
    """End this process as soon as the one that started it is gone, however that ended."""
    parent = mp.parent_process()
    if parent is None:
        return

    def wait_and_end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()


def available_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, and its cgroup's share."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        allowed = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):
        return allowed
