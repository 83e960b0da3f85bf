"""Health, status, and starting, stopping and reloading the engine of a running server."""

from typing import Annotated, Literal

import msgspec
from starlette.responses import PlainTextResponse, Response

from aura import api
from aura.web import shapes
from aura.web.auth import Access
from aura.web.call import TEXT, ApiRoute, Call, json_response

#: The longest grace that a stop may be given, in seconds.
MAX_GRACE = 24 * 3600.0


class StopBody(msgspec.Struct, frozen=True):
    """How to stop: ``drain`` lets runs end within ``grace_s`` seconds, ``cancel`` stops them now."""

    mode: Literal["drain", "cancel"] = "drain"
    grace_s: Annotated[float, msgspec.Meta(ge=0, le=MAX_GRACE)] | None = None


async def livez(_call: Call) -> Response:
    """Answer that the process is alive."""
    return PlainTextResponse("ok")


async def readyz(call: Call) -> Response:
    """Say whether the server takes and starts work; with a token, also why not."""
    blocked = _blocked(call)
    status = 503 if blocked else 200
    if _is_stranger(call):
        return PlainTextResponse("not ready" if blocked else "ready", status_code=status)
    readiness = api.Readiness(ready=not blocked, reasons=[*blocked, *call.engine.reasons])
    return json_response(readiness, status)


def _blocked(call: Call) -> list[str]:
    """Why work would not be taken or not be started. Faults alone (``degraded``) do not keep it from either."""
    blocked = []
    if call.door.stopping.is_set():
        blocked.append("the server is shutting down")
    if call.engine.state in ("stopping", "stopped"):
        blocked.append(f"the engine is {call.engine.state}")
    status = call.engine.status()
    if not status["store"]["writable"]:
        blocked.append("the storage cannot be written")
    if status["loop"]["stalled"]:
        blocked.append("the event loop was blocked for long within the last minute")
    return blocked


def _is_stranger(call: Call) -> bool:
    return Access.READ not in call.grant.scopes


async def get_status(call: Call) -> Response:
    """Show what the server is and how it fares."""
    return json_response(shapes.status(call.engine.status()))


async def start(call: Call) -> Response:
    """Start the engine."""
    return json_response(api.EngineAnswer(state=await call.engine.start()))


async def stop(call: Call) -> Response:
    """Stop the engine; the API stays up and runs that are submitted wait in the queue."""
    body = await call.body(StopBody)
    return json_response(api.EngineAnswer(state=call.engine.request_stop(body.mode, body.grace_s)), 202)


async def reload(call: Call) -> Response:
    """Load the plans folder again, and wait a while for the tests of what has a gate."""
    await call.engine.reload()
    statuses = await call.engine.wait_tested(TESTED_WITHIN)
    return json_response(api.Reloaded(plans=[shapes.reloaded(status) for status in statuses]))


#: How long a reload waits for tests, in seconds: well below what clients wait for an answer.
TESTED_WITHIN = 20.0

ROUTES = [
    ApiRoute("GET", "/livez", livez, Access.OPEN, answers={200: TEXT}),
    ApiRoute("GET", "/readyz", readyz, Access.OPEN, answers={200: api.Readiness, 503: api.Readiness}),
    ApiRoute("GET", "/api/system/status", get_status, Access.READ, answers={200: api.ServerStatus}),
    ApiRoute("POST", "/api/system/start", start, Access.MANAGE, answers={200: api.EngineAnswer}),
    ApiRoute("POST", "/api/system/stop", stop, Access.MANAGE, body=StopBody, answers={202: api.EngineAnswer}),
    ApiRoute("POST", "/api/system/reload", reload, Access.ADMIN, answers={200: api.Reloaded}),
]
