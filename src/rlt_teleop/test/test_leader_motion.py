"""Leader arms: the follower goes where the leader goes, without a jump, and holds when the leader is gone."""

from dataclasses import replace

import numpy as np
import pytest
from teleop_doubles import ROBOT

from rlt_common.config import load_robot
from rlt_common.kinematics import build_kinematics
from rlt_common.parameters import ParameterError, from_mapping
from rlt_common.rotations import rotation_matrix, rotation_vector
from rlt_teleop.joy_mapping import JoyMapping
from rlt_teleop.joy_operator import JoyOperator
from rlt_teleop.motion import MotionError

SIM = load_robot(ROBOT)
HOME = np.array([0.0, -0.35, 0.85, 0.0, -0.5, 0.0, 0.01] * 2)
JOINTS = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"]
PERIOD_S = 0.02
GRIP_CLOSED, GRIP_OPEN, GRIP_RANGE_M = -0.5, 1.5, 0.04


def mapping(mode: str, **leader) -> JoyMapping:
    arm = {"joints": JOINTS, "gripper": "gripper", "gripper_closed": GRIP_CLOSED, "gripper_open": GRIP_OPEN}
    values = {
        "device": "leaders",
        "buttons": {"enable": 0},
        "motion": "leader",
        "leader": {"mode": mode, "arms": {"right": {"topic": "leader/joint_states", **arm}}, **leader},
        "linear_speed": 0.1,
        "angular_speed": 1.0,
    }
    return from_mapping(JoyMapping, values, "test")


class Bench:
    """A leader of the right arm, and arms that execute what is asked for, one control step late as in the graph."""

    def __init__(self, mode: str, robot=SIM, **leader) -> None:
        self.operator = JoyOperator(mapping(mode, **leader), robot, silence_s=0.5)
        self.grip_limits = robot.joint_limits.get(robot.arms[1].gripper, (0.0, GRIP_RANGE_M))
        self.kinematics = build_kinematics(SIM)
        self.q = HOME.copy()
        self.poses = self.kinematics.forward(self.q)
        self.leader = HOME[7:].copy()
        self.leader[6] = 0.0
        self.now_s = 0.0
        self.commands = []
        self.pending = np.zeros(14)
        self.pad(0)

    def pad(self, enable: int) -> None:
        self.operator.accept((), [enable], self.now_s)

    def say(self, names=(*JOINTS, "gripper"), positions=None) -> None:
        positions = self.leader if positions is None else positions
        self.operator.motion.accept("right", names, positions, self.now_s)

    def run(self, steps: int, leader_speaks=True):
        for _ in range(steps):
            self.now_s += PERIOD_S
            self.operator.motion.executed(SIM.joint_names, self.q, self.now_s)
            if leader_speaks:
                self.say()
            self.pad(1)
            command = self.operator.command(self.now_s)
            self.commands.append(command)
            self._execute(self.pending)
            self.pending = command.action
        return self.commands[-1]

    def _execute(self, action: np.ndarray) -> None:
        self.poses = [
            (position + part[:3], rotation_matrix(part[3:6]) @ rotation)
            for (position, rotation), part in zip(self.poses, action.reshape(2, 7), strict=True)
        ]
        grips = np.clip(self.q[[6, 13]] + action[[6, 13]], *self.grip_limits)
        self.q = self.kinematics.inverse(self.q, self.poses, 5)
        self.q[[6, 13]] = grips

    def actions(self) -> np.ndarray:
        return np.array([command.action for command in self.commands])


def away(a, b) -> tuple[float, float]:
    """Distance in m and angle in rad between two poses."""
    return float(np.linalg.norm(a[0] - b[0])), float(np.linalg.norm(rotation_vector(a[1] @ b[1].T)))


def leader_pose(bench: Bench):
    q = HOME.copy()
    q[7:13] = bench.leader[:6]
    return bench.kinematics.forward(q)[1]


