"""An executor with a robot that follows every command, and a clock that the test moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ament_index_python.packages import get_package_share_directory

from rlt_common.config import RobotConfig, load_robot
from rlt_control.arms import build_integrator
from rlt_control.executor import ChunkExecutor, ExecutorConfig
from rlt_control.inputs import CAMERAS, JOINT_STATES, MANAGER, make_watchdog, readiness
from rlt_control.joint_jumps import JumpLimit
from rlt_control.records import Chunk, Episode, HumanCommand, Phase, RobotState, Source, Tick

SIMULATED = load_robot(get_package_share_directory("rlt_bringup") + "/config/robots/sim.yaml")
ROBOT = replace(SIMULATED, tick="timer")
HOME = np.array([0.0, -0.35, 0.85, 0.0, -0.5, 0.0, 0.0] * 2)
PERIOD_NS = 20_000_000
ARMS = tuple(arm.name for arm in ROBOT.arms)


class Rig:
    """`robot` ticks on a timer unless `wait_for_chunk` says lockstep. One tick is one control period."""

    def __init__(self, robot: RobotConfig = ROBOT, **config):
        lockstep = config.get("wait_for_chunk", False)
        self.watchdog = make_watchdog(replace(robot, tick="joint_states" if lockstep else "timer"))
        self.executor = ChunkExecutor(
            build_integrator(robot), ExecutorConfig(**config), 14, ARMS, self.watchdog, ready_inputs=readiness(robot)
        )
        self.q = HOME.copy()
        self.wrong = np.zeros(14)  # added to what is measured in the next tick
        self.heard_of: RobotState | None = None
        self.jumps = JumpLimit(robot)
        self.ticks = 0
        self.joints_speak = self.manager_speaks = self.cameras_speak = True
        self.clock_offset_ns = 0

    @property
    def now_s(self) -> float:
        return self.ticks * 0.02

    def state(self) -> RobotState:
        q = self.q + self.wrong if self.q.shape == self.wrong.shape else self.q.copy()
        return RobotState(self.ticks * PERIOD_NS + self.clock_offset_ns, q)

    def start(self, phase=Phase.BASE, episode_id=1, epoch=1, **changes) -> None:
        episode = Episode(episode_id, epoch, phase, False, 10, 0, 1000, 1000)
        self.executor.set_episode(replace(episode, phase=Phase.RESETTING))
        self.executor.set_episode(replace(episode, **changes))

    def change(self, **changes) -> None:
        self.executor.set_episode(replace(self.executor.episode, **changes))

    def tick(self) -> Tick:
        state = self.state()
        if self.joints_speak:
            self.measure(state)
        if self.manager_speaks:
            self.watchdog.heard(MANAGER, self.now_s)
        if self.cameras_speak and CAMERAS in self.watchdog:
            self.watchdog.heard(CAMERAS, self.now_s)
        tick = self.executor.tick(state, self.now_s)
        if tick.joint_target is not None:
            self.q = tick.joint_target.copy()
        self.ticks += 1
        self.wrong = np.zeros(14)
        return tick

    def measure(self, state: RobotState) -> None:
        """Take a joint state as the node does."""
        before = self.heard_of
        usable = state.q.shape == HOME.shape and np.isfinite(state.q).all()
        if usable and (reason := self.executor.implausible(state) or self.jumps.refusal(before, state)):
            self.watchdog.refuse(JOINT_STATES, reason)
        elif self.watchdog.heard(JOINT_STATES, self.now_s, state.stamp_ns) and usable:
            self.heard_of = state

    def chunk(self, request, dx=0.001, source=Source.RL, **changes) -> Chunk:
        """An answer to `request`, of an observation at its very boundary step: every row moves the right arm by `dx` m
        along x."""
        ahead = request.boundary_step - (request.request_id & 0xFFFFFF)
        actions = np.zeros((request.rows, 14))
        actions[:, 7] = dx
        chunk = Chunk(
            request.episode_id,
            request.epoch,
            request.request_id,
            observation_id=5,
            observation_stamp_ns=request.stamp_ns + ahead * PERIOD_NS,
            first_step=request.first_step,
            source=source,
            policy_version=2,
            actions=actions,
            reference=actions / 2,
            arm_names=ARMS,
        )
        return replace(chunk, **changes)

    def answer(self, request, **changes) -> str:
        return self.executor.offer_chunk(self.chunk(request, **changes), self.now_s)

    def in_motion(self) -> Rig:
        """An episode under way, with a chunk of which one row was played."""
        self.start()
        assert self.answer(self.tick().request) == ""
        assert self.tick().executed.source == Source.RL
        return self


def human(rig: Rig, enabled=True, dx=0.002, **changes) -> str:
    action = np.zeros(14)
    action[7] = dx
    return rig.executor.offer_human(HumanCommand(enabled, action, rig.now_s, **changes))
