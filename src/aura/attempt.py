"""The attempt boundary: where a stop becomes one edge, and where everything that an action does becomes a value.

Theory of operation. anyio delivers a cancellation as a level: again at every await, so that an unshielded clean-up in
somebody's ``finally`` is lost, and an action that swallows it burns a core. Here, and nowhere else, a stop is delivered
as one *edge*. An attempt is awaited inside two scopes; ``outer`` is cancelled, and ``inner`` becomes a shield as soon
as the cancellation has been taken, so that none follows:

- in the same turn, if the child took it then (``task.cancelling()`` grew);
- else (its waiter was already done, it is the running child, it has not begun, or it sits in a shield of its own)
  when the ``CancelledError`` is thrown into the attempt, which the send/throw wrapper round its coroutine sees. To
  shield regardless would lose the stop.

*Evidence* is whether our edge was thrown into the attempt (``seen``). Not seen: the attempt ended by itself; a
``CancelledError`` is then stray, an error is its own. Seen: a ``CancelledError`` is a stop, any other error is a stop
whose clean-up failed, and a returned value is a finished step all the same.

When the grace after an edge is over, the shield is opened once and closed by the same rule (the *pulse*); when that
does not help either the attempt is *stuck*: its owner is told, with the line where it hangs. It may still end later.

Nothing leaves the boundary: it catches inside both scopes, and before the child's next await what a stranger left on
it (``task.cancel()`` by somebody else) is used up. What a crash does: the start of an attempt was committed before it
began, so the next boot finds it as started and not ended.
"""

import asyncio
import sys
import threading
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from anyio import CancelScope

from aura.actions import Log
from aura.graph import StepProgress
from aura.lifecycle import Stop

#: Seconds between the pulse and giving an attempt up as stuck.
PULSE = 0.05


