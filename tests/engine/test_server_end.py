"""How a server comes up and goes down when something meets it: signals, a host's cancel, errors, failing services."""

import asyncio
import gc
import os
import threading
import warnings
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from tests.engine.kit import PythonGenerations, opened, quiet, step, task, until
from tests.fakes.kernel import SOON, begun, cleaning, forever, server_on

from aura import server as server_module
from aura.errors import StoreInUse
from aura.kernel import executor
from aura.loading.generations import PlanStatus
from aura.run import Cause, Request
from aura.server import Server
from aura.stores.folder import DataFolder
from aura.stores.memory import MemoryBackend

T = task("t", step("a", forever))


class BadPlans(PythonGenerations):
    async def reload(self, _read: object = None) -> list[PlanStatus]:
        raise OSError("plans")


def ended_boots(backend: MemoryBackend) -> int:
    count: int = backend.execute("SELECT count(*) FROM boot WHERE ended_at IS NOT NULL").fetchone()[0]
    return count


# -- told to stop, at any time


async def test_two_signals_before_the_engine_is_there_end_the_server(tmp_path: Path) -> None:
    backend = MemoryBackend()
    server = server_on(tmp_path, T, backend=backend)
    server.request_stop()
    server.request_stop()
    with anyio.fail_after(SOON):
        await server.serve()
    assert ended_boots(backend) == 1


async def test_host_cancel_alone_ends_the_server(tmp_path: Path) -> None:
    backend = MemoryBackend()
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as host:
            await host.start(server_on(tmp_path, T, backend=backend).serve)
            host.cancel_scope.cancel()
    assert ended_boots(backend) == 1


async def test_host_cancel_while_the_plans_load_ends_the_server(tmp_path: Path) -> None:
    loading, loaded = anyio.Event(), anyio.Event()

    class Slow(PythonGenerations):
        async def reload(self, _read: object = None) -> list[PlanStatus]:
            loading.set()
            await loaded.wait()
            return []

    server = server_on(tmp_path, backend=MemoryBackend(), generations=Slow(T))

    async def host() -> None:
        async with anyio.create_task_group() as group:  # the server, cancelled while it loads
            group.start_soon(server.serve)
            await loading.wait()
            group.cancel_scope.cancel()
            loaded.set()

    hosting = asyncio.ensure_future(host())
    _, hanging = await asyncio.wait([hosting], timeout=SOON)
    server.request_stop()  # if it hangs, this lets the test end
    assert not hanging


async def test_lock_is_free_when_the_server_has_ended(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    for _ in range(2):
        async with anyio.create_task_group() as host:
            server = server_on(tmp_path, T)
            await host.start(server.serve)
            with pytest.raises(StoreInUse, match=f"process {os.getpid()} "):
                DataFolder.open(tmp_path / "data")
            server.request_stop()


async def test_last_log_lines_are_stored(tmp_path: Path) -> None:
    backend = MemoryBackend()
    async with opened(tmp_path, T, backend=backend) as kit:
        kit.engine.runtime.log.info("the last words")
    assert ("the last words",) in backend.execute("SELECT message FROM log").fetchall()


async def test_watchdog_ends_a_process_whose_stop_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    gone = threading.Event()

    def leave(code: int) -> None:  # by the watchdog's thread
        left.append(code)
        gone.set()

    async def act() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            gone.wait(10)

    monkeypatch.setattr("aura.server.STOP_SLACK", -59.95)
    async with opened(tmp_path, task("t", step("a", act)), grace=60) as kit:
        kit.server._leave = leave
        await begun(kit)
    assert left == [70]


async def test_search_for_left_over_processes_does_not_outlast_the_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(tag: str, cid: str) -> list[int]:
        with anyio.CancelScope(shield=True):  # shielded as the real one is where it waits for the dead
            await anyio.sleep(1.0)
        return []

    monkeypatch.setattr(executor, "end_run_leftovers", slow)
    backend = MemoryBackend()
    async with opened(tmp_path, T, backend=backend, grace=0.1) as kit:
        (await begun(kit)).used_processes = True
    assert backend.execute("SELECT state FROM run").fetchone() == ("cancelled",)


# -- what fails while it starts


async def test_error_in_the_first_part_of_a_boot_closes_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    class Noting(MemoryBackend):
        def close(self) -> None:
            closed.append(True)

    def broken(execute: object) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(server_module, "last_accepted", broken)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await server_on(tmp_path, T, backend=Noting()).serve()
    assert closed == [True]


async def test_plans_that_cannot_be_loaded_end_the_boot_in_order(tmp_path: Path) -> None:
    backend = MemoryBackend()
    with anyio.fail_after(SOON), pytest.RaisesGroup(OSError, flatten_subgroups=True):
        await server_on(tmp_path, backend=backend, generations=BadPlans(T)).serve()
    assert ended_boots(backend) == 1
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        gc.collect()
    assert [str(w.message) for w in found] == []  # nothing was left open


class NoDoors(Server):
    async def _open_http(self, *_: Any) -> str:
        raise OSError("the port is in use")


async def test_queue_of_an_older_boot_survives_a_boot_that_fails(tmp_path: Path) -> None:
    backend = MemoryBackend()
    async with opened(tmp_path, T, backend=backend) as kit:
        await kit.engine.stop("cancel", 0.1)
        await kit.begin_run("t")
    again = MemoryBackend(backend.connection)
    with anyio.fail_after(SOON), pytest.RaisesGroup(OSError, flatten_subgroups=True):
        await server_on(tmp_path, T, backend=again, kind=NoDoors, http=True).serve()
    assert backend.execute("SELECT state FROM run").fetchone() == ("queued",)


# -- what fails later


class DoorFails(Server):
    """Its door fails when the gate opens."""

    async def _open_http(self, doors: Any, *_: Any) -> str:
        self.gate = anyio.Event()
        doors.start_soon(self._serve_door, name="http")
        return "nowhere"

    async def _serve_door(self) -> None:
        await self.gate.wait()
        raise OSError("accept failed")


async def test_door_that_fails_ends_the_server_in_order(tmp_path: Path) -> None:
    log: list[str] = []
    backend = MemoryBackend()
    made = task("t", step("a", cleaning(log)))
    server = cast(DoorFails, server_on(tmp_path, made, backend=backend, kind=DoorFails, http=True))
    with anyio.fail_after(SOON), pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with anyio.create_task_group() as host:
            await host.start(server.serve)
            accepted = await server.engine.submit(Request("p", "t"), Cause("api"))
            await until(lambda: server.engine.runtime.open[accepted.cid].live)
            await quiet()
            server.gate.set()
    assert (backend.execute("SELECT state FROM run").fetchone(), log) == (("cancelled",), ["clean"])
