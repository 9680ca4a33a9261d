"""The report of any run, from directories with real episode files: figures by hand, what is missing, what is broken."""

import json
import re

import numpy as np
import pytest
from made_run import MadeEpisode, write_checkpoint, write_episode, write_metrics, write_run
from test_report import Page, report

from rlt_bringup import report_command, report_html
from rlt_bringup.comparison import compare
from rlt_bringup.episode_scan import scan
from rlt_bringup.run_facts import RunError, read_run
from rlt_bringup.run_report import WINDOW, build_run
from rlt_bringup.statistics import (
    bootstrap_median_difference,
    bootstrap_ratio,
    bootstrap_throughput,
    difference_interval,
    throughput,
    wilson_interval,
)
from rlt_common.health import ERROR, OK
from rlt_common.relabels import append_relabel, episode_facts
from rlt_common.retired import Retired, append_retired

HZ = 50.0
PRACTICE = [
    MadeEpisode("failure", 30, driver="vla", seed=1),
    MadeEpisode("success", 28, driver="vla", seed=2, human=range(5, 12)),
    MadeEpisode("timeout", 30, seed=3),
    MadeEpisode("success", 20, seed=4, held=range(3, 6), clamped=range(4)),
    MadeEpisode("discard", 6, seed=5, reason="emergency stop: operator (pad)", estop="emergency stop: operator (pad)"),
    MadeEpisode("success", 10, seed=6, human=range(2, 3)),
]
EVALUATION = [
    *(MadeEpisode(label, 30, "evaluate", "vla", seed, 10) for seed, label in ((9, "failure"), (10, "success"))),
    *(MadeEpisode("success", steps, "evaluate", "rl", seed, 10) for seed, steps in ((9, 14), (10, 16))),
]


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "mine", PRACTICE + EVALUATION, demonstrations=(25, 35))


def group(made, key):
    return next(group for group in made["groups"] if group["key"] == key)


# -- one file


def test_a_scan_counts_who_drove_what_was_limited_and_how_even_the_steps_came(tmp_path):
    late = {4: 3_000_000, 9: 1_500_000}
    made = MadeEpisode("success", 40, human=range(5, 12), held=range(20, 26), clamped=range(3), late_ns=late)
    found = scan(write_episode(tmp_path, 1, made), HZ)
    assert (found.steps, found.critical) == (44, 40)
    assert (found.human, found.critical_human, found.takeovers) == (7, 7, 1)
    assert (found.held, found.holds, found.longest_hold) == (6, 1, 6)
    assert found.clamped == 3
    assert sorted(found.uneven_ms)[-3:] == pytest.approx([0.0, 1.5, 3.0])
    assert len(found.uneven_ms) == 43
    assert len(found.delay_ms) == 44 - 7 - 6
    assert found.estop == ""
    assert not found.has_diagnostics


def test_diagnostics_in_a_file_say_lateness_reasons_errors_losses_and_restarts(tmp_path):
    def words(ticks, dropped, text, p99, level=OK):
        values = {"ticks": str(ticks), "dropped_chunks": str(dropped), "late_p99_ms": p99, "late_max_ms": "9.5"}
        return ("left/chunk_executor", level, text, values)

    health = [
        words(100, 2, "moving", "0.5"),
        words(150, 5, "holding: waiting for a chunk", "1.5"),
        words(200, 5, "joint states are silent", "1.0", ERROR),
        words(10, 0, "holding: no joint states yet", "0.1"),
        ("vla", OK, "ready", {"dropped_observations": "none"}),
    ]
    found = scan(write_episode(tmp_path, 1, MadeEpisode(health=health)), HZ)
    assert (found.late_p99_ms, found.late_max_ms) == (1.5, 9.5)
    assert dict(found.counts) == {"left/chunk_executor: dropped chunks": 3}
    assert dict(found.restarts) == {"left/chunk_executor": 1}
    assert dict(found.errors) == {"left/chunk_executor: joint states are silent": 1}
    assert dict(found.reasons) == {"waiting for a chunk": 1, "no joint states yet": 1}


# -- figures


