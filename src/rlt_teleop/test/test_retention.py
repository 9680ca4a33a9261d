"""What a disk budget deletes, in which order, and what it never touches."""

import json
import os

import pytest

from rlt_common.episode_file import EpisodeFileError, EpisodeWriter
from rlt_common.relabels import append_relabel, episode_path
from rlt_common.retired import Retired, append_retired, read_retired
from rlt_teleop import retention
from rlt_teleop.retention import GIB, KEEP_NEWEST, Retention, RetentionConfig
from rlt_teleop.run_directory import scan

NOW_S = 1_800_000_000.0
PADDING = "x" * 100_000


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The bytes of an episode's file by purpose and label, each written once: a test needs dozens."""
    folder, made = tmp_path_factory.mktemp("files"), {}

    def content(purpose, label):
        if (purpose, label) not in made:
            path = folder / f"{len(made)}.mcap"
            EpisodeWriter(path).finish({"label": label, "purpose": purpose, "padding": PADDING})
            made[purpose, label] = path.read_bytes()
        return made[purpose, label]

    return content


class Run:
    """A run directory, and a recorder's hand on it."""

    def __init__(self, folder, content):
        self.folder, self.content, self.log = folder, content, []

    def write(self, episode_id, purpose="evaluate", label="success", days=0.0):
        path = episode_path(self.folder, episode_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content(purpose, label))
        os.utime(path, (NOW_S - days * 86400,) * 2)

    def newest(self, first):
        """So many later episodes that the earlier ones are not protected as the newest; of a kind that is kept."""
        for episode_id in range(first, first + KEEP_NEWEST):
            self.write(episode_id, "collect")

    def room_for(self, episodes):
        """GiB for so many episodes of the size of those that are there, and the one to come."""
        size = max(path.stat().st_size for path in (self.folder / "episodes").iterdir())
        return (episodes + 1.5) * size / GIB

    def make_room(self, **config):
        Retention(self.folder, RetentionConfig(**config), self.log.append, lambda: NOW_S).make_room()

    @property
    def ids(self):
        return sorted(int(path.stem) for path in (self.folder / "episodes").glob("*.mcap"))


@pytest.fixture
def run(tmp_path, files):
    return Run(tmp_path, files)


def test_nothing_is_deleted_by_default(run):
    for episode_id in (1, 2, 3):
        run.write(episode_id, days=1000)
    run.newest(4)
    run.make_room()
    assert len(run.ids) == 3 + KEEP_NEWEST
    assert read_retired(run.folder) == {}


def test_the_oldest_that_nothing_needs_go_and_no_more_than_it_takes(run):
    run.write(1, "collect")
    run.write(2, "train", "failure")
    run.write(3, "train", "discard")
    run.write(4, "evaluate", "failure")
    run.write(5, "deploy")
    run.write(6, "evaluate")
    run.newest(7)
    run.make_room(keep_gib=run.room_for(3 + KEEP_NEWEST))
    assert run.ids[:4] == [1, 2, 6, 7]
    assert [line.split()[0].rpartition("/")[2] for line in run.log] == ["000003.mcap", "000004.mcap", "000005.mcap"]


def test_a_deleted_one_is_noted_with_its_facts_and_goes_on_counting(run):
    run.write(1, "evaluate", "success")
    append_relabel(run.folder, 1, "failure")
    run.newest(2)
    before = scan(run.folder)
    run.make_room(keep_gib=run.room_for(KEEP_NEWEST))
    assert run.ids[0] == 2
    entry = read_retired(run.folder)[1]
    assert (entry.facts["label"], entry.facts["purpose"]) == ("failure", "evaluate"), "the corrected label counts"
    assert entry.date.startswith("2027-01-15T")
    assert "budget" in entry.why
    assert scan(run.folder) == before


def test_a_number_is_not_given_again_when_its_file_is_gone(run):
    run.newest(1)
    append_retired(run.folder, Retired(99, "2026-11-28", "budget", 1, {"label": "success"}))
    assert scan(run.folder).last_episode_id == 99


