"""Feed a recorded episode back: `ros2 launch rlt_bringup replay.launch.py bag:=runs/screw/episodes/000012.mcap`."""

from rlt_bringup.launch_graph import replay_description


def generate_launch_description():
    """The replay of one episode through the VLA and policy nodes, compared with what was recorded."""
    return replay_description()
