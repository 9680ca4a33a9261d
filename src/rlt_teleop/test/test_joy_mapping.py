"""Joystick mapping files."""

from pathlib import Path

import pytest
from teleop_doubles import ROBOT

from rlt_common.config import load_robot
from rlt_common.parameters import ParameterError
from rlt_teleop.joy_mapping import Buttons, JoyMapping, load_mapping
from rlt_teleop.joy_operator import JoyOperator
from rlt_teleop.operator_actions import MEANING

FOLDER = Path(__file__).parents[2] / "rlt_bringup" / "config" / "joy"


def write(tmp_path, text: str) -> Path:
    path = tmp_path / "pad.yaml"
    path.write_text("device: pad\n" + text)
    return path


DECISIONS = ("enable", "handoff", "success", "failure", "discard", "estop", "next_episode")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_file_fits_the_simulated_robot_and_can_stop_it(path):
    mapping = load_mapping(path)
    assert mapping.device == path.stem
    assert mapping.button("enable") != mapping.button("estop")
    JoyOperator(mapping, load_robot(ROBOT), silence_s=0.5)


@pytest.mark.parametrize(
    "name", ["xbox", "playstation", "scripted", "scripted_leaders", "keyboard", "spacemouse_keyboard", "aloha_leaders"]
)
def test_the_shipped_files_have_every_decision(name):
    mapping = load_mapping(FOLDER / f"{name}.yaml")
    decisions = DECISIONS if name.startswith("scripted") else (*DECISIONS, "undo", "reposition")
    assert len({mapping.button(decision) for decision in decisions}) == len(decisions)


@pytest.mark.parametrize("name", ["xbox", "playstation", "keyboard"])
def test_the_pads_move_every_direction_of_both_arms(name):
    mapping = load_mapping(FOLDER / f"{name}.yaml")
    assert all(axis.index >= 0 for _, axis in mapping.axes.items())
    assert set(mapping.buttons.select) == {"left", "right"}
    for source in (mapping.buttons, mapping.triggers):
        assert (source.gripper_open >= 0) == (source.gripper_close >= 0)
    assert (mapping.buttons.gripper_open >= 0) != (mapping.triggers.gripper_open >= 0)


def test_minus_one_and_left_out_are_disabled(tmp_path):
    mapping = load_mapping(write(tmp_path, "buttons: {success: 2, failure: -1}\n"))
    assert mapping.button("success") == 2
    for name in ("failure", "discard", "no such thing"):
        with pytest.raises(ParameterError, match="no button"):
            mapping.button(name)
    assert (mapping.buttons_needed, mapping.axes_needed) == (3, 0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("buttons: {succes: 2}\n", "unknown key 'succes'"),
        ("colour: red\n", "unknown key 'colour'"),
        ("buttons: {success: 2, estop: 2}\n", "estop and success are both button 2"),
        ("buttons: {success: 2, select: {left: 2}}\n", "select left and success are both button 2"),
        ("axes: {x: {index: 1}, rz: {index: 1}}\n", "rz and x are both axis 1"),
        ("axes: {x: {index: 1, sign: 0}}\n", "choose 1 or -1"),
        ("buttons: {success: two}\n", "expected int"),
        ("buttons: {success: -2}\n", "least allowed is -1"),
        ("buttons: {select: {left: yes}}\n", "expected a button"),
        ("buttons: {select: [1]}\n", "expected arm names"),
        ("dead_zone: 1.5\n", "most allowed"),
        ("linear_speed: .nan\n", "finite"),
        ("axes: [1\n", "not valid YAML"),
        ("folder: /tmp\n", "unknown key 'folder'"),
        ("frame: base\n", "choose one of world, tool"),
        ("motion: mouse\n", "choose one of axes, twist, leader"),
        ("axes: {x: {index: 2}}\ntriggers: {gripper_open: 2}\n", "gripper_open and x are both axis 2"),
        ("triggers: {gripper_open: 3, gripper_close: 3}\n", "gripper_close and gripper_open are both axis 3"),
        ("buttons: {gripper_open: 1}\ntriggers: {gripper_open: 3}\n", "is button 1 as well"),
        ("twist: {topic: t}\n", "moves nothing while motion is 'axes'"),
        ("motion: twist\naxes: {x: {index: 1}}\n", "move nothing while motion is 'twist'"),
        ("motion: twist\ntwist: {timeout_s: 0}\n", "least allowed"),
        ("leader: {mode: absolute}\n", "moves nothing while motion is 'axes'"),
        ("motion: leader\n", "name at least one arm"),
        ("motion: leader\nframe: tool\nleader: {arms: {left: {topic: t, joints: [a]}}}\n", "remove it"),
        ("motion: leader\nleader: {arms: {left: {topic: t}}}\n", "missing key 'joints'"),
        ("motion: leader\nleader: {arms: {left: {topic: t, joints: [a], tpi: b}}}\n", "unknown key 'tpi'"),
        ("motion: leader\nleader: {arms: {left: {topic: t, joints: [a], tip: b}}}\n", "belong together"),
        ("motion: leader\nleader: {arms: [left]}\n", "expected arm names"),
    ],
)
def test_mistakes_are_errors_that_name_the_file(tmp_path, text, why):
    path = write(tmp_path, text)
    with pytest.raises(ParameterError, match=why) as caught:
        load_mapping(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ParameterError, match=r"none\.yaml: No such file"):
        load_mapping(tmp_path / "none.yaml")


@pytest.mark.parametrize("pad", ["xbox", "playstation", "keyboard", "spacemouse_keyboard"])
def test_every_decision_has_the_name_that_is_written_on_its_button(pad):
    mapping = load_mapping(FOLDER / f"{pad}.yaml")
    names = [mapping.name_of(name) for name in MEANING]
    assert not any(name.startswith("button") for name in names)
    assert len(set(names)) == len(MEANING)


def test_what_is_written_on_a_button_that_is_not_there_is_an_error():
    buttons = Buttons(estop=6)
    assert JoyMapping(device="pad", buttons=buttons).name_of("estop") == "button 6"
    assert JoyMapping(device="pad", buttons=buttons).name_of("undo") == ""
    for written in ({"undo": "Z"}, {"jump": "Z"}, {"estop": ""}, {"estop": 6}):
        with pytest.raises(ParameterError, match=f"written: {next(iter(written))}"):
            JoyMapping(device="pad", buttons=buttons, written=written)
