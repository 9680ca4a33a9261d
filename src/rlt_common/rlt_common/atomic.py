"""Files that are either whole or not there: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path


def write_atomic(path: Path | str, data: bytes) -> None:
    """Write `data` so that a crash at any moment leaves the old file or the new one, never a part.

    Raises OSError when the disk refuses; the old file stays, and nothing else takes up room.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
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


def no_follow(path: str, flags: int) -> int:
    """For `open(..., opener=no_follow)`: a symbolic link in the file's place is an OSError, not followed."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def rename_durable(source: Path, target: Path) -> None:
    """Rename within one folder and make the rename itself durable."""
    os.replace(source, target)
    fsync_folder(target.parent)


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
