"""Events: emitting one, and all of them as a stream."""

from typing import Any

import msgspec
from starlette.responses import Response

from aura import api
from aura.web import shapes
from aura.web.auth import Access
from aura.web.call import EVENT_STREAM, ApiRoute, Call, json_response
from aura.web.feeds import EventFeed
from aura.web.query import EventQuery
from aura.web.sse import parse_last_id, serve_stream, stream_head


class EventBody(msgspec.Struct, frozen=True):
    """An event's dotted name, which does not begin as one of Aura's own, and what it says: any JSON."""

    name: str
    payload: Any = None


async def emit(call: Call) -> Response:
    """Emit an event. Answered once it is on record, with the runs that it has started."""
    body = await call.body(EventBody)
    receipt = await call.engine.emit(body.name, body.payload)
    return json_response(shapes.emitted(receipt), 202)


async def stream_events(call: Call) -> Response | None:
    """Stream events as they are stored, Aura's own too; ``Last-Event-ID`` goes on from where a client was."""
    wanted = call.query(EventQuery).wanted()
    if call.is_head:
        return stream_head()
    with call.door.streams.take(call.grant) as lease:
        feed = EventFeed(call.engine, wanted, parse_last_id(call.headers.get(b"last-event-id")))
        try:
            await serve_stream(feed, call.receive, call.send, call.door.stopping, lease)
        finally:
            feed.reader.close()
    return None


ROUTES = [
    ApiRoute(
        "POST",
        "/api/events",
        emit,
        Access.RUN,
        body=EventBody,
        body_required=True,
        answers={202: api.EmittedEvent},
    ),
    ApiRoute(
        "GET",
        "/api/events/stream",
        stream_events,
        Access.LOGS,
        query=EventQuery,
        answers={200: EVENT_STREAM},
        headers=["Last-Event-ID"],
    ),
]
