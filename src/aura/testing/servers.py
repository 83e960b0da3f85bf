"""The servers of a world, one after the other: each is a life of its own, which a test may end in order or by a crash.

What a crash does: the present life is frozen (``lives``), and the next one begins on a copy of what was committed. A
frozen one is thawed at the end of the world, and stopped like the others.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup, TaskStatus

from aura.server import Server
from aura.store import StoreBackend
from aura.stores.memory import MemoryBackend
from aura.testing.lives import LIFE, Life
from aura.testing.virtual_time import VirtualLoop

T = TypeVar("T")


class _Started:
    """One server, the life that is all it does, and whether it has ended."""

    def __init__(self, number: int, server: Server) -> None:
        self.life = Life(number)
        self.server = server
        self.ended = anyio.Event()

    async def serve(self, *, task_status: TaskStatus[str]) -> None:
        try:
            await self.server.serve(task_status=task_status)
        finally:
            self.ended.set()


class Servers:
    """The servers of one world. ``make`` makes one on a store."""

    def __init__(self, loop: VirtualLoop, make: Callable[[StoreBackend], Server]) -> None:
        self._loop = loop
        self._make = make
        self._started: list[_Started] = []
        self._group: TaskGroup | None = None
        #: What the present one keeps its records in.
        self.backend: StoreBackend

    @property
    def begun(self) -> bool:
        return bool(self._started)

    @property
    def present(self) -> Server:
        """The server of the present life."""
        assert self._started, "the world has not begun: await something of it first"
        return self._started[-1].server

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """The time in which there may be servers; at its end they are stopped, and what they failed with is raised."""
        failed: Exception | None = None
        # the servers of all lives, each in a child; all are told to stop at the end, and stop within their own deadline
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                yield
            except Exception as error:  # raised below, so that it does not come out in a group
                failed = error
            finally:
                for one in self._started:
                    if one.life.frozen:
                        self._loop.thaw(one.life)
                    one.server.request_stop()
        if failed is not None:
            raise failed

    async def begin(self, backend: StoreBackend) -> None:
        """Start a server on a store; returns once it is ready."""
        assert self._group is not None, "this world is not open: see open_world"
        started = _Started(len(self._started) + 1, self._make(backend))
        token = LIFE.set(started.life)  # for the child that is made here, and all that this one makes
        try:
            await self._group.start(started.serve)
        finally:
            LIFE.reset(token)
        self._started.append(started)
        self.backend = backend

    async def crash_and_begin(self, down: float) -> None:
        """Freeze the present server, and start the next one on what is committed, ``down`` seconds later."""
        backend = self.backend
        assert isinstance(backend, MemoryBackend), "only a world with a store in memory can crash"
        left = backend.copied()
        self._loop.freeze(self._started[-1].life)
        await anyio.sleep(down)
        await self.begin(left)

    async def end_and_begin(self, down: float) -> None:
        """Stop the present server in order, and start the next one ``down`` seconds later."""
        self.present.request_stop()
        await self._started[-1].ended.wait()
        await anyio.sleep(down)
        await self.begin(self.backend)

    async def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call what is of the present server, as one of its children does."""
        return await self._within(self._started[-1].life, function, *args)

    async def _within(self, life: Life, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call something as part of a life; if that freezes meanwhile, whoever waits here waits for ever."""

        async def calling() -> T:
            return await function(*args)

        called = self._loop.create_task(calling(), name="call of a test", context=life.context.copy())
        return await called  # type: ignore[no-any-return]
