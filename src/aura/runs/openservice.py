"""One opening of one service, in a child of its own: from its first use until it has closed, or was left behind.

``OpenService.live`` is that child. It never raises, whatever the service's code does; it is in the group that
``services`` was given. What moves it on, its ties and its bounds are told there; here they are timers and one edge.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from enum import Enum, auto
from types import TracebackType
from typing import Any

import anyio

from aura.errors import ServiceFailed, StrayCancellation
from aura.runs.edge import Edge, suspended_in
from aura.servicedef import Entering, Service, ServiceContext

#: How long closing a service may take, in seconds; at the server's end it is what is left of that, if less.
CLOSE_TIMEOUT = 10.0
#: Seconds between the edge, the pulse, and giving one up that does not close.
PULSE = 0.05


class Stage(Enum):
    """Where one opening of a service stands."""

    #: Nothing has been handed over yet.
    OPENING = auto()
    OPEN = auto()
    #: It was told to close, or its opening was broken off; nobody is given it any more.
    CLOSING = auto()
    #: Its child has ended, or it did not close and was left behind.
    ENDED = auto()


class OpenService:
    """One opening of a service. ``value`` is what it yielded, once ``stage`` is ``OPEN``.

    Invariants: ``stage`` only moves forward; ``opened`` is set in the turn in which it leaves ``OPENING``, ``ended`` in
    that in which it comes to ``ENDED``; a timer runs unless it is open, waits for what it needs, or for those that need
    it, each of which has a bound of its own.
    """

    def __init__(
        self,
        service: Service,
        context: ServiceContext,
        code_prefixes: tuple[str, ...],
        take: Callable[[str], Awaitable["OpenService"]],
        on_end: Callable[["OpenService", Stage, BaseException | None], object],
    ) -> None:
        """``code_prefixes`` is what the file names of its plan's code begin with.

        ``take`` gives what it needs; ``on_end`` is told when its child has ended, from where, and with what error.

        It is told as well when it is left behind, with ``stuck`` set, and then again when it ends after all.
        """
        self.service = service
        self.stage = Stage.OPENING
        self.value: Any = None
        #: Why it could not be opened.
        self.error: BaseException | None = None
        #: It ended by itself; it did not close and was left behind.
        self.broken, self.stuck = False, False
        #: Those that need it and are not ended.
        self.needed_by: set[OpenService] = set()
        self.opened = anyio.Event()
        self.ended = anyio.Event()
        self._context = context
        self._code_prefixes = code_prefixes
        self._take = take
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._trace: TracebackType | None = None
        self._waiting = 0
        self._needs: dict[str, OpenService] = {}
        self._entering: Entering | None = None
        self._told_to_close = anyio.Event()
        #: The loop time at which it, and what it needs, are to be closed.
        self._until = float("inf")
        self._timer: asyncio.TimerHandle | None = None
        self._edge = Edge()
        self._cut, self._pulsed = False, False

    # -- the child

    async def live(self) -> None:
        """Open it, hand it over, wait to be told to close, and close it. Never raises."""
        if self.stage is Stage.OPENING:  # else nobody waits any more, and it has not begun
            await self._edge.attend(self._live())
        self._stop_timer()
        self.stuck = False
        self._end(self._edge.error)

    async def _live(self) -> None:
        for name in self.service.needs:
            self._needs[name] = need = await self._take(name)
            need.needed_by.add(self)
        self._arm(self.service.open_timeout)
        needs = {name: need.value for name, need in self._needs.items()}
        self._entering = self.service.made(self._context, needs)
        async with self._entering as value:
            if self.stage is Stage.OPENING:  # else it has swallowed that it was broken off
                self._hand_over(value)
                try:
                    await self._told_to_close.wait()
                    for other in list(self.needed_by):
                        await other.ended.wait()
                finally:  # also when a scope of its own has cut this wait
                    self._begin_to_leave()

    def _begin_to_leave(self) -> None:
        """Bound what its code does now; nobody is given it any more."""
        if self.stage is Stage.OPEN:
            self.broken = True
            self.request_close()
        self._arm(self._limit())

    def _hand_over(self, value: Any) -> None:
        self._stop_timer()
        self.value = value
        self.stage = Stage.OPEN
        self.opened.set()

    def _end(self, error: BaseException | None = None) -> None:
        """Tell all who wait that it is over; of one that was left behind, that it has ended after all."""
        before = self.stage
        for need in self._needs.values():
            need.needed_by.discard(self)
        if before is Stage.OPENING:
            self._fail(self._failure(error))
        self.stage = Stage.ENDED
        self._context.close()
        self.ended.set()
        self._on_end(self, before, error)

    def _failure(self, error: BaseException | None) -> BaseException:
        """What those who wait for it are told, with its name in it."""
        if error is None or isinstance(error, asyncio.CancelledError):
            return StrayCancellation(f"the opening of {self.service} was cancelled by its own code")
        if all(name in self._needs for name in self.service.needs):  # else it is what it needs that has failed
            with suppress(Exception):  # it may be made so that it takes none
                error.add_note(f"{self.service} could not be opened")
        return error

    def _fail(self, error: BaseException) -> None:
        self.error, self._trace = error, error.__traceback__
        self.opened.set()

    # -- who uses it

    async def wait_open(self) -> None:
        """Return once it is open.

        Raises:
            BaseException: what its opening failed with. ServiceFailed: it was closed again at once.

        **Cancellation**: if nobody else waits for it, its opening is broken off.
        """
        self._waiting += 1
        try:
            await self.opened.wait()
        finally:
            self._waiting -= 1
            if not self._waiting and self.stage is Stage.OPENING:
                self._break_off(ServiceFailed(f"nobody waited for {self.service} any more"))
        if self.error is not None:
            raise self.error.with_traceback(self._trace)
        if self.stage is not Stage.OPEN:
            raise ServiceFailed(f"{self.service} was closed before it could be used")

    # -- who ends it

    def request_close(self, until: float = float("inf")) -> None:
        """Close it, after what needs it; a nearer ``until`` (loop time) replaces a later one. Does not wait."""
        self._until = min(self._until, until)
        if self.stage is Stage.OPENING:
            self._break_off(ServiceFailed(f"{self.service} is not opened: it, or what it needs, is to be closed"))
        elif self.stage is Stage.OPEN:
            self.stage = Stage.CLOSING
            for other in list(self.needed_by):
                other.request_close(until)
            self._told_to_close.set()
        elif self._timer is not None and self._timer.when() > until:
            self._arm(self._limit())

    def _break_off(self, error: Exception) -> None:
        """End an opening; its code may put away what it has, and who still waits fails with ``error``."""
        self.stage = Stage.CLOSING
        self._fail(error)
        self._cut = True
        self._edge.deliver(str(error))
        self._arm(self._limit())

    def _limit(self) -> float:
        """How long it may take to close: of what is left, what it needs wants as much."""
        return max(0.0, min(CLOSE_TIMEOUT, (self._until - self._loop.time()) / self._depth))

    @property
    def _depth(self) -> int:
        """The length of the longest chain of needs that begins with it."""
        return 1 + max((need._depth for need in self._needs.values()), default=0)

    def _arm(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, self._too_late)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        if self.stage is Stage.OPENING:
            self._break_off(TimeoutError(f"{self.service} was not open after {self.service.open_timeout:g} s"))
        elif not self._cut:
            self._cut = True
            self._edge.deliver("it takes too long to close")
            self._arm(PULSE)
        elif not self._pulsed:
            self._pulsed = True
            self._edge.pulse()
            self._arm(PULSE)
        else:
            self._timer, self.stuck = None, True
            self._end()

    # -- where it hangs

    def hangs_at(self) -> str:
        """``file:line`` of the innermost line that it is suspended in, of the plan's own code if there is one."""
        frames = list(self._frames())
        own = [frame for frame in frames if frame.f_code.co_filename.startswith(self._code_prefixes)]
        frame = (own or frames or [None])[-1]
        return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "an unknown place"

    def _frames(self) -> Iterator[Any]:
        yield from self._edge.frames()
        if self._entering is not None:  # nothing leads from who awaits a generator's next value into the generator
            yield from suspended_in(self._entering.generator)
