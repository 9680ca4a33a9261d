"""Keys of a terminal: what counts as held, and the real node in a real (pseudo) terminal, killed and stopped too."""

import os
import pty
import signal
import subprocess
import sys
import termios
import time

import pytest
from rclpy.node import Node
from sensor_msgs.msg import Joy
from teleop_doubles import ROBOT

from rlt_common import topics
from rlt_common.config import load_robot
from rlt_msgs.msg import EpisodeState, OperatorEvent
from rlt_teleop.joy_mapping import load_mapping
from rlt_teleop.joy_operator import JoyOperator
from rlt_teleop.keyboard_keys import AXIS_KEYS, BUTTON_KEYS, HELP, HOLD_S, REPEAT_DELAY_S, Keyboard, parse
from rlt_teleop.keyboard_node import STALE_S

MAPPING = load_mapping(ROBOT.parents[1] / "joy" / "keyboard.yaml")
REPEAT_S = 0.033
START, STOP = OperatorEvent.EVENT_INTERVENE_START, OperatorEvent.EVENT_INTERVENE_STOP


class Person:
    """Somebody at a keyboard on a clock, and the joystick operator who sees every state as the node publishes it."""

    def __init__(self) -> None:
        self.keyboard = Keyboard()
        self.operator = JoyOperator(MAPPING, load_robot(ROBOT), silence_s=0.5)
        self.now_s = 0.0
        self.events: list[int] = []
        self._say()

    def _say(self) -> None:
        state = self.keyboard.state(self.now_s)
        self.events += self.operator.accept(state.axes, state.buttons, self.now_s)

    def tap(self, key: str) -> None:
        self.keyboard.hear(key, self.now_s)
        self._say()

    def wait(self, duration_s: float) -> None:
        end_s = self.now_s + duration_s
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + 0.05)
            self._say()

    def hold(self, key: str, duration_s: float, delay_s: float = 0.5) -> None:
        """As a terminal says it: once, after a delay again, then fast."""
        self.tap(key)
        self.wait(min(delay_s, duration_s))
        for _ in range(int((duration_s - delay_s) / REPEAT_S)):
            self.tap(key)
            self.wait(REPEAT_S)

    def moves(self) -> bool:
        return bool(self.operator.command(self.now_s).action.any())


@pytest.mark.parametrize("name", [*(n for n, i in MAPPING.buttons.items() if i >= 0)])
def test_every_button_of_the_mapping_is_a_key_of_the_help(name):
    index = dict(MAPPING.buttons.items())[name]
    shown = {" ": "SPACE", "\r": "ENTER", "\x1b": "ESC"}.get(BUTTON_KEYS[index], BUTTON_KEYS[index])
    assert shown in HELP.split()


def test_no_key_has_two_meanings():
    keys = [*BUTTON_KEYS, *(key for pair in AXIS_KEYS for key in pair)]
    assert len(keys) == len(set(keys))
    assert {axis.index for _, axis in MAPPING.axes.items()} == set(range(len(AXIS_KEYS)))


@pytest.mark.parametrize(
    ("key", "event"),
    [
        ("h", OperatorEvent.EVENT_HANDOFF),
        ("y", OperatorEvent.EVENT_SUCCESS),
        ("n", OperatorEvent.EVENT_FAILURE),
        ("x", OperatorEvent.EVENT_DISCARD),
        ("z", OperatorEvent.EVENT_UNDO),
        ("\r", OperatorEvent.EVENT_NEXT_EPISODE),
        ("\x1b", OperatorEvent.EVENT_ESTOP),
    ],
)
@pytest.mark.parametrize("delay_s", [0.25, 0.66])
def test_a_decision_fires_once_however_long_its_key_is_held(key, event, delay_s):
    person = Person()
    person.hold(key, 3.0, delay_s)
    assert person.events == [event]
    person.wait(REPEAT_DELAY_S + 0.1)
    person.tap(key)
    assert person.events == [event, event]


