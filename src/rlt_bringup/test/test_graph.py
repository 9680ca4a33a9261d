"""The graph description: which nodes run in which mode, with which parameters, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from ament_index_python.packages import get_package_prefix, get_package_share_directory

from rlt_bringup.graph import GRAPH_MODES, RUN_FOLDERS, GraphOptions, _flatten, config_file, describe, resolve
from rlt_bringup.runner import GraphRunner
from rlt_common.config import load_robot
from rlt_common.parameters import ParameterError
from rlt_sim.operator import OperatorConfig

CONFIG = Path(get_package_share_directory("rlt_bringup")) / "config"
TEMPLATE = "real_robot"
TASKS = sorted(path.stem for path in (CONFIG / "tasks").glob("*.yaml") if path.stem != TEMPLATE)
REAL_ROBOTS = ["aloha", "dual_ur5e", "dual_ros2_control", "dual_franka"]


def graph(tmp_path, **options):
    return {node.name: node for node in describe(resolve(GraphOptions(run=str(tmp_path), **options)))}


@pytest.mark.parametrize("mode", GRAPH_MODES)
def test_every_node_of_every_mode_is_installed(tmp_path, mode):
    robot = "dual_ros2_control" if mode == "dry_run" else "sim"
    for node in graph(tmp_path, mode=mode, robot=robot).values():
        assert (Path(get_package_prefix(node.package)) / "lib" / node.package / node.executable).is_file()


def test_training_in_simulation_has_the_whole_picture(tmp_path):
    assert set(graph(tmp_path)) == {
        "sim_robot",
        "chunk_executor",
        "camera_ingest",
        "vla",
        "rl_policy",
        "rl_learner",
        "episode_manager",
        "joy_operator",
        "recorder",
        "scripted_operator",
    }


def test_only_what_commands_the_arms_stays_down_when_it_dies(tmp_path):
    assert [name for name, node in graph(tmp_path).items() if not node.respawn] == ["chunk_executor"]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_graph_and_a_launch_file(tmp_path, task):
    nodes = graph(tmp_path, task=task)
    assert nodes["sim_robot"].parameters["task"].endswith(f"tasks/{task}.yaml")
    launch = CONFIG.parent / "launch" / f"{task}.launch.py"
    assert f'launch_description("{task}")' in launch.read_text(encoding="utf-8")


@pytest.mark.parametrize("task", TASKS)
def test_the_scripted_operator_gives_up_before_the_time_out(tmp_path, task):
    """A failure is the operator's label; a time-out is none."""
    config = resolve(GraphOptions(run=str(tmp_path), task=task))
    parameters = graph(tmp_path, task=task)["scripted_operator"].parameters
    patience = parameters.get("operator.patience_steps", OperatorConfig().patience_steps)
    assert patience < config.task.max_critical_steps


def test_the_script_demonstrates_with_leader_arms_and_keeps_to_real_time(tmp_path):
    nodes = graph(tmp_path, mode="collect")
    assert nodes["scripted_operator"].parameters["operator.demonstrate"]
    assert nodes["joy_operator"].parameters["mapping"].endswith("scripted_leaders.yaml")
    assert nodes["episode_manager"].parameters["demonstration_limits"] > 1
    assert (nodes["sim_robot"].parameters["gate_steps"], nodes["sim_robot"].parameters["real_time_factor"]) == (1, 1.0)
    training = graph(tmp_path)
    assert not training["scripted_operator"].parameters["operator.demonstrate"]
    assert "real_time_factor" not in training["sim_robot"].parameters


def test_a_human_replaces_the_scripted_operator_and_the_simulation_keeps_to_real_time(tmp_path):
    nodes = graph(tmp_path, operator="human")
    assert "scripted_operator" not in nodes
    assert nodes["sim_robot"].parameters["gate_steps"] == 0
    assert nodes["sim_robot"].parameters["real_time_factor"] == 1.0
    assert nodes["joy_operator"].parameters["mapping"].endswith("xbox.yaml")
    assert "gamepad" in nodes


def test_the_keyboard_is_read_in_a_terminal_of_its_own(tmp_path):
    nodes = graph(tmp_path, operator="human", joy="keyboard")
    assert nodes["joy_operator"].parameters["mapping"].endswith("keyboard.yaml")
    assert not {"gamepad", "keyboard", "scripted_operator"} & set(nodes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"joy": "keyboard"}, "add operator: human"),
        ({"operator": "person"}, "choose one of"),
        ({"operator": "human", "joy": "keyboard", "device": "Xbox"}, "read by keyboard, no gamepad"),
        ({"operator": "human", "joy": "spacemouse"}, "needs the spacenav package"),
        ({"operator": "human", "joy": "nintendo"}, "there are:.*keyboard"),
    ],
)
def test_who_operates_and_with_what_must_fit(tmp_path, options, message, monkeypatch):
    monkeypatch.setattr("rlt_bringup.graph.get_packages_with_prefixes", dict)
    with pytest.raises(ParameterError, match=message):
        graph(tmp_path, **options)


