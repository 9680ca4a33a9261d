"""Experiments without the graph: warm-up, online RL, checkpoint selection and evaluation in one process.

    python -m harness.in_process --run DIR [--name NAME] [--set agent.beta=0.004 chunk_length=1 ...]   (in benchmarks/)

DIR holds an adapted VLA in DIR/vla, as `make demo` and `python -m rlt_bringup.demo --prepare` leave it. Results lie in
DIR/in_process/<name>, those of the base VLA in DIR/in_process/base; what is there already is not run again.
Episodes, seeds and order are those of the graph's demo (see `episode_loop`, `training`), so are the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from harness.episode_loop import EpisodeLoop, Plant
from harness.evaluation import Evaluation, Progress, Say, policy_result, run_evaluation
from harness.experiment import (
    AS_TASK,
    SELECTION_EPISODE_ID,
    SELECTION_SEEDS,
    Experiment,
    kept,
    plain,
)
from harness.settings import Settings, settings
from harness.training import Trainer, shape_of
from rlt_bringup import report
from rlt_bringup.demo import EVALUATION_SEEDS, TRAIN_SEEDS
from rlt_bringup.graph import GraphOptions, Resolved, resolve
from rlt_bringup.report import EpisodeOutcome, PolicyResult
from rlt_common.atomic import sha256_hex, write_atomic
from rlt_common.config import config_hash, load_robot
from rlt_common.episode_file import episode_metadata
from rlt_common.parameters import ParameterError, from_mapping
from rlt_common.reading import read_json, read_limited
from rlt_rl_node.actor_codec import MAX_BYTES, PolicyWeights, pack, unpack
from rlt_rl_node.demonstrations import DemonstrationsError, DemonstrationSource
from rlt_rl_node.learner import TaskShape
from rlt_rl_node.records import EpisodeData
from rlt_rl_node.tensor_file import TensorFileError
from rlt_teleop.episode_machine import Driver
from rlt_vla_node.checkpoint import METRICS_FILE, CheckpointError, load_checkpoint, read_config
from rlt_vla_node.dataset import DatasetError
from rlt_vla_node.demonstration_encoding import FOLDER as FOLDER_OF_DEMONSTRATIONS
from rlt_vla_node.demonstration_encoding import encode_demonstrations
from rlt_vla_node.inference import LayoutError
from rlt_vla_node.state_encoder import with_state_encoder

FOLDER = "in_process"
EVALUATION_JSON = "evaluation.json"
BASE = "base"
RLT = "RLT"


@dataclass(frozen=True)
class Setting:
    """An experiment with everything it needs, ready to run."""

    experiment: Experiment
    resolved: Resolved
    plant: Plant
    settings: Settings
    folder: Path
    facts: Mapping[str, Any]
    """What the results depend on."""

    @property
    def shape(self) -> TaskShape:
        """The learner's shape."""
        return shape_of(self.plant, self.resolved.checkpoint)


def prepare(experiment: Experiment, run: Path) -> Setting:
    """Read robot, task and frozen model. Raises ParameterError, CheckpointError or LayoutError."""
    torch.set_num_threads(1)
    resolved = resolve(GraphOptions(task=experiment.task, robot="sim", run=str(run), seed=experiment.seed))
    robot, task = load_robot(resolved.robot_file), experiment.task_of(resolved.task)
    model = with_state_encoder(load_checkpoint(resolved.checkpoint), experiment.state_encoder)
    shown = None if experiment.demonstrations == AS_TASK else experiment.demonstrations
    own = settings(task, experiment.seed, experiment.agent, experiment.budget, shown)
    facts = {"experiment": plain(experiment), "config_hash": config_hash(robot, task), "vla_hash": model.hash}
    folder = resolved.run / FOLDER / experiment.name
    return Setting(experiment, resolved, Plant.build(robot, task, model), own, folder, facts)


