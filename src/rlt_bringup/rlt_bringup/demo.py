"""`make demo`: the main job from nothing, in simulation on the CPU, all of it really done.

Stages: collect demonstrations; adapt the built-in VLA and train the RL token (Eq. 1, 2); warm-up and online RL through
the ROS graph; evaluate the base VLA and RLT on the same held-out resets through the same graph; train the hand-off head
from the training episodes' hand-offs and run a few episodes without an operator's; report. Each stage leaves its result
in <run>/stages, so that an interrupted demo goes on where it stopped.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import rclpy

from rlt_bringup import report, report_html
from rlt_bringup.episodes_client import EpisodesClient, EpisodesError, Outcome, start_ros
from rlt_bringup.graph import GraphOptions, describe, resolve
from rlt_bringup.process_environment import set_defaults
from rlt_bringup.run_facts import RunError, read_run
from rlt_bringup.run_report import build_run
from rlt_bringup.runner import GraphRunner, RunnerError
from rlt_common.atomic import no_follow, write_atomic
from rlt_common.config import config_hash, load_robot
from rlt_common.episode_file import EpisodeFileError, episode_metadata
from rlt_common.parameters import ParameterError
from rlt_common.reading import read_json
from rlt_common.relabels import episode_facts, episode_path, finished_episodes
from rlt_msgs.msg import EpisodeState

DEFAULT_TASK = "screw"
STAGES = 6
FINAL = "final"
"""Name of the checkpoint that is evaluated."""
SEED_STRIDE = 1_000_000
TRAIN_SEEDS = 700_000
EVALUATION_SEEDS = 900_000
"""Reset seeds of run seed s are s * SEED_STRIDE + these + i: disjoint from the demonstrations' (0 + i)."""
LABEL_NAMES = {
    EpisodeState.LABEL_SUCCESS: "success",
    EpisodeState.LABEL_FAILURE: "failure",
    EpisodeState.LABEL_TIMEOUT: "timeout",
    EpisodeState.LABEL_DISCARD: "discard",
}
DRIVER_NAMES = {EpisodeState.DRIVER_VLA: "vla", EpisodeState.DRIVER_RL: "rl", EpisodeState.DRIVER_HUMAN: "human"}


@dataclass(frozen=True)
class Scale:
    """How much of everything. `minutes`: about how long each stage takes on two cores, for the time left."""

    name: str
    demonstrations: int
    poses: int
    adapt_arguments: tuple[str, ...]
    training_episodes: int
    evaluation_episodes: int
    execute_steps: tuple[int, ...]
    deploy_episodes: int
    """Evaluation resets that are run with the automatic hand-off as well."""
    minutes: tuple[float, float, float, float, float]
    learner: Mapping[str, int] = field(default_factory=dict)
    """Parameters of the learner that differ from the task's."""


FULL = Scale("full", 160, 8000, (), 100, 50, (10, 20), 20, (3.0, 7.0, 10.0, 8.0, 2.0))
QUICK = Scale(
    "quick",
    6,
    250,
    ("--pretraining-steps", "40", "--steps", "60"),
    5,
    3,
    (10, 20),
    2,
    (0.4, 0.5, 1.0, 1.2, 0.7),
    {
        "budget.warmup_episodes": 2,
        "budget.min_transitions": 50,
        "budget.initial_updates": 40,
        "budget.max_updates_per_episode": 40,
    },
)


class DemoError(RuntimeError):
    """A stage that failed: says which, why, and where its log is."""


