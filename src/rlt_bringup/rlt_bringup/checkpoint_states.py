"""What the learner's checkpoints say of themselves: read without PyTorch, for launch and report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlt_common.reading import read_json


def newest_state(folder: Path, problems: list[str]) -> tuple[Mapping[str, Any], str]:
    """state.json and name of the checkpoint in `folder` that was written last; ({}, "") without one."""
    found = []
    for path in sorted(folder.glob("*/state.json")) if folder.is_dir() else ():
        if state := read_object(path, problems):
            found.append((int(state.get("serial", 0)), path.parent.name, state))
    _, name, state = max(found, key=lambda each: each[:2], default=(0, "", {}))
    return state, name


def read_object(path: Path, problems: list[str]) -> Mapping[str, Any]:
    """The object in a JSON file; {} where there is no file, or, with a word in `problems`, none that can be read."""
    try:
        value = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        problems.append(f"{path.parent.name}/{path.name} is left out: {error}")
        return {}
    return value if isinstance(value, dict) else {}
