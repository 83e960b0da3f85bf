"""Everyone's log lines as a stream."""

from starlette.responses import Response

from aura.web.auth import Access
from aura.web.call import EVENT_STREAM, ApiRoute, Call
from aura.web.feeds import LogFeed
from aura.web.query import LogQuery
from aura.web.sse import parse_last_id, serve_stream, stream_head


async def stream_logs(call: Call) -> Response | None:
    """Stream log lines as they come; ``Last-Event-ID`` goes on from where a client was."""
    wanted = call.query(LogQuery)
    if call.is_head:
        return stream_head()
    call.door.streams.take()
    try:
        feed = LogFeed(call.engine, wanted, parse_last_id(call.headers.get(b"last-event-id")))
        try:
            await serve_stream(feed, call.receive, call.send, call.door.stopping)
        finally:
            feed.reader.close()
    finally:
        call.door.streams.give_back()
    return None


ROUTES = [
    ApiRoute(
        "GET",
        "/api/logs/stream",
        stream_logs,
        Access.LOGS,
        query=LogQuery,
        answers={200: EVENT_STREAM},
        headers=["Last-Event-ID"],
    )
]
