"""The graph of nodes, described once as plain data. The launch files and the runner for wheel installs both read it.

Pure: no launch, no rclpy. A NodeSpec says which executable runs under which name with which parameters; `describe`
gives the list for a mode. What a task file says under `nodes: <node>:` overrides parameters of that node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_packages_with_prefixes

from rlt_bringup import drivers, shared_learner
from rlt_bringup.checkpoint_states import newest_state
from rlt_common import topics
from rlt_common.config import RobotConfig, TaskConfig, config_file, load_robot, load_task
from rlt_common.driver_launch import DriverLaunch
from rlt_common.parameters import ParameterError, param, validate
from rlt_common.run_files import inside
from rlt_common.vla_config import load_vla
from rlt_teleop.episode_manager_parameters import ManagerParameters
from rlt_teleop.joy_mapping import load_mapping
from rlt_teleop.recorder_parameters import RecorderParameters

MODES = ("demo", "collect", "adapt", "train", "handoff", "eval", "deploy", "dry_run")
GRAPH_MODES = ("collect", "train", "eval", "deploy", "dry_run")
HOSTS = ("all", "robot", "gpu")
GPU_NODES = ("vla", "rl_policy", "rl_learner")  # the rest belongs beside the arms
RESPAWN_DELAY_S = 1.0
SCRIPT_SILENCE_S = 2.0
"""How long the scripted operator's pad may be silent while it drives: a busy machine is no unplugged pad."""
SCRIPT_LIMITS = 3
"""The scripted tele-operator is slow: its demonstrations may take so many times the task's step limits."""


@dataclass(frozen=True)
class NodeSpec:
    """One process: `package/executable` as node `name`, with parameters. `respawn`: start it again when it dies.

    What commands motion is never respawned: the operator starts it again on purpose.
    """

    package: str
    executable: str
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    respawn: bool = True
    remap: tuple[tuple[str, str], ...] = ()
    """Topics under another name: (from, to)."""


@dataclass(frozen=True)
class GraphOptions:
    """What the launch arguments say. Paths are made absolute by :func:`resolve`."""

    task: str = param("screw", "task name (config/tasks/<task>.yaml of rlt_bringup) or path of a task file")
    robot: str = param("sim", "robot name (config/robots/<robot>.yaml of rlt_bringup) or path of a robot file")
    mode: str = param(
        "train",
        "demo: everything from demonstrations to the comparison, in simulation; collect: a person demonstrates, in "
        "simulation the script; adapt: adapt the VLA and train the RL token; train: warm-up and online RL; handoff: "
        "train the hand-off head from the operator's hand-offs; eval: no learning, the operator labels; deploy: no "
        "learning, no exploration, "
        "the head hands off; dry_run: as eval, and nothing is sent to the arms, nothing recorded; as collect, as long "
        "as there is no VLA in <run>/vla",
        choices=MODES,
    )
    episodes: bool = param(
        True, "in simulation: the scripted operator begins one episode after the other; false: run_episodes does"
    )
    run: str = param("runs/screw", "run directory: episodes, checkpoints, metrics")
    checkpoint: str = param("", "frozen VLA and RL token; empty: <run>/vla")
    vla: str = param(
        "",
        "in mode adapt: the VLA, config/vlas/<vla>.yaml of rlt_bringup or a path; empty: the built-in one",
    )
    driver: str = param(
        "rl",
        "in modes eval and dry_run: who drives the critical phase: rl, or vla alone, while there is no actor and to "
        "compare with",
        choices=("rl", "vla"),
    )
    auto_handoff: bool = param(True, "in mode deploy: the hand-off head begins the critical phase; false: the operator")
    record: bool = param(True, "record every episode as MCAP")
    operator: str = param(
        "",
        "who begins, hands off, intervenes and labels: human, or scripted, in simulation only; empty: scripted there, "
        "else human. With a human, and where the script demonstrates, the simulation is no faster than real time",
        choices=("", "scripted", "human"),
    )
    joy: str = param(
        "",
        "what the human's device means: config/joy/<joy>.yaml (xbox, playstation, keyboard, spacemouse, ...) or a "
        "path; empty: xbox",
    )
    device: str = param(
        "", "gamepad device or part of its name for our own gamepad node; empty: the joy package's node, if installed"
    )
    view: bool = param(False, "serve the operator page: cameras, buttons, episodes at http://127.0.0.1:8091")
    seed: int = param(0, "run seed", minimum=0, maximum=2**31 - 1)
    drivers: bool = param(
        True,
        "include the launch files of the arms' drivers that the robot file names (launch); false: they run already",
    )
    cameras: bool = param(
        True, "likewise of the cameras' drivers, and open the video devices that it names; false: they run already"
    )
    host: str = param(
        "all",
        "which machine this is: all: the only one; robot: the one beside the arms, with drivers, executor, operator "
        "and recorder; gpu: the one with VLA, policy and learner",
        choices=HOSTS,
    )
    namespace: str = param("", "namespace of every node: one per robot")
    learner: str = param(
        shared_learner.OWN,
        "own: a learner for this robot alone; shared: this robot practises for a learner that is started elsewhere; "
        "alone: that learner, and nothing else",
        choices=shared_learner.LEARNERS,
    )
    robots: str = param("", "with learner: alone: namespaces of its robots, with commas between")
    robot_runs: str = param(
        "",
        "with learner: alone: run directory of each of robots, with commas between, where this machine has them; one "
        "that it does not have is left empty",
    )
    use_sim_time: bool = param(False, "take the time from /clock; set by itself in lockstep simulation")
    log_level: str = param("info", "log level", choices=("debug", "info", "warn", "error", "fatal"))

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class Resolved:
    """Options with absolute paths and the task's node overrides."""

    options: GraphOptions
    robot_file: Path
    task_file: Path
    run: Path
    checkpoint: Path
    joy_file: Path
    vla_file: Path | None
    """The VLA that mode adapt is for; None: the built-in one."""
    joy_reader: str
    """Who publishes the device's Joy (JoyMapping.reader)."""
    simulated: bool
    scripted: bool
    """The scripted operator presses the buttons, not a human."""
    demonstrates: bool
    """It drives the arms too."""
    lockstep: bool
    video_devices: bool
    """A camera of the robot file names a device, which a node of ours is to open."""
    drivers: tuple[DriverLaunch, ...]
    """Launch files to include on this machine."""
    task: TaskConfig
    vla_missing: bool
    """A dry run before there is a VLA: it goes without, and the operator drives."""
    notes: tuple[str, ...]
    """What a person should know who starts this; launch and runner say it."""


