"""On which GPU each process of a training works: decided apart from the GPUs, whose number is an argument."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from rlt_common.parameters import ParameterError


def take_gpu() -> None:
    """Make the GPU of this process the current one, before anything is opened on `cuda`."""
    gpu = own_gpu(os.environ, torch.cuda.device_count())
    if gpu is not None:
        torch.cuda.set_device(gpu)


def own_gpu(environment: Mapping[str, str], gpus: int) -> int | None:
    """The GPU of a process that torchrun or `accelerate launch` started; None: none is left for it, or it is alone."""
    rank = local_rank(environment)
    return rank if rank is not None and rank < gpus else None


def local_rank(environment: Mapping[str, str]) -> int | None:
    """Which of this machine's processes this one is; None: it is alone."""
    return int(environment["LOCAL_RANK"]) if "LOCAL_RANK" in environment else None


def token_device(opened: torch.device, here: bool, rank: int | None, gpus: int) -> torch.device:
    """Where the RL token is trained: beside the VLA, or on a GPU where the VLA is elsewhere.

    Args:
        opened: the backend's device.
        here: whether the VLA's weights are in this process. What a policy server answers is in main memory, which says
            nothing of where to train.
        rank: :func:`local_rank` of this process.
        gpus: how many there are.

    Raises ParameterError where the processes cannot have a GPU each.
    """
    wanted = torch.device("cuda") if opened.type == "cpu" and not here and gpus else opened
    if wanted.type != "cuda" or rank is None:
        return wanted
    if rank >= gpus:
        raise ParameterError(
            f"process {rank} of this machine has no GPU: there are {gpus}; start one process per GPU (--nproc-per-node)"
        )
    if wanted.index not in (None, rank):
        raise ParameterError(
            f"options: device {wanted}: each of several processes takes a GPU of its own: write `device: cuda`, and "
            "choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    return torch.device("cuda", rank)
