"""What a played-back episode answers: from made-up recordings, through the real limits and the real critics."""

from dataclasses import replace as changed
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest

from rlt_bringup import replay, replay_page, replay_tables
from rlt_bringup.graph import config_file
from rlt_bringup.replay_answers import answer, jumps, unusual
from rlt_bringup.replay_nodes import Pace, Played
from rlt_bringup.replay_plan import TOLERANCE, Judgement, Recording, ReplayError
from rlt_bringup.replay_source import Replay
from rlt_common import topics
from rlt_common.codecs import ObservationData, doubles, floats, observation_to_msg, to_time
from rlt_common.config import load_robot, load_task
from rlt_common.kinematics import build_kinematics
from rlt_msgs.msg import ActionChunk, EpisodeState, ExecutedAction, VlaOutput
from rlt_rl_node.agent import AgentConfig
from rlt_rl_node.checkpoint import save
from rlt_rl_node.chunk_value import load_value
from rlt_rl_node.episode_store import EpisodeStore
from rlt_rl_node.learner import Learner, LearnerConfig, TaskShape

ROBOT = load_robot(config_file("robots", "sim"))
TASK = load_task(config_file("tasks", "screw"))
DIM, TOKEN, C = ROBOT.action_dim, 4, TASK.chunk_length
STATE = sum(ROBOT.block_sizes[name] for name in TASK.rl_state)
PERIOD_NS, START_NS = 20_000_000, 1_000_000_000_000
CHUNKS = 8
SPREAD = np.full(DIM, 2e-3, np.float32)
FORWARD = np.eye(DIM)[7] * 0.002
"""The right tool, 2 mm per step along x."""
HOME = np.zeros(len(ROBOT.joint_names))


def stamp(step):
    return START_NS + step * PERIOD_NS


def observation(step, q, skew_s=0.0):
    blocks = {name: np.zeros(size, np.float32) for name, size in ROBOT.block_sizes.items()}
    data = ObservationData(
        observation_id=stamp(step),
        stamp_ns=stamp(step),
        camera_names=tuple(camera.name for camera in ROBOT.cameras),
        images=np.zeros((len(ROBOT.cameras), 8, 8, 3), np.uint8),
        blocks={**blocks, "joint_position": q.astype(np.float32)},
    )
    return observation_to_msg(data, ["png"] * len(ROBOT.cameras), [skew_s] * len(ROBOT.cameras))


def output(step, request_id, runtime="a processor"):
    rng = np.random.default_rng(step)
    message = VlaOutput(
        observation_id=stamp(step),
        episode_id=1,
        epoch=2,
        request_id=request_id,
        is_boundary=True,
        rl_token=floats(rng.normal(size=TOKEN)),
        rl_state=floats(rng.normal(size=STATE)),
        horizon=C,
        action_dim=DIM,
        reference=floats(np.tile(FORWARD, C)),
        vla_hash="h" * 16,
        inference_s=0.02,
        runtime=runtime,
    )
    message.header.stamp = to_time(stamp(step))
    return message


def chunk(step, request_id, row=FORWARD, distance=1.0):
    message = ActionChunk(
        episode_id=1,
        epoch=2,
        chunk_id=request_id,
        observation_id=stamp(step),
        boundary_step=step,
        first_step=step,
        source=ActionChunk.SOURCE_RL,
        policy_version=3,
        rows=C,
        action_dim=DIM,
        actions=floats(np.tile(row, C)),
        reference=floats(np.tile(FORWARD, C)),
        reference_distance=distance,
    )
    message.header.stamp = to_time(stamp(step))
    return message


def executed(step, request_id, q, target, source=ExecutedAction.SOURCE_RL, row=0):
    message = ExecutedAction(
        episode_id=1,
        epoch=2,
        step=step,
        phase=EpisodeState.PHASE_CRITICAL,
        source=source,
        action=floats(FORWARD),
        commanded=floats(FORWARD),
        clamped=[False] * DIM,
        chunk_id=request_id,
        row=row,
        joint_names=list(ROBOT.joint_names),
        joint_target=doubles(target),
    )
    message.header.stamp = to_time(stamp(step))
    return message


