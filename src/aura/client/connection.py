"""One server, asked over HTTP: what travels, what is asked again by itself, and what counts as nobody being there.

A request is asked again when the connection was lost under it, if asking twice does no harm: it only reads, or it has
an idempotency key. A server that has answered this client before is waited for ``PATIENCE`` seconds then, so that a
restart is not noticed; one that never has is said to be unreachable at once. Refusals are never asked again, but for
those of a server that is just going or coming after it was lost.

httpx2 is imported when the first connection is made, so that commands that need none are quick.
"""

import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import anyio

from aura import __version__
from aura.client.answers import refusal
from aura.client.target import Target
from aura.config import is_loopback
from aura.errors import Refused, Unreachable

if TYPE_CHECKING:
    import httpx2

#: Seconds for which a lost server is waited for.
PATIENCE = 10.0
#: Seconds between two tries: the first pause, and the longest. Each is shortened by chance, to half at the most.
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 2.0
#: Seconds that an answer may take beyond what the request itself asks to wait.
ANSWER_TIMEOUT = 30.0
CONNECT_TIMEOUT = 5.0
#: Seconds that hanging up may take.
HANG_UP = 1.0
_PASSING = frozenset({"shutting_down", "storage_unavailable", "too_many_streams", "too_many_connections"})


class Waiting:
    """How long a lost server is waited for still, and the pauses between the tries."""

    def __init__(self) -> None:
        self._lost_at: float | None = None
        self._pause = FIRST_PAUSE

    @property
    def begun(self) -> bool:
        """Whether the server was lost and has not answered since."""
        return self._lost_at is not None

    def over(self) -> None:
        """Note that the server answers again."""
        self._lost_at = None

    def calm(self) -> None:
        """Let the next pause be a short one: what was asked for has come."""
        self._pause = FIRST_PAUSE

    async def pause(self, error: Exception) -> None:
        """Wait for the next try.

        Raises:
            Exception: ``error``, when ``PATIENCE`` is over.
        """
        now = time.monotonic()
        self._lost_at = now if self._lost_at is None else self._lost_at
        if now - self._lost_at > PATIENCE:
            raise error
        await anyio.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311 - not for secrets
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


