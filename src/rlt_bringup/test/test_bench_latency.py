"""What the bench of observation-to-command latency makes of the processes' records, and what it judges by."""

import latency
import pytest
from harness.chunk_latency import figures, latencies


def way(chunk=7, observation=100, late=0.0):
    """One chunk's way: observed at 1.000 s, asked for at 0.990 s, decoded 2 ms, model 50 ms, played at 1.080 s."""
    return [
        {"kind": "request", "at_s": 0.990 + late, "chunk": chunk},
        {"kind": "observation", "at_s": 1.000, "observation": observation, "codec_s": 0.006},
        {"kind": "output", "at_s": 1.055 + late, "chunk": chunk, "model_s": 0.050, "codec_s": 0.002},
        {"kind": "taken", "at_s": 1.056 + late, "chunk": chunk},
        {"kind": "made", "at_s": 1.0575 + late, "chunk": chunk},
        {"kind": "chunk", "at_s": 1.058 + late, "chunk": chunk, "observation": observation},
        {"kind": "command", "at_s": 1.082 + late, "chunk": chunk, "due_s": 1.080 + late, "sent_s": 1.081 + late},
    ]


PARTS = ("to_output", "to_policy", "in_policy", "to_executor", "to_chunk", "to_command", "planned", "total")


def milliseconds(one):
    return {name: 1e3 * getattr(one, name) for name in PARTS}


def test_the_model_and_the_planned_wait_are_left_out_and_decoding_is_not():
    (one,) = latencies(way())
    expected = {
        "to_output": 5,
        "to_policy": 1,
        "in_policy": 1.5,
        "to_executor": 0.5,
        "to_chunk": 3,
        "to_command": 1,
        "planned": 22,
        "total": 9,
    }
    assert milliseconds(one) == pytest.approx(expected)
    assert (one.vla_codec, one.ingest_codec, one.model) == (0.002, 0.006, 0.050)


def test_an_observation_that_was_there_before_the_request_counts_from_the_request():
    (one,) = latencies(way(late=0.030))  # asked for at 1.020 s
    assert 1e3 * one.to_output == pytest.approx(1.085e3 - 1.020e3 - 50)


def test_a_group_that_the_model_had_begun_is_the_model_s_time():
    begun_before = {"kind": "group", "begin_s": 0.900, "at_s": 1.003}
    after = {"kind": "group", "begin_s": 1.056, "at_s": 1.500}
    (one,) = latencies([*way(), begun_before, after])
    assert 1e3 * one.group == pytest.approx(3)
    assert 1e3 * one.total == pytest.approx(6)


def test_rows_after_the_first_and_repeated_requests_add_nothing():
    again = [{**record, "at_s": record["at_s"] + 0.2} for record in way() if record["kind"] != "observation"]
    assert latencies([*again, *way()]) == latencies(way())


def test_a_chunk_whose_way_is_not_whole_is_left_out():
    for missing in ("request", "observation", "output", "taken", "made", "chunk", "command"):
        assert latencies([record for record in way() if record["kind"] != missing]) == []


def test_figures_without_a_chunk_are_an_error():
    with pytest.raises(ValueError, match="no chunk was followed"):
        figures([])


@pytest.mark.parametrize(
    ("p50", "p99", "met"), [(7.9, 24.9, [True, True]), (8.0, 24.9, [False, True]), (7.9, 25.0, [True, False])]
)
def test_goals_are_the_issue_s(p50, p99, met):
    row = {"load": latency.ALONE, "priorities": latency.PRIORITIES, "ms": {"total": {"p50": p50, "p99": p99}}}
    compared = {**row, "priorities": {}}
    assert [goal.met for goal in latency.goals([row, compared])] == met
