"""A route, and the call that it hands to its endpoint: everything that came in, read and checked.

Authorization hangs on the route object itself. A route that names no access cannot be made, and what no route serves
asks for the token before it says that it is not there.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs

import anyio
import msgspec
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from aura.config import Settings
from aura.errors import FieldError, RequestError
from aura.run import Cause
from aura.web.auth import Access, Auth, address_of
from aura.web.body import Strangers, check_content_type, has_body, read_json
from aura.web.facade import Engine
from aura.web.grants import Grant
from aura.web.leases import StreamLimit
from aura.web.metrics import Metrics
from aura.web.query import Nothing
from aura.web.validate import convert, convert_text, invalid

S = TypeVar("S", bound=msgspec.Struct)

#: Programs that name themselves so ask for a person at a terminal.
CLI_AGENT = b"aura-cli/"
MAX_QUERY_FIELDS = 100


class Door(msgspec.Struct, frozen=True):
    """What all routes share. ``stopping`` is set when the server is going."""

    engine: Engine
    auth: Auth
    settings: Settings
    stopping: anyio.Event
    streams: StreamLimit
    metrics: Metrics
    strangers: Strangers


class Call:
    """One request, for one endpoint. ``path`` holds the path's parameters, ``query`` the checked query string."""

    def __init__(self, door: Door, route: "ApiRoute", scope: Scope, receive: Receive, send: Send, grant: Grant) -> None:
        self.door = door
        #: Who asks, and what they may do.
        self.grant = grant
        self.engine = door.engine
        #: All that this server answers to.
        self.routes: tuple[ApiRoute, ...] = scope["aura.routes"]
        self.path: dict[str, str] = scope["path_params"]
        self.headers = dict(scope["headers"])
        self.is_head = scope["method"] == "HEAD"
        self.receive = receive
        self.send = send
        self.scope = scope
        self._route = route
        self._body: msgspec.Struct | None = None

    def query(self, kind: type[S]) -> S:
        """The query string as the struct that the route names.

        Raises:
            RequestError: ``invalid``.
        """
        assert kind is self._route.query
        try:
            text = self.scope["query_string"].decode("ascii")
            given = parse_qs(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
        except ValueError as error:
            raise RequestError("invalid", f"the query string cannot be read: {error}") from None
        if any("\0" in value for values in given.values() for value in values):
            raise invalid([FieldError("", "contains the character NUL, which is nobody's name")])
        return convert_text(given, kind)

    async def body(self, kind: type[S]) -> S:
        """The body as the struct that the route names; where it is optional and missing, the struct's defaults.

        Raises:
            RequestError: with the code that says what is wrong with it.
        """
        assert kind is self._route.body
        if not self._route.body_required and not has_body(self.headers):
            return kind()
        return convert(await self.json(), kind)

    async def respond(self, response: Response) -> None:
        """Send an answer."""
        await response(self.scope, self.receive, self.send)

    async def json(self) -> Any:
        """The body as plain JSON data.

        Raises:
            RequestError: with the code that says what is wrong with it; ``unauthorized``: while it came, the caller's
                token has ended.
        """
        data = await read_json(self.scope, self.receive, self.door.settings.server.body_limit)
        self.door.auth.check_still(self.scope, self.grant)
        return data

    def note(self, message: str) -> None:
        """Put something that a caller did into the log, with where the caller is."""
        self.engine.journal.log("info", message, fields={"from": address_of(self.scope)})

    @property
    def cause(self) -> Cause:
        """What a run that is asked for here has as its cause."""
        return Cause("cli" if self.headers.get(b"user-agent", b"").startswith(CLI_AGENT) else "api")


Endpoint = Callable[[Call], Awaitable[Response | None]]


def json_response(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(msgspec.json.encode(data), status_code=status, headers=headers, media_type="application/json")


class Media(NamedTuple):
    """An answer that is not JSON: its media type, and what it holds."""

    type: str
    holds: str


EVENT_STREAM = Media("text/event-stream", "records as server-sent events")
TEXT = Media("text/plain", "a word or two")


class ApiRoute(Route):
    """A path and method with its endpoint, the access it asks for, and the types of what comes in and goes out.

    ``answers`` is status → type of the JSON, a ``Media``, or None for an answer without a body; refusals, which are
    problem documents, are not named. ``any_body``: its endpoint reads the body itself, which is any JSON. ``headers``
    are those of the request that mean something to this route alone. An endpoint that streams sends everything itself
    and returns None. ``allow`` are the methods that the path knows over all its routes.
    """

    def __init__(
        self,
        method: str,
        path: str,
        endpoint: Endpoint,
        access: Access,
        *,
        answers: Mapping[int, Any],
        query: type[msgspec.Struct] = Nothing,
        body: type[msgspec.Struct] | None = None,
        body_required: bool = False,
        any_body: bool = False,
        headers: Sequence[str] = (),
    ) -> None:
        super().__init__(path, _Unused(), methods=[method], name=getattr(endpoint, "__name__", path))
        #: The path without the kinds of its parameters.
        self.template = path.replace(":path", "")
        self.call = endpoint
        self.access = access
        self.answers = answers
        self.headers = tuple(headers)
        self.query = query
        self.body = body
        self.body_required = body_required
        self.any_body = any_body
        self.summary = inspect.getdoc(endpoint) or ""
        #: Streams have a limit of their own (``leases``), and do not count among a token's requests under way.
        self.is_stream = 101 in answers or answers.get(200) == EVENT_STREAM
        self.allow: frozenset[str] = frozenset(self.methods or ())

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the access, then the method, then call the endpoint and send its answer."""
        door: Door = scope["aura.door"]
        grant = door.auth.check(scope, self.access)
        if scope["method"] not in (self.methods or ()):
            raise method_not_allowed(scope["method"], self.allow)
        call = Call(door, self, scope, receive, send, grant)
        if self.query is Nothing:
            call.query(Nothing)
        if self.body is None and has_body(call.headers):
            check_content_type(call.headers)  # nobody reads it, but what another site's form sends is not taken either
        if self.is_stream or self.access is Access.OPEN:  # strangers cannot use up what is one token's
            await self._answer(call)
            return
        grant.begin_request()
        try:
            await self._answer(call)
        finally:
            grant.end_request()

    async def _answer(self, call: Call) -> None:
        response = await self.call(call)
        if response is not None:
            await call.respond(response)


class WsRoute(ApiRoute):
    """A path that is for WebSockets alone; a request that does not ask for one is told so.

    Its endpoint is called with the handshake, whose refusal is still an ordinary answer.
    """

    def __init__(self, path: str, endpoint: Endpoint, access: Access, *, query: type[msgspec.Struct] = Nothing) -> None:
        super().__init__("GET", path, endpoint, access, query=query, answers={101: None})

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches({**scope, "type": "http"})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As of every route; the handshake comes last."""
        if scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD"):
            await super().handle(scope, receive, send)
            return
        scope["aura.door"].auth.check(scope, self.access)
        raise RequestError("upgrade_required", "this path is for WebSockets; say Upgrade: websocket")


class _Unused:
    """Stands where Starlette wants an endpoint; ``ApiRoute.handle`` never gets there."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


def method_not_allowed(method: str, allow: frozenset[str]) -> RequestError:
    """The refusal of a method that a path does not know."""
    known = sorted(allow)
    return RequestError(
        "method_not_allowed", f"{method} is not possible here; say {' or '.join(known)}", extra={"allow": known}
    )
