"""Policies that fit the real nodes, nothing that runs code it has loaded, and paths that stay where they belong."""

import ast
import contextlib
import os
import pty
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
import rclpy
import yaml
from harness.untrained_run import on_a_timer, prepare
from rclpy.node import Node

from rlt_bringup import security
from rlt_bringup.episodes_client import EpisodesClient
from rlt_bringup.graph import NODE_NAMES, GraphOptions, NodeSpec, describe, resolve
from rlt_bringup.replay_nodes import Player
from rlt_bringup.runner import GraphRunner
from rlt_common.config import load_robot
from rlt_common.parameters import ParameterError
from rlt_vla_node.camera_check import CameraLook

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 60.0
ACTIONS = "/_action/"
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "torch.load",
    "torch.save",
    "np.load",
    "numpy.load",
    "os.system",
    "os.popen",
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """The running graph of training, with the automatic hand-off besides: (nodes, robot, a node that looks)."""
    run = tmp_path_factory.mktemp("security")
    task = prepare(run)
    nodes = {}
    for mode in ("train", "deploy"):
        resolved = resolve(GraphOptions(task=str(task), run=str(run), mode=mode))
        nodes = {**{node.name: node for node in describe(resolved)}, **nodes}
    rclpy.init()
    probe = Node("probe")
    with GraphRunner(list(nodes.values()), run / "log") as runner:
        end = time.monotonic() + LIMIT_S
        while not set(nodes) <= set(probe.get_node_names()):
            assert time.monotonic() < end, set(nodes) - set(probe.get_node_names())
            runner.poll()
            rclpy.spin_once(probe, timeout_sec=0.1)
        yield list(nodes.values()), load_robot(resolved.robot_file), probe
    probe.destroy_node()
    rclpy.shutdown()


def seen(probe, what, name, namespace=""):
    """Names of a node's endpoints as the running graph shows them, relative, without those of actions."""
    found = getattr(probe, f"get_{what}_names_and_types_by_node")(name, namespace or "/")
    private = f"{namespace}/{name}/"
    return {n.replace(private, "~/", 1) if n.startswith(private) else n for n, _ in found if ACTIONS not in n}


def absolute(names, namespace=""):
    return {name if name.startswith(("/", "~")) else f"{namespace}/{name}" for name in names}


def settled(read, expected):
    """Discovery takes a moment: what is read once it is as expected, or what it was at last."""
    end = time.monotonic() + LIMIT_S
    while read() != expected and time.monotonic() < end:
        time.sleep(0.1)
    return read()


@pytest.mark.timeout(400)
def test_the_table_says_what_the_running_nodes_use(graph):
    nodes, robot, probe = graph
    for node in nodes:
        compare(probe, node, robot)


def compare(probe, node, robot, namespace="", without=()):
    """The table's word on a running node, with what the graph shows of it; `without`: topics that it may leave out."""
    own = security.interfaces(node, robot)
    for what, names in (
        ("publisher", own.publish),
        ("subscriber", set(own.subscribe) - set(without)),
        ("service", own.reply),
        ("client", set(own.request) - set(without)),
    ):
        expected = absolute(names, namespace)
        assert settled(lambda w=what: seen(probe, w, node.name, namespace), expected) == expected, (node.name, what)
    for what, names in (("service", own.execute), ("client", own.call)):
        expected = absolute(names, namespace)

        def actions(w=what):
            found = getattr(probe, f"get_{w}_names_and_types_by_node")(node.name, namespace or "/")
            return {name.split(ACTIONS)[0] for name, _ in found if ACTIONS in name}

        assert settled(actions, expected) == expected, (node.name, what)


HAND = "/by_hand"
"""A namespace with nothing else in it: what waits for a service or a message waits long enough to be looked at."""


@pytest.fixture(scope="module")
def sensing_robot(tmp_path_factory):
    """File of a robot that has what a robot can have: force, measured poses, drivers that say so, video devices."""
    folder = tmp_path_factory.mktemp("sensing")
    file = on_a_timer(folder)
    values = yaml.safe_load(file.read_text())
    for arm in values["arms"]:
        own = {"wrench_topic": f"{arm['name']}/wrench", "max_force": 20.0, "max_torque": 5.0}
        arm |= {**own, "pose_topic": f"{arm['name']}/pose"}
    for camera in values["cameras"]:
        camera |= {"device": f"/dev/rlt_none_{camera['name']}", "rate_hz": 30.0}
    values["drivers"][0]["ready_topic"] = "ready"
    file.write_text(yaml.safe_dump(values))
    assert len(load_robot(file).sensor_topics) == 5
    return file


