"""An event loop whose time is virtual: it jumps to the next timer as soon as nobody can do anything before it.

Theory of operation. asyncio asks its selector to wait until the next timer or the next input. This selector looks for
input, and if there is none it does not wait: the loop's clock *is* moved to the timer. So an hour's sleep takes
microseconds, two timers fire in the order of their times, and a test gives the same result on every machine.

The ties.
- *Work in flight holds the clock.* A worker thread that computes, a child process that runs: no timer may overtake
  them, since their answer would have come first. The loop then waits in real time. A thread that waits for the loop
  (``from_thread.run``) is not in flight, nor one that stands at a ``ThreadGate`` or listens for changes of folders.
  What answers nothing for ``PATIENCE`` seconds lets time go on, no faster than real time: so the grace of a stop ends
  what hangs for ever.
- *Quiet* is the moment in which no turn of the loop has anything to do and nothing is in flight: ``wait_quiet``
  returns there, before any time passes. ``wait_until`` looks at its condition after every turn, and misses nothing
  that is so between two turns.
- *A deadlock* is a quiet moment without a timer and without anybody outside who could bring one about. It is raised
  at once, with what everyone waits for: in ``wait_until``, or told to whoever registered (``on_deadlock``), or out of
  the loop. A child that only sleeps again and again keeps a deadlock from being seen: ``wait_until`` has a limit, in
  virtual time.
- *A lull* is time in which all timers are in the background (``eventloop.IN_BACKGROUND``), such as those of polls,
  which go on for ever. They may bring something about: so it is a deadlock only after ``LULL`` seconds and
  ``LULL_JUMPS`` jumps of time in which they have not.

Limits. Sockets and pipes to other processes hold nothing: a process of somebody else's answers in real time, and
virtual time does not wait for it. What asks the machine for the time itself (``time.time()``) gets the real one.
"""

import asyncio
import re
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from anyio._backends import _asyncio as _anyio

from aura.clock import SystemClock
from aura.eventloop import IN_BACKGROUND, StayingLoop
from aura.processes import leftovers
from aura.runs.edge import suspended_in
from aura.watching import folders

#: The loop's time at its start, in seconds; any number that is not 0, so that a forgotten offset shows.
START = 1000.0
#: What ``VirtualClock`` gives as wall time at the start: 2026-01-01T00:00:00Z.
BEGINNING = 1767225600.0
#: Real seconds for which work in flight may be silent before time goes on beside it.
PATIENCE = 1.0
#: Real seconds between two looks at work in flight; an answer wakes the loop at once.
LOOK_EVERY = 0.01
#: Real seconds for which input from outside is waited for when nothing else is left.
OUTSIDE = 2.0
#: Virtual seconds for which ``wait_until`` waits by default.
LIMIT = 86_400.0
#: Virtual seconds, and jumps of time, in a row with timers of the background alone, after which nothing comes of them.
LULL, LULL_JUMPS = 3600.0, 100

#: What the names of threads begin with that read plans, import their code or look at files.
_LOADING = ("aura check", "aura import", "aura files")
#: Files in which a wait is nobody's own.
_LIBRARIES = re.compile("/asyncio/|/anyio/|/contextlib.py")


class Deadlock(Exception):
    """Nothing is scheduled, nothing is in flight, and somebody waits. The message names what everyone waits for."""


class NotReached(AssertionError):
    """The condition of a ``wait_until`` did not become true within its limit."""


