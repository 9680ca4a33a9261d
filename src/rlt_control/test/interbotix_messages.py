"""Interbotix's two command messages for tests on machines without interbotix_ros_core: same names, same fields."""

import ctypes
import importlib
import subprocess
import sys
from pathlib import Path

PACKAGE = "interbotix_xs_msgs"
FILES = {
    "msg/JointGroupCommand.msg": "string name\nfloat32[] cmd\n",
    "msg/JointSingleCommand.msg": "string name\nfloat32 cmd\n",
    "package.xml": f"""<package format="3">
  <name>{PACKAGE}</name><version>0.0.0</version><description>two messages of Interbotix, for tests</description>
  <maintainer email="maintainers@rlt-ros.example">RLT maintainers</maintainer><license>BSD</license>
  <buildtool_depend>ament_cmake</buildtool_depend><build_depend>rosidl_default_generators</build_depend>
  <exec_depend>rosidl_default_runtime</exec_depend><member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
""",
    "CMakeLists.txt": f"""cmake_minimum_required(VERSION 3.16)
project({PACKAGE})
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
rosidl_generate_interfaces({PACKAGE} "msg/JointGroupCommand.msg" "msg/JointSingleCommand.msg")
ament_package()
""",
}


def provide(folder: Path) -> None:
    """Make the package importable in this process: the installed one, else one built in `folder` (about 20 s)."""
    try:
        importlib.import_module(PACKAGE)
        return
    except ImportError:
        pass
    for name, text in FILES.items():
        path = folder / "src" / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    prefix = folder / "install" / PACKAGE
    command = ["colcon", "--log-base", "log", "build", "--cmake-args", "-DBUILD_TESTING=OFF"]
    built = subprocess.run(
        [*command, f"-DCMAKE_INSTALL_RPATH={prefix}/lib"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    # rmw opens them by their bare names, which the loader knows once they are loaded.
    for library in sorted((prefix / "lib").glob("lib*.so"), key=lambda path: len(path.name)):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    sys.path.append(str(next(prefix.glob("lib*/python3*/*-packages"))))
    importlib.invalidate_caches()
    importlib.import_module(f"{PACKAGE}.msg")
