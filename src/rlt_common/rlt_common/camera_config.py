"""Cameras of a robot file: where images come from, what is done to them, and how a device is to be set."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlt_common.parameters import ParameterError, param, validate

TRANSPORTS = ("raw", "compressed")
ROTATIONS = (0, 90, 180, 270)
AS_FOUND = -1
"""A setting of a device that is left as it is found."""


@dataclass(frozen=True)
class V4l2Config:
    """Settings of a video device that `v4l2_camera` opens, in the device's units (`v4l2-ctl --list-ctrls` has them).

    Where one is given, its automatic is turned off: the policy is to see constant images.
    """

    width: int = param(640, "pixels, asked of the device", minimum=8, maximum=8192)
    height: int = param(480, "pixels, asked of the device", minimum=8, maximum=8192)
    pixel_format: str = param("MJPG", "asked of the device", choices=("MJPG", "YUYV"))
    exposure: int = param(AS_FOUND, "exposure time, UVC: 100 us; -1: as found", minimum=AS_FOUND, maximum=1_000_000)
    gain: int = param(AS_FOUND, "gain; -1: as found", minimum=AS_FOUND, maximum=1_000_000)
    white_balance: int = param(AS_FOUND, "colour temperature, K; -1: as found", minimum=AS_FOUND, maximum=100_000)
    focus: int = param(AS_FOUND, "focus; -1: as found", minimum=AS_FOUND, maximum=1_000_000)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class CameraConfig:
    """One camera: where its images come from, which part the VLA takes, and how late they are.

    An image is cropped, then rotated, then cut to the aspect ratio of `width` x `height` and resized to it.
    """

    name: str = param(description="camera name, e.g. base")
    topic: str = param(description="image topic, relative")
    width: int = param(description="pixels, width the VLA takes", minimum=8, maximum=4096)
    height: int = param(description="pixels, height the VLA takes", minimum=8, maximum=4096)
    transport: str = param("raw", "raw: sensor_msgs/Image; compressed: sensor_msgs/CompressedImage (JPEG, PNG)")
    crop: tuple[int, ...] = param(
        (), "pixels of the camera's image: [left, top, width, height]; empty: all of it", minimum=0, maximum=16384
    )
    rotation: int = param(0, "degrees clockwise, after the crop: 0, 90, 180 or 270")
    delay_s: float = param(
        0.0,
        "s, by which the camera's stamps are later than the arms' for the same moment (`calibrate_delay` measures it); "
        "taken off when images are matched to states",
        minimum=-1.0,
        maximum=1.0,
    )
    rate_hz: float = param(25.0, "Hz, at which the camera publishes", minimum=0.1, maximum=1000.0)
    encoding: str = param("jpeg", "encoding inside an observation", choices=("png", "jpeg"))
    device: str = param(
        "",
        "video device that `v4l2_camera` opens and publishes on the topic: /dev/v4l/by-id/..., or a video file; "
        "empty: a driver publishes there",
    )
    v4l2: V4l2Config = field(default_factory=V4l2Config)

    def __post_init__(self) -> None:
        validate(self)
        where = f"camera {self.name}"
        if self.transport not in TRANSPORTS:
            raise ParameterError(
                f"{where}: transport {self.transport!r}: only {' and '.join(TRANSPORTS)} are read; start `ros2 run "
                f"image_transport republish --ros-args -p in_transport:={self.transport} -p out_transport:=compressed "
                f"-r in/{self.transport}:=<its topic> -r out/compressed:=<new topic>` and give transport: compressed "
                "and the new topic"
            )
        if self.rotation not in ROTATIONS:
            raise ParameterError(f"{where}: rotation {self.rotation}: choose one of {', '.join(map(str, ROTATIONS))}")
        if self.crop and (len(self.crop) != 4 or not (self.crop[2] and self.crop[3])):
            raise ParameterError(
                f"{where}: crop {list(self.crop)}: give [left, top, width, height] in pixels, width and height above 0"
            )
        if self.v4l2 != V4l2Config() and not self.device:
            raise ParameterError(f"{where}: v4l2 has settings for a device, and no device is given")
