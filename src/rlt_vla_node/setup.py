from setuptools import find_packages, setup

package_name = "rlt_vla_node"

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
    description="Camera ingest, VLA backends, RL token and their adaptation on demonstrations.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "camera_ingest = rlt_vla_node.camera_ingest_node:main",
            "camera_check = rlt_vla_node.camera_check:main",
            "calibrate_delay = rlt_vla_node.calibrate_delay:main",
            "v4l2_camera = rlt_vla_node.v4l2_camera_node:main",
            "vla = rlt_vla_node.vla_node:main",
            "adapt = rlt_vla_node.adapt:main",
            "encode = rlt_vla_node.encode_command:main",
            "dataset = rlt_vla_node.dataset_command:main",
            "handoff = rlt_vla_node.handoff_command:main",
        ],
        "rlt_vla_node.backends": [
            "gr00t = rlt_vla_node.gr00t_backend:open_backend",
            "openpi = rlt_vla_node.openpi_backend:open_backend",
            "lerobot = rlt_vla_node.lerobot_backend:open_policy",
        ],
    },
)
