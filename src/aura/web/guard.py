"""What every request has to pass before anything looks at it: sizes, Host, Origin, method. And what every answer bears.

Loopback is no boundary: a page in the user's browser can reach it too. It cannot choose its ``Host`` (rebinding a name
to 127.0.0.1 leaves the foreign name there), nor its ``Origin`` and ``Sec-Fetch-Site``, so these three are checked.
"""

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

from starlette.types import Scope

from aura.errors import RequestError

MAX_URL = 8 * 1024
MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 * 1024
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
DEFAULT_PORTS = {"http": 80, "https": 443}

_COMMON_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


def security_headers(present: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that an answer bears besides those it has; one that it has itself is left alone."""
    own = {name.lower() for name, _ in present}
    return [header for header in _COMMON_HEADERS if header[0] not in own]


class Guard(NamedTuple):
    """The names under which this server may be asked. ``any_host``: on a Unix socket, which no browser can reach."""

    hosts: frozenset[str] = LOOPBACK_NAMES
    any_host: bool = False

    def check(self, scope: Scope) -> None:
        """Refuse what must not get further.

        Raises:
            RequestError: with the code that says why.
        """
        _check_size(scope)
        if scope["http_version"] != "1.1":
            raise RequestError("bad_header", f"HTTP/{scope['http_version']} is not spoken here; use HTTP/1.1")
        headers = scope["headers"]
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}:
            raise RequestError("bad_header", "Content-Length and Transfer-Encoding exclude each other")
        host = only_header(headers, b"host")
        if not self._answers_for(host, scope):
            raise RequestError("foreign_host", f"this server does not answer for the Host {host[:200]!r}")
        if scope["method"] not in METHODS:
            message = f"the method {scope['method'][:40]!r} is not known here"
            raise RequestError("method_not_allowed", message, extra={"allow": METHODS})
        _check_origin(scope, host)

    def _answers_for(self, host: str, scope: Scope) -> bool:
        if self.any_host:
            return bool(host)
        name, port = split_host(host)
        local, local_port = scope["server"] or ("", None)
        right_port = (port or DEFAULT_PORTS[scope["scheme"]]) == local_port
        own = f"[{local}]" if ":" in local else local
        return right_port and (name in self.hosts or name == own)


def split_host(host: str) -> tuple[str, int | None]:
    """Split ``name:port`` or ``[v6]:port``, the name in lower case; an unreadable one gives an empty name."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        return host.lower(), None
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        return "", None
    return name.lower(), int(port)


def only_header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> str:
    """The value of a header that must be there once.

    Raises:
        RequestError: ``bad_header``.
    """
    found = [value for name, value in headers if name == wanted]
    if len(found) != 1:
        raise RequestError("bad_header", f"there must be one header {wanted.decode()}, not {len(found)}")
    return found[0].decode("latin-1")


def _check_size(scope: Scope) -> None:
    if len(scope["raw_path"]) + len(scope["query_string"]) + 1 > MAX_URL:
        raise RequestError("uri_too_long", f"the URL is longer than {MAX_URL} bytes")
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS or sum(len(n) + len(v) + 4 for n, v in headers) > MAX_HEADER_BYTES:
        raise RequestError("headers_too_large", f"more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them")


def _check_origin(scope: Scope, host: str) -> None:
    """Refuse what a page of another site sent (the rule of Go's CrossOriginProtection, for streams and reads too).

    A link from elsewhere to a page of ours stays possible: a plain GET outside ``/api/`` without an ``Origin``.
    """
    headers = dict(scope["headers"])
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower() != f"{scope['scheme']}://{host}".lower():
        raise RequestError("foreign_origin", "requests from the pages of other sites are refused")
    guarded = scope["method"] not in SAFE_METHODS or scope["path"].startswith("/api/") or scope["type"] == "websocket"
    if guarded and headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
        raise RequestError("foreign_origin", "requests from the pages of other sites are refused")


def is_plain_path(raw_path: bytes) -> bool:
    """Say whether a path means what it looks like: no empty or dot segment, nothing hidden by an encoding.

    Whatever else is asked for is not found, so that no two spellings of a path can be told apart by different rules.
    """
    path = unquote(raw_path.decode("latin-1"))
    if b"%2f" in raw_path.lower() or any(char in path for char in "\\;") or not path.isprintable():
        return False
    parts = path.split("/")
    return path == "/" or (len(parts) > 1 and not parts[0] and all(part not in ("", ".", "..") for part in parts[1:]))
