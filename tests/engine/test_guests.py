"""A server as a guest: it ends no process, whatever becomes of it, and tells its host."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import quiet, step, task, until
from tests.fakes.kernel import SOON, FaultyBackend, Stubborn, forever, server_on, swallowing

from aura.errors import RequestError, StoreError, StoreIOError
from aura.run import Cause, Request
from aura.server import Server
from aura.store import StoreBackend
from aura.stores.folder import DataFolder

LOST = StoreIOError("the disk failed")


class Hosted:
    """A guest that serves, and how often it has told its host that it ends."""

    def __init__(self, folder: Path, *tasks: Any, backend: StoreBackend | None) -> None:
        folder.chmod(0o700)
        self.told = 0
        self.server = server_on(folder, *tasks, backend=backend, kind=partial(Server, guest=self.tell))  # type: ignore[arg-type]

    def tell(self) -> None:
        self.told += 1

    async def submit(self) -> str:
        return (await self.server.engine.submit(Request("p", "t"), Cause("api"))).cid


@asynccontextmanager
async def hosted(folder: Path, *tasks: Any, backend: StoreBackend | None = None) -> AsyncIterator[Hosted]:
    made = Hosted(folder, *tasks, backend=backend)
    # the guest; ended by the test's body or after it. The bound is for one that hangs.
    with anyio.fail_after(20 * SOON):
        async with anyio.create_task_group() as group:
            await group.start(made.server.serve)
            try:
                yield made
            finally:
                made.server.request_stop()


def left_of(server: Server) -> tuple[bool, list[str]]:
    return server.gone.is_set(), server.left


async def hanging(folder: Path, kit: Hosted, stubborn: Stubborn) -> str:
    cid = await kit.submit()
    await until(lambda: stubborn.begun)
    return cid


async def test_guest_is_gone_though_a_body_hangs(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    async with hosted(tmp_path, task("t", step("a", act))) as kit:
        cid = await hanging(tmp_path, kit, stubborn)
        kit.server.request_stop()
        with anyio.fail_after(SOON):
            await kit.server.gone.wait()
        assert (kit.server.left, stubborn.free, kit.told) == ([cid], False, 1)
        DataFolder.open(tmp_path / "data").release()  # its lock is free
        stubborn.free = True
    assert kit.server.engine.runtime.store.ended.is_set()


async def test_guest_without_anything_that_hangs_leaves_nothing(tmp_path: Path) -> None:
    async with hosted(tmp_path, task("t", step("a", forever))) as kit:
        await kit.submit()
        await quiet()
        assert kit.told == 0
    assert left_of(kit.server) == (True, [])
    assert (kit.server.exit_code, kit.told) == (0, 1)


async def test_lost_storage_fails_whoever_waits_for_it_and_ends_the_guest(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with hosted(tmp_path, task("t", step("a", forever)), backend=backend) as kit:
        cid = await kit.submit()
        await quiet()
        waiting = asyncio.ensure_future(kit.server.engine.history.wait_run(cid))
        backend.error, backend.failing = LOST, 1
        with anyio.fail_after(SOON), pytest.raises(RequestError):
            await kit.submit()
        with anyio.fail_after(SOON):
            await kit.server.gone.wait()
            assert (await waiting).state == "running"  # as it is on record: its end could not be written
    assert (kit.server.lost, kit.told) == (LOST, 1)
    assert left_of(kit.server) == (True, [])


async def test_storage_child_that_plan_code_cancels_ends_the_guest(tmp_path: Path) -> None:
    async def cancels() -> None:
        for child in asyncio.all_tasks():
            if child.get_name() == "store":
                child.cancel()
        await anyio.sleep(3600)

    async with hosted(tmp_path, task("t", step("a", cancels)), backend=FaultyBackend()) as kit:
        await kit.submit()
        with anyio.fail_after(SOON):
            await kit.server.gone.wait()
    assert isinstance(kit.server.lost, StoreError)
    assert "cancelled the child" in str(kit.server.lost)
