"""The HTTP door of a served server, for tests that start no command for each question: requests and bare streams."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.fakes.served import Served

#: What makes a request the handshake of a WebSocket.
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Answered(NamedTuple):
    """An answer; ``body`` is its JSON."""

    status: int
    body: Any


class Reader:
    """An open stream on a bare socket, beyond its head."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.text = b""

    def wait_for(self, text: str, seconds: float = 15.0) -> None:
        """Read until ``text`` has come."""
        self.sock.settimeout(seconds)
        while text.encode() not in self.text:
            chunk = self.sock.recv(1 << 20)
            assert chunk, f"the stream ended without {text!r}"
            self.text = self.text[-1000:] + chunk

    def unsent(self) -> int:
        """How many bytes the kernel holds on the server's side since this side does not take them (``proc(5)``)."""
        ends = [_as_in_proc(self.sock.getpeername()), _as_in_proc(self.sock.getsockname())]
        with open("/proc/net/tcp", encoding="ascii") as connections:
            rows = [line.split() for line in connections]
        return sum(int(row[4].partition(":")[0], 16) for row in rows if row[1:3] == ends)

    def close(self) -> None:
        self.sock.close()


def _as_in_proc(address: tuple[str, int]) -> str:
    return f"{socket.inet_aton(address[0])[::-1].hex().upper()}:{address[1]:04X}"


class Door:
    """Asks one server, each time on a connection of its own."""

    def __init__(self, served: Served) -> None:
        where = urlsplit(served.address)
        assert where.hostname
        assert where.port
        self._address = (where.hostname, where.port)
        self._authority = where.netloc
        token = served.folder / "data" / "token"
        self._token = token.read_text().strip() if token.exists() else "none is asked for"

    def ask(self, method: str, path: str, body: Any = None) -> Answered:
        connection = http.client.HTTPConnection(*self._address, timeout=20)
        try:
            connection.request(method, path, self._json(body), self._headers())
            answer = connection.getresponse()
            return Answered(answer.status, json.loads(answer.read()))
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.body

    def run(self, task: str, **more: Any) -> str:
        """Have a task of plan ``lab`` accepted; its run's id."""
        answer = self.ask("POST", "/api/tasks/run", {"plan_name": "lab", "task_name": task} | more)
        assert (answer.status, answer.body["state"]) == (202, "queued"), answer
        cid: str = answer.body["cid"]
        return cid

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        receive_buffer: int | None = None,
        more: Mapping[str, str] | None = None,
    ) -> socket.socket:
        """Send a request, with ``more`` headers, and leave its answer on the socket."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(20)
        sock.connect(self._address)
        content = self._json(body)
        headers = self._headers() | {"Host": self._authority} | dict(more or {"Content-Length": str(len(content))})
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        sock.sendall("\r\n".join([*lines, "", ""]).encode() + content)
        return sock

    def read(self, path: str, receive_buffer: int | None = None) -> Reader:
        """Open a stream and read the first line of its head."""
        sock = self.send("GET", path, receive_buffer=receive_buffer)
        assert sock.recv(12) == b"HTTP/1.1 200"
        return Reader(sock)

    def listen(self, path: str, receive_buffer: int | None = None) -> Reader:
        """Open a WebSocket and read the first line of the answer to its handshake."""
        sock = self.send("GET", path, receive_buffer=receive_buffer, more=HANDSHAKE)
        assert sock.recv(12) == b"HTTP/1.1 101"
        return Reader(sock)

    def _json(self, body: Any) -> bytes:
        return b"" if body is None else json.dumps(body).encode()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}


def wait_until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Look until something is so; fails when it does not become so in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.02)
