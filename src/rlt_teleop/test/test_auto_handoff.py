"""When the automatic hand-off calls, by hand."""

import math

import pytest

from rlt_teleop.auto_handoff import AutoHandoff, Call, Judgement


def judgement(observation, probability, episode=3, epoch=5, threshold=0.5):
    return Judgement(episode, epoch, observation, probability, threshold)


def in_base(outputs=1, threshold=0.0):
    auto = AutoHandoff(outputs, threshold)
    auto.on_episode(3, 5, base=True, human=False)
    return auto


def answers(auto, *probabilities):
    return [auto.on_output(judgement(i, p)) for i, p in enumerate(probabilities)]


def test_it_calls_at_the_head_s_own_threshold_for_exactly_this_episode_and_epoch():
    assert answers(in_base(), 0.1, 0.49, 0.5) == [None, None, Call(3, 5)]


def test_a_threshold_of_its_own_overrides_the_head_s():
    assert answers(in_base(threshold=0.8), 0.6, 0.79, 0.8) == [None, None, Call(3, 5)]


def test_it_waits_for_as_many_in_a_row_as_the_task_says():
    assert answers(in_base(outputs=2), 0.9, 0.1, 0.9, 0.9) == [None, None, None, Call(3, 5)]


def test_it_calls_once_while_the_answer_is_out_and_never_again_when_accepted():
    auto = in_base()
    call, *more = answers(auto, 0.9, 0.9, 0.9)
    assert more == [None, None]
    auto.on_answer(call, True)
    assert auto.on_output(judgement(9, 0.9)) is None
    auto.on_episode(3, 6, base=True, human=False)
    assert auto.on_output(judgement(10, 0.9, epoch=6)) is None, "once per episode"
    auto.on_episode(4, 7, base=True, human=False)
    assert auto.on_output(judgement(11, 0.9, episode=4, epoch=7)) == Call(4, 7)


def test_a_refused_call_is_made_again_by_the_next_output():
    auto = in_base()
    (call,) = answers(auto, 0.9)
    auto.on_answer(call, False)
    assert auto.on_output(judgement(1, 0.1)) is None
    assert auto.on_output(judgement(2, 0.9)) == call


def test_an_answer_to_an_earlier_epoch_s_call_does_not_free_the_present_one():
    auto = in_base()
    (old,) = answers(auto, 0.9)
    auto.on_episode(3, 7, base=True, human=False)
    new = auto.on_output(judgement(1, 0.9, epoch=7))
    auto.on_answer(old, False)
    assert new == Call(3, 7)
    assert auto.on_output(judgement(2, 0.9, epoch=7)) is None


@pytest.mark.parametrize(
    "stale", [judgement(1, 0.9, episode=2), judgement(1, 0.9, epoch=4), judgement(1, 0.9, epoch=6), judgement(0, 0.9)]
)
def test_an_output_of_another_episode_or_epoch_or_one_seen_before_does_not_count(stale):
    auto = in_base()
    auto.on_output(judgement(0, 0.1))
    assert auto.on_output(stale) is None
    assert (auto.in_a_row, auto.stale) == (0, 1)


def test_a_repeated_output_is_not_two_in_a_row():
    auto = in_base(outputs=2)
    assert [auto.on_output(judgement(4, 0.9)) for _ in range(3)] == [None] * 3
    assert auto.on_output(judgement(5, 0.9)) == Call(3, 5)


@pytest.mark.parametrize(("base", "human"), [(False, False), (True, True), (False, True)])
def test_outside_base_and_under_a_human_nothing_happens(base, human):
    auto = AutoHandoff(1)
    auto.on_episode(3, 5, base=base, human=human)
    assert answers(auto, 0.9, 0.9) == [None, None]


def test_an_intervention_starts_the_count_anew():
    auto = in_base(outputs=2)
    auto.on_output(judgement(0, 0.9))
    auto.on_episode(3, 6, base=True, human=True)
    auto.on_output(judgement(1, 0.9, epoch=6))
    auto.on_episode(3, 7, base=True, human=False)
    assert auto.on_output(judgement(2, 0.9, epoch=7)) is None
    assert auto.on_output(judgement(3, 0.9, epoch=7)) == Call(3, 7)


def test_without_a_head_it_never_calls_and_says_so():
    auto = in_base()
    assert not auto.blind
    assert answers(auto, math.nan) == [None]
    assert auto.blind
    assert auto.on_output(judgement(5, 0.9, threshold=math.nan)) is None
