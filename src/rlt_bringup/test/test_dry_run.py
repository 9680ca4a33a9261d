"""The first day: no VLA yet, `mode:=dry_run`. A person moves arms that are never commanded, with every real process."""

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from harness.untrained_run import on_a_timer
from human_scene import playing

from rlt_bringup.graph import GraphOptions, config_file, describe, resolve
from rlt_bringup.healthcheck import complaints, expected
from rlt_common import topics
from rlt_common.config import load_robot
from rlt_msgs.msg import EpisodeState, ExecutedAction

STEPS = 100


def observations(health):
    """How many camera_ingest has published."""
    return int({value.key: value.value for value in health["camera_ingest"].values}["observations"])


@pytest.mark.timeout(300)
def test_a_dry_run_before_there_is_a_vla_shows_cameras_states_operator_and_limits(tmp_path):
    robot_file = on_a_timer(tmp_path, state_timeout_s=1.0)  # patience for a slow machine
    values = yaml.safe_load(config_file("tasks", "screw").read_text(encoding="utf-8"))
    # A sensor has noise; the simulator's images are the very same while nothing moves.
    values["nodes"] = {"camera_ingest": {"frozen_images": 0}, "joy_operator": {"silence_s": 1.0}}
    values["max_base_steps"] = 3000
    task = tmp_path / "task.yaml"
    task.write_text(yaml.safe_dump(values), encoding="utf-8")
    options = {"task": str(task), "robot": str(robot_file), "operator": "human", "joy": "keyboard"}
    resolved = resolve(GraphOptions(mode="dry_run", run=str(tmp_path / "run"), **options))
    robot, health = load_robot(robot_file), {}
    with playing(resolved) as scene:
        person = scene.person

        def take(message):
            health.update({status.name: status for status in message.status})

        person.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, take, topics.QOS_CONTROL)
        nodes = expected(describe(resolved))
        scene.until(lambda: complaints(nodes, health) == [], "every node to be well")
        scene.until(lambda: observations(health) > 0 and person.joints.position, "observations and states")
        scene.press("next_episode", lambda: person.state.phase == EpisodeState.PHASE_BASE, "the episode")
        assert person.state.human_in_control
        person.forward = 0.55
        scene.drive(1)  # the scene is reset, and its joints heard
        before = np.array(person.joints.position)
        scene.drive(STEPS)
        nothing = f"nothing is sent to the arms; no VLA in {tmp_path / 'run' / 'vla'}"

        def warned():
            status = health["chunk_executor"]
            return status.level == DiagnosticStatus.WARN and nothing in status.message

        scene.until(warned, "the executor to say that nothing is sent")
    driven = [message for message in person.executed if message.source == ExecutedAction.SOURCE_HUMAN]
    assert all(message.dry_run for message in person.executed)
    moved = np.abs(np.sum([message.action for message in driven], axis=0)).max()
    assert moved > 2 * robot.limits.leash_translation, "the leash is no limit of arms that are taken to follow"
    np.testing.assert_allclose(person.joints.position, before, atol=1e-3)
    assert not (tmp_path / "run" / "episodes").exists()
