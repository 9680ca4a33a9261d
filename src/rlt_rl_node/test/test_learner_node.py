"""The learner node over real DDS: episodes in, actors out, killed and resumed to the same bits."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rclpy
import torch
from rl_graph import (
    DIM,
    HASH,
    Graph,
    episode_data,
    episode_messages,
    episode_state,
    task_shape,
    vla_output,
    write_files,
    write_journal,
)

from rlt_common import topics
from rlt_common.config import load_task
from rlt_common.metrics_log import lasting, read_metrics
from rlt_msgs.msg import EpisodeState, Relabel, TrainingStatus
from rlt_msgs.srv import SaveCheckpoint
from rlt_rl_node import checkpoint, messages
from rlt_rl_node.actor_codec import pack, unpack
from rlt_rl_node.agent import AgentConfig
from rlt_rl_node.budget import BudgetConfig
from rlt_rl_node.episode_assembly import EpisodeAssembly
from rlt_rl_node.episode_store import EpisodeStore, trimmed
from rlt_rl_node.learner import Learner, LearnerConfig
from rlt_rl_node.records import EpisodeData, Label

SEED = 6
SETTINGS = {
    "run_seed": SEED,
    "checkpoint_every": 2,
    "assembly_timeout_s": 1.0,
    "agent.hidden": [16, 16],
    "agent.batch_size": 8,
    "budget.warmup_episodes": 2,
    "budget.min_transitions": 10,
    "budget.initial_updates": 20,
    "budget.updates_per_transition": 1.0,
}
EPISODES = {
    i: episode_data(i, 20 + 2 * i, label)
    for i, label in enumerate([Label.SUCCESS, Label.FAILURE, Label.TIMEOUT, Label.SUCCESS, Label.SUCCESS], start=1)
}


@pytest.fixture(scope="module", autouse=True)
def _ros() -> Iterator[None]:
    torch.set_num_threads(1)
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Graph]:
    """One learner in warm-up for the tests that only watch what it takes in. Each test uses the next episode ids."""
    with Graph(tmp_path_factory.mktemp("learner")) as graph:
        start(graph, **{"budget.warmup_episodes": 1000})
        yield graph


_ids = itertools.count(1)


def next_episode(**changes: object) -> EpisodeData:
    return episode_data(next(_ids), **changes)


def parameters(folder: Path, **changes: object) -> dict[str, object]:
    return {**write_files(folder), "run_directory": str(folder / "run"), **SETTINGS, **changes}


def start(graph: Graph, **changes: object):
    graph.status = TrainingStatus()
    process = graph.run("rl_learner", parameters(graph.folder, **changes))
    wanted = (topics.EXECUTED_ACTION, topics.VLA_OUTPUT, topics.EPISODE_STATE, topics.CONTROL_STATE)
    graph.spin_until(lambda: all(graph.connected(topic) for topic in wanted), "the learner node")
    return process


def taken_in(graph: Graph, episode_id: int) -> None:
    graph.spin_until(
        lambda: graph.status.last_episode_id >= episode_id and not graph.status.busy, f"episode {episode_id}"
    )


def new_learner() -> Learner:
    """A learner in this process with the settings of the node's."""
    config = LearnerConfig(
        SEED,
        agent=AgentConfig(hidden=(16, 16), batch_size=8),
        budget=BudgetConfig(warmup_episodes=2, min_transitions=10, initial_updates=20, updates_per_transition=1.0),
    )
    return Learner(task_shape(), config)


def expected_actor(last: int) -> bytes:
    """The actor of a learner in this process that takes in the same episodes, each followed by its updates."""
    learner = new_learner()
    for episode_id in range(1, last + 1):
        learner.add_episode(trimmed(EPISODES[episode_id], 4))
        while learner.owed:
            learner.run_updates(100)
        if learner.ready:
            learner.release()
    return pack(learner.policy())