def test_figures_by_hand(run):
    made = build_run(read_run(run))
    assert (made["task"], made["robot"], made["control_hz"]) == ("screw", "sim", HZ)
    assert made["purposes"] == {"train": 6, "evaluate": 4}
    warm, practice = group(made, "warmup"), group(made, "practice")
    assert (warm["episodes"], warm["successes"], practice["episodes"], practice["successes"]) == (2, 1, 3, 2)
    assert practice["throughput_per_10min"] == pytest.approx(throughput(2, 30 + 20 + 10, HZ))
    assert practice["left_out"] == 1, "the discarded one"
    assert (practice["intervened"], practice["human_share"]) == (1, pytest.approx(1 / 60))
    assert group(made, "rl")["median_steps"] == 15
    assert group(made, "base_10")["success_rate"] == 0.5
    curve = made["practice"]
    assert curve["episode_id"] == [1, 2, 3, 4, 6]
    assert curve["critical_minutes"][-1] == pytest.approx((30 + 28 + 30 + 20 + 10) / HZ / 60)
    assert curve["success_rate"][-1] == pytest.approx([0.6, *wilson_interval(3, 5)])
    assert curve["intervened"] == [False, True, False, False, True]
    assert curve["human_steps"] == [0, 7, 0, 0, 1]
    json.dumps(made, allow_nan=False)


EARLY = [MadeEpisode("failure", 0, "evaluate", "rl", 11, 10), MadeEpisode("timeout", 0, driver="rl", seed=12)]
"""They ended before the hand-off to RL."""


def test_an_episode_that_ended_before_the_hand_off_belongs_to_the_policy_that_was_asked_for(tmp_path):
    made = build_run(read_run(write_run(tmp_path / "mine", [*PRACTICE, *EVALUATION, *EARLY])))
    rl, practice = group(made, "rl"), group(made, "practice")
    assert (rl["episodes"], rl["successes"], group(made, "base_10")["episodes"]) == (3, 2, 2)
    assert (practice["episodes"], practice["successes"], group(made, "warmup")["episodes"]) == (4, 2, 2)
    assert (made["practice"]["warmup_episodes"], made["practice"]["driver"][-1]) == (2, "rl")


def test_where_a_file_does_not_say_which_policy_was_asked_for_the_episode_is_nobody_s(tmp_path):
    run = write_run(tmp_path / "old", [*PRACTICE, *EVALUATION, *EARLY], older=True)
    made = build_run(read_run(run))
    assert (group(made, "rl")["episodes"], group(made, "base_10")["episodes"], group(made, "practice")["episodes"]) == (
        (2, 2, 3)
    )
    assert [(key, group(made, key)["episodes"]) for key in ("evaluation_unknown", "practice_unknown")] == [
        ("evaluation_unknown", 1),
        ("practice_unknown", 1),
    ]
    assert group(made, "practice_unknown")["name"] == "practice, ended before the hand-off, policy not recorded"
    assert made["practice"]["warmup_episodes"] == 2
    assert [each["key"] for each in compare([made, made])["groups"]][-1] == "practice_unknown"


def test_the_histogram_takes_evaluation_before_practice_and_says_what_is_missing(run, tmp_path):
    said = build_run(read_run(run))["histogram"]
    assert [(each["colour"], each["steps"]) for each in said["groups"]] == [
        ("demonstrations", [25, 35]),
        ("base", [30]),
        ("rlt", [14, 16]),
    ]
    assert said["missing"] == []
    bare = build_run(read_run(write_run(tmp_path / "bare", PRACTICE[2:4])))["histogram"]
    assert [each["name"] for each in bare["groups"]] == ["practice, RL, all"]
    assert bare["missing"] == ["no demonstrations lie in this run directory", "no episode of the base VLA"]


def test_the_demonstrations_of_a_real_run_lie_among_its_episodes(tmp_path):
    """mode:=collect leaves them there, and mode:=adapt reads them there."""
    shown = [MadeEpisode(label, steps, "collect", "human") for label, steps in (("success", 33), ("failure", 40))]
    said = build_run(read_run(write_run(tmp_path / "mine", [*shown, *EVALUATION])))["histogram"]
    assert said["groups"][0] == {"colour": "demonstrations", "name": "demonstrations", "steps": [33]}
    assert said["missing"] == []
    unmarked = MadeEpisode("success", 0, "collect", "human")
    said = build_run(read_run(write_run(tmp_path / "unmarked", [unmarked, *EVALUATION])))["histogram"]
    assert [each["colour"] for each in said["groups"]] == ["base", "rlt"]
    assert said["missing"] == ["1 demonstrations without a hand-off: where their critical phase began is not known"]