RUN_FOLDERS = ("checkpoints", "clips", "demonstrations", "encoded", "episodes", "log", "stages")
"""In the run directory; the checkpoint of the VLA may be elsewhere."""


def resolve(options: GraphOptions) -> Resolved:
    """Find the files and check that they can be read. Raises ParameterError."""
    robot_file, task_file = config_file("robots", options.robot), config_file("tasks", options.task)
    robot, task = load_robot(robot_file), load_task(task_file)
    shared_learner.check(options)
    refuse_other_commanders(robot, options.namespace)
    simulated = robot.reset == "service"
    if simulated and robot.launch:
        raise ParameterError(
            f"{robot_file}: launch: {robot.launch[0].package}: with reset: service the simulator stands where the "
            "drivers stand, and both would speak for the arms: leave launch out"
        )
    run = Path(options.run).expanduser().resolve()
    try:
        for name in RUN_FOLDERS:
            inside(run, name)
    except OSError as error:
        raise ParameterError(f"run: {error.filename} {error.strerror}") from error
    checkpoint = Path(options.checkpoint).expanduser().resolve() if options.checkpoint else run / "vla"
    scripted = options.operator == "scripted" or (simulated and not options.operator)
    if scripted and not simulated:
        raise ParameterError(f"operator: scripted needs the simulation; {robot_file} is none: choose human")
    if scripted and options.joy:
        raise ParameterError(f"joy: the scripted operator needs none, got {options.joy!r}: add operator: human")
    if options.driver == "vla" and options.mode not in ("eval", "dry_run"):
        raise ParameterError(
            f"driver: vla goes with the modes eval and dry_run, not with {options.mode}; in train the VLA drives the "
            "first episodes by itself (budget.warmup_episodes)"
        )
    demonstrates = scripted and options.mode == "collect"
    own = "scripted_leaders" if demonstrates else "scripted"
    joy_file = config_file("joy", own if scripted else options.joy or "xbox")
    mapping = load_mapping(joy_file)
    beside = options.host != "gpu" and options.learner != shared_learner.ALONE
    known = (*NODE_NAMES, *COMMAND_NAMES)
    unknown = sorted(set(task.nodes) - set(known))
    if unknown:
        raise ParameterError(f"{task_file}: nodes: unknown node {unknown[0]!r}; known: {', '.join(known)}")
    vla_missing = (
        options.mode == "dry_run" and options.host == "all" and not options.checkpoint and not checkpoint.exists()
    )
    return Resolved(
        options=options,
        robot_file=robot_file,
        task_file=task_file,
        run=run,
        checkpoint=checkpoint,
        joy_file=joy_file,
        vla_file=_vla_file(options, robot),
        joy_reader=mapping.reader,
        simulated=simulated,
        scripted=scripted,
        demonstrates=demonstrates,
        lockstep=robot.tick == "joint_states",
        video_devices=options.cameras and any(camera.device for camera in robot.cameras),
        drivers=drivers.included(
            robot.launch if beside else (), options.drivers, options.cameras, mapping.motion == "leader"
        ),
        task=task,
        vla_missing=vla_missing,
        notes=_notes(
            options, robot, task, task_file, _no_vla(checkpoint) if vla_missing else "", _no_actor(options, task, run)
        ),
    )


