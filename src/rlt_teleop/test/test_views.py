"""What Foxglove and PlotJuggler are shown of observations and chunks."""

import numpy as np
import pytest
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from teleop_doubles import ROBOT
from trajectory_msgs.msg import JointTrajectory

from rlt_common import topics
from rlt_common.codecs import floats
from rlt_common.config import load_robot
from rlt_msgs.msg import ActionChunk, Observation
from rlt_teleop.views import POLICY, REFERENCE, camera_topic, images, trajectories
from rlt_teleop.views_node import ViewsNode


def observation():
    pictures = [CompressedImage(format="png", data=b"left"), CompressedImage(format="jpeg", data=b"right")]
    message = Observation(camera_names=["base", "left_wrist"], images=pictures)
    message.header.stamp.sec = 7
    return message


def chunk(rows=3, width=14):
    values = np.arange(rows * width)
    message = ActionChunk(rows=rows, action_dim=width, actions=floats(values), reference=floats(-values))
    message.header.stamp.sec = 7
    return message


def test_each_camera_is_an_image_of_its_own_with_the_observation_s_stamp():
    shown = dict(images(observation()))
    assert {topic: bytes(image.data) for topic, image in shown.items()} == {
        "view/camera/base": b"left",
        "view/camera/left_wrist": b"right",
    }
    assert {(image.header.stamp.sec, image.header.frame_id, image.format) for image in shown.values()} == {
        (7, "base", "png"),
        (7, "left_wrist", "jpeg"),
    }


@pytest.mark.parametrize(("name", "topic"), [("wrist-1", "wrist_1"), ("oben/é", "oben__")])
def test_a_camera_s_topic_is_one(name, topic):
    assert camera_topic(name) == "view/camera/" + topic


def test_row_k_of_a_chunk_is_point_k():
    names = load_robot(ROBOT).action_names
    shown = dict(trajectories(chunk(), names, 0.02))
    assert list(shown) == [POLICY, REFERENCE]
    points = shown[POLICY].points
    assert [list(point.positions) for point in points] == np.arange(42.0).reshape(3, 14).tolist()
    assert [point.time_from_start.nanosec for point in points] == [0, 20_000_000, 40_000_000]
    assert list(shown[REFERENCE].points[2].positions) == [-x for x in range(28, 42)]
    assert shown[POLICY].joint_names == list(names)
    assert names[0] == "left.x"


def test_a_row_that_is_not_whole_is_left_out():
    message = chunk()
    message.actions = message.actions[:-3]
    assert len(dict(trajectories(message, load_robot(ROBOT).action_names, 0.02))[POLICY].points) == 2


def test_the_node_shows_what_it_hears(make_graph):
    graph = make_graph({"views": {"robot": str(ROBOT)}})
    heard = {}
    looking = graph.add(Node("looking"))
    for topic, kind in (("view/camera/base", CompressedImage), (POLICY, JointTrajectory), (REFERENCE, JointTrajectory)):
        looking.create_subscription(kind, topic, lambda m, t=topic: heard.setdefault(t, m), topics.QOS_SENSOR)
    observed = looking.create_publisher(Observation, topics.OBSERVATION, topics.QOS_OBSERVATION)
    chunks = looking.create_publisher(ActionChunk, topics.ACTION_CHUNK, topics.QOS_CHUNK)
    graph.add(ViewsNode())

    def shown():
        observed.publish(observation())
        chunks.publish(chunk())
        return len(heard) == 3

    graph.until(shown, "cameras and chunks are shown")
    assert bytes(heard["view/camera/base"].data) == b"left"
    assert len(heard[POLICY].points) == 3
