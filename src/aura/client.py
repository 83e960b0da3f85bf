"""A client of a running server, for commands and programs that may block: requests, refusals, resumed streams.

It owns how a server and its token are found and what travels over the wire; answers stay plain JSON data, as
``docs/reference/http.md`` gives them. What the server refuses is raised as ``Refused``, with its code; a server that
does not answer is ``Unreachable``. A client may be used from several threads at once.

httpx2 is imported when the first client is opened, so that commands that need none are quick.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

import msgspec

from aura import __version__
from aura.config import Settings, is_loopback
from aura.errors import FieldError, NotPermitted, Refused, Unreachable

if TYPE_CHECKING:
    import httpx2

Json = dict[str, Any]

TOKEN_FILE = "token"  # noqa: S105 - the name of a file, not a secret
UDS_SCHEME = "unix:"
#: Seconds without a byte after which a stream counts as lost; the server sends a comment every 15 s.
STREAM_SILENCE = 45.0
#: Seconds for which a lost stream is asked for again, and between two tries.
PATIENCE = 10.0
RETRY_DELAY = 0.5


class Target(msgspec.Struct, frozen=True):
    """Where a server is and what to say to it. With ``uds``, ``url`` only gives the host's name."""

    url: str
    token: str | None = None
    uds: Path | None = None
    cafile: Path | None = None

    def __str__(self) -> str:
        return f"{UDS_SCHEME}{self.uds}" if self.uds else self.url


class Message(msgspec.Struct, frozen=True):
    """One record of a stream. ``name`` is ``message`` for logs and events, else ``gap end shutdown``."""

    name: str
    id: str
    data: Json


def find_target(settings: Settings, environ: Mapping[str, str], server: str | None = None) -> Target:
    """Find the server (``server``, else ``AURA_SERVER``, else the settings) and the token.

    Raises:
        NotPermitted: the token's file cannot be read.
        Unreachable: the address cannot be one.
    """
    token = environ.get("AURA_TOKEN") or read_token(settings.data)
    server = server or environ.get("AURA_SERVER")
    if server:
        return _named(server, token)
    here = settings.server
    if here.uds:
        return Target("http://localhost", token, here.uds)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(here.host, here.host)  # noqa: S104 - not bound, asked
    scheme = "https" if here.tls_cert else "http"
    return Target(f"{scheme}://{f'[{host}]' if ':' in host else host}:{here.port}", token, cafile=here.tls_cert)


def read_token(data: Path) -> str | None:
    """The local token that ``aura serve`` left in the data folder; None if no server has run with that folder yet.

    Raises:
        NotPermitted: it is there, and this user may not read it.
    """
    file = data / TOKEN_FILE
    try:
        return file.read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        message = f"{file}: {error}; run this as the server's user, or set AURA_TOKEN"
        raise NotPermitted(message) from error


def _named(server: str, token: str | None) -> Target:
    if server.startswith(UDS_SCHEME):
        return Target("http://localhost", token, Path(server.removeprefix(UDS_SCHEME)))
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Unreachable(f"{server!r} is not a server's address; say http://127.0.0.1:8700 or unix:PATH")
    return Target(server.rstrip("/"), token)


