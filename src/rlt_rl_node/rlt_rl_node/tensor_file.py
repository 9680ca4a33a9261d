"""Arrays and plain facts in one safetensors file: what checkpoints, published actors and encoded episodes are made of.

The facts are one JSON object under a single metadata key, so that equal content gives equal bytes. Reading cannot run
code and is bounded in size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from rlt_common.reading import parse_json

_KEY = "rlt"


class TensorFileError(ValueError):
    """Bytes that are not what they should be; says what is wrong."""


def dump(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> bytes:
    """Arrays and JSON-able facts to bytes."""
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, {_KEY: json.dumps(facts, sort_keys=True)})


def parse(data: bytes, max_bytes: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Bytes of :func:`dump` to arrays and facts. Raises TensorFileError for anything else."""
    if len(data) > max_bytes:
        raise TensorFileError(f"{len(data)} bytes, more than the {max_bytes} allowed")
    try:
        arrays = safetensors.numpy.load(data)
        header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        facts = parse_json(header["__metadata__"][_KEY])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TensorFileError(f"not a safetensors file of this project: {error!r}") from error
    if not isinstance(facts, dict):
        raise TensorFileError(f"its facts are a {type(facts).__name__}, not an object")
    return arrays, facts


def expect(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int | None, ...]], dtype: type) -> None:
    """Check names, shapes (None: any length) and dtype, and that floats are finite. Raises TensorFileError."""
    for name, shape in shapes.items():
        if name not in arrays:
            raise TensorFileError(f"array {name!r} is missing")
        array = arrays[name]
        fits = array.ndim == len(shape) and all(b is None or a == b for a, b in zip(array.shape, shape, strict=True))
        if not fits or array.dtype != dtype:
            raise TensorFileError(f"array {name!r} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}")
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise TensorFileError(f"array {name!r} holds a value that is not finite")
