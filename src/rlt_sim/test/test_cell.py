"""The plant, on the screw's scene: determinism, cameras, and that the screw turns through contact only."""

import numpy as np
import pytest

from rlt_common.rotations import rotation_matrix
from rlt_sim.arms import HOME_POSITIONS, HOME_ROTATIONS, JOINT_NAMES, RIGHT_FACING, make_integrator
from rlt_sim.cell import Cell
from rlt_sim.scenes.screw import ScrewOptions, ScrewScene, ScrewSpec


@pytest.fixture(scope="module")
def cell() -> Cell:
    return Cell(ScrewScene())


def put_bit(cell: Cell, offset: tuple[float, float, float], roll: float = 0.0) -> None:
    """Place the bit tip at `offset` (m) in the screw's frame, square to the recess but for `roll` (rad)."""
    origin, frame = cell.mouth_pose()
    rotation = frame @ rotation_matrix(np.array([roll - cell.scene.opening_angle(), 0.0, 0.0])) @ RIGHT_FACING
    tip = origin + frame @ np.array(offset) - rotation @ cell.scene.tool_offset()
    left = (np.array(HOME_POSITIONS["left"]), HOME_ROTATIONS["left"])
    cell.place_arms([left, (tip, rotation)], iterations=60)


def drive(cell: Cell, steps: int, push: float, turn: float) -> None:
    """Command the right tool along the screw's axis (push, m per step) and about it (turn, rad per step)."""
    integrator = make_integrator()
    integrator.reset(cell.joint_state()[0])
    _, frame = cell.mouth_pose()
    action = np.zeros(14)
    action[7:10], action[10:13] = -push * frame[:, 0], -turn * frame[:, 0]
    for _ in range(steps):
        cell.apply(integrator.step(action, cell.joint_state()[0]).joint_targets)


def rollout(cell: Cell, seed: int) -> tuple[np.ndarray, np.ndarray]:
    cell.reset(seed, "critical")
    integrator = make_integrator()
    integrator.reset(cell.joint_state()[0])
    rng = np.random.default_rng(seed)
    states = []
    for _ in range(20):
        cell.apply(integrator.step(rng.uniform(-0.002, 0.002, 14), cell.joint_state()[0]).joint_targets)
        states.append(np.concatenate(cell.joint_state()))
    return np.array(states), cell.images()


def test_same_seed_same_episode_whatever_came_before(cell):
    states, images = rollout(cell, 5)
    rollout(cell, 6)
    again, images_again = rollout(cell, 5)
    np.testing.assert_array_equal(states, again)
    np.testing.assert_array_equal(images, images_again)
    fresh, _ = rollout(Cell(ScrewScene()), 5)
    np.testing.assert_array_equal(states, fresh)


def test_other_seed_other_episode(cell):
    first, _ = rollout(cell, 5)
    second, _ = rollout(cell, 6)
    assert not np.array_equal(first, second)


def test_shapes_and_names(cell):
    cell.reset(0)
    assert len(JOINT_NAMES) == 14
    assert all(part.shape == (14,) for part in cell.joint_state())
    images = cell.images()
    assert images.shape == (3, 64, 64, 3)
    assert images.dtype == np.uint8


def test_arms_hold_their_pose_without_sagging(cell):
    cell.reset(3)
    start = cell.joint_state()[0]
    for _ in range(50):
        cell.apply(start)
    assert np.abs(cell.joint_state()[0] - start).max() < 2e-3


def test_start_positions(cell):
    for seed in range(10):
        cell.reset(seed, "full")
        assert not cell.task_state().hand_off_ready
        far = cell.task_state().tip_error_m[0]
        cell.reset(seed, "critical")
        state = cell.task_state()
        assert 0.015 < state.tip_error_m[0] < far
        assert not state.engaged
        assert abs(state.turned_rad) < 1e-6


