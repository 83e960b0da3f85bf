"""Retention: what goes, what stays, and that a look which was cut off is gone on with."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.engine.kit import Opened, opened, step, task

from aura.clock import SystemClock
from aura.engine import retention
from aura.engine.retention import FRESH, LOOK_EVERY, Retention
from aura.errors import RequestError
from aura.records.ageing import LEAST_BOOTS, NOBODYS
from aura.runs.runtime import Runtime
from aura.settings import Retention as Kept
from aura.store import StoreBackend, Unit
from aura.stores.memory import MemoryBackend
from aura.stores.sqlite import SqliteBackend

DAY = 24 * 3600.0
#: Every table that has rows of runs, with what names the run there.
OF_RUNS = {
    **dict.fromkeys(("run", "step", "loop", "item", "history", "label", "wait", "checkpoint", "removed"), "seq"),
    **dict.fromkeys(("log", "event"), "cid"),
}


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> StoreBackend:
    return MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "aura.db")


async def busy(ctx: Any) -> None:
    """Leave something in every place that a run may have."""
    ctx.log.info("busy")
    (ctx.workdir / "made").mkdir(exist_ok=True)
    (ctx.workdir / "made" / "file").write_text("x")
    await ctx.checkpoint({"n": 1})
    await ctx.emit("made.something")


async def quick() -> None: ...


async def lasting() -> None:
    await anyio.sleep(400 * DAY)


async def parent(ctx: Any) -> None:
    await ctx.run("quick")


async def slow_parent(ctx: Any) -> None:
    await ctx.run("quick")
    await anyio.sleep(400 * DAY)


async def long_parent(ctx: Any) -> None:
    await ctx.run("quick")
    await anyio.sleep(20 * DAY)


TASKS = (
    task("busy", step("busy", busy, loop={"times": 3}), labels={"colour": "red"}),
    task("quick", step("quick", quick)),
    task("lasting", step("lasting", lasting), timeout=500 * DAY),
    task("parent", step("parent", parent)),
    task("long_parent", step("long_parent", long_parent), timeout=500 * DAY),
    task("slow_parent", step("slow_parent", slow_parent), timeout=500 * DAY),
)


@asynccontextmanager
async def keeping(
    folder: Path, backend: StoreBackend | None = None, *, days: int = 30, runs: int = 100_000
) -> AsyncIterator[tuple[Opened, Retention]]:
    """An engine, and a retention with these bounds."""
    async with opened(folder, *TASKS, backend=backend) as kit:
        yield kit, keeper(kit.engine.runtime, days, runs)


def keeper(runtime: Runtime, days: int = 30, runs: int = 100_000) -> Retention:
    kept = msgspec.structs.replace(runtime.settings.store, retention=Kept(days=days, runs=runs))
    bounded = type("Bounded", (), {"__getattr__": lambda _, name: getattr(runtime, name)})()
    bounded.settings = msgspec.structs.replace(runtime.settings, store=kept)
    return Retention(bounded)


def tables_with(kit: Opened, seq: int, cid: str) -> set[str]:
    """The tables that have a row of this run."""
    values = {"seq": seq, "cid": cid}
    sql = "SELECT count(*) FROM {} WHERE {}=?"
    counts = {t: kit.backend.execute(sql.format(t, key), (values[key],)).fetchone()[0] for t, key in OF_RUNS.items()}
    return {table for table, count in counts.items() if count}


def left(kit: Opened) -> list[str]:
    return [run.record.task_name for run in kit.runs()]


async def test_run_past_its_days_goes_with_all_that_is_its(tmp_path: Path, backend: StoreBackend) -> None:
    async with keeping(tmp_path, backend) as (kit, kept):
        old = await kit.record("busy")
        await kit.engine.history.log_entries()  # flushed
        assert old.state == "succeeded", old.error
        assert tables_with(kit, old.seq, old.cid) >= {"run", "step", "loop", "item", "history", "label", "log", "event"}
        workdir = kit.engine.workdirs / old.cid
        assert (workdir / "made" / "file").exists()
        await kit.advance(days=29)
        young = await kit.record("busy")
        await kept.look()
        assert left(kit) == ["busy", "busy"]
        await kit.advance(days=2)
        await kept.look()
        assert tables_with(kit, old.seq, old.cid) == set()
        assert not workdir.exists()
        assert tables_with(kit, young.seq, young.cid) >= {"run", "step", "item", "log", "event"}
        assert (kit.engine.workdirs / young.cid).exists()


async def test_runs_beyond_the_newest_go(tmp_path: Path, backend: StoreBackend) -> None:
    async with keeping(tmp_path, backend, runs=3) as (kit, kept):
        made = [(await kit.record("quick")).cid for _ in range(8)]
        await kept.look()
        assert len(left(kit)) == 8, "one that has just ended can be read"
        await kit.advance(FRESH + 1)
        await kept.look()
        assert [run.cid for run in kit.runs()] == made[-3:]
        assert kept.runs == 5
        assert kept.rows >= 5 * 3


async def test_newest_run_stays_whatever_its_age(tmp_path: Path) -> None:
    """The next run's sequence is found by it: one that came twice would be given rows of another run."""
    async with keeping(tmp_path) as (kit, kept):
        for _ in range(3):
            newest = (await kit.record("quick")).cid
        await kit.advance(days=400)
        await kept.look()
        assert [run.cid for run in kit.runs()] == [newest]


