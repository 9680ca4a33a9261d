"""The camera page over real HTTP, fed over real DDS."""

import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from teleop_doubles import ROBOT

from rlt_common import topics
from rlt_common.codecs import decode_image, encode_image
from rlt_msgs.msg import Observation
from rlt_teleop.camera_page import Frames, PageServer
from rlt_teleop.camera_view_node import CameraViewNode

PNG = ("png", b"picture")


@pytest.fixture
def page():
    frames = Frames(("base", "<wrist>"))
    server = PageServer(frames, 0)
    yield frames, server.url
    server.close()


def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.status, answer.headers, answer.read()


def test_the_page_names_the_cameras_and_loads_nothing_from_elsewhere(page):
    _, url = page
    status, headers, body = get(url)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b'["base", "\\u003cwrist>"]' in body, "a name cannot end the script"
    assert b"http" not in body


def test_an_image_comes_with_its_number_and_the_next_is_waited_for(page):
    frames, url = page
    frames.show({"base": PNG})
    status, headers, body = get(url + "camera/base")
    assert (status, headers["Content-Type"], headers["X-Frame"], body) == (200, "image/png", "1", b"picture")
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(get, url + "camera/base?after=1")
        frames.show({"base": ("jpeg", b"next")})
        status, headers, body = later.result()
    assert (headers["Content-Type"], headers["X-Frame"], body) == ("image/jpeg", "2", b"next")


def test_without_news_there_is_no_content(page):
    assert get(page[1] + "camera/base")[0] == 204


@pytest.mark.parametrize("path", ["camera/other", "camera/../base", "etc/passwd", "camera/", "base"])
def test_nothing_else_is_served(page, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(page[1] + path)


def test_what_is_no_image_format_is_not_shown(page):
    frames, url = page
    frames.show({"base": ("text/html", b"<script>"), "other": PNG})
    assert get(url + "camera/base")[0] == 204


def test_an_observation_is_shown(make_graph):
    graph = make_graph({"camera_view": {"robot": str(ROBOT), "port": 0}})
    node = graph.add(CameraViewNode())
    camera = graph.add(Node("camera"))
    publisher = camera.create_publisher(Observation, topics.OBSERVATION, topics.QOS_OBSERVATION)
    rgb = np.full((8, 8, 3), 77, np.uint8)
    image = CompressedImage(format="png", data=encode_image(rgb, "png"))
    graph.until(lambda: publisher.get_subscription_count(), "a matched endpoint")
    publisher.publish(Observation(camera_names=["base"], images=[image]))
    graph.until(lambda: node._frames.newer("base", 0), "the image")
    body = get(node.server.url + "camera/base")[2]
    shown = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(shown, decode_image(image))
