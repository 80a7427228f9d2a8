"""Bullying10K: `.npy` files of pickled packets, unpickled without letting the pickle do anything.

A pickle is a program. Here it may call four functions only, by names that numpy writes, and none
of them is numpy's: they note what the arrays say of themselves, and arrays are made of that
afterwards. So neither numpy's nor any other code runs on the file's orders.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ezsr_shards.formats.arrays import decode_npy, raw_from_array, raw_from_columns, read_npy_header
from ezsr_shards.formats.raw import RawEvents, RecordingError
from ezsr_shards.formats.reading import MAX_BYTES_PER_EVENT, check_count, read_bytes

_MAX_FILE_BYTES = 1 << 30
_MAX_OPCODES = 2_000_000
_T = TypeVar("_T")
_NUMBER = re.compile(r"[biuf][1248]")
_OPCODES = frozenset(
    """PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG
    LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2
    TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL
    REDUCE BUILD PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET""".split()  # noqa: SIM905 - a list would fill a page
)
"""What plain data and calls need; the rest makes objects, or looks names up past `find_class`."""


def read_bullying10k(path: Path) -> RawEvents:
    """Read a recording of Bullying10K; call this only where the user allowed pickles.

    See `decode_bullying10k`. At most 1 GiB.
    """
    return decode_bullying10k(read_bytes(path, _MAX_FILE_BYTES))


def decode_bullying10k(data: bytes) -> RawEvents:
    """Decode an array of packets, each records with the fields timestamp, x, y, polarity.

    So dv's AedatFile gives them and the authors' readdata.py saves them; times are microseconds,
    y counts from the top. Packets of plain numbers are read by their first columns t, x, y, p,
    as SpikingJelly does. Empty packets (None) are passed over; the sensor is 346x260.
    Raises RecordingError: "forbidden-pickle" with the name that was asked for, "unreadable",
    "wrong-columns", "too-many-events", "too-large".
    """
    stream = io.BytesIO(data)
    shape, _, dtype = read_npy_header(stream)
    if not dtype.hasobject:  # packets of equal length need no pickle
        stream.seek(0)
        raw = _raw_from_packet(decode_npy(stream))
    else:
        if dtype.kind != "O":
            raise RecordingError("forbidden-pickle", "records with Python objects in them")
        packets = list(_packets(_unpickle(data[stream.tell() :]), math.prod(shape)))
        raw = _raw_from_packet(_joined(packets))
    return RawEvents(raw.x, raw.y, raw.t, raw.p, 346, 260)


def _raw_from_packet(packet: npt.NDArray[Any]) -> RawEvents:
    if packet.dtype.names or packet.ndim < 2 or packet.shape[-1] < 4:
        return raw_from_array(packet)
    numbers = packet.reshape(-1, packet.shape[-1])
    return raw_from_columns(dict(zip("txyp", numbers[:, :4].T, strict=True)))


def _joined(packets: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    check_count(sum(packet.size if packet.dtype.names else len(packet) for packet in packets))
    if not packets:
        raise RecordingError("no-events")
    try:
        return np.concatenate(packets)
    except (TypeError, ValueError) as error:
        raise RecordingError("wrong-columns", f"packets of different kinds ({error})") from error


def _packets(outer: object, most: int) -> Iterator[npt.NDArray[Any]]:
    """Return the packets of the outermost array, which may hold arrays but not arrays of arrays."""
    if not isinstance(outer, _Array) or not isinstance(outer.data, list):
        raise RecordingError("wrong-columns", "the pickle holds no array of packets")
    if len(outer.data) != most:
        raise RecordingError("unreadable", f"{len(outer.data)} packets, the header says {most}")
    total_bytes = 0
    for item in outer.data:
        if item is None:
            continue
        if not isinstance(item, _Array) or isinstance(item.data, list):
            raise RecordingError("wrong-columns", f"a packet is a {type(item).__name__}, no array")
        packet = item.rebuilt()
        total_bytes += packet.nbytes  # one packet can be named many times
        if total_bytes > _MAX_FILE_BYTES:
            raise RecordingError("too-large", f"packets of more than {_MAX_FILE_BYTES} bytes")
        yield packet


def _unpickle(data: bytes) -> object:
    try:
        _check_opcodes(data)
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except RecordingError:
        raise
    except Exception as error:  # a pickle can make its reader raise almost anything
        raise RecordingError("unreadable", f"{type(error).__name__}: {error}") from error


def _check_opcodes(data: bytes) -> None:
    """Raise RecordingError at an opcode that plain data does not need, or at too many.

    It also refuses what makes the reader set memory aside that the file does not fill: memo
    numbers beyond the count of opcodes.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name not in _OPCODES:
            raise RecordingError("forbidden-pickle", f"opcode {opcode.name}")
        if opcode.name.endswith("PUT") and int(str(argument)) > count:
            raise RecordingError("forbidden-pickle", f"memo number {argument}")
        if count >= _MAX_OPCODES:
            raise RecordingError("forbidden-pickle", f"more than {_MAX_OPCODES} opcodes")


