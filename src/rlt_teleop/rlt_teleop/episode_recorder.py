"""Writes each episode into its own file as the messages arrive, and says when it is durable. Pure: no node, no clock.

A file begins when an episode is seen to start and ends when its label has come and the executor has confirmed that it
stands, with as many steps as were written; of a training episode, when what the VLA encodes of its critical phase is
there too, so that the learner can have all of it from the file. What is missing is waited for, bounded by a time-out,
and then named. What an interrupted recording leaves behind keeps its temporary name and is reported, never passed off
as an episode.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlt_common import topics
from rlt_common.atomic import fsync_folder
from rlt_common.episode_file import PARTIAL_SUFFIX, EpisodeFileError, EpisodeWriter
from rlt_common.relabels import episode_facts
from rlt_teleop.cdr import leading_fields
from rlt_teleop.episode_machine import MOVING, RUNNING, Confirmation, Driver, Episode, Label, Phase, Purpose

RLT_MSGS = "rlt_msgs/msg/"
TYPES = {
    topics.OBSERVATION: RLT_MSGS + "Observation",
    topics.VLA_OUTPUT: RLT_MSGS + "VlaOutput",
    topics.ACTION_CHUNK: RLT_MSGS + "ActionChunk",
    topics.EXECUTED_ACTION: RLT_MSGS + "ExecutedAction",
    topics.EPISODE_STATE: RLT_MSGS + "EpisodeState",
    topics.OPERATOR_EVENT: RLT_MSGS + "OperatorEvent",
    topics.TRAINING_STATUS: RLT_MSGS + "TrainingStatus",
    topics.RECORDED_DIAGNOSTICS: "diagnostic_msgs/msg/DiagnosticArray",
}
"""The recorded topics and their types."""

_LEADING = {topics.EXECUTED_ACTION: "QIIB", topics.VLA_OUTPUT: "QQI", topics.ACTION_CHUNK: "QI"}
_EPISODE_FIELD = {topics.EXECUTED_ACTION: 0, topics.VLA_OUTPUT: 1, topics.ACTION_CHUNK: 0}
_EARLY_OBSERVATIONS = 16


@dataclass(frozen=True)
class Report:
    """The recorder's word about one episode: the fields of rlt_msgs/RecorderStatus. `warning` is for the log."""

    episode_id: int
    durable: bool = False
    label: Label = Label.NONE
    path: str = ""
    messages: int = 0
    bytes: int = 0
    error: str = ""
    warning: str = ""


@dataclass
class _Recording:
    """The episode being written."""

    writer: EpisodeWriter
    episode: Episode
    steps: set[int] = field(default_factory=set)
    first_stamp_ns: int | None = None
    last_stamp_ns: int = 0
    observed_ns: int = -1
    log_time_ns: int = 0
    vla_facts: Mapping[str, str] = field(default_factory=dict)
    critical_ns: list[int] = field(default_factory=list)
    observations_ns: set[int] = field(default_factory=set)
    encoded_ns: set[int] = field(default_factory=set)
    ended_s: float = 0.0
    give_up_s: float = 0.0
    intervened: bool = False
    finishing: bool = False

    @property
    def ended(self) -> bool:
        return self.episode.label != Label.NONE

    @property
    def end_observed(self) -> bool:
        """Whether the observation of the state that the last step led to is there."""
        return self.observed_ns > self.last_stamp_ns

    def unencoded(self, period_ns: int) -> int:
        """How many observations of the critical phase the VLA has still to encode: by the rule of its scheduler, those
        stamped less than a control period before a step of that phase. 0 where nothing is trained on, or no VLA spoke.
        """
        episode = self.episode
        if episode.purpose != Purpose.TRAIN or episode.label == Label.DISCARD or not self.vla_facts:
            return 0
        steps = sorted(self.critical_ns)
        missing = 0
        for stamp_ns in self.observations_ns - self.encoded_ns:
            at = bisect_left(steps, stamp_ns)
            missing += at < len(steps) and steps[at] - stamp_ns < period_ns
        return missing


