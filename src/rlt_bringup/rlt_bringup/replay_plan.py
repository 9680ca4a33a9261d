"""Playing one recorded episode back: in which order, and how what comes back is compared. No ROS but its messages.

What the VLA node and the policy node answered once, they must answer again: a boundary observation bit for bit, since
it runs alone and its noise is seeded from run seed, episode and observation; strided observations, which run in
batches, within TOLERANCE. On another processor, GPU or version of PyTorch all are held to TOLERANCE. What another VLA
or another actor answers is compared and not judged. Chunk requests are not recorded: each is rebuilt from its answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlt_common import topics
from rlt_common.codecs import stamp_ns
from rlt_common.episode_file import Entry
from rlt_msgs.msg import ActionChunk, ChunkRequest, ControlState, EpisodeState, ExecutedAction, Observation, VlaOutput

TOPICS = (
    topics.OBSERVATION,
    topics.VLA_OUTPUT,
    topics.ACTION_CHUNK,
    topics.EXECUTED_ACTION,
    topics.EPISODE_STATE,
)
TOLERANCE = 1e-4
"""Largest absolute difference of a value: of z_rl, which is about 1, and of actions in m or rad per control step."""
BOUNDARY, STRIDED, CHUNK = "vla_output, boundary", "vla_output, strided", "action_chunk"
_MOVING = (EpisodeState.PHASE_BASE, EpisodeState.PHASE_CRITICAL)
_OUTPUT_ARRAYS = ("rl_token", "rl_state", "reference")
_CHUNK_ARRAYS = ("actions", "reference")
_LINES = 20


class ReplayError(RuntimeError):
    """An episode that cannot be played back; says why and what to do."""


@dataclass(frozen=True)
class Recording:
    """What matters of one episode file, each part in order of its stamps."""

    episode_id: int
    observations: Mapping[int, Observation]
    """By observation id."""
    boundaries: Mapping[int, VlaOutput]
    """By request id."""
    strided: Mapping[int, VlaOutput]
    """By observation id."""
    chunks: Mapping[int, ActionChunk]
    """By request id."""
    executed: Sequence[ExecutedAction]
    states: Sequence[EpisodeState]
    published_ns: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """When each message was sent, ns, by the clock of its machine: by topic and observation, request, chunk or step.
    Without an entry nothing recorded it."""

    @property
    def begin_ns(self) -> int:
        """Stamp of the first control step, or of the first observation."""
        return stamp_ns(self.executed[0].header.stamp) if self.executed else min(self.observations, default=0)

    @property
    def seconds(self) -> float:
        """Robot time between the first control step and the last."""
        stamps = [stamp_ns(executed.header.stamp) for executed in self.executed]
        return (max(stamps) - min(stamps)) * 1e-9 if stamps else 0.0

    @property
    def vla_hashes(self) -> set[str]:
        """Hashes of the VLAs that answered: one, unless the recording is not of one run."""
        return {output.vla_hash for output in (*self.boundaries.values(), *self.strided.values())}

    @property
    def runtimes(self) -> set[str]:
        """What the VLA was computed with; empty for a recording that does not say."""
        return {output.runtime for output in self.boundaries.values() if output.runtime}

    @property
    def step_of(self) -> dict[int, int]:
        """Control step of each observation, as far as anything says it."""
        steps = {self.chunks[i].observation_id: step for i, step in self.boundary_step_of.items()}
        return steps | {stamp_ns(executed.header.stamp): executed.step for executed in self.executed}

    @property
    def first_step_of(self) -> dict[int, int]:
        """Control step of row 0 of each chunk, by request id: as it was played, else as it was planned.

        On a robot's timer the executor moves a chunk to where its observation belongs.
        """
        planned = {request_id: chunk.first_step for request_id, chunk in self.chunks.items()}
        played = {e.chunk_id: e.step - e.row for e in self.executed if e.row >= 0 and e.chunk_id in planned}
        return planned | played

    @property
    def boundary_step_of(self) -> dict[int, int]:
        """Control step of each chunk's observation, by request id."""
        ahead = {request_id: chunk.first_step - chunk.boundary_step for request_id, chunk in self.chunks.items()}
        return {request_id: step - ahead[request_id] for request_id, step in self.first_step_of.items()}

    @property
    def policy_versions(self) -> set[int]:
        """Actor versions that refined a chunk."""
        return {chunk.policy_version for chunk in self.chunks.values() if chunk.policy_version}