def test_two_different_keys_in_a_row_are_two_presses():
    person = Person()
    for key in "hyh":
        person.tap(key)
    E = OperatorEvent
    assert person.events == [E.EVENT_HANDOFF, E.EVENT_SUCCESS, E.EVENT_HANDOFF]


def test_space_takes_over_once_and_space_gives_back():
    person = Person()
    person.hold(" ", 2.0)
    assert person.events == [START]
    person.wait(1.0)
    assert person.events == [START], "control is kept while no key is pressed"
    assert not person.moves()
    person.tap(" ")
    assert person.events == [START, STOP]


def test_a_motion_key_moves_only_after_space():
    person = Person()
    person.hold("w", 1.0)
    assert not person.moves()
    assert person.events == []


def test_a_tap_is_a_short_step_and_motion_ends_when_the_keys_stop_coming():
    person = Person()
    person.tap(" ")
    person.tap("w")
    assert person.moves()
    person.wait(HOLD_S + 0.051)
    assert not person.moves()
    person.hold("w", 5.0)
    assert person.moves(), "a held key moves on, however long the state stays the same"
    person.wait(HOLD_S + 0.051)
    assert not person.moves()
    assert person.operator.intervening


def test_nothing_is_enabled_while_no_motion_key_is_heard():
    person = Person()
    person.tap(" ")
    assert not person.operator.command(person.now_s).enabled
    person.tap("w")
    assert person.operator.command(person.now_s).enabled
    person.wait(HOLD_S + 0.051)
    rest = person.operator.command(person.now_s)
    assert (rest.enabled, rest.reason) == (False, ""), "the arms hold; nothing is wrong"


def test_motion_goes_on_through_the_slowest_usual_repeat():
    keyboard = Keyboard()
    for tenth in range(20):
        keyboard.hear("d", tenth / 10)
        assert keyboard.state(tenth / 10 + 0.099).axes[1] == -1.0


def test_what_is_too_old_to_count_moves_nothing_but_keeps_control():
    keyboard = Keyboard()
    keyboard.hear(" ", 0.0)
    keyboard.hear("w", 0.1)
    keyboard.forget()
    state = keyboard.state(0.1)
    assert not any(state.axes)
    assert state.buttons[0] == 1


def test_repositioning_is_switched_on_and_off():
    person = Person()
    person.tap(" ")
    for marked in (True, False):
        person.tap("p")
        person.tap("w")
        assert person.operator.command(person.now_s).repositioning is marked


def test_selecting_an_arm():
    person = Person()
    person.tap(" ")
    person.tap("2")
    person.tap("o")
    action = person.operator.command(person.now_s).action
    assert action[13] > 0
    assert not action[:13].any()


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"wW", ["w", "w"]),
        (b"\x1b", ["\x1b"]),
        (b"w\x1b", ["w", "\x1b"]),
        (b"\x1b[A\x1b[1;5Cw\x1bOPs", ["w", "s"]),
        (b"\n", ["\r"]),
        (b"\x1b[", []),
        (b"\xc3\xa4\x00", ["\xc3".lower(), "\xa4", "\x00"]),
    ],
)
def test_what_a_terminal_sends(data, keys):
    assert parse(data) == keys


def test_keys_without_a_meaning_do_nothing():
    person = Person()
    for key in parse(bytes(range(256))[1:27] + "qgtv90äß€".encode()):
        if key not in BUTTON_KEYS and key not in "".join(a + b for a, b in AXIS_KEYS):
            person.tap(key)
    assert person.events == []


# -- the node, in a terminal


class Reader(Node):
    """Reads Joy."""

    def __init__(self) -> None:
        super().__init__("reader")
        self.heard: list[Joy] = []
        self.create_subscription(Joy, topics.JOY, self.heard.append, topics.QOS_EVENT)

    @property
    def last(self) -> Joy:
        return self.heard[-1] if self.heard else Joy()


