"""Stages, counting, and that a saved and resumed learner is the uninterrupted one, bit for bit."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from rl_episodes import learner_config, random_episode, task_shape

from rlt_common.metrics_log import read_metrics
from rlt_common.metrics_table import LOG, METRICS
from rlt_common.relabels import append_relabel
from rlt_rl_node import checkpoint
from rlt_rl_node.checkpoint import CheckpointError
from rlt_rl_node.episode_store import EpisodeStore, trimmed
from rlt_rl_node.learner import Learner
from rlt_rl_node.records import EpisodeData, EpisodeKey, Label, RecordError, Source
from rlt_rl_node.run_session import RunSession, TakeIn
from rlt_rl_node.tensor_file import TensorFileError


def new_learner(**agent: object) -> Learner:
    return Learner(task_shape(), learner_config(**agent))


def pay_all(learner: Learner, slice_size: int = 1000) -> int:
    done = 0
    while learner.owed:
        done += learner.run_updates(slice_size)
    return done


def episodes(count: int, first: int = 1) -> list[EpisodeData]:
    labels = [Label.SUCCESS, Label.FAILURE, Label.TIMEOUT]
    return [random_episode(i, 20 + 2 * i, labels[i % 3]) for i in range(first, first + count)]


def same(a: Learner, b: Learner) -> bool:
    mine, theirs = a.arrays(), b.arrays()
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[k], theirs[k]) for k in mine)


def session(run: Path, words: list[str] | None = None, start_from: Path | None = None, **agent: object) -> RunSession:
    log = words.append if words is not None else [].append
    return RunSession(run, task_shape(), learner_config(**agent), start_from, log)


def test_stages_and_the_budget():
    learner = new_learner()
    first, second, third = episodes(3)
    learner.add_episode(first)
    assert (learner.stage, learner.owed, learner.ready) == ("warmup", 0, False)
    learner.add_episode(second)
    assert (learner.stage, learner.owed, learner.ready) == ("initial", 6, False)
    assert pay_all(learner) == 6
    assert (learner.stage, learner.ready) == ("online", True)
    transitions = learner.add_episode(third)
    assert pay_all(learner) == transitions // 2
    assert learner.agent.updates == 6 + transitions // 2


def test_an_actor_is_due_once_it_may_drive_and_after_each_change():
    learner = new_learner()
    first, second, third = episodes(3)
    learner.add_episode(first)
    learner.add_episode(second)
    assert not learner.unreleased
    pay_all(learner)
    assert learner.unreleased
    assert learner.release().version == 1
    assert not learner.unreleased
    learner.add_episode(third)
    learner.run_updates(1)
    assert learner.unreleased


def test_the_statistics_of_x_come_from_the_warm_up_and_stay():
    learner = new_learner()
    warm_up = episodes(2)
    for episode in warm_up:
        learner.add_episode(episode)
    states = np.concatenate([e.rl_states for e in warm_up])
    np.testing.assert_allclose(learner.agent.standardise.mean[3:], states.mean(0), atol=1e-5)
    mean = learner.agent.standardise.mean.clone()
    learner.add_episode(random_episode(9))
    assert (learner.agent.standardise.mean == mean).all()


def test_the_initial_phase_brings_the_actor_to_the_reference():
    learner = new_learner(reference_dropout=0.0, actor_lr=3e-3)
    learner.budget.config = learner_config().budget.__class__(
        warmup_episodes=2, min_transitions=1, initial_updates=800, max_updates_per_episode=0
    )
    for episode in episodes(2):
        learner.add_episode(episode)
    learner.run_updates(20)
    before = learner.metrics()["reference_distance"]
    pay_all(learner)
    assert learner.metrics()["reference_distance"] < 0.7 * before


def test_slices_do_not_matter():
    whole, sliced = new_learner(), new_learner()
    for episode in episodes(4):
        whole.add_episode(episode)
        pay_all(whole)
        sliced.add_episode(episode)
        pay_all(sliced, slice_size=1)
    assert same(whole, sliced)


def test_metrics_are_means_since_the_last_call():
    learner = new_learner()
    assert all(math.isnan(value) for value in learner.metrics().values())
    for episode in episodes(2):
        learner.add_episode(episode)
    pay_all(learner)
    metrics = learner.metrics()
    norms = {"critic_gradient_norm", "actor_gradient_norm"}
    assert set(metrics) == {"critic_loss", "q_mean", "actor_loss", "reference_distance", *norms}
    assert all(math.isfinite(metrics[name]) for name in set(metrics) - norms)
    assert math.isnan(learner.metrics()["critic_loss"])


def test_gradient_norms_are_those_of_every_tenth_update(monkeypatch):
    learner = new_learner()
    for episode in episodes(2):
        learner.add_episode(episode)
    learner.budget.initial_left = 40
    measured = {"critic": [], "actor": []}
    for name, network in (("critic", learner.agent.critics), ("actor", learner.agent.actor)):

        def spy(*args, backward=network.backward, network=network, norms=measured[name]):
            backward(*args)
            norms.append(float(torch.linalg.vector_norm(network.flat_gradient)))

        monkeypatch.setattr(network, "backward", spy)
    pay_all(learner)
    metrics = learner.metrics()
    assert metrics["critic_gradient_norm"] == pytest.approx(np.mean(measured["critic"][::10]), rel=1e-5)
    assert metrics["actor_gradient_norm"] == pytest.approx(np.mean(measured["actor"][9::10]), rel=1e-5)


def test_a_released_actor_does_not_change_with_later_updates():
    learner = new_learner()
    for episode in episodes(2):
        learner.add_episode(episode)
    actor = learner.release()
    before = actor.mean(np.ones(3), np.ones(2), np.ones((4, 2)))
    pay_all(learner)
    np.testing.assert_array_equal(actor.mean(np.ones(3), np.ones(2), np.ones((4, 2))), before)
    assert learner.release().version == 2


@pytest.mark.parametrize("agent", [{}, {"target_actor": True, "actor_noise": True, "critics": 3}])
@pytest.mark.parametrize("interrupted_after", [0, 1, 2, 3, 5])
def test_saved_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, interrupted_after, agent):
    data = episodes(6)
    uninterrupted = new_learner(**agent)
    for episode in data:
        uninterrupted.add_episode(episode)
        pay_all(uninterrupted)

    first = session(tmp_path, **agent)
    for episode in data[:interrupted_after]:
        first.take_in(episode)
        pay_all(first.learner)
    path = first.save()

    second = session(tmp_path, start_from=path, **agent)
    for episode in data[interrupted_after:]:
        second.take_in(episode)
        pay_all(second.learner)
    assert same(second.learner, uninterrupted)
    assert second.learner.counters() == uninterrupted.counters()


def test_a_checkpoint_in_the_middle_of_a_debt_resumes_bit_for_bit(tmp_path):
    first = session(tmp_path)
    for episode in episodes(3):
        first.take_in(episode)
        first.learner.run_updates(3)
    assert first.learner.owed
    second = session(tmp_path, start_from=first.save())
    for learner in (first.learner, second.learner):
        pay_all(learner)
    assert same(first.learner, second.learner)


def test_episodes_after_the_checkpoint_are_taken_in_again(tmp_path):
    first = session(tmp_path)
    for i, episode in enumerate(episodes(5)):
        first.take_in(episode)
        pay_all(first.learner)
        if i == 2:
            first.save()

    second = session(tmp_path)  # as after a kill: the newest checkpoint knows three episodes
    assert list(second.robots[""].backlog) == [4, 5]
    while second.robots[""].backlog:
        second.take_in(second.stored(second.next_on_disk("")))
        pay_all(second.learner)
    assert same(first.learner, second.learner)


def test_a_run_killed_before_its_first_checkpoint_starts_from_its_episodes(tmp_path):
    first = session(tmp_path)
    for episode in episodes(3):
        first.take_in(episode)
        pay_all(first.learner)
    second = session(tmp_path)
    for episode_id in second.robots[""].backlog:
        second.take_in(second.stored(EpisodeKey(episode_id)))
        pay_all(second.learner)
    assert same(first.learner, second.learner)


def test_an_episode_that_does_not_fit_is_left_out_with_a_word(tmp_path):
    words = []
    run = session(tmp_path, words)
    assert run.take_in(random_episode(4, label=Label.DISCARD)) == 0
    assert "episode 4 is left out" in words[0]
    assert run.learner.progress().last_episode_id == 4
    assert len(run.learner.replay) == 0


def test_metrics_are_one_json_line_per_episode(tmp_path):
    run = session(tmp_path)
    for episode in episodes(2):
        how = TakeIn(run.take_in(episode), updates_per_s=100.0, seconds=0.5)
        pay_all(run.learner)
        run.write_metrics(episode, how)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert '"critic_loss": null' in lines[0]
    assert '"updates": 6' in lines[1]
    first, second = read_metrics(tmp_path).rows
    assert set(second) == set(METRICS[LOG]) - {"robot"}, "each key is explained in docs/metrics.md"
    assert (second["episodes"], second["robot_steps"], second["take_in_s"]) == (2, 46, 0.5)
    human = int((episode.sources == Source.HUMAN).sum())
    assert second["human_steps"] == human > 0
    assert second["return_mean"] == pytest.approx(
        (first["episode_return"] * first["replay"] + second["episode_return"] * second["transitions"])
        / second["replay"]
    )


def test_advice_follows_the_run_through_a_restart_and_a_corrected_label(tmp_path):
    run = session(tmp_path)
    assert run.advice == []
    for episode in [random_episode(i, 4, Label.FAILURE) for i in range(1, 31)]:
        run.write_metrics(episode, TakeIn(run.take_in(episode)))
    assert [advice.rule for advice in run.advice] == ["no success"]
    again = session(tmp_path)
    assert [advice.rule for advice in again.advice] == ["no success"]
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"episode": "seven"}\n{"episode": 31, "lab')
    words = []
    assert [advice.rule for advice in session(tmp_path, words).advice] == ["no success"]
    assert [word for word in words if "line 31 is left out" in word]
    append_relabel(tmp_path, 7, "success", 30)
    corrected = session(tmp_path)
    assert corrected.advice == []


def test_a_token_that_the_decoder_ignores_is_told_from_the_start(tmp_path):
    figures = {"reconstruction_loss": 0.4, "shuffled_loss": 0.41}
    run = RunSession(tmp_path, task_shape(), learner_config(), None, print, vla_figures=figures)
    assert [advice.rule for advice in run.advice] == ["token is ignored"]


def saved(run: Path) -> Path:
    first = session(run)
    for episode in episodes(2):
        first.take_in(episode)
        pay_all(first.learner)
    first.learner.release()
    return first.save("named")


@pytest.mark.parametrize(
    ("shape", "agent", "words"),
    [
        ({"vla_hash": "f" * 16}, {}, "VLA hash"),
        ({"spread": np.full(2, 2.0, np.float32)}, {}, "action spread"),
        ({"chunk_length": 6}, {}, "layout"),
        ({}, {"hidden": (32,)}, "layout"),
        ({}, {"use_reference": False}, "layout"),
        ({}, {"critics": 4}, "number of critics"),
        ({}, {"critic_layer_norm": False}, "LayerNorm"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_a_clear_error(tmp_path, shape, agent, words):
    path = saved(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        RunSession(tmp_path, task_shape(**shape), learner_config(**agent), path, print)


def test_other_settings_may_change_and_are_named(tmp_path):
    path = saved(tmp_path)
    words = []
    session(tmp_path, words, path, beta=0.1)
    assert any("agent.beta: 0.004 -> 0.1" in word for word in words)


@pytest.mark.parametrize("file", [checkpoint.LEARNER, checkpoint.ACTOR, checkpoint.STATE])
def test_a_damaged_or_missing_file_is_a_clear_error(tmp_path, file):
    path = saved(tmp_path)
    read = checkpoint.load_actor if file == checkpoint.ACTOR else lambda p: session(tmp_path, start_from=p)
    data = (path / file).read_bytes()
    (path / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        read(path)
    (path / file).unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        read(path)


def test_a_changed_episode_is_a_clear_error(tmp_path):
    path = saved(tmp_path)
    EpisodeStore(tmp_path / "encoded").save(random_episode(1, 30, Label.FAILURE))
    with pytest.raises(CheckpointError, match="changed since"):
        session(tmp_path, start_from=path)


def test_the_actor_of_a_checkpoint_stands_alone(tmp_path):
    path = saved(tmp_path)
    actor = checkpoint.load_actor(path)
    assert actor.version == 1
    assert actor.mean(np.zeros(3), np.zeros(2), np.zeros((4, 2))).shape == (4, 2)


def test_names_are_checked_and_never_overwritten(tmp_path):
    path = saved(tmp_path)
    run = session(tmp_path, start_from=path)
    for name in ("../out", "a b", ".hidden", "x" * 101):
        with pytest.raises(CheckpointError, match="use letters"):
            run.save(name)
    with pytest.raises(CheckpointError, match="choose another name"):
        run.save("named")
    assert run.save() == run.save()


@pytest.mark.parametrize("name", ["encoded", "checkpoints", "metrics.jsonl"])
@pytest.mark.parametrize("target", ["/etc", "../elsewhere"])
def test_a_link_that_leads_out_of_the_run_is_refused_at_the_start(tmp_path, name, target):
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to(target)
    with pytest.raises(PermissionError, match="leads out of"):
        session(run)
    assert not (tmp_path / "elsewhere").exists()


def test_a_checkpoint_does_not_follow_a_link(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    own = session(run)
    own.checkpoints.mkdir()
    automatic = "e000000-u000000000"
    for name in ("mine", automatic):
        (own.checkpoints / name).symlink_to(elsewhere)
        with pytest.raises(CheckpointError, match=name):
            own.save(name)
    elsewhere.mkdir()
    for name in ("mine", automatic):
        with pytest.raises(CheckpointError, match="is there already"):
            own.save(name)
    own.save("other", keep=1)
    checkpoint.prune(own.checkpoints, 1)
    assert (own.checkpoints / automatic).is_symlink()
    assert list(elsewhere.iterdir()) == []


def test_automatic_checkpoints_are_pruned_and_the_newest_is_found(tmp_path):
    run = session(tmp_path)
    run.save("mine")
    paths = []
    for episode in episodes(4):
        run.take_in(episode)
        pay_all(run.learner)
        paths.append(run.save(keep=2))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == sorted(
        ["mine", paths[-2].name, paths[-1].name]
    )
    assert checkpoint.latest(tmp_path / "checkpoints") == paths[-1]


def test_an_older_checkpoint_gone_on_from_with_other_settings_has_checkpoints_of_its_own(tmp_path):
    run, all_episodes = session(tmp_path), episodes(3)
    paths = []
    for episode in all_episodes:
        run.take_in(episode)
        pay_all(run.learner)
        paths.append(run.save())
    other = session(tmp_path, start_from=paths[0], beta=0.1)
    other.take_in(all_episodes[1])
    pay_all(other.learner)
    saved_now = other.save(keep=2)
    assert saved_now.name == f"{paths[1].name}-2"
    assert checkpoint.read_state(saved_now)["settings"]["agent"]["beta"] == 0.1
    assert other.save() == saved_now, "the very same is not written again"
    left = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert left == {saved_now.name, paths[2].name}, "the last two that were written"
    assert checkpoint.latest(tmp_path / "checkpoints") == saved_now
    assert same(session(tmp_path, beta=0.1).learner, other.learner), "a restart goes on from it"


def test_a_damaged_checkpoint_of_the_same_counts_is_neither_taken_for_the_new_one_nor_deleted(tmp_path):
    run = session(tmp_path)
    run.take_in(episodes(1)[0])
    first = run.save()
    (first / checkpoint.ACTOR).write_bytes(b"torn")
    second = run.save(keep=2)
    assert second.name == f"{first.name}-2"
    (first / checkpoint.STATE).write_text("{")
    run.save(keep=1)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {first.name, second.name}


def test_what_a_killed_learner_left_is_removed_at_the_next_start(tmp_path):
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    for folder in ("checkpoints", "encoded"):
        (tmp_path / folder / f".left.{gone.pid}.part").mkdir(parents=True)
    session(tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_half_written_checkpoints_are_not_seen(tmp_path):
    path = saved(tmp_path)
    (tmp_path / "checkpoints" / ".e000099-u000000099.1.part").mkdir()
    (tmp_path / "checkpoints" / "e000099-u000000099").mkdir()
    assert checkpoint.latest(tmp_path / "checkpoints") == path


def test_the_store_keeps_an_episode_exactly(tmp_path):
    store = EpisodeStore(tmp_path)
    data = trimmed(random_episode(7), chunk_length=4)
    assert data.references.shape[1] == 4
    store.save(data)
    copy = EpisodeStore(tmp_path).load(EpisodeKey(7))
    for name, value in vars(data).items():
        np.testing.assert_array_equal(getattr(copy, name), value)
    assert store.newer_than(EpisodeKey(6)) == [7]
    assert store.newer_than(EpisodeKey(7)) == []


def test_a_torn_or_foreign_episode_file_is_refused(tmp_path):
    store = EpisodeStore(tmp_path)
    store.save(random_episode(7))
    store.path(EpisodeKey(8)).write_bytes(store.path(EpisodeKey(7)).read_bytes())
    with pytest.raises(TensorFileError, match="holds episode 7"):
        store.load(EpisodeKey(8))
    store.path(EpisodeKey(8)).write_bytes(store.path(EpisodeKey(7)).read_bytes()[:-5])
    with pytest.raises(TensorFileError, match="not an encoded episode"):
        store.load(EpisodeKey(8))
    with pytest.raises(TensorFileError, match="No such file"):
        store.load(EpisodeKey(9))


def test_restoring_foreign_arrays_is_an_error():
    learner = new_learner()
    arrays = learner.arrays()
    with pytest.raises(ValueError, match="no place"):
        new_learner().restore({**arrays, "stranger": np.zeros(1)}, learner.counters())
    with pytest.raises(ValueError, match="missing"):
        new_learner().restore({k: v for k, v in arrays.items() if k != "x.mean"}, learner.counters())
    with pytest.raises(ValueError, match="shape"):
        new_learner().restore({**arrays, "x.mean": np.zeros(9, np.float32)}, learner.counters())


def test_an_episode_of_other_shapes_changes_nothing():
    learner = new_learner()
    wrong = random_episode(1)
    wrong = EpisodeData(**{**vars(wrong), "rl_states": np.zeros((len(wrong.encoded_steps), 9), np.float32)})
    with pytest.raises(RecordError, match="RL state width"):
        learner.add_episode(wrong)
    assert learner.budget.episodes == 0


def fill(path):
    """Write until the disk is full."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own takes root")
