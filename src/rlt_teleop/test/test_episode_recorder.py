"""What is in an episode's file, when it is finished, and what is never passed off as one."""

import contextlib
import errno
import os
import random
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import teleop_episodes as eps
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from mcap.writer import Writer
from rclpy.serialization import serialize_message

from rlt_common import topics
from rlt_common.config import config_file
from rlt_common.episode_file import EpisodeFileError, episode_configuration, episode_metadata, read_messages
from rlt_msgs.msg import OperatorEvent
from rlt_teleop.cdr import CdrError
from rlt_teleop.episode_machine import Label, Phase, Purpose
from rlt_teleop.episode_recorder import EpisodeRecorder


class Bench:
    """A recorder with a clock that only moves when told to."""

    def __init__(self, folder: Path) -> None:
        self.reports = []
        self.now_s = 100.0
        self.no_room = ""
        files = {"robot": "name: sim", "task": "name: screw"}
        self.recorder = EpisodeRecorder(
            folder,
            {"config_hash": "abc"},
            1.0,
            self.reports.append,
            lambda cdr: {"vla_hash": "hash of the VLA", "runtime": "a processor, torch 1"},
            files,
            self._room,
            eps.STEP_NS,
            5.0,
        )

    def _room(self) -> None:
        if self.no_room:
            raise EpisodeFileError(self.no_room)

    def state(self, episode) -> None:
        self.recorder.on_state(episode, eps.state_cdr(episode), self.now_s)

    def send(self, topic: str, message) -> None:
        self.recorder.on_message(topic, serialize_message(message), self.now_s, round(self.now_s * 1e9))

    def step(self, step: int, episode_id: int = 1) -> None:
        if step % 2 == 0:
            self.send(topics.OBSERVATION, eps.observation(step))
        self.send(topics.EXECUTED_ACTION, eps.executed(step, episode_id))

    def control(self, episode, step: int) -> None:
        self.recorder.on_control(episode.episode_id, episode.epoch, step, self.now_s)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.recorder.poll(self.now_s)

    def play(self, steps: int, episode_id: int = 1) -> None:
        """From RESETTING to the last step."""
        self.state(eps.running(episode_id))
        self.state(eps.running(episode_id, Phase.BASE))
        for step in range(4):
            self.step(step, episode_id)
        self.state(eps.running(episode_id, Phase.CRITICAL))
        for step in range(4, steps):
            self.step(step, episode_id)

    @property
    def last(self):
        return self.reports[-1]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "episodes")


def steps_in(path) -> list[int]:
    return [entry.message.step for entry in read_messages(path, [topics.EXECUTED_ACTION])]


