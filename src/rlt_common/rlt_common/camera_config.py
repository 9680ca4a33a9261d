"""Cameras of a robot file."""

from __future__ import annotations

from dataclasses import dataclass

from rlt_common.parameters import param, validate


@dataclass(frozen=True)
class CameraConfig:
    """One camera: where its images come from and what the VLA takes."""

    name: str = param(description="camera name, e.g. base")
    topic: str = param(description="image topic, relative")
    width: int = param(description="pixels, width the VLA takes", minimum=8, maximum=4096)
    height: int = param(description="pixels, height the VLA takes", minimum=8, maximum=4096)
    compressed: bool = param(False, "the topic carries sensor_msgs/CompressedImage")
    rate_hz: float = param(25.0, "Hz, at which the camera publishes", minimum=0.1, maximum=1000.0)
    encoding: str = param("jpeg", "encoding inside an observation", choices=("png", "jpeg"))

    def __post_init__(self) -> None:
        validate(self)
