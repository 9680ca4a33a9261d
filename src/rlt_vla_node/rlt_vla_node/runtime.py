"""What decides the last bits of a result beside weights, seed and input: the processor and the library."""

from __future__ import annotations

import platform
import re
from functools import lru_cache

import torch

from rlt_common.reading import read_limited

CPUINFO_BYTES = 2**20


@lru_cache
def runtime(device: torch.device) -> str:
    """The processor or GPU that `device` stands for and the version of PyTorch, in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{name}, torch {torch.__version__}"


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", read_limited("/proc/cpuinfo", CPUINFO_BYTES).decode())
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()
