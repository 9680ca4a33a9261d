"""Statistics against hand computation and scipy; report.json, the printed table and report.html against small runs."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from rlt_bringup import report_html
from rlt_bringup.report import (
    EpisodeOutcome,
    Handoff,
    PolicyResult,
    Provenance,
    ReportError,
    Training,
    build_report,
    format_table,
    source_commit,
    summarise,
    write_json,
)
from rlt_bringup.statistics import bootstrap_throughput_ratio, median, throughput, wilson_interval

HZ = 50.0


def outcome(episode_id, label="success", critical=100, base=50, driver="vla", seed=None):
    seed = 1000 + episode_id if seed is None else seed
    return EpisodeOutcome(episode_id, seed, label, critical, critical + base, driver)


def policy(name, labels, steps, driver, execute_steps=10):
    outcomes = [outcome(i, label, n, driver=driver) for i, (label, n) in enumerate(zip(labels, steps, strict=True))]
    return PolicyResult(name, execute_steps, outcomes)


PROVENANCE = Provenance(
    task="screw",
    seeds={"run": 7},
    commit="0123abcd",
    config_hash="c0ffee",
    vla_hash="aaaa",
    actor_hash="bbbb",
    command="make demo SEED=7",
    configuration={"nodes": {"rl_learner": {"beta": 0.004}}, "rows": (10, 20)},
)


FIGURES = {
    "episodes": {"train": 70, "validation": 15, "test": 15},
    "precision": 0.9661,
    "recall": None,
    "premature_steps": 10,
    "premature_share": 0.05,
    "missing_share": 0.0,
    "window_steps": 50,
    "timing_error": {"mean_absolute": 3.6, "quantiles": {"0": -2.0, "100": 9.0, "50": 4.0}, "steps": [4, None]},
}


def report(base=None, rlt=None, training=None, demonstrations=(300, 320, 360), **changes):
    failing = ["success", "failure", "timeout", "failure"]
    arguments = {
        "control_hz": HZ,
        "demonstrations": demonstrations,
        "vla": {"reconstruction_loss": 0.5, "shuffled_loss": 0.9, "auxiliary_error": [0.00123456, None], "frames": 141},
        "training": training
        or Training([outcome(i, driver="vla" if i < 3 else "rl", critical=400 - 20 * i) for i in range(8)], 800),
        "base_candidates": base
        or [
            policy("base VLA, 10 rows", failing, [400, 500, 520, 500], "vla"),
            policy("base VLA, 20 rows", failing, [400, 400, 400, 400], "vla", 20),
        ],
        "rlt": rlt or policy("RLT", ["success", "success", "success", "failure"], [200, 210, 220, 300], "rl"),
        "handoff": Handoff(FIGURES, [outcome(0, "success", 190, 60, "rl"), outcome(1, "timeout", 0, 250, "rl")]),
        "stage_seconds": {"demonstrations": 60.0, "evaluation": 120.0},
        **changes,
    }
    return build_report(PROVENANCE, **arguments)


# -- statistics


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_scipys(case):
    successes, trials = case
    expected = scipy_stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_interval_at_its_edges():
    assert wilson_interval(0, 0) is None
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == 1.0
    with pytest.raises(ValueError, match="11 successes in 10 trials"):
        wilson_interval(11, 10)


def test_median_and_throughput_by_hand():
    assert median([]) is None
    assert median([3, 1, 2, 10]) == 2.5
    assert throughput(5, 0, HZ) is None
    # 3 successes in 3000 steps at 50 Hz are 3 in 1 minute.
    assert throughput(3, 3000, HZ) == pytest.approx(30.0)


def test_bootstrap_of_equal_policies_is_one_exactly():
    success, steps = [True, False, True, True], [100, 300, 120, 90]
    assert bootstrap_throughput_ratio(success, steps, success, steps, seed=1) == (1.0, 1.0)


def test_bootstrap_agrees_with_scipy_and_repeats():
    rng = np.random.default_rng(3)
    success, base_success = rng.random(50) < 0.9, rng.random(50) < 0.5
    steps, base_steps = rng.integers(150, 300, 50), rng.integers(300, 500, 50)
    ours = bootstrap_throughput_ratio(success, steps, base_success, base_steps, seed=5)
    theirs = scipy_stats.bootstrap(
        (success, steps, base_success, base_steps),
        lambda a, b, c, d, axis: (a.sum(axis) / b.sum(axis)) / (c.sum(axis) / d.sum(axis)),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(9),
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.05)
    assert ours == bootstrap_throughput_ratio(success, steps, base_success, base_steps, seed=5)
    assert ours != bootstrap_throughput_ratio(success, steps, base_success, base_steps, seed=6)


def test_bootstrap_without_a_success_of_the_base_is_open_above():
    won, lost, steps = [True] * 4, [False] * 4, [100] * 4
    assert bootstrap_throughput_ratio(won, steps, lost, steps, seed=0) == (np.inf, np.inf)
    assert bootstrap_throughput_ratio(lost, steps, lost, steps, seed=0) == (0.0, np.inf)
    assert bootstrap_throughput_ratio([], [], [], [], seed=0) is None


def test_bootstrap_refuses_what_is_not_paired():
    with pytest.raises(ValueError, match="not paired"):
        bootstrap_throughput_ratio([True], [1], [True, False], [1, 1], seed=0)


# -- report.json


def test_report_has_what_it_promises():
    made = report()
    for key in ("task", "seeds", "commit", "config_hash", "robot_minutes", "wall_minutes", "versions"):
        assert made[key] not in (None, "", {}), key
    for key in ("base", "rlt"):
        assert {
            "episodes",
            "successes",
            "success_rate",
            "ci95",
            "throughput_per_10min",
            "median_steps",
        } <= made[key].keys()
    assert {"python", "torch", "mujoco", "rclpy", "numpy"} <= made["versions"].keys()
    assert all(made["versions"][name] for name in ("python", "torch", "mujoco", "rclpy", "numpy"))


def test_figures_by_hand():
    made = report()
    rlt, base = made["rlt"], made["base"]
    assert (rlt["episodes"], rlt["successes"], rlt["success_rate"]) == (4, 3, 0.75)
    assert rlt["ci95"] == pytest.approx(wilson_interval(3, 4))
    assert rlt["median_steps"] == 210, "successful episodes only"
    # 3 successes in 930 critical steps = 18.6 s; with 50 BASE steps each, 1130 steps = 22.6 s
    assert rlt["throughput_per_10min"] == pytest.approx(3 * 600 / 18.6)
    assert rlt["throughput_full_per_10min"] == pytest.approx(3 * 600 / 22.6)
    # The base that executes 20 rows needs 1600 steps for its one success, the other 1920.
    assert base["execute_steps"] == 20
    assert [candidate["execute_steps"] for candidate in made["base_candidates"]] == [10, 20]
    assert made["ratio"]["throughput"] == pytest.approx((3 / 930) / (1 / 1600))
    assert made["ratio"]["throughput_full"] == pytest.approx((3 / 1130) / (1 / 1800))
    assert made["ratio"]["median_steps"] == pytest.approx(210 / 400)
    assert made["demonstrations"]["median_steps"] == 320
    assert made["wall_minutes"] == 3.0


def test_training_counts_robot_minutes_with_the_base_segment():
    training = report()["training"]
    assert (training["episodes"], training["warmup_episodes"], training["updates"]) == (8, 3, 800)
    critical = sum(400 - 20 * i for i in range(8))
    assert training["critical_robot_minutes"] == pytest.approx(critical / HZ / 60)
    assert training["robot_minutes"] == pytest.approx((critical + 8 * 50) / HZ / 60)
    assert training["curve"]["robot_minutes"][-1] == training["robot_minutes"]


def test_a_discarded_episode_is_left_out():
    result = PolicyResult("RLT", 10, [outcome(0), outcome(1, "discard")])
    summary = summarise(result, HZ)
    assert (summary["episodes"], summary["successes"], summary["left_out"]) == (1, 1, 1)
    assert summary["steps"] == [100]


def test_an_episode_that_never_reached_the_critical_phase_is_a_failure():
    outcomes = [outcome(i, driver="rl") for i in range(3)] + [outcome(3, "timeout", critical=0, driver="rl")]
    made = report(rlt=PolicyResult("RLT", 10, outcomes), training=Training(outcomes[::-1], 0))
    assert (made["rlt"]["episodes"], made["rlt"]["success_rate"]) == (4, 0.75)
    assert made["ratio"]["paired_episodes"] == 4
    assert "1 episodes ended before the critical phase; they count as failures" in format_table(made)
    assert "Learning curve" in report_html.render(made)


def test_resets_are_paired_by_seed_not_by_order():
    rlt = policy("RLT", ["success"] * 3, [100, 110, 120], "rl")
    base = policy("base", ["success", "failure", "success"], [200, 300, 400], "vla")
    turned = PolicyResult(rlt.name, rlt.execute_steps, rlt.outcomes[::-1])
    one, other = report(base=[base], rlt=rlt), report(base=[base], rlt=turned)
    assert other["ratio"]["paired_episodes"] == 3
    assert one["ratio"]["throughput"] == other["ratio"]["throughput"]


def test_other_resets_and_repeated_resets_are_refused():
    rlt = policy("RLT", ["success"], [100], "rl")
    with pytest.raises(ReportError, match="different resets: 2 seeds, 1000"):
        report(base=[PolicyResult("base", 10, [outcome(0, seed=5000)])], rlt=rlt)
    twice = PolicyResult("RLT", 10, [outcome(0, seed=1), outcome(1, seed=1)])
    with pytest.raises(ReportError, match="occurs twice"):
        report(base=[twice], rlt=twice)
    with pytest.raises(ReportError, match="no result of the base"):
        build_report(
            PROVENANCE,
            control_hz=HZ,
            demonstrations=[],
            vla={},
            training=Training([], 0),
            base_candidates=[],
            rlt=rlt,
            handoff=Handoff(FIGURES, []),
            stage_seconds={},
        )


def test_automatic_hand_off_stands_beside_the_operator_s_on_the_same_resets():
    made = report()
    deploy = made["handoff"]["deploy"]
    assert (deploy["automatic"]["episodes"], deploy["automatic"]["successes"]) == (2, 1)
    # One of the two was handed off, at control step 60; the other timed out in BASE.
    assert (deploy["automatic"]["handed_off"], deploy["automatic"]["median_handoff_step"]) == (1, 60)
    assert deploy["operator"]["seeds"] == deploy["automatic"]["seeds"] == [1000, 1001]
    assert (deploy["operator"]["successes"], deploy["operator"]["handed_off"]) == (2, 2)
    assert made["handoff"]["recall"] is None
    text = format_table(made)
    assert "precision 0.966, recall none, 3.6 steps from the operator's hand-off in the mean over 15 held-out" in text
    assert "automatic hand-off: 1 of 2 succeed, with the operator's on the same resets 2 of 2." in text
    page = report_html.render(made)
    assert "Automatic hand-off" in page
    assert "0.966" in page
    assert page.index("error, 0 %") < page.index("error, 50 %") < page.index("error, 100 %")
    json.dumps(made, allow_nan=False)


def test_without_deployed_episodes_only_the_head_is_reported():
    made = report(handoff=Handoff(FIGURES, []))
    assert made["handoff"]["deploy"]["automatic"]["episodes"] == 0
    assert "succeed" not in format_table(made)
    assert "precision" in report_html.render(made)


def test_automatic_hand_off_on_other_resets_is_refused():
    with pytest.raises(ReportError, match="automatic hand-off: its resets repeat"):
        report(handoff=Handoff(FIGURES, [outcome(0, seed=5000)]))
    with pytest.raises(ReportError, match="automatic hand-off: its resets repeat"):
        report(handoff=Handoff(FIGURES, [outcome(0), outcome(1, seed=1000)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"label": "won"}, "'won' is none of"), ({"driver": "me"}, "'me' is none of"), ({"base": -60}, "critical steps")],
)
def test_impossible_outcomes_are_refused(change, message):
    with pytest.raises(ReportError, match=message):
        outcome(3, **{"critical": 50, **change})


def test_without_success_there_is_no_median_and_no_ratio_and_it_is_said():
    lost = policy("base VLA", ["failure"] * 4, [400] * 4, "vla")
    made = report(base=[lost])
    assert made["base"]["median_steps"] is None
    assert made["base"]["throughput_per_10min"] == 0.0
    assert made["ratio"]["throughput"] is None
    assert made["ratio"]["median_steps"] is None
    assert made["ratio"]["throughput_ci95"][1] is None
    text = format_table(made)
    assert "Note: base VLA: no success in 4 episodes" in text
    assert "there is no ratio" in text
    assert next(line for line in text.splitlines() if line.startswith("RLT over base")).split()[-2:] == ["none", "none"]


def test_a_stranger_at_the_wheel_is_named():
    mixed = policy("RLT", ["success"] * 4, [100] * 4, "vla")
    assert "in 4 episodes somebody else than the rl policy drove" in format_table(report(rlt=mixed))


def test_json_survives_the_round_trip(tmp_path):
    made = report(vla={"reconstruction_loss": float("nan"), "auxiliary_error": [0.1, float("inf")]})
    assert json.loads(write_json(made, tmp_path).read_text()) == made
    assert made["vla"] == {"reconstruction_loss": None, "auxiliary_error": [0.1, None]}


def test_commit_outside_a_repository_is_unknown(tmp_path):
    assert source_commit(tmp_path) == "unknown"
    assert source_commit(tmp_path / "missing") == "unknown"


def test_table_is_aligned_and_marks_the_better_base():
    lines = format_table(report()).splitlines()
    at = lines[0].index("success rate")
    rows = [line for line in lines if line.startswith(("base VLA", "RLT  "))]
    assert [row[at : at + 4] for row in rows] == ["0.25", "0.25", "0.75"]
    assert [("*" in row) for row in rows] == [False, True, False]
    assert next(line for line in lines if line.startswith("RLT over base")).count("x ") == 2


# -- report.html


class Page(HTMLParser):
    """Collects what a browser would fetch, and text."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not v.startswith(("#", "data:"))]

    def handle_data(self, data):
        self.text += data