def test_episodes_become_actors_and_a_killed_learner_resumes_to_the_same_bits(tmp_path):
    with Graph(tmp_path) as graph:
        process = start(graph)
        graph.play(EPISODES[1])
        taken_in(graph, 1)
        assert (graph.status.stage, graph.status.ready, graph.status.updates) == ("warmup", False, 0)
        graph.play(EPISODES[2])
        taken_in(graph, 2)
        assert (graph.status.stage, graph.status.ready, graph.status.updates) == ("online", True, 20)
        assert graph.status.actor_version == 1
        graph.play(EPISODES[3])
        taken_in(graph, 3)
        assert graph.status.actor_version == 2
        graph.spin_until(lambda: graph.actors and graph.actors[-1].version == 2, "actor 2")
        before = graph.actors[-1]
        assert bytes(before.data) == expected_actor(3)
        assert unpack(bytes(before.data), before.sha256).vla_hash == HASH

        # Killed after the checkpoint of episode 2; episode 3 comes from what was stored, episode 4 from the journal.
        graph.stop(process, signal.SIGKILL)
        write_journal(tmp_path / "run" / "episodes", EPISODES[4])
        graph.actors.clear()
        process = start(graph)
        taken_in(graph, 4)
        graph.spin_until(lambda: graph.actors and graph.actors[-1].version == 3, "actor 3")
        assert bytes(graph.actors[-1].data) == expected_actor(4)
        graph.play(EPISODES[5])
        taken_in(graph, 5)
        graph.spin_until(lambda: graph.actors[-1].version == 4, "actor 4")
        assert bytes(graph.actors[-1].data) == expected_actor(5)

        lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [line["episode"] for line in lines] == [1, 2, 3, 3, 4, 5]
        assert lasting(lines[2]) == lasting(lines[3])
        assert lines[2]["critic_loss"] is not None
        assert [line["episode"] for line in read_metrics(tmp_path / "run").rows] == [1, 2, 3, 4, 5]
        assert [line["from_journal"] for line in lines] == [False, False, False, False, True, False]
        assert [line["take_in_s"] is None for line in lines] == [False, False, False, True, True, False]

        graph.stop(process, signal.SIGKILL)
        graph.actors.clear()
        start(graph, freeze=True)
        graph.spin_until(lambda: graph.actors and graph.status.ready, "the frozen actor")
        assert bytes(graph.actors[-1].data) == expected_actor(4)
        graph.play(episode_data(9), purpose=EpisodeState.PURPOSE_EVALUATE)
        taken_in(graph, 9)
        assert (graph.status.actor_version, graph.status.stage) == (3, "online")


INTERRUPTED = """
import os, signal, sys
from rlt_rl_node import learner_node
from rlt_rl_node.agent import Agent

update_critic = Agent.update_critic

def interrupted(agent, batch, x):
    metrics = update_critic(agent, batch, x)
    if agent.updates == 10:
        for _ in range(TIMES):
            os.kill(os.getpid(), signal.SIGINT)
    return metrics

Agent.update_critic = interrupted
learner_node.main()
"""
"""A learner that gets SIGINT in the midst of its eleventh update."""


def test_a_stop_waits_for_the_end_of_the_update_and_a_second_one_saves_nothing(tmp_path):
    store = EpisodeStore(tmp_path / "run" / "encoded")
    for episode_id in (1, 2):
        store.save(trimmed(EPISODES[episode_id], 4))
    flags = [f"{name}:={json.dumps(value)}" for name, value in parameters(tmp_path, slice_s=0.001).items()]
    for times, saved in ((2, 0), (1, 1)):
        command = [sys.executable, "-c", INTERRUPTED.replace("TIMES", str(times)), "--ros-args"]
        end = subprocess.run([*command, *(part for flag in flags for part in ("-p", flag))], timeout=60)
        assert end.returncode == 0
        assert len(list((tmp_path / "run").glob("checkpoints/*"))) == saved
    path = checkpoint.latest(tmp_path / "run" / "checkpoints")
    updates = checkpoint.read_state(path)["counters"]["updates"]
    assert 10 < updates < 20
    ours = new_learner()
    for episode_id in (1, 2):
        ours.add_episode(trimmed(EPISODES[episode_id], 4))
    ours.run_updates(updates)
    theirs = checkpoint.load(path, task_shape(), ours.config, store)[0]
    assert theirs.counters() == ours.counters()
    assert all(np.array_equal(theirs.arrays()[name], array) for name, array in ours.arrays().items())


