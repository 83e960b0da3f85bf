"""What waits for a place."""

import msgspec
from starlette.responses import Response

from aura import api
from aura.web import shapes
from aura.web.auth import Access
from aura.web.call import ApiRoute, Call, json_response
from aura.web.query import QueueQuery, bad_cursor, first_page, make_cursor


async def list_queue(call: Call) -> Response:
    """List the queued runs in the order in which they would start.

    A cursor stands for the place of the last run of a page, whether or not that run still waits.
    """
    query = call.query(QueueQuery)
    entries = call.engine.queue_list(query.lane)
    position = query.position("queue")
    if position is not None:
        place = _place(position)
        entries = [entry for entry in entries if entry["place"] > place]
    found, last = first_page(entries, query.limit)
    cursor = make_cursor("queue", msgspec.json.encode(last["place"]).decode()) if last else None
    return json_response(shapes.page([shapes.queued(entry) for entry in found], cursor))


def _place(position: str) -> tuple[float, ...]:
    try:
        return tuple(msgspec.json.decode(position, type=list[float]))
    except msgspec.MsgspecError:
        raise bad_cursor() from None


async def queue_overview(call: Call) -> Response:
    """Show how full the lanes are, how long runs waited lately and how many started and ended, by lane and by plan."""
    return json_response(shapes.queue_overview(call.engine.queue_overview()))


ROUTES = [
    ApiRoute("GET", "/api/queue/overview", queue_overview, Access.READ, answers={200: api.QueueOverview}),
    ApiRoute(
        "GET",
        "/api/queue/list",
        list_queue,
        Access.READ,
        query=QueueQuery,
        answers={200: api.Page[api.QueuedRun]},
    ),
]