@dataclass(frozen=True)
class Publish:
    """Step of a plan: publish a message."""

    topic: str
    message: Any
    at_ns: int = 0
    """When it was, on the robot's clock; 0: at once."""


@dataclass(frozen=True)
class Await:
    """Step of a plan: publish this request, repeat it now and then, until its answers have come."""

    request: ChunkRequest
    chunk: bool
    """Whether the policy node can answer too."""


@dataclass(frozen=True)
class Row:
    """One recorded message beside the one that came back."""

    kind: str
    observation_id: int
    step: int
    """Control step of the observation; -1 when nothing says it."""
    equal: bool
    """Bit for bit."""
    max_difference: float | None
    """Largest absolute difference of a value, robot units for actions; None: nothing came back that compares."""
    within: bool
    """Equal, or as close as this kind has to be; of what is not judged, that it came back."""
    judged: bool = True
    """Whether it has to be the same: what another VLA or another actor answers does not."""


@dataclass(frozen=True)
class Judgement:
    """How what comes back is compared.

    Attributes:
        actor_version: version under which the actor at hand answers, 0 for none: chunks of other versions are left out.
        tolerance: largest difference that counts as the same, for everything; None: bit for bit, and strided
            outputs within TOLERANCE.
        another_vla: nothing is judged.
        another_actor: refined chunks are not judged.
        rl_drives: the actor also refines what the VLA drove in the CRITICAL phase.
    """

    actor_version: int
    tolerance: float | None = None
    another_vla: bool = False
    another_actor: bool = False
    rl_drives: bool = False


@dataclass(frozen=True)
class Comparison:
    """All messages of an episode, and what was left out and why."""

    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def equal(self) -> bool:
        """Whether everything came back as it has to."""
        return all(row.within for row in self.rows)


def gather(entries: Iterable[Entry], episode_id: int | None = None) -> Recording:
    """Sort the messages of an episode file. An answer that was repeated counts once.

    `episode_id` None takes the episode that most boundary outputs belong to. Raises ReplayError when there is nothing
    to answer.
    """
    found: dict[str, list[Any]] = {topic: [] for topic in TOPICS}
    sent: dict[int, int] = {}
    for entry in entries:
        found[entry.topic].append(entry.message)
        if entry.published_ns != entry.stamp_ns:
            sent[id(entry.message)] = entry.published_ns
    outputs = found[topics.VLA_OUTPUT]
    if episode_id is None:
        ids = [output.episode_id for output in outputs if output.is_boundary]
        episode_id = max(set(ids), key=ids.count, default=0)
    ours = {
        topic: sorted((m for m in messages if m.episode_id == episode_id), key=lambda m: stamp_ns(m.header.stamp))
        for topic, messages in found.items()
        if topic != topics.OBSERVATION
    }
    boundaries = {m.request_id: m for m in ours[topics.VLA_OUTPUT] if m.is_boundary}
    if not boundaries:
        raise ReplayError(
            "no boundary output of the VLA is recorded, so there is nothing to compare: is it a demonstration?"
        )
    states = [m for m in found[topics.EPISODE_STATE] if m.episode_id == episode_id and m.phase in _MOVING]
    if not states:
        raise ReplayError(f"no state of episode {episode_id} is recorded: neither phase nor driver is known")
    observations = sorted(found[topics.OBSERVATION], key=lambda m: m.observation_id)
    return Recording(
        episode_id=episode_id,
        observations={m.observation_id: m for m in observations},
        boundaries=boundaries,
        strided={m.observation_id: m for m in ours[topics.VLA_OUTPUT] if not m.is_boundary},
        chunks={m.chunk_id: m for m in ours[topics.ACTION_CHUNK]},
        executed=ours[topics.EXECUTED_ACTION],
        states=sorted(states, key=lambda m: m.epoch),
        published_ns={
            (topic, _key(topic, message)): sent[id(message)]
            for topic, messages in found.items()
            if topic != topics.EPISODE_STATE
            for message in reversed(messages)  # an answer that was repeated: when it was given first
            if id(message) in sent and (topic == topics.OBSERVATION or message.episode_id == episode_id)
        },
    )


