"""What LeRobot's policies have in common behind VlaBackend: cameras, samples, facts, saving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlt_common.vla_config import NO_CAMERA, VlaConfig
from rlt_vla_node.backend import BackendError, BackendSpec, ObservationBatch, Prefix, check_observation
from rlt_vla_node.lerobot_folder import WEIGHTS, PolicyFolder
from rlt_vla_node.lerobot_processing import ACTION, ACTION_IS_PAD, STATE, TASK, Processing
from rlt_vla_node.lerobot_weights import WeightsFile

IMAGES = "observation.images."


@dataclass(frozen=True)
class Opened:
    """A policy as it was loaded, with what belongs to it.

    Attributes:
        policy: LeRobot's policy, its weights checked.
        folder: what its folder holds.
        config: the VLA file.
        processing: the policy's own.
        vlm: folder of tokenizer and VLM configuration, where it needs one.
        device: where it runs.
        facts: what else decides its numbers, as text for the fingerprint.
        fingerprint: of weights, statistics and facts.
    """

    policy: Any
    folder: PolicyFolder
    config: VlaConfig
    processing: Processing
    vlm: Path | None
    device: torch.device
    facts: str
    fingerprint: str


class LeRobotBackend(ABC):
    """:class:`rlt_vla_node.backend.TrainableBackend` on a policy of LeRobot."""

    def __init__(self, opened: Opened) -> None:
        """Raises BackendError for a policy that takes what the VLA file or the robot does not give."""
        self.policy, self._opened = opened.policy, opened
        self._config, self._processing = opened.config, opened.processing
        facts = self.policy.config
        self._refuse_what_is_not_passed(facts)
        self._cameras, absent = _cameras(opened.config, facts.image_features, opened.folder.path)
        self._check_absent(absent)
        self._processing.check_statistics(list(self._cameras))
        self._spec = BackendSpec(
            name=f"LeRobot {opened.folder.kind}",
            embed_dim=1,
            max_tokens=1,
            horizon=facts.chunk_size,
            action_dim=facts.action_feature.shape[0],
            state_dim=facts.robot_state_feature.shape[0],
            control_hz=opened.config.control_hz,
            camera_keys=opened.config.seen_cameras,
            image_shape=self._image_shape([facts.image_features[key].shape for key in self._cameras]),
            noise_dim=self._noise_dim(),
            fingerprint=opened.fingerprint,
        )

    # ---- VlaBackend and TrainableBackend

    @property
    def spec(self) -> BackendSpec:
        """The policy's facts; its fingerprint is of the weights that were opened or saved last."""
        return self._spec

    @property
    def device(self) -> torch.device:
        """Where the policy runs."""
        return self._opened.device

    @property
    def module(self) -> nn.Module:
        """LeRobot's policy."""
        return self.policy

    @abstractmethod
    def encode(self, observation: ObservationBatch) -> Prefix:
        """See VlaBackend. Raises ValueError for wrong shapes and values that are not finite."""

    @abstractmethod
    def sample_chunk(self, prefix: Prefix, *, steps: int, noise: Tensor) -> Tensor:
        """See VlaBackend."""

    @abstractmethod
    def training_losses(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """See TrainableBackend."""

    def encode_and_sample(self, observation: ObservationBatch, *, steps: int, noise: Tensor) -> tuple[Prefix, Tensor]:
        """See VlaBackend."""
        prefix = self.encode(observation)
        return prefix, self.sample_chunk(prefix, steps=steps, noise=noise)

    def training_batch(self, samples: Mapping[str, Any]) -> dict[str, Any]:
        """See TrainableBackend. Raises ValueError for samples without an action or a camera."""
        given = {key: IMAGES + camera for key, camera in self._cameras.items()}
        wanted = (STATE, ACTION, TASK, *given.values())
        if missing := [name for name in wanted if name not in samples]:
            raise ValueError(f"samples have no {missing[0]!r}; they have {', '.join(sorted(map(str, samples)))}")
        batch = {key: samples[name] for key, name in given.items()}
        batch |= {STATE: samples[STATE].clone(), ACTION: samples[ACTION].clone(), TASK: list(samples[TASK])}
        is_pad = samples.get(ACTION_IS_PAD)
        if is_pad is None:
            is_pad = torch.zeros(samples[ACTION].shape[:2], dtype=torch.bool)
        return self._processing.prepare({**batch, ACTION_IS_PAD: is_pad})

    def save_policy(self, folder: Path) -> None:
        """Write the policy as LeRobot does, with processing, tokenizer and VLM configuration as it was opened with."""
        folder = Path(folder)
        self.policy.save_pretrained(folder)
        self._opened.folder.write(folder, self._opened.vlm)
        written = WeightsFile(self.policy, folder / WEIGHTS)
        fingerprint = written.fingerprint(self._opened.folder.statistics(), self._opened.facts)
        self._spec = replace(self._spec, fingerprint=fingerprint)

    # ---- set-up

    def warm_up(self, sizes: tuple[int, ...]) -> None:
        """Run batches of these sizes once, which also says how many tokens of which width a prefix has."""
        facts = self.policy.config
        height, width = self._spec.image_shape or facts.image_features[next(iter(self._cameras))].shape[1:]
        for size in sizes:
            observation = ObservationBatch(
                images=torch.zeros(size, len(self._cameras), height, width, 3, dtype=torch.uint8),
                state=torch.zeros(size, self._spec.state_dim),
            )
            noise = torch.zeros(size, self._spec.horizon, self._spec.noise_dim)
            with torch.inference_mode():
                prefix, _ = self.encode_and_sample(observation, steps=1, noise=noise)
            _, tokens, dim = prefix.tokens.shape
            self._spec = replace(self._spec, max_tokens=tokens, embed_dim=dim)

    @abstractmethod
    def _noise_dim(self) -> int:
        """Columns of the noise."""

    @abstractmethod
    def _image_shape(self, shapes: list[tuple[int, int, int]]) -> tuple[int, int] | None:
        """Size that images must have; `shapes`: (channels, height, width) that the policy was trained on."""

    @abstractmethod
    def _check_absent(self, absent: list[str]) -> None:
        """Raise BackendError where the policy cannot do without these cameras."""

    def _refuse_what_is_not_passed(self, facts: Any) -> None:
        path = self._opened.folder.path
        if facts.robot_state_feature is None or facts.action_feature is None:
            raise BackendError(f"{path}: the policy takes no {STATE} or gives no {ACTION}: this backend passes both")
        others = [key for key in facts.input_features if key != STATE and key not in facts.image_features]
        if others:
            raise BackendError(f"{path}: the policy takes {others[0]}, which this backend does not give it")
        memory = getattr(facts, "use_visual_memory", False) or getattr(facts, "use_proprioceptive_memory", False)
        if facts.n_obs_steps != 1 or memory:
            raise BackendError(f"{path}: the policy takes a history of observations; this backend gives it one")

    # ---- for the policies

    def _samples(self, observation: ObservationBatch) -> dict[str, Any]:
        """Observations as the policy takes them. Raises ValueError for wrong shapes and values that are not finite."""
        check_observation(self._spec, observation)
        images = observation.images.to(self.device)
        batch: dict[str, Any] = {
            key: images[:, i].permute(0, 3, 1, 2).float().div(255.0) for i, key in enumerate(self._cameras)
        }
        batch[STATE] = observation.state.to(self.device, torch.float32, copy=True)
        batch[TASK] = [self._config.instruction] * len(images)
        return self._processing.prepare(batch)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The policy as it runs on the robot, whatever mode it is in outside."""
        training = self.policy.training
        self.policy.eval()
        try:
            yield
        finally:
            if training:
                self.policy.train()


@contextmanager
def replaced(module: nn.Module, name: str, function: Any) -> Iterator[None]:
    """An attribute of one module replaced: LeRobot calls `.forward` by name, past what torch's hooks see."""
    own = vars(module).get(name)
    setattr(module, name, function)
    try:
        yield
    finally:
        if own is None:
            delattr(module, name)
        else:
            setattr(module, name, own)


def _cameras(config: VlaConfig, features: Mapping[str, Any], path: Path) -> tuple[dict[str, str], list[str]]:
    """Key of the policy -> the robot's camera, in the VLA file's order; and the keys of those that are not there."""
    keys = {key.removeprefix(IMAGES): key for key in features}
    if unknown := [name for name in config.cameras if name not in keys]:
        raise BackendError(
            f"cameras: the policy in {path} has no camera {unknown[0]!r}; it has {', '.join(keys) or 'none'}"
        )
    absent = [name for name in keys if config.cameras.get(name, NO_CAMERA) == NO_CAMERA]
    forgotten = [name for name in absent if name not in config.cameras and not name.startswith("empty_camera_")]
    if forgotten:
        raise BackendError(
            f"cameras: the policy in {path} has a camera {forgotten[0]!r} that the VLA file does not name: give it the "
            f"robot's camera, or {NO_CAMERA}"
        )
    present = {keys[name]: camera for name, camera in config.cameras.items() if camera != NO_CAMERA}
    if not present:
        raise BackendError(f"cameras: the policy in {path} needs at least one of {', '.join(keys)}")
    return present, [keys[name] for name in absent]
