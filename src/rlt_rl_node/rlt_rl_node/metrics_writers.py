"""Where curves go: event files for TensorBoard, and W&B where that is installed.

A writer is given the whole curves again and again and writes what is new. Steps that it wrote before are not written
twice, also by another process later; and where history has changed (a label was corrected, or training went on from an
older checkpoint with other settings) the curves are written anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from rlt_common.atomic import no_follow, write_atomic
from rlt_common.reading import read_json
from rlt_common.run_files import inside
from rlt_rl_node.metrics_curves import Entry

EVENTS = "tensorboard"
WANDB = "wandb"
Curves = Mapping[str, Sequence[Entry]]


class WriterError(RuntimeError):
    """A viewer that cannot be written for; says why and what to do."""


class TensorBoardWriter:
    """Event files in <run>/tensorboard, made anew from the curves by each process.

    Raises WriterError when another process writes there, PermissionError when a link leads out of the run.
    """

    def __init__(self, run: Path) -> None:
        self.folder = inside(run, EVENTS)
        self.folder.mkdir(exist_ok=True)
        self._lock = open(self.folder / ".lock", "wb", opener=no_follow)  # noqa: SIM115 (held until close)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise WriterError(f"{self.folder}: another process writes there: end it first") from error
        self._written: dict[str, list[str]] = {}
        self._writer: EventsWriter | None = None  # SummaryWriter writes from a queue, and its flush waits for nothing

    def write(self, curves: Curves) -> int:
        """Write what is new, and return how many entries that were."""
        if self._writer is None or not all(_begins(curves[name], own) for name, own in self._written.items()):
            self._begin()
        count = 0
        for name, entries in curves.items():
            written = self._written.setdefault(name, [])
            for entry in entries[len(written) :]:
                values = [Summary.Value(tag=tag, simple_value=value) for tag, value in entry.values.items()]
                self._writer.write_event(Event(step=entry.step, wall_time=entry.time, summary=Summary(value=values)))
                written.append(entry.identity)
                count += 1
        self._writer.flush()
        return count

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
        self._lock.close()

    def _begin(self) -> None:
        if self._writer is not None:
            self._writer.close()
        for old in self.folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = EventsWriter(str(self.folder / "events"))
        # A TensorBoard that is open forgets at this what it had read of the files that are gone.
        self._writer.write_event(Event(step=0, session_log=SessionLog(status=SessionLog.START)))
        self._written = {}


class WandbWriter:
    """A run of W&B per history: what was sent cannot be taken back, so that a changed history is another run of it.

    What was sent is noted in <run>/wandb/sent.json. Raises WriterError where the package `wandb` is not installed, and
    where W&B refuses.
    """

    def __init__(self, run: Path, project: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise WriterError(
                "W&B is not installed: `pip install wandb` in this environment, or without --wandb"
            ) from error
        self._wandb, self._project, self._run = wandb, project, run
        self._state = inside(run, WANDB) / "sent.json"
        self._state.parent.mkdir(exist_ok=True)
        self._sent = self._read()
        self._open: object | None = None

    def write(self, curves: Curves) -> int:
        """Send what is new, and return how many entries that were."""
        known = {name: (int(count), digest) for name, (count, digest) in self._sent["written"].items()}
        if any(_digest(curves.get(name, ())[:count]) != digest for name, (count, digest) in known.items()):
            self.close()
            self._sent = {"history": self._sent["history"] + 1, "written": {}}
            known = {}
        new = {name: list(entries)[known.get(name, (0, ""))[0] :] for name, entries in curves.items()}
        if not any(new.values()):
            return 0
        with self._asked():
            run = self._started()
            for name, entries in new.items():
                for entry in entries:
                    run.log({**entry.values, f"{name}_step": entry.step})
        self._sent["written"] = {name: [len(entries), _digest(entries)] for name, entries in curves.items()}
        write_atomic(self._state, json.dumps(self._sent).encode())
        return sum(map(len, new.values()))

    def close(self) -> None:
        """Let W&B send what it still has."""
        run, self._open = self._open, None
        if run is not None:
            with self._asked():
                run.finish()

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except (self._wandb.Error, ValueError) as error:  # ValueError: of its settings
            raise WriterError(
                f"W&B: {error}\nLog in with `wandb login`, or set WANDB_MODE=offline: all stays in {self._state.parent}"
            ) from error

    def _started(self) -> object:
        if self._open is None:
            name = self._run.resolve().name
            where = hashlib.sha256(f"{self._run.resolve()} {self._sent['history']}".encode()).hexdigest()[:16]
            self._open = self._wandb.init(
                project=self._project, id=where, name=name, dir=str(self._run), resume="allow", save_code=False
            )
            for name, groups in (
                ("learning", ("episode", "learning", "replay", "work")),
                ("adaptation", ("adaptation", "pretraining")),
            ):
                for group in groups:
                    self._open.define_metric(f"{group}/*", step_metric=f"{name}_step")
        return self._open

    def _read(self) -> dict:
        try:
            sent = read_json(self._state)
            return {"history": int(sent["history"]), "written": dict(sent["written"])}
        except FileNotFoundError:
            return {"history": 0, "written": {}}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WriterError(f"{self._state}: {error}: remove it, and all is sent again as another run") from error


def _begins(entries: Sequence[Entry], written: Sequence[str]) -> bool:
    return [entry.identity for entry in entries[: len(written)]] == list(written)


def _digest(entries: Sequence[Entry]) -> str:
    return hashlib.sha256("\n".join(entry.identity for entry in entries).encode()).hexdigest()
