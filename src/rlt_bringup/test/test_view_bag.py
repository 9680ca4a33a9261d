"""A view of an episode: what other programs can show of it, and that nobody takes it for the episode."""

from pathlib import Path

import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage

from rlt_bringup import view_bag
from rlt_common.codecs import encode_image, floats
from rlt_common.episode_file import (
    EpisodeFileError,
    EpisodeWriter,
    episode_configuration,
    episode_metadata,
    read_messages,
)
from rlt_common.relabels import episode_path
from rlt_msgs.msg import ActionChunk, ExecutedAction, Observation
from rlt_teleop.views import POLICY, TRAJECTORY_TYPE

SIM = Path(get_package_share_directory("rlt_bringup")) / "config" / "robots" / "sim.yaml"


@pytest.fixture
def bag(tmp_path):
    path = episode_path(tmp_path, 12)
    writer = EpisodeWriter(path)
    picture = CompressedImage(format="png", data=encode_image(np.zeros((8, 8, 3), np.uint8), "png"))
    for step in range(4):
        observation = Observation(observation_id=step, camera_names=["base"], images=[picture])
        observation.header.stamp.nanosec = step
        action = ExecutedAction(step=step, action=floats(np.full(14, step)))
        for topic, message in (("observation", observation), ("executed_action", action)):
            writer.write(topic, f"rlt_msgs/msg/{type(message).__name__}", serialize_message(message), step)
    chunk = ActionChunk(rows=2, action_dim=14, actions=floats(np.arange(28)), reference=floats(np.zeros(28)))
    writer.write("action_chunk", "rlt_msgs/msg/ActionChunk", serialize_message(chunk), 4)
    writer.finish({"label": "success", "robot": "sim"}, {"robot": SIM.read_text(), "task": "name: screw"})
    return path


def test_others_see_cameras_and_chunks_in_it(bag, tmp_path, capsys):
    view_bag.main(["--bag", str(bag)])
    view = tmp_path / "views" / "000012.mcap"
    assert str(view) in capsys.readouterr().out
    with AnyReader([view], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        # rosbags 0.11.9 misreads empty arrays of float64, which trajectories have.
        others = [c for c in reader.connections if c.msgtype != TRAJECTORY_TYPE]
        found = {c.topic: reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(others)}
    (policy,) = (entry.message for entry in read_messages(view, [POLICY]))
    assert counts == {
        "/view/camera/base": 4,
        "/observation": 4,
        "/executed_action": 4,
        "/action_chunk": 1,
        "/view/chunk/policy": 1,
        "/view/chunk/reference": 1,
    }
    assert bytes(found["/view/camera/base"].data[1:4]) == b"PNG"
    assert found["/view/camera/base"].header.stamp.nanosec == 3
    assert found["/observation"].observation_id == 3
    assert len(found["/observation"].images) == 0, "no image is in it twice"
    assert policy.points[1].positions[0] == 14.0


def test_nobody_takes_it_for_an_episode(bag, tmp_path):
    view_bag.main(["--bag", str(bag), "--output", str(tmp_path / "look.mcap")])
    with pytest.raises(EpisodeFileError, match=r"look\.mcap: has no 'rlt' metadata"):
        episode_metadata(tmp_path / "look.mcap")
    kept = episode_configuration(tmp_path / "look.mcap")
    assert '"label": "success"' in kept["facts"]
    assert kept["task"] == "name: screw"
    for place in (bag, bag.with_name("000013.mcap")):
        with pytest.raises(SystemExit, match="a view is no episode: choose a place outside of episodes/"):
            view_bag.main(["--bag", str(bag), "--output", str(place)])


def test_of_a_damaged_episode_nothing_is_left(bag, tmp_path):
    bag.write_bytes(bag.read_bytes()[:-20])
    with pytest.raises(SystemExit, match=r"000012\.mcap: not a whole episode file"):
        view_bag.main(["--bag", str(bag)])
    whole = bag.read_bytes()
    assert not (tmp_path / "views").exists() or not list((tmp_path / "views").iterdir())
    assert bag.read_bytes() == whole


def test_an_episode_without_its_robot_s_file_wants_to_be_told(tmp_path):
    path = tmp_path / "old.mcap"
    EpisodeWriter(path).finish({"label": "success"})
    with pytest.raises(SystemExit, match="give it with --robot"):
        view_bag.main(["--bag", str(path)])
    view_bag.main(["--bag", str(path), "--robot", "sim"])
    assert (tmp_path / "old.view.mcap").is_file()
