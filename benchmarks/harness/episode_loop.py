"""Episodes of the simulated cell in one process: the graph's own modules, wired by function calls instead of topics.

Every part is the one that a node of the graph runs: rlt_sim's cell, lockstep gate and scripted operator; rlt_teleop's
episode machine; rlt_control's executor; rlt_vla_node's scheduler and encoder; rlt_rl_node's policy and episode
assembly. They exchange the very messages of the topics, so values pass through the same types (actions float32, joints
float64). Left out: DDS, the recorder, and the images' PNG encoding, which is lossless. With the seeds and episode ids
of a run of the graph it executes that run's actions, bit for bit; `harness.against_graph` compares.

Images are rendered only where something reads them: at chunk boundaries, and on the stride of a training episode's
critical phase.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.settings import Settings
from rlt_bringup.report import EpisodeOutcome
from rlt_common.codecs import ObservationData
from rlt_common.config import RobotConfig, TaskConfig
from rlt_control import messages as control_messages
from rlt_control.arms import build_integrator
from rlt_control.executor import ChunkExecutor, ExecutorConfig
from rlt_control.inputs import make_watchdog
from rlt_control.records import RobotState
from rlt_msgs.msg import ExecutedAction
from rlt_msgs.srv import StartEpisode
from rlt_rl_node import messages as rl_messages
from rlt_rl_node.episode_assembly import EpisodeAssembly
from rlt_rl_node.policy import ChunkPolicy
from rlt_rl_node.records import EpisodeData
from rlt_sim.lockstep import Awaiting, LockstepGate, episode_stamp_ns
from rlt_sim.operator import Press, decide
from rlt_sim.task_cell import make_cell
from rlt_teleop.episode_machine import MOVING, Driver, EpisodeMachine, Label, Phase, Purpose
from rlt_teleop.episode_request import spec_from_request
from rlt_vla_node import encoding
from rlt_vla_node.encoding import Item, OutputEncoder
from rlt_vla_node.inference import FrozenModel
from rlt_vla_node.proprioception import Proprioception
from rlt_vla_node.scheduler import Scheduler

LABELS = {Press.SUCCESS: Label.SUCCESS, Press.FAILURE: Label.FAILURE}


class LoopError(RuntimeError):
    """The parts do not go on together, which in the graph would show as a robot that stands still; says why."""


@dataclass(frozen=True)
class Plant:
    """What all episodes of one robot and task share. Building it takes about a second; it has no memory."""

    robot: RobotConfig
    task: TaskConfig
    model: FrozenModel
    cell: Any  # of rlt_sim: reset, apply, joint_state, images, task_state
    proprioception: Proprioception

    @classmethod
    def build(cls, robot: RobotConfig, task: TaskConfig, model: FrozenModel) -> Plant:
        """Raises LayoutError or ParameterError when robot, task and model do not belong together."""
        return cls(robot, task, model.fitted(robot, task), make_cell(robot, task), Proprioception(robot))

    def observe(self, stamp_ns: int, position: np.ndarray, velocity: np.ndarray, effort: np.ndarray) -> ObservationData:
        """What the cameras see now, with the joint state (each (J,)) of the same moment."""
        return ObservationData(
            observation_id=stamp_ns,
            stamp_ns=stamp_ns,
            camera_names=tuple(camera.name for camera in self.robot.cameras),
            images=self.cell.images(),
            blocks=self.proprioception.blocks(self.robot.joint_names, position, velocity, effort),
        )


class EpisodeLoop:
    """Runs one episode after the other; ids rise from `first_episode_id`, as in a run of the graph."""

    def __init__(
        self,
        plant: Plant,
        settings: Settings,
        first_episode_id: int = 1,
        on_executed: Callable[[ExecutedAction], None] | None = None,
    ) -> None:
        """`on_executed` gets every executed control step."""
        robot, task = plant.robot, plant.task
        self.policy = ChunkPolicy(settings.run_seed)
        self._plant, self._settings, self._on_executed = plant, settings, on_executed
        self._trained = 0  # training episodes so far, which the curriculum counts
        self._period_ns = round(1e9 / robot.control_hz)
        self._machine = EpisodeMachine(task.name, first_episode_id - 1)
        self._gate = LockstepGate(settings.gate_steps)
        self._arm_names = tuple(arm.name for arm in robot.arms)
        self._executor = ChunkExecutor(
            build_integrator(robot),
            ExecutorConfig(stride=task.stride, prefetch_steps=task.prefetch_steps, wait_for_chunk=True),
            joints=len(robot.joint_names),
            arm_names=self._arm_names,
            watchdog=make_watchdog(robot),
        )
        self._scheduler: Scheduler[ObservationData] = Scheduler(
            settings.encoding.group_size, task.stride, self._period_ns
        )
        self._encoder = OutputEncoder(plant.model, task, settings.encoding, robot)
        self._assembly = EpisodeAssembly(self._period_ns, task.stride, task.prefetch_steps)
        self._tell()

    def run(
        self,
        purpose: Purpose,
        driver: Driver,
        seed: int,
        *,
        explore: bool = False,
        execute_steps: int = 0,
        actor_version: int = 0,
    ) -> tuple[EpisodeOutcome, EpisodeData | None]:
        """One episode from reset to label; the critical phase's data when it is one to train on.

        Args:
            purpose, driver: as in a StartEpisode request; `driver` is the one of the critical phase.
            seed: of the reset.
            explore: exploration noise while RL drives.
            execute_steps: rows of a VLA chunk that are executed; 0: as the task says.
            actor_version: the actor that drives; it must have been given to `policy`.
        """
        machine, gate, plant = self._machine, self._gate, self._plant
        request = StartEpisode.Request(
            purpose=int(purpose), driver=int(driver), explore=explore, seed=seed, execute_steps=execute_steps
        )
        spec = replace(spec_from_request(request, plant.task, self._trained), actor_version=actor_version)
        machine.start(spec)
        self._tell()
        plant.cell.reset(spec.seed, spec.start_in)
        gate.reset(machine.episode.episode_id)
        machine.scene_ready()
        self._tell()
        gate.on_control(machine.episode.episode_id, moving=True)
        while machine.episode.phase in MOVING:
            self._step()
        return self._finish(driver)

    # ---- one control step

    def _step(self) -> None:
        gate, machine = self._gate, self._machine
        stamp_ns = episode_stamp_ns(gate.episode_id, gate.step, self._period_ns)
        if gate.awaiting is Awaiting.OPERATOR:
            self._ask_operator()
            if machine.episode.phase not in MOVING:
                return
            gate.on_operator(stamp_ns, stamp_ns)
        joints = self._plant.cell.joint_state()
        state = RobotState(stamp_ns, joints[0])
        tick = self._executor.tick(state, 0.0)
        trains = machine.episode.purpose == Purpose.TRAIN and machine.episode.phase == Phase.CRITICAL
        if tick.request is not None or (trains and gate.step % self._plant.task.stride == 0):
            self._scheduler.on_observation(stamp_ns, self._plant.observe(stamp_ns, *joints))
        if tick.request is not None:
            self._answer(control_messages.request_message(tick.request, self._plant.robot.frame))
            if tick.executed is None:
                tick = self._executor.tick(state, 0.0)
        if self._executor.step_limit_reached:
            machine.time_out()
            self._tell()
            return
        if tick.executed is None:
            raise LoopError(f"episode {gate.episode_id}, step {gate.step}: {self._executor.hold_reason}")
        message = control_messages.executed_message(
            tick.executed, self._plant.robot.frame, self._plant.robot.joint_names
        )
        self._scheduler.on_step(encoding.step(message))
        rl_messages.collect_executed(self._assembly, message)
        if self._on_executed is not None:
            self._on_executed(message)
        self._plant.cell.apply(tick.joint_target)
        gate.advance()

    def _ask_operator(self) -> None:
        """The scripted operator looks and presses until there is nothing more to press."""
        machine, sees = self._machine, self._plant.cell.task_state()
        while machine.episode.phase in MOVING:
            episode = machine.episode
            critical = episode.phase == Phase.CRITICAL
            press = decide(
                self._settings.operator,
                self._gate.step,
                critical,
                episode.handoff_step,
                sees.hand_off_ready,
                sees.success,
            )
            if press is None:
                return
            if press is Press.HANDOFF:
                machine.hand_off(self._executor.step)
            else:
                machine.label(LABELS[press], "labelled by the scripted operator")
            self._tell()

    def _answer(self, request: Any) -> None:
        """A chunk request through VLA and policy to the executor."""
        self._scheduler.on_request(encoding.request(request))
        self.policy.on_request(rl_messages.request(request))
        work = self._scheduler.next_boundary()
        output = self._encoder.boundary(work.observation, work.request)
        rl_messages.collect_output(self._assembly, output)
        self.policy.on_output(rl_messages.output(output))
        chunk = self.policy.answer()
        if chunk is None:
            raise LoopError(f"the policy waits for {self.policy.waiting_for}")
        refusal = self._executor.offer_chunk(control_messages.chunk(rl_messages.chunk_message(chunk, self._arm_names)))
        if refusal:
            raise LoopError(refusal)

    # ---- around it

    def _tell(self) -> None:
        """Everybody hears the episode manager's state."""
        episode = self._machine.episode
        message = episode.to_msg()
        self._executor.set_episode(control_messages.episode(message, self._plant.task))
        self._scheduler.on_episode(
            episode.episode_id,
            episode.epoch,
            train=episode.purpose == Purpose.TRAIN,
            discarded=episode.label == Label.DISCARD,
        )
        self.policy.on_episode(rl_messages.episode(message))
        rl_messages.collect_state(self._assembly, message)

    def _finish(self, driver: Driver) -> tuple[EpisodeOutcome, EpisodeData | None]:
        """Encode what is left of a training episode, and say how the episode ended."""
        episode, steps = self._machine.episode, self._executor.step
        self._scheduler.on_control(episode.episode_id, moving=False, next_step=steps)
        while group := self._scheduler.next_group():
            for output in self._encoder.strided([Item(g.episode_id, g.epoch, g.observation, g.anchor) for g in group]):
                rl_messages.collect_output(self._assembly, output)
        self._assembly.control_stopped(episode.episode_id, episode.epoch, steps)
        data = None
        if self._assembly.wanted(episode.episode_id):
            if missing := self._assembly.missing(episode.episode_id):
                raise LoopError(f"episode {episode.episode_id} lacks {missing}")
            data = self._assembly.take(episode.episode_id)
        else:
            self._assembly.forget(episode.episode_id)
        self._machine.confirm(episode.episode_id)
        self._machine.close("")
        self._trained += episode.purpose == Purpose.TRAIN
        outcome = EpisodeOutcome.of(
            episode_id=episode.episode_id,
            seed=episode.seed,
            label=episode.label.name.lower(),
            driver=driver.name.lower(),
            steps=steps,
            handoff_step=episode.handoff_step,
            start_in=episode.start_in,
        )
        return outcome, data
