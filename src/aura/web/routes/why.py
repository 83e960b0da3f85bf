"""The why-ledger: what did not start, what does not begin yet, and why."""

import msgspec
from starlette.responses import Response

from aura import api
from aura.web import shapes
from aura.web.auth import Access
from aura.web.call import ApiRoute, Call, json_response
from aura.web.query import WHY, WhyQuery, make_cursor


async def list_why(call: Call) -> Response:
    """List what does not begin yet (`paused`, `held`), then the starts that did not become runs, the newest first.

    What says the same of the same thing within a minute is one line, with its count.
    """
    query = call.query(WhyQuery)
    page = await call.engine.why(query.wanted(), query.limit, query.place())
    cursor = make_cursor(WHY, msgspec.json.encode(page.next).decode()) if page.next else None
    return json_response(shapes.page([shapes.why(line) for line in page.lines], cursor))


ROUTES = [ApiRoute("GET", "/api/why", list_why, Access.READ, query=WhyQuery, answers={200: api.Page[api.Why]})]
