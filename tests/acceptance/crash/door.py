"""How the clients of the crash tests ask a server: over one connection each, with the token, as JSON."""

import http.client
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

#: Seconds within which an answer comes, or the server is dead.
ANSWER_TIME = 20.0
#: What it looks like when the server dies under a request.
CUT_OFF = (OSError, http.client.HTTPException)


class Where(NamedTuple):
    """A server that is ready, and how to be let in."""

    address: str
    token: str


class Door(NamedTuple):
    """A connection with the token."""

    connection: http.client.HTTPConnection
    token: str

    def ask(
        self, method: str, path: str, body: Any = None, once: str | None = None, secret: str | None = None
    ) -> tuple[int, Any]:
        """The status and the body of an answer. ``once`` is the idempotency key; ``secret`` goes in the token's place.

        Raises:
            OSError, HTTPException: the server died under it (``CUT_OFF``).
        """
        headers = {"Authorization": f"Bearer {secret or self.token}", "Content-Type": "application/json"}
        if once is not None:
            headers["Idempotency-Key"] = once
        data = None if body is None else msgspec.json.encode(body)
        self.connection.request(method, path, data, headers)
        answer = self.connection.getresponse()
        return answer.status, msgspec.json.decode(answer.read() or b"null")

    def log_in(self) -> tuple[int, str]:
        """Trade a one-time code; the status and the secret of the session."""
        _, made = self.ask("POST", "/api/login/codes")
        data = msgspec.json.encode({"code": made["code"]})
        self.connection.request("POST", "/api/login", data, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("Set-Cookie", "").partition(";")[0].partition("=")[2]

    def as_browser(self, method: str, path: str, secret: str) -> int:
        """Ask by the cookie of a session; the status. Its name has the port, which each life has its own of."""
        host, port = self.connection.host, self.connection.port
        headers = {"Cookie": f"aura_session_{port}={secret}", "Origin": f"http://{host}:{port}"}
        self.connection.request(method, path, None, headers)
        answer = self.connection.getresponse()
        answer.read()
        return answer.status


def connect(where: Where) -> Door:
    """A connection that is opened with the first request; close its ``connection``."""
    address = urlsplit(where.address)
    assert address.hostname
    return Door(http.client.HTTPConnection(address.hostname, address.port, timeout=ANSWER_TIME), where.token)


def ask(where: Where, method: str, path: str, body: Any = None) -> Any:
    """Ask one thing on a connection of its own and give the answer's body."""
    door = connect(where)
    with closing(door.connection):
        return door.ask(method, path, body)[1]
