"""The Docker files are valid, and what they name exists: no engine is needed to find that out."""

import argparse
import re
import socket
import stat
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from rlt_bringup.graph import GraphOptions, describe, resolve
from rlt_bringup.runner import add_options

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"
CAMERAS = ROOT / "docker" / "compose.cameras.yaml"
TOOLS = Path(sys.executable).parent


def run(*command: object) -> None:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def services() -> dict:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]


def test_dockerfile_passes_hadolint():
    run(TOOLS / "hadolint", DOCKERFILE)


@pytest.mark.parametrize("file", [COMPOSE, CAMERAS])
def test_compose_files_follow_the_compose_specification(file):
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)


def resolved(words: list[str], **given: str) -> list[str]:
    """The words with ${NAME:-default} resolved as compose does it, from the inside out, with these variables set."""
    found = [re.sub(r"\$\{(\w+):-([^${}]*)\}", lambda m: given.get(m[1]) or m[2], word) for word in words]
    return found if found == words else resolved(found, **given)


def test_everything_copied_from_the_repository_exists():
    lines = [line.split() for line in DOCKERFILE.read_text(encoding="utf-8").splitlines()]
    copies = [words[1:-1] for words in lines if words[:1] == ["COPY"] and not words[1].startswith("--from")]
    assert copies
    missing = [source for sources in copies for source in sources if not (ROOT / source).exists()]
    assert missing == []


def test_every_requirements_file_reaches_the_image():
    text = DOCKERFILE.read_text(encoding="utf-8")
    files = [*ROOT.glob("requirements*.txt"), ROOT / "constraints.txt"]
    absent = [path.name for path in files if path.name not in text]
    assert absent == []


def test_the_image_runs_as_an_ordinary_user():
    users = re.findall(r"^USER (.+)$", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert users[-1:] == ["${RLT_UID}"]


def test_entrypoint_is_executable():
    assert (ROOT / "docker" / "entrypoint.sh").stat().st_mode & stat.S_IXOTH


def test_both_services_meet_on_the_hosts_network_and_shared_memory(services):
    assert set(services) == {"sim", "robot", "gpu", "zenoh"}
    for service in services.values():
        assert service["network_mode"] == "host"
        assert service["ipc"] == "host"
        assert "ROS_DOMAIN_ID" in service["environment"]


def test_only_the_robot_side_has_the_gamepad_and_only_the_gpu_side_the_gpu(services):
    assert "/dev/input:/dev/input:ro" in services["robot"]["volumes"]
    assert services["robot"]["device_cgroup_rules"] == ["c 13:* r"]
    assert services["gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
    for name, service in services.items():
        assert "devices" not in service
        assert ("device_cgroup_rules" in service) == (name == "robot")
        assert ("deploy" in service) == (name == "gpu")


def test_nothing_starts_that_was_not_named(services):
    assert {name: service["profiles"] for name, service in services.items()} == {name: [name] for name in services}


def test_each_side_is_judged_by_the_arguments_it_was_launched_with(services):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser)
    for side in ("sim", "robot", "gpu"):
        for given in (
            {},
            {"RLT_TASK": "charger"},
            {"RLT_TASK_FILE": "/opt/rlt/runs/my_task.yaml", "RLT_MODE": "train"},
        ):
            command = resolved(services[side]["command"], **given)
            launched = dict(word.split(":=") for word in command if ":=" in word)
            test = resolved(services[side]["healthcheck"]["test"], **given)
            assert test[:6] == ["CMD", "rlt-entrypoint", "ros2", "run", "rlt_bringup", "healthcheck"]
            asked = vars(parser.parse_args(test[6:]))
            assert {name: asked[name] for name in launched} == launched
            task = given.get("RLT_TASK", "screw")
            assert f"{task}.launch.py" in command
            assert launched["task"] == given.get("RLT_TASK_FILE", task)


def test_the_commands_give_only_arguments_that_the_launch_file_has(services):
    known = {field.name for field in fields(GraphOptions)}
    for service in services.values():
        given = {word.partition(":=")[0] for word in service["command"] if ":=" in word}
        assert given <= known


def test_no_service_has_or_gets_privileges(services):
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert not {"privileged", "cap_add", "user", "pid"} & set(service)


def test_the_cameras_are_added_to_the_robot_side_alone():
    added = yaml.safe_load(CAMERAS.read_text(encoding="utf-8"))["services"]
    assert set(added) == {"robot"}
    assert all(device.startswith("${RLT_CAMERA_") for device in added["robot"]["devices"])


def test_no_service_restarts_by_itself(services):
    assert {service["restart"] for service in services.values()} == {"no"}


def test_every_service_has_a_health_check(services):
    assert [name for name, service in services.items() if "healthcheck" not in service] == []


def test_the_router_is_well_when_it_answers_and_ill_when_it_does_not(services):
    program = services["zenoh"]["healthcheck"]["test"]
    assert program[:3] == ["CMD", "python3", "-c"]
    with socket.create_server(("localhost", 0)) as router:
        port = router.getsockname()[1]
        command = [sys.executable, "-c", program[3].replace("7447", str(port))]
        assert command[2] != program[3]
        assert subprocess.run(command, timeout=60).returncode == 0
    assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60).returncode != 0


def test_every_service_may_have_the_priorities_of_a_task_for_real_arms(services):
    options = GraphOptions(robot="dual_ros2_control", task="real_robot")
    highest = max(node.parameters.get("priority", 0) for node in describe(resolve(options)))
    assert highest > 0
    assert all(service["ulimits"]["rtprio"] >= highest for service in services.values())


def test_the_folder_of_the_runs_comes_with_the_repository(services):
    """Docker would otherwise make it as root, and the image's user could not write there."""
    tracked = subprocess.run(["git", "ls-files", "runs"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if tracked.returncode:
        pytest.skip("no git checkout")
    assert tracked.stdout.split() == ["runs/.gitkeep"]
    assert all("../runs:/opt/rlt/runs" in service["volumes"] for service in services.values())
    assert "mkdir" not in (ROOT / ".github" / "workflows" / "images.yml").read_text(encoding="utf-8")
