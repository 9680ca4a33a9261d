"""Episodes that were recorded before a type got more fields."""

import numpy as np
import pytest
from mcap.writer import Writer
from rclpy.serialization import serialize_message

from rlt_common.codecs import floats
from rlt_common.episode_file import EpisodeFileError, message_definition, read_messages
from rlt_common.message_versions import PADDING, VersionError, padding
from rlt_msgs.msg import ExecutedAction

TYPE = "rlt_msgs/msg/ExecutedAction"


def recorded(path, definition, cdr):
    with open(path, "wb") as file:
        writer = Writer(file)
        writer.start("ros2")
        schema = writer.register_schema(TYPE, "ros2msg", definition.encode())
        channel = writer.register_channel("executed_action", "cdr", schema)
        writer.add_message(channel, 1, cdr, 1)
        writer.finish()
    return path


def without(definition, *fields):
    lines = definition.splitlines(keepends=True)
    return "".join(line for line in lines if not any(f" {field} " in f"{line} ".replace("\n", " ") for field in fields))


def test_fields_that_came_later_are_zero(tmp_path):
    definition = message_definition(TYPE)
    earlier = without(definition, "joint_target", "repositioning", "dry_run")
    assert earlier != definition
    message = ExecutedAction(action=floats([0.5] * 14), joint_names=["a", "b"])
    cdr = serialize_message(message)
    cut = cdr[: cdr.rindex(b"b\0") + 2]  # what a writer without the two last fields wrote
    (entry,) = read_messages(recorded(tmp_path / "1.mcap", earlier, cut))
    np.testing.assert_array_equal(entry.message.action, np.full(14, 0.5, np.float32))
    assert entry.message.joint_names == ["a", "b"]
    assert list(entry.message.joint_target) == []
    assert entry.message.repositioning is False


def test_a_field_that_is_gone_is_named(tmp_path):
    later = message_definition(TYPE).replace("bool repositioning", "float64 torque\nbool repositioning")
    with pytest.raises(
        EpisodeFileError, match=r"1\.mcap: rlt_msgs/msg/ExecutedAction .*float64 torque is another field"
    ):
        list(read_messages(recorded(tmp_path / "1.mcap", later, serialize_message(ExecutedAction()))))


OLD = "# a\nuint8 A=1\nuint8 a  # first\nPoint p\n" + "=" * 80 + "\nMSG: x/Point\nfloat64 x\n"


@pytest.mark.parametrize(
    ("new", "more"),
    [
        (OLD, b""),
        (OLD.replace("# first", "# said better").replace("uint8 A=1", "uint8 A = 1\nuint8 B=2"), b""),
        (OLD.replace("Point p\n", "Point p\nstring s\nfloat32[] f\n"), PADDING),
    ],
)
def test_comments_and_constants_are_no_fields_and_fields_may_be_appended(new, more):
    assert padding(OLD, new) == more


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (OLD.replace("uint8 a ", "uint16 a "), "uint8 a is another field"),
        (OLD.replace("Point p\n", "bool b\nPoint p\n"), "Point p is another field"),
        (OLD.replace("Point p\n", ""), "its last field is another field now, or gone"),
        (OLD.replace("float64 x", "float64 x\nfloat64 y"), "its x/Point has other fields"),
    ],
)
def test_any_other_change_is_refused(new, says):
    with pytest.raises(VersionError, match=says):
        padding(OLD, new)
