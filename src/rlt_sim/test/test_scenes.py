"""Every task's scene: experts that get there, success only through insertion, resets, and what is refused."""

import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory

from rlt_common.config import load_robot, load_task
from rlt_common.parameters import ParameterError
from rlt_common.rotations import rotation_matrix
from rlt_sim.arms import HOME_POSITIONS, HOME_ROTATIONS, RIGHT_FACING, make_integrator
from rlt_sim.cell import Cell
from rlt_sim.collect import demonstrate, observe, random_poses
from rlt_sim.collect_command import blocks
from rlt_sim.expert import BRISK
from rlt_sim.scenes import SCENES
from rlt_sim.task_cell import make_cell

CONFIG = Path(get_package_share_directory("rlt_bringup")) / "config"
ROBOT = load_robot(CONFIG / "robots" / "sim.yaml")
NEW = sorted(set(SCENES) - {"screw"})
"""The screw has tests of its own: test_cell.py, test_collect.py."""
BESIDE = {
    "ethernet": [(0.006, 0.0), (0.0, -0.006)],
    "charger": [(0.0045, 0.0), (0.0, 0.009)],
    "zip_tie": [(0.0045, 0.0), (0.0, 0.006)],
}
"""Where pushing leads onto the rim: offsets from the mouth along y and z, m."""


@pytest.fixture(scope="module", params=NEW)
def cell(request) -> Cell:
    return make_cell(ROBOT, load_task(CONFIG / "tasks" / f"{request.param}.yaml"))


def put_tip(cell: Cell, offset: tuple[float, float, float], roll: float = 0.0) -> None:
    """Place the tip at `offset` (m) in the mouth's frame, square to it but for `roll` (rad)."""
    home = [(np.array(HOME_POSITIONS[arm]), HOME_ROTATIONS[arm]) for arm in ("left", "right")]
    cell.place_arms(home, iterations=60)
    origin, frame = cell.mouth_pose()
    rotation = frame @ rotation_matrix(np.array([roll, 0.0, 0.0])) @ RIGHT_FACING
    cell.place_arms([home[0], cell.scene.hand_pose(origin + frame @ np.array(offset), rotation)], iterations=60)


def push(cell: Cell, steps: int, speed: float = 0.0004, each_step: Callable[[], None] = lambda: None) -> bool:
    """Push along the mouth's axis (speed in m per step); whether it ever was a success."""
    integrator = make_integrator()
    integrator.reset(cell.joint_state()[0])
    action = np.zeros(14)
    action[7:10] = -speed * cell.mouth_pose()[1][:, 0]
    done = False
    for _ in range(steps):
        cell.apply(integrator.step(action, cell.joint_state()[0]).joint_targets)
        done = done or cell.task_state().success
        each_step()
    return done


def test_the_expert_is_slow_and_gets_there(cell):
    found = [demonstrate(cell, seed, stride=0, max_steps=1500) for seed in range(500, 506)]
    assert sum(one.success for one in found) >= 5
    critical = [len(one.actions) - one.hand_off_step for one in found if one.success]
    assert 250 < np.median(critical) < 600


def test_a_sure_hand_is_fast(cell):
    found = [demonstrate(cell, seed, stride=0, start_in="critical", temperament=BRISK) for seed in range(520, 525)]
    assert all(one.success for one in found)
    assert np.median([len(one.actions) for one in found]) < 150


def test_same_seed_same_demonstration(cell):
    first = demonstrate(cell, 7, stride=40, max_steps=200)
    demonstrate(cell, 8, stride=0, max_steps=50)
    second = demonstrate(cell, 7, stride=40, max_steps=200)
    np.testing.assert_array_equal(first.actions, second.actions)
    for a, b in zip(first.samples, second.samples, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.position, b.position)


def test_proprioception_does_not_know_where_the_work_piece_and_the_tool_are(cell):
    """The same arms with another scene: only the images tell."""
    seen, labels = [], []
    for hidden in ({}, {"position_range": 0.0, "slip": 0.0, "yaw_range": 0.0}):
        cell.reset(5, "critical", hidden)
        seen.append(observe(cell))
        labels.append(cell.task_state().label)
    assert np.abs(labels[0] - labels[1]).max() > 5e-4
    for name in ("joint_position", "ee_pose"):
        np.testing.assert_allclose(blocks(seen[0])[name], blocks(seen[1])[name], atol=1e-4)
    assert not np.array_equal(seen[0].images, seen[1].images)


def test_another_seed_is_another_scene(cell):
    labels, images = [], []
    for seed in (1, 2):
        cell.reset(seed, "critical")
        labels.append(cell.task_state().label)
        images.append(cell.images())
    assert np.abs(labels[0] - labels[1]).max() > 1e-3
    assert not np.array_equal(*images)


def test_the_full_task_starts_further_out_and_nothing_starts_done(cell):
    for seed in range(6):
        cell.reset(seed, "full")
        far = cell.task_state()
        cell.reset(seed, "critical")
        near = cell.task_state()
        assert 0.010 < near.tip_error_m[0] < far.tip_error_m[0] - 0.02
        assert not far.hand_off_ready
        assert [near.success, far.success] == [False, False]
        assert near.progress == far.progress == 0.0


