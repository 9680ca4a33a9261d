"""Episode manager: moves the phase state machine on, for an operator or for a whole run of episodes.

Subscribes  operator_event (rlt_msgs/OperatorEvent), control_state (rlt_msgs/ControlState),
            executed_action (rlt_msgs/ExecutedAction, serialised: only its first fields are read),
            training_status (rlt_msgs/TrainingStatus), recorder_status (rlt_msgs/RecorderStatus)
Publishes   episode_state (rlt_msgs/EpisodeState, latched), relabel (rlt_msgs/Relabel, latched: every correction of the
            run), /diagnostics
Services    start_episode (rlt_msgs/StartEpisode), handoff (rlt_msgs/Handoff), label_episode (rlt_msgs/LabelEpisode)
Actions     run_episodes (rlt_msgs/RunEpisodes)
Calls       reset_scene (rlt_msgs/ResetScene, where the robot file says `reset: service`), estop (rlt_msgs/Estop)

It never commands an arm, and it never waits inside a callback: what has to wait is a coroutine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future

from rlt_common import topics
from rlt_common.config import learning_hash, load_robot, load_task
from rlt_common.episode_file import EpisodeFileError
from rlt_common.health import ERROR, OK, WARN, Health
from rlt_common.parameters import declare, reject_unknown
from rlt_common.process import run_node
from rlt_common.relabels import episode_facts, episode_path
from rlt_msgs.msg import (
    ControlState,
    EpisodeState,
    ExecutedAction,
    OperatorEvent,
    RecorderStatus,
    TrainingStatus,
)
from rlt_msgs.srv import Estop, Handoff, LabelEpisode, ResetScene, StartEpisode
from rlt_teleop.cdr import CdrError, leading_fields
from rlt_teleop.episode_machine import (
    MOVING,
    RUNNING,
    CommandRefused,
    Driver,
    EpisodeMachine,
    EpisodeSpec,
    Label,
    Phase,
    Purpose,
)
from rlt_teleop.episode_manager_parameters import ManagerParameters
from rlt_teleop.episode_request import RequestError, spec_from_request
from rlt_teleop.operator_wait import OperatorWait, Wanted
from rlt_teleop.operator_wait import Wait as Waited
from rlt_teleop.operator_wanted import wanted
from rlt_teleop.recordings import Recordings
from rlt_teleop.relabelling import Relabelling
from rlt_teleop.run_action import RunAction
from rlt_teleop.run_directory import keep_number, scan, tally
from rlt_teleop.scene_reset import SceneReset
from rlt_teleop.step_count import StepCount
from rlt_teleop.training_gate import Go, Refuse, Training, Wait, decide, taken_in
from rlt_teleop.waiting import News

TICK_S = 0.1
SETTLE_S = 1.0
NEVER = -1e9
HEARTBEAT_S = 0.1
"""On a robot the state is repeated so often, changed or not."""
EVENT_LABELS = {
    OperatorEvent.EVENT_SUCCESS: Label.SUCCESS,
    OperatorEvent.EVENT_FAILURE: Label.FAILURE,
    OperatorEvent.EVENT_DISCARD: Label.DISCARD,
}


class EpisodeManagerNode(Node):
    """See the module docstring. `clock`: monotonic time in s, of its time-outs and reminders."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__("episode_manager")
        self._now = clock
        self.parameters = declare(self, ManagerParameters)
        reject_unknown(self)
        self.robot = load_robot(self.parameters.robot)
        self.task = load_task(self.parameters.task)
        self._config_hash = learning_hash(self.robot, self.task)
        self.lockstep = self.robot.tick == "joint_states"
        ledger = scan(self.parameters.run_directory)
        for problem in ledger.unreadable:
            self.get_logger().warning(f"not counted: {problem}")
        self.machine = EpisodeMachine(self.task.name, ledger.last_episode_id, ledger.counts)
        self.training_episodes = ledger.training_episodes
        self._unfinished = set(ledger.unfinished)
        """Episodes of an earlier start that count once their files are durable."""
        self.count = StepCount(0)
        self._control = ControlState()
        self._control_heard_s = NEVER
        self._silent_ticks = 0
        """Of this node's own timer, since the last control_state: none passes while this process stands still."""
        self._limit_of: tuple[int, int, int] | None = None
        """Episode, epoch and phase whose step limit is reached, while the operator's label is waited for."""
        self._estop_confirmed = False
        self._estop_call: Future | None = None
        self._training: Training | None = None
        self._trained_episode = 0
        self.closed_episode = 0
        self.estops = 0
        self._closing = ""
        self._waiting_for = ""
        self._refused = ""
        self.news = News()
        self.recordings = Recordings(self.news, self.parameters.record, self.parameters.recorder_timeout_s)
        self._wait = OperatorWait(self.parameters.remind_after_s)

        self._health = Health(self)
        self._publisher = self.create_publisher(EpisodeState, topics.EPISODE_STATE, topics.QOS_LATCHED)
        self._relabelling = Relabelling(self, self.machine, self.parameters.run_directory)
        # Before the operator's events, so that steps taken before a hand-off are counted before it.
        self.create_subscription(ExecutedAction, topics.EXECUTED_ACTION, self._on_executed, topics.QOS_STREAM, raw=True)
        self.create_subscription(ControlState, topics.CONTROL_STATE, self._on_control, topics.QOS_LATCHED_READER)
        self.create_subscription(TrainingStatus, topics.TRAINING_STATUS, self._on_training, topics.QOS_LATCHED)
        self.create_subscription(RecorderStatus, topics.RECORDER_STATUS, self._on_recorder, topics.QOS_LATCHED_READER)
        self.create_subscription(OperatorEvent, topics.OPERATOR_EVENT, self._on_event, topics.QOS_EVENT)
        group = ReentrantCallbackGroup()
        self._scene = SceneReset(self, self.news, self.parameters.reset_timeout_s, group)
        self._estop_client = self.create_client(Estop, topics.SERVICE_ESTOP, callback_group=group)
        self.create_service(StartEpisode, topics.SERVICE_START_EPISODE, self._on_start_episode, callback_group=group)
        self.create_service(Handoff, topics.SERVICE_HANDOFF, self._on_handoff, callback_group=group)
        self.create_service(LabelEpisode, topics.SERVICE_LABEL_EPISODE, self._on_label_episode, callback_group=group)
        self._runs = RunAction(self, group)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(TICK_S, self._tick, clock=steady)
        self.create_timer(1.0, self._show_health, clock=steady)
        if not self.lockstep:
            # A sign of life: without it the executor holds the arms.
            self.create_timer(HEARTBEAT_S, self._publish_state, clock=steady)
        self._publish()
        self._relabelling.publish_made()

    # ---- state and waiting

    def _tick(self) -> None:
        """Notice time-outs of what is waited for; tell the operator."""
        self._silent_ticks += 1
        if self._executor_gone() and self.machine.episode.phase in RUNNING:
            self.command(self.machine.label, Label.DISCARD, "the chunk executor is gone: no control_state")
        found = self._wait.update(self._waits_for_operator(), self._now())
        if found == Waited.EXPIRED:
            self._give_up_waiting()
        elif found != Waited.NOTHING:
            if found == Waited.REMIND:
                self.get_logger().warning(f"waiting for the operator: {self._wait.text}")
            before = self.machine.episode
            self.machine.show_wait(self._wait.text, self._wait.reminders)
            if self.machine.episode != before:
                self._publish()
        self.news.tell()

    def _waits_for_operator(self) -> Wanted:
        return wanted(
            self.machine.episode,
            self.parameters,
            operator_resets=self.robot.reset == "operator",
            executor_gone=self._executor_gone(),
            limit_reached=self._limit_of is not None and self._limit_of == self._moment(),
            run_active=self._runs.active,
        )

    def _give_up_waiting(self) -> None:
        episode, why = self.machine.episode, f"nobody came: {self._wait.text}"
        if episode.relabelling:
            self.command(self.machine.pick, 0, f"nobody gave a label: episode {episode.relabelling} keeps its own")
        elif episode.phase in MOVING:
            self.command(self.machine.time_out)
        else:
            self.command(self.machine.label, Label.DISCARD, why)

    def _executor_gone(self) -> bool:
        """Whether an executor that was there has said nothing for too long."""
        return self._control_heard_s != NEVER and self._silent_ticks * TICK_S > self.parameters.executor_timeout_s

    def _moment(self) -> tuple[int, int, int]:
        episode = self.machine.episode
        return episode.episode_id, episode.epoch, episode.phase

    def _publish(self) -> None:
        self._publish_state()
        self.news.tell()

    def _publish_state(self) -> None:
        message = self.machine.episode.to_msg()
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = self.robot.frame
        message.config_hash = self._config_hash
        self._publisher.publish(message)

    def command(self, command: Callable[..., object], *values: object) -> str:
        """Apply a command of the machine and publish. Returns "" or why it was refused."""
        before = self.machine.episode
        try:
            command(*values)
        except CommandRefused as error:
            self._refused = str(error)
            self.get_logger().info(f"refused: {error}")
            return str(error)
        after = self.machine.episode
        if after != before:
            self.get_logger().info(f"episode {after.episode_id}: {after.phase.name} ({after.reason})")
            self.estops += after.phase == Phase.ESTOP
            self._publish()
            if before.label == Label.NONE and after.label != Label.NONE:
                self.executor.create_task(self._close(after.episode_id))
        return ""

    # ---- what others say

    def _on_executed(self, cdr: bytes) -> None:
        try:
            _, (episode_id, _, step, phase) = leading_fields(cdr, "QIIB")
        except CdrError as error:
            self._refused = f"executed_action: {error}"
            return
        if self.count.add(episode_id, step, phase == Phase.CRITICAL) and self.machine.episode.phase == Phase.CRITICAL:
            self.command(self.machine.correct_handoff, self.count.first_critical)

    def _on_control(self, message: ControlState) -> None:
        restarted = message.ticks < self._control.ticks
        self._control, self._control_heard_s, self._silent_ticks = message, self._now(), 0
        machine = self.machine
        if restarted:
            self._estop_call = None
        if machine.overtake(message.episode_id, message.epoch):
            self._publish()
        if message.estop:
            self.command(machine.estop, message.hold_reason or "emergency stop")
            self._estop_confirmed = True
        elif machine.episode.phase == Phase.ESTOP:
            if self._estop_confirmed and not restarted:
                self._estop_confirmed = False
                self.command(machine.reset_estop)
            else:
                self._estop_confirmed = False
                self._call_estop(machine.episode.reason)
        elif restarted and machine.episode.phase in MOVING:
            self.command(machine.label, Label.DISCARD, "the executor was restarted")
        if message.step_limit_reached and (message.episode_id, message.epoch, message.phase) == self._moment():
            if self.parameters.label_wait_s:
                self._limit_of = self._moment()
            else:
                self.command(machine.time_out)
        self.news.tell()

    def _on_training(self, message: TrainingStatus) -> None:
        self._training = Training(
            ready=message.ready,
            busy=message.busy,
            last_episode_id=message.last_episode_id,
            actor_version=message.actor_version,
            message=message.message,
        )
        self.news.tell()

    def _on_recorder(self, message: RecorderStatus) -> None:
        episode_id = message.episode_id
        self.recordings.hear(message)
        if message.durable and self.machine.is_lost(episode_id):
            self.command(self._relabelling.keep_discarded, episode_id)
        if message.durable and episode_id in self._unfinished:
            self._unfinished.remove(episode_id)
            self.command(self._count_earlier, episode_id)
        episode = self.machine.episode
        if message.error and self.parameters.record and episode_id == episode.episode_id and episode.phase in RUNNING:
            self.command(self.machine.label, Label.DISCARD, f"recorder: {message.error}")
        self.news.tell()

    def _count_earlier(self, episode_id: int) -> None:
        """The manager that saw the episode end was gone before its file was durable."""
        try:
            counts, training = tally([episode_facts(episode_path(self.parameters.run_directory, episode_id))])
        except EpisodeFileError as error:
            self.get_logger().warning(f"not counted: {error}")
            return
        self.training_episodes += training
        self.machine.count_more(counts)

    def _on_event(self, message: OperatorEvent) -> None:
        machine, episode, source = self.machine, self.machine.episode, message.source or "operator"
        if message.event == OperatorEvent.EVENT_ESTOP:
            if episode.phase != Phase.ESTOP:
                self._estop_confirmed = False
                self.command(machine.estop, f"emergency stop: {source}")
                self._call_estop(f"operator ({source})")
        elif message.event == OperatorEvent.EVENT_UNDO:
            self.command(self._relabelling.pick_back)
        elif episode.relabelling and message.event in EVENT_LABELS:
            self._relabel(episode.relabelling, EVENT_LABELS[message.event], source)
        elif message.episode_id not in (0, episode.episode_id):
            self._refused = f"{source} meant episode {message.episode_id}, it is {episode.episode_id}"
        elif episode.relabelling and message.event == OperatorEvent.EVENT_NEXT_EPISODE:
            self.command(self.machine.pick, 0, f"episode {episode.relabelling} keeps its label")
        elif message.event == OperatorEvent.EVENT_NEXT_EPISODE:
            if episode.phase == Phase.IDLE:
                self._refused = self._start_next()
            elif self.robot.reset == "service" and episode.phase == Phase.RESETTING:
                self._refused = "the reset_scene service says when the scene is reset, not the operator"
            else:
                self._scene_ready(episode.episode_id)
        elif message.event == OperatorEvent.EVENT_HANDOFF:
            self._hand_off(source)
        elif message.event == OperatorEvent.EVENT_INTERVENE_START:
            self.command(machine.intervene)
        elif message.event == OperatorEvent.EVENT_INTERVENE_STOP:
            self.command(machine.release)
        elif message.event in EVENT_LABELS:
            self.command(machine.label, EVENT_LABELS[message.event], f"labelled by {source}")
        else:
            self._refused = f"{source} sent event {message.event}, which does not exist"

    def _call_estop(self, reason: str) -> None:
        """Make sure that the executor has latched the stop too."""
        if self._estop_call is not None and not self._estop_call.done():
            return
        if self._estop_client.service_is_ready():
            self._estop_call = self._estop_client.call_async(Estop.Request(reason=reason))

    # ---- the course of an episode

    def begin(self, request: StartEpisode.Request, go: Go) -> str:
        """Start an episode. Returns "" or why not."""
        try:
            spec = self._spec(request)
        except RequestError as error:
            return str(error)
        spec = replace(spec, driver=go.driver, actor_version=go.actor_version)
        refusal = self.command(self.machine.start, spec)
        if not refusal:
            self.count = StepCount(self.machine.episode.episode_id)
            self.executor.create_task(self._reset(self.machine.episode.episode_id))
        return refusal

    def _spec(self, request: StartEpisode.Request) -> EpisodeSpec:
        """What a request asks for. Raises RequestError."""
        return spec_from_request(request, self.task, self.training_episodes, self.parameters.demonstration_limits)

    async def _reset(self, episode_id: int) -> None:
        """Have the scene reset and the recorder ready, then move; else discard the episode."""
        episode, problem = self.machine.episode, ""
        wanted = partial(self._resetting, episode_id)
        if self.robot.reset == "service":
            request = ResetScene.Request(episode_id=episode_id, seed=episode.seed, start_in=episode.start_in)
            problem = await self._scene.call(request, wanted)
        problem = problem or await self.recordings.until_open(episode_id, wanted)
        if not self._resetting(episode_id):
            return
        if problem:
            self.command(self.machine.label, Label.DISCARD, problem)
        elif self.robot.reset == "service":
            self.command(self.machine.scene_ready)

    def _start_next(self) -> str:
        """The operator begins an episode from IDLE. Returns "" or why not."""
        purpose = Purpose[self.parameters.purpose.upper()]
        request = StartEpisode.Request(
            purpose=purpose,
            driver=Driver.HUMAN if purpose == Purpose.COLLECT else Driver[self.parameters.driver.upper()],
            explore=purpose == Purpose.TRAIN,
            seed=self.parameters.seed + self.machine.episode.episode_id + 1,
        )
        return self._start(request)

    def _start(self, request: StartEpisode.Request) -> str:
        """Start an episode unless a run does so, or somebody has to be waited for. Returns "" or why not."""
        if self._runs.active:
            return "run_episodes is running: cancel it first"
        go = self._gate(request)
        return self.begin(request, go) if isinstance(go, Go) else go.reason

    def _scene_ready(self, episode_id: int) -> None:
        """The operator says that the scene is reset."""
        if self._resetting(episode_id) and not self.recordings.opened(episode_id):
            self._refused = "the recorder has not opened the episode's file yet: press again"
            self.get_logger().warning(self._refused)
            return
        self.command(self.machine.scene_ready)

    def _resetting(self, episode_id: int) -> bool:
        return self.machine.episode.episode_id == episode_id and self.machine.episode.phase == Phase.RESETTING

    def _hand_off(self, source: str, epoch: int = 0) -> str:
        return self.command(self.machine.hand_off, self.count.next_step, f"hand-off by {source}", epoch)

    async def _close(self, episode_id: int) -> None:
        """After the end: wait for executor, recorder and, in lockstep, learner; then back to IDLE.

        The label counts, and the learner takes the episode, once the recorder has said that the file is durable. An
        episode without such a file is a discard.
        """
        ended = self.machine.episode
        trains = ended.purpose == Purpose.TRAIN and ended.label != Label.DISCARD
        if trains:
            self._trained_episode = episode_id
        await self.news.until(lambda: self._executor_agrees(ended.episode_id, ended.epoch), SETTLE_S)
        self._closing = "(the recorder has not confirmed it)"
        verdict = await self.recordings.verdict(episode_id)
        if not verdict.durable:
            self._keep_number(episode_id)
        if not verdict.durable and self.parameters.record:
            self.get_logger().error(f"episode {episode_id} is lost: {verdict.message}")
            if ended.label != Label.DISCARD:
                self._give_up(episode_id)
            self.command(self.machine.lose, episode_id, verdict.message)
        else:
            self.training_episodes += trains
            waits = self.lockstep and trains
            self.command(self._confirm, episode_id, "" if waits else verdict.message)
            if waits:
                self._closing = "(the learner has not taken it in)"
                await self.news.until(
                    lambda: taken_in(self._training, episode_id) or self.machine.episode.phase != Phase.LABELLED
                )
        self._closing = ""
        if (self.machine.episode.episode_id, self.machine.episode.phase) == (episode_id, Phase.LABELLED):
            self.command(self.machine.close, verdict.message)
        self.closed_episode = max(self.closed_episode, episode_id)
        self.news.tell()

    def _keep_number(self, episode_id: int) -> None:
        """The episode leaves no file: after a restart no other gets its number all the same."""
        run = self.parameters.run_directory
        try:
            keep_number(run, episode_id)
        except OSError as error:
            self.get_logger().warning(
                f"episode {episode_id} leaves no file, and its number cannot be noted ({error.filename or run}: "
                f"{error.strerror}): after a restart another one may get it, and a learner that has heard of this one "
                "learns nothing from that"
            )

    def _give_up(self, episode_id: int) -> None:
        """A file of the episode that comes late is of a discard, though this node is restarted before."""
        try:
            self._relabelling.give_up(episode_id)
        except EpisodeFileError as error:
            self.get_logger().warning(
                f"episode {episode_id} is lost, and that cannot be noted ({error}): should its file come after a "
                "restart of this node, it counts with the label inside it"
            )

    def _confirm(self, episode_id: int, close: str) -> None:
        """The label counts; with a reason to `close`, nothing else is waited for."""
        self.machine.confirm(episode_id)
        if close and (self.machine.episode.episode_id, self.machine.episode.phase) == (episode_id, Phase.LABELLED):
            self.machine.close(close)

    def _executor_agrees(self, episode_id: int, epoch: int) -> bool:
        control = self._control
        return (
            control.episode_id == episode_id and control.epoch >= epoch and control.step == self.count.next_step
        ) or control.episode_id > episode_id

    async def may_start(self, request: StartEpisode.Request, stop: Callable[[], bool]) -> Go | Wait | Refuse:
        """The gate's answer, once it is more than a matter of time, or when `stop` says so.

        Executor and learner may take peer_timeout_s to appear; for a learner at work there is no limit.
        """
        end = self._now() + self.parameters.peer_timeout_s
        while isinstance(answer := self._gate(request), Wait) and not stop():
            if self._executor_alive() and self._training is not None:
                end = self._now() + self.parameters.peer_timeout_s
            elif self._now() > end:
                break
            self._waiting_for = answer.reason
            await self.news.next()
        self._waiting_for = ""
        return answer

    def _gate(self, request: StartEpisode.Request) -> Go | Wait | Refuse:
        """May the episode start now?"""
        try:
            spec = self._spec(request)
            if self.machine.episode.phase == Phase.LABELLED:
                return Wait(f"episode {self.machine.episode.episode_id} is not closed yet {self._closing}")
            self.machine.check_start()
            if self.machine.pending:
                return Wait(f"episode {self.machine.pending[0]} is not confirmed yet {self._closing}")
        except (RequestError, CommandRefused) as error:
            return Refuse(str(error))
        if not self._executor_alive():
            return Wait("no control_state: is the chunk executor running?")
        return decide(spec.purpose, spec.driver, self._training, self.lockstep, self._trained_episode)

    def _executor_alive(self) -> bool:
        return self._now() - self._control_heard_s < self.parameters.control_timeout_s

    # ---- services

    def _on_start_episode(
        self, request: StartEpisode.Request, response: StartEpisode.Response
    ) -> StartEpisode.Response:
        response.message = self._start(request)
        response.accepted = not response.message
        response.episode_id = self.machine.episode.episode_id if response.accepted else 0
        return response

    def _on_handoff(self, request: Handoff.Request, response: Handoff.Response) -> Handoff.Response:
        source = request.source or topics.SERVICE_HANDOFF
        response.message = self._other_episode(request.episode_id) or self._hand_off(source, request.epoch)
        response.accepted = not response.message
        return response

    async def _on_label_episode(
        self, request: LabelEpisode.Request, response: LabelEpisode.Response
    ) -> LabelEpisode.Response:
        episode = self.machine.episode
        response.episode_id = request.episode_id or episode.episode_id
        try:
            label = Label(request.label)
        except ValueError:
            response.message = f"there is no label {request.label}"
            return response
        ended = response.episode_id != episode.episode_id or episode.phase in (Phase.IDLE, Phase.ESTOP)
        if request.episode_id and ended:
            response.message = self._relabel(request.episode_id, label, topics.SERVICE_LABEL_EPISODE)
            response.accepted = response.durable = not response.message
            return response
        response.message = self.command(self.machine.label, label, "labelled by label_episode")
        if response.message:
            return response
        response.accepted = True
        verdict = await self.recordings.verdict(response.episode_id)
        response.durable, response.message = verdict.durable, verdict.message
        return response

    def _relabel(self, episode_id: int, label: Label, source: str) -> str:
        """Returns "" or why not."""

        def correct() -> None:
            self.training_episodes += self._relabelling.give(episode_id, label, source)

        return self.command(correct)

    def _other_episode(self, episode_id: int) -> str:
        current = self.machine.episode.episode_id
        return (
            "" if episode_id in (0, current) else f"episode {episode_id} is not running; the current one is {current}"
        )

    # ---- health

    def _show_health(self) -> None:
        episode = self.machine.episode
        verdict = self.recordings.verdicts.get(self.closed_episode)
        level, text = OK, f"{episode.phase.name}: {episode.reason}"
        if episode.phase == Phase.ESTOP:
            level = ERROR
        elif not self._executor_alive():
            level, text = ERROR, "no control_state: the chunk executor is gone"
        elif verdict is not None and not verdict.durable and self.parameters.record:
            level, text = ERROR, f"episode {self.closed_episode}: {verdict.message}"
        elif self._waiting_for:
            level, text = WARN, f"{episode.phase.name}: waiting: {self._waiting_for}"
        elif self._closing:
            level, text = WARN, f"{episode.phase.name} {self._closing}"
        self._health.set(
            level,
            text,
            episode=episode.episode_id,
            episodes=episode.episodes,
            successes=episode.successes,
            training_episodes=self.training_episodes,
            start_in=episode.start_in,
            last_label=episode.label.name,
            last_refusal=self._refused,
        )


def main() -> None:
    """Entry point of `ros2 run rlt_teleop episode_manager`."""
    run_node("episode_manager", EpisodeManagerNode, EpisodeFileError)
