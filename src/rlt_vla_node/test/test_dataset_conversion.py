"""Episode files to a data set: labels, gaps, columns, what is left when it fails, and the command."""

import json
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from dataset_episodes import VLA_FILE, record

from rlt_common.config import load_robot
from rlt_common.parameters import ParameterError
from rlt_common.relabels import append_relabel
from rlt_common.vla_config import load_vla
from rlt_vla_node.chunk_layout import ChunkLayout
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.dataset_command import main
from rlt_vla_node.dataset_conversion import REPORT, Wanted, convert
from rlt_vla_node.episode_frames import frame_rules
from rlt_vla_node.lerobot_writer import UNFINISHED
from rlt_vla_node.video import VideoReader


@pytest.fixture
def episodes(tmp_path, cell):
    """A run's episodes: two successes, a failure, a time-out, a discard."""
    folder = tmp_path / "run" / "episodes"
    labels = ("success", "failure", "success", "timeout", "discard")
    return folder, {
        seed: record(folder / f"{seed:06d}.mcap", cell.robot, seed, steps=12 + seed, label=label)
        for seed, label in enumerate(labels, start=1)
    }


@pytest.fixture
def run(cell, tmp_path):
    """Converts a folder; returns report and folder of the data set."""

    def make(folder, vla=None, keep_repositioning=False, **wanted):
        target = tmp_path / "dataset"
        rules = frame_rules(cell.robot, cell.task, keep_repositioning=keep_repositioning)
        report = convert(folder, target, cell.robot, cell.task, rules, Wanted(**wanted), vla)
        return report, target

    return make


def rows(target, *names):
    table = pq.read_table(target / "data/chunk-000/file-000.parquet")
    found = [np.array(table[name].to_pylist()) for name in names]
    return found if len(found) > 1 else found[0]


def test_only_successes_by_the_label_that_counts_now(episodes, run):
    folder, recorded = episodes
    append_relabel(folder.parent, 1, "failure")
    append_relabel(folder.parent, 2, "success")
    report, target = run(folder)
    assert [found["file"] for found in report["episodes"]] == ["000002.mcap", "000003.mcap"]
    assert [found["recorded_label"] for found in report["episodes"]] == ["failure", "success"]
    assert {found["label"] for found in report["not_wanted"]} == {"failure", "timeout", "discard"}
    assert len(rows(target, "index")) == len(recorded[2].executed) + len(recorded[3].executed)
    assert json.loads((target / REPORT).read_text()) == json.loads(json.dumps(report))


def test_failures_too_but_never_what_was_discarded(episodes, run):
    report, target = run(episodes[0], failures=True)
    assert [found["label"] for found in report["episodes"]] == ["success", "failure", "success", "timeout"]
    owner, rewards, done, success = rows(target, "episode_index", "next.reward", "next.done", "next.success")
    last = np.append(np.diff(owner) != 0, True)
    np.testing.assert_array_equal(done, last)
    np.testing.assert_array_equal(rewards, last & np.isin(owner, [0, 2]))
    np.testing.assert_array_equal(success, rewards == 1.0)


