"""Slots while the storage fails, the process crashes, a zone is gone, or there are very many of them."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec
import pytest
from tests.fakes.kernel import FaultyBackend, copy_of
from tests.scheduling.schedule_kit import at, clock_at, crashed, open_lab, schedule

from aura.errors import StoreReadOnly
from aura.failpoints import Site
from aura.records.items import put_slot
from aura.schedule import Cron, Timed, Trigger
from aura.store import Ticket
from aura.stores.memory import MemoryBackend
from aura.testing.virtual_time import NotReached

pytestmark = pytest.mark.anyio

EVERY = schedule(tick="triggers: [{every: 5m}]")


async def test_start_that_was_not_stored_is_looked_at_again(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with open_lab(tmp_path, items=EVERY, backend=backend, clock=clock_at("00:00")) as world:
        await world.advance(minutes=4, seconds=59)
        backend.error, backend.failing = StoreReadOnly("the disk is full"), 1
        await world.advance(seconds=30)
        assert world.dues() == ["00:05:00"]
        assert world.reasons() == []


async def test_full_storage_makes_misfires_and_no_more_than_one_line_each(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with open_lab(tmp_path, items=EVERY, backend=backend, clock=clock_at("00:00")) as world:
        await world.advance(minutes=4, seconds=59)
        backend.error, backend.failing = StoreReadOnly("the disk is full"), 10**6
        await world.advance(minutes=11)
        backend.failing = 0
        await world.advance(minutes=1)
        assert world.dues() == ["00:15:00"]
        assert [(line.reason, line.count) for line in world.unstarted("misfire")] == [("misfire", 2)]


async def test_slot_that_has_a_run_on_record_is_given_up(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with open_lab(tmp_path, items=EVERY, backend=backend, clock=clock_at("00:00")) as world:
        row = world.item("tick").row
        put_slot(row, world.item("tick").next_due or 0.0, "another")(backend.execute)
        await world.advance(minutes=11)
        assert world.dues() == ["00:10:00"]
        assert world.reasons() == ["duplicate"]


@pytest.mark.parametrize("settled", [True, False])
async def test_crash_loses_no_slot_and_doubles_none(tmp_path: Path, settled: bool) -> None:
    """Before and after the commit of three starts: each is on record with all that it says, or not at all."""
    items = schedule(tick="mode: parallel, triggers: [{every: 5m, misfire: run_all}]")
    backend = FaultyBackend()
    async with open_lab(tmp_path, items=items, backend=backend, clock=clock_at("00:00", recheck=5.0)) as world:
        await world.advance(minutes=6)
        if not settled:
            backend.gate = anyio.Event()
        world.jump(1200)
        await world.advance(seconds=6)
        left = crashed(world)
        if backend.gate:
            backend.gate.set()
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("00:26:10")) as world:
        await world.advance(minutes=4)
        assert world.dues() == [f"00:{minute:02}:00" for minute in (5, 10, 15, 20, 25, 30)]


class CutBackend(MemoryBackend):
    """Keeps what a crash would leave between the first start of a slot in a batch and the second."""

    left: MemoryBackend | None = None

    async def commit(self, batch: Sequence[Ticket]) -> None:
        starts = [number for number, ticket in enumerate(batch, 1) if ticket.site is Site.SLOT]
        if len(starts) > 1 and self.left is None:
            await super().commit(batch[: starts[0]])
            self.left = copy_of(self)
            batch = batch[starts[0] :]
        await super().commit(batch)


async def test_crash_between_the_starts_of_two_slots_loses_none(tmp_path: Path) -> None:
    items = schedule(tick="mode: parallel, triggers: [{every: 5m, misfire: run_all}]")
    backend = CutBackend()
    async with open_lab(tmp_path, items=items, backend=backend, clock=clock_at("00:00", recheck=5.0)) as world:
        world.jump(1000)
        await world.advance(seconds=6)
        assert world.dues() == ["00:05:00", "00:10:00", "00:15:00"]
    assert backend.left is not None
    async with open_lab(tmp_path, write=False, backend=backend.left, clock=clock_at("00:18")) as world:
        await world.advance(seconds=1)
        assert world.dues() == ["00:05:00", "00:10:00", "00:15:00"]


async def test_zone_that_is_gone_is_an_error_of_the_item_alone(tmp_path: Path) -> None:
    items = schedule(tick="triggers: [{every: 5m}]", lost="triggers: [{cron: '* * * * *'}]")
    async with open_lab(tmp_path, items=items, clock=clock_at("00:00")) as world:
        live = world.item("lost")
        gone = Trigger(Cron("* * * * *", "Gone/Away", Timed()))
        live.item = msgspec.structs.replace(live.item, triggers=(gone,))
        world.engine.items._anchor(live)
        world.engine.scheduler.keep(live)
        await world.advance(minutes=6)
        assert world.dues() == ["00:05:00"]
        [line] = world.unstarted()
        assert (line.item, line.reason, live.next_due) == ("lost", "bad_inputs", None)
        assert "Gone/Away" in line.detail


async def test_scheduler_keeps_no_deadlock_from_being_found(tmp_path: Path) -> None:
    waits = "steps: {only: {action: event.wait, params: {name: never}}}"
    rare = schedule(yearly="triggers: [{cron: '0 0 1 6 *'}]")
    with pytest.raises(NotReached, match="only: waiting"):  # the slot in June might bring something about
        async with open_lab(tmp_path, items=rare, waits=waits, clock=clock_at("00:00", recheck=60.0)) as world:
            await world.run("waits")


async def test_engine_that_is_stopped_and_started_at_once_has_one_scheduler(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=EVERY, clock=clock_at("00:00")) as world:
        for _ in range(3):
            await world.engine.stop("cancel", 1.0)
            await world.engine.start()
        await world.advance(minutes=11)
        assert world.dues() == ["00:05:00", "00:10:00"]
        assert world.server.engine.supervisor.children["scheduler"].failures == 0


async def test_disabled_item_shows_when_it_would_be_due(tmp_path: Path) -> None:
    items = schedule(tick="enabled: false, triggers: [{every: 5m}]")
    async with open_lab(tmp_path, items=items, clock=clock_at("00:00")) as world:
        live = world.item("tick")
        due = live.next_due
        assert due is not None
        await world.advance(minutes=6)
        assert live.next_due == due + 300
        await world.engine.items.switch(live, True, "me").wait()
        await world.advance(minutes=5)
        assert world.dues() == ["00:10:00"]


async def test_very_many_items_are_due_at_once_and_others_have_their_turn(tmp_path: Path) -> None:
    items = schedule(**{f"item{number}": "triggers: [{cron: '0 1 * * *'}]" for number in range(200)})
    async with open_lab(tmp_path, items=items, clock=clock_at("00:59")) as world:
        await world.advance(minutes=2)
        assert len(world.dues()) == 200
        assert {run.record.due for run in world.runs()} == {at("01:00")}
