"""What the watchdog promises: once it is switched on, work makes way when something runs out, and then goes on.

The machine is a fake here, one with everything to spare but for what a test takes away.
"""

import pytest

PLENTY = {
    "disk": {"path": "/", "total_bytes": 1000, "free_bytes": 500, "free_percent": 50.0},
    "memory": {"total_bytes": 1000, "available_bytes": 500, "available_percent": 50.0},
    "load": {"load": 1.0, "cores": 2, "per_core": 0.5},
}
OUT = {
    "disk": PLENTY["disk"] | {"free_bytes": 10, "free_percent": 1.0},
    "memory": PLENTY["memory"] | {"available_bytes": 10, "available_percent": 1.0},
    "load": {"load": 40.0, "cores": 2, "per_core": 20.0},
}


@pytest.fixture
def machine(world):
    """What is measured, by its action. Change it, and the next look sees that."""
    measured = dict(PLENTY)
    world.fake("disk", does=lambda path: measured["disk"] | {"path": path})
    world.fake("memory", does=lambda: measured["memory"])
    world.fake("load", does=lambda: measured["load"])
    world.fake("write_all")
    return measured


@pytest.fixture
async def busy(world, machine):
    """A run that goes on for as long as the test likes, beside a watchdog that is switched on."""
    world.fake("event.emit", returns={"event_id": "e"}, takes="1h")
    await world.switch("trouble", True)
    run = await world.start("look")
    await world.until(run, step="tell", state="running")
    return run


async def test_look_tells_what_it_sees(world, machine):
    run = await world.run("look")
    run.assert_succeeded()
    assert run.result == PLENTY
    world.assert_emitted("watchdog.looked", PLENTY)


@pytest.mark.parametrize(("what", "within"), [("disk", 30), ("memory", 10), ("load", 15)])
async def test_work_makes_way_when_something_runs_out(world, machine, busy, what, within):
    await world.advance(minutes=1)
    assert busy.preemptions == 0
    machine[what] = OUT[what]
    await world.until(lambda: world.runs("save"), within=within)
    await world.until(busy, state="preempted")
    assert world.runs("save")[0].cause["rule"] == "trouble"


async def test_work_goes_on_when_the_report_is_written(world, machine, busy):
    world.fake("event.emit", returns={"event_id": "e"}, takes="1m")
    machine["memory"] = OUT["memory"]
    await world.until(lambda: world.runs("save"))
    await world.settle()
    (save,) = world.runs("save")
    save.assert_succeeded()
    assert (save.workdir / "report.md").read_text().startswith("# This machine is in trouble")
    busy.assert_succeeded()
    assert busy.preemptions == 1


async def test_trouble_that_stays_is_reported_once(world, machine, busy):
    machine["disk"] = OUT["disk"]
    await world.advance(minutes=4)
    machine["disk"] = PLENTY["disk"]
    await world.advance(seconds=30)
    machine["disk"] = OUT["disk"]
    await world.advance(seconds=29)  # within the cooldown
    assert len(world.runs("save")) == 1


async def test_nothing_is_watched_until_it_is_switched_on(world, machine):
    machine.update(OUT)
    await world.advance(hours=1)
    assert world.runs() == []


async def test_report_by_hand_says_so(world, machine):
    run = await world.run("save")
    run.assert_succeeded()
    assert run.result["because"] == "asked for by hand"
    assert "| disk at / | 1000 B | 500 B | 50.0 |" in (run.workdir / "report.md").read_text()
