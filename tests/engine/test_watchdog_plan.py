"""The plan ``watchdog`` in virtual time: a poll finds that something has run out, and the work makes way."""

import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
from tests.fakes.context import PLANS

from aura.testing.world import World, open_world, world_settings

pytestmark = pytest.mark.anyio

SLOW = "steps: {long: {action: sleep, params: {duration: 900ms}, loop: {times: 100}}}\n"


def plans(folder: Path) -> Path:
    """The plan beside another one with something to do."""
    shutil.copytree(PLANS / "watchdog", folder / "plans/watchdog", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "plans/lab/tasks").mkdir(parents=True)
    (folder / "plans/lab/tasks/work.yaml").write_text(SLOW)
    return folder / "plans"


@pytest.mark.parametrize(
    ("limit", "turns"),
    [
        pytest.param({"memory_percent": 101}, 1, id="memory"),
        pytest.param({"disk_percent": 101}, 1, id="disk"),
        pytest.param({"load_per_core": -1}, 1, id="load"),
        pytest.param({"memory_percent": -1, "disk_percent": -1, "load_per_core": 10**6}, 0, id="all-is-well"),
    ],
)
async def test_what_runs_out_stops_the_work_for_a_report(tmp_path: Path, limit: dict[str, int], turns: int) -> None:
    calm = {"memory_percent": -1, "disk_percent": -1, "load_per_core": 10**6}
    with tempfile.TemporaryDirectory() as scratch:
        home = plans(tmp_path)
        settings = msgspec.structs.replace(world_settings(Path(scratch), home), vars={"watchdog": calm | limit})
        async with open_world(home / "lab", settings=settings) as world:
            assert isinstance(world, World)
            run = await world.start("work")
            await world.until(run, state="running")
            await world.engine.switch_rule("watchdog", "trouble", True, "a test")
            await world.advance(70)
            saved = world.runs("save")
            assert [one.state for one in saved] == ["succeeded"] * turns
            assert (run.record.preemptions, run.state) == (turns, "running")
            if saved:
                assert saved[0].record.result["because"] == "poll.fired"
