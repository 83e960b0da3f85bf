"""The data of an older Aura: kept as it was, brought up to date in one transaction, whenever that is cut off."""

import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aura.errors import ExitCode, StoreError
from aura.failpoints import SITES, Site
from aura.stores.sqlite import SqliteBackend, schema_steps

NEWEST = len(schema_steps())
_OPEN = """
import sys
from pathlib import Path
from aura import failpoints
from aura.stores.sqlite import SqliteBackend
failpoints.arm(sys.argv[2])
SqliteBackend(Path(sys.argv[1]))
"""


def make_older(folder: Path, version: int) -> Path:
    """A database as an Aura of that schema has left it, in good order, with one run."""
    file = folder / "aura.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        steps = ";\n".join(step.read_text() for step in schema_steps()[:version])
        db.executescript(f"PRAGMA synchronous=OFF; BEGIN; {steps}; PRAGMA user_version={version};")
        db.execute("INSERT INTO meta VALUES ('store_id', 'old')")
        columns = "seq, cid, plan_name, task_name, lane, priority, state, recovery, due, accepted_at, cause, root_cid"
        row = "1, 'c1', 'p', 't', 'main', 0, 'queued', 'fail', 1, 1, '{}', 'c1'"
        db.execute(f"INSERT INTO run ({columns}, boot, inputs, labels) VALUES ({row}, 1, '{{}}', '{{}}')")
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode=WAL")
    return file


_BESIDE = """
import sqlite3
import sys
db = sqlite3.connect(sys.argv[1])
db.execute("SELECT count(*) FROM run").fetchone()
db.close()
"""


def ask(file: Path, sql: str) -> Any:
    with closing(sqlite3.connect(file)) as db:
        return db.execute(sql).fetchone()[0]


def version_of(file: Path) -> int:
    return int(ask(file, "PRAGMA user_version"))


@pytest.mark.parametrize("version", range(1, NEWEST))
def test_data_of_each_older_schema_is_kept_and_brought_up_to_date(tmp_path: Path, version: int) -> None:
    file = make_older(tmp_path, version)
    SqliteBackend(file).close()
    kept = tmp_path / f"aura.db.before-{version}"
    assert (version_of(file), version_of(kept)) == (NEWEST, version)
    assert [ask(one, "SELECT cid FROM run") for one in (file, kept)] == ["c1", "c1"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert {one.name for one in tmp_path.iterdir()} == {file.name, kept.name}
    assert (ask(file, "SELECT value FROM meta"), len(ask(kept, "SELECT value FROM meta"))) == ("old", 32)


def test_data_that_lacks_an_index_is_no_damaged_data(tmp_path: Path) -> None:
    file = make_older(tmp_path, 1)
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("DROP INDEX run_by_plan")
    SqliteBackend(file).close()
    assert (version_of(file), ask(file, "SELECT cid FROM run")) == (NEWEST, "c1")


def test_what_was_kept_starts_again_and_replaces_what_was_kept_before(tmp_path: Path) -> None:
    file = make_older(tmp_path, 2)
    kept = tmp_path / "aura.db.before-2"
    kept.write_text("of an earlier upgrade")
    SqliteBackend(file).close()
    shutil.copy(kept, file)
    SqliteBackend(file).close()
    assert [version_of(file), version_of(kept)] == [NEWEST, 2]


def leave_log(file: Path) -> None:
    """Leave the database as a kill does: with something in its log."""
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("INSERT INTO meta VALUES ('early', 'x')")
        db.commit()
        left = {one: one.read_bytes() for one in (file, file.with_name("aura.db-wal"))}
    for one, content in left.items():
        one.write_bytes(content)


@pytest.mark.parametrize("killed", [False, True], ids=["ended well", "killed"])
@pytest.mark.parametrize("version", [1, NEWEST - 1, NEWEST])
def test_program_that_looks_beside_does_not_take_the_log_away(tmp_path: Path, version: int, killed: bool) -> None:
    """The last one that closes a database removes its log; that this is not the last one is known by its locks."""
    file = make_older(tmp_path, version)
    if killed:
        leave_log(file)
    store = SqliteBackend(file)
    store.execute("INSERT INTO meta VALUES ('late', 'x')")
    subprocess.run([sys.executable, "-c", _BESIDE, str(file)], timeout=60, check=True)
    assert file.with_name("aura.db-wal").stat().st_size > 0
    store.close()


@pytest.mark.parametrize("made_by", ["this Aura", "nobody"])
def test_database_without_an_older_schema_is_not_backed_up(tmp_path: Path, made_by: str) -> None:
    file = make_older(tmp_path, NEWEST) if made_by == "this Aura" else tmp_path / "aura.db"
    SqliteBackend(file).close()
    assert [one.name for one in tmp_path.iterdir()] == ["aura.db"]


def test_upgrade_without_room_for_its_backup_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make_older(tmp_path, 3)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match=r"the backup needs .*; make room") as refused:
        SqliteBackend(file)
    assert (refused.value.exit_code, version_of(file)) == (ExitCode.IO, 3)
    assert [one.name for one in tmp_path.iterdir()] == ["aura.db"]


@pytest.mark.parametrize("version", [0, 1, NEWEST - 1])
@pytest.mark.parametrize("moment", SITES[Site.SCHEMA])
def test_upgrade_that_is_killed_has_happened_or_not(tmp_path: Path, version: int, moment: str) -> None:
    file = make_older(tmp_path, version) if version else tmp_path / "aura.db"
    argv = [sys.executable, "-c", _OPEN, str(file), f"schema.{moment}:kill@1"]
    assert subprocess.run(argv, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode == -9
    left = version_of(file) if version else None
    assert left in (None, NEWEST if moment == "after" else version)
    store = SqliteBackend(file)
    assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert store.execute("PRAGMA user_version").fetchone() == (NEWEST,)
    assert store.execute("SELECT count(*), max(cid) FROM run").fetchone() == ((1, "c1") if version else (0, None))
    store.close()
    if version:
        assert version_of(tmp_path / f"aura.db.before-{version}") == version
