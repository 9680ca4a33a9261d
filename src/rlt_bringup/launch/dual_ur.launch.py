"""Two UR arms under one controller manager, in the namespace it is included in: the drivers of `dual_ur5e.yaml`.

ur_robot_driver's own ur_control.launch.py starts one arm, and its spawners look for /controller_manager. Here both arms
have prefixes, ports and controllers of their own. There is no controller_stopper: one arm's would stop the other's
controllers too, and the graph holds all arms while a `robot_program_running` is false.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.conditions import UnlessCondition
from launch.substitutions import Command, FindExecutable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

NOMINAL = "nominal"
ARGUMENTS = (
    ("ur_type", "ur5e", "type of both arms"),
    ("left_robot_ip", None, "address of the left arm"),
    ("right_robot_ip", None, "address of the right arm"),
    (
        "left_kinematics_params",
        NOMINAL,
        "calibration of the left arm, from ur_calibration; without one the type's nominal",
    ),
    ("right_kinematics_params", NOMINAL, "calibration of the right arm, likewise"),
    ("reverse_ip", "0.0.0.0", "this machine's address as the arms see it; 0.0.0.0: found by itself"),
    ("left_reverse_port", "50001", "ports that the left arm connects to"),
    ("left_script_sender_port", "50002", "the port in the External Control program of the left arm"),
    ("left_trajectory_port", "50003", "likewise"),
    ("left_script_command_port", "50004", "likewise"),
    ("right_reverse_port", "50005", "ports that the right arm connects to: none of the left one's"),
    ("right_script_sender_port", "50006", "the port in the External Control program of the right arm"),
    ("right_trajectory_port", "50007", "likewise"),
    ("right_script_command_port", "50008", "likewise"),
    ("headless_mode", "false", "no program on the pendant; the driver sends it"),
    ("use_mock_hardware", "false", "no arms: commands become states"),
    ("controller_spawner_timeout", "30", "s to wait for the controller manager"),
)
"""(name, default, description) of every argument; None: it must be given; NOMINAL: ur_description's file."""
SIDES = ("left", "right")
CONTROLLERS = ("io_and_status_controller", "force_torque_sensor_broadcaster", "forward_position_controller")


def generate_launch_description():
    """Driver, state publisher, dashboard clients, and the controllers that the robot file names, active."""
    nominal = [FindPackageShare("ur_description"), "config", LaunchConfiguration("ur_type"), "default_kinematics.yaml"]
    arguments = [
        DeclareLaunchArgument(
            name,
            default_value=PathJoinSubstitution(nominal) if default == NOMINAL else default,
            description=text,
        )
        for name, default, text in ARGUMENTS
    ]
    share = FindPackageShare("rlt_bringup")
    controllers = PathJoinSubstitution([share, "config", "drivers", "dual_ur_controllers.yaml"])
    words = [
        FindExecutable(name="xacro"),
        " ",
        PathJoinSubstitution([share, "config", "drivers", "dual_ur.urdf.xacro"]),
    ]
    for name, _, _ in ARGUMENTS:
        if name != "controller_spawner_timeout":
            words += [f" {name}:='", LaunchConfiguration(name), "'"]
    description = {"robot_description": ParameterValue(Command(words), value_type=str)}
    clients = [
        Node(
            package="ur_robot_driver",
            executable="dashboard_client",
            name=f"{side}_dashboard_client",
            parameters=[{"robot_ip": LaunchConfiguration(f"{side}_robot_ip")}],
            output="screen",
            condition=UnlessCondition(LaunchConfiguration("use_mock_hardware")),
        )
        for side in SIDES
    ]
    spawner = Node(
        package="controller_manager",
        executable="spawner",
        arguments=[
            "--controller-manager",
            "controller_manager",
            "--controller-manager-timeout",
            LaunchConfiguration("controller_spawner_timeout"),
            "joint_state_broadcaster",
            *(f"{side}_{controller}" for side in SIDES for controller in CONTROLLERS),
        ],
        output="screen",
    )
    return LaunchDescription(
        [
            *arguments,
            Node(package="robot_state_publisher", executable="robot_state_publisher", parameters=[description]),
            Node(
                package="controller_manager", executable="ros2_control_node", parameters=[controllers], output="screen"
            ),
            *clients,
            spawner,
        ]
    )
