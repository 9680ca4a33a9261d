"""`adapt --vla FILE`: adapt a VLA that a VLA file describes on demonstrations, train its RL token, freeze both.

    adapt --vla smolvla_aloha.yaml --robot aloha.yaml --task screw.yaml --demonstrations DIR --output DIR \\
          [--dataset DIR] [--seed N] [--resume] [--train full|lora|frozen] [...]
    torchrun --standalone --nproc-per-node 8 -m rlt_vla_node.adapt --vla ...

Demonstrations are episode files; they are converted into a data set of the policy's own vectors beside the output,
unless `--dataset` names one. Written are the checkpoint that the VLA node loads, `policy/` with the adapted weights in
the policy's own format, metrics.jsonl while it runs and curves.svg in the end, and training.safetensors, from which
`--resume` goes on after a crash: on CPUs to the same bits. Parameters may stand in the task file under
`nodes: adapt_vla:`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlt_common.config import RobotConfig, TaskConfig, config_file, config_hash, load_named
from rlt_common.vla_config import VlaConfig, load_vla
from rlt_vla_node import training_device, training_options, vla_figures
from rlt_vla_node.adaptation_run import STATE_FILE, ending_in_words, inputs_hash, making, say
from rlt_vla_node.backends import open_backend, with_policy
from rlt_vla_node.checkpoint import CONFIG_FILE, POLICY_FOLDER, read_config, save_vla_checkpoint
from rlt_vla_node.checkpoint_files import CheckpointError, check_token_size
from rlt_vla_node.dataset import DatasetError, action_spread
from rlt_vla_node.dataset_conversion import Wanted, convert
from rlt_vla_node.dataset_facts import dataset_hash, executed_actions
from rlt_vla_node.encode_command import encode
from rlt_vla_node.episode_frames import frame_rules
from rlt_vla_node.layout import FileLayout
from rlt_vla_node.lerobot_dataset import TrainingSamples, cameras_of
from rlt_vla_node.resume import ResumeError
from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token
from rlt_vla_node.training_curves import draw_curves
from rlt_vla_node.training_log import METRICS_LOG, keep_metrics, listed
from rlt_vla_node.video import DEFAULT_CODEC
from rlt_vla_node.vla_adapt_config import FROZEN, VlaAdaptConfig
from rlt_vla_node.vla_trainer import TrainingError, VlaTrainer

COMMAND = "adapt_vla"
CURVES = "curves.svg"
DATASET_FOLDER = "dataset"

Report = Callable[[str], None]


class VlaAdaptation:
    """One adaptation: data, models, trainer, and what is written to the output folder."""

    def __init__(
        self,
        config: VlaAdaptConfig,
        robot: RobotConfig,
        task: TaskConfig,
        vla: VlaConfig,
        find_dataset: Callable[[], Path],
        output: Path,
        seed: int,
        report: Report,
    ) -> None:
        """Raises ParameterError, BackendError, LayoutError, DatasetError or TrainingError for what does not fit.

        `find_dataset`: gives the folder of the data set, once it is known that the VLA opens and fits.
        """
        self.config, self.robot, self.task, self.seed = config, robot, task, seed
        self.output, self.report = output, report
        self.vla = replace(vla, instruction=vla.instruction or task.instruction)
        self.backend = open_backend(self.vla)
        spec = self.backend.spec
        self.layout = FileLayout(self.vla).fitted(robot, task, spec)
        shape = RlTokenConfig(
            embed_dim=spec.embed_dim,
            max_tokens=spec.max_tokens,
            token_dim=config.token_dim or spec.embed_dim,
            encoder_blocks=config.encoder_blocks,
            decoder_blocks=config.decoder_blocks,
            heads=config.heads,
        )
        check_token_size(shape)
        dataset = find_dataset()
        self.samples = TrainingSamples(
            dataset,
            spec.horizon,
            spec.control_hz,
            cameras=cameras_of(dataset, spec.camera_keys, vla.cameras),
            image_shape=spec.image_shape,
            layout=self.layout.chunks,
        )
        self._check_widths(dataset)
        if not self.samples.in_kind and config.train != FROZEN:
            raise DatasetError(
                f"{dataset}: its actions cannot be the rows that the policy counts in (action_kind: "
                f"{vla.action_kind}): give recorded episodes with --demonstrations, or convert them with `dataset "
                "--vla` and this VLA file"
            )
        if self.samples.ours and config.train != FROZEN and self.vla.instruction not in self.samples.tasks:
            raise DatasetError(
                f"{dataset}: was converted with the instruction {', '.join(map(repr, self.samples.tasks))}, the policy "
                f"will be told {self.vla.instruction!r}: convert the episodes again"
            )
        self.spread = action_spread(executed_actions(self.samples, self.layout.chunks), robot.step_limit)
        self.train, self.held_out = self.samples.split(config.validation_share)
        self.validation = vla_figures.spread_over(self.held_out or self.train, config.validation_frames)
        here, gpus = hasattr(self.backend, "module"), torch.cuda.device_count()
        device = training_device.token_device(self.backend.device, here, training_device.local_rank(os.environ), gpus)
        token = build_rl_token(shape, seed + 1).to(device)
        self.provenance = {"vla": spec.fingerprint, "dataset": dataset_hash(dataset)}
        self.trainer = VlaTrainer(config, self.backend, token, self.train, seed)
        facts = json.dumps(dataclasses.asdict(config), sort_keys=True)
        vla_facts = {
            key: value for key, value in dataclasses.asdict(self.vla).items() if key not in ("source", "folder")
        }
        self.identity = config_hash(self.provenance, facts, seed, inputs_hash(self.robot, self.task), vla_facts)

    @property
    def main(self) -> bool:
        """Whether this process is the one that reports and writes."""
        return self.trainer.main

    def finished(self) -> bool:
        """Whether the main process's output folder holds the finished checkpoint of exactly this adaptation.

        Raises CheckpointError in every process where the main one cannot tell.
        """
        held, failure = False, None
        try:
            if self.main and (self.output / CONFIG_FILE).exists():
                held = read_config(self.output).get("identity") == self.identity
        except CheckpointError as error:
            failure = error
        except OSError as error:
            failure = CheckpointError(f"{self.output / CONFIG_FILE}: {error.strerror or error}")
        if self.trainer.main_says(failure is not None):
            raise failure or CheckpointError(f"{self.output}: what the main process has there cannot be read")
        return self.trainer.main_says(held)

    def resume(self) -> None:
        """Go on from the last state in the output folder, if there is one. Raises ResumeError."""
        path = self.output / STATE_FILE
        try:
            found = self.trainer.resume(path, self.identity)
        except ResumeError as error:
            raise ResumeError(f"{path}: {error}") from error
        if found:
            self.say(f"resuming at step {self.trainer.step} of {self.config.steps}")
        else:
            self.say(f"no training state in {self.output}: starting from the beginning")
        self._cut_metrics()

    def run(self) -> str:
        """Train to the end and write the checkpoint. Returns its hash (of the main process; "" of others)."""
        trainer, config = self.trainer, self.config
        if self.main:
            self.output.mkdir(parents=True, exist_ok=True)
        self.say(
            f"{trainer.trained_values / 1e6:.3g} million values are trained on {len(self.train)} frames, "
            f"{len(self.held_out)} are held out, {trainer.accelerator.num_processes} processes on "
            f"{trainer.accelerator.device}"
        )
        started, counted = time.monotonic(), trainer.step
        for step in trainer.run():
            last = step == config.steps
            if step % config.validation_steps == 0 or last:
                self._validate()
            if step % config.report_steps == 0 or last:
                rate = (step - counted) / max(time.monotonic() - started, 1e-9)
                self._log({"step": step, "steps_per_s": round(rate, 4), **trainer.losses})
                left = (config.steps - step) / rate
                self.say(
                    f"step {step}/{config.steps}, {listed(trainer.losses)}, {rate:.3g} steps/s, {_duration(left)} left"
                )
                started, counted = time.monotonic(), step
            if step % config.checkpoint_steps == 0:
                trainer.save(self.output / STATE_FILE, self.identity)
        return self._finish()

    def say(self, text: str) -> None:
        """Report from the main process."""
        if self.main:
            self.report(text)

    def _validate(self) -> None:
        if not self.main or len(self.validation) < 2:
            return
        module = None if self.config.train == FROZEN else self.backend.module
        for part in (self.trainer.token, module):
            if part is not None:
                part.eval()
        found = vla_figures.losses(
            self.backend, self.trainer.token, self.validation, self.config.batch, self.seed, module is not None
        )
        self._log({"step": self.trainer.step, **{f"validation_{name}": value for name, value in found.items()}})
        self.say(f"held-out frames at step {self.trainer.step}: {listed(found)}")

    def _finish(self) -> str:
        self.trainer.finish()
        if not self.main:
            return ""
        config, token = self.config, self.trainer.token
        adapted = config.train != FROZEN
        found: dict[str, Any] = {"held_out": len(self.held_out) > 0}
        if len(self.validation) >= 2:
            fitted = vla_figures.spread_over(self.train, 4 * config.validation_frames)
            found |= vla_figures.losses(self.backend, token, self.validation, config.batch, self.seed, adapted)
            found |= vla_figures.figures(self.backend, token, fitted, self.validation, config.batch, self.seed)
        if not self.samples.in_kind:
            found.pop("chunk_error", None)  # of other numbers than the policy's
        fingerprint = self.backend.spec.fingerprint
        if adapted:
            (self.output / CONFIG_FILE).unlink(missing_ok=True)  # the old checkpoint and the new weights are no pair
            self.backend.save_policy(self.output / POLICY_FOLDER)
            fingerprint = open_backend(with_policy(self.vla, self.output / POLICY_FOLDER)).spec.fingerprint
        facts = {
            **making(self.identity, self.robot, self.task, self.seed, config),
            "provenance": self.provenance,
            "frames": len(self.samples),
            "episodes": len(np.unique(self.samples.episodes)),
            "statistics": {"action_spread": self.spread.tolist()},
        }
        digest = save_vla_checkpoint(self.output, self.vla, fingerprint, token, facts, found, adapted=adapted)
        draw_curves(self.output / METRICS_LOG, self.output / CURVES)
        (self.output / STATE_FILE).unlink(missing_ok=True)
        shown = {name: value for name, value in found.items() if isinstance(value, float)}
        self.say(f"checkpoint {digest} in {self.output}: {listed(shown)}")
        return digest

    def _check_widths(self, dataset: Path) -> None:
        spec, sample = self.backend.spec, self.samples[0]
        for name, width in (("observation.state", spec.state_dim), ("action", spec.action_dim)):
            if sample[name].shape[-1] != width:
                raise DatasetError(
                    f"{dataset}: {name} has {sample[name].shape[-1]} values, the policy takes {width}: convert the "
                    "episodes with `dataset --vla` and this VLA file"
                )

    def _log(self, entry: dict[str, Any]) -> None:
        if self.main:
            with open(self.output / METRICS_LOG, "a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")

    def _cut_metrics(self) -> None:
        """Drop the metrics of steps that will be done again."""
        if self.main:
            keep_metrics(self.output / METRICS_LOG, lambda entry: entry["step"] <= self.trainer.step)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; every parameter of VlaAdaptConfig is an option without a default of its own."""
    parser = argparse.ArgumentParser(prog="adapt", description="adapt a VLA and train its RL token")
    parser.add_argument("--vla", required=True, help="VLA name, or path of a VLA file")
    parser.add_argument(
        "--demonstrations", help="folder of episode files; converted into a data set where none is given"
    )
    parser.add_argument("--dataset", help="data set in LeRobot's format with the policy's own vectors")
    parser.add_argument("--output", required=True, help="folder for the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on after a crash; does nothing when finished")
    training_options.add_options(parser, VlaAdaptConfig, seed_help="of every random draw")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse_arguments(arguments)
    given = training_options.apply(options, "adapt")
    output = Path(options.output)
    with ending_in_words(output, TrainingError):
        robot, task = load_named(options.robot, options.task)
        training_device.take_gpu()
        vla = load_vla(config_file("vlas", options.vla))
        config = training_options.configure(VlaAdaptConfig, task, COMMAND, given)
        adaptation = VlaAdaptation(
            config,
            robot,
            task,
            vla,
            lambda: _dataset(options, robot, task, vla, output),
            output,
            options.seed,
            say,
        )
        if options.resume and adaptation.finished():
            adaptation.say(f"{output} already holds this adaptation: nothing to adapt")
        else:
            if options.resume:
                adaptation.resume()
            elif adaptation.main:
                (output / METRICS_LOG).unlink(missing_ok=True)
            adaptation.run()
        if adaptation.main and options.demonstrations:
            encode(robot, task, Path(options.demonstrations), output, options.seed)


def _dataset(options: argparse.Namespace, robot: RobotConfig, task: TaskConfig, vla: VlaConfig, output: Path) -> Path:
    """The data set to train on, made of the demonstrations beside the output where none is given."""
    if options.dataset:
        return Path(options.dataset)
    if not options.demonstrations:
        raise DatasetError("give --demonstrations, a folder of episode files, or --dataset")
    target = output.parent / DATASET_FOLDER
    if target.exists():
        say(f"{target} is there and is taken as it is; remove it to convert the demonstrations again")
        return target
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DatasetError(
            f"several processes: convert the demonstrations first (`dataset --vla {options.vla} --output {target} "
            "...`) and give --dataset"
        )

    def show(done: int, total: int, words: str) -> None:
        say(f"converting demonstrations {done}/{total}: {words}")

    rules = frame_rules(robot, task, None, False)
    convert(Path(options.demonstrations), target, robot, task, rules, Wanted(False, False, DEFAULT_CODEC), vla, show)
    return target
