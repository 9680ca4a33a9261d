"""Expert, demonstrations and random-pose images."""

import numpy as np
import pytest
from builtin_interfaces.msg import Time

from rlt_common.codecs import floats
from rlt_control.delta_pose import MotionLimits
from rlt_msgs.msg import SimulationState
from rlt_sim.arms import HOME_POSITIONS, HOME_ROTATIONS, make_integrator, make_kinematics, make_limits
from rlt_sim.cell import Cell
from rlt_sim.collect import demonstrate, demonstrations, random_poses, tool_pose_block
from rlt_sim.scenes.screw import ScrewScene
from rlt_sim.scripted_hands import ScriptedHands
from rlt_sim.sight import pose_message, pose_of, task_state


@pytest.fixture(scope="module")
def cell() -> Cell:
    return Cell(ScrewScene())


@pytest.fixture(scope="module")
def batch(cell):
    return [demonstrate(cell, seed, stride=0) for seed in range(500, 508)]


def test_expert_succeeds(batch):
    assert sum(one.success for one in batch) >= 7


def test_expert_is_slow_and_the_approach_short(batch):
    critical = [len(one.actions) - one.hand_off_step for one in batch if one.success]
    assert 250 < np.median(critical) < 550
    assert 20 < np.median([one.hand_off_step for one in batch]) < 80


def test_expert_stays_within_the_step_limits(cell, batch):
    largest = np.abs(np.concatenate([one.actions for one in batch])).max(axis=0)
    assert (largest <= make_limits().step_vector() + 1e-7).all()
    assert largest[10] > 0.005


def test_demonstration_is_deterministic_and_complete(cell):
    first, second = (demonstrate(cell, 42, stride=20) for _ in range(2))
    np.testing.assert_array_equal(first.actions, second.actions)
    assert len(first.samples) == -(-len(first.actions) // 20)
    for a, b in zip(first.samples, second.samples, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.effort, b.effort)
    assert first.actions.dtype == np.float32
    assert first.samples[-1].label[0] < -0.004


def test_time_out_is_no_success(cell):
    short = demonstrate(cell, 42, stride=0, max_steps=30)
    assert not short.success
    assert len(short.actions) == 30


def test_demonstrations_count_successes_only(cell):
    found = list(demonstrations(cell, 2, first_seed=500, stride=0))
    assert [one.success for one in found] == [True, True]
    assert found[0].seed < found[1].seed


def test_random_poses_cover_the_mouth_and_repeat(cell):
    samples = list(random_poses(cell, 60, seed=3))
    again = list(random_poses(cell, 60, seed=3))
    labels = np.array([sample.label for sample in samples])
    np.testing.assert_array_equal(labels, np.array([sample.label for sample in again]))
    np.testing.assert_array_equal(samples[-1].images, again[-1].images)
    near = np.abs(labels[:, 0]) < 0.02
    assert near.mean() > 0.3
    assert (labels[:, 0] < -0.002).sum() >= 3
    assert np.abs(labels[:, 1:3]).max() < 0.05
    assert np.abs(labels[:, 3]).max() > 0.1


def test_tool_pose_is_zero_at_home_and_in_metres():
    home = [(np.array(HOME_POSITIONS[arm]), HOME_ROTATIONS[arm]) for arm in ("left", "right")]
    np.testing.assert_allclose(tool_pose_block(home), 0.0, atol=1e-12)
    home[1] = (home[1][0] + [0.01, 0.0, 0.0], home[1][1])
    block = tool_pose_block(home)
    assert block[6] == pytest.approx(0.01)
    assert np.abs(np.delete(block, 6)).max() < 1e-12


def test_inverse_kinematics_of_the_arms_round_trip(cell):
    kinematics = make_kinematics()
    cell.reset(9, "critical")
    q = cell.joint_state()[0]
    poses = [(position + np.array([0.01, -0.01, 0.01]), rotation) for position, rotation in kinematics.forward(q)]
    reached = kinematics.forward(kinematics.inverse(q, poses, 30))
    for (wanted, turned), (at, facing) in zip(poses, reached, strict=True):
        np.testing.assert_allclose(at, wanted, atol=1e-5)
        np.testing.assert_allclose(facing, turned, atol=1e-4)


def test_integrator_of_the_cell_uses_the_arms_limits():
    limits = make_limits()
    assert isinstance(limits, MotionLimits)
    assert make_integrator().action_dim == 14
    assert limits.joint_upper[6] == pytest.approx(0.04)


def test_the_script_s_hands_do_in_messages_what_it_does_in_process(cell):
    """A perfect follower of the leaders: the whole of `collect` again, from what the scripted operator is told."""
    seed = 501
    inside = demonstrate(cell, seed, stride=0)
    cell.reset(seed)
    hands = None
    for _ in range(3 * len(inside.actions)):
        q, state = cell.joint_state()[0], cell.task_state()
        mouth = pose_of(pose_message(cell.mouth_pose(), Time(), "world"))
        told = SimulationState(
            task_error=floats(state.label),
            progress=state.progress,
            success=state.success,
            hand_off_ready=state.hand_off_ready,
        )
        hands = hands or ScriptedHands(ScrewScene(), seed, task_state(told), mouth, q)
        cell.apply(hands.move(task_state(told), mouth, q))
        if cell.task_state().success:
            break
    assert cell.task_state().success
    assert cell.steps == pytest.approx(len(inside.actions), rel=0.3)
