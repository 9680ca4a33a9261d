"""Forward and inverse kinematics on a small two-arm model."""

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlt_common.kinematics import ArmChain, ArmKinematics
from rlt_common.rotations import rotation_matrix, rotation_vector

AXES = ("0 0 1", "0 1 0", "0 1 0", "1 0 0", "0 1 0", "1 0 0")
OFFSETS = ("0 0 0.1", "0 0 0.05", "0.05 0 0.3", "0.2 0 0", "0.1 0 0", "0.08 0 0")


def _arm_xml(name: str, x: float) -> str:
    inner = f'<site name="{name}_tip" pos="0.1 0 0"/>'
    for k in reversed(range(6)):
        inner = (
            f'<body name="{name}_{k}" pos="{OFFSETS[k]}"><joint name="{name}_j{k}" axis="{AXES[k]}" range="-2 2"/>'
            f'<geom size="0.02" mass="0.1"/>{inner}</body>'
        )
    return f'<body pos="{x} 0 0">{inner}</body><body><joint name="{name}_g" type="slide"/><geom size="0.01"/></body>'


XML = f"""<mujoco><compiler angle="radian" autolimits="true"/>
<worldbody>{_arm_xml("a", -0.5)}{_arm_xml("b", 0.5)}</worldbody></mujoco>"""
CHAINS = tuple(ArmChain(tuple(f"{arm}_j{k}" for k in range(6)), f"{arm}_tip") for arm in "ab")
NAMES = tuple(f"{arm}_{joint}" for arm in "ab" for joint in ("j0", "j1", "j2", "j3", "j4", "j5", "g"))


@pytest.fixture(scope="module")
def arms() -> ArmKinematics:
    return ArmKinematics(mujoco.MjModel.from_xml_string(XML), NAMES, CHAINS)


BENT = np.array([0.2, -0.4, 0.8, 0.3, -0.6, 0.2, 0.01] * 2)


def test_forward_at_zero_adds_up_the_links(arms):
    (position, rotation), (other, _) = arms.forward(np.zeros(14))
    np.testing.assert_allclose(position, [-0.5 + 0.05 + 0.2 + 0.1 + 0.08 + 0.1, 0, 0.45], atol=1e-12)
    np.testing.assert_allclose(other - position, [1.0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(rotation, np.eye(3), atol=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(-0.25, 0.25), min_size=12, max_size=12))
def test_inverse_finds_the_pose_of_a_nearby_configuration(arms, offsets):
    q = BENT.copy()
    q[[0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]] += offsets
    targets = arms.forward(q)
    found = arms.inverse(BENT, targets, 40)
    for (position, rotation), (at, facing) in zip(targets, arms.forward(found), strict=True):
        np.testing.assert_allclose(at, position, atol=1e-4)
        assert np.linalg.norm(rotation_vector(rotation @ facing.T)) < 1e-3
    assert found[6] == BENT[6]
    assert found[13] == BENT[13]


def test_a_small_step_is_solved_in_two_iterations(arms):
    poses = [
        (position + np.array([0.002, -0.001, 0.001]), rotation_matrix(np.array([0.02, 0.0, -0.01])) @ rotation)
        for position, rotation in arms.forward(BENT)
    ]
    reached = arms.forward(arms.inverse(BENT, poses, 2))
    for (position, _), (at, _) in zip(poses, reached, strict=True):
        assert np.linalg.norm(position - at) < 5e-5


def test_unreachable_target_stays_within_the_limits(arms):
    found = arms.inverse(BENT, [(np.array([5.0, 5.0, 5.0]), np.eye(3))] * 2, 50)
    assert np.isfinite(found).all()
    inside = (found >= arms.lower - 1e-12) & (found <= arms.upper + 1e-12)
    assert inside.all()


def test_a_body_can_be_the_tip(arms):
    model = mujoco.MjModel.from_xml_string(XML)
    by_body = ArmKinematics(model, NAMES, [ArmChain(CHAINS[0].joints, "a_5")])
    (hand, _) = by_body.forward(BENT)[0]
    (tip, rotation) = arms.forward(BENT)[0]
    np.testing.assert_allclose(hand + rotation @ [0.1, 0, 0], tip, atol=1e-12)


def test_a_model_file_can_be_given(tmp_path, arms):
    path = tmp_path / "arms.xml"
    path.write_text(XML)
    np.testing.assert_allclose(ArmKinematics(path, NAMES, CHAINS).forward(BENT)[1][0], arms.forward(BENT)[1][0])


def test_errors_name_what_is_wrong(arms):
    model = mujoco.MjModel.from_xml_string(XML)
    with pytest.raises(ValueError, match="no joint named 'a_x'"):
        ArmKinematics(model, ("a_x",), ())
    with pytest.raises(ValueError, match="no site or body named 'nose'"):
        ArmKinematics(model, NAMES, [ArmChain(("a_j0",), "nose")])
    with pytest.raises(ValueError, match="arms share joints"):
        ArmKinematics(model, NAMES, [CHAINS[0], CHAINS[0]])
    with pytest.raises(ValueError, match="not among"):
        ArmKinematics(model, NAMES[:3], CHAINS)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        arms.forward(np.zeros(3))
    with pytest.raises(ValueError, match="not finite"):
        arms.forward(np.full(14, np.nan))
    with pytest.raises(ValueError, match="1 targets for 2 arms"):
        arms.inverse(BENT, [(np.zeros(3), np.eye(3))], 2)
    with pytest.raises(ValueError, match="at least 1"):
        arms.inverse(BENT, arms.forward(BENT), 0)
