"""A VLA of somebody else in the simulated cell, as docs/backends.md says: ACT of LeRobot, tiny, with random weights.

The script demonstrates through the graph; the demonstration adapts the policy and trains its RL token; practice,
evaluation and hand-off run on it, and a deployed episode comes back bit for bit.
"""

import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import rclpy
import yaml
from harness.untrained_run import SHORT

from rlt_bringup import replay
from rlt_bringup.episodes_client import EpisodesClient, start_ros
from rlt_bringup.graph import GraphOptions, config_file, describe, resolve
from rlt_bringup.runner import GraphRunner
from rlt_common.config import load_robot, load_task
from rlt_common.episode_file import episode_metadata, read_messages
from rlt_common.vla_config import load_vla
from rlt_msgs.msg import EpisodeState, ExecutedAction
from rlt_vla_node import handoff_command
from rlt_vla_node.dataset import load_demonstrations

pytest.importorskip("lerobot", reason="LeRobot is an extra: `make extras` installs requirements-lerobot.txt")

import tiny_lerobot

from rlt_vla_node import vla_adaptation

STEPS = 20
ROBOT = config_file("robots", "sim")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run directory with a task file of short episodes and, beside it, the VLA file and its policy."""
    folder = tmp_path_factory.mktemp("external")
    run = folder / "run"
    budget = {"warmup_episodes": 1, "min_transitions": 10, "initial_updates": 5, "max_updates_per_episode": 5}
    learner = SHORT["nodes"]["rl_learner"] | {"demonstrations": 1, "budget": budget}
    patience = {"base_patience_steps": STEPS, "patience_steps": STEPS}
    values = yaml.safe_load(config_file("tasks", "screw").read_text())
    hurry = {"real_time_factor": 2.0}
    values["nodes"] = {"rl_learner": learner, "scripted_operator": {"operator": patience}, "sim_robot": hurry}
    (folder / "task.yaml").write_text(yaml.safe_dump(values))
    vla = config_file("vlas", "act_sim")
    shutil.copy(vla, folder)
    tiny_lerobot.write_act(
        folder / load_vla(vla).source, load_vla(vla).seen_cameras, size=64, chunk_size=50, n_action_steps=50
    )
    return run


def files(run):
    return ["--robot", str(ROBOT), "--task", str(run.parent / "task.yaml")]


def facts(run, episode_id):
    return episode_metadata(run / "episodes" / f"{episode_id:06d}.mcap")


def messages(run, episode_id, topic):
    return [entry.message for entry in read_messages(run / "episodes" / f"{episode_id:06d}.mcap", [topic])]


@contextmanager
def graph(run, mode):
    """A client of the graph of a mode; in mode collect, of which the learner is no part, the first episode's end."""
    resolved = resolve(GraphOptions(task=str(run.parent / "task.yaml"), run=str(run), mode=mode, episodes=False))
    start_ros()
    try:
        with GraphRunner(describe(resolved), resolved.run / "log") as runner:
            client = EpisodesClient(runner.poll)
            try:
                client.wait_until_ready(learner=mode != "collect")
                yield client
            finally:
                client.close()
    finally:
        rclpy.try_shutdown()


def episodes(client, count, purpose, driver=EpisodeState.DRIVER_RL, seed=0):
    return client.run(count, purpose=purpose, driver=driver, explore=False, first_seed=seed)


@pytest.fixture(scope="module")
def walked(run):
    """Outcomes of collection, practice, evaluation and deployment, one after the other."""
    outcomes = {}
    with graph(run, "collect") as client:
        outcomes["collect"] = episodes(client, 1, EpisodeState.PURPOSE_COLLECT, EpisodeState.DRIVER_HUMAN, seed=501)
    vla_adaptation.main(
        [
            *files(run),
            *("--vla", str(run.parent / "act_sim.yaml"), "--demonstrations", str(run / "episodes")),
            *("--output", str(run / "vla"), "--steps", "2", "--batch", "4", "--workers", "0", "--token-dim", "16"),
            *("--heads", "2", "--validation-frames", "4"),
        ]
    )
    with graph(run, "train") as client:
        outcomes["train"] = episodes(client, 3, EpisodeState.PURPOSE_TRAIN)
        outcomes["eval"] = episodes(client, 1, EpisodeState.PURPOSE_EVALUATE)
        client.save_checkpoint("final")
    handoff_command.main([*files(run), "--run", str(run), "--steps", "50"])
    with graph(run, "deploy") as client:
        outcomes["deploy"] = episodes(client, 1, EpisodeState.PURPOSE_DEPLOY)
    return outcomes


@pytest.mark.timeout(900)
def test_the_script_demonstrates_as_a_person_with_leader_arms(run, walked):
    (outcome,) = walked["collect"]
    assert outcome.success
    executed = messages(run, outcome.episode_id, "executed_action")
    sources = [message.source for message in executed]
    assert sources.count(ExecutedAction.SOURCE_HUMAN) > 0.8 * len(sources), "a busy machine may hold for a moment"
    assert facts(run, outcome.episode_id)["label"] == "success"
    found = load_demonstrations(run / "episodes", load_robot(ROBOT), load_task(run.parent / "task.yaml"), 2)
    assert found.files == ("000001.mcap",)
    assert np.abs(found.actions).max() > 0


def test_practice_and_evaluation_play_its_chunks(run, walked):
    assert [outcome.label for outcome in walked["train"]] == 3 * [EpisodeState.LABEL_FAILURE]
    for outcome in (*walked["train"], *walked["eval"]):
        sources = {message.source for message in messages(run, outcome.episode_id, "executed_action")}
        assert ExecutedAction.SOURCE_VLA in sources
        assert len({message.vla_hash for message in messages(run, outcome.episode_id, "vla_output")}) == 1
    assert ExecutedAction.SOURCE_RL in sources, "in evaluation the actor drives the critical phase"


def test_the_hand_off_head_of_any_backend_hands_off(run, walked):
    (outcome,) = walked["deploy"]
    outputs = messages(run, outcome.episode_id, "vla_output")
    assert outputs
    assert all(0.0 < output.handoff_threshold < 1.0 for output in outputs)
    assert all(0.0 <= output.handoff_probability <= 1.0 for output in outputs)


def test_an_episode_of_it_comes_back_bit_for_bit(run, walked, capsys):
    (outcome,) = walked["deploy"]
    with pytest.raises(SystemExit) as ended:
        replay.main(["--bag", str(run / "episodes" / f"{outcome.episode_id:06d}.mcap")])
    assert ended.value.code == 0, capsys.readouterr().out
