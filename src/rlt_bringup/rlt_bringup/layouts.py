"""Layouts for Foxglove (or Lichtblick) and PlotJuggler, made from a robot file: its cameras, actions and namespace.

`ros2 run rlt_bringup layouts --robot my_robot.yaml --namespace cell_a --output DIR` writes both into DIR.
Those of the simulated robot are in config/foxglove and config/plotjuggler. Pure but for the command.
"""

from __future__ import annotations

import argparse
import json
import sys
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlt_common import topics
from rlt_common.atomic import write_atomic
from rlt_common.config import RobotConfig, config_file, load_robot
from rlt_common.parameters import ParameterError
from rlt_msgs.msg import EpisodeState, OperatorEvent
from rlt_teleop.views import POLICY, REFERENCE, camera_topic

VLA_COLOUR, POLICY_COLOUR, EXECUTED_COLOUR = "#f5871f", "#1f77b4", "#2ca02c"
RED, GREEN, GREY, BLUE = "#dc2626", "#059669", "#6b7280", "#2563eb"
SERIES = (
    ("reference", "VLA", VLA_COLOUR),
    ("commanded", "policy or human", POLICY_COLOUR),
    ("action", "executed", EXECUTED_COLOUR),
)
"""Fields of executed_action, (d,) each: one value over time is drawn from all three."""
BUTTONS = (
    ("next episode", OperatorEvent.EVENT_NEXT_EPISODE, BLUE),
    ("hand off", OperatorEvent.EVENT_HANDOFF, BLUE),
    ("success", OperatorEvent.EVENT_SUCCESS, GREEN),
    ("failure", OperatorEvent.EVENT_FAILURE, RED),
    ("discard", OperatorEvent.EVENT_DISCARD, GREY),
    ("undo", OperatorEvent.EVENT_UNDO, GREY),
)
LEARNING = ("q_mean", "reference_distance", "critic_loss", "update_debt")
"""Fields of training_status."""
LATENESS = ("late_p50_ms", "late_p99_ms", "late_max_ms", "held_ticks", "missed_ticks", "clamped_ticks")
"""What chunk_executor says in /diagnostics."""


def foxglove(robot: RobotConfig, namespace: str = "") -> dict[str, Any]:
    """The layout as Foxglove imports it: of a live graph, through foxglove_bridge, or of a file of `view_bag`."""
    layout = _Foxglove(namespace)
    cameras = [
        layout.panel("Image", camera.name, imageMode={"imageTopic": layout.name(camera_topic(camera.name))})
        for camera in robot.cameras
    ]
    states = layout.states(
        ("phase", topics.EPISODE_STATE, "phase"),
        ("source of the step", topics.EXECUTED_ACTION, "source"),
        ("human in control", topics.EPISODE_STATE, "human_in_control"),
        ("label", topics.EPISODE_STATE, "label"),
        ("learner", topics.TRAINING_STATUS, "stage"),
    )
    tabs = [("values", _grid([_value_plot(layout, i, name) for i, name in enumerate(robot.action_names)], 2))]
    tabs.append(("chunk", _grid([_chunk_plot(layout, i, name) for i, name in enumerate(robot.action_names)], 2)))
    tabs.append(("learning", _stack("column", [_field_plot(layout, field) for field in LEARNING])))
    distance = layout.plot("distance to the reference", [("chunk", f"{topics.ACTION_CHUNK}.reference_distance", BLUE)])
    actions = layout.panel(
        "Tab", "actions", activeTabIdx=0, tabs=[{"title": title, "layout": inside} for title, inside in tabs]
    )
    q = layout.plot("Q", [("mean TD target", f"{topics.TRAINING_STATUS}.q_mean", POLICY_COLOUR)])
    health = layout.panel(
        "DiagnosticSummary",
        "health",
        minLevel=0,
        pinnedIds=[],
        topicToRender=topics.DIAGNOSTICS,
        hardwareIdFilter="",
        sortByLevel=True,
    )
    left = _split("column", _stack("column", cameras), states, 72)
    right = _stack("column", [q, distance, health, _buttons(layout)])
    return {
        "configById": layout.panels,
        "globalVariables": {},
        "userNodes": {},
        "playbackConfig": {"speed": 1},
        "layout": _split("row", left, _split("row", actions, right, 68), 24),
    }


