"""Lanes: the values of LANES neighbours in one register, which kernels treat like numbers.

`store(row, n, load(row, n) + load(leak, n))` becomes three instructions for 8 or 16 pixels.
Operators work lane by lane, on lanes of one kind or on lanes and one number of that kind;
comparisons give marks. Each function is plain Python on arrays of LANES values, which is what runs
without the JIT, with a compiled form of the same meaning.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils
from numba.core import codegen as numba_codegen
from numba.core import config as numba_config
from numba.core import extending as numba_extending
from numba.core import types as numba_types
from numba.core.datamodel import models as numba_models
from numba.core.typing import templates as numba_templates
from numba.np import arrayobj

from ezsr_synth.jit import jit_into

extending: Any = numba_extending
types: Any = numba_types
models: Any = numba_models
make_array: Any = arrayobj.make_array
declare: Any = cgutils.get_or_insert_function
settings: Any = numba_config
codegen: Any = numba_codegen
templates: Any = numba_templates

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]


def _can(feature: str) -> bool:
    """Tell whether code may use it: on this CPU, unless NUMBA_CPU_FEATURES says otherwise."""
    features = settings.CPU_FEATURES
    if features is None:
        features = codegen.get_host_cpu_features()  # less what NUMBA_ENABLE_AVX=0 forbids
    return f"+{feature}" in features.split(",")


PERMUTES = _can("avx512f")
"""Whether the CPU picks lanes of two registers by number, at once."""
PACKS = PERMUTES or _can("avx2")
"""Whether the CPU moves lanes of a register by number, at once."""
LANES = 16 if PERMUTES else 8
"""Of a register, in values of 32 bits."""


class Lanes(types.Type):  # type: ignore[misc]
    """The type of LANES values of a kind, `dtype`."""

    def __init__(self, dtype: Any) -> None:
        """Name it after the kind."""
        self.dtype = dtype
        super().__init__(f"lanes of {dtype}")


FLOATS, DOUBLES = Lanes(types.float32), Lanes(types.float64)
INTS, WORDS, LONGS = Lanes(types.int32), Lanes(types.uint32), Lanes(types.uint64)
MARKS = Lanes(types.boolean)
_WORD, _LONG, _MARKED = ir.IntType(32), ir.IntType(64), ir.IntType(LANES)
_REGISTERS = {
    lanes: ir.VectorType(value, LANES)
    for lanes, value in {
        FLOATS: ir.FloatType(),
        DOUBLES: ir.DoubleType(),
        INTS: _WORD,
        WORDS: _WORD,
        LONGS: _LONG,
        MARKS: ir.IntType(1),
    }.items()
}
_LANES_OF = {lanes.dtype: lanes for lanes in _REGISTERS}


@extending.register_model(Lanes)
class _Register(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, lanes: Any) -> None:
        super().__init__(manager, lanes, _REGISTERS[lanes])


def _splat(builder: Any, value: Any, register: Any) -> Any:
    none = register(ir.Undefined)
    low = builder.insert_element(none, value, _WORD(0))
    return builder.shuffle_vector(low, none, _REGISTERS[INTS]([0] * LANES))


Build = Callable[..., Any]


def _operate(sign: Any, kinds: tuple[Lanes, ...], result: Lanes | None, build: Build) -> None:
    """Give an operator to lanes of some kinds, and to lanes and one number.

    result  the kind of what comes out; that of what goes in where it is None
    build   (builder, register, register) -> register
    """

    class Typing(templates.ConcreteTemplate):  # type: ignore[misc]
        cases: ClassVar[list[Any]] = [
            templates.signature(result or lanes, *operands)
            for lanes in kinds
            for operands in ((lanes, lanes), (lanes, lanes.dtype), (lanes.dtype, lanes))
        ]

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        register = _REGISTERS[next(kind for kind in signature.args if kind in kinds)]
        operands = (
            value if kind in kinds else _splat(builder, value, register)
            for kind, value in zip(signature.args, values, strict=True)
        )
        return build(builder, *operands)

    templates.infer_global(sign)(Typing)
    for case in Typing.cases:
        extending.lower_builtin(sign, *case.args)(generate)


def _instruction(name: str, *sign: str) -> Build:
    return lambda builder, a, b: getattr(builder, name)(*sign, a, b)


_BROKEN, _WHOLE = (FLOATS, DOUBLES), (INTS, WORDS, LONGS)
for _sign, _broken, _whole in (
    (operator.add, "fadd", "add"),
    (operator.sub, "fsub", "sub"),
    (operator.mul, "fmul", "mul"),
):
    _operate(_sign, _BROKEN, None, _instruction(_broken))
    _operate(_sign, _WHOLE, None, _instruction(_whole))
_operate(operator.truediv, _BROKEN, None, _instruction("fdiv"))
_operate(operator.lt, _BROKEN, MARKS, _instruction("fcmp_ordered", "<"))
_operate(operator.le, _BROKEN, MARKS, _instruction("fcmp_ordered", "<="))
_operate(operator.gt, _BROKEN, MARKS, _instruction("fcmp_ordered", ">"))
_operate(operator.ge, _BROKEN, MARKS, _instruction("fcmp_ordered", ">="))
_operate(operator.eq, _BROKEN, MARKS, _instruction("fcmp_ordered", "=="))
_operate(operator.eq, _WHOLE, MARKS, _instruction("icmp_signed", "=="))
_operate(operator.and_, (*_WHOLE, MARKS), None, _instruction("and_"))
_operate(operator.or_, (*_WHOLE, MARKS), None, _instruction("or_"))
_operate(operator.lshift, _WHOLE, None, _instruction("shl"))
_operate(operator.rshift, (INTS,), None, _instruction("ashr"))

_Plain = TypeVar("_Plain", bound=Callable[..., Any])


def compiles_to(build: Callable[..., Any]) -> Callable[[_Plain], _Plain]:
    """Give a plain function a compiled form, an intrinsic of Numba's."""
    return lambda plain: plain if settings.DISABLE_JIT else extending.intrinsic(build)


