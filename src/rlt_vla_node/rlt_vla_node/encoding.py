"""From the scheduler's work to VlaOutput messages: which seed, which batch, which fields. No node.

The VLA node and the benchmarks' in-process loop share it: equal arguments give equal bits. `inference_s` is left to
whoever has a clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlt_common.codecs import CodecError, ObservationData, doubles, floats, stamp_ns, to_time
from rlt_common.config import RobotConfig, TaskConfig
from rlt_common.kinematics import build_kinematics
from rlt_common.parameters import from_mapping, param, validate
from rlt_msgs.msg import ChunkRequest, EpisodeState, ExecutedAction, VlaOutput
from rlt_vla_node.anchor import Anchor, anchor_of_joints
from rlt_vla_node.handoff import HandoffHead
from rlt_vla_node.inference import FLOW_STEPS, FrozenModel, Outputs, noise_seed, run_batch, run_observation
from rlt_vla_node.runtime import runtime
from rlt_vla_node.scheduler import Request, Step


@dataclass(frozen=True)
class EncodingConfig:
    """What decides the numbers of an output, besides the model."""

    run_seed: int = param(0, "seed of the flow noise, with episode and observation", minimum=0)
    flow_steps: int = param(FLOW_STEPS, "steps from noise to chunk", minimum=1, maximum=1000)
    group_size: int = param(16, "strided observations in one batch", minimum=1, maximum=1024)

    def __post_init__(self) -> None:
        validate(self)


def encoding_of(task: TaskConfig, run_seed: int = 0) -> EncodingConfig:
    """What the task file's `nodes: vla:` says of it. Raises ParameterError."""
    own = {k: v for k, v in task.nodes.get("vla", {}).items() if k in ("flow_steps", "group_size")}
    return from_mapping(EncodingConfig, {**own, "run_seed": run_seed}, f"task {task.name}: nodes: vla")


class Item(NamedTuple):
    """A strided observation to encode."""

    episode_id: int
    epoch: int
    observation: ObservationData
    commanded: Sequence[float] | None = None
    """(n,) joints, rad or m, that were commanded just before the first action of its chunk, where that is known."""


