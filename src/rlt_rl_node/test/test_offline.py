"""Training from episode files alone: the same bits as online, and nothing that needs a robot."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace

import pytest
import rclpy
import torch
from rl_graph import HASH, Graph, episode_data, episode_messages, episode_state, write_files, write_journal

from rlt_common import topics
from rlt_common.relabels import append_relabel
from rlt_msgs.msg import EpisodeState, Relabel
from rlt_rl_node import checkpoint, offline
from rlt_rl_node.episode_store import EpisodeStore
from rlt_rl_node.records import EpisodeKey, Label

LEARNER = {
    "checkpoint_every": 100,
    "demonstrations": 0,
    "agent": {"hidden": [16, 16], "batch_size": 8},
    "budget": {"warmup_episodes": 2, "min_transitions": 10, "initial_updates": 20, "updates_per_transition": 1.0},
}
EPISODES = {
    i: episode_data(i, 20 + 2 * i, label)
    for i, label in enumerate([Label.SUCCESS, Label.FAILURE, Label.TIMEOUT, Label.DISCARD, Label.SUCCESS], start=1)
}
INITIAL, OWED = 20, 12 + 15
"""Updates after episode 2; those of episodes 3 and 5, one per transition: a time-out has one less."""


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def prepare(folder, learner=LEARNER):
    """Robot, task and VLA files, the task with the learner's settings; returns the learner node's parameters."""
    names = write_files(folder)
    task = json.loads((folder / "task.yaml").read_text())
    (folder / "task.yaml").write_text(json.dumps({**task, "nodes": {"rl_learner": learner}}))
    return names


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run directory with five episodes: the fourth is a discard; an evaluation is the sixth."""
    folder = tmp_path_factory.mktemp("recorded")
    prepare(folder)
    for data in EPISODES.values():
        write_journal(folder / "run" / "episodes", data)
    evaluation = episode_data(6)
    said = episode_messages(evaluation, purpose=EpisodeState.PURPOSE_EVALUATE)
    write_journal(folder / "run" / "episodes", evaluation, messages=said)
    return folder


def arguments(folder, out, *more, run=None):
    given = {"run": run or folder / "run", "out": out, "robot": folder / "robot.yaml", "task": folder / "task.yaml"}
    words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    return [*words, "--vla-checkpoint", str(folder / "vla"), *map(str, more)]


def train(folder, out, *more, run=None):
    """Train; returns the training and the checkpoint's path."""
    training = offline.build(offline.parse_arguments(arguments(folder, out, *more, run=run)), print)
    return training, training.run()


def columns(replay):
    """Everything that a replay holds, as bytes."""
    groups = (*replay._per_step, *replay._per_encoding, *replay._per_transition)
    return [column.values.contiguous().view(torch.uint8).numpy().tobytes() for column in groups if column.size]


def test_the_same_replay_and_the_same_weights_as_online_bit_for_bit(tmp_path):
    """Online is the learner node in lockstep over DDS. A label is corrected on the way, and a discard given back."""
    names = prepare(tmp_path)
    run = tmp_path / "run"
    flat = {f"{of}.{name}": value for of in ("agent", "budget") for name, value in LEARNER[of].items()}
    rclpy.init()
    try:
        with Graph(tmp_path) as graph:
            given = {**names, "run_directory": str(run), "demonstrations": 0, "checkpoint_every": 100, **flat}
            process = graph.run("rl_learner", given)
            wanted = (topics.EXECUTED_ACTION, topics.VLA_OUTPUT, topics.EPISODE_STATE, topics.RELABEL)
            graph.spin_until(lambda: all(graph.connected(topic) for topic in wanted), "the learner node")
            for data in EPISODES.values():
                graph.play(data)
                graph.spin_until(
                    lambda: graph.status.last_episode_id >= data.episode_id and not graph.status.busy,  # noqa: B023
                    f"episode {data.episode_id}",
                )
                write_journal(run / "episodes", data)
                if data.episode_id == 4:
                    for number, (episode_id, label) in enumerate(((1, "failure"), (4, "success")), start=1):
                        append_relabel(run, episode_id, label, after_episode=4)
                        held = graph.status.transitions
                        correction = {"sequence": number, "episode_id": episode_id, "after_episode": 4}
                        graph.publish(topics.RELABEL, Relabel(label=int(Label[label.upper()]), **correction))
                    graph.spin_until(lambda: graph.status.transitions > held, "the discard given back")  # noqa: B023
            graph.stop(process, signal.SIGINT)
    finally:
        rclpy.shutdown()
    online = checkpoint.latest(run / "checkpoints")
    training, path = train(tmp_path, tmp_path / "out")
    assert training.counts == offline.Counts(taken=4, left_out=1, corrected=2)
    theirs, ours = checkpoint.read_state(online), checkpoint.read_state(path)
    assert [key[0] for key in theirs["episodes"]] == [2, 3, 1, 4, 5]
    assert ours["sha256"] == theirs["sha256"]
    assert ours == theirs
    live = checkpoint.load(online, training.learner.shape, training.learner.config, EpisodeStore(run / "encoded"))[0]
    assert columns(live.replay) == columns(training.learner.replay)
    assert "the same replay and the same weights as" in offline.same_as_online(run, path)


