"""numpy arrays in msgpack, as openpi and as Isaac GR00T have them on the wire. Nothing that is read can run code.

Only booleans, integers and floats are read and written: no object, structured, string or complex types. An array's size
must be the one that its type and shape say, so nothing is allocated beyond the message itself.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

_DTYPE = re.compile(r"[<>|=][biuf][1248]")
_MAX_DIMENSIONS = 8
# Read by this alone: numpy's own reader parses the header as Python.
_NPY = re.compile(
    rb"\{'descr': '([^']{1,8})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,18}, )*(?:[0-9]{1,18},?)?)\), \} *\n"
)


class WireError(ValueError):
    """Bytes that are no message of this kind, or a value that may not travel."""


@dataclass(frozen=True)
class Wire:
    """A way to have arrays in msgpack."""

    encode: Callable[[Any], Any]
    decode: Callable[[Mapping[Any, Any]], Any]

    def pack(self, value: Any) -> bytes:
        """The message of a value of mappings, lists, numbers, strings and arrays. Raises WireError."""
        try:
            return msgpack.packb(value, default=self.encode)
        except (TypeError, ValueError, OverflowError) as error:
            raise WireError(f"cannot be sent: {error}") from error

    def unpack(self, data: bytes) -> Any:
        """The value of a message. Arrays are read-only views of `data`. Raises WireError."""
        try:
            return msgpack.unpackb(data, object_hook=self.decode)
        except WireError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError, msgpack.exceptions.UnpackException) as error:
            raise WireError(f"not a msgpack message: {error or type(error).__name__}") from error


def _checked(value: np.ndarray | np.generic) -> np.dtype:
    if not _DTYPE.fullmatch(value.dtype.str):
        raise WireError(f"arrays of {value.dtype} do not travel: only booleans, integers and floats do")
    return value.dtype


def _numeric(name: Any) -> np.dtype:
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise WireError(f"array of type {name!r}: only booleans, integers and floats are read")
    try:
        return np.dtype(name)
    except TypeError as error:
        raise WireError(f"array of type {name!r}: {error}") from error


def _array(data: Any, dtype: np.dtype, shape: Any) -> np.ndarray:
    if not isinstance(shape, list | tuple) or len(shape) > _MAX_DIMENSIONS:
        raise WireError(f"array of shape {shape!r}")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise WireError(f"array of shape {shape!r}")
    if not isinstance(data, bytes | memoryview) or len(data) != math.prod(shape) * dtype.itemsize:
        raise WireError(f"array of {dtype} and shape {tuple(shape)} does not have that many bytes")
    return np.frombuffer(data, dtype).reshape(shape)


# ---- openpi (packages/openpi-client, msgpack_numpy)


def _openpi_encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        dtype = _checked(value)
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": _checked(value).str}
    raise TypeError(f"a {type(value).__name__} does not travel")


def _openpi_decode(found: Mapping[Any, Any]) -> Any:
    if b"__ndarray__" in found:
        return _array(found.get(b"data"), _numeric(found.get(b"dtype")), found.get(b"shape"))
    if b"__npgeneric__" in found:
        number = found.get(b"data")
        if not isinstance(number, bool | int | float):
            raise WireError(f"a number that is a {type(number).__name__}")
        return _numeric(found.get(b"dtype")).type(number)
    return found


# ---- Isaac GR00T (gr00t/policy/server_client.py): .npy inside


def _gr00t_encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        _checked(value)
        stream = io.BytesIO()
        np.lib.format.write_array(stream, value, version=(1, 0), allow_pickle=False)
        return {"__ndarray_class__": True, "as_npy": stream.getvalue()}
    raise TypeError(f"a {type(value).__name__} does not travel")


def _gr00t_decode(found: Mapping[Any, Any]) -> Any:
    if "__ndarray_class__" not in found:
        return found
    data = found.get("as_npy")
    if not isinstance(data, bytes):
        raise WireError("an array without its .npy")
    size = int.from_bytes(data[8:10], "little")
    header = _NPY.fullmatch(data[10 : 10 + size])
    if data[:8] != b"\x93NUMPY\x01\x00" or header is None:
        raise WireError("an array that is not a .npy of version 1.0 as numpy writes it")
    kind, fortran = header[1].decode(), header[2] == b"True"
    shape = [int(n) for n in header[3].split(b",") if n.strip()]
    body = memoryview(data)[10 + size :]
    array = _array(body, _numeric(kind), shape[::-1] if fortran else shape)
    return array.T if fortran else array


OPENPI = Wire(_openpi_encode, _openpi_decode)
GR00T = Wire(_gr00t_encode, _gr00t_decode)
