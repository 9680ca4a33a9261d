"""What is written to a run directory stays in it."""

import os

import pytest

from rlt_common.atomic import no_follow, write_atomic
from rlt_common.episode_file import EpisodeFileError
from rlt_common.relabels import append_relabel
from rlt_common.run_files import inside


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_names_inside_are_kept_as_they_are(run):
    assert inside(run) == run
    assert inside(run, "checkpoints", "final") == run / "checkpoints" / "final"
    (run / "a").mkdir()
    (run / "b").symlink_to("a")
    assert inside(run, "b", "x") == run / "b" / "x"


def test_the_run_directory_itself_may_be_a_link(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert inside(tmp_path / "link", "episodes") == tmp_path / "link" / "episodes"


@pytest.mark.parametrize("names", [("..",), ("../run2",), ("a", "../../b"), ("/etc/passwd",), ("a/../../run2/x",)])
def test_traversal_is_refused(run, names):
    with pytest.raises(PermissionError, match="leads out of"):
        inside(run, *names)


@pytest.mark.parametrize("target", ["/etc", "..", "../run2", "not-there/../../.."])
def test_links_that_lead_out_are_refused_also_when_they_dangle(run, target):
    (run / "episodes").symlink_to(target)
    for names in (("episodes",), ("episodes", "1.mcap")):
        with pytest.raises(PermissionError, match="leads out of") as caught:
            inside(run, *names)
        assert "the directory itself may be one" in caught.value.strerror


def test_a_file_behind_a_link_is_not_opened(run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (run / "f").symlink_to(secret)
    for mode in ("w", "wb", "a", "ab", "a+b"):
        with pytest.raises(OSError, match="symbolic link"):
            open(run / "f", mode, opener=no_follow).close()
    assert secret.read_text() == "mine"


def test_atomic_writing_replaces_a_link_and_is_not_led_by_one_under_its_temporary_name(run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (run / "f").symlink_to(secret)
    write_atomic(run / "f", b"new")
    assert (run / "f").read_bytes() == b"new"
    (run / f".g.{os.getpid()}.part").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic link"):
        write_atomic(run / "g", b"new")
    assert secret.read_text() == "mine"


def test_a_corrected_label_does_not_follow_a_link(run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (run / "labels.jsonl").symlink_to(secret)
    with pytest.raises(EpisodeFileError, match="leads out of"):
        append_relabel(run, 1, "success")
    assert secret.read_text() == "mine"
