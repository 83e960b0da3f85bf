"""The action ``stop`` ends a run while starts beside it are just being written: none of them begins, none counts."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, step, task, until
from tests.fakes.invariants import check_forgotten
from tests.fakes.kernel import FaultyBackend

from aura.errors import EndRun
from aura.lifecycle import Stop
from aura.run import RunRecord
from aura.runs.liverun import LiveRun


def waiting_for(gate: anyio.Event, error: Exception | None = None) -> Any:
    async def act() -> None:
        await gate.wait()
        if error is not None:
            raise error

    return act


class Story:
    """A run of which one step ends it while the start of another one, ``late``, is being written."""

    def __init__(self, **late: Any) -> None:
        self.began: list[str] = []
        self.before, self.ending = anyio.Event(), anyio.Event()
        self.backend = FaultyBackend()
        ends = step("ends", waiting_for(self.ending, EndRun({"enough": True})))
        needs = () if late else ("a",)
        made = step("late", self.late_body(), needs, **late)
        self.task = task("t", step("a", waiting_for(self.before)), ends, made)

    def late_body(self) -> Any:
        async def late() -> None:
            self.began.append("late")
            if not self.before.is_set():
                raise OSError("the first try")
            await anyio.sleep(3600)

        return late

    async def meet(self, kit: Opened, stop: Stop | None = None) -> RunRecord:
        run = await kit.begin_run("t")
        await until(lambda: len(run.live) >= 2 and not kit.engine.runtime.store.pending)
        await self.write_start(run)
        self.ending.set()
        await until(lambda: "ends" not in run.live)
        if stop is not None:
            kit.stop(run, stop)
        assert self.backend.gate is not None
        self.backend.gate.set()
        record = await kit.ended(run)
        check_forgotten(kit, run)
        return record

    async def write_start(self, run: LiveRun) -> None:
        starts = run.starts.get("late", 0)
        self.backend.gate = anyio.Event()
        self.before.set()
        await until(lambda: run.starts.get("late", 0) > starts)


@pytest.mark.parametrize("stop", [None, *Stop], ids=lambda stop: stop.label if stop else "nobody stops it")
async def test_start_that_is_being_written_when_a_stop_action_ends_the_run_never_begins(
    tmp_path: Path, stop: Stop | None
) -> None:
    story = Story()
    async with opened(tmp_path, story.task, backend=story.backend) as kit:
        record = await story.meet(kit, stop)
        assert (record.state, record.result, story.began) == ("succeeded", {"enough": True}, [])
        late = (await kit.steps(record.cid))["late"]
        assert (late.state, late.attempt, late.started_at) == ("cancelled", 0, None)


async def test_next_try_that_is_being_written_when_a_stop_action_ends_the_run_never_begins(tmp_path: Path) -> None:
    story = Story(retry={"attempts": 2, "delay": 5.0})
    async with opened(tmp_path, story.task, backend=story.backend) as kit:
        record = await story.meet(kit)
        assert (record.state, story.began) == ("succeeded", ["late"])
        late = (await kit.steps(record.cid))["late"]
        assert (late.state, late.attempt) == ("cancelled", 1)
