"""What may stand behind the end of a log without being a damage: a healthy database is not refused for it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from aura.errors import StoreCorrupt
from aura.store import Execute, Ticket
from aura.stores import inspection, sqlite
from aura.stores.logcheck import damage_of
from aura.stores.sqlite import SqliteBackend, schema_steps

HEADER, FRAME = 32, 24 + 4096


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database with pages enough to be written to."""
    file = tmp_path / "aura.db"
    with closing(SqliteBackend(file)) as store:
        store.execute("INSERT INTO meta VALUES ('rows', '')")
        write(store, 40)
    return file


def write(store: SqliteBackend, rows: int) -> None:
    """Commit so many rows, each on a page of its own, in one transaction."""
    store.execute("BEGIN")
    for number in range(rows):
        store.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"k{number:03}", "x" * 3000))
    store.execute("UPDATE meta SET value=value || ? WHERE key='rows'", (f"{rows} ",))
    store.execute("COMMIT")


def log_of(file: Path) -> Path:
    return file.with_name("aura.db-wal")


@contextmanager
def cut_off(file: Path) -> Iterator[SqliteBackend]:
    """A store, after which its files are as a power cut would leave them: as they were, without the log's index."""
    store = SqliteBackend(file)
    yield store
    left = {one: one.read_bytes() for one in (file, log_of(file))}
    store.close()
    for one, content in left.items():
        one.write_bytes(content)
    file.with_name("aura.db-shm").unlink(missing_ok=True)


def spoil(file: Path, at: int) -> None:
    """Leave another byte at a place of the log."""
    with log_of(file).open("r+b") as log:
        log.seek(at)
        byte = log.read(1)[0]
        log.seek(at)
        log.write(bytes([byte ^ 1]))


def rows_of(file: Path) -> str:
    with closing(SqliteBackend(file)) as store:
        return str(store.execute("SELECT value FROM meta WHERE key='rows'").fetchone()[0])


def test_two_power_cuts_in_a_row_are_no_damage(file: Path) -> None:
    """Each leaves the end of a transaction that is not whole; that of the second stands before that of the first."""
    with cut_off(file) as store:
        write(store, 1)
        begun = log_of(file).stat().st_size
        write(store, 30)
    spoil(file, begun + 200)
    with cut_off(file) as store:
        write(store, 10)
    spoil(file, begun + 200)
    assert rows_of(file) == "40 1 "


@pytest.mark.parametrize("place", [8, 16, 200], ids=["salt", "checksum", "page"])
@pytest.mark.parametrize("commits", [2, 3])
def test_commits_behind_a_damage_are_missed(file: Path, place: int, commits: int) -> None:
    with cut_off(file) as store:
        write(store, 1)
        begun = log_of(file).stat().st_size
        for _ in range(commits):
            write(store, 5)
    spoil(file, begun + place)
    with pytest.raises(StoreCorrupt, match=r"its log aura\.db-wal is damaged before its last commits"):
        SqliteBackend(file)


def test_log_that_was_about_to_begin_anew_is_no_damage(file: Path) -> None:
    """SQLite says so in the index, which another program may keep alive, before it writes the log's new header."""
    with cut_off(file) as store:
        write(store, 5)
        write(store, 5)
        log, index = log_of(file), file.with_name("aura.db-shm")
        assert damage_of(log, index) is None
        raw = bytearray(index.read_bytes())
        raw[16:20] = bytes(4)  # no frames
        index_of_damage = file.with_name("damaged-shm")
        index_of_damage.write_bytes(raw)
        raw[32:40] = b"new salt"
        anew = file.with_name("anew-shm")
        anew.write_bytes(raw)
        assert damage_of(log, index_of_damage)
        assert damage_of(log, anew) is None


def test_index_is_opened_by_hand_only_while_no_connection_is_open(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever closes a descriptor of it gives all locks of the process back, and another program makes it anew."""
    opened: list[sqlite3.Connection] = []

    def connect(uri: str) -> sqlite3.Connection:
        opened.append(sqlite3.connect(uri, uri=True))
        return opened[-1]

    def look(log: Path, index: Path) -> None:
        assert log.exists()
        assert index.exists()
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            opened.pop().execute("SELECT 1")

    monkeypatch.setattr(inspection, "damage_of", look)
    with cut_off(file) as store:
        write(store, 1)
    inspection.refuse_unsound(file, len(schema_steps()), lambda _: frozenset(), connect)
    assert opened == []


def test_log_without_its_database_is_refused_untouched(file: Path) -> None:
    """SQLite would empty it, and with it what was told of as written."""
    with cut_off(file) as store:
        write(store, 1)
    file.rename(file.with_name("elsewhere"))
    before = log_of(file).read_bytes()
    with pytest.raises(StoreCorrupt, match=r"aura\.db is gone, and .*aura\.db-wal has what was written to it last"):
        SqliteBackend(file)
    assert (log_of(file).read_bytes(), file.exists()) == (before, False)
    file.with_name("elsewhere").rename(file)
    assert rows_of(file) == "40 1 "


async def commit(store: SqliteBackend) -> None:
    """Commit some twenty pages as the store does."""

    def unit(execute: Execute) -> None:
        for number in range(20):
            execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"k{number:03}", "x" * 3000))

    await store.commit([Ticket(unit, None, None, False)])


async def test_log_is_cut_as_soon_as_nobody_reads_in_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LOG_SIZE", 2**20)
    monkeypatch.setattr(sqlite, "FOLD_WAIT", 0.001)
    with closing(SqliteBackend(file)) as store, closing(sqlite3.connect(file, isolation_level=None)) as reader:
        store.execute("PRAGMA wal_autocheckpoint=0")  # as if somebody read in it whenever SQLite looks
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM meta").fetchone()
        for _ in range(30):
            await commit(store)  # nobody is held up by who reads, and nothing is refused
        assert log_of(file).stat().st_size > 2 * 2**20
        reader.execute("COMMIT")
        for _ in range(30):
            await commit(store)
        assert log_of(file).stat().st_size < 1.2 * 2**20