def test_a_clutch_starts_where_both_are_and_moves_by_what_the_leader_moves():
    bench = Bench("relative")
    bench.leader[:6] += [0.3, 0.2, -0.3, 0.0, 0.2, 0.5]
    start = bench.poses[1]
    assert bench.run(20).enabled
    assert not bench.actions().any(), "the leader lies elsewhere, but has not moved"
    before = leader_pose(bench)
    bench.leader[:6] += [0.03, 0.0, 0.02, 0.0, 0.0, 0.1]
    bench.run(60)
    after, moved = leader_pose(bench), bench.poses[1]
    np.testing.assert_allclose(moved[0] - start[0], after[0] - before[0], atol=2e-4)
    np.testing.assert_allclose(moved[1] @ start[1].T, after[1] @ before[1].T, atol=2e-3)
    assert not any(command.repositioning for command in bench.commands)
    assert not bench.actions()[:, :7].any(), "the other arm has no leader"


@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_no_step_is_larger_than_the_limit_however_fast_the_leader_is(mode):
    bench = Bench(mode)
    rng = np.random.default_rng(0)
    for _ in range(40):
        bench.leader[:6] = HOME[7:13] + rng.uniform(-0.4, 0.4, 6)
        bench.leader[6] = rng.uniform(-3, 3)
        bench.run(2)
    assert (np.abs(bench.actions()) <= SIM.step_limit + 1e-12).all()
    assert bench.actions().any()


def test_a_clutch_drops_what_is_beyond_the_lag():
    bench = Bench("relative", lag_translation=0.02)
    bench.run(2)
    bench.leader[0] += 0.5
    bench.run(100)
    assert away(bench.poses[1], leader_pose(bench))[0] > 0.1
    assert not np.abs(bench.actions()[-1]).max() > 1e-5, "it has come to rest nevertheless"


def test_an_absolute_leader_is_reached_on_a_marked_ramp_and_then_followed():
    bench = Bench("absolute")
    bench.leader[:6] += [0.2, 0.05, -0.1, 0.0, 0.1, 0.4]
    bench.leader[6] = GRIP_OPEN
    bench.run(150)
    assert not bench.commands[0].enabled, "it takes an executed step to know where the arms are"
    ramp = [command.repositioning for command in bench.commands[1:]]
    assert ramp[0]
    assert not ramp[-1]
    assert ramp == sorted(ramp, reverse=True), "one ramp, from the take-over to the leader's pose"
    ramped = bench.actions()[1:][np.array(ramp)]
    assert np.abs(ramped[:, 7:10]).max() <= 0.1 / 50 + 1e-12, "at the mapping's speed, not at the limit"
    distance, angle = away(bench.poses[1], leader_pose(bench))
    assert distance < 1e-3
    assert angle < 1e-2
    assert bench.q[13] == pytest.approx(GRIP_RANGE_M, abs=1e-3), "the gripper is scaled onto the robot's"
    bench.leader[0] += 0.02
    bench.run(40)
    assert away(bench.poses[1], leader_pose(bench))[0] < 1e-3
    assert not any(command.repositioning for command in bench.commands[-40:])


def test_a_leader_s_gripper_goes_from_end_to_end_of_what_the_robot_file_allows():
    limits = {SIM.arms[1].gripper: (0.01, 0.03)}
    bench = Bench("absolute", replace(SIM, joint_limits=limits))
    bench.leader[6] = GRIP_CLOSED
    bench.run(60)
    assert bench.q[13] == pytest.approx(0.01, abs=1e-6)
    assert not bench.commands[-1].repositioning, "the ramp has an end"
    bench.leader[6] = (GRIP_CLOSED + GRIP_OPEN) / 2
    bench.run(60)
    assert bench.q[13] == pytest.approx(0.02, abs=1e-6)


def test_an_arm_that_falls_far_behind_an_absolute_leader_ramps_again():
    bench = Bench("absolute")
    bench.run(30)
    assert not bench.commands[-1].repositioning
    bench.leader[0] += 0.4
    bench.run(2)
    assert bench.commands[-1].repositioning


def test_the_loop_neither_overshoots_nor_rings():
    bench = Bench("relative")
    bench.run(2)
    bench.leader[1] += 0.03
    bench.run(60)
    way = np.cumsum(bench.actions()[:, 7:10], axis=0) @ (leader_pose(bench)[0] - bench.kinematics.forward(HOME)[1][0])
    assert way.max() <= way[-1] * 1.05


