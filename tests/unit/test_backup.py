"""``aura backup`` and what makes a backup: whole, checked, private, as of one moment, or nothing at all."""

import errno
import fcntl
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.commands import Command, commands_in

from aura.errors import ExitCode, StoreCorrupt, StoreError, StoreInUse
from aura.stores import backup
from aura.stores.backup import back_up
from aura.stores.sqlite import SqliteBackend, schema_steps

NEWEST = len(schema_steps())
UNSHARE = shutil.which("unshare")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database whose server has ended well, on its third start."""
    file = tmp_path_factory.mktemp("made") / "aura.db"
    store = SqliteBackend(file)
    store.execute("INSERT INTO meta VALUES ('store_id', 'original')")
    store.execute("INSERT INTO boot VALUES (3, 1.0, 2.0, '0')")
    store.execute("BEGIN")
    for number in range(200):
        store.execute("INSERT INTO meta VALUES (?, ?)", (f"k{number}", "v" * 400))
    store.execute("COMMIT")
    store.close()
    return file


@pytest.fixture
def data(tmp_path: Path, made: Path) -> Path:
    """The data folder of that server."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    shutil.copy(made, folder)
    return folder


@pytest.fixture
def database(data: Path) -> Path:
    return data / "aura.db"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out/copy.db"


def put(database: Path, **values: str) -> sqlite3.Connection:
    """Commit into a database, and give the connection, still open: its log is there as long as it is."""
    db = sqlite3.connect(database, timeout=0)
    db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
    db.commit()
    return db


def kill(database: Path, **values: str) -> None:
    """Leave the database as a killed server does that had just written ``values``: with its log."""
    files = [database.with_name(database.name + end) for end in ("", "-wal", "-shm")]
    with closing(put(database, **values)):
        left = {file: file.read_bytes() for file in files}
    for file, content in left.items():
        file.write_bytes(content)


def ask(file: Path, sql: str) -> Any:
    with closing(sqlite3.connect(f"{file.as_uri()}?immutable=1", uri=True)) as db:
        return db.execute(sql).fetchone()[0]


