"""What the operator is waited for, phase by phase. Pure: the episode manager says how things stand."""

from __future__ import annotations

from rlt_teleop.episode_machine import Episode, Phase
from rlt_teleop.episode_manager_parameters import ManagerParameters
from rlt_teleop.operator_wait import Wanted

EXECUTOR_GONE = (
    "the chunk executor is gone: look at the arms, then start it again (ros2 run rlt_bringup restart_executor --run {})"
)
RELEASE = "look at the arms, then release the emergency stop (ros2 run rlt_teleop reset_estop)"
NOTHING = Wanted()


def wanted(
    episode: Episode,
    parameters: ManagerParameters,
    *,
    operator_resets: bool,
    executor_gone: bool,
    limit_reached: bool,
    run_active: bool,
) -> Wanted:
    """What a person is waited for now.

    Args:
        episode: the state.
        parameters: of the episode manager: how long each wait lasts.
        operator_resets: a person resets the scene, not a service.
        executor_gone: the executor has been silent for too long.
        limit_reached: the phase's step limit is reached: the arms hold.
        run_active: run_episodes begins the episodes.
    """
    if executor_gone:
        return Wanted(EXECUTOR_GONE.format(parameters.run_directory))
    if episode.phase == Phase.ESTOP:
        return Wanted(RELEASE)
    if episode.relabelling:
        text = f"give episode {episode.relabelling} its label, or press next episode to leave it as it is"
        return Wanted(text, parameters.pick_wait_s)
    if episode.phase == Phase.RESETTING and operator_resets:
        text = f"reset the scene of episode {episode.episode_id}, then press next episode"
        return Wanted(text, parameters.reset_wait_s)
    if limit_reached:
        text = f"label episode {episode.episode_id}: the step limit of {episode.phase.name} is reached, the arms hold"
        return Wanted(text, parameters.label_wait_s)
    if episode.phase == Phase.IDLE and not run_active:
        return Wanted("press next episode to begin one", remind=False)
    return NOTHING
