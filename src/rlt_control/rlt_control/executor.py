"""The chunk executor: the only thing that may command the arms. Pure: no ROS, no clock of its own, nothing that blocks.

Once per control period the caller hands in the measured joints; :meth:`ChunkExecutor.tick` answers with the joint
targets to send, a record of what was executed and, when the chunk in play runs out, a request for the next one.

Rules
- Only BASE and CRITICAL move. In every other phase, after an emergency stop, or without a fresh robot state: hold.
- A chunk of another episode or epoch, of a wrong shape or with a value that is not finite is refused whole.
- Row r of a chunk belongs to control step first_step + r: a late chunk is trimmed by the steps really consumed.
- In lockstep (`wait_for_chunk`) the executor sends nothing until the chunk comes, and time stands still meanwhile.
  On a robot's timer it holds instead, and the step is recorded as HOLD.
- An emergency stop is latched. It ends the episode for good: after the reset it takes a new episode to move.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rlt_control.delta_pose import DeltaPoseIntegrator
from rlt_control.records import (
    MOVING,
    Chunk,
    Episode,
    Executed,
    HumanCommand,
    Phase,
    Request,
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
        human_timeout_s: a human command older than this holds the arms.
        state_timeout_s: a robot state older than this holds the arms.
        request_retry_s: an unanswered request is sent again after this time.
    """

    stride: int = 2
    prefetch_steps: int = 0
    wait_for_chunk: bool = False
    human_timeout_s: float = 0.1
    state_timeout_s: float = 0.1
    request_retry_s: float = 1.0


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
    """

    def __init__(self, integrator: DeltaPoseIntegrator, config: ExecutorConfig, joints: int) -> None:
        self._integrator = integrator
        self._config = config
        self._joints = joints
        self._dim = integrator.action_dim
        self._episode: Episode | None = None
        self._chunk: Chunk | None = None
        self._request: Request | None = None
        self._request_sent_s = 0.0
        self._human: HumanCommand | None = None
        self._hold_target: np.ndarray | None = None
        self._stopped_episode = 0
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

    def set_episode(self, episode: Episode) -> None:
        """Take over a new episode state; a new episode or epoch flushes the chunk in play.

        An older episode, or an older epoch of the current one, is ignored. An episode that was already moving when
        this executor started is not continued: the emergency stop is latched until the operator resets it.
        """
        current = self._episode
        if current is None and episode.phase in MOVING:
            self._episode = episode
            self.estop(f"the executor was started in the middle of episode {episode.episode_id}: discard it")
            return
        if current is not None and (episode.episode_id, episode.epoch) < (current.episode_id, current.epoch):
            return
        if current is None or episode.episode_id != current.episode_id:
            self.step = 0
        if current is None or (episode.episode_id, episode.epoch) != (current.episode_id, current.epoch):
            self._chunk = None
            self._request = None
            self._human = None
            self.step_limit_reached = False
        if episode.phase not in MOVING:
            self.hold_reason = f"phase {episode.phase.name}"
            self.source = Source.HOLD
        self._episode = episode

    def offer_chunk(self, chunk: Chunk) -> str:
        """Take a chunk. Returns "" when it is accepted, else the reason for refusing it (also counted)."""
        reason = self._refusal(chunk)
        if reason:
            self.counters.dropped_chunks += 1
            self.last_refusal = reason
            return reason
        self._chunk = chunk
        self._request = None
        return ""

    def offer_human(self, command: HumanCommand) -> str:
        """Take a human command. Returns "" or the reason for refusing it."""
        action = np.asarray(command.action, dtype=np.float64)
        if command.enabled and (action.shape != (self._dim,) or not np.isfinite(action).all()):
            self.last_refusal = f"human command of shape {action.shape}, or not finite"
            self._human = None
            return self.last_refusal
        self._human = replace(command, action=action)
        return ""

    def estop(self, reason: str, state: RobotState | None = None) -> None:
        """Latch the emergency stop; the arms hold where they are measured to be."""
        if self.estop_reason:
            return
        self.estop_reason = reason or "no reason given"
        self._chunk = None
        self._request = None
        self._stopped_episode = self._episode.episode_id if self._episode else 0
        self._hold_target = None if state is None or self._integrator.implausible(state.q) else self._here(state)
        self.source = Source.HOLD
        self.hold_reason = f"emergency stop: {self.estop_reason}"

    def reset_estop(self) -> None:
        """Release the latch. The stopped episode never moves again; a new one must be started."""
        self.estop_reason = ""
        self.hold_reason = "emergency stop was reset: start a new episode"

    def tick(self, state: RobotState | None, now_s: float, state_age_s: float = 0.0) -> Tick:
        """One control period.

        Args:
            state: newest measured joints, or None before the first.
            now_s: monotonic time, s, on the clock of HumanCommand.received_s.
            state_age_s: s since `state` arrived; judged only when not in lockstep.
        """
        self.counters.ticks += 1
        if state is None:
            self.hold_reason = "no joint states yet"
            return Tick()
        if state.q.shape != (self._joints,) or not np.isfinite(state.q).all():
            return self._hold("joint states of a wrong length or not finite")
        if fault := self._integrator.implausible(state.q):
            return self._hold(fault)
        if not self._config.wait_for_chunk and state_age_s > self._config.state_timeout_s:
            return self._hold(f"joint states are {state_age_s * 1e3:.0f} ms old")
        if self.estop_reason:
            if self._hold_target is None:
                self._hold_target = self._here(state)
            return Tick(joint_target=self._hold_target.copy())
        episode = self._episode
        if episode is None or episode.phase not in MOVING or episode.episode_id == self._stopped_episode:
            return self._still(state)
        if self._limit_reached(episode):
            self.step_limit_reached = True
            self.hold_reason = f"time-out of {episode.phase.name}"
            return Tick() if self._config.wait_for_chunk else self._still(state)
        if self._hold_target is not None or self.step == 0:
            self._integrator.reset(state.q)
            self._hold_target = None
        if episode.human_in_control:
            return self._human_step(state, now_s)
        return self._chunk_step(state, now_s)

    def _chunk_step(self, state: RobotState, now_s: float) -> Tick:
        request = self._next_request(state, now_s)
        row = self._row()
        if row is not None:
            chunk = self._chunk
            executed = self._execute(
                state, chunk.source, chunk.actions[row], chunk.reference[row], chunk=chunk, row=row
            )
            return replace(executed, request=request)
        if self._config.wait_for_chunk and self.step % self._config.stride == 0:
            self.hold_reason = "waiting for a chunk"
            return Tick(request=request)
        return replace(self._hold_step(state, "no chunk row for this step"), request=request)

    def _human_step(self, state: RobotState, now_s: float) -> Tick:
        human = self._human
        if human is None or not human.enabled:
            return self._hold_step(state, "the operator has taken over and holds no enable button")
        if now_s - human.received_s > self._config.human_timeout_s:
            return self._hold_step(state, "the operator's commands stopped")
        tick = self._execute(state, Source.HUMAN, human.action, human.action)
        applied = tick.executed.action
        return replace(tick, executed=replace(tick.executed, reference=applied))

    def _hold_step(self, state: RobotState, reason: str) -> Tick:
        zeros = np.zeros(self._dim)
        tick = self._execute(state, Source.HOLD, zeros, zeros)
        self.hold_reason = reason
        self.counters.held += 1
        return tick

    def _execute(
        self,
        state: RobotState,
        source: Source,
        action: np.ndarray,
        reference: np.ndarray,
        chunk: Chunk | None = None,
        row: int = -1,
    ) -> Tick:
        result = self._integrator.step(action, state.q)
        episode = self._episode
        executed = Executed(
            stamp_ns=state.stamp_ns,
            episode_id=episode.episode_id,
            epoch=episode.epoch,
            step=self.step,
            phase=episode.phase,
            source=source,
            action=result.applied,
            commanded=np.asarray(action, dtype=np.float64),
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
        self.source = source
        self.hold_reason = ""
        self.counters.clamped += int(result.clamped.any())
        return Tick(executed=executed, joint_target=result.joint_targets)

    def _still(self, state: RobotState) -> Tick:
        """Outside an episode: on a robot repeat the pose the arms had when motion ended; in lockstep send nothing."""
        if self._config.wait_for_chunk:
            return Tick()
        if self._hold_target is None:
            self._hold_target = self._here(state)
        return Tick(joint_target=self._hold_target.copy())

    def _here(self, state: RobotState) -> np.ndarray:
        """Joint targets (n,) that keep the arms where they are measured, within the joints' range."""
        return self._integrator.within_range(state.q)

    def _hold(self, reason: str) -> Tick:
        """Without a usable robot state nothing new is sent: the driver keeps its last target."""
        self.hold_reason = reason
        self.source = Source.HOLD
        self.counters.held += 1
        return Tick()

    def _row(self) -> int | None:
        if self._chunk is None:
            return None
        row = self.step - self._chunk.first_step
        return row if 0 <= row < len(self._chunk.actions) else None

    def _next_request(self, state: RobotState, now_s: float) -> Request | None:
        config, episode = self._config, self._episode
        if self._request is not None:
            if now_s - self._request_sent_s < config.request_retry_s:
                return None
            self._request_sent_s = now_s
            return self._request
        end = self._chunk.first_step + len(self._chunk.actions) if self._chunk else self.step
        first = max(end, self.step + config.prefetch_steps)
        boundary = first - config.prefetch_steps
        if self.step < boundary or self.step % config.stride:
            return None
        self._request_sent_s = now_s
        self._request = Request(
            episode_id=episode.episode_id,
            epoch=episode.epoch,
            # Unique within a run even when the executor was restarted in the middle of an episode.
            request_id=((episode.episode_id & 0xFFFFFF) << 40)
            | ((episode.epoch & 0xFFFF) << 24)
            | (self.step & 0xFFFFFF),
            not_before_ns=state.stamp_ns,
            boundary_step=self.step,
            first_step=self.step + config.prefetch_steps,
            rows=episode.rows,
        )
        return self._request

    def _refusal(self, chunk: Chunk) -> str:
        episode = self._episode
        if episode is None or chunk.episode_id != episode.episode_id:
            return f"chunk of episode {chunk.episode_id}, current is {episode.episode_id if episode else 'none'}"
        if chunk.epoch != episode.epoch:
            return f"chunk of epoch {chunk.epoch}, current is {episode.epoch}"
        shape = chunk.actions.shape
        if len(shape) != 2 or shape[1] != self._dim or shape[0] == 0 or chunk.reference.shape != shape:
            return f"chunk of shape {shape} with reference {chunk.reference.shape}, expected (rows, {self._dim})"
        if not (np.isfinite(chunk.actions).all() and np.isfinite(chunk.reference).all()):
            return "chunk holds a value that is not finite"
        if chunk.source not in (Source.VLA, Source.RL):
            return f"chunk names source {chunk.source}"
        if chunk.first_step + shape[0] <= self.step:
            return f"chunk ends at step {chunk.first_step + shape[0]}, the robot is at {self.step}"
        return ""

    def _limit_reached(self, episode: Episode) -> bool:
        if episode.phase == Phase.BASE:
            return self.step >= episode.max_base_steps
        return self.step - episode.handoff_step >= episode.max_critical_steps