def test_causes_are_what_labels_and_files_say(run):
    append_relabel(run, 4, "failure", 6)
    causes = {each["cause"]: each for each in build_run(read_run(run))["causes"]}
    assert causes["ended by the operator in the critical phase"]["examples"] == [1, 7]
    assert causes["time limit, in the critical phase"]["label"] == "timeout"
    assert causes["emergency stop: operator (pad)"]["label"] == "discard"
    assert causes["label corrected, it was success"]["examples"] == [4]


def test_faults_come_from_files_leftovers_metrics_and_logs(run):
    write_episode(run / "episodes", 20, MadeEpisode("discard", 5, warning="3 of 5 executed steps came"))
    (run / "episodes" / "000021.mcap.part").write_bytes(b"torn")
    write_metrics(run, PRACTICE)
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"episode": 3, "label": "timeout"}) + "\n")
    (run / "log").mkdir()
    line = "[WARN] [1795.1] [chunk_executor]: chunk refused: epoch {} is stale\n"
    (run / "log" / "chunk_executor.log").write_text(
        "".join(line.format(i) for i in range(3)) + "[INFO] [1.0] [vla]: ok\n"
    )
    (run / "log" / "graph.log").write_text("[WARN] [1.0] [graph]: vla died (status -9); starting it again\n")
    found = {(each["kind"], each["what"]): each["count"] for each in build_run(read_run(run))["faults"]}
    assert found == {
        ("emergency stop", "operator (pad)"): 1,
        ("started again", "episodes that the learner took in again"): 1,
        ("recorder", "3 of 5 executed steps came"): 1,
        ("recorder", "files of interrupted recordings"): 1,
        ("graph, as its runner tells", "graph: vla died (status -#); starting it again"): 1,
        ("in the log", "chunk_executor: chunk refused: epoch # is stale"): 3,
    }


def test_an_episode_whose_file_was_retired_goes_on_counting(run):
    before = build_run(read_run(run))
    path = run / "episodes" / "000003.mcap"
    append_retired(run, Retired(3, "2026-11-28T08:00:00+00:00", "budget", path.stat().st_size, episode_facts(path)))
    path.unlink()
    made = build_run(read_run(run))
    assert made["practice"]["episode_id"] == before["practice"]["episode_id"]
    assert made["practice"] == before["practice"]
    assert made["problems"] == ["of 1 retired episodes (retired.jsonl) nothing but outcome and steps is known"]


def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_reported(run):
    (run / "episodes" / "000002.mcap").write_bytes(b"torn")
    (run / "vla").mkdir()
    (run / "vla" / "config.json").write_text("{")
    made = build_run(read_run(run))
    assert made["practice"]["episode_id"] == [1, 3, 4, 6]
    assert [problem.partition(": ")[0] for problem in made["problems"]] == [
        "episodes/000002.mcap is left out",
        "vla/config.json is left out",
    ]
    assert "episodes/000002.mcap is left out" in Page(report_html.render({"task": "x", "run": made})).text


@pytest.mark.parametrize(("name", "words"), [("nowhere", "no run directory"), (".", "is it a run directory")])
def test_what_is_no_run_is_a_clear_error(tmp_path, name, words):
    with pytest.raises(RunError, match=words):
        read_run(tmp_path / name)
    with pytest.raises(SystemExit, match=words):
        report_command.main(["--run", str(tmp_path / name)])


def test_advice_and_provenance_are_in_it(run):
    write_metrics(run, PRACTICE)
    write_checkpoint(run, gamma=0.97)
    (run / "vla").mkdir()
    (run / "vla" / "metrics.json").write_text('{"reconstruction_loss": 0.4, "shuffled_loss": 0.41}')
    made = build_run(read_run(run))
    assert [each["rule"] for each in made["advice"]] == ["token is ignored"]
    assert made["provenance"]["hashes"]["actor"] == "aa" * 32
    assert made["provenance"]["hashes"]["robot and task files"] == "c0ffee00"
    page = Page(report_html.render({"task": "x", "run": made})).text
    for words in ("The decoder ignores the RL token", "aa" * 32, "c0ffee00", "agent.gamma", "0.97", "1234", "stride"):
        assert words in page, words


