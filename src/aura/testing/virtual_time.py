"""An event loop whose time is virtual: it jumps to the next timer as soon as nobody can do anything before it.

Theory of operation. asyncio asks its selector to wait until the next timer or the next input. This selector looks for
input, and if there is none it does not wait: the loop's clock *is* moved to the timer. So an hour's sleep takes
microseconds, two timers fire in the order of their times, and a test gives the same result on every machine.

The ties.
- *Work in flight holds the clock* (``inflight``). A worker thread that computes, a child process that runs: no timer
  may overtake them, since their answer would have come first. The loop then waits in real time.
  What does not come to an end lets time go on after a while, no faster than real time (``holding``). A ``def`` action
  that never returns is given up (``hangs``).
- *Quiet* is the moment in which no turn of the loop has anything to do and nothing is in flight that is still waited
  for: ``wait_quiet`` returns there, before any time passes. ``wait_until`` looks at its condition after every turn, and
  misses nothing that is so between two turns.
- *A deadlock* is a quiet moment without a timer and without anybody outside who could bring one about; a timer that
  is never due is none. It is raised at once, with what everyone waits for: in ``wait_until``, or told to whoever
  registered (``on_deadlock``), or out of the loop. A child that only sleeps again and again keeps a deadlock from being
  seen: ``wait_until`` has a limit, in virtual time.
- *A lull* is time in which all timers are in the background (``eventloop.IN_BACKGROUND``), such as those of polls,
  which go on for ever. They may bring something about: so it is a deadlock only after ``LULL`` seconds and
  ``LULL_JUMPS`` jumps of time in which they have not, and not before what is known to come (``outlook``) has come.
- *A spin* is a moment that does not end since anyio cancels again in every turn what takes no notice: an asyncio group
  that waits for its children within one of anyio's. After ``SPIN`` turns time goes on as if nothing was ready.

Limits. Sockets and pipes to other processes hold nothing: a process of somebody else's answers in real time, and
virtual time does not wait for it. What asks the machine for the time itself (``time.time()``) gets the real one.
"""

import asyncio
import selectors
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import cached_property
from math import inf
from typing import Any

from aura.clock import SystemClock
from aura.eventloop import IN_BACKGROUND, StayingLoop
from aura.testing import holding
from aura.testing.hangs import Hangs, let_threads_be_left
from aura.testing.holding import Hold
from aura.testing.inflight import InFlight
from aura.testing.lives import LIFE, Life
from aura.testing.whereabouts import describe_children, describe_threads

#: The loop's time at its start, in seconds; any number that is not 0, so that a forgotten offset shows.
START = 1000.0
#: What ``VirtualClock`` gives as wall time at the start: 2026-01-01T00:00:00Z.
BEGINNING = 1767225600.0
#: Real seconds for which a ``def`` action may give no sign before its thread is abandoned.
THREAD_TIMEOUT = 60.0
#: Real seconds between two looks at work in flight; an answer wakes the loop at once.
LOOK_EVERY = 0.01
#: Turns of the loop at one moment, while anyio cancels again and again, after which time goes on.
SPIN = 1024
#: Turns of the loop after which it looks for a signal or a thread's call at the latest.
INPUT_EVERY = 64
#: Real seconds for which input from outside is waited for when nothing else is left.
OUTSIDE = 2.0
#: Virtual seconds for which ``wait_until`` waits by default.
LIMIT = 86_400.0
#: Virtual seconds, and jumps of time, in a row with timers of the background alone, after which nothing comes of them.
LULL, LULL_JUMPS = 3600.0, 100


#: What to do about an action that does not return.
_HINT = (
    'no thread can be ended: let it return, fake it, or say isolation="process"; '
    "if it only needs more time, set aura_thread_timeout"
)


class Deadlock(Exception):
    """Nothing is scheduled, nothing is in flight, and somebody waits. The message names what everyone waits for.

    Or a ``def`` action does not return: the message names its step and line.
    """


class NotReached(AssertionError):
    """The condition of a ``wait_until`` did not become true within its limit."""


