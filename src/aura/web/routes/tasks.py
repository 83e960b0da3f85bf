"""Asking for runs, one by one and in batches, and steering them."""

from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from aura import api
from aura.errors import FieldError, RequestError
from aura.lifecycle import RunState
from aura.run import Priority, Request
from aura.web import shapes, wishes
from aura.web.auth import Access
from aura.web.call import ApiRoute, Call, json_response
from aura.web.ids import known_form
from aura.web.validate import convert, invalid

MAX_BATCH = 1000
#: What the interface's description says of an item of a batch: what is no request is refused alone, so it may be there.
ITEM_SCHEMA = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Request", "Json")]}
Reason = Annotated[str, msgspec.Meta(max_length=1000)]


class BatchBody(msgspec.Struct, frozen=True):
    """Many requests at once; ``atomic``: all of them or none."""

    tasks: Annotated[
        list[Any],
        # read one by one, so that a bad one is refused alone
        msgspec.Meta(min_length=1, max_length=MAX_BATCH, extra_json_schema={"items": ITEM_SCHEMA}),
    ]
    atomic: bool = False


class CancelBody(msgspec.Struct, frozen=True):
    """Why; it stands in the run's record."""

    reason: Reason | None = None


class PauseBody(msgspec.Struct, frozen=True):
    """Why; it stands in the run's record while it is paused."""

    reason: Reason | None = None


class AnswerBody(msgspec.Struct, frozen=True):
    """A yes or a no to a step that waits for it, or to the item ``index`` of one that loops; ``values`` of a yes."""

    step: str
    approved: bool
    index: Annotated[int, msgspec.Meta(ge=0)] | None = None
    values: dict[str, Any] | None = None


class PriorityBody(msgspec.Struct, frozen=True):
    """The new priority, higher first."""

    priority: Priority


class RerunBody(msgspec.Struct, frozen=True):
    """From which step: it and what comes after it run again, and the results of the others are kept; null: all do."""

    from_step: str | None = None


class CancelWhereBody(msgspec.Struct, frozen=True):
    """Which runs; what is not given does not restrict, and one at least must be given."""

    state: RunState | None = None
    plan_name: str | None = None
    task_name: str | None = None
    lane: str | None = None
    labels: dict[str, str] | None = None


async def run_task(call: Call) -> Response:
    """Ask for a run; once answered with 202, it is on record.

    With ``Prefer: wait=N`` the answer is the whole run and 200 if it ends within N seconds.
    """
    body = await call.json()
    run = await call.engine.submit(convert(body, Request), call.cause, wishes.key(call, "run", body))
    return await wishes.answer_run(call, run)


async def run_batch(call: Call) -> Response:
    """Ask for up to 1,000 runs in one commit."""
    data = await call.json()
    body = convert(data, BatchBody)
    requests = [_request(task, f"/tasks/{index}") for index, task in enumerate(body.tasks)]
    if body.atomic:
        _refuse_bad(requests)
    outcomes = await call.engine.submit_batch(requests, call.cause, body.atomic, wishes.key(call, "batch", data))
    refused = sum(isinstance(outcome, RequestError) for outcome in outcomes.items)
    items = [shapes.batch_item(outcome) for outcome in outcomes.items]
    answer = api.Batch(items=items, accepted=len(items) - refused, refused=refused)
    return json_response(answer, 202, wishes.replayed(outcomes.replayed))


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


async def pause(call: Call) -> Response:
    """Stop a run with what it has done kept, until it is resumed. Answered once the wish is on record."""
    cid = known_form(call.path["cid"])
    body = await call.body(PauseBody)
    return json_response(shapes.run_answer(cid, await call.engine.pause(cid, body.reason)), 202)


async def resume(call: Call) -> Response:
    """Let a paused run go on, at its old position. Answered once that is on record."""
    cid = known_form(call.path["cid"])
    return json_response(shapes.run_answer(cid, await call.engine.resume(cid)), 202)


async def answer(call: Call) -> Response:
    """Answer a step that waits for it, in the name of the token. Answered once that is on record."""
    cid = known_form(call.path["cid"])
    body = await call.body(AnswerBody)
    by = call.door.auth.tokens.name_of(call.grant)
    state = await call.engine.answer(cid, body.step, body.index, body.approved, body.values or {}, by)
    return json_response(shapes.run_answer(cid, state), 202)


async def set_priority(call: Call) -> Response:
    """Change the priority of a run that has not ended; a queued one moves at once."""
    cid = known_form(call.path["cid"])
    body = await call.body(PriorityBody)
    return json_response(shapes.prioritized(await call.engine.set_priority(cid, body.priority)))


async def rerun(call: Call) -> Response:
    """Ask for a new run of what an ended one did, with the same inputs, from its beginning or from a step."""
    cid = known_form(call.path["cid"])
    body = await call.body(RerunBody)
    asked = {"cid": cid, "from_step": body.from_step}
    run = await call.engine.rerun(cid, body.from_step, wishes.key(call, "rerun", asked))
    headers = {"Location": f"/api/runs/{run.cid}"} | wishes.replayed(run.replayed)
    return json_response(shapes.accepted(run), 202, headers)


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
        answers={200: api.Run, 202: api.Accepted},
        headers=("Idempotency-Key", "Prefer"),
    ),
    ApiRoute(
        "POST",
        "/api/tasks/batch",
        run_batch,
        Access.RUN,
        body=BatchBody,
        body_required=True,
        answers={202: api.Batch},
        headers=("Idempotency-Key",),
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
    ApiRoute(
        "PATCH",
        "/api/tasks/{cid}/priority",
        set_priority,
        Access.RUN,
        body=PriorityBody,
        body_required=True,
        answers={200: api.Prioritized},
    ),
    ApiRoute(
        "POST",
        "/api/tasks/{cid}/rerun",
        rerun,
        Access.RUN,
        body=RerunBody,
        answers={202: api.Accepted},
        headers=("Idempotency-Key",),
    ),
    ApiRoute("POST", "/api/tasks/{cid}/cancel", cancel, Access.RUN, body=CancelBody, answers={202: api.RunAnswer}),
    ApiRoute("POST", "/api/tasks/{cid}/pause", pause, Access.RUN, body=PauseBody, answers={202: api.RunAnswer}),
    ApiRoute("POST", "/api/tasks/{cid}/resume", resume, Access.RUN, answers={202: api.RunAnswer}),
    ApiRoute(
        "POST",
        "/api/tasks/{cid}/answer",
        answer,
        Access.RUN,
        body=AnswerBody,
        body_required=True,
        answers={202: api.RunAnswer},
    ),
]