class EpisodeRecorder:
    """Takes what is on the topics, in order of arrival, and writes episode files.

    Args:
        folder: where the files go.
        facts: metadata that every file gets (robot, hashes).
        settle_s: how long to wait, after the label, for steps that are still on their way.
        report: called with every news about an episode.
        vla_facts_of: metadata out of a serialised VlaOutput: which VLA it is of, and what it was computed with.
        configuration: texts of the files that every episode is recorded with (robot, task).
        make_room: called before a file begins; raises EpisodeFileError when the disk budget does not hold.
        period_ns: control period.
        encode_wait_s: how long to wait, after the label, for what the VLA still encodes.
    """

    def __init__(
        self,
        folder: Path | str,
        facts: Mapping[str, str],
        settle_s: float,
        report: Callable[[Report], None],
        vla_facts_of: Callable[[bytes], Mapping[str, str]],
        configuration: Mapping[str, str] | None = None,
        make_room: Callable[[], None] | None = None,
        period_ns: int = 0,
        encode_wait_s: float = 0.0,
    ) -> None:
        self._folder = Path(folder)
        self._facts = dict(facts)
        self._settle_s = settle_s
        self._report = report
        self._vla_facts_of = vla_facts_of
        self._configuration = dict(configuration or {})
        self._make_room = make_room
        self._period_ns, self._encode_wait_s = period_ns, encode_wait_s
        self._current: _Recording | None = None
        self._seen: Episode | None = None
        self._early: deque[tuple[int, bytes, int]] = deque(maxlen=_EARLY_OBSERVATIONS)
        self._control = (0, 0, 0)

    @property
    def recording(self) -> int:
        """Id of the episode being written; 0: none."""
        return self._current.episode.episode_id if self._current else 0

    @property
    def messages(self) -> int:
        """Messages written of the current episode."""
        return self._current.writer.messages if self._current else 0

    def leftovers(self) -> list[Path]:
        """Unfinished files that interrupted recordings left in the folder."""
        open_file = self._current.writer.partial if self._current else None
        found = sorted(self._folder.glob(f"*{PARTIAL_SUFFIX}*")) if self._folder.is_dir() else []
        return [path for path in found if path != open_file]

    def on_state(self, episode: Episode, cdr: bytes, now_s: float, published_ns: int = 0) -> None:
        """Take an EpisodeState, as fields and serialised; a repeated one is nothing new. `now_s` is monotonic time.

        `published_ns`: when it was sent, ns; 0: not known.
        """
        if episode == self._seen:
            self.poll(now_s)
            return
        seen, self._seen = self._seen, episode
        if seen is None and episode.label != Label.NONE and episode.confirmation == Confirmation.PENDING:
            self._recall(episode)
            return
        current = self._current
        if current is not None and episode.episode_id != current.episode.episode_id:
            if current.ended:
                self._finish(f"the next episode began before the executor confirmed {len(current.steps)} steps")
            else:
                self._break_off("the episode manager went on without a label")
            current = None
        known = seen is not None and seen.phase in RUNNING and seen.episode_id == episode.episode_id
        if current is None and episode.phase in RUNNING and not known:
            current = self._open(episode, late=seen is None and episode.phase in MOVING)
        if current is None:
            return
        if episode.label != Label.NONE and not current.ended:
            current.ended_s, current.give_up_s = now_s, now_s + self._settle_s
        elif current.ended:
            # What follows the label, e.g. IDLE, is not part of the episode.
            return
        current.episode = episode
        current.intervened |= episode.human_in_control and episode.driver != Driver.HUMAN
        self._write(topics.EPISODE_STATE, cdr, published_ns)
        self.poll(now_s)

    def on_message(self, topic: str, cdr: bytes, now_s: float, published_ns: int = 0) -> None:
        """Take a serialised message of any recorded topic but episode_state. Raises CdrError for foreign bytes."""
        if topic == topics.OBSERVATION:
            self._on_observation(cdr, now_s, published_ns)
            return
        current = self._current
        if current is None:
            return
        if topic in _LEADING:
            stamp_ns, fields = leading_fields(cdr, _LEADING[topic])
            if fields[_EPISODE_FIELD[topic]] != current.episode.episode_id:
                return
            if topic == topics.EXECUTED_ACTION:
                self._on_step(fields[2], stamp_ns, fields[3] == Phase.CRITICAL)
            elif topic == topics.VLA_OUTPUT:
                current.encoded_ns.add(stamp_ns)
                if not current.vla_facts:
                    current.vla_facts = self._vla_facts_of(cdr)
        if self._current is not None:
            self._write(topic, cdr, published_ns)
            self.poll(now_s)

    def on_control(self, episode_id: int, epoch: int, step: int, now_s: float) -> None:
        """Take the executor's word: the epoch it has reached, and its next control step in that episode."""
        self._control = (episode_id, epoch, step)
        self.poll(now_s)

    def poll(self, now_s: float) -> None:
        """Finish the episode when everything is in, or when the time-out is over."""
        current = self._current
        if current is None or not current.ended:
            return
        episode_id, epoch, step = self._control
        confirmed = episode_id == current.episode.episode_id and epoch >= current.episode.epoch
        complete = confirmed and len(current.steps) == step
        if complete:
            lacking = current.unencoded(self._period_ns)
            if not lacking or now_s > current.ended_s + self._encode_wait_s:
                self._finish(f"{lacking} observations of the critical phase were not encoded" if lacking else "")
        elif now_s > current.give_up_s:
            if confirmed:
                self._finish(f"{len(current.steps)} of {step} executed steps came")
            else:
                self._finish(f"the executor did not confirm the end; {len(current.steps)} executed steps came")

    def close(self) -> None:
        """Shut down: an episode with a label is finished, one without stays behind as a leftover.

        So does one whose finishing was interrupted: a second end in its file would damage it.
        """
        if self._current is None:
            return
        if self._current.finishing:
            self._break_off("the recorder was interrupted while it finished the file")
        elif self._current.ended:
            self._finish("the recorder was stopped before the executor confirmed the end")
        else:
            self._break_off("the recorder was stopped")

    def _open(self, episode: Episode, late: bool) -> _Recording | None:
        path = self._folder / f"{episode.episode_id:06d}.mcap"
        problem = ""
        if late:
            problem = "the recorder was started in the middle of the episode: discard it"
        elif path.exists():
            problem = f"{path} exists already: use another run directory, or restart the episode manager"
        else:
            try:
                if self._make_room:
                    self._make_room()
                self._set_aside(path)
                writer = EpisodeWriter(path)
            except (OSError, EpisodeFileError) as error:
                problem = str(error)
        if problem:
            self._report(Report(episode.episode_id, error=problem))
            return None
        self._current = _Recording(writer, episode)
        self._report(Report(episode.episode_id, path=str(writer.partial)))
        return self._current

    def _recall(self, episode: Episode) -> None:
        """After a restart, somebody may still wait for a word about the episode that ended before it."""
        path = self._folder / f"{episode.episode_id:06d}.mcap"
        try:
            label = episode_facts(path).get("label")
            fsync_folder(self._folder)  # the one before may have ended between the rename and this
        except (EpisodeFileError, OSError) as error:
            words = f"{self._folder}: {error.strerror}" if isinstance(error, OSError) else error
            self._report(Report(episode.episode_id, error=f"the recorder was interrupted: {words}"))
            return
        durable = label == episode.label.name.lower()
        error = "" if durable else f"{path} says {label}, the episode manager {episode.label.name.lower()}"
        self._report(
            Report(episode.episode_id, durable, episode.label, str(path), bytes=path.stat().st_size, error=error)
        )

    def _set_aside(self, path: Path) -> None:
        """Keep what an interrupted recording of the same episode left."""
        partial = path.with_name(path.name + PARTIAL_SUFFIX)
        if not os.path.lexists(partial):
            return
        number = 1
        while os.path.lexists(target := partial.with_name(f"{partial.name}.{number}")):
            number += 1
        partial.rename(target)

    def _on_observation(self, cdr: bytes, now_s: float, published_ns: int) -> None:
        stamp_ns, _ = leading_fields(cdr, "")
        current = self._current
        if current is None or (current.first_stamp_ns is None and not current.ended):
            self._early.append((stamp_ns, cdr, published_ns))
        elif not (current.ended and current.end_observed):
            current.observed_ns = max(current.observed_ns, stamp_ns)
            current.observations_ns.add(stamp_ns)
            self._write(topics.OBSERVATION, cdr, published_ns)
            self.poll(now_s)

    def _on_step(self, step: int, stamp_ns: int, critical: bool) -> None:
        current = self._current
        current.steps.add(step)
        if critical:
            current.critical_ns.append(stamp_ns)
        current.last_stamp_ns = max(current.last_stamp_ns, stamp_ns)
        if current.first_stamp_ns is None:
            # The first chunk's observation may have come before the state that began the motion.
            current.first_stamp_ns = stamp_ns
            for early_ns, cdr, published_ns in self._early:
                if early_ns >= stamp_ns and self._current is not None:
                    current.observed_ns = max(current.observed_ns, early_ns)
                    current.observations_ns.add(early_ns)
                    self._write(topics.OBSERVATION, cdr, published_ns)
            self._early.clear()

    def _write(self, topic: str, cdr: bytes, published_ns: int) -> None:
        """Append in order of arrival; log time is the newest stamp so far, so that it never runs backwards.

        Diagnostics do not count for it: drivers may stamp theirs by a clock of their own.
        """
        current = self._current
        stamp_ns, _ = leading_fields(cdr, "")
        if topic != topics.RECORDED_DIAGNOSTICS:
            current.log_time_ns = max(current.log_time_ns, stamp_ns)
        try:
            current.writer.write(topic, TYPES[topic], cdr, current.log_time_ns, published_ns)
        except EpisodeFileError as error:
            self._break_off(str(error))

    def _break_off(self, error: str) -> None:
        current, self._current = self._current, None
        current.writer.keep_partial()
        self._report(
            Report(
                current.episode.episode_id,
                label=current.episode.label,
                path=str(current.writer.partial),
                messages=current.writer.messages,
                error=error,
            )
        )

    def _finish(self, warning: str) -> None:
        current = self._current
        episode = current.episode
        current.finishing = True
        try:
            size = current.writer.finish(self._metadata(current, warning), self._configuration)
        except EpisodeFileError as error:
            self._break_off(str(error))
            return
        self._current = None
        self._report(
            Report(
                episode.episode_id,
                durable=True,
                label=episode.label,
                path=str(current.writer.path),
                messages=current.writer.messages,
                bytes=size,
                warning=warning,
            )
        )

    def _metadata(self, current: _Recording, warning: str) -> dict[str, str]:
        episode = current.episode
        facts = {
            "task": episode.task,
            "episode_id": episode.episode_id,
            "seed": episode.seed,
            "purpose": Purpose(episode.purpose).name.lower(),
            "driver": Driver(episode.driver).name.lower(),
            "critical_driver": Driver(episode.critical_driver).name.lower(),
            "label": Label(episode.label).name.lower(),
            "reason": episode.reason,
            "start_in": episode.start_in,
            "explore": str(episode.explore).lower(),
            "execute_steps": episode.execute_steps,
            "handoff_step": episode.handoff_step,
            "actor_version": episode.actor_version,
            "steps": len(current.steps),
            "vla_hash": "",
            **current.vla_facts,
            "intervened": str(current.intervened).lower(),
            "warning": warning,
        }
        return {**self._facts, **{key: str(value) for key, value in facts.items()}}
