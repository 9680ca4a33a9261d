"""The delay of a camera, found again in rendered images of arms that a person's hand could have moved."""

from pathlib import Path

import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory

from rlt_common.config import load_robot, load_task
from rlt_sim.arms import ARMS
from rlt_sim.task_cell import make_cell
from rlt_vla_node.delay_calibration import CalibrationError, MotionRecording

CONFIG = Path(get_package_share_directory("rlt_bringup")) / "config"
ROBOT = load_robot(CONFIG / "robots" / "sim.yaml")
START_NS = 10_000_000_000
STEP_NS = 20_000_000
JOINTS_OF_ARM = 7
PHYSICS_STEP_S = 0.004
"""MuJoCo's cameras show where things were when the last physics step began; the joints are those after it."""


@pytest.fixture(scope="module")
def cell():
    return make_cell(ROBOT, load_task(CONFIG / "tasks" / "screw.yaml"))


def wiggle(cell, seed, arms, seconds=20.0):
    """Arms moved irregularly with stops: per control step the joints (14,), and every second one the images."""
    rng = np.random.default_rng(seed)
    cell.reset(seed, "full")
    home = cell.joint_state()[0]
    target, goal, until = home.copy(), home.copy(), 0.0
    for step in range(round(seconds / 0.02)):
        if step * 0.02 >= until:
            until = step * 0.02 + rng.uniform(0.2, 0.9)
            goal = target.copy()
            if rng.random() > 0.25:
                goal = home.copy()
                for arm in arms:
                    first = ARMS.index(arm) * JOINTS_OF_ARM
                    goal[first : first + 6] += rng.uniform(-0.08, 0.08, 6)
        target += 0.15 * (goal - target)
        cell.apply(target)
        images = cell.images() + rng.normal(0.0, 0.7, (3, 64, 64, 3)) if step % 2 == 0 else None
        yield cell.joint_state()[0], None if images is None else np.clip(images, 0, 255).astype(np.uint8)


def record(cell, seed, arms, camera, delay_s):
    """A recording of one camera whose stamps are `delay_s` later than the arms'."""
    recording = MotionRecording()
    for step, (joints, images) in enumerate(wiggle(cell, seed, arms)):
        stamp_ns = START_NS + step * STEP_NS
        recording.on_state(stamp_ns, joints)
        if images is not None:
            recording.on_image(stamp_ns + round(delay_s * 1e9), images[camera])
    return recording


@pytest.mark.parametrize(
    ("delay_s", "arms", "camera"),
    [(0.0, ("left", "right"), 0), (0.037, ("left",), 1), (0.103, ("left", "right"), 1), (0.213, ("right",), 2)],
)
def test_a_delay_between_frames_is_found_to_a_quarter_of_a_frame(cell, delay_s, arms, camera):
    found = record(cell, 3, arms, camera, delay_s).estimate()
    assert found.delay_s == pytest.approx(delay_s + PHYSICS_STEP_S, abs=0.010)
    assert found.error_s <= 0.010
    assert found.correlation > 0.5


def test_an_arm_that_rests_is_refused(cell):
    with pytest.raises(CalibrationError, match="the arm moved in 0% of the recording"):
        record(cell, 3, (), 0, 0.05).estimate()


def test_a_camera_that_does_not_see_the_arm_is_refused(cell):
    with pytest.raises(CalibrationError, match=r"whether the arm moved or not|does not follow the joints"):
        record(cell, 3, ("right",), 1, 0.05).estimate()
