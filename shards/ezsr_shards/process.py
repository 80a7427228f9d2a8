"""Worker processes: what all of ours share."""

from __future__ import annotations

import multiprocessing as mp
import os
import threading
from multiprocessing.connection import wait


def follow_parent() -> None:
    """End this process as soon as the one that started it is gone, however that ended."""
    parent = mp.parent_process()
    if parent is None:
        return

    def wait_and_end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()