def observed_steps(path) -> list[int]:
    entries = read_messages(path, [topics.OBSERVATION])
    return [(entry.message.observation_id - eps.START_NS) // eps.STEP_NS for entry in entries]


def test_a_whole_episode(bench, tmp_path):
    bench.play(10)
    for step in range(0, 10, 2):
        bench.send(topics.VLA_OUTPUT, eps.vla_output(step))
    bench.send(topics.ACTION_CHUNK, eps.chunk(4))
    bench.send(topics.OPERATOR_EVENT, OperatorEvent(event=OperatorEvent.EVENT_SUCCESS))
    bench.state(eps.ended())
    assert not bench.last.durable
    bench.control(eps.ended(), 10)
    path = tmp_path / "episodes" / "000001.mcap"
    assert bench.last.durable
    assert bench.last.label == Label.SUCCESS
    assert bench.last.path == str(path)
    assert bench.last.bytes == path.stat().st_size
    assert bench.last.warning == ""
    assert list(path.parent.iterdir()) == [path]

    entries = list(read_messages(path))
    assert len(entries) == bench.last.messages
    assert steps_in(path) == list(range(10))
    assert observed_steps(path) == [0, 2, 4, 6, 8]
    phases = [e.message.phase for e in entries if e.topic == topics.EPISODE_STATE]
    assert phases == [Phase.RESETTING, Phase.BASE, Phase.CRITICAL, Phase.LABELLED]
    assert {e.topic for e in entries} >= {topics.VLA_OUTPUT, topics.ACTION_CHUNK, topics.OPERATOR_EVENT}
    times = [e.stamp_ns for e in entries]
    assert times == sorted(times)
    assert {e.published_ns for e in entries if e.topic == topics.VLA_OUTPUT} == {100_000_000_000}, "when it was sent"
    facts = episode_metadata(path)
    expected = {
        "task": "screw",
        "label": "success",
        "episode_id": "1",
        "seed": "17",
        "purpose": "train",
        "driver": "rl",
        "critical_driver": "rl",
        "handoff_step": "4",
        "steps": "10",
        "vla_hash": "hash of the VLA",
        "runtime": "a processor, torch 1",
        "config_hash": "abc",
        "warning": "",
    }
    assert {key: facts[key] for key in expected} == expected


def diagnostics(name, stamp_s=0):
    message = DiagnosticArray(status=[DiagnosticStatus(name=name)])
    message.header.stamp.sec = stamp_s
    return serialize_message(message)


def test_health_is_recorded(bench):
    bench.recorder.on_message("diagnostics", diagnostics("vla"), bench.now_s)  # before the episode
    bench.play(6)
    bench.recorder.on_message("diagnostics", diagnostics("vla", 2_000_000_000), bench.now_s)
    bench.step(6)
    bench.state(eps.ended())
    bench.control(eps.ended(), 7)
    entries = list(read_messages(bench.last.path))
    assert [e.message.status[0].name for e in entries if e.topic == "diagnostics"] == ["vla"]
    assert entries[-1].stamp_ns < 2_000_000_000 * 10**9, "a driver's own clock does not set the file's"


def test_the_files_that_it_was_recorded_with_are_in_it(bench):
    bench.play(6)
    bench.state(eps.ended())
    bench.control(eps.ended(), 6)
    assert episode_configuration(bench.last.path) == {"robot": "name: sim", "task": "name: screw"}


def test_an_episode_for_which_there_is_no_room_does_not_begin(bench, tmp_path):
    bench.no_room = "over retention.keep_gib 1"
    bench.state(eps.running())
    assert bench.last.error == "over retention.keep_gib 1"
    assert bench.recorder.recording == 0
    assert not (tmp_path / "episodes").exists()


def encoded_after_the_end(bench, label=Label.SUCCESS, **changes):
    """Ten steps of which the VLA has encoded the first three observations when the episode ends."""
    bench.play(10)
    for step in (0, 2, 4):
        bench.send(topics.VLA_OUTPUT, eps.vla_output(step))
    bench.state(eps.ended(label=label, **changes))
    bench.control(eps.ended(), 10)


def test_what_the_vla_still_encodes_of_a_training_episode_is_in_its_file(bench, tmp_path):
    encoded_after_the_end(bench)
    bench.send(topics.VLA_OUTPUT, eps.vla_output(6))
    bench.wait(2.0)
    assert not bench.last.durable
    bench.send(topics.VLA_OUTPUT, eps.vla_output(8))
    assert bench.last.durable
    assert bench.last.warning == ""
    outputs = list(read_messages(tmp_path / "episodes" / "000001.mcap", [topics.VLA_OUTPUT]))
    assert len(outputs) == 5


def test_a_vla_that_encodes_no_more_is_waited_for_so_long_and_named(bench):
    encoded_after_the_end(bench)
    bench.wait(5.0)
    assert not bench.last.durable
    bench.wait(0.1)
    assert bench.last.durable
    assert bench.last.warning == "2 observations of the critical phase were not encoded"


@pytest.mark.parametrize("changes", [{"label": Label.DISCARD}, {"purpose": Purpose.EVALUATE}])
def test_nothing_more_is_encoded_of_what_nobody_learns_from(bench, changes):
    encoded_after_the_end(bench, **changes)
    assert bench.last.durable


@pytest.mark.parametrize("label", [Label.FAILURE, Label.DISCARD])
def test_every_label_leaves_a_file(bench, label):
    bench.play(6)
    bench.state(eps.ended(label=label))
    bench.control(eps.ended(), 6)
    assert bench.last.durable
    assert episode_metadata(bench.last.path)["label"] == label.name.lower()


def test_an_emergency_stop_ends_the_file_too(bench):
    bench.play(6)
    stop = eps.ended(label=Label.DISCARD, phase=Phase.ESTOP)
    bench.state(stop)
    bench.control(stop, 6)
    assert bench.last.durable


def test_steps_that_arrive_after_the_label_are_waited_for(bench):
    bench.play(8)
    bench.state(eps.ended())
    bench.control(eps.ended(), 10)
    assert not bench.last.durable
    bench.step(8)
    bench.step(9)
    assert bench.last.durable
    assert steps_in(bench.last.path) == list(range(10))


def test_a_lost_step_is_named_after_the_time_out(bench):
    bench.play(8)
    bench.state(eps.ended())
    bench.control(eps.ended(), 9)
    bench.wait(0.9)
    assert not bench.last.durable
    bench.wait(0.2)
    assert bench.last.durable
    assert "8 of 9 executed steps" in bench.last.warning
    assert "8 of 9" in episode_metadata(bench.last.path)["warning"]


def test_a_silent_executor_does_not_hold_the_file_for_ever(bench):
    bench.play(8)
    bench.control(eps.running(1, Phase.CRITICAL), 8)
    bench.state(eps.ended())
    bench.wait(1.1)
    assert bench.last.durable
    assert "did not confirm" in bench.last.warning


def test_a_step_that_came_twice_counts_once(bench):
    bench.play(8)
    bench.step(7)
    bench.state(eps.ended())
    bench.control(eps.ended(), 8)
    assert bench.last.durable


def test_the_observation_after_the_last_step_is_in_the_file_where_it_came_before_the_end(bench):
    bench.play(8)
    bench.send(topics.OBSERVATION, eps.observation(8))
    end = eps.ended(label=Label.TIMEOUT)
    bench.state(end)
    bench.control(end, 8)
    assert bench.last.durable
    assert observed_steps(bench.last.path)[-1] == 8


def test_observations_outside_the_motion_are_left_out_but_not_the_first_one(bench):
    for step in (-4, -2, 0):
        bench.send(topics.OBSERVATION, eps.observation(step))
    bench.state(eps.running(1))
    bench.send(topics.OBSERVATION, eps.observation(0))
    bench.state(eps.running(1, Phase.BASE))
    bench.send(topics.OBSERVATION, eps.observation(2))
    bench.send(topics.EXECUTED_ACTION, eps.executed(0))
    bench.state(eps.ended())
    bench.control(eps.ended(), 1)
    assert observed_steps(bench.last.path)[-1] == 2
    assert set(observed_steps(bench.last.path)) == {0, 2}


def test_other_episodes_messages_are_left_out(bench):
    bench.play(6)
    bench.step(99, episode_id=7)
    bench.send(topics.VLA_OUTPUT, eps.vla_output(2, episode_id=7))
    bench.state(eps.ended())
    bench.control(eps.ended(), 6)
    assert steps_in(bench.last.path) == list(range(6))
    assert [e for e in read_messages(bench.last.path, [topics.VLA_OUTPUT])] == []


def test_episodes_follow_each_other(bench):
    for number in (1, 2, 3):
        bench.play(6, number)
        bench.state(eps.ended(number))
        bench.control(eps.ended(number), 6)
        bench.state(eps.ended(number, phase=Phase.IDLE))
    assert [r.episode_id for r in bench.reports if r.durable] == [1, 2, 3]
    assert bench.recorder.leftovers() == []


def test_the_file_grows_while_the_episode_runs(bench, tmp_path):
    bench.play(6)
    partial = tmp_path / "episodes" / "000001.mcap.part"
    before = len(partial.read_bytes().rstrip(b"\0"))
    big = eps.observation(6)
    big.proprioception = [0.1] * 5000
    for step in range(6, 200, 2):
        big.observation_id = step
        bench.send(topics.OBSERVATION, big)
    # The file's size is the room that was taken; what counts is what is in it.
    assert len(partial.read_bytes().rstrip(b"\0")) > before
    assert not (tmp_path / "episodes" / "000001.mcap").exists()


def test_a_recorder_started_in_the_middle_refuses_the_episode(bench, tmp_path):
    bench.state(eps.running(1, Phase.CRITICAL))
    assert "in the middle" in bench.last.error
    bench.step(5)
    bench.state(eps.ended())
    bench.control(eps.ended(), 6)
    bench.wait(5.0)
    assert not any(report.durable for report in bench.reports)
    assert not (tmp_path / "episodes").exists()


def test_a_manager_that_forgot_the_episode_leaves_an_unfinished_file(bench, tmp_path):
    bench.play(6)
    bench.state(eps.running(2, Phase.IDLE))
    assert "without a label" in bench.last.error
    assert bench.recorder.leftovers() == [tmp_path / "episodes" / "000001.mcap.part"]
    bench.play(6, 2)
    bench.state(eps.ended(2))
    bench.control(eps.ended(2), 6)
    assert bench.last.durable


def test_an_interrupted_recording_is_kept_when_its_episode_begins_again(bench, tmp_path):
    folder = tmp_path / "episodes"
    folder.mkdir()
    (folder / "000001.mcap.part").write_bytes(b"what a crash left")
    assert len(bench.recorder.leftovers()) == 1
    bench.play(6)
    bench.state(eps.ended())
    bench.control(eps.ended(), 6)
    assert bench.last.durable
    assert (folder / "000001.mcap.part.1").read_bytes() == b"what a crash left"


def test_a_finished_episode_is_never_overwritten(bench, tmp_path):
    (tmp_path / "episodes").mkdir()
    (tmp_path / "episodes" / "000001.mcap").write_bytes(b"precious")
    bench.play(6)
    assert "exists already" in bench.last.error
    assert (tmp_path / "episodes" / "000001.mcap").read_bytes() == b"precious"


def test_a_restarted_recorder_still_confirms_what_is_durable(bench, tmp_path):
    bench.play(6)
    bench.state(eps.ended())
    bench.control(eps.ended(), 6)
    again = Bench(tmp_path / "episodes")
    again.state(eps.ended())
    assert again.last.durable
    assert again.last.path == bench.last.path


def test_a_restarted_recorder_says_what_was_lost(bench):
    bench.state(eps.ended())
    assert "interrupted" in bench.last.error
    assert not bench.last.durable


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "episodes").write_text("a file where the folder should be")
    bench = Bench(tmp_path / "episodes")
    bench.play(6)
    bench.state(eps.ended())
    bench.control(eps.ended(), 6)
    assert not any(report.durable for report in bench.reports)
    assert bench.reports[0].error


