"""What the benches of faults and of endurance judge by: each judge sees what it is there for."""

import json
import mmap
import os
import time
from pathlib import Path

import faults
import numpy as np
import pytest
import rclpy
import soak
from harness.fault_graph import FaultyGraph, Watch
from harness.fault_inputs import CameraRelay, behind_relay
from harness.process_samples import flat, sample_process, shared_memory_mb, slope
from rclpy.executors import SingleThreadedExecutor

from rlt_bringup.graph import GraphOptions, describe, resolve
from rlt_common.codecs import floats
from rlt_common.config import load_robot
from rlt_common.episode_file import EpisodeFileError, EpisodeWriter, episode_metadata
from rlt_msgs.msg import ActionChunk, EpisodeState, ExecutedAction

NOW_S = 1e9


@pytest.fixture
def watch():
    rclpy.init()
    node = Watch()
    yield node
    node.destroy_node()
    rclpy.shutdown()


def chunk(**fields):
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    values = {"episode_id": 1, "epoch": 2, "chunk_id": 5, "rows": 3, "action_dim": 2, "actions": floats(rows)}
    return ActionChunk(**{**values, **fields})


def step(row, **fields):
    values = {"episode_id": 1, "epoch": 2, "chunk_id": 5, "row": row, "source": ExecutedAction.SOURCE_RL}
    return ExecutedAction(**{**values, "commanded": floats([2 * row, 2 * row + 1]), **fields})


def test_steps_of_their_chunk_are_explained_whichever_comes_first(watch):
    watch._on_step(step(0), NOW_S)
    assert watch.unexplained()
    watch._on_chunk(chunk())
    watch._on_step(step(1), NOW_S)
    assert watch.unexplained() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": 3},
        {"episode_id": 2},
        {"chunk_id": 6},
        {"commanded": floats([9, 9])},
        {"source": ExecutedAction.SOURCE_HOLD, "action": floats([0.1, 0.0])},
    ],
)
def test_any_other_motion_is_unlabelled(watch, wrong):
    watch._on_chunk(chunk())
    watch._on_step(step(1, **wrong), NOW_S)
    assert len(watch.unexplained()) == 1


def hold(**fields):
    return step(-1, source=ExecutedAction.SOURCE_HOLD, chunk_id=0, **{"commanded": floats([0.0, 0.0]), **fields})


def test_a_hold_on_a_timer_may_follow_displaced_arms_by_a_step_and_ask_for_nothing(watch):
    follows = hold(action=floats([0.004, -0.005]))
    watch.leash_step = np.array([0.005, 0.005])
    watch._on_step(follows, NOW_S)
    assert watch.unexplained() == []
    watch._on_step(hold(action=floats([0.015, 0.0])), NOW_S)
    watch._on_step(hold(action=floats([0.001, 0.0]), commanded=floats([0.001, 0.0])), NOW_S)
    assert len(watch.unexplained()) == 2
    watch.leash_step = None
    watch._on_step(follows, NOW_S)
    assert len(watch.unexplained()) == 3, "in lockstep nothing is ever displaced"


def test_a_person_s_steps_and_a_chunk_s_are_told_apart(watch):
    watch._on_chunk(chunk())
    watch._on_step(step(1), NOW_S)
    assert (watch.seen.last_driven_s, watch.seen.last_human_s) == (NOW_S, 0.0)
    watch._on_step(step(1, source=ExecutedAction.SOURCE_HUMAN, chunk_id=0), NOW_S + 1)
    assert (watch.seen.last_driven_s, watch.seen.last_human_s) == (NOW_S, NOW_S + 1)


def test_a_step_counts_from_when_it_was_published_not_from_when_the_watch_gets_to_it(watch):
    publisher = watch.create_publisher(ExecutedAction, "executed_action", 10)
    executor = SingleThreadedExecutor()
    executor.add_node(watch)
    end_s = time.monotonic() + 30.0
    while not publisher.get_subscription_count():
        assert time.monotonic() < end_s
        executor.spin_once(timeout_sec=0.1)
    before = time.time()
    publisher.publish(step(0))
    after = time.time()
    while not watch.seen.steps:
        assert time.monotonic() < end_s
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    assert before <= watch.seen.last_driven_s <= after


