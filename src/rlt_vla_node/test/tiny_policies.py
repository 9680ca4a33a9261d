"""Tiny random policies with the structure of openpi's Policy and PI0Pytorch, and of GR00T's policy and N1.7 model.

Methods, arguments, types and shapes are those of the real ones, as far as the servers' wrappers touch them; `infer` and
`native` are the policy's own way to a chunk, against which the served one is held.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
WIDTH, PATCHES, LANGUAGE = 16, 4, 6
STATE, HORIZON, COLUMNS = 14, 10, 32
GR00T_HORIZON, GR00T_ROWS, GR00T_COLUMNS = 40, 16, 132
PARTS = {"left_arm": 6, "left_gripper": 1, "right_arm": 6, "right_gripper": 1}
PROMPT = "turn the screw"


class Patches(nn.Module):
    """(B, 3, H, W) in -1..1 -> (B, PATCHES, WIDTH)."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.project = nn.Linear(3 * 16, PATCHES * WIDTH)

    def forward(self, image):
        return self.project(self.pool(image).flatten(1)).unflatten(1, (PATCHES, WIDTH))


def tokens_of(prompt):
    """(LANGUAGE,) ids and mask."""
    ids = np.zeros(LANGUAGE, np.int64)
    words = prompt.split()[:LANGUAGE]
    ids[: len(words)] = [1 + sum(map(ord, word)) % 30 for word in words]
    return ids, ids > 0


# ---- openpi


@dataclass
class Observation:
    images: dict
    image_masks: dict
    state: Tensor
    tokenized_prompt: Tensor
    tokenized_prompt_mask: Tensor

    @classmethod
    def from_dict(cls, data):
        for key, image in data["image"].items():
            assert image.dtype == torch.uint8, "openpi takes uint8 images"
            data["image"][key] = image.to(torch.float32).permute(0, 3, 1, 2) / 255.0 * 2.0 - 1.0
        return cls(
            data["image"], data["image_mask"], data["state"], data["tokenized_prompt"], data["tokenized_prompt_mask"]
        )


class Experts(nn.Module):
    """As PaliGemmaWithExpertModel: called as `.forward`, prefix or suffix alone."""

    def __init__(self):
        super().__init__()
        self.vlm = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)
        self.expert = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.passes = 0

    def forward(self, attention_mask=None, past_key_values=None, inputs_embeds=None, use_cache=None):
        prefix, suffix = inputs_embeds
        if suffix is None:
            self.passes += 1
            mixed, _ = self.vlm(prefix, prefix, prefix, key_padding_mask=~attention_mask)
            hidden = self.norm(prefix + mixed)
            return [hidden, None], hidden
        keys = torch.cat([past_key_values, suffix], dim=1)
        mask = torch.cat([attention_mask, attention_mask.new_ones(suffix.shape[:2])], dim=1)
        mixed, _ = self.expert(suffix, keys, keys, key_padding_mask=~mask)
        return [None, suffix + mixed], None