def test_updates_are_those_that_the_data_owes_and_the_policy_takes_the_actor(recorded, tmp_path, capsys):
    offline.main(arguments(recorded, tmp_path / "out"))
    said = capsys.readouterr().out
    assert "4 episodes taken in, 2 left out" in said
    assert f"{INITIAL + OWED} updates" in said
    path = checkpoint.latest(tmp_path / "out" / "checkpoints")
    assert f"written: {path}" in said
    trained = checkpoint.trained_actor(tmp_path / "out" / "checkpoints", path, HASH)
    assert (trained.updates, trained.weights.version) == (INITIAL + OWED, 3)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["episode"] for line in lines] == [1, 2, 3, 5]
    assert lines[-1]["critic_loss"] > 0
    assert [p.name for p in (recorded / "run").iterdir()] == ["episodes"], "nothing is written there"


def weights(path):
    return (path / checkpoint.LEARNER).read_bytes()


def test_the_same_seed_gives_the_same_weights_and_settings_come_from_a_checkpoint_too(recorded, tmp_path):
    _, one = train(recorded, tmp_path / "one", "--seed", 3)
    _, same = train(recorded, tmp_path / "same", "--seed", 3)
    _, other = train(recorded, tmp_path / "other", "--seed", 4)
    assert weights(one) == weights(same) != weights(other)
    prepare(recorded, {**LEARNER, "agent": {"hidden": [8], "batch_size": 8}})
    try:
        _, like = train(recorded, tmp_path / "like", "--like", one)
    finally:
        prepare(recorded)
    assert weights(like) == weights(one)


@pytest.mark.parametrize("updates", [INITIAL + 4, INITIAL + OWED + 30])
def test_a_given_number_of_updates_is_made_and_all_episodes_are_in_the_replay(recorded, tmp_path, updates):
    training, path = train(recorded, tmp_path / "out", "--updates", updates)
    assert training.learner.agent.updates == updates
    assert [key[0] for key in checkpoint.read_state(path)["episodes"]] == [1, 2, 3, 5]
    assert training.learner.version > 0


def test_an_interrupted_training_goes_on_to_the_same_bits(recorded, tmp_path):
    shutil.copytree(recorded / "run", tmp_path / "run")
    # Episode 6 is no training episode: to have passed it over would leave out the three before it.
    (tmp_path / "run" / "episodes" / "000006.mcap").unlink()
    append_relabel(tmp_path / "run", 4, "success", after_episode=4)
    _, whole = train(recorded, tmp_path / "whole", run=tmp_path / "run")
    later = [tmp_path / "run" / "episodes" / f"{i:06d}.mcap" for i in (3, 4, 5)]
    later.append(tmp_path / "run" / "labels.jsonl")
    for path in later:
        path.rename(path.with_suffix(".later"))
    train(recorded, tmp_path / "out", run=tmp_path / "run")
    for path in later:
        path.with_suffix(".later").rename(path)
    training, path = train(recorded, tmp_path / "out", run=tmp_path / "run")
    assert training.counts == offline.Counts(taken=2, left_out=1, corrected=1)
    assert weights(path) == weights(whole)
    assert checkpoint.read_state(path)["counters"] == checkpoint.read_state(whole)["counters"]

    # From before the discard was given its label back: it is in `encoded` now.
    shutil.rmtree(path)
    training, path = train(recorded, tmp_path / "out", run=tmp_path / "run")
    assert training.counts == offline.Counts(taken=2, left_out=1, corrected=1)
    assert weights(path) == weights(whole)
    assert checkpoint.read_state(path)["counters"] == checkpoint.read_state(whole)["counters"]


def test_a_correction_that_waits_for_an_episode_that_left_no_file_is_followed_at_the_end(recorded, tmp_path):
    shutil.copytree(recorded / "run", tmp_path / "run")
    append_relabel(tmp_path / "run", 3, "discard", after_episode=9)
    append_relabel(tmp_path / "run", 2, "success", after_episode=9)
    training, path = train(recorded, tmp_path / "out", run=tmp_path / "run")
    assert training.counts.corrected == 2
    assert [key[0] for key in checkpoint.read_state(path)["episodes"]] == [1, 5, 2]


