"""What each node of the graph may publish, subscribe, serve and call, and from it the policies of SROS2.

    python -m rlt_bringup.security --robot sim --mode deploy --output policy.xml

Pure but for the command. The table below is the only place that says it; a test compares it with the nodes of a running
graph. `docs/security.md` says how the policies are turned on.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import xml.etree.ElementTree as xml
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rlt_bringup.graph import GraphOptions, NodeSpec, Resolved, describe, replayed, resolve
from rlt_bringup.shared_learner import ALONE, CLOCK
from rlt_common import topics
from rlt_common.atomic import write_atomic
from rlt_common.config import RobotConfig, load_robot
from rlt_common.parameters import ParameterError
from rlt_teleop import views
from rlt_teleop.joy_mapping import load_mapping

CAMERAS, COMMAND, STATES, SENSORS, ORDERS = "{cameras}", "{command}", "{states}", "{sensors}", "{orders}"
"""Stand for the topics that the robot's file names; ORDERS for the services in which controllers tell their joints."""
PICTURES = "{pictures}"
"""Stands for what `views` makes of the cameras."""
EVERY_NODE_PUBLISHES = ("/parameter_events",)
EVERY_NODE_REPLIES = ("~/get_type_description",)
LOG = "/rosout"
PARAMETER_SERVICES = (
    "~/describe_parameters",
    "~/get_parameter_types",
    "~/get_parameters",
    "~/list_parameters",
    "~/set_parameters",
    "~/set_parameters_atomically",
)
"""rclpy's own. Every parameter of this project is read-only, so setting one is refused."""


@dataclass(frozen=True)
class Interfaces:
    """Names, relative to the namespace, that a node uses."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    reply: tuple[str, ...] = ()
    request: tuple[str, ...] = ()
    execute: tuple[str, ...] = ()
    call: tuple[str, ...] = ()
    health: bool = True
    """Whether it says on /diagnostics how it is."""
    parameters: bool = True
    """Whether it has a log topic and rclpy's services for its parameters."""