def test_each_watchdog_is_judged_by_the_time_it_states():
    robot = load_robot(resolve(GraphOptions()).robot_file)
    task = resolve(GraphOptions()).task
    bounds = {own.victims: own.bound_s for own in (*faults.guarded(robot, task), faults.in_take_over(robot))}
    assert bounds == {
        faults.CHUNK_PRODUCERS: pytest.approx(0.3),
        ("episode_manager",): pytest.approx(0.54),
        ("sim_robot",): pytest.approx(0.14),
        ("joy_operator",): pytest.approx(0.14),
    }


def test_a_timed_row_counts_what_held_in_time():
    own = faults.Guarded(("x",), 0.5, "its time-out")
    row = faults._timed_row(own, [0.1, 0.5, 0.7], [1.0, 2.0, 3.0], ["a step"], [])
    assert (row.tried, row.held, row.in_time, row.bound_s, row.hold_worst_s, row.worst_s) == (3, 2, 2, 0.5, 0.7, 3.0)


def test_a_file_that_was_torn_or_damaged_is_refused(tmp_path):
    for spoil in (faults.tear, faults.damage):
        path = tmp_path / "000001.mcap"
        EpisodeWriter(path).finish({"label": "success"})
        spoil(path)
        with pytest.raises(EpisodeFileError):
            episode_metadata(path)


def test_an_episode_with_a_confirmed_label_is_lost_without_a_whole_file_that_says_so(watch, tmp_path):
    graph = FaultyGraph([], tmp_path, "commands")
    graph.watch = watch
    for episode_id, label in enumerate((EpisodeState.LABEL_SUCCESS,) * 3, start=1):
        watch._on_episode(EpisodeState(episode_id=episode_id, label=label, confirmation=EpisodeState.CONFIRMATION_DONE))
    for episode_id, label in ((1, "success"), (2, "failure")):
        EpisodeWriter(tmp_path / "episodes" / f"{episode_id:06d}.mcap").finish({"label": label})
    lost = graph.lost()
    assert [words.split(":")[0].split(" (")[0] for words in lost] == ["episode 2", "episode 3"]


def test_a_label_that_was_never_confirmed_is_not_lost_and_one_that_was_refused_is_counted(watch, tmp_path):
    graph = FaultyGraph([], tmp_path, "commands")
    graph.watch = watch
    for confirmation in (EpisodeState.CONFIRMATION_PENDING, EpisodeState.CONFIRMATION_LOST):
        label = EpisodeState.LABEL_DISCARD if confirmation else EpisodeState.LABEL_SUCCESS
        watch._on_episode(EpisodeState(episode_id=1, label=label, confirmation=confirmation))
    assert graph.lost() == []
    assert watch.seen.refused == {1}


def test_only_the_ingest_of_cameras_listens_to_the_relay(tmp_path):
    nodes = describe(resolve(GraphOptions(run=str(tmp_path))))
    changed, topic = behind_relay(nodes, tmp_path)
    differing = [a.name for a, b in zip(nodes, changed, strict=True) if a != b]
    assert differing == ["camera_ingest"]
    robot = load_robot(next(n for n in changed if n.name == "camera_ingest").parameters["robot"])
    assert topic == "base/image_raw"
    assert topic not in [camera.topic for camera in robot.cameras]


def test_the_relay_passes_on_what_it_gets_with_a_count_for_noise_unless_told_otherwise(watch):
    relay = CameraRelay("in")
    sent = []
    relay._publisher.publish = sent.append
    relay._on_image(b"image")
    relay.fault = "stalled"
    relay._on_image(b"image")
    relay.fault = "duplicate and out of order"
    relay._on_image(b"first")
    relay._on_image(b"second")
    relay.destroy_node()
    image, first, second = b"imag\x01", b"firs\x02", b"secon\x03"
    assert sent == [image, first, first, first, second, first, second]