def test_old_ones_go_whatever_room_there_is(run):
    for episode_id, days in ((1, 40), (2, 29), (3, 31)):
        run.write(episode_id, days=days)
    run.write(4, "train", "success", days=400)
    run.newest(5)
    run.make_room(keep_days=30.0)
    assert run.ids[:2] == [2, 4]
    assert read_retired(run.folder)[1].why == "older than 30 days"


def test_the_newest_stay_whatever_they_are(run):
    for episode_id in range(1, KEEP_NEWEST + 1):
        run.write(episode_id, "evaluate", days=400)
    run.make_room(keep_days=30.0)
    assert len(run.ids) == KEEP_NEWEST


def test_an_episode_does_not_begin_when_what_is_left_is_needed(run):
    run.newest(1)
    with pytest.raises(EpisodeFileError, match=r"over retention\.keep_gib .* what is left is needed: raise it"):
        run.make_room(keep_gib=run.room_for(5))
    assert len(run.ids) == KEEP_NEWEST


def test_a_damaged_file_is_kept_for_a_person_to_look_at(run):
    run.write(1)
    path = episode_path(run.folder, 1)
    path.write_bytes(path.read_bytes()[:-10])
    run.newest(2)
    with pytest.raises(EpisodeFileError, match="needed"):
        run.make_room(keep_gib=run.room_for(5))
    assert run.ids[0] == 1


def trained(run, *checkpoints):
    """Four training episodes, of which the second has no encoded copy; each checkpoint by its newest episode."""
    for episode_id in (1, 2, 3, 4):
        run.write(episode_id, "train", "timeout")
    (run.folder / "encoded").mkdir()
    for episode_id in (1, 3, 4):
        (run.folder / "encoded" / f"{episode_id:06d}.safetensors").touch()
    run.newest(5)
    for number, state in enumerate(checkpoints):
        folder = run.folder / "checkpoints" / f"c{number}"
        folder.mkdir(parents=True)
        last = {"counters": {"robots": {"": {"last_episode_id": state}}}}
        (folder / "state.json").write_text(json.dumps(last) if isinstance(state, int) else state)


@pytest.mark.parametrize(
    ("checkpoints", "told", "left"),
    [
        ([10, 3], False, [1, 2, 3, 4]),
        ([10, 3], True, [2, 4]),  # 2 has no encoded copy, and 4 is news to one of them
        ([], True, [1, 2, 3, 4]),
        ([10, ""], True, [1, 2, 3, 4]),
        ([10, "{}"], True, [1, 2, 3, 4]),
        ([10, '{"counters": {"robots": {"cell_a": {"last_episode_id": 9}}}}'], True, [1, 2, 3, 4]),
    ],
)
def test_training_episodes_go_only_when_told_to_and_every_checkpoint_has_them(run, checkpoints, told, left):
    trained(run, *checkpoints)
    with pytest.raises(EpisodeFileError, match="needed"):
        run.make_room(keep_gib=run.room_for(5), retire_trained=told)
    assert [i for i in run.ids if i < 5] == left


def test_a_file_that_was_noted_and_not_deleted_yet_is_noted_once(run, monkeypatch):
    run.write(1)
    run.newest(2)
    limit = run.room_for(KEEP_NEWEST)
    with monkeypatch.context() as patched:
        patched.setattr(retention.Path, "unlink", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.make_room(keep_gib=limit)
    assert run.ids[0] == 1
    assert scan(run.folder).counts["episodes"] == 1 + KEEP_NEWEST, "the file counts, its note does not count again"
    run.make_room(keep_gib=limit)
    assert run.ids[0] == 2
    assert (run.folder / "retired.jsonl").read_bytes().count(b"\n") == 1


def test_what_cannot_be_noted_is_not_deleted(run):
    run.write(1)
    run.newest(2)
    limit = run.room_for(KEEP_NEWEST)
    (run.folder / "retired.jsonl").mkdir()
    with pytest.raises(EpisodeFileError, match=r"retired\.jsonl: Is a directory"):
        run.make_room(keep_gib=limit)
    assert run.ids[0] == 1