def made(distances=None, delays=None, holds=()):
    """An episode of CHUNKS chunks in which the right tool goes forward and back; published times where `delays` say."""
    steps = range(CHUNKS * C)
    chunks, outputs, sent = {}, {}, {}
    for number in range(CHUNKS):
        step, request_id = number * C, number + 1
        chunks[request_id] = chunk(step, request_id, distance=(distances or [1.0] * CHUNKS)[number])
        outputs[request_id] = output(step, request_id)
        if delays:
            at = stamp(step)
            for topic, key, delay in zip(
                (topics.OBSERVATION, topics.VLA_OUTPUT, topics.ACTION_CHUNK, topics.EXECUTED_ACTION),
                (stamp(step), request_id, request_id, step + (number in holds)),
                delays[number],
                strict=True,
            ):
                at += round(delay * 1e9)
                sent[topic, key] = at
    executed_steps = []
    for step in steps:
        number, row = divmod(step, C)
        held = number in holds and row == 0
        source = ExecutedAction.SOURCE_HOLD if held else ExecutedAction.SOURCE_RL
        executed_steps.append(executed(step, 0 if held else number + 1, HOME, HOME, source, row))
    state = EpisodeState(episode_id=1, epoch=2, phase=EpisodeState.PHASE_CRITICAL, driver=EpisodeState.DRIVER_RL)
    return Recording(
        episode_id=1,
        observations={stamp(step): observation(step, HOME) for step in steps if step % 2 == 0},
        boundaries=outputs,
        strided={},
        chunks=chunks,
        executed=executed_steps,
        states=[state],
        published_ns=sent,
    )


def asked(recording, tmp_path, robot=ROBOT, judgement=None, values=None):
    return Replay(
        bag=tmp_path / "000001.mcap",
        facts={"task": "screw", "label": "success"},
        recording=recording,
        nodes=[],
        robot=robot,
        task=TASK,
        actor=None,
        judgement=judgement or Judgement(3),
        spread=SPREAD,
        values=values or {},
        notes=[],
    )


def same(recording):
    return Played(dict(recording.boundaries), {}, dict(recording.chunks), 0.5)


def answered(tmp_path, recording=None, played=None, **changes):
    recording = recording or made()
    return answer(asked(recording, tmp_path, **changes), played or same(recording))


# -- jumps


def test_a_value_is_unusual_beyond_five_deviations_of_the_episode_and_a_floor():
    steady = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0, 1.6]
    assert unusual(steady, 0.0) == [False] * 7 + [True]
    assert unusual(steady, 1.0) == [False] * 8
    assert unusual([1.0, 1.0, 9.0], 0.0) == [False] * 3, "of so few nothing is unusual"
    assert unusual([None, *steady], 0.0)[0] is False


def test_a_jump_is_flagged_where_it_happens_and_a_slope_is_none():
    slope = list(np.arange(12) * 0.3)
    assert not any(jumps(slope, 0.05))
    slope[7:] = [value + 5.0 for value in slope[7:]]
    assert [i for i, flag in enumerate(jumps(slope, 0.05)) if flag] == [7]


def test_where_the_distance_jumps_is_told_with_step_and_time(tmp_path):
    distances = [1.0] * CHUNKS
    distances[5] = 4.0
    found = answered(tmp_path, made(distances))
    jumped = [(c["step"], c["jumps"]) for c in found["chunks"] if c["jumps"]]
    assert jumped == [(5 * C, ["|pi - reference|"]), (6 * C, ["|pi - reference|"])], "there and back"
    table = replay_tables.jumped(found)
    assert table.rows[0][:2] == (str(5 * C), f"{5 * C * 0.02:.2f}")
    assert "2 of 8 chunks" in table.sentence