def test_growth_is_found_and_noise_is_flat():
    hours = np.linspace(0, 2, 400)
    noise = np.random.default_rng(0).normal(size=400)
    growing = slope(hours, 100 + 8 * hours + noise)
    assert growing.low < 8 < growing.high
    assert not flat(growing, 4.0)
    assert flat(slope(hours, 100 + noise), 1.0)
    assert not flat(slope(hours[:20], 100 + noise[:20]), 1.0), "too little is known"
    wandering = np.cumsum(noise) * 0.1  # neighbours alike: an interval as for independent samples would be too narrow
    assert slope(hours, wandering).high - slope(hours, wandering).low > 3 * (growing.high - growing.low) * np.std(
        wandering
    ) / np.std(noise)
    with pytest.raises(ValueError, match="say nothing about growth"):
        slope([0.0, 1.0], [1.0, 1.0])


def test_a_process_is_sampled_and_one_that_is_gone_is_an_error():
    found = sample_process(os.getpid())
    assert found["rss_mb"] > 10
    assert found["handles"] > 2
    with pytest.raises(OSError, match="No such"):
        sample_process(2**22 + 1)


def test_only_the_shared_memory_of_the_processes_asked_about_counts(tmp_path):
    other, own = (Path("/dev/shm") / f"rlt-test-{os.getpid()}-{name}" for name in ("other", "own"))
    try:
        for path in (other, own):
            path.write_bytes(bytes(2_000_000))
        before = shared_memory_mb([os.getpid()])
        with open(own, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
            assert shared_memory_mb([os.getpid()]) - before == pytest.approx(2.0, abs=0.1)
    finally:
        other.unlink()
        own.unlink()


def test_goals_count_what_was_lost_and_what_was_left_out():
    good = {"fault": "SIGKILL", "tried": 100, "held": 100, "went_on": 100, "lost": 0, "in_time": 100, "bound_s": 0.1}
    assert all(goal.met for goal in faults.goals([good]))
    for change in ({"held": 99}, {"went_on": 99}, {"lost": 1}, {"in_time": 99}):
        assert not all(goal.met for goal in faults.goals([{**good, **change}]))
    left_out = {"fault": "full disk", "tried": 0, "held": 0, "went_on": 0, "lost": 0}
    assert [goal.met for goal in faults.goals([good, left_out])] == [True, True, True, True, True, False]
    lockstep = {**good, "in_time": None, "bound_s": None}
    assert not faults.goals([lockstep])[2].met, "without a kill on a timer nothing is known of how soon the arms hold"


def test_the_soak_s_table_and_goals_from_samples():
    hours = np.linspace(0, 2, 60)
    rows = [
        {"process": name, "samples": [{"rss_mb": 100 + slope_ * h, "handles": 20.0} for h in hours]}
        for name, slope_ in (("vla", 0.0), ("rl_learner", 50.0))
    ]
    whole = [
        {"hours": h, "shm_mb": 5.0, "steps_per_s": 50.0, "inference_ms": 10.0, "chunk_ms": 20.0, "replay_mb": 48.0 * h}
        for h in hours
    ]
    graph = {"process": "graph", "samples": whole, "minutes": 120.0, "steps": 9, "labelled": 2, "lost": 0}
    found = soak.goals([*rows, graph])
    assert all(goal.met for goal in found)
    for sample in whole:
        sample["replay_mb"] = 10.0
    assert [goal.met for goal in soak.goals([*rows, graph])].count(False) == 1
    for sample, h in zip(whole, hours, strict=True):
        sample["replay_mb"], sample["chunk_ms"] = 48.0 * h, 20.0 + 2.0 * h
    assert [goal.met for goal in soak.goals([*rows, graph])].count(False) == 1
    for sample in whole:
        sample["chunk_ms"] = 20.0
    rows[0]["samples"] = [{"rss_mb": 100 + 30 * h, "handles": 20.0} for h in hours]
    assert [goal.met for goal in soak.goals([*rows, graph])].count(False) == 1
    document = {"rows": [*rows, graph], "goals": [], "command": "c", "commit": "d", "machine": {"cpu": "", "cores": 2}}
    assert "| vla | 100, 160 |" in soak.table(json.loads(json.dumps(document)))
