"""The launch files' reader of the graph description. Imported by launch files only: needs launch and launch_ros."""

from __future__ import annotations

import sys
from collections.abc import Iterable

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
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace

from rlt_bringup import drivers, launch_arguments
from rlt_bringup.graph import GRAPH_MODES, RESPAWN_DELAY_S, GraphOptions, NodeSpec, describe, resolve
from rlt_bringup.launch_arguments import Argument
from rlt_bringup.process_environment import set_defaults
from rlt_bringup.security import enclave, secured
from rlt_bringup.shared_learner import OWN
from rlt_common.driver_launch import DriverLaunch
from rlt_common.parameters import ParameterError

COMMANDS = {"demo": "rlt_bringup.demo", "adapt": "rlt_vla_node.adapt", "handoff": "rlt_vla_node.handoff_command"}
"""The module of each mode that is run as one command."""


def launch_description(task: str) -> LaunchDescription:
    """The launch description of <task>.launch.py: every field of GraphOptions is a launch argument."""
    environment = set_defaults()
    arguments = launch_arguments.graph_arguments(task)
    start = OpaqueFunction(function=_actions, kwargs={"file": f"{task}.launch.py", "environment": environment})
    return LaunchDescription([*map(_declared, arguments), start])


def replay_description() -> LaunchDescription:
    """The launch description that plays one recorded episode back; launch returns 1 unless it came back the same."""
    set_defaults()
    return LaunchDescription([*map(_declared, launch_arguments.REPLAY), OpaqueFunction(function=_replay)])


def _declared(argument: Argument) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(
        argument.name,
        default_value=argument.default,
        description=argument.description,
        choices=list(argument.choices) or None,
    )


def _values(context: LaunchContext, file: str, arguments: Iterable[Argument]) -> dict[str, str]:
    """The text of each argument. Raises ParameterError when another one was given."""
    names = [argument.name for argument in arguments]
    launch_arguments.refuse_unknown(file, names, context.argv, sys.argv)
    return {name: LaunchConfiguration(name).perform(context) for name in names}


def _replay(context: LaunchContext) -> list:
    values = _values(context, "replay.launch.py", launch_arguments.REPLAY)
    given = [word for name, value in values.items() if value for word in (f"--{name}", value)]
    return _one_command("replay", [sys.executable, "-m", "rlt_bringup.replay", *given])


def _actions(context: LaunchContext, file: str, environment: dict[str, str]) -> list:
    arguments = launch_arguments.graph_arguments(file.removesuffix(".launch.py"))
    options = launch_arguments.options_from(_values(context, file, arguments))
    resolved = resolve(options)
    if options.mode not in GRAPH_MODES:
        if options.learner != OWN:
            raise ParameterError(f"learner: {options.learner}: mode {options.mode} is one command and has no graph")
        module = COMMANDS[options.mode]
        command = [sys.executable, "-m", module, *_command_arguments(options.mode, resolved)]
        return _one_command(options.mode, command)
    return [
        *(LogInfo(msg=text) for text in (f"run directory: {resolved.run}", *resolved.notes)),
        *(
            [LogInfo(msg="the keys are read in another terminal: ros2 run rlt_teleop keyboard")]
            if resolved.joy_reader == "keyboard"
            else []
        ),
        *(_driver(driver, options.namespace, environment) for driver in resolved.drivers),
        *(action for spec in describe(resolved) for action in _started(spec, options, str(resolved.run))),
    ]


class CommandError(RuntimeError):
    """The one command of a launch ended with another status than 0."""


def _one_command(name: str, command: list[str]) -> list:
    """Run one command to its end, then shut the launch down: with status 1 when the command had another one than 0.

    An exception is the only way in which a launch file can have launch return something else than 0.
    """

    def ended(event: ProcessExited, context: LaunchContext) -> list:
        if event.returncode and not context.is_shutdown:
            raise CommandError(f"{name} ended with status {event.returncode}")
        return [EmitEvent(event=Shutdown(reason=f"{name} ended"))]

    process = ExecuteProcess(cmd=command, output="screen", sigterm_timeout="30")
    return [process, RegisterEventHandler(OnProcessExit(target_action=process, on_exit=ended))]


def _command_arguments(mode: str, resolved) -> list[str]:
    seed = ["--seed", str(resolved.options.seed)]
    if mode == "demo":
        return ["--task", resolved.options.task, "--run", str(resolved.run), *seed]
    files = ["--robot", str(resolved.robot_file), "--task", str(resolved.task_file)]
    if mode == "handoff":
        return [*files, "--run", str(resolved.run), "--checkpoint", str(resolved.checkpoint), *seed]
    vla = ["--vla", str(resolved.vla_file)] if resolved.vla_file else []
    return [
        *vla,
        *files,
        *("--demonstrations", str(resolved.run / "episodes"), "--output", str(resolved.checkpoint)),
        *seed,
    ]


def _driver(driver: DriverLaunch, namespace: str, environment: dict[str, str]) -> GroupAction:
    """A driver's launch file in our namespace. Nothing is forwarded: our `mode` is not the driver's.

    Not to forward also takes the environment back to what it was before our launch file was read: what we set for every
    process is set again, or the drivers would be found from the whole subnet.
    """
    variables = [SetEnvironmentVariable(name, value) for name, value in environment.items()]
    source = AnyLaunchDescriptionSource(str(drivers.launch_file(driver)))
    include = IncludeLaunchDescription(source, launch_arguments=list(drivers.arguments(driver).items()))
    own = drivers.namespace_of(driver, namespace)
    pushed = [PushRosNamespace(own)] if own else []
    return GroupAction([*variables, *pushed, include], scoped=True, forwarding=False)


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