class VirtualLoop(StayingLoop):
    """An event loop in virtual time. Give it as ``loop_factory``."""

    def __init__(self) -> None:
        self._now = START
        self._silent_since: float | None = None
        #: When a lull began, and how often time has jumped in it.
        self._lull: tuple[float, int] | None = None
        self._quiet: list[asyncio.Future[None]] = []
        self._watches: list[_Watch] = []
        self._told_of_deadlocks: list[Callable[[Deadlock], object]] = []
        self._gates: list[ThreadGate] = []
        self._executing = 0
        self._transports: list[asyncio.SubprocessTransport] = []
        self._input = _Selector(self)
        super().__init__(self._input)
        # ``time() + resolution`` decides what is due; it must be more than the rounding of a large time
        self._clock_resolution = 1e-6
        self._own_files = len(self._input.get_map())

    def time(self) -> float:
        """Virtual seconds since some moment before the start."""
        return self._now

    # -- waiting

    async def wait_quiet(self) -> None:
        """Return when nobody has anything to do at this time and nothing is in flight; no time passes."""
        future = self.create_future()
        self._quiet.append(future)
        await future

    async def wait_until(self, condition: Callable[[], object], limit: float = LIMIT) -> None:
        """Return once a condition holds; time passes meanwhile. It is asked after every turn of the loop.

        Raises:
            NotReached: it does not hold after ``limit`` virtual seconds. What the condition raises.
        """
        if condition():
            return
        watch = _Watch(condition, self._now + limit, self.create_future())
        self._watches.append(watch)
        try:
            await watch.future
        finally:
            self._watches.remove(watch)

    @contextmanager
    def on_deadlock(self, tell: Callable[[Deadlock], object]) -> Iterator[None]:
        """Have the innermost of these told of a deadlock, once, instead of raising it out of the loop."""
        self._told_of_deadlocks.append(tell)
        try:
            yield
        finally:
            if tell in self._told_of_deadlocks:
                self._told_of_deadlocks.remove(tell)

    # -- what the selector asks

    def look(self) -> bool:
        """Wake every ``wait_until`` whose condition holds now; say whether there was one."""
        woken = [watch for watch in self._watches if watch.look()]  # all are asked: it may not be so in the next turn
        return bool(woken)

    def pass_time(self, timeout: float | None) -> list[Any]:
        """Nothing is ready: hold, tell that it is quiet, jump, or find a deadlock. Gives the input that has come."""
        if self.in_flight():
            return self._hold(timeout)
        self._silent_since = None
        if answered := self._input.look(0):  # by what was in flight a moment ago
            return answered
        if self.look():  # what a thread has brought about since the last look
            return []
        if self._quiet:
            self._tell_quiet()
        elif timeout is not None and self._may_come(timeout):
            self._jump(timeout)
        elif len(self._input.get_map()) > self._own_files:
            return self._wait_outside()
        else:
            self._tell_deadlock()
        return []

    def _may_come(self, seconds: float) -> bool:
        """Whether the next timer, due in so many seconds, may bring something about."""
        if any(not _in_background(timer) for timer in self._scheduled):  # type: ignore[attr-defined]  # asyncio's own
            self._lull = None
            return True
        began, jumps = self._lull or (self._now, 0)
        self._lull = began, jumps + 1
        if self._now + seconds - began <= LULL or jumps < LULL_JUMPS:
            return True
        self._lull = None  # it is told once; whoever is told may bring something about
        return False

    def _jump(self, seconds: float) -> None:
        self._now += seconds
        for watch in self._watches:
            watch.give_up(self._now)

    def in_flight(self) -> bool:
        """Whether a thread or a child process works on something whose answer comes before any timer."""
        return bool(
            self._executing
            or leftovers.awaited
            or any(transport.get_returncode() is None for transport in self._transports)
            or self._threads_in_flight() > 0
            or any(thread.name.startswith(_LOADING) for thread in threading.enumerate())
        )

    def _threads_in_flight(self) -> int:
        """Anyio's busy worker threads, less those that wait for this loop."""
        try:
            busy = len(_anyio._threadpool_workers.get()) - len(_anyio._threadpool_idle_workers.get())
        except LookupError:
            return 0
        if not busy:
            return 0
        waiting = sum(_calls_from_a_thread(task) for task in asyncio.all_tasks(self))
        return busy - waiting - folders.hearing() - sum(gate.waiting for gate in self._gates)

    def _hold(self, timeout: float | None) -> list[Any]:
        now = time.monotonic()
        events = self._input.look(LOOK_EVERY)
        if events or self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since > PATIENCE and timeout is not None:
            self._jump(min(timeout, time.monotonic() - now))
        return events

    def _tell_quiet(self) -> None:
        quiet, self._quiet = self._quiet, []
        for future in quiet:
            if not future.done():
                future.set_result(None)

    def _wait_outside(self) -> list[Any]:
        events = self._input.look(OUTSIDE)
        if not events:
            self._tell_deadlock()
        return events

    def _tell_deadlock(self) -> None:
        deadlock = Deadlock(describe_waits(self))
        if waiting := [watch for watch in self._watches if not watch.future.done()]:
            for watch in waiting:
                watch.future.set_exception(deadlock)
        elif self._told_of_deadlocks:
            self._told_of_deadlocks.pop()(deadlock)
        else:
            raise deadlock

    # -- counting what is in flight

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Run in a thread as ever; it holds the clock."""
        self._executing += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._executed)
        return future

    def _executed(self, _: object) -> None:
        self._executing -= 1

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """End the executor's threads as ever; that a thread waits for them holds the clock as well."""
        self._executing += 1
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            self._executing -= 1

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        """Start a process as ever; it holds the clock until it has ended."""
        made = await super().subprocess_exec(*args, **kwargs)
        self._watch_process(made[0])
        return made

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        """Start a process as ever; it holds the clock until it has ended."""
        made = await super().subprocess_shell(*args, **kwargs)
        self._watch_process(made[0])
        return made

    def _watch_process(self, transport: asyncio.SubprocessTransport) -> None:
        self._transports = [t for t in self._transports if t.get_returncode() is None] + [transport]


