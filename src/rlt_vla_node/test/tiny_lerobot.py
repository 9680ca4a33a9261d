"""Tiny policies of LeRobot with random weights, made offline and saved as LeRobot saves them.

The code is LeRobot's and transformers' own, only the widths are small: SmolVLA of a SmolVLM with 4 layers of width 32,
ACT of width 16 on a ResNet-18.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlt_common.vla_config import VlaConfig
from rlt_vla_node.lerobot_packages import lerobot_module

PARTS = ("left.joints", "left.gripper", "right.joints", "right.gripper")
CAMERAS = {"top": "base", "hand": "wrist"}
INSTRUCTION = "drive the screw into the hole"
WIDTH, ROWS, PADDED = 14, 12, 16
HUB_NAME = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
WORDS = ("drive", "the", "screw", "into", "hole", "and", "hold", "it", "there", "Task:", "State:", "Action:")


def vla_file(folder: Path, source: str, **values: Any) -> VlaConfig:
    """A VLA file for the tiny robot of conftest.py, with the instruction filled in."""
    standard = {
        "backend": "lerobot",
        "source": source,
        "control_hz": 50.0,
        "state": PARTS,
        "actions": PARTS,
        "action_kind": "absolute",
        "cameras": CAMERAS,
        "instruction": INSTRUCTION,
        "options": {"device": "cpu"},
        "folder": str(folder),
    }
    return VlaConfig(**{**standard, **values})


def write_tokenizer(folder: Path, numbers: int = 256) -> Any:
    """A tokenizer of a few words and of the numbers up to `numbers`, which is returned too."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<bos>", "<eos>", "<image>", "<fake_token_around_image>", "<global-img>"]
    names = [*special, *WORDS, *map(str, range(numbers))]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
        },
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


SMALL_VLM: Mapping[str, Any] = {
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    },
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    },
    "scale_factor": 2,
}
"""Sizes of a SmolVLM; without `vocab_size` it knows the words of its tokenizer."""


def write_vlm(folder: Path, sizes: Mapping[str, Any] = SMALL_VLM) -> None:
    """Configuration, processor and tokenizer of a SmolVLM: what LeRobot takes from the hub, without weights."""
    lerobot_module("policies.smolvla.modeling_smolvla")  # makes torchvision load, which transformers needs too
    from transformers import SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    tokenizer = write_tokenizer(folder)
    SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(),
    ).save_pretrained(folder)
    text = {"model_type": "llama", "vocab_size": len(tokenizer), **sizes["text_config"]}
    SmolVLMConfig(**{**sizes, "text_config": text}, pad_token_id=0).save_pretrained(folder)


def features(cameras: tuple[str, ...], size: int) -> dict[str, Any]:
    """Input and output features of a policy that takes these cameras."""
    types = lerobot_module("configs.types")
    feature, kind = types.PolicyFeature, types.FeatureType
    images = {f"observation.images.{name}": feature(kind.VISUAL, (3, size, size)) for name in cameras}
    return {
        "input_features": {"observation.state": feature(kind.STATE, (WIDTH,)), **images},
        "output_features": {"action": feature(kind.ACTION, (WIDTH,))},
    }


def statistics(cameras: tuple[str, ...]) -> dict[str, dict[str, torch.Tensor]]:
    """Made-up statistics, in which no two columns are alike."""
    rng = np.random.default_rng(3)
    found = {
        key: {
            "mean": torch.from_numpy(rng.normal(0.0, 0.1, WIDTH).astype(np.float32)),
            "std": torch.linspace(0.05, 0.2, WIDTH),
            "min": torch.full((WIDTH,), -0.7),
            "max": torch.linspace(0.6, 0.9, WIDTH),
            "q01": torch.full((WIDTH,), -0.6),
            "q99": torch.linspace(0.5, 0.8, WIDTH),
        }
        for key in ("observation.state", "action")
    }
    pixels = {"mean": torch.full((3, 1, 1), 0.4), "std": torch.full((3, 1, 1), 0.3)}
    return {**found, **{f"observation.images.{name}": pixels for name in cameras}}


def write_smolvla(
    folder: Path,
    cameras: tuple[str, ...] = ("top", "hand"),
    pixels: int = 32,
    vlm: Mapping[str, Any] = SMALL_VLM,
    **values: Any,
) -> Path:
    """A tiny SmolVLA in `folder`, its tokenizer and VLM configuration in `folder`/vlm; `values` make it another."""
    write_vlm(folder / "vlm", vlm)
    config = lerobot_module("policies.smolvla.configuration_smolvla").SmolVLAConfig(
        **features(cameras, pixels),
        **{
            "chunk_size": ROWS,
            "n_action_steps": ROWS,
            "max_state_dim": PADDED,
            "max_action_dim": PADDED,
            "resize_imgs_with_padding": (32, 32),
            "tokenizer_max_length": 16,
            "num_vlm_layers": 4,
            "vlm_model_name": str(folder / "vlm"),
            "device": "cpu",
            **values,
        },
    )
    _write(folder, "smolvla", "SmolVLAPolicy", config, cameras)
    rename(folder, HUB_NAME)
    return folder


