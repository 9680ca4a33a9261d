"""VLAs of LeRobot with random weights in folders as LeRobot writes them: at their real size, or tiny to show the path.

The sizes of pi0 and pi0.5 are LeRobot's own defaults; SmolVLA's are those of its SmolVLM2 of 500 million parameters.
Tokenizers know a few words only: prompts are filled up to the policy's length, so that their content costs nothing.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from rlt_common.vla_config import VlaConfig

TESTS = Path(__file__).resolve().parents[2] / "src" / "rlt_vla_node" / "test"
"""The tiny policies that the tests make."""
CAMERAS = {"high": "high", "left": "left_wrist", "right": "right_wrist"}
SMOLVLM2_500M: dict[str, Any] = {
    "text_config": {
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "head_dim": 64,
        "vocab_size": 49280,
    },
    "vision_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    },
    "scale_factor": 4,
}
PI_SIZES: dict[str, Any] = {
    "chunk_size": 50,
    "n_action_steps": 50,
    "max_state_dim": 32,
    "max_action_dim": 32,
    "image_resolution": (224, 224),
    "tokenizer_max_length": 200,
}
SMOLVLA_SIZES: dict[str, Any] = {
    "chunk_size": 50,
    "n_action_steps": 50,
    "max_state_dim": 32,
    "max_action_dim": 32,
    "resize_imgs_with_padding": (512, 512),
    "tokenizer_max_length": 48,
    "num_vlm_layers": 16,
}
PI0_TOKENS = 48


def write_vla(root: Path, kind: str, device: str, tiny: bool) -> VlaConfig:
    """Write a policy into `root`/`kind`, its weights drawn on `device`; gives the VLA file that opens it there.

    Numbers are as the policy is run in practice: bfloat16 with what LeRobot keeps in float32. Call it, and open the
    policy, within `sizes`. Raises ImportError where LeRobot is not installed.
    """
    tests = _tests()
    cameras, folder = tuple(CAMERAS), root / kind
    if kind == "smolvla":
        real = {} if tiny else {"pixels": 512, "vlm": SMOLVLM2_500M, **SMOLVLA_SIZES}
        tests.write_smolvla(folder, cameras, device=device, **real)
        # As published checkpoints say: LeRobot then runs its VLM in bfloat16.
        tests.edit(folder / "config.json", load_vlm_weights=True)
    else:
        real = {} if tiny else {"pixels": 224, **PI_SIZES}
        if kind == "pi0" and not tiny:
            real["tokenizer_max_length"] = PI0_TOKENS
        tests.write_pi(folder, kind, cameras, device=device, dtype="bfloat16", **real)
    return tests.vla_file(root, kind, cameras=CAMERAS, options={"device": device})


def sizes(kind: str, tiny: bool) -> AbstractContextManager[None]:
    """LeRobot has the sizes of pi0 and pi0.5 in its code: within it they are those asked for."""
    return _tests().tiny_pi(kind) if tiny and kind.startswith("pi") else nullcontext()


def _tests() -> ModuleType:
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    import tiny_lerobot

    return tiny_lerobot
