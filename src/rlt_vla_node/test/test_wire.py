"""Arrays in msgpack: the very bytes of openpi and of GR00T, and nothing that could run code."""

import importlib
import io

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlt_vla_node.wire import GR00T, OPENPI, WireError

RNG = np.random.default_rng(0)
VALUE = {
    "images": RNG.integers(0, 256, (2, 3, 4, 4, 3), dtype=np.uint8),
    "state": RNG.normal(size=(2, 14)).astype(np.float32),
    "z": RNG.normal(size=(2, 5, 16)).astype(np.float16),
    "mask": np.array([[True, False]]),
    "none": np.zeros((0, 3), np.int64),
    "prompt": "drehe die Schraube",
    "steps": 5,
    "nested": {"list": [1.5, None, np.ones(3)]},
}


def equal(one, other):
    if isinstance(one, dict):
        return set(one) == set(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(equal(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("wire", [OPENPI, GR00T], ids=["openpi", "gr00t"])
def test_what_is_sent_is_what_arrives(wire):
    assert equal(wire.unpack(wire.pack(VALUE)), VALUE)
    turned = np.asfortranarray(RNG.normal(size=(3, 4)))
    assert equal(wire.unpack(wire.pack(turned)), turned)


def test_the_bytes_are_those_that_openpi_writes():
    """Written by openpi-client 0.1.2."""
    written = bytes.fromhex(
        "82a57374617465"  # {"state":
        "84c40b5f5f6e6461727261795f5fc3c40464617461c4080000803f000000c0c4056474797065a33c6634c405736861706592"
        "0102"  # (1, 2) float32 of 1 and -2
        "a16e"  # "n":
        "83c40d5f5f6e7067656e657269635f5fc3c4046461746107c4056474797065a33c6938"  # np.int64(7)
    )
    value = {"state": np.array([[1.0, -2.0]], np.float32), "n": np.int64(7)}
    assert OPENPI.pack(value) == written
    assert equal(OPENPI.unpack(written)["state"], value["state"])
    assert OPENPI.unpack(written)["n"] == 7


def test_openpis_own_client_writes_and_reads_the_same():
    try:
        theirs = importlib.import_module("openpi_client.msgpack_numpy")
    except ImportError:
        pytest.skip(
            "openpi-client is not installed (pip install --no-deps openpi-client==0.1.2: it asks for numpy < 2)"
        )
    assert OPENPI.pack(VALUE) == theirs.packb(VALUE)
    assert equal(theirs.unpackb(OPENPI.pack(VALUE)), VALUE)
    assert equal(OPENPI.unpack(theirs.packb(VALUE)), VALUE)


def test_an_array_of_gr00t_is_a_npy_file():
    stream = io.BytesIO()
    np.save(stream, VALUE["state"])
    assert msgpack.unpackb(GR00T.pack(VALUE["state"])) == {"__ndarray_class__": True, "as_npy": stream.getvalue()}


@pytest.mark.parametrize("wire", [OPENPI, GR00T], ids=["openpi", "gr00t"])
@pytest.mark.parametrize(
    "array",
    [
        np.array([{}, None], object),
        np.array(["text"]),
        np.array([b"bytes"]),
        np.array([1j]),
        np.zeros(2, [("a", "f4")]),
        np.array(["2026-01-01"], "datetime64[D]"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_no_other_arrays_than_of_numbers_are_sent(wire, array):
    with pytest.raises(WireError, match="do not travel"):
        wire.pack(array)


@pytest.mark.parametrize("wire", [OPENPI, GR00T], ids=["openpi", "gr00t"])
def test_nothing_but_plain_values_is_sent(wire):
    with pytest.raises(WireError, match="does not travel"):
        wire.pack({"a": object()})


def openpi_array(dtype="<f4", shape=(2,), data=bytes(8)):
    return msgpack.packb({b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape})


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (openpi_array("|O"), "only booleans, integers and floats are read"),
        (openpi_array("O8"), "only booleans"),
        (openpi_array("<f4,<f4"), "only booleans"),
        (openpi_array(["a", "<f4"]), "only booleans"),
        (openpi_array(shape=(3,)), "does not have that many bytes"),
        (openpi_array(shape=(-2,)), "shape"),
        (openpi_array(shape=(2**40, 2**40)), "does not have that many bytes"),
        (openpi_array(shape=(True, 2)), "shape"),
        (openpi_array(shape=[1] * 40), "shape"),
        (openpi_array(shape="2"), "shape"),
        (openpi_array(data="text"), "does not have that many bytes"),
        (msgpack.packb({b"__npgeneric__": True, b"data": "7", b"dtype": "<i8"}), "a number that is a str"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 7, b"dtype": "|O"}), "only booleans"),
        (b"\xc1", "not a msgpack message"),
        (b"", "not a msgpack message"),
        (OPENPI.pack(VALUE)[:-1], "not a msgpack message"),
        (OPENPI.pack(VALUE) + b"\x00", "not a msgpack message"),
        (b"\x91" * 100_000, "not a msgpack message"),
    ],
)
def test_a_message_of_openpi_that_is_none_is_refused(message, words):
    with pytest.raises(WireError, match=words):
        OPENPI.unpack(message)


def npy(array):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0))
    return stream.getvalue()


def header(shape):
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + b", }\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


FLOATS = npy(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (FLOATS.replace(b"<f4", b"|O8"), "only booleans"),
        (npy(np.array(["text"])), "only booleans"),
        (npy(np.zeros(2, [("a", "f4")])), "not a .npy of version 1.0"),
        (FLOATS[:-1], "does not have that many bytes"),
        (FLOATS[:20], "not a .npy of version 1.0"),
        (FLOATS.replace(b"(2,)", b"(9,)"), "does not have that many bytes"),
        (FLOATS.replace(b"\x01\x00", b"\x02\x00", 1), "not a .npy of version 1.0"),
        (header(b"(" + b"2" * 60_000), "not a .npy of version 1.0"),
        (b"no npy at all", "not a .npy of version 1.0"),
        ("text", "without its .npy"),
    ],
)
def test_an_array_of_gr00t_that_is_none_is_refused(data, words):
    with pytest.raises(WireError, match=words):
        GR00T.unpack(msgpack.packb({"__ndarray_class__": True, "as_npy": data}))


@given(data=st.binary(max_size=200), place=st.integers(0, 10_000), wire=st.sampled_from([OPENPI, GR00T]))
def test_damaged_messages_are_refused_or_read_as_plain_values(data, place, wire):
    message = wire.pack({"a": np.ones((2, 3)), "b": [1, "two"]})
    place %= len(message)
    for damaged in (data, message[:place] + data + message[place + len(data) :]):
        try:
            wire.unpack(damaged)
        except WireError:
            continue
