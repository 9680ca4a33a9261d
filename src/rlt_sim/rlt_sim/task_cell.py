"""Builds the simulated cell of a task and checks that the robot file describes it."""

from __future__ import annotations

from rlt_common.config import RobotConfig, TaskConfig
from rlt_common.parameters import ParameterError, from_mapping
from rlt_sim.arms import CAMERAS, JOINT_NAMES
from rlt_sim.cell import CONTROL_PERIOD_S, Cell
from rlt_sim.scenes import SCENES
from rlt_sim.task_scene import TaskScene


def make_scene(task: TaskConfig) -> TaskScene:
    """The scene of `task`: the key `scene` of its `simulation` section names it; without it, it is the task's name.

    Raises ParameterError where there is no such scene.
    """
    name = task.simulation.get("scene", task.name)
    if name not in SCENES:
        raise ParameterError(
            f"task {task.name}: there is no simulated scene {name!r}; there are: {', '.join(SCENES)}; "
            "name one as `scene` in the task's section `simulation`"
        )
    return SCENES[name]()


def make_cell(robot: RobotConfig, task: TaskConfig) -> Cell:
    """The cell of `task`, with the options of its `simulation` section.

    Raises:
        ParameterError: no such scene, unknown option, or a robot file that does not fit the cell.
    """
    settings = {key: value for key, value in task.simulation.items() if key != "scene"}
    scene = make_scene(task)
    if robot.joint_names != tuple(JOINT_NAMES):
        raise ParameterError(f"robot {robot.name}: the simulated cell has the joints {', '.join(JOINT_NAMES)}")
    if [c.name for c in robot.cameras] != list(CAMERAS):
        raise ParameterError(f"robot {robot.name}: the simulated cell has the cameras {', '.join(CAMERAS)}")
    sizes = {(c.width, c.height) for c in robot.cameras}
    if len(sizes) != 1 or any(width != height for width, height in sizes):
        raise ParameterError(f"robot {robot.name}: simulated cameras are square and of one size, got {sorted(sizes)}")
    if odd := [c.name for c in robot.cameras if c.transport != "raw" or c.crop or c.rotation or c.device]:
        raise ParameterError(
            f"robot {robot.name}: camera {odd[0]}: a simulated camera takes no transport, crop, rotation or device"
        )
    if abs(robot.period_s - CONTROL_PERIOD_S) > 1e-9:
        raise ParameterError(f"robot {robot.name}: the simulated cell runs at {1 / CONTROL_PERIOD_S:.0f} Hz")
    options = from_mapping(scene.options_type, settings, f"task {task.name}: simulation")
    return Cell(scene, options, image_size=sizes.pop()[0])
