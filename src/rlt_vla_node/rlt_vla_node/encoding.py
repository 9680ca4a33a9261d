"""From the scheduler's work to VlaOutput messages: which seed, which batch, which fields. No node.

The VLA node and the benchmarks' in-process loop share it: equal arguments give equal bits. `inference_s` is left to
whoever has a clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlt_common.codecs import ObservationData, floats, stamp_ns, to_time
from rlt_common.config import TaskConfig
from rlt_common.parameters import param, validate
from rlt_msgs.msg import ChunkRequest, EpisodeState, ExecutedAction, VlaOutput
from rlt_vla_node.handoff import HandoffHead
from rlt_vla_node.inference import FLOW_STEPS, FrozenModel, Outputs, noise_seed, run_batch, run_observation
from rlt_vla_node.scheduler import Request, Step


@dataclass(frozen=True)
class EncodingConfig:
    """What decides the numbers of an output, besides the model."""

    run_seed: int = param(0, "seed of the flow noise, with episode and observation", minimum=0)
    flow_steps: int = param(FLOW_STEPS, "steps from noise to chunk", minimum=1, maximum=1000)
    group_size: int = param(16, "strided observations in one batch", minimum=1, maximum=1024)

    def __post_init__(self) -> None:
        validate(self)


class OutputEncoder:
    """Runs the frozen model on observations and packs what the graph needs of it."""

    def __init__(
        self,
        model: FrozenModel,
        task: TaskConfig,
        config: EncodingConfig,
        frame: str,
        head: HandoffHead | None = None,
    ) -> None:
        """`frame`: the robot's common frame, for the headers. `head`: says when to hand off; None: nothing does."""
        self.model, self._task, self._config, self._frame, self._head = model, task, config, frame, head

    def check(self, observation: ObservationData) -> None:
        """Raise CodecError or LayoutError for an observation that the VLA or the RL state cannot use."""
        self.model.batch([observation])
        observation.state(self._task.rl_state)
        to_time(observation.stamp_ns)

    def boundary(self, observation: ObservationData, request: Request) -> VlaOutput:
        """The answer to a chunk request: a batch of one. Raises CodecError or LayoutError for an unusable one."""
        model, config = self.model, self._config
        batch = model.batch([observation])
        seed = noise_seed(config.run_seed, request.episode_id, observation.observation_id)
        outputs = run_observation(model.backend, model.token, batch, seed, steps=config.flow_steps, head=self._head)
        output = self._output(observation, outputs, seed)
        output.episode_id, output.epoch = request.episode_id, request.epoch
        output.request_id, output.is_boundary = request.request_id, True
        return output

    def strided(self, items: Sequence[tuple[int, int, ObservationData]]) -> list[VlaOutput]:
        """Outputs of one group: at most `group_size` items of (episode id, epoch, observation), each checked before."""
        model, config = self.model, self._config
        seeds = [noise_seed(config.run_seed, episode, o.observation_id) for episode, _, o in items]
        batched = run_batch(
            model.backend,
            model.token,
            model.batch([observation for _, _, observation in items]),
            seeds,
            steps=config.flow_steps,
            size=config.group_size,
            head=self._head,
        )
        outputs = []
        for i, (episode_id, epoch, observation) in enumerate(items):
            output = self._output(observation, Outputs(*(values[i] for values in batched)), seeds[i])
            output.episode_id, output.epoch = episode_id, epoch
            outputs.append(output)
        return outputs

    def _output(self, observation: ObservationData, outputs: Outputs, seed: int) -> VlaOutput:
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
        )
        output.header.stamp = to_time(observation.stamp_ns)
        output.header.frame_id = self._frame
        return output


def request(message: ChunkRequest) -> Request:
    """A chunk request as the scheduler takes it."""
    return Request(message.request_id, message.episode_id, message.epoch, stamp_ns(message.not_before))


def step(message: ExecutedAction) -> Step:
    """An executed control step as the scheduler takes it."""
    critical = message.phase == EpisodeState.PHASE_CRITICAL
    return Step(stamp_ns(message.header.stamp), message.episode_id, message.epoch, message.step, critical)
