"""When an episode is complete, and that order, repetition and detours through the journal do not change it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_episodes import random_episode

from rlt_rl_node.episode_assembly import EpisodeAssembly, _gaps
from rlt_rl_node.records import Encoded, EpisodeData, Label, RecordError, Source, Step

PERIOD = 20_000_000
HANDOFF = 6
LENGTH = 20


def stamp(step: int) -> int:
    return 1_000 * PERIOD + step * PERIOD


def source_episode(episode_id: int = 5) -> EpisodeData:
    """CRITICAL from step 6 on."""
    data = random_episode(episode_id, LENGTH)
    return EpisodeData(**{**vars(data), "steps": data.steps + HANDOFF, "encoded_steps": data.encoded_steps + HANDOFF})


def calls(data: EpisodeData) -> list[tuple]:
    """Everything the graph says about `data`, in the order in which it happens."""
    said = [("control_stopped", data.episode_id, 1, 0), ("set_state", data.episode_id, 1, True, Label.NONE, 0)]
    for step in range(HANDOFF):
        said.append(("add_step", data.episode_id, False, Step(step, stamp(step), Source.VLA, np.zeros(2, np.float32))))
    said.append(("set_state", data.episode_id, 2, True, Label.NONE, HANDOFF))
    encoded = dict(zip(data.encoded_steps.tolist(), range(len(data.encoded_steps)), strict=True))
    for i, step in enumerate(data.steps.tolist()):
        if (j := encoded.get(step)) is not None:
            parts = data.rl_tokens[j], data.rl_states[j], data.references[j]
            said.append(("add_output", data.episode_id, Encoded(stamp(step), *parts, bool(data.boundary[j]))))
        record = Step(step, stamp(step), Source(int(data.sources[i])), data.actions[i])
        said.append(("add_step", data.episode_id, True, record))
    said.append(("set_state", data.episode_id, 3, True, data.label, HANDOFF))
    said.append(("control_stopped", data.episode_id, 3, HANDOFF + LENGTH))
    return said


def assembly(said: list[tuple]) -> EpisodeAssembly:
    subject = EpisodeAssembly(PERIOD, stride=2, delay=0)
    for name, *arguments in said:
        getattr(subject, name)(*arguments)
    return subject


def assert_same(a: EpisodeData, b: EpisodeData) -> None:
    for name, value in vars(a).items():
        np.testing.assert_array_equal(getattr(b, name), value, err_msg=name)


def test_what_was_said_is_what_is_taken():
    data = source_episode()
    subject = assembly(calls(data))
    assert subject.labelled() == [5]
    assert subject.wanted(5)
    assert subject.missing(5) == ""
    assert_same(data, subject.take(5))
    assert subject.labelled() == []


@settings(deadline=None, max_examples=60)
@given(st.permutations(range(len(calls(source_episode())))), st.integers(0, 20))
def test_order_and_repetition_do_not_matter(order, repeated):
    said = calls(source_episode())
    states = iter([c for c in said if c[0] == "set_state"])  # states alone come in order: the topic is one stream
    mixed = [next(states) if said[i][0] == "set_state" else said[i] for i in order]
    mixed += [c for c in mixed[:repeated] if c[0] != "set_state"]
    subject = assembly(mixed)
    assert subject.missing(5) == ""
    assert_same(source_episode(), subject.take(5))


@pytest.mark.parametrize("lost", range(len(calls(source_episode()))))
def test_any_one_lost_message_is_noticed_or_harmless(lost):
    said = calls(source_episode())
    name, *arguments = said.pop(lost)
    subject = assembly(said)
    if name == "set_state" and arguments[3] is Label.SUCCESS:
        assert subject.labelled() == []
    elif name == "set_state" or (name == "control_stopped" and arguments[1] == 1):
        assert subject.missing(5) == ""
        assert_same(source_episode(), subject.take(5))
    elif name == "control_stopped":
        assert "stopped" in subject.missing(5)
    elif name == "add_output" and arguments[1].stamp_ns == stamp(HANDOFF):
        # The first observation says where the stride begins; without it the episode begins one stride later.
        assert subject.take(5).encoded_steps[0] == HANDOFF + 2
    elif name == "add_step" and not arguments[1] and arguments[2].step < HANDOFF:
        assert_same(source_episode(), subject.take(5))
    else:
        words = "executed actions of 1 steps" if name == "add_step" else "encoded observations of 1 steps"
        assert words in subject.missing(5)


def test_what_was_missing_may_still_come():
    said = calls(source_episode())
    outputs = [c for c in said if c[0] == "add_output"]
    subject = assembly([c for c in said if c not in outputs[-3:]])
    assert "3 steps, the first 20" in subject.missing(5)
    for _, *arguments in outputs[-3:]:
        subject.add_output(*arguments)
    assert subject.missing(5) == ""


def test_an_incomplete_episode_can_be_taken_as_it_is():
    said = [c for c in calls(source_episode()) if c[0] != "add_output" or c[2].stamp_ns != stamp(12)]
    data = assembly(said).take(5)
    assert 12 not in data.encoded_steps
    assert len(data.steps) == LENGTH


@pytest.mark.parametrize(("train", "label"), [(False, Label.SUCCESS), (True, Label.DISCARD)])
def test_evaluations_and_discards_are_not_wanted(train, label):
    subject = assembly(calls(source_episode()))
    subject.set_state(5, 3, train, label, HANDOFF)
    assert not subject.wanted(5)


def test_a_relabel_before_taking_counts():
    subject = assembly(calls(source_episode()))
    subject.set_state(5, 4, True, Label.FAILURE, HANDOFF)
    assert subject.missing(5) == ""
    assert subject.take(5).label is Label.FAILURE


def test_finished_episodes_and_older_ones_are_ignored():
    subject = assembly(calls(source_episode()))
    subject.take(5)
    for name, *arguments in calls(source_episode()) + calls(source_episode(4)):
        getattr(subject, name)(*arguments)
    assert subject.labelled() == []


def test_episodes_come_in_order():
    subject = assembly(calls(source_episode(6)) + calls(source_episode(5)))
    assert subject.labelled() == [5, 6]


def test_an_observation_belongs_to_the_next_step_within_one_period():
    subject = EpisodeAssembly(PERIOD, stride=2, delay=0)
    empty = np.zeros(1, np.float32), np.zeros(1, np.float32), np.zeros((4, 2), np.float32)
    for step in range(4):
        subject.add_step(1, True, Step(step, stamp(step), Source.RL, np.zeros(2, np.float32)))
    subject.add_output(1, Encoded(stamp(1) - 5_000_000, *empty, False))
    subject.add_output(1, Encoded(stamp(0) - PERIOD, *empty, False))
    subject.add_output(1, Encoded(stamp(3) + 1, *empty, False))
    subject.set_state(1, 1, True, Label.FAILURE, 0)
    assert subject.take(1).encoded_steps.tolist() == [1]


@pytest.mark.parametrize(
    ("observed", "lacking"),
    [
        ([0, 2, 4, 6, 8], ""),
        ([0, 2, 5, 7, 9], ""),  # jitter moved one by a step
        ([0, 2, 3, 5, 8], ""),
        ([0, 2, 6, 8], "1 steps, the first 4"),
        ([0, 2, 5, 9], "1 steps, the first 7"),
        ([2, 4], "2 steps, the first 6"),
    ],
)
def test_an_observation_is_lacking_where_none_came_within_two_strides(observed, lacking):
    subject = EpisodeAssembly(PERIOD, stride=2, delay=0)
    empty = np.zeros(1, np.float32), np.zeros(1, np.float32), np.zeros((4, 2), np.float32)
    for step in range(10):
        subject.add_step(1, True, Step(step, stamp(step), Source.RL, np.zeros(2, np.float32)))
    for step in observed:
        subject.add_output(1, Encoded(stamp(step), *empty, False))
    subject.set_state(1, 1, True, Label.FAILURE, 0)
    subject.control_stopped(1, 1, 10)
    assert subject.missing(1) == (f"encoded observations of {lacking}" if lacking else "")


def test_a_boundarys_own_output_wins():
    data = source_episode()
    subject = assembly(calls(data))
    strided = Encoded(stamp(HANDOFF), data.rl_tokens[0] + 1, data.rl_states[0], data.references[0], False)
    subject.add_output(5, strided)
    assert_same(data, subject.take(5))


def test_a_label_counts_once_it_is_confirmed_and_a_discard_at_once():
    said = calls(source_episode())
    end = next(c for c in reversed(said) if c[0] == "set_state")
    subject = assembly([(*c, False) if c is end else c for c in said])
    assert subject.labelled() == []
    subject.set_state(*end[1:], True)
    assert subject.labelled() == [5]
    assert subject.missing(5) == ""
    lost = assembly([(*c, False) if c is end else c for c in said])
    lost.set_state(5, 3, True, Label.DISCARD, HANDOFF, False)
    assert lost.labelled() == [5]
    assert not lost.wanted(5)


def test_mixed_shapes_are_an_error():
    subject = assembly(calls(source_episode()))
    odd = Encoded(stamp(HANDOFF + 1), np.zeros(9, np.float32), np.zeros(2, np.float32), np.zeros((8, 2)), False)
    subject.add_output(5, odd)
    with pytest.raises(RecordError, match="mixes shapes"):
        subject.take(5)


def test_nothing_at_all_is_an_empty_episode():
    subject = EpisodeAssembly(PERIOD, stride=2, delay=0)
    subject.set_state(3, 2, True, Label.TIMEOUT, 0)
    assert "stopped" in subject.missing(3)
    subject.control_stopped(3, 2, 0)
    assert subject.missing(3) == ""
    assert len(subject.take(3).steps) == 0


def test_a_forged_number_of_steps_costs_neither_time_nor_memory():
    data = source_episode()
    subject = assembly(calls(data))
    subject.control_stopped(data.episode_id, 4, 2**32 - 1)
    assert subject.missing(data.episode_id) == (
        f"executed actions of {2**32 - 1 - HANDOFF - LENGTH} steps, the first {HANDOFF + LENGTH}"
    )
    subject.control_stopped(data.episode_id, 5, HANDOFF + LENGTH)
    last = Step(2**32 - 2, stamp(LENGTH) + 1, Source.VLA, np.zeros(2, np.float32))
    subject.add_step(data.episode_id, True, last)
    assert subject.missing(data.episode_id) in ("", "encoded observations of 1 steps, the first 4294967294")


@given(known=st.sets(st.integers(0, 30)), begin=st.integers(0, 30), end=st.integers(0, 30))
def test_gaps_are_those_of_the_sets(known, begin, end):
    gone = set(range(begin, end)) - known
    assert _gaps(known, begin, end) == (f"{len(gone)} steps, the first {min(gone)}" if gone else "")
