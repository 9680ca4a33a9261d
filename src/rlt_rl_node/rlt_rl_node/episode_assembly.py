"""Collects what the graph says about an episode until the learner can take it in. No ROS, no clock.

Live messages and journalled ones come in through the same methods, in any order and any number of times, so both give
the same EpisodeData. An observation belongs to the first control step executed at or after its stamp, within one
control period: the rule by which the VLA node chooses what to encode.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from rlt_rl_node.records import Encoded, EpisodeData, Label, RecordError, Step


@dataclass
class _Collected:
    """What is known of one episode so far."""

    train: bool = False
    left_out: bool = False
    label: Label = Label.NONE
    confirmed: bool = False  # the label counts
    handoff_step: int = 0
    end_epoch: int = 0  # epoch of the state that brought the label
    stopped: tuple[int, int] = (-1, 0)  # newest epoch in which the executor stood still, and its control steps then
    known: set[int] = field(default_factory=set)  # numbers of all executed steps, of any phase
    steps: dict[int, Step] = field(default_factory=dict)  # of the CRITICAL phase
    outputs: dict[int, Encoded] = field(default_factory=dict)  # by stamp


class EpisodeAssembly:
    """Episodes in the making. `period_ns`: control period; `stride`, `delay`: control steps, as the task says."""

    def __init__(self, period_ns: int, stride: int, delay: int) -> None:
        self._period_ns, self._stride, self._delay = period_ns, stride, delay
        self._episodes: dict[int, _Collected] = {}
        self._finished = 0

    def add_step(self, episode_id: int, critical: bool, step: Step) -> None:
        """An executed control step; only those of the CRITICAL phase are kept."""
        if episode := self._open(episode_id):
            episode.known.add(step.step)
            if critical:
                episode.steps.setdefault(step.step, step)

    def leave_out(self, episode_id: int) -> None:
        """Nothing of the episode is to be trained on, whatever else is said of it."""
        if episode := self._open(episode_id):
            episode.left_out = True

    def add_output(self, episode_id: int, output: Encoded) -> None:
        """An encoded observation. A boundary's own output replaces a strided one of the same observation."""
        if episode := self._open(episode_id):
            held = episode.outputs.get(output.stamp_ns)
            if held is None or (output.is_boundary and not held.is_boundary):
                episode.outputs[output.stamp_ns] = output

    def set_state(
        self, episode_id: int, epoch: int, train: bool, label: Label, handoff_step: int, confirmed: bool = True
    ) -> None:
        """The episode manager's word. A label, once there, is only replaced by another label.

        `confirmed`: the label counts, that is, the episode's file is durable; a discard needs none.
        """
        if episode := self._open(episode_id):
            episode.train, episode.handoff_step = train, handoff_step
            if episode.label is Label.NONE:
                episode.end_epoch = epoch
            if label is not Label.NONE:
                episode.label = label
                episode.confirmed |= confirmed or label is Label.DISCARD

    def relabel(self, episode_id: int, label: Label) -> None:
        """The label was corrected. Of an episode that is not here nothing is kept."""
        if episode := self._episodes.get(episode_id):
            episode.label = label

    def control_stopped(self, episode_id: int, epoch: int, total_steps: int) -> None:
        """The executor stands still in this epoch of the episode and has executed `total_steps` control steps in it."""
        if episode := self._open(episode_id):
            episode.stopped = max(episode.stopped, (epoch, total_steps))

    def labelled(self) -> list[int]:
        """Ids of episodes that have a label that counts, rising."""
        return sorted(i for i, episode in self._episodes.items() if episode.confirmed)

    def label(self, episode_id: int) -> Label:
        """The label it has now."""
        return self._episodes[episode_id].label

    def wanted(self, episode_id: int) -> bool:
        """Whether the episode is to be trained on."""
        episode = self._episodes[episode_id]
        return episode.train and episode.label.trainable and not episode.left_out

    def missing(self, episode_id: int) -> str:
        """What a labelled episode still lacks, in words; empty when it is complete."""
        episode = self._episodes[episode_id]
        epoch, total_steps = episode.stopped
        if epoch < episode.end_epoch:
            return "the executor's word that it has stopped"
        if words := _gaps(episode.known, episode.handoff_step, total_steps):
            return f"executed actions of {words}"
        joined = self._join(episode)
        if not episode.steps:
            return ""
        if not joined:
            return "every encoded observation"
        observed = sorted(joined)
        if lacking := [step for step in sorted(episode.steps) if self._lacks_observation(step, observed)]:
            return f"encoded observations of {len(lacking)} steps, the first {lacking[0]}"
        return ""

    def take(self, episode_id: int, robot: str = "") -> EpisodeData:
        """The labelled episode, `robot`'s, as far as it is known, and forget it. Raises RecordError for parts that do
        not fit."""
        episode = self._episodes[episode_id]
        self.forget(episode_id)
        steps = [episode.steps[i] for i in sorted(episode.steps)]
        joined = self._join(episode)
        encoded_steps = sorted(joined)
        outputs = [joined[i] for i in encoded_steps]
        return EpisodeData(
            episode_id=episode_id,
            label=episode.label,
            delay=self._delay,
            steps=np.array([s.step for s in steps], np.int64),
            sources=np.array([s.source for s in steps], np.uint8),
            actions=_stack([s.action for s in steps], 2),
            encoded_steps=np.array(encoded_steps, np.int64),
            boundary=np.array([o.is_boundary for o in outputs], np.bool_),
            rl_tokens=_stack([o.rl_token for o in outputs], 2),
            rl_states=_stack([o.rl_state for o in outputs], 2),
            references=_stack([o.reference for o in outputs], 3),
            robot=robot,
        )

    def forget(self, episode_id: int) -> None:
        """Drop this episode and all older ones; messages about them are ignored from now on."""
        self._finished = max(self._finished, episode_id)
        self._episodes = {i: episode for i, episode in self._episodes.items() if i > self._finished}

    def _open(self, episode_id: int) -> _Collected | None:
        if episode_id <= self._finished:
            return None
        return self._episodes.setdefault(episode_id, _Collected())

    def _lacks_observation(self, step: int, observed: list[int]) -> bool:
        """Whether one should belong to the step: one comes a stride after the other. `observed`: steps that have one.

        Jitter on a robot may move it, by less than another stride.
        """
        after = bisect_right(observed, step)
        if after == 0 or (step - observed[after - 1]) % self._stride or step == observed[after - 1]:
            return False
        return after == len(observed) or observed[after] >= step + self._stride

    def _join(self, episode: _Collected) -> dict[int, Encoded]:
        """Encoded observations by control step; the first of several wins, a boundary before all."""
        steps = [episode.steps[i] for i in sorted(episode.steps)]
        stamps = np.array([s.stamp_ns for s in steps], np.int64)
        joined: dict[int, Encoded] = {}
        for stamp_ns in sorted(episode.outputs):
            at = int(np.searchsorted(stamps, stamp_ns))
            if at == len(stamps) or stamps[at] - stamp_ns >= self._period_ns:
                continue
            held = joined.get(steps[at].step)
            if held is None or (episode.outputs[stamp_ns].is_boundary and not held.is_boundary):
                joined[steps[at].step] = episode.outputs[stamp_ns]
        return joined


def _gaps(known: set[int], begin: int, end: int) -> str:
    """Which of the steps begin .. end - 1 are not known, in words; takes no longer than there are known ones."""
    have = sorted(step for step in known if begin <= step < end)
    lacking = max(0, end - begin) - len(have)
    if lacking == 0:
        return ""
    first = next((i for i, step in enumerate(have, begin) if step != i), begin + len(have))
    return f"{lacking} steps, the first {first}"


def _stack(arrays: Iterable[np.ndarray], dims: int) -> np.ndarray:
    arrays = list(arrays)
    if not arrays:
        return np.zeros((0,) * dims, np.float32)
    if len({array.shape for array in arrays}) != 1:
        raise RecordError(f"an episode mixes shapes {sorted({array.shape for array in arrays})}")
    return np.stack(arrays).astype(np.float32, copy=False)
