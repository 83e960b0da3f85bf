"""A storage that cannot be written, for now or for good: what is refused, what is kept, when the server gives up."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.engine.kit import opened, quiet, step, task, until
from tests.fakes.kernel import SOON, FaultyBackend, begun, forever, server_on, works

from aura.errors import RequestError, StoreCannotCreate, StoreError, StoreIOError, StoreReadOnly
from aura.lifecycle import Stop
from aura.store import Execute, Store, Ticket, Unit, commit_batch
from aura.stores.memory import MemoryBackend
from aura.stores.sqlite import SqliteBackend


def ticket(unit: Unit) -> Ticket:
    return Ticket(unit, None, None, True)


# -- one batch


def junk(number: int) -> Unit:
    """A unit that needs some pages, in the table and in two indices."""

    def unit(execute: Execute) -> None:
        execute("INSERT INTO junk VALUES (?, ?, ?)", (number, f"{number:03000}", f"{number:04000}"))

    return unit


@pytest.fixture
def small(tmp_path: Path) -> Any:
    """A database on a disk with room for twenty pages more."""
    backend = SqliteBackend(tmp_path / "small.db")
    backend.execute("CREATE TABLE junk (a INTEGER PRIMARY KEY, b TEXT UNIQUE, c TEXT UNIQUE)")
    (pages,) = backend.execute("PRAGMA page_count").fetchone()
    backend.execute(f"PRAGMA max_page_count={pages + 20}")
    yield backend
    backend.close()


def bad(execute: Execute) -> None:
    raise ValueError("of this unit alone")


def cannot_open(execute: Execute) -> None:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    raise error


@pytest.mark.parametrize(
    "units",
    [
        [junk(n) for n in range(200)],
        [bad, *(junk(n) for n in range(200))],
        [junk(1), cannot_open],
        [bad, junk(1), cannot_open],
    ],
    ids=["full", "full in the replay", "cannot be opened", "cannot be opened in the replay"],
)
def test_batch_that_cannot_be_written_leaves_nothing_and_no_transaction(
    small: SqliteBackend, units: Sequence[Unit]
) -> None:
    with pytest.raises(StoreReadOnly):
        commit_batch(small.execute, [ticket(unit) for unit in units])
    assert not small._db.in_transaction
    assert small.execute("SELECT count(*) FROM junk").fetchone() == (0,)
    later = ticket(junk(1))
    commit_batch(small.execute, [later])
    assert (later.error, small.execute("SELECT count(*) FROM junk").fetchone()) == (None, (1,))


def test_unit_that_fails_half_way_leaves_nothing_of_itself() -> None:
    backend = MemoryBackend()

    def half(execute: Execute) -> None:
        execute("INSERT INTO meta VALUES ('half', 'x')")
        raise ValueError

    def whole(execute: Execute) -> None:
        execute("INSERT INTO meta VALUES ('good', 'x')")

    failing, good = ticket(half), ticket(whole)
    commit_batch(backend.execute, [failing, good])
    assert backend.execute("SELECT key FROM meta").fetchall() == [("good",)]
    assert (type(failing.error), good.error) == (ValueError, None)


async def test_units_of_two_turns_are_one_commit() -> None:
    store = Store(MemoryBackend(), on_fault=print, on_fatal=print)
    async with anyio.create_task_group() as group:  # the store alone; ends by ``close``
        group.start_soon(store.serve)
        await quiet()
        first = store.put(lambda execute: None)
        await anyio.lowlevel.checkpoint()
        second = store.put(lambda execute: None)
        await first.wait()
        assert (second.done, store.commits) == (True, 1)
        store.close()


# -- not for now


def read_only_backend() -> FaultyBackend:
    backend = FaultyBackend()
    backend.error = StoreReadOnly("full")
    return backend


@pytest.mark.parametrize("idle", [False, True], ids=["at work", "stopped"])
async def test_store_finds_out_by_itself_that_it_can_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle: bool
) -> None:
    monkeypatch.setattr("aura.store.RETRY_EVERY", 0.01)
    backend = read_only_backend()
    async with opened(tmp_path, task("t", step("a", works)), backend=backend) as kit:
        await kit.run("t")
        if idle:
            await kit.engine.stop("cancel", 0.1)
        await kit.engine.runtime.store.written()
        backend.failing = 1
        with pytest.raises(RequestError) as refused:
            await kit.begin_run("t")
        assert refused.value.status == 503
        await until(lambda: not kit.engine.reasons)
        assert (await kit.begin_run("t")).state in ("queued", "running")


async def test_store_that_is_closed_while_it_cannot_be_written_ends_and_says_so() -> None:
    fatal: list[StoreError] = []
    backend = read_only_backend()
    backend.failing = 1000
    store = Store(backend, on_fault=print, on_fatal=fatal.append)
    async with anyio.create_task_group() as group:  # the store alone; ends since it is lost
        group.start_soon(store.serve)
        store.put(lambda execute: None)
        store.close()
        with anyio.fail_after(SOON):
            await store.ended.wait()
    assert [type(error) for error in fatal] == [StoreReadOnly]


# -- for good


@pytest.mark.parametrize("what", ["of a run", "of the log"])
async def test_backend_that_breaks_its_promise_ends_the_process(tmp_path: Path, what: str) -> None:
    backend = FaultyBackend()
    async with opened(tmp_path, task("t", step("a", forever)), backend=backend) as kit:
        run = await begun(kit)
        backend.failing = 1000
        if what == "of a run":
            kit.stop(run, Stop.CANCEL)
        else:
            kit.engine.runtime.log.info("a line")
        await until(lambda: kit.left)
        assert kit.left[0] == StoreIOError.exit_code


async def test_database_that_is_locked_at_the_boot_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.stores.sqlite.BUSY_TIMEOUT", 0.05)
    path = tmp_path / "aura.db"
    SqliteBackend(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    server = server_on(tmp_path, task("t", step("a", works)), backend=SqliteBackend(path))
    with pytest.RaisesGroup(pytest.RaisesExc(StoreCannotCreate, match="locked"), flatten_subgroups=True):
        await server.serve()
    other.close()