class OutputEncoder:
    """Runs the frozen model on observations and packs what the graph needs of it."""

    def __init__(
        self,
        model: FrozenModel,
        task: TaskConfig,
        config: EncodingConfig,
        robot: RobotConfig,
        head: HandoffHead | None = None,
    ) -> None:
        """`model`: fitted to robot and task. `head`: says when to hand off; None: nothing does."""
        self.model, self._task, self._config, self._robot, self._head = model, task, config, robot, head
        self.anchored = model.layout.anchored and robot.relative_to == "commanded"
        """Whether chunks are added to what was commanded before them."""
        self._kinematics = build_kinematics(robot) if self.anchored else None

    def check(self, observation: ObservationData) -> None:
        """Raise CodecError or LayoutError for an observation that the VLA or the RL state cannot use."""
        self.model.batch([observation])
        observation.state(self._task.rl_state)
        to_time(observation.stamp_ns)

    def rehearse(self) -> None:
        """Answer a request from a blank observation: what is compiled or loaded at first use is, and it can be timed.

        Raises as `boundary`.
        """
        cameras = self._robot.cameras
        blank = ObservationData(
            observation_id=0,
            stamp_ns=0,
            camera_names=tuple(camera.name for camera in cameras),
            images=np.zeros((len(cameras), cameras[0].height, cameras[0].width, 3), np.uint8),
            blocks={name: np.zeros(size, np.float32) for name, size in self._robot.block_sizes.items()},
        )
        self.boundary(blank, Request(0, 0, 0, 0))

    def boundary(self, observation: ObservationData, request: Request) -> VlaOutput:
        """The answer to a chunk request: a batch of one.

        Raises CodecError or LayoutError for an unusable observation or chunk, BackendError for a VLA out of reach.
        """
        model, config = self.model, self._config
        anchor = request.anchor if self.anchored else None
        if anchor is not None and anchor.values.shape != (self._robot.action_dim,):
            raise CodecError(
                f"chunk_request has an anchor of {anchor.values.size} values, not {self._robot.action_dim}"
            )
        if anchor is not None and anchor.first >= self._task.horizon:
            raise CodecError(f"chunk_request begins at row {anchor.first} of a chunk of {self._task.horizon}")
        batch = model.batch([observation], [anchor])
        seed = noise_seed(config.run_seed, request.episode_id, observation.observation_id)
        outputs = run_observation(model, batch, seed, steps=config.flow_steps, head=self._head)
        output = self._output(observation, outputs, seed, anchor)
        output.episode_id, output.epoch = request.episode_id, request.epoch
        output.request_id, output.is_boundary = request.request_id, True
        return output

    def strided(self, items: Sequence[Item]) -> list[VlaOutput]:
        """Outputs of one group: at most `group_size` items, each checked before. Raises as `boundary`."""
        model, config = self.model, self._config
        seeds = [noise_seed(config.run_seed, item.episode_id, item.observation.observation_id) for item in items]
        anchors = [self._anchor(item) for item in items]
        batched = run_batch(
            model,
            model.batch([item.observation for item in items], anchors),
            seeds,
            steps=config.flow_steps,
            size=config.group_size,
            head=self._head,
        )
        outputs = []
        for i, item in enumerate(items):
            own = Outputs(*(values[i] for values in batched))
            output = self._output(item.observation, own, seeds[i], anchors[i])
            output.episode_id, output.epoch = item.episode_id, item.epoch
            outputs.append(output)
        return outputs

    def _anchor(self, item: Item) -> Anchor | None:
        if self._kinematics is None or item.commanded is None:
            return None
        return anchor_of_joints(self._robot, self._kinematics, item.commanded, self._task.prefetch_steps)

    def _output(self, observation: ObservationData, outputs: Outputs, seed: int, anchor: Anchor | None) -> VlaOutput:
        output = VlaOutput(
            observation_id=observation.observation_id,
            rl_token=floats(outputs.rl_token),
            rl_state=floats(observation.state(self._task.rl_state)),
            horizon=outputs.reference.shape[0],
            action_dim=outputs.reference.shape[1],
            reference=floats(outputs.reference),
            noise_seed=seed,
            vla_hash=self.model.hash,
            handoff_probability=float(outputs.handoff_probability),
            handoff_threshold=self._head.threshold if self._head else math.nan,
            runtime=runtime(self.model.backend.device),
        )
        if anchor is not None:
            output.anchor, output.anchor_row = doubles(anchor.values), anchor.first
        output.header.stamp = to_time(observation.stamp_ns)
        output.header.frame_id = self._robot.frame
        return output


def request(message: ChunkRequest) -> Request:
    """A chunk request as the scheduler takes it. Raises CodecError for a stamp or an anchor that cannot be used."""
    anchor = None
    if message.anchor:
        values = np.array(message.anchor, np.float64)
        if not np.isfinite(values).all():
            raise CodecError("its anchor holds a value that is not finite")
        if message.first_step < message.boundary_step:
            raise CodecError(
                f"it begins at step {message.first_step}, before its observation's {message.boundary_step}"
            )
        anchor = Anchor(message.first_step - message.boundary_step, values)
    return Request(message.request_id, message.episode_id, message.epoch, stamp_ns(message.not_before), anchor)


def step(message: ExecutedAction, joints: int | None = None) -> Step:
    """An executed control step as the scheduler takes it. Raises CodecError.

    `joints`: how many joints were commanded, where chunks are anchored to them.
    """
    if joints is not None:
        commanded = np.asarray(message.joint_target, np.float64)
        if commanded.size != joints or not np.isfinite(commanded).all():
            raise CodecError(f"joint_target has {commanded.size} values, expected {joints} that are finite")
    critical = message.phase == EpisodeState.PHASE_CRITICAL
    stamp = stamp_ns(message.header.stamp)
    return Step(stamp, message.episode_id, message.epoch, message.step, critical, message.joint_target)