class VirtualLoop(StayingLoop):
    """An event loop in virtual time. Give it as ``loop_factory``.

    ``thread_timeout``: for all that are made from then on, ``THREAD_TIMEOUT`` unless it is set.
    """

    thread_timeout: float = THREAD_TIMEOUT

    def __init__(self) -> None:
        self._now = START
        #: How work in flight holds the clock now; None while nothing is in flight.
        self._held: Hold | None = None
        self._hangs = Hangs()
        let_threads_be_left()
        #: How many turns it has gone.
        self.turns = 0
        #: The turn in which it asks the system again and looks at the timers, though something is to be done.
        self._asks_at = 0
        #: Until when a lull may last without being a deadlock, and how often time has jumped in it.
        self._lull: tuple[float, int] | None = None
        #: The moment at which anyio cancels again and again, and the turn since which it does.
        self._spin = (0.0, 0)
        self._quiet: list[asyncio.Future[None]] = []
        self._watches: list[_Watch] = []
        self._told_of_deadlocks: list[Callable[[Deadlock], object]] = []
        #: Gives what runs in place of a child's coroutine; asked in the context and under the frames of who makes it.
        self.around_child: Callable[[Any], Any] | None = None
        #: Told of each child in the context and under the frames of who makes it.
        self.on_child: Callable[[asyncio.Task[Any]], object] | None = None
        #: The lives that are frozen: nothing is called for them.
        self.frozen: list[Life] = []
        self.flight = InFlight(self, self.frozen, self._hangs.abandoned)
        #: The last time at which something is sure to happen by a timer in the background, such as a slot.
        self.outlook: Callable[[], float] = lambda: self._now
        self._input = _Selector(self)
        super().__init__(self._input)
        # ``time() + resolution`` decides what is due; it must be more than the rounding of a large time
        self._clock_resolution = 1e-6
        self._files = self._input._fd_to_key  # type: ignore[attr-defined]  # what its map shows
        self._own_files = len(self._files)

    def time(self) -> float:
        """Virtual seconds since some moment before the start."""
        return self._now

    # -- waiting

    async def wait_quiet(self) -> None:
        """Return when nobody has anything to do at this time and nothing is in flight; no time passes.

        What is in flight and does not end is waited for as long as the clock waits for it.
        """
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

    # -- turns

    def _run_once(self) -> None:
        """Go one turn. Where something is to be done, and no timer is due, there is nothing to ask the system for."""
        ready = self._ready  # type: ignore[attr-defined]  # asyncio's own, here and below
        self.turns = turns = self.turns + 1
        if not ready or turns >= self._asks_at or self._debug:  # type: ignore[attr-defined]
            self._asks_at = turns + (1 if self._listens else INPUT_EVERY)
            super()._run_once()  # type: ignore[misc]
            return
        if self._watches:
            self.look()
        take = ready.popleft
        for _ in range(len(ready)):
            handle = take()
            if not handle._cancelled:  # as asyncio's own turn asks
                handle._run()

    def ask_at_once(self) -> None:
        """Ask the system, and look at the timers, in the next turn: one may be due, or there is a file to listen to."""
        self._asks_at = 0

    @property
    def is_alone(self) -> bool:
        """Whether, after whoever asks, nobody comes up before time passes or there is input: see ``eventloop``."""
        return not self._ready  # type: ignore[attr-defined]

    @property
    def _listens(self) -> bool:
        """Whether there are other files than the loop's own: what comes there is taken in its turn."""
        return len(self._files) > self._own_files

    # -- what the selector asks

    def look(self) -> bool:
        """Wake every ``wait_until`` whose condition holds now; say whether there was one."""
        if not self._watches:
            return False
        woken = [watch for watch in self._watches if watch.look()]  # all are asked: it may not be so in the next turn
        return bool(woken)

    def pass_time(self, timeout: float | None) -> list[Any]:
        """Nothing is ready: hold, tell that it is quiet, jump, or find a deadlock. Gives the input that has come."""
        is_held = self.flight.is_any()  # asked first: what ends until then has answered before the look
        if events := self._input.look(0):
            self.look()
            return events
        if self.look():
            return []
        if is_held:
            return self._hold(timeout)
        self._held = None
        if self._quiet:
            self._tell_quiet()
        elif timeout is not None and self.timer_handles[0].when() < inf and self._may_come(timeout):
            self._jump(timeout)
        elif self._listens:
            return self._wait_outside()
        else:
            self._tell_deadlock()
        return []

    def _may_come(self, seconds: float) -> bool:
        """Whether the next timer, due in so many seconds, may bring something about."""
        for timer in self.timer_handles:
            if not _in_background(timer):
                self._lull = None
                return True
        until, jumps = self._lull or (max(self._now + LULL, self.outlook()), 0)
        self._lull = until, jumps + 1
        if self._now + seconds <= until or jumps < LULL_JUMPS:
            return True
        self._lull = None  # it is told once; whoever is told may bring something about
        return False

    def until_next(self) -> float | None:
        """If it spins: the seconds until the next timer. To be asked when there is no input."""
        if not any(map(_cancels_again, self.ready_handles)):
            self._spin = (0.0, 0)
        elif self._spin[0] != self._now:
            self._spin = (self._now, self.turns)
        elif self.turns - self._spin[1] >= SPIN and self.timer_handles:
            return max(0.0, float(self.timer_handles[0].when()) - self._now)
        return None

    def jump(self, seconds: float) -> None:
        """Let time pass in the middle of a turn, as a call does that takes long."""
        self._jump(seconds)
        self.ask_at_once()

    def _jump(self, seconds: float) -> None:
        self._now += seconds
        for watch in self._watches:
            watch.give_up(self._now)

    def _hold(self, timeout: float | None) -> list[Any]:
        if self._held is None:
            self._held = Hold()
        events = self._input.look(LOOK_EVERY)
        passed = self._held.look(bool(events), self.flight.work())
        if self._held.is_to_be_told():
            self._tell_of_silence()
        if self._held.is_over and not events:
            self._abandon_threads()
            self._tell_quiet()
        if self._held.is_over and timeout is not None:
            self._jump(min(timeout, passed))
        return events

    def _abandon_threads(self) -> None:
        """Give up what never returns, and tell whoever waits. A frozen life's holds nobody up."""
        frozen = {getattr(child, "_fut_waiter", None) for life in self.frozen for child in life.children}
        for hang in self._hangs.look(list(self.flight.workers), self.thread_timeout):
            if hang.future not in frozen:
                head = f"a `def` action has not returned for {self.thread_timeout:g} s of real time, and was given up:"
                deadlock = Deadlock(f"{head} {hang}\n  {_HINT}")
                hang.abandon(deadlock)
                self._tell(deadlock)

    def _tell_of_silence(self) -> None:
        """Say what holds the clock: a thread cannot be ended, so a test whose thread never returns ends never."""
        lines = describe_threads() or ["a child process, or a thread of a library"]
        head = f"aura: time has stood still for {holding.TOLD_AFTER:g} s, since something works and gives no answer:"
        print("\n  ".join(["", head, *lines]), file=sys.__stderr__, flush=True)

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
        head = f"nothing is scheduled and nothing is in flight at {self._now - START:g} s; what everyone waits for:"
        self._tell(Deadlock("\n  ".join([head, *describe_children(self)])))

    def _tell(self, deadlock: Deadlock) -> None:
        if waiting := [watch for watch in self._watches if not watch.future.done()]:
            for watch in waiting:
                watch.future.set_exception(deadlock)
        elif self._told_of_deadlocks:
            self._told_of_deadlocks.pop()(deadlock)
        else:
            raise deadlock

    # -- lives

    def freeze(self, life: Life) -> None:
        """Let nothing of a life go on, as if its process had been killed."""
        self.frozen.append(life)
        life.freeze(self)

    def thaw(self, life: Life) -> None:
        """Let a frozen life go on from where it was."""
        self.frozen.remove(life)
        life.thaw(self)
        self.ask_at_once()

    @property
    def ready_handles(self) -> Any:
        """What is called in the next turn, in its order."""
        return self._ready  # type: ignore[attr-defined]  # asyncio's own

    @property
    def timer_handles(self) -> Any:
        """The heap of timers."""
        return self._scheduled  # type: ignore[attr-defined]  # asyncio's own

    def take_files(self, mine: Callable[[asyncio.Handle], bool]) -> list[tuple[Any, int, Any]]:
        """Stop listening to the files for whose readers or writers ``mine`` says so; give them for ``give_files``."""
        files = list(self._input.get_map().values())
        taken = [key for key in files if any(handle is not None and mine(handle) for handle in key.data)]
        for key in taken:
            self._input.unregister(key.fileobj)
        return [(key.fileobj, key.events, key.data) for key in taken]

    def give_files(self, files: list[tuple[Any, int, Any]]) -> None:
        """Listen to files again."""
        for file in files:
            self._input.register(*file)

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """Call in the next turn as ever; of a life that is frozen, when that goes on."""
        if self.frozen or self._debug or self._closed:  # type: ignore[attr-defined]  # asyncio's own
            return super().call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def _call_soon(self, callback: Any, args: Any, context: Any) -> asyncio.Handle:
        if self.frozen and (life := _life_in(context)) is not None and life.frozen:
            handle = asyncio.Handle(callback, args, self, context)
            life.park(handle)
            return handle
        return super()._call_soon(callback, args, context)  # type: ignore[misc,no-any-return]  # asyncio's own

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """Call from another thread as ever; for one that was abandoned, never."""
        if self._hangs.may_call():
            return super().call_soon_threadsafe(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        handle.cancel()
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """Call at a time as ever; for a life that is frozen, when that goes on."""
        if self.frozen and (life := _life_in(context)) is not None and life.frozen:
            timer = asyncio.TimerHandle(when, callback, args, self, context)
            life.park(timer)
            return timer
        if when <= self._now + self._clock_resolution:
            self.ask_at_once()
        return super().call_at(when, callback, *args, context=context)

    def create_task(self, coro: Any, **keys: Any) -> "asyncio.Task[Any]":
        """Make a child as ever; it is known as one of its life."""
        task = super().create_task(coro if self.around_child is None else self.around_child(coro), **keys)
        if (life := _life_in(keys.get("context"))) is not None:
            life.children.add(task)
        if self.on_child is not None:
            self.on_child(task)
        return task

    # -- counting what is in flight

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Run in a thread as ever; it holds the clock."""
        future = super().run_in_executor(executor, copy_context().run, func, *args)
        self.flight.note_computing(future)  # not before: an executor that is shut down raises
        return future

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """End the executor's threads as ever; that a thread waits for them holds the clock as well."""
        with self.flight.waiting():
            await super().shutdown_default_executor(*args, **kwargs)

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        """Start a process as ever; it holds the clock until it has ended."""
        made = await super().subprocess_exec(*args, **kwargs)
        self.flight.note_process(made[0])
        return made

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        """Start a process as ever; it holds the clock until it has ended."""
        made = await super().subprocess_shell(*args, **kwargs)
        self.flight.note_process(made[0])
        return made


class _Selector(selectors.DefaultSelector):
    """Looks for input and waits only as the loop says."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        """Give the input that is there; if there is none, and nothing else to do, let time pass."""
        if timeout is None or timeout > 0:
            return self._loop.pass_time(timeout)
        events = self.look(0)
        if self._loop.look() or events or (seconds := self._loop.until_next()) is None:
            return events
        return self._loop.pass_time(seconds)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Listen to a file as ever, from the next turn on."""
        self._loop.ask_at_once()
        return super().register(fileobj, events, data)

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
        loop.flight.gates.append(self)

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

    @cached_property
    def _loop(self) -> VirtualLoop:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return loop

    def wall(self) -> float:
        return self._offset + self._loop._now

    def monotonic(self) -> float:
        return self._loop._now

    def jump(self, seconds: float) -> None:
        """Set the clock, as somebody does who corrects it; who waits for a time sees it within ``recheck`` seconds."""
        self._offset += seconds


def _cancels_again(handle: asyncio.Handle) -> bool:
    """Whether it is anyio that tries again to cancel what it has cancelled before."""
    callback = handle._callback  # type: ignore[attr-defined]  # asyncio's own
    return getattr(callback, "__name__", "") == "_deliver_cancellation"


def _in_background(timer: asyncio.TimerHandle) -> bool:
    return timer.cancelled() or timer._context.get(IN_BACKGROUND, False)  # type: ignore[attr-defined]  # asyncio's own


def _life_in(context: Context | None) -> Life | None:
    """The life that a context is of, the present one if it is None."""
    return LIFE.get() if context is None else context.get(LIFE)
