"""Parameters of the recorder."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlt_common.parameters import param, validate
from rlt_teleop.retention import RetentionConfig


@dataclass(frozen=True)
class RecorderParameters:
    """Parameters of the recorder."""

    robot: str = param(description="path of the robot file")
    task: str = param(description="path of the task file")
    run_directory: str = param(description="folder of the run; files go to <run>/episodes/<id>.mcap")
    settle_s: float = param(
        1.0, "s to wait, after a label, for executed steps that are still on their way", minimum=0.1, maximum=60.0
    )
    encode_wait_s: float = param(
        5.0,
        "s to wait, after the label of a training episode, for what the VLA still encodes of its critical phase: the "
        "learner can then have all of it from the file",
        minimum=0.0,
        maximum=60.0,
    )
    low_space_gib: float = param(1.0, "GiB free on the disk below which diagnostics warn", minimum=0.0, maximum=1e6)
    retention: RetentionConfig = field(default_factory=RetentionConfig)

    def __post_init__(self) -> None:
        validate(self)
