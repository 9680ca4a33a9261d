"""What a played-back episode answers, as plain data: what another checkpoint did, what jumped, what was late, what the
limits would have stopped. The terminal and the page both show this.

A value is unusual when it is further from the episode's median than `UNUSUAL` times the standard deviation that the
median absolute deviation stands for (1.4826 MAD), and by a floor besides, below which nobody cares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlt_bringup.replay_nodes import Played
from rlt_bringup.replay_plan import TOLERANCE, Comparison, Recording, Row, compare, critical
from rlt_bringup.replay_source import Replay
from rlt_common import topics
from rlt_common.codecs import blocks_from_msg, stamp_ns
from rlt_common.config import RobotConfig
from rlt_control.limit_check import LimitCheck, Verdict, gaps
from rlt_msgs.msg import ActionChunk, ExecutedAction, VlaOutput
from rlt_rl_node.chunk_value import ChunkValue

UNUSUAL, SIGMA = 5.0, 1.4826
FEWEST = 5
"""Chunks, below which nothing is called unusual."""
DISTANCE_FLOOR, Q_FLOOR, TIME_FLOOR_S = 0.05, 0.01, 0.005
SAME_CLOCK_S = 3600.0
"""Stamps and times of sending further apart are of two clocks: a simulation's, and the machine's."""
STAGES = {
    "camera": "from the stamp to the observation",
    "vla wait": "from the observation until the VLA began",
    "vla": "inference",
    "policy": "from the output to the chunk",
    "transport": "from the chunk to its first step",
}
"""Where the time of a chunk goes, in order; "vla wait" holds the way there and what the VLA was still busy with."""


def answer(replay: Replay, played: Played) -> dict[str, Any]:
    """Everything that is known of one episode, for JSON."""
    recording = replay.recording
    judgement, notes = replay.judgement, list(replay.notes)
    now = {output.runtime for output in played.outputs.values()}
    if judgement.tolerance is None and recording.runtimes and recording.runtimes != now:
        judgement = dataclasses.replace(judgement, tolerance=TOLERANCE)
        notes.append(
            f"recorded on {' and '.join(sorted(recording.runtimes))}, played on {' and '.join(sorted(now))}: the same "
            f"within {TOLERANCE:g}, not to the last bit"
        )
    comparison = compare(recording, played.outputs, played.strided, played.chunks, judgement)
    if not comparison.equal and not recording.runtimes and judgement.tolerance is None:
        notes.append("the file does not say what it was recorded on; elsewhere the last bits differ: --tolerance")
    notes += comparison.notes
    chunks = _chunks(replay, played)
    return {
        "bag": str(replay.bag),
        "episode_id": recording.episode_id,
        "task": replay.facts.get("task", replay.task.name),
        "robot": replay.robot.name,
        "label": replay.facts.get("label", ""),
        "vla_hash": ", ".join(sorted(recording.vla_hashes)),
        "actor_version": judgement.actor_version,
        "another_vla": judgement.another_vla,
        "another_actor": judgement.another_actor,
        "runtime": {"recorded": sorted(recording.runtimes), "played": sorted(now)},
        "tolerance": judgement.tolerance,
        "equal": comparison.equal,
        "notes": notes,
        "seconds": played.seconds,
        "robot_seconds": recording.seconds,
        "components": components(replay.robot),
        "critics": list(replay.values),
        "messages": [dataclasses.asdict(row) for row in comparison.rows],
        "chunks": chunks,
        "late": _late(replay, chunks),
        "limits": _limits(replay, played),
        "rows": _rows(recording, played),
    }


def comparison_of(found: Mapping[str, Any]) -> Comparison:
    """The comparison inside :func:`answer`."""
    return Comparison([Row(**row) for row in found["messages"]], found["notes"])


def components(robot: RobotConfig) -> list[str]:
    """A name for each component of the robot's actions, with its unit."""
    names = []
    for arm in robot.arms:
        if robot.actions == "joints":
            names += [*(f"{joint} (rad)" for joint in arm.joints), f"{arm.gripper} (m)"]
        else:
            names += [f"{arm.name} {axis} ({unit})" for axis, unit in zip("xyz", "mmm", strict=True)]
            names += [f"{arm.name} r{axis} (rad)" for axis in "xyz"] + [f"{arm.name} gripper (m)"]
    return names


