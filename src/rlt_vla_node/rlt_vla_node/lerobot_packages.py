"""LeRobot's packages: imported when a policy is opened, cut off from the hub, beside any PyTorch."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

import torch

REQUIREMENTS = "requirements-lerobot.txt"
_OPERATORS = ("nms", "qnms")
_library: list[torch.library.Library] = []


def lerobot_module(name: str) -> ModuleType:
    """The module `lerobot.<name>`. Raises ImportError where it is not installed or does not load."""
    return extra_module(f"lerobot.{name}")


def extra_module(name: str) -> ModuleType:
    """A module of the extra's packages, which import torchvision. Raises ImportError as `lerobot_module`."""
    _stay_offline()
    _import_torchvision()
    return importlib.import_module(name)


def _stay_offline() -> None:
    """What a policy needs lies in folders: nothing may be fetched, silently, from the hub of models."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = True


def _import_torchvision() -> None:
    """torchvision's wheel carries operators for CUDA: beside a PyTorch for CPUs they do not load.

    What of it is used here (ResNets, resizing) needs none of them, but its import asks for two by name.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise ImportError(f"torchvision does not load beside torch {torch.__version__}: {error}") from error
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library.append(torch.library.Library("torchvision", "DEF"))
        for operator in _OPERATORS:
            _library[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
