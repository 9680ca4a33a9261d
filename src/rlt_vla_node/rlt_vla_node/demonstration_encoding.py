"""What the frozen VLA and RL token make of demonstrations, as episode files that the learner can take in.

An encoded demonstration holds the executed actions of its source and a vla_output for every observation of the critical
phase: the form of a journalled training episode, in which a human drove all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rclpy.serialization import serialize_message

from rlt_common import topics
from rlt_common.atomic import sha256_hex
from rlt_common.codecs import CodecError, observation_from_msg, stamp_ns
from rlt_common.config import RobotConfig, TaskConfig, config_hash
from rlt_common.episode_file import EpisodeFileError, EpisodeWriter, episode_metadata
from rlt_common.reading import read_limited
from rlt_common.relabels import episode_facts
from rlt_msgs.msg import EpisodeState, ExecutedAction
from rlt_vla_node.dataset import SUCCESS, DatasetError, read_joined
from rlt_vla_node.encoding import EncodingConfig, Item, OutputEncoder
from rlt_vla_node.inference import FrozenModel, LayoutError

FOLDER = "demonstrations"
"""Where encoded demonstrations lie, in the folder of their VLA's checkpoint."""
ENCODING = "encoding_hash"
STATE = "rl_state"
"""In a file's metadata: the blocks of its RL states, joined by commas."""
MAX_EPISODE_BYTES = 4 * 1024**3
PURPOSE = "collect"
"""Of the episodes that are demonstrations: a run's own and those of an evaluation may lie in the same folder."""


class NoDemonstrationsError(DatasetError):
    """There are episode files, but none is a demonstration."""


def encode_demonstrations(
    source: Path | str,
    target: Path | str,
    robot: RobotConfig,
    task: TaskConfig,
    model: FrozenModel,
    config: EncodingConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Encode every successful demonstration of `source` into a file of the same name in `target`.

    What is there already from the same source, model and configuration is kept; what differs is replaced, and an
    encoding whose demonstration is gone is removed.

    Args:
        source: folder of episode files.
        progress: called with (files done, files in all).

    Returns the number of encoded demonstrations. Raises DatasetError naming the file that is torn or does not fit, or
    that `target` holds and is no encoding; NoDemonstrationsError when there is none to encode; LayoutError when robot,
    task and model do not fit each other.
    """
    encoder = OutputEncoder(model.fitted(robot, task), task, config, robot)
    paths = sorted(Path(source).glob("*.mcap"))
    names = _encodings(Path(target))
    count = 0
    for done, path in enumerate(paths, start=1):
        try:
            facts = episode_facts(path)
            if facts.get("label") == SUCCESS and facts.get("purpose") == PURPOSE:
                facts["vla_hash"] = model.hash
                facts[STATE] = ",".join(task.rl_state)
                facts[ENCODING] = config_hash(
                    {
                        "source": sha256_hex(read_limited(path, MAX_EPISODE_BYTES)),
                        "vla": model.hash,
                        STATE: facts[STATE],
                        "encoding": asdict(config),
                    }
                )
                copy = Path(target) / path.name
                if not _holds(copy, facts[ENCODING]):
                    _encode(
                        path, copy, facts, encoder, round(1e9 * robot.period_s), config.group_size, task.prefetch_steps
                    )
                count += 1
                names.discard(path.name)
        except (EpisodeFileError, CodecError, LayoutError, KeyError, ValueError, OSError) as error:
            raise DatasetError(f"{path}: {error}: remove the file or record it again") from error
        progress(done, len(paths))
    if not count:
        raise NoDemonstrationsError(
            f"{source}: none of its {len(paths)} episode files is a demonstration (purpose {PURPOSE}) labelled "
            f"{SUCCESS}"
        )
    for name in names:
        (Path(target) / name).unlink()
    return count


def _encodings(folder: Path) -> set[str]:
    """Names of the encodings in `folder`, torn ones included. Raises DatasetError for any other episode file."""
    paths = sorted(folder.glob("*.mcap"))
    for path in paths:
        try:
            foreign = ENCODING not in episode_metadata(path)
        except EpisodeFileError:
            continue
        if foreign:
            raise DatasetError(f"{path}: is no encoded demonstration: move it away, encodings are written there")
    return {path.name for path in paths}


def _holds(path: Path, wanted: str) -> bool:
    try:
        return path.exists() and episode_metadata(path).get(ENCODING) == wanted
    except EpisodeFileError:
        return False


def _encode(
    path: Path,
    copy: Path,
    facts: dict[str, str],
    encoder: OutputEncoder,
    period_ns: int,
    group_size: int,
    prefetch_steps: int,
) -> None:
    episode_id = int(facts["episode_id"])
    executed, observed = read_joined(path, period_ns)
    critical = [
        Item(episode_id, 0, observation_from_msg(message), _commanded(executed, row + prefetch_steps - 1))
        for row, message in sorted(observed.items())
        if executed[row].phase == EpisodeState.PHASE_CRITICAL
    ]
    outputs = []
    for first in range(0, len(critical), group_size):
        outputs += encoder.strided(critical[first : first + group_size])
    writer = EpisodeWriter(copy)
    try:
        for topic, type_name, messages in (
            (topics.EXECUTED_ACTION, "rlt_msgs/msg/ExecutedAction", executed),
            (topics.VLA_OUTPUT, "rlt_msgs/msg/VlaOutput", outputs),
        ):
            for message in messages:
                writer.write(topic, type_name, serialize_message(message), stamp_ns(message.header.stamp))
        writer.finish(facts)
    except BaseException:
        writer.abandon()
        raise


def _commanded(executed: Sequence[ExecutedAction], row: int) -> Sequence[float] | None:
    """Joints commanded in a control step; None before the first, and in recordings that do not say."""
    return executed[row].joint_target or None if 0 <= row < len(executed) else None
