"""Demonstrations and random-pose images from the cell, in process: plain numpy records, no ROS.

The random-pose images stand for the pre-training that a large VLA brings along; their labels (relative pose of bit and
recess) are free in a simulator and serve as an auxiliary target while the built-in VLA is trained, nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rlt_common.kinematics import Pose
from rlt_common.rotations import rotation_matrix, rotation_vector
from rlt_control.delta_pose import DeltaPoseIntegrator
from rlt_sim.cell import Cell, TaskState, make_kinematics, make_limits
from rlt_sim.expert import Expert, Temperament
from rlt_sim.scene import ARMS, GRIPPER_JOINTS, HOME_POSITIONS, HOME_ROTATIONS, RIGHT_FACING


def make_integrator() -> DeltaPoseIntegrator:
    """The integrator of the cell's two arms: what the chunk executor uses on the same robot."""
    return DeltaPoseIntegrator(make_kinematics(), GRIPPER_JOINTS, make_limits())


def tool_pose_block(poses: list[Pose]) -> np.ndarray:
    """Tool poses relative to home, (12,): per arm [x y z (m), rotation vector (rad)], world frame."""
    parts = []
    for arm, (position, rotation) in zip(ARMS, poses, strict=True):
        parts += [position - np.array(HOME_POSITIONS[arm]), rotation_vector(rotation @ HOME_ROTATIONS[arm].T)]
    return np.concatenate(parts)


def pose_label(state: TaskState) -> np.ndarray:
    """Relative pose of bit and recess, (6,): tip error x y z (m), roll error, tilt about y and z (rad)."""
    return np.concatenate([state.tip_error_m, [state.roll_error_rad], state.tilt_rad])


@dataclass(frozen=True)
class Sample:
    """Images and joints at one instant, with the privileged label used for pre-training only.

    Attributes:
        images: (3, size, size, 3) uint8.
        position, velocity, effort: (14,) float32 joint state, rad or m, per s, N m or N.
        tool_pose: (12,) float32, see tool_pose_block.
        label: (6,) float32, see pose_label.
    """

    images: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    effort: np.ndarray
    tool_pose: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Demonstration:
    """One episode of the expert.

    Attributes:
        seed: of the reset.
        samples: one every `stride` steps, the first at step 0.
        stride: control steps between samples.
        actions: (T, 14) float32, applied after limits.
        hand_off_step: step at which the critical phase began (T when it never did).
        success: the screw was turned in time.
    """

    seed: int
    samples: tuple[Sample, ...]
    stride: int
    actions: np.ndarray
    hand_off_step: int
    success: bool


def observe(cell: Cell) -> Sample:
    """The cell as it is now."""
    position, velocity, effort = cell.joint_state()
    return Sample(
        images=cell.images(),
        position=position.astype(np.float32),
        velocity=velocity.astype(np.float32),
        effort=effort.astype(np.float32),
        tool_pose=tool_pose_block(cell.tool_poses()).astype(np.float32),
        label=pose_label(cell.task_state()).astype(np.float32),
    )


def demonstrate(
    cell: Cell,
    seed: int,
    stride: int = 4,
    max_steps: int = 1000,
    start_in: str = "full",
    temperament: Temperament | None = None,
) -> Demonstration:
    """Run the expert once on the reset `seed`; stride 0 takes no images."""
    cell.reset(seed, start_in)
    expert = Expert(cell, np.random.default_rng([seed, 1]), temperament)
    integrator = make_integrator()
    integrator.reset(cell.joint_state()[0])
    samples: list[Sample] = []
    actions: list[np.ndarray] = []
    hand_off = None
    success = False
    for step in range(max_steps):
        if stride and step % stride == 0:
            samples.append(observe(cell))
        state = cell.task_state()
        if hand_off is None and state.hand_off_ready:
            hand_off = step
        result = integrator.step(expert.act(), cell.joint_state()[0])
        cell.apply(result.joint_targets)
        actions.append(result.applied.astype(np.float32))
        success = cell.task_state().success
        if success:
            break
    return Demonstration(
        seed=seed,
        samples=tuple(samples),
        stride=stride,
        actions=np.stack(actions),
        hand_off_step=len(actions) if hand_off is None else hand_off,
        success=success,
    )


def demonstrations(cell: Cell, count: int, first_seed: int, stride: int = 4) -> Iterator[Demonstration]:
    """Successful demonstrations from consecutive seeds, until there are `count`."""
    seed = first_seed
    while count > 0:
        demonstration = demonstrate(cell, seed, stride)
        seed += 1
        if demonstration.success:
            count -= 1
            yield demonstration


def random_poses(cell: Cell, count: int, seed: int) -> Iterator[Sample]:
    """Images at random poses of bit, screw and arms, without dynamics: half near the mouth, half along the approach."""
    rng = np.random.default_rng(seed)
    spec = cell.spec
    for index in range(count):
        cell.reset(int(rng.integers(2**31))) if index == 0 else cell.place_scene(rng)
        origin, frame = cell.mouth_pose()
        near = rng.random() < 0.5
        if near:
            spread = 0.002 if rng.random() < 0.5 else 0.005
            offset = np.array([rng.uniform(-spec.recess_depth, 0.02), *rng.normal(0.0, spread, 2)])
        else:
            offset = np.array([rng.uniform(0.005, 0.09), *rng.uniform(-0.022, 0.022, 2)])
        seated = offset[0] < 0.0
        roll = rng.uniform(-0.3, 0.3)
        tilt = rng.normal(0.0, 0.03 if near else 0.12, 2)
        if seated:
            offset[1:] = np.clip(offset[1:], -spec.clearance, spec.clearance)
            roll, tilt = rng.normal(0.0, 0.05), np.clip(tilt, -0.05, 0.05)
            cell.turn_screw(rng.uniform(-0.1, cell.options.turn_angle) if rng.random() < 0.7 else 0.0)
        rotation = frame @ rotation_matrix(np.array([0.0, *tilt]))
        rotation = rotation @ rotation_matrix(np.array([roll - cell.screw_angle(), 0.0, 0.0])) @ RIGHT_FACING
        tip = origin + frame @ offset - rotation @ cell.bit_offset()
        left = np.array(HOME_POSITIONS["left"]) + rng.uniform(-1.0, 1.0, 3) * 0.010
        left_rotation = rotation_matrix(np.array([0.0, 0.0, rng.uniform(-0.1, 0.1)])) @ HOME_ROTATIONS["left"]
        cell.place_arms([(left, left_rotation), (tip, rotation)], iterations=12)
        yield observe(cell)
