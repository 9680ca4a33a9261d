"""VLA files and checkpoints of the tiny policies at a server."""

from policy_server import build
from tiny_policies import CAMERAS, PROMPT, WIDTH

from rlt_common.vla_config import VlaConfig
from rlt_vla_node.backends import open_backend
from rlt_vla_node.checkpoint import save_vla_checkpoint
from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token

ARMS = ("left.joints", "left.gripper", "right.joints", "right.gripper")
TOKENS = {"openpi": 12, "gr00t": 8}
"""Image tokens: openpi's policy has a third camera, which the tiny robot has not."""
KINDS = ("openpi", "gr00t")


def vla_config(kind, port, **changes):
    """A VLA file for the tiny robot with its two cameras."""
    cameras = {CAMERAS[0]: "base", CAMERAS[1]: "wrist", **({CAMERAS[2]: "none"} if kind == "openpi" else {})}
    values = {
        "backend": kind,
        "source": f"127.0.0.1:{port}",
        "control_hz": 50.0,
        "state": ARMS,
        "actions": ARMS,
        "action_kind": "absolute",
        "cameras": cameras,
        "instruction": PROMPT,
        "options": {"timeout_s": 10.0},
    }
    return VlaConfig(**{**values, **changes})


def tiny_token(kind, seed=1):
    """A random RL token that fits."""
    return build_rl_token(RlTokenConfig(WIDTH, TOKENS[kind], token_dim=8, heads=2), seed).eval()


def save(folder, config, seed=1):
    """A checkpoint of that VLA with that RL token; the server need not run."""
    service, _ = build(config.backend)
    fingerprint = service.facts["fingerprint"]
    save_vla_checkpoint(folder, config, fingerprint, tiny_token(config.backend, seed), {}, {}, adapted=False)
    return folder


__all__ = ["ARMS", "KINDS", "TOKENS", "open_backend", "save", "tiny_token", "vla_config"]
