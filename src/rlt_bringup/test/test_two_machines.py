"""`host:=robot` and `host:=gpu`: two runners with a run directory each, as on two machines."""

import json
import signal
import subprocess
import sys
import time

import pytest
from harness.untrained_run import prepare

from rlt_common.episode_file import episode_metadata, read_messages
from rlt_msgs.msg import ExecutedAction

LIMIT_S = 240.0
ROBOT_NODES = {
    "sim_robot",
    "chunk_executor",
    "camera_ingest",
    "episode_manager",
    "joy_operator",
    "recorder",
    "scripted_operator",
}
GPU_NODES = {"vla", "rl_policy", "rl_learner"}


class Side:
    """One machine: its runner and its run directory."""

    def __init__(self, host, run, task):
        self.host, self.run, self.task = host, run, task
        self.output = run.parent / f"{host}.txt"
        self.start()

    def start(self):
        command = [sys.executable, "-m", "rlt_bringup.runner", "--host", self.host, "--mode", "train"]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--run", str(self.run), "--task", str(self.task)], stdout=output, stderr=subprocess.STDOUT
            )

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)

    def episodes(self):
        return sorted(int(path.stem) for path in (self.run / "episodes").glob("*.mcap"))

    def taken_in(self):
        """Episodes of the learner's metrics."""
        file = self.run / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [json.loads(line)["episode"] for line in lines if "episode" in json.loads(line)]


def until(reached, sides, what):
    end = time.monotonic() + LIMIT_S
    while not reached():
        for side in sides:
            assert side.process.poll() is None, side.output.read_text(encoding="utf-8")
        assert time.monotonic() < end, f"no {what}: {[(side.episodes(), side.taken_in()) for side in sides]}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Both have practised until RL may drive; the GPU's side was ended and started again on the way."""
    folder = tmp_path_factory.mktemp("two_machines")
    task = prepare(folder / "gpu")
    robot = Side("robot", folder / "robot", task)
    gpu = Side("gpu", folder / "gpu", task)
    both = (robot, gpu)
    try:
        until(lambda: len(gpu.taken_in()) >= 2, both, "episodes of the learner")
        gpu.stop()
        gpu.start()
        seen = max(gpu.taken_in())
        until(lambda: max(gpu.taken_in()) > seen, both, "episode after the GPU's side was started again")
    finally:
        for side in both:
            side.stop()
    return both


@pytest.mark.timeout(900)
def test_each_side_runs_its_own_nodes(sides):
    robot, gpu = sides
    assert {path.stem for path in (robot.run / "log").glob("*.log")} == ROBOT_NODES
    assert {path.stem for path in (gpu.run / "log").glob("*.log")} == GPU_NODES


def test_recordings_lie_on_the_robot_s_side_and_what_is_learned_on_the_gpu_s(sides):
    robot, gpu = sides
    assert sorted(path.name for path in robot.run.iterdir()) == ["episodes", "log"]
    assert not (gpu.run / "episodes").exists()
    assert {"vla", "encoded", "checkpoints", "metrics.jsonl"} <= {path.name for path in gpu.run.iterdir()}


def test_what_the_robot_recorded_is_what_the_gpu_s_side_learned_from(sides):
    robot, gpu = sides
    taken = set(gpu.taken_in())
    assert taken <= set(robot.episodes())
    assert len(taken) >= 3
    for number in taken:
        path = robot.run / "episodes" / f"{number:06d}.mcap"
        assert episode_metadata(path)["label"] in ("success", "failure", "timeout")
        steps = [entry.message for entry in read_messages(path, ["executed_action"])]
        assert any(step.source in (ExecutedAction.SOURCE_VLA, ExecutedAction.SOURCE_RL) for step in steps)
        assert [step.step for step in steps] == list(range(len(steps)))
