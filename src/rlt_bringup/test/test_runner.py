"""The runner with real processes: kills, restarts, and ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlt_bringup import restart_executor
from rlt_bringup.graph import GraphOptions, NodeSpec, describe, resolve
from rlt_bringup.restart_consent import ANSWER, QUESTION, RestartConsent
from rlt_bringup.runner import GraphRunner, RunnerError

LIMIT_S = 30.0


def nodes(tmp_path, *names):
    return [node for node in describe(resolve(GraphOptions(run=str(tmp_path)))) if node.name in names]


def until(condition):
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        os.sched_yield()


def executor_of(runner_pid):
    """Process id of the executor that a runner has started; 0: none runs."""
    children = Path(f"/proc/{runner_pid}/task/{runner_pid}/children")
    for pid in children.read_text().split() if children.exists() else []:
        command = Path(f"/proc/{pid}/cmdline")
        if command.exists() and b"__node:=chunk_executor" in command.read_bytes():
            return int(pid)
    return 0


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_node_is_started_again(tmp_path):
    with GraphRunner(nodes(tmp_path, "sim_robot"), tmp_path / "log") as runner:
        first = runner.pid("sim_robot")
        os.kill(first, signal.SIGKILL)

        def restarted():
            runner.poll()
            return runner.restarts("sim_robot") == 1

        until(restarted)
        second = runner.pid("sim_robot")
        assert second != first
        assert alive(second)
    assert not alive(second)
    assert "[graph]: sim_robot died (status -9); starting it again\n" in (tmp_path / "log" / "graph.log").read_text()


def test_a_killed_executor_stays_down_until_somebody_starts_it(tmp_path):
    with GraphRunner(nodes(tmp_path, "chunk_executor"), tmp_path / "log") as runner:
        os.kill(runner.pid("chunk_executor"), signal.SIGKILL)
        with pytest.raises(RunnerError, match="chunk_executor ended with status -9"):
            until(lambda: runner.poll())
        runner.start_again("chunk_executor")
        assert alive(runner.pid("chunk_executor"))


def test_a_node_that_refuses_its_parameters_ends_the_run_with_its_own_words(tmp_path):
    spec = nodes(tmp_path, "sim_robot")[0]
    wrong = NodeSpec(spec.package, spec.executable, spec.name, {**spec.parameters, "gate_stpes": 3})
    message = "sim_robot knows no parameter 'gate_stpes'"
    with GraphRunner([wrong], tmp_path / "log") as runner, pytest.raises(RunnerError, match=message):
        until(lambda: runner.poll())


def test_a_missing_executable_is_named(tmp_path):
    with pytest.raises(RunnerError, match=r"no executable .*rlt_sim/nothing: run make setup"):
        GraphRunner([NodeSpec("rlt_sim", "nothing", "nothing")], tmp_path / "log").start()


def test_nodes_do_not_outlive_a_killed_runner(tmp_path):
    command = [sys.executable, "-m", "rlt_bringup.runner", "--run", str(tmp_path), "--mode", "collect"]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def children():
        path = Path(f"/proc/{runner.pid}/task/{runner.pid}/children")
        return path.read_text().split() if path.exists() else []

    until(lambda: len(children()) >= 5)
    nodes = [int(pid) for pid in children()]
    runner.kill()
    runner.wait()
    until(lambda: not any(alive(pid) for pid in nodes))


def test_a_killed_executor_is_started_again_when_a_person_says_so(tmp_path, capfd):
    consent = RestartConsent(tmp_path)
    with GraphRunner(nodes(tmp_path, "chunk_executor", "sim_robot"), tmp_path / "log", consent=consent) as runner:
        others = runner.pid("sim_robot")
        first = runner.pid("chunk_executor")
        os.kill(first, signal.SIGKILL)

        def asked():
            runner.poll()
            return (tmp_path / QUESTION).exists()

        until(asked)
        said = capfd.readouterr().out
        assert "chunk_executor ended (status -9): nothing commands the arms" in said
        assert f"rlt_bringup.restart_executor --run {tmp_path}" in said
        (tmp_path / ANSWER).write_text('{"token": "that of another time"}')
        for _ in range(10):
            runner.poll()
        assert runner.pid("chunk_executor") == first, "no old answer counts"
        restart_executor.main(["--run", str(tmp_path)])

        def restarted():
            runner.poll()
            return runner.restarts("chunk_executor") == 1

        until(restarted)
        assert alive(runner.pid("chunk_executor"))
        assert runner.pid("sim_robot") == others, "the rest of the graph stays"
        assert not (tmp_path / QUESTION).exists()
        with pytest.raises(SystemExit, match="waits to be started again"):
            restart_executor.main(["--run", str(tmp_path)])


def test_enter_in_the_runners_terminal_is_an_answer_and_what_was_pressed_before_is_none(tmp_path):
    presses = [True, False, True]
    consent = RestartConsent(tmp_path, lambda: presses.pop(0))
    assert not consent.given(), "nothing was asked"
    assert consent.ask("chunk_executor", "status -9") == ""
    assert not consent.given()
    assert consent.given()
    assert not consent.given(), "one answer, one start"


def test_the_launch_s_question_waits_for_its_answer_in_a_run_directory_that_was_not_there(tmp_path):
    run = tmp_path / "run"
    module = [sys.executable, "-m", "rlt_bringup.restart_executor", "--run", str(run)]
    asking = subprocess.Popen([*module, "--wait", "chunk_executor", "--why", "status -9"], stdout=subprocess.PIPE)
    try:
        until((run / QUESTION).exists)
        assert asking.poll() is None
        said = subprocess.run(module, capture_output=True, text=True, check=True).stdout
        assert "chunk_executor is started again" in said
        assert b"nothing commands the arms" in asking.communicate(timeout=60)[0]
    finally:
        asking.kill()
    assert asking.returncode == 0, "by this the launch knows the answer"
    assert not list(run.iterdir())


def test_a_launch_that_ends_takes_its_question_back(tmp_path):
    module = [sys.executable, "-m", "rlt_bringup.restart_executor", "--run", str(tmp_path), "--wait", "chunk_executor"]
    asking = subprocess.Popen(module, stdout=subprocess.DEVNULL)
    until((tmp_path / QUESTION).exists)
    asking.terminate()
    assert asking.wait(timeout=60) != 0
    assert not (tmp_path / QUESTION).exists()


def test_without_a_person_the_death_of_the_executor_ends_the_run_with_its_words(tmp_path):
    command = [sys.executable, "-m", "rlt_bringup.runner", "--run", str(tmp_path), "--mode", "collect"]
    runner = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: executor_of(runner.pid))
        os.kill(executor_of(runner.pid), signal.SIGKILL)
        assert "chunk_executor ended with status -9" in runner.communicate(timeout=60)[1]
    finally:
        runner.kill()
    assert runner.returncode == 1


def test_under_the_runner_a_person_brings_the_executor_back_and_the_graph_stays(tmp_path):
    options = ["--run", str(tmp_path), "--mode", "collect", "--operator", "human", "--joy", "keyboard"]
    command = [sys.executable, "-m", "rlt_bringup.runner", *options]
    runner = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until(lambda: executor_of(runner.pid))
        first = executor_of(runner.pid)
        os.kill(first, signal.SIGKILL)
        until((tmp_path / QUESTION).exists)
        restart_executor.main(["--run", str(tmp_path)])
        until(lambda: executor_of(runner.pid) not in (0, first))
        assert runner.poll() is None
    finally:
        runner.send_signal(signal.SIGINT)
        runner.wait(timeout=60)
    assert runner.returncode == 0
    assert not (tmp_path / QUESTION).exists()


def test_a_node_that_fails_after_a_while_is_started_again(tmp_path, monkeypatch):
    spec = nodes(tmp_path, "sim_robot")[0]
    wrong = NodeSpec(spec.package, spec.executable, spec.name, {**spec.parameters, "gate_stpes": 3})
    monkeypatch.setattr("rlt_bringup.runner.YOUNG_S", 0.0)
    with GraphRunner([wrong], tmp_path / "log") as runner:

        def restarted():
            runner.poll()
            return runner.restarts("sim_robot") == 1

        until(restarted)


@pytest.mark.parametrize("text", ["no json", "[]", '{"node": 3, "why": "", "token": ""}'])
def test_a_question_that_is_none_is_an_error_that_names_the_file(tmp_path, text):
    (tmp_path / QUESTION).write_text(text)
    with pytest.raises(SystemExit, match=QUESTION):
        restart_executor.main(["--run", str(tmp_path)])
