"""How kernels are compiled: one policy for all.

Once, cached on disk, without the interpreter lock, and without `fastmath`, so that neither vector
width nor block size can change a result. Kernels make no arrays (`_nrt`): Numba then need not count
who holds them, by atomic instructions in the midst of a row, nor compile code for it. Its cache
follows a kernel's own file alone: kernels that call one another are in one file, or the
digest of the others is in it (`kernels.COMPILED_IN`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])
_POLICY: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}


def jit(kernel: _Kernel) -> _Kernel:
    """Compile a kernel, once for all processes where a folder for the cache can be written."""
    try:
        return cast(_Kernel, numba.njit(cache=True, **_POLICY)(kernel))
    except RuntimeError:  # no such folder: compile in every process
        return cast(_Kernel, numba.njit(**_POLICY)(kernel))


def jit_into(kernel: _Kernel) -> _Kernel:
    """Compile into the caller: a call would cost as much as a row's work, for all its arguments."""
    return cast(_Kernel, numba.njit(forceinline=True, **_POLICY)(kernel))
