"""Reading files up to a size."""

import errno
import json
import os

import pytest

from rlt_common.reading import check_size, parse_json, read_json, read_limited, read_tail


def test_a_file_of_exactly_the_limit_is_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_limited(path, 5) == b"12345"
    check_size(path, 5)


def test_a_larger_file_is_refused_and_says_how_large_it_may_be(tmp_path):
    path = tmp_path / "a"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # sparse: reading it would take a terabyte
    for read in (read_limited, check_size):
        with pytest.raises(OSError, match="larger than 100 bytes") as caught:
            read(path, 100)
        assert caught.value.errno == errno.EFBIG
        assert caught.value.strerror == "larger than 100 bytes"


@pytest.mark.timeout(20)
def test_a_pipe_or_a_device_neither_hangs_nor_is_read(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero"):
        for read in (read_limited, check_size):
            with pytest.raises(OSError, match="not a regular file"):
                read(path, 100)


def test_missing_files_and_folders_are_os_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_limited(tmp_path / "absent", 1)
    with pytest.raises(IsADirectoryError):
        read_limited(tmp_path, 1)


def test_files_of_the_kernel_say_no_size_and_are_read():
    assert b"MemTotal" in read_limited("/proc/meminfo", 1 << 20)


def test_json_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1, 2]}))
    assert read_json(path) == {"a": [1, 2]}
    with pytest.raises(OSError, match="larger than 3 bytes"):
        read_json(path, 3)


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe\x00", b"[" * 1_000_000])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"nested|Expecting|decode"):
        parse_json(text)


def test_the_tail_of_a_large_file_is_read_alone(tmp_path):
    path = tmp_path / "log"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"\xff the end")
    assert read_tail(path, 9) == "\ufffd the end"
    assert len(read_tail(path, 100)) == 100
