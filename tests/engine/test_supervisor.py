"""Every service child of the real server, made to fail: it heals, shows as degraded, and ends no run and no request.

The server is a real one with its door on a free port, so this is real time; no test waits for time: a pause lasts until
the test ends it.
"""

import asyncio
import io
import os
import signal
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, closing, redirect_stderr, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, cast

import anyio
import anyio.lowlevel
import httpx2
import pytest
from tests.engine.kit import PythonGenerations, step, task
from tests.fakes.web import Events, make_settings

from aura.clock import SystemClock
from aura.engine.supervisor import FIRST_PAUSE, Child, Serve, Supervisor
from aura.isolation import warm
from aura.lifecycle import FINAL
from aura.loading.generations import Generations
from aura.notify import Notifier
from aura.run import Cause, Request
from aura.server import Server
from aura.serving import serve_until_signal
from aura.watching.folders import identity_of

#: Seconds within which whatever does not hang is over.
SOON = 20.0


@pytest.fixture
def anyio_backend() -> str:
    """Sockets live in real time."""
    return "asyncio"


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(SOON):
        while not condition():
            await anyio.lowlevel.checkpoint()


class Breakable(Supervisor):
    """Raises ``errors[name]`` in the place of a child, whose own code is cancelled, when ``fail`` says so.

    A pause lasts until ``heal``, or until the child is told to end.
    """

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.pauses: list[float] = []
        self.faults: dict[str, anyio.Event] = {}
        self._errors: dict[str, BaseException] = {}
        self._healed = anyio.Event()

    async def serve(
        self, name: str, serve: Serve, told: anyio.Event | None = None, *, longest: float = float("inf")
    ) -> None:
        await super().serve(name, partial(self._until_fault, name, serve), told, longest=longest)

    async def _until_fault(self, name: str, serve: Serve) -> None:
        self.faults[name] = fault = anyio.Event()
        await _race(serve, fault.wait)
        if fault.is_set():
            raise self._errors[name]

    async def wait_pause(self, child: Child, told: anyio.Event) -> None:
        self.pauses.append(child.pause)
        await _race(told.wait, self._healed.wait)

    async def fail(self, name: str, error: BaseException) -> None:
        """Make a child fail, and return when it is in its pause."""
        count = len(self.pauses)
        self._errors[name] = error
        self.faults[name].set()
        await until(lambda: len(self.pauses) > count)

    async def heal(self, name: str) -> None:
        """End the pause, and return when the child serves."""
        self._healed.set()
        self._healed = anyio.Event()
        await until(lambda: self.children[name].state == "running")


class Thrower:
    """Awaits a child; ``throw_in`` throws an error into it where it stands, as no code of its own would raise it."""

    def __init__(self, serve: Serve) -> None:
        async def served() -> None:
            await serve()

        self._coroutine = served()
        self._task = asyncio.current_task()
        self._error: BaseException | None = None
        self._skip = 0

    def throw_in(self, error: BaseException, skip: int) -> None:
        """Throw it in when the child has gone on ``skip`` times more."""
        self._error, self._skip = error, skip

    def now(self) -> None:
        """Throw it in now, if that has not happened yet."""
        if self._error is not None and self._task is not None:
            self._skip = 0
            self._task.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # type: ignore[return-value]  # it has send and throw: all that an await needs

    def __iter__(self) -> "Thrower":
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        if self._error is None or self._skip:
            self._skip = max(0, self._skip - 1)
            return self._coroutine.send(value)
        return self._throw_it()

    def throw(self, error: BaseException, *_: Any) -> Any:
        assert self._task is not None
        if self._error is None or self._skip:
            return self._coroutine.throw(error)
        self._task.uncancel()
        return self._throw_it()

    def _throw_it(self) -> Any:
        assert self._error is not None
        error, self._error = self._error, None
        return self._coroutine.throw(error)

    def close(self) -> None:
        self._coroutine.close()


class Throwing(Breakable):
    """Throws the error into the child itself."""

    def __init__(self) -> None:
        super().__init__()
        self.throwers: dict[str, Thrower] = {}

    async def _until_fault(self, name: str, serve: Serve) -> None:
        self.throwers[name] = thrower = Thrower(serve)
        await thrower

    async def throw_in(self, name: str, error: BaseException, skip: int, work: Callable[[], Awaitable[object]]) -> None:
        """Throw an error into a child that has gone on ``skip`` times, or as often as ``work`` makes it."""
        count = len(self.pauses)
        self.throwers[name].throw_in(error, skip)
        await work()
        self.throwers[name].now()
        await until(lambda: len(self.pauses) > count)


async def _race(*waits: Callable[[], Awaitable[object]]) -> None:
    """Return when the first of them has; errors of a wait are its own."""
    # a child for each, which ends the group when it is done
    async with anyio.create_task_group() as group:

        async def first(wait: Callable[[], Awaitable[object]]) -> None:
            await wait()
            group.cancel_scope.cancel("one of them is done")

        for wait in waits:
            group.start_soon(first, wait, name="race")


