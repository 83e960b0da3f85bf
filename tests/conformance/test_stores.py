"""All stores keep the same promises: the same tests over each."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from aura.errors import Lost, StoreClosed, StoreError
from aura.lifecycle import RunState
from aura.records.boots import begin_boot, last_accepted, read_open_runs
from aura.records.generations import keep_generation, read_generation
from aura.records.logs import insert_logs
from aura.records.reading import RunFilter, get_run, get_steps, list_runs, read_logs, read_run_stream
from aura.records.runs import Accepted, RunColumns, accept_run, change_run
from aura.run import Cause
from aura.store import Execute, Store, StoreBackend
from aura.stores.memory import MemoryBackend
from aura.stores.sqlite import SqliteBackend
from aura.testing.writebehind import WriteBehind

Make = Callable[[Path], StoreBackend]
MAKERS: dict[str, Make] = {
    "memory": lambda _: MemoryBackend(),
    "write-behind": lambda _: WriteBehind(),
    "sqlite": lambda folder: SqliteBackend(folder / "aura.db"),
}


class Kept:
    """A store that serves, with what it reported."""

    def __init__(self, backend: StoreBackend) -> None:
        self.faults: list[Exception] = []
        self.fatal: list[StoreError] = []
        self.store = Store(backend, on_fault=self.faults.append, on_fatal=self.fatal.append)


@asynccontextmanager
async def serving(backend: StoreBackend) -> AsyncIterator[Kept]:
    kept = Kept(backend)
    async with anyio.create_task_group() as group:
        group.start_soon(kept.store.serve)
        yield kept
        kept.store.close()


@pytest.fixture(params=list(MAKERS))
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    async with serving(MAKERS[request.param](tmp_path)) as made:
        yield made


def accepted(seq: int, **changes: Any) -> Accepted:
    values: dict[str, Any] = {
        "seq": seq, "cid": f"c{seq}", "plan_name": "p", "task_name": "t", "generation": "g", "lane": "main",
        "priority": 0, "labels": {}, "recovery": "fail", "due": float(seq), "not_before": None,
        "accepted_at": float(seq), "cause": Cause("api"), "parent_cid": None,
        "root_cid": f"c{seq}", "depth": 0, "boot": 1, "inputs": b"{}",
    }  # fmt: skip
    return Accepted(**(values | changes))


def columns(state: str, **changes: Any) -> RunColumns:
    values: dict[str, Any] = {
        "state": state, "stop": None, "reason": None, "generation": "g", "ending": None, "stuck": False, "held": False,
        "attempt": 1, "crashes": 0, "started_at": 1.0, "finished_at": None, "active_s": 0.0, "boot": 1, "result": None,
        "error": None, "cleanup_error": None,
    }  # fmt: skip
    return RunColumns(**(values | changes))


def put_run(store: Store, seq: int, **changes: Any) -> Any:
    return store.put(accept_run(accepted(seq, **changes), (seq * 100, seq, "run.accepted", None, 1.0, None)))


def move(store: Store, seq: int, former: str, to: str, **changes: Any) -> Any:
    history = [(seq * 100 + store.commits + 1, seq, f"run.{to}", None, 2.0, None)]
    return store.put(change_run(seq, [], history, former, columns(to, **changes)))


async def test_files_of_a_plan_are_kept_once_and_as_long_as_a_run_needs_them(kept: Kept) -> None:
    files = {"tasks/t.yaml": b"steps: {}", "actions/\udcff.py": bytes(range(256))}
    for seq, hash in ((1, "old"), (2, "new"), (3, "other")):
        await put_run(kept.store, seq, generation=hash).wait()
        await kept.store.put(keep_generation("p", hash, files, dict)).wait()
    move(kept.store, 1, "queued", "cancelled", generation="old")
    move(kept.store, 2, "queued", "running", generation="new")
    await kept.store.put(keep_generation("p", "other", {}, dict)).wait()

    async def found(*hashes: str) -> list[dict[str, bytes] | None]:
        return [await kept.store.read(partial(read_generation, plan_name="p", hash=hash)) for hash in hashes]

    assert await found("old", "new", "other") == [files] * 3  # a version that is kept costs no look at all open runs
    await put_run(kept.store, 4, generation="last").wait()
    await kept.store.put(keep_generation("p", "last", files, dict)).wait()
    assert await found("old", "new", "other", "last") == [None, files, files, files]


async def test_what_was_accepted_can_be_read_back(kept: Kept) -> None:
    await put_run(kept.store, 1, labels={"a": "b"}, inputs=b'{"x":[1]}').wait()
    record = await kept.store.read(lambda x: get_run(x, "c1"))
    assert record is not None
    assert (record.state, record.labels, record.inputs, record.cause["kind"]) == (
        "queued",
        {"a": "b"},
        {"x": [1]},
        "api",
    )
    assert await kept.store.read(lambda x: get_run(x, "nope")) is None


async def test_units_of_one_turn_are_one_commit_in_their_order(kept: Kept) -> None:
    order: list[int] = []
    before = kept.store.commits
    tickets = [kept.store.put(lambda x: None, after=lambda n=n: order.append(n)) for n in range(50)]  # type: ignore[misc]
    for ticket in tickets:
        await ticket.wait()
    assert (order, kept.store.commits - before) == (list(range(50)), 1)


async def test_bad_unit_fails_alone_and_its_waiter_is_told(kept: Kept) -> None:
    told: list[str] = []
    good = put_run(kept.store, 1)
    bad = put_run(kept.store, 1)
    also = kept.store.put(
        accept_run(accepted(2), (200, 2, "run.accepted", None, 1.0, None)), failed=lambda e: told.append("failed")
    )
    worse = kept.store.put(
        accept_run(accepted(2), (201, 2, "x", None, 1.0, None)), failed=lambda e: told.append(type(e).__name__)
    )
    await good.wait()
    await also.wait()
    with pytest.raises(sqlite3.IntegrityError):
        await bad.wait()
    with pytest.raises(sqlite3.IntegrityError):
        await worse.wait()
    assert told == ["IntegrityError"]
    assert await kept.store.read(lambda x: x("SELECT count(*) FROM run").fetchone()) == (2,)


async def test_failed_unit_that_nobody_waits_for_is_a_fault(kept: Kept) -> None:
    await put_run(kept.store, 1).wait()
    put_run(kept.store, 1)
    await kept.store.written()
    assert [type(f).__name__ for f in kept.faults] == ["IntegrityError"]


async def test_failing_side_effect_is_a_fault_and_the_rest_goes_on(kept: Kept) -> None:
    def broken() -> None:
        raise RuntimeError("side effect")

    kept.store.put(lambda x: None, after=broken)
    await put_run(kept.store, 1).wait()
    assert [str(f) for f in kept.faults] == ["side effect"]


async def test_unit_that_runs_twice_counts_once(kept: Kept) -> None:
    good = put_run(kept.store, 1)

    def bad(execute: Execute) -> None:
        raise ValueError("replay, please")

    with pytest.raises(ValueError, match="replay"):
        await kept.store.put(bad).wait()
    await good.wait()
    assert await kept.store.read(lambda x: x("SELECT count(*) FROM history").fetchone()) == (1,)


async def test_cancelled_waiter_aborts_nothing(kept: Kept) -> None:
    with anyio.CancelScope() as scope:
        ticket = put_run(kept.store, 1)
        scope.cancel()
        await ticket.wait()
    await kept.store.written()
    assert await kept.store.read(lambda x: get_run(x, "c1")) is not None


async def test_move_is_a_compare_and_set(kept: Kept) -> None:
    await put_run(kept.store, 1).wait()
    await move(kept.store, 1, "queued", "running").wait()
    with pytest.raises(Lost):
        await move(kept.store, 1, "queued", "running").wait()
    record = await kept.store.read(lambda x: get_run(x, "c1"))
    assert record is not None
    assert record.state == "running"
    names = await kept.store.read(lambda x: x("SELECT name FROM history ORDER BY id").fetchall())
    assert names == [("run.accepted",), ("run.running",)]


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled", "timed_out", "crashed"])
async def test_finished_run_cannot_change(kept: Kept, state: str) -> None:
    await put_run(kept.store, 1).wait()
    await move(kept.store, 1, "queued", state).wait()
    for former in (state, "queued", "running"):
        with pytest.raises((Lost, sqlite3.IntegrityError)):
            await move(kept.store, 1, former, "queued").wait()


async def test_steps_are_put_and_put_again(kept: Kept) -> None:
    await put_run(kept.store, 1).wait()
    started = (1, "a", "running", 1, 1, 5.0, None, None, None, None, None, None)
    ended = (1, "a", "succeeded", 1, 1, 5.0, 6.0, b'{"n":1}', b"{}", None, None, None)
    skipped = (1, "b", "skipped", 0, 0, None, 7.0, None, None, None, "a failed", b"{}")
    await kept.store.put(change_run(1, [started], [])).wait()
    await kept.store.put(change_run(1, [ended, skipped], [])).wait()
    a, b = await kept.store.read(lambda x: get_steps(x, 1))
    assert (a.state, a.output, a.started_at, a.finished_at) == ("succeeded", {"n": 1}, 5.0, 6.0)
    assert (b.state, b.skipped_because, b.explained) == ("skipped", "a failed", {})


async def test_steps_are_in_the_order_in_which_they_began_whatever_the_clock_did(kept: Kept) -> None:
    await put_run(kept.store, 1).wait()
    times = {"b": 2e9, "a": -5.0, "c": 1e9}  # the clock was set back below 1970, and forward
    for at, (name, began) in enumerate(times.items(), 200):
        row = (1, name, "succeeded", 1, 1, began, began - 1, None, None, None, None, None)
        await kept.store.put(change_run(1, [row], [(at, 1, "step.started", name, began, None)])).wait()
    assert [step.name for step in await kept.store.read(lambda x: get_steps(x, 1))] == ["b", "a", "c"]


async def test_steps_that_have_not_begun_are_the_last(kept: Kept) -> None:
    await put_run(kept.store, 1).wait()
    begun = (1, "b", "succeeded", 1, 1, 5.0, 6.0, None, None, None, None, None)
    pending = (1, "a", "pending", 0, 0, None, None, None, None, None, None, None)
    await kept.store.put(change_run(1, [begun, pending], [(200, 1, "step.started", "b", 5.0, None)])).wait()
    assert [step.name for step in await kept.store.read(lambda x: get_steps(x, 1))] == ["b", "a"]


FILTERS: list[tuple[RunFilter, list[int]]] = [
    (RunFilter(), [5, 4, 3, 2, 1]),
    (RunFilter(state="running"), [2]),
    (RunFilter(plan_name="q"), [5]),
    (RunFilter(task_name="u"), [4]),
    (RunFilter(lane="event"), [3]),
    (RunFilter(labels={"k": "v"}), [4]),
    (RunFilter(labels={"k": "v", "x": "y"}), []),
    (RunFilter(cids=("c1", "c5", "zz")), [5, 1]),
    (RunFilter(since=2.0, until=4.0), [3, 2]),
    (RunFilter(plan_name="p' OR '1'='1"), []),
]


@pytest.mark.parametrize(("wanted", "found"), FILTERS, ids=[str(i) for i in range(len(FILTERS))])
async def test_lists_are_newest_first_and_filtered(kept: Kept, wanted: RunFilter, found: list[int]) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {},
        {"lane": "event"},
        {"task_name": "u", "labels": {"k": "v"}},
        {"plan_name": "q"},
    ]
    for seq, change in enumerate(changes, 1):
        await put_run(kept.store, seq, **change).wait()
    await move(kept.store, 2, "queued", "running").wait()
    assert [r.seq for r in await kept.store.read(lambda x: list_runs(x, wanted, 10))] == found


async def test_pages_follow_each_other_without_a_gap(kept: Kept) -> None:
    for seq in range(1, 8):
        put_run(kept.store, seq)
    await kept.store.written()
    seen: list[int] = []
    before: int | None = None
    while page := await kept.store.read(lambda x, b=before: list_runs(x, RunFilter(), 3, b)):  # type: ignore[misc]
        seen += [r.seq for r in page]
        before = page[-1].seq
        put_run(kept.store, 100 + len(seen))  # others arrive meanwhile
    assert seen == [7, 6, 5, 4, 3, 2, 1]


async def test_logs_and_events_of_a_run_are_one_stream_by_id(kept: Kept) -> None:
    await put_run(kept.store, 1).wait()
    await kept.store.put(change_run(1, [], [(102, 1, "run.started", None, 2.0, b'{"x":1}')])).wait()
    lines = [
        (101, "c1", 20, 1.5, "p", "t", None, None, "hello", b'{"k":"v"}'),
        (103, "c1", 40, 2.5, "p", "t", "a", 1, "bad", None),
        (104, None, 30, 2.6, None, None, None, None, "server", None),
    ]
    await kept.store.put(insert_logs(lines)).wait()
    entries = await kept.store.read(lambda x: read_run_stream(x, "c1", 0, 10))
    assert [(e.id, e.kind) for e in entries] == [(100, "event"), (101, "log"), (102, "event"), (103, "log")]
    assert entries[2].record()["payload"] == {"x": 1}
    assert entries[1].record()["fields"] == {"k": "v"}
    rest = await kept.store.read(lambda x: read_run_stream(x, "c1", 101, 1))
    assert [e.id for e in rest] == [102]
    assert [e.id for e in await kept.store.read(lambda x: read_logs(x, after=0, limit=10, level=30))] == [103, 104]
    assert [e.id for e in await kept.store.read(lambda x: read_logs(x, after=0, limit=1, newest=True))] == [104]


async def test_boots_are_counted_and_the_id_of_the_data_stays(kept: Kept) -> None:
    got: list[tuple[str, int]] = []
    for fresh in ("first", "second"):
        unit = kept.store.put(lambda x, fresh=fresh: got.append(begin_boot(x, 1.0, "v", lambda: fresh)))  # type: ignore[misc]
        await unit.wait()
    assert got == [("first", 1), ("first", 2)]


async def test_open_runs_are_found_in_order_with_their_steps(kept: Kept) -> None:
    for seq in (1, 2, 3):
        await put_run(kept.store, seq).wait()
    await move(kept.store, 2, "queued", "running", crashes=1, ending="failed").wait()
    await kept.store.put(change_run(2, [(2, "a", "running", 1, 1, 1.0, None, None, None, None, None, None)], [])).wait()
    await move(kept.store, 3, "queued", "cancelled").wait()
    found = await kept.store.read(read_open_runs)
    assert [(f.record.seq, f.record.state) for f in found] == [(1, RunState.QUEUED), (2, RunState.RUNNING)]
    assert (found[1].ending, found[1].crashes, found[1].steps[0][1]) == ("failed", 1, "a")
    assert await kept.store.read(last_accepted) == (3, "c3")


@pytest.mark.parametrize("name", list(MAKERS))
async def test_close_writes_what_is_pending_and_then_refuses(name: str, tmp_path: Path) -> None:
    backend = MAKERS[name](tmp_path)
    written: list[int] = []
    async with serving(backend) as kept:
        kept.store.put(lambda x: None, after=lambda: written.append(1))
        kept.store.close()
        late = put_run(kept.store, 1)
        with pytest.raises(StoreClosed):
            await late.wait()
        await kept.store.ended.wait()
    assert written == [1]


@pytest.mark.parametrize("name", list(MAKERS))
async def test_host_cancel_does_not_lose_what_was_handed_over(name: str, tmp_path: Path) -> None:
    backend = MAKERS[name](tmp_path)
    kept = Kept(backend)
    written: list[int] = []
    async with anyio.create_task_group() as group:
        group.start_soon(kept.store.serve)
        await kept.store.written()
        kept.store.put(lambda x: None, after=lambda: written.append(1))
        group.cancel_scope.cancel()
        kept.store.close()
    assert written == [1]
