"""Command `adapt`: adapt the built-in VLA on demonstrations, train the RL token, freeze both (Sec. IV-A).

    adapt --robot sim.yaml --task screw.yaml --demonstrations DIR|--dataset DIR --output DIR \\
          [--pretraining FILE] [--seed N] [--threads N] [--resume]

`--vla FILE` adapts any other VLA: see `vla_adaptation` and `adapt --vla FILE --help`.

Writes the checkpoint that the VLA node loads (model.safetensors, config.json, metrics.json), metrics.jsonl while it
runs, and training.safetensors, from which `--resume` goes on exactly after a crash. Steps are counted and not timed,
so the same inputs, seed and threads give the same checkpoint. Every parameter of AdaptConfig is an option, and may
stand in the task file under `nodes: adapt:`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlt_common.atomic import write_atomic
from rlt_common.config import RobotConfig, TaskConfig, load_named
from rlt_common.reading import read_limited
from rlt_vla_node import training_options
from rlt_vla_node.adapt_config import AdaptConfig
from rlt_vla_node.adaptation_run import STATE_FILE, ending_in_words, inputs_hash, making, say
from rlt_vla_node.builtin import BuiltinConfig, BuiltinVla, build_vla
from rlt_vla_node.checkpoint import CONFIG_FILE, read_config, save_checkpoint
from rlt_vla_node.dataset import (
    DatasetError,
    Demonstrations,
    PoseImages,
    action_spread,
    block_statistics,
    load_demonstrations,
    load_pose_images,
)
from rlt_vla_node.demonstration_encoding import NoDemonstrationsError
from rlt_vla_node.encode_command import encode
from rlt_vla_node.evaluation import encode_frames, evaluate
from rlt_vla_node.lerobot_demonstrations import dataset_demonstrations, is_dataset
from rlt_vla_node.resume import ResumeError
from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token
from rlt_vla_node.tensors import tensors_hash
from rlt_vla_node.trainer import STAGES, AuxiliaryHead, Trainer, TrainingData, build_auxiliary
from rlt_vla_node.training_log import METRICS_LOG, keep_metrics, listed

MAX_STATE_BYTES = 4 * 1024**3
DYNAMIC_BLOCKS = ("joint_velocity", "joint_effort")

Report = Callable[[str], None]


class Adaptation:
    """One adaptation: data, models, trainer, and what is written to the output folder."""

    def __init__(
        self,
        config: AdaptConfig,
        robot: RobotConfig,
        task: TaskConfig,
        demonstrations: Demonstrations,
        poses: PoseImages | None,
        output: Path,
        seed: int,
        report: Report,
    ) -> None:
        self.config, self.robot, self.task, self.seed = config, robot, task, seed
        self.output, self.report = output, report
        self.demonstrations = demonstrations
        self.state = demonstrations.state(task.vla_state)
        self.held_out = _held_out(demonstrations, config.validation_share)
        target, poses = _aligned(demonstrations.target, poses)
        self.target = torch.from_numpy(target)
        trained = int((~self.held_out).sum())
        self.data = TrainingData(
            images=torch.from_numpy(demonstrations.images[:trained]),
            state=torch.from_numpy(self.state[:trained]),
            actions=torch.from_numpy(demonstrations.actions[:trained]),
            target=self.target[:trained],
            pose_images=torch.from_numpy(poses.images if poses else demonstrations.images[:0]),
            pose_state=torch.from_numpy(self._pose_state(poses) if poses else self.state[:0]),
            pose_target=torch.from_numpy(poses.target if poses else target[:0]),
        )
        self.vla = self._new_vla()
        embedding = RlTokenConfig(
            embed_dim=self.vla.config.width, max_tokens=self.vla.config.tokens, token_dim=config.token_dim
        )
        self.token = build_rl_token(embedding, seed + 1)
        self.auxiliary = self._new_auxiliary()
        self.trainer = Trainer(config, self.data, self.vla, self.token, self.auxiliary, seed + 2)
        self.identity = self._identity()

    def resume(self) -> None:
        """Go on from the last state in the output folder, if there is one. Raises ResumeError."""
        path = self.output / STATE_FILE
        if not path.exists():
            self._cut_metrics()
            self.report(f"no training state in {self.output}: starting from the beginning")
            return
        try:
            self.trainer.restore(read_limited(path, MAX_STATE_BYTES), self.identity)
        except ResumeError as error:
            raise ResumeError(f"{path}: {error}") from error
        self._cut_metrics()
        self.report(f"resuming at step {self.trainer.step} of {STAGES[self.trainer.stage]}")

    def finished(self) -> bool:
        """Whether the output folder holds the finished checkpoint of exactly this adaptation."""
        if not (self.output / CONFIG_FILE).exists():
            return False
        return read_config(self.output).get("identity") == self.identity

    def run(self) -> str:
        """Train to the end and write the checkpoint. Returns its hash."""
        self.output.mkdir(parents=True, exist_ok=True)
        trainer, config = self.trainer, self.config
        started, counted = time.monotonic(), 0
        with open(self.output / METRICS_LOG, "a", encoding="utf-8") as log:
            while not trainer.done:
                stage = trainer.stage
                trainer.advance()
                counted += 1
                changed = trainer.stage != stage
                if changed or trainer.step % config.checkpoint_steps == 0:
                    log.flush()
                    write_atomic(self.output / STATE_FILE, trainer.state(self.identity))
                if changed or trainer.done or trainer.step % config.report_steps == 0:
                    rate = counted / max(time.monotonic() - started, 1e-9)
                    log.write(json.dumps(self._progress(rate)) + "\n")
                    self._show(rate)
                    started, counted = time.monotonic(), 0
        return self._finish()

    def _finish(self) -> str:
        self.vla.eval()
        self.token.eval()
        features = self.trainer.features(torch.from_numpy(self.demonstrations.images))
        frames = {}
        for name, rows in (("train", ~self.held_out), ("validation", self.held_out)):
            frames[name] = encode_frames(
                self.vla,
                self.token,
                features[rows],
                torch.from_numpy(self.state[rows]),
                torch.from_numpy(self.demonstrations.actions[rows]),
                self.target[rows],
            )
        held_out = frames["validation"] if len(frames["validation"].state) else frames["train"]
        figures = evaluate(self.vla, self.token, self.auxiliary, frames["train"], held_out, self.seed)
        figures["held_out"] = bool(self.held_out.any())
        blocks = {name: block_statistics(name, values) for name, values in self.demonstrations.blocks.items()}
        facts = {
            **making(self.identity, self.robot, self.task, self.seed, self.config),
            "episodes": len(self.demonstrations.files),
            "frames": len(self.state),
            "pose_images": len(self.data.pose_images),
            "statistics": {
                "action_spread": self.vla.action_spread.tolist(),
                "blocks": {n: {"mean": m.tolist(), "std": s.tolist()} for n, (m, s) in blocks.items()},
                "rl_token": _mean_and_std(frames["train"].rl_token),
            },
        }
        block_sizes = [(name, self.robot.block_sizes[name]) for name in self.task.vla_state]
        digest = save_checkpoint(self.output, self.vla, self.token, block_sizes, facts, figures)
        (self.output / STATE_FILE).unlink(missing_ok=True)
        shown = {name: value for name, value in figures.items() if isinstance(value, float)}
        self.report(f"checkpoint {digest} in {self.output}: " + listed(shown))
        return digest

    def _pose_state(self, poses: PoseImages) -> np.ndarray:
        """Proprioception of the pre-training images, (N, S). Poses set without dynamics have no velocity and effort:
        these are drawn from the demonstrations, or they would tell the two kinds of images apart."""
        rng = np.random.default_rng(self.seed)
        state = poses.state.copy()
        rows = rng.choice(np.flatnonzero(~self.held_out), len(state))
        first = 0
        for name in self.task.vla_state:
            columns = slice(first, first + self.robot.block_sizes[name])
            if name in DYNAMIC_BLOCKS:
                state[:, columns] = self.state[rows, columns]
            first = columns.stop
        return state

    def _new_vla(self) -> BuiltinVla:
        vla = build_vla(vla_config(self.robot, self.task), self.seed)
        statistics = [block_statistics(name, self.demonstrations.blocks[name]) for name in self.task.vla_state]
        vla.state_mean.copy_(torch.from_numpy(np.concatenate([mean for mean, _ in statistics])))
        vla.state_std.copy_(torch.from_numpy(np.concatenate([std for _, std in statistics])))
        vla.action_spread.copy_(torch.from_numpy(action_spread(self.demonstrations.executed, self.robot.step_limit)))
        return vla

    def _new_auxiliary(self) -> AuxiliaryHead | None:
        target = torch.cat([self.data.target, self.data.pose_target]).numpy()
        if not target.shape[1] or not np.isfinite(target).all(axis=1).any():
            self.report("no auxiliary targets in the demonstrations: stage 0 is left out")
            return None
        scale = self.config.auxiliary_scale
        if len(scale) != target.shape[1]:
            raise DatasetError(
                f"auxiliary targets have {target.shape[1]} values, auxiliary_scale has {len(scale)}: give one per value"
            )
        return build_auxiliary(self.vla.config.width, scale, self.seed + 3)

    def _identity(self) -> str:
        """Of all that decides the outcome. Hashing 8,000 poses' images (0.3 GB) takes less than a second."""
        data, demonstrations = self.data, self.demonstrations
        tensors = {name: getattr(data, name) for name in ("pose_images", "pose_state", "pose_target")}
        tensors |= {name: torch.from_numpy(getattr(demonstrations, name)) for name in ("images", "actions", "episode")}
        tensors |= {f"block.{name}": torch.from_numpy(values) for name, values in demonstrations.blocks.items()}
        tensors |= {"target": self.target, "action_spread": self.vla.action_spread}
        facts = json.dumps(dataclasses.asdict(self.config), sort_keys=True)
        return tensors_hash(tensors, facts, str(self.seed), inputs_hash(self.robot, self.task))

    def _progress(self, rate: float) -> dict[str, Any]:
        trainer = self.trainer
        return {"stage": trainer.stage, "step": trainer.step, "steps_per_s": round(rate, 3), **trainer.losses}

    def _show(self, rate: float) -> None:
        trainer = self.trainer
        if not trainer.step:
            return
        total = trainer.stage_steps(trainer.stage)
        left = (total - trainer.step) / rate
        self.report(
            f"stage {trainer.stage + 1}/2 {STAGES[trainer.stage]}, step {trainer.step}/{total}, "
            f"{listed(trainer.losses)}, {rate:.1f} steps/s, about {left:.0f} s left in this stage"
        )

    def _cut_metrics(self) -> None:
        """Drop the metrics of steps that will be done again."""
        path, reached = self.output / METRICS_LOG, (self.trainer.stage, self.trainer.step)
        if reached == self.trainer.first:
            path.unlink(missing_ok=True)
        else:
            keep_metrics(path, lambda entry: (entry["stage"], entry["step"]) <= reached)


