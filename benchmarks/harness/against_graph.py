"""Does the in-process loop do what the graph did? Runs a recorded run's episodes again and compares every step.

    python -m harness.against_graph --run DIR [--episodes 1-3,101-103]      (in benchmarks/)

Training episodes are run from the first on, with a learner of their own, so their comparison covers warm-up,
transitions, updates and exploration. Evaluation episodes take the run's checkpoint `final` where RL drives.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.episode_loop import EpisodeLoop, Plant
from harness.settings import Settings, settings
from harness.training import Trainer, shape_of
from rlt_bringup.demo import FINAL, FULL, QUICK
from rlt_bringup.graph import GraphOptions, resolve
from rlt_common import topics
from rlt_common.config import load_robot
from rlt_common.episode_file import EpisodeFileError, episode_metadata, read_messages
from rlt_common.parameters import ParameterError
from rlt_common.reading import read_json, read_limited
from rlt_msgs.msg import EpisodeState, ExecutedAction
from rlt_rl_node import checkpoint
from rlt_rl_node.actor_codec import MAX_BYTES, pack
from rlt_rl_node.checkpoint import ACTOR, load_actor
from rlt_rl_node.demonstrations import FOLDER, DemonstrationSource
from rlt_teleop.episode_machine import Driver, Purpose
from rlt_vla_node.checkpoint import CheckpointError, load_checkpoint
from rlt_vla_node.inference import LayoutError

COMPARED = (
    "step",
    "phase",
    "source",
    "action",
    "commanded",
    "reference",
    "clamped",
    "row",
    "observation_id",
    "policy_version",
    "delay_s",
    "joint_target",
)
"""Fields of ExecutedAction. Epochs, and chunk ids made of them, count the whole run's episodes and may differ."""


@dataclass(frozen=True)
class Comparison:
    """One episode, once by the graph and once in process."""

    episode_id: int
    graph_steps: int
    own_steps: int
    first_difference: tuple[int, str] | None
    """Control step and field; None: all steps are equal, bit for bit."""
    largest: float
    """Largest difference of an executed action over the steps that both have, m or rad per control step."""

    @property
    def equal(self) -> bool:
        """The same number of steps, and every compared field of every step equal."""
        return self.graph_steps == self.own_steps and self.first_difference is None

    def __str__(self) -> str:
        if self.equal:
            return f"episode {self.episode_id}: {self.graph_steps} steps, equal bit for bit"
        return (
            f"episode {self.episode_id}: {self.graph_steps} steps by the graph, {self.own_steps} in process; first "
            f"difference {self.first_difference}, largest of an action {self.largest:.3g}"
        )


def compare(episode_id: int, graph: Sequence[ExecutedAction], own: Sequence[ExecutedAction]) -> Comparison:
    """Two recordings of one episode, step by step."""
    first, largest = None, 0.0
    for theirs, ours in zip(graph, own, strict=False):
        for name in COMPARED:
            if first is None and not np.array_equal(_value(theirs, name), _value(ours, name)):
                first = theirs.step, name
        largest = max(largest, float(np.abs(np.subtract(theirs.action, ours.action)).max()))
    return Comparison(episode_id, len(graph), len(own), first, largest)


def _value(message: ExecutedAction, name: str) -> np.ndarray:
    """As it is after the message was serialised: a float32 field of a message in memory still holds a Python float."""
    value = np.asarray(getattr(message, name))
    return value.astype(np.float32) if name == "delay_s" else value


