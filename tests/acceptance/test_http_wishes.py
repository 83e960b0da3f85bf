"""What headers wish for: that a request counts once, and that its end is awaited. Priorities and reruns over HTTP."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.fakes.real import Real, open_real
from tests.fakes.web import Web, connections, open_web

from aura.web import wishes
from aura.web.grants import MAX_IN_FLIGHT

RUN = "/api/tasks/run"
BATCH = "/api/tasks/batch"
GOOD = {"plan_name": "lab", "task_name": "report", "inputs": {"day": "x"}}
KEY = {"Idempotency-Key": "k"}
LIMIT = 20


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        yield opened


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    async with open_real(tmp_path) as opened:
        yield opened


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# -- Idempotency-Key


async def test_key_gives_the_same_answer_and_says_so(web: Web) -> None:
    first = await web.http.post(RUN, json=GOOD, headers=KEY)
    again = await web.http.post(RUN, json=dict(reversed(GOOD.items())), headers=KEY)
    assert (first.status_code, again.status_code) == (202, 202)
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert (again.json(), again.headers["location"]) == (first.json(), first.headers["location"])
    assert len(web.engine.records) == 1


async def test_key_with_another_body_is_422(web: Web) -> None:
    await web.http.post(RUN, json=GOOD, headers=KEY)
    answer = await web.http.post(RUN, json=GOOD | {"priority": 1}, headers=KEY)
    assert code_of(answer) == (422, "key_reused")
    assert len(web.engine.records) == 1


async def test_key_of_a_batch_covers_the_whole(web: Web) -> None:
    body = {"tasks": [GOOD, {"plan_name": "lab"}, GOOD | {"task_name": "nope"}]}
    first = await web.http.post(BATCH, json=body, headers=KEY)
    again = await web.http.post(BATCH, json=body, headers=KEY)
    assert (again.status_code, again.headers["idempotent-replayed"], again.json()) == (202, "true", first.json())
    assert (first.json()["accepted"], first.json()["refused"], len(web.engine.records)) == (1, 2, 1)
    assert code_of(await web.http.post(BATCH, json=body | {"atomic": True}, headers=KEY))[0] == 422


async def test_key_of_one_token_says_nothing_to_another(web: Web) -> None:
    first = await web.http.post(RUN, json=GOOD, headers=KEY)
    made = (await web.http.post("/api/tokens", json={"scopes": ["run"]})).json()
    mine = KEY | {"Authorization": f"Bearer {made['token']}"}
    other = await web.stranger.post(RUN, json=GOOD | {"priority": 1}, headers=mine)
    again = await web.stranger.post(RUN, json=GOOD | {"priority": 1}, headers=mine)
    assert (other.status_code, "idempotent-replayed" in other.headers) == (202, False)
    assert other.json()["cid"] != first.json()["cid"]
    assert again.json() == other.json()


async def test_two_hundred_posts_of_one_key_are_one_run(real: Real) -> None:
    answers: list[Any] = []
    places = anyio.CapacityLimiter(50)  # a token may have some requests under way at once

    async def post() -> None:
        async with places:
            answers.append(await real.http.post(RUN, json=HELLO, headers=KEY))

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(post)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["cid"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 199
    assert len((await real.get("/api/runs"))["items"]) == 1


async def test_key_survives_a_restart(tmp_path: Path) -> None:
    async with open_real(tmp_path) as real:
        first = await real.http.post(RUN, json=HELLO, headers=KEY)
        items = {"tasks": [HELLO, HELLO | {"inputs": {}}]}
        batch = await real.http.post(BATCH, json=items, headers=KEY)
    async with open_real(tmp_path) as real:
        again = await real.http.post(RUN, json=HELLO, headers=KEY)
        assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
        assert (await real.http.post(BATCH, json=items, headers=KEY)).json() == batch.json()
        assert code_of(await real.http.post(RUN, json=HELLO | {"priority": 1}, headers=KEY)) == (422, "key_reused")
        assert len((await real.get("/api/runs"))["items"]) == 2


# -- Prefer: wait

HELLO: dict[str, Any] = {"plan_name": "lab", "task_name": "hello", "inputs": {"day": "2026"}}
LONG: dict[str, Any] = {"plan_name": "lab", "task_name": "long"}


async def test_run_that_ends_in_time_is_the_answer(real: Real) -> None:
    answer = await real.http.post(RUN, json=HELLO, headers={"Prefer": "wait=20"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait")
    body = answer.json()
    assert (body["state"], body["result"]) == ("succeeded", {"day": "2026"})
    assert body == await real.get(f"/api/runs/{body['cid']}")
    assert answer.headers["location"] == f"/api/runs/{body['cid']}"


async def test_token_that_cannot_read_runs_is_not_given_one_for_its_waiting(real: Real) -> None:
    made = (await real.http.post("/api/tokens", json={"scopes": ["run"]})).json()
    bearer = {"Authorization": f"Bearer {made['token']}"}
    answer = await real.http.post(RUN, json=HELLO, headers=bearer | {"Prefer": "wait=20"})
    assert (answer.status_code, set(answer.json())) == (202, {"cid", "state", "plan_name", "task_name"})


@pytest.mark.parametrize("text", ['"' + '\\"' * 40_000, '"\\' * 40_000, '"' * 80_001, "," * 80_000], ids=[*"abcd"])
def test_preference_that_is_meant_to_keep_the_server_busy_does_not(text: str) -> None:
    began = time.process_time()
    assert "".join(wishes._PREFERENCE.findall(text)) == text.replace(",", "")
    assert time.process_time() - began < 5


async def test_run_that_does_not_end_in_time_is_accepted_as_ever(real: Real) -> None:
    answer = await real.http.post(RUN, json=LONG, headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers
    assert set(answer.json()) == {"cid", "state", "plan_name", "task_name"}


async def test_replayed_request_waits_for_the_run_of_the_first(real: Real) -> None:
    first = await real.http.post(RUN, json=HELLO, headers=KEY)
    again = await real.http.post(RUN, json=HELLO, headers=KEY | {"Prefer": "wait=20"})
    assert (again.status_code, again.json()["cid"]) == (200, first.json()["cid"])
    assert (again.headers["idempotent-replayed"], again.headers["preference-applied"]) == ("true", "wait")


async def test_refused_request_waits_for_nothing(web: Web) -> None:
    answer = await web.http.post(RUN, json=GOOD | {"task_name": "nope"}, headers={"Prefer": "wait=300"})
    assert code_of(answer) == (404, "unknown_task")


WAITS = [
    pytest.param(["wait=20"], id="plain"),
    pytest.param(["Wait = 20"], id="spaces and capitals"),
    pytest.param(['wait="20"'], id="quoted"),
    pytest.param(["respond-async, wait=20; foo=bar, handling=lenient"], id="among others"),
    pytest.param(['x="a, wait=1", wait=20'], id="behind a quoted comma"),
    pytest.param(["handling=strict", "wait=20"], id="in a second header"),
    pytest.param(["wait=x, wait=20"], id="behind a malformed one"),
    pytest.param(["wait=999999999"], id="longer than we wait"),
]
NO_WAITS = [
    pytest.param([], id="none"),
    pytest.param([""], id="empty"),
    pytest.param(["wait"], id="no value"),
    pytest.param(["wait="], id="empty value"),
    pytest.param(["wait=0"], id="zero"),
    pytest.param(["wait=-1"], id="negative"),
    pytest.param(["wait=1.5"], id="fraction"),
    pytest.param(["wait=1 2"], id="two numbers"),
    pytest.param(["wait=" + "9" * 40], id="too many digits"),
    pytest.param(['wait="20'], id="open quote"),
    pytest.param(["waiting=20"], id="another word"),
    pytest.param(['x="wait=20"'], id="inside a quoted text"),
    pytest.param(['x="a, wait=20, b"'], id="between commas of a quoted text"),
    pytest.param(["x; wait=20"], id="a parameter of another"),
    pytest.param(["\u0662"], id="no digits of ours"),
]


def prefer(web: Web, values: list[str]) -> list[tuple[bytes, bytes]]:
    return [(b"Prefer", value.encode()) for value in values]


@pytest.mark.parametrize("values", WAITS)
async def test_preference_is_read_as_the_rfc_has_it(web: Web, values: list[str]) -> None:
    answers: list[Any] = []

    async def post() -> None:
        answers.append(await web.http.post(RUN, json=GOOD, headers=prefer(web, values)))

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(post)
            while not web.engine.ends:  # somebody waits for the end
                await anyio.lowlevel.checkpoint()
            (run,) = web.engine.records.values()
            web.engine.end(run)
    assert [answer.status_code for answer in answers] == [200]


@pytest.mark.parametrize("values", NO_WAITS)
async def test_preference_that_is_malformed_or_nothing_to_us_is_ignored(web: Web, values: list[str]) -> None:
    with anyio.fail_after(LIMIT):
        answer = await web.http.post(RUN, json=GOOD, headers=prefer(web, values))
    assert answer.status_code == 202
    assert web.engine.ends == {}


async def test_client_that_goes_away_ends_the_wait(web: Web) -> None:
    head = web.head("POST", RUN, "Content-Type: application/json", "Content-Length: {}", "Prefer: wait=300")
    body = b'{"plan_name": "lab", "task_name": "report", "inputs": {"day": "x"}}'
    with anyio.fail_after(LIMIT):
        async with await anyio.connect_tcp("127.0.0.1", web.port) as stream:
            await stream.send(head.replace(b"{}", b"%d" % len(body)) + body)
            while not web.engine.ends:
                await anyio.lowlevel.checkpoint()
            assert connections()
        while connections():
            await anyio.lowlevel.checkpoint()
    assert len(web.engine.records) == 1


async def test_server_that_stops_ends_the_wait(web: Web) -> None:
    answers: list[Any] = []

    async def post() -> None:
        answers.append(await web.http.post(RUN, json=GOOD, headers={"Prefer": "wait=300"}))

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(post)
            while not web.engine.ends:
                await anyio.lowlevel.checkpoint()
            web.stop.set()
    assert [answer.status_code for answer in answers] == [202]


async def test_token_that_is_revoked_ends_the_wait(web: Web) -> None:
    answers: list[Any] = []
    made = (await web.http.post("/api/tokens", json={"scopes": ["run", "read"]})).json()
    bearer = {"Authorization": f"Bearer {made['token']}"}

    async def post() -> None:
        answers.append(await web.stranger.post(RUN, json=GOOD, headers=bearer | {"Prefer": "wait=300"}))

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(post)
            while not web.engine.ends:
                await anyio.lowlevel.checkpoint()
            assert (await web.http.delete(f"/api/tokens/{made['id']}")).status_code in (200, 204)
    assert [answer.status_code for answer in answers] == [202]


async def test_those_who_wait_keep_nobody_from_asking(tmp_path: Path) -> None:
    answers: list[Any] = []

    async def post(web: Web) -> None:
        answers.append(await web.http.post(RUN, json=GOOD, headers={"Prefer": "wait=300"}))

    count = MAX_IN_FLIGHT + 5
    async with open_web(tmp_path, max_streams=count) as web:
        with anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as group:
                for _ in range(count):
                    group.start_soon(post, web)
                while len(web.engine.ends) < count:
                    await anyio.lowlevel.checkpoint()
                late = await web.http.post(RUN, json=GOOD, headers={"Prefer": "wait=300"})
                assert late.status_code == 202  # no place for one more who waits, and it is accepted all the same
                for run in list(web.engine.records.values()):
                    web.engine.end(run)
        assert [answer.status_code for answer in answers] == [200] * count


# -- priority


async def test_priority_moves_a_queued_run(real: Real) -> None:
    await real.http.post("/api/system/stop", json={"mode": "cancel", "grace_s": 0.1})
    cids = [await real.cid() for _ in range(3)]
    answer = await real.http.patch(f"/api/tasks/{cids[2]}/priority", json={"priority": 5})
    assert (answer.status_code, answer.json()) == (200, {"cid": cids[2], "priority": 5, "state": "queued"})
    assert [item["cid"] for item in (await real.get("/api/queue/list"))["items"]] == [cids[2], cids[0], cids[1]]
    assert (await real.get(f"/api/runs/{cids[2]}"))["priority"] == 5


@pytest.mark.parametrize(
    "body", [{}, {"priority": 1001}, {"priority": "1"}, {"priority": None}, {"priority": 1, "x": 1}]
)
async def test_priority_that_is_none_is_422(web: Web, body: dict[str, Any]) -> None:
    run = web.engine.add_run()
    assert code_of(await web.http.patch(f"/api/tasks/{run.cid}/priority", json=body)) == (422, "invalid")
    assert web.engine.records[run.cid].priority == 0


async def test_priority_of_an_ended_run_is_409_with_its_state(web: Web) -> None:
    run = web.engine.add_run("failed")
    answer = await web.http.patch(f"/api/tasks/{run.cid}/priority", json={"priority": 1})
    assert (code_of(answer), answer.json()["state"]) == ((409, "ended"), "failed")


# -- rerun


async def test_rerun_is_accepted_as_any_run(real: Real) -> None:
    first = (await real.http.post(RUN, json=HELLO, headers={"Prefer": "wait=20"})).json()
    answer = await real.http.post(f"/api/tasks/{first['cid']}/rerun", json={"from_step": "count"})
    assert answer.status_code == 202
    cid = answer.json()["cid"]
    assert answer.headers["location"] == f"/api/runs/{cid}"
    await real.events(cid)
    again = await real.get(f"/api/runs/{cid}")
    assert (again["state"], again["cause"]["kind"], again["cause"]["cid"]) == ("succeeded", "rerun", first["cid"])
    assert again["steps"][0] == first["steps"][0]
    assert [line["step"] for line in (await real.get(f"/api/runs/{cid}/logs"))["items"]] == ["count"]


async def test_rerun_that_cannot_be_is_refused(real: Real) -> None:
    cid = await real.cid("long")
    assert code_of(await real.http.post(f"/api/tasks/{cid}/rerun")) == (409, "conflict")
    await real.http.post(f"/api/tasks/{cid}/cancel")
    await real.wait_state(cid, "cancelled")
    answer = await real.http.post(f"/api/tasks/{cid}/rerun", json={"from_step": "napp"})
    assert (code_of(answer), answer.json()["errors"][0]["path"]) == ((422, "invalid"), "/from_step")
    assert "did you mean nap?" in answer.json()["errors"][0]["message"]
    assert (await real.http.post(f"/api/tasks/{cid}/rerun")).status_code == 202