def evaluate_base(setting: Setting, say: Say = print) -> list[PolicyResult]:
    """The base VLA on the held-out resets, once for each number of executed rows.

    Its task is the file's own: chunk length and stride of an ablation are none of its business.
    """
    experiment, task = setting.experiment, setting.resolved.task
    count = experiment.evaluation_episodes
    plant = setting.plant if setting.plant.task == task else replace(setting.plant, task=task)
    results = []
    for i, rows in enumerate(experiment.execute_steps):
        name = f"base VLA, executes {rows}"
        first_id = experiment.training_episodes + 1 + i * count
        evaluation = Evaluation(name, Driver.VLA, count, experiment.first_seed(EVALUATION_SEEDS), first_id, rows)
        facts = {
            "config_hash": config_hash(plant.robot, task),
            "seed": experiment.seed,
            "vla_hash": read_config(setting.resolved.checkpoint)["hash"],
            "first_episode_id": first_id,
            "episodes": count,
        }
        path = setting.folder.parent / BASE / f"executes-{rows}-{config_hash(facts)}.json"
        stored = kept(path, facts, partial(run_evaluation, plant, setting.settings, evaluation, say))
        results.append(policy_result(name, rows, stored))
    return results


def train(setting: Setting, say: Say = print) -> dict[str, Any]:
    """Warm-up and online RL. Keeps the candidates' actors; returns outcomes, updates and metrics."""
    return kept(setting.folder / "training.json", setting.facts, lambda: _train(setting, say))


def select(setting: Setting, say: Say = print) -> dict[str, Any]:
    """Which candidate is to be evaluated: the one of the best throughput on the selection's own resets.

    Trains first, where that is still to do. An actor from before the end of the warm-up is no candidate.
    """
    experiment, candidates = setting.experiment, train(setting, say)["actors"]
    if len(candidates) == 1:
        return {"chosen": candidates[0], "candidates": []}

    def work() -> dict[str, Any]:
        found = []
        for end in candidates:
            name = f"{experiment.name}: actor after {end} episodes"
            evaluation = Evaluation(
                name,
                Driver.RL,
                experiment.selection_episodes,
                experiment.first_seed(SELECTION_SEEDS),
                SELECTION_EPISODE_ID,
                actor=read_actor(setting, end),
            )
            stored = run_evaluation(setting.plant, setting.settings, evaluation, say)
            summary = report.summarise(policy_result(name, 0, stored), setting.plant.robot.control_hz)
            found.append({"training_episodes": end, **summary})
        return {"chosen": best_candidate(found), "candidates": found}

    return kept(setting.folder / "selection.json", setting.facts, work)


def best_candidate(found: Sequence[Mapping[str, Any]]) -> int:
    """Training episodes of the candidate with the best throughput; the later one of equals, it has seen more."""
    best = max(found, key=lambda c: (c["throughput_per_10min"] or 0.0, c["training_episodes"]))
    return best["training_episodes"]


def evaluate(setting: Setting, say: Say = print) -> PolicyResult:
    """RLT on the held-out resets, without exploration. Trains and selects first, where that is still to do."""
    chosen = select(setting, say)["chosen"]
    experiment = setting.experiment
    count = experiment.evaluation_episodes
    evaluation = Evaluation(
        f"{experiment.name}: RLT",
        Driver.RL,
        count,
        experiment.first_seed(EVALUATION_SEEDS),
        experiment.training_episodes + 1 + len(experiment.execute_steps) * count,
        actor=read_actor(setting, chosen),
    )
    work = partial(run_evaluation, setting.plant, setting.settings, evaluation, say)
    stored = kept(setting.folder / EVALUATION_JSON, {**setting.facts, "chosen": chosen}, work)
    return policy_result(RLT, setting.plant.task.chunk_length, stored)


