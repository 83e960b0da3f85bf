"""A stop of the engine beside a run that gives its place back: the dispatcher hears of the stop all the same."""

from pathlib import Path

import pytest
from tests.engine.kit import opened, step, task, turns, until
from tests.fakes.kernel import forever

from aura.lifecycle import Recovery, Stop


@pytest.mark.parametrize("later", range(12))
async def test_engine_stops_whenever_a_run_comes_back(tmp_path: Path, later: int) -> None:
    async with opened(tmp_path, task("t", step("a", forever), recovery=Recovery.RESTART)) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.row == "running")  # its start is handed over, its body has not begun
        kit.stop(run, Stop.SHUTDOWN)
        await turns(later)
        assert await kit.engine.stop("cancel", 0.2) == "stopped"
        assert run.row == "queued"