class Live(NamedTuple):
    """A running server with all its children, and a client whose first connection stays open."""

    server: Server
    supervisor: Breakable
    http: httpx2.AsyncClient
    gate: anyio.Event
    shown: io.StringIO
    manager: socket.socket

    async def status(self) -> dict[str, Any]:
        return cast(dict[str, Any], (await self.http.get("/api/system/status")).json())

    async def submit(self, name: str) -> str:
        return (await self.server.engine.submit(Request("p", name), Cause("api"))).cid

    async def is_over(self, cid: str) -> bool:
        return (await self.http.get(f"/api/runs/{cid}")).json()["state"] in FINAL


async def works() -> None:
    return


@asynccontextmanager
async def opened(tmp: Path, kind: type[Breakable] = Breakable) -> AsyncIterator[Live]:
    """Serve as ``aura serve`` does; the task ``gated`` waits for the gate."""
    gate = anyio.Event()

    async def gated() -> None:
        await gate.wait()

    (tmp / "plans").mkdir()
    tmp.chmod(0o700)
    plans = PythonGenerations(task("gated", step("a", gated)), task("quick", step("b", works)))
    supervisor = kind()
    shown = io.StringIO()
    manager, notifier = _service_manager()
    server = Server(
        make_settings(tmp, grace=0.5),
        console=True,
        supervisor=supervisor,
        generations=cast(Generations, plans),
        notifier=notifier,
    )
    with manager:
        async with _serving(server, shown):
            headers = {"Authorization": "Bearer " + (tmp / "data/token").read_text().strip()}
            async with httpx2.AsyncClient(base_url=server.address, headers=headers, timeout=SOON) as http:
                try:
                    yield Live(server, supervisor, http, gate, shown, manager)
                finally:
                    gate.set()


def _service_manager() -> tuple[socket.socket, Notifier]:
    """What systemd would be, and what is told to it."""
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind("")  # the system gives it an abstract name
    manager.setblocking(False)
    name = manager.getsockname().decode().replace("\0", "@", 1)
    return manager, Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "100000"})


@asynccontextmanager
async def _serving(server: Server, shown: io.StringIO) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:  # the server, which ends by request_stop
        with redirect_stderr(shown):  # the console takes it as it is when the server starts
            group.start_soon(serve_until_signal, server)
            await until(lambda: server._opened.is_set())
        yield
        server.request_stop()


# -- how each child shows that it does its work again: what is done in its pause, and what must have come of it ------


async def dispatcher(live: Live) -> Callable[[], Awaitable[None]]:
    cid = await live.submit("quick")

    async def check() -> None:
        record = await live.server.engine.history.wait_run(cid)
        assert record.state == "succeeded"

    return check


async def log_writer(live: Live) -> Callable[[], Awaitable[None]]:
    engine = live.server.engine
    engine.runtime.log.info("written in the pause")

    async def check() -> None:  # in bounded time: it is stored once the writer has begun
        count = 0
        while not count:
            lines = await engine.history.log_entries(after=0, limit=1000)
            count = [line.record()["message"] for line in lines].count("written in the pause")
        assert count == 1

    return check


async def http(live: Live) -> Callable[[], Awaitable[None]]:
    port = int(live.server.address.rpartition(":")[2])
    late = await anyio.connect_tcp("127.0.0.1", port)  # waits in the backlog
    await late.send(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % port)

    async def check() -> None:
        async with late:
            assert b" 200 " in await late.receive()

    return check


async def signals(live: Live) -> Callable[[], Awaitable[None]]:
    os.kill(os.getpid(), signal.SIGTERM)

    async def check() -> None:
        await until(lambda: live.server._stop_asked.is_set())

    return check


async def console(live: Live) -> Callable[[], Awaitable[None]]:
    live.server.engine.runtime.log.info("shown after the pause")

    async def check() -> None:
        await until(lambda: "shown after the pause" in live.shown.getvalue())

    return check


async def reaper(live: Live) -> Callable[[], Awaitable[None]]:
    async def check() -> None:  # what it does, it does every few seconds: that it waits for them is all that shows
        return

    return check


async def disk_space(live: Live) -> Callable[[], Awaitable[None]]:
    space = live.server.engine.runtime.space
    space.free = None

    async def check() -> None:
        await until(lambda: space.free is not None)

    return check


async def keep_alive(live: Live) -> Callable[[], Awaitable[None]]:
    with suppress(BlockingIOError):
        while live.manager.recv(100):
            pass

    async def check() -> None:
        await anyio.wait_readable(live.manager)

    return check