@pytest.mark.parametrize("runs", [1, 100_000], ids=["number", "age"])
async def test_newest_run_stays_though_its_family_could_go(tmp_path: Path, runs: int) -> None:
    """The next one would get its sequence, while the rest of the old one is still being cleared away."""
    async with keeping(tmp_path, runs=runs) as (kit, kept):
        await kit.record("quick")
        newest = max(run.record.seq for run in [await kit.run("parent"), *kit.runs()])
        await kit.advance(days=400)
        await kept.look()
        assert kit.backend.execute("SELECT max(seq) FROM run").fetchone() == (newest,)
        await kit.record("quick")
        await kit.advance(days=400)
        await kept.look()
        assert left(kit) == ["quick"]


async def test_open_run_stays_and_its_family_with_it(tmp_path: Path, backend: StoreBackend) -> None:
    async with keeping(tmp_path, backend, runs=1) as (kit, kept):
        await kit.begin_run("lasting")
        await kit.begin_run("slow_parent")
        await kit.until(lambda: [r.state for r in kit.runs("quick")] == ["succeeded"])
        for _ in range(3):
            await kit.record("busy")
        await kit.advance(days=60)
        await kept.look()
        assert left(kit) == ["lasting", "slow_parent", "quick", "busy"]
        await kit.engine.cancel_where()


async def test_family_goes_together(tmp_path: Path, backend: StoreBackend) -> None:
    async with keeping(tmp_path, backend, runs=1) as (kit, kept):
        await kit.record("parent")
        await kit.advance(days=1)
        await kit.record("quick")
        await kit.record("quick")
        await kit.advance(FRESH + 1)
        await kept.look()
        assert left(kit) == ["quick"]


async def test_sub_task_whose_parent_is_kept_is_kept(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kit, kept):
        await kit.record("long_parent")  # twenty days after its sub-task
        await kit.record("quick")
        await kit.advance(days=15)
        await kept.look()
        assert left(kit) == ["long_parent", "quick", "quick"]
        await kit.advance(days=16)
        await kept.look()
        assert left(kit) == ["quick"]


class Cut(BaseException):
    """The end of a process, in the middle of a look."""


@pytest.mark.parametrize("after", range(1, 8))
async def test_look_that_is_cut_off_is_gone_on_with(
    tmp_path: Path, backend: StoreBackend, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROWS", 4)
    async with keeping(tmp_path, backend, runs=1) as (kit, kept):
        made = [await kit.record("busy") for _ in range(3)]
        await kit.advance(FRESH + 1)
        cut_off(kept, after)
        with pytest.raises(Cut):
            await kept.look()
        for old in made[:2]:  # each is there whole, or is not there
            tables = tables_with(kit, old.seq, old.cid)
            assert "run" not in tables or tables >= {"run", "step", "loop", "item", "history", "label", "log", "event"}
            if "run" not in tables:
                with pytest.raises(RequestError, match="kept for 30 days and 100000 at most"):
                    await kit.engine.history.get_run(old.cid)
        await keeper(kit.engine.runtime, runs=1).look()
        assert [tables_with(kit, old.seq, old.cid) for old in made[:2]] == [set(), set()]
        assert [path.name for path in kit.engine.workdirs.iterdir()] == [made[2].cid]


def cut_off(kept: Retention, after: int) -> None:
    """Let so many units through."""
    put, count = kept._put, iter(range(after))

    async def put_or_end(unit: Unit) -> None:
        if next(count, None) is None:
            raise Cut
        await put(unit)

    kept._put = put_or_end  # type: ignore[method-assign]


async def test_units_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "RUNS", 2)
    monkeypatch.setattr(retention, "ROWS", 5)
    async with keeping(tmp_path, runs=1) as (kit, kept):
        for _ in range(7):
            await kit.record("busy")
        await kit.advance(FRESH + 1)
        changes: list[int] = []
        put = kept._put

        async def counted(unit: Unit) -> None:
            before = total_changes(kit)
            await put(unit)
            changes.append(total_changes(kit) - before)

        kept._put = counted  # type: ignore[method-assign]
        await kept.look()
        assert len(changes) > 20
        assert max(changes) <= 2 * 4 + 2 + 5  # of two runs: row, label, note, and older note; two marks; five rows


def total_changes(kit: Opened) -> int:
    assert isinstance(kit.backend, MemoryBackend)
    return kit.backend.connection.total_changes


async def test_serve_looks_again_and_again(tmp_path: Path) -> None:
    # group: the child alone, cancelled below
    async with keeping(tmp_path, runs=1) as (kit, kept), anyio.create_task_group() as group:
        group.start_soon(kept.serve)
        await kit.advance(3)
        assert kept.sizes is None, "it waits for the end of the boot"
        kept.ready.set()
        await kit.advance(3)
        assert kept.sizes is not None
        for _ in range(4):
            await kit.record("quick")
        await kit.advance(FRESH - 1)
        assert len(left(kit)) == 4
        await kit.advance(LOOK_EVERY + 2)
        assert len(left(kit)) == 1
        group.cancel_scope.cancel()


