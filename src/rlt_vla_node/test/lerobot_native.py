"""What LeRobot itself does: its policies as it runs them, which the backend is held against, and its own data sets."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dataset_episodes import moving_images
from torch import Tensor

from rlt_vla_node.backend import ObservationBatch
from rlt_vla_node.lerobot_packages import lerobot_module

CLASSES = {"act": "ACTPolicy", "smolvla": "SmolVLAPolicy", "pi0": "PI0Policy", "pi05": "PI05Policy"}


class Native:
    """Policy and pipelines through LeRobot's own loading."""

    def __init__(self, folder: Path, kind: str) -> None:
        module = lerobot_module(f"policies.{kind}.modeling_{kind}")
        config = lerobot_module("configs.policies").PreTrainedConfig.from_pretrained(folder)
        overrides: dict[str, Any] = {}
        if kind == "act":
            config.pretrained_backbone_weights = None
        else:
            overrides["tokenizer_processor"] = {"tokenizer_name": str(folder / "vlm")}
            config.vlm_model_name = str(folder / "vlm")
        self.policy = getattr(module, CLASSES[kind]).from_pretrained(folder, config=config).eval()
        pipeline = lerobot_module("processor").PolicyProcessorPipeline
        convert = lerobot_module("processor.converters")
        self.before = pipeline.from_pretrained(folder, "policy_preprocessor.json", overrides=overrides)
        self.after = pipeline.from_pretrained(
            folder,
            "policy_postprocessor.json",
            to_transition=convert.policy_action_to_transition,
            to_output=convert.transition_to_policy_action,
        )

    def chunk(
        self, observation: ObservationBatch, cameras: list[str], instruction: str, noise: Tensor | None
    ) -> Tensor:
        """(B, H, d) of the policy's own predict_action_chunk between its own pipelines."""
        batch: dict[str, Any] = {
            f"observation.images.{name}": observation.images[:, i].permute(0, 3, 1, 2).float() / 255.0
            for i, name in enumerate(cameras)
        }
        batch["observation.state"] = observation.state.clone()
        batch["task"] = [instruction] * len(observation.state)
        named = {} if noise is None else {"noise": noise}
        return self.after(self.policy.predict_action_chunk(self.before(batch), **named))


def made_up(size: int, pixels: int, cameras: int = 2, seed: int = 0) -> ObservationBatch:
    """Observations of a seed."""
    generator = torch.Generator().manual_seed(seed)
    return ObservationBatch(
        images=torch.randint(0, 256, (size, cameras, pixels, pixels, 3), generator=generator, dtype=torch.uint8),
        state=0.1 * torch.randn(size, 14, generator=generator),
    )


def noise_of(size: int, rows: int, width: int, seed: int = 1) -> Tensor:
    """(size, rows, width) standard normal of a seed."""
    return torch.randn(size, rows, width, generator=torch.Generator().manual_seed(seed))


def foreign_dataset(
    folder: Path, cameras: tuple[str, ...] = ("laptop",), width: int = 6, fps: int = 10, codec: str = "", **given: Any
) -> list[dict[str, np.ndarray]]:
    """Write a data set by LeRobot's own writer, two episodes of 12 frames of 32 x 24 pixels; returns its frames.

    Args:
        width: of `observation.state` and `action`.
        codec: of the videos; empty: LeRobot's own choice.
        given: further arguments of LeRobotDataset.create.
    """
    kind = "video" if given.get("use_videos", True) else "image"
    image = {"dtype": kind, "shape": (24, 32, 3), "names": ["height", "width", "channels"]}
    numbers = {"dtype": "float32", "shape": (width,), "names": None}
    names = [f"observation.images.{name}" for name in cameras]
    features = {**dict.fromkeys(names, image), "observation.state": numbers, "action": numbers}
    create = lerobot_module("datasets.lerobot_dataset").LeRobotDataset.create
    if codec and "vcodec" in inspect.signature(create).parameters:  # LeRobot 0.4
        given["vcodec"] = codec
    elif codec:
        given["rgb_encoder"] = lerobot_module("configs.video").RGBEncoderConfig(vcodec=codec)
    data = create("somebody/something", fps, features, root=folder, **given)
    rng = np.random.default_rng(0)
    frames = []
    for episode in range(2):
        for step in range(12):
            frame = dict.fromkeys(names, moving_images(episode, step, 24, 32)[0])
            frame |= {key: rng.normal(size=width).astype(np.float32) for key in ("observation.state", "action")}
            frames.append(frame)
            data.add_frame({**frame, "task": f"task {episode}"})
        data.save_episode(parallel_encoding=False)
    data.finalize()
    return frames


def policy_features(features: dict[str, Any]) -> dict[str, Any]:
    """Which columns of a data set LeRobot takes for a policy's inputs and outputs."""
    name = "datasets.utils" if version("lerobot").startswith("0.4") else "utils.feature_utils"
    return lerobot_module(name).dataset_to_policy_features(features)
