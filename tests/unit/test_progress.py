"""Progress on its way to those who follow a run: soon, not too often, the last of it always."""

import threading

import anyio
import pytest
from tests.engine.kit import quiet

from aura.clock import SystemClock
from aura.journal import Journal
from aura.progress import REST, ProgressBell
from aura.testing.virtual_time import VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Watched:
    """A journal with one reader of the run ``c``; ``nudges`` are the times at which it was to look."""

    def __init__(self) -> None:
        self.journal = Journal(1, SystemClock())
        self.bell = ProgressBell(self.journal)
        self.reader = self.journal.watch_run("c")
        self.nudges: list[float] = []
        self._began = anyio.current_time()

    async def watch(self) -> None:
        while True:
            await self.reader.wait()
            if self.reader.take_nudge():
                self.nudges.append(round(anyio.current_time() - self._began, 3))


async def test_first_is_told_at_once_and_the_last_when_the_rest_is_over() -> None:
    watched = Watched()
    # the reader alone; cancelled below
    async with anyio.create_task_group() as group:
        group.start_soon(watched.watch)
        for _ in range(100):  # for one second
            watched.bell.ring("c")
            await anyio.sleep(0.01)
        await anyio.sleep(10)
        assert watched.nudges == [0.0, REST, 2 * REST, 3 * REST, 4 * REST]
        watched.bell.ring("c")
        await quiet()
        assert len(watched.nudges) == 6
        group.cancel_scope.cancel()


async def test_run_that_nobody_follows_costs_nothing() -> None:
    watched = Watched()
    watched.reader.close()
    watched.bell.ring("c")
    watched.bell.ring("other")
    assert not watched.bell._resting
    await quiet()


async def test_any_thread_may_ring() -> None:
    watched = Watched()
    # the reader alone; cancelled below
    async with anyio.create_task_group() as group:
        group.start_soon(watched.watch)
        threads = [threading.Thread(target=watched.bell.ring, args=("c",)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        await anyio.sleep(1)
        assert watched.nudges[1:] in ([REST], [])
        assert len(watched.nudges) >= 1
        group.cancel_scope.cancel()


async def test_reader_that_looks_at_no_nudge_is_woken_by_records_alone() -> None:
    journal = Journal(1, SystemClock())
    everyone = journal.subscribe(("log",))
    journal.nudge("c")  # nobody reads that run
    journal.watch_run("c")
    journal.nudge("c")
    with anyio.move_on_after(1) as waiting:
        await everyone.wait()
    assert waiting.cancelled_caught
