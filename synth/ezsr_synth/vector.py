"""What Numba needs to be told so that loops over pixels become vector instructions.

Each function is plain Python, which is what runs without the JIT, with a compiled form of the same
meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import extending
from numba.core import cgutils, config, types
from numba.core import codegen as numba_codegen
from numba.np import arrayobj

from ezsr_synth.jit import jit_into

intrinsic: Any = extending.intrinsic
overload: Any = extending.overload
make_array: Any = arrayobj.make_array
settings: Any = config
declare: Any = cgutils.get_or_insert_function
codegen: Any = numba_codegen

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
_Whole = int | np.integer[Any]


def _can(feature: str) -> bool:
    """Tell whether code may use it: on this CPU, unless NUMBA_CPU_FEATURES says otherwise."""
    features = settings.CPU_FEATURES
    if features is None:
        features = codegen.get_host_cpu_features()  # less what NUMBA_ENABLE_AVX=0 forbids
    return f"+{feature}" in features.split(",")


PERMUTES = _can("avx512f")
"""Whether the CPU picks lanes of two registers by number, at once."""
LANES = 16 if PERMUTES else 8
"""Of a register, in values of 32 bits."""
PACKS = PERMUTES or _can("avx2")
"""Whether the CPU brings marked lanes side by side in few instructions. Elsewhere a loop without
any branch does, value after value."""

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

    return (peek, poke) if settings.DISABLE_JIT else (load, store)


def _place(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    data = make_array(signature.args[0])(context, builder, values[0]).data
    return builder.gep(builder.gep(data, [values[1]]), [values[2]], inbounds=True)


def _scope_list(module: Any, scope: str) -> Any:
    """Return the list of one alias scope (LLVM language reference, `noalias` metadata)."""
    domain = module.add_metadata([ir.MetaDataString(module, "ezsr")])
    named = module.add_metadata([ir.MetaDataString(module, f"ezsr.{scope}"), domain])
    return module.add_metadata([named])


peek_scene, poke_row = _apart("scene")
"""Of pictures, tables and sums; and into rows made from them."""

peek_pixel, poke_crossing = _apart("pixels")
"""Of pixels that fire; and into when they do, and at which level."""

peek_rest, poke_rest = _apart("rests")
"""Of pixels that fire, and when; and into what is after their rest."""

peek_crossing, poke_event = _apart("crossings")
"""Of both; and into events, and which pixels fire again."""


def _read_lanes_plainly(marks: U8, first: int) -> int:
    """Return which of marks[first : first + LANES] are ones, as the bits of a number."""
    lanes = 0
    for lane in range(LANES):
        lanes |= int(marks[first + lane]) << lane
    return lanes


def _count_lanes_plainly(lanes: int) -> int:
    """Return how many bits are ones."""
    count = 0
    for lane in range(LANES):
        count += lanes >> lane & 1
    return count


def _pack_lanes_plainly(
    source: npt.NDArray[Any], first: int, lanes: int, packed: npt.NDArray[Any], count: int
) -> None:
    """Append the lanes of source[first : first + LANES] that are marked to packed[:count].

    Values have 32 bits. There must be room for LANES, of which those not marked get any value. All
    are read before one is written: with count <= first the two may be the same array.
    """
    for lane in range(LANES):
        if lanes >> lane & 1:
            packed[count] = source[first + lane]
            count += 1


def _pack_places_plainly(first: int, lanes: int, listed: I32, count: int) -> None:
    """Append the places of the marked lanes, of which the lowest has the place `first`."""
    for lane in range(LANES):
        if lanes >> lane & 1:
            listed[count] = first + lane
            count += 1


_SPREAD = sum(1 << 7 * n for n in range(1, 9))
"""Times eight bytes of 0 or 1, this has them as the bits of its highest byte."""
_WORD, _LONG = ir.IntType(32), ir.IntType(64)
_WORDS, _EIGHTS = ir.VectorType(_WORD, LANES), ir.VectorType(ir.IntType(8), LANES)


@intrinsic  # type: ignore[untyped-decorator]
def _read_lanes(typing: Any, marks: Any, first: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if PERMUTES:
            at = _point(context, builder, signature.args[0], values[0], values[1], _EIGHTS)
            mask = builder.icmp_signed("!=", builder.load(at, align=1), _EIGHTS([0] * LANES))
            return builder.zext(builder.bitcast(mask, ir.IntType(LANES)), _LONG)
        at = _point(context, builder, signature.args[0], values[0], values[1], _LONG)
        spread = builder.mul(builder.load(at, align=1), _LONG(_SPREAD))
        return builder.lshr(spread, _LONG(56))

    return types.int64(marks, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _count_lanes(typing: Any, lanes: Any) -> Any:
    return types.int64(lanes), lambda context, builder, signature, values: builder.ctpop(values[0])


@intrinsic  # type: ignore[untyped-decorator]
def _pack_lanes(typing: Any, source: Any, first: Any, lanes: Any, packed: Any, count: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        at = _point(context, builder, signature.args[0], values[0], values[1], _WORDS)
        front = _bring_to_front(builder, builder.load(at, align=4), values[2])
        to = _point(context, builder, signature.args[3], values[3], values[4], _WORDS)
        builder.store(front, to, align=4)
        return context.get_dummy_value()

    return types.void(source, types.int64, lanes, packed, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _pack_places(typing: Any, first: Any, lanes: Any, listed: Any, count: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        none, low = _WORDS(ir.Undefined), builder.trunc(values[0], _WORD)
        low = builder.insert_element(none, low, _WORD(0))
        splat = builder.shuffle_vector(low, none, _WORDS([0] * LANES))
        places = builder.add(splat, _WORDS(list(range(LANES))))
        to = _point(context, builder, signature.args[2], values[2], values[3], _WORDS)
        builder.store(_bring_to_front(builder, places, values[1]), to, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, lanes, listed, types.int64), generate


def _point(context: Any, builder: Any, kind: Any, array: Any, at: Any, vector: Any) -> Any:
    data = make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


def _bring_to_front(builder: Any, vector: Any, lanes: Any) -> Any:
    """Return a register with the marked lanes first.

    In a register, to be stored whole: a CPU may take 100 cycles and more to pack into memory (AMD's
    Zen 4 does). AVX2 has no such instruction, but moves lanes in an order, which a table tells.
    """
    if PERMUTES:
        bits = ir.VectorType(ir.IntType(1), LANES)
        mask = builder.bitcast(builder.trunc(lanes, ir.IntType(LANES)), bits)
        kind = ir.FunctionType(_WORDS, [_WORDS, _WORDS, bits])
        compress = declare(builder.module, kind, "llvm.x86.avx512.mask.compress.v16i32")
        return builder.call(compress, [vector, _WORDS([0] * LANES), mask])
    order = builder.load(builder.gep(_orders(builder.module), [_LONG(0), lanes]), align=8)
    kind = ir.FunctionType(_WORDS, [_WORDS, _WORDS])
    permute = declare(builder.module, kind, "llvm.x86.avx2.permd")
    return builder.call(permute, [vector, builder.zext(order, _WORDS)])


def _orders(module: Any) -> Any:
    """Return the table of the order in which lanes come to the front, of each of 256 bytes."""
    name = "ezsr.orders"
    if name in module.globals:
        return module.globals[name]
    rows = [sorted(range(8), key=lambda lane: (~byte >> lane & 1, lane)) for byte in range(256)]
    table = ir.Constant(ir.ArrayType(_EIGHTS, 256), [_EIGHTS(row) for row in rows])
    orders = ir.GlobalVariable(module, table.type, name)
    orders.linkage, orders.global_constant, orders.initializer = "internal", True, table
    return orders


def _choose(plain: Any, packs: Any) -> Any:
    """Return what stands for a function: itself, or where the CPU PACKS, its instructions."""
    if settings.DISABLE_JIT:
        return plain
    return packs if PACKS else extending.register_jitable(plain)


read_lanes: Callable[[U8, int], int] = _choose(_read_lanes_plainly, _read_lanes)
count_lanes: Callable[[int], int] = _choose(_count_lanes_plainly, _count_lanes)
pack_lanes: Callable[[Any, int, int, Any, int], None] = _choose(_pack_lanes_plainly, _pack_lanes)
pack_places: Callable[[int, int, I32, int], None] = _choose(_pack_places_plainly, _pack_places)


@jit_into
def list_marked(marks: U8, listed: I32) -> int:
    """Write the places of the ones among zeros and ones; return how many there are.

    marks   a whole number of LANES long
    listed  with room for a further LANES than there are marks
    """
    count = 0
    for first in range(0, len(marks) if PACKS else 0, LANES):
        lanes = read_lanes(marks, first)
        pack_places(first, lanes, listed, count)
        count += count_lanes(lanes)
    for n in range(0 if PACKS else len(marks)):
        listed[count] = n
        count += int(marks[n])
    return count
