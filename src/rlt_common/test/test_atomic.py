"""A file is the old one or the new one: with a disk that is full, and with a link in the file's place."""

import errno
import os
import resource
import subprocess
import sys

import pytest

from rlt_common.atomic import append_line, remove_leftovers, temporary_path, write_atomic
from rlt_common.episode_file import EpisodeFileError, EpisodeWriter

LIMIT = 4096


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a file system with no room left: a small one of its own as root, else a limit on files' sizes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() == 0:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "rlt", str(folder)], check=True)
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_file_and_takes_no_more_room(full_disk):
    path = full_disk / "facts.json"
    write_atomic(path, b"old")
    with pytest.raises(OSError, match=r"No space left|File too large"):
        write_atomic(path, bytes(1 << 20))
    assert path.read_bytes() == b"old"
    assert [p.name for p in full_disk.iterdir()] == ["facts.json"]
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_of_a_line_that_is_refused_nothing_stays(full_disk, monkeypatch):
    path = full_disk / "list.jsonl"
    append_line(path, 1)
    with pytest.raises(OSError, match=r"No space left|File too large"):
        append_line(path, "x" * (1 << 20))
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", _broken)
        with pytest.raises(OSError, match="Input/output error"):
            append_line(path, 2)
    append_line(path, 3)
    assert path.read_text() == "1\n3\n"


def _broken(descriptor: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "facts.json"
    write_atomic(path, b"old")
    code = (
        "import os, signal, sys\nfrom rlt_common import atomic\n"
        "atomic.rename_durable = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "atomic.write_atomic(sys.argv[1], b'new')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert path.read_bytes() == b"old"


@pytest.fixture
def gone():
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_writer_left_is_removed_by_the_next_writer_of_the_file(tmp_path, gone):
    for name in (f".facts.json.{gone}.part", f".other.json.{gone}.part", f".facts.json.{os.getppid()}.part"):
        (tmp_path / name).write_bytes(b"half")
    write_atomic(tmp_path / "facts.json", b"new")
    left = {f".other.json.{gone}.part", f".facts.json.{os.getppid()}.part", "facts.json"}
    assert {p.name for p in tmp_path.iterdir()} == left


def test_of_all_that_was_left_in_a_folder_only_what_a_living_process_writes_stays(tmp_path, gone):
    target = tmp_path / "elsewhere"
    target.mkdir()
    folder = tmp_path / "checkpoints"
    (folder / f".e1.{gone}.part").mkdir(parents=True)
    (folder / f".e1.{gone}.part" / "state.json").write_bytes(b"half")
    (folder / f".link.{gone}.part").symlink_to(target)
    (folder / f".facts.json.{gone}.part").write_bytes(b"half")
    keep = {temporary_path(folder / "mine").name, "000001.mcap.part", ".hidden.part", f"visible.{gone}.part"}
    for name in keep:
        (folder / name).write_bytes(b"")
    remove_leftovers(folder)
    assert {p.name for p in folder.iterdir()} == keep
    assert target.is_dir()
    remove_leftovers(tmp_path / "not there")


def test_a_link_in_an_episode_s_place_leads_nowhere(tmp_path):
    outside = tmp_path / "outside"
    folder = tmp_path / "episodes"
    folder.mkdir()
    (folder / "000001.mcap.part").symlink_to(outside)
    with pytest.raises(EpisodeFileError, match=r"000001\.mcap\.part"):
        EpisodeWriter(folder / "000001.mcap")
    assert not outside.exists()


def test_a_link_to_a_file_is_replaced_not_written_through(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    (tmp_path / "facts.json").symlink_to(outside)
    write_atomic(tmp_path / "facts.json", b"new")
    assert outside.read_bytes() == b"untouched"
    assert not (tmp_path / "facts.json").is_symlink()