def _key(topic: str, message: Any) -> int:
    if topic == topics.OBSERVATION:
        return message.observation_id
    if topic == topics.VLA_OUTPUT:
        return message.request_id or message.observation_id
    return message.chunk_id if topic == topics.ACTION_CHUNK else message.step


def plan(recording: Recording, judgement: Judgement) -> list[Publish | Await]:
    """What to publish in which order, so that both nodes see what they saw.

    Requests that another actor's version answered are put to the VLA alone. A state comes before the first request of
    its epoch, a request before its observation, a control step after the observation that it began with.
    """
    requests: dict[int, list[Await]] = {}
    for request_id, output in recording.boundaries.items():
        chunk = recording.chunks.get(request_id)
        awaited = Await(_request(output, chunk), chunk is not None and answerable(recording, chunk, judgement))
        requests.setdefault(output.observation_id, []).append(awaited)
    steps: list[tuple[int, int, list[Publish | Await]]] = []
    for observation_id, observation in recording.observations.items():
        at_ns = stamp_ns(observation.header.stamp)
        first, *others = requests.get(observation_id, [None])
        publish: list[Publish | Await] = [Publish(topics.OBSERVATION, observation, at_ns)]
        if first is not None:
            publish = [Publish(topics.CHUNK_REQUEST, first.request, at_ns), *publish, first, *others]
        steps.append((at_ns, 0, publish))
    for executed in recording.executed:
        at_ns = stamp_ns(executed.header.stamp)
        steps.append((at_ns, 1, [Publish(topics.EXECUTED_ACTION, executed, at_ns)]))
    ordered: list[Publish | Await] = []
    states = [_driven(state, judgement.rl_drives) for state in recording.states]
    for _, _, actions in sorted(steps, key=lambda step: step[:2]):
        for action in actions:
            epoch = _epoch(action)
            while states and epoch is not None and states[0].epoch <= epoch:
                ordered.append(Publish(topics.EPISODE_STATE, states.pop(0)))
            ordered.append(action)
    ordered.append(Publish(topics.CONTROL_STATE, _end(recording)))
    return ordered


def answerable(recording: Recording, chunk: ActionChunk, judgement: Judgement) -> bool:
    """Whether the policy node answers this chunk's request again: passed through, or by the actor at hand."""
    if judgement.rl_drives and critical(recording, chunk.epoch):
        return bool(judgement.actor_version)
    if chunk.policy_version == 0:
        return True
    return chunk.policy_version == judgement.actor_version


def critical(recording: Recording, epoch: int) -> bool:
    """Whether an epoch belongs to the CRITICAL phase."""
    before = [state for state in recording.states if state.epoch <= epoch]
    return bool(before) and before[-1].phase == EpisodeState.PHASE_CRITICAL


def unanswerable(recording: Recording) -> int:
    """Boundary outputs whose observation is not in the recording."""
    return sum(output.observation_id not in recording.observations for output in recording.boundaries.values())


def compare(
    recording: Recording,
    outputs: Mapping[int, VlaOutput],
    strided: Mapping[int, VlaOutput],
    chunks: Mapping[int, ActionChunk],
    judgement: Judgement,
) -> Comparison:
    """Recorded messages beside those that came back.

    Args:
        recording: the episode.
        outputs, chunks: what came back, by request id.
        strided: what came back, by observation id.
        judgement: as for :func:`plan`; chunks of other actors are left out, and it is said.
    """
    step_of, exact = recording.step_of, judgement.tolerance or 0.0
    loose = TOLERANCE if judgement.tolerance is None else judgement.tolerance
    judged = not judgement.another_vla
    rows = []
    for request_id, output in recording.boundaries.items():
        rows.append(_row(BOUNDARY, output, outputs.get(request_id), _OUTPUT_ARRAYS, step_of, exact, judged))
    for observation_id, output in recording.strided.items():
        rows.append(_row(STRIDED, output, strided.get(observation_id), _OUTPUT_ARRAYS, step_of, loose, judged))
    left_out: dict[int, int] = {}
    for request_id, chunk in recording.chunks.items():
        if answerable(recording, chunk, judgement):
            refined = chunk.policy_version != 0 or (judgement.rl_drives and critical(recording, chunk.epoch))
            same = judged and not (refined and judgement.another_actor)
            rows.append(_row(CHUNK, chunk, chunks.get(request_id), _CHUNK_ARRAYS, step_of, exact, same))
        else:
            left_out[chunk.policy_version] = left_out.get(chunk.policy_version, 0) + 1
    version = judgement.actor_version
    notes = [
        f"{count} chunks of actor version {of} are left out: "
        + (f"the actor given is version {version}" if version else "no actor of that version was found")
        for of, count in left_out.items()
    ]
    missing = unanswerable(recording)
    if missing:
        notes.append(f"{missing} boundary outputs have no observation in the recording and were not played back")
    return Comparison(rows, notes)


