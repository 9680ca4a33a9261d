"""A tensors' file and the JSON beside it that is written last and names its sha256: read whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlt_common.atomic import sha256_hex
from rlt_common.reading import read_json, read_limited

MAX_FACTS_BYTES = 16 * 1024**2


@dataclass(frozen=True)
class SealedFiles:
    """What of a folder belongs together, and the words for when it does not.

    Attributes:
        what: "VLA checkpoint"; kind: its short name, "checkpoint".
        facts, tensors: file names; `facts` is a JSON object with the keys `needed`, `file_sha256` among them.
        max_bytes: of the tensors' file.
        absent: what to say where there are no facts, and what to do then.
        remedy: what to do where the tensors cannot be read.
        error: the exception raised.
    """

    what: str
    kind: str
    facts: str
    tensors: str
    needed: tuple[str, ...]
    max_bytes: int
    absent: str
    remedy: str
    error: type[Exception]

    def read_facts(self, folder: Path | str) -> dict[str, Any]:
        """The facts, with all needed keys. Raises `error`."""
        path = Path(folder) / self.facts
        try:
            facts = read_json(path, MAX_FACTS_BYTES)
        except FileNotFoundError as error:
            raise self.error(f"{path}: {self.absent}") from error
        except OSError as error:
            raise self.error(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise self.error(f"{path}: not JSON: {error}") from error
        missing = [key for key in self.needed if not isinstance(facts, dict) or key not in facts]
        if missing:
            raise self.error(f"{path}: not a {self.what}: it has no {missing[0]!r}")
        return facts

    def read_tensors(self, folder: Path | str, facts: Mapping[str, Any]) -> bytes:
        """The tensors' file, exactly the one that `facts` name. Raises `error`."""
        path = Path(folder) / self.tensors
        try:
            data = read_limited(path, self.max_bytes)
        except OSError as error:
            raise self.error(f"{path}: {error.strerror}: {self.remedy}") from error
        if sha256_hex(data) != facts["file_sha256"]:
            raise self.error(
                f"{path}: its sha256 is not the one in {self.facts}: the file is torn or of another {self.kind}; "
                "copy the whole folder again"
            )
        return data


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """Facts as they are written."""
    return (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()