def vla_config(robot: RobotConfig, task: TaskConfig) -> BuiltinConfig:
    """Shape of the built-in VLA for a robot and task."""
    camera = robot.cameras[0]
    return BuiltinConfig(
        cameras=tuple(c.name for c in robot.cameras),
        image_height=camera.height,
        image_width=camera.width,
        state_dim=sum(robot.block_sizes[name] for name in task.vla_state),
        action_dim=robot.action_dim,
        control_hz=robot.control_hz,
        horizon=task.horizon,
        actions=robot.actions,
        relative_to=robot.relative_to,
    )


def _held_out(demonstrations: Demonstrations, share: float) -> np.ndarray:
    """(N,) bool: the frames of the last episodes, at least one of them when there are two or more and share > 0."""
    episodes = len(demonstrations.files)
    count = min(math.ceil(share * episodes), episodes - 1)
    return demonstrations.episode >= episodes - count


def _aligned(target: np.ndarray, poses: PoseImages | None) -> tuple[np.ndarray, PoseImages | None]:
    """Targets of demonstrations and pre-training images with one width K; NaN where demonstrations have none."""
    if poses is None or target.shape[1] == poses.target.shape[1]:
        return target, poses
    if target.shape[1]:
        raise DatasetError(
            f"demonstrations have auxiliary targets of {target.shape[1]} values, the pre-training images of "
            f"{poses.target.shape[1]}: collect both from the same task"
        )
    return np.full((len(target), poses.target.shape[1]), np.nan, np.float32), poses


