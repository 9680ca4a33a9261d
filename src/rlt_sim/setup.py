from setuptools import find_packages, setup

package_name = "rlt_sim"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},  # by this `colcon test` knows how to test
    zip_safe=True,
    maintainer="RLT maintainers",
    maintainer_email="maintainers@rlt-ros.example",
    description="Simulated two-arm cell that offers the topics of the real drivers.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "sim_robot = rlt_sim.sim_robot_node:main",
            "scripted_operator = rlt_sim.scripted_operator_node:main",
            "collect = rlt_sim.collect_command:main",
        ],
    },
)
