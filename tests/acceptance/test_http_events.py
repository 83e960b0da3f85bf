"""Emitting events, and their stream, over a real port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.engine import FakeEngine
from tests.fakes.web import Events, Web, open_web

EVENTS = "/api/events/stream"


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def streaming(web: Web, last_id: object = None, **params: str) -> AsyncIterator[Events]:
    headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
    async with web.http.stream("GET", EVENTS, headers=headers, params=params) as answer:
        yield Events(answer)


async def emit(web: Web, name: str, **more: Any) -> str:
    answer = await web.http.post("/api/events", json={"name": name, **more})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["event_id"])


async def names(events: Events, count: int) -> list[str]:
    return [event["data"]["name"] for event in [await events.next() for _ in range(count)]]


# -- emitting


async def test_event_is_answered_with_its_id(web: Web) -> None:
    answer = await web.http.post("/api/events", json={"name": "disk.full", "payload": {"disk": "a"}})
    (entry,) = web.engine.stored
    assert answer.status_code == 202
    assert answer.json() == {"event_id": str(entry.id), "started": [], "interrupts": []}
    assert (entry.record()["name"], entry.record()["payload"]) == ("disk.full", {"disk": "a"})


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        pytest.param({"name": "run.succeeded"}, "reserved_event", "/name", id="reserved"),
        pytest.param({"name": "a.*"}, "invalid", "/name", id="pattern"),
        pytest.param({"name": ""}, "invalid", "/name", id="empty"),
        pytest.param({"name": 5}, "invalid", "/name", id="number"),
        pytest.param({}, "invalid", "/name", id="no-name"),
        pytest.param({"name": "a", "payload": "x" * 65536}, "invalid", "/payload", id="large"),
    ],
)
async def test_bad_event_is_422_with_a_pointer(web: Web, body: dict[str, Any], code: str, path: str) -> None:
    answer = await web.http.post("/api/events", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, code)
    assert [error["path"] for error in problem["errors"]] == [path]
    assert web.engine.stored == []


async def test_largest_payload_is_taken(web: Web) -> None:
    await emit(web, "a", payload="x" * 65534)


# -- the stream


async def test_event_arrives_as_id_and_data_without_an_event_name(web: Web) -> None:
    await emit(web, "before")
    async with streaming(web) as events:
        web.engine.journal.log("info", "no event")
        event_id = await emit(web, "after", payload=1)
        found = await events.next()
    assert set(found) == {"id", "data"}
    assert found["id"] == event_id
    assert found["data"] == found["data"] | {"kind": "event", "id": event_id, "name": "after", "payload": 1}


@pytest.mark.parametrize(
    ("params", "seen"),
    [
        pytest.param({}, ["a.one", "run.started", "b", "end"], id="all"),
        pytest.param({"name": "a.*"}, ["a.one"], id="pattern"),
        pytest.param({"name": "run.*"}, ["run.started"], id="own"),
        pytest.param({"name": "**"}, ["a.one", "b", "end"], id="stars-are-not-own"),
        pytest.param({"plan_name": "lab"}, ["run.started"], id="plan"),
    ],
)
async def test_filters_live_and_resumed(tmp_path: Path, params: dict[str, str], seen: list[str]) -> None:
    engine = FakeEngine(ring=20)
    async with open_web(tmp_path, engine=engine) as web:
        first = await emit(web, "first")
        async with streaming(web, **params) as events:
            await emit(web, "a.one")
            engine.tell(engine.add_run(), "run.started")
            await emit(web, "b")
            await emit(web, "end")
            assert await names(events, len(seen)) == seen
        for _ in range(50):  # now it is in the store alone
            engine.journal.log("info", "x")
        async with streaming(web, first, **params) as events:
            assert await names(events, len(seen)) == seen


async def test_run_is_a_filter(web: Web) -> None:
    one, other = web.engine.add_run(), web.engine.add_run()
    async with streaming(web, cid=other.cid) as events:
        web.engine.tell(one, "run.started")
        web.engine.tell(other, "run.started")
        assert (await events.next())["data"]["cid"] == other.cid


async def test_resumes_over_many_pages_without_loss_or_duplicate(tmp_path: Path) -> None:
    engine = FakeEngine(ring=50)
    async with open_web(tmp_path, engine=engine) as web:
        run = engine.add_run()
        entries = [engine.tell(run, f"step.n{n}") for n in range(1300)]
        async with streaming(web, entries[99].id) as events:
            engine.tell(run, "step.live")
            found = await names(events, 1201)
    assert found == [*(f"step.n{n}" for n in range(100, 1300)), "step.live"]


async def test_last_id_that_was_never_given_out_gets_a_gap(web: Web) -> None:
    await emit(web, "a")
    async with streaming(web, "garbage") as events:
        gap = await events.next()
        await emit(web, "b")
        assert await names(events, 1) == ["b"]
    assert (gap["event"], gap["data"]["from"]) == ("gap", None)


async def test_last_id_that_is_no_longer_kept_gets_a_gap(tmp_path: Path) -> None:
    engine = FakeEngine(ring=5)
    async with open_web(tmp_path, engine=engine) as web:
        ids = [await emit(web, f"e{n}") for n in range(20)]
        del engine.stored[:10]
        async with streaming(web, ids[3]) as events:
            gap = await events.next()
            assert await names(events, 10) == [f"e{n}" for n in range(10, 20)]
    assert gap["data"] == {"from": str(int(ids[3]) + 1), "to": str(int(ids[10]) - 1)}


async def test_server_that_stops_says_shutdown(web: Web) -> None:
    async with streaming(web) as events:
        await emit(web, "a")
        await events.next()
        web.stop.set()
        assert [event["event"] for event in await events.rest()] == ["shutdown"]
    assert web.engine.journal.readers == 0


@pytest.mark.parametrize("pattern", ["a..b", "run.nonsense", ""])
async def test_bad_pattern_is_422(web: Web, pattern: str) -> None:
    answer = await web.http.get(EVENTS, params={"name": pattern})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "/name")


async def test_head_of_the_stream_has_no_body(web: Web) -> None:
    answer = await web.http.head(EVENTS)
    assert (answer.status_code, answer.content) == (200, b"")
