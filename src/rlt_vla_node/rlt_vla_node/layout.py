"""What stands between a robot and a VLA: observations as the VLA takes them, its chunks as the robot's actions.

The built-in VLA is adapted in the robot's own units: its layout (:class:`BlockLayout`) only checks that robot and task
are those it was adapted with. Any other VLA comes with a VLA file that says what stands in its vectors
(:class:`FileLayout`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rlt_common.codecs import ObservationData
from rlt_common.config import RobotConfig, TaskConfig
from rlt_common.kinematics import build_kinematics
from rlt_common.parameters import ParameterError
from rlt_common.vla_config import VlaConfig
from rlt_vla_node.anchor import Anchor
from rlt_vla_node.backend import BackendSpec, ObservationBatch
from rlt_vla_node.chunk_layout import ChunkLayout

JOINT_POSITION = "joint_position"


class LayoutError(ValueError):
    """A frozen model that does not fit the robot, the task or an observation."""


class Layout(Protocol):
    """A VLA's vectors on one robot."""

    @property
    def anchored(self) -> bool:
        """Whether the VLA's chunks say places, so that an anchor matters."""

    def fitted(self, robot: RobotConfig, task: TaskConfig, spec: BackendSpec) -> Layout:
        """The layout on this robot and task. Raises LayoutError naming the first thing that does not fit."""

    def batch(
        self, observations: Sequence[ObservationData], spec: BackendSpec, anchors: Sequence[Anchor | None] = ()
    ) -> ObservationBatch:
        """Observations as the backend takes them. Raises LayoutError for another camera or block layout."""

    def actions(self, chunks: Tensor, observation: ObservationBatch) -> np.ndarray:
        """The robot's actions (B, H, d) float32 of the backend's chunks. Raises LayoutError for a broken chunk."""


@dataclass(frozen=True)
class BlockLayout:
    """Of a VLA that takes proprioception blocks and gives the robot's actions.

    Attributes:
        blocks: proprioception blocks the VLA takes, in order, with their sizes.
        actions_of, relative_to: what its actions change and are added to, as in the robot file.
    """

    blocks: tuple[tuple[str, int], ...]
    actions_of: str
    relative_to: str

    @property
    def anchored(self) -> bool:
        """Changes need no anchor."""
        return False

    def fitted(self, robot: RobotConfig, task: TaskConfig, spec: BackendSpec) -> BlockLayout:
        """Itself. Raises LayoutError."""
        pairs = [
            ("cameras", spec.camera_keys, tuple(camera.name for camera in robot.cameras)),
            ("vla_state blocks", self.blocks, tuple((n, robot.block_sizes[n]) for n in task.vla_state)),
            ("action dimensions", spec.action_dim, robot.action_dim),
            ("actions that change", self.actions_of, robot.actions),
            ("actions relative to the pose", self.relative_to, robot.relative_to),
            ("horizon", spec.horizon, task.horizon),
            ("control rate (Hz)", spec.control_hz, robot.control_hz),
        ]
        pairs += [
            (f"image (height, width) of camera {camera.name}", spec.image_shape, (camera.height, camera.width))
            for camera in robot.cameras
        ]
        for what, own, wanted in pairs:
            if own != wanted:
                raise LayoutError(
                    f"it was adapted with {what} {own}, robot {robot.name} and task {task.name} have {wanted}: adapt "
                    "again, or choose the checkpoint that belongs to them"
                )
        return self

    def batch(
        self, observations: Sequence[ObservationData], spec: BackendSpec, anchors: Sequence[Anchor | None] = ()
    ) -> ObservationBatch:
        """See Layout."""
        for observation in observations:
            if observation.camera_names != spec.camera_keys:
                raise LayoutError(
                    f"observation has cameras {observation.camera_names}, the VLA takes {spec.camera_keys}"
                )
            for name, size in self.blocks:
                _check_block(observation, name, size)
        names = [name for name, _ in self.blocks]
        return ObservationBatch(
            images=torch.from_numpy(np.stack([o.images for o in observations])),
            state=torch.from_numpy(np.stack([o.state(names) for o in observations])),
        )

    def actions(self, chunks: Tensor, observation: ObservationBatch) -> np.ndarray:
        """They are the robot's already."""
        return chunks.numpy()


