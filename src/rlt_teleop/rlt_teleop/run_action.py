"""The run_episodes action: one episode after the other, through the same commands that an operator has.

A run ends early, with the reason in its result, when an episode is refused, at an emergency stop (it never resumes by
itself), when it is cancelled (the running episode is discarded), or when two episodes in a row were not recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import CallbackGroup

from rlt_common import topics
from rlt_msgs.action import RunEpisodes
from rlt_msgs.srv import StartEpisode
from rlt_teleop.episode_machine import Driver, EpisodeMachine, Label
from rlt_teleop.recordings import Recordings, Verdict
from rlt_teleop.step_count import StepCount
from rlt_teleop.training_gate import Go, Refuse, Wait
from rlt_teleop.waiting import News

UNRECORDED_LIMIT = 2


class Manager(Protocol):
    """What a run needs of the episode manager; an rclpy node besides.

    Attributes:
        estops: emergency stops so far.
        closed_episode: newest episode whose end everybody has confirmed, or was given up on.
        recordings: the recorder's answers.
    """

    machine: EpisodeMachine
    news: News
    count: StepCount
    estops: int
    closed_episode: int
    recordings: Recordings

    async def may_start(self, request: StartEpisode.Request, stop: Callable[[], bool]) -> Go | Wait | Refuse: ...

    def begin(self, request: StartEpisode.Request, go: Go) -> str: ...

    def command(self, command: Callable[..., object], *values: object) -> str: ...


class RunAction:
    """Serves run_episodes, one run at a time."""

    def __init__(self, manager: Manager, group: CallbackGroup) -> None:
        self._manager = manager
        self.active = False
        self._server = ActionServer(
            manager,
            RunEpisodes,
            topics.ACTION_RUN_EPISODES,
            execute_callback=self._execute,
            goal_callback=self._on_goal,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            callback_group=group,
        )

    def _on_goal(self, goal: RunEpisodes.Goal) -> GoalResponse:
        if self.active or goal.count == 0 or goal.first_seed + goal.count > 2**64:
            words = "another run is active, count is 0, or the seeds leave 64 bits"
            self._manager.get_logger().warning(f"run_episodes refused: {words}")
            return GoalResponse.REJECT
        self.active = True
        return GoalResponse.ACCEPT

    async def _execute(self, handle: ServerGoalHandle) -> RunEpisodes.Result:
        try:
            return await self._run(handle)
        finally:
            self.active = False

    async def _run(self, handle: ServerGoalHandle) -> RunEpisodes.Result:
        manager, goal, result = self._manager, handle.request, RunEpisodes.Result()
        estops, unrecorded = manager.estops, 0

        def stopped() -> bool:
            return handle.is_cancel_requested or manager.estops > estops

        for index in range(goal.count):
            request = StartEpisode.Request(
                purpose=goal.purpose,
                driver=goal.driver,
                explore=goal.explore,
                start_in=goal.start_in,
                seed=goal.first_seed + index,
                execute_steps=goal.execute_steps,
            )
            go = await manager.may_start(request, stopped)
            if stopped():
                break
            result.message = manager.begin(request, go) if isinstance(go, Go) else go.reason
            if result.message:
                break
            verdict = await self._follow(handle, go.driver, result)
            unrecorded = 0 if verdict is None or verdict.durable else unrecorded + 1
            if unrecorded == UNRECORDED_LIMIT:
                result.message = f"{UNRECORDED_LIMIT} episodes in a row were not recorded: {verdict.message}"
                break
        if manager.estops > estops:
            result.message = "emergency stop: start a new run when it is reset"
        if handle.is_cancel_requested:
            result.message = result.message or "cancelled"
            handle.canceled()
        elif result.message:
            handle.abort()
        else:
            handle.succeed()
        return result

    async def _follow(self, handle: ServerGoalHandle, driver: Driver, result: RunEpisodes.Result) -> Verdict | None:
        """Wait until the episode is over and closed, and add it to the result. A cancel discards it."""
        manager, machine, count = self._manager, self._manager.machine, self._manager.count
        await manager.news.until(lambda: machine.episode.label != Label.NONE or handle.is_cancel_requested)
        if machine.episode.label == Label.NONE:
            manager.command(machine.label, Label.DISCARD, "the run was cancelled")
        episode_id = machine.episode.episode_id
        await manager.news.until(lambda: manager.closed_episode >= episode_id)
        label = machine.episode.label  # one that was lost is a discard now
        result.episode_ids.append(episode_id)
        result.labels.append(label)
        result.critical_steps.append(count.critical_steps)
        result.drivers.append(driver)
        handle.publish_feedback(
            RunEpisodes.Feedback(
                done=len(result.episode_ids),
                successes=result.labels.count(Label.SUCCESS),
                episode_id=episode_id,
                label=int(label),
                critical_steps=count.critical_steps,
                driver=int(driver),
            )
        )
        return manager.recordings.verdicts.get(episode_id)
