from setuptools import find_packages, setup

package_name = "rlt_teleop"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={package_name: ["static/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},  # by this `colcon test` knows how to test
    zip_safe=True,
    maintainer="RLT maintainers",
    maintainer_email="maintainers@rlt-ros.example",
    description="Operator side: joystick, gamepad, episode manager, recorder and operator page.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "joy_operator = rlt_teleop.joy_operator_node:main",
            "episode_manager = rlt_teleop.episode_manager_node:main",
            "recorder = rlt_teleop.recorder_node:main",
            "auto_handoff = rlt_teleop.auto_handoff_node:main",
            "gamepad = rlt_teleop.gamepad_node:main",
            "reset_estop = rlt_teleop.reset_estop_command:main",
            "status = rlt_teleop.status_node:main",
            "feedback = rlt_teleop.feedback_node:main",
            "operator_page = rlt_teleop.operator_page_node:main",
            "views = rlt_teleop.views_node:main",
            "keyboard = rlt_teleop.keyboard_node:main",
        ],
    },
)
