"""What the tests of the kernel share beside its kit: actions, a storage that fails when told to, bare servers."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import msgspec
from tests.engine.kit import Opened, PythonGenerations, quiet, until

from aura.config import load_settings
from aura.loading.generations import Generations
from aura.runs.liverun import LiveRun
from aura.server import Server
from aura.store import StoreBackend, Ticket
from aura.stores.memory import MemoryBackend

#: Virtual seconds within which whatever does not hang is over.
SOON = 15.0
#: Virtual seconds after which what waits for its test goes on by itself, so that a test that fails does not hang.
LET_GO = 60.0


async def works() -> None:
    return


async def forever() -> None:
    await anyio.sleep(3600)


async def fails() -> None:
    raise OSError("no")


def noting(log: list[str], name: str) -> Any:
    async def act() -> None:
        log.append(name)

    return act


def first_time_forever(tries: list[int]) -> Any:
    """An action that hangs at an await the first time and ends at once every other time."""

    async def act() -> None:
        tries.append(len(tries) + 1)
        if len(tries) == 1:
            await anyio.sleep(3600)

    return act


def cleaning(log: list[str], gate: anyio.Event | None = None) -> Any:
    """An action whose clean-up lasts until the gate opens, or for a turn of the loop, and then says so."""

    async def act() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            with anyio.move_on_after(LET_GO):  # a test that fails never opens the gate
                await (gate.wait() if gate else anyio.lowlevel.checkpoint())
            log.append("clean")

    return act


class Stubborn:
    """An action that swallows every cancellation until it is let go."""

    def __init__(self) -> None:
        self.hits = 0
        self.begun = 0
        self.free = False

    async def __call__(self) -> None:
        self.begun += 1
        limit = anyio.current_time() + LET_GO  # so that a test that fails before it lets go ends as well
        while not self.free and anyio.current_time() < limit:
            try:
                await anyio.sleep(0.005)
            except asyncio.CancelledError:
                self.hits += 1


def swallowing() -> tuple[Stubborn, Any]:
    """Such an action as a function, and the handle that lets it go."""
    stubborn = Stubborn()

    async def act() -> None:
        await stubborn()

    return stubborn, act


async def begun(kit: Opened, steps: int = 1, task_name: str = "t") -> LiveRun:
    """A run of which that many attempts have begun and sit at an await."""
    run = await kit.begin_run(task_name)
    await until(lambda: len(run.live) == steps and all(a.edge._task for a in run.live.values()))
    await quiet()
    return run


@contextmanager
def no_hang(seconds: float = SOON) -> Iterator[None]:
    """What stands in here has to be over before a bound that nothing but a hang or a forgotten wait comes near."""
    began = anyio.current_time()
    yield
    assert anyio.current_time() - began < seconds


class FaultyBackend(MemoryBackend):
    """Fails the next ``failing`` commits with ``error``; a ``gate`` holds them all until it is opened."""

    error: Exception = RuntimeError("can't start new thread")
    failing = 0
    gate: anyio.Event | None = None

    async def commit(self, batch: Sequence[Ticket]) -> None:
        if self.gate is not None:
            with anyio.move_on_after(LET_GO):  # a test that fails never opens the gate
                await self.gate.wait()
        if self.failing:
            self.failing -= 1
            await anyio.lowlevel.checkpoint()
            raise self.error
        await super().commit(batch)


def copy_of(backend: MemoryBackend) -> MemoryBackend:
    """What a crash at this moment would leave: the committed rows, and nothing of the memory."""
    copy = MemoryBackend()
    backend.connection.backup(copy.connection)
    return copy


def server_on(
    folder: Path,
    *tasks: Any,
    backend: StoreBackend | None = None,
    generations: Any = None,
    kind: type[Server] = Server,
    http: bool = False,
    left: list[int] | None = None,
) -> Server:
    """A server that does not run yet. Without a backend it keeps its data in the folder, locked."""
    settings = load_settings({"data": folder / "data", "plans": folder}, {}, None, folder)
    settings = msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, grace=0.3))
    plans = cast(Generations, generations or PythonGenerations(*tasks))
    leave = [] if left is None else left
    return kind(settings, leave=leave.append, http=http, backend=backend, generations=plans)