def write_act(folder: Path, cameras: tuple[str, ...] = ("top", "hand"), size: int = 16, **values: Any) -> Path:
    """A tiny ACT in `folder`, for images of `size` x `size` pixels."""
    config = lerobot_module("policies.act.configuration_act").ACTConfig(
        **features(cameras, size),
        **{
            "chunk_size": ROWS,
            "n_action_steps": ROWS,
            "dim_model": 16,
            "n_heads": 2,
            "dim_feedforward": 32,
            "n_encoder_layers": 1,
            "n_vae_encoder_layers": 1,
            "latent_dim": 4,
            "pretrained_backbone_weights": None,
            "device": "cpu",
            **values,
        },
    )
    _write(folder, "act", "ACTPolicy", config, cameras)
    # As LeRobot's own checkpoints say: weights that it would fetch for a new policy.
    edit(folder / "config.json", pretrained_backbone_weights="ResNet18_Weights.IMAGENET1K_V1")
    return folder


def _write(folder: Path, kind: str, name: str, config: Any, cameras: tuple[str, ...]) -> None:
    policy_class = getattr(lerobot_module(f"policies.{kind}.modeling_{kind}"), name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        with torch.device(config.device):
            policy = policy_class(config)
    policy.save_pretrained(folder)
    make = getattr(lerobot_module(f"policies.{kind}.processor_{kind}"), f"make_{kind}_pre_post_processors")
    for pipeline in make(config, dataset_stats=statistics(cameras)):
        pipeline.save_pretrained(folder)


def rename(folder: Path, name: str) -> None:
    """Name tokenizer and VLM as checkpoints from the hub do: nothing of that name is on this machine."""
    if "vlm_model_name" in json.loads((folder / "config.json").read_text()):
        edit(folder / "config.json", vlm_model_name=name)
    path = folder / "policy_preprocessor.json"
    pipeline = json.loads(path.read_text())
    for step in pipeline["steps"]:
        if step["registry_name"] == "tokenizer_processor":
            step["config"]["tokenizer_name"] = name
    path.write_text(json.dumps(pipeline))


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def write_pi(
    folder: Path, kind: str, cameras: tuple[str, ...] = ("top", "hand"), pixels: int = 32, **values: Any
) -> Path:
    """A pi0 or pi0.5 in `folder`. Its sizes are in LeRobot's code: for a tiny one call it within `tiny_pi`."""
    write_tokenizer(folder / "vlm")
    modeling = lerobot_module(f"policies.{kind}.modeling_{kind}")
    config_class = getattr(modeling, f"{kind.upper()}Config")
    config = config_class(
        **features(cameras, pixels),
        **{
            "chunk_size": ROWS,
            "n_action_steps": ROWS,
            "max_state_dim": PADDED,
            "max_action_dim": PADDED,
            "image_resolution": (32, 32),
            "tokenizer_max_length": 48,
            "dtype": "float32",
            "device": "cpu",
            **values,
        },
    )
    processing = lerobot_module(f"policies.{kind}.processor_{kind}")
    tokenizer_step = processing.TokenizerProcessorStep
    processing.TokenizerProcessorStep = lambda tokenizer_name, **named: tokenizer_step(
        tokenizer_name=str(folder / "vlm"), **named
    )
    try:
        _write(folder, kind, f"{kind.upper()}Policy", config, cameras)
    finally:
        processing.TokenizerProcessorStep = tokenizer_step
    rename(folder, "google/paligemma-3b-pt-224")
    return folder


@contextmanager
def tiny_pi(kind: str) -> Iterator[None]:
    """pi0 or pi0.5 with a width of 32: LeRobot's code has its sizes as constants, which are made smaller meanwhile."""
    from transformers import PaliGemmaConfig

    modeling = lerobot_module(f"policies.{kind}.modeling_{kind}")
    vlm_name = "PaliGemmaForConditionalGenerationWithPiGemma"
    names = ("CONFIG_MAPPING", "get_gemma_config", vlm_name)
    own = {name: getattr(modeling, name) for name in names}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16}

    def vlm(config: Any) -> Any:
        config.vision_config.intermediate_size = config.vision_config.projection_dim = 32
        return own[vlm_name](config)

    def sizes(variant: str) -> Any:
        return modeling.GemmaConfig(width=32, depth=2, mlp_dim=64, num_heads=8, num_kv_heads=1, head_dim=8)

    modeling.CONFIG_MAPPING = {
        "paligemma": lambda: PaliGemmaConfig(vision_config={"model_type": "siglip_vision_model", **vision}),
        "gemma": own["CONFIG_MAPPING"]["gemma"],
    }
    modeling.get_gemma_config = sizes
    setattr(modeling, vlm_name, vlm)
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(modeling, name, value)