def test_every_camera_sees_the_screw_move(cell):
    fixed = {"yaw_range": 0.0, "pitch_range": 0.0, "roll_range": 0.0, "slip": 0.0, "start_range": 0.0}
    cell.reset(0, "critical", {**fixed, "start_angle": 0.0, "position_range": 0.0})
    before = cell.images().astype(int)
    cell.reset(0, "critical", {**fixed, "start_angle": 0.0, "position_range": 0.004})
    after = cell.images().astype(int)
    changed = (np.abs(after - before).max(axis=-1) > 8).mean(axis=(1, 2))
    assert (changed > 0.01).all()


def test_recess_angle_is_visible(cell):
    put = {"position_range": 0.0, "start_range": 0.0, "start_angle": 0.0}
    cell.reset(1, "critical", put)
    before = cell.images().astype(int)
    cell.scene.turn_screw(0.2)
    changed = (np.abs(cell.images().astype(int) - before).max(axis=-1) > 8).sum(axis=(1, 2))
    assert (changed > 5).all()


def test_task_state_of_a_known_pose(cell):
    cell.reset(7)
    put_bit(cell, (0.01, 0.002, -0.001), roll=0.1)
    state = cell.task_state()
    np.testing.assert_allclose(state.tip_error_m, [0.01, 0.002, -0.001], atol=1e-4)
    assert state.roll_error_rad == pytest.approx(0.1, abs=2e-3)
    assert state.axis_tilt_rad < 2e-3
    assert state.hand_off_ready
    assert not state.engaged


def test_seated_bit_turns_the_screw(cell):
    cell.reset(11)
    put_bit(cell, (0.003, 0.0, 0.0))
    drive(cell, 40, push=0.0004, turn=0.0)
    assert cell.task_state().engaged
    assert abs(cell.task_state().turned_rad) < 0.02
    drive(cell, 120, push=0.0, turn=0.012)
    state = cell.task_state()
    assert state.success
    assert state.turned_rad > cell.options.turn_angle


@pytest.mark.parametrize("offset", [(0.004, 0.0, 0.0), (0.0005, 0.006, 0.006)])
def test_bit_that_is_not_seated_does_not_turn_the_screw(cell, offset):
    cell.reset(11)
    put_bit(cell, offset)
    drive(cell, 120, push=0.0, turn=0.012)
    state = cell.task_state()
    assert not state.engaged
    assert not state.success
    assert abs(state.turned_rad) < 0.05


def test_misaligned_bit_stops_at_the_face(cell):
    cell.reset(12)
    put_bit(cell, (0.003, 0.003, 0.0))
    drive(cell, 60, push=0.0003, turn=0.0)
    assert cell.task_state().tip_error_m[0] > -0.001


def test_rolled_bit_does_not_seat(cell):
    cell.reset(12)
    put_bit(cell, (0.003, 0.0, 0.0), roll=0.45)
    drive(cell, 30, push=0.0003, turn=0.0)
    assert cell.task_state().tip_error_m[0] > -0.003
    assert not cell.task_state().engaged


def test_taper_guides_a_bit_that_is_a_little_off(cell):
    cell.reset(12)
    put_bit(cell, (0.003, 0.0011, 0.0))
    assert cell.task_state().tip_error_m[1] > ScrewSpec().clearance
    drive(cell, 60, push=0.0003, turn=0.0)
    assert cell.task_state().engaged


def test_seating_clearance_is_below_a_millimetre():
    assert ScrewSpec().clearance < 0.001


def test_bad_input_is_an_error(cell):
    cell.reset(0)
    with pytest.raises(ValueError, match="joint targets must be 14 finite"):
        cell.apply(np.zeros(13))
    with pytest.raises(ValueError, match="joint targets must be 14 finite"):
        cell.apply(np.full(14, np.nan))
    with pytest.raises(ValueError, match="start_in is 'middle'"):
        cell.reset(0, "middle")
    with pytest.raises(ValueError, match="unknown cell options \\['gravity'\\]"):
        cell.reset(0, "full", {"gravity": 1.0})


def test_options_of_a_reset_do_not_outlive_it():
    cell = Cell(ScrewScene(), ScrewOptions(turn_angle=0.9))
    cell.reset(0, "full", {"hand_off_distance": 1.0})
    assert cell.task_state().hand_off_ready
    cell.reset(0, "full")
    assert not cell.task_state().hand_off_ready
