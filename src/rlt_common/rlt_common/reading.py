"""Files read whole, up to a size: what lies in a run or was copied onto it cannot fill the memory or hang the reader.

The only place that reads whole files. Errors are OSErrors with `strerror`, like those of any file that cannot be read.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 64 * 1024**2
_SMALL = 1024**2


def read_limited(path: Path | str, max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes`.

    Raises OSError when it cannot be read, is larger (EFBIG), or is a pipe, device or socket (EINVAL).
    """
    # Opening a pipe without O_NONBLOCK waits for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        _check(path, found, max_bytes)
        # read(n) asks for n bytes of memory at once; files of the kernel say that they are empty.
        data = file.read(min(max_bytes, max(found.st_size, _SMALL)) + 1)
    if len(data) > max_bytes:
        raise _too_large(path, max_bytes)
    return data


def check_size(path: Path | str, max_bytes: int) -> None:
    """Raises OSError as :func:`read_limited` does; for libraries that open a file by its name."""
    _check(path, os.stat(path), max_bytes)


def read_tail(path: Path | str, max_bytes: int) -> str:
    """The last `max_bytes` of a text file, which may be of any size. Raises OSError."""
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - max_bytes))
        return file.read(max_bytes).decode(errors="replace")


def parse_json(text: bytes | str) -> Any:
    """Raises ValueError for what is no JSON, and for nesting deeper than any of our files has."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path | str, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value in a JSON file. Raises OSError as :func:`read_limited` does, and ValueError for what is no JSON."""
    return parse_json(read_limited(path, max_bytes))


def _check(path: Path | str, found: os.stat_result, max_bytes: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if found.st_size > max_bytes:
        raise _too_large(path, max_bytes)


def _too_large(path: Path | str, max_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {max_bytes} bytes", str(path))
