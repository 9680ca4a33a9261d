"""What bench-tasks makes of reports: rows, pooled figures, goals, a table; and the order in which jobs run."""

import os
from functools import partial

import pytest
import tasks
from harness import jobs
from harness.jobs import Job, run_jobs
from tasks import draw, figures, goals, integers, merge, row, share_faster, table

HZ = 50.0


def policy(success, steps):
    won = sum(success)
    return {
        "execute_steps": 10,
        "episodes": len(success),
        "successes": won,
        "success_rate": won / len(success),
        "ci95": [0.1, 0.9],
        "throughput_per_10min": won * 600 * HZ / sum(steps),
        "median_steps": float(steps[0]),
        "seeds": list(range(len(success))),
        "success": success,
        "steps": steps,
    }


def report(base, rlt, demonstrations=(300, 400), minutes=14.9):
    return {
        "commit": "0123456789abcdef",
        "control_hz": HZ,
        "base": policy(*base),
        "rlt": policy(*rlt),
        "ratio": {"throughput": 4.0, "throughput_ci95": [2.0, None], "median_steps": 0.4},
        "training": {
            "robot_minutes": minutes + 4.0,
            "critical_robot_minutes": minutes,
            "curve": {"success": [False] * 30 + [True] * 30, "steps": [300] * 60},
        },
        "wall_minutes": 30.0,
        "demonstrations": {
            "episodes": len(demonstrations),
            "median_steps": 350.0 if demonstrations else None,
            "steps": list(demonstrations),
        },
        "selection": {"chosen": 60, "candidates": []},
    }


FAST = ([True] * 50, [100] * 50)
HALF = ([True, False] * 25, [400] * 50)


def rows_of(task, reports, command="make bench-tasks"):
    return [row(task, seed, r, command) for seed, r in enumerate(reports)]


def judged(rows):
    return {goal.name: goal.met for goal in goals(rows)}


def test_three_good_seeds_meet_every_goal_and_aim():
    found = goals(rows_of("zip_tie", [report(HALF, FAST)] * 3))
    assert all(goal.met for goal in found)
    values = {goal.name: goal.value for goal in found}
    assert values["zip_tie: throughput of RLT over the better base"] == pytest.approx(8.0)
    assert values["aim: zip_tie: throughput of RLT over the better base"] == pytest.approx(8.0)
    assert values["zip_tie: median steps of RLT over the base's"] == pytest.approx(0.25)
    assert values["zip_tie: minutes of robot data, longest seed"] == 14.9


def test_goals_are_judged_by_all_episodes_and_by_the_worst_seed_where_they_say_so():
    slow = ([True] * 40 + [False] * 10, [250] * 50)
    good_base = ([True] * 35 + [False] * 15, [400] * 50)
    met = judged(rows_of("screw", [report(HALF, FAST), report(HALF, FAST), report(good_base, slow, minutes=15.1)]))
    assert met == {
        "screw: seeds with 50 or more held-out episodes": True,
        "screw: throughput of RLT over the better base": True,
        "aim: screw: throughput of RLT over the better base": False,
        "screw: median steps of RLT over the base's": True,
        "aim: screw: median steps of RLT over the base's": True,
        "screw: success rate of RLT": True,
        "aim: screw: success rate of RLT": False,
        "aim: screw: episodes of RLT faster than every demonstration": True,
        "screw: lowest success rate of the base over the seeds": True,
        "screw: highest success rate of the base over the seeds": False,
        "screw: minutes of robot data, longest seed": False,
    }


def test_part_of_the_seeds_or_of_the_episodes_is_not_the_whole_measurement():
    name = "screw: seeds with 50 or more held-out episodes"
    assert not judged(rows_of("screw", [report(HALF, FAST)] * 2))[name]
    short = report((HALF[0][1:], HALF[1][1:]), (FAST[0][1:], FAST[1][1:]))
    assert not judged(rows_of("screw", [report(HALF, FAST), report(HALF, FAST), short]))[name]


def test_a_base_without_success_has_no_ratio_and_misses():
    never = ([False] * 50, [400] * 50)
    rows = rows_of("screw", [report(never, FAST)] * 3)
    met = judged(rows)
    assert "| none [" in table({"rows": rows, "machine": {"cpu": "c", "cores": 2}, "n": 50, "goals": []})
    assert not met["screw: throughput of RLT over the better base"]
    assert not met["screw: median steps of RLT over the base's"]
    assert not met["screw: lowest success rate of the base over the seeds"]


def test_only_successes_in_fewer_steps_than_the_fastest_demonstration_are_faster():
    assert share_faster([True, True, False, True], [299, 300, 100, 10], 300) == 0.5
    assert share_faster([True], [1], None) is None
    without = rows_of("screw", [report(HALF, FAST), report(HALF, FAST, demonstrations=())])
    assert figures(without)["faster"] is None
    assert not judged(without)["aim: screw: episodes of RLT faster than every demonstration"]


