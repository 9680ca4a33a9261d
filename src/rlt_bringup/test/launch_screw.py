"""For launch_testing (test_launch.py runs it): screw.launch.py, in a namespace, brings up a graph that records."""

import tempfile
import time
import unittest
from pathlib import Path

import launch_testing
import launch_testing.actions
import launch_testing.asserts
import rclpy
from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource

from rlt_bringup.graph import GraphOptions, describe, resolve
from rlt_bringup.healthcheck import complaints, expected, listen
from rlt_common.episode_file import episode_metadata

LIMIT_S = 150.0
RUN = Path(tempfile.mkdtemp(prefix="rlt_launch_test_"))
OPTIONS = GraphOptions(mode="collect", namespace="cell", run=str(RUN))


def generate_test_description():
    """The launch file as a user gives it, its arguments being all that is said."""
    file = Path(get_package_share_directory("rlt_bringup")) / "launch" / "screw.launch.py"
    arguments = {"mode": OPTIONS.mode, "namespace": OPTIONS.namespace, "run": OPTIONS.run}
    screw = IncludeLaunchDescription(AnyLaunchDescriptionSource(str(file)), launch_arguments=arguments.items())
    return LaunchDescription([screw, launch_testing.actions.ReadyToTest()])


class TestGraph(unittest.TestCase):
    """While the graph runs."""

    def test_every_node_comes_up_in_its_namespace(self):
        names = expected(describe(resolve(OPTIONS)), OPTIONS.namespace)
        assert "cell/chunk_executor" in names
        rclpy.init()
        try:
            wrong = complaints(names, listen(names, LIMIT_S))
            assert wrong == [], wrong
        finally:
            rclpy.shutdown()

    def test_an_episode_is_on_disk(self):
        end = time.monotonic() + LIMIT_S
        while not (files := sorted((RUN / "episodes").glob("*.mcap"))):
            assert time.monotonic() < end, "no episode was finished"
            time.sleep(0.5)
        assert episode_metadata(files[0])["task"] == "screw"


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """After the launch was asked to end."""

    def test_every_process_ends_in_order(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)