def unusual(values: Sequence[float | None], floor: float) -> list[bool]:
    """Which values are further from the median than the module's rule allows; None never is."""
    known = np.array([value for value in values if value is not None], float)
    if len(known) < FEWEST:
        return [False] * len(values)
    middle = float(np.median(known))
    allowed = max(UNUSUAL * SIGMA * float(np.median(np.abs(known - middle))), floor)
    return [value is not None and abs(value - middle) > allowed for value in values]


def jumps(values: Sequence[float | None], floor: float) -> list[bool]:
    """Which values differ unusually from the known one before them."""
    differences: list[float | None] = []
    last: float | None = None
    for value in values:
        differences.append(None if value is None or last is None else value - last)
        last = value if value is not None else last
    return unusual(differences, floor)


def _matrix(chunk: ActionChunk, values: Sequence[float]) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(chunk.rows, chunk.action_dim)


# ---- chunks: distance, Q, and what came back


def _chunks(replay: Replay, played: Played) -> list[dict[str, Any]]:
    """One entry per recorded chunk, in order of its steps."""
    recording = replay.recording
    begins, found = recording.first_step_of, []
    for request_id, step in sorted(recording.boundary_step_of.items(), key=lambda item: item[1]):
        chunk = recording.chunks[request_id]
        output, again = recording.boundaries.get(request_id), played.chunks.get(request_id)
        entry = {
            "request_id": request_id,
            "observation_id": chunk.observation_id,
            "step": step,
            "first_step": begins[request_id],
            "time_s": (stamp_ns(chunk.header.stamp) - recording.begin_ns) * 1e-9,
            "critical": critical(recording, chunk.epoch),
            "policy_version": chunk.policy_version,
            "distance": float(chunk.reference_distance),
            "distance_played": float(again.reference_distance) if again else None,
            "q": {name: _q(value, output, chunk) for name, value in replay.values.items()},
            "q_reference": {name: _q(value, output, chunk, reference=True) for name, value in replay.values.items()},
            "q_played": {
                name: _q(value, played.outputs.get(request_id), again) for name, value in replay.values.items()
            },
            **_difference(replay, chunk, again),
        }
        found.append(entry)
    refined = [entry for entry in found if entry["critical"]]
    leaps = {"|pi - reference|": jumps([entry["distance"] for entry in refined], DISTANCE_FLOOR)}
    for name in replay.values:
        leaps[f"Q of {name}"] = jumps([entry["q"][name] for entry in refined], Q_FLOOR)
    for i, entry in enumerate(refined):
        entry["jumps"] = [what for what, flags in leaps.items() if flags[i]]
    return found


def _q(value: ChunkValue, output: VlaOutput | None, chunk: ActionChunk | None, reference: bool = False) -> float | None:
    """Q of a chunk in the state that its observation showed; None where the critics do not know it."""
    if output is None or chunk is None or output.vla_hash != value.vla_hash:
        return None
    try:
        rows = _matrix(chunk, chunk.reference if reference else chunk.actions)
        return value.of(np.asarray(output.rl_token, np.float32), np.asarray(output.rl_state, np.float32), rows)
    except ValueError:
        return None


def _difference(replay: Replay, chunk: ActionChunk, again: ActionChunk | None) -> dict[str, Any]:
    """Played minus recorded over the rows that both have: per row in spreads, per component in robot units."""
    if again is None or again.action_dim != chunk.action_dim:
        return {"difference": None, "difference_rows": [], "largest": None}
    rows = min(chunk.rows, again.rows)
    apart = _matrix(again, again.actions)[:rows] - _matrix(chunk, chunk.actions)[:rows]
    scaled = np.sqrt(np.mean((apart / replay.spread) ** 2, axis=1))
    column = int(np.argmax(np.abs(apart / replay.spread).max(axis=0)))
    row = int(np.argmax(np.abs(apart[:, column])))
    return {
        "difference": float(np.sqrt(np.mean(scaled**2))),
        "difference_rows": scaled.tolist(),
        "largest": {"component": column, "row": row, "value": float(apart[row, column])},
    }


