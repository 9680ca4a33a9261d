"""Two simulated cells, each a graph in its own namespace, and the one learner they practise for: real processes."""

import json
import os
import signal
import time

import numpy as np
import pytest
import rclpy
from harness.untrained_run import prepare
from rclpy.node import Node

from rlt_bringup import security
from rlt_bringup.graph import GraphOptions, describe, resolve
from rlt_bringup.runner import GraphRunner
from rlt_common import topics
from rlt_common.config import load_robot
from rlt_common.episode_file import read_messages
from rlt_msgs.msg import EpisodeState, ExecutedAction, TrainingStatus
from rlt_rl_node.episode_store import EpisodeStore
from rlt_rl_node.records import EpisodeKey

CELLS = ("cell_a", "cell_b")
LIMIT_S = 420.0


class Scene(Node):
    """Listens to both cells."""

    def __init__(self, runners):
        super().__init__("scene")
        self.runners = runners
        self.status = {cell: TrainingStatus() for cell in CELLS}
        self.rl_steps = dict.fromkeys(CELLS, 0)
        for cell in CELLS:
            self.create_subscription(
                TrainingStatus,
                f"/{cell}/{topics.TRAINING_STATUS}",
                lambda message, c=cell: self.status.update({c: message}),
                topics.QOS_LATCHED,
            )
            self.create_subscription(
                ExecutedAction,
                f"/{cell}/{topics.EXECUTED_ACTION}",
                lambda message, c=cell: self.on_step(c, message),
                topics.QOS_STREAM,
            )

    def on_step(self, cell, message):
        self.rl_steps[cell] += message.source == ExecutedAction.SOURCE_RL

    def until(self, reached, what):
        end = time.monotonic() + LIMIT_S
        while not reached():
            assert time.monotonic() < end, f"no {what}: {self.status}, {self.rl_steps}"
            for runner in self.runners:
                runner.poll()
            rclpy.spin_once(self, timeout_sec=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both cells practise until RL drives each; the learner is killed on the way."""
    folder = tmp_path_factory.mktemp("two")
    task = prepare(folder)
    common = {"task": str(task), "checkpoint": str(folder / "vla"), "mode": "train"}
    robot_runs = ",".join(str(folder / cell) for cell in CELLS)
    resolved = [
        *(resolve(GraphOptions(run=str(folder / c), namespace=c, learner="shared", **common)) for c in CELLS),
        resolve(
            GraphOptions(
                run=str(folder / "both"), learner="alone", robots=",".join(CELLS), robot_runs=robot_runs, **common
            )
        ),
    ]
    graphs = [GraphRunner(describe(each), each.run / "log", each.options.namespace) for each in resolved]
    rclpy.init()
    learner, scene = graphs[-1], Scene(graphs)
    try:
        for graph in graphs:
            graph.start()
        scene.until(lambda: all(s.last_episode_id >= 1 for s in scene.status.values()), "first episodes")
        check_interfaces(scene, describe(resolved[-1])[0], load_robot(resolved[-1].robot_file))
        os.kill(learner.pid("rl_learner"), signal.SIGKILL)
        scene.until(lambda: learner.restarts("rl_learner"), "learner again")
        scene.until(lambda: all(scene.rl_steps.values()), "steps of RL in both cells")
        scene.until(lambda: all(s.last_episode_id >= 2 for s in scene.status.values()), "two episodes of each")
        yield folder
    finally:
        for graph in graphs:
            graph.stop()
        scene.destroy_node()
        rclpy.shutdown()


def check_interfaces(scene, node, robot):
    """The learner of several robots uses what the security table says."""
    own = security.interfaces(node, robot)
    for what, names in (("publisher", own.publish), ("subscriber", own.subscribe)):
        expected = {name if name.startswith("/") else f"/{name}" for name in names}

        def seen(what=what):
            found = getattr(scene, f"get_{what}_names_and_types_by_node")("rl_learner", "/")
            return {name for name, _ in found}

        scene.until(lambda seen=seen, expected=expected: seen() == expected, f"{what}s as the table has them")


@pytest.mark.timeout(1200)
def test_each_cell_s_episodes_are_taken_in_once_as_its_own_files_have_them(folder):
    order = [json.loads(line) for line in (folder / "both" / "order.jsonl").read_text().splitlines()]
    taken = [(line["robot"], line["episode"]) for line in order]
    assert len(set(taken)) == len(taken)
    store = EpisodeStore(folder / "both" / "encoded")
    for cell in CELLS:
        ids = [episode_id for robot, episode_id in taken if robot == cell]
        assert ids == sorted(ids)
        assert len(ids) >= 2
        for episode_id in ids[:-1]:  # the recorder may still be writing the last one
            kept = store.load(EpisodeKey(episode_id, cell))
            messages = read_messages(folder / cell / "episodes" / f"{episode_id:06d}.mcap", [topics.EXECUTED_ACTION])
            steps = [entry.message for entry in messages if entry.message.phase == EpisodeState.PHASE_CRITICAL]
            np.testing.assert_array_equal(kept.actions, np.array([step.action for step in steps], np.float32))
            assert kept.steps.tolist() == [step.step for step in steps]


def test_both_are_driven_by_the_one_learner(folder):
    assert not list(folder.glob("cell_*/checkpoints/*"))
    assert list((folder / "both" / "checkpoints").glob("e*"))
    lines = [json.loads(line) for line in (folder / "both" / "metrics.jsonl").read_text().splitlines()]
    assert {line["robot"] for line in lines} == set(CELLS)