NODES: dict[str, Interfaces] = {
    "sim_robot": Interfaces(
        publish=(topics.JOINT_STATES, CAMERAS, topics.SIMULATION_STATE, topics.SIMULATION_MOUTH, CLOCK),
        subscribe=(COMMAND, topics.CONTROL_STATE, topics.SIMULATION_ACK),
        reply=(topics.SERVICE_RESET_SCENE,),
    ),
    "chunk_executor": Interfaces(
        publish=(COMMAND, topics.EXECUTED_ACTION, topics.CHUNK_REQUEST, topics.CONTROL_STATE),
        subscribe=(
            STATES,
            topics.ACTION_CHUNK,
            topics.EPISODE_STATE,
            topics.TELEOP_COMMAND,
            topics.OPERATOR_EVENT,
            topics.ESTOP,
            topics.CAMERA_HEALTH,
            SENSORS,
        ),
        reply=(topics.SERVICE_ESTOP, topics.SERVICE_RESET_ESTOP),
    ),
    "camera_ingest": Interfaces(publish=(topics.OBSERVATION, topics.CAMERA_HEALTH), subscribe=(STATES, CAMERAS)),
    "vla": Interfaces(
        publish=(topics.VLA_OUTPUT,),
        subscribe=(
            topics.OBSERVATION,
            topics.CHUNK_REQUEST,
            topics.EPISODE_STATE,
            topics.EXECUTED_ACTION,
            topics.CONTROL_STATE,
        ),
    ),
    "rl_policy": Interfaces(
        publish=(topics.ACTION_CHUNK,),
        subscribe=(topics.VLA_OUTPUT, topics.CHUNK_REQUEST, topics.EPISODE_STATE, topics.ACTOR),
    ),
    "rl_learner": Interfaces(
        publish=(topics.ACTOR, topics.TRAINING_STATUS),
        subscribe=(
            topics.EXECUTED_ACTION,
            topics.VLA_OUTPUT,
            topics.EPISODE_STATE,
            topics.CONTROL_STATE,
            topics.RELABEL,
        ),
        reply=(topics.SERVICE_SAVE_CHECKPOINT,),
    ),
    "episode_manager": Interfaces(
        publish=(topics.EPISODE_STATE, topics.RELABEL),
        subscribe=(
            topics.EXECUTED_ACTION,
            topics.CONTROL_STATE,
            topics.TRAINING_STATUS,
            topics.RECORDER_STATUS,
            topics.OPERATOR_EVENT,
        ),
        reply=(topics.SERVICE_START_EPISODE, topics.SERVICE_HANDOFF, topics.SERVICE_LABEL_EPISODE),
        request=(topics.SERVICE_RESET_SCENE, topics.SERVICE_ESTOP),
        execute=(topics.ACTION_RUN_EPISODES,),
    ),
    "auto_handoff": Interfaces(subscribe=(topics.VLA_OUTPUT, topics.EPISODE_STATE), request=(topics.SERVICE_HANDOFF,)),
    "joy_operator": Interfaces(publish=(topics.OPERATOR_EVENT, topics.TELEOP_COMMAND)),  # and its mapping's topics
    "gamepad": Interfaces(publish=(topics.JOY,), subscribe=(topics.JOY_FEEDBACK,)),
    "spacenav": Interfaces(publish=("spacenav/joy", "spacenav/offset", "spacenav/rot_offset", "spacenav/twist")),
    "operator_page": Interfaces(
        publish=(topics.OPERATOR_EVENT, topics.ESTOP),
        subscribe=(
            topics.EPISODE_STATE,
            topics.CONTROL_STATE,
            topics.TRAINING_STATUS,
            topics.RECORDER_STATUS,
            topics.RELABEL,
            topics.DIAGNOSTICS,
            topics.OPERATOR_EVENT,
            topics.ESTOP,
            topics.OBSERVATION,
        ),
        request=(
            topics.SERVICE_HANDOFF,
            topics.SERVICE_LABEL_EPISODE,
            topics.SERVICE_ESTOP,
            topics.SERVICE_RESET_ESTOP,
        ),
    ),
    "views": Interfaces(
        publish=(PICTURES, views.POLICY, views.REFERENCE), subscribe=(topics.OBSERVATION, topics.ACTION_CHUNK)
    ),
    "v4l2_camera": Interfaces(publish=(CAMERAS,)),
    "camera_check": Interfaces(subscribe=(STATES, CAMERAS), health=False),
    "check_robot": Interfaces(subscribe=(STATES, SENSORS, CAMERAS), request=(ORDERS,), health=False),
    "calibrate_delay": Interfaces(subscribe=(STATES, CAMERAS), health=False),  # of the cameras one, chosen at its start
    "recorder": Interfaces(
        publish=(topics.RECORDER_STATUS,),
        subscribe=(
            topics.OBSERVATION,
            topics.VLA_OUTPUT,
            topics.ACTION_CHUNK,
            topics.EXECUTED_ACTION,
            topics.EPISODE_STATE,
            topics.OPERATOR_EVENT,
            topics.TRAINING_STATUS,
            topics.CONTROL_STATE,
            topics.DIAGNOSTICS,
        ),
    ),
    "scripted_operator": Interfaces(
        publish=(topics.JOY, topics.SIMULATION_ACK),
        subscribe=(topics.SIMULATION_STATE, topics.EPISODE_STATE, topics.CONTROL_STATE),
    ),
    "keyboard": Interfaces(publish=(topics.JOY,), subscribe=(topics.EPISODE_STATE,)),
    "status": Interfaces(
        subscribe=(
            topics.EPISODE_STATE,
            topics.CONTROL_STATE,
            topics.TRAINING_STATUS,
            topics.RECORDER_STATUS,
            topics.RELABEL,
            topics.DIAGNOSTICS,
        ),
        health=False,
    ),
    "feedback": Interfaces(
        publish=(topics.JOY_FEEDBACK,),
        subscribe=(topics.EPISODE_STATE, topics.CONTROL_STATE, topics.RECORDER_STATUS, topics.DIAGNOSTICS),
    ),
    "healthcheck": Interfaces(subscribe=(topics.DIAGNOSTICS,), health=False, parameters=False),
    "reset_estop_command": Interfaces(request=(topics.SERVICE_RESET_ESTOP,), health=False),
    "episodes_client": Interfaces(
        subscribe=(topics.TRAINING_STATUS,),
        request=(topics.SERVICE_SAVE_CHECKPOINT,),
        call=(topics.ACTION_RUN_EPISODES,),
        health=False,
    ),
    "replay": Interfaces(
        publish=(
            topics.OBSERVATION,
            topics.CHUNK_REQUEST,
            topics.EPISODE_STATE,
            topics.EXECUTED_ACTION,
            topics.CONTROL_STATE,
            topics.ACTOR,
        ),
        subscribe=(topics.VLA_OUTPUT, topics.ACTION_CHUNK),
        health=False,
    ),
}
HEALTHCHECK = NodeSpec("rlt_bringup", "healthcheck", "healthcheck")
BY_HAND = (
    HEALTHCHECK,
    *(
        NodeSpec(package, executable, name)
        for package, executable, name in (
            ("rlt_teleop", "keyboard", "keyboard"),
            ("rlt_teleop", "status", "status"),
            ("rlt_teleop", "feedback", "feedback"),
            ("rlt_teleop", "views", "views"),
            ("rlt_teleop", "reset_estop", "reset_estop_command"),
            ("rlt_bringup", "check_robot", "check_robot"),
            ("rlt_vla_node", "camera_check", "camera_check"),
            ("rlt_vla_node", "calibrate_delay", "calibrate_delay"),
        )
    ),
)
"""What a person starts beside the graph; the policies know it too."""
DEMO = NodeSpec("rlt_bringup", "demo", "episodes_client")
"""Runs the episodes of `make demo`: in simulation alone it has policies."""
REPLAY = NodeSpec("rlt_bringup", "replay", "replay")
"""Stands where robot and learner stand, for an episode that is played back: only in the namespace of that."""
REPLAY_NAMESPACE = "replay"
"""Where SROS2 is on."""


