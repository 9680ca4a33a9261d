"""A policy's own processing: LeRobot's pipelines before and after it, with the statistics it was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlt_vla_node.backend import BackendError
from rlt_vla_node.lerobot_folder import POSTPROCESSOR, PREPROCESSOR, PolicyFolder
from rlt_vla_node.lerobot_packages import lerobot_module

STATE, ACTION, TASK, ACTION_IS_PAD = "observation.state", "action", "task", "action_is_pad"


class Processing:
    """Samples with LeRobot's names to what the policy takes, and its actions to the units of its statistics."""

    def __init__(self, folder: PolicyFolder, device: torch.device, tokenizer: Path | None) -> None:
        """`tokenizer`: folder that the tokenizer is in, where one is needed. Raises BackendError."""
        pipeline = lerobot_module("processor").PolicyProcessorPipeline
        convert = lerobot_module("processor.converters")
        lerobot_module(f"policies.{folder.kind}.processor_{folder.kind}")
        self._path = folder.path
        overrides = {
            "device_processor": {"device": str(device)},
            "tokenizer_processor": {"tokenizer_name": str(tokenizer)},
        }
        used = {step["registry_name"] for step in folder.preprocessor}
        try:
            self.before = pipeline.from_pretrained(
                folder.path,
                config_filename=PREPROCESSOR,
                overrides={name: values for name, values in overrides.items() if name in used},
                to_transition=convert.batch_to_transition,
                to_output=convert.transition_to_batch,
            )
            self.after = pipeline.from_pretrained(
                folder.path,
                config_filename=POSTPROCESSOR,
                to_transition=convert.policy_action_to_transition,
                to_output=convert.transition_to_policy_action,
            )
        except Exception as error:  # whatever a step of the policy raises when it is made
            raise BackendError(f"{folder.path}: its processing cannot be set up: {error}") from error
        self._relative = next((step for step in self.before.steps if hasattr(step, "get_cached_state")), None)
        for step in self.after.steps:
            if getattr(step, "relative_step", self) is None:
                step.relative_step = self._relative

    def check_statistics(self, cameras: Sequence[str]) -> None:
        """Raise BackendError where it would pass something on as it is, for want of statistics: LeRobot says nothing.

        `cameras`: keys of the cameras that are there.
        """
        for steps, keys in ((self.before.steps, (STATE, *cameras)), (self.after.steps, (ACTION,))):
            for step in steps:
                if not hasattr(step, "norm_map"):
                    continue
                known = {name.rpartition(".")[0] for name in step.state_dict()}
                for key in keys:
                    feature = step.features.get(key)
                    mode = None if feature is None else step.norm_map.get(feature.type)
                    if mode is not None and mode.name != "IDENTITY" and key not in known:
                        raise BackendError(
                            f"{self._path}: its processing normalises {key} ({mode.name}) and has no statistics of it: "
                            "a base policy has to be fine-tuned on your robot first, which gives it these"
                        )

    def prepare(self, samples: Mapping[str, Any]) -> dict[str, Any]:
        """Samples as the policy takes them."""
        return self.before(dict(samples))

    def origin(self) -> Tensor | None:
        """What the actions of the samples just prepared are relative to, where the policy's processing does that."""
        return None if self._relative is None else self._relative.get_cached_state()

    def finish(self, actions: Tensor, origin: Tensor | None) -> Tensor:
        """(B, H, d) float32 on the CPU, in the policy's units; `origin` as it was after `prepare`."""
        if self._relative is not None:
            self._relative._last_state = origin
        return self.after(actions).float().cpu()
