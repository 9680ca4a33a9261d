"""The VLA files that come with the suite: each fits its robot, and says of ALOHA what ALOHA's own code says."""

from pathlib import Path

import numpy as np
import pytest

from rlt_common.config import load_robot, load_task
from rlt_common.parameters import from_mapping
from rlt_common.vla_config import load_vla
from rlt_vla_node.backend import BackendSpec
from rlt_vla_node.backends import find_backend
from rlt_vla_node.layout import FileLayout
from rlt_vla_node.lerobot_backend import LeRobotOptions

CONFIG = Path(__file__).resolve().parents[1] / "config"
FILES = sorted((CONFIG / "vlas").glob("*_aloha.yaml"))
LEROBOT = [path for path in FILES if load_vla(path).backend == "lerobot"]
CLOSED, OPEN = 0.01844, 0.05800  # m, where ALOHA's code has the follower's finger


@pytest.fixture(scope="module")
def robot():
    return load_robot(CONFIG / "robots" / "aloha.yaml")


@pytest.fixture(scope="module")
def task():
    return load_task(CONFIG / "tasks" / "screw.yaml")


def spec_of(config):
    """Of a policy fine-tuned on a data set of ALOHA: 14 numbers, chunks of 50 rows."""
    return BackendSpec(
        name=config.backend,
        embed_dim=960,
        max_tokens=256,
        horizon=50,
        action_dim=14,
        state_dim=14,
        control_hz=config.control_hz,
        camera_keys=config.seen_cameras,
        image_shape=None,
        noise_dim=32,
        fingerprint="0" * 16,
    )


def test_the_files_for_lerobots_policies_are_there():
    assert {path.name for path in LEROBOT} == {"smolvla_aloha.yaml", "act_aloha.yaml", "pi05_aloha.yaml"}


@pytest.mark.parametrize("path", LEROBOT, ids=lambda path: path.stem)
def test_a_file_loads_and_fits_aloha(path, robot, task):
    config = load_vla(path)
    find_backend(config.backend)
    from_mapping(LeRobotOptions, config.options, str(path))
    FileLayout(config).fitted(robot, task, spec_of(config))


@pytest.mark.parametrize("path", LEROBOT, ids=lambda path: path.stem)
def test_its_numbers_are_alohas(path, robot, task):
    config = load_vla(path)
    chunks = FileLayout(config).fitted(robot, task, spec_of(config)).chunks
    joints = {name: i for i, name in enumerate(robot.joint_names)}
    q = np.linspace(-0.5, 0.5, len(joints))
    q[joints["left_gripper"]], q[joints["right_gripper"]] = CLOSED, OPEN
    state = chunks.state_vector({"joint_position": q})
    np.testing.assert_allclose(state[[6, 13]], [0.0, 1.0], atol=1e-4)
    np.testing.assert_allclose(state[:6], q[[joints[name] for name in robot.arms[0].joints]], atol=1e-6)
    # Rows that say where the arms are move nothing; opened fully, the closed gripper goes all its way.
    rows = np.repeat(state[None], 50, axis=0)
    np.testing.assert_allclose(chunks.to_actions(rows, q, task.horizon), 0.0, atol=1e-5)
    rows[:, 6] = 1.0
    assert chunks.to_actions(rows, q, task.horizon)[:, 6].sum() == pytest.approx(OPEN - CLOSED, abs=1e-5)