class Client:
    """A connection to one server; close it, or use it as a context manager."""

    def __init__(self, target: Target, agent: str = "aura-client") -> None:
        """``agent`` says who asks; a run that ``aura-cli`` asked for has the cause ``cli``."""
        import httpx2

        self.target = target
        headers = {"User-Agent": f"{agent}/{__version__}", "Accept": "application/json"}
        if target.token:
            headers["Authorization"] = f"Bearer {target.token}"
        try:
            self._http = httpx2.Client(
                base_url=target.url,
                headers=headers,
                timeout=httpx2.Timeout(30.0, connect=5.0),
                transport=_transport(target),
            )
        except httpx2.InvalidURL as error:
            raise Unreachable(f"{target}: {error}; say http://127.0.0.1:8700 or unix:PATH") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # -- requests ------------------------------------------------------------------------------------------------------

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """Ask; None values in ``params`` are left out."""
        return self._request("GET", path, params=_given(params))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Tell; without a body nothing is sent."""
        return self._request("POST", path, json=body)

    def status(self) -> Json:
        """What the server is and how it fares."""
        return _object(self.get("/api/system/status"))

    def start(self) -> Json:
        """Start the engine → ``{state}``."""
        return _object(self.post("/api/system/start"))

    def stop(self, mode: str, grace_s: float | None = None) -> Json:
        """Stop the engine, ``mode`` ``drain`` or ``cancel`` → ``{state}``."""
        return _object(self.post("/api/system/stop", _given({"mode": mode, "grace_s": grace_s})))

    def reload(self) -> list[Json]:
        """Load the plans again → each with its status and errors."""
        return list(_object(self.post("/api/system/reload"))["plans"])

    def plans(self) -> list[Json]:
        """All plans."""
        return list(self.items("/api/plans"))

    def tasks(self, plan_name: str) -> list[Json]:
        """The tasks of a plan."""
        return list(self.items(f"/api/plans/{_quoted(plan_name)}/tasks"))

    def task(self, plan_name: str, task_name: str) -> Json:
        """One task, with the JSON Schema of its inputs."""
        return _object(self.get(f"/api/plans/{_quoted(plan_name)}/tasks/{_quoted(task_name)}"))

    def run_task(self, request: Mapping[str, Any]) -> Json:
        """Ask for a run: ``{plan_name, task_name, inputs?, …}`` → ``{cid, state, plan_name, task_name}``."""
        return _object(self.post("/api/tasks/run", request))

    def cancel(self, cid: str, reason: str | None = None) -> Json:
        """Cancel a run → ``{cid, state}``; of an ended one ``Refused`` with the code ``ended``."""
        return _object(self.post(f"/api/tasks/{_quoted(cid)}/cancel", _given({"reason": reason})))

    def get_run(self, cid: str) -> Json:
        """One whole run."""
        return _object(self.get(f"/api/runs/{_quoted(cid)}"))

    def active_runs(self) -> Iterator[Json]:
        """What runs now."""
        return self.items("/api/runs/active")

    def runs(self, **filters: Any) -> Iterator[Json]:
        """Short records, newest first, fetched page by page as they are taken."""
        return self.items("/api/runs", filters)

    def logs(self, cid: str, level: str | None = None) -> Iterator[Json]:
        """The stored log lines of a run, of ``level`` or above."""
        return self.items(f"/api/runs/{_quoted(cid)}/logs", {"level": level, "limit": 1000})

    def items(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[Json]:
        """The items of a list, over all its pages."""
        cursor = None
        while True:
            page = _object(self.get(path, {**(params or {}), "cursor": cursor}))
            yield from page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def _request(self, method: str, path: str, **options: Any) -> Any:
        with self._unreachable():
            answer = self._http.request(method, path, **options)
        if not answer.is_success:
            raise _refusal(answer)
        return _decode(answer)

    # -- streams -------------------------------------------------------------------------------------------------------

    def follow_run(self, cid: str) -> Iterator[Message]:
        """Everything of one run from its start, until the message ``end``, whose data is the run's last event."""
        return self.stream(f"/api/runs/{_quoted(cid)}/events")

    def follow_logs(self, **filters: Any) -> Iterator[Message]:
        """Log lines as they come, without an end."""
        return self.stream("/api/logs/stream", filters)

    def stream(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[Message]:
        """Read a stream and, when it breaks, ask for it again from where it was.

        Raises:
            Unreachable: nobody answers at first, or nobody has for ``PATIENCE`` seconds after it broke.
            Refused: the server does not give it.
        """
        last, lost_at = "", None
        while True:
            alive = False
            try:
                for message in self._stream_once(path, params, last):
                    alive = True
                    if message is None:
                        continue
                    last = message.id or last
                    yield message
                    if message.name == "end":
                        return
            except (Unreachable, Refused) as error:
                passing = isinstance(error, Unreachable) or error.status == 503
                waited = lost_at is not None and time.monotonic() - lost_at <= PATIENCE
                if not (passing and (alive or waited)):
                    raise
            except _Over:
                return
            lost_at = time.monotonic() if alive or lost_at is None else lost_at
            time.sleep(RETRY_DELAY)

    def _stream_once(self, path: str, params: Mapping[str, Any] | None, last: str) -> Iterator[Message | None]:
        """The messages of one connection, after a None that says that it stands."""
        import httpx2

        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        timeout = httpx2.Timeout(30.0, connect=5.0, read=STREAM_SILENCE)
        with (
            self._unreachable(),
            self._http.stream("GET", path, params=_given(params), headers=headers, timeout=timeout) as answer,
        ):
            if answer.status_code == 204:
                raise _Over
            if not answer.is_success:
                answer.read()
                raise _refusal(answer)
            yield None
            for event in httpx2.EventSource(answer, max_event_size=None):
                yield Message(event.event, event.id, msgspec.json.decode(event.data) if event.data else {})

    @contextmanager
    def _unreachable(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except (httpx2.TransportError, httpx2.InvalidURL, OSError) as error:
            message = f"no server answers at {self.target} ({_reason(error)})"
            raise Unreachable(f"{message}; start one with `aura serve`, or name one with --server") from error


class _Over(Exception):
    """The stream had ended before: 204."""


def _transport(target: Target) -> "httpx2.BaseTransport | None":
    """A server on this machine is asked directly, never over a proxy, and plain HTTP needs no certificates."""
    import httpx2

    host = urlsplit(target.url).hostname or ""
    if target.url.startswith("https:"):
        verify = httpx2.create_ssl_context(verify=os.fspath(target.cafile)) if target.cafile else True
        return httpx2.HTTPTransport(verify=verify) if target.cafile else None
    if target.uds or is_loopback(host):
        return httpx2.HTTPTransport(uds=os.fspath(target.uds) if target.uds else None, verify=False)
    return None


def _quoted(name: str) -> str:
    """A name in a path: a task's slash stays one."""
    return quote(name, safe="/")


def _given(params: Mapping[str, Any] | None) -> Json:
    return {key: value for key, value in (params or {}).items() if value is not None}


def _object(answer: Any) -> Json:
    if not isinstance(answer, dict):
        raise Refused(200, "unknown", "the answer is not an object; is this address an Aura server's?")
    return answer


def _decode(answer: "httpx2.Response") -> Any:
    try:
        return msgspec.json.decode(answer.content)
    except msgspec.DecodeError as error:
        message = f"the answer of {answer.url} is not JSON; is this address an Aura server's?"
        raise Refused(answer.status_code, "unknown", message) from error


def _refusal(answer: "httpx2.Response") -> Refused:
    try:
        document = _object(_decode(answer))
        code, detail = str(document["code"]), str(document.get("detail") or document.get("title"))
        errors = msgspec.convert(document.get("errors") or [], list[FieldError])
    except (Refused, KeyError, msgspec.ValidationError):
        message = f"{answer.url} answered {answer.status_code}; is this address an Aura server's?"
        return Refused(answer.status_code, "unknown", message)
    known = ("type", "title", "status", "detail", "code", "errors")
    extra = {key: value for key, value in document.items() if key not in known}
    return Refused(answer.status_code, code, detail, errors, extra)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def request_of(plan_name: str, task_name: str, inputs: Mapping[str, Any], **options: Any) -> Json:
    """The body of ``run_task``; options that are None or empty are left out."""
    given: Sequence[tuple[str, Any]] = [(key, value) for key, value in options.items() if value not in (None, {}, [])]
    return {"plan_name": plan_name, "task_name": task_name, "inputs": dict(inputs)} | dict(given)
