"""`make audit`: known vulnerabilities of the pinned packages, by pip-audit of a pinned version.

It is installed into an environment of its own, in .venv-audit. The exit status is 0 without findings, 1 with findings
and 75 (EX_TEMPFAIL) where packages could not be looked up, which it says: that is no finding and no clean bill either.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

PIP_AUDIT = "pip-audit==2.10.1"
PINNED = re.compile(r"[A-Za-z0-9._-]+(\[[^]]*\])?==[0-9][A-Za-z0-9.+!-]*( *; *[^;]+)?")
FOUND, COULD_NOT_ASK = 1, 75
ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-audit"


def requirement_files() -> list[Path]:
    """Every file of pinned packages in the repository: those named, and in constraints.txt what they need in turn."""
    return sorted(
        [*ROOT.glob("requirements*.txt"), ROOT / "constraints.txt", *ROOT.glob("benchmarks/requirements*.txt")]
    )


def not_pinned(text: str) -> list[str]:
    """Lines of a requirements file that do not name one version."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("-r ", "-c ")) and not PINNED.fullmatch(line)]


def install() -> bool:
    """Make the environment with pip-audit in it; False when the package index does not answer."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    command = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--retries", "1", PIP_AUDIT]
    return subprocess.run(command, check=False).returncode == 0


def audit() -> int:
    """Ask about every requirements file. Returns the exit status."""
    if not install():
        print(f"audit: NOT DONE: {PIP_AUDIT} could not be installed: is there a network?")
        return COULD_NOT_ASK
    worst = 0
    for file in requirement_files():
        tool = ENVIRONMENT / "bin" / "pip-audit"
        command = [tool, "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "-r", file]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        status, words = verdict(done.stdout, done.stderr)
        print(f"audit: {file.name}: {words}")
        worst = status if worst != FOUND and status else worst
    return worst


def verdict(output: str, errors: str) -> tuple[int, str]:
    """(exit status, words) for what pip-audit said as JSON. A package that it could not look up is not clean."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        last = errors.strip().splitlines()[-1:] or ["no answer"]
        return COULD_NOT_ASK, f"NOT DONE: {last[0]}"
    found = [f"{p['name']} {p['version']}: {v['id']}" for p in packages for v in p.get("vulns", ())]
    skipped = [p["name"] for p in packages if "skip_reason" in p]
    words = f"{len(packages) - len(skipped)} of {len(packages)} packages looked up, {len(found)} vulnerabilities"
    if skipped:
        words += f"; NOT looked up: {', '.join(skipped)}"
    if found:
        return FOUND, "\n  ".join([words, *found])
    return (COULD_NOT_ASK if skipped else 0), words


if __name__ == "__main__":
    sys.exit(audit())
