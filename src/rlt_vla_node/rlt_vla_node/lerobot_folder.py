"""A policy's folder as LeRobot's `save_pretrained` writes it, looked through before anything of it is used.

config.json, model.safetensors                       the policy
policy_preprocessor.json, policy_postprocessor.json  its processing, with the statistics in *.safetensors beside them
vlm/                                                 tokenizer (and for SmolVLA the VLM's configuration), without
                                                     weights: LeRobot fetches these from the hub, here they lie there
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from rlt_common.atomic import sha256_hex
from rlt_common.reading import parse_json, read_limited
from rlt_vla_node.backend import BackendError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
VLM = "vlm"
MAX_BYTES = 64 * 1024**2
_VLM_SUFFIXES = (".json", ".txt", ".model", ".jinja")
_RUN_KEYS = frozenset(
    (
        *("device", "dtype", "use_amp", "compile_model", "compile_mode", "gradient_checkpointing"),
        *("n_action_steps", "num_steps", "num_inference_steps", "temporal_ensemble_coeff", "rtc_config"),
        *("load_vlm_weights", "vlm_model_name", "pretrained_backbone_weights", "pretrained_path", "use_peft"),
        *("push_to_hub", "repo_id", "private", "tags", "license"),
    )
)
"""Of config.json: where weights come from and go to, and how fast they run. Not what the policy computes."""
_TRAINING_PREFIXES = ("optimizer_", "scheduler_", "freeze_", "train_")
_STEP_RUN_KEYS = frozenset({"device", "tokenizer_name"})


@dataclass(frozen=True)
class PolicyFolder:
    """What was read of a policy's folder.

    Attributes:
        path: the folder.
        config: config.json.
        preprocessor, postprocessor: the steps of its processing.
        files: content of every file but weights and vlm/, by name.
    """

    path: Path
    config: Mapping[str, Any]
    preprocessor: tuple[Mapping[str, Any], ...]
    postprocessor: tuple[Mapping[str, Any], ...]
    files: Mapping[str, bytes]

    @property
    def kind(self) -> str:
        """LeRobot's name of the policy: act, smolvla, ..."""
        return str(self.config["type"])

    @property
    def tokenizer(self) -> str:
        """The tokenizer that its processing names; empty: none."""
        names = [step.get("config", {}).get("tokenizer_name") for step in self.preprocessor]
        return next((str(name) for name in names if name), "")

    def statistics(self) -> dict[str, Tensor]:
        """The statistics that its processing normalises with, by file and name. Raises BackendError."""
        found = {}
        for name, content in self.files.items():
            if name.endswith(".safetensors"):
                try:
                    found |= {f"{name}:{key}": value for key, value in load(content).items()}
                except SafetensorError as error:
                    raise BackendError(f"{self.path / name}: torn: {error}: copy the policy again") from error
        return found

    def facts(self) -> str:
        """What of its configuration decides the numbers, as text: for the fingerprint."""
        config = {
            key: value
            for key, value in self.config.items()
            if key not in _RUN_KEYS and not key.startswith(_TRAINING_PREFIXES)
        }
        steps = [
            [
                step["registry_name"],
                {key: value for key, value in step.get("config", {}).items() if key not in _STEP_RUN_KEYS},
            ]
            for step in (*self.preprocessor, *self.postprocessor)
        ]
        return json.dumps([config, steps], sort_keys=True)

    def vlm(self, other: Path | None) -> Path:
        """The folder of tokenizer and VLM configuration: the policy's own `vlm`, else `other`.

        Raises BackendError saying what is missing and where to put it.
        """
        own = self.path / VLM
        for folder in (own, other):
            if folder is not None and folder.is_dir():
                return folder
        name = self.config.get("vlm_model_name") or self.tokenizer
        tried = str(own) if other is None else f"{own} nor {other}"
        raise BackendError(
            f"the policy needs the tokenizer and configuration of {name}, and neither is fetched at run time: there is "
            f"no {tried}: put its *.json and *.txt files (no weights) there, or name their folder with options: "
            f"{{vlm: ...}} in the VLA file (`hf download {name} --include '*.json' '*.txt' --local-dir {own}`)"
        )

    def write(self, folder: Path, vlm: Path | None) -> None:
        """Put everything but the weights into another folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        if vlm is not None and vlm.resolve() != (folder / VLM).resolve():
            (folder / VLM).mkdir(exist_ok=True)
            for path in _vlm_files(vlm):
                shutil.copyfile(path, folder / VLM / path.name)


def vlm_facts(vlm: Path) -> str:
    """What tokenizer and VLM configuration are, as text for the fingerprint: names and contents, wherever they lie.

    Raises BackendError for a file that cannot be read.
    """
    return json.dumps([[path.name, sha256_hex(_read(path))] for path in _vlm_files(vlm)])


def read_folder(path: Path) -> PolicyFolder:
    """Read a policy's folder. Raises BackendError naming the file and what to do."""
    if not path.is_dir():
        raise BackendError(
            f"there is no policy in {path}: `source` is a folder as LeRobot's save_pretrained writes it (of a "
            "checkpoint: its pretrained_model)"
        )
    if (path / "adapter_model.safetensors").exists():
        raise BackendError(f"{path} holds LoRA adapters alone: merge them into the policy and save it whole")
    files = {CONFIG: _read(path / CONFIG)}
    config = _parsed(path / CONFIG, files[CONFIG])
    if not isinstance(config.get("type"), str):
        raise BackendError(f"{path / CONFIG}: it has no 'type': is this a policy of LeRobot?")
    pipelines = []
    for name in (PREPROCESSOR, POSTPROCESSOR):
        if not (path / name).exists():
            raise BackendError(
                f"{path} has no {name}: policies saved before LeRobot 0.4 keep their statistics in the weights: "
                "convert it with `python -m lerobot.processor.migrate_policy_normalization`"
            )
        files[name] = _read(path / name)
        pipelines.append(_steps(path / name, _parsed(path / name, files[name])))
        for step in pipelines[-1]:
            if "state_file" in step:
                files[step["state_file"]] = _read(path / step["state_file"])
    return PolicyFolder(path, config, *pipelines, files)


def _steps(path: Path, pipeline: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The steps of a pipeline. Only registered ones: the format would also let a file name any class to be made."""
    steps = pipeline.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise BackendError(f"{path}: no processing of LeRobot: it has no list of steps")
    for step in steps:
        if not isinstance(step.get("registry_name"), str) or "class" in step:
            raise BackendError(
                f"{path}: it names the class {step.get('class')!r}: only steps by their registered name are taken, "
                "since a class could be anything that is installed"
            )
        if not isinstance(step.get("config", {}), dict):
            raise BackendError(f"{path}: step {step['registry_name']}: its config is no mapping")
        file = step.get("state_file", "state.safetensors")
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise BackendError(f"{path}: step {step['registry_name']}: {file!r} is no file beside it")
    return tuple(steps)


def _vlm_files(vlm: Path) -> list[Path]:
    """The files of a folder of tokenizer and VLM configuration; no weights, and no index of them."""
    return [
        path
        for path in sorted(vlm.iterdir())
        if path.is_file() and path.suffix in _VLM_SUFFIXES and not path.name.endswith(".index.json")
    ]


def _read(path: Path) -> bytes:
    try:
        return read_limited(path, MAX_BYTES)
    except OSError as error:
        raise BackendError(f"{path}: {error.strerror}: copy the whole folder of the policy") from error


def _parsed(path: Path, content: bytes) -> Mapping[str, Any]:
    try:
        values = parse_json(content)
    except ValueError as error:
        raise BackendError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise BackendError(f"{path}: not a JSON object")
    return values