def test_a_device_is_read_beside_the_robot_and_needs_nothing_on_the_other_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("rlt_bringup.graph.get_packages_with_prefixes", dict)
    assert list(graph(tmp_path, operator="human", joy="spacemouse", host="gpu")) == ["vla", "rl_policy", "rl_learner"]
    with pytest.raises(ParameterError, match="needs the spacenav package"):
        graph(tmp_path, operator="human", joy="spacemouse", host="robot")


def test_a_scripted_operator_is_for_the_simulation(tmp_path):
    values = yaml.safe_load((CONFIG / "robots" / "sim.yaml").read_text())
    values["kinematics"] = str(CONFIG / "robots" / values["kinematics"])
    robot = tmp_path / "own.yaml"
    robot.write_text(yaml.safe_dump({**values, "reset": "operator"}))
    with pytest.raises(ParameterError, match="scripted needs the simulation"):
        graph(tmp_path, robot=str(robot), operator="scripted")
    assert "gamepad" in graph(tmp_path, robot=str(robot))


def test_the_cameras_are_shown_on_demand(tmp_path):
    assert "operator_page" not in graph(tmp_path)
    view = graph(tmp_path, view=True)["operator_page"]
    assert (Path(get_package_prefix(view.package)) / "lib" / view.package / view.executable).is_file()


def test_a_camera_with_a_device_is_opened_by_a_node_beside_the_robot(tmp_path):
    assert "v4l2_camera" not in graph(tmp_path)
    values = yaml.safe_load((CONFIG / "robots" / "sim.yaml").read_text())
    values["kinematics"] = str(CONFIG / "robots" / values["kinematics"])
    values["cameras"][0]["device"] = "/dev/video0"
    robot = tmp_path / "own.yaml"
    robot.write_text(yaml.safe_dump({**values, "reset": "operator", "tick": "timer"}))
    node = graph(tmp_path, robot=str(robot))["v4l2_camera"]
    assert node.parameters["robot"] == str(robot)
    assert (Path(get_package_prefix(node.package)) / "lib" / node.package / node.executable).is_file()


def test_collecting_needs_no_learner_and_no_policy(tmp_path):
    assert not {"vla", "rl_policy", "rl_learner"} & set(graph(tmp_path, mode="collect"))


def test_deploying_learns_nothing(tmp_path):
    assert graph(tmp_path, mode="deploy")["rl_learner"].parameters["freeze"] is True


def test_deploying_hands_off_by_the_head_and_the_scripted_operator_does_not(tmp_path):
    nodes = graph(tmp_path, mode="deploy")
    assert nodes["vla"].parameters["require_handoff"] is True
    assert nodes["scripted_operator"].parameters["operator.hand_off"] is False
    assert nodes["auto_handoff"].parameters["task"].endswith("screw.yaml")


@pytest.mark.parametrize("options", [{"mode": "deploy", "auto_handoff": False}, {"mode": "eval"}, {"mode": "train"}])
def test_everywhere_else_the_operator_hands_off(tmp_path, options):
    nodes = graph(tmp_path, **options)
    assert "auto_handoff" not in nodes
    assert nodes["vla"].parameters["require_handoff"] is False
    assert nodes["scripted_operator"].parameters["operator.hand_off"] is True


def test_the_automatic_hand_off_runs_beside_the_robot(tmp_path):
    assert "auto_handoff" in graph(tmp_path, mode="deploy", host="robot")
    assert "auto_handoff" not in graph(tmp_path, mode="deploy", host="gpu")


def test_lockstep_takes_the_simulated_clock_everywhere(tmp_path):
    assert all(node.parameters["use_sim_time"] for node in graph(tmp_path).values())


@pytest.mark.parametrize("wait", ["encode_wait_s", "settle_s"])
def test_the_manager_waits_longer_for_a_file_than_the_recorder_for_what_belongs_in_it(tmp_path, wait):
    values = yaml.safe_load((CONFIG / "tasks" / "screw.yaml").read_text())
    task = tmp_path / "own.yaml"
    task.write_text(yaml.safe_dump({**values, "nodes": {"recorder": {wait: 10}}}))
    with pytest.raises(ParameterError, match=f"{wait} is 10 s, .* recorder_timeout_s, 10 s"):
        graph(tmp_path, task=str(task))
    waits = {"recorder": {wait: 20.0}, "episode_manager": {"recorder_timeout_s": 30.0}}
    task.write_text(yaml.safe_dump({**values, "nodes": waits}))
    assert graph(tmp_path, task=str(task))["recorder"].parameters[wait] == 20.0


