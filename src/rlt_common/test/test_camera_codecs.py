"""Images as real drivers publish them, through real serialised messages."""

import array

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from rlt_common.camera_codecs import READ, decode_compressed, decode_raw
from rlt_common.codecs import CodecError

PICTURE = np.stack(np.broadcast_arrays(np.arange(0, 256, 8)[None, :], np.arange(0, 192, 8)[:, None], 60), -1)
PICTURE = np.ascontiguousarray(PICTURE.astype(np.uint8))
"""(24, 32, 3) RGB: red grows to the right, green downwards, so that swapped channels show."""


def over_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


def raw(rows, encoding, width):
    data = array.array("B", rows.tobytes())
    return over_the_wire(Image(height=len(rows), width=width, step=rows.shape[1], encoding=encoding, data=data))


@pytest.mark.parametrize(
    ("encoding", "channels", "order"),
    [
        ("rgb8", 3, [0, 1, 2]),
        ("bgr8", 3, [2, 1, 0]),
        ("rgba8", 4, [0, 1, 2]),
        ("bgra8", 4, [2, 1, 0]),
        ("mono8", 1, [0] * 3),
    ],
)
def test_raw_images_of_every_encoding_with_padded_rows(encoding, channels, order):
    pixels = np.random.default_rng(2).integers(0, 256, (5, 4, channels), dtype=np.uint8)
    padded = np.zeros((5, 4 * channels + 3), np.uint8)
    padded[:, : 4 * channels] = pixels.reshape(5, -1)
    np.testing.assert_array_equal(decode_raw(raw(padded, encoding, 4)), pixels[:, :, order])


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_the_yuv_of_usb_cameras_gives_the_picture_back(encoding):
    """Packed by hand, after BT.601, as a webcam does: two luma values share one pair of chroma values."""
    r, g, b = (PICTURE[:, :, i].astype(float) for i in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = (128 - 0.148 * r - 0.291 * g + 0.439 * b)[:, ::2]
    v = (128 + 0.439 * r - 0.368 * g - 0.071 * b)[:, ::2]
    parts = [y[:, ::2], u, y[:, 1::2], v] if encoding in ("yuv422_yuy2", "yuyv") else [u, y[:, ::2], v, y[:, 1::2]]
    rows = np.round(np.stack(parts, -1)).astype(np.uint8).reshape(len(PICTURE), -1)
    padded = np.hstack([rows, np.zeros((len(rows), 6), np.uint8)])
    assert np.abs(decode_raw(raw(padded, encoding, 32)).astype(int) - PICTURE).max() < 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "bayer_rggb8"}, "raw pattern: .* image_proc debayer_node"),
        ({"encoding": "16UC1"}, "'16UC1': have the driver publish one of rgb8"),
        ({"encoding": "8UC3"}, "'8UC3': have the driver publish one of rgb8"),
        ({"encoding": "yuyv", "width": 3}, "width must be even"),
        ({"step": 3}, "step 3"),
        ({"height": 6}, "4x6 rgb8"),
        ({"width": 0}, "0x5 rgb8"),
        ({"data": array.array("B", [0])}, "holds 1 bytes"),
    ],
)
def test_raw_images_that_cannot_be_read_are_refused_with_what_to_do(change, message):
    fields = {"height": 5, "width": 4, "step": 12, "encoding": "rgb8", "data": array.array("B", bytes(60)), **change}
    with pytest.raises(CodecError, match=message):
        decode_raw(over_the_wire(Image(**fields)))


def compressed(form, codec=".png", picture=None):
    """`picture` is what the sender hands to OpenCV's encoder: BGR, as image_transport does."""
    data = cv2.imencode(codec, PICTURE[:, :, ::-1] if picture is None else picture)[1].tobytes()
    return over_the_wire(CompressedImage(format=form, data=array.array("B", data)))


@pytest.mark.parametrize(
    "form",
    ["png", "", "rgb8; png compressed bgr8", "bgr8; png compressed bgr8", "rgba8; png compressed bgr8"],
)
def test_png_of_image_transport_is_read_to_the_bit(form):
    np.testing.assert_array_equal(decode_compressed(compressed(form)), PICTURE)


@pytest.mark.parametrize("form", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8", "yuv422_yuy2; jpeg compressed bgr8"])
def test_jpeg_of_image_transport_is_read_nearly(form):
    assert np.abs(decode_compressed(compressed(form, ".jpg")).astype(int) - PICTURE).mean() < 4


def test_a_sender_that_encoded_rgb_says_so_and_is_believed():
    np.testing.assert_array_equal(decode_compressed(compressed("rgb8; png compressed rgb8", picture=PICTURE)), PICTURE)


def test_grey_images_have_three_equal_channels():
    grey = PICTURE[:, :, 0]
    np.testing.assert_array_equal(
        decode_compressed(compressed("mono8; png compressed ", picture=grey)), np.repeat(grey[:, :, None], 3, 2)
    )


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("bayer_rggb8; png compressed ", "raw pattern"),
        ("16UC1; compressedDepth", "is depth"),
        ("16UC1; png compressed ", "'16UC1'"),
    ],
)
def test_compressed_images_that_are_no_pictures_are_refused(form, message):
    with pytest.raises(CodecError, match=message):
        decode_compressed(compressed(form))


def test_bayer_that_the_sender_has_made_colour_of_is_read():
    np.testing.assert_array_equal(decode_compressed(compressed("bayer_rggb8; png compressed bgr8")), PICTURE)


@given(st.binary(max_size=60), st.sampled_from([*READ, "h264", "; ", "bayer", ""]))
def test_bytes_that_are_no_image_are_refused(data, form):
    with pytest.raises(CodecError):
        decode_compressed(CompressedImage(format=form, data=array.array("B", data)))
    with pytest.raises(CodecError):
        decode_raw(Image(height=5, width=7, step=7, encoding=form, data=array.array("B", data)))