def _mean_and_std(values: Tensor) -> dict[str, list[float]]:
    return {"mean": values.mean(dim=0).tolist(), "std": values.std(dim=0, correction=0).tolist()}


def build_config(task: TaskConfig, options: Mapping[str, Any]) -> AdaptConfig:
    """The task file's `nodes: adapt:` with the given options on top. Raises ParameterError."""
    return training_options.configure(AdaptConfig, task, "adapt", options)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; every parameter of AdaptConfig is an option without a default of its own."""
    parser = argparse.ArgumentParser(
        prog="adapt",
        description="adapt the built-in VLA and train the RL token. Another VLA has options of its own: `adapt --vla "
        "FILE --help` lists them",
        allow_abbrev=False,
    )
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--demonstrations", help="folder of episode files, or of a data set")
    data.add_argument("--dataset", help="data set that `dataset` wrote of episode files, in their place")
    parser.add_argument("--vla", metavar="FILE", help="adapt the VLA that this VLA file describes instead")
    parser.add_argument("--output", required=True, help="folder for the checkpoint")
    parser.add_argument("--pretraining", help="safetensors file of pre-training images")
    parser.add_argument("--resume", action="store_true", help="go on after a crash; does nothing when finished")
    training_options.add_options(parser, AdaptConfig, seed_help="of every random draw")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_vla_node adapt`: of the built-in VLA or, with `--vla`, of another one."""
    given_words = sys.argv[1:] if arguments is None else arguments
    if any(word == "--vla" or word.startswith("--vla=") for word in given_words):
        _adapt_another(given_words)
        return
    options = parse_arguments(arguments)
    given = training_options.apply(options, "adapt")
    with ending_in_words(options.output):
        robot, task = load_named(options.robot, options.task)
        config = build_config(task, given)
        source = Path(options.dataset or options.demonstrations)
        load = dataset_demonstrations if options.dataset or is_dataset(source) else load_demonstrations
        demonstrations = load(source, robot, task, config.frame_stride, _reading_progress)
        poses = load_pose_images(options.pretraining, robot, task) if options.pretraining else None
        output = Path(options.output)
        adaptation = Adaptation(config, robot, task, demonstrations, poses, output, options.seed, say)
        if options.resume and adaptation.finished():
            say(f"{output} already holds this adaptation: nothing to adapt")
        else:
            if options.resume:
                adaptation.resume()
            else:
                (output / METRICS_LOG).unlink(missing_ok=True)
            adaptation.run()
        _encode(robot, task, source, output, options.seed)


def _adapt_another(arguments: list[str]) -> None:
    try:
        from rlt_vla_node import vla_adaptation
    except ImportError as error:
        sys.exit(f"adapt: --vla needs packages that are not installed ({error}): `make extras` installs them")
    vla_adaptation.main(arguments)


def _encode(robot: RobotConfig, task: TaskConfig, demonstrations: Path, output: Path, seed: int) -> None:
    """Whoever adapts on other episodes than demonstrations has a VLA all the same."""
    if is_dataset(demonstrations):
        say(f"{demonstrations} is a data set: encode its episode files (encode) for the learner's replay")
        return
    try:
        encode(robot, task, demonstrations, output, seed)
    except NoDemonstrationsError as error:
        say(f"{error}: the learner's replay will begin without demonstrations")


def _reading_progress(done: int, total: int) -> None:
    if done == total or done % 20 == 0:
        say(f"reading demonstrations {done}/{total}")


if __name__ == "__main__":
    main()
