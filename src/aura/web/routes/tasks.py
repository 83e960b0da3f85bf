"""Asking for runs, one by one and in batches, and cancelling them."""

from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from aura import api
from aura.errors import FieldError, RequestError
from aura.lifecycle import RunState
from aura.run import Request
from aura.web import shapes
from aura.web.auth import Access
from aura.web.call import ApiRoute, Call, json_response
from aura.web.ids import known_form
from aura.web.validate import convert, invalid

MAX_BATCH = 1000
Reason = Annotated[str, msgspec.Meta(max_length=1000)]


class BatchBody(msgspec.Struct, frozen=True):
    """Many requests at once; ``atomic``: all of them or none."""

    tasks: Annotated[list[Any], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]
    atomic: bool = False


class CancelBody(msgspec.Struct, frozen=True):
    """Why; it stands in the run's record."""

    reason: Reason | None = None


class CancelWhereBody(msgspec.Struct, frozen=True):
    """Which runs; what is not given does not restrict, and one at least must be given."""

    state: RunState | None = None
    plan_name: str | None = None
    task_name: str | None = None
    lane: str | None = None
    labels: dict[str, str] | None = None


async def run_task(call: Call) -> Response:
    """Ask for a run; once answered with 202, it is on record."""
    _refuse_key(call)
    run = await call.engine.submit(await call.body(Request), call.cause)
    return json_response(shapes.accepted(run), 202, {"Location": f"/api/runs/{run.cid}"})


def _refuse_key(call: Call) -> None:
    """Refuse what cannot be promised yet: a client that sends a key relies on it, and would run its task twice."""
    if b"idempotency-key" in call.headers:
        raise RequestError("bad_header", "Idempotency-Key is not supported yet; send the request without it")


async def run_batch(call: Call) -> Response:
    """Ask for up to 1,000 runs in one commit."""
    _refuse_key(call)
    body = await call.body(BatchBody)
    requests = [_request(task, f"/tasks/{index}") for index, task in enumerate(body.tasks)]
    if body.atomic:
        _refuse_bad(requests)
    outcomes = await call.engine.submit_batch(requests, call.cause, body.atomic)
    refused = sum(isinstance(outcome, RequestError) for outcome in outcomes)
    items = [shapes.batch_item(outcome) for outcome in outcomes]
    return json_response(api.Batch(items=items, accepted=len(items) - refused, refused=refused), 202)


def _request(task: Any, at: str) -> Request | RequestError:
    try:
        return convert(task, Request, at)
    except RequestError as refused:
        return refused


def _refuse_bad(requests: list[Request | RequestError]) -> None:
    """Refuse an atomic batch with the errors of all its bad requests."""
    bad = [request for request in requests if isinstance(request, RequestError)]
    if bad:
        raise invalid([error for refused in bad for error in refused.errors])


async def cancel(call: Call) -> Response:
    """Cancel a run: queued, waiting or running alike. Answered once the wish is on record."""
    cid = known_form(call.path["cid"])
    body = await call.body(CancelBody)
    return json_response(shapes.run_answer(cid, await call.engine.cancel(cid, body.reason)), 202)


async def cancel_where(call: Call) -> Response:
    """Cancel every run that fits."""
    body = await call.body(CancelWhereBody)
    if body == CancelWhereBody():
        names = ", ".join(CancelWhereBody.__struct_fields__)
        raise invalid([FieldError("", f"must say which runs: one at least of {names}")])
    cids = await call.engine.cancel_where(
        state=body.state.value if body.state else None,
        plan_name=body.plan_name,
        task_name=body.task_name,
        lane=body.lane,
        labels=body.labels or {},
    )
    return json_response(api.Cancelled(cancelled=list(cids)), 202)


ROUTES = [
    ApiRoute(
        "POST",
        "/api/tasks/run",
        run_task,
        Access.RUN,
        body=Request,
        body_required=True,
        answers={202: api.Accepted},
    ),
    ApiRoute(
        "POST",
        "/api/tasks/batch",
        run_batch,
        Access.RUN,
        body=BatchBody,
        body_required=True,
        answers={202: api.Batch},
    ),
    ApiRoute(
        "POST",
        "/api/tasks/cancel",
        cancel_where,
        Access.RUN,
        body=CancelWhereBody,
        body_required=True,
        answers={202: api.Cancelled},
    ),
    ApiRoute("POST", "/api/tasks/{cid}/cancel", cancel, Access.RUN, body=CancelBody, answers={202: api.RunAnswer}),
]
