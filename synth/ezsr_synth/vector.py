"""What Numba needs to be told so that loops over single pixels become vector instructions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types

from ezsr_synth.lanes import compiles_to, make_array

_Whole = int | np.integer[Any]


def _peek(typing: Any, array: Any, base: Any, offset: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        loaded = builder.load(_place(context, builder, signature, values))
        loaded.set_metadata("alias.scope", _scope_list(builder.module))
        return loaded

    return array.dtype(array, types.int64, offset), generate


@compiles_to(_peek)
def peek_scene(array: npt.NDArray[Any], base: int, offset: _Whole) -> Any:
    """Read a picture, a table or a sum, at an offset from a base.

    A compiler cannot know that a row it writes to is no part of a picture that it reads anywhere,
    so it would take pixel after pixel. The promise holds for all of a kernel, with all that is
    compiled into it: what `poke_row` writes is never read by `peek_scene`, anywhere. With an offset
    of 32 bits, half the width of an address suffices for every pixel.
    """
    return array.reshape(-1)[base + offset]


def _poke(typing: Any, array: Any, base: Any, offset: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        stored = builder.store(values[3], _place(context, builder, signature, values))
        stored.set_metadata("noalias", _scope_list(builder.module))
        return context.get_dummy_value()

    return types.void(array, types.int64, offset, array.dtype), generate


@compiles_to(_poke)
def poke_row(array: npt.NDArray[Any], base: int, offset: _Whole, value: Any) -> None:
    """Write into a row that is made from them."""
    array.reshape(-1)[base + offset] = value


def _place(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    data = make_array(signature.args[0])(context, builder, values[0]).data
    return builder.gep(builder.gep(data, [values[1]]), [values[2]], inbounds=True)


def _scope_list(module: Any) -> Any:
    """Return the list of one alias scope (LLVM language reference, `noalias` metadata)."""
    domain = module.add_metadata([ir.MetaDataString(module, "ezsr")])
    scope = module.add_metadata([ir.MetaDataString(module, "ezsr.scene"), domain])
    return module.add_metadata([scope])