@contextlib.contextmanager
def started(module, arguments=(), parameters=None):
    """A process with a terminal of its own, as a person starts it. Ends with it."""
    ours, its = pty.openpty()
    ros = [word for key, value in (parameters or {}).items() for word in ("-p", f"{key}:={value}")]
    # As an installed executable does; reset_estop waits for its service longer than it takes to look.
    code = f"import {module} as command; command.TIMEOUT_S = 100.0; command.main()"
    command = [sys.executable, "-c", code, *arguments, "--ros-args", "-r", f"__ns:={HAND}", *ros]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()
            os.close(its)
            os.close(ours)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "module", "arguments", "parameters"),
    [
        ("keyboard", "rlt_teleop.keyboard_node", "", ""),
        ("status", "rlt_teleop.status_node", "", ""),
        ("feedback", "rlt_teleop.feedback_node", "", "outputs:=[rumble]"),
        ("gamepad", "rlt_teleop.gamepad_node", "", ""),
        ("operator_page", "rlt_teleop.operator_page_node", "", "robot:={robot} run_directory:=no-run port:=0"),
        ("views", "rlt_teleop.views_node", "", "robot:={robot}"),
        ("v4l2_camera", "rlt_vla_node.v4l2_camera_node", "", "robot:={robot}"),
        ("reset_estop_command", "rlt_teleop.reset_estop_command", "", ""),
        (
            "check_robot",
            "rlt_bringup.check_robot",
            f"--robot {{robot}} --arms-only --seconds 100 --namespace {HAND}",
            "",
        ),
        ("camera_check", "rlt_vla_node.camera_check", "--robot {robot} --seconds 100", ""),
        ("calibrate_delay", "rlt_vla_node.calibrate_delay", "--robot {robot} --camera base --seconds 100", ""),
        ("healthcheck", "rlt_bringup.healthcheck", "--seconds 100", ""),
    ],
)
def test_the_table_says_what_is_used_by_what_a_person_starts(graph, sensing_robot, name, module, arguments, parameters):
    probe = graph[2]
    filled = arguments.format(robot=sensing_robot).split()
    own = dict(word.format(robot=sensing_robot).split(":=") for word in parameters.split())
    node = next((n for n in security.BY_HAND if n.name == name), NodeSpec("p", "e", name))
    robot = load_robot(sensing_robot)
    looked_at = {"calibrate_delay": 1, "check_robot": 0}.get(name, len(robot.cameras))
    without = [camera.topic for camera in robot.cameras[looked_at:]]
    if name == "check_robot":  # it asks controllers for their joints at the end, for a moment
        without += security.interfaces(node, robot).request
    with started(module, filled, own) as process:
        settled(lambda: (name, HAND) in probe.get_node_names_and_namespaces() or process.poll() is not None, True)
        compare(probe, node, robot, HAND, without)


def test_the_table_says_what_check_robot_hears_of_cameras_once_it_is_done_with_the_arms(graph, sensing_robot):
    robot = load_robot(sensing_robot)
    look = CameraLook(robot, HAND, "check_robot")
    node = next(n for n in security.BY_HAND if n.name == "check_robot")
    try:
        hears = absolute({camera.topic for camera in robot.cameras} | set(robot.state_topics), HAND)
        assert settled(lambda: seen(graph[2], "subscriber", "check_robot", HAND), hears) == hears
        assert hears <= absolute(security.interfaces(node, robot).subscribe, HAND)
    finally:
        look.node.destroy_node()


def test_the_table_says_what_demo_and_replay_use(graph):
    _, robot, probe = graph
    client = EpisodesClient(lambda: None)
    player = Player(lambda: None, HAND)
    try:
        compare(probe, security.DEMO, robot)
        compare(probe, security.REPLAY, robot, HAND)
    finally:
        client.close()
        player.close()


