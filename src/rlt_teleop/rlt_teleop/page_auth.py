"""Who may use the operator page. Pure.

Without a token the page is served on this machine alone. With one, whoever has typed it gets a cookie that is signed
with it: it survives a restart of the node, and ends when the token is changed. Pages of other sites are kept out by
the Host header (DNS that points at this machine) and the Origin header (their scripts and forms).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import stat
import urllib.parse
from collections.abc import Iterable, Mapping

from rlt_common.parameters import ParameterError
from rlt_common.reading import read_limited

COOKIE = "rlt_operator_page"
SESSION_S = 7 * 24 * 3600
VARIABLE = "RLT_PAGE_TOKEN"
SHORTEST, _LONGEST = 16, 512
LOCAL_NAMES = ("localhost",)


def read_token(token_file: str, environment: Mapping[str, str] = os.environ) -> str:
    """The token: of the file, or of the environment variable RLT_PAGE_TOKEN; "": none.

    Raises ParameterError when it is too short, when others may read the file, or when it cannot be read.
    """
    token, where = environment.get(VARIABLE, "").strip(), VARIABLE
    if token_file:
        where = f"token_file: {token_file}"
        try:
            if os.stat(token_file).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ParameterError(f"{where}: others may read it: chmod 600 {token_file}")
            token = read_limited(token_file, _LONGEST).decode().strip()
        except OSError as error:
            raise ParameterError(f"{where}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ParameterError(f"{where}: it is no text") from error
    if (token or token_file) and not (SHORTEST <= len(token) <= _LONGEST and token.isprintable()):
        raise ParameterError(f"{where}: a token has {SHORTEST} to {_LONGEST} printable characters")
    return token


def check_address(address: str, token: str) -> None:
    """Raise ParameterError unless the page may be served at this address."""
    try:
        local = ipaddress.ip_address(address).is_loopback
    except ValueError as error:
        raise ParameterError(f"address: {address!r} is no IP address: for example 127.0.0.1, or 0.0.0.0") from error
    if not local and not token:
        raise ParameterError(
            f"address: {address}: whoever reaches it could press the buttons: give a token (token_file, or {VARIABLE} "
            "in the environment), or stay at 127.0.0.1 and use ssh -L"
        )


class Access:
    """Judges requests.

    Args:
        token: "": none is needed.
        host_names: names, beside IP addresses and localhost, by which the page may be reached.
    """

    def __init__(self, token: str, host_names: Iterable[str] = ()) -> None:
        self._token = token.encode()
        self._names = {name.lower() for name in (*LOCAL_NAMES, *host_names) if name}

    @property
    def needed(self) -> bool:
        """Whether a token is needed."""
        return bool(self._token)

    def host(self, header: str | None) -> bool:
        """Whether a Host header names this machine: an IP address, localhost, or one of its names.

        A name that somebody else's DNS points here is none of them.
        """
        name = _split(f"//{header}").hostname if _plain(header) else None
        if name is None:
            return False
        if name.lower() in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def origin(self, origin: str | None, host: str | None) -> bool:
        """Whether an Origin header is the page itself. Browsers send one with what acts, and with WebSockets."""
        if not _plain(origin) or not host:
            return False
        found = _split(origin)
        return found.scheme in ("http", "https") and found.netloc.lower() == host.lower()

    def right(self, token: str) -> bool:
        """Whether it is the token; takes the same time whatever is wrong."""
        return self.needed and hmac.compare_digest(_digest(token.encode()), _digest(self._token))

    def session(self, now_s: float) -> str:
        """A cookie's value, for SESSION_S from Unix time `now_s`."""
        expires = str(int(now_s) + SESSION_S)
        return f"{expires}.{self._signed(expires)}"

    def valid(self, session: str | None, now_s: float) -> bool:
        """Whether who brings this cookie's value may use the page."""
        if not self.needed:
            return True
        expires, _, signature = (session or "").partition(".")
        if not (expires.isdecimal() and expires.isascii() and len(expires) < 16):
            return False
        right = hmac.compare_digest(signature.encode(), self._signed(expires).encode())
        return right and now_s < int(expires)

    def _signed(self, expires: str) -> str:
        return hmac.new(self._token, f"operator page {expires}".encode(), hashlib.sha256).hexdigest()


def _plain(header: str | None) -> bool:
    return header is not None and header.isascii() and header.isprintable() and not set(header) & set("@\\ ")


def _split(url: str | None) -> urllib.parse.SplitResult:
    try:
        return urllib.parse.urlsplit(url or "")
    except ValueError:
        return urllib.parse.urlsplit("")


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
