"""What the launch arguments `learner`, `robots` and `robot_runs` mean: one learner for several robots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlt_common.parameters import ParameterError

if TYPE_CHECKING:
    from rlt_bringup.graph import GraphOptions

OWN, SHARED, ALONE = "own", "shared", "alone"
LEARNERS = (OWN, SHARED, ALONE)
CLOCK = "/clock"


def check(options: GraphOptions) -> None:
    """Raise ParameterError for options that do not fit together."""
    if options.learner != ALONE:
        for name in ("robots", "robot_runs"):
            if getattr(options, name):
                raise ParameterError(f"{name}: only a learner that is started alone takes it: add learner: {ALONE}")
        if options.learner == SHARED and not options.namespace.strip("/"):
            raise ParameterError(f"learner: {SHARED}: robots of one learner have a namespace each: add namespace")
        return
    if options.mode == "collect":
        raise ParameterError(f"learner: {ALONE}: in mode collect nothing is learned")
    if options.host == "robot":
        raise ParameterError(f"learner: {ALONE}: it belongs on the GPU's machine: leave host out, or say gpu")
    if not options.robots:
        raise ParameterError(f"learner: {ALONE}: add robots, the namespaces of its robots with commas between")


def learner_parameters(options: GraphOptions) -> dict[str, list[str]]:
    """The learner's parameters that name its robots; none for its own namespace."""
    if options.learner != ALONE:
        return {}
    found = {"robots": listed(options.robots)}
    if options.robot_runs:
        runs = listed(options.robot_runs)
        found["run_directories"] = [str(Path(run).expanduser().resolve()) if run else "" for run in runs]
    return found


def listed(text: str) -> list[str]:
    """What stands between commas."""
    return [item.strip() for item in text.split(",")]


def clock_of(namespace: str) -> tuple[tuple[str, str], ...]:
    """Remapping of the simulator's clock: several simulators have one each, in their namespaces."""
    own = namespace.strip("/")
    return ((CLOCK, f"/{own}{CLOCK}"),) if own else ()