@contextlib.contextmanager
def small_files():
    """Nothing that this process writes may grow beyond 64 KiB: stands for a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_for_an_episode_is_told_before_it_begins(bench, tmp_path):
    with small_files():
        bench.play(6)
    assert "File too large" in bench.reports[0].error
    bench.state(eps.ended())
    bench.control(eps.ended(), 6)
    assert not any(report.durable for report in bench.reports)
    assert not (tmp_path / "episodes" / "000001.mcap").exists()


def test_a_full_disk_is_never_durable(bench, tmp_path):
    bench.play(6)
    noise = random.Random(1)
    with small_files():
        for step in range(6, 406, 2):
            message = eps.observation(step)
            message.proprioception = [noise.random() for _ in range(2000)]
            bench.send(topics.OBSERVATION, message)
        bench.state(eps.ended())
        bench.control(eps.ended(), 6)
    assert not any(report.durable for report in bench.reports)
    assert "File too large" in bench.last.error
    assert not (tmp_path / "episodes" / "000001.mcap").exists()


def test_a_disk_that_fills_up_on_the_last_write_is_not_durable_either(bench, tmp_path):
    bench.play(6)
    noise = random.Random(1)
    message = eps.observation(6)
    message.proprioception = [noise.random() for _ in range(40000)]
    with small_files():
        bench.send(topics.OBSERVATION, message)
        assert bench.last.error == ""
        bench.state(eps.ended())
        bench.control(eps.ended(), 6)
    assert "File too large" in bench.last.error
    assert not (tmp_path / "episodes" / "000001.mcap").exists()


def test_a_file_that_cannot_get_its_name_is_told_and_kept(bench, tmp_path):
    bench.play(10)
    taken = tmp_path / "episodes" / "000001.mcap"
    taken.mkdir()
    bench.state(eps.ended())
    bench.control(eps.ended(), 10)
    assert not bench.last.durable
    assert "000001.mcap.part: Is a directory" in bench.last.error
    assert steps_in(f"{taken}.part") == list(range(10))


@contextlib.contextmanager
def no_durable_names(monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", lambda of: broken(of) if stat.S_ISDIR(os.fstat(of).st_mode) else None)
        yield


def test_an_episode_whose_name_is_not_durable_is_lost_and_has_no_such_name(bench, tmp_path, monkeypatch):
    bench.play(10)
    bench.state(eps.ended())
    with no_durable_names(monkeypatch):
        bench.control(eps.ended(), 10)
    assert not bench.last.durable
    assert "Input/output error" in bench.last.error
    assert [path.name for path in (tmp_path / "episodes").iterdir()] == ["000001.mcap.part"]
    assert steps_in(tmp_path / "episodes" / "000001.mcap.part") == list(range(10)), "whole, for whoever wants it"


def test_a_name_that_is_not_yet_durable_is_made_so_before_a_restarted_recorder_confirms(bench, tmp_path, monkeypatch):
    bench.play(10)
    bench.state(eps.ended())
    bench.control(eps.ended(), 10)  # and then, it was killed before the name was durable
    with no_durable_names(monkeypatch):
        again = Bench(tmp_path / "episodes")
        again.state(eps.ended())
        assert not again.last.durable
        assert "Input/output error" in again.last.error
    again = Bench(tmp_path / "episodes")
    again.state(eps.ended())
    assert again.last.durable


def test_stopping_finishes_a_labelled_episode_and_keeps_a_running_one_unfinished(bench, tmp_path):
    bench.play(6)
    bench.recorder.close()
    assert "stopped" in bench.last.error
    bench.play(6, 2)
    bench.state(eps.ended(2))
    bench.recorder.close()
    assert bench.last.durable
    assert "stopped" in bench.last.warning
    assert [p.name for p in bench.recorder.leftovers()] == ["000001.mcap.part"]


STOPPED = """
import os, signal
import teleop_episodes as eps
from rlt_common import episode_file
from rlt_teleop import recorder_node

