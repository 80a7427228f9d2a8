"""Importing this makes the work ready: modules are there, kernels compiled or read from the cache.

The process that workers are forked from imports it, once for them all.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

from ezsr_shards.process import available_cpus
from ezsr_synth import work
from ezsr_synth.kernels import compile_start, fire_events
from ezsr_synth.order import compile_order
from ezsr_synth.readout import compile_readout
from ezsr_synth.reduce import compile_reduction
from ezsr_synth.simulate import compile_simulation

__all__ = ["work"]

_COMPILE_FIRING = "from ezsr_synth.kernels import compile_firing; compile_firing()"


def _is_cached() -> bool:
    """Tell whether the kernel that takes longest to compile lies in the cache, or none can."""
    folder = fire_events.stats.cache_path  # type: ignore[attr-defined]
    return folder is None or any(Path(folder).glob("kernels.fire_events-*.nbi"))


def _compile_firing_apart() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _COMPILE_FIRING]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603  # nobody else's words


def compile_all() -> None:
    """Compile every kernel or load it from the cache, where it is cold in two processes at once."""
    alone = _is_cached() or available_cpus() == 1
    with nullcontext() if alone else _compile_firing_apart():
        for compile_others in (compile_reduction, compile_start, compile_order, compile_readout):
            compile_others()
    compile_simulation()


with suppress(Exception):  # a worker will meet it, too, and can say so
    compile_all()
