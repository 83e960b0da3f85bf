"""The event bus: what is emitted is stored with what it brings about, told in order, and goes round in no circle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, until
from tests.fakes.kernel import works

from aura.bus import MAX_DEPTH, MAX_VIA, Delivery
from aura.context import Context
from aura.errors import RequestError
from aura.events import Chain, Emitter, EventEntry, chain_after
from aura.records.events import EventFilter
from aura.run import Cause, Request
from aura.store import Execute
from aura.web.feeds import EventFeed
from aura.web.sse import Stream

CLOSE = 2**62


class Hears:
    """A subscriber that notes what it is offered, and what became of that."""

    def __init__(self, pattern: str, name: str = "test/one") -> None:
        self.pattern = pattern
        self.name = name
        self.offered: list[str] = []
        self.fates: list[tuple[str, str]] = []
        self.suspended: list[str] = []

    def offer(self, event: EventEntry) -> Delivery | None:
        self.offered.append(event.name)
        return Delivery(
            lambda execute: self.write(execute, event),
            lambda: self.fates.append((event.name, "stored")),
            lambda: self.fates.append((event.name, "lost")),
        )

    def write(self, execute: Execute, event: EventEntry) -> None:
        execute("INSERT INTO meta VALUES (?, ?)", (f"heard {self.name} {event.id}", event.name))

    def suspend(self, reason: str) -> None:
        self.suspended.append(reason)


class Answers(Hears):
    """A subscriber that emits another event for each that it hears, as a run would that the event has started."""

    def __init__(self, kit: Opened, pattern: str, answer: str, name: str) -> None:
        super().__init__(pattern, name)
        self._bus = kit.engine.runtime.bus
        self._answer = answer

    def offer(self, event: EventEntry) -> Delivery | None:
        self.offered.append(event.name)
        origin = Emitter("p", "t", "cid", "a", chain_after(event, self.name))
        return Delivery(None, lambda: self._bus.emit(self._answer, origin=origin), lambda: None)


def emitting(name: str, payload: Any = None, count: int = 1) -> Callable[..., Any]:
    async def act(ctx: Context) -> list[str]:
        return [await ctx.emit(name, payload) for _ in range(count)]

    return act


async def emitted(kit: Opened, name: str, payload: Any = None) -> str:
    return (await kit.engine.emit(name, payload)).event_id


async def stored(kit: Opened, name: str | None = None) -> list[dict[str, Any]]:
    """What is on record, by id."""
    page = await kit.engine.history.event_entries(EventFilter(name), 0, CLOSE, 50_000)
    return [event.record() for event in page.events]


def written(kit: Opened) -> list[str]:
    """What the subscribers wrote with the events."""
    rows = kit.backend.execute("SELECT value FROM meta WHERE key LIKE 'heard %' ORDER BY key")
    return [row[0] for row in rows]


def refuse(kit: Opened, table: str, name: str) -> None:
    """Have the store refuse to write such an event."""
    when = f"BEFORE INSERT ON {table} WHEN new.name = '{name}'"
    kit.backend.execute(f"CREATE TRIGGER no {when} BEGIN SELECT RAISE(ABORT, 'no'); END")


# -- what an event is


async def test_event_from_outside_begins_a_chain_of_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        event_id = await emitted(kit, "disk.full", {"disk": "a"})
        (record,) = await stored(kit, "disk.*")
    assert {key: record[key] for key in ("id", "name", "payload", "cause", "root", "depth", "cid")} == {
        "id": event_id,
        "name": "disk.full",
        "payload": {"disk": "a"},
        "cause": None,
        "root": event_id,
        "depth": 0,
        "cid": None,
    }


async def test_event_of_a_run_names_it_and_is_one_deeper(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", emitting("x.done", 1)))) as kit:
        run = await kit.record("t")
        (record,) = await stored(kit, "x.done")
        history = await kit.history(run.cid)
    assert (record["plan_name"], record["task_name"], record["cid"], record["step"]) == ("p", "t", run.cid, "a")
    assert (record["cause"], record["root"], record["depth"]) == (None, run.cid, 1)
    assert history.index("step.started a") < history.index("x.done a") < history.index("step.succeeded a")


async def test_run_that_an_event_woke_emits_in_its_chain(tmp_path: Path) -> None:
    gate = anyio.Event()

    async def act(ctx: Context) -> None:
        await gate.wait()
        await ctx.emit("x.done")

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await kit.begin_run("t")
        await quiet()
        run.chain = Chain("77", "76", 4, ("p/t/w",))
        gate.set()
        await kit.ended(run)
        (record,) = await stored(kit, "x.done")
        (end,) = await stored(kit, "run.succeeded")
    assert (record["cause"], record["root"], record["depth"]) == ("77", "76", 5)
    assert (end["cause"], end["root"], end["depth"]) == (None, run.cid, 0)  # as its record says


async def test_emit_from_a_thread(tmp_path: Path) -> None:
    def act(ctx: Context) -> str:
        return ctx.from_thread(ctx.emit, "x.done", {"n": 1})

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await kit.run("t")
        (record,) = await stored(kit, "x.done")
    assert (run.steps["a"].output, record["payload"]) == (record["id"], {"n": 1})


@pytest.mark.parametrize(
    ("name", "payload", "code", "path"),
    [
        pytest.param("run.succeeded", None, "reserved_event", "/name", id="own"),
        pytest.param("aura.x", None, "reserved_event", "/name", id="own-family"),
        pytest.param("engine", None, "reserved_event", "/name", id="own-first-part"),
        pytest.param("a..b", None, "invalid", "/name", id="empty-part"),
        pytest.param("a.*", None, "invalid", "/name", id="pattern"),
        pytest.param("a", {1, 2}, "invalid", "/payload", id="a-set"),
        pytest.param("a", float("nan"), "invalid", "/payload", id="nan"),
        pytest.param("a", "x" * 65536, "invalid", "/payload", id="too-large"),
    ],
)
async def test_bad_event_is_refused(tmp_path: Path, name: str, payload: Any, code: str, path: str) -> None:
    async with opened(tmp_path, task("t", step("a", emitting(name, payload)))) as kit:
        with pytest.raises(RequestError) as refused:
            await kit.engine.emit(name, payload)
        run = await kit.run("t")
        assert [event for event in await stored(kit) if event["name"] == name and event["cid"] is None] == []
    assert (refused.value.code, [error.path for error in refused.value.errors]) == (code, [path])
    assert run.error is not None
    assert run.error["type"] == "EventRefused"


async def test_largest_payload_is_taken(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        await emitted(kit, "a", "x" * 65534)
        assert len((await stored(kit, "a"))[0]["payload"]) == 65534


# -- subscribers


async def test_event_is_stored_with_what_it_brings_about_and_then_told(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        hears = Hears("disk.*")
        kit.engine.runtime.bus.subscribe(hears)
        emission = kit.engine.runtime.bus.emit("disk.full")
        assert (hears.offered, hears.fates) == (["disk.full"], [])
        await emission.ticket.wait()
        assert hears.fates == [("disk.full", "stored")]
        assert written(kit) == ["disk.full"]
        await emitted(kit, "other")
        kit.engine.runtime.bus.unsubscribe(hears)
        await emitted(kit, "disk.empty")
        assert hears.offered == ["disk.full"]


async def test_own_events_of_runs_are_delivered(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        hears, other, everything = Hears("run.*"), Hears("step.succeeded", "test/two"), Hears("**", "test/all")
        for one in (hears, other, everything):
            kit.engine.runtime.bus.subscribe(one)
        await kit.record("t")
        assert hears.fates == [(f"run.{name}", "stored") for name in ("accepted", "started", "succeeded")]
        assert (other.offered, everything.offered) == (["step.succeeded"], [])
        assert sorted(written(kit)) == ["run.accepted", "run.started", "run.succeeded", "step.succeeded"]


async def test_lost_unit_delivers_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        hears = Hears("x")
        kit.engine.runtime.bus.subscribe(hears)
        refuse(kit, "event", "x")
        with pytest.raises(RequestError):
            await kit.engine.emit("x")
        kit.backend.execute("DROP TRIGGER no")
        assert hears.fates == [("x", "lost")]
        assert (written(kit), await stored(kit, "x"), kit.engine.runtime.bus.room.taken) == ([], [], 0)
        await emitted(kit, "x")
        assert hears.fates == [("x", "lost"), ("x", "stored")]


class Raises(Hears):
    """A subscriber that fails: when it is asked, when its unit is written, or when it is told."""

    def __init__(self, where: str) -> None:
        super().__init__("x", "test/bad")
        self._where = where

    def offer(self, event: EventEntry) -> Delivery | None:
        if self._where == "asked":
            raise ValueError("no")
        found = super().offer(event)
        assert found is not None
        return found._replace(committed=self._fail) if self._where == "told" else found

    def write(self, execute: Execute, event: EventEntry) -> None:
        super().write(execute, event)
        if self._where == "written":
            raise ValueError("no")

    def _fail(self) -> None:
        raise ValueError("no")


@pytest.mark.parametrize("where", ["asked", "written", "told"])
async def test_failure_of_a_subscriber_is_its_own(tmp_path: Path, where: str) -> None:
    async with opened(tmp_path, task("t", step("a", emitting("x")))) as kit:
        bus = kit.engine.runtime.bus
        bad, good = Raises(where), Hears("x", "test/good")
        bus.subscribe(bad)
        bus.subscribe(good)
        await emitted(kit, "x")
        assert (await kit.record("t")).state == "succeeded"
        assert good.fates == [("x", "stored")] * 2
        assert (len(await stored(kit, "x")), bus.failures) == (2, 2)
        assert bad.fates == ([("x", "lost")] * 2 if where == "written" else [])
        assert len(written(kit)) == (4 if where == "told" else 2)
        assert kit.engine.status()["events"]["failures"] == 2


# -- circles


async def test_circle_of_one_is_cut_and_said_once(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        bus = kit.engine.runtime.bus
        ring, bystander = Answers(kit, "a", "a", "p/ring"), Hears("a", "p/bystander")
        alarm, star = Hears("aura.loop_detected", "p/alarm"), Hears("**", "p/star")
        for one in (ring, alarm, star):
            bus.subscribe(one)
        await emitted(kit, "a")
        await quiet()
        assert len(ring.offered) == MAX_VIA + 1
        assert len(ring.suspended) == 1
        assert (alarm.offered, "aura.loop_detected" in star.offered) == (["aura.loop_detected"], False)
        (record,) = await stored(kit, "aura.loop_detected")
        assert record["payload"]["subscriber"] == "p/ring"
        assert record["cause"] == record["payload"]["event_id"]
        bus.subscribe(bystander)
        await emitted(kit, "a")
        assert (bystander.offered, len(ring.offered)) == (["a"], MAX_VIA + 1)
        (shown,) = kit.engine.status()["events"]["suspended"]
        assert (shown["subscriber"], shown["event"]) == ("p/ring", "a")
        bus.subscribe(ring)
        assert kit.engine.status()["events"]["suspended"] == []


async def test_circle_of_two_is_cut(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        bus = kit.engine.runtime.bus
        there, back = Answers(kit, "a", "b", "p/there"), Answers(kit, "b", "a", "p/back")
        bus.subscribe(there)
        bus.subscribe(back)
        await emitted(kit, "a")
        await quiet()
        assert len(there.suspended) + len(back.suspended) == 1
        assert len(there.offered) + len(back.offered) == MAX_DEPTH + 1


async def test_circle_that_begins_anew_by_its_own_alarm_is_cut_as_well(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        bus = kit.engine.runtime.bus
        rings: list[Answers] = []

        class Restarts(Answers):
            def offer(self, event: EventEntry) -> Delivery | None:
                if len(rings) > 50:  # if it is never cut, the test is to fail and not to hang
                    return None
                rings.append(Answers(kit, "a", "a", "p/ring"))
                bus.subscribe(rings[-1])
                return super().offer(event)

        alarm = Restarts(kit, "aura.loop_detected", "a", "p/alarm")
        rings.append(Answers(kit, "a", "a", "p/ring"))
        bus.subscribe(rings[0])
        bus.subscribe(alarm)
        await emitted(kit, "a")
        await quiet()
        assert len(alarm.suspended) == 1
        assert sum(len(ring.offered) for ring in rings) < 100


async def test_chain_of_different_subscribers_is_cut_by_its_depth(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        links = [Answers(kit, f"e{n}", f"e{n + 1}", f"p/{n}") for n in range(MAX_DEPTH + 5)]
        for one in links:
            kit.engine.runtime.bus.subscribe(one)
        await emitted(kit, "e0")
        await quiet()
        assert [len(one.offered) for one in links] == [1] * (MAX_DEPTH + 1) + [0] * 4
        assert [one.name for one in links if one.suspended] == [f"p/{MAX_DEPTH + 1}"]


# -- storms and the bound


class Counts(Hears):
    """A subscriber that only counts."""

    commits = 0

    def offer(self, event: EventEntry) -> Delivery | None:
        return Delivery(None, self._count, lambda: None)

    def _count(self) -> None:
        self.commits += 1


async def test_storm_is_stored_in_order_and_leaves_nothing_behind(tmp_path: Path) -> None:
    storm = task("t", *[step(f"s{n}", emitting("x", n, 2000)) for n in range(10)])
    async with opened(tmp_path, storm) as kit:
        bus = kit.engine.runtime.bus
        hears = [Counts("x", f"test/{n}") for n in range(10)]
        for one in hears:
            bus.subscribe(one)
        await kit.record("t")
        ids = [int(event["id"]) for event in await stored(kit, "x")]
        assert len(ids) == 20_000
        assert ids == sorted(set(ids))
        assert [one.commits for one in hears] == [20_000] * 10
        assert (bus.room.taken, bus.failures) == (0, 0)


async def test_full_bus_refuses_clients_and_lets_runs_wait(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", emitting("y")))) as kit:
        bus = kit.engine.runtime.bus
        for _ in range(10_000):
            bus.emit("x")
        with pytest.raises(RequestError) as refused:
            bus.emit("x")
        assert (refused.value.code, refused.value.status, refused.value.retry_after) == ("events_full", 429, 5.0)
        assert (await kit.record("t")).state == "succeeded"
        assert len(await stored(kit, "y")) == 1
        await emitted(kit, "x")
        assert bus.room.taken == 0


async def test_run_waits_for_room(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", emitting("y")))) as kit:
        bus = kit.engine.runtime.bus
        while bus.room.take_nowait():
            pass
        run = await kit.begin_run("t")
        await quiet()
        assert (run.state, await stored(kit, "y")) == ("running", [])
        bus.room.give_back()
        assert (await kit.ended(run)).state == "succeeded"
        assert len(await stored(kit, "y")) == 1


# -- Aura's own events


async def test_engine_tells_how_it_stands(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works)), faults=1) as kit:
        kit.engine.runtime.fault("a test", ValueError("no"))
        kit.engine.runtime.fault("a test", ValueError("again"))
        await kit.engine.stop("drain", 1)
        await kit.engine.start()
        await kit.engine.runtime.store.written()
        names = [event["name"] for event in await stored(kit, "engine.*")]
        kit.engine.runtime.faults.pop()
    assert names == [f"engine.{name}" for name in ("started", "degraded", "stopping", "stopped", "started")]


async def test_events_are_stored_and_delivered_while_the_engine_is_stopped(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        hears = Hears("x")
        kit.engine.runtime.bus.subscribe(hears)
        await kit.engine.stop("drain", 1)
        await emitted(kit, "x")
        assert (hears.fates, len(await stored(kit, "x"))) == ([("x", "stored")], 1)


async def test_recent_events_are_those_from_an_id_on(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        first = await emitted(kit, "a.one")
        second = await emitted(kit, "a.two")
        await emitted(kit, "b")
        on_its_way = kit.engine.runtime.bus.emit("a.three").entry
        recent = kit.engine.runtime.bus.recent
        assert [event.name for event in recent("a.*", int(second))] == ["a.two", "a.three"]
        assert [str(event.id) for event in recent("a.*", 0)] == [first, second, str(on_its_way.id)]
        assert list(recent("a.*", on_its_way.id + 1)) == []
        refuse(kit, "event", "a.three")
        await until(lambda: not kit.engine.runtime.bus.room.taken)
        assert [event.name for event in recent("a.*", 0)] == ["a.one", "a.two"]  # that one was lost


@pytest.mark.parametrize("pushed", [10_001, 0], ids=["from the store", "from the ring"])
async def test_stream_goes_on_behind_an_event(tmp_path: Path, pushed: int) -> None:
    chunks: list[bytes] = []
    stopping = anyio.Event()

    async def send(message: Any) -> None:
        chunks.append(message.get("body", b""))

    async with opened(tmp_path, task("t", step("a", emitting("x", None, 700)))) as kit:
        before = int(await emitted(kit, "before"))
        run = await kit.record("t")
        last = await emitted(kit, "last")
        for _ in range(pushed):
            kit.engine.journal.log("info", "pushes the events out of the ring")
        feed = EventFeed(kit.engine, EventFilter(cid=run.cid), before)
        async with anyio.create_task_group() as group:  # the stream, which ends when it is told to
            group.start_soon(feed.run, Stream(send, stopping))
            await until(lambda: b"run.succeeded" in b"".join(chunks))
            stopping.set()
            feed.reader.close()
    ids = [int(line[4:]) for line in b"".join(chunks).splitlines() if line.startswith(b"id: ")]
    assert ids == sorted(set(ids))
    assert (len(ids), b"event: gap" in b"".join(chunks)) == (705, False)
    assert before < ids[0] <= ids[-1] < int(last)


async def test_batch_that_is_refused_tells_its_subscribers(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        hears = Hears("run.accepted")
        kit.engine.runtime.bus.subscribe(hears)
        refuse(kit, "history", "run.accepted")
        with pytest.raises(RequestError):
            await kit.engine.submit_batch([Request("p", "t")] * 3, Cause("api"), True)
        assert hears.fates == [("run.accepted", "lost")] * 3
