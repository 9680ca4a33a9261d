"""Files that are either whole or not there: temporary name, fsync, rename, fsync of the folder. And lists that grow by
whole lines.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.part")


def write_atomic(path: Path | str, data: bytes) -> None:
    """Write `data` so that a crash at any moment leaves the old file or the new one, never a part.

    Raises OSError when the disk refuses; the old file stays, and nothing else takes up room. What a writer of the same
    file left that was killed is removed.
    """
    path = Path(path)
    remove_leftovers(path.parent, path.name)
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb", opener=no_follow) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        rename_durable(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def append_line(path: Path, value: Any) -> None:
    """Append a value to a file of JSON lines, durably; a line that was torn when its writer died is ended first.

    Raises OSError when the disk refuses; then nothing of the line stays. One process writes the file.
    """
    with open(path, "a+b", buffering=0, opener=no_follow) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        torn = file.read(1) not in (b"", b"\n")
        left = memoryview(b"\n" * torn + json.dumps(value).encode() + b"\n")
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
            fsync_folder(path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def temporary_path(path: Path) -> Path:
    """Where this process writes what is to be `path`: beside it, hidden."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Delete what writers left in `folder` that were killed: temporary files and folders of processes that are gone.

    `name`: only those of this file; empty: all. What cannot be deleted stays: the disk may be read-only. Meant for
    folders that processes of one machine write to.
    """
    for path in sorted(folder.glob(".*.part")):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or (name and match[1] != name) or _alive(int(match[2])):
            continue
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def no_follow(path: str, flags: int) -> int:
    """For `open(..., opener=no_follow)`: a symbolic link in the file's place is an OSError, not followed."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def rename_durable(source: Path, target: Path, new: bool = False) -> None:
    """Rename within one folder and make the rename itself durable. Raises OSError when the disk refuses.

    `new`: nothing has the name `target` yet. Then the file has its old name again where the rename is not durable.
    """
    os.replace(source, target)
    try:
        fsync_folder(target.parent)
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                os.replace(target, source)
        raise


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_hex(data: bytes) -> str:
    """The sha256 of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()
