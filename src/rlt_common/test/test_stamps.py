"""A stamp that no clock shows is refused where it comes in."""

import pytest
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st

from rlt_common.codecs import CodecError, stamp_ns, to_time


@given(sec=st.integers(0, 2**31 - 1), nanosec=st.integers(0, 999_999_999))
def test_a_stamp_comes_back(sec, nanosec):
    time = Time(sec=sec, nanosec=nanosec)
    assert to_time(stamp_ns(time)) == time


@pytest.mark.parametrize(("sec", "nanosec"), [(-1, 0), (0, 1_000_000_000), (2**31 - 1, 2**32 - 1)])
def test_an_impossible_stamp_is_an_error_that_says_it(sec, nanosec):
    with pytest.raises(CodecError, match=f"a stamp of {sec} s and {nanosec} ns"):
        stamp_ns(Time(sec=sec, nanosec=nanosec))
