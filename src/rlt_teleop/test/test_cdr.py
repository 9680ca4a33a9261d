"""Leading fields against rclpy's own serialisation."""

import pytest
from rclpy.serialization import serialize_message

from rlt_common.codecs import to_time
from rlt_msgs.msg import ActionChunk, ChunkRequest, ExecutedAction, Observation, VlaOutput
from rlt_teleop.cdr import CdrError, leading_fields

STAMP_NS = 1_700_000_000_123_456_789


@pytest.mark.parametrize("frame", ["", "w", "world", "a frame of 17 char", "arm/über"])
def test_fields_behind_a_header_of_any_length(frame):
    executed = ExecutedAction(episode_id=2**63, epoch=7, step=123456, phase=3, source=2)
    output = VlaOutput(observation_id=5, episode_id=6, epoch=8, request_id=9, is_boundary=True)
    chunk = ActionChunk(episode_id=11, epoch=12)
    for message in (executed, output, chunk):
        message.header.stamp = to_time(STAMP_NS)
        message.header.frame_id = frame
    assert leading_fields(serialize_message(executed), "QIIBB") == (STAMP_NS, (2**63, 7, 123456, 3, 2))
    assert leading_fields(serialize_message(output), "QQIQB") == (STAMP_NS, (5, 6, 8, 9, 1))
    assert leading_fields(serialize_message(chunk), "QI") == (STAMP_NS, (11, 12))


def test_big_endian_is_read_as_such():
    header = b"\x00\x00\x00\x00" + (7).to_bytes(4, "big") + (8).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\0"
    cdr = header + b"\0\0\0" + (42).to_bytes(8, "big")
    assert leading_fields(cdr, "Q") == (7_000_000_008, (42,))


@pytest.mark.parametrize(
    ("cdr", "why"),
    [(b"", "representation"), (b"\x00\x03\x00\x00" + bytes(40), "0003"), (b"\x00\x01\x00\x00" + bytes(8), "too short")],
)
def test_foreign_bytes_are_an_error(cdr, why):
    with pytest.raises(CdrError, match=why):
        leading_fields(cdr, "Q")


def test_a_string_length_beyond_the_message_is_an_error():
    cdr = bytearray(serialize_message(Observation(observation_id=1)))
    cdr[12:16] = b"\xff\xff\xff\x7f"
    with pytest.raises(CdrError, match="too short"):
        leading_fields(bytes(cdr), "Q")


@pytest.mark.parametrize(("sec", "nanosec"), [(-1, 0), (0, 10**9)])
def test_a_stamp_that_no_clock_shows_is_refused(sec, nanosec):
    message = ChunkRequest()
    message.header.stamp.sec, message.header.stamp.nanosec = sec, nanosec
    with pytest.raises(CdrError, match="no clock shows it"):
        leading_fields(serialize_message(message), "Q")
