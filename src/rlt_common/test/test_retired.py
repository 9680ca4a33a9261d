"""The list of deleted episodes: what is noted comes back, torn lines are nothing, and who asks for a file is told."""

import pytest

from rlt_common.episode_file import EpisodeFileError, EpisodeWriter, episode_metadata, read_messages
from rlt_common.relabels import append_relabel, episode_facts, episode_path, finished_episodes
from rlt_common.retired import FILE, Retired, append_retired, read_retired

ENTRY = Retired(12, "2026-11-28T08:00:00+00:00", "budget of 2 GiB", 1000, {"label": "failure", "purpose": "evaluate"})


def test_what_is_noted_comes_back(tmp_path):
    assert read_retired(tmp_path) == {}
    append_retired(tmp_path, ENTRY)
    assert read_retired(tmp_path) == {12: ENTRY}


def test_a_torn_line_is_left_out_and_never_joined_to_the_next(tmp_path):
    (tmp_path / FILE).write_text('{"episode_id": 3, "da')
    append_retired(tmp_path, ENTRY)
    assert read_retired(tmp_path) == {12: ENTRY}


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        '{"episode_id": 3}',
        '{"episode_id": true, "date": "", "why": "", "bytes": 1, "facts": {}}',
        '{"episode_id": 3, "date": "", "why": "", "bytes": 1, "facts": {"label": 1}}',
        '{"episode_id": 3, "date": "", "why": "", "bytes": 1, "facts": []}',
        '{"episode_id": 1e99, "date": "", "why": "", "bytes": 1, "facts": {}}',
    ],
)
def test_what_is_no_entry_is_left_out(tmp_path, line):
    (tmp_path / FILE).write_text(line + "\n")
    assert read_retired(tmp_path) == {}


def test_who_looks_for_its_file_is_told_when_and_why_it_went(tmp_path):
    append_retired(tmp_path, ENTRY)
    told = r"000012\.mcap: it was retired on 2026-11-28 \(budget of 2 GiB\); its facts are in .*retired\.jsonl"
    for read in (episode_metadata, episode_facts, lambda path: list(read_messages(path))):
        with pytest.raises(EpisodeFileError, match=told):
            read(episode_path(tmp_path, 12))
    with pytest.raises(EpisodeFileError, match=r"000013\.mcap: No such file"):
        episode_metadata(episode_path(tmp_path, 13))


def test_it_goes_on_counting_among_the_episodes_of_its_run(tmp_path):
    append_retired(tmp_path, ENTRY)
    EpisodeWriter(episode_path(tmp_path, 3)).finish({"label": "success", "purpose": "train"})
    append_relabel(tmp_path, 3, "failure")
    found = finished_episodes(tmp_path)
    assert list(found) == [3, 12]
    assert found[3]["label"] == "failure"
    assert found[12] == ENTRY.facts