@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_a_silent_leader_holds_until_the_button_was_let_go(mode):
    bench = Bench(mode)
    bench.run(5)
    bench.leader[0] += 0.1
    bench.run(5)
    silent = bench.run(12, leader_speaks=False)
    assert not silent.enabled
    assert not silent.action.any()
    assert "no leader/joint_states" in silent.reason
    assert not bench.run(5).enabled, "it is back, but the button was not let go"
    bench.pad(0)
    assert bench.run(2).enabled


def test_without_an_executed_step_nobody_knows_where_the_arms_are():
    bench = Bench("relative")
    bench.say()
    bench.pad(1)
    command = bench.operator.command(bench.now_s)
    assert not command.enabled
    assert "no executed step" in command.reason
    assert bench.run(1).enabled, "it waits, it does not give up"


@pytest.mark.parametrize(
    ("names", "positions", "why"),
    [
        (JOINTS[1:], [0.0] * 5, "no joint 'waist'"),
        (JOINTS, [0.0] * 6, "no joint 'gripper'"),
        ((*JOINTS, "gripper"), [0.0] * 6, "6 positions for 7 names"),
        ((*JOINTS, "gripper"), [0.0, 0.0, np.nan, 0.0, 0.0, 0.0, 0.0], "not finite for joint elbow"),
        ((*JOINTS, "gripper"), [0.0] * 6 + [np.inf], "not finite for joint gripper"),
    ],
)
def test_joint_states_that_do_not_fit_are_refused_and_hold(names, positions, why):
    bench = Bench("relative")
    assert bench.run(5).enabled
    with pytest.raises(MotionError, match=why):
        bench.say(names, positions)
    command = bench.operator.command(bench.now_s)
    assert not command.enabled
    assert why.split("'")[0] in command.reason


def test_names_may_come_in_any_order_with_others_between():
    bench = Bench("relative")
    bench.run(2)
    bench.leader[0] += 0.02
    mixed = dict(zip((*JOINTS, "gripper"), bench.leader, strict=True))
    names = ["left_finger", *reversed(mixed)]
    bench.say(names, [9.0, *(mixed[name] for name in names[1:])])
    assert bench.operator.command(bench.now_s).action[7:10].any()


def test_another_robots_steps_are_refused():
    bench = Bench("relative")
    with pytest.raises(MotionError, match="not those of sim"):
        bench.operator.motion.executed(["a"], [0.0], 0.0)


def test_a_leader_with_its_own_model(tmp_path):
    (tmp_path / "leader.xml").write_text(
        '<mujoco><worldbody><body><joint name="slide" type="slide" axis="0 0 1"/><geom size="0.1"/>'
        '<site name="tip"/></body></worldbody></mujoco>'
    )
    arm = {"topic": "t", "joints": ["slide"], "kinematics": "leader.xml", "tip": "tip"}
    values = {"device": "own", "buttons": {"enable": 0}, "motion": "leader", "leader": {"arms": {"left": arm}}}
    own = from_mapping(JoyMapping, {**values, "folder": str(tmp_path)}, "test")
    operator = JoyOperator(own, SIM, silence_s=0.5)
    operator.accept((), [0], 0.0)
    operator.accept((), [1], 0.1)
    for height, now_s in ((0.3, 0.1), (0.301, 0.12)):
        operator.motion.executed(SIM.joint_names, HOME, now_s)
        operator.motion.accept("left", ["slide"], [height], now_s)
        action = operator.command(now_s).action
    np.testing.assert_allclose(action[:7], [0, 0, 0.3e-3, 0, 0, 0, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("arm", "change", "why"),
    [
        ("third", {}, "no arm 'third'"),
        ("left", {"joints": JOINTS[:5]}, "5 joints for the 6"),
        ("left", {"kinematics": "none.xml", "tip": "tip"}, "none.xml"),
    ],
)
def test_a_mapping_that_does_not_fit_the_robot_is_an_error(arm, change, why):
    good = mapping("relative")
    leader = replace(good.leader, arms={arm: replace(good.leader.arms["right"], **change)})
    with pytest.raises(ParameterError, match=why):
        JoyOperator(replace(good, leader=leader), SIM, silence_s=0.5)
