"""A tiny robot, task and VLA, and episodes of made-up motion, for every test of this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rclpy
import torch
from rclpy.serialization import serialize_message
from safetensors.numpy import save_file

from rlt_common import topics
from rlt_common.codecs import ObservationData, floats, observation_to_msg, to_time
from rlt_common.config import RobotConfig, TaskConfig, load_robot, load_task
from rlt_common.episode_file import EpisodeWriter
from rlt_msgs.msg import EpisodeState, ExecutedAction, SimulationState
from rlt_vla_node.builtin import BuiltinConfig, BuiltinVla, build_vla
from rlt_vla_node.rl_token import RlToken, RlTokenConfig, build_rl_token

PERIOD_NS = 20_000_000
SIDES = ("left", "right")
LINKS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
AXES = ("0 0 1", "0 1 0", "0 1 0", "1 0 0", "0 1 0", "1 0 0")


def _arm_xml(side: str, y: float) -> str:
    opened = ""
    for link, axis in zip(LINKS, AXES, strict=True):
        opened += (
            f'<body pos="0.1 0 0.05"><joint name="{side}_{link}" axis="{axis}" range="-3 3"/>'
            '<geom type="sphere" size="0.01"/>'
        )
    finger = f'<body><joint name="{side}_gripper" type="slide" axis="0 1 0" range="0 0.05"/><geom size="0.01"/></body>'
    tip = f'<site name="{side}_tip" pos="0.05 0 0"/>'
    return f'<body name="{side}_base" pos="0 {y} 0" euler="0 0 20">{opened}{tip}{finger}{"</body>" * len(LINKS)}</body>'


@dataclass(frozen=True)
class Cell:
    """Files and configuration of the tiny robot and task."""

    robot_path: Path
    task_path: Path
    robot: RobotConfig
    task: TaskConfig


@pytest.fixture(scope="session")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """Two arms of seven joints, two cameras of 16 x 16 pixels, horizon 10."""
    folder = tmp_path_factory.mktemp("cell")
    bodies = "".join(_arm_xml(side, y) for side, y in zip(SIDES, (0.3, -0.3), strict=True))
    (folder / "arms.xml").write_text(f"<mujoco><worldbody>{bodies}</worldbody></mujoco>")
    joints = [f"{side}_{joint}" for side in SIDES for joint in (*LINKS, "gripper")]
    arms = "".join(
        f"  - {{name: {side}, joints: [{', '.join(f'{side}_{link}' for link in LINKS)}], gripper: {side}_gripper, "
        f"tip: {side}_tip, home_position: [0.5, {y}, 0.3], home_rotation: [0, 0, 0.1], "
        "workspace_min: [-2, -2, -2], workspace_max: [2, 2, 2]}\n"
        for side, y in zip(SIDES, (0.3, -0.3), strict=True)
    )
    cameras = "".join(
        f"  - {{name: {name}, topic: {name}/image_raw, width: 16, height: 16, encoding: png}}\n"
        for name in ("base", "wrist")
    )
    robot_path, task_path = folder / "robot.yaml", folder / "task.yaml"
    robot_path.write_text(
        f"name: tiny\njoint_names: [{', '.join(joints)}]\narms:\n{arms}cameras:\n{cameras}kinematics: arms.xml\n"
        "drivers: [{type: joint_positions, topic: commands}]\ntick: joint_states\ncamera_tolerance_s: 0.0\n"
    )
    task_path.write_text(
        "name: tiny_task\ninstruction: move\nvla_state: [ee_pose, joint_effort]\n"
        "rl_state: [ee_pose, joint_velocity, joint_effort]\nmax_base_steps: 100\nmax_critical_steps: 100\nhorizon: 10\n"
    )
    return Cell(robot_path, task_path, load_robot(robot_path), load_task(task_path))


@pytest.fixture
def vla(cell: Cell) -> BuiltinVla:
    """A small random VLA for the tiny robot, with statistics that are not all ones."""
    model = build_vla(
        BuiltinConfig(
            cameras=("base", "wrist"),
            image_height=16,
            image_width=16,
            state_dim=26,
            action_dim=14,
            control_hz=50.0,
            horizon=10,
            width=16,
            heads=2,
            camera_tokens=2,
            stem_channels=(4, 4),
        ),
        seed=0,
    )
    model.action_spread.copy_(torch.linspace(1e-4, 1e-2, 14))
    model.state_std.fill_(0.1)
    return model.eval()


@pytest.fixture
def rl_token() -> RlToken:
    """A small random RL token for that VLA."""
    return build_rl_token(RlTokenConfig(embed_dim=16, max_tokens=5, token_dim=8, heads=2), seed=1).eval()


@pytest.fixture
def observation(cell: Cell) -> Callable[[int, int], ObservationData]:
    """A made-up observation of a seed with the given stamp in ns."""

    def make(seed: int, stamp_ns: int) -> ObservationData:
        rng = np.random.default_rng(seed)
        return ObservationData(
            observation_id=stamp_ns,
            stamp_ns=stamp_ns,
            camera_names=("base", "wrist"),
            images=rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8),
            blocks={
                name: rng.normal(0.0, 0.1, size).astype(np.float32) for name, size in cell.robot.block_sizes.items()
            },
        )

    return make


@pytest.fixture
def write_episode(cell: Cell, observation) -> Callable[..., np.ndarray]:
    """Writes an episode file of `steps` control steps with an observation every second one; returns its actions.

    `handoff_step`: first step of the critical phase. `visible`: from then on the images are bright, before it dark, and
    the proprioception is nearly at rest. In the steps `repositioning` the human repositions the arms, in
    the steps `dry_run` nothing is sent to them.
    """

    def write(
        path: Path,
        seed: int,
        steps: int = 20,
        label: str = "success",
        targets: bool = True,
        handoff_step: int = 4,
        visible: bool = False,
        purpose: str = "collect",
        repositioning: range = range(0),
        dry_run: range = range(0),
    ) -> np.ndarray:
        rng = np.random.default_rng(seed)
        actions = rng.normal(0.0, 0.001, (steps, 14)).astype(np.float32)
        writer = EpisodeWriter(path)
        for step in range(steps):
            stamp = seed * 1_000_000_000_000 + step * PERIOD_NS
            if step % 2 == 0:
                seen = observation(seed * 1000 + step, stamp)
                if visible:
                    seen.images[:] = 220 if step >= handoff_step else 30
                    for block in seen.blocks.values():
                        block *= 0.1
                message = observation_to_msg(seen, ["png", "png"], [0.0, 0.0])
                writer.write(topics.OBSERVATION, "rlt_msgs/msg/Observation", serialize_message(message), stamp)
                if targets:
                    state = SimulationState(step=step, task_error=floats(rng.normal(0.0, 0.01, 6)))
                    state.header.stamp = to_time(stamp)
                    writer.write(
                        topics.SIMULATION_STATE, "rlt_msgs/msg/SimulationState", serialize_message(state), stamp
                    )
            executed = ExecutedAction(
                episode_id=seed,
                step=step,
                phase=EpisodeState.PHASE_BASE if step < handoff_step else EpisodeState.PHASE_CRITICAL,
                source=ExecutedAction.SOURCE_HUMAN,
                action=floats(actions[step]),
                repositioning=step in repositioning,
                dry_run=step in dry_run,
            )
            executed.header.stamp = to_time(stamp)
            writer.write(topics.EXECUTED_ACTION, "rlt_msgs/msg/ExecutedAction", serialize_message(executed), stamp)
        facts = {"task": "tiny_task", "label": label, "episode_id": seed, "purpose": purpose}
        writer.finish({**facts, "handoff_step": handoff_step, "steps": steps})
        return actions

    return write


@pytest.fixture
def pose_images(tmp_path: Path) -> Path:
    """A file of made-up pre-training images for the tiny robot."""
    rng = np.random.default_rng(5)
    path = tmp_path / "poses.safetensors"
    save_file(
        {
            "images": rng.integers(0, 256, (12, 2, 16, 16, 3), dtype=np.uint8),
            "vla_state": rng.normal(0.0, 0.1, (12, 26)).astype(np.float32),
            "target": rng.normal(0.0, 0.01, (12, 6)).astype(np.float32),
        },
        path,
    )
    return path


@pytest.fixture
def start(cell):
    """Starts rclpy with parameters for the node under test (None: without); ends it after the test."""

    def begin(**parameters):
        values = {"robot": cell.robot_path, "task": cell.task_path, **parameters}
        arguments = [
            argument for name, value in values.items() if value is not None for argument in ("-p", f"{name}:={value}")
        ]
        rclpy.init(args=["--ros-args", *arguments])

    yield begin
    rclpy.try_shutdown()
