"""The why-ledger by itself: what says the same is one line, no count is lost, and a full store is waited for."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.blocked import FULL, Blocked

from aura.ledger import MAX_DETAIL, MAX_OPEN, SPAN, WRITE_EVERY, Ledger
from aura.records.why import WhyFilter, last_why, list_why
from aura.redaction import Redactor
from aura.store import Store
from aura.stores.memory import MemoryBackend
from aura.testing.virtual_time import VirtualClock, VirtualLoop
from aura.why import Why

ALL = WhyFilter()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Kept:
    """A ledger over a store that is served, and what that has committed."""

    def __init__(self, backend: MemoryBackend, redactor: Redactor) -> None:
        self.backend = backend
        self.faults: list[Exception] = []
        self.store = Store(backend, on_fault=self.faults.append, on_fatal=self.faults.append)
        self.ledger = Ledger(self.store, VirtualClock(), redactor)

    def stored(self) -> list[Why]:
        """What is on record, the oldest first."""
        return list_why(self.backend.execute, ALL, 1_000_000)[::-1]

    def note(
        self,
        reason: str = "cooldown",
        detail: str = "no",
        count: int = 1,
        item: str | None = None,
        plan_name: str | None = None,
    ) -> None:
        self.ledger.note(Why(reason, detail, plan_name, item, count=count))


@asynccontextmanager
async def open_ledger(backend: MemoryBackend | None = None, redactor: Redactor | None = None) -> AsyncIterator[Kept]:
    kept = Kept(backend or MemoryBackend(), redactor or Redactor())
    # the store alone; ends by ``close`` at the latest. The bound is for a store that tries for ever.
    with anyio.fail_after(100_000):
        async with anyio.create_task_group() as group:
            group.start_soon(kept.store.serve)
            try:
                yield kept
            finally:
                kept.ledger.close()
                kept.store.close(anyio.current_time() + 60)
    assert kept.faults == []


async def test_what_says_the_same_within_a_minute_is_one_line() -> None:
    async with open_ledger() as kept:
        for number in range(59):
            kept.note(detail=f"the {number}th", item="a")
            await anyio.sleep(1)
        kept.note("mode", item="a")
        kept.note(item="b")
        await anyio.sleep(WRITE_EVERY + 1)
        kept.note(item="a")
        await anyio.sleep(WRITE_EVERY + 1)
        first, *others = kept.stored()
        assert (first.count, first.detail) == (59, "the 58th")
        assert (first.at or 0) - (first.first_at or 0) == pytest.approx(58)
        assert [(line.reason, line.item, line.count) for line in others] == [
            ("mode", "a", 1), ("cooldown", "b", 1), ("cooldown", "a", 1)
        ]  # fmt: skip


async def test_storm_is_written_once_a_second() -> None:
    async with open_ledger() as kept:
        for _ in range(20):
            for _ in range(500):
                kept.note(item="a")
            await anyio.sleep(0.5)
        assert kept.store.commits <= 10 / WRITE_EVERY + 1
        await anyio.sleep(WRITE_EVERY + 1)
        assert [line.count for line in kept.stored()] == [10_000]


async def test_more_than_can_be_told_apart_is_counted_as_one() -> None:
    async with open_ledger() as kept:
        for number in range(MAX_OPEN + 50):
            kept.note(plan_name="lab", item=f"i{number}")
        await anyio.sleep(WRITE_EVERY + 1)
        *told, rest = kept.stored()
        assert (len(told), rest.count, rest.item) == (MAX_OPEN, 50, None)
        assert rest.detail == f"too many to tell apart; the last: lab/i{MAX_OPEN + 49}: no"
        await anyio.sleep(SPAN)
        kept.note("mode")  # the next writing makes room
        await anyio.sleep(WRITE_EVERY + 1)
        kept.note(item="new")
        await anyio.sleep(WRITE_EVERY + 1)
        assert kept.stored()[-1].item == "new"


async def test_lines_wait_for_a_storage_that_takes_nothing() -> None:
    backend = Blocked(FULL)
    async with open_ledger(backend) as kept:
        for _ in range(10):
            kept.note(item="a")
            await anyio.sleep(SPAN)
        assert kept.stored() == []
        [line] = await kept.ledger.read(ALL, 10)
        assert line.count == 10
        backend.free = 0.0
        await anyio.sleep(SPAN)
        assert [line.count for line in kept.stored()] == [10]


async def test_line_that_could_not_be_written_is_tried_again_by_itself() -> None:
    backend = Blocked(FULL)
    async with open_ledger(backend) as kept:
        kept.note(item="a")
        await anyio.sleep(WRITE_EVERY + 1)
        backend.free = 0.0
        await anyio.sleep(SPAN)
        assert [line.count for line in kept.stored()] == [1]


async def test_what_comes_while_it_is_written_is_written_next() -> None:
    async with open_ledger() as kept:
        kept.note(item="a")
        await anyio.sleep(WRITE_EVERY)
        kept.note(item="a")
        await anyio.sleep(2 * WRITE_EVERY)
        assert [line.count for line in kept.stored()] == [2]


async def test_line_that_has_moved_to_the_front_hides_none_behind_it() -> None:
    async with open_ledger() as kept:
        for item in ("b", "a"):
            kept.note(item=item)
            await anyio.sleep(WRITE_EVERY + 1)
        kept.note(item="a")
        [first] = await kept.ledger.read(ALL, 1)
        [second] = await kept.ledger.read(ALL, 1, (first.at or 0.0, first.id))
        assert (first.item, first.count, second.item) == ("a", 2, "b")


async def test_end_writes_what_is_open_even_behind_what_is_on_its_way() -> None:
    async with open_ledger() as kept:
        kept.note(item="a")
        await anyio.sleep(WRITE_EVERY)
        kept.note(item="a", count=2)
        kept.note(item="b")
    assert [(line.item, line.count) for line in kept.stored()] == [("a", 3), ("b", 1)]
    kept.note(item="late")  # nobody writes it, and nobody fails
    assert asyncio_timers() == 0


def asyncio_timers() -> int:
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return sum(not timer.cancelled() for timer in scheduled)


async def test_ids_go_on_where_an_older_boot_ended() -> None:
    backend = MemoryBackend()
    async with open_ledger(backend) as kept:
        kept.note(item="a")
        await kept.store.put(kept.ledger.unit(Why("misfire", "3 slots", item="a", count=3))).wait()
        await anyio.sleep(WRITE_EVERY + 1)
        kept.ledger = Ledger(kept.store, VirtualClock(), Redactor())
        kept.ledger.take_over(last_why(backend.execute))
        kept.note(item="a")
        await anyio.sleep(WRITE_EVERY + 1)
        assert [(line.id, line.reason, line.count) for line in kept.stored()] == [
            (1, "cooldown", 1), (2, "misfire", 3), (3, "cooldown", 1)
        ]  # fmt: skip


SECRET = "correct horse battery staple"


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        pytest.param("short", "short", id="short"),
        pytest.param("x" * 600, "x" * (MAX_DETAIL - 1) + "…", id="long"),
        pytest.param(f"it was {SECRET}!", "it was ***!", id="secret"),
        pytest.param("x" * 490 + SECRET, "x" * 490 + "***", id="secret at the end"),
        pytest.param("é" * 2000 + "\ud800", "é" * (MAX_DETAIL - 1) + "…", id="not text"),
        pytest.param((SECRET + " ") * 10_000, ("*** " * 10_000)[: MAX_DETAIL - 1] + "…", id="nothing but secrets"),
    ],
)
async def test_detail_is_short_and_has_no_secrets(detail: str, shown: str) -> None:
    redactor = Redactor()
    redactor.learn("lab/pin", SECRET)
    async with open_ledger(redactor=redactor) as kept:
        kept.note(detail=detail)
        assert [line.detail for line in await kept.ledger.read(ALL, 1)] == [shown]
        await kept.store.put(kept.ledger.unit(Why("mode", detail))).wait()
        await anyio.sleep(WRITE_EVERY + 1)
        assert {line.detail for line in kept.stored()} == {shown}


@pytest.mark.parametrize(
    ("wanted", "items"),
    [
        pytest.param(WhyFilter(), "dcba", id="all"),
        pytest.param(WhyFilter(item="b"), "b", id="item"),
        pytest.param(WhyFilter(reason="mode"), "dc", id="reason"),
        pytest.param(WhyFilter(plan_name="x"), "", id="no plan"),
    ],
)
@pytest.mark.parametrize("written", [True, False], ids=["on record", "in memory"])
async def test_pages_have_each_line_once_the_newest_first(wanted: WhyFilter, items: str, written: bool) -> None:
    async with open_ledger() as kept:
        for item in "abcd":
            kept.note("mode" if item in "cd" else "cooldown", item=item, plan_name="lab")
            await anyio.sleep(WRITE_EVERY + 1 if written else 0.1)
        found, before = "", None
        for _ in range(10):
            lines = await kept.ledger.read(wanted, 1, before)
            if not lines:
                break
            found += "".join(line.item or "" for line in lines)
            before = (lines[-1].at or 0.0, lines[-1].id)
        assert found == items


async def test_line_that_was_counted_on_is_shown_as_it_is() -> None:
    async with open_ledger() as kept:
        kept.note(item="a")
        await anyio.sleep(5)
        since = kept.ledger._clock.wall()
        kept.note(item="a", detail="again")
        [line] = await kept.ledger.read(WhyFilter(since=since), 10)
        assert (line.count, line.detail) == (2, "again")
        assert await kept.ledger.read(WhyFilter(until=since), 10) == []


#: Notes (which thing, how many), time that passes, and the storage that takes nothing from then on, or takes again.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, MAX_OPEN + 5), st.integers(1, 5)),
        st.sampled_from([0.0, 0.3, 1.0, 7.0, 61.0]),
        st.booleans(),
    ),
    max_size=40,
)


@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_counts_add_up_whatever_the_order_the_time_and_the_storage(steps: list[tuple[int, int] | float | bool]) -> None:
    async def story() -> None:
        backend = Blocked(FULL, free=0.0)
        noted: Counter[str] = Counter()
        async with open_ledger(backend) as kept:
            for step in steps:
                if isinstance(step, bool):
                    backend.free = 0.0 if step else 1e9
                elif isinstance(step, float):
                    await anyio.sleep(step)
                else:
                    kept.note(item=f"i{step[0]}", count=step[1])
                    noted[f"i{step[0]}"] += step[1]
                shown: Counter[str] = Counter()
                for line in await kept.ledger.read(ALL, 1_000_000):
                    shown[line.item or ""] += line.count
                assert shown == noted
            backend.free = 0.0
        stored: Counter[str] = Counter()
        for line in kept.stored():
            stored[line.item or ""] += line.count
        assert stored == noted
        assert kept.ledger.counts["cooldown", None] == noted.total()

    anyio.run(story, backend_options={"loop_factory": VirtualLoop})


def test_what_is_read_is_found_by_an_index() -> None:
    db = MemoryBackend()
    for wanted in (WhyFilter(), WhyFilter(plan_name="lab", item="a"), WhyFilter(since=1.0)):
        said: list[str] = []

        def explain(sql: str, values: tuple[object, ...], said: list[str] = said) -> sqlite3.Cursor:
            said += [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            return db.execute(sql, values)

        list_why(explain, wanted, 10, (5.0, 1))
        assert "USING INDEX why_by" in said[0]
        assert "TEMP B-TREE" not in " ".join(said)