def test_each_seed_is_compared_with_its_own_demonstrations():
    rows = rows_of("screw", [report(HALF, FAST), report(HALF, FAST, demonstrations=(90, 400))])
    assert figures(rows)["faster"] == 0.5


def test_a_part_run_replaces_its_own_rows_alone():
    old = [*rows_of("charger", [report(HALF, FAST)] * 2), *rows_of("screw", [report(HALF, FAST)] * 2)]
    new = rows_of("screw", [report(HALF, FAST, minutes=12.0)], "make bench-tasks ARGS='--checkpoints 5'")
    found = merge(new, old)
    assert [(r["task"], r["seed"], r["robot_minutes"]) for r in found] == [
        ("screw", 0, 12.0),
        ("screw", 1, 14.9),
        ("charger", 0, 14.9),
        ("charger", 1, 14.9),
    ]
    text = table({"rows": found, "machine": {"cpu": "c", "cores": 2}, "n": 50, "goals": []})
    assert "screw 0: `make bench-tasks ARGS='--checkpoints 5'`, commit `0123456789`" in text
    assert "screw 1, charger 0, charger 1: `make bench-tasks`, commit `0123456789`" in text


def test_the_table_has_a_line_per_seed_and_one_over_them():
    text = table(
        {
            "rows": rows_of("ethernet", [report(HALF, FAST)] * 3),
            "machine": {"cpu": "c", "cores": 2},
            "n": 50,
            "goals": [],
        }
    )
    lines = [line.split(" | ")[0:2] for line in text.splitlines() if "ethernet" in line and line.startswith("|")]
    assert lines == [["| ethernet", "0"], ["| ethernet", "1"], ["| ethernet", "2"], ["| **ethernet**", "all"]]
    assert "4.00 [2.00, ...]" in text
    assert "14.9 (18.9)" in text


def test_every_task_has_its_panel(tmp_path):
    rows = [*rows_of("screw", [report(HALF, FAST)] * 2), *rows_of("charger", [report(HALF, FAST)])]
    svg = draw(tmp_path / "tasks.svg", rows).read_text()
    assert "<!-- screw -->" in svg
    assert "<!-- charger -->" in svg
    assert draw(tmp_path / "again.svg", rows).read_text() == svg


def test_seeds_are_integers():
    assert integers("0,2") == [0, 2]
    with pytest.raises(ValueError, match="invalid literal"):
        integers("0,x")


# ---- jobs


def test_the_whole_measurement_is_four_tasks_and_three_seeds_of_fifty_episodes():
    todo = tasks.experiment("zip_tie", 2, {"robot_minutes": tasks.ROBOT_MINUTES})
    assert (tasks.TASKS, tasks.SEEDS) == (("screw", "zip_tie", "ethernet", "charger"), (0, 1, 2))
    assert (todo.task, todo.seed, todo.evaluation_episodes, todo.execute_steps) == ("zip_tie", 2, 50, (10, 20))
    assert todo.robot_minutes == 15.0
    assert todo.robot_steps(HZ) == 45_000


def test_jobs_of_a_run_wait_for_its_vla_and_are_cheap_when_there_is_a_result(tmp_path):
    run, todo = tmp_path / "screw-0", tasks.experiment("screw", 0, {"name": "rlt"})

    def costs():
        work = (
            jobs.adaptation(run, "screw", 0, quick=False),
            jobs.base_evaluation(run, todo),
            jobs.experiment(run, todo, cost=4.0),
        )
        assert {job.needs for job in work} == {"", work[0].name}
        return [job.cost for job in work]

    assert costs() == [jobs.ADAPT_COST, jobs.BASE_COST, 4.0]
    for name in (
        "stages/adapt.json",
        "vla/demonstrations/000001.mcap",
        "in_process/base/executes-10-a.json",
        "in_process/rlt/evaluation.json",
    ):
        path = run / name
        path.parent.mkdir(parents=True)
        path.touch()
    assert costs() == [0.0, jobs.BASE_COST, 0.0]
    (run / "in_process/base/executes-20-a.json").touch()
    assert costs() == [0.0, 0.0, 0.0]


def test_a_job_that_nothing_makes_possible_is_an_error():
    with pytest.raises(ValueError, match="nothing makes 'b'"):
        run_jobs("t", [Job("a", int, 1.0, needs="b")], 1)


def test_jobs_run_in_the_order_that_their_needs_allow(tmp_path):
    parent, child = tmp_path / "a", tmp_path / "a" / "b"
    run_jobs("t", [Job("b", partial(os.mkdir, child), 1.0, needs="a"), Job("a", partial(os.mkdir, parent), 0.0)], 2)
    assert child.is_dir()


def test_a_job_that_fails_ends_the_run_and_nothing_more_starts(tmp_path):
    bad = Job("bad", partial(os.mkdir, tmp_path / "none" / "a"), 1.0)
    with pytest.raises(FileNotFoundError):
        run_jobs("t", [bad, Job("later", partial(os.mkdir, tmp_path / "later"), 1.0)], 1)
    assert not (tmp_path / "later").exists()