class TinyPi0(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(action_horizon=HORIZON, action_dim=COLUMNS)
        self.paligemma_with_expert = Experts()
        self.patches = Patches()
        self.words = nn.Embedding(32, WIDTH)
        self.state_proj = nn.Linear(COLUMNS, WIDTH)
        self.action_in = nn.Linear(COLUMNS + 1, WIDTH)
        self.action_out = nn.Linear(WIDTH, COLUMNS)

    def embed_prefix(self, images, img_masks, lang_tokens, lang_masks):
        embs = torch.cat([*(self.patches(image) for image in images), self.words(lang_tokens)], dim=1)
        pads = torch.cat([*(mask[:, None].expand(-1, PATCHES) for mask in img_masks), lang_masks], dim=1)
        return embs, pads, torch.zeros_like(pads)

    @torch.no_grad()
    def sample_actions(self, device, observation, noise=None, num_steps=10):
        images, masks = list(observation.images.values()), list(observation.image_masks.values())
        words = (observation.tokenized_prompt, observation.tokenized_prompt_mask)
        embs, pads, _ = self.embed_prefix(images, masks, *words)
        _, cache = self.paligemma_with_expert.forward(
            attention_mask=pads, past_key_values=None, inputs_embeds=[embs, None], use_cache=True
        )
        x, time = noise, 1.0
        state = self.state_proj(observation.state)[:, None]
        for _ in range(num_steps):
            at = torch.full((*x.shape[:2], 1), time)
            suffix = torch.cat([state, self.action_in(torch.cat([x, at], dim=2))], dim=1)
            out, _ = self.paligemma_with_expert.forward(
                attention_mask=pads, past_key_values=cache, inputs_embeds=[None, suffix], use_cache=False
            )
            x = x - self.action_out(out[1][:, -HORIZON:]) / num_steps
            time -= 1.0 / num_steps
        return x


class TinyOpenpi:
    """As openpi's Policy; transforms as its ALOHA ones."""

    def __init__(self, seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._model = TinyPi0().eval()
        self._is_pytorch_model, self._pytorch_device, self.metadata = True, "cpu", {"reset_pose": [0.0]}

    def _input_transform(self, data):
        ids, mask = tokens_of(data["prompt"])
        images, masks = {}, {}
        for name in CAMERAS:
            seen = name in data["images"]
            image = data["images"][name] if seen else np.zeros_like(data["images"]["cam_high"])
            images[name], masks[name] = image.transpose(1, 2, 0), np.bool_(seen)
        state = np.zeros(COLUMNS, np.float32)
        state[:STATE] = (np.asarray(data["state"], np.float32) - 0.1) / 0.5
        return {
            "image": images,
            "image_mask": masks,
            "state": state,
            "tokenized_prompt": ids,
            "tokenized_prompt_mask": mask,
        }

    def _output_transform(self, data):
        return {"actions": data["actions"][:, :STATE] * 0.05 + 0.1}

    def infer(self, data, noise, steps):
        """What openpi's Policy.infer does: one observation, in openpi's form."""
        inputs = self._input_transform(data)

        def batched(value):
            if isinstance(value, dict):
                return {key: batched(item) for key, item in value.items()}
            return torch.from_numpy(np.array(value))[None]

        inputs = batched(inputs)
        observation = Observation.from_dict(inputs)
        actions = self._model.sample_actions("cpu", observation, noise=torch.from_numpy(noise)[None], num_steps=steps)
        return self._output_transform({"state": inputs["state"][0].numpy(), "actions": actions[0].numpy()})["actions"]


# ---- GR00T


class TinyBackbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = Patches()
        self.words = nn.Embedding(32, WIDTH)
        self.mix = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.passes = 0

    def forward(self, inputs):
        self.passes += 1
        images = inputs["pixel_values"]  # (B, C, 3, H, W)
        tokens = torch.cat([self.patches(images[:, i]) for i in range(images.shape[1])], dim=1)
        words = self.words(inputs["input_ids"])
        both = torch.cat([words[:, :1], tokens, words[:, 1:]], dim=1)
        image_mask = torch.zeros(both.shape[:2], dtype=torch.bool)
        image_mask[:, 1 : 1 + tokens.shape[1]] = True
        mixed, _ = self.mix(both, both, both)
        found = {"backbone_features": both + mixed, "image_mask": image_mask}
        return {**found, "backbone_attention_mask": torch.ones_like(image_mask)}


class TinyHead(nn.Module):
    """As Gr00tN1d7ActionHead: flow from 0 to 1, and its way of going on from an earlier chunk."""

    def __init__(self):
        super().__init__()
        self.num_inference_timesteps = 4
        self.vlln = nn.LayerNorm(WIDTH)
        self.state_in = nn.Linear(STATE, WIDTH)
        self.action_in = nn.Linear(GR00T_COLUMNS + 1, WIDTH)
        self.cross = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.action_out = nn.Linear(WIDTH, GR00T_COLUMNS)

    @torch.no_grad()
    def get_action(self, backbone_output, action_input, options=None):
        backbone_output["backbone_features"] = self.vlln(backbone_output["backbone_features"])
        features, state = backbone_output["backbone_features"], self.state_in(action_input["state"])
        actions = torch.randn(len(features), GR00T_HORIZON, GR00T_COLUMNS)
        strength = torch.ones_like(actions)
        if "action" in action_input:
            overlap, frozen, rows = (options[n] for n in ("rtc_overlap_steps", "rtc_frozen_steps", "action_horizon"))
            actions[:, :overlap] = action_input["action"][:, rows - overlap : rows]
            strength[:, :frozen] = 0.0
            ramp = 1 - torch.exp(-options["rtc_ramp_rate"] * torch.linspace(0.0, 1.0, overlap - frozen + 2))
            strength[:, frozen:overlap] = (ramp / ramp[-1].clamp_min(1e-8))[1:-1][None, :, None]
        for i in range(self.num_inference_timesteps):
            at = torch.full((*actions.shape[:2], 1), i / self.num_inference_timesteps)
            x = torch.cat([state, self.action_in(torch.cat([actions, at], dim=2))], dim=1)
            mixed, _ = self.cross(x, features, features)
            velocity = self.action_out(x + mixed)[:, -GR00T_HORIZON:]
            actions = actions + velocity * strength / self.num_inference_timesteps
        return {"action_pred": actions, "backbone_features": features}


class TinyGr00tModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(action_horizon=GR00T_HORIZON, max_action_dim=GR00T_COLUMNS)
        self.backbone, self.action_head = TinyBackbone(), TinyHead()

    def prepare_input(self, inputs):
        return dict(inputs), dict(inputs)

    def get_action(self, inputs, options=None):
        backbone_inputs, action_inputs = self.prepare_input(inputs)
        return self.action_head.get_action(self.backbone(backbone_inputs), action_inputs, options)


@dataclass
class Modality:
    modality_keys: list
    delta_indices: list = field(default_factory=lambda: [0])


class TinyGr00t:
    """As Gr00tPolicy."""

    def __init__(self, seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = TinyGr00tModel().eval()
        self.modality_configs = {
            "video": Modality(list(CAMERAS[:2])),
            "state": Modality(list(PARTS)),
            "action": Modality(list(PARTS), list(range(GR00T_ROWS))),
            "language": Modality(["annotation.human.task_description"]),
        }

    def get_action(self, observation, options=None):
        prompts = observation["language"]["annotation.human.task_description"]
        for name in CAMERAS[:2]:
            video = observation["video"][name]
            assert video.dtype == np.uint8, "GR00T takes uint8 videos"
            assert video.ndim == 5, "GR00T takes (B, T, H, W, C)"
        states = [observation["state"][name] for name in PARTS]
        assert all(state.dtype == np.float32 and state.ndim == 3 for state in states)
        images = np.stack([observation["video"][name][:, 0] for name in CAMERAS[:2]], axis=1)
        inputs = {
            "pixel_values": torch.from_numpy(images).float().permute(0, 1, 4, 2, 3) / 127.5 - 1.0,
            "input_ids": torch.from_numpy(np.stack([tokens_of(prompt[0])[0] for prompt in prompts])),
            "state": torch.from_numpy(np.concatenate(states, axis=2)),
        }
        with torch.inference_mode():
            predicted = self.model.get_action(**{"inputs": inputs})["action_pred"].float().numpy()
        out, first = {}, 0
        for name, width in PARTS.items():
            out[name] = predicted[:, :GR00T_ROWS, first : first + width] * 0.05 + 0.1
            first += width
        return out, {}
