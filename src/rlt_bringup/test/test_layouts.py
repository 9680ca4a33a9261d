"""The layouts name nothing that the graph does not have: topics, fields, indices, services, values of diagnostics."""

import importlib
import json
import re
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_share_directory

from rlt_bringup import layouts
from rlt_common import topics
from rlt_common.config import load_robot
from rlt_common.episode_file import message_class
from rlt_common.parameters import from_mapping
from rlt_common.robot_config import RobotConfig
from rlt_msgs import srv
from rlt_teleop import views
from rlt_teleop.episode_recorder import TYPES

SHARE = Path(get_package_share_directory("rlt_bringup"))
ROBOT = load_robot(SHARE / "config" / "robots" / "sim.yaml")
TOPICS = {
    **{"/" + topic: kind for topic, kind in TYPES.items()},
    **{"/" + views.camera_topic(camera.name): views.IMAGE_TYPE for camera in ROBOT.cameras},
    "/" + views.POLICY: views.TRAJECTORY_TYPE,
    "/" + views.REFERENCE: views.TRAJECTORY_TYPE,
    "/" + topics.ESTOP: "std_msgs/msg/Bool",
}
SERVICES = {
    "/" + topics.SERVICE_RESET_ESTOP: srv.ResetEstop,
    "/" + topics.SERVICE_START_EPISODE: srv.StartEpisode,
    "/" + topics.SERVICE_LABEL_EPISODE: srv.LabelEpisode,
    "/" + topics.SERVICE_SAVE_CHECKPOINT: srv.SaveCheckpoint,
}
PATH = re.compile(r"((?:/\w+)+)((?:\.\w+(?:\[(?:\d+|:)\])?)+)")
"""Foxglove's message paths, as far as they are used here: /topic.field[index].field."""


def joints_robot():
    """A robot with one arm of three joints whose actions are joints, and one camera."""
    arm = {"name": "solo", "joints": ["a", "b", "c"], "gripper": "g", "tip": "t", "home_position": [0.0] * 3}
    arm |= {"home_rotation": [0.0] * 3, "workspace_min": [-1.0] * 3, "workspace_max": [1.0] * 3}
    values = {
        "name": "solo",
        "control_hz": 50.0,
        "frame": "w",
        "tick": "timer",
        "actions": "joints",
        "reset": "operator",
    }
    values |= {"drivers": [{"type": "joint_positions", "topic": "go"}], "kinematics": "k.xml"}
    values |= {"joint_names": ["a", "b", "c", "g"], "arms": [arm], "folder": ""}
    values["cameras"] = [{"name": "eye-1", "topic": "eye", "width": 64, "height": 64}]
    return from_mapping(RobotConfig, values, "solo")


def field_type(kind, path):
    """The type of a field of a message, "action[3]" or "points[:].positions[3]"; fails where there is none."""
    for part in path.strip(".").split("."):
        name, _, index = part.partition("[")
        fields = message_class(kind).get_fields_and_field_types()
        assert name in fields, f"{kind} has no field {name}"
        kind = fields[name]
        if index:
            assert kind.startswith("sequence<"), f"{name} is {kind}: it has no elements"
            kind = kind.removeprefix("sequence<").removesuffix(">")
            if index != ":]":
                assert int(index.rstrip("]")) < ROBOT.action_dim
        if kind.count("/") == 1:
            kind = kind.replace("/", "/msg/")
    return kind


def panels_of(node):
    if isinstance(node, str):
        return [node]
    return [*panels_of(node["first"]), *panels_of(node["second"])]


def of_kind(layout, kind):
    return {name: config for name, config in layout["configById"].items() if name.startswith(kind + "!")}


@pytest.fixture(scope="module")
def foxglove():
    return layouts.foxglove(ROBOT)


@pytest.mark.parametrize("name", ["foxglove/rlt.json", "plotjuggler/rlt.xml"])
def test_the_layouts_in_the_repository_are_those_of_today(name):
    assert (SHARE / "config" / name).read_text() == layouts.texts(ROBOT)[name], (
        "python -m rlt_bringup.layouts --output src/rlt_bringup/config"
    )


def test_every_panel_has_settings_and_a_place(foxglove):
    placed = panels_of(foxglove["layout"])
    for tab in of_kind(foxglove, "Tab").values():
        placed += [panel for each in tab["tabs"] for panel in panels_of(each["layout"])]
    assert sorted(placed) == sorted(foxglove["configById"])
    kinds = {name.partition("!")[0] for name in placed}
    assert kinds == {"Image", "Plot", "StateTransitions", "DiagnosticSummary", "Tab", "Publish", "CallService"}


def test_every_path_leads_to_a_number_or_a_word_of_a_message(foxglove):
    plots, states = of_kind(foxglove, "Plot"), of_kind(foxglove, "StateTransitions")
    paths = [path["value"] for config in (*plots.values(), *states.values()) for path in config["paths"]]
    assert len(paths) > 5 * ROBOT.action_dim
    for path in paths:
        match = PATH.fullmatch(path)
        assert match, path
        kind = field_type(TOPICS[match[1]], match[2])
        assert re.fullmatch(r"u?int\d+|float|double|boolean|string", kind), f"{path} is {kind}"