# -- what belongs to no run


async def test_lines_and_events_of_nobody_go_by_age(tmp_path: Path, backend: StoreBackend) -> None:
    async with keeping(tmp_path, backend) as (kit, kept):
        kit.engine.runtime.log.info("old")
        await kit.emit("old.event")
        await kit.engine.history.log_entries()
        await kit.advance(days=31)
        kit.engine.runtime.log.info("young")
        await kit.emit("young.event")
        await kept.look()
        lines = await kit.engine.history.log_entries()
        assert "young" in [line.record()["message"] for line in lines]
        assert "old" not in [line.record()["message"] for line in lines]
        names = [name for (name,) in kit.backend.execute("SELECT name FROM event WHERE cid IS NULL")]
        assert names == ["young.event"]


async def test_lines_of_nobody_go_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [kind._replace(most=5) for kind in NOBODYS]
    monkeypatch.setattr(retention, "NOBODYS", few)
    async with keeping(tmp_path) as (kit, kept):
        for number in range(20):
            kit.engine.runtime.log.info(f"line {number}")
            await kit.advance(1)
        await kept.look()
        lines = await kit.engine.history.log_entries()
        assert [line.record()["message"] for line in lines][-5:] == [f"line {n}" for n in range(15, 20)]
        assert len(lines) in (5, 6)


async def test_old_keys_and_starts_go(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kit, kept):
        execute = kit.backend.execute
        for key, until in (("old", kit.now - 1), ("young", kit.now + 9)):
            columns = "(scope, key, body, answer, created_at, keep_until)"
            execute(f"INSERT INTO idempotency {columns} VALUES ('run', ?, '', '', 1, ?)", (key, until))
        for number in range(-300, 1):
            execute("INSERT INTO boot VALUES (?, ?, NULL, '0')", (number, kit.now - (99 if number else 1) * DAY))
        await kept.look()
        assert execute("SELECT key FROM idempotency").fetchall() == [("young",)]
        assert execute("SELECT count(*), max(number) FROM boot").fetchone() == (LEAST_BOOTS, 1)


# -- what clients are told


async def test_size_and_bounds_are_shown(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kit, _):
        record = await kit.record("quick")
        await kit.record("quick")
        await kit.engine.retention.look()
        shown = kit.engine.status()["retention"]
        assert (shown["days"], shown["runs"], shown["oldest_at"]) == (30, 100_000, record.accepted_at)
        assert shown["bytes"] > 0


async def test_workdir_of_no_run_goes_when_it_is_old(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kit, kept):
        mine = await kit.begin_run("busy")
        await kit.ended(mine)
        stray = kit.engine.workdirs / "0198c0de-0000-7000-8000-00000000000f"
        other = kit.engine.workdirs / "notes"
        for folder in (stray, other):
            folder.mkdir()
        for folder in (stray, other, mine.workdir_path):
            os.utime(folder, (kit.now, kit.now))
        await kit.advance(days=20)
        await kept.look()
        assert stray.exists()
        await kit.advance(days=11)
        await kept.look()
        assert (stray.exists(), other.exists(), mine.workdir_path.exists()) == (False, True, True)


class Jumping(SystemClock):
    """A clock of this loop that is put ahead by so many seconds."""

    recheck = 3600.0
    ahead = 0.0

    def wall(self) -> float:
        return asyncio.get_running_loop().time() + 1_800_000_000.0 + self.ahead


async def test_clock_that_has_jumped_ahead_is_doubted_for_a_day(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (kit, _):
        clock = Jumping()
        kit.engine.runtime.clock = clock
        kept = keeper(kit.engine.runtime)
        await kit.record("quick")
        await kit.record("quick")
        await kept.look()
        clock.ahead = 400 * DAY
        await kept.look()
        assert len(left(kit)) == 2
        assert "has jumped 400 days ahead" in (await kit.engine.history.log_entries())[-1].record()["message"]
        await kit.advance(days=1.1)
        await kept.look()
        assert len(left(kit)) == 1  # the clock stays so: it is believed


async def test_long_time_without_a_server_is_doubted_for_a_day(tmp_path: Path) -> None:
    backend = MemoryBackend()
    async with keeping(tmp_path, backend) as (kit, _):
        await kit.record("quick")
        await kit.record("quick")
    backend.execute("UPDATE boot SET started_at = started_at - 40 * 86400, ended_at = NULL")
    backend.execute("DROP TRIGGER run_final")
    backend.execute("UPDATE run SET accepted_at = accepted_at - 40 * 86400, finished_at = finished_at - 40 * 86400")
    async with keeping(tmp_path, backend) as (kit, kept):
        await kept.look()
        assert len(left(kit)) == 2
        await kit.advance(days=1.1)
        await kept.look()
        assert len(left(kit)) == 1