class Demo:
    """The stages of one run. As a context manager, which holds the run directory for itself alone."""

    def __init__(self, run: Path, seed: int, scale: Scale, task: str = DEFAULT_TASK) -> None:
        self.seed = seed
        self.scale = scale
        self.resolved = resolve(
            GraphOptions(task=task, robot="sim", mode="train", run=str(run), seed=seed, episodes=False)
        )
        self.robot = load_robot(self.resolved.robot_file)
        self.run = self.resolved.run
        self.demonstrations = self.run / "demonstrations"
        self._started_s = time.monotonic()

    def __enter__(self) -> Demo:
        (self.run / "stages").mkdir(parents=True, exist_ok=True)
        self._lock = open(self.run / "demo.lock", "wb", opener=no_follow)
        try:
            self._claim()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def prepare(self) -> None:
        """The stages before the graph: demonstrations, adapted VLA and RL token."""
        self._stage(0, "collect", self._collect)
        self._stage(1, "adapt", self._adapt)

    def execute(self) -> dict:
        """Run every stage that has no result yet, and return the report."""
        self.prepare()
        if not all((self.run / "stages" / f"{name}.json").exists() for name in ("train", "evaluate")):
            with self._graph("train") as client:
                self._stage(2, "train", lambda: self._train(client))
                self._stage(3, "evaluate", lambda: self._evaluate(client))
        else:
            _say(f"stages 3/{STAGES} train and 4/{STAGES} evaluate: done before, kept")
        self._stage(4, "handoff", self._handoff)
        return self._report()

    # ---- stages

    def _collect(self) -> dict:
        self._command(
            "rlt_sim.collect_command",
            *("--output", str(self.demonstrations)),
            *("--count", str(self.scale.demonstrations)),
            *("--poses", str(self.scale.poses)),
        )
        facts = [episode_metadata(path) for path in sorted(self.demonstrations.glob("*.mcap"))]
        return {"steps": [int(f["steps"]) - int(f["handoff_step"]) for f in facts]}

    def _adapt(self) -> dict:
        self._command(
            "rlt_vla_node.adapt",
            *("--demonstrations", str(self.demonstrations)),
            *("--pretraining", str(self.demonstrations / "poses.safetensors")),
            *("--output", str(self.resolved.checkpoint)),
            "--resume",
            *self.scale.adapt_arguments,
        )
        config, metrics = (_read_facts(self.resolved.checkpoint / name) for name in ("config.json", "metrics.json"))
        return {"hash": config["hash"], "metrics": metrics}

    def _train(self, client: EpisodesClient) -> dict:
        before = client.training.episodes
        count = max(0, self.scale.training_episodes - before)
        if before:
            _say(f"the learner has {before} episodes from an earlier start; {count} to go")
        if count:
            client.run(
                count,
                purpose=EpisodeState.PURPOSE_TRAIN,
                driver=EpisodeState.DRIVER_RL,
                explore=True,
                first_seed=self._seeds(TRAIN_SEEDS) + before,
                on_outcome=self._episode_progress("train", count, client),
            )
        if not (self.run / "checkpoints" / FINAL).exists():
            client.save_checkpoint(FINAL)
        return {"outcomes": self._journal("train"), "updates": client.training.updates}

    def _evaluate(self, client: EpisodesClient) -> dict:
        results = []
        plans = [(f"base VLA, executes {rows}", EpisodeState.DRIVER_VLA, rows) for rows in self.scale.execute_steps]
        plans.append(("RLT", EpisodeState.DRIVER_RL, 0))
        for name, driver, rows in plans:
            outcomes = client.run(
                self.scale.evaluation_episodes,
                purpose=EpisodeState.PURPOSE_EVALUATE,
                driver=driver,
                explore=False,
                first_seed=self._seeds(EVALUATION_SEEDS),
                execute_steps=rows,
                on_outcome=self._episode_progress(name, self.scale.evaluation_episodes, client),
            )
            steps = rows or self.resolved.task.chunk_length
            results.append(
                {"name": name, "execute_steps": steps, "outcomes": [self._outcome(o.episode_id) for o in outcomes]}
            )
        return {"results": results}

    def _handoff(self) -> dict:
        self._command(
            "rlt_vla_node.handoff_command",
            *("--run", str(self.run)),
            *("--checkpoint", str(self.resolved.checkpoint)),
        )
        facts = _read_facts(self.resolved.checkpoint / "handoff.json")
        outcomes: list[Outcome] = []
        if self.scale.deploy_episodes:
            with self._graph("deploy") as client:
                outcomes = client.run(
                    self.scale.deploy_episodes,
                    purpose=EpisodeState.PURPOSE_DEPLOY,
                    driver=EpisodeState.DRIVER_RL,
                    explore=False,
                    first_seed=self._seeds(EVALUATION_SEEDS),
                    on_outcome=self._episode_progress("automatic hand-off", self.scale.deploy_episodes, client),
                )
        return {"report": facts["report"], "outcomes": [self._outcome(o.episode_id) for o in outcomes]}

    def _report(self) -> dict:
        stages = {name: self._result(name) for name in ("collect", "adapt", "train", "evaluate", "handoff")}
        vla = stages["adapt"]
        *bases, rlt = [
            report.PolicyResult(r["name"], r["execute_steps"], [report.EpisodeOutcome(**o) for o in r["outcomes"]])
            for r in stages["evaluate"]["results"]
        ]
        training = report.Training(
            [report.EpisodeOutcome(**o) for o in stages["train"]["outcomes"]], stages["train"]["updates"]
        )
        provenance = report.Provenance(
            task=self.resolved.task.name,
            seeds={
                "run": self.seed,
                "training_resets": self._seeds(TRAIN_SEEDS),
                "evaluation_resets": self._seeds(EVALUATION_SEEDS),
            },
            commit=report.source_commit(Path(__file__).resolve().parent),
            config_hash=config_hash(self.robot, self.resolved.task),
            vla_hash=vla["hash"],
            actor_hash=self._actor_hash(),
            command=self._make_command(),
            configuration={"scale": asdict(self.scale), "nodes": dict(self.resolved.task.nodes)},
        )
        document = report.build_report(
            provenance,
            control_hz=self.robot.control_hz,
            demonstrations=stages["collect"]["steps"],
            vla=vla["metrics"],
            training=training,
            base_candidates=bases,
            rlt=rlt,
            handoff=report.Handoff(
                stages["handoff"]["report"], [report.EpisodeOutcome(**o) for o in stages["handoff"]["outcomes"]]
            ),
            stage_seconds={name: stage["seconds"] for name, stage in stages.items()},
        )
        document["run"] = build_run(read_run(self.run))
        report.write_json(document, self.run)
        report_html.write_html(document, self.run)
        return document

    # ---- helpers

    def _make_command(self) -> str:
        """The command that repeats this run."""
        task = self.resolved.options.task
        extra = "" if task == DEFAULT_TASK else f" TASK={task}"
        return f"make demo{extra} SEED={self.seed}" + (" QUICK=1" if self.scale.name == "quick" else "")

    def _claim(self) -> None:
        """Make the run directory this run's own. Raises DemoError when it holds another configuration."""
        wanted = {
            "task": self.resolved.task.name,
            "scale": self.scale.name,
            "seed": self.seed,
            "config_hash": config_hash(self.robot, self.resolved.task),
        }
        path = self.run / "demo.json"
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoError(f"{self.run} is in use by another demo: wait for it, or choose another RUN") from error
        if not path.exists():
            write_atomic(path, json.dumps(wanted, indent=1).encode())
            return
        found = _read_facts(path)
        if found != wanted:
            different = ", ".join(k for k in wanted if found.get(k) != wanted[k])
            raise DemoError(
                f"{self.run} holds a run with another {different}: remove it, or choose another with RUN=<directory>"
            )

    def _stage(self, number: int, name: str, work: Callable[[], dict]) -> None:
        path = self.run / "stages" / f"{name}.json"
        if path.exists():
            _say(f"stage {number + 1}/{STAGES} {name}: done before, kept")
            return
        left = sum(self.scale.minutes[number:])
        _say(f"stage {number + 1}/{STAGES} {name}: starts; about {left:.0f} minutes left in all")
        start = time.monotonic()
        result = work()
        seconds = time.monotonic() - start
        write_atomic(path, json.dumps({**result, "seconds": seconds}).encode())
        _say(f"stage {number + 1}/{STAGES} {name}: done in {seconds / 60:.1f} minutes")

    def _result(self, name: str) -> dict:
        return _read_facts(self.run / "stages" / f"{name}.json")

    def _command(self, module: str, *arguments: str) -> None:
        """Run one of our commands; its progress goes to the terminal. Raises DemoError when it fails."""
        common = ("--robot", self.resolved.robot_file, "--task", self.resolved.task_file, "--seed", self.seed)
        command = [sys.executable, "-m", module, *map(str, common), *arguments]
        status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
        if status != 0:
            raise DemoError(f"status {status} from: {shlex.join(command)}")

    @contextmanager
    def _graph(self, mode: str) -> Iterator[EpisodesClient]:
        resolved = replace(self.resolved, options=replace(self.resolved.options, mode=mode))
        nodes = [
            replace(n, parameters={**n.parameters, **self.scale.learner}) if n.name == "rl_learner" else n
            for n in describe(resolved)
        ]
        _say(f"graph: {len(nodes)} nodes start; logs in {self.run / 'log'}")
        start_ros()
        try:
            with GraphRunner(nodes, self.run / "log") as runner:
                client = EpisodesClient(runner.poll)
                try:
                    client.wait_until_ready()
                    yield client
                finally:
                    client.close()
        finally:
            rclpy.try_shutdown()

    def _seeds(self, offset: int) -> int:
        return self.seed * SEED_STRIDE + offset

    def _episode_progress(self, name: str, total: int, client: EpisodesClient) -> Callable[[Outcome], None]:
        start = time.monotonic()
        seen: list[Outcome] = []

        def show(outcome: Outcome) -> None:
            seen.append(outcome)
            recent = seen[-10:]
            elapsed = time.monotonic() - start
            left = elapsed / len(seen) * (total - len(seen))
            learner = ""
            if name == "train":
                learner = f"; {client.training.stage}, {client.training.updates} updates"
            _say(
                f"{name}: episode {len(seen)}/{total}: {LABEL_NAMES.get(outcome.label, '?')} after "
                f"{outcome.critical_steps} steps ({DRIVER_NAMES.get(outcome.driver, '?')}); "
                f"last {len(recent)}: {sum(o.success for o in recent)} successes{learner}; "
                f"about {left / 60:.1f} min left"
            )

        return show

    def _outcome(self, episode_id: int) -> dict:
        """One episode as its file tells it."""
        return asdict(report.EpisodeOutcome.from_facts(episode_facts(episode_path(self.run, episode_id))))

    def _journal(self, purpose: str) -> list[dict]:
        """Every journalled episode of a purpose, earlier starts of the same run included."""
        found = finished_episodes(self.run).values()
        return [asdict(report.EpisodeOutcome.from_facts(facts)) for facts in found if facts["purpose"] == purpose]

    def _actor_hash(self) -> str:
        facts = _read_facts(self.run / "checkpoints" / FINAL / "state.json")
        return facts["sha256"]["actor.safetensors"][:16]