def test_the_task_file_overrides_parameters_of_single_nodes(tmp_path):
    values = yaml.safe_load((CONFIG / "tasks" / "screw.yaml").read_text())
    values["nodes"] = {"rl_learner": {"agent": {"beta": 0.5}, "checkpoint_every": 3}}
    task = tmp_path / "own.yaml"
    task.write_text(yaml.safe_dump(values))
    parameters = graph(tmp_path, task=str(task))["rl_learner"].parameters
    assert (parameters["agent.beta"], parameters["checkpoint_every"]) == (0.5, 3)
    values["nodes"] = {"adapt": {"steps": 10}, "handoff": {"steps": 10}}
    task.write_text(yaml.safe_dump(values))
    assert "steps" not in graph(tmp_path, task=str(task))["vla"].parameters, "these are of commands, not of nodes"
    values["nodes"] = {"rl_lerner": {}}
    task.write_text(yaml.safe_dump(values))
    with pytest.raises(ParameterError, match="unknown node 'rl_lerner'"):
        graph(tmp_path, task=str(task))


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("recorder", "run_directory"),
        ("rl_learner", "run_directory"),
        ("vla", "checkpoint"),
        ("chunk_executor", "robot"),
    ],
)
def test_the_task_file_cannot_send_one_node_to_other_files(tmp_path, node, name):
    values = yaml.safe_load((CONFIG / "tasks" / "screw.yaml").read_text())
    values["nodes"] = {node: {name: "/elsewhere"}}
    task = tmp_path / "own.yaml"
    task.write_text(yaml.safe_dump(values))
    with pytest.raises(ParameterError, match=f"{node}: '{name}' is given by the launch"):
        graph(tmp_path, task=str(task))


@pytest.mark.parametrize("folder", RUN_FOLDERS)
def test_a_run_directory_with_a_link_that_leads_out_of_it_is_refused(tmp_path, folder):
    run = tmp_path / "run"
    run.mkdir()
    (run / folder).symlink_to(tmp_path)
    with pytest.raises(ParameterError, match=f"run: .*{folder} leads out of"):
        graph(run)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    graph(tmp_path / "link")  # the directory itself may lie elsewhere


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("robots", "alhoa", "no 'alhoa'; there are:.*sim"),
        ("tasks", "nowhere.yaml", "no file"),
        ("robots", "../tasks/screw", "no '../tasks/screw'; there are:.*sim"),
        ("tasks", str(CONFIG / "robots" / "sim"), "there are:.*screw"),
    ],
)
def test_a_wrong_name_says_what_there_is(kind, name, message):
    with pytest.raises(ParameterError, match=message):
        config_file(kind, name)


def test_files_by_path_work_from_anywhere(tmp_path):
    shutil.copytree(CONFIG / "robots", tmp_path / "robots")
    assert resolve(GraphOptions(robot=str(tmp_path / "robots" / "sim.yaml"), run=str(tmp_path))).simulated


def test_an_unknown_mode_is_refused():
    with pytest.raises(ParameterError, match="mode is 'trian': choose one of"):
        GraphOptions(mode="trian")


@pytest.mark.parametrize(
    ("command_topic", "namespace"),
    [
        ("teleop_command", ""),
        ("action_chunk", ""),
        ("/joint_states", ""),
        ("base/image_raw", ""),
        ("/left_cell/teleop_command", "left_cell"),
        ("/diagnostics", "left_cell"),
    ],
)
def test_a_command_topic_on_which_others_publish_is_refused(tmp_path, command_topic, namespace):
    shutil.copytree(CONFIG / "robots", tmp_path / "robots")
    path = tmp_path / "robots" / "sim.yaml"
    path.write_text(
        yaml.safe_dump(
            {**yaml.safe_load(path.read_text()), "drivers": [{"type": "joint_positions", "topic": command_topic}]}
        )
    )
    with pytest.raises(ParameterError, match="only the chunk executor may command the arms"):
        resolve(GraphOptions(robot=str(path), run=str(tmp_path), namespace=namespace))