class _Selector(selectors.DefaultSelector):
    """Looks for input and waits only as the loop says."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        """Give the input that is there; if there is none, and nothing else to do, let time pass."""
        events = self.look(0)
        if self._loop.look() or events or (timeout is not None and timeout <= 0):
            return events
        return self._loop.pass_time(timeout)

    def look(self, timeout: float) -> list[Any]:
        """Wait for input in real time."""
        return super().select(timeout)


class _Watch:
    """One ``wait_until``."""

    def __init__(self, condition: Callable[[], object], deadline: float, future: "asyncio.Future[None]") -> None:
        self.condition = condition
        self.deadline = deadline
        self.future = future

    def look(self) -> bool:
        if self.future.done():
            return False
        try:
            if not self.condition():
                return False
            self.future.set_result(None)
        except Exception as error:
            self.future.set_exception(error)
        return True

    def give_up(self, now: float) -> None:
        if now > self.deadline and not self.future.done():
            self.future.set_exception(NotReached("it did not become so within the limit, in virtual time"))


class ThreadGate:
    """A gate for threads of a test, such as an action that hangs: who waits at it is not in flight."""

    def __init__(self) -> None:
        self.waiting = 0
        self._event = threading.Event()
        self._lock = threading.Lock()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop._gates.append(self)

    def wait(self, timeout: float = 30.0) -> None:
        """Wait in a worker thread until it is opened; fail after ``timeout`` real seconds."""
        with self._lock:  # several threads may come at once
            self.waiting += 1
        if not self._event.wait(timeout):
            raise TimeoutError("nobody opened the gate")

    def open(self) -> None:
        """Let all go on; from this moment they are in flight again. Called on the loop's thread."""
        self.waiting = 0
        self._event.set()


class VirtualClock(SystemClock):
    """A wall clock that goes with the running loop's virtual time, from ``beginning`` (Unix seconds) on.

    Once it has been asked on a loop it may be asked in worker threads of that too: their log lines have times.
    """

    def __init__(self, beginning: float = BEGINNING, recheck: float = 86_400.0) -> None:
        """``recheck`` is a clock's: one that never jumps need not be looked at every few seconds of a month."""
        self.recheck = recheck
        self._offset = beginning - START
        self._loop: asyncio.AbstractEventLoop | None = None

    def wall(self) -> float:
        self._loop = self._loop or asyncio.get_running_loop()
        return self._offset + self._loop.time()

    def jump(self, seconds: float) -> None:
        """Set the clock, as somebody does who corrects it; who waits for a time sees it within ``recheck`` seconds."""
        self._offset += seconds


def _in_background(timer: asyncio.TimerHandle) -> bool:
    return timer.cancelled() or timer._context.get(IN_BACKGROUND, False)  # type: ignore[attr-defined]  # asyncio's own


# -- saying what everyone waits for


def describe_waits(loop: asyncio.AbstractEventLoop) -> str:
    """Name every child of a loop and the line of ours, or of a plan's, at which it waits."""
    lines = sorted(f"  {task.get_name()}: {_where(task)}" for task in asyncio.all_tasks(loop))
    head = f"nothing is scheduled and nothing is in flight at {loop.time() - START:g} s; what everyone waits for:"
    return "\n".join([head, *lines])


def _where(task: "asyncio.Task[Any]") -> str:
    frames = suspended_in(task.get_coro())
    if not frames:
        return "has not begun"
    own = [frame for frame in frames if not _LIBRARIES.search(frame.f_code.co_filename)]
    frame = (own or frames)[-1]
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"


def _calls_from_a_thread(task: "asyncio.Task[Any]") -> bool:
    """Whether a child runs what a worker thread asked for with ``from_thread.run``, and waits for."""
    return "run_async_from_thread" in getattr(task.get_coro(), "__qualname__", "")