class Recorded:
    """A run directory that the demo has filled."""

    def __init__(self, run: Path) -> None:
        """Raises ParameterError when the run is not one of this configuration."""
        self.run = run
        demo = read_json(run / "demo.json")
        options = GraphOptions(task=demo["task"], robot="sim", run=str(run), seed=demo["seed"])
        self.resolved = resolve(options)
        self.seed = int(demo["seed"])
        scale = {scale.name: scale for scale in (FULL, QUICK)}[demo["scale"]]
        budget = {key.removeprefix("budget."): value for key, value in scale.learner.items()}
        self.settings: Settings = settings(self.resolved.task, self.seed, budget=budget)
        model = load_checkpoint(self.resolved.checkpoint)
        self.actor = b""  # of the last :meth:`check_training`
        self.training_episodes = scale.training_episodes
        self.plant = Plant.build(load_robot(self.resolved.robot_file), self.resolved.task, model)

    def executed(self, episode_id: int) -> list[ExecutedAction]:
        """Every control step that the graph recorded."""
        steps = [entry.message for entry in read_messages(self._path(episode_id), [topics.EXECUTED_ACTION])]
        return sorted(steps, key=lambda message: message.step)

    def check_training(self, count: int) -> Iterable[Comparison]:
        """The first `count` training episodes."""
        executed: list[ExecutedAction] = []
        loop = EpisodeLoop(self.plant, self.settings, 1, executed.append)
        folder = self.resolved.checkpoint / FOLDER
        plant = self.plant
        source = DemonstrationSource.of(
            folder, self.settings.learner.demonstrations, plant.model.hash, plant.robot, plant.task
        )
        shown = source.read(print)
        trainer = Trainer(loop, shape_of(self.plant, self.resolved.checkpoint), self.settings, shown)
        for episode_id in range(1, count + 1):
            executed.clear()
            trainer.episode(int(episode_metadata(self._path(episode_id))["seed"]))
            yield compare(episode_id, self.executed(episode_id), executed)
        self.actor = pack(trainer.learner.policy())

    def final_actor(self) -> bytes:
        """The actor of the run's last checkpoint."""
        return read_limited(self.run / "checkpoints" / FINAL / ACTOR, MAX_BYTES)

    def check_evaluation(self, episode_ids: Iterable[int]) -> Iterable[Comparison]:
        """Episodes of the evaluation, which do not depend on one another. Raises ParameterError for another kind."""
        for episode_id in episode_ids:
            facts = episode_metadata(self._path(episode_id))
            if facts["purpose"] != "evaluate":
                raise ParameterError(
                    f"episode {episode_id} is of purpose {facts['purpose']}: training and evaluation only"
                )
            executed: list[ExecutedAction] = []
            loop = EpisodeLoop(self.plant, self.settings, episode_id, executed.append)
            driver = Driver[facts.get("critical_driver", facts["driver"]).upper()]
            version = 0
            if driver == Driver.RL:
                actor = load_actor(self.run / "checkpoints" / FINAL)
                loop.policy.on_actor(actor)
                version = actor.version
            rows = self._execute_steps(episode_id)
            loop.run(Purpose.EVALUATE, driver, int(facts["seed"]), execute_steps=rows, actor_version=version)
            yield compare(episode_id, self.executed(episode_id), executed)

    def is_training(self, episode_id: int) -> bool:
        """Whether it was one to train on."""
        return episode_metadata(self._path(episode_id))["purpose"] == "train"

    def _path(self, episode_id: int) -> Path:
        return self.run / "episodes" / f"{episode_id:06d}.mcap"

    def _execute_steps(self, episode_id: int) -> int:
        states: list[EpisodeState] = [
            entry.message for entry in read_messages(self._path(episode_id), [topics.EPISODE_STATE])
        ]
        return max(state.execute_steps for state in states)


def episode_ids(text: str) -> list[int]:
    """ "1-3,7" to [1, 2, 3, 7]. Raises ParameterError."""
    try:
        parts = [[int(end) for end in part.split("-")] for part in text.split(",")]
    except ValueError as error:
        raise ParameterError(f"--episodes {text!r}: write for example 1-3,101-103") from error
    return sorted({i for part in parts for i in range(part[0], part[-1] + 1)})


def main() -> None:
    """Entry point of `python -m harness.against_graph`."""
    parser = argparse.ArgumentParser(prog="against_graph", description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, type=Path, help="run directory of a demo")
    parser.add_argument("--episodes", default="1-3", help="episode ids; training episodes begin with 1")
    options = parser.parse_args()
    try:
        sys.exit(0 if report_equality(Recorded(options.run), episode_ids(options.episodes)) else 1)
    except (ParameterError, EpisodeFileError, CheckpointError, LayoutError, checkpoint.CheckpointError) as error:
        sys.exit(f"against_graph: {error}")


def report_equality(recorded: Recorded, wanted: Sequence[int]) -> bool:
    """Print a line per episode; whether all are equal, and the trained actor where training was run to its end."""
    training = max((i for i in wanted if recorded.is_training(i)), default=0)
    found = []
    for comparison in _chain(recorded, training, [i for i in wanted if i > training]):
        found.append(comparison)
        print(comparison, flush=True)
    equal = sum(comparison.equal for comparison in found)
    print(f"{equal} of {len(found)} episodes are equal bit for bit")
    same = True
    if training == recorded.training_episodes:
        same = recorded.actor == recorded.final_actor()
        print(f"the trained actor is {'equal, byte for byte' if same else 'ANOTHER'}")
    return same and equal == len(found)


def _chain(recorded: Recorded, training: int, evaluation: Sequence[int]) -> Iterable[Comparison]:
    yield from recorded.check_training(training)
    yield from recorded.check_evaluation(evaluation)


if __name__ == "__main__":
    main()
