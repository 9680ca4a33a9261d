"""Plays recorded episodes back through the VLA node and the policy node, and answers what one asks of them.

`ros2 run rlt_bringup replay --bag <run>/episodes/000012.mcap`, or `--run <run> --episodes 3,7-12`. It compares what
comes back with what was recorded, prints the answers and writes a page with figures. Exit status: 0 when everything
came back as it has to (see replay_plan), 1 when something did not, 2 for what does not fit (episode, checkpoint, ...).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlt_bringup.process_environment import set_defaults
from rlt_bringup.replay_answers import answer, comparison_of
from rlt_bringup.replay_nodes import Pace, play_all
from rlt_bringup.replay_page import write_page
from rlt_bringup.replay_plan import ReplayError, critical, format_comparison
from rlt_bringup.replay_source import Replay, Wanted, prepare
from rlt_bringup.replay_tables import text
from rlt_bringup.runner import RunnerError
from rlt_common.atomic import write_atomic
from rlt_common.codecs import HIGHEST_EPISODE_ID, CodecError, stamp_ns
from rlt_common.episode_file import EpisodeFileError, episode_metadata
from rlt_common.parameters import ParameterError
from rlt_common.relabels import EPISODES
from rlt_msgs.msg import ActionChunk, VlaOutput
from rlt_rl_node import checkpoint as learner_checkpoint
from rlt_rl_node.frozen_models import FrozenModelsError
from rlt_vla_node.checkpoint import CheckpointError

SUFFIX, PAGE_SUFFIX, PAGE = ".replay.json", ".replay.html", "replay.html"
NONE = "none"
FASTEST, REAL_TIME, STEP = "fastest", "real_time", "step"
MOST_FACTOR = 1000.0
_RANGE = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ros2 run rlt_bringup replay`."""
    options = _parser().parse_args(arguments)
    set_defaults()
    found: list[dict[str, Any]] = []
    scratch = tempfile.TemporaryDirectory(prefix="rlt_replay_")
    try:
        pace = _pace(options.pace)
        bags = _bags(options)
        if options.output and len(bags) > 1:
            raise ReplayError("--output FILE is for one episode: leave FILE out, and each gets one beside it")
        wanted = Wanted(
            options.run,
            options.checkpoint,
            options.actor,
            options.robot,
            options.task,
            options.seed,
            options.tolerance,
        )
        replays = [prepare(bag, wanted, Path(scratch.name)) for bag in bags]
        for replay, played in zip(replays, play_all(replays, pace), strict=True):
            found.append(answer(replay, played))
            _show(found[-1], f" ({len(found)} of {len(replays)})" if len(replays) > 1 else "")
            if options.output is not None:
                path = Path(options.output) if options.output else replay.bag.with_suffix(SUFFIX)
                write_atomic(path, (json.dumps(found[-1], indent=1) + "\n").encode())
                print(f"written: {path}", flush=True)
        if options.page != NONE:
            path = Path(options.page) if options.page else _page_of(bags)
            write_page(found, path)
            print(f"written: {path}")
    except (
        ReplayError,
        EpisodeFileError,
        ParameterError,
        CheckpointError,
        CodecError,
        FrozenModelsError,
        learner_checkpoint.CheckpointError,
        RunnerError,
        OSError,
    ) as error:
        print(f"replay: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        scratch.cleanup()
    equal = all(one["equal"] for one in found)
    if not equal:
        print("NOT the same")
    else:
        print("the same, apart from what the notes say" if any(one["notes"] for one in found) else "the same")
    sys.exit(0 if equal else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="replay", description="play recorded episodes back, compare the answers and say what happened in them"
    )
    parser.add_argument("--bag", type=Path, nargs="+", default=[], help="episode files, <run>/episodes/<id>.mcap")
    parser.add_argument("--run", type=Path, help="run directory (default: two folders above each episode file)")
    parser.add_argument(
        "--episodes", default="", help="of --run instead of --bag: 3,7-12; all where only --run is given"
    )
    parser.add_argument(
        "--checkpoint", default="", help="frozen VLA and RL token (default: <run>/vla); another one is not judged"
    )
    parser.add_argument(
        "--actor",
        default="",
        help="checkpoint of the learner (default: the one in <run>/checkpoints that fits); another one is not judged",
    )
    parser.add_argument(
        "--robot",
        default="",
        help="robot name or file (default: as recorded, out of the episode): its limits judge what was executed",
    )
    parser.add_argument("--task", default="", help="task name or file (default: as recorded, out of the episode)")
    parser.add_argument("--seed", type=int, help="run seed (default: found from the recorded noise seeds)")
    parser.add_argument(
        "--pace",
        default=FASTEST,
        help=f"{FASTEST}: as the answers come (default); {REAL_TIME}; a number: so many times real time at most; "
        f"{STEP}: Enter for the next observation that a chunk was made of",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference that counts as the same, everywhere (default: none on what it was recorded on)",
    )
    parser.add_argument(
        "--output", nargs="?", const="", help=f"also write everything as JSON (default: <id>{SUFFIX} beside)"
    )
    parser.add_argument(
        "--page",
        default="",
        help=f"the page with tables and figures (default: <id>{PAGE_SUFFIX} beside; of several: {PAGE} in the run "
        f"directory); {NONE}: none",
    )
    return parser


def _bags(options: argparse.Namespace) -> list[Path]:
    """The episode files that were asked for. Raises ReplayError."""
    # The launch file has one argument for all of them, with commas between.
    bags = [Path(part) for bag in options.bag for part in str(bag).split(",") if part]
    if bags and options.episodes:
        raise ReplayError("--bag and --episodes: give one of them")
    if bags:
        return bags
    if not options.run:
        raise ReplayError("no episode was named: give --bag FILE, or --run FOLDER with --episodes 3,7-12")
    folder = options.run / EPISODES
    there = {int(path.stem): path for path in folder.glob("*.mcap") if path.stem.isdecimal()}
    if not there:
        raise ReplayError(f"{folder} holds no episode file")
    if options.episodes:
        wanted = set(_numbers(options.episodes))
        if lacking := sorted(wanted - set(there)):
            raise ReplayError(f"{folder} has no episode {lacking[0]}; it has {min(there)} to {max(there)}")
        return [there[number] for number in sorted(wanted)]
    chosen = [there[number] for number in sorted(there) if episode_metadata(there[number]).get("vla_hash")]
    if not chosen:
        raise ReplayError(f"{folder} holds no episode in which a VLA answered: are they demonstrations?")
    return chosen


def _numbers(words: str) -> Iterator[int]:
    """The numbers of "3,7-12". Raises ReplayError."""
    for word in words.split(","):
        match = _RANGE.fullmatch(word.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last > HIGHEST_EPISODE_ID or last - first > 100_000:
            raise ReplayError(f"--episodes {words}: {word!r} is no number and no range such as 7-12")
        yield from range(first, last + 1)


def _page_of(bags: Sequence[Path]) -> Path:
    return bags[0].with_suffix(PAGE_SUFFIX) if len(bags) == 1 else bags[0].resolve().parent.parent / PAGE


def _pace(words: str) -> Pace:
    """Raises ReplayError for a pace that is none, and for steps without a terminal."""
    if words == STEP:
        if not sys.stdin.isatty():
            raise ReplayError(f"--pace {STEP} needs a terminal: it waits for Enter (ros2 run, not ros2 launch)")
        return Pace(after_answer=_step)
    try:
        factor = {FASTEST: 0.0, REAL_TIME: 1.0}.get(words)
        factor = float(words) if factor is None else factor
        if factor == factor and 0.0 <= factor <= MOST_FACTOR and (factor > 0.0 or words == FASTEST):
            return Pace(factor)
    except ValueError:
        pass
    raise ReplayError(
        f"--pace {words}: say {FASTEST}, {REAL_TIME}, {STEP} or a number above 0 and up to {MOST_FACTOR:g}"
    )


def _step(replay: Replay, output: VlaOutput, chunk: ActionChunk | None) -> None:
    """Show one answer beside what was recorded, and wait for Enter."""
    recording = replay.recording
    recorded = recording.chunks.get(output.request_id)
    time_s = (stamp_ns(output.header.stamp) - recording.begin_ns) * 1e-9
    before = recording.boundaries[output.request_id]
    words = ["the VLA the same" if before.reference == output.reference else "the VLA ANOTHER"]
    if recorded and chunk:
        words.append("the chunk the same" if recorded.actions == chunk.actions else "the chunk ANOTHER")
        words.append(f"|pi - reference| {recorded.reference_distance:.2f} then, {chunk.reference_distance:.2f} now")
    phase = "CRITICAL" if critical(recording, output.epoch) else "BASE"
    step = recording.step_of.get(output.observation_id, -1)
    input(f"step {step}, {time_s:.2f} s, {phase}: {'; '.join(words)}  [Enter] ")


def _show(found: dict[str, Any], which: str) -> None:
    seconds = found["seconds"]
    speed = f", {found['robot_seconds'] / seconds:.1f} x real time" if seconds else ""
    print(f"episode {found['episode_id']}{which}{speed}")
    print(format_comparison(comparison_of(found)))
    print(f"\n{text(found)}\n", flush=True)


if __name__ == "__main__":
    main()
