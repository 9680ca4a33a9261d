"""One learner process for two robots in namespaces of their own, over real DDS."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rclpy
import torch
from rclpy.serialization import serialize_message
from rl_graph import CHUNK, Graph, episode_data, episode_messages, episode_state, task_shape, write_files

from rlt_common import topics
from rlt_common.config import learning_hash, load_robot, load_task
from rlt_common.episode_file import EpisodeWriter
from rlt_msgs.msg import ControlState, EpisodeState, Relabel
from rlt_rl_node.actor_codec import pack
from rlt_rl_node.agent import AgentConfig
from rlt_rl_node.budget import BudgetConfig
from rlt_rl_node.episode_store import EpisodeStore, trimmed
from rlt_rl_node.learner import Learner, LearnerConfig
from rlt_rl_node.records import EpisodeData, EpisodeKey, Label
from rlt_rl_node.take_in_order import TakeInOrder

CELLS = ("cell_a", "cell_b")
BUDGET = BudgetConfig(warmup_episodes=3, min_transitions=10, initial_updates=20, updates_per_transition=1.0)
SETTINGS = {
    "run_seed": 6,
    "checkpoint_every": 3,
    "assembly_timeout_s": 600.0,
    "agent.hidden": [16, 16],
    "agent.batch_size": 8,
    **{f"budget.{name}": getattr(BUDGET, name) for name in ("warmup_episodes", "min_transitions", "initial_updates")},
}


@pytest.fixture(scope="module", autouse=True)
def _ros() -> Iterator[None]:
    torch.set_num_threads(1)
    rclpy.init()
    yield
    rclpy.shutdown()


class Cells:
    """Two robots and the process of their learner. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._stack = folder, ExitStack()
        self.files = write_files(folder)
        self.config_hash = learning_hash(load_robot(self.files["robot"]), load_task(self.files["task"]))

    def __enter__(self) -> Cells:
        self.learner = self._stack.enter_context(Graph(self.folder))
        self.a, self.b = (
            self._stack.enter_context(Graph(self.folder, f"{self.learner.namespace}/{cell}")) for cell in CELLS
        )
        self.names = [cell.namespace.strip("/") for cell in (self.a, self.b)]
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)

    def start(self, **changes: object):
        """The learner, heard by both cells."""
        runs = [str(self.folder / cell) for cell in CELLS]
        parameters = {
            **self.files,
            **SETTINGS,
            "run_directory": str(self.folder / "run"),
            "robots": ["cell_a", self.b.namespace],  # one relative, one absolute
            "run_directories": runs,
            **changes,
        }
        process = self.learner.run("rl_learner", parameters)
        wanted = (topics.EXECUTED_ACTION, topics.VLA_OUTPUT, topics.EPISODE_STATE, topics.CONTROL_STATE)
        for cell in (self.a, self.b):
            cell.spin_until(lambda c=cell: all(c.connected(topic) for topic in wanted), "the learner node")
        return process

    def said(self, data: EpisodeData, **state: object) -> list:
        """All that a cell says of an episode."""
        ended = ControlState(
            episode_id=data.episode_id, epoch=2, phase=EpisodeState.PHASE_LABELLED, step=int(data.steps[-1]) + 1
        )
        spoken = episode_messages(data, **{"config_hash": self.config_hash, **state})
        return [*spoken, (topics.CONTROL_STATE, ended)]

    def play(self, cell: Graph, data: EpisodeData, **state: object) -> None:
        for topic, message in self.said(data, **state):
            cell.publish(topic, message)

    def taken_in(self, cell: Graph, episode_id: int) -> None:
        cell.spin_until(
            lambda: cell.status.last_episode_id >= episode_id and not cell.status.busy, f"episode {episode_id}"
        )


def practised(cell: str, episode_id: int, label: Label = Label.SUCCESS) -> EpisodeData:
    """What the cells practise under one number differs in every value."""
    data = episode_data(1000 * (CELLS.index(cell) + 1) + episode_id, 20 + 2 * episode_id, label)
    return replace(data, episode_id=episode_id)


