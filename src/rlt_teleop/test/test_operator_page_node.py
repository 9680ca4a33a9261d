"""The operator page's node: a release of the emergency stop holds only as long as nobody has stopped again."""

import pytest
from rclpy.node import Node
from std_msgs.msg import Bool
from teleop_doubles import ROBOT, FakeExecutor, Operator

from rlt_common import topics
from rlt_common.health import OK, Health
from rlt_msgs.msg import OperatorEvent
from rlt_teleop.operator_page_node import OperatorPageNode
from rlt_teleop.page_presses import RESET_ESTOP, Press, Seen


class Rig:
    """The node with a stopped executor, another device, and what a page is shown and answered."""

    def __init__(self, graph, run):
        self.graph = graph
        self.executor, self.device = graph.add(FakeExecutor()), graph.add(Operator())
        self.executor.estop = True
        self.health = Health(graph.add(Node("chunk_executor")))
        self.pictures, self.answers = [], []
        self.page = graph.add(OperatorPageNode())
        self.page.server.show = self.pictures.append
        self.health.set(OK, "stopped")
        graph.until(lambda: self.picture.get("can_reset"), "the page offers to release the emergency stop")

    @property
    def picture(self):
        return self.pictures[-1] if self.pictures else {}

    def seen(self):
        return Seen.parse(self.picture["seen"])

    def release(self, seen):
        count = len(self.answers)
        self.page.press(Press(RESET_ESTOP, "Ana", seen, confirmed=True), self.answers.append)
        self.graph.until(lambda: len(self.answers) > count, "the press is answered")
        return self.answers[-1]


@pytest.fixture
def rig(make_graph, tmp_path):
    parameters = {"robot": str(ROBOT), "run_directory": str(tmp_path / "run"), "port": 0}
    return Rig(make_graph({"operator_page": parameters}), tmp_path / "run")


def pad(rig):
    publisher = rig.device.events
    return publisher, OperatorEvent(event=OperatorEvent.EVENT_ESTOP, source="pad")


def topic(rig, qos=topics.QOS_EVENT):
    return rig.device.create_publisher(Bool, topics.ESTOP, qos), Bool(data=True)


def best_effort(rig):
    return topic(rig, topics.QOS_SENSOR)


@pytest.mark.parametrize("device", [pad, topic, best_effort])
def test_a_stop_from_any_device_voids_a_release_that_is_open_on_a_page(rig, device):
    before = rig.seen()
    publisher, stop = device(rig)

    def heard():
        publisher.publish(stop)
        return rig.seen().stops > before.stops

    rig.graph.until(heard, "the page shows that there was a stop, which closes the release there")
    answer = rig.release(before)
    assert not answer.done
    assert answer.text == "the emergency stop was pressed again meanwhile: look at the arms again"
    assert rig.executor.estop
    rig.graph.until(lambda: rig.release(rig.seen()).done, "who has looked again releases it")
    assert not rig.executor.estop


def test_other_buttons_and_an_estop_that_is_false_void_no_release(rig):
    before = rig.seen()
    publisher, _ = topic(rig)
    rig.graph.until(publisher.get_subscription_count, "somebody hears the device")
    publisher.publish(Bool(data=False))
    publisher.publish(Bool(data=False))
    rig.device.events.publish(OperatorEvent(event=OperatorEvent.EVENT_FAILURE, source="pad"))
    rig.graph.until(lambda: any(line["who"] == "pad" for line in rig.picture["log"]), "the page has heard the pad")
    assert rig.seen() == before
    assert rig.release(before).done