def test_the_same_name_in_another_namespace_is_another_topic(tmp_path):
    shutil.copytree(CONFIG / "robots", tmp_path / "robots")
    path = tmp_path / "robots" / "sim.yaml"
    path.write_text(
        yaml.safe_dump(
            {**yaml.safe_load(path.read_text()), "drivers": [{"type": "joint_positions", "topic": "/teleop_command"}]}
        )
    )
    assert resolve(GraphOptions(robot=str(path), run=str(tmp_path), namespace="left_cell")).simulated


def dry_run(tmp_path, **options):
    resolved = resolve(GraphOptions(robot="dual_ros2_control", mode="dry_run", run=str(tmp_path), **options))
    return resolved, {node.name: node for node in describe(resolved)}


def test_a_dry_run_has_the_whole_graph_and_tells_the_executor(tmp_path):
    (tmp_path / "vla").mkdir()
    _, nodes = dry_run(tmp_path)
    assert nodes["chunk_executor"].parameters["dry_run"] is True
    assert "lacks" not in nodes["chunk_executor"].parameters
    assert nodes["rl_learner"].parameters["freeze"] is True
    assert {"vla", "rl_policy", "camera_ingest", "episode_manager"} <= set(nodes)
    assert "recorder" not in nodes
    assert nodes["episode_manager"].parameters["record"] is False
    assert nodes["episode_manager"].parameters["purpose"] == "evaluate"


def test_a_dry_run_before_there_is_a_vla_is_driven_by_the_operator_and_says_so(tmp_path):
    resolved, nodes = dry_run(tmp_path)
    assert set(nodes) == {"chunk_executor", "camera_ingest", "episode_manager", "joy_operator", "gamepad"}
    assert nodes["episode_manager"].parameters["purpose"] == "collect"
    said = nodes["chunk_executor"].parameters["lacks"]
    assert said.startswith(f"no VLA in {tmp_path / 'vla'} (mode:=adapt makes one)")
    assert said in resolved.notes


@pytest.mark.parametrize("options", [{"checkpoint": "/named/and/absent"}, {"host": "robot"}, {"host": "gpu"}])
def test_a_vla_that_was_named_or_may_be_on_the_other_machine_is_not_done_without(tmp_path, options):
    resolved, nodes = dry_run(tmp_path, **options)
    assert not resolved.vla_missing
    assert ("vla" in nodes) == (options.get("host") != "robot")


def test_the_vla_alone_can_be_evaluated_and_in_training_it_cannot_be_asked_for(tmp_path):
    assert graph(tmp_path, mode="eval")["episode_manager"].parameters["driver"] == "rl"
    assert graph(tmp_path, mode="eval", driver="vla")["episode_manager"].parameters["driver"] == "vla"
    with pytest.raises(ParameterError, match=r"not with train; .*budget\.warmup_episodes"):
        resolve(GraphOptions(mode="train", driver="vla", run=str(tmp_path)))


def test_it_is_said_where_there_is_no_actor_to_evaluate(tmp_path):
    def said(**options):
        return [n for n in resolve(GraphOptions(run=str(tmp_path), **options)).notes if "no actor" in n]

    (note,) = said(mode="eval")
    assert f"no actor in {tmp_path / 'checkpoints'}" in note
    assert "mode:=eval driver:=vla" in note
    assert said(mode="deploy")
    assert said(mode="train") == said(mode="eval", driver="vla") == said(mode="eval", host="robot") == []
    for serial, version in ((1, 0), (2, 3)):
        folder = tmp_path / "checkpoints" / f"e{serial:06d}-u000000010"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"serial": serial, "counters": {"version": version}}))
        assert bool(said(mode="eval")) != bool(version)


def test_a_dry_run_of_the_lockstep_simulation_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="take a robot with tick: timer"):
        describe(resolve(GraphOptions(mode="dry_run", run=str(tmp_path))))


@pytest.mark.parametrize("robot", REAL_ROBOTS)
def test_every_shipped_robot_makes_a_graph(tmp_path, robot):
    resolved = resolve(GraphOptions(robot=robot, mode="train", run=str(tmp_path)))
    assert not resolved.simulated
    assert {"chunk_executor", "camera_ingest", "recorder"} <= {node.name for node in describe(resolved)}


def test_a_robot_that_shares_its_learner_starts_none(tmp_path):
    own, shared = graph(tmp_path), graph(tmp_path, learner="shared", namespace="cell_a")
    assert set(own) - set(shared) == {"rl_learner"}
    assert {name: dict(node.parameters) for name, node in shared.items()} == {
        name: dict(node.parameters) for name, node in own.items() if name != "rl_learner"
    }


