"""A scripted tele-operator: slow, hesitant and imprecise like a person, yet it nearly always gets there.

It looks at the privileged task state (a person looks at the work piece), misjudges it by a bias, trembles,
pauses at random and before each phase, probes the recess, and retreats to look again when the bit gets stuck.

    travel -> approach -> align -> push -> turn
                            ^        |       |
                            +--- retreat <---+
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from rlt_sim.cell import Cell, TaskState
from rlt_sim.scene import HOME_POSITIONS

_GAIN = 0.12
"""Fraction of the remaining distance a step covers, before the speed limit."""
_ROTATION_GAIN = 0.06
_ROTATION_STEP = 0.008
_APPROACH_AT, _ALIGN_AT, _RETREAT_AT = 0.012, 0.004, 0.007
"""Distances from the mouth along the screw's axis, m."""


class Phase(Enum):
    """What the operator is doing."""

    TRAVEL = "travel"
    APPROACH = "approach"
    ALIGN = "align"
    PUSH = "push"
    RETREAT = "retreat"
    TURN = "turn"


@dataclass(frozen=True)
class Temperament:
    """How the operator moves. Each episode draws its own speed from 0.7 to 1.3 times these.

    Attributes:
        travel_speed: in free space, m per step.
        speed: near the work piece, m per step.
        turn_speed: rad per step.
        misjudgement: standard deviation of the bias in the perceived tip position, per axis, m.
        angle_misjudgement: the same for the perceived roll and tilt, rad.
        tremor: standard deviation of a slow tremor, m per step; its rotation is 10 rad/m times this.
        hesitation: chance per step to pause.
        patience: factor on the length of every pause.
        max_probes: up to this many times the operator touches the mouth and backs off before inserting.
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


class Expert:
    """One episode of the scripted tele-operator on a cell that was just reset.

    Args:
        cell: the plant; read, never changed.
        rng: source of everything human about it.
        temperament: how it moves.
    """

    def __init__(self, cell: Cell, rng: np.random.Generator, temperament: Temperament | None = None) -> None:
        self._cell = cell
        self._rng = rng
        self._t = temperament or Temperament()
        pace = rng.uniform(0.7, 1.3)
        self._travel_speed, self._speed = self._t.travel_speed * pace, self._t.speed * pace
        self._turn_speed = self._t.turn_speed * rng.uniform(0.7, 1.3)
        self._probes = int(rng.integers(0, self._t.max_probes + 1))
        self._tremble = np.zeros(12)
        self._wait = 0
        self._stuck = 0
        self._retreating = 0
        self._last_depth = 0.0
        self._rests = [0.45, 2.0]
        self.phase = Phase.TRAVEL
        self._misjudge(1.0)

    def act(self) -> np.ndarray:
        """The next action (14,), a change of the commanded tool poses: m, rad, m per arm."""
        state = self._cell.task_state()
        _, frame = self._cell.mouth_pose()
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
        velocity = _GAIN * move
        size = float(np.linalg.norm(velocity))
        if size > limit:
            velocity *= limit / size
        if self._wait > 0:
            angles = np.zeros(3)
        rotation = np.clip(_ROTATION_GAIN * angles, -_ROTATION_STEP, _ROTATION_STEP)
        if self.phase is Phase.TURN:
            rotation[0] = -turn
        action = np.zeros(14)
        action[7:10] = frame @ velocity
        action[10:13] = frame @ rotation
        left = self._cell.tool_poses()[0][0]
        action[:3] = np.clip(0.03 * (np.array(HOME_POSITIONS["left"]) - left), -0.0006, 0.0006)
        self._tremble = 0.9 * self._tremble + 0.1 * self._rng.normal(0.0, 1.0, 12)
        scale = self._t.tremor / 0.23 * np.array([1, 1, 1, 10, 10, 10])  # 0.23: spread of the smoothed noise
        action[:6] += 0.5 * scale * self._tremble[:6]
        action[7:13] += scale * self._tremble[6:]
        return action

    def _move(self, state: TaskState, seen: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Wanted motion in the screw's frame (m), its limit (m per step), and the turn (rad); may change phase."""
        if self.phase is Phase.TRAVEL:
            if state.hand_off_ready:
                self.phase = Phase.APPROACH
            return np.array([_APPROACH_AT, 0.0, 0.0]) - seen, self._travel_speed, 0.0
        if self.phase is Phase.APPROACH:
            move = np.array([_APPROACH_AT, 0.0, 0.0]) - seen
            if np.linalg.norm(move) < 0.002:
                self.phase = Phase.ALIGN
                self._bias *= 0.5
                self._pause(10, 30)
            return move, self._speed, 0.0
        if self.phase is Phase.ALIGN:
            return self._align(state, seen), self._speed, 0.0
        if self.phase is Phase.PUSH:
            return self._push(state, seen), self._speed, 0.0
        if self.phase is Phase.RETREAT:
            move = np.array([_RETREAT_AT, 0.0, 0.0]) - seen
            self._retreating += 1
            if np.linalg.norm(move) < 0.002 or self._retreating > 60:
                self.phase = Phase.ALIGN
                self._pause(5, 20)
            return move, self._speed, 0.0
        return self._turn(state, seen)

    def _align(self, state: TaskState, seen: np.ndarray) -> np.ndarray:
        move = np.array([_ALIGN_AT, 0.0, 0.0]) - seen
        move[0] *= 0.6
        centred = np.abs(seen[1:]).max() < 0.0007 and abs(move[0]) < 0.001
        if centred and abs(state.roll_error_rad) < 0.06 + abs(self._angle_bias[0]):
            self.phase = Phase.PUSH
            self._pause(8, 25)
            self._stuck, self._last_depth = 0, seen[0]
        return move

    def _push(self, state: TaskState, seen: np.ndarray) -> np.ndarray:
        depth = state.tip_error_m[0]
        self._stuck = self._stuck + 1 if abs(depth - self._last_depth) < 0.0002 else 0
        self._last_depth = depth
        if depth < -0.0068:
            self.phase = Phase.TURN
            self._pause(8, 25)
        elif self._stuck > 8 or (self._probes > 0 and abs(seen[0]) < 0.001):
            self._back_off()
        return np.array([-0.008, -0.5 * seen[1], -0.5 * seen[2]])

    def _turn(self, state: TaskState, seen: np.ndarray) -> tuple[np.ndarray, float, float]:
        if state.tip_error_m[0] > -0.003:
            self._back_off()
            return np.zeros(3), self._speed, 0.0
        if state.turned_rad > self._rests[0]:  # a person stops to look, now and then
            self._rests.pop(0)
            self._pause(8, 25)
        floor = -self._cell.spec.recess_depth - 0.0005
        return np.array([floor - state.tip_error_m[0], -0.3 * seen[1], -0.3 * seen[2]]), self._speed, self._turn_speed

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
