"""Zip tie: `ros2 launch rlt_bringup zip_tie.launch.py robot:=sim mode:=demo`; `--show-args` lists the arguments."""

from rlt_bringup.launch_graph import launch_description


def generate_launch_description():
    """The graph of the zip tie task."""
    return launch_description("zip_tie")
