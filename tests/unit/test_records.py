"""The queries of the lists: a page costs what it shows, however long the history is."""

from collections.abc import Callable
from typing import Any

import pytest

from aura.records import RunFilter, get_run, get_steps, list_runs, read_logs, read_run_stream
from aura.store import Execute
from aura.stores.memory import MemoryBackend


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
        pytest.param(RunFilter(plan_name="p", task_name="t"), id="task"),
    ],
)
def test_page_of_runs_is_read_in_order_and_never_sorted(wanted: RunFilter, before: int | None) -> None:
    (line,) = explained(lambda execute: list_runs(execute, wanted, 10, before))
    assert line.startswith("SEARCH") or (line == "SCAN run" and wanted == RunFilter())  # backwards, as far as the page


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(lambda x: list_runs(x, RunFilter(cids=("a", "b")), 10), id="runs by id"),
        pytest.param(lambda x: get_run(x, "a"), id="run"),
        pytest.param(lambda x: get_steps(x, 1), id="steps"),
        pytest.param(lambda x: read_run_stream(x, "a", 1, 10), id="stream of a run"),
        pytest.param(lambda x: read_logs(x, after=1, limit=10, cid="a"), id="lines of a run"),
        pytest.param(lambda x: read_logs(x, after=1, limit=10, newest=True), id="newest lines"),
    ],
)
def test_what_is_of_one_run_is_found_by_an_index(query: Callable[[Execute], object]) -> None:
    tables = ("run", "step", "history", "log", "h", "r")
    assert not [line for line in explained(query) if line in {f"SCAN {table}" for table in tables}]
