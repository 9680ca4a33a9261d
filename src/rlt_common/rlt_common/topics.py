"""Every topic and service name and every QoS profile, in one place. All names are relative: one namespace per robot.

Why each QoS: streams that training depends on are reliable with a queue (a lost executed action breaks an episode);
raw camera images are sensor data (a late frame is worthless); operator events must not lose a press; states are
latched so that a node that starts late, or again, knows where the run stands. A reader that must see every state in
between, and not just the newest, takes QOS_LATCHED_READER.
"""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

JOINT_STATES = "joint_states"
OBSERVATION = "observation"
CAMERA_HEALTH = "camera_health"
VLA_OUTPUT = "vla_output"
CHUNK_REQUEST = "chunk_request"
ACTION_CHUNK = "action_chunk"
EXECUTED_ACTION = "executed_action"
TELEOP_COMMAND = "teleop_command"
OPERATOR_EVENT = "operator_event"
EPISODE_STATE = "episode_state"
ESTOP = "estop"
CONTROL_STATE = "control_state"
ACTOR = "actor"
TRAINING_STATUS = "training_status"
RECORDER_STATUS = "recorder_status"
RELABEL = "relabel"
JOY = "joy"
JOY_FEEDBACK = "joy/set_feedback"
DIAGNOSTICS = "/diagnostics"
RECORDED_DIAGNOSTICS = "diagnostics"
"""As episode files name it: like every topic in them, without the robot's namespace."""
SIMULATION_STATE = "simulation/state"
SIMULATION_MOUTH = "simulation/mouth"
SIMULATION_ACK = "simulation/operator_ack"

SERVICE_START_EPISODE = "start_episode"
SERVICE_HANDOFF = "handoff"
SERVICE_LABEL_EPISODE = "label_episode"
SERVICE_ESTOP = "estop"
SERVICE_RESET_ESTOP = "reset_estop"
SERVICE_SAVE_CHECKPOINT = "save_checkpoint"
SERVICE_RESET_SCENE = "reset_scene"
ACTION_RUN_EPISODES = "run_episodes"


def _profile(depth: int, reliable: bool = True, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


QOS_STREAM = _profile(200)
QOS_CONTROL = _profile(10)
QOS_EVENT = _profile(100)
QOS_LATCHED = _profile(1, latched=True)
QOS_LATCHED_READER = _profile(100, latched=True)
QOS_RELABEL = _profile(1000, latched=True)
"""Every correction of a run, for a learner that starts late."""
QOS_OBSERVATION = _profile(200, latched=True)
"""Kept for those who come late: in lockstep the robot waits for the chunk of an observation that is already out, and a
VLA node that was restarted meanwhile must find it."""
QOS_OUTPUT = _profile(200, latched=True)
QOS_CHUNK = _profile(50, latched=True)
QOS_EXECUTED = _profile(200, latched=True)
"""These three are kept for the recorder and the learner, whose subscriptions may be matched a moment after the first
outputs, chunks and steps of a run are out. Everybody else subscribes without history (QOS_STREAM, QOS_CONTROL): the
executor never sees a chunk, and nobody an output or a step, from before its start."""
QOS_SENSOR = _profile(5, reliable=False)
QOS_CAMERA_LOCKSTEP = _profile(50)
OFFERED = {
    OBSERVATION: QOS_OBSERVATION,
    VLA_OUTPUT: QOS_OUTPUT,
    ACTION_CHUNK: QOS_CHUNK,
    EXECUTED_ACTION: QOS_EXECUTED,
    EPISODE_STATE: QOS_LATCHED,
    OPERATOR_EVENT: QOS_EVENT,
    TRAINING_STATUS: QOS_LATCHED,
    SIMULATION_STATE: QOS_CONTROL,
    RECORDED_DIAGNOSTICS: QOS_CONTROL,
}
"""What the publishers of the recorded topics offer: episode files say it, and `ros2 bag play` offers it again."""
