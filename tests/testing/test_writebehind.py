"""The store of a world: what is certain is written later, and nobody can tell."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.testing.kit import write_plan

from aura.bus import Delivery
from aura.errors import StoreFull, StoreIOError
from aura.events import EventEntry
from aura.store import Execute, Ticket, Unit
from aura.stores.memory import MemoryBackend
from aura.testing.virtual_time import VirtualLoop
from aura.testing.world import open_world
from aura.testing.writebehind import MOST_KEPT, WriteBehind


def inserts(key: str) -> Unit:
    def unit(execute: Execute) -> None:
        execute("INSERT INTO meta SELECT ?, count(*) FROM meta", (key,))  # the value says how many came before

    return unit


def ticket(key: str, certain: bool) -> Ticket:
    return Ticket(inserts(key), None, None, False, certain=certain)


def keys(backend: MemoryBackend) -> list[str]:
    return [key for (key,) in backend.execute("SELECT key FROM meta ORDER BY cast(value AS INTEGER)").fetchall()]


def commit(backend: MemoryBackend, batch: Sequence[Ticket]) -> list[bool]:
    """Commit a batch as the store does; say which units have failed."""
    backend.commit_now(batch)
    for one in batch:
        one.resolve()
    return [one.error is not None for one in batch]


#: A batch: each unit's key, and whether it may fail. ``None``: somebody looks.
stories = st.lists(st.none() | st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=4))


@given(stories)
def test_both_stores_in_memory_answer_alike(story: list[list[tuple[int, bool]] | None]) -> None:
    plain, behind = MemoryBackend(), WriteBehind()
    certain = 0
    for number, batch in enumerate(story):
        if batch is None:
            assert keys(plain) == keys(behind)
            continue
        told = []
        for backend in (plain, behind):  # what is certain has a key of its own; what may fail may be there already
            named = [(f"{number}.{place}" if sure else str(key), sure) for place, (key, sure) in enumerate(batch)]
            told.append(commit(backend, [ticket(key, sure) for key, sure in named]))
        assert told[0] == told[1]
        certain += all(sure for _, sure in batch)
    assert keys(plain) == keys(behind) == keys(behind.copied())


def test_only_what_is_certain_waits_and_so_much_at_most() -> None:
    below = MemoryBackend()  # the same database, without what waits
    backend = WriteBehind(below.connection)
    before = len(keys(below))

    def written() -> int:
        return len(keys(below)) - before

    for number in range(MOST_KEPT - 1):
        commit(backend, [ticket(f"c{number}", True)])
    assert written() == 0
    commit(backend, [ticket("the last", True)])
    assert written() == MOST_KEPT
    commit(backend, [ticket("again", True)])
    assert written() == MOST_KEPT
    commit(backend, [ticket("sure", True), ticket("maybe", False)])
    assert written() == MOST_KEPT + 3


@pytest.mark.parametrize("look", ["execute", "connection", "copied", "commit"])
def test_certain_unit_that_fails_after_all_is_an_error_of_who_looks_next(look: str) -> None:
    backend = WriteBehind()
    assert commit(backend, [ticket("twice", True), ticket("once", True)]) == [False, False]
    assert commit(backend, [ticket("twice", True)]) == [False]
    looks: dict[str, Callable[[], object]] = {
        "execute": lambda: keys(backend),
        "connection": lambda: backend.connection,
        "copied": backend.copied,
        "commit": lambda: commit(backend, [ticket("maybe", False)]),
    }
    with pytest.raises(StoreIOError, match="certain has failed: IntegrityError"):
        looks[look]()
    assert {"twice", "once"} <= set(keys(backend))


class Refused:
    """A run whose acceptance was refused."""

    refused = True


def test_unit_of_a_refused_run_is_never_certain() -> None:
    backend = WriteBehind()
    commit(backend, [ticket("twice", True)])
    late = Ticket(inserts("twice"), None, None, False, owner=Refused(), certain=True)
    assert commit(backend, [late]) == [True]
    assert keys(backend).count("twice") == 1


TASK = """\
steps:
  each: {loop: {for_each: [ore, sand]}, action: weigh, params: {sample: "{{ loop.item }}"}}
  flaky: {action: fails_once, depends_on: each, retry: {attempts: 3, delay: 20s, jitter: false}}
  rest: {action: sleep, depends_on: flaky, params: {duration: 90s}}
  tell: {action: event.emit, depends_on: rest, params: {name: lab.done, payload: {n: 1}}}
"""
SCHEDULE = """\
items:
  often: {task: often, triggers: [{every: 10m}]}
  heard: {task: often, triggers: [{event: lab.asked}]}
"""
ACTIONS = """
from aura import action
tried = []
@action
async def weigh(sample: str) -> int:
    return len(sample)
@action
async def fails_once() -> None:
    tried.append(1)
    if len(tried) % 2:
        raise ConnectionError("not yet")
"""
TABLES = ("run", "step", "item", "loop", "history", "event", "log", "slot", "schedule_item", "wait", "why", "boot")


def dumped(backend: MemoryBackend, cids: dict[str, str]) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, with the number of each run in place of its random name."""

    def plain(value: object) -> object:
        text = value.decode() if isinstance(value, bytes) else value
        for cid, number in cids.items() if isinstance(text, str) else ():
            assert isinstance(text, str)
            text = text.replace(cid, number)
        return text

    return {table: [tuple(map(plain, row)) for row in backend.execute(f"SELECT * FROM {table}")] for table in TABLES}


