"""A store that cannot be written for now: who is refused and when, who waits, and how long its end waits for it."""

import gc
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from weakref import ref

import anyio
import pytest
from tests.fakes.blocked import FULL, LOCKED, Blocked

from aura.errors import StoreError, StoreIOError, StoreLocked, StoreReadOnly
from aura.store import BUSY_PATIENCE, RETRY_EVERY, Execute, Store, Ticket, Unit
from aura.stores.memory import MemoryBackend
from aura.stores.sqlite import BUSY_SLICE, BUSY_TIMEOUT, SqliteBackend
from aura.testing.virtual_time import VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """In virtual time: the waits below cost nothing and are exact."""
    return "asyncio", {"loop_factory": VirtualLoop}


class Run:
    """Whose units are handed over."""

    refused = False


class Kept:
    """A store that is served, and what it has said."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.said: list[str] = []
        self.store = Store(backend, on_fault=self._note, on_fatal=self._note)

    def _note(self, error: Exception) -> None:
        self.said.append(f"{type(error).__name__}: {error}")


@asynccontextmanager
async def kept_on(backend: MemoryBackend) -> AsyncIterator[Kept]:
    kept = Kept(backend)
    # the store alone; ends by ``close`` at the latest. The bound is for a store that tries for ever.
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(kept.store.serve)
            try:
                yield kept
            finally:
                kept.store.close()


def note(key: str) -> Unit:
    def unit(execute: Execute) -> None:
        execute("INSERT INTO meta VALUES (?, 'x')", (key,))

    return unit


def keys(execute: Execute) -> list[str]:
    return [key for (key,) in execute("SELECT key FROM meta ORDER BY key")]


# -- who is refused, and when


async def test_lock_that_goes_within_the_patience_refuses_nobody() -> None:
    backend = Blocked(LOCKED, free=anyio.current_time() + BUSY_PATIENCE - 0.3)
    async with kept_on(backend) as kept:
        await kept.store.put(note("a"), refusable=True).wait()
        assert (kept.store.unavailable, kept.store.blocked) == (None, False)
        assert anyio.current_time() == pytest.approx(backend.free, abs=0.2)


@pytest.mark.parametrize(("error", "patience"), [(LOCKED, BUSY_PATIENCE), (FULL, 0.0)], ids=["locked", "full"])
async def test_requests_are_refused_when_the_patience_is_over(error: StoreReadOnly, patience: float) -> None:
    backend = Blocked(error)
    async with kept_on(backend) as kept:
        begun = anyio.current_time()
        with pytest.raises(StoreReadOnly):
            await kept.store.put(note("a"), refusable=True).wait()
        assert anyio.current_time() - begun == pytest.approx(patience + BUSY_SLICE, abs=0.2)
        assert (kept.store.unavailable, kept.store.blocked) == (error, True)
        backend.free = 0.0
        await kept.store.put(note("b")).wait()
        assert (kept.store.unavailable, kept.store.blocked) == (None, False)


async def test_units_of_a_refused_owner_fail_with_its_acceptance_and_others_wait() -> None:
    backend = Blocked(FULL)
    refused, other = Run(), Run()

    def undo(_: Exception) -> None:
        refused.refused = True

    async with kept_on(backend) as kept:
        put = kept.store.put
        put(note("a: before"), owner=other)
        put(note("accept"), failed=undo, refusable=True)
        start = put(note("start"), owner=refused)
        last = put(note("b: after"), owner=other)
        with pytest.raises(StoreReadOnly):  # while nothing can be written yet
            await start.wait()
        assert not last.done
        backend.free = 0.0
        await last.wait()
        assert await kept.store.read(keys) == ["a: before", "b: after"]
    assert kept.said == []


async def test_unit_that_failed_in_a_batch_that_was_not_written_is_tried_afresh() -> None:
    tries: list[int] = []

    def fails_twice(execute: Execute) -> None:
        tries.append(1)
        if len(tries) < 3:  # in the batch, and alone
            raise ValueError("not yet")
        note("unit")(execute)

    def full_once(execute: Execute) -> None:
        if len(tries) < 3:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    async with kept_on(MemoryBackend()) as kept:
        unit = kept.store.put(fails_twice)
        kept.store.put(full_once)
        await unit.wait()
        assert await kept.store.read(keys) == ["unit"]


# -- the end


@pytest.mark.parametrize("error", [LOCKED, FULL], ids=["locked", "full"])
async def test_close_writes_what_is_left_if_that_is_possible_before_its_deadline(error: StoreReadOnly) -> None:
    now = anyio.current_time()
    backend = Blocked(error, free=now + 8.9)
    async with kept_on(backend) as kept:
        kept.store.put(note("a"))
        await anyio.sleep(7)  # it waits between two tries, or tries
        kept.store.close(now + 9)
        await kept.store.ended.wait()
        assert (backend.execute("SELECT key FROM meta").fetchall(), kept.said) == ([("a",)], [])
        assert anyio.current_time() < now + 9


@pytest.mark.parametrize("error", [LOCKED, FULL], ids=["locked", "full"])
async def test_close_gives_up_at_its_deadline_and_says_what_was_not_written(error: StoreReadOnly) -> None:
    now = anyio.current_time()
    backend = Blocked(error)
    async with kept_on(backend) as kept:
        waiting = [kept.store.put(note("a")), kept.store.put(note("b"), refusable=error is LOCKED)]
        await anyio.sleep(1)
        kept.store.close(now + 3)
        await kept.store.ended.wait()
        assert now + 3 <= anyio.current_time() < now + 3 + BUSY_SLICE + 0.1
    assert [ticket.done for ticket in waiting] == [False, False]
    assert kept.said == [
        f"StoreReadOnly: the server ended with 2 changes unwritten: {error}. No accepted run is lost: "
        "the next start settles those that had not ended"
    ]


async def test_close_without_more_time_does_not_wait_for_the_pause_between_two_tries() -> None:
    backend = Blocked(FULL)
    async with kept_on(backend) as kept:
        kept.store.put(note("a"))
        await anyio.sleep(BUSY_SLICE + 0.05)
        begun = anyio.current_time()
        kept.store.close()
        await kept.store.ended.wait()
        assert anyio.current_time() - begun < RETRY_EVERY / 2
        assert backend.last_try >= begun  # once more
    assert len(kept.said) == 1


# -- a real lock


def busy_timeout(backend: SqliteBackend) -> float:
    (milliseconds,) = backend._db.execute("PRAGMA busy_timeout").fetchone()
    return milliseconds / 1000  # type: ignore[no-any-return]


async def test_commit_waits_for_a_lock_in_slices_and_the_boot_in_one(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "aura.db")
    with closing(backend):
        assert busy_timeout(backend) == BUSY_TIMEOUT
        with closing(sqlite3.connect(backend.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreLocked):
                await backend.commit([Ticket(note("a"), None, None, False)])
        assert busy_timeout(backend) == BUSY_SLICE
        backend.execute("SELECT 1")
        assert busy_timeout(backend) == BUSY_TIMEOUT


def test_close_does_not_wait_for_another_that_reads(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "aura.db")
    with closing(sqlite3.connect(backend.path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM meta").fetchone()
        note("a")(backend.execute)
        begun = time.monotonic()
        backend.close()
        assert time.monotonic() - begun < BUSY_TIMEOUT / 2


async def test_fail_all_answers_everybody_once() -> None:
    backend = MemoryBackend()
    async with kept_on(backend) as kept:
        failed: list[str] = []
        stored = kept.store.put(note("a"))
        await stored.wait()
        waiting = [kept.store.put(note(key), failed=lambda e: failed.append(str(e))) for key in "bc"]
        kept.store.fail_all(StoreIOError("lost"))
        for ticket in (*waiting, kept.store.put(note("d"))):
            with pytest.raises(StoreError):
                await ticket.wait()
        await stored.wait()
        await kept.store.ended.wait()
    assert failed == ["lost", "lost"]


def test_store_in_memory_ends_with_the_last_who_has_it() -> None:
    backend = MemoryBackend()
    ended = ref(backend.connection)
    execute = backend.execute
    del backend
    assert execute("SELECT count(*) FROM run").fetchone() == (0,)
    del execute
    gc.collect()  # its cache of statements has it too
    assert ended() is None  # and with warnings as errors, Python says nothing of a connection that nobody closed
