"""A small HTTP server on loopback that answers as a test tells it and keeps what it was asked."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Event, Thread
from types import MappingProxyType
from typing import Any, NamedTuple

PROBLEM = "application/problem+json"


class Asked(NamedTuple):
    """One request, its path with the query; ``body`` is the JSON, None if there was none."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Answer(NamedTuple):
    """What to answer. ``stream`` is sent piece by piece; after it the connection is closed, or held until the end."""

    status: int = 200
    body: Any = None
    stream: tuple[str, ...] = ()
    content_type: str = "application/json"
    hold: bool = False
    headers: Mapping[str, str] = MappingProxyType({})


#: No answer: the connection is closed when the request has come.
CUT = Answer(status=0)


class FakeServer:
    """``answers`` maps ``GET /path`` to one answer for ever, or to a list of them of which the last one stays."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[Asked] = []
        self.news = Condition()
        self.over = Event()
        self.url = ""

    def answer(self, asked: Asked) -> Answer:
        found = self.answers.get(f"{asked.method} {asked.path}", self.answers.get(f"{asked.method} *"))
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        if found is None:
            missing = {"code": "not_found", "detail": f"nothing at {asked.path}"}
            return Answer(404, missing, content_type=PROBLEM)
        return found if isinstance(found, Answer) else Answer(body=found)

    def wait_asked(self, path: str, seconds: float = 10.0) -> None:
        """Wait until a request for ``path`` has come."""
        with self.news:
            assert self.news.wait_for(lambda: any(asked.path == path for asked in self.asked), seconds)

    def bodies(self, path: str) -> list[Any]:
        """What was posted there."""
        return [asked.body for asked in self.asked if asked.path == path]


def sse(*messages: tuple[str, str, Any]) -> str:
    """Messages ``(name, id, data)`` as an SSE stream has them; records have no name."""
    lines = []
    for name, number, data in messages:
        lines.append(f"event: {name}\n" if name else "")
        lines.append(f"id: {number}\ndata: {json.dumps(data)}\n\n")
    return "".join(lines)


def stream(*pieces: str, hold: bool = False) -> Answer:
    """An SSE answer."""
    return Answer(stream=pieces, content_type="text/event-stream", hold=hold)


def problem(status: int, code: str, detail: str = "no", **more: Any) -> Answer:
    """A refusal."""
    document = {"type": code, "title": code, "status": status, "detail": detail, "code": code, "errors": []}
    return Answer(status, document | more, content_type=PROBLEM)


@contextmanager
def open_fake_server() -> Iterator[FakeServer]:
    """Serve in threads; at the end streams that are held end and all threads are waited for."""
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            asked = Asked(self.command, self.path, dict(self.headers), body)
            with fake.news:
                fake.asked.append(asked)
                fake.news.notify_all()
            answer = fake.answer(asked)
            if answer is CUT:
                self.close_connection = True
            else:
                self.send(answer)

        def send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Connection", "close")
            for name, value in answer.headers.items():
                self.send_header(name, value)
            raw = json.dumps(answer.body).encode() if answer.body is not None else b""
            if not answer.stream and not answer.hold:
                self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)
            for piece in answer.stream:
                self.wfile.write(piece.encode())
            if answer.hold:
                fake.over.wait(10)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_address[1]}"
        serving = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield fake
        finally:
            fake.over.set()
            server.shutdown()
            serving.join()