# -- the page


def test_the_page_is_self_contained_well_formed_and_the_same_each_time(run):
    write_metrics(run, PRACTICE, q_mean=[None, None, 0.2, 0.3, 0.3], reference_distance=[None, 0.1, 0.2, 0.3, 0.4])
    made = {"task": "screw", "run": build_run(read_run(run))}
    source = report_html.render(made)
    assert source == report_html.render(json.loads(json.dumps(made)))
    page = Page(source)
    assert page.links == []
    assert not re.search(r"@import|url\((?!#)", source)
    figures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(figures) == 4, "practice, steps, interventions, learning; simulated steps have no jitter to show"
    assert all(each["role"] == "img" and len(each["aria-label"]) > 40 for each in figures)
    assert "no jitter to see" in page.text
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    used = set(re.findall(r"url\(#([^)]+)\)", source)) | set(re.findall(r'href="#([^"]+)"', source))
    assert used
    assert [name for name in used if identifiers.count(name) != 1] == []


def test_jitter_is_shown_where_there_is_some(tmp_path):
    uneven = MadeEpisode(late_ns={5: 1_900_000, 9: 300_000})
    made = build_run(read_run(write_run(tmp_path / "real", [uneven])))
    assert made["control"]["uneven_ms"]["max"] == pytest.approx(1.9)
    assert "Control steps off one period" in report_html.render({"task": "x", "run": made})


def test_a_run_with_nothing_but_demonstrations_or_metrics_has_a_page_too(tmp_path):
    write_run(tmp_path / "shown", [], demonstrations=(25, 35))
    write_metrics(tmp_path, PRACTICE)
    for folder, words in ((tmp_path / "shown", "no episode of the RL policy"), (tmp_path, "What the learner measured")):
        assert words in Page(report_html.render({"task": "x", "run": build_run(read_run(folder))})).text


def test_the_command_writes_page_and_json_and_keeps_a_demo_s_comparison(run, capsys):
    report_command.main(["--run", str(run)])
    printed = capsys.readouterr().out
    assert "evaluation, RL" in printed
    assert "ratio" not in json.loads((run / "report.json").read_text())
    (run / "report.json").write_text(json.dumps(report()))
    report_command.main(["--run", str(run)])
    document = json.loads((run / "report.json").read_text())
    assert document["ratio"]["paired_episodes"] == 4
    assert document["run"]["purposes"] == {"train": 6, "evaluate": 4}
    page = Page((run / "report.html").read_text()).text
    for words in ("RLT and its base VLA", "Practice over robot time", "What failed", "Success over time"):
        assert words in page, words


# -- statistics


def test_difference_interval_is_newcombes_example():
    # Newcombe 1998, table II: 56/70 against 48/80, method 10: 0.0524 to 0.3339.
    assert difference_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference_interval(0, 0, 1, 2) is None


def test_bootstraps_cover_what_they_say_and_repeat():
    rng = np.random.default_rng(2)
    success, steps = rng.random(60) < 0.8, rng.integers(150, 300, 60)
    low, high = bootstrap_throughput(success, steps, HZ, seed=1)
    assert low < throughput(int(success.sum()), int(steps.sum()), HZ) < high
    assert bootstrap_throughput([], [], HZ, seed=1) is None
    low, high = bootstrap_ratio(success, steps, success, 2 * steps, seed=1)
    assert 1.4 < low < 2.0 < high < 2.8
    assert bootstrap_ratio([], [], success, steps, seed=1) is None
    assert bootstrap_ratio([True], [10], [False], [10], seed=1) == (np.inf, np.inf)
    low, high = bootstrap_median_difference(steps + 50, steps, seed=1)
    assert low < 50 < high
    assert bootstrap_median_difference([], steps, seed=1) is None
    assert WINDOW == 20