def test_page_is_self_contained_and_says_the_result():
    made = report()
    source = report_html.render(made)
    page = Page(source)
    assert page.links == []
    assert "@import" not in source
    assert not re.search(r"url\((?!#)", source)
    figures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(figures) == 3
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 40 for attrs in figures)
    for text in (
        "c0ffee",
        "0123abcd",
        "make demo SEED=7",
        "base VLA, 20 rows",
        "warm-up",
        "nodes.rl_learner.beta",
        "0.004",
        "10, 20",
    ):
        assert text in page.text, text
    assert "script" not in {tag for tag, _ in page.tags}


def test_page_repeats_itself():
    assert report_html.render(report()) == report_html.render(report())


def test_page_escapes_what_it_is_given():
    nasty = Provenance("<script>alert(1)</script>", {}, "c", "h", "v", "a", "<em>", {"<i>": "<u>"})
    made = {**report(), "task": nasty.task, "command": nasty.command, "configuration": dict(nasty.configuration)}
    assert not {"script", "em", "i", "u"} & {tag for tag, _ in Page(report_html.render(made)).tags}


def test_page_of_an_empty_run_says_so():
    nothing = PolicyResult("base VLA", 10, [])
    made = report(
        base=[nothing],
        rlt=PolicyResult("RLT", 10, []),
        training=Training([], 0),
        demonstrations=(),
        handoff=Handoff(FIGURES, []),
        stage_seconds={},
    )
    page = Page(report_html.render(made))
    assert "no episode counts" in page.text
    assert "svg" not in {tag for tag, _ in page.tags}


@pytest.mark.parametrize(
    ("handoff_step", "start_in", "critical"), [(120, "full", 180), (0, "full", 0), (0, "critical", 300)]
)
def test_the_critical_phase_begins_at_the_hand_off_or_with_the_episode(handoff_step, start_in, critical):
    facts = {"episode_id": 1, "seed": 2, "label": "failure", "driver": "vla", "steps": 300}
    outcome = EpisodeOutcome.of(**facts, handoff_step=handoff_step, start_in=start_in)
    assert (outcome.critical_steps, outcome.total_steps) == (critical, 300)
