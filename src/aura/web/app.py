"""The ASGI application: guard, routes, and one place where every error becomes an answer.

A request passes the guard (sizes, Host, Origin), is matched to a route, passes that route's access check, and reaches
its endpoint. What goes wrong anywhere comes back here as an exception. What no route serves is refused for want of a
token before it is said to be missing.
"""

from collections.abc import Awaitable, Callable, Iterable

import anyio
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aura.config import Settings
from aura.errors import RequestError
from aura.web.auth import Access, Auth
from aura.web.body import Strangers, has_body
from aura.web.call import ApiRoute, Door
from aura.web.facade import Engine
from aura.web.guard import LOOPBACK_NAMES, Guard, is_plain_path, security_headers
from aura.web.leases import StreamLimit
from aura.web.metrics import Metrics
from aura.web.problem import problem, unexpected
from aura.web.routes import (
    events,
    files,
    hooks,
    interface,
    interrupts,
    logs,
    metrics,
    plans,
    queue,
    runs,
    schedule,
    system,
    tasks,
    tokens,
    why,
)
from aura.web.websocket import as_request

#: How many streams may be open at once, unless the process may have fewer files.
MAX_STREAMS = 5000
#: How long, and how far, the rest of a refused body is read before the connection closes: a client that is still
#: sending would otherwise get a reset instead of the answer.
LINGER = 1.0
LINGER_BYTES = 64 * 1024 * 1024

ROUTES: tuple[ApiRoute, ...] = (
    *system.ROUTES,
    *plans.ROUTES,
    *tasks.ROUTES,
    *runs.ROUTES,
    *files.ROUTES,
    *queue.ROUTES,
    *logs.ROUTES,
    *events.ROUTES,
    *interrupts.ROUTES,
    *hooks.ROUTES,
    *schedule.ROUTES,
    *why.ROUTES,
    *tokens.ROUTES,
    *interface.ROUTES,
    *metrics.ROUTES,
)


def create_app(
    engine: Engine, auth: Auth, settings: Settings, stop: anyio.Event, *, max_streams: int = MAX_STREAMS
) -> ASGIApp:
    """Make the application. Once ``stop`` is set, streams say ``shutdown`` and end."""
    streams = StreamLimit(max_streams, engine.clock)
    strangers = Strangers(settings.server.body_limit)
    return App(Door(engine, auth, settings, stop, streams, Metrics(engine, streams), strangers), guard_of(settings))


def guard_of(settings: Settings) -> Guard:
    """The guard that fits where the server listens."""
    host = settings.server.host.lower()
    return Guard(LOOPBACK_NAMES | {f"[{host}]" if ":" in host else host}, any_host=settings.server.uds is not None)


class App:
    """See the module's text."""

    def __init__(self, door: Door, guard: Guard, routes: Iterable[ApiRoute] = ROUTES) -> None:
        self._door = door
        self._guard = guard
        self._routes = tuple(routes)
        self._exact = {
            path: self._with_path(path) for path in {route.path for route in self._routes if "{" not in route.path}
        }
        self._patterned = [route for route in self._routes if "{" in route.path]
        for route in self._routes:
            same = [other.methods or () for other in self._routes if other.path == route.path]
            route.allow = frozenset(method for methods in same for method in methods)

    def _with_path(self, path: str) -> list[ApiRoute]:
        return [route for route in self._routes if route.path == path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._answer(as_request(scope), receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        incoming = Incoming(scope, receive)
        outgoing = Outgoing(send, lambda status: self._door.metrics.note_answer(scope.get("aura.route"), status))
        try:
            self._guard.check(scope)
            await self._serve(scope, incoming, outgoing)
        except RequestError as error:
            await self._refuse(error, scope, incoming, outgoing)
        except ClientDisconnect:
            return
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # the latter two would leave the event loop
            where = f"{scope['method']} {scope['path'][:200]}"
            refusal = unexpected(error, self._door.engine.journal, where)
            await self._refuse(refusal, scope, incoming, outgoing)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["aura.door"] = self._door
        scope["aura.routes"] = self._routes
        route, params = self._match(scope)
        if route is None:
            self._door.auth.check(scope, Access.ANY)
            raise RequestError("not_found", f"there is nothing at {scope['path'][:200]!r}")
        scope["aura.route"] = route.template
        scope.update(params)
        await route.handle(scope, receive, send)

    def _match(self, scope: Scope) -> tuple[ApiRoute | None, Scope]:
        """The route that serves path and method; else one that serves the path, which then says what it allows."""
        if not is_plain_path(scope["raw_path"]):
            return None, {}
        partial: tuple[ApiRoute | None, Scope] = (None, {})
        for route in self._exact.get(scope["path"], self._patterned):
            match, params = route.matches(scope)
            if match is Match.FULL:
                return route, params
            if match is Match.PARTIAL and partial[0] is None:
                partial = route, params
        return partial

    async def _refuse(self, error: RequestError, scope: Scope, incoming: "Incoming", outgoing: "Outgoing") -> None:
        """Send the problem document, unless an answer has begun: that one can only be cut off."""
        if outgoing.begun:
            return
        response = problem(error)
        if scope["type"] == "websocket":
            response.headers["Connection"] = "close"
        elif not incoming.complete:
            response.headers["Connection"] = "close"
            outgoing.before_end = incoming.discard
        await response(scope, incoming, outgoing)


class Incoming:
    """The receiving side of a request; knows whether the body has come to its end."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.complete = not has_body(dict(scope["headers"]))

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            self.complete = True
        return message

    async def discard(self) -> None:
        """Read away what still comes, within ``LINGER`` seconds and ``LINGER_BYTES``."""
        read = 0
        with anyio.move_on_after(LINGER):
            while not self.complete and read < LINGER_BYTES:
                read += len((await self()).get("body", b""))


class Outgoing:
    """The sending side: adds the security headers, knows whether an answer has begun and tells its status."""

    def __init__(self, send: Send, tell: Callable[[int], object]) -> None:
        self._send = send
        self._tell = tell
        self.begun = False
        #: Awaited after the whole answer has been sent and before it is declared ended.
        self.before_end: Callable[[], Awaitable[None]] | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "websocket.accept":
            self._tell(101)
            self.begun = True
        elif message["type"].endswith("http.response.start"):  # of a refused handshake it is websocket.http.…
            self._tell(message["status"])
            self.begun = True
            headers = list(message.get("headers", ()))
            message = {**message, "headers": headers + security_headers(headers)}
        elif self.before_end is not None and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            await self.before_end()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)