def test_a_frame_holds_what_was_seen_and_executed_in_its_step(tmp_path, cell, run):
    recorded = record(tmp_path / "in/1.mcap", cell.robot, 1, steps=11, vla=range(2, 6), holds=[0], targets=True)
    _, target = run(tmp_path / "in", codec="lossless")
    steps = range(11)
    np.testing.assert_array_equal(rows(target, "source.step"), steps)
    np.testing.assert_array_equal(rows(target, "action").astype(np.float32), recorded.actions(steps))
    np.testing.assert_array_equal(rows(target, "executed.action").astype(np.float32), recorded.actions(steps))
    np.testing.assert_array_equal(rows(target, "executed.joint_target"), recorded.targets(steps))
    seen = [recorded.seen(step) for step in steps]
    state = np.stack([o.state(cell.task.vla_state) for o in seen])
    np.testing.assert_array_equal(rows(target, "observation.state").astype(np.float32), state)
    for name in cell.robot.block_sizes:
        expected = np.stack([o.blocks[name] for o in seen])
        np.testing.assert_array_equal(rows(target, f"proprioception.{name}").astype(np.float32), expected)
    human, source, phase = rows(target, "is_intervention", "control_source", "phase")
    assert source.tolist() == [0, 3, 1, 1, 1, 1, 3, 3, 3, 3, 3]
    np.testing.assert_array_equal(human, source == 3)
    assert phase.tolist() == [2] * 4 + [3] * 7
    assert rows(target, "auxiliary.known").all()
    for camera, name in enumerate(("base", "wrist")):
        path = target / f"videos/observation.images.{name}/chunk-000/file-000.mp4"
        with VideoReader(path, 50) as reader:
            np.testing.assert_array_equal(reader.frames(steps), np.stack([o.images[camera] for o in seen]))


def test_with_a_vla_file_state_and_action_are_the_policys(tmp_path, cell, run):
    recorded = record(tmp_path / "in/1.mcap", cell.robot, 1, steps=10)
    (tmp_path / "vla.yaml").write_text(VLA_FILE)
    vla = load_vla(tmp_path / "vla.yaml")
    _, target = run(tmp_path / "in", vla=vla)
    layout = ChunkLayout(vla, cell.robot)
    states = np.stack([layout.state_vector(recorded.seen(step).blocks) for step in range(10)])
    np.testing.assert_array_equal(rows(target, "observation.state").astype(np.float32), states)
    targets = layout.targets(recorded.targets(range(10)))
    np.testing.assert_array_equal(rows(target, "action").astype(np.float32), targets)
    info = json.loads((target / "meta/info.json").read_text())
    assert info["features"]["action"]["names"] == layout.actions.names()
    assert "do the policy's task" in (target / "meta/tasks.parquet").read_bytes().decode(errors="ignore")


def test_what_a_vla_file_cannot_have_is_refused(tmp_path, cell, run):
    record(tmp_path / "in/1.mcap", cell.robot, 1, joint_targets=False)
    (tmp_path / "vla.yaml").write_text(VLA_FILE)
    with pytest.raises(DatasetError, match="do not say which joint targets were sent"):
        run(tmp_path / "in", vla=load_vla(tmp_path / "vla.yaml"))
    record(tmp_path / "in/1.mcap", cell.robot, 1)
    (tmp_path / "vla.yaml").write_text(VLA_FILE.replace("top: base", "top: none_such"))
    with pytest.raises(ParameterError, match="none_such"):
        run(tmp_path / "in", vla=load_vla(tmp_path / "vla.yaml"))


def test_an_episode_with_gaps_is_refused_or_split(tmp_path, cell, run):
    recorded = record(tmp_path / "in/1.mcap", cell.robot, 1, steps=15, missing=[6, 7])
    with pytest.raises(DatasetError, match=r"1\.mcap: has gaps: 2 steps were not recorded: .*--allow-gaps"):
        run(tmp_path / "in")
    report, target = run(tmp_path / "in", allow_gaps=True)
    assert report["episodes"][0]["segments"] == [
        {"episode_index": 0, "first_step": 0, "last_step": 5},
        {"episode_index": 1, "first_step": 8, "last_step": 14},
    ]
    np.testing.assert_array_equal(rows(target, "action").astype(np.float32), recorded.actions(recorded.executed))
    owner, frame, done = rows(target, "episode_index", "frame_index", "next.done")
    assert owner.tolist() == [0] * 6 + [1] * 7
    assert frame.tolist() == [*range(6), *range(7)]
    assert np.flatnonzero(done).tolist() == [12], "the cut is not the episode's end"


def test_repositioning_is_no_demonstration(tmp_path, cell, run):
    record(tmp_path / "in/1.mcap", cell.robot, 1, steps=15, repositioning=range(5, 8))
    report, target = run(tmp_path / "in")
    assert report["episodes"][0]["findings"]["repositioning"] == 3
    assert rows(target, "source.step").tolist() == [*range(5), *range(8, 15)]


