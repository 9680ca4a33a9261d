"""Episode files: durable or absent, readable by others, refused when torn."""

import contextlib
import os
import subprocess

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import Writer
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from rlt_common import topics
from rlt_common.codecs import floats
from rlt_common.episode_file import (
    EpisodeFileError,
    EpisodeWriter,
    episode_configuration,
    episode_metadata,
    message_definition,
    read_messages,
)
from rlt_msgs.msg import EpisodeState, ExecutedAction, OperatorEvent


def write(path, count=5):
    writer = EpisodeWriter(path)
    for step in range(count):
        message = ExecutedAction(step=step, action=floats([0.1 * step] * 14))
        writer.write("executed_action", "rlt_msgs/msg/ExecutedAction", serialize_message(message), step + 1)
    state = EpisodeState(task="screw", label=EpisodeState.LABEL_SUCCESS)
    writer.write("episode_state", "rlt_msgs/msg/EpisodeState", serialize_message(state), count + 1)
    return writer


def test_what_is_written_comes_back(tmp_path):
    path = tmp_path / "1.mcap"
    size = write(path).finish({"label": "success", "seed": 3})
    assert path.stat().st_size == size
    entries = list(read_messages(path))
    assert [e.message.step for e in entries if e.topic == "executed_action"] == [0, 1, 2, 3, 4]
    assert [e.message.task for e in read_messages(path, ["episode_state"])] == ["screw"]
    assert episode_metadata(path) == {"label": "success", "seed": "3"}


def test_a_message_of_an_earlier_version_without_its_last_field_is_named(tmp_path):
    path = tmp_path / "1.mcap"
    writer = EpisodeWriter(path)
    shorter = serialize_message(ExecutedAction(action=floats([0.1] * 14), joint_target=[1.0]))[:-12]
    writer.write("executed_action", "rlt_msgs/msg/ExecutedAction", shorter, 1)
    writer.finish({"label": "success"})
    with pytest.raises(EpisodeFileError, match=r"1\.mcap: ExecutedAction in it .*another version of the messages"):
        list(read_messages(path))


def test_until_it_is_finished_there_is_no_episode(tmp_path):
    path = tmp_path / "1.mcap"
    writer = write(path)
    assert not path.exists()
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_another_library_reads_it_from_its_own_schemas(tmp_path):
    path = tmp_path / "1.mcap"
    write(path).finish({"label": "success"})
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        steps = [
            reader.deserialize(raw, connection.msgtype).step
            for connection, _, raw in reader.messages()
            if connection.topic == "/executed_action"
        ]
    assert steps == [0, 1, 2, 3, 4]


def test_schemas_hold_every_type_that_is_used():
    text = message_definition("rlt_msgs/msg/Observation")
    for name in ("std_msgs/Header", "sensor_msgs/CompressedImage", "builtin_interfaces/Time"):
        assert f"MSG: {name}\n" in text


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_torn_file_is_refused_by_name(tmp_path, keep):
    path = tmp_path / "1.mcap"
    write(path).finish({"label": "success"})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(EpisodeFileError, match=r"1\.mcap"):
        episode_metadata(path)
    with pytest.raises(EpisodeFileError, match=r"1\.mcap"):
        list(read_messages(path))


def flipped(data, place, bit):
    damaged = bytearray(data)
    damaged[place] ^= 1 << bit
    return bytes(damaged)


def content(path):
    """All that readers take from a file: its facts and its messages."""
    return episode_metadata(path), list(read_messages(path))


def test_a_file_with_a_flipped_bit_anywhere_is_refused_or_read_as_it_was(tmp_path):
    path = tmp_path / "1.mcap"
    write(path).finish({"label": "success", "seed": "3", "episode_id": "1"})
    whole, (facts, messages) = path.read_bytes(), content(path)
    tail = range(len(whole) - 400, len(whole))  # index and footer: every byte
    rest = np.random.default_rng(0).choice(len(whole) - 400, 1500, replace=False).tolist()
    refused = []
    for i, place in enumerate((*tail, *rest)):
        path.write_bytes(flipped(whole, place, i % 8))
        try:
            found, read = content(path)
        except EpisodeFileError as error:
            refused.append(str(error))
        else:
            assert read == messages, place
            assert facts.items() <= found.items(), place
    assert len(refused) > 1000, "most bytes of a file are needed"
    assert all("1.mcap" in words for words in refused)


def test_a_damaged_fact_is_refused_though_it_could_be_true(tmp_path):
    path = tmp_path / "1.mcap"
    write(path).finish({"label": "success", "seed": "3"})
    path.write_bytes(path.read_bytes().replace(b"success", b"failure"))
    with pytest.raises(EpisodeFileError, match=r"1\.mcap: not a whole episode file: .*checksum"):
        episode_metadata(path)


def test_a_file_of_before_its_facts_had_a_checksum_is_read(tmp_path):
    path = tmp_path / "1.mcap"
    with open(path, "wb") as file:
        writer = Writer(file)
        writer.start(profile="ros2")
        writer.add_metadata("rlt", {"label": "success"})
        writer.finish()
    assert episode_metadata(path) == {"label": "success"}


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(EpisodeFileError, match="file"):
        EpisodeWriter(blocker / "1.mcap")


