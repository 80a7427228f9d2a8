"""Importing this makes the work ready: modules are there, kernels compiled or read from the cache.

The process that workers are forked from imports it, once for them all.
"""

from __future__ import annotations

from contextlib import suppress

from ezsr_synth import work
from ezsr_synth.reduce import compile_reduction
from ezsr_synth.simulate import compile_simulation

__all__ = ["work"]

with suppress(Exception):  # a worker will meet it, too, and can say so
    compile_reduction()
    compile_simulation()