def _point(context: Any, builder: Any, kind: Any, where: tuple[Any, Any], register: Any) -> Any:
    data = make_array(kind)(context, builder, where[0]).data
    return builder.bitcast(builder.gep(data, [where[1]]), register.as_pointer())


def _load(typing: Any, array: Any, at: Any) -> Any:
    lanes = _LANES_OF[array.dtype]
    if lanes == MARKS:
        raise TypeError("load: marks lie in memory as bytes, for load_bits")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        at = _point(context, builder, signature.args[0], values, _REGISTERS[lanes])
        return builder.load(at, align=array.dtype.bitwidth // 8)

    return lanes(array, types.int64), generate


@compiles_to(_load)
def load(array: npt.NDArray[Any], at: int) -> Any:
    """Return array[at : at + LANES], of the array as one long row."""
    return array.reshape(-1)[at : at + LANES].copy()


def _store(typing: Any, array: Any, at: Any, lanes: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        at = _point(context, builder, signature.args[0], values[:2], values[2].type)
        builder.store(values[2], at, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, lanes), generate


@compiles_to(_store)
def store(array: npt.NDArray[Any], at: int, lanes: Any) -> None:
    """Set array[at : at + LANES], of the array as one long row."""
    array.reshape(-1)[at : at + LANES] = lanes


def _store_marked(typing: Any, array: Any, at: Any, lanes: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, at, register, bits = values
        if PACKS:
            words = _REGISTERS[WORDS]
            front = _bring_to_front(builder, builder.bitcast(register, words), bits)
            to = _point(context, builder, signature.args[0], values[:2], words)
            builder.store(front, to, align=4)
            return context.get_dummy_value()
        data = make_array(signature.args[0])(context, builder, values[0]).data
        for lane in range(LANES):
            value = builder.extract_element(register, _WORD(lane))
            builder.store(value, builder.gep(data, [at]))
            at = builder.add(at, builder.and_(builder.lshr(bits, _LONG(lane)), _LONG(1)))
        return context.get_dummy_value()

    return types.void(array, types.int64, lanes, types.int64), generate


def _bring_to_front(builder: Any, register: Any, bits: Any) -> Any:
    """Return a register with the marked lanes first.

    In a register, to be stored whole: a CPU may take 100 cycles and more to pack into memory (AMD's
    Zen 4 does). AVX2 has no such instruction, but moves lanes in an order, which a table tells.
    """
    words, marks = _REGISTERS[WORDS], _REGISTERS[MARKS]
    if PERMUTES:
        mask = builder.bitcast(builder.trunc(bits, _MARKED), marks)
        kind = ir.FunctionType(words, [words, words, marks])
        compress = declare(builder.module, kind, "llvm.x86.avx512.mask.compress.v16i32")
        return builder.call(compress, [register, words([0] * LANES), mask])
    order = builder.load(builder.gep(_orders(builder.module), [_LONG(0), bits]), align=8)
    permute = declare(builder.module, ir.FunctionType(words, [words, words]), "llvm.x86.avx2.permd")
    return builder.call(permute, [register, builder.zext(order, words)])


def _orders(module: Any) -> Any:
    """Return the table of the order in which lanes come to the front, of each of 256 bytes."""
    name = "ezsr.orders"
    if name in module.globals:
        return module.globals[name]
    eights = ir.VectorType(ir.IntType(8), 8)
    rows = [sorted(range(8), key=lambda lane: (~byte >> lane & 1, lane)) for byte in range(256)]
    table = ir.Constant(ir.ArrayType(eights, 256), [eights(row) for row in rows])
    orders = ir.GlobalVariable(module, table.type, name)
    orders.linkage, orders.global_constant, orders.initializer = "internal", True, table
    return orders


@compiles_to(_store_marked)
def store_marked(array: npt.NDArray[Any], at: int, lanes: Any, bits: int) -> None:
    """Set array[at:] to the marked lanes, side by side; what follows, of LANES in all, to anything.

    Values have 32 bits.
    """
    marked = lanes[[lane for lane in range(LANES) if bits >> lane & 1]]
    array[at : at + len(marked)] = marked


def _to_bits(typing: Any, marks: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.zext(builder.bitcast(values[0], _MARKED), _LONG)

    return types.int64(marks), generate


@compiles_to(_to_bits)
def to_bits(marks: Any) -> int:
    """Return marks as the bits of a number, the first as the lowest."""
    return sum(int(mark) << lane for lane, mark in enumerate(marks))


def _load_bits(typing: Any, marks: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        eights = ir.VectorType(ir.IntType(8), LANES)
        at = _point(context, builder, signature.args[0], values, eights)
        mask = builder.icmp_signed("!=", builder.load(at, align=1), eights([0] * LANES))
        return builder.zext(builder.bitcast(mask, _MARKED), _LONG)

    return types.int64(marks, types.int64), generate


@compiles_to(_load_bits)
def load_bits(marks: U8, at: int) -> int:
    """Return which of marks[at : at + LANES] are not 0, as `to_bits`."""
    return sum(int(mark != 0) << lane for lane, mark in enumerate(marks[at : at + LANES]))


def _count_bits(typing: Any, bits: Any) -> Any:
    return types.int64(bits), lambda context, builder, signature, values: builder.ctpop(values[0])


@compiles_to(_count_bits)
def count_bits(bits: int) -> int:
    """Return how many bits are ones."""
    return bits.bit_count()


def _choose(typing: Any, marks: Any, a: Any, b: Any) -> Any:
    return a(marks, a, a), lambda context, builder, signature, values: builder.select(*values)


@compiles_to(_choose)
def choose(marks: Any, a: Any, b: Any) -> Any:
    """Return the lanes of a where there is a mark, else those of b."""
    return np.where(marks, a, b)


def _spread(typing: Any, value: Any) -> Any:
    lanes = _LANES_OF[value]

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _splat(builder, values[0], _REGISTERS[lanes])

    return lanes(value), generate


@compiles_to(_spread)
def spread(value: Any) -> Any:
    """Return lanes that all have one value."""
    return np.full(LANES, value)


def _number_lanes(typing: Any) -> Any:
    numbers = _REGISTERS[INTS](list(range(LANES)))
    return INTS(), lambda context, builder, signature, values: numbers


@compiles_to(_number_lanes)
def number_lanes() -> Any:
    """Return every lane's number, from 0, int32."""
    return np.arange(LANES, dtype=np.int32)


def _pick(typing: Any, low: Any, high: Any, lane: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        low, high, lane = values
        floats, words = low.type, lane.type
        if PERMUTES:
            kind = ir.FunctionType(floats, [floats, words, floats])
            name = "llvm.x86.avx512.vpermi2var.ps.512"
            return builder.call(declare(builder.module, kind, name), [low, lane, high])
        kind = ir.FunctionType(floats, [floats, words])
        permute = declare(builder.module, kind, "llvm.x86.avx2.permps")
        near, far = (builder.call(permute, [half, lane]) for half in (low, high))
        return builder.select(builder.icmp_signed("<", lane, words([LANES] * LANES)), near, far)

    return FLOATS(low, high, lane), generate


@compiles_to(_pick)
def pick(low: Any, high: Any, lane: Any) -> Any:
    """Return for each lane the value of that number among the float32 of low and high.

    Where the CPU PACKS; elsewhere nobody may ask for it.
    """
    return np.concatenate([low, high])[lane]


def _floor(typing: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = values[0].type
        name = "llvm.floor.f32" if value == types.float32 else f"llvm.floor.v{LANES}f32"
        return builder.call(declare(builder.module, ir.FunctionType(kind, [kind]), name), values)

    return value(value), generate


@compiles_to(_floor)
def floor(value: Any) -> Any:
    """Return a float32 number, or lanes of them, rounded down."""
    return np.floor(value)


def _raise_two(typing: Any, power: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        single = power == types.float32
        whole = _WORD if single else _REGISTERS[INTS]
        bias, place = (whole(n if single else [n] * LANES) for n in (127, 23))
        exponent = builder.add(builder.fptosi(values[0], whole), bias)
        return builder.bitcast(builder.shl(exponent, place), values[0].type)

    return power(power), generate


@compiles_to(_raise_two)
def raise_two(power: Any) -> Any:
    """Return 2 to a whole power from -126 to 127, a float32 number, or lanes of them."""
    return np.ldexp(np.float32(1), np.int32(power))


def _convert(result: Lanes, **ways: str) -> Callable[..., Any]:
    """Return what builds a conversion; `ways` are LLVM's instructions by the kind to convert."""

    def convert(typing: Any, lanes: Any) -> Any:
        way = ways[str(lanes.dtype)]

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return getattr(builder, way)(values[0], _REGISTERS[result])

        return result(lanes), generate

    return convert


@compiles_to(_convert(FLOATS, float64="fptrunc", int32="sitofp"))
def to_floats(lanes: Any) -> Any:
    """Return float64 or int32 lanes as float32."""
    return lanes.astype(np.float32)


@compiles_to(_convert(DOUBLES, float32="fpext"))
def to_doubles(lanes: Any) -> Any:
    """Return float32 lanes as float64."""
    return lanes.astype(np.float64)


@compiles_to(_convert(WORDS, float64="fptosi", int32="bitcast"))
def to_words(lanes: Any) -> Any:
    """Return float64 or int32 lanes, from 0 to less than 2^31, as uint32, rounded down."""
    return lanes.astype(np.uint32)


@compiles_to(_convert(LONGS, uint32="zext", bool="zext"))
def to_longs(lanes: Any) -> Any:
    """Return uint32 lanes, or marks, as uint64."""
    return lanes.astype(np.uint64)


@jit_into
def least(a: Any, b: Any) -> Any:
    """Return the lower of each lane's two values."""
    return choose(a < b, a, b)


@jit_into
def most(a: Any, b: Any) -> Any:
    """Return the higher of each lane's two values."""
    return choose(a > b, a, b)


@jit_into
def list_marked(marks: U8, listed: U32) -> int:
    """Write the places of the ones among zeros and ones; return how many there are.

    marks   a whole number of LANES long
    listed  with room for a further LANES than there are marks
    """
    count, numbers = 0, to_words(number_lanes())
    for first in range(0, len(marks), LANES):
        bits = load_bits(marks, first)
        store_marked(listed, count, numbers + np.uint32(first), bits)
        count += count_bits(bits)
    return count
