"""``aura doctor``: each thing that can be wrong is said, with what to do, and nothing is changed by looking."""

import fcntl
import os
import sqlite3
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.fakes.commands import Command, Outcome, commands_in
from tests.fakes.server import FakeServer, open_fake_server

from aura import __version__
from aura.cli import database, folders
from aura.cli import doctor as doctor_module
from aura.stores.backup import back_up
from aura.stores.disk import FolderDisk, Free
from aura.stores.sqlite import SqliteBackend, schema_steps

STATUS = {
    "state": "running",
    "boot": 1,
    "started_at": "2026-11-22T05:00:00Z",
    "uptime_s": 1.0,
    "lanes": {},
    "plans": {"ready": 1, "stale": 0, "broken": 0},
    "resources": {},
    "store": {"writable": True, "pending": 0, "commits": 1},
    "services": {},
}
#: Of this process: other tests may look for leftovers at the same time.
STORE = uuid4().hex
TASK = "steps: {a: {action: log, params: {message: x}}}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    (tmp_path / "plans/lab/tasks").mkdir(mode=0o755, parents=True)
    (tmp_path / "plans/lab/tasks/t.yaml").write_text(TASK)
    return commands_in(tmp_path, monkeypatch, capsys)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder as a server leaves it that has ended well."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    SqliteBackend(folder / "aura.db").close()
    return folder


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with open_fake_server() as fake:
        yield fake