def test_a_corrected_label_is_followed_once_and_again_after_a_kill(tmp_path):
    journals = tmp_path / "run" / "episodes"
    with Graph(tmp_path) as graph:
        process = start(graph)
        for i in (1, 2, 3):
            graph.play(EPISODES[i])
            taken_in(graph, i)
        graph.play(replace(EPISODES[4], label=Label.DISCARD))
        taken_in(graph, 4)
        write_journal(journals, replace(EPISODES[4], label=Label.DISCARD))
        held, updates = graph.status.transitions, graph.status.updates

        def relabel(sequence, episode_id, label):
            label = int(Label[label])
            message = Relabel(sequence=sequence, episode_id=episode_id, label=label, after_episode=4)
            graph.publish(topics.RELABEL, message)

        relabel(1, 2, "DISCARD")
        graph.spin_until(lambda: graph.status.transitions < held, "episode 2 leaves the replay")
        assert held - graph.status.transitions == len(EPISODES[2].encoded_steps)
        relabel(2, 4, "SUCCESS")
        graph.spin_until(lambda: graph.status.transitions > held - len(EPISODES[2].encoded_steps), "episode 4 comes")
        assert graph.status.transitions - (held - len(EPISODES[2].encoded_steps)) == len(EPISODES[4].encoded_steps)
        assert graph.status.updates == updates
        now = graph.status.transitions

        relabel(0, 1, "DISCARD")
        graph.spin_until(lambda: "no sequence number" in graph.status.message, "nonsense is refused")
        graph.stop(process, signal.SIGKILL)  # since the checkpoint of episode 2
        for i in (1, 2, 3):
            write_journal(journals, EPISODES[i])
        start(graph)
        graph.spin_until(lambda: graph.status.transitions == now, "the corrections are heard and followed again")
        assert graph.status.last_episode_id == 4
        assert (graph.status.updates, graph.status.update_debt) == (updates, 0)
    words = (tmp_path / "rl_learner.log").read_text()
    assert words.count("episode 2 is relabelled DISCARD: the replay follows") == 2
    assert "is not undone" in words


def test_demonstrations_in_the_replay_are_no_episodes_of_the_run(tmp_path):
    """Whoever resumes a run counts its episodes here."""
    write_files(tmp_path)
    data = EPISODES[4]
    facts = {"episode_id": 4, "label": "success", "handoff_step": 0, "vla_hash": HASH}
    facts["rl_state"] = ",".join(load_task(str(tmp_path / "task.yaml")).rl_state)
    write_journal(tmp_path / "vla" / "demonstrations", data, facts=facts)
    with Graph(tmp_path) as graph:
        start(graph)
        graph.spin_until(lambda: graph.status.transitions, "the demonstration")
        shown = graph.status.transitions
        assert (graph.status.episodes, graph.status.last_episode_id, graph.status.stage) == (0, 0, "warmup")
        graph.play(EPISODES[1])
        taken_in(graph, 1)
        assert graph.status.episodes == 1
        assert graph.status.transitions == shown + len(EPISODES[1].encoded_steps)
        assert graph.status.stage == "warmup"


def test_demonstrations_of_another_vla_end_the_learner_with_a_clear_error(tmp_path):
    write_files(tmp_path)
    facts = {"episode_id": 4, "label": "success", "handoff_step": 0, "vla_hash": "f" * 16}
    write_journal(tmp_path / "vla" / "demonstrations", EPISODES[4], facts=facts)
    with Graph(tmp_path) as graph:
        process = graph.run("rl_learner", parameters(tmp_path))
        assert process.wait(timeout=60) != 0
    log = (tmp_path / "rl_learner.log").read_text()
    assert "run `encode` again" in log
    assert "Traceback" not in log


def test_what_is_not_trained_on_passes_by_at_once(shared):
    before = shared.status.transitions
    evaluation, discarded, trained = next_episode(), next_episode(label=Label.DISCARD), next_episode()
    shared.play(evaluation, purpose=EpisodeState.PURPOSE_EVALUATE)
    taken_in(shared, evaluation.episode_id)
    shared.play(discarded)
    taken_in(shared, discarded.episode_id)
    assert shared.status.transitions == before
    shared.play(trained)
    taken_in(shared, trained.episode_id)
    assert shared.status.transitions == before + len(trained.encoded_steps)


def test_an_episode_is_taken_in_once_its_label_is_confirmed_and_never_when_it_was_lost(shared):
    before = shared.status.transitions
    lost, kept = next_episode(), next_episode()
    for data in (lost, kept):
        for topic, message in episode_messages(data):
            if topic == topics.EPISODE_STATE:
                message.confirmation = EpisodeState.CONFIRMATION_PENDING
            shared.publish(topic, message)
        shared.end_control(data)
        received = shared.status.header.stamp
        shared.spin_until(lambda: shared.status.header.stamp != received, "a later word of the learner")  # noqa: B023
        assert shared.status.last_episode_id < data.episode_id, "its file is not durable yet"
        if data is lost:
            changes = {"label": EpisodeState.LABEL_DISCARD, "confirmation": EpisodeState.CONFIRMATION_LOST}
            shared.publish(topics.EPISODE_STATE, episode_state(data, True, phase=EpisodeState.PHASE_IDLE, **changes))
            taken_in(shared, data.episode_id)
            assert shared.status.transitions == before
    shared.publish(topics.EPISODE_STATE, episode_state(kept, True))
    taken_in(shared, kept.episode_id)
    assert shared.status.transitions == before + len(kept.encoded_steps)