def build_report(setting: Setting, say: Say = print) -> dict[str, Any]:
    """Everything that is not there yet, and the report: the form of the demo's `report.json`, and how fast it was."""
    base, rlt = evaluate_base(setting, say), evaluate(setting, say)
    training, selection = train(setting, say), select(setting, say)
    evaluation = read_json(setting.folder / EVALUATION_JSON)
    experiment, plant = setting.experiment, setting.plant
    seconds = {
        "train": training["seconds"],
        "select": selection.get("seconds", 0.0),
        "evaluate": evaluation["seconds"],
    }
    outcomes = [EpisodeOutcome(**outcome) for outcome in training["outcomes"]]
    document = report.build_report(
        report.Provenance(
            task=plant.task.name,
            seeds=experiment.reset_seeds,
            commit=training.get("commit") or report.source_commit(Path(__file__).resolve().parent),
            config_hash=setting.facts["config_hash"],
            vla_hash=plant.model.hash,
            actor_hash=sha256_hex(pack(read_actor(setting, selection["chosen"])))[:16],
            command=f"python -m harness.in_process, experiment {experiment.name}",
            configuration={"experiment": plain(experiment), "learner": asdict(setting.settings.learner)},
        ),
        control_hz=plant.robot.control_hz,
        demonstrations=_demonstrations(setting.resolved.run),
        vla=read_json(setting.resolved.checkpoint / METRICS_FILE),
        training=report.Training(outcomes, training["updates"]),
        base_candidates=base,
        rlt=rlt,
        handoff=None,
        stage_seconds=seconds,
    )
    document["selection"] = {key: selection[key] for key in ("chosen", "candidates")}
    document["metrics"] = training["metrics"]
    document["speed"] = {
        "train": _speed(outcomes, plant.robot.control_hz, training),
        "evaluate": _speed(rlt.outcomes, plant.robot.control_hz, evaluation),
    }
    write_atomic(setting.folder / report.REPORT_JSON, (json.dumps(document, indent=1) + "\n").encode())
    return document


def read_actor(setting: Setting, end: int) -> PolicyWeights:
    """The actor kept after `end` training episodes. Raises ParameterError when it is missing or torn."""
    path = _actor_path(setting, end)
    try:
        return unpack(read_limited(path, MAX_BYTES))
    except (OSError, TensorFileError) as error:
        raise ParameterError(f"{path}: {error}: remove {setting.folder} and run the experiment again") from error


# ---- the work behind the stages


def demonstrations(setting: Setting, say: Say) -> list[EpisodeData]:
    """What the replay begins with. Another encoder or RL state than the run's encodes the demonstrations for itself.

    Raises ParameterError.
    """
    plant, resolved, count = setting.plant, setting.resolved, setting.settings.learner.demonstrations
    folder = resolved.checkpoint / FOLDER_OF_DEMONSTRATIONS
    try:
        if count and _encoded_as(folder) != (plant.model.hash, ",".join(plant.task.rl_state)):
            own = config_hash({"vla": plant.model.hash, "rl_state": list(plant.task.rl_state)})
            folder = resolved.run / FOLDER / f"demonstrations-{own}"
            source = resolved.run / FOLDER_OF_DEMONSTRATIONS
            encode_demonstrations(source, folder, plant.robot, plant.task, plant.model, setting.settings.encoding)
        return list(DemonstrationSource.of(folder, count, plant.model.hash, plant.robot, plant.task).read(say))
    except (DatasetError, DemonstrationsError) as error:
        raise ParameterError(str(error)) from error


def _encoded_as(folder: Path) -> tuple[str, str]:
    """Hash of the VLA and RL state of the demonstrations encoded in a folder."""
    facts = episode_metadata(path) if (path := next(folder.glob("*.mcap"), None)) else {}
    return facts.get("vla_hash", ""), facts.get("rl_state", "")


