"""A disk of which any call fails makes the server end or wait, and nothing is lost that was told (``make faults``)."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from tests.engine.kit import until
from tests.power.connection import PowerBackend
from tests.power.disk import Disk
from tests.power.faults import OPS, Fault, MortalBackend, Outcome, count_calls, faults, suffer, table

from aura.errors import StoreError, StoreFull, StoreIOError, StoreReadOnly
from aura.store import Execute, Store, Ticket
from aura.stores.sqlite import SqliteBackend

SEED = 6
#: Of how many calls of a kind one fails here.
EVERY = {"write": 90, "full": 90, "read": 16, "lock": 6, "sync": 13, "truncate": 2}


async def suffer_all(folder: Path, chosen: Sequence[Fault], backend: type[MortalBackend]) -> list[Outcome]:
    found = []
    for number, fault in enumerate(chosen):
        (folder / str(number)).mkdir()
        found.append(await suffer(folder / str(number), fault, backend))
    return found


@pytest.mark.parametrize("op", OPS)
async def test_disk_that_fails_at_any_call_loses_nothing_that_was_told(tmp_path: Path, op: str) -> None:
    (tmp_path / "well").mkdir()
    calls = await count_calls(tmp_path / "well")
    chosen = [fault for fault in faults(calls, EVERY.get(op, 1), SEED) if fault.op == op]
    found = await suffer_all(tmp_path, chosen, MortalBackend)
    assert [one for one in found if one.word == "wrong"] == [], table(found)
    assert [one for one in found if one.word != "not reached"] != [], table(found)


async def test_story_goes_on_undisturbed_beyond_its_last_call(tmp_path: Path) -> None:
    outcome = await suffer(tmp_path, Fault("write", 100_000, for_ever=True))
    assert outcome.word == "not reached", outcome


class LyingBackend(MortalBackend):
    """One that says of a batch that failed that it is stored."""

    error: type[StoreError]

    async def commit(self, batch: Sequence[Ticket]) -> None:
        try:
            await super().commit(batch)
        except self.error:
            return


@pytest.mark.parametrize(
    ("fault", "hidden"),
    [
        pytest.param(Fault("sync", 20, for_ever=False), StoreIOError, id="a sync that failed taken for success"),
        pytest.param(Fault("full", 230, for_ever=False), StoreReadOnly, id="dropped instead of held back"),
    ],
)
async def test_losses_are_found_where_there_are_some(tmp_path: Path, fault: Fault, hidden: type[StoreError]) -> None:
    outcome = await suffer(tmp_path, fault, type("Lying", (LyingBackend,), {"error": hidden}))
    assert outcome.word == "wrong", outcome


async def test_full_disk_is_not_taken_for_well_before_it_is(tmp_path: Path) -> None:
    disk = Disk()
    store = Store(PowerBackend(tmp_path / "aura.db", disk), on_fault=print, on_fatal=print)
    async with anyio.create_task_group() as group:  # the store alone; ends by ``close``
        group.start_soon(store.serve)
        disk.fault = ("full", disk.calls["room"] + 1, True)
        with pytest.raises(StoreFull):
            await store.put(_write, refusable=True).wait()
        await anyio.sleep(10)
        assert isinstance(store.unavailable, StoreFull)
        disk.fault = None
        await until(lambda: store.unavailable is None)
        store.close()


async def test_query_that_the_disk_fails_is_an_error_of_the_storage(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "aura.db")

    def query(execute: Execute) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    with pytest.raises(StoreIOError, match="the disk failed: disk I/O error"):
        await backend.read(query)
    backend.close()


def _write(execute: Execute) -> None:
    execute("INSERT INTO meta VALUES ('a', 'b')")
