"""Lists in pages: while runs come, end and move on between the pages, whatever was there all the time is given once."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from tests.fakes.real import Real, open_real

LIMIT = 60
MAX_PAGES = 200
PAGE = 4
#: Below so many no run goes.
ENOUGH = 15
#: The name of a list → its path and query.
LISTS: dict[str, tuple[str, dict[str, Any]]] = {
    "runs": ("/api/runs", {}),
    "runs in a state": ("/api/runs", {"state": "queued"}),
    "runs of a task": ("/api/runs", {"plan_name": "lab", "task_name": "long"}),
    "runs with a label": ("/api/runs", {"label": "team:a"}),
    "runs since": ("/api/runs", {"since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"}),
    "queue": ("/api/queue/list", {}),
    "queue of a lane": ("/api/queue/list", {"lane": "main"}),
}


async def pages(real: Real, path: str, query: dict[str, Any], between: Callable[[], Awaitable[object]]) -> list[str]:
    """All items, page by page, by what names them; something happens between the pages."""
    found: list[str] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await real.get(path, **query, limit=PAGE, **({"cursor": cursor} if cursor else {}))
        found += [item.get("id") or item["cid"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return found
        assert len(page["items"]) == PAGE
        await between()
    raise AssertionError("the list has no end")


async def whole(real: Real, path: str, query: dict[str, Any]) -> set[str]:
    items = (await real.get(path, **query, limit=1000))["items"]
    return {item.get("id") or item["cid"] for item in items}


class Traffic:
    """Runs that come and go, by chance."""

    def __init__(self, real: Real, seed: int, delays: Sequence[float]) -> None:
        self.real = real
        self.random = Random(seed)
        self.delays = delays
        self.cids: list[str] = []

    async def come(self, count: int) -> None:
        for _ in range(count):
            wishes = {
                "priority": self.random.randint(-2, 2),
                "lane": self.random.choice(["main", "event"]),
                "labels": {"team": self.random.choice("ab")},
                "delay_s": self.random.choice(self.delays),
            }
            self.cids.append(await self.real.cid("long", **wishes))

    async def go(self, count: int) -> None:
        for _ in range(count):
            cid = self.cids.pop(self.random.randrange(len(self.cids)))
            assert (await self.real.http.post(f"/api/tasks/{cid}/cancel")).status_code == 202

    async def go_first(self, count: int) -> None:
        """Those that stand first in the queue leave it."""
        first = (await self.real.get("/api/queue/list", limit=count))["items"]
        for item in first:
            self.cids.remove(item["cid"])
            assert (await self.real.http.post(f"/api/tasks/{item['cid']}/cancel")).status_code == 202

    async def between(self) -> None:
        happens = [self.come] if len(self.cids) < ENOUGH else [self.come, self.go, self.go_first]
        await self.random.choice(happens)(self.random.randint(1, 2))


async def check(real: Real, path: str, query: dict[str, Any], between: Callable[[], Awaitable[object]]) -> None:
    before = await whole(real, path, query)
    found = await pages(real, path, query, between)
    stayed = before & await whole(real, path, query)
    assert len(found) == len(set(found)), "something was given twice"
    assert stayed <= set(found), "something was never given"
    assert len(stayed) > PAGE


@pytest.mark.parametrize("seed", range(2))
async def test_queued_runs_that_stay_are_each_given_once(tmp_path: Path, seed: int) -> None:
    async with open_real(tmp_path) as real:
        with anyio.fail_after(LIMIT):
            await real.http.post("/api/system/stop", json={"mode": "cancel", "grace_s": 0.1})
            for path, query in LISTS.values():
                traffic = Traffic(real, seed, [0, 0, 0, 3600])
                await traffic.come(30)
                await check(real, path, query, traffic.between)
                await real.http.post("/api/tasks/cancel", json={"plan_name": "lab"})


async def test_running_runs_that_stay_are_each_given_once(tmp_path: Path) -> None:
    async with open_real(tmp_path) as real:
        with anyio.fail_after(LIMIT):
            traffic = Traffic(real, 1, [0])
            await traffic.come(20)
            await real.http.post("/api/system/start")

            async def between() -> None:
                await traffic.go(1)
                await traffic.come(1)

            await check(real, "/api/runs/active", {}, between)


async def test_lines_of_a_run_are_each_given_once_while_it_writes(tmp_path: Path) -> None:
    async with open_real(tmp_path) as real:
        with anyio.fail_after(LIMIT):
            cid = await real.cid("long")
            log = real.server.engine.runtime.logs.logger_for(cid, "lab", "long")
            for number in range(20):
                log.info(f"line {number}")
            left = iter(range(20, 30))

            async def between() -> None:
                number = next(left, None)
                if number is not None:
                    log.info(f"line {number}")

            await check(real, f"/api/runs/{cid}/logs", {}, between)
