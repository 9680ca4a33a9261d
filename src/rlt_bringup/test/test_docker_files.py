"""The Docker files are valid, and what they name exists: no engine is needed to find that out."""

import re
import stat
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from rlt_bringup.graph import GraphOptions

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"
TOOLS = Path(sys.executable).parent


def run(*command: object) -> None:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def services() -> dict:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]


def test_dockerfile_passes_hadolint():
    run(TOOLS / "hadolint", DOCKERFILE)


def test_compose_file_follows_the_compose_specification():
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_everything_copied_from_the_repository_exists():
    lines = [line.split() for line in DOCKERFILE.read_text(encoding="utf-8").splitlines()]
    copies = [words[1:-1] for words in lines if words[:1] == ["COPY"] and not words[1].startswith("--from")]
    assert copies
    missing = [source for sources in copies for source in sources if not (ROOT / source).exists()]
    assert missing == []


def test_every_requirements_file_reaches_the_image():
    text = DOCKERFILE.read_text(encoding="utf-8")
    absent = [path.name for path in ROOT.glob("requirements*.txt") if path.name not in text]
    assert absent == []


def test_the_image_runs_as_an_ordinary_user():
    users = re.findall(r"^USER (.+)$", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert users[-1:] == ["${RLT_UID}"]


def test_entrypoint_is_executable():
    assert (ROOT / "docker" / "entrypoint.sh").stat().st_mode & stat.S_IXOTH


def test_both_services_meet_on_the_hosts_network_and_shared_memory(services):
    assert set(services) == {"robot", "gpu"}
    for service in services.values():
        assert service["network_mode"] == "host"
        assert service["ipc"] == "host"
        assert "ROS_DOMAIN_ID" in service["environment"]


def test_only_the_robot_side_has_the_gamepad_and_only_the_gpu_side_the_gpu(services):
    assert "/dev/input:/dev/input" in services["robot"]["devices"]
    assert "devices" not in services["gpu"]
    assert services["gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
    assert "deploy" not in services["robot"]


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


def test_no_service_restarts_by_itself(services):
    assert {service["restart"] for service in services.values()} == {"no"}
