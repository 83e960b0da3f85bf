"""The real server under a wall clock that is far off or jumps: no crash, no negative duration, the same order."""

from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.fakes.real import Real, open_real

NOW = 1_795_000_000.0
YEAR = 365 * 86400.0


class Wall:
    """A clock whose wall time a test sets; every look at it goes on by ``pace`` seconds."""

    recheck = 5.0

    def __init__(self, now: float, pace: float = 0.0) -> None:
        self.now = now
        self.pace = pace

    def wall(self) -> float:
        self.now += self.pace
        return self.now

    def monotonic(self) -> float:
        return anyio.current_time()


CLOCKS: list[Any] = [
    pytest.param(0.0, 0.0, id="1970"),
    pytest.param(-YEAR, 0.0, id="before 1970"),
    pytest.param(2.0**31 + 5, 0.001, id="after 2038"),
    pytest.param(253402300799.0, 1.0, id="from 9999 on"),
    pytest.param(1e15, 0.0, id="beyond the calendar"),
    pytest.param(NOW, YEAR, id="a year on at every look"),
    pytest.param(NOW, -YEAR, id="a year back at every look"),
]


@pytest.mark.parametrize(("now", "pace"), CLOCKS)
async def test_run_under_an_odd_clock_is_as_ever(tmp_path: Path, now: float, pace: float) -> None:
    async with open_real(tmp_path, Wall(now, pace)) as real:
        cids = [await real.cid() for _ in range(3)]
        for cid in cids:
            assert (await real.events(cid))[-1]["event"] == "end"
            await assert_sound(real, cid)
        assert [run["cid"] for run in (await real.get("/api/runs"))["items"]] == cids[::-1]
        assert (await real.get("/api/system/status"))["uptime_s"] >= 0


async def assert_sound(real: Real, cid: str) -> None:
    """Its state is right, its steps in order, its times are times and its durations durations."""
    run = await real.get(f"/api/runs/{cid}")
    assert (run["state"], [step["name"] for step in run["steps"]]) == ("succeeded", ["say", "count"])
    assert all(step["duration_s"] >= 0 for step in run["steps"])
    for thing in (run, *run["steps"]):
        assert all(datetime.fromisoformat(thing[key]) for key in ("started_at", "finished_at"))


@pytest.mark.parametrize("to", [NOW + YEAR, NOW - YEAR, 0.0, 1e15], ids=["on", "back", "1970", "beyond"])
async def test_jump_while_a_run_waits_for_its_time_and_another_runs(tmp_path: Path, to: float) -> None:
    clock = Wall(NOW)
    async with open_real(tmp_path, clock) as real:
        running = await real.cid("long")
        await real.wait_state(running, "running")
        late = await real.cid(delay_s=3600)
        clock.now = to
        assert (await real.events(await real.cid()))[-1]["event"] == "end"
        assert (await real.get(f"/api/runs/{running}"))["state"] == "running"  # a sleep is not over early
        if to > NOW:
            await real.wait_state(late, "succeeded")
        else:
            assert [run["cid"] for run in (await real.get("/api/queue/list"))["items"]] == [late]