class _Foxglove:
    """Panels of a layout by their ids."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace.strip("/")
        self.panels: dict[str, dict[str, Any]] = {}

    def name(self, topic: str) -> str:
        return topic if topic.startswith("/") else "/".join(("", *filter(None, (self._namespace, topic))))

    def panel(self, kind: str, title: str, **config: Any) -> str:
        panel = f"{kind}!{title.replace(' ', '_').replace('.', '_')}"
        self.panels[panel] = {"foxglovePanelTitle": title, **config}
        return panel

    def plot(self, title: str, lines: Sequence[tuple[str, str, str]], x: str = "timestamp") -> str:
        """`lines`: (label, "topic.path", colour)."""
        return self.panel(
            "Plot",
            title,
            paths=[
                {
                    "value": self.name(path),
                    "enabled": True,
                    "timestampMethod": "receiveTime",
                    "label": label,
                    "color": colour,
                }
                for label, path, colour in lines
            ],
            xAxisVal=x,
            isSynced=x == "timestamp",
            showLegend=True,
            legendDisplay="floating",
            showPlotValuesInLegend=False,
            showXAxisLabels=True,
            showYAxisLabels=True,
            sidebarDimension=240,
        )

    def states(self, *lines: tuple[str, str, str]) -> str:
        return self.panel(
            "StateTransitions",
            "states",
            isSynced=True,
            paths=[
                {"value": f"{self.name(topic)}.{field}", "label": label, "timestampMethod": "receiveTime"}
                for label, topic, field in lines
            ],
        )

    def publish(self, text: str, topic: str, kind: str, message: dict[str, Any], colour: str) -> str:
        return self.panel(
            "Publish",
            text,
            topicName=self.name(topic),
            datatype=kind,
            value=json.dumps(message),
            advancedView=False,
            buttonText=text,
            buttonTooltip=f"publishes on {self.name(topic)}",
            buttonColor=colour,
        )

    def call(self, text: str, service: str, request: dict[str, Any], colour: str) -> str:
        return self.panel(
            "CallService",
            text,
            serviceName=self.name(service),
            requestPayload=json.dumps(request),
            layout="vertical",
            buttonText=text,
            buttonTooltip=f"calls {self.name(service)}",
            buttonColor=colour,
        )


def _value_plot(layout: _Foxglove, index: int, name: str) -> str:
    lines = [(label, f"{topics.EXECUTED_ACTION}.{field}[{index}]", colour) for field, label, colour in SERIES]
    return layout.plot(name, lines)


def _chunk_plot(layout: _Foxglove, index: int, name: str) -> str:
    lines = [("VLA", REFERENCE, VLA_COLOUR), ("policy", POLICY, POLICY_COLOUR)]
    paths = [(label, f"{topic}.points[:].positions[{index}]", colour) for label, topic, colour in lines]
    return layout.plot(f"chunk {name}", paths, x="index")


def _field_plot(layout: _Foxglove, field: str) -> str:
    return layout.plot(f"learner {field}", [(field, f"{topics.TRAINING_STATUS}.{field}", POLICY_COLOUR)])


def _buttons(layout: _Foxglove) -> Any:
    source = {"source": "foxglove"}
    pressed = [
        layout.publish(text, topics.OPERATOR_EVENT, "rlt_msgs/msg/OperatorEvent", {"event": event, **source}, colour)
        for text, event, colour in BUTTONS
    ]
    stop = layout.publish("EMERGENCY STOP", topics.ESTOP, "std_msgs/msg/Bool", {"data": True}, RED)
    evaluate = {"purpose": EpisodeState.PURPOSE_EVALUATE, "driver": EpisodeState.DRIVER_RL}
    called = [
        layout.call("release the stop", topics.SERVICE_RESET_ESTOP, {}, GREY),
        layout.call("start an evaluation", topics.SERVICE_START_EPISODE, evaluate, BLUE),
        layout.call("label", topics.SERVICE_LABEL_EPISODE, {"label": EpisodeState.LABEL_SUCCESS}, GREEN),
        layout.call("save a checkpoint", topics.SERVICE_SAVE_CHECKPOINT, {"name": ""}, GREY),
    ]
    tabs = [("operate", _stack("column", [stop, _grid(pressed, 3)])), ("call", _grid(called, 2))]
    return layout.panel(
        "Tab", "buttons", activeTabIdx=0, tabs=[{"title": title, "layout": inside} for title, inside in tabs]
    )


def _split(direction: str, first: Any, second: Any, percentage: float) -> dict[str, Any]:
    return {"direction": direction, "first": first, "second": second, "splitPercentage": percentage}


def _stack(direction: str, panels: Sequence[Any]) -> Any:
    """Panels of the same size, one beside or below the other."""
    if len(panels) == 1:
        return panels[0]
    return _split(direction, panels[0], _stack(direction, panels[1:]), round(100 / len(panels), 2))


def _grid(panels: Sequence[Any], columns: int) -> Any:
    return _stack("column", [_stack("row", panels[i : i + columns]) for i in range(0, len(panels), columns)])


def plotjuggler(robot: RobotConfig, namespace: str = "") -> str:
    """The layout as PlotJuggler 3 loads it, for episode files (as they are) and live topics."""
    prefix = "/".join(("", *filter(None, (namespace.strip("/"),))))
    executed, training = f"{prefix}/{topics.EXECUTED_ACTION}", f"{prefix}/{topics.TRAINING_STATUS}"
    executor = f"{topics.DIAGNOSTICS}/{'/'.join(filter(None, (namespace.strip('/'), 'chunk_executor')))}"
    root = xml.Element("root")
    tabbed = xml.SubElement(root, "tabbed_widget", name="Main Window", parent="main_window")
    first = 0
    for arm in robot.arms:
        width = (len(arm.joints) if robot.actions == "joints" else 6) + 1
        names = robot.action_names[first : first + width]
        curves = [[(f"{executed}/{field}[{first + i}]", colour) for field, _, colour in SERIES] for i in range(width)]
        _tab(tabbed, arm.name, list(zip(names, curves, strict=True)))
        first += width
    learning = [(field, [(f"{training}/{field}", POLICY_COLOUR)]) for field in LEARNING]
    learning.append(
        ("distance of each chunk", [(f"{prefix}/{topics.ACTION_CHUNK}/reference_distance", EXECUTED_COLOUR)])
    )
    _tab(tabbed, "learning", learning)
    state = f"{prefix}/{topics.EPISODE_STATE}"
    phases = [("phase", [(f"{state}/phase", BLUE)]), ("source", [(f"{executed}/source", POLICY_COLOUR)])]
    late = [(key, [(f"{executor}/{key}", RED)]) for key in LATENESS]
    _tab(tabbed, "phases and lateness", [*phases, *late])
    xml.SubElement(tabbed, "currentTabIndex", index="0")
    xml.SubElement(root, "use_relative_time_offset", enabled="1")
    xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml.tostring(root, encoding="unicode") + "\n"


def _tab(tabbed: xml.Element, name: str, plots: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
    """A tab of plots in two columns. `plots`: title, and (curve, colour) of each."""
    container = xml.SubElement(xml.SubElement(tabbed, "Tab", tab_name=name, containers="1"), "Container")
    half = (len(plots) + 1) // 2
    columns = [column for column in (plots[:half], plots[half:]) if column]
    across = _splitter(container, "|", len(columns))
    for column in columns:
        down = _splitter(across, "-", len(column))
        for title, curves in column:
            area = xml.SubElement(down, "DockArea", name=title)
            plot = xml.SubElement(area, "plot", mode="TimeSeries", style="Lines", flip_x="false", flip_y="false")
            for curve, colour in curves:
                xml.SubElement(plot, "curve", name=curve, color=colour)


def _splitter(parent: xml.Element, orientation: str, count: int) -> xml.Element:
    sizes = ";".join([f"{1 / count:.4f}"] * count)
    return xml.SubElement(parent, "DockSplitter", orientation=orientation, count=str(count), sizes=sizes)


def texts(robot: RobotConfig, namespace: str = "") -> dict[str, str]:
    """Name of each layout's file, and its text."""
    return {
        "foxglove/rlt.json": json.dumps(foxglove(robot, namespace), indent=1) + "\n",
        "plotjuggler/rlt.xml": plotjuggler(robot, namespace),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_bringup layouts`."""
    parser = argparse.ArgumentParser(prog="layouts", description="layouts for Foxglove and PlotJuggler")
    parser.add_argument("--robot", default="sim", help="robot name or path of a robot file (default: sim)")
    parser.add_argument("--namespace", default="", help="of the robot's nodes, for a live graph; files have none")
    parser.add_argument("--output", type=Path, required=True, help="folder for foxglove/rlt.json, plotjuggler/rlt.xml")
    options = parser.parse_args(arguments)
    try:
        robot = load_robot(config_file("robots", options.robot))
        for name, text in texts(robot, options.namespace).items():
            path = options.output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text.encode())
            print(f"layouts: {path}")
    except (ParameterError, OSError) as error:
        sys.exit(f"layouts: {error}")


if __name__ == "__main__":
    main()
