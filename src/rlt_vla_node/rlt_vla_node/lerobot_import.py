"""LeRobot is an optional extra: here it is imported, or said how to come by it."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import torch

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[torch.library.Library] = []


class MissingExtraError(ImportError):
    """LeRobot, or something that it needs, is not installed."""


def import_lerobot(name: str) -> ModuleType:
    """The module `lerobot.<name>`; it never looks for anything on the network.

    Raises MissingExtraError.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    _define_operators()
    try:
        return importlib.import_module(f"lerobot.{name}")
    except ImportError as error:
        raise MissingExtraError(
            f"LeRobot is needed here and cannot be imported ({error}): make extras installs it"
        ) from error


def _define_operators() -> None:
    """torchvision registers fakes of operators that its CUDA build does not bring to a PyTorch for CPUs."""
    if _libraries or torch.version.cuda is not None:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _OPERATORS:
        if not hasattr(torch.ops.torchvision, schema.split("(")[0]):
            library.define(schema)
    _libraries.append(library)
