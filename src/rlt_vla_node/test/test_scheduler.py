"""The order of the VLA node's work, without time and without ROS."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlt_vla_node.scheduler import Request, Scheduler, Step
from rlt_vla_node.synchroniser import CLOCK_RESET_NS

PERIOD = 20


def scheduler(**options):
    return Scheduler(**{"group_size": 4, "stride": 2, "period_ns": PERIOD, **options})


def request(number, not_before, episode=1, epoch=1):
    return Request(number, episode, epoch, not_before)


def step(index, episode=1, epoch=2, critical=True):
    return Step(index * PERIOD, episode, epoch, index, critical)


def observe(s, index):
    s.on_observation(index * PERIOD, f"o{index}")


def train(s, episode=1, epoch=2, discarded=False):
    s.on_episode(episode, epoch, train=True, discarded=discarded)


def groups(s):
    found = []
    while s.group_ready:
        found.append([item.observation for item in s.next_group()])
    return found


def test_a_request_is_answered_from_the_first_observation_at_or_after_its_stamp():
    s = scheduler()
    for index in (0, 2, 4):
        observe(s, index)
    s.on_request(request(1, not_before=2 * PERIOD))
    work = s.next_boundary()
    assert (work.observation, work.request.request_id) == ("o2", 1)
    assert s.next_boundary() is None


def test_a_request_waits_for_its_observation():
    s = scheduler()
    observe(s, 0)
    s.on_request(request(1, not_before=2 * PERIOD))
    assert s.next_boundary() is None
    assert s.request.request_id == 1
    observe(s, 2)
    assert s.next_boundary().observation == "o2"


def test_a_repeated_request_takes_the_place_of_the_first_and_is_not_counted():
    s = scheduler()
    s.on_request(request(1, 0))
    s.on_request(request(1, 0))
    assert s.counters.dropped_requests == 0
    observe(s, 0)
    assert s.next_boundary().request.request_id == 1
    assert s.next_boundary() is None


def test_requests_of_an_older_epoch_or_episode_are_dropped():
    s = scheduler()
    s.on_request(request(1, not_before=100, episode=1, epoch=1))
    s.on_episode(1, 2, train=True, discarded=False)
    assert s.request is None
    s.on_request(request(2, 0, episode=1, epoch=1))
    s.on_request(request(3, 0, episode=0, epoch=9))
    assert s.request is None
    assert s.counters.dropped_requests == 3
    s.on_request(request(4, 0, episode=1, epoch=3))
    assert s.request.request_id == 4


def test_a_request_may_come_before_the_state_of_its_episode():
    s = scheduler()
    train(s, episode=1, epoch=2)
    s.on_request(request(5, 0, episode=2, epoch=3))
    train(s, episode=2, epoch=3)
    observe(s, 0)
    assert s.next_boundary().request.request_id == 5


def test_an_unusable_observation_is_passed_over():
    s = scheduler()
    observe(s, 0)
    observe(s, 2)
    s.on_request(request(1, 0))
    work = s.next_boundary()
    s.drop(work.stamp_ns)
    s.on_request(work.request)
    assert s.next_boundary().observation == "o2"


def play(s, count, boundaries=(), critical_from=0, total=None):
    """Lockstep: the observation and, at a boundary, its answer come before the step is executed."""
    for index in range(count):
        if index % 2 == 0:
            observe(s, index)
        if index in boundaries:
            s.on_request(request(100 + index, index * PERIOD, epoch=2))
            assert s.next_boundary() is not None
        s.on_step(step(index, critical=index >= critical_from))
    s.on_control(1, moving=False, next_step=count if total is None else total)


def test_strided_observations_are_those_of_the_critical_phase_that_were_no_boundary():
    s = scheduler()
    train(s)
    play(s, 20, boundaries=(0, 10), critical_from=6)
    assert groups(s) == [["o6", "o8", "o12", "o14"], ["o16", "o18"]]
    assert s.pending == 0


def test_groups_wait_until_they_are_full_or_the_episode_is_over():
    s = scheduler()
    train(s)
    for index in range(6):
        if index % 2 == 0:
            observe(s, index)
        s.on_step(step(index))
    assert not s.group_ready
    assert s.next_group() == ()
    s.on_control(1, moving=True, next_step=6)
    assert not s.group_ready
    s.on_control(1, moving=False, next_step=7)
    assert not s.group_ready, "step 6 has not been seen yet"
    s.on_step(step(6))
    assert not s.group_ready, "the observation of step 6 has not been seen yet"
    observe(s, 6)
    assert groups(s) == [["o0", "o2", "o4", "o6"]]


def test_a_state_of_the_executor_from_before_the_first_step_does_not_end_the_episode():
    s = scheduler()
    train(s)
    s.on_control(1, moving=False, next_step=0)
    observe(s, 0)
    s.on_step(step(0))
    assert not s.group_ready


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_groups_do_not_depend_on_how_the_two_streams_interleave(data):
    """Observations and steps each come in order; how they interleave is up to the network."""
    count = data.draw(st.integers(1, 30))
    observations = [("observation", i) for i in range(0, count, 2)]
    steps = [("step", i) for i in range(count)]
    s = scheduler()
    train(s)
    found = []
    while observations or steps:
        take_step = steps and (not observations or data.draw(st.booleans()))
        kind, index = (steps if take_step else observations).pop(0)
        if kind == "step":
            s.on_step(step(index))
        else:
            observe(s, index)
        found += groups(s)
    s.on_control(1, moving=False, next_step=count)
    found += groups(s)
    expected = [f"o{i}" for i in range(0, count, 2)]
    assert found == [expected[i : i + 4] for i in range(0, len(expected), 4)]


def test_an_observation_without_a_step_of_its_own_is_not_encoded():
    s = scheduler()
    train(s)
    observe(s, 0)
    s.on_step(step(1))
    s.on_control(1, moving=False, next_step=2)
    assert groups(s) == []


@pytest.mark.parametrize(("trained", "discarded"), [(False, False), (True, True)])
def test_other_purposes_and_discarded_episodes_are_not_encoded(trained, discarded):
    s = scheduler()
    s.on_episode(1, 2, train=trained, discarded=False)
    play(s, 6)
    s.on_episode(1, 3, train=trained, discarded=discarded)
    assert groups(s) == []


def test_a_new_episode_flushes_the_rest_of_the_last_one():
    s = scheduler()
    train(s)
    play(s, 6, total=9)
    assert not s.group_ready
    train(s, episode=2, epoch=3)
    assert groups(s) == [["o0", "o2", "o4"]]
    s.next_group()
    s.on_step(step(40, episode=1))
    assert s.pending == 0


def test_an_episode_whose_purpose_comes_late_is_encoded():
    s = scheduler()
    play(s, 8)
    assert not s.group_ready
    train(s)
    s.on_control(1, moving=False, next_step=8)
    assert groups(s) == [["o0", "o2", "o4", "o6"]]


def test_the_queue_is_bounded_and_counts_what_it_drops():
    s = scheduler(max_pending=5)
    train(s)
    play(s, 20)
    assert s.counters.dropped_observations == 5
    assert groups(s) == [["o10", "o12", "o14", "o16"], ["o18"]]


def test_a_strided_observation_that_becomes_a_boundary_after_all_is_taken_out():
    s = scheduler()
    train(s)
    observe(s, 0)
    s.on_step(step(0))
    assert s.pending == 1
    s.on_request(request(1, 0, epoch=2))
    assert s.next_boundary().observation == "o0"
    assert s.pending == 0


@pytest.mark.parametrize("ahead", [0, 2])
def test_where_chunks_are_anchored_a_strided_observation_waits_for_what_was_commanded(ahead):
    s = scheduler(group_size=2, anchor_steps=ahead)
    train(s)
    ready = []
    for index in range(6):
        if index % 2 == 0:
            observe(s, index)
        s.on_step(Step(index * PERIOD, 1, 2, index, True, f"c{index}"))
        ready.append(s.group_ready)
    assert ready.index(True) == 2 + max(0, ahead - 1), (
        "both are known, and the step before the second one's first action"
    )
    first = {item.observation: item.anchor for item in s.next_group()}
    assert first == {"o0": None if ahead == 0 else "c1", "o2": "c1" if ahead == 0 else "c3"}
    s.on_control(1, moving=False, next_step=6)
    assert [(item.observation, item.anchor) for item in s.next_group()] == [("o4", "c3" if ahead == 0 else "c5")]


# ---- clocks, and what is kept


def before_and_after():
    """A scheduler whose observations had stamps far ahead; and where they go on once the clock was set back."""
    s, back = scheduler(group_size=2), 60 * CLOCK_RESET_NS
    train(s)
    for index in range(0, 10, 2):
        s.on_observation(back + index * PERIOD, f"before{index}")
        s.on_step(Step(back + index * PERIOD, 1, 2, index, True))
    return s


def test_after_the_clock_was_set_back_requests_wait_for_new_observations():
    s = before_and_after()
    s.on_request(request(1, not_before=4 * PERIOD, epoch=2))
    assert s.next_boundary() is None, "an old image would pass for a new one"
    observe(s, 4)
    assert s.next_boundary().observation == "o4"
    s.on_request(request(2, not_before=6 * PERIOD, epoch=2))
    observe(s, 6)
    assert s.next_boundary().observation == "o6"
    assert s.counters.clock_resets == 1


def test_an_episode_in_which_the_clock_was_set_back_is_encoded_to_its_end():
    s = before_and_after()
    for index in (10, 12):
        observe(s, index)
        s.on_step(step(index))
    s.on_step(step(13))
    s.on_control(1, moving=False, next_step=14)
    assert groups(s) == [["before0", "before2"], ["before4", "before6"], ["before8", "o10"], ["o12"]]


def test_an_episode_that_ended_before_the_clock_was_set_back_is_encoded_to_its_end():
    s = before_and_after()
    s.on_step(Step(60 * CLOCK_RESET_NS + 10 * PERIOD, 1, 2, 10, True))
    s.on_control(1, moving=False, next_step=11)
    assert groups(s) == [["before0", "before2"], ["before4", "before6"]]
    observe(s, 0)
    assert groups(s) == [["before8"]]


@pytest.mark.parametrize("trained", [True, False])
def test_of_episodes_that_are_not_trained_on_nothing_is_kept(trained):
    s = scheduler(anchor_steps=0)
    for episode in range(1, 50):
        s.on_step(Step(episode * 100 * PERIOD, episode, 1, 0, False, commanded="c"))
        s.on_episode(episode, 1, train=trained and episode == 2, discarded=False)
        for index in range(1, 10):
            at = (episode * 100 + index) * PERIOD
            s.on_observation(at, f"o{index}")
            s.on_step(Step(at, episode, 1, index, True, commanded="c"))
    kept = {episode: len(state.commanded) for episode, state in s._episodes.items()}
    assert kept == ({2: 10, 49: 0} if trained else {49: 0})


# ---- work that is given back


def five_steps(s):
    """An episode of ten control steps with five observations."""
    train(s)
    for index in range(0, 10, 2):
        observe(s, index)
    for index in range(10):
        s.on_step(step(index))
    s.on_control(1, moving=False, next_step=10)
    return s


def test_a_request_that_is_given_back_is_answered_later_from_the_same_observation():
    s = five_steps(scheduler())
    s.on_request(request(1, not_before=4 * PERIOD, epoch=2))
    work = s.next_boundary()
    s.give_back_boundary(work)
    assert s.pending == 5
    again = s.next_boundary()
    assert (again.request, again.observation) == (work.request, work.observation)
    assert groups(s) == [["o0", "o2", "o6", "o8"]]
    assert s.counters.dropped_requests == 0


def test_a_request_that_is_given_back_and_then_out_of_date_leaves_its_observation_to_the_strided():
    s = five_steps(scheduler())
    s.on_request(request(1, not_before=4 * PERIOD, epoch=2))
    s.give_back_boundary(s.next_boundary())
    train(s, epoch=3)
    assert s.next_boundary() is None
    assert groups(s) == [["o0", "o2", "o4", "o6"], ["o8"]]


def test_a_request_given_back_before_its_step_was_executed_leaves_its_observation_to_be_decided_on():
    s = scheduler()
    train(s)
    for index in range(0, 10, 2):
        observe(s, index)
    s.on_request(request(1, not_before=4 * PERIOD, epoch=2))
    s.give_back_boundary(s.next_boundary())
    train(s, epoch=3)
    for index in range(10):
        s.on_step(step(index))
    s.on_control(1, moving=False, next_step=10)
    assert groups(s) == [["o0", "o2", "o4", "o6"], ["o8"]]


def test_a_newer_request_takes_the_place_of_one_that_is_given_back():
    s = scheduler()
    observe(s, 0)
    s.on_request(request(1, not_before=0))
    s.give_back_boundary(s.next_boundary())
    s.on_request(request(2, not_before=2 * PERIOD))
    assert s.next_boundary() is None
    observe(s, 2)
    work = s.next_boundary()
    assert (work.request.request_id, work.observation) == (2, "o2")
    assert s.counters.dropped_requests == 1


def test_a_group_that_is_given_back_comes_first_again_with_its_anchors():
    s = scheduler(anchor_steps=2, group_size=2)
    train(s)
    for index in range(0, 10, 2):
        observe(s, index)
    for index in range(12):
        s.on_step(Step(index * PERIOD, 1, 2, index, True, commanded=f"c{index}"))
    first = s.next_group()
    s.give_back_group(first)
    assert s.next_group() == first
    assert [item.anchor for item in first] == ["c1", "c3"]
    assert groups(s) == [["o4", "o6"]]


def test_some_of_a_group_may_be_given_back():
    s = five_steps(scheduler(group_size=5))
    group = s.next_group()
    s.give_back_group([group[1], group[3]])
    assert groups(s) == [["o2", "o6"]]


def test_what_is_given_back_is_bounded_like_everything_that_waits():
    s = five_steps(scheduler(group_size=2, max_pending=4))
    assert s.counters.dropped_observations == 1
    group = s.next_group()
    observe(s, 10)
    s.on_step(step(10))
    s.give_back_group(group)
    assert s.pending == 4
    assert s.counters.dropped_observations == 2
