"""One Robotiq 2F-85 on topics: its driver under a controller manager of its own, in the namespace it is included in.

ros2_robotiq_gripper's own robotiq_control.launch.py offers an action, which our executor does not speak, and its
spawners look for /controller_manager. Two grippers cannot share a manager: the driver calls one of its interfaces the
same for all.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import Command, FindExecutable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = (
    ("com_port", "/dev/ttyUSB0", "serial port of the gripper"),
    ("use_fake_hardware", "false", "no gripper: commands become states"),
    ("controller_spawner_timeout", "30", "s to wait for the controller manager"),
)
"""(name, default, description) of every argument."""
CONTROLLERS = ("joint_state_broadcaster", "robotiq_activation_controller", "gripper_position_controller")


def generate_launch_description():
    """Driver, state publisher and controllers, active."""
    arguments = [DeclareLaunchArgument(n, default_value=d, description=text) for n, d, text in ARGUMENTS]
    model = [FindPackageShare("robotiq_description"), "urdf", "robotiq_2f_85_gripper.urdf.xacro"]
    words = [FindExecutable(name="xacro"), " ", PathJoinSubstitution(model)]
    for name in ("com_port", "use_fake_hardware"):
        words += [f" {name}:=", LaunchConfiguration(name)]
    controllers = [FindPackageShare("rlt_bringup"), "config", "drivers", "robotiq_2f85_controllers.yaml"]
    return LaunchDescription(
        [
            *arguments,
            Node(
                package="robot_state_publisher",
                executable="robot_state_publisher",
                parameters=[{"robot_description": ParameterValue(Command(words), value_type=str)}],
            ),
            Node(
                package="controller_manager",
                executable="ros2_control_node",
                parameters=[PathJoinSubstitution(controllers)],
                output="screen",
            ),
            Node(
                package="controller_manager",
                executable="spawner",
                arguments=[
                    "--controller-manager",
                    "controller_manager",
                    "--controller-manager-timeout",
                    LaunchConfiguration("controller_spawner_timeout"),
                    *CONTROLLERS,
                ],
                output="screen",
            ),
        ]
    )
