"""The items of schedules: which there are and how they stand, when they are due, starting one, switching one."""

from datetime import datetime
from typing import Any

import msgspec
from starlette.responses import Response

from aura import api
from aura.web import shapes, wishes
from aura.web.auth import Access
from aura.web.call import ApiRoute, Call, json_response
from aura.web.query import PageQuery, Time, page_by_name

ITEM = "/api/schedule/{plan}/{item}"


class RunItemBody(msgspec.Struct, frozen=True):
    """Inputs of this run; those that are not given are the item's."""

    inputs: dict[str, Any] = {}


class PreviewQuery(msgspec.Struct, frozen=True, kw_only=True, rename={"begin": "from", "end": "to"}):
    """Which span: ``from`` included (now), ``to`` not (seven days later)."""

    begin: Time | None = None
    end: Time | None = None


async def list_items(call: Call) -> Response:
    """List the items of all schedules by plan and name, with when they are due, what they started last, and why not."""
    keys = call.engine.schedules.names()
    found, cursor = page_by_name(keys, ["/".join(key) for key in keys], call.query(PageQuery), "items")
    items = [shapes.scheduled_item(call.engine.schedules.shown(*key)) for key in found]
    return json_response(shapes.page(items, cursor))


async def get_item(call: Call) -> Response:
    """One item as it stands."""
    return _shown(call)


async def run_item(call: Call) -> Response:
    """Start an item by hand, with its inputs, whatever its switch and its cooldown say. Its mode counts.

    Answered as a request for a run of its task is.
    """
    plan_name, item = call.path["plan"], call.path["item"]
    body = await call.body(RunItemBody)
    asked = {"plan_name": plan_name, "item": item, "inputs": body.inputs}
    key = wishes.key(call, "run", asked)
    return await wishes.answer_run(call, await call.engine.schedules.run(plan_name, item, body.inputs, call.cause, key))


async def preview(call: Call) -> Response:
    """The times at which an item is due, with the changes of daylight saving that they meet."""
    query = call.query(PreviewQuery)
    span = _seconds(query.begin), _seconds(query.end)
    found = await call.engine.schedules.preview(call.path["plan"], call.path["item"], *span)
    return json_response(shapes.preview(found))


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


async def enable_item(call: Call) -> Response:
    """Switch an item on, until its file says something else. Answered once that is on record."""
    return await _switch(call, True)


async def disable_item(call: Call) -> Response:
    """Switch an item off, until its file says something else: its triggers start nothing any more."""
    return await _switch(call, False)


async def _switch(call: Call, enabled: bool) -> Response:
    by = call.door.auth.tokens.name_of(call.grant)
    await call.engine.schedules.switch(call.path["plan"], call.path["item"], enabled, by)
    return _shown(call)


def _shown(call: Call) -> Response:
    return json_response(shapes.scheduled_item(call.engine.schedules.shown(call.path["plan"], call.path["item"])))


ROUTES = [
    ApiRoute(
        "GET", "/api/schedule", list_items, Access.READ, query=PageQuery, answers={200: api.Page[api.ScheduledItem]}
    ),
    ApiRoute("GET", ITEM, get_item, Access.READ, answers={200: api.ScheduledItem}),
    ApiRoute("GET", f"{ITEM}/preview", preview, Access.READ, query=PreviewQuery, answers={200: api.Preview}),
    ApiRoute(
        "POST",
        f"{ITEM}/run",
        run_item,
        Access.RUN,
        body=RunItemBody,
        answers={200: api.Run, 202: api.Accepted},
        headers=("Idempotency-Key", "Prefer"),
    ),
    ApiRoute("POST", f"{ITEM}/enable", enable_item, Access.MANAGE, answers={200: api.ScheduledItem}),
    ApiRoute("POST", f"{ITEM}/disable", disable_item, Access.MANAGE, answers={200: api.ScheduledItem}),
]