def test_of_several_robots_the_order_is_that_of_the_learner(recorded, tmp_path):
    for robot in "ab":
        for i in (1, 2):
            data = replace(EPISODES[i], actions=EPISODES[i].actions + ord(robot))
            write_journal(tmp_path / robot / "episodes", data)
    done = [("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    (tmp_path / "learner").mkdir()
    lines = [json.dumps({"robot": robot, "episode": episode_id}) for robot, episode_id in done]
    (tmp_path / "learner" / "order.jsonl").write_text("\n".join(lines) + "\n")
    robots = [word for robot in "ab" for word in ("--robot-run", f"{robot}={tmp_path / robot}")]
    training, _ = train(recorded, tmp_path / "out", *robots, run=tmp_path / "learner")
    assert training.learner.replay.episodes == tuple(EpisodeKey(i, robot) for robot, i in done)


def fails(capsys, words):
    with pytest.raises(SystemExit) as end:
        offline.main(words)
    assert end.value.code == 2
    return capsys.readouterr()


def test_what_does_not_fit_ends_with_status_2_and_says_what_to_do(recorded, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no episode file in" in fails(capsys, arguments(recorded, tmp_path / "o", run=empty)).err
    inside = arguments(recorded, recorded / "run" / "episodes" / "out")
    assert "choose a folder of its own" in fails(capsys, inside).err
    assert "it must not be negative" in fails(capsys, arguments(recorded, tmp_path / "o", "--updates", -1)).err
    robot = arguments(recorded, tmp_path / "o", "--robot-run", "cell")
    assert "NAMESPACE=FOLDER" in fails(capsys, robot).err
    absent = arguments(recorded, tmp_path / "o", "--vla-checkpoint", tmp_path)
    assert "give the folder that `adapt` wrote" in fails(capsys, absent).err


def test_robot_and_task_are_those_that_the_newest_training_episode_was_recorded_with(recorded, tmp_path, capsys):
    texts = {name: (recorded / f"{name}.yaml").read_text() for name in ("robot", "task")}
    task = json.loads(texts["task"])
    learners = [{**LEARNER, "agent": {**LEARNER["agent"], "hidden": [size]}} for size in (8, 12, 20)]
    for i, (learner, purpose) in enumerate(zip(learners, ("train", "train", "evaluate"), strict=True), start=1):
        own = {**texts, "task": json.dumps({**task, "nodes": {"rl_learner": learner}})}
        facts = {"episode_id": str(i), "purpose": purpose, "robot": "one_joint", "task": "tiny"}
        write_journal(tmp_path / "run" / "episodes", EPISODES[i], facts=facts, configuration=own)
    words = ["--run", tmp_path / "run", "--out", tmp_path / "out", "--vla-checkpoint", recorded / "vla"]
    training = offline.build(offline.parse_arguments([*map(str, words)]), print)
    assert training.learner.config.agent.hidden == (12,)
    assert "robot and task as recorded in 000002.mcap" in capsys.readouterr().out
    given = offline.parse_arguments([*map(str, words), "--task", str(recorded / "task.yaml")])
    assert offline.build(given, print).learner.config.agent.hidden == tuple(LEARNER["agent"]["hidden"])


def test_a_run_of_before_the_files_were_kept_names_what_to_give(recorded, tmp_path, capsys):
    facts = {"episode_id": "1", "purpose": "train", "robot": "sim", "task": "my_task"}
    write_journal(tmp_path / "run" / "episodes", EPISODES[1], facts=facts)
    words = ["--run", tmp_path / "run", "--out", tmp_path / "out", "--vla-checkpoint", recorded / "vla"]
    assert "tasks: no 'my_task'" in (said := fails(capsys, [*map(str, words)]).err)
    assert "give it with --task" in said


def test_a_warm_up_that_is_not_over_trains_nothing_and_says_so(recorded, tmp_path, capsys):
    write_journal(tmp_path / "run" / "episodes", EPISODES[1])
    offline.main(arguments(recorded, tmp_path / "out", run=tmp_path / "run"))
    assert "the warm-up is not over" in capsys.readouterr().out
    more = arguments(recorded, tmp_path / "out", "--updates", 10, run=tmp_path / "run")
    assert "1 training episodes" in fails(capsys, more).err


def test_an_episode_of_another_robot_or_a_torn_one_is_named_and_left_out(recorded, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(recorded / "run", run)
    foreign, torn = run / "episodes" / "000003.mcap", run / "episodes" / "000005.mcap"
    said = [
        (
            topic,
            episode_state(EPISODES[3], message.label > 0, config_hash="f" * 16)
            if topic == "episode_state"
            else message,
        )
        for topic, message in episode_messages(EPISODES[3])
    ]
    foreign.unlink()
    write_journal(run / "episodes", EPISODES[3], messages=said)
    torn.write_bytes(torn.read_bytes()[:-100])
    training, _ = train(recorded, tmp_path / "out", run=run)
    assert [key.episode_id for key in training.learner.replay.episodes] == [1, 2]
    words = capsys.readouterr().out
    assert "start both with files that agree" in words
    assert f"{torn}: not a whole episode file" in words
