"""A leader arm drives the simulated arm through the real joystick node and executor."""

import numpy as np
import pytest
import yaml
from human_scene import playing
from sensor_msgs.msg import JointState

from rlt_bringup.graph import GraphOptions, config_file, resolve
from rlt_common.config import load_robot
from rlt_common.kinematics import build_kinematics
from rlt_common.rotations import rotation_vector
from rlt_msgs.msg import EpisodeState, ExecutedAction

ROBOT = load_robot(config_file("robots", "sim"))
LEFT = ROBOT.arms[0]
TOPIC = "leader_left/joint_states"
LEADER_JOINTS = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"]
HUMAN = ExecutedAction.SOURCE_HUMAN


def files(folder):
    """A mapping with one absolute leader, and the screw with time for a slow machine."""
    mapping = yaml.safe_load(config_file("joy", "aloha_leaders").read_text())
    arm = {k: v for k, v in mapping["leader"]["arms"]["left"].items() if not k.startswith("gripper")}
    mapping["leader"] = {"mode": "absolute", "timeout_s": 2.0, "arms": {"left": arm}}
    task = yaml.safe_load(config_file("tasks", "screw").read_text())
    task["max_base_steps"] = 20_000
    task["nodes"]["joy_operator"] = {"silence_s": 5.0}
    for name, values in (("leader", mapping), ("task", task)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "leader.yaml"), str(folder / "task.yaml")


@pytest.mark.timeout(400)
def test_the_arm_ramps_onto_the_leader_s_pose_in_marked_steps_and_follows_it(tmp_path):
    joy, task = files(tmp_path)
    options = GraphOptions(
        task=task, run=str(tmp_path / "run"), mode="collect", operator="human", joy=joy, record=False
    )
    with playing(resolve(options)) as scene:
        person = scene.person
        scene.press("next_episode", lambda: person.state.phase == EpisodeState.PHASE_BASE, "the episode")
        scene.until(lambda: person.joints.name and person.executed, "the arms' joints")
        start = dict(zip(person.joints.name, person.joints.position, strict=True))
        leader = np.add([start[name] for name in LEFT.joints], [0.06, 0.03, -0.03, 0.0, 0.05, 0.1])
        person.leaders[TOPIC] = JointState(name=LEADER_JOINTS, position=leader.tolist())
        scene.until(
            lambda: TOPIC in person.leading and person.leading[TOPIC].get_subscription_count(), "a matched leader"
        )
        # Taking over before the leader has been heard holds the arms until the button was let go.
        scene.press("enable", lambda: any(m.source == HUMAN for m in person.executed), "the leader's first step")
        person.held.add("enable")
        scene.steps(HUMAN, 5)
        assert person.commands[-1].repositioning, "on the ramp"
        scene.until(
            lambda: person.commands[-1].enabled and not person.commands[-1].repositioning, "the end of the ramp"
        )
        leader[0] -= 0.02
        person.leaders[TOPIC] = JointState(name=LEADER_JOINTS, position=leader.tolist())
        scene.until(lambda: arrived(person.executed[-1], leader), "the leader's new pose")
        assert not any(command.repositioning for command in person.commands[-3:])
        human = np.array([m.action for m in person.executed if m.source == HUMAN])
        assert (np.abs(human) <= ROBOT.step_limit + 1e-7).all()
        assert not human[:, 7:].any(), "the right arm has no leader"


def arrived(message: ExecutedAction, leader: np.ndarray) -> bool:
    """Whether the arm was told to be where the leader is, to a millimetre and half a degree."""
    kinematics = build_kinematics(ROBOT)
    q = np.array(message.joint_target)
    target = q.copy()
    target[[ROBOT.joint_names.index(name) for name in LEFT.joints]] = leader
    at, wanted = kinematics.forward(q)[0], kinematics.forward(target)[0]
    distance, turn = wanted[0] - at[0], rotation_vector(wanted[1] @ at[1].T)
    return bool(np.linalg.norm(distance) < 1e-3 and np.linalg.norm(turn) < 1e-2)
