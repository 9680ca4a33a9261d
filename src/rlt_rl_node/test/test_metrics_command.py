"""Event files, read back byte by byte by a reader of our own; what is written twice, changed or torn; the command."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from rlt_common.metrics_log import read_metrics
from rlt_common.relabels import append_relabel
from rlt_rl_node import metrics_command
from rlt_rl_node.metrics_curves import ADAPTATION, LEARNING, read_curves
from rlt_rl_node.metrics_writers import TensorBoardWriter, WriterError


def row(episode, label="success", **figures):
    healthy = {"critical_steps": 200 + episode, "critic_loss": 0.5 / episode, "q_mean": None, "stage": "online"}
    return {"time": 1000.0 + episode, "episode": episode, "label": label, **healthy, **figures}


def write(run, *rows, name="metrics.jsonl"):
    (run / name).parent.mkdir(exist_ok=True)
    with open(run / name, "a") as file:
        file.writelines(json.dumps(each) + "\n" for each in rows)


def curves(run):
    return read_curves(run, run / "vla")[0]


# -- the file format: TFRecords of Event messages


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data):
    """(number, value) of a protobuf message; bytes of what has a length."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 2:
            size, at = varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            size = {1: 8, 5: 4}[kind]
            value, at = struct.unpack({8: "<d", 4: "<f"}[size], data[at : at + size])[0], at + size
        yield key >> 3, value


def scalars(run):
    """tag -> [(step, value, wall time)] of all event files of a run, with every checksum compared."""
    found = {}
    for path in sorted((run / "tensorboard").glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,), (crc,) = struct.unpack_from("<Q", data, at), struct.unpack_from("<I", data, at + 8)
            assert crc == masked(data[at : at + 8])
            event = data[at + 12 : at + 12 + size]
            assert struct.unpack_from("<I", data, at + 12 + size)[0] == masked(event)
            at += 16 + size
            parts = dict(fields(event))
            for _, value in fields(parts.get(5, b"")):
                figure = dict(fields(value))
                found.setdefault(figure[1].decode(), []).append((parts.get(2, 0), figure.get(2, 0.0), parts[1]))
    return found


def test_every_figure_is_in_the_event_file_at_its_step(tmp_path):
    write(tmp_path, row(1, "failure"), row(2), row(3))
    write(
        tmp_path,
        {"stage": 0, "step": 50, "auxiliary": 0.25},
        {"stage": 1, "step": 50, "flow": 1.5},
        name="vla/metrics.jsonl",
    )
    writer = TensorBoardWriter(tmp_path)
    assert writer.write(curves(tmp_path)) == 5
    writer.close()
    found = scalars(tmp_path)
    assert [(step, wall) for step, _, wall in found["learning/critic_loss"]] == [(1, 1001), (2, 1002), (3, 1003)]
    np.testing.assert_allclose([value for _, value, _ in found["learning/critic_loss"]], [0.5, 0.25, 0.5 / 3])
    assert [value for _, value, _ in found["episode/success"]] == [0.0, 1.0, 1.0]
    assert [value for _, value, _ in found["episode/success_of_20"]] == pytest.approx([0.0, 0.5, 2 / 3])
    assert "learning/q_mean" not in found, "what was not measured is no figure"
    assert [(step, value) for step, value, _ in found["pretraining/auxiliary"]] == [(50, 0.25)]
    assert [(step, value) for step, value, _ in found["adaptation/flow"]] == [(50, 1.5)]


def test_a_learner_that_takes_episodes_in_again_and_a_writer_that_was_restarted_write_no_step_twice(tmp_path):
    write(tmp_path, row(1), row(2))
    writer = TensorBoardWriter(tmp_path)
    assert writer.write(curves(tmp_path)) == 2
    write(tmp_path, row(2, time=2000.0, updates_per_s=7.0), row(3))
    assert writer.write(curves(tmp_path)) == 1
    assert writer.write(curves(tmp_path)) == 0
    writer.close()
    again = TensorBoardWriter(tmp_path)
    assert again.write(curves(tmp_path)) == 3
    again.close()
    assert [step for step, _, _ in scalars(tmp_path)["learning/critic_loss"]] == [1, 2, 3]


@pytest.mark.parametrize("change", ["another branch", "a corrected label"])
def test_a_changed_history_is_written_anew(tmp_path, change):
    write(tmp_path, row(1), row(2), row(3))
    writer = TensorBoardWriter(tmp_path)
    writer.write(curves(tmp_path))
    if change == "another branch":
        write(tmp_path, row(2, "failure", critic_loss=0.9))
    else:
        append_relabel(tmp_path, 2, "failure", 3)
    assert writer.write(curves(tmp_path)) == 3
    writer.close()
    assert [(step, value) for step, value, _ in scalars(tmp_path)["episode/success"]] == [(1, 1.0), (2, 0.0), (3, 1.0)]


