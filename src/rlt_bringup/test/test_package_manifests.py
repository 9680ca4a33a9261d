"""The packages keep to the rules of the house: who may import whom, named dependencies, entry points that exist."""

import ast
import configparser
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = sorted(path.parent.name for path in ROOT.glob("src/*/setup.py"))
MIDDLE = {"rlt_control", "rlt_vla_node", "rlt_rl_node", "rlt_teleop"}
ALLOWED = {
    "rlt_common": set(),
    **{name: {"rlt_common"} for name in MIDDLE},
    "rlt_sim": {"rlt_common", *MIDDLE},
    "rlt_bringup": {"rlt_common", "rlt_sim", *MIDDLE},
}
ROSDEP_KEYS = {
    "aiohttp": "python3-aiohttp",
    "cv2": "python3-opencv",
    "matplotlib": "python3-matplotlib",
    "numpy": "python3-numpy",
    "psutil": "python3-psutil",
    "rich": "python3-rich",
    "scipy": "python3-scipy",
    "tensorboardX": "tensorboardx",  # no rosdep key: requirements.txt
    "yaml": "python3-yaml",
    "zmq": "pyzmq",  # no rosdep key: requirements-gr00t.txt
}
BACKENDS = ("gr00t", "lerobot", "openpi")
FOREIGN = {"gr00t", "openpi", "wandb"}
"""Imported only where a policy is served, in the VLA's own environment, or where somebody asks for it by an option."""


def imports(package: str) -> set[str]:
    """Top-level names of what the modules and launch files of a package import from elsewhere."""
    names = set()
    folder = ROOT / "src" / package
    for path in (*(folder / package).rglob("*.py"), *folder.glob("launch/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.partition(".")[0])
    return names - {package} - set(sys.stdlib_module_names)


def pinned(*names: str) -> set[str]:
    """Packages in requirements files."""
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)
    return {name.lower() for name in re.findall(r"^([\w-]+)==", text, flags=re.MULTILINE)}


def entry_points(package: str) -> list[str]:
    text = (ROOT / "src" / package / "setup.py").read_text(encoding="utf-8")
    return re.findall(r'"\w+ = ([\w.]+):main"', text)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_packages_below_it(package):
    ours = {name for name in imports(package) if name in PACKAGES}
    assert ours <= ALLOWED[package]


@pytest.mark.parametrize("package", ["rlt_common", "rlt_control", "rlt_teleop"])
def test_what_must_never_wait_for_learning_does_not_import_torch(package):
    assert "torch" not in imports(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_named_in_package_xml_or_pinned(package):
    manifest = ElementTree.parse(ROOT / "src" / package / "package.xml")
    named = {element.text for tag in ("depend", "exec_depend") for element in manifest.iter(tag)}
    needed = {ROSDEP_KEYS.get(name, name) for name in imports(package)}
    files = ("requirements.txt", "requirements-torch.txt", *(f"requirements-{name}.txt" for name in BACKENDS))
    assert needed - named - pinned(*files) - FOREIGN == set()


def test_the_extra_leaves_the_packages_alone_that_every_machine_gets():
    """`make extras` installs it with --no-deps, so that nothing but what it names can change."""
    ours = pinned("requirements.txt", "requirements-torch.txt", "requirements-test.txt", "requirements-no-ros.txt")
    assert {"torch", "numpy", "opencv-python-headless"} <= ours
    assert pinned("requirements-lerobot.txt") & ours == set()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "$(call install,extras,requirements-lerobot.txt,--no-deps)" in makefile
    assert "pip --disable-pip-version-check install -q $(3) -r $(2)" in makefile


@pytest.mark.parametrize("package", PACKAGES)
def test_every_entry_point_has_a_module_with_main(package):
    for module in entry_points(package):
        path = ROOT / "src" / package / f"{module.replace('.', '/')}.py"
        assert path.is_file(), f"{module} is an entry point of {package} and does not exist"
        functions = {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(node, "name")}
        assert "main" in functions, f"{module} has no main()"


@pytest.mark.parametrize("package", PACKAGES)
def test_nodes_are_installed_where_ros_looks_for_them(package):
    config = configparser.ConfigParser()
    config.read(ROOT / "src" / package / "setup.cfg", encoding="utf-8")
    assert config["develop"]["script_dir"] == f"$base/lib/{package}"
    assert config["install"]["install_scripts"] == f"$base/lib/{package}"


@pytest.mark.parametrize("package", PACKAGES)
def test_colcon_test_finds_the_tests(package):
    """colcon takes pytest only for packages whose setup.py asks for it, and else runs unittest, which finds none."""
    text = (ROOT / "src" / package / "setup.py").read_text(encoding="utf-8")
    assert 'extras_require={"test": ["pytest"]}' in text
    manifest = ElementTree.parse(ROOT / "src" / package / "package.xml")
    assert "python3-pytest" in {element.text for element in manifest.iter("test_depend")}


@pytest.mark.parametrize("manifest", sorted(ROOT.glob("src/*/package.xml")), ids=lambda path: path.parent.name)
def test_manifests_are_of_format_3_with_licence_and_maintainer(manifest):
    root = ElementTree.parse(manifest).getroot()
    assert root.get("format") == "3"
    assert {"name", "version", "description", "maintainer", "license"} <= {element.tag for element in root}
    assert root.find("name").text == manifest.parent.name
    assert root.find("license").text == "Apache-2.0"
