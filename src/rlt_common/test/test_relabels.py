"""Labels corrected after the fact: what is written, read back, and left out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlt_common.episode_file import EpisodeFileError, EpisodeWriter
from rlt_common.relabels import (
    FILE,
    LABELS,
    MAX_BYTES,
    RECORDED_LABEL,
    Relabel,
    append_relabel,
    corrected_labels,
    episode_facts,
    read_relabels,
)


def test_without_a_file_nothing_is_corrected(tmp_path):
    assert read_relabels(tmp_path) == ([], [])
    assert corrected_labels(tmp_path / "no run") == {}


def test_what_is_appended_is_read_back_in_order(tmp_path):
    made = [append_relabel(tmp_path, 1, "failure", 3), append_relabel(tmp_path, 2, "success", 3)]
    made.append(append_relabel(tmp_path, 1, "discard", 4))
    assert made == [Relabel(1, 1, "failure", 3), Relabel(2, 2, "success", 3), Relabel(3, 1, "discard", 4)]
    assert read_relabels(tmp_path) == (made, [])
    assert corrected_labels(tmp_path) == {1: "discard", 2: "success"}


def test_a_torn_line_is_left_out_and_never_joined_to_the_next(tmp_path):
    append_relabel(tmp_path, 1, "failure")
    with open(tmp_path / FILE, "a") as file:
        file.write('{"episode_id": 1, "la')
    last = append_relabel(tmp_path, 1, "discard")
    found, problems = read_relabels(tmp_path)
    assert found == [Relabel(1, 1, "failure"), last]
    assert last.sequence == 3
    assert len(problems) == 1
    assert "line 2 is left out" in problems[0]


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        "not JSON",
        '{"episode_id": 1}',
        '{"episode_id": "1", "label": "success"}',
        '{"episode_id": true, "label": "success"}',
        '{"episode_id": -1, "label": "success"}',
        '{"episode_id": 1e300, "label": "success"}',
        '{"episode_id": 99999999999999999999999, "label": "success"}',
        '{"episode_id": 1, "label": "timeout"}',
        '{"episode_id": 1, "label": ["success"]}',
        '{"episode_id": 1, "label": "success", "after_episode": null}',
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_correction_is_said(tmp_path, line):
    (tmp_path / FILE).write_text(line + "\n")
    found, problems = read_relabels(tmp_path)
    assert found == []
    assert len(problems) == 1


@given(content=st.binary(max_size=200))
def test_no_content_is_a_crash(tmp_path_factory, content):
    run = tmp_path_factory.mktemp("run")
    (run / FILE).write_bytes(content)
    read_relabels(run)
    made = append_relabel(run, 7, "success")
    assert read_relabels(run)[0][-1] == made


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from(LABELS)), max_size=8))
def test_the_last_line_of_an_episode_wins(tmp_path_factory, lines):
    run = tmp_path_factory.mktemp("run")
    for episode_id, label in lines:
        append_relabel(run, episode_id, label)
    assert corrected_labels(run) == dict(lines)


def test_an_endless_file_is_an_error(tmp_path):
    with open(tmp_path / FILE, "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(EpisodeFileError, match="larger than"):
        read_relabels(tmp_path)


def test_facts_have_the_label_that_counts(tmp_path):
    for folder in ("episodes", "demonstrations"):
        EpisodeWriter(tmp_path / folder / "000001.mcap").finish({"label": "timeout"})
    (tmp_path / FILE).write_text(json.dumps({"episode_id": 1, "label": "success"}) + "\n")
    path = tmp_path / "episodes" / "000001.mcap"
    assert episode_facts(path) == {"label": "success", RECORDED_LABEL: "timeout"}
    assert episode_facts(path, {}) == {"label": "timeout"}
    assert episode_facts(tmp_path / "demonstrations" / "000001.mcap") == {"label": "timeout"}