async def lived(folder: Path, backend: MemoryBackend) -> dict[str, list[tuple[Any, ...]]]:
    """What is on record of two hours of a plan with slots, events, retries, loops, waits and a cancel."""
    files = {"tasks/often.yaml": TASK, "schedule.yaml": SCHEDULE, "actions.py": ACTIONS}
    async with open_world(write_plan(folder / "lab", files), backend=backend) as world:
        await world.advance(minutes=30)
        await world.emit("lab.asked")
        await world.advance(seconds=5)
        await world.runs()[-1].cancel()
        await world.advance(minutes=90)
        assert not world.engine.runtime.faults
        runs = backend.execute("SELECT cid, seq FROM run").fetchall()
        return dumped(backend, {cid: f"run {seq}" for cid, seq in runs})


def test_two_hours_of_a_plan_leave_the_same_rows_in_both(tmp_path: Path) -> None:
    rows = []
    for number, backend in enumerate((MemoryBackend(), WriteBehind())):  # each in a loop whose time has not begun
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            rows.append(runner.run(lived(tmp_path / str(number), backend)))
    plain, behind = rows
    assert plain == behind
    assert {table for table, rows in plain.items() if rows} >= {
        "run",
        "step",
        "item",
        "history",
        "event",
        "log",
        "slot",
    }


LOGS = {
    "tasks/often.yaml": "steps:\n  a: {action: log, params: {message: hi}}\n",
    "schedule.yaml": "items:\n  often: {task: often, triggers: [{every: 10m}]}\n",
}


@pytest.mark.parametrize("kind", [MemoryBackend, WriteBehind])
async def test_store_that_is_full_for_a_while_loses_nothing_that_was_told(
    tmp_path: Path, kind: type[MemoryBackend]
) -> None:
    async with open_world(write_plan(tmp_path / "lab", LOGS), backend=kind()) as world:
        await world.advance(minutes=25)
        assert isinstance(world.backend, MemoryBackend)
        db = world.backend.connection
        (most,) = db.execute("PRAGMA max_page_count").fetchone()
        db.execute("PRAGMA max_page_count=1")
        await world.advance(hours=5)
        db.execute(f"PRAGMA max_page_count={most}")
        await world.advance(hours=1)
        assert not world.engine.runtime.faults
        assert len(world.runs()) > 2
        world.assert_all_succeeded()


def test_what_was_told_is_written_once_it_can_be_again() -> None:
    below = MemoryBackend().connection  # the same database, without what waits
    backend = WriteBehind(below)
    commit(backend, [ticket("a", True), ticket("b", True)])
    (most,) = below.execute("PRAGMA max_page_count").fetchone()
    below.execute("PRAGMA max_page_count=1")
    big = Ticket(lambda execute: execute("INSERT INTO meta VALUES ('big', zeroblob(100000))"), None, None, False)  # type: ignore[arg-type]
    with pytest.raises(StoreFull):
        backend.commit_now([big])
    below.execute(f"PRAGMA max_page_count={most}")
    assert {"a", "b"} <= set(keys(backend))
    assert "big" not in keys(backend)


class Accepts:
    """Hears of each run that is accepted, and has something written with it that fails the second time."""

    name, pattern = "mine", "run.accepted"

    def __init__(self) -> None:
        self.told: list[str] = []

    def offer(self, event: EventEntry) -> Delivery:
        return Delivery(inserts("once"), lambda: self.told.append("stored"), lambda: self.told.append("lost"))

    def suspend(self, reason: str) -> None:
        raise AssertionError(reason)


@pytest.mark.parametrize("kind", [MemoryBackend, WriteBehind])
async def test_what_others_have_written_with_a_slot_may_fail(tmp_path: Path, kind: type[MemoryBackend]) -> None:
    async with open_world(write_plan(tmp_path / "lab", LOGS), backend=kind()) as world:
        accepts = Accepts()
        world.engine.runtime.bus.subscribe(accepts)
        await world.advance(minutes=25)
        assert (accepts.told, world.engine.runtime.bus.failures) == (["stored", "lost"], 1)


@pytest.mark.parametrize("kind", [MemoryBackend, WriteBehind])
async def test_read_sees_what_was_told_before_its_query_ran(kind: type[MemoryBackend]) -> None:
    backend = kind()
    read = asyncio.ensure_future(backend.read(lambda x: x("SELECT count(*) FROM meta WHERE key = 'a'").fetchone()[0]))
    await asyncio.sleep(0)  # it waits for its turn
    commit(backend, [ticket("a", True)])
    assert await read == 1


async def test_looking_is_never_behind(tmp_path: Path) -> None:
    files = {"tasks/often.yaml": TASK, "schedule.yaml": SCHEDULE, "actions.py": ACTIONS}
    async with open_world(write_plan(tmp_path / "lab", files)) as world:
        look = world.backend.execute  # who keeps it sees what came since
        await world.advance(minutes=10)
        first = look("SELECT count(*) FROM history").fetchone()
        await world.advance(minutes=10)
        assert look("SELECT count(*) FROM history").fetchone() > first
