"""A valid message for every topic and request for every service of the graph: what a running episode would say.

The fuzzer makes hostile messages out of these, so that a single bad field meets otherwise good ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cv2
import mujoco
import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped, Twist, WrenchStamped
from sensor_msgs.msg import CompressedImage, Image, JointState, Joy
from std_msgs.msg import Bool, Float64MultiArray, UInt64

from rlt_bringup.graph import Resolved
from rlt_common import topics
from rlt_common.atomic import sha256_hex
from rlt_common.codecs import ObservationData, doubles, floats, observation_to_msg, to_time
from rlt_common.config import load_robot
from rlt_common.kinematics import build_kinematics
from rlt_msgs.msg import (
    ActionChunk,
    ActorParameters,
    ChunkRequest,
    ControlState,
    EpisodeState,
    ExecutedAction,
    Observation,
    OperatorEvent,
    RecorderStatus,
    Relabel,
    SimulationState,
    TeleopCommand,
    TrainingStatus,
    VlaOutput,
)
from rlt_msgs.srv import LabelEpisode, ResetScene, SaveCheckpoint, StartEpisode
from rlt_rl_node import actor_codec
from rlt_rl_node.agent import AgentConfig
from rlt_rl_node.frozen_models import read_frozen_models
from rlt_rl_node.learner import Learner, LearnerConfig, task_shape
from rlt_sim.lockstep import EPISODE_CLOCK_S
from rlt_sim.task_cell import make_cell
from rlt_teleop.joy_mapping import JoyMapping, load_mapping
from rlt_vla_node.proprioception import Proprioception

EPOCH = 1
SMALL_ACTOR = AgentConfig(hidden=(16,))
BUTTONS_AT_LEAST, AXES_AT_LEAST = 12, 8


class ValidMessages:
    """Messages of one episode of a run whose VLA is there; equal arguments give equal messages."""

    def __init__(self, resolved: Resolved) -> None:
        self.robot, self.task = load_robot(resolved.robot_file), resolved.task
        cameras = tuple(replace(camera, transport="raw") for camera in self.robot.cameras)
        self._cell = make_cell(replace(self.robot, cameras=cameras), self.task)  # which compresses nothing itself
        self._cell.reset(0, "critical")
        self._images = self._cell.images()
        self._proprioception = Proprioception(self.robot)
        self._vla_folder = resolved.checkpoint
        self.frozen = read_frozen_models(self._vla_folder, self.robot.action_dim)
        self.shape = task_shape(self.robot, self.task, self.frozen)
        self._actor = actor_codec.pack(Learner(self.shape, LearnerConfig(agent=SMALL_ACTOR)).policy())
        mapping = load_mapping(resolved.joy_file)
        self._pad = max(mapping.axes_needed, AXES_AT_LEAST), max(mapping.buttons_needed, BUTTONS_AT_LEAST)
        self._kinematics = build_kinematics(self.robot)
        self.home = np.array(self._cell.joint_state()[0])
        self._observation = self._observe(*self._cell.joint_state())

    def of_episode(self, episode_id: int) -> dict[str, Any]:
        """Topic or service name -> message or request; camera topics and the command topic under their own names."""
        robot, task = self.robot, self.task
        ns = episode_id * EPISODE_CLOCK_S * 1_000_000_000
        stamp, dim = to_time(ns), robot.action_dim
        position, _, _ = self._cell.joint_state()
        names = list(robot.joint_names)
        zeros = np.zeros(task.horizon * dim, np.float32)
        rows = zeros[: task.execute_steps * dim]
        one = floats(zeros[:dim])
        here = {"episode_id": episode_id, "epoch": EPOCH}
        request = {"request_id": episode_id, "boundary_step": 0, "first_step": 0}
        found: dict[str, Any] = {
            topics.OBSERVATION: self._observation,
            topics.CHUNK_REQUEST: ChunkRequest(**here, **request, not_before=stamp, rows=task.execute_steps),
            topics.VLA_OUTPUT: VlaOutput(
                **here,
                observation_id=ns,
                request_id=episode_id,
                is_boundary=True,
                rl_token=floats(np.zeros(self.shape.token_dim)),
                rl_state=floats(np.zeros(self.shape.state_dim)),
                horizon=task.horizon,
                action_dim=dim,
                reference=floats(zeros),
                vla_hash=self.frozen.hash,
                handoff_probability=0.9,
                handoff_threshold=0.5,
            ),
            topics.ACTION_CHUNK: ActionChunk(
                **here,
                chunk_id=episode_id,
                observation_id=ns,
                source=ActionChunk.SOURCE_VLA,
                rows=task.execute_steps,
                action_dim=dim,
                actions=floats(rows),
                reference=floats(rows),
                arm_names=[arm.name for arm in robot.arms],
            ),
            topics.EXECUTED_ACTION: ExecutedAction(
                **here,
                phase=EpisodeState.PHASE_CRITICAL,
                source=ExecutedAction.SOURCE_VLA,
                action=one,
                commanded=one,
                reference=one,
                clamped=[False] * dim,
                chunk_id=episode_id,
                observation_id=ns,
                joint_names=names,
                joint_target=doubles(position),
            ),
            topics.OPERATOR_EVENT: OperatorEvent(event=OperatorEvent.EVENT_HANDOFF, source="pad"),
            topics.ESTOP: Bool(data=False),
            topics.RELABEL: Relabel(
                sequence=episode_id, episode_id=1, label=EpisodeState.LABEL_FAILURE, after_episode=1
            ),
            topics.EPISODE_STATE: self.episode_state(EpisodeState.PHASE_BASE, episode_id),
            topics.CONTROL_STATE: ControlState(**here, phase=EpisodeState.PHASE_BASE, step=1, ticks=1),
            topics.ACTOR: ActorParameters(
                version=0, sha256=sha256_hex(self._actor), vla_hash=self.frozen.hash, data=self._actor
            ),
            topics.TRAINING_STATUS: TrainingStatus(stage="online", ready=True, actor_version=1),
            topics.RECORDER_STATUS: RecorderStatus(episode_id=episode_id, path="000001.mcap.part"),
            topics.JOY: Joy(axes=[0.0] * self._pad[0], buttons=[0] * self._pad[1]),
            topics.SIMULATION_STATE: SimulationState(step=1, task_error=floats(np.zeros(6))),
            topics.SIMULATION_ACK: UInt64(data=ns),
            robot.command_topics[0]: Float64MultiArray(data=doubles(position)),
            topics.SERVICE_START_EPISODE: StartEpisode.Request(
                purpose=EpisodeState.PURPOSE_TRAIN, driver=EpisodeState.DRIVER_RL, start_in="critical"
            ),
            topics.SERVICE_LABEL_EPISODE: LabelEpisode.Request(label=EpisodeState.LABEL_SUCCESS),
            topics.SERVICE_RESET_SCENE: ResetScene.Request(episode_id=episode_id, start_in="critical"),
            topics.SERVICE_SAVE_CHECKPOINT: SaveCheckpoint.Request(name=f"fuzz-{episode_id}"),
        }
        for camera, rgb in zip(robot.cameras, self._images, strict=True):
            found[camera.topic] = Image(
                height=rgb.shape[0], width=rgb.shape[1], encoding="rgb8", step=3 * rgb.shape[1], data=rgb.tobytes()
            )
            if camera.transport == "compressed":
                data = cv2.imencode(".png", rgb[:, :, ::-1])[1].tobytes()
                found[camera.topic] = CompressedImage(format="rgb8; png compressed bgr8", data=data)
        found |= self.at(self.home, stamp) | self._beside(stamp)
        for message in found.values():
            if hasattr(message, "header"):
                message.header.stamp = stamp
        return found

    def at(self, q: np.ndarray, stamp: Time) -> dict[str, Any]:
        """What arms at joints q (n,), their sensors, well cameras and a person with a steady hand say: by topic."""
        robot = self.robot
        zeros = doubles(np.zeros(len(q)))
        found: dict[str, Any] = {
            topic: JointState(name=list(robot.joint_names), position=doubles(q), velocity=zeros, effort=zeros)
            for topic in robot.state_topics
        }
        found[topics.TELEOP_COMMAND] = TeleopCommand(
            enabled=True, device="pad", action=floats(0.1 * robot.hand_step_limit)
        )
        found[topics.CAMERA_HEALTH] = DiagnosticStatus(level=DiagnosticStatus.OK, message="observing")
        for driver in robot.drivers:
            if driver.ready_topic:
                found[driver.ready_topic] = Bool(data=True)
        for arm, (position, rotation) in zip(robot.arms, self._kinematics.forward(q), strict=True):
            if arm.wrench_topic:
                found[arm.wrench_topic] = WrenchStamped()
            if arm.pose_topic:
                pose = found[arm.pose_topic] = PoseStamped()
                pose.header.frame_id = robot.frame
                where, turn, quaternion = pose.pose.position, pose.pose.orientation, np.zeros(4)
                mujoco.mju_mat2Quat(quaternion, rotation.ravel())
                where.x, where.y, where.z = map(float, position)
                turn.w, turn.x, turn.y, turn.z = map(float, quaternion)
        for message in found.values():
            if hasattr(message, "header"):
                message.header.stamp = stamp
        return found

    def of_mapping(self, mapping: JoyMapping) -> dict[str, Any]:
        """What a person's devices say while the enable button is held: by topic."""
        axes, buttons = max(mapping.axes_needed, AXES_AT_LEAST), max(mapping.buttons_needed, BUTTONS_AT_LEAST)
        held = [0] * buttons
        held[mapping.buttons.enable] = 1
        found: dict[str, Any] = {mapping.joy_topic: Joy(axes=[0.0] * axes, buttons=held)}
        if mapping.motion == "twist":
            found[mapping.twist.topic] = Twist()
        if mapping.motion == "leader":
            for leader in mapping.leader.arms.values():
                names = [*leader.joints, *([leader.gripper] if leader.gripper else [])]
                found[leader.topic] = JointState(name=names, position=[0.1] * len(names))
        return found

    def _beside(self, stamp: Time) -> dict[str, Any]:
        """What nodes say that stand beside the graph's work."""
        values = [KeyValue(key="ticks", value="7"), KeyValue(key="input joint_states", value="0 ms of 100 ms")]
        status = DiagnosticStatus(level=DiagnosticStatus.WARN, name="chunk_executor", message="moving", values=values)
        return {topics.DIAGNOSTICS: DiagnosticArray(status=[status])}

    def starts(self, moving: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """What is said, in order, until the arms move in the episode of `moving`: (topic, message)."""
        episode_id = moving[topics.EPISODE_STATE].episode_id
        resetting = self.episode_state(EpisodeState.PHASE_RESETTING, episode_id)
        order = [topics.EPISODE_STATE, topics.JOINT_STATES, topics.CHUNK_REQUEST, topics.VLA_OUTPUT]
        order.append(topics.ACTION_CHUNK)
        return [(topics.EPISODE_STATE, resetting), *((topic, moving[topic]) for topic in order)]

    def episode_state(self, phase: int, episode_id: int) -> EpisodeState:
        """The manager's word: an episode of practice in this phase."""
        task = self.task
        return EpisodeState(
            task=task.name,
            episode_id=episode_id,
            epoch=EPOCH,
            phase=phase,
            purpose=EpisodeState.PURPOSE_TRAIN,
            driver=EpisodeState.DRIVER_VLA,
            critical_driver=EpisodeState.DRIVER_VLA,
            start_in="full",
            execute_steps=task.execute_steps,
            max_base_steps=task.max_base_steps,
            max_critical_steps=task.max_critical_steps,
        )

    def _observe(self, position: np.ndarray, velocity: np.ndarray, effort: np.ndarray) -> Observation:
        cameras = self.robot.cameras
        data = ObservationData(
            observation_id=0,
            stamp_ns=0,
            camera_names=tuple(camera.name for camera in cameras),
            images=np.stack(self._images),
            blocks=self._proprioception.blocks(self.robot.joint_names, position, velocity, effort),
        )
        return observation_to_msg(data, [c.encoding for c in cameras], [0.0] * len(cameras), self.robot.frame)
