"""The backend `lerobot`: policies of LeRobot in this process (pi0, pi0.5, SmolVLA; ACT). docs/backends.md says how.

LeRobot is an extra, requirements-lerobot.txt: nothing of it is imported before a VLA file names this backend.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rlt_common.parameters import from_mapping, param, validate
from rlt_common.vla_config import VlaConfig
from rlt_vla_node import lerobot_act, lerobot_flow
from rlt_vla_node.backend import BackendError
from rlt_vla_node.lerobot_act import ActBackend
from rlt_vla_node.lerobot_flow import FlowBackend
from rlt_vla_node.lerobot_folder import WEIGHTS, PolicyFolder, read_folder, vlm_facts
from rlt_vla_node.lerobot_packages import REQUIREMENTS, lerobot_module
from rlt_vla_node.lerobot_policy import LeRobotBackend, Opened
from rlt_vla_node.lerobot_processing import Processing
from rlt_vla_node.lerobot_weights import WeightsFile

_CLASSES = {"act": "ACTPolicy", "pi0": "PI0Policy", "pi05": "PI05Policy", "smolvla": "SmolVLAPolicy"}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LeRobotOptions:
    """`options` of a VLA file with `backend: lerobot`."""

    device: str = param("auto", "where the policy runs: auto (a GPU where there is one), cpu, cuda, cuda:1, ...")
    dtype: str = param(
        "policy",
        "numbers of the weights: as LeRobot runs the policy, or another; SmolVLA is another policy in another",
        choices=("policy", *_DTYPES),
    )
    compile: str = param(
        "off",
        "torch.compile of the flow's steps, by its mode; reduce-overhead and max-autotune record CUDA graphs",
        choices=("off", "default", "reduce-overhead", "max-autotune"),
    )
    vlm: str = param(
        "", "folder of tokenizer and VLM configuration, relative to the VLA file, where the policy's own has no `vlm`"
    )
    warm_up: tuple[int, ...] = param(
        (1,), "batch sizes to run once at the start, so that none is met first on the robot", minimum=1, maximum=1024
    )

    def __post_init__(self) -> None:
        validate(self)


def open_policy(config: VlaConfig) -> LeRobotBackend:
    """Open the policy that a VLA file names. Raises ParameterError for options, BackendError for everything else."""
    options = from_mapping(LeRobotOptions, config.options, "options")
    device = _device(options.device)
    folder = read_folder(Path(config.folder) / config.source)
    if folder.kind not in _CLASSES:
        raise BackendError(
            f"{folder.path}: a policy of type {folder.kind!r}; this backend runs {', '.join(sorted(_CLASSES))}: write "
            "a backend of your own (docs/backends.md)"
        )
    other = Path(config.folder) / options.vlm if options.vlm else None
    vlm = folder.vlm(other) if folder.tokenizer or folder.kind == lerobot_flow.SMOLVLA else None
    try:
        policy = _load(folder, device, options.dtype, vlm)
        weights = WeightsFile(policy, folder.path / WEIGHTS)
        processing = Processing(folder, device, vlm)
    except ImportError as error:
        raise BackendError(
            f"backend {config.backend}: a package is not installed ({error}): `make extras`, or install {REQUIREMENTS}"
        ) from error
    facts = folder.facts() + ("" if vlm is None else vlm_facts(vlm))
    if folder.kind == lerobot_flow.SMOLVLA:
        facts += _smolvla_dtype(folder, options.dtype)
    fingerprint = weights.fingerprint(folder.statistics(), facts)
    opened = Opened(policy, folder, config, processing, vlm, device, facts, fingerprint)
    backend = ActBackend(opened) if folder.kind == lerobot_act.KIND else FlowBackend(opened, options.compile)
    try:
        backend.warm_up(options.warm_up or (1,))
    except BackendError:
        raise
    except Exception as error:  # whatever a policy of another version raises
        raise BackendError(f"{folder.path}: the policy does not run on {device} ({_versions()}): {error}") from error
    logging.getLogger(__name__).info("%s %s on %s (%s)", folder.kind, fingerprint, device, _versions())
    return backend


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BackendError(f"options: device {name!r} cannot be used: {error}") from error
    return device


def _load(folder: PolicyFolder, device: torch.device, dtype: str, vlm: Path | None) -> Any:
    """LeRobot's policy with its weights, which are still to be checked, ready to run."""
    kind = folder.kind
    module = lerobot_module(f"policies.{kind}.modeling_{kind}")
    policy_class = getattr(module, _CLASSES[kind])
    try:
        config = lerobot_module("configs.policies").PreTrainedConfig.from_pretrained(folder.path)
        config.device = str(device)
        for name, value in _settings(kind, dtype, vlm).items():
            setattr(config, name, value)
        policy = policy_class.from_pretrained(folder.path, config=config, strict=False)
    except Exception as error:  # LeRobot, draccus, transformers and torch raise what they like here
        raise BackendError(f"{folder.path}: LeRobot cannot load the policy ({_versions()}): {error}") from error
    policy.to(device)
    if kind == lerobot_flow.SMOLVLA:  # its own projections compute in float32
        policy.model.vlm_with_expert.to(_DTYPES[_smolvla_dtype(folder, dtype)])
    return policy.eval()


def _smolvla_dtype(folder: PolicyFolder, dtype: str) -> str:
    """Numbers that a SmolVLA computes in: as LeRobot runs it, its VLM is in bfloat16 where it loads the VLM's weights.

    Part of the fingerprint: transformers' SmolVLM numbers the patches of an image by fractions that round up in
    bfloat16 and down in float32, so that each patch has its neighbour's position, and z is another (measured: a
    relative difference of 0.3 on a tiny one, of 0.003 in its chunk).
    """
    if dtype != "policy":
        return dtype
    return "bfloat16" if folder.config.get("load_vlm_weights") else "float32"


def _settings(kind: str, dtype: str, vlm: Path | None) -> dict[str, Any]:
    """What of config.json is about where weights come from and how they are run."""
    if kind == lerobot_act.KIND:
        if dtype == "bfloat16":
            raise BackendError("options: ACT runs in float32 only")
        return {"pretrained_backbone_weights": None}
    if kind == lerobot_flow.SMOLVLA:
        return {"load_vlm_weights": False, "vlm_model_name": str(vlm), "compile_model": False}
    return {"compile_model": False, **({} if dtype == "policy" else {"dtype": dtype})}


def _versions() -> str:
    found = []
    for name in ("lerobot", "transformers", "torch"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)
