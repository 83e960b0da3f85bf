"""The queries of the lists: a page costs what it shows, however long the history is."""

from collections.abc import Callable
from typing import Any

import pytest

from aura.records.ageing import NOBODYS, find_cutoff, take_keys, take_of_nobody
from aura.records.keys import KeyRow, find_key, insert_key
from aura.records.reading import RunFilter, get_run, get_step_rows, get_steps, list_runs, read_logs, read_run_stream
from aura.records.removal import (
    Bounds,
    Clearing,
    Gone,
    Window,
    family_of,
    find_known,
    find_runs,
    find_window,
    remove_runs,
)
from aura.store import Execute
from aura.stores.memory import MemoryBackend

#: Everything is old.
OLD = Bounds(cutoff=9.0, fresh=9.0, runs=3)


def explained(query: Callable[[Execute], object]) -> list[str]:
    """How SQLite would go about the statements of a query, a line each."""
    execute = MemoryBackend().execute
    lines: list[str] = []

    def explain(sql: str, values: Any = ()) -> Any:
        lines.extend(row[-1] for row in execute(f"EXPLAIN QUERY PLAN {sql}", values))
        return execute(sql, values)

    query(explain)
    return lines


@pytest.mark.parametrize("before", [None, 7], ids=["first page", "next page"])
@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(RunFilter(), id="all"),
        pytest.param(RunFilter(state="running"), id="state"),
        pytest.param(RunFilter(plan_name="p"), id="plan"),
        pytest.param(RunFilter(plan_name="p", task_name="t"), id="task of a plan"),
        pytest.param(RunFilter(task_name="t"), id="task"),
        pytest.param(RunFilter(lane="event"), id="lane"),
        pytest.param(RunFilter(labels={"a": "b"}), id="label"),
        pytest.param(RunFilter(labels={"a": "b", "c": "d"}), id="labels"),
        pytest.param(RunFilter(state="failed", plan_name="p", labels={"a": "b"}), id="label and more"),
        pytest.param(RunFilter(since=1.0), id="since"),
        pytest.param(RunFilter(until=1.0), id="until"),
        pytest.param(RunFilter(since=1.0, until=2.0, state="failed"), id="window and state"),
        pytest.param(RunFilter(since=1.0, labels={"a": "b"}), id="since and label"),
    ],
)
def test_page_of_runs_is_read_in_order_and_never_sorted(wanted: RunFilter, before: int | None) -> None:
    lines = explained(lambda execute: list_runs(execute, wanted, 10, before))
    assert not [line for line in lines if "TEMP B-TREE" in line]
    # all of them backwards, as far as the page; what a subquery has counted is read as a whole
    scans = [line for line in lines if line.startswith("SCAN") and "(subquery" not in line]
    assert scans == ([] if before is not None or wanted != RunFilter() else ["SCAN run"])


# -- what a page costs, among 100,000 runs

RUNS = 100_000
FAR = RUNS // 2


@pytest.fixture(scope="module")
def long_history() -> MemoryBackend:
    """Run ``n`` was accepted in second ``n``; one in a thousand is special, the newest hundred apart."""
    backend = MemoryBackend()
    ordinary = ("succeeded", "p", "t", "main")
    special = ("failed", "rare", "seldom", "event")
    rows = [
        (n, f"c{n}", *(special if n % 1000 == 0 and n <= RUNS - 100 else ordinary), float(n))
        for n in range(1, RUNS + 1)
    ]
    backend.connection.executemany(
        "INSERT INTO run (seq, cid, state, plan_name, task_name, lane, accepted_at, priority, labels, recovery, due,"
        " cause, root_cid, boot, inputs) VALUES (?, ?, ?, ?, ?, ?, ?, 0, '{}', 'fail', 0, '{}', 'c', 1, '{}')",
        rows,
    )
    labels = [("all", "x", n) for n in range(1, RUNS + 1)] + [("rare", "x", n) for n in range(1000, RUNS - 100, 1000)]
    backend.connection.executemany("INSERT INTO label VALUES (?, ?, ?)", labels)
    return backend


def steps_of(backend: MemoryBackend, wanted: RunFilter, before: int | None) -> tuple[list[int], int]:
    """The page's sequences, and by how many instructions of SQLite's machine it was found, in thousands."""
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    backend.connection.set_progress_handler(tick, 1000)
    found = [run.seq for run in list_runs(backend.execute, wanted, 20, before)]
    backend.connection.set_progress_handler(None, 0)
    return found, count