def test_an_episode_that_nobody_confirmed_comes_from_its_file_before_the_next_one(shared):
    """Its manager died after the label; the recorder finished the file all the same."""
    before = shared.status.transitions
    orphan, following = next_episode(), next_episode()
    for topic, message in episode_messages(orphan):
        if topic == topics.EPISODE_STATE:
            message.confirmation = EpisodeState.CONFIRMATION_PENDING
        shared.publish(topic, message)
    shared.end_control(orphan)
    write_journal(shared.folder / "run" / "episodes", orphan)
    shared.play(following)
    taken_in(shared, following.episode_id)
    assert shared.status.transitions == before + len(orphan.encoded_steps) + len(following.encoded_steps)
    rows = [row["episode"] for row in read_metrics(shared.folder / "run").rows]
    assert rows[-2:] == [orphan.episode_id, following.episode_id]


@pytest.mark.parametrize("journalled", [False, True])
def test_a_dry_run_never_enters_the_replay_and_is_said(shared, journalled):
    dry, before = next_episode(), shared.status.transitions
    messages = episode_messages(dry)
    for topic, message in messages:
        if topic == topics.EXECUTED_ACTION:
            message.dry_run = True
    if journalled:
        write_journal(shared.folder / "run" / "episodes", dry, messages=messages)
        messages = [(topic, message) for topic, message in messages if topic != topics.EXECUTED_ACTION]
    for topic, message in messages:
        shared.publish(topic, message)
    shared.end_control(dry)
    taken_in(shared, dry.episode_id)
    assert shared.status.transitions == before
    said = f"episode {dry.episode_id} is a dry run: nothing was sent to the arms, so it is left out"
    assert said in (shared.folder / "rl_learner.log").read_text()
    trained = next_episode()
    shared.play(trained)
    taken_in(shared, trained.episode_id)
    assert shared.status.transitions == before + len(trained.encoded_steps)


def test_a_learner_that_missed_the_beginning_finds_it_in_the_journal(shared):
    data, before = next_episode(), shared.status.robot_steps
    write_journal(shared.folder / "run" / "episodes", data)
    for topic, message in episode_messages(data)[-8:]:
        shared.publish(topic, message)
    shared.end_control(data)
    taken_in(shared, data.episode_id)
    assert shared.status.robot_steps == before + len(data.steps)
    assert f"episode {data.episode_id} lacks" not in (shared.folder / "rl_learner.log").read_text()


