"""Encoded demonstrations in the replay: own ids, no part in the budget, the same bits after a restart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from rl_episodes import STATE, TOKEN, D, ids, learner_config, random_episode, task_shape

from rlt_common import topics
from rlt_common.codecs import CodecError, floats, to_time
from rlt_common.episode_file import EpisodeWriter
from rlt_msgs.msg import EpisodeState, ExecutedAction, VlaOutput
from rlt_rl_node import checkpoint
from rlt_rl_node.demonstrations import DemonstrationsError, DemonstrationSource
from rlt_rl_node.episode_assembly import EpisodeAssembly
from rlt_rl_node.episode_store import EpisodeStore
from rlt_rl_node.learner import Learner
from rlt_rl_node.messages import collect_executed
from rlt_rl_node.records import EpisodeKey, Label, Source
from rlt_rl_node.run_session import RunSession
from rlt_rl_node.transitions import assemble

PERIOD_NS = 20_000_000
HANDOFF, STEPS, HORIZON = 4, 24, 8
HASH = task_shape().vla_hash
RL_STATE = ("ee_pose", "joint_velocity")


def write(path, episode_id, vla_hash=HASH, repositioning=range(0), rl_state=RL_STATE):
    rng = np.random.default_rng(episode_id)
    writer = EpisodeWriter(path)
    for step in range(STEPS):
        stamp = episode_id * 10**12 + step * PERIOD_NS
        phase = EpisodeState.PHASE_CRITICAL if step >= HANDOFF else EpisodeState.PHASE_BASE
        executed = ExecutedAction(episode_id=episode_id, step=step, phase=phase, source=ExecutedAction.SOURCE_HUMAN)
        executed.action = floats(rng.normal(size=D))
        executed.repositioning = step in repositioning
        executed.header.stamp = to_time(stamp)
        writer.write(topics.EXECUTED_ACTION, "rlt_msgs/msg/ExecutedAction", serialize_message(executed), stamp)
        if step % 2 == 0 and step >= HANDOFF:
            output = VlaOutput(episode_id=episode_id, horizon=HORIZON, action_dim=D, vla_hash=vla_hash)
            output.rl_token, output.rl_state = floats(rng.normal(size=TOKEN)), floats(rng.normal(size=STATE))
            output.reference = floats(rng.normal(size=HORIZON * D))
            output.header.stamp = to_time(stamp)
            writer.write(topics.VLA_OUTPUT, "rlt_msgs/msg/VlaOutput", serialize_message(output), stamp)
    facts = {
        "episode_id": episode_id,
        "label": "success",
        "handoff_step": HANDOFF,
        "vla_hash": vla_hash,
        "rl_state": ",".join(rl_state),
    }
    writer.finish(facts)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "vla" / "demonstrations"
    for episode_id in (7, 8, 9):
        write(folder / f"{episode_id:06d}.mcap", episode_id)
    return DemonstrationSource(folder, 2, HASH, RL_STATE, PERIOD_NS, 2, 0)


def no_words(text):
    raise AssertionError(text)


def test_each_is_an_episode_of_the_human_with_an_id_of_its_own(source):
    first, second = source.read(no_words)
    assert (first.episode_id, second.episode_id) == (-1, -2)
    assert first.label is Label.SUCCESS
    assert set(first.sources) == {Source.HUMAN}
    np.testing.assert_array_equal(first.steps, np.arange(HANDOFF, STEPS))
    np.testing.assert_array_equal(first.encoded_steps, np.arange(HANDOFF, STEPS, 2))


def test_a_recorded_step_of_repositioning_enters_no_transition(source):
    write(source.folder / "000007.mcap", 7, repositioning=range(10, 14))
    (first, _) = source.read(no_words)
    marked = first.steps[first.sources == Source.REPOSITIONING]
    np.testing.assert_array_equal(marked, range(10, 14))
    table = assemble(first, 4, 2)
    for i in range(len(table)):
        played = first.steps[table.first_action[i] :][: table.length[i]]
        assert not set(played.tolist()) & set(marked.tolist())
    np.testing.assert_array_equal(first.encoded_steps[table.encoding], [4, 6, 8, 14, 16, 18, 20, 22])


def test_an_executed_action_of_no_known_source_is_refused():
    with pytest.raises(CodecError, match="source 4, which does not exist"):
        collect_executed(EpisodeAssembly(PERIOD_NS, 2, 0), ExecutedAction(episode_id=1, source=4))


def test_none_are_wanted_or_there(source, tmp_path):
    words = []
    assert list(replace(source, count=0, folder=tmp_path / "nowhere").read(words.append)) == []
    assert words == []
    assert list(replace(source, folder=tmp_path / "nowhere").read(words.append)) == []
    assert "holds no encoded demonstrations" in words[0]


def test_those_of_another_vla_or_torn_are_an_error(source):
    with pytest.raises(DemonstrationsError, match="run `encode` again"):
        list(replace(source, vla_hash="fedcba9876543210").read(no_words))
    path = source.folder / "000008.mcap"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DemonstrationsError, match=r"000008\.mcap.*encode the demonstrations again"):
        list(source.read(no_words))


@pytest.mark.parametrize(
    ("rl_state", "words"), [(RL_STATE[::-1], "joint_velocity,ee_pose"), ((), "of an earlier version")]
)
def test_those_of_another_rl_state_are_an_error_even_of_the_same_width(source, rl_state, words):
    write(source.folder / "000008.mcap", 8, rl_state=rl_state)
    with pytest.raises(DemonstrationsError, match=f"{words}, the task's rl_state is ee_pose,joint_velocity: run"):
        list(source.read(no_words))


def test_they_end_no_warm_up_and_owe_no_updates(source):
    learner = Learner(task_shape(), learner_config())
    for episode in source.read(no_words):
        assert learner.add_demonstration(episode) > 0
    assert (learner.stage, learner.owed, learner.budget.episodes) == ("warmup", 0, 0)
    assert learner.progress().last_episode_id == 0
    assert ids(learner) == (-1, -2)


def test_in_the_replay_the_reference_is_the_human_s_action(source):
    learner = Learner(task_shape(), learner_config())
    for episode in source.read(no_words):
        learner.add_demonstration(episode)
    batch = learner.replay.sample(64, learner.generator)
    np.testing.assert_array_equal(batch.reference * batch.valid, batch.action * batch.valid)


def pay(learner):
    while learner.owed:
        learner.run_updates(learner.owed)


def test_a_resumed_run_has_them_again_and_ends_with_the_same_bits(source, tmp_path):
    data = [random_episode(i, 20 + 2 * i) for i in range(1, 6)]
    learners = []
    for name, interrupted in (("whole", False), ("cut", True)):
        words = []
        run = RunSession(tmp_path / name, task_shape(), learner_config(), None, words.append, source)
        assert "the replay begins with 2 demonstrations" in words[-1]
        for i, episode in enumerate(data):
            if interrupted and i == 3:
                run.save()
                run = RunSession(tmp_path / name, task_shape(), learner_config(), None, words.append, source)
                assert not run.robots[""].backlog
                assert ids(run.learner) == (-1, -2, 1, 2, 3)
            run.take_in(episode)
            pay(run.learner)
        learners.append(run.learner)
    whole, cut = (learner.arrays() for learner in learners)
    assert whole.keys() == cut.keys()
    assert all(np.array_equal(whole[key], cut[key]) for key in whole)


def test_a_run_without_them_stays_without_them_when_it_goes_on(source, tmp_path):
    run = RunSession(tmp_path / "run", task_shape(), learner_config(), None, no_words)
    run.take_in(random_episode(1))
    run.save()
    again = RunSession(tmp_path / "run", task_shape(), learner_config(), None, [].append, source)
    assert ids(again.learner) == (1,)


def test_a_changed_demonstration_is_a_clear_error(source, tmp_path):
    run = RunSession(tmp_path / "run", task_shape(), learner_config(), None, [].append, source)
    run.take_in(random_episode(1))
    path = run.save()
    store = EpisodeStore(tmp_path / "run" / "encoded")
    assert store.newer_than(EpisodeKey(-10)) == [1]
    store.save(replace(store.load(EpisodeKey(-1)), label=Label.FAILURE))
    with pytest.raises(checkpoint.CheckpointError, match=r"demonstration-000001.*changed since the checkpoint"):
        checkpoint.load(path, task_shape(), learner_config(), store)


def test_those_of_other_sizes_are_a_clear_error(source, tmp_path):
    wide = task_shape(token_dim=TOKEN + 1)
    with pytest.raises(DemonstrationsError, match=r"RL token width is 3, the agent's is 4: encode .* again"):
        RunSession(tmp_path / "run", wide, learner_config(), None, [].append, source)
