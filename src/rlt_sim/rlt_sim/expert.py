"""A scripted tele-operator: slow, hesitant and imprecise like a person, yet it nearly always gets there.

It looks at the privileged task state (a person looks at the work piece), misjudges it by a bias, trembles,
pauses at random and before each phase, probes the mouth, and retreats to look again when the tool gets stuck.

    travel -> approach -> align -> push -> finish
                            ^        |       |
                            +--- retreat <---+

What is the same for every task is here; a scene's expert says how its tool is pushed in and what finishes the task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol

import numpy as np

from rlt_common.kinematics import Pose
from rlt_sim.arms import HOME_POSITIONS
from rlt_sim.task_scene import TaskState


class Phase(Enum):
    """What the operator is doing."""

    TRAVEL = "travel"
    APPROACH = "approach"
    ALIGN = "align"
    PUSH = "push"
    RETREAT = "retreat"
    FINISH = "finish"


class Sight(Protocol):
    """What the operator sees: a cell, or what was told of one."""

    def task_state(self) -> TaskState:
        """Where the tool is against the opening."""

    def mouth_pose(self) -> Pose:
        """Of the opening, in the world."""

    def tool_poses(self) -> list[Pose]:
        """Of the measured joints, left then right."""


@dataclass(frozen=True)
class Temperament:
    """How the operator moves. Each episode draws its own speed from 0.7 to 1.3 times these.

    Attributes:
        travel_speed: in free space, m per step.
        speed: near the work piece, m per step.
        turn_speed: rad per step, of a tool that must be turned.
        misjudgement: standard deviation of the bias in the perceived tip position, per axis, m.
        angle_misjudgement: the same for the perceived roll and tilt, rad.
        tremor: standard deviation of a slow tremor, m per step; its rotation is 10 rad/m times this.
        hesitation: chance per step to pause.
        patience: factor on the length of every pause.
        max_probes: up to this many times the operator touches the mouth and backs off before inserting.
        gain: fraction of the remaining distance a step covers, before the speed limit.
        rotation_gain, rotation_speed: the same for angles, and their limit per axis, rad per step.
    """

    travel_speed: float = 0.0009
    speed: float = 0.00053
    turn_speed: float = 0.011
    misjudgement: float = 0.0004
    angle_misjudgement: float = 0.02
    tremor: float = 0.00004
    hesitation: float = 0.016
    patience: float = 1.3
    max_probes: int = 1
    gain: float = 0.12
    rotation_gain: float = 0.06
    rotation_speed: float = 0.008


BRISK = Temperament(
    travel_speed=0.0022,
    speed=0.0012,
    turn_speed=0.02,
    misjudgement=0.0,
    angle_misjudgement=0.0,
    tremor=0.0,
    hesitation=0.0,
    patience=0.0,
    max_probes=0,
    gain=0.2,
    rotation_gain=0.15,
    rotation_speed=0.015,
)
"""A sure hand: shows how fast the physics let a task be done."""


class Expert(ABC):
    """One episode of the scripted tele-operator on a cell that was just reset.

    Args:
        sight: the plant, or what is told of it.
        rng: source of everything human about it.
        temperament: how it moves; the task's `temperament` when None.
    """

    temperament: ClassVar[Temperament] = Temperament()
    approach_at: ClassVar[float] = 0.012
    align_at: ClassVar[float] = 0.004
    retreat_at: ClassVar[float] = 0.007
    """Distances from the mouth along its axis, m."""
    roll_tolerance: ClassVar[float] = 0.06
    """Largest seen roll error with which the operator pushes, rad."""
    turns_tool: ClassVar[bool] = False
    """In the last phase the tool is turned about its axis rather than kept at the opening's angle."""

    def __init__(self, sight: Sight, rng: np.random.Generator, temperament: Temperament | None = None) -> None:
        self._sight = sight
        self._rng = rng
        self._t = temperament or self.temperament
        pace = rng.uniform(0.7, 1.3)
        self._travel_speed, self._speed = self._t.travel_speed * pace, self._t.speed * pace
        self._turn_speed = self._t.turn_speed * rng.uniform(0.7, 1.3)
        self._probes = int(rng.integers(0, self._t.max_probes + 1))
        self._tremble = np.zeros(12)
        self._wait = 0
        self._stuck = 0
        self._retreating = 0
        self._last_depth = 0.0
        self.phase = Phase.TRAVEL
        self._misjudge(1.0)

    def act(self) -> np.ndarray:
        """The next action (14,), a change of the commanded tool poses: m, rad, m per arm."""
        state = self._sight.task_state()
        _, frame = self._sight.mouth_pose()
        seen = state.tip_error_m + self._bias
        angles = np.array([-state.roll_error_rad, *-state.tilt_rad]) + self._angle_bias
        if self._wait == 0 and self._rng.random() < self._t.hesitation:
            self._pause(6, 25)
        turn = 0.0
        if self._wait > 0:
            self._wait -= 1
            move, limit = np.zeros(3), self._speed
        else:
            move, limit, turn = self._move(state, seen)
        velocity = self._t.gain * move
        size = float(np.linalg.norm(velocity))
        if size > limit:
            velocity *= limit / size
        if self._wait > 0:
            angles = np.zeros(3)
        rotation = np.clip(self._t.rotation_gain * angles, -self._t.rotation_speed, self._t.rotation_speed)
        if self.turns_tool and self.phase is Phase.FINISH:
            rotation[0] = -turn
        action = np.zeros(14)
        action[7:10] = frame @ velocity
        action[10:13] = frame @ rotation
        action[:6] = self.left_action(frame @ velocity)
        self._tremble = 0.9 * self._tremble + 0.1 * self._rng.normal(0.0, 1.0, 12)
        scale = self._t.tremor / 0.23 * np.array([1, 1, 1, 10, 10, 10])  # 0.23: spread of the smoothed noise
        action[:6] += 0.5 * scale * self._tremble[:6]
        action[7:13] += scale * self._tremble[6:]
        return action

    def left_action(self, right_velocity: np.ndarray) -> np.ndarray:
        """What the left hand does (6,), m and rad; `right_velocity` (3,) is the right hand's. Here: it goes home."""
        left = self._sight.tool_poses()[0][0]
        home = np.clip(0.03 * (np.array(HOME_POSITIONS["left"]) - left), -0.0006, 0.0006)
        return np.concatenate([home, np.zeros(3)])

    @abstractmethod
    def push(self, state: TaskState, seen: np.ndarray) -> np.ndarray:
        """Wanted motion (3,) m in the mouth's frame while the tool is being pushed in; may change phase."""

    @abstractmethod
    def finish(self, state: TaskState, seen: np.ndarray) -> tuple[np.ndarray, float]:
        """Wanted motion (3,) m in the mouth's frame and turn (rad) once the tool is in; may change phase."""

    def retreat(self, seen: np.ndarray) -> np.ndarray:
        """Wanted motion (3,) m in the mouth's frame while the operator backs off."""
        return np.array([self.retreat_at, 0.0, 0.0]) - seen

    def aligned(self, state: TaskState, seen: np.ndarray) -> bool:
        """Whether the operator thinks that the tool would go in; `seen` is the tip's position as it sees it."""
        centred = np.abs(seen[1:]).max() < 0.0007
        return bool(centred and abs(state.roll_error_rad) < self.roll_tolerance + abs(self._angle_bias[0]))

    def _move(self, state: TaskState, seen: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Wanted motion in the mouth's frame (m), its limit (m per step), and the turn (rad); may change phase."""
        if self.phase is Phase.TRAVEL:
            if state.hand_off_ready:
                self.phase = Phase.APPROACH
            return np.array([self.approach_at, 0.0, 0.0]) - seen, self._travel_speed, 0.0
        if self.phase is Phase.APPROACH:
            move = np.array([self.approach_at, 0.0, 0.0]) - seen
            if np.linalg.norm(move) < 0.002:
                self.phase = Phase.ALIGN
                self._bias *= 0.5
                self._pause(10, 30)
            return move, self._speed, 0.0
        if self.phase is Phase.ALIGN:
            return self._align(state, seen), self._speed, 0.0
        if self.phase is Phase.PUSH:
            return self.push(state, seen), self._speed, 0.0
        if self.phase is Phase.RETREAT:
            move = self.retreat(seen)
            self._retreating += 1
            if np.linalg.norm(move) < 0.002 or self._retreating > 60:
                self.phase = Phase.ALIGN
                self._pause(5, 20)
            return move, self._speed, 0.0
        move, turn = self.finish(state, seen)
        return move, self._speed, turn

    def _align(self, state: TaskState, seen: np.ndarray) -> np.ndarray:
        move = np.array([self.align_at, 0.0, 0.0]) - seen
        move[0] *= 0.6
        if abs(move[0]) < 0.001 and self.aligned(state, seen):
            self.phase = Phase.PUSH
            self._pause(8, 25)
            self._stuck, self._last_depth = 0, seen[0]
        return move

    def _note_progress(self, depth: float) -> None:
        """Count the steps without progress; `depth` is the tip's position along the axis, m."""
        self._stuck = self._stuck + 1 if abs(depth - self._last_depth) < 0.0002 else 0
        self._last_depth = depth

    def _back_off(self) -> None:
        self.phase = Phase.RETREAT
        self._probes -= 1
        self._retreating = 0
        self._misjudge(0.6)
        self._pause(5, 15)

    def _misjudge(self, factor: float) -> None:
        self._bias = self._rng.normal(0.0, self._t.misjudgement, 3) * factor
        self._angle_bias = self._rng.normal(0.0, self._t.angle_misjudgement, 3) * factor

    def _pause(self, low: int, high: int) -> None:
        self._wait = int(self._rng.integers(low, high) * self._t.patience)


class InsertionExpert(Expert):
    """Pushes a tool in and, once it is well inside, home."""

    engaged_depth: ClassVar[float] = 0.006
    """Depth from which the tool cannot slip out of the mouth, m: from here on the operator pushes firmly."""
    tilt_tolerance: ClassVar[float] = 0.05
    """Largest tilt with which the operator pushes, rad."""
    patient_steps: ClassVar[int] = 60
    """Steps without progress after which the operator gives up a firm push and looks again."""

    def retreat(self, seen: np.ndarray) -> np.ndarray:
        """See Expert; straight out first."""
        move = super().retreat(seen)
        return move if seen[0] > 0.002 else np.array([move[0], 0.0, 0.0])

    def aligned(self, state: TaskState, seen: np.ndarray) -> bool:
        """See Expert; the tool's axis must fit too."""
        biased = self.tilt_tolerance + np.abs(self._angle_bias[1:]).max()
        return super().aligned(state, seen) and bool(np.abs(state.tilt_rad).max() < biased)

    def push(self, state: TaskState, seen: np.ndarray) -> np.ndarray:
        """See Expert."""
        depth = state.tip_error_m[0]
        self._note_progress(depth)
        if depth < -self.engaged_depth and not self._beside(state):
            self.phase = Phase.FINISH
            self._stuck = 0
            self._pause(8, 25)
        elif self._stuck > 8 or self._beside(state) or (self._probes > 0 and seen[0] < 0.001):
            self._back_off()
        return np.array([-0.008, -0.5 * seen[1], -0.5 * seen[2]])

    def finish(self, state: TaskState, seen: np.ndarray) -> tuple[np.ndarray, float]:
        """See Expert: push on, and look again when nothing moves for long."""
        self._note_progress(state.tip_error_m[0])
        if self._stuck > self.patient_steps or self._beside(state) or state.tip_error_m[0] > -0.002:
            self._back_off()
        return np.array([-0.008, -0.3 * seen[1], -0.3 * seen[2]]), 0.0

    @staticmethod
    def _beside(state: TaskState) -> bool:
        """The tip is past the mouth, but not through it."""
        return bool(state.tip_error_m[0] < -0.002 and state.progress == 0.0)