def expected_actor(cells: Cells, corrected: Sequence[str] = ()) -> bytes:
    """The actor of a learner in this process that does the same in the same order, as the run's file tells it."""
    config = LearnerConfig(6, agent=AgentConfig(hidden=(16, 16), batch_size=8), budget=BUDGET)
    learner = Learner(task_shape(), config)
    events = TakeInOrder(cells.folder / "run" / "order.jsonl").read(print)
    for event in events:
        name = event.key.robot
        if event.correction:
            assert event.correction.label is Label.DISCARD
            learner.relabel(event.correction, None, name)
            continue
        data = practised(CELLS[cells.names.index(name)], event.key.episode_id)
        learner.add_episode(replace(trimmed(data, CHUNK), robot=name))
        while learner.owed:
            learner.run_updates(100)
        if learner.ready:
            learner.release()
    return pack(learner.policy())


def write_journal(folder: Path, cells: Cells, data: EpisodeData, **state: object) -> None:
    path = folder / "episodes" / f"{data.episode_id:06d}.mcap"
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = EpisodeWriter(path)
    for i, (topic, message) in enumerate(cells.said(data, **state)[:-1]):
        writer.write(topic, f"rlt_msgs/msg/{type(message).__name__}", serialize_message(message), i)
    writer.finish({"episode_id": str(data.episode_id)})


def same_actor(cells: Cells, version: int) -> bytes:
    for cell in (cells.a, cells.b):
        cell.spin_until(lambda c=cell: c.actors and c.actors[-1].version == version, f"actor {version}")
    assert bytes(cells.a.actors[-1].data) == bytes(cells.b.actors[-1].data)
    return bytes(cells.a.actors[-1].data)


@pytest.mark.timeout(400)
def test_both_robots_make_one_actor_and_a_killed_learner_resumes_both_to_the_same_bits(tmp_path):
    with Cells(tmp_path) as cells:
        process = cells.start()
        for episode_id in (1, 2):  # both at once, message by message
            pairs = zip(*(cells.said(practised(cell, episode_id)) for cell in CELLS), strict=True)
            for (topic_a, message_a), (topic_b, message_b) in pairs:
                cells.a.publish(topic_a, message_a)
                cells.b.publish(topic_b, message_b)
            for cell in (cells.a, cells.b):
                cells.taken_in(cell, episode_id)
        for cell in (cells.a, cells.b):
            cell.spin_until(lambda c=cell: c.status.episodes == 4, "the episodes of both")
        store = EpisodeStore(tmp_path / "run" / "encoded")
        for cell, name in zip(CELLS, cells.names, strict=True):
            for episode_id in (1, 2):  # no step lost, none mixed
                kept, true = store.load(EpisodeKey(episode_id, name)), trimmed(practised(cell, episode_id), CHUNK)
                for field, values in vars(replace(true, robot=name)).items():
                    np.testing.assert_array_equal(getattr(kept, field), values, err_msg=f"{kept.key} {field}")
        assert same_actor(cells, 2) == expected_actor(cells)

        # cell_b corrects its episode 1; cell_a's stays. Then cell_b goes on alone: what is silent holds nothing up.
        held = cells.b.status.transitions
        relabel = Relabel(sequence=1, episode_id=1, label=int(Label.DISCARD), after_episode=2)
        cells.b.publish(topics.RELABEL, relabel)
        gone = len(practised("cell_b", 1).encoded_steps)
        cells.b.spin_until(lambda: cells.b.status.transitions == held - gone, "cell_b's episode 1 to leave the replay")
        cells.play(cells.b, practised("cell_b", 3))
        cells.taken_in(cells.b, 3)
        assert cells.a.status.last_episode_id == 2
        before = same_actor(cells, 3)
        assert before == expected_actor(cells)

        # Killed after the checkpoint of three episodes; meanwhile cell_a ends one that only its journal has.
        cells.learner.stop(process, signal.SIGKILL)
        write_journal(tmp_path / "cell_a", cells, practised("cell_a", 3))
        for cell in (cells.a, cells.b):
            cell.actors.clear()
            cell.status.last_episode_id = 0
        cells.start()
        cells.taken_in(cells.a, 3)
        cells.taken_in(cells.b, 3)
        assert same_actor(cells, 4) == expected_actor(cells)
        done = [
            (event.key.robot.rpartition("/")[2], event.key.episode_id, bool(event.correction))
            for event in TakeInOrder(tmp_path / "run" / "order.jsonl").read(print)
        ]
        assert done[4:] == [("cell_b", 1, True), ("cell_b", 3, False), ("cell_a", 3, False)]
        lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert {(line["robot"], line["episode"]) for line in lines} == {
            *((cells.names[0], i) for i in (1, 2, 3)),
            *((cells.names[1], i) for i in (1, 2, 3)),
        }