def interfaces(node: NodeSpec, robot: RobotConfig) -> Interfaces:
    """What a node of the graph uses, with the robot's own topics and what rclpy adds.

    Raises ParameterError for a node that the table lacks.
    """
    if node.name not in NODES:
        raise ParameterError(f"security: no interfaces are known of node {node.name!r}: add it to {__name__}.NODES")
    own = _of_robots(NODES[node.name], node.parameters.get("robots", ()))
    sim_time = bool(node.parameters.get("use_sim_time"))
    lockstep = robot.tick == "joint_states"
    clock = CLOCK.lstrip("/") if node.remap else CLOCK  # a namespace has a clock of its own
    unsaid = (topics.CAMERA_HEALTH,) if lockstep else (CLOCK,)
    unheard = (topics.CAMERA_HEALTH,) if lockstep else ()
    if node.name == "sim_robot" and not lockstep:
        unheard = (topics.CONTROL_STATE, topics.SIMULATION_ACK)
    publish = [clock if name == CLOCK else name for name in _resolved(own.publish, robot) if name not in unsaid]
    publish += _leaders(node)
    subscribe = [*_resolved(own.subscribe, robot), *_mapped(node), *([clock] if sim_time else [])]
    subscribe += [topics.SIMULATION_MOUTH, topics.JOINT_STATES] if _leaders(node) else []
    subscribe = [name for name in subscribe if name not in unheard]
    publish += [
        *EVERY_NODE_PUBLISHES,
        *([topics.DIAGNOSTICS] if own.health else []),
        *([LOG] if own.parameters else []),
    ]
    return dataclasses.replace(
        own,
        publish=tuple(sorted(set(publish))),
        subscribe=tuple(sorted(set(subscribe))),
        reply=tuple(sorted({*own.reply, *EVERY_NODE_REPLIES, *(PARAMETER_SERVICES if own.parameters else ())})),
        request=tuple(sorted(set(_resolved(own.request, robot)))),
    )


