"""`ros2 run rlt_bringup compare runA runB ...`: one page and a table about runs side by side, from their directories.

Runs of another task, robot or other simulated resets are refused, unless `--anyway` is given. Without ROS installed:
`python -m rlt_bringup.compare_command`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlt_bringup.comparison import ComparisonError, compare
from rlt_bringup.comparison_html import format_comparison, render
from rlt_bringup.report_command import show_progress
from rlt_bringup.run_facts import RunError, read_run
from rlt_bringup.run_report import build_run
from rlt_common.atomic import write_atomic


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_bringup compare`."""
    parser = argparse.ArgumentParser(prog="compare", description="runs side by side, with intervals")
    parser.add_argument("runs", nargs="+", help="run directories; the first is the one to compare with")
    parser.add_argument("--output", default="compare.html", help="the page (default: %(default)s)")
    parser.add_argument("--anyway", action="store_true", help="also runs of other tasks, robots or resets")
    options = parser.parse_args(arguments)
    output = Path(options.output)
    try:
        made = compare([build_run(read_run(Path(run), show_progress)) for run in options.runs], options.anyway)
        write_atomic(output, render(made).encode())
    except (RunError, ComparisonError, OSError) as error:
        sys.exit(f"compare: {error}")
    print(format_comparison(made))
    print(output)


if __name__ == "__main__":
    main()
