"""Episode files: one MCAP per episode is the journal, the bag for debugging and the source of datasets.

Written under a temporary name; :meth:`EpisodeWriter.finish` finalises, fsyncs and renames, and only then does the
episode count. The files are laid out as rosbag2's MCAP storage does it (profile ros2, CDR, ros2msg schemas, absolute
topics, QoS of the publishers, zstd), for `ros2 bag`, Foxglove and PlotJuggler. Two metadata records say what the
episode is: `rlt` its facts, `rlt.configuration` the files that it was recorded with.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import yaml
from ament_index_python import has_resource
from ament_index_python.packages import get_package_share_directory
from mcap.exceptions import McapError
from mcap.reader import McapReader, make_reader
from mcap.writer import CompressionType, Writer
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from zstandard import ZstdError

from rlt_common import topics as names
from rlt_common.atomic import no_follow, rename_durable, sha256_hex
from rlt_common.message_versions import VersionError, padding
from rlt_common.reading import read_limited
from rlt_common.retired import retired_words

RMWError = rclpy_implementation.RMWError
METADATA_NAME, CONFIGURATION_NAME = "rlt", "rlt.configuration"
_CHECKSUM = "sha256"
"""Of the other facts: MCAP itself has a checksum for messages and for its index, and none for metadata."""
_FOOTER = struct.Struct("<BQQQI8s")
"""The end of an MCAP file: the footer's opcode and length, start of the summary, of its offsets, its CRC; magic."""
_DAMAGED = (McapError, ZstdError, struct.error, KeyError, ValueError, OverflowError, MemoryError)
"""What readers raise over bytes that are not what was written; the last two where a length is damaged."""
RESERVE_STEP, HEADROOM = 16 * 1024**2, 8 * 1024**2
"""Bytes taken of the disk at a time, and kept ahead of what is written: what finishing a file needs at most."""
PARTIAL_SUFFIX = ".part"
_MAX_DEFINITION_BYTES = 1 << 20
_OTHER_VERSION = (
    "does not fit the installed one: it was recorded with another version of the messages; read it with that version"
)
_TYPE_NAME = re.compile(r"([a-z][a-z0-9_]*)/msg/([A-Z][A-Za-z0-9]*)")
_BASE_TYPES = re.compile(r"^(bool|byte|char|float32|float64|u?int(8|16|32|64)|w?string)(<=\d+)?$")


class EpisodeFileError(RuntimeError):
    """An episode file that cannot be written or read; says which and why."""


class Entry(NamedTuple):
    """One recorded message.

    Attributes:
        topic: without the robot's namespace.
        stamp_ns: log time, ns: the newest stamp so far, on the robot's clock.
        message: itself.
        published_ns: when its publisher sent it, ns, by the clock of its machine; the log time where nothing says it.
    """

    topic: str
    stamp_ns: int
    message: Any
    published_ns: int = 0


