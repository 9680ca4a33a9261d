"""The scripted operator's hands: leader arms that the scripted tele-operator (expert.py) moves. Pure: no ROS.

They begin where the arms stand and stay within the motion limits of the robot, as a hand on a real leader feels it.
"""

from __future__ import annotations

import numpy as np

from rlt_common.kinematics import Pose
from rlt_sim.arms import make_integrator, make_kinematics
from rlt_sim.sight import ToldSight
from rlt_sim.task_scene import TaskScene, TaskState


class ScriptedHands:
    """Both hands in one episode.

    Args:
        scene: the task's; only its expert is used.
        seed: the episode's reset seed; it decides pace, misjudgement and tremor, as in `collect`.
        state, mouth: the task as it stands at the beginning.
        q: (14,) where the arms stand, rad and m.
    """

    def __init__(self, scene: TaskScene, seed: int, state: TaskState, mouth: Pose, q: np.ndarray) -> None:
        self._kinematics = make_kinematics()
        self._sight = ToldSight(state, mouth, self._kinematics.forward(q))
        self._expert = scene.expert(self._sight, np.random.default_rng([seed, 1]), None)
        self._integrator = make_integrator()
        self._integrator.reset(q)

    def move(self, state: TaskState, mouth: Pose, q: np.ndarray) -> np.ndarray:
        """One control step on; returns the leaders' joints (14,), rad and m."""
        sight = self._sight
        sight.state, sight.mouth, sight.tools = state, mouth, self._kinematics.forward(q)
        return self._integrator.step(self._expert.act(), q).joint_targets