def meta(file: Path, key: str) -> Any:
    return ask(file, f"SELECT max(value) FROM meta WHERE key='{key}'")


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All files; what a log is indexed by (-shm) is made anew by whoever reads it, and says nothing."""
    files = [file for file in folder.iterdir() if not file.name.endswith("-shm")]
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


# -- a backup ---------------------------------------------------------------------------------------------------------


def test_backup_is_one_private_file_with_all_that_was_there(database: Path, target: Path) -> None:
    old = os.umask(0)
    try:
        copy = back_up(database, target, NEWEST)
    finally:
        os.umask(old)
    assert (copy.path, copy.runs, copy.bytes) == (target, 0, database.stat().st_size)
    assert (stat.S_IMODE(target.stat().st_mode), names(target.parent)) == (0o600, {target.name})
    assert ask(target, "SELECT count(*) FROM meta WHERE key LIKE 'k%'") == 200
    assert ask(target, "SELECT max(number) FROM boot") == 3


def test_backup_is_of_a_store_of_its_own(database: Path, target: Path) -> None:
    back_up(database, target, NEWEST)
    assert len(meta(target, "store_id")) == 32
    assert meta(database, "store_id") == "original"


@pytest.mark.parametrize("killed", [False, True], ids=["ended well", "killed"])
def test_data_folder_is_as_before(data: Path, database: Path, target: Path, killed: bool) -> None:
    if killed:
        kill(database, late="yes")
    before, there = contents(data), names(data)
    back_up(database, target, NEWEST)
    assert (contents(data), names(data)) == (before, there)
    assert meta(target, "late") == ("yes" if killed else None)


def test_backup_beside_a_writer_is_as_of_one_moment_and_holds_no_commit_up(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "PAGES", 5)
    told: list[tuple[int, int]] = []
    with closing(put(database, before="yes")) as writer:

        def write(done: int, pages: int) -> None:
            writer.execute("INSERT INTO meta VALUES (?, ?)", (f"while{done}", "x" * 9000))
            writer.commit()  # would raise, if it were held up at all
            told.append((done, pages))

        back_up(database, target, NEWEST, progress=write)
    assert len(told) > 3
    assert told == sorted(told)  # it never began anew
    assert told[-1][0] == told[-1][1]
    assert (meta(target, "before"), meta(target, "while5")) == ("yes", None)


def test_backup_is_on_the_disk_before_it_has_its_name_and_its_name_after(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, set[str]]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, names(target.parent)))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    back_up(database, target, NEWEST)
    assert synced == [("copy.db.partial", {"copy.db.partial"}), ("out", {"copy.db"})]


def test_backup_that_a_server_started_under_is_taken_again(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "PAGES", 5)
    started: list[SqliteBackend] = []

    def start(done: int, pages: int) -> None:
        if not started:
            started.append(SqliteBackend(database))
            started[0].execute("UPDATE meta SET value='new' WHERE key LIKE 'k%'")
            started[0].execute("PRAGMA wal_checkpoint")

    back_up(database, target, NEWEST, progress=start)
    started[0].close()
    assert ask(target, "SELECT count(*) FROM meta WHERE value='new'") == 200


# -- what keeps it from being made ------------------------------------------------------------------------------------


def flip(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[9000:20000] = os.urandom(11000)
    database.write_bytes(content)


def set_version(number: int) -> Callable[[Path], None]:
    def change(database: Path) -> None:
        with closing(sqlite3.connect(database)) as db:
            db.execute(f"PRAGMA user_version={number}")

    return change


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        pytest.param(flip, ExitCode.CORRUPT, id="damaged"),
        pytest.param(lambda file: os.truncate(file, 20000), ExitCode.CORRUPT, id="cut"),
        pytest.param(lambda file: file.write_bytes(b"something else" * 900), ExitCode.CORRUPT, id="no database"),
        pytest.param(lambda file: file.write_bytes(b""), ExitCode.CORRUPT, id="empty"),
        pytest.param(set_version(0), ExitCode.CORRUPT, id="not of Aura"),
        pytest.param(set_version(NEWEST + 1), ExitCode.NEWER_DATA, id="newer"),
        pytest.param(lambda file: (file.unlink(), file.mkdir()), ExitCode.CANNOT_CREATE, id="a folder"),
    ],
)
def test_database_that_cannot_be_backed_up_is_said_and_nothing_is_left(
    database: Path, target: Path, spoil: Callable[[Path], object], code: int
) -> None:
    spoil(database)
    with pytest.raises(StoreError) as refused:
        back_up(database, target, NEWEST)
    assert (refused.value.exit_code, names(target.parent)) == (code, set())


def test_database_that_another_process_holds_alone_is_asked_for_again(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "BUSY_TIMEOUT", 0.01)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("INSERT INTO meta VALUES ('x', '')")
        with pytest.raises(StoreInUse, match="locked by another process"):
            back_up(database, target, NEWEST)
    assert names(target.parent) == set()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, ExitCode.IO),
        (errno.EIO, ExitCode.IO),
        (errno.EACCES, ExitCode.NOT_PERMITTED),
        (errno.EROFS, ExitCode.CANNOT_CREATE),
    ],
)
def test_folder_that_takes_no_file_is_said(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    def refuse(path: Path) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(backup, "_create", refuse)
    with pytest.raises(StoreError, match=f"cannot be made: {target}.partial: ") as refused:
        back_up(database, target, NEWEST)
    assert refused.value.exit_code == code


_FILLED = """
import os, subprocess, sys
from pathlib import Path
from aura.errors import StoreFull
from aura.stores import backup
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", sys.argv[2]], check=True)
target = Path(sys.argv[2]) / "copy.db"
backup.PAGES = 5
def fill(done, pages):
    with open(target.with_name("full"), "ab", buffering=0) as file:
        try:
            while file.write(b"x" * 4096): pass
        except OSError: pass
try:
    backup.back_up(Path(sys.argv[1]), target, 99, progress=fill)
except StoreFull as error:
    print("no room for" in str(error), error.exit_code, sorted(os.listdir(sys.argv[2])))