class EpisodeWriter:
    """Writes one episode. Topics are stored as absolute names without the robot's namespace, and read back relative.

    Room on the disk is taken ahead of what is written. So a disk that fills up is noticed by :meth:`write`, while the
    episode runs, and not by :meth:`finish`, when it has its label.
    """

    def __init__(self, path: Path | str) -> None:
        """Open `path` + ".part" for writing. Raises EpisodeFileError when that is impossible."""
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + PARTIAL_SUFFIX)
        try:
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.partial, "wb", opener=no_follow)  # noqa: SIM115 (closed in finish and abandon)
            self._reserved = 0
            self._reserve()
        except OSError as error:
            raise EpisodeFileError(f"{self.partial}: {error.strerror}") from error
        self._writer = Writer(self._file, compression=CompressionType.ZSTD)
        self._writer.start(profile="ros2", library="rlt")
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self.messages = 0

    def write(self, topic: str, type_name: str, cdr: bytes, stamp_ns: int, published_ns: int = 0) -> None:
        """Append one serialised message; `type_name` as "rlt_msgs/msg/Observation", times as in Entry, 0: not known."""
        try:
            if topic not in self._channels:
                if type_name not in self._schemas:
                    self._schemas[type_name] = self._writer.register_schema(
                        type_name, "ros2msg", message_definition(type_name).encode()
                    )
                self._channels[topic] = self._writer.register_channel(
                    _stored(topic), "cdr", self._schemas[type_name], {"offered_qos_profiles": _offered(topic)}
                )
            self._reserve(len(cdr))
            published_ns = published_ns or stamp_ns
            self._writer.add_message(self._channels[topic], stamp_ns, cdr, published_ns, self.messages)
        except OSError as error:
            raise EpisodeFileError(f"{self.partial}: {error.strerror}") from error
        self.messages += 1

    def finish(self, metadata: Mapping[str, str] | None, configuration: Mapping[str, str] | None = None) -> int:
        """Add the metadata, finalise, fsync, rename. Returns the size in bytes; the episode is durable after it.

        Where it raises EpisodeFileError, nothing has the episode's name, unless the disk refuses that too.

        `metadata`: its facts; None: it is no episode, but a view of one. `configuration`: texts of the files that it
        was recorded with, by what they are ("robot", "task").
        """
        try:
            for name, said in ((METADATA_NAME, metadata), (CONFIGURATION_NAME, configuration)):
                if said is not None:
                    facts = {k: str(v) for k, v in said.items()}
                    self._writer.add_metadata(name, {**facts, _CHECKSUM: _checksum(facts)})
            self._writer.finish()
            self._file.flush()
            size = self._file.tell()
            self._file.truncate(size)
            os.fsync(self._file.fileno())
            self._file.close()
            rename_durable(self.partial, self.path, new=True)
        except OSError as error:
            raise EpisodeFileError(f"{self.partial}: {error.strerror}") from error
        return size

    def keep_partial(self) -> None:
        """Close the temporary file and leave it where it is; a full disk does not matter any more.

        It is closed already where :meth:`finish` could not rename it.
        """
        if self._file.closed:
            return
        with contextlib.suppress(OSError):
            self._file.truncate(self._file.tell())
            self._file.close()

    def _reserve(self, coming: int = 0) -> None:
        """Take room for what is still to come, with `coming` bytes next. Raises OSError when there is none."""
        while self._file.tell() + coming + HEADROOM > self._reserved:
            os.posix_fallocate(self._file.fileno(), self._reserved, RESERVE_STEP)
            self._reserved += RESERVE_STEP

    def abandon(self) -> None:
        """Close and delete the temporary file."""
        self._file.close()
        self.partial.unlink(missing_ok=True)


def read_messages(path: Path | str, topics: Iterable[str] | None = None) -> Iterator[Entry]:
    """Messages of an episode file in log order, deserialised.

    A message that was recorded before its type got more fields has zeros in them. Raises EpisodeFileError for a torn,
    damaged or foreign file, and for a message of another version of its type than that.
    """
    wanted = None if topics is None else [name for topic in topics for name in (topic, _stored(topic))]
    types: dict[str, tuple[Any, bytes]] = {}
    try:
        with open(path, "rb") as file:
            for schema, channel, message in _reader(file).iter_messages(topics=wanted):
                if schema.name not in types:
                    kind = message_class(schema.name)
                    more = padding(schema.data.decode(), message_definition(schema.name))
                    types[schema.name] = (kind, more)
                kind, more = types[schema.name]
                topic = channel.topic.lstrip("/")  # relative in files of before
                content = _deserialised(path, message.data + more, kind)
                yield Entry(topic, message.log_time, content, message.publish_time)
    except OSError as error:
        raise _unreadable(path, error) from error
    except VersionError as error:
        raise EpisodeFileError(f"{path}: {schema.name} in it {_OTHER_VERSION}: {error}") from error
    except _DAMAGED as error:
        raise _not_whole(path, error) from error


def _deserialised(path: Path | str, cdr: bytes, kind: Any) -> Any:
    try:
        return deserialize_message(cdr, kind)
    except RMWError as error:
        raise EpisodeFileError(f"{path}: {kind.__name__} in it {_OTHER_VERSION}") from error


def episode_metadata(path: Path | str) -> dict[str, str]:
    """The episode's facts: task, label, seed, episode_id, hashes. Raises EpisodeFileError."""
    facts = _metadata(path, METADATA_NAME)
    if facts is None:
        raise EpisodeFileError(f"{path}: has no {METADATA_NAME!r} metadata: was it written by the recorder?")
    return facts


def episode_configuration(path: Path | str) -> dict[str, str]:
    """Texts of the files that the episode was recorded with: "robot", "task"; none in files of before they were kept.

    Raises EpisodeFileError.
    """
    return _metadata(path, CONFIGURATION_NAME) or {}