def _rows(recording: Recording, played: Played) -> dict[str, Any]:
    """Recorded, played and reference actions by control step, as far as each chunk was in play; and what was sent."""
    order = sorted(recording.first_step_of.items(), key=lambda item: item[1])
    ends = [begin for _, begin in order[1:]] + [2**31]
    steps: list[int] = []
    recorded: list[list[float]] = []
    reference: list[list[float]] = []
    again: list[list[float] | None] = []
    for (request_id, begin), end in zip(order, ends, strict=True):
        chunk, answer_ = recording.chunks[request_id], played.chunks.get(request_id)
        count = max(0, min(chunk.rows, end - begin))
        steps += range(begin, begin + count)
        recorded += _matrix(chunk, chunk.actions)[:count].tolist()
        reference += _matrix(chunk, chunk.reference)[:count].tolist()
        rows = _matrix(answer_, answer_.actions)[:count].tolist() if answer_ else []
        again += [*rows, *[None] * (count - len(rows))]
    return {
        "steps": steps,
        "recorded": recorded,
        "reference": reference,
        "played": again,
        "executed": {
            "steps": [executed.step for executed in recording.executed],
            "source": [executed.source for executed in recording.executed],
            "action": [list(map(float, executed.action)) for executed in recording.executed],
        },
    }


# ---- what was late