class Connection:
    """The connections to one server, made as they are needed."""

    def __init__(self, target: Target, agent: str) -> None:
        import httpx2

        self.target = target
        headers = {"User-Agent": f"{agent}/{__version__}", "Accept": "application/json"}
        if target.token:
            headers["Authorization"] = f"Bearer {target.token}"
        try:
            self._http = httpx2.AsyncClient(
                base_url=target.url,
                headers=headers,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
                transport=_transport(target),
            )
        except httpx2.InvalidURL as error:
            raise Unreachable(f"{target}: {error}; say http://127.0.0.1:8700 or unix:PATH") from error
        self._has_answered = False
        #: What is being read piece by piece.
        self._open: set[httpx2.Response] = set()

    async def aclose(self) -> None:
        """Close everything, what is still read piece by piece included."""
        for answer in list(self._open):
            await self.hang_up(answer)
        await self._http.aclose()

    async def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        wait: float = 0.0,
        fine: frozenset[int] = frozenset(),
    ) -> "httpx2.Response":
        """Ask once, or as often as it takes; None values in ``params`` and ``body`` are left out.

        ``repeatable``: it may be asked twice; of a GET that is understood. ``wait``: seconds that the request asks the
        server to wait. ``fine``: statuses of failure that are answers.

        Raises:
            Refused: the server said no.
            Unreachable: nobody answers.
        """
        repeatable = method == "GET" if repeatable is None else repeatable
        content = None if body is None else given(body)
        options: dict[str, Any] = {"params": given(params), "json": content, "headers": headers or {}}
        waiting = Waiting()
        while True:
            try:
                answer = await self._send_once(method, path, options, wait)
            except Unreachable as error:
                if not (repeatable and self.is_lost(error)):
                    raise
                await waiting.pause(error)
                continue
            if answer.is_success or answer.status_code in fine:
                return answer
            refused = refusal(answer)
            if not (waiting.begun and is_passing(refused)):
                raise refused
            await waiting.pause(refused)

    async def _send_once(self, method: str, path: str, options: dict[str, Any], wait: float) -> "httpx2.Response":
        with self.speaking():
            return await self._http.request(method, path, timeout=_timeout(ANSWER_TIMEOUT + wait), **options)

    async def open(
        self, path: str, *, params: Mapping[str, Any] | None, headers: Mapping[str, str], silence: float
    ) -> "httpx2.Response":
        """Ask for what is read piece by piece; who asks hangs up, and reads inside ``speaking``.

        ``silence``: seconds without a byte after which it counts as lost.

        Raises:
            Refused: the server does not give it.
            Unreachable: nobody answers.
        """
        options: dict[str, Any] = {"params": given(params), "headers": headers, "timeout": _timeout(silence)}
        with self.speaking():
            answer = await self._http.send(self._http.build_request("GET", path, **options), stream=True)
            self._open.add(answer)
            if answer.is_success:
                return answer
            try:
                await answer.aread()
            finally:
                await self.hang_up(answer)
        raise refusal(answer)

    async def hang_up(self, answer: "httpx2.Response") -> None:
        """End what is read piece by piece."""
        self._open.discard(answer)
        # Alone in the scope is the closing of one socket, which the limit ends; the shield lets it happen though the
        # caller is cancelled.
        with anyio.move_on_after(HANG_UP, shield=True):
            await answer.aclose()

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Turn what goes wrong between here and the server into ``Unreachable``; no stream is ``Refused``."""
        import httpx2

        try:
            yield
        except httpx2.SSEError as error:
            raise Refused(200, "unknown", f"the stream of {self.target} cannot be read: {error}") from error
        except (httpx2.TransportError, httpx2.InvalidURL, OSError) as error:
            message = f"no server answers at {self.target} ({_reason(error)})"
            raise Unreachable(f"{message}; start one with `aura serve`, or name one with --server") from error
        self._has_answered = True

    def is_lost(self, error: Unreachable) -> bool:
        """Whether a server was there and has gone, so that it may come back; a silent one was not lost."""
        import httpx2

        if isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout):
            return self._has_answered
        return isinstance(error.__cause__, httpx2.NetworkError | httpx2.RemoteProtocolError)


def is_passing(refused: Refused) -> bool:
    """Whether the refusal is that of a server that is just going or coming, or of a proxy that finds none."""
    return refused.code in _PASSING or (refused.code == "unknown" and refused.status in (502, 503, 504))


def _reason(error: BaseException) -> str:
    """What is at the bottom of it, such as ``Connection refused``."""
    below = error.__cause__ or error.__context__
    if isinstance(below, BaseExceptionGroup):  # one for each address that the host has
        below = below.exceptions[0]
    if below is not None:
        return _reason(below)
    if isinstance(error, ConnectionError | FileNotFoundError | PermissionError) and error.errno:
        return os.strerror(error.errno)  # asyncio's own text says less
    return str(error) or type(error).__name__


def quoted(name: str) -> str:
    """A name in a path: a task's slash stays one."""
    return quote(name, safe="/")


def given(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was given: all that is not None."""
    return {key: value for key, value in (options or {}).items() if value is not None}


def _timeout(silence: float) -> "httpx2.Timeout":
    import httpx2

    return httpx2.Timeout(ANSWER_TIMEOUT, connect=CONNECT_TIMEOUT, read=silence)


def _transport(target: Target) -> "httpx2.AsyncBaseTransport | None":
    """A server on this machine is asked directly, never over a proxy, and plain HTTP needs no certificates."""
    import httpx2

    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
    if target.url.startswith("https:"):
        if not target.cafile:
            return None
        verify = httpx2.create_ssl_context(verify=os.fspath(target.cafile))
        return httpx2.AsyncHTTPTransport(verify=verify, limits=limits)
    if target.uds or is_loopback(urlsplit(target.url).hostname or ""):
        uds = os.fspath(target.uds) if target.uds else None
        return httpx2.AsyncHTTPTransport(uds=uds, verify=False, limits=limits)
    return None
