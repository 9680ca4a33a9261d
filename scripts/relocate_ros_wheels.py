"""Make the CMake files of the ROS 2 wheels name this virtual environment instead of the machine that built them.

The wheels' exported targets carry the include directories of the builder's Python and NumPy. Run with the virtual
environment's Python; running it again changes nothing. Exits with an error if a path of the builder is left.
"""

import re
import sys
import sysconfig
from pathlib import Path

import numpy as np

BUILDER_ROOT = "/opt/python/"
NUMPY_INCLUDE = re.compile(BUILDER_ROOT + r"[^;\"\s]*/site-packages/numpy/_?core/include")
PYTHON_INCLUDE = re.compile(BUILDER_ROOT + r"[^/;\"\s]+/include/python3\.\d+")


def relocate(text: str, python_include: str, numpy_include: str) -> str:
    """Return `text` with the builder's include directories replaced by the two given ones."""
    text = NUMPY_INCLUDE.sub(lambda _: numpy_include, text)
    return PYTHON_INCLUDE.sub(lambda _: python_include, text)


def main() -> int:
    """Relocate every CMake file under the environment's share and lib directories."""
    prefix = Path(sys.prefix)
    python_include, numpy_include = sysconfig.get_path("include"), np.get_include()
    changed, left = 0, []
    for path in sorted((*prefix.glob("share/**/*.cmake"), *prefix.glob("lib/cmake/**/*.cmake"))):
        before = path.read_text(encoding="utf-8")
        after = relocate(before, python_include, numpy_include)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed += 1
        if BUILDER_ROOT in after:
            left.append(path)
    print(f"{changed} CMake files relocated to {python_include} and {numpy_include}")
    for path in left:
        print(f"error: {path} still names {BUILDER_ROOT}; teach this script its pattern", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