def test_a_damaged_journal_is_left_out_and_the_learner_goes_on(tmp_path):
    journal = write_journal(tmp_path / "run" / "episodes", EPISODES[1])
    damaged = bytearray(journal.read_bytes())
    damaged[len(damaged) // 3] ^= 0xFF  # of a message, compressed
    journal.write_bytes(damaged)
    with Graph(tmp_path) as graph:
        process = start(graph)
        graph.spin_until(lambda: graph.status.last_episode_id == 1, "the damaged one is passed over")
        assert graph.status.transitions == 0
        graph.play(EPISODES[2])
        taken_in(graph, 2)
        assert graph.status.transitions > 0
        assert process.poll() is None


def test_what_stays_away_everywhere_is_named_and_the_rest_is_used(shared):
    data, before = next_episode(), shared.status.transitions
    for topic, message in episode_messages(data):
        if topic != topics.VLA_OUTPUT or message.header.stamp != vla_output(data, 4).header.stamp:
            shared.publish(topic, message)
    shared.end_control(data)
    shared.spin_until(lambda: "waits for encoded observations of 1 steps" in shared.status.message, "the reason")
    taken_in(shared, data.episode_id)
    assert shared.status.transitions == before + len(data.encoded_steps) - 1
    assert "taken in without encoded observations of 1 steps" in (shared.folder / "rl_learner.log").read_text()


def test_bad_messages_are_refused_and_reported(shared):
    data = next_episode()
    foreign = vla_output(data, 0)
    foreign.vla_hash = "f" * 16
    shared.publish(topics.VLA_OUTPUT, foreign)
    shared.spin_until(lambda: "of VLA ffff" in shared.status.message, "word of the foreign VLA")
    broken = vla_output(data, 0)
    broken.rl_token[0] = float("nan")
    shared.publish(topics.VLA_OUTPUT, broken)
    shared.spin_until(lambda: "not finite" in shared.status.message, "word of the NaN")
    short = vla_output(data, 0)
    short.horizon = 3
    shared.publish(topics.VLA_OUTPUT, short)
    shared.spin_until(lambda: f"expected {3 * DIM}" in shared.status.message, "word of the length")
    assert shared.health["rl_learner"][0] == 1
    shared.play(data)
    taken_in(shared, data.episode_id)


def test_a_manager_with_other_files_is_refused_and_heard_again_with_the_right_ones(shared):
    data = next_episode()
    shared.publish(topics.EPISODE_STATE, episode_state(data, False, config_hash="f" * 16))
    shared.spin_until(lambda: "task files give ffff" in shared.status.message, "the refusal")
    idle = episode_state(data, False, phase=EpisodeState.PHASE_IDLE)
    shared.publish(topics.EPISODE_STATE, idle)
    shared.spin_until(lambda: not shared.status.message, "its end")
    shared.play(data)
    taken_in(shared, data.episode_id)


def test_an_episode_with_a_number_of_before_is_not_learned_from_and_that_is_said(shared):
    trained = next_episode()
    shared.play(trained)
    taken_in(shared, trained.episode_id)
    before = shared.status.transitions
    shared.play(trained)
    shared.spin_until(lambda: "one of that number was taken in before" in shared.status.message, "the word of it")
    assert shared.status.transitions == before


def test_a_checkpoint_on_request(shared):
    client = shared.node.create_client(SaveCheckpoint, topics.SERVICE_SAVE_CHECKPOINT)
    shared.spin_until(client.service_is_ready, "the service")

    def save(name: str) -> SaveCheckpoint.Response:
        future = client.call_async(SaveCheckpoint.Request(name=name))
        shared.spin_until(future.done, "the answer")
        return future.result()

    first, again, bad = save("mine"), save("mine"), save("../mine")
    assert first.saved
    assert (Path(first.path) / "state.json").is_file()
    assert not again.saved
    assert "choose another name" in again.message
    assert not bad.saved
    assert "use letters" in bad.message


def test_on_a_robot_updates_run_between_episodes_and_actors_come_meanwhile(tmp_path):
    with Graph(tmp_path) as graph:
        write_files(tmp_path, tick="timer")
        changes = {"budget.initial_updates": 400, "publish_every": 20, "slice_s": 0.01}
        process = graph.run(
            "rl_learner",
            {**parameters(tmp_path), **write_files(tmp_path, tick="timer"), **changes},
        )
        graph.spin_until(lambda: graph.connected(topics.EXECUTED_ACTION), "the learner node")
        for episode_id in (1, 2, 3):
            graph.play(EPISODES[episode_id])
            graph.spin_until(lambda i=episode_id: graph.status.last_episode_id == i, f"episode {episode_id}")
        graph.spin_until(lambda: graph.status.ready and not graph.status.update_debt, "the debt to be paid")
        assert graph.status.updates == 400 + graph.status.transitions - sum(
            len(EPISODES[i].encoded_steps) - (EPISODES[i].label is Label.TIMEOUT) for i in (1, 2)
        )
        assert [actor.version for actor in graph.actors] == sorted(actor.version for actor in graph.actors)
        updates = graph.status.updates
        graph.stop(process)
        assert process.returncode == 0
        # What came after the last checkpoint is saved at the end.
        newest = checkpoint.latest(tmp_path / "run" / "checkpoints")
        assert checkpoint.read_state(newest)["counters"]["updates"] == updates


def test_frozen_without_any_checkpoint_only_the_vla_drives(tmp_path):
    with Graph(tmp_path) as graph:
        start(graph, freeze=True)
        graph.spin_until(lambda: "only the VLA can drive" in graph.status.message, "the reason")
        assert not graph.status.ready
        graph.play(EPISODES[1], purpose=EpisodeState.PURPOSE_EVALUATE)
        taken_in(graph, 1)


def test_the_journal_gives_the_same_episode_as_the_live_topics(tmp_path):
    data = EPISODES[3]
    live, journalled = (EpisodeAssembly(20_000_000, 2, 0) for _ in range(2))
    collect = {
        topics.EXECUTED_ACTION: messages.collect_executed,
        topics.VLA_OUTPUT: messages.collect_output,
        topics.EPISODE_STATE: messages.collect_state,
    }
    for topic, message in episode_messages(data):
        collect[topic](live, message)
    messages.collect_journal(journalled, write_journal(tmp_path, data), data.episode_id)
    assert journalled.missing(data.episode_id) == ""
    first, second = live.take(data.episode_id), journalled.take(data.episode_id)
    for name, value in vars(data).items():
        np.testing.assert_array_equal(getattr(first, name), value, err_msg=name)
        np.testing.assert_array_equal(getattr(second, name), value, err_msg=name)
