"""The order of a lane: priority, waiting, order of acceptance. Waiting makes up for priority: nothing starves."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.interrupts_kit import lab_settings, open_lab, rules
from tests.engine.kit import Opened, opened, quiet, step, task
from tests.fakes.kernel import FaultyBackend, works

from aura.kernel.dispatcher import Dispatcher
from aura.run import Cause, Request
from aura.runs.liverun import AGEING, LiveRun
from aura.testing.world import World

pytestmark = pytest.mark.anyio


async def ten_seconds() -> None:
    await anyio.sleep(10)


T = task("t", step("a", works))
LONG = task("long", step("b", ten_seconds))
WORK = "steps:\n  - {name: long, action: hold, params: {seconds: 1000}}\n"


def begun(world: World, event: str = "run.started") -> list[str]:
    """The runs of which this was told, in the order in which it was."""
    sql = "SELECT cid FROM history AS h JOIN run USING (seq) WHERE h.name = ? ORDER BY h.id"
    return [cid for (cid,) in world.backend.execute(sql, (event,))]


def order(world: World) -> list[str]:
    return [entry["cid"] for entry in world.engine.queue_list()]


def jump(kit: Opened, seconds: float) -> None:
    """Let the wall clock jump."""
    kit.engine.clock._offset += seconds  # type: ignore[attr-defined]  # that of a world


async def queued(kit: Opened, *priorities: int, **keys: Any) -> list[LiveRun]:
    """Runs that wait for the engine to start."""
    await kit.engine.stop("cancel", 0.1)
    return [await kit.begin_run("t", priority=priority, **keys) for priority in priorities]


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0, 0.0], ids=["back", "on", "not at all"])
async def test_first_come_is_first_served_whatever_the_clock_does(tmp_path: Path, seconds: float) -> None:
    async with opened(tmp_path, T, lanes={"main": 1}) as kit:
        runs = await queued(kit, 0, 0)
        jump(kit, seconds)
        runs += await queued(kit, 0, 0)
        jump(kit, -2 * seconds)
        runs += await queued(kit, 0)
        assert order(kit) == [run.cid for run in runs]
        await kit.engine.start()
        await kit.settle()
        assert begun(kit) == [run.cid for run in runs]


async def test_order_after_a_restart_is_that_before_it(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with opened(tmp_path / "one", T, backend=backend) as kit:
        runs = await queued(kit, 0, 3, 0)
        jump(kit, -3600)
        runs += await queued(kit, 0, 3)
        before = order(kit)
    async with opened(tmp_path / "two", T, backend=backend, lanes={"main": 1}) as kit:
        await kit.settle()
        assert begun(kit) == before == [runs[n].cid for n in (1, 4, 0, 2, 3)]


@pytest.mark.parametrize("priority", [1, 10, 1000])
@pytest.mark.parametrize(("more", "first"), [(-1.0, "urgent"), (1.0, "patient")])
async def test_so_much_waiting_makes_up_for_priority(tmp_path: Path, priority: int, more: float, first: str) -> None:
    async with opened(tmp_path, T, lanes={"main": 1}) as kit:
        [patient] = await queued(kit, 0)
        await kit.advance(priority * AGEING + more)
        [urgent] = await queued(kit, priority)
        await kit.engine.start()
        await kit.settle()
        assert begun(kit)[0] == {"urgent": urgent, "patient": patient}[first].cid


async def test_low_one_is_not_starved_by_a_stream_of_high_ones(tmp_path: Path) -> None:
    async with opened(tmp_path, T, LONG, lanes={"main": 1}) as kit:
        await kit.engine.submit_batch([Request("p", "long", priority=5)] * 10, Cause("api"), True)
        low = await kit.begin_run("t")
        came = kit.now
        for _ in range(50):
            await kit.begin_run("long", priority=5)
            await kit.advance(10)
        started = (await kit.engine.history.record(low.cid)).started_at
        assert started is not None
        # those that came in its first five minutes go before it, each for ten seconds, and the ten that were there
        assert 5 * AGEING <= started - came <= 5 * AGEING + 10 * 10 + 20


async def test_handlers_do_not_age(tmp_path: Path) -> None:
    given = rules(a="priority: 1", b="priority: 2", c="priority: 3")
    save = "steps:\n  save: {action: hold, params: {seconds: 1000}}\n"
    async with open_lab(tmp_path, save=save, rules=given) as lab:
        [long] = (await lab.tell("go.c")).interrupts
        [patient] = (await lab.tell("go.a")).interrupts
        await lab.advance(900)
        [urgent] = (await lab.tell("go.b")).interrupts
        assert order(lab) == [urgent.cid, patient.cid]
        await lab.settle()
        assert begun(lab) == [long.cid, urgent.cid, patient.cid]


async def test_handler_stands_where_its_firing_does_whatever_priority_it_is_given(tmp_path: Path) -> None:
    given = rules(a="priority: 1", b="priority: 2", c="priority: 3")
    async with open_lab(tmp_path, rules=given) as lab:
        cids = [(await lab.tell(f"go.{name}")).interrupts[0].cid for name in "cab"]
        await lab.engine.set_priority(cids[1], 500)
        assert order(lab) == [cids[2], cids[1]]
        await lab.settle()
        assert begun(lab) == [cids[0], cids[2], cids[1]]


@pytest.mark.parametrize("preempts", ["{}", "{tasks: [work]}"], ids=["the whole lane", "some"])
async def test_list_under_a_hold_is_the_order_after_it(tmp_path: Path, preempts: str) -> None:
    settings = lab_settings(tmp_path, lanes={"main": 1})
    brief = "steps:\n  - {name: long, action: hold, params: {seconds: 1}}\n"
    given = rules(low_battery=f'triggers: [{{event: "battery.low"}}], preempts: {preempts}')
    async with open_lab(tmp_path, work=brief, rules=given, settings=settings) as lab:
        first = await lab.begin_run()
        runs = [await lab.start("work", priority=priority) for priority in (0, 5, -5, 5, 0)]
        await lab.tell()
        await lab.until(lab.runs("save")[0], state="running")
        expected = [runs[1].cid, runs[3].cid, first.cid, runs[0].cid, runs[4].cid, runs[2].cid]
        assert order(lab) == expected
        await lab.engine.set_priority(runs[2].cid, 9)  # at once, also of what is set aside
        expected = [expected[-1], *expected[:-1]]
        assert order(lab) == expected
        await lab.settle()
        started = [cid for cid in begun(lab) if cid in expected]
        assert started == [first.cid, *[cid for cid in expected if cid != first.cid]]


async def test_preempted_run_moves_at_once(tmp_path: Path) -> None:
    async with open_lab(tmp_path, work=WORK, settings=lab_settings(tmp_path, lanes={"main": 2})) as lab:
        a, b = await lab.begin_run(), await lab.begin_run()
        await lab.tell()
        await lab.until(lab.runs("save")[0], state="running")
        assert order(lab) == [a.cid, b.cid]
        changed = await lab.engine.set_priority(b.cid, 1)
        assert (changed.state, order(lab)) == ("preempted", [b.cid, a.cid])
        await lab.settle()
        assert begun(lab, "run.resumed") == [b.cid, a.cid]


async def test_pages_of_the_queue_neither_skip_nor_repeat(tmp_path: Path) -> None:
    async with opened(tmp_path, T, lanes={"main": 1}) as kit:
        runs = await queued(kit, 0, 7, -3, 0, 7, 1000, -1000)
        runs += await queued(kit, 2, delay_s=50)
        dispatcher: Dispatcher = kit.engine.dispatcher
        entries = kit.engine.queue_list()
        assert [entry["place"] for entry in entries] == sorted(entry["place"] for entry in entries)
        middle = entries[3]["place"]
        await kit.engine.cancel(entries[3]["cid"])  # the one that a page ended with
        await quiet()
        later = [entry["cid"] for entry in kit.engine.queue_list() if entry["place"] > middle]
        assert later == [entry["cid"] for entry in entries[4:]]
        assert len({dispatcher.place_of(run) for run in runs if not run.sealed}) == len(runs) - 1