def test_what_plays_an_episode_back_may_speak_for_the_robot_in_its_own_namespace_alone(tmp_path, capsys):
    file = tmp_path / "policy.xml"
    security.main(["--mode", "replay", "--output", str(file)])
    root = xml.parse(file).getroot()
    assert [e.get("path") for e in root.iter("enclave")] == ["/replay/vla", "/replay/rl_policy", "/replay/replay"]
    assert not [t.text for t in root.iter("topic") if t.text == "/clock"], "a replay has none"
    for mode in ("train", "deploy", "eval"):
        security.main(["--mode", mode, "--list"])
        assert "replay" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="leave it out"):
        security.main(["--mode", "replay", "--namespace", "cell", "--list"])


def test_only_in_simulation_has_the_demo_an_identity(capsys):
    security.main(["--mode", "train", "--list"])
    assert "/episodes_client" in capsys.readouterr().out
    security.main(["--mode", "train", "--robot", "dual_ur5e", "--joy", "keyboard", "--list"])
    assert "/episodes_client" not in capsys.readouterr().out


def test_every_node_of_the_graph_is_in_the_table():
    by_hand = {node.name for node in (*security.BY_HAND, security.DEMO, security.REPLAY)}
    assert set(security.NODES) == set(NODE_NAMES) | by_hand
    stranger = NodeSpec("p", "e", "stranger")
    with pytest.raises(ParameterError, match="no interfaces are known of node 'stranger'"):
        security.interfaces(stranger, load_robot(resolve(GraphOptions()).robot_file))


def test_only_the_executor_may_publish_commands():
    resolved = resolve(GraphOptions(mode="deploy"))
    robot = load_robot(resolved.robot_file)
    root = xml.fromstring(security.policy(describe(resolved), robot))
    who = [
        enclave.get("path")
        for enclave in root.iter("enclave")
        for topics in enclave.iter("topics")
        if topics.get("publish") and robot.command_topics[0] in [topic.text for topic in topics]
    ]
    assert who == ["/chunk_executor"]


@pytest.mark.parametrize("name", ["aloha", "dual_ur5e", "dual_franka", "dual_ros2_control"])
def test_of_a_robot_with_drivers_only_the_executor_commands_and_hears_every_state_and_sensor(name, tmp_path):
    resolved = resolve(GraphOptions(robot=name, mode="train", joy="keyboard", run=str(tmp_path)))
    robot = load_robot(resolved.robot_file)
    for node in [*describe(resolved), *security.BY_HAND]:
        own = security.interfaces(node, robot)
        commands = set(own.publish) & set(robot.command_topics)
        assert commands == (set(robot.command_topics) if node.name == "chunk_executor" else set()), node.name
        if node.name in ("chunk_executor", "check_robot"):
            assert {*robot.state_topics, *robot.sensor_topics} <= set(own.subscribe)


def test_a_namespace_is_part_of_enclave_and_profile(tmp_path):
    file = tmp_path / "policy.xml"
    security.main(["--namespace", "left_cell", "--output", str(file)])
    root = xml.parse(file).getroot()
    assert root.tag == "policy"
    assert {e.get("path").rsplit("/", 1)[0] for e in root.iter("enclave")} == {"/left_cell"}
    assert {p.get("ns") for p in root.iter("profile")} == {"/left_cell"}


def test_a_learner_of_several_robots_may_use_the_topics_of_each(tmp_path):
    file = tmp_path / "policy.xml"
    security.main(["--mode", "train", "--learner", "alone", "--robots", "cell_a,/cell_b", "--output", str(file)])
    root = xml.parse(file).getroot()
    assert [e.get("path") for e in root.iter("enclave")] == ["/rl_learner", "/healthcheck"]

    def of(kind):
        own = next(root.iter("enclave"))
        return {topic.text for group in own.iter("topics") if group.get(kind) for topic in group}

    assert of("publish") == {
        *(f"{cell}/{topic}" for cell in ("cell_a", "/cell_b") for topic in ("actor", "training_status")),
        *("/rosout", "/parameter_events", "/diagnostics"),
    }
    assert {"cell_a/executed_action", "/cell_b/relabel"} < of("subscribe")
    assert "executed_action" not in of("subscribe")


def test_a_simulated_cell_in_a_namespace_has_its_own_clock(tmp_path):
    file = tmp_path / "policy.xml"
    security.main(["--mode", "train", "--learner", "shared", "--namespace", "cell_a", "--output", str(file)])
    root = xml.parse(file).getroot()
    topics = {t.text for e in root.iter("topics") for t in e}
    assert "clock" in topics
    assert "/clock" not in topics
    assert "/cell_a/rl_learner" not in {e.get("path") for e in root.iter("enclave")}