def test_nothing_that_looks_whole_is_left_of_a_conversion_that_failed(tmp_path, cell, run):
    record(tmp_path / "in/1.mcap", cell.robot, 1)
    record(tmp_path / "in/2.mcap", cell.robot, 2, dry_run=[3])
    with pytest.raises(DatasetError, match=r"2\.mcap: is a dry run"):
        run(tmp_path / "in")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    killed = tmp_path / ".dataset.part"
    killed.mkdir()
    (killed / UNFINISHED).touch()
    (tmp_path / "in/2.mcap").unlink()
    _, target = run(tmp_path / "in")
    assert not killed.exists()
    with pytest.raises(DatasetError, match="is there already"):
        run(tmp_path / "in")
    killed.mkdir()
    with pytest.raises(DatasetError, match="is in the way"):
        run(tmp_path / "in") if target.rename(tmp_path / "other") else None


DIE = """\
import os, signal, sys
from rlt_common.config import load_robot, load_task
from rlt_vla_node.dataset_conversion import Wanted, convert
from rlt_vla_node.episode_frames import frame_rules
source, target, robot, task = sys.argv[1], sys.argv[2], load_robot(sys.argv[3]), load_task(sys.argv[4])
die = lambda done, total, words: os.kill(os.getpid(), signal.SIGKILL)
convert(source, target, robot, task, frame_rules(robot, task), Wanted(), None, die)
"""


def test_a_conversion_that_is_killed_leaves_no_data_set_and_can_be_repeated(tmp_path, cell, run):
    for seed in (1, 2):
        record(tmp_path / f"in/{seed}.mcap", cell.robot, seed)
    target = tmp_path / "dataset"
    command = [sys.executable, "-c", DIE, tmp_path / "in", target, cell.robot_path, cell.task_path]
    assert subprocess.run(list(map(str, command)), check=False, timeout=120).returncode == -signal.SIGKILL
    assert not target.exists()
    assert (tmp_path / ".dataset.part" / UNFINISHED).exists()
    run(tmp_path / "in")
    assert len(rows(target, "index")) == 40
    assert not (target / UNFINISHED).exists()
    assert not (tmp_path / ".dataset.part").exists()


def test_folders_without_what_is_wanted_are_refused(tmp_path, cell, run):
    with pytest.raises(DatasetError, match="no episode files"):
        run(tmp_path)
    record(tmp_path / "in/1.mcap", cell.robot, 1, label="failure")
    with pytest.raises(DatasetError, match="none of the 1 episodes is labelled success"):
        run(tmp_path / "in")
    path = tmp_path / "in/1.mcap"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError, match=r"1\.mcap.*not a whole episode file"):
        run(tmp_path / "in")


def test_the_command_says_what_it_found(tmp_path, cell, capsys):
    record(tmp_path / "in/1.mcap", cell.robot, 1, steps=16, holds=[0, 1], unobserved=[6])
    given = ["--robot", str(cell.robot_path), "--task", str(cell.task_path), "--episodes", str(tmp_path / "in")]
    main([*given, "--output", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "1.mcap: 16 steps, 2 holds, 1 observations dropped, images up to 64 ms old" in said
    assert "age of base: median 24.0 ms" in said
    assert "about 0 s left" in said
    with pytest.raises(SystemExit, match="is there already"):
        main([*given, "--output", str(tmp_path / "out")])


def test_a_rate_that_is_no_whole_number_is_refused(tmp_path, cell):
    text = cell.robot_path.read_text() + "control_hz: 12.5\n"
    (cell.robot_path.parent / "slow.yaml").write_text(text)
    robot = load_robot(cell.robot_path.parent / "slow.yaml")
    with pytest.raises(DatasetError, match="whole number of frames a second"):
        convert(tmp_path, tmp_path / "out", robot, cell.task, frame_rules(robot, cell.task), Wanted())