def test_q_is_the_critics_of_a_checkpoint_and_is_told_of_both_chunks(tmp_path):
    shape = TaskShape(TOKEN, STATE, C, TASK.stride, SPREAD, ROBOT.step_limit.astype(np.float32), "h" * 16)
    learner = Learner(shape, LearnerConfig(agent=AgentConfig(hidden=(16,))))
    learner.release()
    value = load_value(save(tmp_path / "checkpoints", learner, EpisodeStore(tmp_path / "encoded"), "final"))
    recording = made()
    chunks = {**recording.chunks, 1: chunk(0, 1, -FORWARD)}
    found = answered(
        tmp_path,
        recording,
        Played(dict(recording.boundaries), {}, chunks, 0.5),
        judgement=Judgement(3, another_actor=True),
        values={"the run's critic": value},
    )
    own = recording.boundaries[1]
    token, state = np.asarray(own.rl_token, np.float32), np.asarray(own.rl_state, np.float32)
    first = found["chunks"][0]
    for key, row in (("q", FORWARD), ("q_reference", FORWARD), ("q_played", -FORWARD)):
        assert first[key]["the run's critic"] == pytest.approx(value.of(token, state, np.tile(row, (C, 1))), abs=1e-6)
    assert abs(first["q"]["the run's critic"] - first["q_played"]["the run's critic"]) > 1e-4
    assert "puts its chunk above the recorded one" in replay_tables.another(found).sentence


# -- another checkpoint


def test_another_actor_is_compared_and_not_judged(tmp_path):
    recording = made()
    chunks = {**recording.chunks, 3: chunk(2 * C, 3, FORWARD + np.eye(DIM)[8] * 0.006)}
    played = Played(dict(recording.boundaries), {}, chunks, 0.5)
    assert not answered(tmp_path, recording, played)["equal"]
    found = answered(tmp_path, recording, played, judgement=Judgement(3, another_actor=True))
    assert found["equal"]
    apart = found["chunks"][2]
    assert apart["difference"] == pytest.approx(0.006 / 0.002 / np.sqrt(DIM), rel=1e-5)
    assert (apart["largest"]["component"], apart["largest"]["value"]) == (8, pytest.approx(0.006))
    assert replay_tables.another(found).rows[0][0] == str(2 * C)
    (cut,) = found["limits"]["chunks"]
    assert (cut["step"], cut["rows"]) == (2 * C, C)
    assert "step" in cut["limits"]


def test_elsewhere_the_same_is_within_a_stated_tolerance_and_it_is_said(tmp_path):
    recording = made()
    outputs = {i: output((i - 1) * C, i, runtime="another processor") for i in recording.boundaries}
    near = {**recording.chunks, 2: chunk(C, 2, FORWARD + TOLERANCE / 2)}
    far = {**recording.chunks, 2: chunk(C, 2, FORWARD + TOLERANCE * 2)}
    found = answered(tmp_path, recording, Played(outputs, {}, near, 0.5))
    assert found["equal"]
    assert "recorded on a processor, played on another processor: the same within 0.0001" in found["notes"][0]
    assert not answered(tmp_path, recording, Played(outputs, {}, far, 0.5))["equal"]
    assert not answered(tmp_path, recording, Played(dict(recording.boundaries), {}, near, 0.5))["equal"], (
        "the same here"
    )


# -- late


USUAL = (0.004, 0.025, 0.002, 0.001)


def test_who_made_a_chunk_late_is_named(tmp_path):
    delays = [USUAL] * CHUNKS
    delays[4] = (0.004, 0.025, 0.030, 0.001)
    delays[6] = (0.050, 0.025, 0.002, 0.001)
    found = answered(tmp_path, made(delays=delays, holds=(4, 6)))
    late = {entry["step"]: entry["blame"] for entry in found["late"]["chunks"] if entry["late"]}
    assert late == {4 * C: "policy", 6 * C: "camera"}
    assert found["late"]["one_clock"]
    entry = found["late"]["chunks"][4]
    assert (entry["held"], entry["trimmed"]) == (1, 1)
    assert entry["stages"]["vla"] == pytest.approx(0.02)
    assert entry["stages"]["vla wait"] == pytest.approx(0.005)
    rows = replay_tables.late(found).rows
    assert [row[-1] for row in rows] == ["policy", "camera"]


def test_a_slow_stage_is_told_even_where_no_chunk_came_late(tmp_path):
    delays = [USUAL] * CHUNKS
    delays[5] = (0.004, 0.060, 0.002, 0.001)
    found = answered(tmp_path, made(delays=delays))
    assert [e["unusual"] for e in found["late"]["chunks"] if e["unusual"]] == [["vla wait"]]