def _metadata(path: Path | str, name: str) -> dict[str, str] | None:
    try:
        with open(path, "rb") as file:
            for record in _reader(file).iter_metadata():
                if record.name == name:
                    return _checked(dict(record.metadata))
    except OSError as error:
        raise _unreadable(path, error) from error
    except _DAMAGED as error:
        raise _not_whole(path, error) from error
    return None


def _reader(file: BinaryIO) -> McapReader:
    """A reader that compares what it reads with the checksums. Raises ValueError for an index that is damaged."""
    size = file.seek(0, os.SEEK_END)
    if size < _FOOTER.size:
        raise ValueError(f"{size} bytes")
    file.seek(size - _FOOTER.size)
    _, _, summary, _, checksum, _ = _FOOTER.unpack(file.read(_FOOTER.size))
    if summary and checksum:  # a file of another writer may have none
        file.seek(min(summary, size))
        if zlib.crc32(file.read()[: -struct.calcsize("<I8s")]) != checksum:
            raise ValueError("its index does not match its checksum")
    file.seek(0)
    return make_reader(file, validate_crcs=True)


def _checked(facts: dict[str, str]) -> dict[str, str]:
    """The facts without their checksum, which an earlier version did not write. Raises ValueError."""
    said = facts.pop(_CHECKSUM, None)
    if said is not None and said != _checksum(facts):
        raise ValueError("its facts do not match their checksum")
    return facts


def _checksum(facts: Mapping[str, str]) -> str:
    return sha256_hex(json.dumps(facts, sort_keys=True).encode())


def _unreadable(path: Path | str, error: OSError) -> EpisodeFileError:
    gone = retired_words(path) if isinstance(error, FileNotFoundError) else ""
    return EpisodeFileError(f"{path}: {gone or error.strerror}")


def _not_whole(path: Path | str, error: Exception) -> EpisodeFileError:
    return EpisodeFileError(f"{path}: not a whole episode file: {str(error) or type(error).__name__}")


def _stored(topic: str) -> str:
    """The name of a topic in a file: ros2 bag and Foxglove know topics by their absolute names."""
    return "/" + topic.lstrip("/")


def _offered(topic: str) -> str:
    """The QoS that the publishers of a topic offer, in the YAML of rosbag2's metadata (version 9); "": not known."""
    profile = names.OFFERED.get(topic.lstrip("/"))
    return "" if profile is None else yaml.safe_dump([_qos(profile)], sort_keys=False)


def _qos(profile: QoSProfile) -> dict[str, Any]:
    for_ever = {"sec": 9223372036, "nsec": 854775807}
    return {
        "history": profile.history.name.lower(),
        "depth": profile.depth,
        "reliability": profile.reliability.name.lower(),
        "durability": profile.durability.name.lower(),
        "deadline": dict(for_ever),
        "lifespan": dict(for_ever),
        "liveliness": "automatic",
        "liveliness_lease_duration": dict(for_ever),
        "avoid_ros_namespace_conventions": False,
    }


def message_class(type_name: str) -> Any:
    """The Python class of a type such as "rlt_msgs/msg/Observation". Raises ValueError when it is not installed.

    The name may come from a file: nothing is imported but the messages of an installed ROS package.
    """
    match = _TYPE_NAME.fullmatch(type_name)
    if match is None:
        raise ValueError(f"{type_name[:80]!r} is no message type")
    package, name = match.groups()
    if not has_resource("rosidl_interfaces", package):
        raise ValueError(f"message type {type_name} is not installed")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"message type {type_name} is not installed") from error


@lru_cache(maxsize=256)
def message_definition(type_name: str) -> str:
    """The ros2msg text of a type with every type it uses, as MCAP's ros2 profile wants it."""
    parts, queue, seen = [], [type_name], {type_name}
    while queue:
        current = queue.pop(0)
        package, _, name = current.split("/")
        path = Path(get_package_share_directory(package)) / "msg" / f"{name}.msg"
        text = read_limited(path, _MAX_DEFINITION_BYTES).decode()
        header = "" if not parts else "=" * 80 + f"\nMSG: {package}/{name}\n"
        parts.append(header + text)
        for used in _used_types(text, package):
            if used not in seen:
                seen.add(used)
                queue.append(used)
    return "\n".join(parts)


def _used_types(text: str, package: str) -> Iterator[str]:
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) < 2 or "=" in words[1]:
            continue
        kind = re.sub(r"\[.*\]$", "", words[0])
        if _BASE_TYPES.match(kind):
            continue
        parts = kind.split("/")
        yield f"{parts[0] if len(parts) > 1 else package}/msg/{parts[-1]}"
