from setuptools import find_packages, setup

package_name = "rlt_rl_node"

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
    description="Transitions, replay, actor and critic, with the learner node and the policy node.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "rl_policy = rlt_rl_node.policy_node:main",
            "rl_learner = rlt_rl_node.learner_node:main",
            "offline = rlt_rl_node.offline:main",
            "metrics = rlt_rl_node.metrics_command:main",
        ],
    },
)