def test_a_line_that_is_not_ended_waits_and_one_that_is_none_is_named(tmp_path):
    write(tmp_path, row(1), {"episode": -3, "label": "success"}, ["no object"])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row(2))[:40])
    found, problems = read_curves(tmp_path, tmp_path / "vla")
    assert len(found[LEARNING]) == 1
    assert [problem.partition(": ")[2] for problem in problems] == [
        "line 2 is left out: episode is '-3'",
        "line 3 is left out: it is no JSON object",
    ]
    assert found[ADAPTATION] == []


def test_two_processes_do_not_write_one_folder(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    with pytest.raises(WriterError, match="another process writes there"):
        TensorBoardWriter(tmp_path)
    writer.close()
    TensorBoardWriter(tmp_path).close()


def test_a_link_out_of_the_run_is_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "run" / "tensorboard").symlink_to(tmp_path / "other")
    with pytest.raises(PermissionError, match="leads out of"):
        TensorBoardWriter(tmp_path / "run")


def test_foreign_files_in_the_folder_stay(tmp_path):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "notes.txt").write_text("mine")
    TensorBoardWriter(tmp_path).close()
    assert (tmp_path / "tensorboard" / "notes.txt").read_text() == "mine"


# -- the command


def test_the_command_shows_the_newest_figures_and_advice(tmp_path, capsys):
    write(tmp_path, *(row(i, "failure", q_mean=0.25) for i in range(1, 41)))
    metrics_command.main(["--run", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "episode 40: success_of_20 0.00, steps 240, Q 0.25, critic_loss 0.0125" in printed
    assert "advice: RL has nothing to learn from" in printed
    assert "no success in the last 30 episodes" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--run", "nowhere"], "no run directory nowhere"), (["--run", "."], "has no metrics.jsonl yet")],
)
def test_what_is_not_there_is_a_clear_error(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=words):
        metrics_command.main(arguments)


def test_wandb_is_asked_for_only_where_it_is_wanted_and_its_lack_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    write(tmp_path, row(1))
    metrics_command.main(["--run", str(tmp_path)])
    with pytest.raises(SystemExit, match="W&B is not installed: `pip install wandb`"):
        metrics_command.main(["--run", str(tmp_path), "--wandb", "screws"])


class WandbError(Exception):
    """Stands for wandb.Error, of which all that the package raises by itself are kinds."""


class Wandb:
    """The package `wandb`, whose call `broken` ends in `error`."""

    Error = WandbError

    def __init__(self, broken, error):
        self.broken, self.error = broken, error

    def __getattr__(self, name):
        def call(*_, **__):
            if name == self.broken:
                raise self.error
            return self

        return call


@pytest.mark.parametrize("broken", ["init", "define_metric", "log", "finish"])
@pytest.mark.parametrize("error", [WandbError("No API key configured."), ValueError("mode: no such")])
def test_what_wandb_refuses_is_a_clear_error(tmp_path, monkeypatch, broken, error):
    monkeypatch.setitem(sys.modules, "wandb", Wandb(broken, error))
    write(tmp_path, row(1))
    with pytest.raises(SystemExit) as ended:
        metrics_command.main(["--run", str(tmp_path), "--wandb", "screws"])
    what, todo = str(ended.value).split("\n")
    assert what == f"metrics: W&B: {error}"
    assert todo == f"Log in with `wandb login`, or set WANDB_MODE=offline: all stays in {tmp_path / 'wandb'}"
    assert (tmp_path / "wandb" / "sent.json").exists() == (broken == "finish"), "what was refused is sent again"


def test_it_follows_a_run_that_goes_on(tmp_path):
    write(tmp_path, row(1))
    command = [sys.executable, "-m", "rlt_rl_node.metrics_command", "--run", str(tmp_path), "--follow", "--tensorboard"]
    with subprocess.Popen([*command, "--every", "0.1"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "TensorBoard: 1 entries\n"
            assert process.stdout.readline().startswith("episode 1: ")
            write(tmp_path, row(2), row(3))
            assert process.stdout.readline() == "TensorBoard: 2 entries\n"
            assert [process.stdout.readline()[:10] for _ in range(2)] == ["episode 2:", "episode 3:"]
        finally:
            process.terminate()
    assert [step for step, _, _ in scalars(tmp_path)["episode/success"]] == [1, 2, 3]
    assert len(read_metrics(tmp_path).rows) == 3
