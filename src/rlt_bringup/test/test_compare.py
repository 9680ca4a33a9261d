"""Runs side by side: differences by hand, what is not alike, what differs in the settings, page and command."""

import json
import re

import pytest
from made_run import MadeEpisode, write_checkpoint, write_metrics, write_run
from test_report import Page

from rlt_bringup import compare_command, comparison_html
from rlt_bringup.comparison import ComparisonError, compare
from rlt_bringup.run_facts import read_run
from rlt_bringup.run_report import build_run
from rlt_bringup.statistics import bootstrap_ratio, bootstrap_throughput_ratio, difference_interval

PRACTICE = [MadeEpisode("success", 30 - i, seed=i, human=range(3) if i % 2 else range(0)) for i in range(4)]


def evaluated(labels, steps, seeds=range(9, 13)):
    return [MadeEpisode(*each, "evaluate", "rl", seed, 10) for *each, seed in zip(labels, steps, seeds, strict=True)]


SLOW = evaluated(["success", "failure", "success", "failure"], [20, 30, 24, 30])
FAST = evaluated(["success", "success", "success", "failure"], [14, 16, 12, 30])


def made(path, episodes=(), **facts):
    return build_run(read_run(write_run(path, [*PRACTICE, *episodes], **facts)))


@pytest.fixture
def runs(tmp_path):
    for name, beta in (("slow", 0.004), ("fast", 0.001)):
        (tmp_path / name).mkdir()
        write_checkpoint(tmp_path / name, beta=beta)
    return [made(tmp_path / "slow", SLOW), made(tmp_path / "fast", FAST[::-1])]


def test_differences_by_hand_paired_by_reset(runs):
    found = compare(runs)
    (group,) = [group for group in found["groups"] if group["key"] == "rl"]
    (said,) = group["differences"]
    assert (group["base"], said["run"], said["paired"]) == ("slow", "fast", True)
    assert said["success"] == pytest.approx(0.25)
    assert said["success_ci95"] == pytest.approx(difference_interval(3, 4, 2, 4))
    assert said["throughput"] == pytest.approx((3 / 72) / (2 / 104))
    columns = ([True, True, True, False], [14, 16, 12, 30], [True, False, True, False], [20, 30, 24, 30])
    low, high = bootstrap_throughput_ratio(*columns, seed=0)
    assert said["throughput_ci95"] == [pytest.approx(low), pytest.approx(high) if high < float("inf") else None]
    assert said["median_steps"] == 14 - 22
    assert said["interventions"] == 0.0
    assert found["groups"][0]["key"] == "rl", "evaluation comes first"


def test_other_resets_are_refused_and_compared_unpaired_when_told(tmp_path):
    ours = made(tmp_path / "ours", FAST)
    other = made(tmp_path / "other", evaluated(["success"] * 4, [20, 21, 22, 23], range(10, 14)))
    with pytest.raises(ComparisonError, match="evaluation, RL: 2 resets of one are none of the other"):
        compare([ours, other])
    found = compare([ours, other], anyway=True)
    (said,) = next(group for group in found["groups"] if group["key"] == "rl")["differences"]
    assert not said["paired"]
    expected = bootstrap_ratio([True] * 4, [20, 21, 22, 23], [True] * 3 + [False], [14, 16, 12, 30], seed=0)
    assert said["throughput_ci95"] == pytest.approx(list(expected))
    assert "2 resets of one are none of the other" in Page(comparison_html.render(found)).text


@pytest.mark.parametrize("seeds", [range(9, 13), range(10, 14)])
def test_where_a_person_resets_the_scene_equal_numbers_are_no_equal_resets(tmp_path, seeds):
    ours = made(tmp_path / "ours", SLOW, reset="operator")
    other = made(tmp_path / "other", evaluated(["success"] * 4, [20, 21, 22, 23], seeds), reset="operator")
    found = compare([ours, other])
    (said,) = next(group for group in found["groups"] if group["key"] == "rl")["differences"]
    assert not said["paired"]
    expected = bootstrap_ratio([True] * 4, [20, 21, 22, 23], [True, False] * 2, [20, 30, 24, 30], seed=0)
    assert said["throughput_ci95"] == [pytest.approx(each) if each < float("inf") else None for each in expected]
    assert "same resets" not in comparison_html.format_comparison(found)


@pytest.mark.parametrize(
    ("facts", "words"),
    [({"task": "zip_tie"}, "another task: zip_tie and screw"), ({"robot": "aloha"}, "another robot: aloha and sim")],
)
def test_another_task_or_robot_is_refused(tmp_path, facts, words):
    with pytest.raises(ComparisonError, match=words):
        compare([made(tmp_path / "one"), made(tmp_path / "two", **facts)])


def test_two_to_four_runs(tmp_path):
    one = made(tmp_path / "one")
    for count in (1, 5):
        with pytest.raises(ComparisonError, match="two to 4 can be compared"):
            compare([one] * count)
    found = compare([one] * 3)
    assert found["names"] == ["one", "one (2)", "one (3)"]
    assert len(found["groups"][0]["differences"]) == 2


def test_settings_hashes_and_versions_that_differ_are_listed_and_no_others(runs):
    found = {each["name"]: each["values"] for each in compare(runs)["settings"]}
    assert found == {"learner.agent.beta": {"slow": 0.004, "fast": 0.001}}


def test_kinds_of_episodes_that_only_one_run_has_are_left_out(tmp_path):
    found = compare([made(tmp_path / "trained"), made(tmp_path / "evaluated", FAST)])
    assert [group["key"] for group in found["groups"]] == ["practice"]
    page = Page(comparison_html.render(found))
    assert "practice, RL, all" in page.text


def test_page_is_self_contained_and_the_same_each_time(runs):
    found = compare(runs)
    source = comparison_html.render(found)
    assert source == comparison_html.render(json.loads(json.dumps(found)))
    page = Page(source)
    assert page.links == []
    assert not re.search(r"@import|url\((?!#)", source)
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 3
    for words in ("slow and fast: screw", "fast against slow", "+0.25", "learner.agent.beta", "same resets"):
        assert words in page.text, words


def test_the_command_writes_a_page_and_prints_a_table(tmp_path, runs, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_metrics(tmp_path / "fast", PRACTICE)
    compare_command.main(["slow", "fast"])
    printed = capsys.readouterr().out
    assert "fast against slow" in printed
    assert printed.endswith("compare.html\n")
    assert "What differs" in (tmp_path / "compare.html").read_text()
    with pytest.raises(SystemExit, match="compare: 1 runs"):
        compare_command.main(["slow"])
    with pytest.raises(SystemExit, match="compare: no run directory nowhere"):
        compare_command.main(["slow", "nowhere"])
