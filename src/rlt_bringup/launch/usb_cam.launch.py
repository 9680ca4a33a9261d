"""One USB camera through usb_cam, in the namespace it is included in: image_raw and image_raw/compressed.

usb_cam's own camera.launch.py takes no arguments: it starts what is written in it.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = (
    ("video_device", str, None, "/dev/v4l/by-id/...: numbers of /dev/video change"),
    ("image_width", int, "640", "pixels"),
    ("image_height", int, "480", "pixels"),
    ("framerate", float, "30.0", "Hz"),
    ("pixel_format", str, "mjpeg2rgb", "one of usb_cam's; mjpeg2rgb where 640x480 at 30 Hz is wanted over USB 2"),
    ("frame_id", str, "camera", "frame of the images"),
    ("camera_name", str, "camera", "name in the calibration"),
    ("autoexposure", bool, "true", "false and exposure: the policy is to see constant images"),
    ("exposure", int, "100", "in the device's units"),
    ("auto_white_balance", bool, "true", "false and white_balance, likewise"),
    ("white_balance", int, "4000", "K"),
)
"""(name, type, default, description) of every argument, each a parameter of usb_cam (0.8.1); None: it must be given."""


def generate_launch_description():
    """The camera's node."""
    parameters = {name: ParameterValue(LaunchConfiguration(name), value_type=kind) for name, kind, _, _ in ARGUMENTS}
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value=d, description=text) for name, _, d, text in ARGUMENTS),
            Node(package="usb_cam", executable="usb_cam_node_exe", name="usb_cam", parameters=[parameters]),
        ]
    )
