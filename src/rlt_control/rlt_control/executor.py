"""The chunk executor: the only thing that may command the arms. Pure: no ROS, no clock of its own, nothing that blocks.

Once per control period the caller hands in the measured joints; :meth:`ChunkExecutor.tick` answers with the joint
targets to send, a record of what was executed and, when the chunk in play runs out, a request for the next one.

Rules
- Only BASE and CRITICAL move. In every other phase, after an emergency stop, or without a fresh robot state: hold.
- An input at fault (see `inputs`) holds the arms where they are measured to be and flushes the chunk in play; when the
  fault is over, motion goes on from there with a new chunk. A force peak between two ticks holds in the next one.
- A hold, an emergency stop too, leaves a gripper the command that it has, or it would drop what it holds; unless it was
  moved away from that while its joint states were silent or its driver did not obey.
- A chunk that nobody asked for, of another episode or epoch, for other arms, of a wrong shape or with a value that is
  not finite is refused whole; a broken one ends the chunk in play too.
- Row r of a chunk belongs to control step first_step + r: a late chunk is trimmed by the steps really consumed.
- In lockstep (`wait_for_chunk`) the executor sends nothing until the chunk comes, and time stands still meanwhile.
  On a robot's timer it holds instead, and the step is recorded as HOLD.
- An emergency stop is latched. It ends the episode for good: after the reset it takes a new episode to move.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rlt_common.watchdog import Watchdog
from rlt_control.chunk_play import ChunkPlay
from rlt_control.delta_pose import DeltaPoseIntegrator, StepResult
from rlt_control.inputs import CAMERAS, CHUNKS, COMMAND_TOPIC, HUMAN, JOINT_STATES, MANAGER
from rlt_control.records import (
    MOVING,
    Chunk,
    Episode,
    Executed,
    Frame,
    HumanCommand,
    Phase,
    RobotState,
    Source,
    Tick,
)


@dataclass(frozen=True)
class ExecutorConfig:
    """How the executor runs.

    Attributes:
        stride: control steps between observations; chunks start on multiples of it.
        prefetch_steps: d, control steps between an observation and row 0 of its chunk; 0 in lockstep.
        wait_for_chunk: lockstep: send nothing until the chunk comes.
        request_retry_s: an unanswered request is sent again after this time.
        dry_run: nobody is commanded, and the arms stand. Each step begins where the one before would have led, so that
            limits show what they would do to a motion; each chunk begins where the arms stand, as its observation does.
    """

    stride: int = 2
    prefetch_steps: int = 0
    wait_for_chunk: bool = False
    request_retry_s: float = 1.0
    dry_run: bool = False


@dataclass
class Counters:
    """Counts since the start, for diagnostics."""

    ticks: int = 0
    held: int = 0
    dropped_chunks: int = 0
    clamped: int = 0


class ChunkExecutor:
    """Plays action chunks, overlays the human, keeps the limits. See the module's rules.

    Args:
        integrator: turns actions into joint targets within the motion limits.
        config: see ExecutorConfig.
        joints: n, length of the robot's joint vector.
        arm_names: the arms in the order of the action vector.
        watchdog: the inputs (`inputs.make_watchdog`); the caller says what it hears of joint states, manager, cameras,
            wrenches and command topic, the executor itself what it is offered.
        state_inputs: its inputs that together make the robot state: where one is at fault nothing is known of the arms.
        ready_inputs: its inputs in which drivers say whether they obey: while one does not, others may move the arms.
    """

    def __init__(
        self,
        integrator: DeltaPoseIntegrator,
        config: ExecutorConfig,
        joints: int,
        arm_names: tuple[str, ...],
        watchdog: Watchdog,
        state_inputs: tuple[str, ...] = (JOINT_STATES,),
        ready_inputs: tuple[str, ...] = (),
    ) -> None:
        self._integrator = integrator
        self._config = config
        self._joints = joints
        self._dim, self._hand_dim = integrator.action_dim, integrator.hand_dim
        self._play = ChunkPlay(
            self._dim,
            arm_names,
            config.stride,
            config.prefetch_steps,
            config.request_retry_s,
            config.wait_for_chunk,
        )
        self._episode: Episode | None = None
        self._human: HumanCommand | None = None
        self._hold_target: np.ndarray | None = None
        self._followed: np.ndarray | None = None  # in a dry run: where the arms would be
        self._dry_chunk = 0
        self._trusted = True  # no input was at fault in the last step
        self._seen: np.ndarray | None = None  # joints when the arms were last known to obey
        self._unwatched = False
        self._period_s: float | None = None
        self._ticked_s: float | None = None
        self._stopped_episode = 0
        self.watchdog = watchdog
        self._state_inputs, self._ready_inputs = state_inputs, ready_inputs
        self.estop_reason = ""
        self.step = 0
        self.source = Source.HOLD
        self.hold_reason = "no episode yet"
        self.step_limit_reached = False
        self.counters = Counters()
        self.last_refusal = ""

    @property
    def episode(self) -> Episode | None:
        """The episode as last taken from the manager."""
        return self._episode

    def set_episode(self, episode: Episode) -> bool:
        """Take over a new episode state, and return whether it was; a new episode or epoch flushes the chunk in play.

        An older episode, or an older epoch of the current one, is ignored. An episode that was already moving when
        this executor started is not continued: the emergency stop is latched until the operator resets it.
        """
        current = self._episode
        if current is None and episode.phase in MOVING:
            self._episode = episode
            self.estop(f"the executor was started in the middle of episode {episode.episode_id}: discard it")
            return True
        if current is not None and (episode.episode_id, episode.epoch) < (current.episode_id, current.epoch):
            self.last_refusal = f"episode_state: episode {episode.episode_id}, epoch {episode.epoch} is older than ours"
            return False
        if current is None or episode.episode_id != current.episode_id:
            self.step = 0
        if current is None or (episode.episode_id, episode.epoch) != (current.episode_id, current.epoch):
            self._play.flush()
            self._human = None
            self.step_limit_reached = False
        if episode.phase not in MOVING:
            self.hold_reason = f"phase {episode.phase.name}"
            self.source = Source.HOLD
        self._episode = episode
        return True

    def offer_chunk(self, chunk: Chunk, now_s: float = 0.0) -> str:
        """Take a chunk at monotonic time `now_s`. Returns "" when it is accepted, else why not (also counted)."""
        refusal = self._play.offer(chunk, self._episode, self.step)
        if refusal is None:
            self.watchdog.heard(CHUNKS, now_s)
            return ""
        self.counters.dropped_chunks += 1
        self.last_refusal = refusal.reason
        return refusal.reason

    def refuse_chunk(self, reason: str) -> None:
        """A chunk could not even be read: it is refused like any broken one, and ends the one in play."""
        self._play.drop()
        self.counters.dropped_chunks += 1
        self.last_refusal = reason

    def offer_human(self, command: HumanCommand) -> str:
        """Take a human command. Returns "" or the reason for refusing it."""
        action = np.asarray(command.action, dtype=np.float64)
        if command.enabled and (action.shape != (self._hand_dim,) or not np.isfinite(action).all()):
            reason = f"human command of shape {action.shape}, expected ({self._hand_dim},), or not finite"
            self.refuse_human(reason)
            return reason
        self._human = replace(command, action=action)
        self.watchdog.heard(HUMAN, command.received_s)
        return ""

    def refuse_human(self, reason: str) -> None:
        """A human command cannot be used: the one before it is over as well."""
        self._human = None
        self.watchdog.refuse(HUMAN, reason)
        self.last_refusal = reason

    def estop(self, reason: str, state: RobotState | None = None) -> None:
        """Latch the emergency stop; the arms hold where they are measured to be."""
        if self.estop_reason:
            return
        self.estop_reason = reason or "no reason given"
        self._play.flush()
        self._stopped_episode = self._episode.episode_id if self._episode else 0
        self._hold_target = None
        if state is not None and not self._integrator.implausible(state.q):
            self._anchor(state)
        self.source = Source.HOLD
        self.hold_reason = f"emergency stop: {self.estop_reason}"

    def reset_estop(self) -> None:
        """Release the latch. The stopped episode never moves again; a new one must be started."""
        self.estop_reason = ""
        self._stopped_episode = self._episode.episode_id if self._episode else 0
        self.hold_reason = "emergency stop was reset: start a new episode"

    def implausible(self, state: RobotState) -> str:
        """Why the arms cannot be where they are measured to be; "" when they can."""
        return self._integrator.implausible(state.q)

    def not_needed(self) -> tuple[str, ...]:
        """Inputs that the arms do not depend on now: manager and cameras between episodes, a human out of control."""
        idle = self._episode is None or self._episode.phase not in MOVING
        human = not idle and self._episode.human_in_control
        return (*((MANAGER, CAMERAS) if idle else ()), *(() if human else (HUMAN,)))

    def tick(self, state: RobotState | None, now_s: float) -> Tick:
        """One control period.

        Args:
            state: newest measured joints, or None before the first.
            now_s: monotonic time, s, on the clock of the watchdog.
        """
        tick = self._tick(state, now_s)
        self.watchdog.looked()
        return tick

    def _tick(self, state: RobotState | None, now_s: float) -> Tick:
        self.counters.ticks += 1
        self._period_s = None if self._ticked_s is None or self._config.wait_for_chunk else now_s - self._ticked_s
        self._ticked_s = now_s
        if state is None:
            self.hold_reason = "no joint states yet"
            return Tick()
        if state.q.shape != (self._joints,) or not np.isfinite(state.q).all():
            return self._hold("joint states of a wrong length or not finite")
        for name in self._state_inputs:
            if fault := self.watchdog.fault(name, now_s):
                return self._hold(fault)
        if fault := self._integrator.implausible(state.q):
            return self._hold(fault)
        if self._config.wait_for_chunk and (fault := self.watchdog.fault(COMMAND_TOPIC, now_s)):
            return self._hold(fault)  # time stands still until it is clear who commands
        powerless = any(self.watchdog.fault(name, now_s) for name in self._ready_inputs)
        self._look(state, powerless)
        if self.estop_reason:
            return Tick(joint_target=self._held(state))
        episode = self._episode
        if episode is None or episode.phase not in MOVING or episode.episode_id == self._stopped_episode:
            return self._still(state)
        if self._limit_reached(episode):
            self.step_limit_reached = True
            self.hold_reason = f"time-out of {episode.phase.name}"
            return Tick() if self._config.wait_for_chunk else self._still(state)
        if self._hold_target is not None or self.step == 0:
            self._begin_at(state)
            self._hold_target = None
        fault = self.watchdog.first_fault(now_s, apart_from=(*self._state_inputs, HUMAN))
        if bool(fault) == self._trusted or powerless:  # a fault begins, or is over
            self._begin_at(state)
            self._play.flush()
        self._trusted = not fault
        if fault:
            return self._hold_step(state, fault)
        if episode.human_in_control:
            return self._human_step(state, now_s)
        return self._chunk_step(state, now_s)

    def _chunk_step(self, state: RobotState, now_s: float) -> Tick:
        request = self._play.next_request(self._episode, self.step, state, now_s, self._integrator.anchor)
        row = self._play.row(self.step)
        if row is not None:
            chunk = self._play.chunk
            if self._config.dry_run and chunk.chunk_id != self._dry_chunk:
                self._dry_chunk = chunk.chunk_id
                self._begin_at(state)
            result = self._integrator.step(chunk.actions[row], self._reached(state), self._period_s)
            executed = self._execute(state, chunk.source, result, chunk.reference[row], chunk=chunk, row=row)
            return replace(executed, request=request)
        if self._config.wait_for_chunk and self.step % self._config.stride == 0:
            self.hold_reason = "waiting for a chunk"
            return Tick(request=request)
        return replace(self._hold_step(state, "no chunk row for this step"), request=request)

    def _human_step(self, state: RobotState, now_s: float) -> Tick:
        if fault := self.watchdog.fault(HUMAN, now_s):
            return self._hold_step(state, f"the operator has taken over; {fault}")
        human = self._human
        if human is None or not human.enabled:
            return self._hold_step(state, "the operator has taken over and holds no enable button")
        action = self._integrator.in_world(human.action) if human.frame == Frame.TOOL else human.action
        result = self._integrator.follow(action, self._reached(state), self._period_s)
        tick = self._execute(state, Source.HUMAN, result, result.applied)
        return replace(tick, executed=replace(tick.executed, repositioning=human.repositioning))

    def _hold_step(self, state: RobotState, reason: str) -> Tick:
        result = self._integrator.follow(np.zeros(self._hand_dim), self._reached(state), self._period_s)
        tick = self._execute(state, Source.HOLD, result, np.zeros(self._dim))
        self.hold_reason = reason
        self.counters.held += 1
        return tick

    def _execute(
        self,
        state: RobotState,
        source: Source,
        result: StepResult,
        reference: np.ndarray,
        chunk: Chunk | None = None,
        row: int = -1,
    ) -> Tick:
        episode = self._episode
        executed = Executed(
            stamp_ns=state.stamp_ns,
            episode_id=episode.episode_id,
            epoch=episode.epoch,
            step=self.step,
            phase=episode.phase,
            source=source,
            action=result.applied,
            commanded=result.requested,
            reference=np.asarray(reference, dtype=np.float64),
            clamped=result.clamped,
            chunk_id=chunk.chunk_id if chunk else 0,
            row=row,
            observation_id=chunk.observation_id if chunk else 0,
            policy_version=chunk.policy_version if chunk else 0,
            delay_s=(state.stamp_ns - chunk.observation_stamp_ns) * 1e-9 if chunk else 0.0,
            joint_target=result.joint_targets,
        )
        self.step += 1
        self._followed = result.joint_targets if self._config.dry_run else None
        self.source = source
        self.hold_reason = ""
        self.counters.clamped += int(result.clamped.any())
        return Tick(executed=executed, joint_target=result.joint_targets)

    def _still(self, state: RobotState) -> Tick:
        """Outside an episode: on a robot repeat the pose the arms had when motion ended; in lockstep send nothing."""
        if self._config.wait_for_chunk:
            return Tick()
        return Tick(joint_target=self._held(state))

    def _held(self, state: RobotState) -> np.ndarray:
        """Joint targets (n,) of arms that stand."""
        if self._hold_target is None:
            self._anchor(state)
        else:
            self._hold_target = self._integrator.held(state.q, self._period_s)
        return self._hold_target.copy()

    def _anchor(self, state: RobotState) -> None:
        """The arms stand where they are measured."""
        self._hold_target = self._integrator.hold_at(state.q, not self._config.dry_run)

    def _begin_at(self, state: RobotState) -> None:
        """The next step starts where the arms are measured."""
        if self._config.wait_for_chunk and self.step == 0:
            self._integrator.reset(state.q)  # a new scene, grippers and all
        else:
            self._integrator.reset(state.q, not self._config.dry_run)
        self._followed = None

    def _look(self, state: RobotState, powerless: bool) -> None:
        """Arms that do not obey, or were not seen, may have fallen or been moved: none must jump back to its target.

        One that sags no further than its leash keeps the target, or it would sink with every silence.
        """
        if powerless or self._unwatched:
            opened = self._seen is not None and self._integrator.forget_moved_grippers(self._seen, state.q)
            if powerless or opened or (self._hold_target is not None and self._integrator.strayed(state.q)):
                self._hold_target = None
        self._unwatched = powerless
        if not powerless:
            self._seen = state.q

    def _reached(self, state: RobotState) -> np.ndarray:
        """(n,) where the arms are; in a dry run, where they would be."""
        return state.q if self._followed is None else self._followed

    def _hold(self, reason: str) -> Tick:
        """Without a usable robot state nothing new is sent: the driver keeps its last target."""
        self._unwatched = True
        self._trusted = False
        self.hold_reason = reason
        self.source = Source.HOLD
        self.counters.held += 1
        return Tick()

    def _limit_reached(self, episode: Episode) -> bool:
        if episode.phase == Phase.BASE:
            return self.step >= episode.max_base_steps
        return self.step - episode.handoff_step >= episode.max_critical_steps