def _read_facts(path: Path) -> dict:
    """What a stage or command left. Raises DemoError."""
    try:
        facts = read_json(path)
    except OSError as error:
        raise DemoError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DemoError(f"{path}: not JSON ({error}): remove it, and the stage is done again") from error
    if not isinstance(facts, dict):
        raise DemoError(f"{path}: expected an object: remove it, and the stage is done again")
    return facts


def _run_directory(task: str, quick: bool) -> str:
    return "runs/demo" + ("" if task == DEFAULT_TASK else f"-{Path(task).stem}") + ("-quick" if quick else "")


def _say(text: str) -> None:
    print(f"[demo] {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m rlt_bringup.demo`."""
    parser = argparse.ArgumentParser(prog="demo", description="RLT from nothing to a comparison, in simulation")
    parser.add_argument("--task", default=DEFAULT_TASK, help="task name or task file (default: %(default)s)")
    parser.add_argument("--run", default="", help="run directory (default: runs/demo[-<task>][-quick])")
    parser.add_argument("--seed", type=int, default=0, help="run seed")
    parser.add_argument("--quick", action="store_true", help="the same path, small: shows that it works, no figures")
    parser.add_argument(
        "--deploy-episodes",
        type=int,
        help="evaluation resets that are run with the automatic hand-off as well "
        f"(default {FULL.deploy_episodes}, or {QUICK.deploy_episodes} with --quick)",
    )
    parser.add_argument(
        "--prepare", action="store_true", help="only collect and adapt: what benchmarks in process need"
    )
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error("--seed must not be negative")
    scale = QUICK if options.quick else FULL
    if options.deploy_episodes is not None:
        if not 0 <= options.deploy_episodes <= scale.evaluation_episodes:
            parser.error(f"--deploy-episodes must be 0 to {scale.evaluation_episodes}")
        scale = replace(scale, deploy_episodes=options.deploy_episodes)
    run = Path(options.run or _run_directory(options.task, options.quick))
    for number in (signal.SIGINT, signal.SIGTERM):  # also where the shell made a background job ignore Ctrl-C
        signal.signal(number, signal.default_int_handler)
    set_defaults()
    try:
        with Demo(run, options.seed, scale, options.task) as demo:
            if options.prepare:
                demo.prepare()
                return
            document = demo.execute()
    except (
        DemoError,
        ParameterError,
        RunnerError,
        EpisodesError,
        EpisodeFileError,
        report.ReportError,
        RunError,
        OSError,
    ) as error:
        sys.exit(f"[demo] failed: {error}")
    except KeyboardInterrupt:
        sys.exit("[demo] interrupted; the same command goes on from here")
    print()
    print(report.format_table(document))
    print()
    _say(f"{demo.run / 'report.json'} and {demo.run / 'report.html'}")


if __name__ == "__main__":
    main()
