"""A policy's chunks as actions of the robot: playing the actions reaches the places that the chunk says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rlt_common.kinematics import build_kinematics
from rlt_common.parameters import ParameterError
from rlt_common.vla_config import GripperScale, VlaConfig
from rlt_vla_node.anchor import Anchor, anchor_of_joints
from rlt_vla_node.chunk_layout import ChunkLayout
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.lerobot_columns import EXECUTED, PROPRIOCEPTION, STATE
from rlt_vla_node.target_kinds import check_numbers
from rlt_vla_node.vector_layout import ROTATIONS

JOINT_PARTS = ("left.joints", "left.gripper", "right.joints", "right.gripper")


@pytest.fixture(scope="module")
def robot(cell):
    return cell.robot


@pytest.fixture(scope="module")
def kinematics(robot):
    return build_kinematics(robot)


@pytest.fixture
def q(robot, kinematics):
    middle = (np.clip(kinematics.lower, -1.0, 1.0) + np.clip(kinematics.upper, -1.0, 1.0)) / 2
    return middle + 0.01 * np.random.default_rng(1).standard_normal(len(robot.joint_names))


def config(**values):
    standard = {
        "backend": "lerobot",
        "source": "nowhere",
        "control_hz": 50.0,
        "state": JOINT_PARTS,
        "actions": JOINT_PARTS,
        "action_kind": "absolute",
    }
    return VlaConfig(**{**standard, **values})


def walk(q, rows, seed=0, step=0.004):
    """Joint vectors (rows, n) of a smooth random walk from q."""
    moves = np.random.default_rng(seed).standard_normal((rows, len(q))).cumsum(0)
    return q + step * moves


def played(robot, kinematics, actions, q):
    """Tool poses and grippers per arm after every action, played from joints q."""
    found = []
    for arm, (position, matrix) in enumerate(kinematics.forward(q)):
        facing = Rotation.from_matrix(matrix)
        grip = q[robot.joint_names.index(robot.arms[arm].gripper)]
        rows = []
        for action in actions[:, 7 * arm : 7 * arm + 7].astype(np.float64):
            position, grip = position + action[:3], grip + action[6]
            facing = Rotation.from_rotvec(action[3:6]) * facing
            rows.append((position, facing, grip))
        found.append(rows)
    return found


def test_absolute_joints_become_tool_changes_that_reach_them(robot, kinematics, q):
    layout = ChunkLayout(config(gripper=GripperScale(20.0, 0.1)), robot, kinematics)
    goal = walk(q, 12)
    actions = layout.to_actions(layout.targets(goal), q, 12)
    assert actions.shape == (12, 14)
    assert actions.dtype == np.float32
    for arm, rows in enumerate(played(robot, kinematics, actions, q)):
        for k, (position, facing, grip) in enumerate(rows):
            at, matrix = kinematics.forward(goal[k])[arm]
            assert np.allclose(position, at, atol=1e-6)
            assert (facing * Rotation.from_matrix(matrix).inv()).magnitude() < 1e-5
            assert grip == pytest.approx(goal[k, robot.joint_names.index(robot.arms[arm].gripper)], abs=1e-6)


def test_absolute_joints_become_joint_changes_of_a_robot_that_takes_those(robot, kinematics, q):
    other = replace(robot, actions="joints")
    layout = ChunkLayout(config(), other, kinematics)
    goal = walk(q, 6)
    actions = layout.to_actions(layout.targets(goal), q, 6)
    order = [other.joint_names.index(name) for arm in other.arms for name in (*arm.joints, arm.gripper)]
    assert np.allclose(q[order] + actions.cumsum(0), goal[:, order], atol=1e-6)


@pytest.mark.parametrize("form", ROTATIONS)
def test_every_form_of_rotation_says_the_same(robot, kinematics, q, form):
    parts = [f"{arm}.{what}" for arm in ("left", "right") for what in ("position", form, "gripper")]
    layout = ChunkLayout(config(actions=tuple(parts)), robot, kinematics)
    goal = walk(q, 8)
    wanted = ChunkLayout(config(), robot, kinematics).to_actions(goal_rows(robot, kinematics, goal), q, 8)
    assert np.allclose(layout.to_actions(layout.targets(goal), q, 8), wanted, atol=2e-6)


def goal_rows(robot, kinematics, goal):
    return ChunkLayout(config(), robot, kinematics).targets(goal)


def test_poses_in_an_arms_own_frame_are_turned_into_the_robots(robot, kinematics, q):
    frames = {"left": "left_base", "right": "right_base"}
    parts = tuple(f"{a}.{w}" for a in ("left", "right") for w in ("position", "rotation_vector", "gripper"))
    layout = ChunkLayout(config(actions=parts, frames=frames), robot, kinematics)
    goal = walk(q, 5)
    rows = layout.targets(goal)
    assert not np.allclose(rows, ChunkLayout(config(actions=parts), robot, kinematics).targets(goal))
    wanted = ChunkLayout(config(), robot, kinematics).to_actions(goal_rows(robot, kinematics, goal), q, 5)
    assert np.allclose(layout.to_actions(rows, q, 5), wanted, atol=2e-6)


@pytest.mark.parametrize("along", ["world", "tool"])
@pytest.mark.parametrize("kind", ["from_observation", "per_step"])
def test_differences_of_poses_lead_where_the_places_lead(robot, kinematics, q, along, kind):
    parts = tuple(f"{a}.{w}" for a in ("left", "right") for w in ("position", "rotation_vector", "gripper"))
    absolute = ("left.gripper", "right.gripper")
    layout = ChunkLayout(
        config(actions=parts, action_kind=kind, relative_rotation=along, always_absolute=absolute), robot, kinematics
    )
    goal = walk(q, 7)
    rows = ChunkLayout(config(actions=parts), robot, kinematics).targets(goal).astype(np.float64)
    for arm in range(2):
        columns = slice(7 * arm, 7 * arm + 6)
        before, matrix = kinematics.forward(q)[arm]
        facing = Rotation.from_matrix(matrix)
        for row in rows[:, columns]:
            at, turned = row[:3].copy(), Rotation.from_rotvec(row[3:])
            if along == "tool":
                row[:3] = facing.inv().apply(at - before)
                row[3:] = (facing.inv() * turned).as_rotvec()
            else:
                row[:3] = at - before
                row[3:] = (turned * facing.inv()).as_rotvec()
            if kind == "per_step":
                before, facing = at, turned
    wanted = ChunkLayout(config(), robot, kinematics).to_actions(goal_rows(robot, kinematics, goal), q, 7)
    assert np.allclose(layout.to_actions(rows, q, 7), wanted, atol=3e-6)


def test_joint_differences_from_the_observation_with_absolute_grippers(robot, kinematics, q):
    layout = ChunkLayout(
        config(action_kind="from_observation", always_absolute=("left.gripper", "right.gripper")), robot, kinematics
    )
    goal = walk(q, 6)
    plain = ChunkLayout(config(), robot, kinematics)
    rows = plain.targets(goal).astype(np.float64)
    for part in plain.actions.parts:
        if part.what == "joints":
            rows[:, part.columns] -= plain.targets(q[None])[0, part.columns]
    assert np.allclose(layout.to_actions(rows, q, 6), plain.to_actions(plain.targets(goal), q, 6), atol=1e-5)


@pytest.mark.parametrize("along", ["world", "tool"])
@pytest.mark.parametrize("kind", ["absolute", "from_observation", "per_step"])
@pytest.mark.parametrize("parts", [("joints", "gripper"), ("position", "rpy", "gripper"), ("position",), ("rpy",)])
def test_differences_of_targets_are_read_as_these_targets(robot, kinematics, q, parts, kind, along):
    names = tuple(f"{arm}.{what}" for arm in ("left", "right") for what in parts)
    absolute = tuple(name for name in names if name == "right.gripper")
    own = config(actions=names, gripper=GripperScale(20.0, 0.1), always_absolute=absolute)
    own = replace(own, action_kind=kind, relative_rotation=along, frames={"left": "left_base"})
    layout, places = (
        ChunkLayout(own, robot, kinematics),
        ChunkLayout(replace(own, action_kind="absolute"), robot, kinematics),
    )
    targets = places.targets(walk(q, 7))
    rows = layout.differences(targets, q, q)
    assert rows.dtype == np.float32
    assert np.array_equal(rows, targets) == (kind == "absolute")
    wanted = places.to_actions(targets, q, 7)
    assert np.allclose(layout.to_actions(rows, q, 7), wanted, atol=3e-6)


def test_differences_from_row_to_row_begin_at_what_was_commanded(robot, kinematics, q):
    layout = ChunkLayout(config(action_kind="per_step"), robot, kinematics)
    targets, before = layout.targets(walk(q, 4)), q + 0.01
    rows = layout.differences(targets, q, before)
    assert np.allclose(rows[0], targets[0] - layout.targets(before[None])[0], atol=1e-6)
    assert np.allclose(rows[1:], np.diff(targets, axis=0), atol=1e-6)


@pytest.mark.parametrize("first", [0, 4])
def test_the_first_action_played_starts_from_the_anchor(robot, kinematics, q, first):
    layout = ChunkLayout(config(), robot, kinematics)
    goal = walk(q, 10)
    behind = goal[first - 1] if first else q
    ahead = behind + 0.003  # what will be commanded is not where the policy's path is
    actions = layout.to_actions(layout.targets(goal), q, 10, anchor_of_joints(robot, kinematics, ahead, first))
    for arm, rows in enumerate(played(robot, kinematics, actions[first:], ahead)):
        for k, (position, facing, _) in enumerate(rows, start=first):
            at, matrix = kinematics.forward(goal[k])[arm]
            assert np.allclose(position, at, atol=1e-6)
            assert (facing * Rotation.from_matrix(matrix).inv()).magnitude() < 1e-5


def test_differences_from_row_to_row_need_no_anchor(robot, kinematics, q):
    layout = ChunkLayout(config(action_kind="per_step"), robot, kinematics)
    assert not layout.anchored
    rows = 0.001 * np.random.default_rng(3).standard_normal((5, layout.actions.width))
    free = layout.to_actions(rows, q, 5)
    assert np.array_equal(layout.to_actions(rows, q, 5, Anchor(2, np.ones(14))), free)


def test_another_rate_is_sampled_at_the_robots_steps(robot, kinematics, q):
    layout = ChunkLayout(config(control_hz=10.0), robot, kinematics)
    assert layout.horizon(4) == 20
    goal = walk(q, 4)
    actions = layout.to_actions(layout.targets(goal), q, 20)
    for arm, rows in enumerate(played(robot, kinematics, actions, q)):
        for k in range(4):  # after every fifth step the tool is where a row of the policy says
            position, _, grip = rows[5 * k + 4]
            assert np.allclose(position, kinematics.forward(goal[k])[arm][0], atol=1e-6)
            assert grip == pytest.approx(goal[k, robot.joint_names.index(robot.arms[arm].gripper)], abs=1e-6)


def test_an_arm_that_the_policy_does_not_know_stays(robot, kinematics, q):
    layout = ChunkLayout(config(actions=("left.joints", "left.gripper", "zeros.3")), robot, kinematics)
    rows = layout.targets(walk(q, 5))
    assert rows.shape[1] == len(robot.arms[0].joints) + 4
    actions = layout.to_actions(rows, q, 5)
    assert np.abs(actions[:, :7]).max() > 0
    assert not actions[:, 7:].any()


def test_the_state_vector_is_in_the_policys_order(robot, kinematics, q):
    parts = ("right.joints", "left.gripper", "zeros.2", "left.joint_velocities", "left.position")
    layout = ChunkLayout(config(state=parts), robot, kinematics)
    blocks = {"joint_position": q.astype(np.float32), "joint_velocity": np.arange(len(q), dtype=np.float32)}
    vector = layout.state_vector(blocks)
    left, right = (np.array([robot.joint_names.index(name) for name in arm.joints]) for arm in robot.arms)
    n = len(left)
    assert vector.dtype == np.float32
    assert len(vector) == len(layout.state.names())
    assert np.allclose(vector[:n], blocks["joint_position"][right])
    assert vector[n] == blocks["joint_position"][robot.joint_names.index(robot.arms[0].gripper)]
    assert not vector[n + 1 : n + 3].any()
    assert np.allclose(vector[n + 3 : 2 * n + 3], blocks["joint_velocity"][left])
    assert np.allclose(vector[2 * n + 3 :], kinematics.forward(blocks["joint_position"])[0][0], atol=1e-6)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"actions": ("left.joint",)}, "unknown part 'left.joint'"),
        ({"actions": ("middle.joints",)}, "left, right"),
        ({"actions": ("left.joint_velocities",)}, "unknown part"),
        ({"actions": ("left.joints", "left.joints")}, "says again"),
        ({"actions": ("left.rpy", "left.rotation_vector")}, "says again"),
        ({"actions": ("left.joints", "left.position")}, "both say where arm left goes"),
        (
            {"actions": ("left.position", "left.rpy"), "always_absolute": ("left.rpy",), "action_kind": "per_step"},
            "one pose",
        ),
        ({"frames": {"left": "nothing"}}, "nothing"),
    ],
)
def test_what_does_not_fit_is_named(robot, kinematics, values, words):
    with pytest.raises(ParameterError, match=words):
        ChunkLayout(config(**values), robot, kinematics)


def test_poses_for_a_robot_that_takes_joints_are_refused(robot, kinematics):
    with pytest.raises(ParameterError, match="tool_pose"):
        ChunkLayout(config(actions=("left.position", "left.rpy")), replace(robot, actions="joints"), kinematics)


def test_broken_chunks_are_refused(robot, kinematics, q):
    layout = ChunkLayout(config(), robot, kinematics)
    good = layout.targets(walk(q, 5))
    with pytest.raises(ValueError, match="columns"):
        layout.to_actions(good[:, 1:], q, 5)
    with pytest.raises(ValueError, match="not finite"):
        layout.to_actions(np.where(np.arange(good.size).reshape(good.shape) == 7, np.nan, good), q, 5)
    with pytest.raises(ValueError, match="wanted 6"):
        layout.to_actions(good, q, 6)
    quaternions = ChunkLayout(config(actions=("left.quaternion_xyzw",)), robot, kinematics)
    with pytest.raises(ValueError, match=r"left\.quaternion_xyzw"):
        quaternions.to_actions(np.zeros((5, 4)), q, 5)


@pytest.mark.parametrize(
    ("form", "same", "none"),
    [
        ("rotation_vector", lambda v: v * (1.0 - 2.0 * np.pi / np.linalg.norm(v, axis=1, keepdims=True)), np.nan),
        ("quaternion_xyzw", np.negative, 0.0),
        ("rpy", lambda v: v - [2.0 * np.pi, 0.0, 0.0], np.inf),
        ("rotation_6d_rows", np.copy, 0.0),
    ],
)
def test_a_data_set_is_compared_by_its_rotations_of_which_rounding_may_choose_the_numbers(robot, q, form, same, none):
    """Of half a turn, the last bit of a matrix chooses the sign of the rotation vector and of the quaternion."""
    layout = ChunkLayout(config(state=(*JOINT_PARTS, f"left.{form}")), robot)
    joints, turned = walk(q, 4), layout.state.parts[-1].columns
    columns = {PROPRIOCEPTION + name: np.zeros_like(joints) for name in ("joint_velocity", "joint_effort")}
    columns[PROPRIOCEPTION + "joint_position"] = joints
    columns[STATE] = layout.state.write(joints)
    columns[STATE][:, turned] = same(columns[STATE][:, turned])
    features = {EXECUTED: {"names": list(layout.robot_actions)}, **dict.fromkeys(columns)}
    check_numbers(layout, features, columns.__getitem__, Path("set"))
    for changed in (columns[STATE][2, turned] + [1e-3, *np.zeros(turned.stop - turned.start - 1)], none):
        columns[STATE][2, turned] = changed
        with pytest.raises(DatasetError, match=rf"left\.{form}\.\d of observation\.state is .* in frame 2, by this"):
            check_numbers(layout, features, columns.__getitem__, Path("set"))
