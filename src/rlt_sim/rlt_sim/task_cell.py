"""Builds the simulated cell of a task and checks that the robot file describes it."""

from __future__ import annotations

from rlt_common.config import RobotConfig, TaskConfig
from rlt_common.parameters import ParameterError
from rlt_sim.cell import CONTROL_PERIOD_S, Cell, CellOptions
from rlt_sim.scene import CAMERAS, JOINT_NAMES

TASKS = ("screw",)


def make_cell(robot: RobotConfig, task: TaskConfig) -> Cell:
    """The cell of `task`, with the options of its `simulation` section.

    Raises:
        ParameterError: no such task in simulation, unknown option, or a robot file that does not fit the cell.
    """
    if task.name not in TASKS:
        raise ParameterError(f"task {task.name!r} has no simulated scene; there are: {', '.join(TASKS)}")
    if robot.joint_names != tuple(JOINT_NAMES):
        raise ParameterError(f"robot {robot.name}: the simulated cell has the joints {', '.join(JOINT_NAMES)}")
    if [c.name for c in robot.cameras] != list(CAMERAS):
        raise ParameterError(f"robot {robot.name}: the simulated cell has the cameras {', '.join(CAMERAS)}")
    sizes = {(c.width, c.height) for c in robot.cameras}
    if len(sizes) != 1 or any(width != height for width, height in sizes):
        raise ParameterError(f"robot {robot.name}: simulated cameras are square and of one size, got {sorted(sizes)}")
    if abs(robot.period_s - CONTROL_PERIOD_S) > 1e-9:
        raise ParameterError(f"robot {robot.name}: the simulated cell runs at {1 / CONTROL_PERIOD_S:.0f} Hz")
    try:
        options = CellOptions(**dict(task.simulation))
    except TypeError as error:
        raise ParameterError(f"task {task.name}: simulation: {error}") from error
    return Cell(options, image_size=sizes.pop()[0])
