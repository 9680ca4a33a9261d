"""Why a training cannot be resumed. Apart from the trainers: one of them runs on machines without ROS and MuJoCo."""


class ResumeError(RuntimeError):
    """A training state that cannot be resumed; says why."""