@pytest.fixture
def terminal(make_graph):
    """(graph, reader, process, write end of the terminal): a keyboard node at work."""
    graph = make_graph({})
    reader = graph.add(Reader())
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "rlt_teleop.keyboard_node", "--ros-args", "-r", f"__ns:={graph.namespace}"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "ROS_DOMAIN_ID": str(graph.executor._context.get_domain_id())},
    )
    graph.until(lambda: reader.heard, "the first Joy")
    yield graph, reader, process, ours, theirs
    if process.poll() is None:
        process.kill()
    process.wait()
    os.close(ours)
    os.close(theirs)


def press(terminal, key: bytes, reached, what: str) -> None:
    """Type a key until it counts: a node that could not run for a while throws away what was typed meanwhile."""
    graph, _, _, ours, _ = terminal
    os.write(ours, key)
    again_s = time.monotonic() + 2.0

    def done() -> bool:
        nonlocal again_s
        if not reached() and time.monotonic() > again_s:
            os.write(ours, key)
            again_s = time.monotonic() + 2.0
        return reached()

    graph.until(done, what)


def test_keys_become_joy_and_motion_stops_with_them(terminal):
    graph, reader = terminal[:2]
    assert not any(reader.heard[0].buttons)
    press(terminal, b" ", lambda: reader.last.buttons[0] == 1, "in control")
    press(terminal, b"w", lambda: any(joy.axes[0] == 1.0 for joy in reader.heard), "forward")
    graph.until(lambda: reader.last.axes[0] == 0.0, "no longer, though nobody said so")
    assert reader.last.buttons[0] == 1


def test_ctrl_c_ends_it_without_giving_back_and_leaves_the_terminal_as_it_was(terminal):
    graph, reader, process, _, theirs = terminal
    press(terminal, b" ", lambda: reader.last.buttons[0] == 1, "in control")
    heard = len(reader.heard)
    process.send_signal(signal.SIGINT)
    graph.until(lambda: process.poll() is not None, "the end")
    assert all(joy.buttons[0] == 1 for joy in reader.heard[heard:]), "its messages end, that is all"
    assert termios.tcgetattr(theirs)[3] & termios.ICANON
    assert "Traceback" not in process.stdout.read().decode()


def test_what_was_typed_while_it_was_stopped_moves_nothing(terminal):
    graph, reader, process, ours, _ = terminal
    press(terminal, b" ", lambda: reader.last.buttons[0] == 1, "in control")
    process.send_signal(signal.SIGSTOP)
    pid, status = os.waitpid(process.pid, os.WUNTRACED)
    assert (pid, os.WIFSTOPPED(status)) == (process.pid, True)
    end_s = time.monotonic() + STALE_S + 0.1
    graph.until(lambda: time.monotonic() > end_s, "longer than it may look away")
    os.write(ours, b"w" * 50)
    heard = len(reader.heard)
    process.send_signal(signal.SIGCONT)
    graph.until(lambda: len(reader.heard) >= heard + 10, "it goes on")
    assert not any(joy.axes[0] for joy in reader.heard[heard:])


def test_control_ends_with_the_episode_and_cannot_be_taken_before_one(terminal):
    graph, reader = terminal[:2]
    manager = graph.add(Node("manager"))
    state = manager.create_publisher(EpisodeState, topics.EPISODE_STATE, topics.QOS_LATCHED)
    state.publish(EpisodeState(phase=EpisodeState.PHASE_BASE))
    press(terminal, b" ", lambda: reader.last.buttons[0] == 1, "in control")
    state.publish(EpisodeState(phase=EpisodeState.PHASE_LABELLED))
    graph.until(lambda: reader.last.buttons[0] == 0, "control has ended")
    heard = len(reader.heard)
    stop = BUTTON_KEYS.index("\x1b")
    press(terminal, b"h \x1b", lambda: any(joy.buttons[stop] for joy in reader.heard[heard:]), "the last key")
    assert not any(joy.buttons[0] for joy in reader.heard[heard:])


@pytest.mark.usefixtures("ros_domain")
def test_without_a_terminal_it_says_what_to_do():
    done = subprocess.run(
        [sys.executable, "-m", "rlt_teleop.keyboard_node"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "run it in a terminal" in done.stderr