def _no_vla(checkpoint: Path) -> str:
    return f"no VLA in {checkpoint} (mode:=adapt makes one): in this dry run only the operator drives"


def _no_actor(options: GraphOptions, task: TaskConfig, run: Path) -> str:
    here = options.host == "all" and options.learner == shared_learner.OWN
    named = task.nodes.get("rl_learner", {}).get("checkpoint")
    if options.mode not in ("eval", "deploy") or options.driver != "rl" or not here or named:
        return ""
    state, _ = newest_state(run / "checkpoints", [])
    if state.get("counters", {}).get("version"):
        return ""
    return (
        f"warning: no actor in {run / 'checkpoints'}: no episode begins in mode {options.mode}; practise first "
        "(mode:=train), or evaluate the VLA alone (mode:=eval driver:=vla)"
    )


def _notes(
    options: GraphOptions, robot: RobotConfig, task: TaskConfig, task_file: Path, no_vla: str, no_actor: str
) -> tuple[str, ...]:
    """What fits together, but may not be meant."""
    if options.mode not in GRAPH_MODES or options.learner == shared_learner.ALONE:
        return ()
    notes = [note for note in (no_vla, no_actor) if note]
    if robot.reset != "service":
        base_s, critical_s = task.max_base_steps / robot.control_hz, task.max_critical_steps / robot.control_hz
        notes.append(
            f"time-outs: an episode ends after {base_s:g} s in BASE and after {critical_s:g} s in CRITICAL "
            f"(max_base_steps, max_critical_steps of {task_file})"
        )
    if robot.tick == "timer" and not task.prefetch_steps and options.mode != "collect" and not no_vla:
        notes.append(
            f"warning: {task_file}: prefetch_steps: 0: on a robot's timer a chunk is asked for only when the last one "
            "is used up, and the arms hold until it comes; config/tasks/real_robot.yaml has another value"
        )
    return tuple(notes)


def _vla_file(options: GraphOptions, robot: RobotConfig) -> Path | None:
    if not options.vla:
        return None
    if options.mode != "adapt":
        raise ParameterError(
            f"vla: {options.vla!r} belongs to mode adapt alone: afterwards the checkpoint says which VLA it is of"
        )
    path = config_file("vlas", options.vla)
    try:
        load_vla(path).check_robot(robot)
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    return path


def refuse_other_commanders(robot: RobotConfig, namespace: str) -> None:
    """Raise ParameterError when a node other than the executor would publish on a command topic of the robot.

    The graph renames no topic, so that is so when the robot file gives a command topic the name of another one. Nodes
    from outside the graph are found by the executor itself, when it starts and while it runs.
    """

    def full(name: str) -> str:
        return name if name.startswith("/") else "/".join(("", *filter(None, (namespace.strip("/"), name))))

    own = {value for key, value in vars(topics).items() if key.isupper() and isinstance(value, str)}
    sensors = {camera.topic for camera in robot.cameras} | set(robot.sensor_topics)
    taken = {full(name) for name in own | sensors | {"/clock"} | {state.topic for state in robot.states}}
    for topic in robot.command_topics:
        if full(topic) in taken:
            raise ParameterError(
                f"robot {robot.name}: drivers: {topic!r} is a topic on which other nodes publish: only the chunk "
                "executor may command the arms; name the arm driver's own command topic"
            )