async def loop_watchdog(live: Live) -> Callable[[], Awaitable[None]]:
    live.server.engine.watchdog.lag = -1.0

    async def check() -> None:
        await until(lambda: live.server.engine.watchdog.lag >= 0)
        assert [thread.name for thread in threading.enumerate()].count("aura loop watchdog") == 1

    return check


async def loop_lag(live: Live) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        histogram = live.server.engine.measures.loop_lag
        before = sum(histogram.counts)
        await until(lambda: sum(histogram.counts) > before)

    return check


async def retention(live: Live) -> Callable[[], Awaitable[None]]:
    kept = live.server.engine.retention
    kept.sizes = None

    async def check() -> None:
        await until(lambda: kept.sizes is not None)

    return check


async def warm_processes(live: Live) -> Callable[[], Awaitable[None]]:
    async def check() -> None:  # who asks for one finds it again; none is started before somebody does
        await until(lambda: live.server.engine.runtime.boot_tag in warm._served())

    return check


async def scheduler(live: Live) -> Callable[[], Awaitable[None]]:
    scheduler = live.server.engine.scheduler
    before = scheduler._idle

    async def check() -> None:  # it waits for the next slot again
        await until(lambda: scheduler._idle is not before)

    return check


async def folder_watcher(live: Live) -> Callable[[], Awaitable[None]]:
    rung = anyio.Event()
    plans = live.server.settings.plans
    live.server.engine.folders.watch(rung.set).cover({identity_of(plans.stat()): str(plans)})

    async def check() -> None:
        await rung.wait()

    return check


async def plan_watcher(live: Live) -> Callable[[], Awaitable[None]]:
    (live.server.settings.plans / "new").mkdir(exist_ok=True)

    async def check() -> None:
        await until(lambda: "new" in live.server.engine.reloader._settling.known())

    return check


async def file_triggers(live: Live) -> Callable[[], Awaitable[None]]:
    async def check() -> None:  # it has a group for the folders that it is to look at
        await until(lambda: live.server.engine.file_triggers._group is not None)

    return check


async def gate_of_tests(live: Live) -> Callable[[], Awaitable[None]]:
    gate = live.server.engine.gate
    before = gate._bell

    async def check() -> None:  # it waits for something to try again
        await until(lambda: gate._bell is not before)

    return check


ROWS = {
    "console": console,
    "disk space": disk_space,
    "dispatcher": dispatcher,
    "file triggers": file_triggers,
    "folder watcher": folder_watcher,
    "http": http,
    "keep-alive": keep_alive,
    "log writer": log_writer,
    "loop lag": loop_lag,
    "loop watchdog": loop_watchdog,
    "plan watcher": plan_watcher,
    "reaper": reaper,
    "retention": retention,
    "scheduler": scheduler,
    "signals": signals,
    "test gate": gate_of_tests,
    "warm processes": warm_processes,
}
#: Children of the server's tree that are no services: each ends the server, or is ended by it, and serves no purpose
#: without it.
OTHERS = {"server", "store", "doors"}
#: Children of services: when one fails, so does its service.
INNER = {"end of the folder watcher", "rounds of the plan watcher"}


