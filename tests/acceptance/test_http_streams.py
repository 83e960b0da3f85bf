"""Streams over a real port: order, resuming, gaps, ends, heartbeats, readers that stop reading."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.fakes.engine import BOOT, FakeEngine
from tests.fakes.web import Events, Web, open_web

from aura.events import BOOT_SHIFT, Entry
from aura.records.removal import LOGS_TO
from aura.web import sse

BASE = BOOT << BOOT_SHIFT
LOGS = "/api/logs/stream"
CID = "01a201e6-e7b6-7344-9aa6-a9d0ae8f2df5"


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def streaming(web: Web, path: str, last_id: object = None, **params: str) -> AsyncIterator[Events]:
    headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
    async with web.http.stream("GET", path, headers=headers, params=params) as answer:
        yield Events(answer)


def log(web: Web, *messages: str, **columns: Any) -> list[Entry]:
    return [web.engine.journal.log("info", message, **columns) for message in messages]


# -- everyone's log lines ---------------------------------------------------------------------------------------------


async def test_line_arrives_as_id_and_data_without_an_event_name(web: Web) -> None:
    log(web, "before")
    async with streaming(web, LOGS) as events:
        (entry,) = log(web, "after")
        found = await events.next()
    assert found == {"id": str(entry.id), "data": entry.record()}
    assert events.answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert events.answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("params", "seen"),
    [
        ({"level": "warning"}, ["b"]),
        ({"cid": "c1"}, ["a"]),
        ({"plan_name": "p", "task_name": "t"}, ["b"]),
        ({}, ["a", "b"]),
    ],
)
async def test_filters(web: Web, params: dict[str, str], seen: list[str]) -> None:
    journal = web.engine.journal
    async with streaming(web, LOGS, **params) as events:
        journal.log("info", "a", cid="c1", plan_name="p")
        journal.log("error", "b", cid="c2", plan_name="p", task_name="t")
        journal.log("critical", "last", cid="c1", plan_name="p", task_name="t")
        assert await events.messages(len(seen) + 1) == [*seen, "last"]


async def test_resumes_from_the_ring(web: Web) -> None:
    entries = log(web, "a", "b", "c")
    async with streaming(web, LOGS, entries[0].id) as events:
        log(web, "d")
        assert await events.messages(3) == ["b", "c", "d"]


async def test_resumes_from_the_store_without_loss_or_duplicate(tmp_path: Path) -> None:
    engine = FakeEngine(ring=50)
    async with open_web(tmp_path, engine=engine) as web:
        entries = log(web, *(str(n) for n in range(2000)))
        async with streaming(web, LOGS, entries[99].id) as events:
            log(web, "live")
            assert await events.messages(1901) == [*(str(n) for n in range(100, 2000)), "live"]


async def test_resumes_while_others_write_faster_than_the_ring_holds(tmp_path: Path) -> None:
    engine = FakeEngine(ring=50)
    read = engine.log_entries

    async def read_while_more_comes(**arguments: Any) -> list[Entry]:
        found = await read(**arguments)
        if len(engine.stored) < 5000:
            for _ in range(120):
                engine.journal.log("info", "x")
        return found

    engine.log_entries = read_while_more_comes  # type: ignore[method-assign]
    async with open_web(tmp_path, engine=engine) as web:
        first, *_ = log(web, *("x" for _ in range(1000)))
        async with streaming(web, LOGS, first.id) as events:
            ids = [int((await events.next())["id"]) for _ in range(4000)]
    assert ids == list(range(first.id + 1, first.id + 4001))


@pytest.mark.parametrize(
    "last_id", ["garbage", "-5", "0", "1e3", "9" * 19, "9" * 40, "٣", str(BASE + 10**6)], ids=lambda text: text[:20]
)
async def test_last_id_that_was_never_given_out_gets_a_gap_and_then_what_is_live(web: Web, last_id: str) -> None:
    entries = log(web, "a", "b")
    async with web.http.stream("GET", LOGS, headers={b"Last-Event-ID": last_id.encode()}) as answer:
        events = Events(answer)
        last = str(entries[-1].id)
        assert await events.next() == {"event": "gap", "id": last, "data": {"from": None, "to": last}}
        log(web, "live")
        assert await events.messages(1) == ["live"]


async def test_last_id_that_the_history_no_longer_has_gets_a_gap(tmp_path: Path) -> None:
    async with open_web(tmp_path, engine=FakeEngine(ring=10)) as web:
        entries = log(web, *(str(n) for n in range(100)))
        del web.engine.stored[:60]
        async with streaming(web, LOGS, entries[20].id) as events:
            gap = (await events.next())["data"]
            assert gap == {"from": str(entries[21].id), "to": str(entries[59].id)}
            assert await events.messages(40) == [str(n) for n in range(60, 100)]


async def test_last_id_of_an_older_boot_goes_on_from_the_store(tmp_path: Path) -> None:
    engine = FakeEngine(ring=10)
    older = FakeEngine()
    older_entry = older.journal.log("info", "of an older boot")
    older_entry.id = ((BOOT - 1) << BOOT_SHIFT) + 5
    engine.stored.append(older_entry)
    async with open_web(tmp_path, engine=engine) as web:
        log(web, *(str(n) for n in range(30)))
        async with streaming(web, LOGS, older_entry.id) as events:
            assert await events.messages(30) == [str(n) for n in range(30)]


async def test_last_id_that_is_kept_gets_a_gap_if_later_records_are_gone(tmp_path: Path) -> None:
    """Retention goes run by run: the record that a client had last may be there while later ones are not."""
    async with open_web(tmp_path, engine=FakeEngine(ring=10)) as web:
        entries = log(web, *(str(n) for n in range(30)))
        del web.engine.stored[10:20]
        web.engine.removed[LOGS_TO] = entries[19].id
        async with streaming(web, LOGS, entries[5].id) as events:
            assert (await events.next())["data"] == {"from": str(entries[6].id), "to": str(entries[19].id)}
            assert await events.messages(14) == [str(n) for n in (6, 7, 8, 9, *range(20, 30))]


async def test_reader_that_fell_behind_gets_one_gap(tmp_path: Path) -> None:
    async with open_web(tmp_path, engine=FakeEngine(ring=10)) as web, streaming(web, LOGS) as events:
        entries = log(web, *(str(n) for n in range(25)))
        gap = await events.next()
        assert gap["event"] == "gap"
        assert gap["id"] == gap["data"]["to"] == str(entries[14].id)
        assert await events.messages(10) == [str(n) for n in range(15, 25)]


async def test_text_cannot_forge_an_event(web: Web) -> None:
    async with streaming(web, LOGS) as events:
        log(web, "\n\nevent: end\ndata: {}\n\n", "\r\nid: 5\r\n\r\n", "next")
        assert await events.messages(3) == ["\n\nevent: end\ndata: {}\n\n", "\r\nid: 5\r\n\r\n", "next"]


async def test_quiet_stream_gets_comments(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT", 0.02)
    async with streaming(web, LOGS) as events:
        with pytest.raises(TimeoutError), anyio.fail_after(0.3):
            await events.next()
        assert events.comments >= 3


async def test_stream_whose_lines_do_not_fit_gets_comments_too(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT", 0.05)
    async with streaming(web, LOGS, level="error") as events:
        async with anyio.create_task_group() as group:  # somebody who talks on, cancelled when the reader has given up
            group.start_soon(talk, web)
            with pytest.raises(TimeoutError), anyio.fail_after(0.4):
                await events.next()
            group.cancel_scope.cancel()
        assert events.comments >= 3


async def talk(web: Web) -> None:
    while True:
        log(web, "of no interest")
        await anyio.sleep(0.01)


async def test_reader_that_is_gone_is_forgotten(web: Web) -> None:
    async with streaming(web, LOGS) as events:
        log(web, "x")
        await events.next()
        assert web.engine.journal.readers == 1
    with anyio.fail_after(1):
        while web.engine.journal.readers:
            await anyio.lowlevel.checkpoint()


async def test_reader_that_has_stopped_reading_is_cut(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "WRITE_TIMEOUT", 0.1)
    async with await anyio.connect_tcp("127.0.0.1", web.port) as client:
        await client.send(web.head("GET", LOGS))
        with anyio.fail_after(20):
            while not web.engine.journal.readers:
                await anyio.lowlevel.checkpoint()
            for _ in range(300):  # 18 MB, more than sockets hold
                log(web, "x" * 60_000)
                await anyio.lowlevel.checkpoint()
            while web.engine.journal.readers:
                await anyio.lowlevel.checkpoint()


async def test_too_many_streams_are_refused(tmp_path: Path) -> None:
    async with open_web(tmp_path, max_streams=2) as web:
        async with streaming(web, LOGS), streaming(web, LOGS):
            refused = await web.http.get(LOGS)
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_streams")
            assert refused.headers["retry-after"] == "5"
        with anyio.fail_after(2):
            while web.engine.journal.readers:
                await anyio.lowlevel.checkpoint()
        async with streaming(web, LOGS) as events:
            assert events.answer.status_code == 200


async def test_head_of_a_stream_has_no_body(web: Web) -> None:
    run = web.engine.add_run("running")
    for path in (LOGS, f"/api/runs/{run.cid}/events"):
        answer = await web.http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")
    assert web.engine.journal.readers == 0


async def test_server_that_stops_says_shutdown(web: Web) -> None:
    async with streaming(web, LOGS) as events:
        log(web, "last words")
        assert await events.messages(1) == ["last words"]
        web.stop.set()
        assert await events.rest() == [{"event": "shutdown", "data": {}}]


async def test_bad_level_is_422(web: Web) -> None:
    assert (await web.http.get(LOGS, params={"level": "loud"})).status_code == 422


# -- one run ----------------------------------------------------------------------------------------------------------


async def test_stream_of_a_run_has_all_of_it_from_its_start_to_its_end(web: Web) -> None:
    engine = web.engine
    run = engine.add_run("running")
    stored = [engine.tell(run, "run.accepted"), *log(web, "line", cid=run.cid), engine.tell(run, "run.started")]
    log(web, "of another run", cid="other")
    async with streaming(web, f"/api/runs/{run.cid}/events") as events:
        assert [await events.next() for _ in stored] == [{"id": str(e.id), "data": e.record()} for e in stored]
        live = engine.tell(run, "step.started", step="ping")
        assert await events.next() == {"id": str(live.id), "data": live.record()}
        end = engine.end(run)
        assert await events.rest() == [{"event": "end", "id": str(end.id), "data": end.record()}]


async def test_event_that_is_staged_while_the_stream_opens_is_not_lost(web: Web) -> None:
    run = web.engine.add_run("running")
    web.engine.tell(run, "run.accepted")
    staged = web.engine.journal.stage("run.started", cid=run.cid)
    async with streaming(web, f"/api/runs/{run.cid}/events") as events:
        assert (await events.next())["data"]["name"] == "run.accepted"
        web.engine.stored.append(staged)
        web.engine.journal.settle([staged], committed=True)
        assert (await events.next())["data"]["name"] == "run.started"


async def test_run_that_goes_on_while_another_run_s_commit_is_slow_is_not_repeated(web: Web) -> None:
    run = web.engine.add_run("running")
    path = f"/api/runs/{run.cid}/events"
    slow = web.engine.journal.stage("run.started", cid="other")
    async with streaming(web, path) as events:
        log(web, "a", "b", cid=run.cid)
        seen = [await events.next(), await events.next()]
        async with streaming(web, path, seen[0]["id"]) as again:
            web.engine.journal.settle([slow], committed=True)
            log(web, "c", cid=run.cid)
            assert await again.messages(2) == ["b", "c"]


async def test_ended_run_is_replayed_and_then_over(web: Web) -> None:
    run = web.engine.add_run("running")
    accepted, end = web.engine.tell(run, "run.accepted"), web.engine.end(run, "failed")
    path = f"/api/runs/{run.cid}/events"
    async with streaming(web, path) as events:
        assert [event.get("event") for event in await events.rest()] == [None, "end"]
    async with streaming(web, path, accepted.id) as events:
        assert [event["id"] for event in await events.rest()] == [str(end.id)]
    assert (await web.http.get(path, headers={"Last-Event-ID": str(end.id)})).status_code == 204


async def test_long_run_is_replayed_in_pages(web: Web) -> None:
    run = web.engine.add_run("running")
    log(web, *(str(n) for n in range(1700)), cid=run.cid)
    async with streaming(web, f"/api/runs/{run.cid}/events") as events:
        assert await events.messages(1700) == [str(n) for n in range(1700)]
        web.engine.end(run)
        assert [event["event"] for event in await events.rest()] == ["end"]


async def test_run_that_overruns_its_ring_is_read_from_the_store(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.journal.RUN_RING", 8)
    run = web.engine.add_run("running")
    async with streaming(web, f"/api/runs/{run.cid}/events") as events:
        log(web, *(str(n) for n in range(700)), cid=run.cid)
        assert await events.messages(700) == [str(n) for n in range(700)]
        web.engine.end(run)
        assert [event["event"] for event in await events.rest()] == ["end"]


async def test_run_whose_events_are_gone_still_has_an_end(web: Web) -> None:
    run = web.engine.add_run("cancelled", finished_at=5.0)
    async with streaming(web, f"/api/runs/{run.cid}/events") as events:
        (end,) = await events.rest()
    assert (end["event"], end["data"]["name"], end["data"]["cid"]) == ("end", "run.cancelled", run.cid)


async def test_ring_of_a_run_goes_with_its_readers(web: Web) -> None:
    run = web.engine.add_run("running")
    async with streaming(web, f"/api/runs/{run.cid}/events"), streaming(web, f"/api/runs/{run.cid}/events"):
        assert web.engine.journal.readers == 2
    with anyio.fail_after(1):
        while web.engine.journal.readers:
            await anyio.lowlevel.checkpoint()


async def test_reading_that_fails_leaves_no_reader(web: Web) -> None:
    run = web.engine.add_run("running")
    web.engine.fail = RuntimeError("no")
    assert (await web.http.get(f"/api/runs/{run.cid}/events")).status_code == 500
    assert web.engine.journal.readers == 0
