"""The example VLA files of policy servers: complete, and fitting the robot that they name."""

import dataclasses

import numpy as np
import pytest

from rlt_bringup.graph import config_file
from rlt_common.config import load_robot
from rlt_common.vla_config import load_vla
from rlt_vla_node.chunk_layout import ChunkLayout
from rlt_vla_node.remote_backend import RemoteOptions, read_address, read_options


@pytest.mark.parametrize(("name", "port"), [("openpi_aloha", 8000), ("gr00t_aloha", 5555)])
def test_the_example_fits_the_robot_and_names_every_option(name, port):
    config = load_vla(config_file("vlas", name))
    assert read_address(config).port == port
    assert set(config.options) == {field.name for field in dataclasses.fields(RemoteOptions)}
    assert read_options(config) == RemoteOptions(), "the example shows the defaults"
    robot = load_robot(config_file("robots", "aloha"))
    config.check_robot(robot)
    layout = ChunkLayout(config, robot)
    assert layout.state.width == layout.actions.width == 14


def test_openpis_grippers_are_0_closed_and_1_open():
    robot = load_robot(config_file("robots", "aloha"))
    layout = ChunkLayout(load_vla(config_file("vlas", "openpi_aloha")), robot)
    for metres, number in ((0.01844, 0.0), (0.058, 1.0)):
        state = layout.state_vector({"joint_position": np.full(14, metres)})
        np.testing.assert_allclose(state[[6, 13]], number, atol=1e-5)
