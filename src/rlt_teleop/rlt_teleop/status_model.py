"""What an operator has to know, gathered from the messages of the graph. Pure: no ROS, no clock of its own.

Every `on_*` takes a message and, where age matters, the monotonic time it came; :meth:`StatusModel.snapshot` says how
things stand. Nothing here commands anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rlt_common.advice import Advice
from rlt_common.advice_rules import Severity
from rlt_common.health import ERROR, OK, WARN
from rlt_common.health_advice import HealthAdvisor
from rlt_msgs.msg import ControlState, EpisodeState, ExecutedAction, RecorderStatus, Relabel, TrainingStatus
from rlt_teleop.episode_machine import COUNT_OF, MOVING, Driver, Label, Phase, Purpose
from rlt_teleop.operator_actions import BUTTON

EXPECTED = (
    "camera_ingest",
    "vla",
    "rl_policy",
    "rl_learner",
    "chunk_executor",
    "episode_manager",
    "joy_operator",
    "recorder",
)
"""Nodes of a whole graph: they are shown even if they were never heard."""
SILENT_S = 3.0
"""Every node says how it is once a second: one that missed three is shown as silent."""
WINDOW = 20
"""Ended episodes over which the recent rates are taken."""
DROPS = ("dropped_", "refused_", "stale_", "unmatched_", "missed_")
"""Values in diagnostics that count what was lost, refused or late begin with one of these."""
LEVELS = {OK: "ok", WARN: "warn", ERROR: "error"}
DRIVERS = {
    ExecutedAction.SOURCE_HOLD: "nobody: the arms hold",
    ExecutedAction.SOURCE_VLA: "VLA",
    ExecutedAction.SOURCE_RL: "RL",
    ExecutedAction.SOURCE_HUMAN: "human",
}


@dataclass(frozen=True)
class NodeHealth:
    """A node as it last was on /diagnostics. `level`: ok, warn, error, silent, or unheard: never seen."""

    name: str
    level: str
    message: str


@dataclass(frozen=True)
class Snapshot:
    """How things stand. Rates are None as long as there is nothing to take them of."""

    task: str = ""
    phase: Phase | None = None
    purpose: str = ""
    episode_id: int = 0
    epoch: int = 0
    reason: str = ""
    driver: str = "unknown: no word from the executor"
    hold_reason: str = ""
    estop: bool = False
    step: int = 0
    label: Label = Label.NONE
    confirmation: int = EpisodeState.CONFIRMATION_DONE
    """EpisodeState.CONFIRMATION_* of `label`."""
    episodes: int = 0
    successes: int = 0
    labels: Mapping[str, int] = field(default_factory=dict)
    """Of the run's confirmed episodes, those of earlier starts included: label -> count."""
    recent_success_rate: float | None = None
    """Of the newest confirmed ones that ended while this was watching."""
    intervention_rate: float | None = None
    """Share of the run's confirmed episodes in which a human took over."""
    relabelling: int = 0
    waiting_for: str = ""
    reminders: int = 0
    """Times the operator was reminded of it."""
    buttons: Mapping[str, str] = field(default_factory=dict)
    """Operator's action -> what is written on its button, as joy_operator says; empty before it was heard."""
    recorder_error: str = ""
    training: TrainingStatus | None = None
    drops: Mapping[str, int] = field(default_factory=dict)
    """ "node: what" -> count, where it is not 0."""
    health: tuple[NodeHealth, ...] = ()
    advice: tuple[Advice, ...] = ()
    """On the running graph, then the learner's on learning; warnings first in either."""

    @property
    def success_rate(self) -> float | None:
        """Over all ended episodes of the run."""
        return self.successes / self.episodes if self.episodes else None

    @property
    def moving(self) -> bool:
        """Whether the arms may move."""
        return self.phase in MOVING

    @property
    def troubles(self) -> tuple[NodeHealth, ...]:
        """The nodes that are not well."""
        return tuple(node for node in self.health if node.level not in ("ok", "unheard"))


