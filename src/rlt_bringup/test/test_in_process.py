"""Experiments in process: a real cell, a small random VLA and an impatient operator, so that episodes are short."""

import json
import shutil
from subprocess import CalledProcessError

import numpy as np
import pytest
import torch
import yaml
from ablations import BARE, CHOSEN, CURRICULUM, FULL, VARIANTS, draw, experiment, goals, pooled, row
from harness import in_process, jobs
from harness.against_graph import compare, episode_ids
from harness.episode_loop import EpisodeLoop
from harness.experiment import SELECTION_SEEDS, Experiment, plain
from harness.in_process import best_candidate, build_report, experiment_of, prepare, read_actor
from harness.settings import settings

from rlt_bringup.demo import EVALUATION_SEEDS, TRAIN_SEEDS
from rlt_bringup.graph import config_file
from rlt_common.config import load_robot, load_task, read_yaml
from rlt_common.parameters import ParameterError
from rlt_rl_node.actor_codec import pack
from rlt_rl_node.records import Label, Source
from rlt_sim.collect_command import collect_one
from rlt_teleop.episode_machine import Driver, Purpose
from rlt_vla_node.builtin import BuiltinConfig, build_vla
from rlt_vla_node.checkpoint import save_checkpoint
from rlt_vla_node.encode_command import encode
from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token

ROBOT = load_robot(config_file("robots", "sim"))
PATIENCE, BASE_PATIENCE = 32, 8
SMALL = {
    "training_episodes": 4,
    "evaluation_episodes": 2,
    "selection_episodes": 2,
    "execute_steps": (10,),
    "agent": {"hidden": (16, 16), "batch_size": 8},
    "budget": {"warmup_episodes": 2, "min_transitions": 10, "initial_updates": 6, "max_updates_per_episode": 6},
}