class Edge:
    """Awaits a coroutine and delivers at most one cancellation to it, and one more by ``pulse``.

    ``value`` or ``error`` is what came of it; ``seen`` whether our edge was thrown in.
    """

    __slots__ = ("_coroutine", "_inner", "_outer", "_task", "error", "seen", "value")

    def __init__(self) -> None:
        # outer: the one coroutine of ``hold``; ended by ``deliver`` or by the coroutine's own end.
        # inner: the same; it is the shield that turns the level into an edge. It cannot hang anything for ever: when
        # the grace is over the attempt is pulsed and then left behind as stuck, and its owner waits no longer.
        self._outer = CancelScope()
        self._inner = CancelScope()
        self._task: asyncio.Task[Any] | None = None
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self.seen = False
        self.value: Any = None
        self.error: BaseException | None = None

    async def hold(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Await ``coroutine``; never raises what it raises, whatever that is."""
        self._task = task = asyncio.current_task()
        assert task is not None
        base = task.cancelling()
        self._coroutine = coroutine
        with self._outer, self._inner:
            try:
                self.value = await self
            except BaseException as error:
                self.error = error
        if task.cancelling() > base:  # a stranger's cancel must not meet our next await
            while task.cancelling() > base:
                task.uncancel()
            with suppress(CancelledError):  # once: a level would come again for ever, and is for our owner to see
                await asyncio.sleep(0)

    def deliver(self, reason: str) -> None:
        """Cancel, as one edge. Does not wait."""
        self._shield_if_taken(lambda: self._outer.cancel(reason))

    def pulse(self) -> None:
        """Open the shield once, by the same rule; anyio then delivers again what ``outer`` already has."""
        self._shield_if_taken(self._open)

    def _open(self) -> None:
        self._inner.shield = False

    def _shield_if_taken(self, cancel: Callable[[], object]) -> None:
        before = self._task.cancelling() if self._task else 0
        cancel()
        if self._task and self._task.cancelling() > before:
            self._inner.shield = True

    # -- the send/throw wrapper round the coroutine; a world counts suspension points here as well

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # type: ignore[return-value]  # it has send, throw and close: all that an await needs

    def __iter__(self) -> "Edge":
        return self

    def __next__(self) -> Any:
        assert self._coroutine is not None
        return self._coroutine.send(None)

    def send(self, value: Any) -> Any:
        assert self._coroutine is not None
        return self._coroutine.send(value)

    def throw(self, error: BaseException, *_: Any) -> Any:
        assert self._coroutine is not None
        if isinstance(error, CancelledError) and self._outer.cancel_called:
            self.seen = True
            self._inner.shield = True
        return self._coroutine.throw(error)

    def close(self) -> None:
        assert self._coroutine is not None
        self._coroutine.close()

    def frames(self) -> list[FrameType]:
        """The frames that the coroutine is suspended in, outermost first."""
        frames: list[FrameType] = []
        inner: Any = self._coroutine
        while inner is not None:
            frame = _first(inner, "cr_frame", "gi_frame", "ag_frame")
            if frame is not None:
                frames.append(frame)
            inner = _first(inner, "cr_await", "gi_yieldfrom", "ag_await")
        return frames


def _first(thing: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(thing, name, None)) is not None), None)


class Owner(Protocol):
    """What an attempt asks of the run that it is part of (``liverun.LiveRun``)."""

    cid: str
    boot_tag: str
    stop: Stop | None
    used_processes: bool

    @property
    def code_prefix(self) -> str: ...
    @property
    def workdir(self) -> Path: ...
    def logger(self, step: str | None = None, attempt: int | None = None) -> Log: ...
    def note_progress(self, step: str, done: float, total: float | None, message: str) -> None: ...


class EdgeCause(Enum):
    """Why an attempt got its edge."""

    #: Its run is being stopped.
    RUN = auto()
    #: Its own time-out.
    TIMEOUT = auto()
    #: Another step has ended the run (``stop``).
    ENDED = auto()


class Attempt:
    """One start of one step: its edge, its grace, and what stands behind its ``ctx``.

    Invariant: ``cause`` is set in the turn in which the edge is delivered, once.
    """

    __slots__ = (
        "_log",
        "_loop",
        "_on_stuck",
        "_timeout_timer",
        "_timer",
        "cause",
        "deadline",
        "edge",
        "grace",
        "over",
        "pulsed",
        "run",
        "step",
        "stuck",
        "thread",
    )

    def __init__(self, run: Owner, step: StepProgress, grace: float, on_stuck: Callable[["Attempt"], object]) -> None:
        self.run = run
        self.step = step
        self.grace = grace
        self.edge = Edge()
        self.cause: EdgeCause | None = None
        #: Loop time at which the grace is over.
        self.deadline = float("inf")
        self.over = False
        self.pulsed = False
        self.stuck = False
        #: The ident of the worker thread of a ``def`` action.
        self.thread: int | None = None
        self._on_stuck = on_stuck
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timeout_timer: asyncio.TimerHandle | None = None
        self._log: Log | None = None

    # -- stopping

    def request_stop(self, cause: EdgeCause, reason: str, grace: float | None = None) -> None:
        """Deliver the edge if there was none, and give it ``grace`` seconds; a nearer deadline replaces a later one."""
        if self.over:
            return
        if self.cause is None:
            self.cause = cause
            self._arm(self._loop.time() + (self.grace if grace is None else grace))
            self.edge.deliver(reason)
        elif not self.pulsed:
            self._arm(min(self.deadline, self._loop.time() + (self.grace if grace is None else grace)))

    def time_out_after(self, seconds: float) -> None:
        """Stop it by its own time-out ``seconds`` from now, unless an earlier one is set already."""
        if self._timeout_timer:
            if self._timeout_timer.when() <= self._loop.time() + seconds:
                return
            self._timeout_timer.cancel()
        self._timeout_timer = self._loop.call_later(seconds, self.request_stop, EdgeCause.TIMEOUT, "timeout")

    def finish(self) -> None:
        """End its timers; from now on its ``ctx`` refuses."""
        self.over = True
        for timer in (self._timer, self._timeout_timer):
            if timer:
                timer.cancel()

    def _arm(self, deadline: float) -> None:
        if self._timer:
            self._timer.cancel()
        self.deadline = deadline
        self._timer = self._loop.call_at(deadline, self._grace_over)

    def _grace_over(self) -> None:
        self.pulsed = True
        self.edge.pulse()
        self._timer = self._loop.call_later(PULSE, self._give_up)

    def _give_up(self) -> None:
        if not self.over:
            self.stuck = True
            self._on_stuck(self)

    def hangs_at(self) -> str | None:
        """``file:line`` of the innermost line of plan code that it hangs in; of any code, if no plan code is there."""
        frames = self.edge.frames()
        if self.thread is not None and (top := sys._current_frames().get(self.thread)):
            frames += _stack(top)
        own = [f for f in frames if f.f_code.co_filename.startswith(self.run.code_prefix)]
        if not frames:
            return None
        frame = (own or frames)[-1]
        return f"{frame.f_code.co_filename}:{frame.f_lineno}"

    # -- what ctx stands on (actions.ContextHost)

    @property
    def live(self) -> bool:
        return not self.over and not self.stuck

    @property
    def log(self) -> Log:
        if self._log is None:
            self._log = self.run.logger(self.step.name, self.step.attempt)
        return self._log

    @property
    def stopping_because(self) -> str | None:
        if self.cause is EdgeCause.RUN and self.run.stop is not None:
            return self.run.stop.label
        return self.cause.name.lower() if self.cause else None

    @property
    def workdir(self) -> Path:
        return self.run.workdir

    @property
    def process_environment(self) -> Mapping[str, str]:
        self.run.used_processes = True
        return {
            "AURA_BOOT": self.run.boot_tag,
            "AURA_CID": self.run.cid,
            "AURA_STEP": self.step.name,
            "AURA_ATTEMPT": str(self.step.starts),
        }

    def grace_left(self) -> float:
        return max(0.0, self.deadline - self._loop.time())

    def progress(self, done: float, total: float | None, message: str) -> None:
        self.run.note_progress(self.step.name, done, total, message)

    def run_in_thread(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` in the present worker thread, whose ident is noted so that a hang can be named."""
        self.thread = threading.get_ident()
        return function()


def _stack(top: FrameType | None) -> list[FrameType]:
    frames = []
    while top is not None:
        frames.append(top)
        top = top.f_back
    return frames[::-1]
