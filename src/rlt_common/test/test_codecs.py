"""Messages to numpy and back."""

import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Float64MultiArray, MultiArrayDimension

from rlt_common.codecs import (
    CodecError,
    ObservationData,
    answered_ns,
    command_message,
    decode_image,
    encode_image,
    floats,
    matrix,
    observation_from_msg,
    observation_to_msg,
    stamp_ns,
    to_time,
    vector,
)
from rlt_msgs.msg import Observation


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_round_trip(ns):
    assert stamp_ns(to_time(ns)) == ns


def test_arrays_survive_the_wire():
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    message = Observation(proprioception=floats(rows))
    back = deserialize_message(serialize_message(message), Observation)
    np.testing.assert_array_equal(matrix(back.proprioception, 2, 3, "rows"), rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_index(bad):
    with pytest.raises(CodecError, match="x holds a value that is not finite at index 1"):
        vector(floats([0.0, bad, 1.0]), 3, "x")


def test_a_wrong_length_is_refused():
    with pytest.raises(CodecError, match="x has 5 values, expected 6"):
        matrix(floats(np.zeros(5)), 2, 3, "x")


def observation(rng, encodings=("png", "png")):
    images = rng.integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    blocks = {"ee_pose": rng.normal(size=12).astype(np.float32), "joint_effort": rng.normal(size=3).astype(np.float32)}
    data = ObservationData(7, 7, ("a", "b"), images, blocks)
    return data, observation_to_msg(data, encodings, [0.0, 0.001])


def test_png_observations_round_trip_bit_for_bit():
    data, message = observation(np.random.default_rng(0))
    back = observation_from_msg(deserialize_message(serialize_message(message), Observation))
    np.testing.assert_array_equal(back.images, data.images)
    assert list(back.blocks) == ["ee_pose", "joint_effort"]
    np.testing.assert_array_equal(
        back.state(["joint_effort", "ee_pose"]), np.concatenate([data.blocks["joint_effort"], data.blocks["ee_pose"]])
    )


def test_a_missing_block_is_named():
    data, _ = observation(np.random.default_rng(0))
    with pytest.raises(CodecError, match="no proprioception block 'joint_velocity'"):
        data.state(["joint_velocity"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block_sizes", array.array("I", [12])),
        ("block_sizes", array.array("I", [12, 4])),
        ("block_names", ["ee_pose", "ee_pose"]),
        ("camera_names", ["a"]),
        ("proprioception", floats([np.nan] * 15)),
    ],
)
def test_an_observation_that_contradicts_itself_is_refused(field, value):
    _, message = observation(np.random.default_rng(1))
    setattr(message, field, value)
    with pytest.raises(CodecError):
        observation_from_msg(message)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_image_are_refused(data):
    with pytest.raises(CodecError):
        decode_image(CompressedImage(format="png", data=array.array("B", data)))


def test_jpeg_keeps_the_picture_nearly():
    y, x = np.mgrid[0:32, 0:32]
    rgb = np.stack([x * 8, y * 8, np.full_like(x, 128)], -1).astype(np.uint8)
    back = decode_image(CompressedImage(format="jpeg", data=array.array("B", encode_image(rgb, "jpeg"))))
    assert np.abs(back.astype(int) - rgb).mean() < 4


def test_a_command_says_which_state_it_answers():
    message = command_message(np.arange(3.0), 83_000_420_000_000)
    assert list(message.data) == [0.0, 1.0, 2.0]
    assert answered_ns(message) == 83_000_420_000_000


@pytest.mark.parametrize("label", ["", "83", "joint targets in answer to the state at ns ", "stamp 9" * 50])
def test_a_command_of_anybody_else_answers_no_state(label):
    message = Float64MultiArray(data=[1.0])
    assert answered_ns(message) == -1
    message.layout.dim = [MultiArrayDimension(label=label)]
    assert answered_ns(message) == -1