def test_the_script_that_demonstrates_may_move_its_leaders_and_no_arm(tmp_path):
    resolved = resolve(GraphOptions(run=str(tmp_path), mode="collect"))
    robot = load_robot(resolved.robot_file)
    used = {node.name: security.interfaces(node, robot) for node in describe(resolved)}
    leaders = {f"simulation/leader_{side}/joint_states" for side in ("left", "right")}
    assert leaders < set(used["scripted_operator"].publish)
    assert leaders < set(used["joy_operator"].subscribe)
    assert not set(robot.command_topics) & set(used["scripted_operator"].publish)
    assert "teleop_command" not in used["scripted_operator"].publish


def test_the_policies_in_the_repository_are_those_of_today(tmp_path):
    file = tmp_path / "policy.xml"
    security.main(["--output", str(file)])
    kept = ROOT / "src" / "rlt_bringup" / "config" / "security" / "sim.policy.xml"
    assert file.read_text() == kept.read_text(), "python -m rlt_bringup.security --output " + str(
        kept.relative_to(ROOT)
    )


def test_a_secured_graph_starts_every_node_in_its_own_enclave(monkeypatch, tmp_path, capsys):
    security.main(["--list", "--mode", "train"])
    listed = capsys.readouterr().out.split()
    nodes = security.described(resolve(GraphOptions(run=str(tmp_path), mode="train", view=True)))

    def enclaves():
        commands = [GraphRunner([node], tmp_path)._command(node) for node in nodes]
        return [c[c.index("--enclave") + 1] for c in commands if "--enclave" in c]

    monkeypatch.delenv("ROS_SECURITY_ENABLE", raising=False)
    assert enclaves() == []
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    assert enclaves() == listed == [f"/{node.name}" for node in nodes]


def name_of(node):
    """Dotted name of what is called."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def dangers(tree):
    """What in a module could run code that it has loaded: (line, what)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from ((node.lineno, f"import {m}") for m in modules if m.split(".")[0] in FORBIDDEN_IMPORTS)
        elif isinstance(node, ast.Call):
            if name_of(node.func) in FORBIDDEN_CALLS:
                yield node.lineno, name_of(node.func)
            for keyword in node.keywords:
                if keyword.arg in ("shell", "allow_pickle") and getattr(keyword.value, "value", True) is not False:
                    yield node.lineno, f"{keyword.arg}=..."


def test_nothing_unpickles_evaluates_or_loads_yaml_unsafely():
    files = [p for folder in ("src", "benchmarks", "scripts") for p in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    found = [(str(p.relative_to(ROOT)), *d) for p in files for d in dangers(ast.parse(p.read_text(encoding="utf-8")))]
    assert found == []


def unlimited_reads(tree):
    """Where a module takes in a whole file of any size: (line, what)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = name_of(node.func)
            inner = {name_of(call.func) for a in node.args for call in ast.walk(a) if isinstance(call, ast.Call)}
            if name == "json.load" or (name == "json.loads" and any(i.rpartition(".")[2] in READING for i in inner)):
                yield node.lineno, name
            elif isinstance(node.func, ast.Attribute) and node.func.attr in ("read_text", "read_bytes"):
                yield node.lineno, node.func.attr


READING = {"read", "read_text", "read_bytes"}


def test_files_are_read_up_to_a_size():
    """In the packages everywhere, elsewhere where JSON is read: `rlt_common.reading` is the one that does."""
    found = []
    for path in (p for folder in ("src", "benchmarks", "scripts") for p in (ROOT / folder).rglob("*.py")):
        if "test" in path.parts:
            continue
        packaged = path.relative_to(ROOT).parts[0] == "src"
        reads = unlimited_reads(ast.parse(path.read_text(encoding="utf-8")))
        found += [(str(path.relative_to(ROOT)), *r) for r in reads if packaged or r[1].startswith("json.")]
    assert found == []


@pytest.mark.parametrize(
    "code", ["json.load(f)", "json.loads(p.read_text())", "json.loads(open(p).read())", "Path(p).read_bytes()"]
)
def test_the_search_for_unlimited_reads_finds_them(code):
    assert list(unlimited_reads(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from pickle import loads", "eval('1')", "yaml.load(f)", "np.load(f, allow_pickle=True)"],
)
def test_the_search_finds_what_it_looks_for(code):
    assert list(dangers(ast.parse(code)))