def test_on_a_full_disk_nothing_is_half_done_and_all_goes_on_with_room(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "rlt", str(folder)], check=True)
    try:
        words = []
        run, whole = session(folder, words), session(tmp_path / "whole")
        ballast = folder / "ballast"
        first, *rest = episodes(4)
        run.take_in(first)
        before = run.save()
        fill(ballast)
        with pytest.raises(OSError, match="No space left"):
            run.take_in(rest[0])
        assert run.learner.progress().last_episode_id == 1
        run.write_metrics(first, TakeIn(1))
        run.learner.pass_over(EpisodeKey(99))
        with pytest.raises(CheckpointError, match="No space left"):
            run.save("full")
        assert checkpoint.latest(folder / "checkpoints") == before
        assert not list(folder.rglob("*.part"))
        ballast.unlink()
        run.learner.progress().last_episode_id = 1
        whole.take_in(first)
        for episode in rest:
            for each in (run, whole):
                each.take_in(episode)
                pay_all(each.learner)
        assert same(run.learner, whole.learner)
        run.save("full")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("counters", [None, {}, {"budget": {"episodes": "many"}, "updates": 1}])
def test_a_foreign_state_is_a_clear_error_when_the_newest_is_looked_for(tmp_path, counters):
    path = saved(tmp_path)
    state = json.loads((path / checkpoint.STATE).read_text())
    (path / checkpoint.STATE).write_text(json.dumps({**state, "counters": counters}))
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        checkpoint.latest(tmp_path / "checkpoints")
