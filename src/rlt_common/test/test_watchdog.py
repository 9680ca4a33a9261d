"""Ages, refusals and stamps of inputs; time is moved, nobody sleeps."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlt_common.watchdog import NEVER, Watchdog

MS = 1_000_000


def watchdog() -> Watchdog:
    return Watchdog({"joints": 0.1, "shown": NEVER})


def run(subject: Watchdog, now_s: float, stamp_ms: float, ticks: int) -> tuple[float, float]:
    """`ticks` messages 20 ms apart, by clock and stamp."""
    for _ in range(ticks):
        now_s, stamp_ms = now_s + 0.02, stamp_ms + 20
        subject.heard("joints", now_s, round(stamp_ms * MS))
    return now_s, stamp_ms


def test_silence_is_a_fault_after_the_time_out_and_not_before():
    subject = watchdog()
    assert subject.fault("joints", 0.0) == "joints: nothing heard yet"
    subject.heard("joints", 1.0)
    assert subject.fault("joints", 1.1 - 1e-9) == ""
    assert subject.fault("joints", 1.12) == "joints: 120 ms old, time-out 100 ms"
    subject.heard("joints", 1.13)
    assert subject.fault("joints", 1.13) == ""


def test_what_is_not_judged_is_only_shown():
    subject = watchdog()
    assert subject.fault("shown", 1e9) == ""
    subject.heard("shown", 1.0, 5)
    subject.heard("shown", 2.0, 3)
    assert subject.fault("shown", 1e9) == ""
    assert [str(row) for row in subject.table(2.5)] == ["never heard of 100 ms, nothing heard yet", "500 ms not judged"]


def test_a_refused_message_is_a_fault_until_a_usable_one():
    subject = watchdog()
    subject.heard("joints", 1.0)
    subject.refuse("joints", "holds NaN")
    assert subject.fault("joints", 1.0) == "joints: holds NaN"
    subject.heard("joints", 1.02)
    assert subject.fault("joints", 1.02) == ""


def test_a_source_that_repeats_its_stamp_is_silent():
    subject = watchdog()
    subject.heard("joints", 1.0, 500 * MS)
    for tick in range(1, 8):
        assert not subject.heard("joints", 1.0 + 0.02 * tick, 500 * MS)
    assert subject.fault("joints", 1.14) == "joints: 140 ms old, time-out 100 ms"
    assert subject.table(1.14)[0].repeats == 7


@pytest.mark.parametrize("jump_ms", [-3_600_000, -500, 150, 3_600_000])
def test_a_jump_of_the_clock_is_a_fault_until_the_stamps_have_run_evenly_for_a_time_out(jump_ms):
    subject = watchdog()
    now_s, stamp_ms = run(subject, 0.0, 0.0, 10)
    now_s, stamp_ms = run(subject, now_s, stamp_ms + jump_ms, 1)
    assert "its stamps jumped by" in subject.fault("joints", now_s)
    now_s, stamp_ms = run(subject, now_s, stamp_ms, 4)
    assert "jumped" in subject.fault("joints", now_s)
    now_s, stamp_ms = run(subject, now_s, stamp_ms, 2)
    assert subject.fault("joints", now_s) == ""


def test_a_pause_of_clock_and_stamps_together_is_no_jump():
    subject = watchdog()
    now_s, stamp_ms = run(subject, 0.0, 0.0, 3)
    now_s, stamp_ms = run(subject, now_s + 5.0, stamp_ms + 5_000, 1)
    assert subject.fault("joints", now_s) == ""


def test_a_slightly_older_stamp_is_out_of_order_and_no_sign_of_life():
    subject = watchdog()
    now_s, stamp_ms = run(subject, 0.0, 0.0, 3)
    assert not subject.heard("joints", now_s + 0.02, round((stamp_ms - 20) * MS))
    assert subject.fault("joints", now_s + 0.02) == ""
    assert subject.age_s("joints", now_s + 0.05) == pytest.approx(0.05)


def test_an_alarm_lasts_until_it_was_looked_at_and_the_input_is_well_again():
    subject = watchdog()
    subject.heard("joints", 1.0)
    subject.alarm("joints", "60 N")
    subject.heard("joints", 1.001)
    assert subject.fault("joints", 1.01) == "joints: 60 N", "asking is not looking: diagnostics ask too"
    assert subject.fault("joints", 1.01) == "joints: 60 N"
    subject.looked()
    assert subject.fault("joints", 1.01) == ""
    subject.alarm("joints", "70 N")
    subject.looked()
    assert subject.fault("joints", 1.02) == "joints: 70 N", "nothing usable was said since"
    subject.heard("joints", 1.03)
    assert subject.fault("joints", 1.03) == ""


def test_an_alarm_after_one_that_is_over_is_looked_at_too():
    subject = watchdog()
    subject.alarm("joints", "60 N")
    subject.heard("joints", 1.0)
    subject.alarm("joints", "80 N")
    subject.looked()
    assert subject.fault("joints", 1.0) == "joints: 80 N"
    subject.heard("joints", 1.01)
    assert subject.fault("joints", 1.01) == ""


def test_the_first_fault_is_that_of_the_first_input():
    subject = Watchdog({"a": 0.1, "b": 0.1})
    subject.heard("b", 0.0)
    assert subject.first_fault(0.0) == "a: nothing heard yet"
    assert subject.first_fault(0.0, apart_from=("a",)) == ""
    assert subject.first_fault(1.0, apart_from=("a",)).startswith("b: 1000 ms old")


def test_an_input_that_nobody_named_is_an_error():
    with pytest.raises(KeyError):
        watchdog().heard("cameras", 0.0)
    with pytest.raises(ValueError, match=r"time-out of x is 0\.0 s"):
        Watchdog({"x": 0.0})


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(0.0, 0.099), min_size=1, max_size=60), st.floats(0.0, 0.09))
def test_transport_delays_below_the_time_out_are_never_a_fault_when_a_message_is_there(delays, tail):
    """Stamps 20 ms apart; message k arrives `delays[k]` after its stamp, in order: no false stop."""
    subject = watchdog()
    arrived = 0.0
    for k, delay in enumerate(delays):
        arrived = max(arrived, 0.02 * k + delay)
        subject.heard("joints", arrived, 20 * k * MS)
        assert subject.fault("joints", arrived + tail) == ""
