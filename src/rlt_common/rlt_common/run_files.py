"""Files of a run directory stay in it: no name and no symbolic link in it leads what is written anywhere else.

A run directory may come from another machine, and names of its files from messages. The directory itself may be a link.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


def inside(folder: Path | str, *names: str) -> Path:
    """`folder`/`names`, of which nothing needs to exist yet.

    Raises PermissionError, with `strerror`, when it lies outside of `folder` once every link and ".." is followed.
    """
    folder = Path(folder)
    path = folder.joinpath(*names)
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        text = f"leads out of {folder}, to {real}: remove that link; the directory itself may be one"
        raise PermissionError(errno.EACCES, text, str(path))
    return path