def test_a_learner_of_several_robots_is_started_alone(tmp_path):
    nodes = graph(tmp_path / "both", learner="alone", robots="cell_a, /cell_b", robot_runs=f"{tmp_path}/a,")
    assert set(nodes) == {"rl_learner"}
    parameters = nodes["rl_learner"].parameters
    assert parameters["robots"] == ["cell_a", "/cell_b"]
    assert parameters["run_directories"] == [str(tmp_path / "a"), ""]
    assert parameters["run_directory"] == str(tmp_path / "both")
    assert not parameters["use_sim_time"]
    assert not parameters["freeze"]
    elsewhere = graph(tmp_path, learner="alone", robots="cell_a,cell_b", host="gpu", mode="eval")["rl_learner"]
    assert "run_directories" not in elsewhere.parameters
    assert elsewhere.parameters["freeze"]
    assert "robots" not in graph(tmp_path)["rl_learner"].parameters


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learner": "both"}, "choose one of own, shared, alone"),
        ({"learner": "shared"}, "add namespace"),
        ({"robots": "cell_a"}, "robots: only a learner that is started alone"),
        ({"learner": "shared", "namespace": "a", "robot_runs": "runs/a"}, "robot_runs: only a learner"),
        ({"learner": "alone"}, "add robots"),
        ({"learner": "alone", "robots": "a,b", "mode": "collect"}, "nothing is learned"),
        ({"learner": "alone", "robots": "a,b", "host": "robot"}, "GPU's machine"),
    ],
)
def test_robots_and_their_learner_must_fit(tmp_path, options, message):
    with pytest.raises(ParameterError, match=message):
        graph(tmp_path, **options)


def test_each_simulated_cell_has_a_clock_of_its_own(tmp_path):
    assert {node.remap for node in graph(tmp_path).values()} == {()}
    nodes = graph(tmp_path, namespace="/cell_a")
    assert {node.remap for node in nodes.values()} == {(("/clock", "/cell_a/clock"),)}
    command = GraphRunner(list(nodes.values()), tmp_path, "/cell_a")._command(nodes["sim_robot"])
    assert "/clock:=/cell_a/clock" in command


def test_on_a_robot_s_timer_a_task_without_prefetch_is_warned_of(tmp_path):
    def warnings(**options):
        notes = resolve(GraphOptions(run=str(tmp_path), **options)).notes
        return [note for note in notes if note.startswith("warning: ")]

    (said,) = warnings(robot="dual_ros2_control")
    assert "screw.yaml: prefetch_steps: 0: on a robot's timer" in said
    assert warnings(robot="dual_ros2_control", task=TEMPLATE) == []
    assert warnings(robot="dual_ros2_control", mode="collect") == [], "a person needs no chunks"
    assert warnings() == [], "in lockstep time stands still until the chunk is there"


def test_on_a_real_robot_the_time_outs_are_said(tmp_path):
    notes = resolve(GraphOptions(run=str(tmp_path), robot="dual_ros2_control", mode="collect")).notes
    assert any("ends after 5 s in BASE and after 8.8 s in CRITICAL" in note for note in notes)
    assert resolve(GraphOptions(run=str(tmp_path))).notes == ()


@pytest.mark.parametrize("robot", REAL_ROBOTS)
def test_the_template_of_a_real_task_has_what_a_real_robot_needs(tmp_path, robot):
    resolved = resolve(GraphOptions(robot=robot, task=TEMPLATE, mode="train", run=str(tmp_path)))
    hz = load_robot(resolved.robot_file).control_hz
    assert resolved.task.prefetch_steps > 0
    assert min(resolved.task.max_base_steps, resolved.task.max_critical_steps) / hz >= 30.0
    priorities = {node.name: node.parameters.get("priority", 0) for node in describe(resolved)}
    assert priorities["chunk_executor"] > priorities["vla"] == priorities["rl_policy"] > 0


def test_what_the_template_leaves_as_comments_is_known_to_the_nodes():
    text = (CONFIG / "tasks" / f"{TEMPLATE}.yaml").read_text(encoding="utf-8")
    nodes = yaml.safe_load(re.sub(r"^  # (?=( )*[\w.]+:)", "  ", text, flags=re.MULTILINE))["nodes"]
    assert {"episode_manager", "rl_learner"} <= set(nodes)
    page = (Path(__file__).resolve().parents[3] / "docs" / "parameters.md").read_text(encoding="utf-8")
    for node, values in nodes.items():
        section = page.split(f"### {node}\n")[1].split("\n### ")[0]
        assert [name for name in _flatten(values) if f"| `{name}` |" not in section] == [], node
