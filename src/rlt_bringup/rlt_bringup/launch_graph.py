"""The launch files' reader of the graph description. Imported by launch files only: needs launch and launch_ros."""

from __future__ import annotations

import dataclasses
import sys

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    GroupAction,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace

from rlt_bringup import drivers
from rlt_bringup.discovery import stay_on_this_machine
from rlt_bringup.graph import GRAPH_MODES, RESPAWN_DELAY_S, GraphOptions, NodeSpec, describe, resolve
from rlt_bringup.security import enclave, secured
from rlt_bringup.shared_learner import OWN
from rlt_common.driver_launch import DriverLaunch
from rlt_common.parameters import ParameterError

COMMANDS = {"demo": "rlt_bringup.demo", "adapt": "rlt_vla_node.adapt", "handoff": "rlt_vla_node.handoff_command"}
"""The module of each mode that is run as one command."""


def launch_description(task: str) -> LaunchDescription:
    """The launch description of a task: every field of GraphOptions is a launch argument."""
    stay_on_this_machine()
    arguments = []
    for option in dataclasses.fields(GraphOptions):
        if option.name == "task":
            continue
        default = f"runs/{task}" if option.name == "run" else _text(option.default)
        arguments.append(
            DeclareLaunchArgument(
                option.name,
                default_value=default,
                description=option.metadata["description"],
                choices=list(option.metadata["choices"]) if option.metadata["choices"] else None,
            )
        )
    return LaunchDescription([*arguments, OpaqueFunction(function=_actions, kwargs={"task": task})])


REPLAY_ARGUMENTS = (
    ("bag", None, "episode file, <run>/episodes/<id>.mcap"),
    ("run", "", "run directory; empty: two folders above the episode file"),
    ("checkpoint", "", "frozen VLA and RL token; empty: <run>/vla"),
    ("actor", "", "checkpoint of the learner; empty: the one of the run that fits"),
    ("output", "", "file for the comparison of every message; empty: none"),
)


def replay_description() -> LaunchDescription:
    """The launch description that plays one recorded episode back; its exit status is the comparison's."""
    stay_on_this_machine()
    arguments = [DeclareLaunchArgument(n, default_value=d, description=text) for n, d, text in REPLAY_ARGUMENTS]
    return LaunchDescription([*arguments, OpaqueFunction(function=_replay)])


def _replay(context: LaunchContext) -> list:
    values = {name: LaunchConfiguration(name).perform(context) for name, _, _ in REPLAY_ARGUMENTS}
    given = [word for name, value in values.items() if value for word in (f"--{name}", value)]
    return _one_command("replay", [sys.executable, "-m", "rlt_bringup.replay", *given])


def options_from_launch(context: LaunchContext, task: str) -> GraphOptions:
    """GraphOptions out of the launch arguments. Raises ParameterError."""
    values: dict[str, object] = {"task": task}
    for option in dataclasses.fields(GraphOptions):
        if option.name == "task":
            continue
        text = LaunchConfiguration(option.name).perform(context)
        values[option.name] = _parse(text, type(option.default), option.name)
    return GraphOptions(**values)


def _actions(context: LaunchContext, task: str) -> list:
    options = options_from_launch(context, task)
    resolved = resolve(options)
    if options.mode not in GRAPH_MODES:
        if options.learner != OWN:
            raise ParameterError(f"learner: {options.learner}: mode {options.mode} is one command and has no graph")
        module = COMMANDS[options.mode]
        command = [sys.executable, "-m", module, *_command_arguments(options.mode, resolved)]
        return _one_command(options.mode, command)
    return [
        LogInfo(msg=f"run directory: {resolved.run}"),
        *(
            [LogInfo(msg="the keys are read in another terminal: ros2 run rlt_teleop keyboard")]
            if resolved.joy_reader == "keyboard"
            else []
        ),
        *(_driver(driver, options.namespace) for driver in resolved.drivers),
        *(action for spec in describe(resolved) for action in _started(spec, options, str(resolved.run))),
    ]


def _one_command(name: str, command: list[str]) -> list:
    """Run one command to its end, then shut the launch down."""
    process = ExecuteProcess(cmd=command, output="screen", sigterm_timeout="30")
    done = OnProcessExit(target_action=process, on_exit=[EmitEvent(event=Shutdown(reason=f"{name} ended"))])
    return [process, RegisterEventHandler(done)]


def _command_arguments(mode: str, resolved) -> list[str]:
    seed = ["--seed", str(resolved.options.seed)]
    if mode == "demo":
        return ["--task", resolved.options.task, "--run", str(resolved.run), *seed]
    files = ["--robot", str(resolved.robot_file), "--task", str(resolved.task_file)]
    if mode == "handoff":
        return [*files, "--run", str(resolved.run), "--checkpoint", str(resolved.checkpoint), *seed]
    return [
        *files,
        *("--demonstrations", str(resolved.run / "episodes"), "--output", str(resolved.checkpoint)),
        *seed,
    ]


def _driver(driver: DriverLaunch, namespace: str) -> GroupAction:
    """A driver's launch file in our namespace. Nothing is forwarded: our `mode` is not the driver's."""
    source = AnyLaunchDescriptionSource(str(drivers.launch_file(driver)))
    include = IncludeLaunchDescription(source, launch_arguments=list(drivers.arguments(driver).items()))
    own = drivers.namespace_of(driver, namespace)
    pushed = [PushRosNamespace(own)] if own else []
    return GroupAction([*pushed, include], scoped=True, forwarding=False)


def _started(spec: NodeSpec, options: GraphOptions, run: str) -> list:
    """A node; one that is not respawned is started again when the operator says so."""
    node = _node(spec, options)
    if spec.respawn:
        return [node]

    def ended(event: ProcessExited, context: LaunchContext) -> list:
        if context.is_shutdown:
            return []
        why = ["--wait", spec.name, "--why", f"status {event.returncode}"]
        command = [sys.executable, "-m", "rlt_bringup.restart_executor", "--run", run, *why]
        question = ExecuteProcess(cmd=command, output="screen")
        return [question, RegisterEventHandler(OnProcessExit(target_action=question, on_exit=answered))]

    def answered(event: ProcessExited, context: LaunchContext) -> list:
        return [] if context.is_shutdown or event.returncode else _started(spec, options, run)

    return [node, RegisterEventHandler(OnProcessExit(target_action=node, on_exit=ended))]


def _node(spec: NodeSpec, options: GraphOptions) -> Node:
    return Node(
        package=spec.package,
        executable=spec.executable,
        name=spec.name,
        namespace=options.namespace,
        parameters=[dict(spec.parameters)],
        remappings=list(spec.remap),
        arguments=["--ros-args", "--log-level", options.log_level, *_identity(spec, options)],
        output="screen",
        respawn=spec.respawn,
        respawn_delay=RESPAWN_DELAY_S,
    )


def _identity(spec: NodeSpec, options: GraphOptions) -> list[str]:
    return ["--enclave", enclave(spec, options.namespace)] if secured() else []


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(text: str, kind: type, name: str) -> object:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ParameterError(f"launch argument {name}:={text}: say true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise ParameterError(f"launch argument {name}:={text}: expected {kind.__name__}") from error
