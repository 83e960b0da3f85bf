"""What ran and what runs: records, log lines, and everything of one run as a stream."""

from collections.abc import Sequence

from starlette.responses import Response

from aura import api
from aura.events import LEVELS
from aura.run import RunRecord
from aura.web import shapes
from aura.web.auth import Access
from aura.web.call import EVENT_STREAM, ApiRoute, Call, json_response
from aura.web.feeds import RunFeed
from aura.web.ids import known_form
from aura.web.query import PageQuery, RunLogQuery, RunQuery, first_page, make_cursor
from aura.web.sse import parse_last_id, serve_stream, stream_head


async def list_runs(call: Call) -> Response:
    """List runs, newest first."""
    query = call.query(RunQuery)
    found = await call.engine.history.list_runs(query.wanted(), query.limit + 1, query.number("runs"))
    runs, last = first_page(found, query.limit)
    cursor = make_cursor("runs", last.seq) if last else None
    return json_response(shapes.page(_short(call, runs), cursor))


async def list_active(call: Call) -> Response:
    """List what holds a place now, newest first."""
    query = call.query(PageQuery)
    found = await call.engine.history.active_runs(query.limit + 1, query.number("active"))
    runs, last = first_page(found, query.limit)
    cursor = make_cursor("active", last.seq) if last else None
    return json_response(shapes.page(_short(call, runs), cursor))


def _short(call: Call, runs: Sequence[RunRecord]) -> list[api.RunShort]:
    return [shapes.run_short(run, call.engine.history.progress_of(run.cid)) for run in runs]


async def get_run(call: Call) -> Response:
    """Show one run, whole."""
    detail = await call.engine.history.get_run(known_form(call.path["cid"]))
    whole = shapes.run_whole(detail.record, detail.steps, detail.children, detail.progress, detail.stopped)
    return json_response(whole)


async def get_logs(call: Call) -> Response:
    """List the log lines of a run, oldest first."""
    cid = known_form(call.path["cid"])
    query = call.query(RunLogQuery)
    await call.engine.history.get_run(cid)
    found = await call.engine.history.log_entries(
        after=query.number("logs") or 0,
        limit=query.limit + 1,
        cid=cid,
        level=LEVELS[query.level] if query.level else None,
    )
    entries, last = first_page(found, query.limit)
    cursor = make_cursor("logs", last.id) if last else None
    return json_response(shapes.page([entry.record() for entry in entries], cursor))


async def stream_run(call: Call) -> Response | None:
    """Stream everything of one run from its start to its ``end``; 204 once that has been seen."""
    cid = known_form(call.path["cid"])
    last_id = parse_last_id(call.headers.get(b"last-event-id"))
    with call.door.streams.take(call.grant) as lease:
        feed = await RunFeed.open(call.engine, cid, max(last_id or 0, 0))
        if feed is None:
            return Response(status_code=204)
        if call.is_head:
            feed.reader.close()
            return stream_head()
        try:
            await serve_stream(feed, call.receive, call.send, call.door.stopping, lease)
        finally:
            feed.reader.close()
    return None


ROUTES = [
    ApiRoute("GET", "/api/runs", list_runs, Access.READ, query=RunQuery, answers={200: api.Page[api.RunShort]}),
    ApiRoute(
        "GET",
        "/api/runs/active",
        list_active,
        Access.READ,
        query=PageQuery,
        answers={200: api.Page[api.RunShort]},
    ),
    ApiRoute("GET", "/api/runs/{cid}", get_run, Access.READ, answers={200: api.Run}),
    ApiRoute(
        "GET",
        "/api/runs/{cid}/logs",
        get_logs,
        Access.LOGS,
        query=RunLogQuery,
        answers={200: api.Page[api.LogRecord]},
    ),
    ApiRoute(
        "GET",
        "/api/runs/{cid}/events",
        stream_run,
        Access.LOGS,
        answers={200: EVENT_STREAM, 204: None},
        headers=["Last-Event-ID"],
    ),
]