NODE_NAMES = (
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
    "gamepad",
    "spacenav",
    "operator_page",
    "v4l2_camera",
    "auto_handoff",
)
REPLAYED = ("vla", "rl_policy")
COMMAND_NAMES = ("adapt", "adapt_vla", "handoff")
"""Commands that take parameters from the task file as nodes do."""


def describe(resolved: Resolved) -> list[NodeSpec]:
    """The nodes of a graph mode (GRAPH_MODES), in the order in which they are to be started."""
    options = resolved.options
    if options.mode not in GRAPH_MODES:
        raise ParameterError(f"mode {options.mode!r} has no graph; it is run as one command")
    if options.learner == shared_learner.ALONE:
        return [_finish(_learner(resolved), resolved, options.use_sim_time)]
    files = {"robot": str(resolved.robot_file), "task": str(resolved.task_file)}
    run = str(resolved.run)
    checkpoint = {"checkpoint": str(resolved.checkpoint), "run_seed": options.seed}
    automatic, dry = options.mode == "deploy" and options.auto_handoff, options.mode == "dry_run"
    if dry and resolved.lockstep:
        raise ParameterError(
            f"mode dry_run: {resolved.robot_file} is a simulation that waits for every command, and a dry run sends "
            "none: take a robot with tick: timer"
        )
    record = options.record and not dry
    nodes: list[NodeSpec] = []
    if resolved.simulated:
        gate: dict[str, Any] = {} if resolved.scripted else {"gate_steps": 0, "real_time_factor": 1.0}
        if resolved.demonstrates:
            gate = {"gate_steps": 1, "real_time_factor": 1.0}
        nodes.append(NodeSpec("rlt_sim", "sim_robot", "sim_robot", {**files, **gate}))
    lacks = {"lacks": _no_vla(resolved.checkpoint)} if resolved.vla_missing else {}
    nodes.append(
        NodeSpec("rlt_control", "chunk_executor", "chunk_executor", {**files, "dry_run": dry, **lacks}, respawn=False)
    )
    if resolved.video_devices:
        nodes.append(NodeSpec("rlt_vla_node", "v4l2_camera", "v4l2_camera", {"robot": files["robot"]}))
    nodes.append(NodeSpec("rlt_vla_node", "camera_ingest", "camera_ingest", files))
    autonomous = options.mode != "collect" and not resolved.vla_missing
    if autonomous:
        nodes += [
            NodeSpec("rlt_vla_node", "vla", "vla", {**files, **checkpoint, "require_handoff": automatic}),
            NodeSpec(
                "rlt_rl_node",
                "rl_policy",
                "rl_policy",
                {**files, "run_seed": options.seed, "vla_checkpoint": str(resolved.checkpoint)},
            ),
        ]
    if autonomous and options.learner == shared_learner.OWN:
        nodes.append(_learner(resolved))
    purpose = {"eval": "evaluate", "dry_run": "evaluate"}.get(options.mode, options.mode) if autonomous else "collect"
    nodes.append(
        NodeSpec(
            "rlt_teleop",
            "episode_manager",
            "episode_manager",
            {
                **files,
                **({"demonstration_limits": SCRIPT_LIMITS} if resolved.demonstrates else {}),
                **{"run_directory": run, "record": record},
                **{"purpose": purpose, "driver": options.driver, "seed": options.seed},
            },
        )
    )
    if automatic:
        nodes.append(NodeSpec("rlt_teleop", "auto_handoff", "auto_handoff", {"task": files["task"]}))
    patience = {"silence_s": SCRIPT_SILENCE_S} if resolved.demonstrates else {}
    nodes.append(
        NodeSpec(
            "rlt_teleop",
            "joy_operator",
            "joy_operator",
            {"robot": files["robot"], "mapping": str(resolved.joy_file), **patience},
        )
    )
    if record:
        _check_recorder_waits(resolved)
        nodes.append(NodeSpec("rlt_teleop", "recorder", "recorder", {**files, "run_directory": run}))
    if resolved.scripted:
        nodes.append(
            NodeSpec(
                "rlt_sim",
                "scripted_operator",
                "scripted_operator",
                {
                    "task": files["task"],
                    "mapping": str(resolved.joy_file),
                    "operator.next_episode": options.episodes,
                    "operator.hand_off": not automatic,
                    "operator.demonstrate": resolved.demonstrates,
                },
            )
        )
    elif options.host != "gpu":
        nodes += _device(resolved)
    if options.view:
        page = {"robot": files["robot"], "run_directory": run}
        nodes.append(NodeSpec("rlt_teleop", "operator_page", "operator_page", page))
    here = [node for node in nodes if options.host in ("all", "gpu" if node.name in GPU_NODES else "robot")]
    return [_finish(node, resolved, options.use_sim_time or resolved.lockstep) for node in here]


