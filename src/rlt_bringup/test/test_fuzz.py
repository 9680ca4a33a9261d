"""Hostile messages through the real nodes' handlers, in small; `make bench-fuzz` sends 100,000 per type."""

import gc
import random
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import rclpy
from harness import fuzzing
from harness.hostile import Hostile, broken_cdr
from harness.motion_judge import MotionJudge
from harness.untrained_run import on_a_timer
from rclpy.node import Node
from rclpy.serialization import serialize_message

from rlt_common import topics
from rlt_common.kinematics import build_kinematics
from rlt_control import chunk_executor_node
from rlt_control.arms import motion_limits
from rlt_control.delta_pose import DeltaPoseIntegrator
from rlt_msgs.msg import ActionChunk, EpisodeState
from rlt_teleop.episode_manager_node import EpisodeManagerNode

COUNT = 60


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Nodes of the graph by name, and the valid messages of their run."""
    run = tmp_path_factory.mktemp("fuzz")
    every, _, valid = fuzzing.graph_nodes(run)
    return {spec.name: spec for spec in reversed(every)}, valid


@pytest.fixture(scope="module")
def equipped(tmp_path_factory):
    """Nodes of a robot that has everything, and their valid messages."""
    return fuzzing.equipped_nodes(tmp_path_factory.mktemp("equipped"))


def test_every_node_of_the_graph_is_fuzzed(world):
    nodes, _ = world
    assert set(nodes) == set(fuzzing.NODES)


def test_every_subscription_has_a_valid_message_to_begin_with(world):
    nodes, valid = world
    findings = fuzzing.campaign([nodes["recorder"], nodes["chunk_executor"]], valid, 1, 0, lambda _: None)
    names = {topic for _, topic in findings.tallies} - {"timers and idle work"}
    assert names - set(valid.of_episode(1)) == {f"{topics.SERVICE_ESTOP} service", topics.SERVICE_RESET_ESTOP}


def test_every_type_that_a_robot_a_device_or_a_person_s_node_takes_is_fuzzed(world, equipped):
    every = [*world[0].values()]
    kinds = set()
    for specs, valid in ((every, world[1]), equipped):
        kinds |= fuzzing.types_of(specs, valid)
    assert {
        "geometry_msgs/msg/Twist",
        "geometry_msgs/msg/WrenchStamped",
        "geometry_msgs/msg/PoseStamped",
        "sensor_msgs/msg/CompressedImage",
        "sensor_msgs/msg/JointState",
        "diagnostic_msgs/msg/DiagnosticArray",
        "diagnostic_msgs/msg/DiagnosticStatus",
        "rlt_msgs/action/RunEpisodes_Goal",
        "rlt_msgs/srv/Estop",
    } <= kinds


def test_parts_together_send_what_one_process_would(world):
    specs = [world[0][name] for name in ("recorder", "auto_handoff", "operator_page")]
    whole = fuzzing.campaign(specs, world[1], 30, 0, lambda _: None)
    parts = fuzzing.Findings()
    for k in range(2):
        parts.add(fuzzing.campaign(specs, world[1], 30, 0, lambda _: None, part=(k, 2)))
    assert {key: t.sent for key, t in parts.tallies.items()} == {key: t.sent for key, t in whole.tallies.items()}
    assert parts.types() == whole.types()


@pytest.mark.parametrize("number", range(4))
def test_nor_the_nodes_of_a_robot_with_every_sensor_and_of_other_devices(equipped, number):
    specs, valid = equipped
    findings = fuzzing.campaign(specs[number : number + 1], valid, COUNT, 11, lambda _: None)
    assert not findings.crashes, next(iter(findings.examples.values()))
    assert not findings.violations


def ticking(world, tmp_path, how):
    """The executor in lockstep or on its own timer."""
    spec = world[0]["chunk_executor"]
    return spec if how == "lockstep" else fuzzing.ticking_by_itself(spec, on_a_timer(tmp_path))


@pytest.mark.parametrize("how", ["lockstep", "timer"])
def test_hostile_messages_meet_arms_that_chunks_and_humans_drive_into_their_limits(world, tmp_path, how):
    spec, findings, enough = ticking(world, tmp_path, how), fuzzing.Findings(), False
    tries = 1 if how == "lockstep" else 8  # the fewer steps of a timer fall among the messages, the busier the machine
    while tries and not enough:
        tries -= 1
        findings.add(fuzzing.campaign([spec], world[1], COUNT, 5 + tries, lambda _: None))
        enough = min(findings.steps[name] for name in ("VLA", "RL", "HUMAN", "clamped")) >= 5
    assert enough, findings.steps
    assert findings.steps["HOLD"] < 4 * (findings.steps["VLA"] + findings.steps["RL"] + findings.steps["HUMAN"])


@pytest.mark.parametrize("how", ["lockstep", "timer"])
def test_an_executor_without_limits_is_found_out(world, tmp_path, how, monkeypatch):
    def limitless(robot):
        kinematics = build_kinematics(robot)
        limits = motion_limits(robot, kinematics)
        everywhere = tuple(((-10.0,) * 3, (10.0,) * 3) for _ in robot.arms)
        loose = {"step_position": 10.0, "step_rotation": 3.0, "leash_position": 10.0, "leash_rotation": 3.0}
        limits = replace(limits, workspace=everywhere, joint_velocity=1e4, **loose)
        return DeltaPoseIntegrator(kinematics, tuple(arm.gripper for arm in robot.arms), limits)

    monkeypatch.setattr(chunk_executor_node, "build_integrator", limitless)
    findings = fuzzing.campaign([ticking(world, tmp_path, how)], world[1], 16 * COUNT, 5, lambda _: None)
    assert any("velocity limit" in words or "beyond the step limit" in words for words in findings.violations)


def test_motion_is_judged_from_what_was_commanded_or_measured_before(world):
    robot = world[1].robot
    judge, home = MotionJudge(robot), world[1].home
    far = home.copy()
    far[7] += 0.5
    assert judge.fault(home) == ""
    assert judge.fault(far) == "the right arm faster than its joints' velocity limit"
    judge.forget()
    judge.measured(far)
    assert judge.fault(far) == "", "a hold where the arms were said to be"
    judge.forget()
    kinematics = build_kinematics(robot)
    (at, facing), right = kinematics.forward(home)
    outside = kinematics.inverse(home, [(at + np.array([0.0, 0.0, 0.2]), facing), right], 40)
    faults, q = [], home
    while np.abs(outside - q).max() > 1e-6 and len(faults) < 30:
        q = q + np.clip(outside - q, -0.1, 0.1)
        faults.append(judge.fault(q))
    assert "the left tool further out of its workspace than before" in faults


@pytest.mark.parametrize("name", sorted(fuzzing.NODES))
def test_no_hostile_message_ends_a_node_or_moves_an_arm_beyond_its_limits(world, name):
    nodes, valid = world
    findings = fuzzing.campaign([nodes[name]], valid, COUNT, 7, lambda _: None)
    assert not findings.crashes, next(iter(findings.examples.values()))
    assert not findings.violations
    sent = Counter()
    for tally in findings.tallies.values():
        sent[tally.type] += tally.sent
    del sent[""]  # timers
    assert min(sent.values()) >= COUNT


def test_nor_the_executor_that_ticks_by_its_own_clock(world, tmp_path):
    nodes, valid = world
    spec = fuzzing.ticking_by_itself(nodes["chunk_executor"], on_a_timer(tmp_path))
    findings = fuzzing.campaign([spec], valid, COUNT, 3, lambda _: None)
    assert not findings.crashes, next(iter(findings.examples.values()))
    assert not findings.violations
    assert findings.published["chunk_executor commands"] > 0


def test_a_fuzzed_node_leaves_the_graph(world):
    """Else a later test, or the graph over DDS, would meet a node and an action server that nobody spins."""
    nodes, valid = world
    fuzzing.campaign([nodes["episode_manager"]], valid, COUNT, 5, lambda _: None)
    rclpy.init()
    try:
        probe = Node("probe")
        # What is there is known at once; what has left is gone within a participant's lease.
        end = time.monotonic() + 30.0
        while "episode_manager" in probe.get_node_names() and time.monotonic() < end:
            time.sleep(0.1)
        found = probe.get_node_names()
        others = [w for w in gc.get_objects() if isinstance(w, EpisodeManagerNode)]
        probe.destroy_node()
    finally:
        rclpy.shutdown()
    assert "episode_manager" not in found
    assert others == []


def test_the_judge_sees_what_must_not_be_published(world):
    _, valid = world
    findings = fuzzing.Findings()
    judge = fuzzing.Judge(valid.robot, findings)
    good = valid.of_episode(1)
    command = good[valid.robot.command_topics[0]]
    assert judge.fault(valid.robot.command_topics[0], command) == ""
    for bad in (np.nan, 100.0):
        command.data[3] = bad
        assert judge.fault(valid.robot.command_topics[0], command)
    executed = good[topics.EXECUTED_ACTION]
    assert judge.fault(topics.EXECUTED_ACTION, executed) == ""
    executed.action[0] = 2 * valid.robot.limits.step_translation
    assert "step limit" in judge.fault(topics.EXECUTED_ACTION, executed)
    chunk = good[topics.ACTION_CHUNK]
    chunk.actions[0] = float("inf")
    judge.publish("rl_policy", topics.ACTION_CHUNK, chunk)
    assert findings.violations.total() == 1


def test_equal_seeds_make_equal_messages_and_others_differ(world):
    _, valid = world
    good = valid.of_episode(3)[topics.EPISODE_STATE]

    def drawn(seed):
        source = Hostile(seed)
        return [str(source.message(good)) for _ in range(50)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1).count(str(good)) < 10


def test_a_valid_message_is_left_as_it_was(world):
    _, valid = world
    good = valid.of_episode(1)[topics.ACTION_CHUNK]
    before = str(good)
    source = Hostile(0)
    for _ in range(200):
        source.message(good)
    assert str(good) == before


def test_the_generator_reaches_every_kind_of_damage(world):
    _, valid = world
    good = valid.of_episode(1)[topics.ACTION_CHUNK]
    source = Hostile(4)
    seen = [source.message(good) for _ in range(600)]
    assert any(not np.isfinite(m.actions).all() for m in seen)
    assert any(len(m.actions) != len(good.actions) for m in seen)
    assert any(m.source > ActionChunk.SOURCE_RL for m in seen)
    assert any(m.episode_id > good.episode_id for m in seen)
    assert any(m.header.stamp.sec < 0 for m in seen)
    states = [source.message(valid.of_episode(1)[topics.EPISODE_STATE]) for _ in range(600)]
    assert any(m.phase > EpisodeState.PHASE_ESTOP for m in states)
    assert any("passwd" in m.start_in for m in states)


def test_broken_bytes_are_cut_grown_and_no_text():
    rng = random.Random(0)
    cdr = serialize_message(EpisodeState(task="screw", reason="because"))
    broken = [broken_cdr(cdr, rng) for _ in range(300)]
    assert {len(b) < len(cdr) for b in broken} == {True, False}
    assert any(len(b) > len(cdr) for b in broken)
    assert any(b"\xff" in b for b in broken)