def test_of_a_file_without_times_the_steps_tell(tmp_path):
    found = answered(tmp_path, made(holds=(3,)))
    assert [e["blame"] for e in found["late"]["chunks"] if e["late"]] == ["not recorded"]
    assert "earlier version" in replay_tables.late(found).sentence


def test_a_chunk_is_shown_where_it_was_played_and_not_where_it_was_planned(tmp_path):
    recording = made()
    for message in recording.chunks.values():
        message.boundary_step, message.first_step = message.boundary_step + 1, message.first_step + 1
    found = answered(tmp_path, recording)
    assert [entry["first_step"] for entry in found["chunks"]] == [number * C for number in range(CHUNKS)]
    assert found["rows"]["steps"] == list(range(CHUNKS * C))
    assert not any(entry["late"] for entry in found["late"]["chunks"])


# -- limits


def test_limits_that_were_kept_stop_nothing(tmp_path):
    limits = answered(tmp_path)["limits"]
    assert (limits["clamped"], limits["stopped"], limits["held"]) == (0, 0, 0)


def test_new_limits_are_named_with_the_steps_that_they_would_have_cut_short(tmp_path):
    slower = changed(ROBOT, limits=changed(ROBOT.limits, step_translation=0.0005))
    limits = answered(tmp_path, robot=slower)["limits"]
    assert limits["by_limit"] == {"step": CHUNKS * C}
    assert limits["stopped"] == 0
    first = limits["steps"][0]
    assert first["limits"]["step"] == pytest.approx(0.0015, abs=1e-6)
    assert (first["requested"], first["applied"]) == (pytest.approx(0.002), pytest.approx(0.0005, abs=1e-6))


def test_a_workspace_that_ends_where_the_tool_is_stops_it(tmp_path):
    at = build_kinematics(ROBOT).forward(HOME)[1][0]
    left, right = ROBOT.arms
    low = tuple(np.minimum(right.workspace_min, at - 0.1))
    box = changed(right, workspace_min=low, workspace_max=(at[0], at[1] + 0.1, at[2] + 0.1))
    limits = answered(tmp_path, robot=changed(ROBOT, arms=(left, box)))["limits"]
    assert limits["by_limit"].get("workspace") == CHUNKS * C
    assert limits["stopped"] == CHUNKS * C


# -- page and terminal


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.outside, self.figures, self.open = [], 0, []

    def handle_starttag(self, tag, attributes):
        self.figures += tag == "svg"
        self.outside += [v for k, v in attributes if k in ("src", "href") and v and not v.startswith("#")]


def test_the_page_is_self_contained_and_shows_every_answer(tmp_path):
    slower = changed(ROBOT, limits=changed(ROBOT.limits, step_translation=0.0005))
    found = {**answered(tmp_path, made(delays=[USUAL] * CHUNKS), robot=slower), "label": "<b>"}
    page = replay_page.render([found])
    parsed = Page()
    parsed.feed(page)
    assert parsed.outside == []
    assert parsed.figures == 4, "actions, distance and Q, timing, limits"
    assert "<b>," not in page
    words = replay_tables.text(found)
    for table in replay_tables.tables(found):
        assert escape(table.question) in page
        assert table.question in words
    assert "... and 70 more (page)" in words


# -- the command line


def test_the_pace_is_a_factor_real_time_or_steps_in_a_terminal():
    assert replay._pace("fastest") == Pace(0.0)
    assert replay._pace("real_time") == Pace(1.0)
    assert replay._pace("2.5") == Pace(2.5)
    for wrong in ("0", "-1", "nan", "inf", "slow", ""):
        with pytest.raises(ReplayError, match="say fastest, real_time, step or a number"):
            replay._pace(wrong)
    with pytest.raises(ReplayError, match="needs a terminal"):
        replay._pace("step")


def test_episodes_are_named_by_numbers_and_ranges():
    assert list(replay._numbers("3,7-9, 12")) == [3, 7, 8, 9, 12]
    for wrong in ("", "x", "9-7", "3,,4", "1-99999999999"):
        with pytest.raises(ReplayError, match="is no number and no range"):
            list(replay._numbers(wrong))
