"""Everyone's log lines as a stream and on a WebSocket."""

from starlette.responses import Response

from aura.web.auth import Access
from aura.web.call import EVENT_STREAM, ApiRoute, Call, WsRoute
from aura.web.feeds import LogFeed
from aura.web.query import LogQuery, SocketQuery
from aura.web.sse import parse_last_id, serve_stream, stream_head
from aura.web.websocket import serve_socket


async def stream_logs(call: Call) -> Response | None:
    """Stream log lines as they come; ``Last-Event-ID`` goes on from where a client was."""
    wanted = call.query(LogQuery)
    if call.is_head:
        return stream_head()
    with call.door.streams.take(call.grant) as lease:
        feed = LogFeed(call.engine, wanted, parse_last_id(call.headers.get(b"last-event-id")))
        try:
            await serve_stream(feed, call.receive, call.send, call.door.stopping, lease)
        finally:
            feed.reader.close()
    return None


async def socket_logs(call: Call) -> None:
    """Send log lines as they come, as messages of a WebSocket; ``last_id`` goes on from where a client was."""
    wanted = call.query(SocketQuery)
    with call.door.streams.take(call.grant) as lease:
        feed = LogFeed(call.engine, wanted, parse_last_id(wanted.last_id))
        try:
            await serve_socket(feed, call.receive, call.send, call.door.stopping, lease)
        finally:
            feed.reader.close()


ROUTES = [
    ApiRoute(
        "GET",
        "/api/logs/stream",
        stream_logs,
        Access.LOGS,
        query=LogQuery,
        answers={200: EVENT_STREAM},
        headers=["Last-Event-ID"],
    ),
    WsRoute("/ws/logs", socket_logs, Access.LOGS, query=SocketQuery),
]