"""


@pytest.mark.skipif(UNSHARE is None, reason="needs unshare of util-linux")
def test_disk_that_fills_while_it_is_copied_leaves_nothing(database: Path, target: Path) -> None:
    argv = ["unshare", "-Urm", sys.executable, "-c", _FILLED, str(database), str(target.parent)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True 74 ['full']\n", done.stderr


def test_room_is_looked_at_before_anything_is_copied(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(target.parent)._replace(free=database.stat().st_size + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    back_up(database, target, NEWEST, spare=1000)
    with pytest.raises(StoreError, match=r"MiB free, and the backup needs .* to spare; make room") as refused:
        back_up(database, target, NEWEST, replace=True, spare=1001)
    assert (refused.value.exit_code, names(target.parent)) == (ExitCode.IO, {target.name})


def test_interrupted_backup_leaves_nothing(database: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(done: int, pages: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(database, target, NEWEST, progress=interrupt)
    assert names(target.parent) == set()


def test_copy_that_is_not_what_was_there_is_not_kept(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([1, 0])
    monkeypatch.setattr(backup, "_count_runs", lambda db: next(counts))
    with pytest.raises(StoreError, match="has 0 runs, not 1"):
        back_up(database, target, NEWEST)
    assert names(target.parent) == set()


def test_what_a_killed_backup_left_is_replaced(database: Path, target: Path) -> None:
    target.with_name("copy.db.partial").write_bytes(b"half of it" * 99999)
    copy = back_up(database, target, NEWEST)
    assert (names(target.parent), copy.bytes) == ({target.name}, database.stat().st_size)


def test_backup_that_another_one_is_writing_is_refused(database: Path, target: Path) -> None:
    with target.with_name("copy.db.partial").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreInUse, match="being written by another backup"):
            back_up(database, target, NEWEST)
    assert names(target.parent) == {"copy.db.partial"}


def test_partial_that_is_a_link_is_not_followed(database: Path, target: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    target.with_name("copy.db.partial").symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError):
        back_up(database, target, NEWEST)
    assert (tmp_path / "victim").read_text() == "precious"


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands_in(tmp_path, monkeypatch, capsys)


def test_command_says_what_it_made(run: Command, target: Path) -> None:
    done = run("backup", str(target))
    assert (done.code, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()] == ["path", "bytes", "runs", "as"]
    found = run("backup", str(target), "--force", "--json").json
    assert (found["path"], found["bytes"], found["runs"]) == (str(target), target.stat().st_size, 0)
    assert found["taken_at"].endswith("Z")


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        pytest.param(["out"], ExitCode.CANNOT_CREATE, "out is no file; name one", id="a folder"),
        pytest.param(["out/old"], ExitCode.CANNOT_CREATE, "is there already; name another file, or say", id="there"),
        pytest.param(["out/none/x"], ExitCode.CANNOT_CREATE, "cannot be made: out/none/x.partial", id="no folder"),
        pytest.param(["out/old/x"], ExitCode.CANNOT_CREATE, "out/old/x.partial: Not a directory", id="a file's folder"),
        pytest.param(["data/aura.db", "--force"], ExitCode.USAGE, "in the data folder itself", id="the database"),
        pytest.param(["data/../data/x"], ExitCode.USAGE, "in the data folder itself", id="beside the database"),
        pytest.param(["/dev/null", "--force"], ExitCode.CANNOT_CREATE, "no file", id="a device"),
        pytest.param(["x", "--data", "none"], ExitCode.USAGE, "there is no database", id="no data"),
        pytest.param([], ExitCode.USAGE, "FILE", id="no file named"),
    ],
)
def test_command_refuses_what_it_cannot_do(run: Command, target: Path, argv: list[str], code: int, said: str) -> None:
    (target.parent / "old").write_text("old")
    done = run("backup", *argv)
    assert (done.code, said in done.err, done.out) == (code, True, ""), done.err
    assert (target.parent / "old").read_text() == "old"
    assert names(target.parent) == {"old"}


def test_data_folder_that_is_another_user_s_is_said(
    run: Command, database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, stat_of = Path.open, Path.stat

    def refuse(of: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, *args: Any, **kwargs: Any) -> Any:
            if path == database:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return of(path, *args, **kwargs)

        return call

    monkeypatch.setattr(Path, "open", refuse(opened))
    monkeypatch.setattr(Path, "stat", refuse(stat_of))
    done = run("backup", str(target))
    assert (done.code, f"{database}: Permission denied; run this as" in done.err) == (ExitCode.NOT_PERMITTED, True)
    assert names(target.parent) == set()


def test_room_that_the_server_wants_is_left_to_it(run: Command, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_STORE__MIN_FREE", "900TB")
    done = run("backup", str(target))
    assert (done.code, "to spare" in done.err) == (ExitCode.IO, True)


# -- a backup in the place of the database ----------------------------------------------------------------------------


def restore(database: Path, target: Path) -> None:
    """Put a backup where the killed server's database was, and leave what lies beside that."""
    back_up(database, target, NEWEST)
    kill(database, late="of the killed server")
    shutil.copy(target, database)


def test_log_of_the_former_database_would_be_replayed_by_sqlite(database: Path, target: Path) -> None:
    restore(database, target)
    with closing(sqlite3.connect(database)) as db:  # this is what ``refuse_foreign_log`` is for
        assert db.execute("SELECT value FROM meta WHERE key='late'").fetchone() == ("of the killed server",)


def test_log_of_the_former_database_is_refused_untouched(data: Path, database: Path, target: Path) -> None:
    restore(database, target)
    before = contents(data)
    with pytest.raises(StoreCorrupt, match=r"Move aura.db-wal and aura.db-shm away, and start again"):
        SqliteBackend(database)
    with pytest.raises(StoreCorrupt, match=r"belongs to the database that was there before"):
        back_up(database, target.with_name("second"), NEWEST)
    assert contents(data) == before


@pytest.mark.parametrize("remove", [("-wal", "-shm"), ("-wal",)], ids=["both", "the log alone"])
def test_backup_starts_once_the_former_log_is_away(database: Path, target: Path, remove: tuple[str, ...]) -> None:
    restore(database, target)
    for end in remove:
        database.with_name(f"aura.db{end}").unlink()
    store = SqliteBackend(database)
    assert store.execute("SELECT count(*) FROM meta WHERE key='late'").fetchone() == (0,)
    store.execute("INSERT INTO meta VALUES ('now', 'yes')")
    kill(database, later="yes")  # now a log of its own is beside it
    store.close()
    assert (meta(database, "now"), meta(database, "later")) == ("yes", "yes")
