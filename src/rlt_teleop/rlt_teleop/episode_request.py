"""A StartEpisode request, checked against the task. Pure."""

from __future__ import annotations

from rlt_common.config import TaskConfig
from rlt_msgs.srv import StartEpisode
from rlt_teleop.episode_machine import Driver, EpisodeSpec, Purpose

STAGES = ("full", "critical")


class RequestError(ValueError):
    """A request that asks for something that does not exist or does not fit the task."""


def spec_from_request(
    request: StartEpisode.Request, task: TaskConfig, training_episodes: int, demonstration_limits: int = 1
) -> EpisodeSpec:
    """What the episode is to be; what the request leaves open comes from the task. Raises RequestError.

    `training_episodes`: how many the run holds; a training episode starts where the task's curriculum says.
    `demonstration_limits`: a demonstration may take so many times the task's step limits.
    """
    try:
        purpose = Purpose(request.purpose)
    except ValueError:
        raise RequestError(f"there is no purpose {request.purpose}: see EpisodeState.PURPOSE_*") from None
    try:
        driver = Driver(request.driver)
    except ValueError:
        raise RequestError(f"there is no driver {request.driver}: see EpisodeState.DRIVER_*") from None
    own = task.training_start(training_episodes) if purpose == Purpose.TRAIN else task.start_in
    start_in = request.start_in or own
    if start_in not in STAGES:
        raise RequestError(f"start_in is {start_in!r}: choose one of {', '.join(STAGES)}")
    steps = request.execute_steps or task.execute_steps
    if steps % task.stride or steps + task.prefetch_steps > task.horizon:
        raise RequestError(
            f"execute_steps is {steps}: it must be a multiple of the stride {task.stride} and, with the "
            f"{task.prefetch_steps} prefetched steps, fit into the horizon {task.horizon}"
        )
    limits = demonstration_limits if purpose == Purpose.COLLECT else 1
    return EpisodeSpec(
        purpose=purpose,
        driver=driver,
        explore=request.explore,
        start_in=start_in,
        seed=request.seed,
        execute_steps=steps,
        max_base_steps=limits * task.max_base_steps,
        max_critical_steps=limits * task.max_critical_steps,
    )
