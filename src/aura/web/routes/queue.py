"""What waits for a place."""

from starlette.responses import Response

from aura import api
from aura.web import shapes
from aura.web.auth import Access
from aura.web.call import ApiRoute, Call, json_response
from aura.web.query import QueueQuery, make_cursor


async def list_queue(call: Call) -> Response:
    """List the queued runs in the order in which they would start.

    A cursor stands for the last run of a page, and for its place should that run have left the queue.
    """
    query = call.query(QueueQuery)
    entries = call.engine.queue_list(query.lane)
    begin = 0
    position = query.position("queue")
    if position is not None:
        place, _, cid = position.partition(" ")
        begin = next((n + 1 for n, entry in enumerate(entries) if entry["cid"] == cid), int(place))
    end = begin + query.limit
    found = entries[begin:end]
    cursor = make_cursor("queue", f"{end} {found[-1]['cid']}") if end < len(entries) else None
    return json_response(shapes.page([shapes.queued(entry) for entry in found], cursor))


ROUTES = [
    ApiRoute(
        "GET",
        "/api/queue/list",
        list_queue,
        Access.READ,
        query=QueueQuery,
        answers={200: api.Page[api.QueuedRun]},
    )
]
