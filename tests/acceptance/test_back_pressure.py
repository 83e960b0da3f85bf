"""How a real server refuses: each reason has its status, code and headers, and of what is refused nothing is stored.

What it answers when its storage cannot be written: ``test_bad_storage``.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from tests.fakes.real import Real, open_real

RUN, BATCH = "/api/tasks/run", "/api/tasks/batch"
HELLO: dict[str, Any] = {"plan_name": "lab", "task_name": "hello", "inputs": {"day": "2026"}}
ONCE = {"plan_name": "lab", "task_name": "once"}
PLANS = {
    "lab/tasks/once.yaml": "mode: single\nsteps:\n  nap: {action: sleep, params: {duration: 600s}}\n",
    "torn/tasks/x.yaml": "steps: 1\n",
}
LIMIT = 20


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Real]:
    for name, text in PLANS.items():
        path = folder / "plans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    async with open_real(folder) as real:
        yield real


@contextmanager
def changed(owner: Any, **values: Any) -> Any:
    """Let fields have these values inside."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


class Refused(NamedTuple):
    """What a refusal shows: ``again`` is whether it says when to ask again, ``close`` whether the connection ends.

    It ends with the server, and where the body was not read to its end.
    """

    status: int
    code: str
    again: bool = False
    close: bool = False


async def post(real: Real, body: Any = HELLO, path: str = RUN, **headers: str) -> Refused:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    said = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await real.http.post(path, content=content, headers=said)
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert int(answer.headers.get("retry-after", 1)) > 0
    close = answer.headers.get("connection") == "close"
    return Refused(answer.status_code, answer.json()["code"], "retry-after" in answer.headers, close)


# -- situations


async def full_of_runs(real: Real) -> Refused:
    with changed(real.server.engine.dispatcher.lanes["main"], queue_limit=0):
        return await post(real)


async def full_of_bytes(real: Real) -> Refused:
    late = await real.http.post(RUN, json=HELLO | {"delay_s": 600})
    with changed(real.server.engine.dispatcher.lanes["main"], bytes_limit=20):
        refused = await post(real)
    await real.http.post(f"/api/tasks/{late.json()['cid']}/cancel")
    return refused


async def batch_beyond_the_lane(real: Real) -> Refused:
    with changed(real.server.engine.dispatcher.lanes["main"], queue_limit=99):
        return await post(real, {"tasks": [HELLO] * 100, "atomic": True}, BATCH)


async def bad_57th(real: Real) -> Refused:
    tasks = [HELLO] * 56 + [HELLO | {"inputs": {}}] + [HELLO] * 43
    return await post(real, {"tasks": tasks, "atomic": True}, BATCH)


async def going(real: Real) -> Refused:
    with changed(real.server.engine.admission, closed=True):
        return await post(real)


async def runs_already(real: Real) -> Refused:
    first = await real.http.post(RUN, json=ONCE)
    refused = await post(real, ONCE)
    await real.http.post(f"/api/tasks/{first.json()['cid']}/cancel")
    return refused


async def ended(real: Real) -> Refused:
    cid = await real.cid()
    await real.wait_state(cid, "succeeded")
    return await post(real, {}, f"/api/tasks/{cid}/cancel")


async def other_body(real: Real) -> Refused:
    await real.http.post(RUN, json=HELLO, headers={"Idempotency-Key": "k"})
    return await post(real, HELLO | {"priority": 1}, Idempotency_Key="k")


async def without_the_scope(real: Real) -> Refused:
    made = (await real.http.post("/api/tokens", json={"scopes": ["read"]})).json()
    return await post(real, Authorization=f"Bearer {made['token']}")


async def without_a_token(real: Real) -> Refused:
    return await post(real, Authorization="Bearer nobody")


async def too_large(real: Real) -> Refused:
    return await post(real, b" " * (2**20 + 1))


async def of_another_type(real: Real) -> Refused:
    return await post(real, Content_Type="text/plain")


async def with_bad_inputs(real: Real) -> Refused:
    return await post(real, HELLO | {"inputs": {"day": 1}})


async def of_an_unknown_plan(real: Real) -> Refused:
    return await post(real, HELLO | {"plan_name": "nope"})