def test_a_file_is_what_rosbag2_s_storage_writes(tmp_path):
    """`ros2 bag info` and `play` read profile, names, encodings, schemas, statistics and QoS: rosbag2_storage_mcap."""
    path = tmp_path / "1.mcap"
    write(path).finish({})
    with open(path, "rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        assert len(list(reader.iter_messages())) == summary.statistics.message_count == 6
    assert {c.message_encoding for c in summary.channels.values()} == {"cdr"}
    assert {c.topic for c in summary.channels.values()} == {"/executed_action", "/episode_state"}
    assert {s.encoding for s in summary.schemas.values()} == {"ros2msg"}
    assert {s.name for s in summary.schemas.values()} == {"rlt_msgs/msg/ExecutedAction", "rlt_msgs/msg/EpisodeState"}
    assert all(chunk.compression == "zstd" and chunk.message_index_length for chunk in summary.chunk_indexes)
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        offered = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
    for topic, (profile,) in offered.items():
        ours = topics.OFFERED[topic.lstrip("/")]
        for policy in ("durability", "reliability", "history"):
            assert getattr(profile, policy).name == getattr(ours, policy).name, f"{topic}: {policy}"
        assert profile.depth == ours.depth, topic


def test_files_of_before_topics_were_absolute_are_read(tmp_path):
    path = tmp_path / "1.mcap"
    kind = "rlt_msgs/msg/OperatorEvent"
    with open(path, "wb") as file:
        writer = Writer(file)
        writer.start(profile="ros2")
        schema = writer.register_schema(kind, "ros2msg", message_definition(kind).encode())
        channel = writer.register_channel("operator_event", "cdr", schema)
        writer.add_message(channel, 1, serialize_message(OperatorEvent(source="joy")), 1)
        writer.finish()
    for wanted in (None, ["operator_event"]):
        assert [(e.topic, e.message.source) for e in read_messages(path, wanted)] == [("operator_event", "joy")]


def test_the_files_that_it_was_recorded_with_are_kept_apart_from_its_facts(tmp_path):
    path = tmp_path / "1.mcap"
    write(path).finish({"label": "success"}, {"robot": "name: sim", "task": "name: screw"})
    assert episode_metadata(path) == {"label": "success"}
    assert episode_configuration(path) == {"robot": "name: sim", "task": "name: screw"}
    path.write_bytes(path.read_bytes().replace(b"name: sim", b"name: sam"))
    with pytest.raises(EpisodeFileError, match=r"1\.mcap: not a whole episode file: .*checksum"):
        episode_configuration(path)


def test_a_file_of_before_they_were_kept_has_no_configuration(tmp_path):
    path = tmp_path / "1.mcap"
    write(path).finish({"label": "success"})
    assert episode_configuration(path) == {}


def test_a_file_cannot_name_a_module_to_import(tmp_path, monkeypatch):
    """The name of a message's type comes from the file: it must not be able to run code that lies on the path."""
    package = tmp_path / "intruder"
    for folder in (package, package / "msg"):
        folder.mkdir()
        (folder / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for number, name in enumerate(("intruder/msg/Thing", "intruder/../Thing", "os/path/join", "intruder", "a/b/c/d")):
        path = tmp_path / f"{number}.mcap"
        with open(path, "wb") as file:
            writer = Writer(file)
            writer.start(profile="ros2")
            channel = writer.register_channel("t", "cdr", writer.register_schema(name, "ros2msg", b""))
            writer.add_message(channel, 1, b"\0\1\0\0", 1)
            writer.finish()
        with pytest.raises(EpisodeFileError, match=r"is no message type|is not installed"):
            list(read_messages(path))
    assert not (tmp_path / "ran").exists()


def test_writing_does_not_follow_a_link_out_of_the_run(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    folder = tmp_path / "episodes"
    folder.mkdir()
    (folder / "000001.mcap.part").symlink_to(secret)
    with pytest.raises(EpisodeFileError, match=r"000001\.mcap\.part: "):
        EpisodeWriter(folder / "000001.mcap")
    (folder / "000002.mcap").symlink_to(secret)
    write(folder / "000002.mcap").finish({})
    assert not (folder / "000002.mcap").is_symlink(), "the link is replaced, not followed"
    assert secret.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own takes root")
def test_a_disk_that_fills_up_does_not_cost_a_running_episode(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "rlt", str(disk)], check=True)
    try:
        writer = EpisodeWriter(disk / "000001.mcap")
        cdr = serialize_message(OperatorEvent(source="x" * 1000))
        writer.write("operator_event", "rlt_msgs/msg/OperatorEvent", cdr, 1)
        with open(disk / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65536))
        for stamp in range(2, 1000):
            writer.write("operator_event", "rlt_msgs/msg/OperatorEvent", cdr, stamp)
        size = writer.finish({"label": "success"})
        assert (disk / "000001.mcap").stat().st_size == size < 1_000_000
        assert len(list(read_messages(disk / "000001.mcap"))) == 999
        with pytest.raises(EpisodeFileError, match="No space left"):
            EpisodeWriter(disk / "000002.mcap")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own takes root")
def test_a_long_episode_on_a_small_disk_ends_while_it_runs(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "rlt", str(disk)], check=True)
    try:
        writer = EpisodeWriter(disk / "000001.mcap")
        noise = np.random.default_rng(0)

        def fill():
            for stamp in range(200):
                event = OperatorEvent(source=noise.bytes(500_000).hex())
                writer.write("operator_event", "rlt_msgs/msg/OperatorEvent", serialize_message(event), stamp)

        with pytest.raises(EpisodeFileError, match="No space left"):
            fill()
    finally:
        writer.keep_partial()
        subprocess.run(["umount", str(disk)], check=True)