rename = episode_file.rename_durable

def stopped(*names, **how):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    rename(*names, **how)

class Recorder(recorder_node.RecorderNode):
    def _on_show(self):
        if not self.recorder.recording:
            self.recorder.on_state(eps.running(1), eps.state_cdr(eps.running(1)), 0.0)
            self.recorder.on_state(eps.ended(), eps.state_cdr(eps.ended()), 0.0)
            self.recorder.on_control(1, eps.ended().epoch, 0, 0.0)

episode_file.rename_durable, recorder_node.RecorderNode = stopped, Recorder
Recorder._show_health = Recorder._on_show
recorder_node.main()
"""
"""A recorder that gets SIGTERM, and a SIGINT of whoever started it, while it finishes a labelled episode's file."""


def test_a_stop_waits_for_the_file_that_is_being_finished(tmp_path):
    files = {"robot": config_file("robots", "sim"), "task": config_file("tasks", "screw"), "run_directory": tmp_path}
    flags = [part for name, value in files.items() for part in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-c", STOPPED, "--ros-args", *flags]
    end = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60)
    assert (end.returncode, "Traceback" in end.stderr) == (0, False), end.stderr
    assert episode_metadata(tmp_path / "episodes" / "000001.mcap")["label"] == "success"


def test_a_file_that_a_second_stop_tore_is_finished_no_second_time(bench, tmp_path, monkeypatch):
    end = Writer.finish

    def torn(writer):
        end(writer)
        raise KeyboardInterrupt

    bench.play(6)
    bench.state(eps.ended())
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "finish", torn)
        with pytest.raises(KeyboardInterrupt):
            bench.control(eps.ended(), 6)
    bench.recorder.close()
    assert not bench.last.durable
    assert "interrupted" in bench.last.error
    assert [p.name for p in (tmp_path / "episodes").iterdir()] == ["000001.mcap.part"]


def test_foreign_bytes_are_refused(bench):
    bench.play(6)
    with pytest.raises(CdrError):
        bench.recorder.on_message(topics.EXECUTED_ACTION, b"\x00\x01\x00\x00", bench.now_s)
    bench.state(eps.ended())
    bench.control(eps.ended(), 6)
    assert bench.last.durable