class _Unpickler(pickle.Unpickler):
    """Finds the few names that numpy's arrays need, as stand-ins."""

    def find_class(self, module: str, name: str, /) -> _Call:
        """Return the stand-in for a name; RecordingError for every other name."""
        call = _CALLS.get(f"{module}.{name}")
        if call is None:
            raise RecordingError("forbidden-pickle", f"{module}.{name}"[:100])
        return _Call(call)


class _Call:
    """A function of this file as a pickle may hold it: it can be called and nothing else."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise RecordingError("forbidden-pickle", "a state for a function")


class _Dtype:
    """What a pickled dtype says of itself: its letters, byte order and fields."""

    __slots__ = ("_letters", "_state")

    def __init__(self, letters: object) -> None:
        self._letters = _text(letters)
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 6:
            raise RecordingError("unreadable", "a dtype without its state")
        self._state = state

    @property
    def is_object(self) -> bool:
        return self._letters in ("O", "O4", "O8")

    def rebuilt(self, nested: bool = False) -> np.dtype[Any]:
        """Return the dtype, of numbers or of records of numbers; RecordingError for others."""
        order, _, names, fields, size = self._state[1:6] if self._state else ("|", *[None] * 4)
        if _NUMBER.fullmatch(self._letters):
            return np.dtype((">" if _text(order) == ">" else "<") + self._letters)
        if nested or not isinstance(names, tuple) or not isinstance(fields, dict):
            raise RecordingError("wrong-columns", f"dtype {self._letters[:20]} is no number")
        known = {_text(name): field for name, field in fields.items()}
        labels = [_text(name) for name in names]
        parts = [known[label] for label in labels]
        formats = [_instance(part[0], _Dtype).rebuilt(nested=True) for part in parts]
        offsets = [_instance(part[1], int) for part in parts]
        if not 0 < _instance(size, int) <= MAX_BYTES_PER_EVENT:
            raise RecordingError("wrong-columns", f"{size} bytes a record")
        layout: Any = {"names": labels, "formats": formats, "offsets": offsets, "itemsize": size}
        records: np.dtype[Any] = np.dtype(layout)
        return records


class _Array:
    """What a pickled array says of itself: shape, dtype and bytes, or a list of objects."""

    __slots__ = ("_dtype", "_fortran", "_shape", "data")

    def __init__(self, *_: object) -> None:
        self.data: object = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise RecordingError("unreadable", "an array without its state")
        _, shape, dtype, self._fortran, data = state
        self._dtype = _instance(dtype, _Dtype)
        self._shape = tuple(_instance(side, int) for side in _instance(shape, tuple))
        if self._dtype.is_object:
            self.data = list(_instance(data, list))
        else:
            self.data = data.encode("latin1") if isinstance(data, str) else _instance(data, bytes)

    def rebuilt(self) -> npt.NDArray[Any]:
        """Return the array of numbers or records; RecordingError where its bytes do not fit."""
        try:
            data = _instance(self.data, bytes)
            array = np.frombuffer(data, self._dtype.rebuilt())
            if self._fortran:
                return np.atleast_1d(array.reshape(self._shape[::-1]).T)
            return np.atleast_1d(array.reshape(self._shape))
        except RecordingError:
            raise
        except Exception as error:  # numpy on a hostile shape or record layout
            raise RecordingError("unreadable", f"{type(error).__name__}: {error}") from error


def _scalar(dtype: object, data: object) -> _Array:
    one = _Array()
    one.__setstate__((1, (1,), dtype, False, data))
    return one


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Do what pickles of protocol 2 need to write bytes."""
    if encoding != "latin1":
        raise RecordingError("forbidden-pickle", "_codecs.encode to another encoding than latin1")
    return _instance(text, str).encode("latin1")


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else _instance(value, str)


def _instance(value: object, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise RecordingError("unreadable", f"a {type(value).__name__} where {kind.__name__} goes")
    return value


def _dtype(letters: object, *_: object) -> _Dtype:
    return _Dtype(letters)


_CALLS: dict[str, Callable[..., object]] = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.ndarray": _Array,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
}
