"""Who may use the operator page."""

import pytest

from rlt_common.parameters import ParameterError
from rlt_teleop.page_auth import SESSION_S, VARIABLE, Access, check_address, read_token

TOKEN = "a token that is long enough"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "127.1.2.3"])
def test_this_machine_alone_needs_no_token(address):
    check_address(address, "")


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.7"])
def test_any_other_address_needs_one(address):
    with pytest.raises(ParameterError, match=f"{address}.*{VARIABLE}"):
        check_address(address, "")
    check_address(address, TOKEN)


def test_a_name_is_no_address():
    with pytest.raises(ParameterError, match="no IP address"):
        check_address("robot.local", TOKEN)


def test_the_token_comes_from_a_file_that_only_its_owner_reads(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o640)
    with pytest.raises(ParameterError, match="chmod 600"):
        read_token(str(file), {})
    file.chmod(0o600)
    assert read_token(str(file), {VARIABLE: "another one, long enough"}) == TOKEN


def test_or_from_the_environment(tmp_path):
    assert read_token("", {VARIABLE: TOKEN}) == TOKEN
    assert read_token("", {}) == ""


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 20, b"x" * 600, b"with a\nline end in it"])
def test_what_is_no_token_is_refused_with_its_file(tmp_path, content):
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ParameterError, match=str(file)):
        read_token(str(file), {})


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="No such file"):
        read_token(str(tmp_path / "none"), {})


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8091", "localhost:99", "LOCALHOST", "[::1]:8091", "192.168.1.7", "robot:1"]
)
def test_addresses_and_own_names_are_this_machine(host):
    assert Access("", ["Robot"]).host(host)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8091", "127.0.0.1.evil.example", "", None, "robot@evil", "a b", "[::1", "é"]
)
def test_another_name_is_not_whoever_its_dns_points_at(host):
    try:
        assert not Access("", ["robot"]).host(host)
    except ValueError:
        pytest.fail("must be an answer, not an error")


def test_only_the_page_itself_acts():
    access = Access("")
    assert access.origin("http://localhost:8091", "localhost:8091")
    for origin in (
        "http://evil.example",
        "http://localhost:8092",
        "null",
        "",
        None,
        "http://localhost:8091@evil",
        "file://",
    ):
        assert not access.origin(origin, "localhost:8091"), origin


def test_a_session_lasts_its_time_survives_a_restart_and_ends_with_the_token():
    session = Access(TOKEN).session(1000.0)
    again = Access(TOKEN)
    assert again.valid(session, 1000.0 + SESSION_S - 1)
    assert not again.valid(session, 1001.0 + SESSION_S)
    assert not Access(TOKEN + "!").valid(session, 1000.0)


@pytest.mark.parametrize(
    "session", [None, "", ".", "99999999999.", "99999999999.00ff", "٣.x", "x.y", "9" * 40 + ".a", "1.é"]
)
def test_a_forged_session_is_none(session):
    assert not Access(TOKEN).valid(session, 1000.0)


def test_without_a_token_nobody_signs_in():
    assert Access("").valid(None, 0.0)
    assert not Access("").right("")
    assert Access(TOKEN).right(TOKEN)
    assert not Access(TOKEN).right("")