@pytest.mark.timeout(400)
def test_a_robot_of_another_task_is_refused_alone_until_it_has_the_right_one(tmp_path):
    with Cells(tmp_path) as cells:
        cells.start(**{"budget.warmup_episodes": 1, "budget.min_transitions": 1})
        first = practised("cell_b", 1)
        cells.b.publish(topics.EPISODE_STATE, episode_state(first, False, config_hash="f" * 16))
        words = "its robot and task files give ffffffffffffffff"
        cells.b.spin_until(lambda: words in cells.b.status.message, "the refusal")
        assert "task: name, instruction" in cells.b.status.message
        cells.play(cells.b, first, config_hash="f" * 16)
        cells.play(cells.a, practised("cell_a", 1))
        cells.taken_in(cells.a, 1)
        assert not cells.a.status.message
        cells.a.spin_until(lambda: cells.a.actors, "the actor of cell_a")
        cells.learner.spin_until(lambda: cells.learner.health.get("rl_learner", (0,))[0] == 1, "a warning")
        assert cells.b.status.last_episode_id == 0
        assert not (tmp_path / "run" / "encoded" / cells.names[1]).exists()
        assert not cells.b.actors

        # Its manager is started again, with the right files.
        idle = episode_state(first, False, phase=EpisodeState.PHASE_IDLE, config_hash=cells.config_hash)
        cells.b.publish(topics.EPISODE_STATE, idle)
        cells.b.spin_until(lambda: not cells.b.status.message, "cell_b to fit")
        cells.play(cells.b, practised("cell_b", 2))
        cells.taken_in(cells.b, 2)
        cells.b.spin_until(lambda: cells.b.actors, "the actor of cell_b")
        assert EpisodeStore(tmp_path / "run" / "encoded").load(EpisodeKey(2, cells.names[1])).key.episode_id == 2

        # Started again on an empty run directory it counts from 1: said, and nothing is mixed.
        cells.play(cells.b, practised("cell_b", 1))
        cells.b.spin_until(lambda: "one of that number was taken in before" in cells.b.status.message, "the word of it")
        assert not (tmp_path / "run" / "encoded" / cells.names[1] / "000001.safetensors").exists()


@pytest.mark.timeout(400)
def test_one_that_waits_for_its_parts_or_has_another_task_s_journal_holds_up_no_other(tmp_path):
    with Cells(tmp_path) as cells:
        write_journal(tmp_path / "cell_b", cells, practised("cell_b", 1), config_hash="f" * 16)
        cells.start()
        cells.b.spin_until(lambda: cells.b.status.last_episode_id == 1, "the foreign journal to be passed over")
        assert "its journal" in (tmp_path / "rl_learner.log").read_text()
        *parts, last = cells.said(practised("cell_b", 2))
        for topic, message in parts:
            cells.b.publish(topic, message)
        cells.b.spin_until(lambda: "waits for the executor's word" in cells.b.status.message, "cell_b to wait")
        assert cells.b.status.busy
        for episode_id in (1, 2):
            cells.play(cells.a, practised("cell_a", episode_id))
            cells.taken_in(cells.a, episode_id)
        cells.b.publish(*last)
        cells.taken_in(cells.b, 2)
        assert cells.b.status.episodes == 3
        wrong = Relabel(sequence=0, episode_id=2, label=int(Label.FAILURE), after_episode=2)
        cells.b.publish(topics.RELABEL, wrong)
        cells.b.spin_until(lambda: "no sequence number" in cells.b.status.message, "nonsense to be refused")
        assert not cells.a.status.message
