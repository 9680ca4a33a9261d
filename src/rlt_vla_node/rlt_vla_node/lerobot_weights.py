"""A policy's weights against its file, tensor by tensor: LeRobot may load half a file, or none, and only print it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rlt_vla_node.backend import BackendError
from rlt_vla_node.tensors import tensors_hash

_SHOWN = 5


class _Name(str):
    """A tensor's name where LeRobot's renaming expects the tensor."""

    def clone(self) -> _Name:
        return self


class WeightsFile(Mapping[str, Tensor]):
    """A file's tensors under the policy's names, read one at a time and as float32, whatever they are stored as."""

    def __init__(self, policy: nn.Module, path: Path) -> None:
        """Raises BackendError for a file that cannot be read, and for a tensor that is missing, foreign or unlike."""
        self._path = path
        try:
            self._file = safe_open(path, framework="pt", device="cpu")
        except (OSError, SafetensorError) as error:
            raise BackendError(f"{path}: {error}: copy the whole folder of the policy") from error
        names = list(self._file.keys())
        found = _renamed(policy, names)
        state = policy.state_dict()
        self._sources = {}
        missing = []
        for group in _tied(state):
            given = [name for name in group if name in found]
            if given:
                self._sources[group[0]] = found[given[0]]
            else:
                missing += group
        foreign = sorted(source for name, source in found.items() if name not in state)
        self._refuse("has no tensor", missing, "which would stay random")
        self._refuse("holds a tensor that the policy does not have:", foreign, "it is of another policy or version")
        self._refuse("was not loaded:", self._unlike(state), "LeRobot's loading failed")

    def fingerprint(self, statistics: Mapping[str, Tensor], facts: str) -> str:
        """First 16 hex digits of the sha256 over weights, statistics and facts; the same for every type of number."""
        return tensors_hash(_Joined(self, statistics), facts)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._file.get_tensor(self._sources[name])
        return tensor.float() if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def _unlike(self, state: Mapping[str, Tensor]) -> Iterator[str]:
        for name in self:
            own, stored = state[name].detach().cpu(), self[name]
            if own.shape != stored.shape or not torch.equal(own, stored.to(own.dtype)):
                yield name

    def _refuse(self, what: str, names: Iterable[str], meaning: str) -> None:
        names = list(names)
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise BackendError(f"{self._path}: {what} {', '.join(names[:_SHOWN])}{more} ({meaning})")


class _Joined(Mapping[str, Tensor]):
    """Two mappings as one, still read one at a time."""

    def __init__(self, *parts: Mapping[str, Tensor]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Tensor:
        return next(part[name] for part in self._parts if name in part)

    def __iter__(self) -> Iterator[str]:
        return (name for part in self._parts for name in part)

    def __len__(self) -> int:
        return sum(map(len, self._parts))


def _renamed(policy: Any, names: list[str]) -> dict[str, str]:
    """The policy's name -> the file's. The pi policies rename what older files call otherwise, and may drop some."""
    rename = getattr(policy, "_fix_pytorch_state_dict_keys", None)
    if rename is None:
        return {name: name for name in names}
    fixed = rename({name: _Name(name) for name in names}, policy.config)
    return {name if name.startswith("model.") else f"model.{name}": str(source) for name, source in fixed.items()}


def _tied(state: Mapping[str, Tensor]) -> list[list[str]]:
    """Names in groups that share their storage: safetensors keeps one of each."""
    groups: dict[Any, list[str]] = {}
    for name in sorted(state):
        tensor = state[name]
        key = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name
        groups.setdefault(key, []).append(name)
    return list(groups.values())