@dataclass(frozen=True)
class FileLayout:
    """Of a VLA that a VLA file describes; `fitted` makes it usable."""

    config: VlaConfig
    chunks: ChunkLayout | None = None
    horizon: int = 0
    """Rows of the robot's actions."""

    @property
    def anchored(self) -> bool:
        """Whether the VLA's chunks say places."""
        return self._chunks.anchored

    def fitted(self, robot: RobotConfig, task: TaskConfig, spec: BackendSpec) -> FileLayout:
        """A layout that knows robot and task. Raises LayoutError."""
        try:
            self.config.check_robot(robot)
            chunks = ChunkLayout(self.config, robot, build_kinematics(robot))
        except ParameterError as error:
            raise LayoutError(f"its VLA file does not fit robot {robot.name}: {error}") from error
        for what, own, wanted in (
            ("state", chunks.state.width, spec.state_dim),
            ("actions", chunks.actions.width, spec.action_dim),
        ):
            if own != wanted:
                raise LayoutError(
                    f"its VLA file names {own} values in {what}, the policy ({spec.name}) has {wanted}: name every "
                    "part, zeros.<n> for those that mean nothing"
                )
        for camera in robot.cameras:
            given = (camera.height, camera.width)
            if spec.image_shape not in (None, given) and camera.name in spec.camera_keys:
                raise LayoutError(
                    f"the policy ({spec.name}) takes images of {spec.image_shape[1]} x {spec.image_shape[0]} pixels, "
                    f"camera {camera.name} gives {camera.width} x {camera.height}: set its width and height in the "
                    f"file of robot {robot.name}"
                )
        lasts = chunks.horizon(spec.horizon)
        if lasts < task.horizon:
            raise LayoutError(
                f"its chunks of {spec.horizon} rows at {self.config.control_hz:g} Hz last {lasts} control steps of "
                f"robot {robot.name} ({robot.control_hz:g} Hz), task {task.name} has horizon {task.horizon}: lower the "
                "horizon (chunk_length and execute_steps, each with prefetch_steps, must fit into it)"
            )
        return FileLayout(self.config, chunks, task.horizon)

    def batch(
        self, observations: Sequence[ObservationData], spec: BackendSpec, anchors: Sequence[Anchor | None] = ()
    ) -> ObservationBatch:
        """See Layout: images in the policy's order of cameras, the state vector in its order and units."""
        images = []
        for observation in observations:
            missing = [name for name in spec.camera_keys if name not in observation.camera_names]
            if missing:
                raise LayoutError(
                    f"observation has cameras {observation.camera_names}, the VLA takes {spec.camera_keys}"
                )
            _check_block(observation, JOINT_POSITION, None)
            images.append(observation.images[[observation.camera_names.index(name) for name in spec.camera_keys]])
        try:
            states = [self._chunks.state_vector(observation.blocks) for observation in observations]
        except (KeyError, ValueError) as error:
            raise LayoutError(f"observation does not hold what the VLA's state takes: {error}") from error
        return ObservationBatch(
            images=torch.from_numpy(np.stack(images)),
            state=torch.from_numpy(np.stack(states)),
            joints=torch.from_numpy(np.stack([o.blocks[JOINT_POSITION] for o in observations])),
            anchors=tuple(anchors),
        )

    def actions(self, chunks: Tensor, observation: ObservationBatch) -> np.ndarray:
        """See Layout."""
        anchors = observation.anchors or (None,) * len(chunks)
        try:
            rows = [
                self._chunks.to_actions(chunk, joints, self.horizon, anchor)
                for chunk, joints, anchor in zip(
                    chunks.double().numpy(), observation.joints.double().numpy(), anchors, strict=True
                )
            ]
        except ValueError as error:
            raise LayoutError(str(error)) from error
        return np.stack(rows)

    @property
    def _chunks(self) -> ChunkLayout:
        if self.chunks is None:
            raise LayoutError("the VLA's layout was not fitted to a robot yet")
        return self.chunks


def _check_block(observation: ObservationData, name: str, size: int | None) -> None:
    have = observation.blocks[name].size if name in observation.blocks else 0
    if have != size if size is not None else not have:
        raise LayoutError(f"observation has {have} values of block {name!r}, the VLA takes {size or 'them'}")
