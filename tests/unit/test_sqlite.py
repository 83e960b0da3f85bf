"""The store on a disk and its folder: private, owned by one, and never started on what is damaged or newer."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from aura.errors import (
    StoreCannotCreate,
    StoreCorrupt,
    StoreError,
    StoreInUse,
    StoreIOError,
    StoreNewer,
    StoreReadOnly,
)
from aura.records.reading import RunFilter, list_runs
from aura.store import Store
from aura.stores import folder as folder_module
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


@pytest.mark.parametrize(("kind", "refused"), [("nfs4", True), ("cifs", True), ("ext4", False)])
def test_folder_on_a_network_file_system_is_refused(
    tmp_path: Path, kind: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    line = f"30 1 {os.major(device)}:{os.minor(device)} / /mnt rw,relatime shared:1 - {kind} source rw\n"
    (tmp_path / "mounts").write_text(f"22 27 0:0 / /proc rw - proc proc rw\n{line}")
    monkeypatch.setattr(folder_module, "MOUNTS", tmp_path / "mounts")
    if refused:
        with pytest.raises(
            StoreCannotCreate, match=rf"network file system \({kind}\).*choose a folder on a local disk"
        ):
            DataFolder.open(tmp_path / "data")
    else:
        DataFolder.open(tmp_path / "data").release()


def test_system_that_does_not_say_what_is_mounted_refuses_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "MOUNTS", tmp_path / "none")
    DataFolder.open(tmp_path / "data").release()


def test_file_system_without_shared_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{path}?vfs=unix-dotfile", uri=True, isolation_level=None)

    monkeypatch.setattr(sqlite, "_connect", connect)  # a way of SQLite's to lock that knows no shared memory
    with pytest.raises(StoreCannotCreate, match="cannot have a write-ahead log") as refused:
        SqliteBackend(tmp_path / "aura.db")
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


def test_files_of_the_schema_are_numbered_without_a_gap() -> None:
    """Their place among the others is the number that a database gets, so each has to stand where its name says."""
    names = sorted(file.name for file in (Path(sqlite.__file__).parent / "schema").iterdir())
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))


def test_labels_of_an_older_database_are_found_by_their_index(tmp_path: Path) -> None:
    path = tmp_path / "aura.db"
    db = sqlite3.connect(path)
    schema = Path(sqlite.__file__).parent / "schema" / "0001_first.sql"
    db.executescript(f"{schema.read_text()}; PRAGMA user_version=1;")
    columns = "seq, cid, plan_name, task_name, lane, priority, state, recovery, due, accepted_at, cause, root_cid, boot"
    for seq, labels in enumerate(['{"team":"ops","n":"1"}', "{}", '{"team":"ops"}'], 1):
        row = f"{seq}, 'c{seq}', 'p', 't', 'main', 0, 'failed', 'fail', 1, 1, '{{}}', 'c', 1"
        db.execute(f"INSERT INTO run ({columns}, inputs, labels) VALUES ({row}, '{{}}', ?)", (labels,))
    db.commit()
    db.close()
    backend = SqliteBackend(path)
    for wanted, seqs in ({"team": "ops"}, [3, 1]), ({"team": "ops", "n": "1"}, [1]), ({"n": "2"}, []):
        assert [run.seq for run in list_runs(backend.execute, RunFilter(labels=wanted), 9)] == seqs
    backend.close()


def test_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    path = made(tmp_path / "aura.db")
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreNewer, match="newer") as refused:
        SqliteBackend(path)
    assert (refused.value.exit_code, path.read_bytes() == before) == (76, True)


def lock(_: SqliteBackend, path: Path) -> Callable[[], object]:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    return other.close


def fill(backend: SqliteBackend, _: Path) -> Callable[[], object]:
    """Let the database be no larger than it is, as on a full disk."""
    (most,) = backend.execute("PRAGMA max_page_count").fetchone()
    backend.execute("PRAGMA max_page_count=1")
    return lambda: backend.execute(f"PRAGMA max_page_count={most}")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lock, "another process holds a lock", id="locked by another"),
        pytest.param(fill, "the disk is full", id="full"),
    ],
)
async def test_store_that_cannot_be_written_for_now_refuses_what_it_may_and_keeps_the_rest(
    tmp_path: Path,
    spoil: Callable[[SqliteBackend, Path], Callable[[], object]],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aura.store.BUSY_PATIENCE", 0.01)
    monkeypatch.setattr("aura.store.RETRY_EVERY", 0.01)
    backend = SqliteBackend(tmp_path / "aura.db")
    fatal: list[StoreError] = []
    store = Store(backend, on_fault=fatal.append, on_fatal=fatal.append)  # type: ignore[arg-type]
    async with anyio.create_task_group() as group:
        mend = spoil(backend, tmp_path / "aura.db")
        group.start_soon(store.serve)
        kept = store.put(lambda x: x("INSERT INTO meta VALUES ('kept', ?)", ("k" * 100_000,)))  # type: ignore[arg-type]
        refusable = store.put(lambda x: None, refusable=True)
        with pytest.raises(StoreReadOnly, match=said):
            await refusable.wait()
        assert (store.unavailable is None, kept.done) == (False, False)
        mend()
        await kept.wait()
        assert store.unavailable is None
        store.close()
    assert not fatal


def replace(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    os.replace(copy, path)


TAKEN: dict[str, Callable[[Path], object]] = {
    "moved": lambda p: os.rename(p, p.with_name("elsewhere.db")),
    "removed": os.unlink,
    "replaced": replace,
    "log removed": lambda p: os.unlink(f"{p}-wal"),
    "folder moved": lambda p: os.rename(p.parent, p.parent.with_name("gone")),
}


@pytest.mark.parametrize("take", list(TAKEN.values()), ids=list(TAKEN))
async def test_commit_to_files_that_were_taken_away_is_fatal_and_resolves_nobody(
    tmp_path: Path, take: Callable[[Path], object]
) -> None:
    (tmp_path / "data").mkdir()
    fatal: list[StoreError] = []
    path = tmp_path / "data/aura.db"
    store = Store(SqliteBackend(path), on_fault=fatal.append, on_fatal=fatal.append)  # type: ignore[arg-type]
    async with anyio.create_task_group() as group:
        group.start_soon(store.serve)
        await store.written()
        take(path)
        waiting = store.put(lambda x: None)
        store.close()
    (error,) = fatal
    assert (type(error), error.exit_code, waiting.done) == (StoreIOError, 74, False)
    assert "moved, replaced or removed while it was in use" in str(error)


async def test_files_that_others_only_read_stay_the_same_ones(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "aura.db")
    fatal: list[StoreError] = []
    store = Store(backend, on_fault=fatal.append, on_fatal=fatal.append)  # type: ignore[arg-type]
    async with anyio.create_task_group() as group:
        group.start_soon(store.serve)
        await store.written()
        with closing(sqlite3.connect(tmp_path / "aura.db")) as other:  # the last to leave would remove the log
            assert other.execute("PRAGMA quick_check").fetchone() == ("ok",)
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await store.written()
        store.close()
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
