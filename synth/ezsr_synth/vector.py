"""What Numba needs to be told so that loops over pixels become vector instructions.

Each function is plain Python, which is what runs without the JIT, with a compiled form of the same
meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import binding, ir
from numba import extending
from numba.core import cgutils, config, types
from numba.np import arrayobj

intrinsic: Any = extending.intrinsic
overload: Any = extending.overload
make_array: Any = arrayobj.make_array
settings: Any = config
declare: Any = cgutils.get_or_insert_function

_Whole = int | np.integer[Any]
LANES = 16


def _can_permute() -> bool:
    """Tell whether code may use AVX-512: on this CPU, unless NUMBA_CPU_FEATURES says otherwise."""
    if settings.CPU_FEATURES is not None:
        return "+avx512f" in settings.CPU_FEATURES
    return bool(binding.get_host_cpu_features().get("avx512f"))  # which also lists what is absent


PERMUTES = _can_permute()
"""Whether the CPU packs marked lanes, and picks lanes of two registers by number, at once.
Elsewhere either would be sixteen branches, and a loop without any is faster."""

Peek = Callable[[npt.NDArray[Any], int, _Whole], Any]
Poke = Callable[[npt.NDArray[Any], int, _Whole, Any], None]


def _apart(scope: str) -> tuple[Peek, Poke]:
    """Return a pair of functions, of which one reads and the other writes, never the same memory.

    A compiler cannot know that a row it writes to is no part of a picture that it reads anywhere,
    so it would take pixel after pixel. The promise holds for all of a kernel, with all that is
    compiled into it: what is written by one of a pair is never read by the other, anywhere.
    With an offset of 32 bits, half the width of an address suffices for every pixel.
    """

    def peek(array: npt.NDArray[Any], base: int, offset: _Whole) -> Any:
        return array.reshape(-1)[base + offset]

    def poke(array: npt.NDArray[Any], base: int, offset: _Whole, value: Any) -> None:
        array.reshape(-1)[base + offset] = value

    @intrinsic  # type: ignore[untyped-decorator]
    def load(typing: Any, array: Any, base: Any, offset: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            loaded = builder.load(_place(context, builder, signature, values))
            loaded.set_metadata("alias.scope", _scope_list(builder.module, scope))
            return loaded

        return array.dtype(array, types.int64, offset), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def store(typing: Any, array: Any, base: Any, offset: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            stored = builder.store(values[3], _place(context, builder, signature, values))
            stored.set_metadata("noalias", _scope_list(builder.module, scope))
            return context.get_dummy_value()

        return types.void(array, types.int64, offset, array.dtype), generate

    @overload(peek)
    def compile_peek(array, base, offset):  # type: ignore[no-untyped-def]
        return lambda array, base, offset: load(array, base, offset)

    @overload(poke)
    def compile_poke(array, base, offset, value):  # type: ignore[no-untyped-def]
        return lambda array, base, offset, value: store(array, base, offset, value)

    return peek, poke


def _place(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    data = make_array(signature.args[0])(context, builder, values[0]).data
    return builder.gep(builder.gep(data, [values[1]]), [values[2]], inbounds=True)


def _scope_list(module: Any, scope: str) -> Any:
    """Return the list of one alias scope (LLVM language reference, `noalias` metadata)."""
    domain = module.add_metadata([ir.MetaDataString(module, "ezsr")])
    named = module.add_metadata([ir.MetaDataString(module, f"ezsr.{scope}"), domain])
    return module.add_metadata([named])


peek_scene, poke_row = _apart("scene")
"""Of pictures, and tables, that no kernel changes; and into rows made from them."""

peek_pixel, poke_event = _apart("pixels")
"""Of what pixels are, see and remember; and into events and scratch that only plain code reads."""


def list_marked(marks: npt.NDArray[np.uint8], listed: npt.NDArray[np.int32]) -> int:
    """Write the places of the ones among zeros and ones; return how many there are.

    marks   uint8, a whole number of 16s long
    listed  int32, with room for a further 16 than there are marks
    """
    count = 0
    for n in range(len(marks)):
        listed[count] = n
        count += int(marks[n])
    return count


@intrinsic  # type: ignore[untyped-decorator]
def _append_marked(typing: Any, marks: Any, first: Any, listed: Any, count: Any) -> Any:
    """Append to listed[:count] the places of the ones in marks[first : first + 16].

    Packed in a register, and stored whole: a CPU may take 100 cycles and more to pack into memory
    (AMD's Zen 4 does).
    """
    word, lanes = ir.IntType(32), ir.VectorType(ir.IntType(32), LANES)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, values[0]).data
        eights = ir.VectorType(ir.IntType(8), LANES)
        at = builder.bitcast(builder.gep(data, [values[1]]), eights.as_pointer())
        mask = builder.icmp_signed("!=", builder.load(at, align=1), eights([0] * LANES))
        low = builder.insert_element(lanes(ir.Undefined), builder.trunc(values[1], word), word(0))
        splat = builder.shuffle_vector(low, lanes(ir.Undefined), lanes([0] * LANES))
        places = builder.add(splat, lanes(list(range(LANES))))
        out = make_array(signature.args[2])(context, builder, values[2]).data
        to = builder.bitcast(builder.gep(out, [values[3]]), lanes.as_pointer())
        kind = ir.FunctionType(lanes, [lanes, lanes, mask.type])
        pack = declare(builder.module, kind, f"llvm.x86.avx512.mask.compress.v{LANES}i32")
        packed = builder.call(pack, [places, lanes([0] * LANES), mask])
        builder.store(packed, to, align=4)
        ones = builder.ctpop(builder.bitcast(mask, ir.IntType(LANES)))
        return builder.add(values[3], builder.zext(ones, ir.IntType(64)))

    return types.int64(marks, types.int64, listed, types.int64), generate


@overload(list_marked)  # type: ignore[untyped-decorator]
def _compile_list_marked(marks: npt.NDArray[np.uint8], listed: npt.NDArray[np.int32]) -> Any:
    def compress(marks: npt.NDArray[np.uint8], listed: npt.NDArray[np.int32]) -> int:
        count = 0
        for first in range(0, len(marks), LANES):
            count = _append_marked(marks, first, listed, count)
        return count

    return compress if PERMUTES else list_marked  # Numba wants parameters noted alike
