"""The VLA node's part of a critical phase in robot time: its scheduler and encoder, the messages that they get.

The model has the shape that `adapt` gives it and random weights, which cost the same. DDS is left out, as is the PNG
encoding, which is camera_ingest's; the decoding is the VLA node's and is in.
"""

from __future__ import annotations

import sys
import tempfile
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass

from rclpy.serialization import deserialize_message, serialize_message

from harness.episode_loop import Plant
from harness.robot_time import DEFERRED, Arrival, Served, serve
from rlt_common.codecs import observation_from_msg, observation_to_msg, stamp_ns
from rlt_common.config import RobotConfig, TaskConfig
from rlt_msgs.msg import Observation, VlaOutput
from rlt_vla_node.adapt import vla_config
from rlt_vla_node.adapt_config import AdaptConfig
from rlt_vla_node.builtin import build_vla
from rlt_vla_node.checkpoint import load_checkpoint, save_checkpoint
from rlt_vla_node.encoding import EncodingConfig, Item, OutputEncoder
from rlt_vla_node.inference import FrozenModel
from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token
from rlt_vla_node.scheduler import Request, Scheduler, Step

REQUEST = "request"
EPISODE, EPOCH = 1, 1


def random_model(robot: RobotConfig, task: TaskConfig, seed: int) -> FrozenModel:
    """A frozen model of the shape that `adapt` makes for robot and task, with random weights."""
    vla = build_vla(vla_config(robot, task), seed)
    shape = RlTokenConfig(embed_dim=vla.config.width, max_tokens=vla.config.tokens, token_dim=AdaptConfig().token_dim)
    blocks = [(name, robot.block_sizes[name]) for name in task.vla_state]
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(folder, vla, build_rl_token(shape, seed + 1), blocks, {}, {})
        return load_checkpoint(folder)


def observe_phase(plant: Plant, steps: int, seed: int) -> list[Observation]:
    """Strided observations of a phase of `steps` control steps as camera_ingest sends them, each of another reset."""
    encodings = [camera.encoding for camera in plant.robot.cameras]
    messages = []
    for step in range(0, steps, plant.task.stride):
        plant.cell.reset(seed + step, "critical")
        data = plant.observe(round(step * plant.robot.period_s * 1e9), *plant.cell.joint_state())
        messages.append(observation_to_msg(data, encodings, [0.0] * len(encodings), plant.robot.frame))
    return messages


@dataclass(frozen=True)
class Phase:
    """What was done in one critical phase and after it."""

    end_s: float
    served: list[Served]
    group_sizes: list[int]
    """Strided observations of each group, in the order of the groups in `served`."""
    outputs: list[VlaOutput]
    most_waiting: int
    """Strided observations that waited at a time."""


class CriticalPhase:
    """A critical phase of given observations that can be served again and again."""

    def __init__(self, plant: Plant, config: EncodingConfig, messages: Sequence[Observation]) -> None:
        """`messages`: one every `stride` control steps, from step 0 on; the phase ends a stride after the last."""
        self._plant, self._config, self._messages = plant, config, messages
        self._encoder = OutputEncoder(plant.model, plant.task, config, plant.robot)
        self._steps = len(messages) * plant.task.stride

    def serve(self) -> Phase:
        """Serve the phase once, with a scheduler of its own."""
        plant, scheduler = self._plant, self._scheduler()
        outputs: list[VlaOutput] = []
        sizes: list[int] = []
        most = 0

        def step(number: int, stamp: int) -> None:
            nonlocal most
            scheduler.on_step(Step(stamp, EPISODE, EPOCH, number, critical=True))
            most = max(most, scheduler.pending)

        def boundary(request: Request) -> None:
            scheduler.on_request(request)
            work = scheduler.next_boundary()
            outputs.append(self._encoder.boundary(observation_from_msg(work.observation), work.request))

        def group() -> None:
            items = scheduler.next_group()
            sizes.append(len(items))
            decoded = [Item(item.episode_id, item.epoch, observation_from_msg(item.observation)) for item in items]
            outputs.extend(self._encoder.strided(decoded))

        arrivals = []
        for number in range(self._steps):
            at_s = number * plant.robot.period_s
            stamp = round(at_s * 1e9)
            if number % plant.task.stride == 0:
                message = self._messages[number // plant.task.stride]
                arrivals.append(
                    Arrival(
                        at_s, "observation", lambda m=message: scheduler.on_observation(stamp_ns(m.header.stamp), m)
                    )
                )
            if number % plant.task.execute_steps == 0:
                request = Request(number, EPISODE, EPOCH, stamp)
                arrivals.append(Arrival(at_s, REQUEST, lambda r=request: boundary(r)))
            arrivals.append(Arrival(at_s, "step", lambda n=number, s=stamp: step(n, s)))
        end_s = self._steps * plant.robot.period_s
        arrivals.append(
            Arrival(end_s, "end", lambda: scheduler.on_control(EPISODE, moving=False, next_step=self._steps))
        )
        return Phase(end_s, serve(arrivals, lambda: scheduler.group_ready, group), sizes, outputs, most)

    def _scheduler(self) -> Scheduler[Observation]:
        task = self._plant.task
        scheduler = Scheduler(self._config.group_size, task.stride, round(self._plant.robot.period_s * 1e9))
        scheduler.on_episode(EPISODE, EPOCH, train=True, discarded=False)
        return scheduler


def kept_bytes(messages: Sequence[Observation]) -> int:
    """Memory that the messages take as a node that received them keeps them."""
    sent = [serialize_message(message) for message in messages]
    tracemalloc.start()
    try:
        received = [deserialize_message(data, Observation) for data in sent]
        return tracemalloc.get_traced_memory()[0] - sys.getsizeof(received)
    finally:
        tracemalloc.stop()


def figures(phase: Phase) -> dict[str, float]:
    """How far encoding kept up in one phase.

    `left` observations were encoded after the end, the last of them `tail_s` after it; `encoded_per_s` is per second
    of all work, boundaries included; `met_a_group` requests came while a group was in work.
    """
    groups = [served for served in phase.served if served.kind == DEFERRED]
    busy_s = sum(served.busy_s for served in phase.served)
    sizes = zip(groups, phase.group_sizes, strict=True)
    requests = [served for served in phase.served if served.kind == REQUEST]
    return {
        "left": sum(size for group, size in sizes if group.ended_s > phase.end_s),
        "tail_s": max((group.ended_s - phase.end_s for group in groups), default=0.0),
        "encoded_per_s": len(phase.outputs) / busy_s,
        "most_waiting": phase.most_waiting,
        "met_a_group": sum(any(g.begun_s < r.came_s < g.ended_s for g in groups) for r in requests),
    }


def boundary_latencies(phase: Phase) -> tuple[list[float], list[float]]:
    """Seconds from each request to its answer: as they came, and had each come when the group before it was begun.

    The second is the most that a group in work can cost: the whole group first. A boundary before the first group has
    no such figure.
    """
    came, behind, group_s = [], [], None
    for served in phase.served:
        if served.kind == DEFERRED:
            group_s = served.busy_s
        elif served.kind == REQUEST:
            came.append(served.latency_s)
            if group_s is not None:
                behind.append(group_s + served.busy_s)
    return came, behind
