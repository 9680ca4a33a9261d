"""Run directories with real episode files, made up to the value: for reports and comparisons."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.serialization import serialize_message

from rlt_common.codecs import to_time
from rlt_common.episode_file import EpisodeWriter
from rlt_msgs.msg import EpisodeState, ExecutedAction

PERIOD_NS = 20_000_000
SOURCES = {"vla": ExecutedAction.SOURCE_VLA, "rl": ExecutedAction.SOURCE_RL, "human": ExecutedAction.SOURCE_HUMAN}
BASE_STEPS = 4


@dataclass
class MadeEpisode:
    """What its file says. `human`, `held`, `clamped`: critical steps, by their number in the phase."""

    label: str = "success"
    critical: int = 20
    purpose: str = "train"
    driver: str = "rl"
    """Of the critical phase. With `critical` 0 the episode ended before the hand-off, and the VLA had driven."""
    seed: int = 0
    execute_steps: int = 0
    reason: str = "labelled by pad"
    warning: str = ""
    human: range = range(0)
    held: range = range(0)
    clamped: range = range(0)
    late_ns: dict[int, int] = field(default_factory=dict)
    """Critical step -> how much later than its period it came."""
    estop: str = ""
    health: list[tuple[str, bytes, str, dict[str, str]]] = field(default_factory=list)
    """Words on /diagnostics: node, level, message, values."""


def write_episode(
    folder: Path, number: int, episode: MadeEpisode, older: bool = False, reset: str = "service", **facts: str
) -> Path:
    """Write `folder`/<number>.mcap. `older`: without a `critical_driver`; `reset`: as the robot file says."""
    writer = EpisodeWriter(folder / f"{number:06d}.mcap")
    begin_ns = number * 1_000_000_000_000
    at_ns = begin_ns
    phases = [EpisodeState.PHASE_BASE] * BASE_STEPS + [EpisodeState.PHASE_CRITICAL] * episode.critical
    for step, phase in enumerate(phases):
        critical = step - BASE_STEPS
        at_ns += PERIOD_NS + episode.late_ns.get(critical, 0)
        source = SOURCES[episode.driver] if phase == EpisodeState.PHASE_CRITICAL else ExecutedAction.SOURCE_VLA
        source = ExecutedAction.SOURCE_HUMAN if critical in episode.human else source
        source = ExecutedAction.SOURCE_HOLD if critical in episode.held else source
        message = ExecutedAction(
            episode_id=number,
            step=step,
            phase=phase,
            source=source,
            clamped=[critical in episode.clamped, False],
            chunk_id=0 if source in (ExecutedAction.SOURCE_HOLD, ExecutedAction.SOURCE_HUMAN) else 1 + step // 10,
            delay_s=0.05 + 0.02 * (step % 10),
        )
        message.header.stamp = to_time(at_ns)
        writer.write("executed_action", "rlt_msgs/msg/ExecutedAction", serialize_message(message), at_ns)
    for node, level, text, values in episode.health:
        status = DiagnosticStatus(name=node, level=level, message=text)
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        array = DiagnosticArray(status=[status])
        array.header.stamp = to_time(at_ns)
        writer.write("diagnostics", "diagnostic_msgs/msg/DiagnosticArray", serialize_message(array), at_ns)
    if episode.estop:
        state = EpisodeState(episode_id=number, phase=EpisodeState.PHASE_ESTOP, reason=episode.estop)
        state.header.stamp = to_time(at_ns)
        writer.write("episode_state", "rlt_msgs/msg/EpisodeState", serialize_message(state), at_ns)
    about = {
        **{"task": "screw", "robot": "sim", "config_hash": "c0ffee00", "vla_hash": "abcd1234", "start_in": "full"},
        **{key: getattr(episode, key) for key in ("label", "purpose", "reason", "warning")},
        **{"driver": episode.driver if episode.critical else "vla", "critical_driver": episode.driver},
        **{"seed": str(episode.seed), "execute_steps": str(episode.execute_steps), "episode_id": str(number)},
        **{"handoff_step": str(BASE_STEPS if episode.critical else 0), "steps": str(len(phases)), "actor_version": "3"},
        "intervened": str(bool(episode.human)).lower(),
        **facts,
    }
    if older:
        del about["critical_driver"]
    writer.finish(
        about, {"robot": f"control_hz: 50.0\nreset: {reset}\n", "task": f"name: {about['task']}\nstride: 2\n"}
    )
    return writer.path


def write_run(run: Path, episodes: list[MadeEpisode], demonstrations: tuple[int, ...] = (), **facts: str) -> Path:
    """Write a run of these episodes, numbered from 1 on, and of demonstrations of so many critical steps."""
    run.mkdir(parents=True, exist_ok=True)
    for number, episode in enumerate(episodes, start=1):
        write_episode(run / "episodes", number, episode, **facts)
    for number, critical in enumerate(demonstrations, start=1):
        shown = MadeEpisode(critical=critical, purpose="collect", driver="human")
        write_episode(run / "demonstrations", number, shown, **facts)
    return run


def write_metrics(run: Path, episodes: list[MadeEpisode], **figures: list[float | None]) -> None:
    """metrics.jsonl of the training episodes among these; `figures`: columns."""
    with open(run / "metrics.jsonl", "w") as file:
        trained = [(n, e) for n, e in enumerate(episodes, start=1) if e.purpose == "train" and e.label != "discard"]
        for at, (number, episode) in enumerate(trained):
            stage = "warmup" if episode.driver == "vla" else "online"
            line = {"time": 1000.0 + number, "episode": number, "label": episode.label, "stage": stage}
            line |= {"critical_steps": episode.critical, "human_steps": len(episode.human), "held_steps": 0}
            file.write(json.dumps(line | {name: values[at] for name, values in figures.items()}) + "\n")


def write_checkpoint(run: Path, **agent: object) -> None:
    """A checkpoint's state.json with these settings of the agent."""
    folder = run / "checkpoints" / "final"
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "serial": 1,
        "counters": {"updates": 1234},
        "settings": {"seed": 3, "agent": {"beta": 0.001, **agent}},
        "sha256": {"actor.safetensors": "aa" * 32, "learner.safetensors": "bb" * 32},
        "torch": "2.0",
    }
    (folder / "state.json").write_text(json.dumps(state))
