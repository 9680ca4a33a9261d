"""Each rule on a made-up curve, and all of them on runs that were recorded: healthy ones, and ones that failed."""

import json
from pathlib import Path

import numpy as np
import pytest

from rlt_common.advice import HISTORY, advise, followed
from rlt_common.advice_rules import RULES, History, Severity
from rlt_common.health_advice import HEALTH_RULES, WORDS, HealthAdvisor
from rlt_common.metrics_table import METRICS

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks" / "results"
WARMUP = 10


def curve(count=80, **columns):
    """Rows of a healthy run, 10 of them warm-up: four of five succeed. A column is a value or a list of them."""
    healthy = {
        "label": ["failure" if i % 5 == 0 else "success" for i in range(count)],
        "critical_steps": 200,
        "human_steps": 0,
        "held_steps": 0,
        "transitions": 100,
        "owed": 0,
        "from_journal": False,
        "q_mean": 0.3,
        "episode_return": 0.3,
        "reference_distance": 0.5,
        "critic_loss": 0.01,
        "beta": 0.001,
    }
    values = {key: value if isinstance(value, list) else [value] * count for key, value in (healthy | columns).items()}
    stages = ["warmup" if i < WARMUP else "online" for i in range(count)]
    return [
        {"episode": i + 1, "stage": stages[i], **{key: value[i] for key, value in values.items()}} for i in range(count)
    ]


def rules(rows, vla=None):
    return {advice.rule for advice in advise(rows, vla)}


def at_any_time(rows):
    """The rules that spoke after any of the episodes."""
    spoken = set()
    for end in {len(rows), *range(HISTORY, len(rows), HISTORY)}:
        history = History(rows[:end])
        spoken |= {rule.name for rule in RULES if any(speaks for speaks, _ in followed(rule, history))}
    return spoken


def rising(before, after, at=50, count=80):
    return [before] * at + [after] * (count - at)


BAD = {
    "no success": {"label": "failure"},
    "success falls": {"label": ["success" if i % 5 == 0 or (i < 50 and i % 5 < 4) else "failure" for i in range(80)]},
    "interventions rise": {"human_steps": rising(0, 30, at=65)},
    "human drives": {"human_steps": 150},
    "policy copies the VLA": {"reference_distance": 0.05},
    "policy strays": {"reference_distance": 4.0},
    "critics over-estimate": {"q_mean": 0.7},
    "critic loss grows": {"critic_loss": rising(0.01, 0.2)},
    "debt grows": {"owed": [10 * i for i in range(80)]},
    "time-outs": {"label": ["timeout" if i % 3 else "success" for i in range(80)]},
    "arms hold": {"held_steps": 40},
    "messages are lost": {"from_journal": True},
}


def test_a_healthy_run_gets_no_advice_at_any_time():
    assert at_any_time(curve()) == set()
    assert rules([]) == set()


def test_there_is_a_bad_curve_for_every_rule():
    assert set(BAD) == {rule.name for rule in RULES}


@pytest.mark.parametrize("rule", BAD)
def test_a_rule_speaks_over_its_curve_and_only_it(rule):
    assert rules(curve(**BAD[rule])) == {rule}


@pytest.mark.parametrize("rule", BAD)
def test_nothing_is_said_before_there_are_enough_episodes(rule):
    assert rules(curve(**BAD[rule])[:9]) == set()


@pytest.mark.parametrize("rule", BAD)
def test_it_says_what_was_seen_and_what_to_do(rule):
    (advice,) = advise(curve(**BAD[rule]))
    assert any(letter.isdigit() for letter in advice.why)
    assert "nan" not in advice.why
    assert len(advice.text) > 30


def test_warnings_come_first():
    rows = curve(label="failure", owed=[10 * i for i in range(80)], held_steps=40)
    severities = [advice.severity for advice in advise(rows)]
    assert severities == [Severity.WARNING, Severity.WARNING, Severity.NOTE]


def test_advice_does_not_come_and_go_between_its_thresholds():
    distances = [0.5] * 40 + [0.09] * 10 + [0.08, 0.14] * 15 + [0.2] * 10
    rows = curve(len(distances), reference_distance=distances)
    rule = next(rule for rule in RULES if rule.name == "policy copies the VLA")
    said = [speaks for speaks, _ in followed(rule, History(rows))][1:]
    assert said.index(True) == pytest.approx(45, abs=2)
    assert np.abs(np.diff(np.array(said, int))).sum() == 2, "on once, off once"
    assert not said[-1]


def test_a_copy_that_succeeds_is_no_trouble():
    assert rules(curve(reference_distance=0.05, label="success")) == set()