class StatusModel:
    """Gathers messages. Unknown phases, labels and sources of a message are shown as unknown, never raised.

    Args:
        expected: nodes to show even if they were never heard.
        silent_s: a node that says nothing for so long is silent.
    """

    def __init__(self, expected: Iterable[str] = EXPECTED, silent_s: float = SILENT_S) -> None:
        self._silent_s = silent_s
        self._expected = tuple(expected)
        self._episode: EpisodeState | None = None
        self._control: ControlState | None = None
        self._training: TrainingStatus | None = None
        self._recorder: RecorderStatus | None = None
        self._labels: dict[int, Label] = {}  # of the episodes that ended meanwhile
        self._last_ended = 0
        self._buttons: dict[str, str] = {}
        self._nodes: dict[str, tuple[bytes, str, dict[str, str], float]] = {}
        self._advisor = HealthAdvisor()

    def on_episode(self, message: EpisodeState) -> None:
        """A state of the episode manager."""
        self._episode = message
        label = _known(Label, message.label)
        counts = message.confirmation == EpisodeState.CONFIRMATION_DONE
        if counts and label not in (None, Label.NONE) and message.episode_id > self._last_ended:
            self._last_ended = message.episode_id
            self._labels[message.episode_id] = label

    def on_relabel(self, message: Relabel) -> None:
        """A corrected label; of an episode that ended before this was watching it says nothing here."""
        label = _known(Label, message.label)
        if message.episode_id in self._labels and label is not None:
            self._labels[message.episode_id] = label

    def on_control(self, message: ControlState) -> None:
        """A state of the executor."""
        self._control = message

    def on_training(self, message: TrainingStatus) -> None:
        """A state of the learner."""
        self._training = message

    def on_recorder(self, message: RecorderStatus) -> None:
        """The recorder's word about an episode file."""
        self._recorder = message

    def on_diagnostics(self, name: str, level: bytes, text: str, values: Mapping[str, str], now_s: float) -> None:
        """A node's health, heard at monotonic time `now_s`."""
        self._nodes[name] = (level, text, dict(values), now_s)
        self._advisor.update(name, values)
        named = {key.removeprefix(BUTTON): value for key, value in values.items() if key.startswith(BUTTON)}
        self._buttons = named or self._buttons

    def snapshot(self, now_s: float) -> Snapshot:
        """How things stand at monotonic time `now_s`."""
        episode, control = self._episode, self._control
        facts: dict[str, object] = {
            "training": self._training,
            "recorder_error": self._recorder.error if self._recorder else "",
            "buttons": self._buttons,
            "drops": self._drops(),
            "health": self._health(now_s),
            "advice": (*self._advisor.advice(), *_on_learning(self._training)),
        }
        if recent := list(self._labels)[-WINDOW:]:
            facts["recent_success_rate"] = sum(self._labels[i] == Label.SUCCESS for i in recent) / len(recent)
        if episode is not None:
            purpose = _known(Purpose, episode.purpose)
            facts |= {
                "task": episode.task,
                "phase": _known(Phase, episode.phase),
                "purpose": purpose.name.lower() if purpose is not None else "unknown",
                "episode_id": episode.episode_id,
                "epoch": episode.epoch,
                "reason": episode.reason,
                "label": _known(Label, episode.label) or Label.NONE,
                "confirmation": episode.confirmation,
                "labels": {
                    label.name.lower(): count for label, name in COUNT_OF.items() if (count := getattr(episode, name))
                },
                "intervention_rate": episode.interventions / episode.episodes if episode.episodes else None,
                "episodes": episode.episodes,
                "successes": episode.successes,
                "relabelling": episode.relabelling,
                "waiting_for": episode.waiting_for,
                "reminders": episode.reminders,
            }
        if control is not None:
            facts |= {
                "driver": DRIVERS.get(control.source, f"unknown source {control.source}"),
                "hold_reason": control.hold_reason,
                "estop": control.estop,
                "step": control.step,
            }
            moving = episode is not None and _known(Phase, episode.phase) in MOVING
            if moving and control.hold_reason and episode.driver == Driver.HUMAN:
                facts["driver"] = "human: nobody holds the enable button"
        return Snapshot(**facts)

    def _health(self, now_s: float) -> tuple[NodeHealth, ...]:
        found = []
        unheard = [name for name in self._expected if not any(_is(name, full) for full in self._nodes)]
        for name, (level, text, _, heard_s) in sorted(self._nodes.items()):
            age = now_s - heard_s
            if age > self._silent_s:
                found.append(NodeHealth(name, "silent", f"no word for {age:.0f} s; last: {text}"))
            else:
                found.append(NodeHealth(name, LEVELS.get(level, "error"), text))
        return (*found, *(NodeHealth(name, "unheard", "not seen yet") for name in unheard))

    def _drops(self) -> dict[str, int]:
        found = {}
        for name, (_, _, values, _) in sorted(self._nodes.items()):
            for key, value in values.items():
                if key.startswith(DROPS) and value.isdecimal() and int(value):
                    found[f"{name}: {key.replace('_', ' ')}"] = int(value)
        return found


def _on_learning(training: TrainingStatus | None) -> list[Advice]:
    return [
        Advice(told.rule, told.text, told.why, _known(Severity, told.severity) or Severity.NOTE)
        for told in (training.advice if training else ())
    ]


def _is(name: str, full: str) -> bool:
    """Whether a node's full name, in whatever namespace, is this one."""
    return full.rpartition("/")[2] == name


def _known(kind: type, value: int):
    try:
        return kind(value)
    except ValueError:
        return None
