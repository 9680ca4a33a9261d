"""The executor's ticks: on deadlines whatever callbacks do, and their lateness is counted."""

import gc

import pytest

from rlt_control.real_time import (
    QUIET_S,
    TickLateness,
    keep_garbage_collection_short,
    run_on_deadlines,
)


def test_what_is_there_is_left_out_of_collections():
    before = gc.get_freeze_count()
    try:
        keep_garbage_collection_short()
        assert gc.get_freeze_count() > before
        assert len(gc.get_objects()) < 1000
    finally:
        gc.unfreeze()


def test_lateness_has_percentiles_of_the_window_and_counts_since_the_start():
    late = TickLateness(window=100)
    assert late.values()["late_max_ms"] == "0.00"
    for value_s in [0.0501, 0.006] + [0.001] * 99 + [0.0049]:
        late.add(value_s)
    values = late.values()
    assert (values["late_over_5_ms"], values["late_over_20_ms"]) == ("2", "1")
    assert (values["late_p50_ms"], values["late_max_ms"]) == ("1.00", "4.90")


class Loop:
    """The loop on a clock that only waiting and work move. `callbacks`: when each comes and how long it takes, s."""

    def __init__(self, callbacks=(), work_s=0.0, ticks=5):
        self.now, self.waiting, self.work_s, self.left = 0.0, list(callbacks), work_s, ticks
        self.late, self.began = [], []
        run_on_deadlines(0.02, self.tick, self.spin_once, lambda: self.left > 0, lambda: self.now, self.sleep)

    def sleep(self, seconds):
        self.now += seconds

    def spin_once(self, timeout_s):
        if self.waiting and self.waiting[0][0] <= self.now + timeout_s:
            comes, takes = self.waiting.pop(0)
            self.now = max(self.now, comes)
            self.began.append(self.now)
            self.now += takes
        else:
            self.now += timeout_s

    def tick(self, late_s):
        self.late.append(late_s)
        self.left -= 1
        self.now += self.work_s


def test_ticks_keep_their_deadlines_beside_callbacks_and_work():
    loop = Loop([(0.001 * i, 0.0005) for i in range(90)], work_s=0.004)
    assert loop.late == pytest.approx([0.0] * 5, abs=1e-9)
    assert len(loop.began) > 50


def test_no_callback_begins_right_before_a_tick():
    loop = Loop([(0.02 - QUIET_S / 2, 0.01)])
    assert loop.late == pytest.approx([0.0] * 5, abs=1e-9)
    assert loop.began == pytest.approx([0.02])


def test_deadlines_that_a_long_callback_passed_are_left_out():
    loop = Loop([(0.01, 0.055)])
    assert loop.late == pytest.approx([0.045, 0.0, 0.0, 0.0, 0.0], abs=1e-9)


def test_callbacks_get_their_turn_between_ticks_that_are_always_late():
    loop = Loop([(0.0, 0.0)] * 5, work_s=0.03)
    assert len(loop.began) == 5