async def of_an_unknown_task(real: Real) -> Refused:
    return await post(real, HELLO | {"task_name": "nope"})


async def of_a_broken_plan(real: Real) -> Refused:
    return await post(real, {"plan_name": "torn", "task_name": "x"})


async def for_another_host(real: Real) -> Refused:
    return await post(real, Host="evil.example")


async def from_another_page(real: Real) -> Refused:
    return await post(real, Origin="http://evil.example")


SITUATIONS: Mapping[Callable[[Real], Awaitable[Refused]], Refused] = {
    full_of_runs: Refused(429, "queue_full", again=True),
    full_of_bytes: Refused(429, "queue_full", again=True),
    batch_beyond_the_lane: Refused(429, "queue_full", again=True),
    bad_57th: Refused(422, "invalid"),
    going: Refused(503, "shutting_down", again=True, close=True),
    runs_already: Refused(409, "refused_by_mode"),
    ended: Refused(409, "ended"),
    other_body: Refused(422, "key_reused"),
    without_the_scope: Refused(403, "forbidden", close=True),
    without_a_token: Refused(401, "unauthorized", close=True),
    too_large: Refused(413, "body_too_large", close=True),
    of_another_type: Refused(415, "bad_content_type", close=True),
    with_bad_inputs: Refused(422, "inputs_invalid"),
    of_an_unknown_plan: Refused(404, "unknown_plan"),
    of_an_unknown_task: Refused(404, "unknown_task"),
    of_a_broken_plan: Refused(503, "plan_broken", again=True),
    for_another_host: Refused(421, "foreign_host", close=True),
    from_another_page: Refused(403, "foreign_origin", close=True),
}


async def test_each_refusal_has_its_status_code_and_headers(tmp_path: Path) -> None:
    """One server for all of them: after each it answers as before."""
    with anyio.fail_after(LIMIT):
        async with opened(tmp_path) as real:
            found = {refuse.__name__: await refuse(real) for refuse in SITUATIONS}
            assert (await real.run()).status_code == 202
    assert found == {refuse.__name__: refused for refuse, refused in SITUATIONS.items()}


#: Those in which something is accepted on the way, before what is refused.
ACCEPTING: Mapping[Callable[[Real], Awaitable[Refused]], int] = {
    full_of_bytes: 1,
    runs_already: 1,
    ended: 1,
    other_body: 1,
}


async def test_nothing_of_a_refused_request_is_stored(tmp_path: Path) -> None:
    with anyio.fail_after(LIMIT):
        async with opened(tmp_path) as real:
            for refuse in SITUATIONS:
                before = await stored(real)
                await refuse(real)
                assert await stored(real) - before == ACCEPTING.get(refuse, 0), refuse.__name__


async def stored(real: Real) -> int:
    count: int = await real.server.engine.runtime.store.read(lambda x: x("SELECT count(*) FROM run").fetchone()[0])
    return count


# -- a cut connection


@pytest.mark.parametrize("body", [HELLO, HELLO | {"priority": 1}], ids=["same body", "another body"])
async def test_client_that_was_cut_off_learns_by_its_key_what_became_of_it(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    """It sends its request and goes without the answer once the run is stored; then it asks again with the same key."""
    with anyio.fail_after(LIMIT):
        async with opened(tmp_path) as real:
            await send_and_go(real, HELLO)
            answer = await real.http.post(RUN, json=body, headers={"Idempotency-Key": "k"})
            assert await stored(real) == 1
            if body == HELLO:
                assert (answer.status_code, answer.headers["idempotent-replayed"]) == (202, "true")
            else:
                assert (answer.status_code, answer.json()["code"]) == (422, "key_reused")


async def send_and_go(real: Real, body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    url = real.http.base_url
    lines = ["POST /api/tasks/run HTTP/1.1", f"Host: {url.host}:{url.port}", "Content-Type: application/json"]
    lines += [f"Authorization: {real.http.headers['Authorization']}", f"Content-Length: {len(raw)}"]
    asked = "\r\n".join([*lines, "Idempotency-Key: k", "", ""]).encode()
    async with await anyio.connect_tcp(url.host, url.port or 0) as stream:
        await stream.send(asked + raw)
        while await stored(real) < 1:
            await anyio.lowlevel.checkpoint()
