"""`make constraints`: write constraints.txt, the versions of what the packages of requirements*.txt need in turn.

Left out is requirements-lerobot.txt, which names all that it needs itself.

Read from the environment of this checkout, made without ROS 2 installed: what is there is what was tested. To take
newer ones, empty the file, remove .venv, make and test everything anew, and write it again.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "constraints.txt"
COMPLETE = "requirements-lerobot.txt"
HEAD = """\
# What the packages of requirements*.txt need in turn, in the versions that were tested (Python 3.11, Linux, x86-64, no
# GPU), for `make setup` without ROS 2 installed. Written by `make constraints`. docs/security.md says what is pinned.
"""
GPU_BUILDS = re.compile(r"nvidia-|cuda-|triton")
"""Packages that PyTorch's GPU builds need, each in the one version that the build names."""


def required() -> dict[str, set[str]]:
    """Canonical name of each package in requirements*.txt -> the extras asked for."""
    found: dict[str, set[str]] = {}
    for file in sorted(set(ROOT.glob("requirements*.txt")) - {ROOT / COMPLETE}):
        for line in file.read_text(encoding="utf-8").splitlines():
            text = line.split("#")[0].strip()
            if text and not text.startswith("-r "):  # of a file that is read as well
                requirement = Requirement(text)
                found.setdefault(canonicalize_name(requirement.name), set()).update(requirement.extras)
    return found


def needed() -> dict[str, str]:
    """Canonical name -> installed version of what those packages need in turn, themselves left out.

    Raises PackageNotFoundError where the environment lacks one.
    """
    named = required()
    waiting = list(named.items())
    seen: dict[str, set[str]] = {}
    found: dict[str, str] = {}
    while waiting:
        name, extras = waiting.pop()
        if name in seen and extras <= seen[name]:
            continue
        seen.setdefault(name, set()).update(extras)
        installed = distribution(name)
        if name not in named:
            found[name] = installed.version
        for text in installed.requires or ():
            requirement = Requirement(text)
            environments = [{"extra": extra} for extra in ("", *extras)]
            wanted = requirement.marker is None or any(requirement.marker.evaluate(e) for e in environments)
            child = canonicalize_name(requirement.name)
            if wanted and not GPU_BUILDS.match(child):
                waiting.append((child, set(requirement.extras)))
    return dict(sorted(found.items()))


def main() -> None:
    """Write the file."""
    try:
        lines = [f"{name}=={version}" for name, version in needed().items()]
    except PackageNotFoundError as error:
        sys.exit(f"constraints: {error.name} is not installed: run make setup without ROS 2 first")
    FILE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"constraints: {len(lines)} packages in {FILE.name}")


if __name__ == "__main__":
    main()