def said(outcome: Outcome, level: str) -> list[str]:
    """The lines of a level."""
    return [line[6:] for line in outcome.out.splitlines() if line.startswith(level)]


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a folder; a file that came and went shows in the time of its folder."""
    paths = sorted((folder, *folder.rglob("*")))
    return {str(p): (p.stat().st_mode, p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in paths}


def test_healthy_folders_are_ok_and_untouched(run: Command, data: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    found = run("doctor")
    assert (found.code, said(found, "fail")) == (0, [])
    assert any(line.startswith(f"data folder: {data} on ") for line in said(found, "ok"))
    assert "database: quick_check finds nothing wrong" in said(found, "ok")
    assert any(line.startswith("plans: 1 in ") for line in said(found, "ok"))
    assert snapshot(tmp_path) == before


def test_machine_without_data_is_ok(run: Command, tmp_path: Path) -> None:
    found = run("doctor")
    assert (found.code, "the first `aura serve` makes it" in found.out) == (0, True)
    assert not (tmp_path / "data").exists()


def test_json_has_every_finding(run: Command, data: Path) -> None:
    found = run("doctor", "--json").json
    assert found["ok"] is True
    assert {item["level"] for item in found["items"]} <= {"ok", "warn", "fail"}
    assert {"aura", "sqlite", "settings", "data folder", "disk", "database", "plans", "clock", "bounds", "server"} <= {
        item["what"] for item in found["items"]
    }
    assert all(item["advice"] for item in found["items"] if item["level"] != "ok")


@pytest.mark.parametrize(("version", "level"), [((3, 51, 2), "warn"), ((3, 51, 3), "ok"), ((3, 52, 0), "ok")])
def test_sqlite_with_the_fault_is_warned_about(
    run: Command, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], level: str
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    found = {item["what"]: item["level"] for item in run("doctor", "--json").json["items"]}
    assert found["sqlite"] == level


def test_settings_are_shown_with_where_they_came_from(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aura.toml").write_text("[server]\nport = 1234\n[lanes.main]\nlimit = 9\n")
    monkeypatch.setenv("AURA_PORT", "4321")
    found = said(run("doctor"), "ok")
    assert "setting server.port: 4321 from AURA_PORT" in found
    assert f"setting lanes.main.limit: 9 from {tmp_path / 'aura.toml'}" in found
    assert f"setting data: {tmp_path / 'data'} from AURA_DATA" in found


def test_settings_that_cannot_be_used_fail(run: Command, tmp_path: Path) -> None:
    (tmp_path / "aura.toml").write_text("prot = 1")
    found = run("doctor")
    assert (found.code, len(said(found, "fail"))) == (1, 1)
    assert "prot: unknown setting" in said(found, "fail")[0]


@pytest.mark.parametrize(
    ("name", "mode", "advice"),
    [(".", 0o755, "chmod 0700"), ("token", 0o644, "chmod 0600"), ("aura.db", 0o640, "chmod 0600")],
)
def test_data_that_others_may_read_is_warned_about(run: Command, data: Path, name: str, mode: int, advice: str) -> None:
    (data / "token").touch(mode=0o600)
    (data / name).chmod(mode)
    (found,) = [line for line in said(run("doctor"), "warn") if line.startswith("data folder")]
    assert f"mode {mode:04o}; {advice} {data / name}" in found


def test_data_folder_that_is_none_fails(run: Command, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    found = run("doctor")
    assert (found.code, any("is no folder" in line for line in said(found, "fail"))) == (1, True)


def test_data_folder_on_a_network_file_system_fails(run: Command, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "file_system", lambda path: "nfs4")
    (found,) = said(run("doctor"), "fail")
    assert "network file system (nfs4); choose a folder on a local disk" in found


@pytest.mark.parametrize(
    ("kind", "text"), [("tmpfs", "lost at the next restart"), ("overlay", "lost with the container"), ("ext4", "")]
)
def test_data_folder_that_does_not_last_is_warned_about(
    run: Command, data: Path, monkeypatch: pytest.MonkeyPatch, kind: str, text: str
) -> None:
    monkeypatch.setattr(folders, "file_system", lambda path: kind)
    found = [line for line in said(run("doctor"), "warn") if line.startswith("data folder")]
    assert [text in line for line in found] == ([True] if text else [])


def test_disk_with_too_few_files_fails(run: Command, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderDisk, "free", lambda self: Free(2**40, 5))
    (found,) = said(run("doctor"), "fail")
    assert found.startswith("disk: 5 more files can be made")


def test_disk_with_too_little_room_fails(run: Command, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_STORE__MIN_FREE", "900TB")
    (found,) = said(run("doctor"), "fail")
    assert found.startswith("disk: ")


def test_lock_that_is_held_is_seen_without_taking_it(run: Command, data: Path) -> None:
    with (data / "aura.lock").open("w") as lock:
        assert "no server holds it" in run("doctor").out
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = run("doctor")
    assert ", a server holds it" in found.out
    assert "its pages were not checked" in found.out
    assert any("one holds the data folder, but no server answers" in line for line in said(found, "fail"))


# -- the database -----------------------------------------------------------------------------------------------------


def test_database_of_a_newer_aura_fails(run: Command, data: Path) -> None:
    with sqlite3.connect(data / "aura.db") as db:
        db.execute(f"PRAGMA user_version={len(schema_steps()) + 1}")
    db.close()
    found = run("doctor")
    assert any("written by a newer Aura" in line for line in said(found, "fail"))


def test_database_of_an_older_aura_is_ok(run: Command, data: Path) -> None:
    db = sqlite3.connect(data / "aura.db")
    db.execute("PRAGMA user_version=1")
    db.close()
    assert f"schema 1; the next start brings it to {len(schema_steps())}" in run("doctor").out


def test_file_that_is_no_database_fails(run: Command, data: Path) -> None:
    (data / "aura.db").write_bytes(b"something else" * 100)
    assert any("is not one of SQLite" in line for line in said(run("doctor"), "fail"))


def test_damaged_database_fails_and_stays_as_it_is(run: Command, data: Path, tmp_path: Path) -> None:
    file = data / "aura.db"
    content = bytearray(file.read_bytes())
    page = struct.unpack(">H", content[16:18])[0]
    content[page : 3 * page] = os.urandom(2 * page)
    file.write_bytes(content)
    before = snapshot(tmp_path)
    found = run("doctor")
    assert (found.code, any("damaged" in line for line in said(found, "fail"))) == (1, True)
    assert snapshot(tmp_path) == before


def test_log_that_a_crash_left_is_checked_with_it_on_a_copy(run: Command, data: Path, tmp_path: Path) -> None:
    db = sqlite3.connect(data / "aura.db")
    db.execute("CREATE TABLE more (x)")
    db.commit()
    files = {name: (data / name).read_bytes() for name in ("aura.db", "aura.db-wal")}
    db.close()
    page = struct.unpack(">H", files["aura.db"][16:18])[0]
    files["aura.db"] = files["aura.db"][:100] + os.urandom(page - 100) + files["aura.db"][page:]  # the log has it right
    for name, content in files.items():
        (data / name).write_bytes(content)
    before = snapshot(tmp_path)
    found = run("doctor")
    assert (found.code, "quick_check finds nothing wrong" in found.out) == (0, True)
    assert snapshot(tmp_path) == before


def test_check_of_a_huge_database_ends_in_time(run: Command, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = sqlite3.connect(data / "aura.db")
    db.execute(
        "CREATE TABLE t AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n LIMIT 99999) SELECT * FROM n"
    )
    db.commit()
    db.close()
    monkeypatch.setattr(database, "CHECK_TIME", 0.0)
    found = run("doctor")
    assert (found.code, "too large to be checked within 0 s" in found.out) == (0, True)


def test_database_from_the_future_is_the_clock_s_fault(run: Command, data: Path) -> None:
    os.utime(data / "aura.db", (4_000_000_000, 4_000_000_000))
    assert any(line.startswith("clock: ") for line in said(run("doctor"), "warn"))


def begin_boot(data: Path, started_at: float, ended_at: float | None) -> None:
    """Note the third start of a server."""
    store = SqliteBackend(data / "aura.db")
    store.execute("INSERT INTO meta VALUES ('store_id', ?)", (STORE,))
    store.execute("INSERT INTO boot VALUES (3, ?, ?, '0')", (started_at, ended_at))
    store.close()


@pytest.mark.parametrize(
    ("ended_at", "level", "text"),
    [(None, "warn", "3 did not end in good order"), (2.0, "ok", "3 ended in good order, at ")],
)
def test_end_of_the_last_server_is_told(
    run: Command, data: Path, ended_at: float | None, level: str, text: str
) -> None:
    begin_boot(data, 1.0, ended_at)
    before = snapshot(data)
    found = run("doctor")
    assert (found.code, any(line.startswith(f"boot: {text}") for line in said(found, level))) == (0, True)
    assert snapshot(data) == before


def test_database_that_no_server_has_started_on_is_ok(run: Command, data: Path) -> None:
    found = said(run("doctor"), "ok")
    assert "boot: no server has started on it yet" in found
    size = (data / "aura.db").stat().st_size / 2**20
    assert f"database: {size:.1f} MiB, and 0.0 MiB of its log" in found


def test_clock_that_was_put_back_is_warned_about(run: Command, data: Path) -> None:
    begin_boot(data, time.time() + 500, None)
    (found,) = [line for line in said(run("doctor"), "warn") if line.startswith("clock: the newest record")]
    assert "s ahead of this clock: it was put back; set the clock right" in found


@pytest.mark.parametrize(
    ("tag", "held", "told"),
    [(f"{STORE}.3", False, True), (f"{STORE}.3", True, False), (f"{STORE}.2", True, True), ("other.2", False, False)],
    ids=["the last one's", "the present one's", "an older one's", "another folder's"],
)
def test_processes_that_a_server_has_left_are_named(
    run: Command, data: Path, monkeypatch: pytest.MonkeyPatch, tag: str, held: bool, told: bool
) -> None:
    begin_boot(data, 1.0, None)
    monkeypatch.setattr(database, "is_held", lambda folder: held)
    with subprocess.Popen(["cat"], env={"AURA_BOOT": tag}, stdin=subprocess.PIPE) as process:
        found = [line for line in said(run("doctor"), "warn") if line.startswith("processes: ")]
    assert any(f"has left {process.pid} running" in line for line in found) is told


def test_log_of_another_database_beside_a_backup_fails(run: Command, data: Path) -> None:
    back_up(data / "aura.db", data / "copy", len(schema_steps()))
    (data / "copy").rename(data / "aura.db")
    (data / "aura.db-wal").write_bytes(b"of another one")
    (found,) = [line for line in said(run("doctor"), "fail") if line.startswith("database")]
    assert "belongs to the database that was there before" in found


def test_log_without_its_database_fails(run: Command, data: Path) -> None:
    (data / "aura.db").rename(data / "aura.db-wal")
    (found,) = [line for line in said(run("doctor"), "fail") if line.startswith("database")]
    assert f"{data / 'aura.db'} is gone, and {data / 'aura.db-wal'} has what was written to it last" in found


# -- plans, clock, bounds, server -------------------------------------------------------------------------------------


def test_plans_that_others_may_write_fail(run: Command, tmp_path: Path) -> None:
    (tmp_path / "plans/lab").chmod(0o777)
    (found,) = said(run("doctor"), "fail")
    assert "can be written by everybody; `chmod go-w" in found


def test_plans_that_cannot_be_loaded_are_named(run: Command, tmp_path: Path) -> None:
    (tmp_path / "plans/lab/tasks/t.yaml").write_text("stepps: 1")
    found = run("doctor")
    assert (found.code, any("1 of 1 cannot be loaded: lab" in line for line in said(found, "warn"))) == (0, True)


def test_plans_folder_that_is_not_there_fails(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_PLANS", "nowhere")
    (found,) = said(run("doctor"), "fail")
    assert "is not there; make it" in found


@pytest.mark.parametrize(
    ("answer", "level", "text"),
    [("yes", "ok", "synchronized by NTP"), ("no", "warn", "not synchronized"), ("", "ok", "nothing here says")],
)
def test_clock_is_as_timedatectl_says(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, level: str, text: str
) -> None:
    tool = tmp_path / "bin/timedatectl"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho {answer}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    assert any(line.startswith(f"clock: {text}") for line in said(run("doctor"), level))


def test_clock_s_tool_that_hangs_is_not_waited_for(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin/timedatectl"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    monkeypatch.setattr(doctor_module, "CLOCK_TIMEOUT", 0.1)
    began = time.monotonic()
    assert "clock: nothing here says who sets it" in said(run("doctor"), "ok")
    assert time.monotonic() - began < 40


def test_bounds_are_those_of_settings_and_code(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_LANES__MAIN__QUEUE", "77")
    monkeypatch.setenv("AURA_STORE__RETENTION__DAYS", "9")
    monkeypatch.setattr("aura.web.app.MAX_STREAMS", 4321)
    found = [line.removeprefix("bounds: ") for line in said(run("doctor"), "ok") if line.startswith("bounds: ")]
    kinds = [line.partition(":")[0] for line in found]
    assert kinds == [
        *("lane main", "lane event", "lane interrupt", "requests", "streams", "tokens", "outputs", "processes"),
        *("events", "state of a plan", "history", "history of no run", "why-ledger", "webhooks", "file triggers"),
        *("log lines on their way to the store", "connections"),
    ]
    assert "77 more wait" in found[0]
    assert found[4].startswith("streams: 4321,")
    assert "for 9 days" in found[10]


def test_few_files_are_fewer_connections(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.web.server.connection_limit", lambda: 924)
    (found,) = [line for line in said(run("doctor"), "warn") if line.startswith("bounds")]
    assert "924 connections, not" in found


@pytest.mark.parametrize(
    ("version", "reasons", "warned"),
    [
        (__version__, [], []),
        ("0.0.1", [], [f"server: version 0.0.1 at %s, while this command is {__version__}"]),
        (__version__, ["the disk is slow"], ["server: the disk is slow"]),
    ],
)
def test_server_that_answers_is_compared(
    run: Command, fake: FakeServer, monkeypatch: pytest.MonkeyPatch, version: str, reasons: list[str], warned: list[str]
) -> None:
    monkeypatch.setenv("AURA_SERVER", fake.url)
    fake.answers["GET /api/system/status"] = STATUS | {"version": version, "reasons": reasons}
    found = [line for line in said(run("doctor"), "warn") if line.startswith("server")]
    assert [
        line.startswith(want % fake.url if "%" in want else want) for line, want in zip(found, warned, strict=True)
    ] == [True] * len(warned)
