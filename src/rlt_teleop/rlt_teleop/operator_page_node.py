"""The operator page: what happens, and the operator's buttons, in a browser. It never commands an arm.

Subscribes  episode_state, control_state, training_status, recorder_status, relabel (latched), /diagnostics,
            operator_event (rlt_msgs/OperatorEvent: what other devices press), estop (std_msgs/Bool),
            observation (rlt_msgs/Observation, serialised: read only while somebody looks)
Publishes   operator_event (rlt_msgs/OperatorEvent), estop (std_msgs/Bool), /diagnostics
Calls       handoff (rlt_msgs/Handoff), label_episode (rlt_msgs/LabelEpisode), estop (rlt_msgs/Estop),
            reset_estop (rlt_msgs/ResetEstop)
Serves      http://<address>:<port>/ (page_server.py); through ssh: `ssh -L 8091:127.0.0.1:8091 <host>`

Everything of ROS happens in the executor's thread but one: the emergency stop is published by the thread that hears it.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import Bool

from rlt_common import topics
from rlt_common.config import load_robot
from rlt_common.health import OK, WARN, Health
from rlt_common.parameters import declare, param, reject_unknown, validate
from rlt_common.process import run_node
from rlt_msgs.msg import (
    ControlState,
    EpisodeState,
    Observation,
    OperatorEvent,
    RecorderStatus,
    Relabel,
    TrainingStatus,
)
from rlt_msgs.srv import Estop, Handoff, LabelEpisode, ResetEstop
from rlt_teleop.episode_machine import OPERATOR_LABELS, Label
from rlt_teleop.joy_operator import EVENTS, LABELS
from rlt_teleop.page_auth import Access, check_address, read_token
from rlt_teleop.page_cameras import Cameras
from rlt_teleop.page_history import History
from rlt_teleop.page_presses import ESTOP, RELABEL, RESET_ESTOP, Answer, Press, PressDesk
from rlt_teleop.page_server import PageServer
from rlt_teleop.page_state import MANAGER, page_state, possible, seen_of
from rlt_teleop.status_model import StatusModel

TICK_S = 0.1
BEAT_S = 1.0
"""A page that hears nothing for three of these says that the connection is lost."""
SERVICE_S = 10.0
INBOX = 200
SOURCE = "page: "
"""Before the name of who pressed, in the source of its operator_event."""
NAMES = {value: name.replace("_", " ") for name, value in EVENTS.items()} | {
    OperatorEvent.EVENT_INTERVENE_START: "took over",
    OperatorEvent.EVENT_INTERVENE_STOP: "gave back",
}


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the operator page."""

    robot: str = param(description="path of the robot file: its cameras are shown")
    run_directory: str = param(description="run directory: episodes are listed from it, clips are written to it")
    address: str = param(
        "127.0.0.1", "IP address to serve the page at; any other than this machine's own needs a token"
    )
    port: int = param(8091, "TCP port; 0: any that is free", minimum=0, maximum=65535)
    token_file: str = param(
        "",
        "file with the token that the page asks for, readable by its owner alone; empty: RLT_PAGE_TOKEN, if it is set",
    )
    host_names: tuple[str, ...] = param(
        (), "names, beside its IP addresses, localhost and its own, by which browsers may reach this machine"
    )
    camera_hz: float = param(10.0, "images per second and camera that a page gets at most", minimum=0.2, maximum=60.0)
    clips_mib: float = param(
        512.0, "MiB that clips in the run directory may take up; the oldest go first", minimum=1.0, maximum=1e6
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclass
class _Call:
    """A service call that is under way."""

    client: Client
    future: object
    until_s: float
    done: Callable[[object], Answer]
    answer: Callable[[Answer], None]
    press: Press


class OperatorPageNode(Node):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__("operator_page")
        parameters = declare(self, NodeParameters)
        reject_unknown(self)
        token = read_token(parameters.token_file)
        check_address(parameters.address, token)
        robot = load_robot(parameters.robot)
        self._resets_itself = robot.reset == "service"
        self._own = self.get_namespace().strip("/")
        self._desk = PressDesk()
        self._model = StatusModel()
        self._inbox: deque[tuple[Press, Callable[[Answer], None]]] = deque(maxlen=INBOX)
        self._calls: list[_Call] = []
        self._refusal: str | None = None
        self._shown_s, self._key = 0.0, None
        self._history = History(parameters.run_directory, robot.control_hz)
        self._history_number, self._scan_again = 0, True
        self._scanner = ThreadPoolExecutor(1, "operator_page_history")
        self._scan: Future[bool] | None = None
        self._cameras = Cameras(camera.name for camera in robot.cameras)

        self._health = Health(self)
        self._events = self.create_publisher(OperatorEvent, topics.OPERATOR_EVENT, topics.QOS_EVENT)
        self._estop = self.create_publisher(Bool, topics.ESTOP, topics.QOS_EVENT)
        self._handoff = self.create_client(Handoff, topics.SERVICE_HANDOFF)
        self._label = self.create_client(LabelEpisode, topics.SERVICE_LABEL_EPISODE)
        self._estop_service = self.create_client(Estop, topics.SERVICE_ESTOP)
        self._reset = self.create_client(ResetEstop, topics.SERVICE_RESET_ESTOP)
        self._guard = self.create_guard_condition(self._take_presses)
        self._listen()
        names = (socket.gethostname(), f"{socket.gethostname()}.local", *parameters.host_names)
        self.server = PageServer(
            self,
            Access(token, names),
            self._cameras,
            self._history,
            parameters.run_directory,
            address=parameters.address,
            port=parameters.port,
            camera_hz=parameters.camera_hz,
            clips_mib=parameters.clips_mib,
        )
        self.create_timer(TICK_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(f"operator page at {self.server.url}" + (", with a token" if token else ""))
        self._show_health()

    def _listen(self) -> None:
        model = self._model
        for kind, topic, take, qos in (
            (EpisodeState, topics.EPISODE_STATE, model.on_episode, topics.QOS_LATCHED_READER),
            (ControlState, topics.CONTROL_STATE, model.on_control, topics.QOS_LATCHED),
            (TrainingStatus, topics.TRAINING_STATUS, model.on_training, topics.QOS_LATCHED),
            (RecorderStatus, topics.RECORDER_STATUS, self._on_recorder, topics.QOS_LATCHED),
            (Relabel, topics.RELABEL, self._on_relabel, topics.QOS_RELABEL),
        ):
            self.create_subscription(kind, topic, self._then_look(take), qos)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.QOS_EVENT)
        self.create_subscription(
            OperatorEvent, topics.OPERATOR_EVENT, self._then_look(self._on_event), topics.QOS_EVENT
        )
        for qos in (topics.QOS_EVENT, topics.QOS_SENSOR):  # as the executor: whoever says it, however
            self.create_subscription(Bool, topics.ESTOP, self._then_look(self._on_estop), qos)
        self.create_subscription(Observation, topics.OBSERVATION, self._cameras.show, topics.QOS_SENSOR, raw=True)

    # ---- called by the server's thread

    def stop(self, who: str) -> None:
        """Publish the emergency stop."""
        self._estop.publish(Bool(data=True))

    def press(self, press: Press, answer: Callable[[Answer], None]) -> None:
        """Have a press judged and passed on in the executor's thread."""
        self._inbox.append((press, answer))
        self._guard.trigger()

    # ---- what others say

    def _then_look(self, take: Callable[[object], None]) -> Callable[[object], None]:
        def taken(message: object) -> None:
            take(message)
            self._look()

        return taken

    def _on_recorder(self, message: RecorderStatus) -> None:
        self._model.on_recorder(message)
        self._scan_again |= message.durable

    def _on_relabel(self, message: Relabel) -> None:
        self._model.on_relabel(message)
        self._scan_again = True

    def _on_event(self, message: OperatorEvent) -> None:
        if not message.source.startswith(SOURCE):
            stop = message.event == OperatorEvent.EVENT_ESTOP
            self._desk.stops_heard += stop
            text = NAMES.get(message.event, f"event {message.event}")
            self._note(message.source or "somebody", text, "stop" if stop else "ok")

    def _on_estop(self, message: Bool) -> None:
        self._desk.stops_heard += message.data

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            space, _, name = status.name.rpartition("/")
            if space != self._own:  # /diagnostics is one topic for all robots
                continue
            values = {value.key: value.value for value in status.values}
            self._model.on_diagnostics(status.name, status.level, status.message, values, time.monotonic())
            if name == MANAGER:
                said, before = values.get("last_refusal", ""), self._refusal
                self._refusal = said
                if said and before is not None and said != before:
                    self._note("episode manager", f"refused: {said}", "refused")

    # ---- presses

    def _take_presses(self) -> None:
        while self._inbox:
            press, answer = self._inbox.popleft()
            if press.name == ESTOP:
                self._stop(press, answer)
            else:
                self._judge(press, answer)
        self._show()

    def _stop(self, press: Press, answer: Callable[[Answer], None]) -> None:
        self._desk.stops += 1
        self._desk.stops_heard += 1
        self._note(press.who, "EMERGENCY STOP", "stop")
        self._publish(OperatorEvent.EVENT_ESTOP, 0, press.who)
        request = Estop.Request(reason=f"operator ({SOURCE}{press.who})")
        self._call(
            self._estop_service, request, press, answer, lambda done: Answer(done.stopped, f"stopped: {done.message}")
        )

    def _judge(self, press: Press, answer: Callable[[Answer], None]) -> None:
        now_s = time.monotonic()
        snapshot = self._model.snapshot(now_s)
        seen = seen_of(snapshot, self._desk.stops_heard)
        allowed = self._possible(snapshot)
        refusal = self._desk.judge(press, seen, allowed, now_s)
        if not refusal and press.name == RELABEL:
            refusal = self._check_relabel(press)
        if refusal:
            self._refuse(press, answer, refusal)
            return
        self._desk.taken += 1
        name, who = press.name, press.who
        if name == RESET_ESTOP:
            self._note(who, "releases the emergency stop")
            self._call(self._reset, ResetEstop.Request(), press, answer, lambda done: Answer(done.reset, done.message))
        elif name == RELABEL or (name in LABELS and seen.relabelling):
            episode_id, label = (press.episode_id, press.label) if name == RELABEL else (seen.relabelling, name)
            self._note(who, f"episode {episode_id} is a {label}")
            request = LabelEpisode.Request(episode_id=episode_id, label=int(Label[label.upper()]))
            done = f"episode {episode_id} is a {label} now"
            self._call(self._label, request, press, answer, lambda reply: Answer(reply.accepted, reply.message or done))
        elif name == "handoff":
            self._note(who, "hand off")
            self._desk.passed_on(press, seen, now_s)
            request = Handoff.Request(episode_id=seen.episode_id, source=f"{SOURCE}{who}")
            self._call(
                self._handoff, request, press, answer, lambda done: Answer(done.accepted, done.message or "handed off")
            )
        else:
            self._note(who, allowed[name])
            self._desk.passed_on(press, seen, now_s)
            self._publish(EVENTS[name], 0 if name == "undo" else seen.episode_id, who)
            answer(Answer(True, f"sent: {allowed[name]}"))

    def _check_relabel(self, press: Press) -> str:
        if press.label not in {label.name.lower() for label in OPERATOR_LABELS}:
            return f"{press.label!r} is no label: choose success, failure or discard"
        label = self._history.label_of(press.episode_id)
        if not label:
            return f"there is no ended episode {press.episode_id}"
        if label != press.was:
            return f"episode {press.episode_id} is a {label} meanwhile, no {press.was}: look again"
        return ""

    def _possible(self, snapshot: object) -> dict[str, str]:
        ended = bool(self._history.episodes)
        return possible(snapshot, scene_resets_itself=self._resets_itself, ended=ended)

    def _refuse(self, press: Press, answer: Callable[[Answer], None], words: str) -> None:
        self._desk.refused += 1
        self._note(press.who, f"{press.name.replace('_', ' ')} refused: {words}", "refused")
        answer(Answer(False, words))

    def _publish(self, event: int, episode_id: int, who: str) -> None:
        message = OperatorEvent(event=event, episode_id=episode_id, source=f"{SOURCE}{who}")
        message.header.stamp = self.get_clock().now().to_msg()
        self._events.publish(message)

    def _call(
        self,
        client: Client,
        request: object,
        press: Press,
        answer: Callable[[Answer], None],
        done: Callable[[object], Answer],
    ) -> None:
        if not client.service_is_ready():
            text = f"nobody offers {client.srv_name}: see the health of the processes"
            if press.name == ESTOP:  # it went out on two topics
                answer(Answer(False, f"sent on the topics; {text}"))
            else:
                self._refuse(press, answer, text)
            return
        call = _Call(client, client.call_async(request), time.monotonic() + SERVICE_S, done, answer, press)
        self._calls.append(call)
        call.future.add_done_callback(lambda future: self._answered(call))

    def _answered(self, call: _Call) -> None:
        if call not in self._calls:
            return
        self._calls.remove(call)
        answer = call.done(call.future.result())
        if answer.done:
            self._scan_again |= call.client is self._label
            call.answer(answer)
        else:
            self._refuse(call.press, call.answer, answer.text)
        self._show()

    def _give_up_calls(self, now_s: float) -> None:
        for call in [call for call in self._calls if now_s > call.until_s]:
            self._calls.remove(call)
            call.client.remove_pending_request(call.future)
            self._refuse(call.press, call.answer, f"{call.client.srv_name} did not answer within {SERVICE_S:g} s")

    # ---- showing

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._give_up_calls(now_s)
        self._look_at_history()
        snapshot = self._model.snapshot(now_s)
        if words := self._desk.without_effect(seen_of(snapshot, self._desk.stops_heard), now_s):
            self._note("operator page", words + (f": {self._refusal}" if self._refusal else ""), "refused")
        if now_s - self._shown_s >= BEAT_S:
            self._show()
            self._show_health()

    def _look(self) -> None:
        """Show at once what a person reacts to."""
        snapshot = self._model.snapshot(time.monotonic())
        key = (seen_of(snapshot, self._desk.stops_heard), snapshot.estop, snapshot.label, snapshot.confirmation)
        key += (snapshot.waiting_for, snapshot.driver, snapshot.episodes)
        if key != self._key:
            self._key = key
            self._show()

    def _look_at_history(self) -> None:
        if self._scan is not None and self._scan.done():
            self._history_number += self._scan.result() or not self._history_number
            self._scan = None
            self._show()
        if self._scan is None and self._scan_again:
            self._scan_again = False
            self._scan = self._scanner.submit(self._history.scan)

    def _show(self) -> None:
        self._shown_s = time.monotonic()
        snapshot = self._model.snapshot(self._shown_s)
        seen, allowed = seen_of(snapshot, self._desk.stops_heard), self._possible(snapshot)
        self.server.show(page_state(snapshot, seen, allowed, tuple(self._desk.log), self._history_number))

    def _note(self, who: str, text: str, level: str = "ok") -> None:
        self._desk.note(time.time(), who, text, level)

    def _show_health(self) -> None:
        server, desk = self.server, self._desk
        level, text = OK, f"at {server.url}"
        if self._history.problem:
            level, text = WARN, f"{text}; {self._history.problem}"
        self._health.set(
            level,
            text,
            pages=server.clients,
            dropped_pages=server.dropped,
            turned_away=server.turned_away,
            presses=desk.taken,
            refused_presses=desk.refused,
            stops=desk.stops,
            unreadable_observations=self._cameras.unreadable,
        )

    def destroy_node(self) -> None:
        """Stop serving, then leave."""
        self.server.close()
        self._scanner.shutdown(wait=False, cancel_futures=True)
        super().destroy_node()


def main() -> None:
    """Entry point of `ros2 run rlt_teleop operator_page`."""
    run_node("operator_page", OperatorPageNode, OSError)
