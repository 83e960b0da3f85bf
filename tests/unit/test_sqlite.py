"""The store on a disk and its folder: private, owned by one, and never started on what is damaged or newer."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from aura.errors import StoreCannotCreate, StoreCorrupt, StoreError, StoreInUse, StoreNewer, StoreReadOnly
from aura.store import Store
from aura.stores import sqlite
from aura.stores.folder import DataFolder
from aura.stores.sqlite import SqliteBackend


def made(path: Path) -> Path:
    """A good database with a few pages."""
    backend = SqliteBackend(path)
    for n in range(200):
        backend.execute("INSERT INTO meta VALUES (?, ?)", (f"k{n}", "v" * 200))
    backend.close()
    return path


def test_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        folder = DataFolder.open(tmp_path / "data")
        backend = SqliteBackend(folder.database)
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in folder.path.iterdir()}
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
        assert set(modes.values()) == {0o600}
        assert {"aura.db", "aura.db-wal", "aura.lock"} <= set(modes)
        backend.close()
        folder.release()
    finally:
        os.umask(old)


def test_database_is_in_wal_mode_and_syncs_fully(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "aura.db")
    assert backend.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert backend.execute("PRAGMA synchronous").fetchone() == (2,)
    backend.close()
    assert not (tmp_path / "aura.db-wal").exists()


def test_second_owner_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    try:
        with pytest.raises(StoreInUse, match=f"process {os.getpid()} on .* since") as refused:
            DataFolder.open(tmp_path)
        assert refused.value.exit_code == 75
    finally:
        folder.release()
    DataFolder.open(tmp_path).release()


def test_surviving_child_does_not_hold_the_lock(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, close_fds=False
    )
    try:
        folder.release()
        DataFolder.open(tmp_path).release()
    finally:
        child.communicate()


def test_stale_lock_file_of_a_killed_process_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "aura.lock").write_text('{"pid": 1, "host": "h", "since": "x"}')
    DataFolder.open(tmp_path).release()


def test_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "aura.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StoreCannotCreate):
        DataFolder.open(tmp_path)
    assert (tmp_path / "victim").read_text() == "precious"


def test_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreCannotCreate, match="choose another with --data") as refused:
        DataFolder.open(tmp_path / "file" / "data")
    assert refused.value.exit_code == 73


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(5000, len(data), 97):
        data[at] ^= 0xFF
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "bytes flipped": flip,
    "cut in the middle": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "zero page": lambda p: p.write_bytes(p.read_bytes()[:4096] + bytes(4096) + p.read_bytes()[8192:]),
    "not a database": lambda p: p.write_bytes(b"hello" * 5000),
}


@pytest.mark.parametrize("damage", list(DAMAGES.values()), ids=list(DAMAGES))
def test_damaged_database_is_refused_untouched(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = made(tmp_path / "aura.db")
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="damaged") as refused:
        SqliteBackend(path)
    assert refused.value.exit_code == 65
    assert path.read_bytes() == before


def test_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    path = made(tmp_path / "aura.db")
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreNewer, match="newer") as refused:
        SqliteBackend(path)
    assert (refused.value.exit_code, path.read_bytes() == before) == (76, True)


async def test_store_locked_by_another_process_refuses_what_it_may_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.01)
    monkeypatch.setattr("aura.store.RETRY_EVERY", 0.01)
    backend = SqliteBackend(tmp_path / "aura.db")
    other = sqlite3.connect(tmp_path / "aura.db", isolation_level=None)
    fatal: list[StoreError] = []
    store = Store(backend, on_fault=fatal.append, on_fatal=fatal.append)  # type: ignore[arg-type]
    async with anyio.create_task_group() as group:
        group.start_soon(store.serve)
        other.execute("BEGIN EXCLUSIVE")
        kept = store.put(lambda x: x("INSERT INTO meta VALUES ('kept', '1')"))  # type: ignore[arg-type]
        refusable = store.put(lambda x: None, refusable=True)
        with pytest.raises(StoreReadOnly, match="another process"):
            await refusable.wait()
        assert store.unavailable is not None
        assert not kept.done
        other.execute("ROLLBACK")
        await kept.wait()
        assert store.unavailable is None
        store.close()
    other.close()
    assert not fatal


async def test_failing_disk_is_fatal_and_resolves_nobody(tmp_path: Path) -> None:
    fatal: list[StoreError] = []
    backend = SqliteBackend(tmp_path / "aura.db")
    store = Store(backend, on_fault=lambda e: None, on_fatal=fatal.append)

    def broken(_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    waiting = store.put(lambda x: None)
    store.put(broken)
    async with anyio.create_task_group() as group:
        group.start_soon(store.serve)
        await store.ended.wait()
    assert ([e.exit_code for e in fatal], waiting.done) == ([74], False)