def _train(setting: Setting, say: Say) -> dict[str, Any]:
    experiment = setting.experiment
    shown = demonstrations(setting, say)
    trainer = Trainer(EpisodeLoop(setting.plant, setting.settings), setting.shape, setting.settings, shown)
    progress = Progress(f"{experiment.name}: training", experiment.training_episodes, say)
    outcomes, metrics, stage = [], [], trainer.learner.stage
    steps, most_steps = 0, experiment.robot_steps(setting.plant.robot.control_hz)
    # Where the robot's time ends is known only then: any actor this near to the end may become a candidate.
    latest: deque[tuple[int, bytes]] = deque(maxlen=(experiment.checkpoints - 1) * experiment.checkpoint_every + 1)
    first = experiment.first_seed(TRAIN_SEEDS)
    for i in range(experiment.training_episodes):
        outcome = trainer.episode(first + i)
        steps += outcome.critical_steps
        if steps > most_steps:  # the robot's time was up in the middle of this episode: nothing of it is kept
            break
        stage = trainer.learner.stage
        outcomes.append(asdict(outcome))
        figures = {name: value if value == value else None for name, value in trainer.learner.metrics().items()}
        metrics.append({"updates": trainer.learner.agent.updates, **figures})
        if trainer.learner.version:
            latest.append((i + 1, pack(trainer.learner.policy())))
        more = f"; {stage}, {trainer.learner.agent.updates} updates"
        progress.show(outcome, more, max((i + 1) / experiment.training_episodes, steps / most_steps))
    if not latest:
        raise ParameterError(
            f"{experiment.name}: after {len(outcomes)} episodes the learner is still in its {stage} stage: "
            "give more episodes or robot_minutes, or a smaller budget.warmup_episodes"
        )
    wanted = experiment.candidates(len(outcomes))
    actors = {end: packed for end, packed in latest if end in wanted}
    for end, packed in actors.items():
        write_atomic(_actor_path(setting, end, make=True), packed)
    return {"outcomes": outcomes, "updates": metrics[-1]["updates"], "metrics": metrics, "actors": list(actors)}


def _speed(outcomes: Sequence[EpisodeOutcome], control_hz: float, stored: Mapping[str, Any]) -> dict[str, float]:
    """Robot time over wall time and over this process's CPU time, which busy cores do not change as much."""
    robot_s = sum(outcome.total_steps for outcome in outcomes) / control_hz
    return {
        "robot_s": robot_s,
        "wall_s": stored["seconds"],
        "cpu_s": stored["cpu_seconds"],
        "times_real_time": robot_s / stored["seconds"],
        "times_real_time_cpu": robot_s / stored["cpu_seconds"],
        "wall_s_per_100_episodes": 100.0 * stored["seconds"] / len(outcomes),
    }


def _actor_path(setting: Setting, end: int, make: bool = False) -> Path:
    folder = setting.folder / "actors"
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    return folder / f"e{end:06d}.safetensors"


def _demonstrations(run: Path) -> list[int]:
    """Control steps of the demonstrations' critical phases, where the run's collection says them."""
    path = run / "stages" / "collect.json"
    return read_json(path)["steps"] if path.exists() else []


# ---- command line


def experiment_of(values: Mapping[str, Any], assignments: Iterable[str]) -> Experiment:
    """An experiment from values and `key=value` texts; `agent.` and `budget.` keys go into these mappings.

    Raises ParameterError for what is no assignment or names an unknown field.
    """
    tree: dict[str, Any] = {"agent": {}, "budget": {}, **values}
    known = {f.name for f in fields(Experiment)}
    for text in assignments:
        key, equals, value = text.partition("=")
        head, dot, tail = key.partition(".")
        if not equals or head not in known or (dot and head not in ("agent", "budget")):
            raise ParameterError(f"--set {text!r}: write key=value with one of {', '.join(sorted(known))}")
        parsed = yaml.safe_load(value)
        if dot:
            tree[head][tail] = parsed
        else:
            tree[head] = parsed
    return from_mapping(Experiment, tree, "experiment")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m harness.in_process`."""
    parser = argparse.ArgumentParser(prog="in_process", description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, type=Path, help="run directory with an adapted VLA in vla/")
    parser.add_argument("--name", default="full", help="name of the experiment")
    parser.add_argument("--seed", type=int, default=0, help="run seed")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="what differs, e.g. agent.beta=0.004 checkpoints=3"
    )
    options = parser.parse_args(arguments)
    try:
        experiment = experiment_of({"name": options.name, "seed": options.seed}, options.set)
        document = build_report(prepare(experiment, options.run), lambda text: print(text, flush=True))
    except (ParameterError, CheckpointError, LayoutError, report.ReportError) as error:
        sys.exit(f"in_process: {error}")
    print(report.format_table(document))
    print(json.dumps(document["speed"], indent=1))


if __name__ == "__main__":
    main()