async def test_every_service_child_has_a_row_and_is_supervised(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with opened(tmp_path) as live:
        made = {child.get_name() for child in asyncio.all_tasks() - before}
        named = {name for name in made if "." not in name and name != "race"}
        assert set(live.supervisor.children) == set(ROWS)
        assert named == {*ROWS, *OTHERS, *INNER, "serve"}


@pytest.mark.parametrize("name", ROWS)
async def test_failure_of_a_service_ends_nothing_and_heals(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path) as live:
        cid = await live.submit("gated")
        supervisor = live.supervisor
        async with (
            live.http.stream("GET", f"/api/runs/{cid}/events") as of_run,
            live.http.stream("GET", "/api/logs/stream") as of_logs,
        ):
            await live.status()  # a third connection, which stays open
            await supervisor.fail(name, OSError("injected"))
            status = await live.status()
            assert (status["state"], status["services"][name]["state"]) == ("degraded", "failed")
            assert [reason.partition(" is served")[0] for reason in status["reasons"]] == [f"{name} failed and"]
            live.server.engine.runtime.log.info("told in the pause")
            await _read_until(Events(of_logs), "told in the pause")
            await supervisor.heal(name)
            status = await live.status()
            shown = {"state": "running", "failures": 1, "last_error": "OSError: injected"}
            assert (status["state"], status["reasons"], status["services"][name]) == ("running", [], shown)
            live.gate.set()
            assert (await Events(of_run).rest())[-1]["data"]["name"] == "run.succeeded"


@pytest.mark.parametrize("name", ROWS)
async def test_service_does_its_work_again(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path) as live:
        for error in (SystemExit(3), KeyboardInterrupt(), BaseExceptionGroup("g", [SystemExit(3)])):
            await live.supervisor.fail(name, error)
            await live.supervisor.heal(name)
        await live.supervisor.fail(name, OSError("injected"))
        check = await ROWS[name](live)
        await live.supervisor.heal(name)
        with anyio.fail_after(SOON):
            await check()
    pauses = live.supervisor.pauses[:4]
    assert pauses == sorted(pauses)
    assert pauses[0] == FIRST_PAUSE
    assert pauses[-1] > FIRST_PAUSE or name == "signals"


class Strange(BaseException):
    """Of no kind that anybody catches."""


#: What a bug may raise, or a stranger's ``cancel`` bring about, anywhere.
ERRORS: tuple[Callable[[], BaseException], ...] = (
    lambda: OSError("injected"),
    lambda: Strange("injected"),
    lambda: SystemExit(3),
    KeyboardInterrupt,
    lambda: ExceptionGroup("g", [OSError("injected"), ValueError()]),
    lambda: BaseExceptionGroup("g", [SystemExit(3)]),
    asyncio.CancelledError,
)


@pytest.mark.parametrize("name", ROWS)
async def test_error_that_comes_up_where_a_service_stands_ends_nothing_and_heals(tmp_path: Path, name: str) -> None:
    chance = Random(name)
    async with opened(tmp_path, Throwing) as live:
        cid = await live.submit("gated")
        assert isinstance(live.supervisor, Throwing)
        for error in ERRORS:
            await live.status()  # by a connection that stays open
            work = partial(live.submit, "quick")
            await live.supervisor.throw_in(name, error(), chance.randrange(4), work)
            status = await live.status()
            assert (status["state"], status["services"][name]["state"]) == ("degraded", "failed")
            await live.supervisor.heal(name)
        assert (await live.status())["services"][name]["failures"] == len(ERRORS)
        assert not await live.is_over(cid)
        live.gate.set()
        with anyio.fail_after(SOON):
            assert (await live.server.engine.history.wait_run(cid)).state == "succeeded"
            for run in list(live.server.engine.runtime.open.values()):
                assert (await live.server.engine.history.wait_run(run.cid)).state == "succeeded"


@pytest.mark.parametrize("name", ROWS)
async def test_server_stops_in_order_with_a_service_in_its_pause(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path) as live:
        cid = await live.submit("gated")
        await until(lambda: live.server.engine.runtime.open[cid].live)
        await live.supervisor.fail(name, OSError("injected"))
        live.server.engine.runtime.log.info("the last words")
    assert live.server.exit_code == 0
    with closing(sqlite3.connect(tmp_path / "data/aura.db")) as db:
        assert db.execute("SELECT state FROM run WHERE cid=?", (cid,)).fetchone()[0] in FINAL
        assert ("the last words",) in db.execute("SELECT message FROM log").fetchall()


async def test_stop_of_the_engine_that_fails_is_tried_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as live:
        cid = await live.submit("gated")
        engine = live.server.engine
        await until(lambda: engine.runtime.open[cid].live)
        assert engine.request_stop("drain", 3600) == "stopping"
        await until(lambda: "engine stop" in live.supervisor.faults)
        await live.supervisor.fail("engine stop", OSError("injected"))
        assert [reason.partition(" is served")[0] for reason in engine.reasons] == ["engine stop failed and"]
        await live.supervisor.heal("engine stop")
        assert (engine.state, engine.reasons) == ("stopping", [])
        live.gate.set()
        await until(lambda: engine.state == "stopped")
        assert (await engine.history.wait_run(cid)).state == "succeeded"
        assert (await live.status())["services"]["engine stop"]["state"] == "stopped"


async def test_stop_of_the_server_takes_the_place_of_a_stop_in_its_pause(tmp_path: Path) -> None:
    async with opened(tmp_path) as live:
        cid = await live.submit("gated")
        live.server.engine.request_stop("drain", 3600)
        await until(lambda: "engine stop" in live.supervisor.faults)
        await live.supervisor.fail("engine stop", OSError("injected"))
    assert (live.server.exit_code, live.server.engine.state) == (0, "stopped")
    assert live.server.engine.runtime.open.get(cid) is None


async def test_half_a_request_survives_a_failure_of_the_door(tmp_path: Path) -> None:
    async with opened(tmp_path) as live:
        port = int(live.server.address.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            await client.send(b"GET /livez HTTP/1.1\r\nHo")
            await until(lambda: "http connection" in {child.get_name() for child in asyncio.all_tasks()})
            await live.supervisor.fail("http", OSError("injected"))
            await client.send(b"st: 127.0.0.1:%d\r\n\r\n" % port)
            with anyio.fail_after(SOON):
                assert b" 200 " in await client.receive()
            await live.supervisor.heal("http")


async def _read_until(events: Events, message: str) -> None:
    with anyio.fail_after(SOON):
        while (await events.next())["data"]["message"] != message:
            pass
