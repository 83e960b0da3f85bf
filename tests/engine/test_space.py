"""A disk that runs short: what is refused, what goes on, what the ballast is for, and that all comes back by itself."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, until
from tests.fakes.kernel import FaultyBackend, works

from aura.context import Context
from aura.errors import RequestError, RunError, StoreFull
from aura.events import EventEntry
from aura.kernel.keys import Key
from aura.records.events import EventFilter
from aura.run import Cause, Request
from aura.stores.disk import Free
from aura.stores.space import BALLAST_SIZE, LOOK_EVERY, MARGIN, MIN_FILES, VAIN_LOOKS, Space

#: ``store.min_free``, as it is if nobody says otherwise.
MIN_FREE = 64 * 2**20
PLENTY = 2**40
LOGGED = 3 * MIN_FREE


class FakeDisk:
    """A disk with ``room`` bytes for everything, the ballast included."""

    def __init__(self, room: int = PLENTY, files: int | None = None) -> None:
        self.room = room
        self.files = files
        self.ballast = 0
        self.dropped = 0

    def free(self) -> Free:
        return Free(max(self.room - self.ballast, 0), self.files)

    def held(self) -> int:
        return self.ballast

    def make_ballast(self, size: int) -> None:
        self.ballast = size

    def drop_ballast(self) -> None:
        self.ballast, self.dropped = 0, self.dropped + 1


def beside(spare: float) -> int:
    """The room of a disk on which so much is left beside a whole ballast."""
    return int(spare) + BALLAST_SIZE


async def looked(kit: Opened) -> None:
    """Return when the disk has been looked at once more."""
    await kit.advance(2 * LOOK_EVERY)
    await quiet()


async def refused(ask: Awaitable[Any]) -> str:
    """The code of a refusal; empty if there was none."""
    try:
        await ask
    except RequestError as error:
        return error.code
    return ""


class Gated:
    """A step (``wait``) that waits for its gate, and ends."""

    def __init__(self) -> None:
        self.gate = gate = anyio.Event()

        async def wait() -> None:
            await gate.wait()

        self.wait = wait


@asynccontextmanager
async def short(tmp_path: Path, *tasks: Any, backend: FaultyBackend | None = None) -> AsyncIterator[tuple[Opened, Any]]:
    """A world whose disk has too little room from the moment in which a run of ``gated`` waits at its gate."""
    disk = FakeDisk()
    gated = Gated()
    made = task("gated", step("a", gated.wait), step("b", works, ("a",)))
    async with opened(tmp_path, made, task("t", step("w", works)), *tasks, disk=disk, backend=backend) as kit:
        run = await kit.begin_run("gated")
        await until(lambda: run.live)
        disk.room = beside(MIN_FREE / 2)
        await looked(kit)
        yield kit, (disk, gated, run)
        disk.room = PLENTY


# -- the marks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rooms", "accepted"),
    [
        pytest.param([MIN_FREE], True, id="just enough"),
        pytest.param([MIN_FREE - 1], False, id="below min_free"),
        pytest.param([MIN_FREE - 1, MIN_FREE], False, id="enough, and not left yet"),
        pytest.param([MIN_FREE - 1, MIN_FREE * MARGIN - 1], False, id="not quite a tenth more"),
        pytest.param([MIN_FREE - 1, MIN_FREE * MARGIN + 1], True, id="a tenth more"),
    ],
)
async def test_new_work_is_accepted_by_the_room_there_is(tmp_path: Path, rooms: list[float], accepted: bool) -> None:
    disk = FakeDisk()
    async with opened(tmp_path, task("t", step("w", works)), disk=disk) as kit:
        for room in rooms:
            disk.room = beside(room)
            await looked(kit)
        code = await refused(kit.begin_run("t"))
        assert code == ("" if accepted else "storage_unavailable")
        assert kit.engine.status()["store"]["writable"] == accepted
        disk.room = PLENTY
        await looked(kit)
        assert (await kit.run("t")).state == "succeeded"
        assert (kit.engine.state, kit.engine.reasons) == ("running", [])


@pytest.mark.parametrize(
    ("files", "accepted"),
    [
        pytest.param([MIN_FILES], True, id="just enough"),
        pytest.param([MIN_FILES - 1], False, id="too few"),
        pytest.param([MIN_FILES - 1, MIN_FILES + 1], False, id="enough, and not left yet"),
        pytest.param([MIN_FILES - 1, 2 * MIN_FILES], True, id="many again"),
    ],
)
async def test_files_that_can_be_made_count_as_room(tmp_path: Path, files: list[int], accepted: bool) -> None:
    disk = FakeDisk()
    async with opened(tmp_path, task("t", step("w", works)), disk=disk) as kit:
        for disk.files in files:
            await looked(kit)
        assert (await refused(kit.begin_run("t")) == "") == accepted
        assert any("more files" in reason for reason in kit.engine.reasons) != accepted


async def test_disk_that_does_not_count_files_has_enough(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("w", works)), disk=FakeDisk(files=None)) as kit:
        await looked(kit)
        assert (await kit.run("t")).state == "succeeded"


async def test_shortage_is_told_once_and_shown_as_long_as_it_lasts(tmp_path: Path) -> None:
    async with short(tmp_path) as (kit, (disk, gated, _)):
        for disk.room in (beside(MIN_FREE / 3), beside(MIN_FREE / 4)):
            await looked(kit)
        assert kit.engine.state == "degraded"
        assert kit.engine.reasons == [
            "the disk has 16 MiB of room, and store.min_free is 64 MiB; new work is refused until there is more"
        ]
        found = await kit.engine.history.event_entries(EventFilter(name="engine.degraded"), 0, 2**62, 10)
        told = [event.payload["reason"] for event in found.events if isinstance(event, EventEntry)]
        assert [reason[:22] for reason in told] == ["the disk has 32 MiB of"]
        gated.gate.set()


# -- what goes on while it is short -----------------------------------------------------------------------------------


async def test_what_runs_ends_and_is_on_record(tmp_path: Path) -> None:
    async with short(tmp_path) as (kit, (_, gated, run)):
        gated.gate.set()
        assert (await kit.ended(run)).state == "succeeded"
        assert {name: one.state for name, one in (await kit.steps(run)).items()} == {"a": "succeeded", "b": "succeeded"}


async def test_sub_task_of_what_runs_is_no_new_work_and_a_run_of_its_own_is(tmp_path: Path) -> None:
    gate = anyio.Event()
    said: list[str] = []

    async def calls(ctx: Context) -> None:
        await gate.wait()
        await ctx.run("t")
        with pytest.raises(RunError) as refusal:
            await ctx.start("t")
        said.append(str(refusal.value))

    disk = FakeDisk()
    caller = task("caller", step("a", calls))
    async with opened(tmp_path, caller, task("t", step("w", works)), disk=disk) as kit:
        run = await kit.begin_run("caller")
        await until(lambda: run.live)
        disk.room = beside(0)
        await looked(kit)
        gate.set()
        assert (await kit.ended(run)).state == "succeeded"
    assert "new work is refused" in said[0]


@pytest.mark.parametrize("what", ["emit", "batch", "rerun"])
async def test_other_new_work_is_refused_as_well(tmp_path: Path, what: str) -> None:
    async with short(tmp_path) as (kit, (_, gated, run)):
        gated.gate.set()
        await kit.ended(run)
        asked: dict[str, Callable[[], Awaitable[Any]]] = {
            "emit": lambda: kit.engine.emit("plan.x"),
            "batch": lambda: kit.engine.submit_batch([Request("p", "t")], Cause("api"), True),
            "rerun": lambda: kit.engine.rerun(run.cid),
        }
        assert await refused(asked[what]()) == "storage_unavailable"
        assert len(kit.runs()) == 1


async def test_runs_are_steered_and_first_answers_given_again(tmp_path: Path) -> None:
    disk = FakeDisk()
    gated = Gated()
    async with opened(tmp_path, task("t", step("a", gated.wait)), disk=disk) as kit:
        key = Key("run", "k", b"body")
        first = await kit.engine.submit(Request("p", "t"), Cause("api"), key)
        await until(lambda: kit.engine.runtime.open[first.cid].live)
        disk.room = beside(0)
        await looked(kit)
        again = await kit.engine.submit(Request("p", "t"), Cause("api"), key)
        assert again.cid == first.cid
        assert await kit.engine.pause(first.cid) in ("stopping", "preempted")
        await until(lambda: kit.engine.runtime.open[first.cid].state == "preempted")
        await kit.engine.resume(first.cid)
        assert await kit.engine.cancel(first.cid) in ("stopping", "cancelled")


# -- log lines --------------------------------------------------------------------------------------------------------


async def stored_lines(kit: Opened) -> list[str]:
    lines = await kit.engine.history.log_entries(after=0, limit=1000)
    return [line.record()["message"] for line in lines]


async def test_log_lines_stop_first_and_how_many_is_said_at_the_end(tmp_path: Path) -> None:
    disk = FakeDisk()
    async with opened(tmp_path, task("t", step("w", works)), disk=disk) as kit:
        disk.room = beside(2 * MIN_FREE - 1)
        await looked(kit)
        for number in range(20):
            kit.engine.runtime.log.info(f"line {number}")
            await kit.advance(1)
        assert (await kit.run("t")).state == "succeeded"  # new work is not refused yet
        assert "log lines are not stored" in kit.engine.reasons[0]
        assert [line for line in await stored_lines(kit) if "line" in line] == []
        assert kit.engine.journal.unstored in (20, 21)  # with the line that says that it begins
        disk.room = beside(LOGGED)
        await looked(kit)
        kit.engine.runtime.log.info("later")
        await kit.advance(1)
        found = await stored_lines(kit)
        said = [line for line in found if "were not stored" in line]
        assert said == [f"{kit.engine.journal.unstored} log lines were not stored: the storage could not be written"]
        assert "later" in found


# -- the ballast ------------------------------------------------------------------------------------------------------


def full_backend(disk: FakeDisk) -> FaultyBackend:
    """A store on a disk that is full as soon as it has no room, and has some again when the ballast is gone."""

    class Full(FaultyBackend):
        async def commit(self, batch: Any) -> None:
            if disk.free().bytes == 0:
                await anyio.lowlevel.checkpoint()
                raise StoreFull("full")
            await super().commit(batch)

    return Full()


async def test_full_disk_takes_the_ends_of_what_runs_and_nothing_new(tmp_path: Path) -> None:
    disk, gated = FakeDisk(), Gated()
    backend = full_backend(disk)
    made = task("gated", step("a", gated.wait), step("b", works, ("a",)))
    async with opened(tmp_path, made, backend=backend, disk=disk) as kit:
        run = await kit.begin_run("gated")
        await until(lambda: run.live)
        assert disk.ballast == BALLAST_SIZE
        disk.room = BALLAST_SIZE  # all of it is the ballast
        assert await refused(kit.begin_run("gated")) == "storage_unavailable"
        assert (disk.ballast, kit.engine.runtime.space.drops) == (0, 1)
        now = kit.now
        gated.gate.set()
        assert (await kit.ended(run)).state == "succeeded"
        assert (await refused(kit.begin_run("gated")), kit.now) == (
            "storage_unavailable",
            now,
        )  # without waiting for a look
        await looked(kit)  # its room is not for new work, though it is free now
        assert (await refused(kit.begin_run("gated")), disk.ballast) == ("storage_unavailable", 0)
        assert len(kit.runs()) == 1
        disk.room = beside(LOGGED)
        await looked(kit)
        assert (disk.ballast, kit.engine.reasons) == (BALLAST_SIZE, [])
        assert (await kit.run("gated")).state == "succeeded"


async def test_disk_without_a_ballast_keeps_the_ends_until_there_is_room(tmp_path: Path) -> None:
    disk, gated = FakeDisk(), Gated()
    async with opened(tmp_path, task("gated", step("a", gated.wait)), backend=full_backend(disk), disk=disk) as kit:
        run = await kit.begin_run("gated")
        await until(lambda: run.live)
        disk.room = disk.ballast = 0
        gated.gate.set()
        await kit.advance(60)
        assert (kit.runs()[0].state, kit.engine.state) == ("running", "degraded")
        disk.room = PLENTY
        assert (await kit.ended(run)).state == "succeeded"


class ThinDisk(FakeDisk):
    """One that reserves no room: what is made on it has no blocks."""

    made = 0

    def make_ballast(self, size: int) -> None:
        self.made += 1


async def test_ballast_that_comes_to_nothing_is_tried_now_and_then(tmp_path: Path) -> None:
    disk = ThinDisk(beside(LOGGED))
    async with opened(tmp_path, task("t", step("w", works)), disk=disk) as kit:
        await kit.advance(VAIN_LOOKS * LOOK_EVERY / 2)
        assert disk.made == 1
        await kit.advance(VAIN_LOOKS * LOOK_EVERY)
        assert disk.made == 2
        assert (await kit.run("t")).state == "succeeded"


def test_ballast_is_made_only_where_enough_is_left_beside_it() -> None:
    for room, made in ((beside(MIN_FREE), BALLAST_SIZE), (beside(MIN_FREE) - 1, 0)):
        disk = FakeDisk(room)
        Space(disk, MIN_FREE).open()
        assert disk.ballast == made


@pytest.mark.parametrize(
    ("free", "kept"), [(0, False), (BALLAST_SIZE - 1, False), (BALLAST_SIZE, True)], ids=["none", "little", "some"]
)
def test_start_on_a_full_disk_takes_the_ballast_of_an_older_one(free: int, kept: bool) -> None:
    disk = FakeDisk(free + BALLAST_SIZE)
    disk.ballast = BALLAST_SIZE
    Space(disk, MIN_FREE).open()
    assert (disk.ballast == BALLAST_SIZE) == kept


def test_ballast_is_a_part_of_a_small_min_free() -> None:
    disk = FakeDisk()
    Space(disk, 2**20).open()
    assert disk.ballast == 2**18
    Space(disk, 0).open()
    assert disk.ballast == 0