def test_lower_beta_or_wait_depends_on_whether_it_still_falls():
    rows = curve(reference_distance=0.05, beta=[0.02 * 0.97**i for i in range(80)])
    assert "beta still falls" in advise(rows)[0].why
    assert "beta still falls" not in advise(curve(reference_distance=0.05))[0].why


def test_discarded_episodes_are_left_out():
    rows = curve()
    discarded = [{**rows[-1], "episode": 1000 + i, "label": "discard", "held_steps": 200} for i in range(40)]
    assert rules(rows + discarded) == set()


def test_rows_of_an_earlier_version_lack_figures_and_are_judged_by_the_rest():
    rows = [{key: row[key] for key in ("episode", "label", "critical_steps", "stage")} for row in curve()]
    assert rules(rows) == set()
    lost = [{**row, "label": "failure", "q_mean": None} for row in rows]
    assert rules(lost) == {"no success"}


def test_chance_alone_rarely_looks_like_rising_interventions():
    rng = np.random.default_rng(0)
    rule = next(rule for rule in RULES if rule.name == "interventions rise")
    spoke = 0
    for _ in range(40):
        history = History(curve(100, human_steps=np.where(rng.random(100) < 0.3, 20, 0).tolist()))
        spoke += any(speaks for speaks, _ in followed(rule, history))
    assert spoke <= 2


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"reconstruction_loss": 0.0019, "shuffled_loss": 0.061}, set()),
        ({"reconstruction_loss": 0.43, "shuffled_loss": 0.44}, {"token is ignored"}),
        ({"reconstruction": 0.2, "shuffled": 0.21}, {"token is ignored"}),
        ({"reconstruction_loss": None}, set()),
        ({}, set()),
    ],
)
def test_a_token_that_the_decoder_ignores(figures, said):
    assert rules(curve(), figures) == said


# -- recorded runs


def recorded(name, **wanted):
    """Training curves of a benchmark's runs as rows: (what, rows). They carry labels and steps."""
    for row in json.loads((RESULTS / f"{name}.json").read_text())["rows"]:
        if "training" in row and all(row.get(key) == value for key, value in wanted.items()):
            labels = ["success" if success else "failure" for success in row["training"]["success"]]
            yield (
                f"{name} {row.get('task', row.get('variant'))} {row['seed']}",
                [
                    {"episode": i, "label": label, "critical_steps": steps, "stage": "warmup" if i < 20 else "online"}
                    for i, (label, steps) in enumerate(zip(labels, row["training"]["steps"], strict=True))
                ],
            )


def test_the_recorded_runs_that_learned_well_get_no_advice_at_any_time():
    runs = [*recorded("tasks"), *recorded("ablations", variant="full")]
    assert len(runs) == 15
    for what, rows in runs:
        assert at_any_time(rows) == set(), what


def test_the_recorded_runs_without_an_anchor_to_the_reference_fail_and_are_told_so():
    runs = list(recorded("ablations", variant="no-bc"))
    assert len(runs) == 3
    for what, rows in runs:
        assert at_any_time(rows) & {"no success", "success falls"}, what


# -- the running graph


def test_every_health_rule_reads_a_documented_figure():
    assert [rule.key for rule in HEALTH_RULES if rule.key not in METRICS[rule.node]] == []


@pytest.mark.parametrize("rule", HEALTH_RULES, ids=lambda rule: rule.name)
def test_a_health_rule_speaks_beyond_its_threshold_and_is_silent_again_behind_the_other(rule):
    advisor, total = HealthAdvisor(), 0.0

    def hear(figure):
        nonlocal total
        total += figure
        advisor.update(f"left/{rule.node}", {rule.key: f"{total if rule.counter else figure}"})
        return [advice.rule for advice in advisor.advice()]

    good = rule.leave * (2.0 if rule.below else 0.0)
    assert hear(good) == []
    assert hear(rule.enter) == [rule.name]
    if not rule.counter:
        assert hear((rule.enter + rule.leave) / 2) == [rule.name]
    for _ in range(WORDS + 1):
        said = hear(good)
    assert said == []


def test_a_node_that_was_started_again_begins_to_count_anew():
    advisor = HealthAdvisor()
    for count in (0, 7, 0):
        advisor.update("vla", {"dropped_observations": str(count)})
    assert advisor.advice() == []


def test_what_is_no_figure_is_left_out():
    advisor = HealthAdvisor()
    advisor.update("recorder", {"free_gib": "none"})
    advisor.update("stranger", {"free_gib": "0.1"})
    assert advisor.advice() == []