def _of_robots(own: Interfaces, robots: Iterable[str]) -> Interfaces:
    """The topics of a learner of several robots: in the namespace of each."""
    if not robots:
        return own

    def each(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(f"{robot.rstrip('/')}/{name}" for robot in robots for name in names)

    return dataclasses.replace(own, publish=each(own.publish), subscribe=each(own.subscribe))


def secured() -> bool:
    """Whether the environment asks for SROS2, as rcl reads it."""
    return os.environ.get("ROS_SECURITY_ENABLE", "") == "true"


def enclave(node: NodeSpec, namespace: str = "") -> str:
    """The enclave, that is the identity, of a node: one each, so that none can do what another may."""
    return f"{_namespace(namespace).rstrip('/')}/{node.name}"


def policy(nodes: Iterable[NodeSpec], robot: RobotConfig, namespace: str = "") -> str:
    """The SROS2 policies of these nodes, as XML of version 0.2.0. Raises ParameterError for an unknown node."""
    root = xml.Element("policy", version="0.2.0")
    enclaves = xml.SubElement(root, "enclaves")
    for node in nodes:
        own = interfaces(node, robot)
        element = xml.SubElement(enclaves, "enclave", path=enclave(node, namespace))
        profiles = xml.SubElement(element, "profiles")
        profile = xml.SubElement(profiles, "profile", ns=_namespace(namespace), node=node.name)
        for group, item, verb, names in (
            ("topics", "topic", "publish", own.publish),
            ("topics", "topic", "subscribe", own.subscribe),
            ("services", "service", "reply", own.reply),
            ("services", "service", "request", own.request),
            ("actions", "action", "execute", own.execute),
            ("actions", "action", "call", own.call),
        ):
            if names:
                allowed = xml.SubElement(profile, group, {verb: "ALLOW"})
                for name in names:
                    xml.SubElement(allowed, item).text = name
    xml.indent(root)
    return xml.tostring(root, encoding="unicode") + "\n"


def _resolved(names: Iterable[str], robot: RobotConfig) -> list[str]:
    places = {
        CAMERAS: [camera.topic for camera in robot.cameras],
        PICTURES: [views.camera_topic(camera.name) for camera in robot.cameras],
        COMMAND: list(robot.command_topics),
        STATES: list(robot.state_topics),
        SENSORS: list(robot.sensor_topics),
        ORDERS: [
            f"{driver.topic.rpartition('/')[0]}/get_parameters"
            for driver in robot.drivers
            if driver.type == "joint_positions" and "/" in driver.topic
        ],
    }
    return [resolved for name in names for resolved in places.get(name, [name])]


def _mapped(node: NodeSpec) -> list[str]:
    """Where the joystick mapping of a node, if it has one, takes buttons and motion from."""
    if node.name != "joy_operator":
        return []
    mapping = load_mapping(str(node.parameters["mapping"]))
    found = [mapping.joy_topic]
    if mapping.motion == "twist":
        found.append(mapping.twist.topic)
    if mapping.motion == "leader":
        found += [topics.EXECUTED_ACTION, *(leader.topic for leader in mapping.leader.arms.values())]
    return found


def _leaders(node: NodeSpec) -> list[str]:
    """The topics of the leader arms that the scripted operator moves, if it does."""
    if not node.parameters.get("operator.demonstrate"):
        return []
    mapping = load_mapping(str(node.parameters["mapping"]))
    return [leader.topic for leader in mapping.leader.arms.values()]


def _namespace(namespace: str) -> str:
    return f"/{namespace.strip('/')}" if namespace.strip("/") else "/"


def described(resolved: Resolved, replay: bool = False) -> list[NodeSpec]:
    """The nodes of a graph that have policies, with those that a person starts; `replay`: those of a replay."""
    if replay:
        return [*replayed(resolved), REPLAY]
    nodes = describe(resolved)
    if resolved.options.learner == ALONE:
        return [*nodes, HEALTHCHECK]
    return [*nodes, *BY_HAND, *((DEMO,) if resolved.simulated else ())]


def with_identity(command: list[str], node: NodeSpec, namespace: str = "") -> list[str]:
    """A command line with the enclave of what is started by hand, where SROS2 is on and none was given."""
    if not secured() or "--enclave" in command:
        return command
    return [*command, "--ros-args", "--enclave", enclave(node, namespace)]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m rlt_bringup.security`."""
    parser = argparse.ArgumentParser(prog="security", description="write the SROS2 policies of a graph")
    parser.add_argument("--task", default="screw", help="task name or path of a task file")
    parser.add_argument("--robot", default="sim", help="robot name or path of a robot file")
    parser.add_argument(
        "--mode", default="deploy", help=f"mode of the graph; or {REPLAY.name}: of an episode played back"
    )
    parser.add_argument("--namespace", default="", help="namespace of every node")
    parser.add_argument("--learner", default="own", help="own, shared or alone")
    parser.add_argument("--robots", default="", help="with --learner alone: namespaces of its robots")
    parser.add_argument("--operator", default="", help="in simulation: scripted or human")
    parser.add_argument("--joy", default="", help="joystick mapping, by name or path")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", type=Path, help="the file to write")
    what.add_argument("--list", action="store_true", help="print the enclaves, one a line")
    given = parser.parse_args(arguments)
    replay = given.mode == REPLAY.name
    namespace = REPLAY_NAMESPACE if replay else given.namespace
    try:
        if replay and given.namespace:
            raise ParameterError(f"--namespace: a replay has its own, {REPLAY_NAMESPACE}: leave it out")
        options = GraphOptions(
            task=given.task,
            robot=given.robot,
            mode="eval" if replay else given.mode,
            operator=given.operator,
            joy=given.joy,
            view=True,  # the operator page has policies whether it is started or not
            namespace=namespace,
            learner=given.learner,
            robots=given.robots,
            checkpoint="vla",  # named, so that what a dry run may do does not depend on what a run directory holds
        )
        resolved = resolve(options)
        nodes = described(resolved, replay)
        if given.list:
            print("\n".join(enclave(node, namespace) for node in nodes))
            return
        text = policy(nodes, load_robot(resolved.robot_file), namespace)
        write_atomic(given.output, text.encode())
    except ParameterError as error:
        sys.exit(f"security: {error}")
    except OSError as error:
        sys.exit(f"security: {given.output}: {error.strerror}")


if __name__ == "__main__":
    main()