def replayed(resolved: Resolved) -> list[NodeSpec]:
    """VLA node and policy node for an episode that is played back: no /clock, and a node that dies stays dead."""
    return [
        replace(node, parameters={**node.parameters, "use_sim_time": False}, respawn=False)
        for node in describe(resolved)
        if node.name in REPLAYED
    ]


def _check_recorder_waits(resolved: Resolved) -> None:
    """Raise ParameterError where the episode manager would give up a file that the recorder still waits with."""
    nodes = resolved.task.nodes
    limit = nodes.get("episode_manager", {}).get("recorder_timeout_s", ManagerParameters.recorder_timeout_s)
    for name in ("settle_s", "encode_wait_s"):
        wait = nodes.get("recorder", {}).get(name, getattr(RecorderParameters, name))
        if isinstance(wait, int | float) and isinstance(limit, int | float) and wait >= limit:
            raise ParameterError(
                f"{resolved.task_file}: nodes: recorder: {name} is {wait:g} s, and the episode_manager gives up a file "
                f"after recorder_timeout_s, {limit:g} s: every episode that waits so long would be lost; let the "
                "manager wait longer"
            )


def _learner(resolved: Resolved) -> NodeSpec:
    options = resolved.options
    parameters = {
        "robot": str(resolved.robot_file),
        "task": str(resolved.task_file),
        "run_seed": options.seed,
        "run_directory": str(resolved.run),
        "vla_checkpoint": str(resolved.checkpoint),
        "freeze": options.mode != "train",
        **shared_learner.learner_parameters(options),
    }
    return NodeSpec("rlt_rl_node", "rl_learner", "rl_learner", parameters)


def _device(resolved: Resolved) -> list[NodeSpec]:
    """The node that reads the human's device, unless it is started by hand: the keyboard's needs a terminal."""
    device, installed = resolved.options.device, get_packages_with_prefixes()
    if resolved.joy_reader != "gamepad" and device:
        raise ParameterError(f"device: {resolved.joy_file} is read by {resolved.joy_reader}, no gamepad: leave it out")
    if resolved.joy_reader == "spacenav":
        if "spacenav" not in installed:
            raise ParameterError(
                f"joy: {resolved.joy_file} needs the spacenav package: install it (apt: ros-$ROS_DISTRO-spacenav)"
            )
        return [NodeSpec("spacenav", "spacenav_node", "spacenav", {})]
    if resolved.joy_reader != "gamepad":
        return []
    if not device and "joy" in installed:
        return [NodeSpec("joy", "joy_node", "gamepad", {"autorepeat_rate": 20.0})]
    return [NodeSpec("rlt_teleop", "gamepad", "gamepad", {"device": device})]


def _finish(node: NodeSpec, resolved: Resolved, sim_time: bool) -> NodeSpec:
    task = resolved.task
    wanted = _flatten(task.nodes.get(node.name, {}))
    # Strings that the launch gives are files and folders of this run, on which its nodes must agree.
    if fixed := sorted(n for n in wanted if node.parameters.get(n) and isinstance(node.parameters[n], str | list)):
        raise ParameterError(f"task {task.name}: nodes: {node.name}: {fixed[0]!r} is given by the launch: leave it out")
    parameters = {**node.parameters, "use_sim_time": sim_time, **wanted}
    remap = shared_learner.clock_of(resolved.options.namespace) if sim_time and resolved.lockstep else ()
    return replace(node, parameters=parameters, remap=remap)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