def _late(replay: Replay, chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where the time of each chunk went, and who was to blame for those that came too late."""
    recording = replay.recording
    sent = bool(recording.published_ns)
    entries = [_timing(recording, chunk) for chunk in chunks]
    for stage in STAGES:
        flags = unusual([entry["stages"][stage] for entry in entries], TIME_FLOOR_S)
        for entry, flag in zip(entries, flags, strict=True):
            if flag:
                entry["unusual"].append(stage)
    middle = {stage: _median([entry["stages"][stage] for entry in entries]) for stage in STAGES}
    for entry in entries:
        entry["late"] = bool(entry["trimmed"] or entry["held"])
        entry["blame"] = (_blame(entry, middle) if sent else "not recorded") if entry["late"] else ""
    skews = [max(map(abs, o.image_skew_s), default=0.0) for o in recording.observations.values()]
    return {
        "timed": sent,
        "one_clock": sent and _same_clock(recording),
        "stages": STAGES,
        "median_s": middle,
        "largest_skew_s": max(skews, default=0.0),
        "chunks": entries,
    }


def _timing(recording: Recording, chunk: Mapping[str, Any]) -> dict[str, Any]:
    request_id, observation_id = chunk["request_id"], chunk["observation_id"]
    message = recording.chunks[request_id]
    sent = recording.published_ns
    first = next((e for e in recording.executed if e.chunk_id == request_id), None)
    observed = sent.get((topics.OBSERVATION, observation_id))
    encoded = sent.get((topics.VLA_OUTPUT, request_id))
    answered = sent.get((topics.ACTION_CHUNK, request_id))
    started = sent.get((topics.EXECUTED_ACTION, first.step)) if first else None
    output = recording.boundaries.get(request_id)
    inference = float(output.inference_s) if output and output.inference_s > 0 else None
    whole = _between(observed, encoded)
    camera = _between(stamp_ns(message.header.stamp), observed)
    due = chunk["first_step"]
    begun = first.step if first else due + message.rows
    held = [
        e
        for e in recording.executed
        if e.source == ExecutedAction.SOURCE_HOLD and due <= e.step < begun and e.epoch == message.epoch
    ]
    observation = recording.observations.get(observation_id)
    # A chunk that is asked for ahead waits for its turn: only what it came late is the way's.
    late = held or (first is not None and first.row > 0)
    in_time = message.first_step > message.boundary_step and not late
    return {
        "step": chunk["step"],
        "time_s": chunk["time_s"],
        "request_id": request_id,
        "skew_s": max(map(abs, observation.image_skew_s), default=0.0) if observation else None,
        "stages": {
            "camera": camera if camera is not None and abs(camera) < SAME_CLOCK_S else None,
            "vla wait": None if whole is None else whole - (inference or 0.0),
            "vla": inference,
            "policy": _between(encoded, answered),
            "transport": None if in_time else _between(answered, started),
        },
        "delay_s": float(first.delay_s) if first else None,
        "played": first is not None,
        "trimmed": int(first.row) if first else 0,
        "held": len(held),
        "unusual": [],
    }


def _between(begin: int | None, end: int | None) -> float | None:
    return None if begin is None or end is None else (end - begin) * 1e-9


def _same_clock(recording: Recording) -> bool:
    return any(
        abs(sent - observation_id) * 1e-9 < SAME_CLOCK_S
        for (topic, observation_id), sent in recording.published_ns.items()
        if topic == topics.OBSERVATION
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _blame(entry: Mapping[str, Any], middle: Mapping[str, float | None]) -> str:
    """The stage that took longest beyond what it usually takes; where all were as usual, the longest one."""
    known = {stage: seconds for stage, seconds in entry["stages"].items() if seconds is not None}
    if not known:
        return "not known"
    excess = {stage: seconds - (middle[stage] or 0.0) for stage, seconds in known.items()}
    worst = max(excess, key=excess.__getitem__)
    return worst if excess[worst] > TIME_FLOOR_S else f"{max(known, key=known.__getitem__)}, as always"


# ---- limits


def _limits(replay: Replay, played: Played) -> dict[str, Any]:
    """Every executed step, and the rows of chunks that came back otherwise, through the limits of the robot file."""
    recording, robot = replay.recording, replay.robot
    check = LimitCheck(robot)
    measured = _Measured(recording)
    begin_ns, steps = recording.begin_ns, []
    before: ExecutedAction | None = None
    for executed in recording.executed:
        q = measured.at(stamp_ns(executed.header.stamp))
        # After a pause, at the start and after a step by hand, motion begins where the arms are measured to be.
        joined = before is not None and before.step + 1 == executed.step and before.epoch == executed.epoch
        start = np.asarray(before.joint_target, np.float64) if joined and len(before.joint_target) else q
        before = executed
        if start is None or not len(executed.commanded):
            continue
        verdict = check.step(np.asarray(executed.commanded, np.float64), start, start if q is None else q)
        if verdict.held or verdict.clamped.any() or any(executed.clamped):
            time_s = (stamp_ns(executed.header.stamp) - begin_ns) * 1e-9
            entry = {"step": executed.step, "time_s": time_s, "source": executed.source}
            steps.append({**entry, "recorded": bool(any(executed.clamped)), **_verdict(verdict)})
    targets = {e.step: np.asarray(e.joint_target, np.float64) for e in recording.executed if len(e.joint_target)}
    chunks = []
    for request_id, begin in sorted(recording.first_step_of.items(), key=lambda item: item[1]):
        chunk, again = recording.chunks[request_id], played.chunks.get(request_id)
        if again is None or again.actions == chunk.actions:
            continue  # what was played of it has been judged already
        start = targets.get(begin - 1, measured.at(stamp_ns(chunk.header.stamp)))
        if start is None or again.action_dim != check.action_dim:
            continue
        verdicts = check.chunk(_matrix(again, again.actions), start)
        cut = [v for v in verdicts if v.held or v.clamped.any()]
        if cut:
            names = sorted({name for v in cut for name in v.limits})
            stopped = sum(v.stopped for v in cut)
            chunks.append({"step": begin, "rows": len(cut), "stopped": stopped, "limits": names})
    waits = gaps([stamp_ns(e.header.stamp) for e in recording.executed], robot.state_timeout_s)
    skewed = [
        o
        for o in recording.observations.values()
        if max(map(abs, o.image_skew_s), default=0.0) > robot.camera_tolerance_s
    ]
    names = sorted({name for step in steps for name in step["limits"]})
    return {
        "robot": robot.name,
        "executed": len(recording.executed),
        "steps": steps,
        "by_limit": {name: sum(name in step["limits"] for step in steps) for name in names},
        "clamped": sum(bool(step["limits"]) for step in steps),
        "clamped_when_recorded": sum(step["recorded"] for step in steps),
        "held": sum(bool(step["held"]) for step in steps),
        "stopped": sum(step["stopped"] for step in steps),
        "chunks": chunks,
        "gaps": [{"step": recording.executed[i].step, "seconds": seconds} for i, seconds in waits],
        "skewed_observations": len(skewed),
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    worst = int(np.argmax(np.abs(verdict.applied - verdict.requested)))
    return {
        "held": verdict.held,
        "limits": dict(verdict.limits),
        "stopped": verdict.stopped,
        "component": worst,
        "requested": float(verdict.requested[worst]),
        "applied": float(verdict.applied[worst]),
    }


class _Measured:
    """Measured joints at any time: as observed, and on a line between two observations."""

    def __init__(self, recording: Recording) -> None:
        known = []
        for observation in recording.observations.values():
            q = blocks_from_msg(observation).get("joint_position")
            if q is not None:
                known.append((stamp_ns(observation.header.stamp), np.asarray(q, np.float64)))
        known.sort(key=lambda entry: entry[0])
        self._stamps = np.array([stamp for stamp, _ in known], np.int64)
        self._q = np.array([q for _, q in known])

    def at(self, stamp: int) -> np.ndarray | None:
        """(n,) joints; None where nothing was observed."""
        if not len(self._stamps):
            return None
        return np.array([np.interp(stamp - self._stamps[0], self._stamps - self._stamps[0], c) for c in self._q.T])
