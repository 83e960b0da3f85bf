"""Webhooks: the one route that asks for a secret of a plan in place of a token, and tells nothing without it."""

from starlette.responses import Response

from aura import api
from aura.scheduling.signatures import HookCall
from aura.web.auth import Access, address_of
from aura.web.body import parse_aside, read_raw
from aura.web.call import ApiRoute, Call, json_response

#: The same for a hook that is not there, one whose secret is not set, and every proof that is none.
NOT_PROVEN = "there is no such webhook, or the call does not prove that it knows its secret"


async def call_hook(call: Call) -> Response:
    """Start an item by its webhook, with the proof that its scheme asks for: no token. The body is any JSON.

    Answered once it is on record; 200 if the same delivery has started a run before, 204 if the item is switched off,
    rests, or its `when` does not hold. Of the scheme `bearer` the secret is in `Authorization`.
    """
    with call.door.strangers.place(call.scope):
        raw = await read_raw(call.scope, call.receive, call.door.settings.server.body_limit)
    hooks = call.engine.webhooks
    proven = hooks.prove(call.path["plan"], call.path["item"], HookCall(call.scope["headers"], raw))
    if proven is None:
        raise call.door.auth.failures.refuse(address_of(call.scope), NOT_PROVEN)
    receipt = await hooks.receive(proven, await parse_aside(raw))
    if receipt.started is None:
        return Response(status_code=204)
    answer = api.ReceivedCall(event_id=receipt.event_id, started=[receipt.started])
    return json_response(answer, 202 if receipt.is_new else 200)


ROUTES = [
    ApiRoute(
        "POST",
        "/api/hooks/{plan}/{item}",
        call_hook,
        Access.OPEN,
        any_body=True,
        answers={200: api.ReceivedCall, 202: api.ReceivedCall, 204: None},
        headers=(
            *("X-Aura-Id", "X-Aura-Timestamp", "X-Aura-Signature"),
            *("X-Hub-Signature-256", "X-GitHub-Delivery", "X-Gitlab-Token", "Idempotency-Key"),
        ),
    ),
]
