"""Settings of the motion sources that are no pad: a twist (SpaceMouse) and leader arms. Frozen, validated dataclasses.

They are the sections `twist:` and `leader:` of a joystick mapping (joy_mapping.py). Topics are relative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlt_common.parameters import ParameterError, from_mapping, param, validate


@dataclass(frozen=True)
class TwistConfig:
    """A geometry_msgs/Twist as spacenav publishes it; it moves the selected arm."""

    topic: str = param("spacenav/twist", "geometry_msgs/Twist, relative")
    linear_full: float = param(1.0, "value of a linear component that means linear_speed", minimum=1e-3, maximum=1000.0)
    angular_full: float = param(
        1.0, "value of an angular component that means angular_speed", minimum=1e-3, maximum=1000.0
    )
    timeout_s: float = param(0.2, "s without a twist before the arms hold", minimum=0.02, maximum=5.0)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class LeaderArm:
    """One leader arm and how its joints compare with those of the arm it moves."""

    topic: str = param(description="sensor_msgs/JointState of the leader, relative")
    joints: tuple[str, ...] = param(description="names in that message, base to tool, rad")
    gripper: str = param("", "the leader's gripper joint in that message; empty: the leader has none")
    gripper_closed: float = param(0.0, "its value when closed")
    gripper_open: float = param(1.0, "its value when open")
    kinematics: str = param(
        "", "MJCF or URDF of the leader, relative to the mapping; empty: the robot's own model, joint by joint"
    )
    tip: str = param("", "site or body of the leader's tool tip in its own model")

    def __post_init__(self) -> None:
        validate(self)
        if not self.joints:
            raise ParameterError("leader: joints: name the leader's joints, base to tool")
        if self.gripper_closed == self.gripper_open:
            raise ParameterError(f"leader: gripper_closed and gripper_open are both {self.gripper_open}")
        if bool(self.kinematics) != bool(self.tip):
            raise ParameterError("leader: kinematics and tip belong together: give both, or neither")


@dataclass(frozen=True)
class LeaderConfig:
    """Leader arms. `arms` maps the robot's arm names to the leaders that move them."""

    arms: Mapping[str, LeaderArm] = field(default_factory=dict)
    mode: str = param(
        "relative",
        "relative: the leader's motion since the take-over moves the arm; absolute: the arm goes to the leader's pose",
        choices=("relative", "absolute"),
    )
    timeout_s: float = param(
        0.2, "s without joint states of a leader, or an executed step, before the arms hold", minimum=0.02, maximum=5.0
    )
    gain: float = param(
        0.3, "share of the way to the leader per control step; more overshoots", minimum=0.05, maximum=0.5
    )
    lag_translation: float = param(0.05, "m an arm may be behind its leader", minimum=1e-3, maximum=1.0)
    lag_rotation: float = param(0.5, "rad, likewise", minimum=1e-2, maximum=3.0)
    tolerance_translation: float = param(0.005, "m at which an arm has reached its leader", minimum=1e-4, maximum=0.1)
    tolerance_rotation: float = param(0.05, "rad, likewise", minimum=1e-3, maximum=1.0)
    tolerance_gripper: float = param(0.005, "m, likewise", minimum=1e-4, maximum=0.1)

    def __post_init__(self) -> None:
        validate(self)
        if not isinstance(self.arms, Mapping):
            raise ParameterError(f"leader: arms: expected arm names with leaders, got {self.arms!r}")
        leaders = {
            str(name): arm if isinstance(arm, LeaderArm) else from_mapping(LeaderArm, arm, f"leader: arms: {name}")
            for name, arm in self.arms.items()
        }
        object.__setattr__(self, "arms", leaders)
        if self.tolerance_translation >= self.lag_translation or self.tolerance_rotation >= self.lag_rotation:
            raise ParameterError("leader: the tolerances must be below the lags")
