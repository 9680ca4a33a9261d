"""A file is the old one or the new one: with a disk that is full, and with a link in the file's place."""

import os
import resource
import subprocess
import sys

import pytest

from rlt_common.atomic import write_atomic
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
