"""bench-encoding: who is served when in robot time, what is made of it, and a short phase of the real encoder."""

import time
from functools import partial

import encoding
import pytest
from encoding import goals, row
from harness.busy_learner import busy_learner
from harness.critical_phase import (
    REQUEST,
    CriticalPhase,
    Phase,
    boundary_latencies,
    figures,
    kept_bytes,
    observe_phase,
    random_model,
)
from harness.episode_loop import Plant
from harness.robot_time import DEFERRED, Arrival, Served, serve

from rlt_bringup.graph import config_file
from rlt_common.codecs import stamp_ns
from rlt_common.config import load_robot, load_task
from rlt_vla_node.encoding import EncodingConfig


class Bench:
    """Calls of known length, on a clock that only they move."""

    def __init__(self, deferred):
        self.now, self.deferred = 100.0, list(deferred)

    def spend(self, seconds):
        self.now += seconds

    def work(self):
        self.spend(self.deferred.pop(0))

    def serve(self, *arrivals):
        calls = [Arrival(at_s, kind, partial(self.spend, seconds)) for at_s, kind, seconds in arrivals]
        served = serve(calls, lambda: bool(self.deferred), self.work, lambda: self.now)
        return [(s.kind, s.came_s, s.begun_s, s.ended_s) for s in served]


def test_what_has_come_goes_first_and_deferred_work_fills_the_rest():
    assert Bench([0.5]).serve((0.0, "a", 1.0), (1.0, "b", 1.0), (4.0, "c", 1.0)) == [
        ("a", 0.0, 0.0, 1.0),
        ("b", 1.0, 1.0, 2.0),
        (DEFERRED, 2.0, 2.0, 2.5),
        ("c", 4.0, 4.0, 5.0),
    ]


def test_what_comes_while_a_group_is_in_work_waits_for_that_one_only():
    assert Bench([2.0, 2.0]).serve((0.0, "a", 1.0), (2.0, "b", 1.0)) == [
        ("a", 0.0, 0.0, 1.0),
        (DEFERRED, 1.0, 1.0, 3.0),
        ("b", 2.0, 3.0, 4.0),
        (DEFERRED, 4.0, 4.0, 6.0),
    ]


def phase(tail_s=0.25):
    served = [
        Served(REQUEST, 0.0, 0.0, 0.125),
        Served(DEFERRED, 0.5, 0.5, 1.5),
        Served(REQUEST, 1.0, 1.5, 1.75),
        Served(DEFERRED, 10.0, 10.0, 10.0 + tail_s),
    ]
    return Phase(10.0, served, [16, 8], outputs=[None] * 26, most_waiting=16)


def test_figures_of_a_phase():
    assert figures(phase()) == {
        "left": 8,
        "tail_s": 0.25,
        "encoded_per_s": 26 / (0.125 + 1.0 + 0.25 + 0.25),
        "most_waiting": 16,
        "met_a_group": 1,
    }


def test_a_boundary_s_latency_as_it_came_and_behind_a_whole_group():
    assert boundary_latencies(phase()) == ([0.125, 0.75], [1.25])


def test_goals_are_judged_by_the_worst_repetition():
    quick, slow = row("x", [phase(0.25), phase(1.0)]), row("y", [phase(0.25), phase(1.25)])
    assert [(goal.value, goal.met) for goal in goals([quick, slow])[:2]] == [(1.0, True), (1.25, False)]
    slow["encoded_per_s"]["worst"] = 24.0
    slow["tail_s"]["worst"] = 0.1
    assert [goal.met for goal in goals([slow])] == [True, False]


def test_the_table_has_a_line_for_each_row():
    facts = {"observations": 250, "bytes_each": 6000.0, "load_average": 1.0, "learner_updates_per_s": None}
    rows = [{**row(name, [phase()]), **facts} for name in ("x", "y")]
    document = {
        "command": "c",
        "commit": "0" * 40,
        "machine": {"cpu": "p", "cores": 2},
        "n": 1,
        "rows": rows,
        "goals": [],
    }
    text = encoding.table(document)
    assert "| x | 8 (8) | 0.250 (0.250) |" in text
    assert "| y | 8 (8) |" in text
    assert "1.5 MB" in text


def test_a_short_phase_of_the_real_encoder_encodes_every_observation_once():
    robot, task = load_robot(config_file("robots", "sim")), load_task(config_file("tasks", "screw"))
    plant = Plant.build(robot, task, random_model(robot, task, 0))
    messages = observe_phase(plant, 60, 0)
    assert kept_bytes(messages) > sum(len(image.data) for message in messages for image in message.images)
    served = CriticalPhase(plant, EncodingConfig(group_size=16), messages).serve()
    assert sorted(stamp_ns(output.header.stamp) for output in served.outputs) == [
        stamp_ns(message.header.stamp) for message in messages
    ]
    boundaries = [round(stamp_ns(o.header.stamp) / 20e6) for o in served.outputs if o.is_boundary]
    assert boundaries == [0, 10, 20, 30, 40, 50]
    assert served.group_sizes == [16, 8]
    assert figures(served)["left"] >= 8
    assert figures(served)["tail_s"] > 0.0


def test_the_busy_learner_counts_while_it_is_at_work_and_stops():
    with busy_learner(partial(partial, time.sleep, 0.001), updates_per_call=2) as learner:
        assert learner.updates.value == 0
        with learner.at_work():
            pass  # it begins with the first update
        done = -1
        while done != learner.updates.value:  # a call in hand ends
            done = learner.updates.value
            time.sleep(0.05)
        assert done >= 2
        time.sleep(0.05)
        assert learner.updates.value == done
        assert 0.0 < learner.updates_per_s() <= 2000.0


def test_a_busy_learner_that_ends_is_an_error_and_no_wait_for_ever():
    with pytest.raises(RuntimeError, match="ended with status 1"), busy_learner(partial(int, "none"), 2):
        raise AssertionError("it cannot come up")
    with busy_learner(partial(partial, time.sleep, 0.001), updates_per_call=2) as learner:
        learner.process.kill()
        learner.process.join()
        with pytest.raises(RuntimeError, match="ended with status -9"), learner.at_work():
            raise AssertionError("it cannot be at work")
