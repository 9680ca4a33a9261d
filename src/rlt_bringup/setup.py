from pathlib import Path

from setuptools import find_packages, setup

package_name = "rlt_bringup"


def config_files() -> list[tuple[str, list[str]]]:
    """Every directory under config/ with its files, at the same place under the package's share directory."""
    directories = sorted({path.parent for path in Path("config").rglob("*") if path.is_file()})
    return [
        (
            f"share/{package_name}/{directory.as_posix()}",
            [path.as_posix() for path in sorted(directory.iterdir()) if path.is_file()],
        )
        for directory in directories
    ]


setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
        (
            f"share/{package_name}/launch",
            [path.as_posix() for path in sorted(Path("launch").glob("*.launch.py"))],
        ),
        *config_files(),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},  # by this `colcon test` knows how to test
    zip_safe=True,
    maintainer="RLT maintainers",
    maintainer_email="maintainers@rlt-ros.example",
    description="Launch files, configuration, the graph of nodes, its runner and the demo.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "run_graph = rlt_bringup.runner:main",
            "replay = rlt_bringup.replay:main",
            "view_bag = rlt_bringup.view_bag:main",
            "layouts = rlt_bringup.layouts:main",
            "demo = rlt_bringup.demo:main",
            "check_robot = rlt_bringup.check_robot:main",
            "report = rlt_bringup.report_command:main",
            "compare = rlt_bringup.compare_command:main",
            "healthcheck = rlt_bringup.healthcheck:main",
            "restart_executor = rlt_bringup.restart_executor:main",
        ],
    },
)