def quiet(_):
    pass


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with a small random VLA."""
    folder = tmp_path_factory.mktemp("run")
    task = load_task(config_file("tasks", "screw"))
    vla = build_vla(
        BuiltinConfig(
            cameras=tuple(camera.name for camera in ROBOT.cameras),
            image_height=64,
            image_width=64,
            state_dim=sum(ROBOT.block_sizes[name] for name in task.vla_state),
            action_dim=ROBOT.action_dim,
            control_hz=ROBOT.control_hz,
            horizon=task.horizon,
            width=16,
            heads=2,
            camera_tokens=2,
            stem_channels=(4, 4),
        ),
        seed=0,
    )
    vla.action_spread.copy_(torch.linspace(1e-3, 2e-3, ROBOT.action_dim))
    token = build_rl_token(RlTokenConfig(embed_dim=16, max_tokens=vla.config.tokens, token_dim=8, heads=2), seed=1)
    vla_state = [(name, ROBOT.block_sizes[name]) for name in task.vla_state]
    save_checkpoint(
        folder / "vla", vla, token, vla_state, {"statistics": {"action_spread": vla.action_spread.tolist()}}, {}
    )
    robot_file, task_path = config_file("robots", "sim"), config_file("tasks", "screw")
    (folder / "demonstrations").mkdir()
    _, succeeded = collect_one(str(robot_file), str(task_path), str(folder / "demonstrations"), 1, 0, 4)
    assert succeeded
    encode(ROBOT, task, folder / "demonstrations", folder / "vla", 0)
    return folder


@pytest.fixture(scope="module")
def task_file(tmp_path_factory):
    """The screw task with an operator who gives up soon."""
    return write_task(tmp_path_factory.mktemp("task"))


def write_task(folder, nodes=(), **changes):
    values = {**read_yaml(config_file("tasks", "screw")), **changes}
    operator = {"patience_steps": PATIENCE, "base_patience_steps": BASE_PATIENCE}
    values["nodes"] = {**values["nodes"], "scripted_operator": {"operator": operator}, **dict(nodes)}
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def small(task_file, name, **changes):
    return Experiment(name=name, task=task_file, **{**SMALL, **changes})


@pytest.fixture(scope="module")
def finished(run, task_file):
    """One experiment with a selection, from training to report."""
    setting = prepare(small(task_file, "first", checkpoints=2, checkpoint_every=1), run)
    return setting, build_report(setting, quiet)


def test_warm_up_then_rl_then_evaluation_without_noise(finished):
    _, report = finished
    assert report["training"]["curve"]["driver"] == ["vla", "vla", "rl", "rl"]
    assert report["training"]["updates"] == 6 + 2 * 6
    assert report["base"]["drivers"] == {"vla": 2}
    assert report["rlt"]["drivers"] == {"rl": 2}
    assert report["rlt"]["steps"] == [PATIENCE, PATIENCE]
    assert report["rlt"]["total_steps"] == [PATIENCE + BASE_PATIENCE] * 2
    assert report["speed"]["train"]["robot_s"] == 4 * (PATIENCE + BASE_PATIENCE) / ROBOT.control_hz
    assert report["speed"]["train"]["times_real_time"] > 0


def test_the_replay_begins_with_the_demonstrations_of_whatever_encodes(finished, run, task_file):
    setting, _ = finished
    (own,) = in_process.demonstrations(setting, quiet)
    assert (own.episode_id, own.label) == (-1, Label.SUCCESS)
    assert set(own.sources) == {Source.HUMAN}
    pooled = prepare(small(task_file, "pooled", state_encoder="mean_pool"), run)
    (other,) = in_process.demonstrations(pooled, quiet)
    np.testing.assert_array_equal(other.actions, own.actions)
    assert other.rl_tokens.shape[1] == 16 != own.rl_tokens.shape[1]
    none = in_process.prepare(small(task_file, "bare", demonstrations=0), run)
    assert in_process.demonstrations(none, quiet) == []


def test_a_run_that_was_adapted_before_is_encoded_when_it_is_prepared(run, tmp_path):
    old = tmp_path / "old"
    for name in ("vla", "demonstrations"):
        shutil.copytree(run / name, old / name)
    shutil.rmtree(old / "vla" / "demonstrations")
    (old / "stages").mkdir()
    for name in ("collect", "adapt"):
        (old / "stages" / f"{name}.json").write_text("{}")
    facts = {"task": "screw", "seed": 0, "scale": "full", "config_hash": "of a learner with other parameters"}
    (old / "demo.json").write_text(json.dumps(facts))
    job = jobs.adaptation(old, "screw", 0, quick=False)
    assert job.cost > 0
    job.work()
    assert [path.name for path in (old / "vla" / "demonstrations").iterdir()] == ["000001.mcap"]
    assert jobs.adaptation(old, "screw", 0, quick=False).cost == 0
    shutil.rmtree(old / "vla" / "demonstrations")
    shutil.rmtree(old / "demonstrations")
    with pytest.raises(CalledProcessError, match="encode_command"):
        jobs.adaptation(old, "screw", 0, quick=False).work()


def test_every_kind_of_episode_has_its_own_resets(finished):
    setting, report = finished
    training = json.loads((setting.folder / "training.json").read_text())
    seeds = {
        TRAIN_SEEDS: [o["seed"] for o in training["outcomes"]],
        SELECTION_SEEDS: report["selection"]["candidates"][0]["seeds"],
        EVALUATION_SEEDS: report["rlt"]["seeds"],
    }
    assert seeds == {first: list(range(first, first + n)) for first, n in zip(seeds, (4, 2, 2), strict=True)}
    assert report["base"]["seeds"] == report["rlt"]["seeds"]


def test_a_selection_compares_the_last_actors_on_equal_resets(finished):
    setting, report = finished
    first, second = report["selection"]["candidates"]
    assert (first["training_episodes"], second["training_episodes"]) == (3, 4)
    assert first["seeds"] == second["seeds"]
    assert pack(read_actor(setting, 3)) != pack(read_actor(setting, 4))


def test_an_actor_of_the_warm_up_is_no_candidate(run, task_file):
    setting = prepare(small(task_file, "candidates", checkpoints=10, checkpoint_every=1), run)
    assert in_process.train(setting, quiet)["actors"] == [2, 3, 4]
    assert [c["training_episodes"] for c in in_process.select(setting, quiet)["candidates"]] == [2, 3, 4]


def minutes(steps):
    return steps / ROBOT.control_hz / 60.0


@pytest.mark.parametrize("steps", [3 * PATIENCE, 4 * PATIENCE - 1])
def test_training_ends_with_the_last_episode_that_fits_into_the_robot_s_time(finished, run, task_file, steps):
    unlimited, _ = finished
    limits = {"training_episodes": 50, "robot_minutes": minutes(steps)}
    setting = prepare(small(task_file, f"limited-{steps}", checkpoints=3, checkpoint_every=2, **limits), run)
    stored, reference = in_process.train(setting, quiet), in_process.train(unlimited, quiet)
    assert stored["outcomes"] == reference["outcomes"][:3]
    assert stored["metrics"] == reference["metrics"][:3]
    assert stored["updates"] == reference["metrics"][2]["updates"] < reference["updates"]
    assert stored["actors"] == [3]  # counted from the real end; 1 lies in the warm-up
    assert pack(read_actor(setting, 3)) == pack(read_actor(unlimited, 3))


def test_with_limited_robot_time_every_episode_keeps_an_id_of_its_own(run, task_file):
    most, limit = 6, minutes(5 * PATIENCE)
    changes = {"training_episodes": most, "robot_minutes": limit, "checkpoints": 2, "checkpoint_every": 1}
    setting = prepare(small(task_file, "limited-ids", **changes), run)
    report = build_report(setting, quiet)
    ids = [outcome["episode_id"] for outcome in in_process.train(setting, quiet)["outcomes"]]
    assert ids == [1, 2, 3, 4, 5]
    paths = [*(setting.folder.parent / in_process.BASE).glob("*.json"), setting.folder / in_process.EVALUATION_JSON]
    documents = [json.loads(path.read_text()) for path in paths]
    documents = [d for d in documents if d["facts"].get("first_episode_id", most + 1) == most + 1]
    evaluated = sorted(outcome["episode_id"] for d in documents for outcome in d["outcomes"])
    assert evaluated == [most + 1, most + 2, most + 3, most + 4]
    assert [c["training_episodes"] for c in report["selection"]["candidates"]] == [4, 5]
    assert report["training"]["critical_robot_minutes"] == pytest.approx(limit)
    assert report["training"]["robot_minutes"] == pytest.approx(minutes(5 * (PATIENCE + BASE_PATIENCE)))


def test_more_robot_time_than_the_episodes_take_changes_nothing(finished, run, task_file):
    unlimited, _ = finished
    setting = prepare(small(task_file, "ample", robot_minutes=60.0), run)
    assert in_process.train(setting, quiet)["outcomes"] == in_process.train(unlimited, quiet)["outcomes"]
    assert pack(read_actor(setting, 4)) == pack(read_actor(unlimited, 4))


def test_results_from_before_robot_time_could_be_limited_are_still_good(task_file):
    assert "robot_minutes" not in plain(small(task_file, "older"))
    assert plain(small(task_file, "newer", robot_minutes=15.0))["robot_minutes"] == 15.0


def test_the_best_throughput_is_chosen_and_the_later_one_of_equals():
    def found(**throughputs):
        return [{"training_episodes": int(k[1:]), "throughput_per_10min": v} for k, v in throughputs.items()]

    assert best_candidate(found(e10=30.0, e20=50.0, e30=40.0)) == 20
    assert best_candidate(found(e10=50.0, e20=None, e30=50.0)) == 30


def test_equal_seeds_give_equal_episodes_and_actors_another_seed_does_not(finished, run, task_file):
    first, _ = finished
    again = prepare(small(task_file, "again", checkpoints=2, checkpoint_every=1), run)
    other = prepare(small(task_file, "other", seed=1), run)
    results = [in_process.train(setting, quiet) for setting in (first, again, other)]
    actors = [pack(read_actor(setting, 4)) for setting in (first, again, other)]
    assert results[0]["outcomes"] == results[1]["outcomes"]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert actors[0] == actors[1]
    assert actors[0] != actors[2]


def test_what_is_there_is_not_run_again(finished, monkeypatch):
    setting, report = finished

    def fail(*_, **__):
        raise AssertionError("an episode was run again")

    monkeypatch.setattr(EpisodeLoop, "run", fail)
    assert build_report(setting, quiet) == report


def test_another_experiment_of_the_same_name_is_an_error(finished, run, task_file):
    setting = prepare(small(task_file, "first", agent={**SMALL["agent"], "beta": 0.5}), run)
    with pytest.raises(ParameterError, match="made with another experiment: remove it"):
        in_process.train(setting, quiet)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_and_is_what_it_says(run, task_file, variant):
    changes = VARIANTS[variant][1]
    changes = {**changes, "agent": {**SMALL["agent"], **changes.get("agent", {})}}
    setting = prepare(small(task_file, f"variant-{variant}", **changes), run)
    outcomes = in_process.train(setting, quiet)["outcomes"]
    whole = {outcome["total_steps"] == outcome["critical_steps"] for outcome in outcomes}
    assert whole == {variant == "curriculum"}
    layout, agent = read_actor(setting, 4).actor.layout, setting.settings.learner.agent
    assert layout.chunk_length == (1 if variant == "no-chunk" else 10)
    assert setting.plant.task.stride == (1 if variant == "no-chunk" else 2)
    assert layout.token_dim == (16 if variant == "mean-pool" else 8)
    assert layout.use_rl_token == (variant != "proprioception")
    assert layout.use_reference == (variant != "no-pass-through")
    assert (agent.beta == 0) == (variant == "no-bc")
    encoders = {"no-rl-token": "RandomConvolutions", "mean-pool": "MeanPooledEmbeddings"}
    assert type(setting.plant.model.token).__name__ == encoders.get(variant, "RlToken")


def test_single_steps_are_asked_for_at_every_step(run, task_file):
    setting = prepare(small(task_file, "single", chunk_length=1, stride=1), run)
    executed = []
    loop = EpisodeLoop(setting.plant, setting.settings, on_executed=executed.append)
    in_process.train(setting, quiet)
    actor = read_actor(setting, 4)
    loop.policy.on_actor(actor)
    outcome, data = loop.run(Purpose.TRAIN, Driver.RL, 1, actor_version=actor.version)
    critical = executed[BASE_PATIENCE:]
    assert outcome.critical_steps == len(critical) == PATIENCE
    assert len({message.chunk_id for message in critical}) == PATIENCE
    assert {message.row for message in critical} == {0}
    assert data.boundary.all()
    assert data.encoded_steps.tolist() == data.steps.tolist()


def test_a_training_episode_has_an_encoding_on_every_stride(run, task_file):
    setting = prepare(small(task_file, "strides"), run)
    loop = EpisodeLoop(setting.plant, setting.settings)
    outcome, data = loop.run(Purpose.TRAIN, Driver.VLA, 7)
    assert data.label is Label.FAILURE
    assert data.steps.tolist() == list(range(BASE_PATIENCE, BASE_PATIENCE + PATIENCE))
    assert data.encoded_steps.tolist() == data.steps.tolist()[::2]
    assert data.boundary.tolist() == [step % 10 == 0 for step in range(0, PATIENCE, 2)]
    assert outcome.label == "failure"


def test_the_executor_s_time_out_ends_an_episode_without_a_label(run, tmp_path):
    setting = prepare(small(write_task(tmp_path, max_critical_steps=14), "timeout"), run)
    outcome, data = EpisodeLoop(setting.plant, setting.settings).run(Purpose.TRAIN, Driver.VLA, 7)
    assert (outcome.label, outcome.critical_steps) == ("timeout", 14)
    assert data.label is Label.TIMEOUT


def test_an_episode_that_ends_before_the_hand_off_has_no_critical_step(run, tmp_path):
    setting = prepare(small(write_task(tmp_path, max_base_steps=6), "base-timeout"), run)
    outcome, data = EpisodeLoop(setting.plant, setting.settings).run(Purpose.TRAIN, Driver.VLA, 7)
    assert (outcome.label, outcome.critical_steps, outcome.total_steps) == ("timeout", 0, 6)
    assert len(data.steps) == 0


def test_an_episode_may_start_in_the_critical_phase(run, tmp_path):
    setting = prepare(small(write_task(tmp_path, start_in="critical"), "critical"), run)
    outcome, data = EpisodeLoop(setting.plant, setting.settings).run(Purpose.TRAIN, Driver.VLA, 7)
    assert outcome.critical_steps == outcome.total_steps == PATIENCE == len(data.steps)


def test_a_learner_that_never_leaves_the_warm_up_is_an_error(run, task_file):
    setting = prepare(small(task_file, "cold", training_episodes=1), run)
    with pytest.raises(ParameterError, match="still in its warmup stage"):
        in_process.train(setting, quiet)


def test_robot_time_that_ends_within_the_warm_up_is_an_error(run, task_file):
    setting = prepare(small(task_file, "short", robot_minutes=minutes(PATIENCE + 1)), run)
    with pytest.raises(
        ParameterError, match=r"after 1 episodes the learner is still in its warmup stage: .*robot_minutes"
    ):
        in_process.train(setting, quiet)


def test_settings_come_from_the_task_file_and_the_experiment(task_file):
    task = load_task(task_file)
    own = settings(task, 3, agent={"tau": 0.5}, budget={"max_debt": 7}, demonstrations=5)
    assert (own.operator.patience_steps, own.gate_steps, own.encoding.run_seed) == (PATIENCE, 4, 3)
    assert (own.learner.agent.tau, own.learner.agent.critics, own.learner.budget.max_debt) == (0.5, 8, 7)
    assert (own.learner.demonstrations, settings(task, 3).learner.demonstrations) == (5, 60)


def test_a_setting_that_would_be_lost_is_an_error(tmp_path):
    task = load_task(write_task(tmp_path, {"chunk_executor": {"human_timeout_s": 0.2}}))
    with pytest.raises(ParameterError, match="chunk_executor: 'human_timeout_s' has no effect in process"):
        settings(task, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("agent.bta=1", "unknown key 'bta'"),
        ("colour=1", "write key=value"),
        ("name.x=1", "write key=value"),
        ("beta", "write key=value"),
        ("training_episodes=many", "expected int"),
        ("state_encoder=resnet", "choose one of rl_token"),
        ("chunk_length=3", "must be a multiple of stride 2"),
    ],
)
def test_a_wrong_assignment_says_what_is_wrong(run, task_file, text, words):
    with pytest.raises(ParameterError, match=words):
        prepare(experiment_of({"task": task_file}, [text]), run)


def test_assignments_reach_the_experiment():
    found = experiment_of({"seed": 2}, ["agent.beta=0.5", "budget.max_debt=9", "checkpoints=3"])
    assert (found.seed, found.agent, found.budget, found.checkpoints) == (2, {"beta": 0.5}, {"max_debt": 9}, 3)
    assert found.candidates(100) == [80, 90, 100]
    assert found.candidates(17) == [7, 17]


def test_a_comparison_finds_the_first_difference(run, task_file):
    setting = prepare(small(task_file, "compare"), run)
    recordings = []
    for _ in range(2):
        executed = []
        EpisodeLoop(setting.plant, setting.settings, on_executed=executed.append).run(Purpose.EVALUATE, Driver.VLA, 7)
        recordings.append(executed)
    graph, own = recordings
    assert compare(1, graph, own).equal
    own[5].action[3] = np.float32(own[5].action[3] + 1e-6)
    own[9].row += 1
    different = compare(1, graph, own)
    assert different.first_difference == (5, "action")
    assert different.largest == pytest.approx(1e-6, rel=0.1)
    assert not compare(1, graph, recordings[0][:-1]).equal


def test_episode_ids_are_read_as_ranges():
    assert episode_ids("1-3,7,9-10") == [1, 2, 3, 7, 9, 10]
    with pytest.raises(ParameterError, match="write for example"):
        episode_ids("one")


def ablation_report(success, steps):
    count = len(success)
    rlt = {"seeds": list(range(count)), "success": success, "steps": steps, "episodes": count}
    rlt |= {"successes": sum(success), "success_rate": 0.5, "ci95": [0, 1]}
    rlt |= {"throughput_per_10min": sum(success) * 30000 / sum(steps), "median_steps": 100}
    return {
        "commit": "c",
        "rlt": rlt,
        "base": {"throughput_per_10min": 30.0},
        "training": {"curve": {"success": success, "steps": steps}},
        "robot_minutes": 1.0,
        "wall_minutes": 1.0,
        "control_hz": 50.0,
    }


def test_ablations_are_compared_reset_by_reset_over_all_seeds(tmp_path):
    full = ablation_report([True, True, True, False], [100, 100, 100, 100])
    slow = ablation_report([True, True, False, False], [200, 200, 200, 200])
    rows = [row(v, s, r, full) for v, r in ((FULL, full), ("no-bc", slow)) for s in (0, 1)]
    found = pooled(rows, "no-bc")
    assert found["episodes"] == 8
    assert found["throughput_per_10min"] == pytest.approx(4 * 30000 / 1600)
    assert found["ratio"]["throughput"] == pytest.approx(1 / 3)
    low, high = found["ratio"]["throughput_ci95"]
    assert low < 1 / 3 < high
    assert [(g.value, g.met) for g in goals(rows)] == [(pytest.approx(1 / 3), True)]
    svg = draw(tmp_path / "curves.svg", rows).read_text()
    assert "full system" in svg
    assert "beta = 0" in svg


def test_the_paper_s_curriculum_and_four_ablations_and_the_demonstrations_are_the_default():
    names = [experiment(v, 0, {}).name for v in CHOSEN]
    assert names == [FULL, CURRICULUM, BARE, "no-rl-token", "no-chunk", "no-bc", "no-pass-through"]


def test_no_chunk_is_held_against_the_chunks_without_demonstrations():
    reports = {
        FULL: ablation_report([True] * 4, [100] * 4),
        BARE: ablation_report([True] * 4, [200] * 4),
        "no-chunk": ablation_report([True] * 4, [400] * 4),
    }
    rows = [row(v, 0, report, reports[FULL]) for v, report in reports.items()]
    assert [(g.name, g.value) for g in goals(rows)] == [
        (f"throughput of {BARE} over {FULL}", pytest.approx(0.5)),
        (f"throughput of no-chunk over {BARE}", pytest.approx(0.5)),
    ]