def format_comparison(comparison: Comparison) -> str:
    """A table of each kind, the messages that differ, and the notes."""
    lines = [f"{'message':22}{'recorded':>10}{'came back':>11}{'bit for bit':>13}{'max difference':>16}"]
    for kind in (BOUNDARY, STRIDED, CHUNK):
        rows = [row for row in comparison.rows if row.kind == kind]
        if rows:
            back = [row.max_difference for row in rows if row.max_difference is not None]
            largest = f"{max(back):.3g}" if back else "none"
            equal = sum(row.equal for row in rows)
            lines.append(f"{kind:22}{len(rows):>10}{len(back):>11}{equal:>13}{largest:>16}")
    apart = [row for row in comparison.rows if not row.within]
    for row in apart[:_LINES]:
        what = "did not come back, or in another shape, or holds a value that is not finite"
        if row.max_difference is not None:
            what = f"differs by up to {row.max_difference:.3g}"
        lines.append(f"step {row.step}: {row.kind} of observation {row.observation_id} {what}")
    if len(apart) > _LINES:
        lines.append(f"... and {len(apart) - _LINES} more")
    return "\n".join([*lines, *(f"Note: {note}" for note in comparison.notes)])


def _request(output: VlaOutput, chunk: ActionChunk | None) -> ChunkRequest:
    request = ChunkRequest(
        episode_id=output.episode_id,
        epoch=output.epoch,
        request_id=output.request_id,
        not_before=output.header.stamp,
        first_step=output.anchor_row,
        anchor=output.anchor,
    )
    request.header.stamp = output.header.stamp
    if chunk is not None:
        request.boundary_step, request.first_step, request.rows = chunk.boundary_step, chunk.first_step, chunk.rows
    return request


def _end(recording: Recording) -> ControlState:
    """What the executor says when the episode is over: how many control steps there were."""
    last = recording.executed[-1] if recording.executed else None
    state = ControlState(
        episode_id=recording.episode_id,
        epoch=recording.states[-1].epoch,
        phase=EpisodeState.PHASE_LABELLED,
        step=last.step + 1 if last else 0,
    )
    if last:
        state.header.stamp = last.header.stamp
    return state


def _driven(state: EpisodeState, rl_drives: bool) -> EpisodeState:
    """The state as it was, or with RL as the driver of the CRITICAL phase."""
    if not rl_drives or state.phase != EpisodeState.PHASE_CRITICAL:
        return state
    changed = {name: getattr(state, name) for name in state.get_fields_and_field_types()}
    return EpisodeState(**{**changed, "driver": EpisodeState.DRIVER_RL})


def _epoch(action: Publish | Await) -> int | None:
    message = action.request if isinstance(action, Await) else action.message
    return message.epoch if isinstance(message, ChunkRequest | ExecutedAction) else None


def _row(
    kind: str,
    recorded: Any,
    replayed: Any,
    names: Sequence[str],
    step_of: Mapping[int, int],
    tolerance: float,
    judged: bool,
) -> Row:
    differences = [_difference(getattr(recorded, n), getattr(replayed, n)) for n in names] if replayed else [None]
    largest = None if None in differences else max(differences)
    equal = largest is not None and all(
        np.asarray(getattr(recorded, n)).tobytes() == np.asarray(getattr(replayed, n)).tobytes() for n in names
    )
    near = equal or (largest is not None and largest <= tolerance and tolerance > 0)
    return Row(
        kind=kind,
        observation_id=recorded.observation_id,
        step=step_of.get(recorded.observation_id, -1),
        equal=equal,
        max_difference=largest,
        within=near if judged else replayed is not None,
        judged=judged,
    )


def _difference(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Largest absolute difference; None for unequal lengths or where it is not finite."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if a.shape != b.shape or not np.isfinite(a).all() or not np.isfinite(b).all():
        return None
    return float(np.abs(a - b).max(initial=0.0))