def test_every_value_of_the_action_is_overlaid_by_what_the_vla_wanted(foxglove):
    for index, name in enumerate(ROBOT.action_names):
        paths = [p["value"] for p in foxglove["configById"][f"Plot!{name.replace('.', '_')}"]["paths"]]
        assert paths == [f"/executed_action.{field}[{index}]" for field in ("reference", "commanded", "action")]


def test_images_and_diagnostics_are_of_types_that_their_panels_take(foxglove):
    shown = [config["imageMode"]["imageTopic"] for config in of_kind(foxglove, "Image").values()]
    assert {TOPICS[topic] for topic in shown} == {"sensor_msgs/msg/CompressedImage"}
    assert len(shown) == len(ROBOT.cameras)
    (health,) = of_kind(foxglove, "DiagnosticSummary").values()
    assert health["topicToRender"] == topics.DIAGNOSTICS


def test_buttons_publish_messages_and_call_services_that_there_are(foxglove):
    pressed = of_kind(foxglove, "Publish")
    for config in pressed.values():
        assert config["datatype"] == TOPICS[config["topicName"]]
        message_class(config["datatype"])(**json.loads(config["value"]))
    assert {json.loads(c["value"]).get("event") for c in pressed.values()} == {None, 1, 2, 3, 4, 5, 9}
    called = of_kind(foxglove, "CallService")
    assert {config["serviceName"] for config in called.values()} == set(SERVICES)
    for config in called.values():
        SERVICES[config["serviceName"]].Request(**json.loads(config["requestPayload"]))


def curves(text):
    return [curve.get("name") for curve in xml.fromstring(text).iter("curve")]


def test_every_curve_of_plotjuggler_is_a_field_or_said_in_the_diagnostics():
    names = curves(layouts.plotjuggler(ROBOT))
    executor = Path(importlib.import_module("rlt_control.chunk_executor_node").__file__)
    said = executor.read_text() + executor.with_name("real_time.py").read_text()
    assert len(names) > 3 * ROBOT.action_dim
    for name in names:
        if name.startswith("/diagnostics/"):
            _, _, node, key = name.split("/")
            assert node == "chunk_executor"
            assert key in said, f"{node} says nothing of {key}"
        else:
            topic, _, path = name[1:].partition("/")
            kind = field_type(TOPICS["/" + topic], path.replace("/", "."))
            assert re.fullmatch(r"u?int\d+|float|double|boolean", kind), f"{name} is {kind}"


def test_plotjuggler_s_splitters_hold_what_they_say():
    root = xml.fromstring(layouts.plotjuggler(ROBOT))
    assert [tab.get("tab_name") for tab in root.iter("Tab")] == ["left", "right", "learning", "phases and lateness"]
    for splitter in root.iter("DockSplitter"):
        sizes = [float(size) for size in splitter.get("sizes").split(";")]
        assert int(splitter.get("count")) == len(splitter) == len(sizes)
        assert sum(sizes) == pytest.approx(1.0, abs=1e-3)
    assert all(len(area.findall("plot")) == 1 for area in root.iter("DockArea"))


def test_a_namespace_is_in_front_of_every_name_but_the_diagnostics():
    text = json.dumps(layouts.foxglove(ROBOT, "/cell_a/"))
    assert '"/cell_a/view/camera/base"' in text
    assert '"/cell_a/executed_action.action[0]"' in text
    assert '"/diagnostics"' in text
    names = curves(layouts.plotjuggler(ROBOT, "cell_a"))
    assert all(name.startswith(("/cell_a/", "/diagnostics/cell_a/chunk_executor/")) for name in names)


def test_another_robot_s_layout_has_its_own_values():
    robot = joints_robot()
    names = [name for name in layouts.foxglove(robot)["configById"] if name.startswith(("Plot!", "Image!"))]
    assert [name for name in names if name.startswith("Plot!chunk")] == [
        f"Plot!chunk_{n}" for n in ("a", "b", "c", "g")
    ]
    assert [name for name in names if name.startswith("Image!")] == ["Image!eye-1"]
    assert layouts.foxglove(robot)["configById"]["Image!eye-1"]["imageMode"] == {"imageTopic": "/view/camera/eye_1"}
    assert "/executed_action/action[3]" in curves(layouts.plotjuggler(robot))
    assert "/executed_action/action[4]" not in curves(layouts.plotjuggler(robot))


def test_the_command_writes_both(tmp_path, capsys):
    layouts.main(["--robot", "sim", "--namespace", "cell_a", "--output", str(tmp_path)])
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert written == {"foxglove/rlt.json", "plotjuggler/rlt.xml"}
    with pytest.raises(SystemExit, match="no 'nobody'"):
        layouts.main(["--robot", "nobody", "--output", str(tmp_path)])