def test_pushing_straight_in_is_a_success(cell):
    cell.reset(11)
    put_tip(cell, (0.004, 0.0, 0.0))
    assert push(cell, 120)
    assert cell.task_state().progress > 0.9


def test_pushing_beside_the_mouth_is_none(cell):
    for beside in BESIDE[cell.scene.name]:
        cell.reset(11)
        put_tip(cell, (0.004, *beside))
        assert not push(cell, 50)
        assert cell.task_state().tip_error_m[0] > -0.004


def test_a_rolled_tool_stays_outside(cell):
    cell.reset(11)
    put_tip(cell, (0.004, 0.0, 0.0), roll=0.45)
    assert not push(cell, 60)
    assert cell.task_state().tip_error_m[0] > -0.006


def test_pre_training_images_cover_mouth_and_inside(cell):
    samples = list(random_poses(cell, 60, seed=3))
    labels = np.array([one.label for one in samples])
    assert labels.shape == (60, 6)
    assert np.isfinite(labels).all()
    assert (np.abs(labels[:, 0]) < 0.02).mean() > 0.3
    assert (labels[:, 0] < -0.002).sum() >= 3
    again = list(random_poses(cell, 3, seed=3))
    np.testing.assert_array_equal(again[-1].images, samples[2].images)


def test_every_camera_sees_the_tool_move_at_the_mouth(cell):
    """Half a millimetre aside at the mouth changes pixels of the wrist cameras."""
    images = []
    for aside in (0.0, 0.0005):
        cell.reset(4, "critical")
        put_tip(cell, (0.003, aside, 0.0))
        images.append(cell.images().astype(int))
    changed = (np.abs(images[1] - images[0]).max(axis=-1) > 8).sum(axis=(1, 2))
    assert (changed[1:] > 3).all()


def test_physics_is_far_faster_than_real_time(cell):
    """n steps of 20 ms take far less than n x 20 ms, also on a busy machine."""
    cell.reset(0, "critical")
    hold = cell.joint_state()[0]
    start = time.process_time()
    for _ in range(200):
        cell.apply(hold)
    assert time.process_time() - start < 200 * 0.020 / 5


def test_the_ethernet_latch_snaps_only_at_the_end_and_then_holds():
    cell = Cell(SCENES["ethernet"]())
    cell.reset(11)
    put_tip(cell, (0.004, 0.0, 0.0))
    assert not push(cell, 45)
    on_the_way = cell.task_state()
    assert -0.018 < on_the_way.tip_error_m[0] < -0.010
    assert not on_the_way.latched
    assert push(cell, 40)
    assert cell.task_state().latched
    push(cell, 40, speed=-0.0002)
    assert cell.task_state().tip_error_m[0] < -0.017


def test_a_strap_that_passes_beside_the_head_is_not_threaded():
    cell = Cell(SCENES["zip_tie"]())
    cell.reset(11)
    put_tip(cell, (0.004, 0.0, 0.016))
    assert not push(cell, 120)
    state = cell.task_state()
    assert state.tip_error_m[0] < -0.018
    assert state.progress == 0.0


def test_the_strap_bends_when_it_is_pushed_onto_the_rim():
    cell = Cell(SCENES["zip_tie"]())
    cell.reset(11, "full", {"curl": 0.0})
    put_tip(cell, (0.004, 0.005, 0.0))
    bends = []
    push(cell, 80, each_step=lambda: bends.append(np.abs(cell.task_state().tilt_rad).max()))
    assert bends[0] < 0.01
    assert max(bends) > 0.3


def test_the_tie_s_head_moves_with_the_left_hand():
    cell = Cell(SCENES["zip_tie"]())
    cell.reset(3)
    before = cell.mouth_pose()[0]
    integrator = make_integrator()
    integrator.reset(cell.joint_state()[0])
    action = np.zeros(14)
    action[0] = 0.0005
    for _ in range(20):
        cell.apply(integrator.step(action, cell.joint_state()[0]).joint_targets)
    moved = cell.mouth_pose()[0] - before
    assert 0.007 < moved[0] < 0.011
    assert np.abs(moved[1:]).max() < 0.002


@pytest.mark.parametrize("name", sorted(SCENES))
def test_an_unknown_option_or_scene_is_refused(name):
    task = load_task(CONFIG / "tasks" / f"{name}.yaml")
    object.__setattr__(task, "simulation", {"scene": name, "slipp": 1.0})
    with pytest.raises(ParameterError, match="slipp"):
        make_cell(ROBOT, task)
    object.__setattr__(task, "simulation", {"scene": "welding"})
    with pytest.raises(ParameterError, match=f"no simulated scene 'welding'; there are: .*{name}"):
        make_cell(ROBOT, task)


@pytest.mark.parametrize("name", sorted(SCENES))
def test_a_task_of_another_name_may_name_its_scene_and_options(name):
    task = load_task(CONFIG / "tasks" / f"{name}.yaml")
    object.__setattr__(task, "name", "mine")
    object.__setattr__(task, "simulation", {"scene": name, "slip": 0.0})
    own = make_cell(ROBOT, task)
    own.reset(3)
    np.testing.assert_array_equal(own.scene.tool_offset(), np.zeros(3))  # the slip
    assert {field.name for field in fields(own.options)} >= {"position_range", "hand_off_distance"}
