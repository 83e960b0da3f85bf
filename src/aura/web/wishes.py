"""What the headers of a request wish for: to count once (``Idempotency-Key``), and to be told of the end (``Prefer``).

Preferences are read as RFC 7240 has them: what is malformed, or means nothing here, is ignored.
"""

import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
from starlette.responses import Response

from aura.errors import RequestError
from aura.kernel.keys import Key, Kind, key_of
from aura.lifecycle import FINAL
from aura.run import Receipt
from aura.web import shapes
from aura.web.auth import Access
from aura.web.call import Call, json_response
from aura.web.facade import RunDetail
from aura.web.guard import only_header
from aura.web.leases import Lease

#: The longest wait for the end of a run that is granted, in seconds.
MAX_WAIT = 300
#: A preference up to the comma behind it, which may also stand inside a quoted text; a quote without an end takes the
#: rest with it. Possessive, so that what does not fit is not tried again in another way: it takes linear time.
_PREFERENCE = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+"?)++', re.DOTALL)
_WAIT = re.compile(r'\s*wait\s*=\s*(?P<quote>"?)(?P<seconds>[0-9]{1,9})(?P=quote)\s*(;.*)?', re.IGNORECASE | re.DOTALL)


def key(call: Call, scope: Kind, body: Any) -> Key | None:
    """The request's key; None if it has none. ``body`` is the parsed one.

    Raises:
        RequestError: ``bad_header``: it is given twice, or is no key.
    """
    if b"idempotency-key" not in call.headers:
        return None
    return key_of(scope, only_header(call.scope["headers"], b"idempotency-key"), body, call.grant.token.id)


def wait_seconds(call: Call) -> float | None:
    """How many seconds the client would wait for the end of the run, within our bound; None if it would not.

    Neither may it if its token cannot read runs, since the answer would be one.
    """
    if Access.READ not in call.grant.scopes:
        return None
    for text in _preferences(call):
        found = _WAIT.fullmatch(text)
        if found is not None and int(found["seconds"]) > 0:
            return float(min(int(found["seconds"]), MAX_WAIT))
    return None


def _preferences(call: Call) -> Iterator[str]:
    for name, value in call.scope["headers"]:
        if name == b"prefer":
            yield from _PREFERENCE.findall(value.decode("latin-1"))


async def answer_run(call: Call, run: Receipt) -> Response:
    """The answer to a request that became a run: the whole run if the client waits for it and it ends in time."""
    headers = {"Location": f"/api/runs/{run.cid}"} | replayed(run.replayed)
    seconds = wait_seconds(call)
    ended = await ended_within(call, run.cid, seconds) if seconds else None
    if ended is None:
        return json_response(shapes.accepted(run), 202, headers)
    whole = shapes.run_whole(ended.record, ended.steps, ended.children, ended.progress, ended.stopped)
    return json_response(whole, 200, headers | {"Preference-Applied": "wait"})


def replayed(is_old: bool) -> dict[str, str]:
    """The header of an answer that was given before."""
    return {"Idempotent-Replayed": "true"} if is_old else {}


async def ended_within(call: Call, cid: str, seconds: float) -> RunDetail | None:
    """The run once it has ended; None if nobody waits for it any longer before, or there is no place for who waits.

    What waits counts as a stream. It ends with its client, its token and the server, and after ``seconds``.
    """
    try:
        lease = call.door.streams.take(call.grant)
    except RequestError:  # too many are open: the run is on record, and that can be told
        return None
    with lease, call.grant.resting_request(), anyio.move_on_after(seconds):
        await _wait_end(call, cid, lease)
    detail = await call.engine.history.get_run(cid)
    return detail if detail.record.state in FINAL else None


async def _wait_end(call: Call, cid: str, lease: Lease) -> None:
    failed: list[Exception] = []

    async def client_gone() -> None:
        while (await call.receive())["type"] != "http.disconnect":
            pass

    async def end_after(wait: Callable[[], Awaitable[object]]) -> None:
        await wait()
        group.cancel_scope.cancel("nobody waits any longer")

    # In the group: three watchers, and the wait in its body; whichever ends first cancels the others.
    async with anyio.create_task_group() as group:
        for wait in (client_gone, lease.wait_ended, call.door.stopping.wait):
            group.start_soon(end_after, wait, name=f"wait for a run: {wait.__name__}")
        try:
            await call.engine.history.wait_run(cid)
        except Exception as error:  # raised below, so that it does not come out in a group
            failed.append(error)
        group.cancel_scope.cancel("the run has ended")
    if failed:
        raise failed[0]