@pytest.mark.parametrize("before", [None, FAR], ids=["first page", "page far behind"])
@pytest.mark.parametrize(
    ("wanted", "most"),
    [
        pytest.param(RunFilter(), 3, id="all"),
        pytest.param(RunFilter(state="failed"), 3, id="state"),
        pytest.param(RunFilter(state="queued"), 1, id="state of none"),
        pytest.param(RunFilter(plan_name="rare"), 3, id="plan"),
        pytest.param(RunFilter(task_name="seldom"), 3, id="task"),
        pytest.param(RunFilter(lane="event"), 3, id="lane"),
        pytest.param(RunFilter(lane="interrupt"), 1, id="lane of none"),
        pytest.param(RunFilter(labels={"rare": "x"}), 3, id="rare label"),
        pytest.param(RunFilter(labels={"all": "x"}), 3, id="label of all"),
        pytest.param(RunFilter(labels={"none": "x"}), 1, id="label of none"),
        pytest.param(RunFilter(cids=("c5", "c70000")), 1, id="cids"),
        pytest.param(RunFilter(since=RUNS - 50.0), 5, id="last minute"),
        pytest.param(RunFilter(until=50.0), 5, id="long ago"),
        pytest.param(RunFilter(since=300.0, until=320.0), 5, id="an old moment"),
        pytest.param(RunFilter(since=2.0 * RUNS), 1, id="the future"),
        pytest.param(RunFilter(since=50.0), 300, id="nearly all of the time"),
        pytest.param(RunFilter(until=RUNS - 50.0), 300, id="nearly all up to now"),
        pytest.param(RunFilter(state="failed", since=RUNS - 5000.0), 300, id="state of late"),
        pytest.param(RunFilter(labels={"rare": "x"}, until=5000.0), 300, id="rare label long ago"),
    ],
)
def test_page_costs_what_it_shows(
    long_history: MemoryBackend, wanted: RunFilter, most: int, before: int | None
) -> None:
    found, cost = steps_of(long_history, wanted, before)
    assert cost <= most
    assert found == sorted((seq for seq in found if before is None or seq < before), reverse=True)


@pytest.mark.parametrize(
    ("wanted", "seqs"),
    [
        (RunFilter(since=2.0), [5, 4, 2, 3]),
        (RunFilter(until=3.0), [5, 4, 2, 1]),
        (RunFilter(since=1.5, until=2.5), [4, 2]),
        (RunFilter(since=9.0), []),
        (RunFilter(until=0.5), []),
    ],
    ids=["since", "until", "both", "none since", "none until"],
)
def test_window_is_right_where_the_clock_was_put_back(wanted: RunFilter, seqs: list[int]) -> None:
    backend = MemoryBackend()
    for seq, at in enumerate([1.0, 2.0, 5.0, 2.0, 2.8], 1):
        backend.execute(
            "INSERT INTO run (seq, cid, state, plan_name, task_name, lane, accepted_at, priority, labels, recovery,"
            " due, cause, root_cid, boot, inputs)"
            " VALUES (?, ?, 'queued', 'p', 't', 'main', ?, 0, '{}', 'fail', 0, '{}', 'c', 1, '{}')",
            (seq, f"c{seq}", at),
        )
    assert [run.seq for run in list_runs(backend.execute, wanted, 10)] == sorted(seqs, reverse=True)
    after = [run.seq for run in list_runs(backend.execute, wanted, 10, 4)]
    assert after == sorted((seq for seq in seqs if seq < 4), reverse=True)


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(lambda x: list_runs(x, RunFilter(cids=("a", "b")), 10), id="runs by id"),
        pytest.param(lambda x: get_run(x, "a"), id="run"),
        pytest.param(lambda x: get_steps(x, 1), id="steps"),
        pytest.param(lambda x: read_run_stream(x, "a", 1, 10), id="stream of a run"),
        pytest.param(lambda x: get_step_rows(x, 1), id="steps as they are kept"),
        pytest.param(lambda x: find_key(x, "run", "k"), id="key"),
        pytest.param(lambda x: insert_key(KeyRow("run", "k", b"", b"", 1, 1, 1.0))(x), id="new key"),
        pytest.param(lambda x: read_logs(x, after=1, limit=10, cid="a"), id="lines of a run"),
        pytest.param(lambda x: read_logs(x, after=1, limit=10, newest=True), id="newest lines"),
        pytest.param(lambda x: find_window(x, OLD), id="what may go"),
        pytest.param(lambda x: find_runs(x, OLD, Window(5, 5, 6), 0, 10), id="runs that go"),
        pytest.param(lambda x: family_of(x, 1, 1.0, 6), id="family that goes"),
        pytest.param(lambda x: remove_runs([Gone(1, "a")])(x), id="going"),
        pytest.param(lambda x: Clearing([Gone(1, "a")], 10)(x), id="what is left"),
        pytest.param(lambda x: find_known(x, ["a"]), id="workdirs"),
        pytest.param(lambda x: find_cutoff(x, NOBODYS[0], 1.0), id="lines of nobody"),
        pytest.param(lambda x: take_of_nobody(NOBODYS[0], 1.0)(x, 10), id="old lines"),
        pytest.param(lambda x: take_of_nobody(NOBODYS[1], 1.0)(x, 10), id="old events"),
        pytest.param(lambda x: take_keys(1.0)(x, 10), id="old keys"),
    ],
)
def test_what_is_of_one_run_is_found_by_an_index(query: Callable[[Execute], object]) -> None:
    tables = ("run", "step", "history", "log", "event", "item", "wait", "h", "r", "p", "c", "idempotency")
    assert not [line for line in explained(query) if line in {f"SCAN {table}" for table in tables}]
