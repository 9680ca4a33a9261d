"""The workflow files are valid, fixed to what was reviewed, and may do no more than read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DISTRIBUTIONS = ["jazzy", "kilted", "lyrical"]


def jobs(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()


def test_they_follow_the_schema_of_github_workflows():
    assert len(WORKFLOWS) == 4
    command = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.github-workflows"]
    result = subprocess.run([*command, *WORKFLOWS], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_to_a_commit_and_see_no_credentials(path):
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []
    assert text.count("persist-credentials: false") == sum(action.startswith("actions/checkout@") for action in used)
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_job_runs_for_ever(path):
    assert [job for job in jobs(path) if "timeout-minutes" not in job] == []


@pytest.mark.parametrize("name", ["ros", "images"])
def test_every_distribution_is_tried(name):
    (job,) = jobs(ROOT / ".github" / "workflows" / f"{name}.yml")
    assert job["strategy"]["matrix"]["distribution"] == DISTRIBUTIONS


def test_the_audit_runs_every_day_and_fails_on_findings_alone():
    text = (ROOT / ".github" / "workflows" / "audit.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert re.fullmatch(r"\d+ \d+ \* \* \*", workflow[True]["schedule"][0]["cron"])  # YAML reads `on` as true
    (job,) = workflow["jobs"].values()
    command = job["steps"][-1]["run"].replace("python3 scripts/audit.py", "(exit $AUDIT)")
    for status, passes in ((0, True), (75, True), (1, False), (2, False)):
        result = subprocess.run(["bash", "-e", "-c", command], env={"AUDIT": str(status)}, check=False)
        assert (result.returncode == 0) == passes, status


def test_every_task_s_launch_file_is_shown():
    text = (ROOT / ".github" / "workflows" / "ros.yml").read_text(encoding="utf-8")
    tasks = {path.stem for path in (ROOT / "src" / "rlt_bringup" / "config" / "tasks").glob("*.yaml")} - {"real_robot"}
    launches = ROOT / "src" / "rlt_bringup" / "launch"
    assert all((launches / f"{task}.launch.py").exists() for task in tasks)
    assert set(re.search(r"for task in (.*); do", text).group(1).split()) == tasks
