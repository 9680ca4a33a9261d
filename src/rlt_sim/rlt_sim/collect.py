"""Demonstrations and random-pose images from the cell, in process: plain numpy records, no ROS.

The random-pose images stand for the pre-training that a large VLA brings along; their labels (relative pose of tool and
opening) are free in a simulator and serve as an auxiliary target while the built-in VLA is trained, nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rlt_common.kinematics import Pose
from rlt_common.rotations import rotation_vector
from rlt_sim.arms import ARMS, HOME_POSITIONS, HOME_ROTATIONS, make_integrator
from rlt_sim.cell import Cell
from rlt_sim.expert import Temperament


def tool_pose_block(poses: list[Pose]) -> np.ndarray:
    """Tool poses relative to home, (12,): per arm [x y z (m), rotation vector (rad)], world frame."""
    parts = []
    for arm, (position, rotation) in zip(ARMS, poses, strict=True):
        parts += [position - np.array(HOME_POSITIONS[arm]), rotation_vector(rotation @ HOME_ROTATIONS[arm].T)]
    return np.concatenate(parts)


@dataclass(frozen=True)
class Sample:
    """Images and joints at one instant, with the privileged label used for pre-training only.

    Attributes:
        images: (3, size, size, 3) uint8.
        position, velocity, effort: (14,) float32 joint state, rad or m, per s, N m or N.
        tool_pose: (12,) float32, see tool_pose_block.
        label: (6,) float32, see TaskState.label.
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
        joint_targets: (T, 14) float64, rad or m, sent to the arms.
        hand_off_step: step at which the critical phase began (T when it never did).
        success: the task was done in time.
    """

    seed: int
    samples: tuple[Sample, ...]
    stride: int
    actions: np.ndarray
    joint_targets: np.ndarray
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
        label=cell.task_state().label.astype(np.float32),
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
    expert = cell.scene.expert(cell, np.random.default_rng([seed, 1]), temperament)
    integrator = make_integrator()
    integrator.reset(cell.joint_state()[0])
    samples: list[Sample] = []
    actions: list[np.ndarray] = []
    targets: list[np.ndarray] = []
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
        targets.append(result.joint_targets.copy())
        success = cell.task_state().success
        if success:
            break
    return Demonstration(
        seed=seed,
        samples=tuple(samples),
        stride=stride,
        actions=np.stack(actions),
        joint_targets=np.stack(targets),
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
    """Images at random poses of scene and arms, without dynamics: half near the mouth, half along the approach."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        cell.reset(int(rng.integers(2**31))) if index == 0 else cell.place_scene(rng)
        cell.random_pose(rng)
        yield observe(cell)
