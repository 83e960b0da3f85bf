"""The attempt boundary: one start of one step, with its edge, its grace and what stands behind its ``ctx``.

Theory of operation. A stop, or a time-out of the step's own, sends the attempt its *edge* (``edge``), once, and gives
it a grace. When the grace is over comes one *pulse*; when that does not help either the attempt is *stuck*: its owner
is told, with the line where it hangs. It may still end later.

*Evidence* is whether the edge was thrown in (``edge.seen``). Not seen: the attempt ended by itself; a
``CancelledError`` is then stray, an error is its own. Seen: a ``CancelledError`` is a stop, any other error is a stop
whose clean-up failed, and a returned value is a finished step all the same, unless the attempt is stuck.

What a crash does: the start of an attempt was committed before it began, so the next boot finds it as started and not
ended.
"""

import asyncio
import math
import sys
import threading
from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

from aura.context import Log, StateHost
from aura.events import Emitter
from aura.graph import Progress
from aura.lifecycle import Stop
from aura.plan import Plan
from aura.redaction import Redactor, Stream
from aura.runs.deadline import Timed, deadline_of
from aura.runs.edge import Edge

#: Seconds between the pulse and giving an attempt up as stuck.
PULSE = 0.05


class Owner(Timed, Protocol):
    """What an attempt asks of the run that it is part of (``liverun.LiveRun``)."""

    cid: str
    boot_tag: str
    stop: Stop | None
    used_processes: bool
    redactor: Redactor

    @property
    def code_prefixes(self) -> tuple[str, ...]: ...
    @property
    def workdir(self) -> Path: ...
    def logger(self, step: str | None = None, attempt: int | None = None) -> Log: ...
    def note_progress(self, step: str, done: float, total: float | None, message: str) -> None: ...
    def emitter(self, step: str | None = None) -> Emitter: ...


class Calls(Protocol):
    """What carries out the calls of ``ctx.run`` and ``ctx.start`` (``children.Children``)."""

    async def run(self, attempt: "Attempt", task: str, inputs: Mapping[str, Any], plan: str | None) -> Any: ...
    async def start(self, attempt: "Attempt", task: str, inputs: Mapping[str, Any], plan: str | None) -> str: ...


class States(Protocol):
    """What ``ctx.state`` stands on (``planstates.PlanStates``)."""

    def access(self, plan_name: str, origin: Callable[[], Emitter]) -> StateHost: ...


class KeepsCheckpoints(Protocol):
    """What carries out ``ctx.checkpoint`` (``checkpoints.Checkpoints``)."""

    async def put(self, attempt: "Attempt", value: Any) -> None: ...
    def last(self, attempt: "Attempt") -> Any: ...


class Emits(Protocol):
    """What carries out the calls of ``ctx.emit`` (``emitting.Emitting``)."""

    async def for_step(self, attempt: "Attempt", name: str, payload: Any) -> str: ...


class EdgeCause(Enum):
    """Why an attempt got its edge."""

    #: Its run is being stopped.
    RUN = auto()
    #: Its own time-out.
    TIMEOUT = auto()
    #: Another step has ended the run (``stop``).
    ENDED = auto()


class HeldBack(NamedTuple):
    """A stop of its run that an attempt has not been given yet, with the grace that goes with it, in seconds.

    ``timer`` delivers it when the attempt has had its time to end by itself.
    """

    reason: str
    grace: float
    timer: asyncio.TimerHandle | None


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
        "calls",
        "calls_made",
        "cause",
        "checkpoints",
        "deadline",
        "edge",
        "emits",
        "grace",
        "held_back",
        "home",
        "on_told",
        "over",
        "pulsed",
        "run",
        "states",
        "step",
        "stuck",
        "thread",
        "wants_thread",
    )

    def __init__(self, run: Owner, step: Progress, grace: float, on_stuck: Callable[["Attempt"], object]) -> None:
        self.run = run
        self.step = step
        self.grace = grace
        self.edge = Edge()
        self.cause: EdgeCause | None = None
        #: Loop time at which the grace is over.
        self.deadline = math.inf
        #: The edge that waits until it has ended by itself, or what it waits for rests; None while none does.
        self.held_back: HeldBack | None = None
        self.over = False
        self.pulsed = False
        self.stuck = False
        #: It is a ``def`` action's, and the ident of the worker thread that it got.
        self.wants_thread = False
        self.thread: int | None = None
        #: What stands behind ``ctx.run``, the plan whose action it is, and how often ``ctx.run`` was called.
        self.calls: Calls | None = None
        #: What stands behind ``ctx.emit``.
        self.emits: Emits | None = None
        self.home: Plan | None = None
        self.calls_made = 0
        #: What stands behind ``ctx.state`` and ``ctx.checkpoint``.
        self.states: States | None = None
        self.checkpoints: KeepsCheckpoints | None = None
        #: Told of each stop, in the turn in which it comes: what the attempt waits for has to stop as well.
        self.on_told: Callable[[Attempt], object] | None = None
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
        if self.held_back is not None:
            self._drop_held_back()
        if self.cause is None:
            self.cause = cause
            self._arm(self._loop.time() + (self.grace if grace is None else grace))
            self.edge.deliver(reason)
        elif not self.pulsed:
            self._arm(min(self.deadline, self._loop.time() + (self.grace if grace is None else grace)))
        if self.on_told is not None:
            self.on_told(self)

    def hold_back(self, reason: str, grace: float, *, ends: bool = True) -> None:
        """Let it end by itself for ``grace`` seconds, then deliver the edge of its run's stop with as many again.

        Unless ``ends`` it is let end however long that takes. A stop of another kind delivers the edge at once.
        """
        if self.cause is None and self.held_back is None and not self.over:
            self.held_back = HeldBack(reason, grace, self._loop.call_later(grace, self.let_go) if ends else None)
            if self.on_told is not None:
                self.on_told(self)

    def let_go(self) -> None:
        """Deliver the edge that was held back; harmless if none was."""
        if self.held_back is not None:
            self.request_stop(EdgeCause.RUN, self.held_back.reason, self.held_back.grace)

    def _drop_held_back(self) -> None:
        if self.held_back is not None and self.held_back.timer is not None:
            self.held_back.timer.cancel()
        self.held_back = None

    def time_out_after(self, seconds: float) -> None:
        """Stop it by its own time-out ``seconds`` from now, unless an earlier one is set already."""
        if self._timeout_timer:
            if self._timeout_timer.when() <= self._loop.time() + seconds:
                return
            self._timeout_timer.cancel()
        self._timeout_timer = self._loop.call_later(seconds, self.request_stop, EdgeCause.TIMEOUT, "timeout")

    @property
    def timeout_at(self) -> float:
        """The loop time at which its own time-out strikes; infinite if it has none."""
        return self._timeout_timer.when() if self._timeout_timer else math.inf

    def finish(self) -> None:
        """End its timers; from now on its ``ctx`` refuses."""
        self.over = True
        if self.held_back is not None:
            self._drop_held_back()
        if self._timer is not None:
            self._timer.cancel()
        if self._timeout_timer is not None:
            self._timeout_timer.cancel()

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
        own = [f for f in frames if f.f_code.co_filename.startswith(self.run.code_prefixes)]
        if not frames:
            return None
        frame = (own or frames)[-1]
        return f"{frame.f_code.co_filename}:{frame.f_lineno}"

    # -- what ctx stands on (actions.ContextHost)

    @property
    def live(self) -> bool:
        return not self.over and not self.stuck

    @property
    def plan_name(self) -> str:
        assert self.home is not None
        return self.home.name

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

    def time_left(self) -> float:
        if self.cause is not None:
            return self.grace_left()
        return max(0.0, min(self.timeout_at, deadline_of(self.run)) - self._loop.time())

    def progress(self, done: float, total: float | None, message: str) -> None:
        self.run.note_progress(self.step.key, done, total, message)

    async def run_task(self, task: str, inputs: Mapping[str, Any], plan: str | None) -> Any:
        assert self.calls is not None
        return await self.calls.run(self, task, inputs, plan)

    async def start_task(self, task: str, inputs: Mapping[str, Any], plan: str | None) -> str:
        assert self.calls is not None
        return await self.calls.start(self, task, inputs, plan)

    async def emit(self, event: str, payload: Any) -> str:
        assert self.emits is not None
        return await self.emits.for_step(self, event, payload)

    @property
    def state(self) -> StateHost:
        assert self.states is not None
        return self.states.access(self.plan_name, partial(self.run.emitter, self.step.name))

    async def checkpoint(self, value: Any) -> None:
        assert self.checkpoints is not None
        await self.checkpoints.put(self, value)

    @property
    def checkpointed(self) -> Any:
        assert self.checkpoints is not None
        return self.checkpoints.last(self)

    def hiding(self) -> Stream:
        return self.run.redactor.stream()

    def run_in_thread(self, function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        """Call ``function`` in the present worker thread, whose ident is noted so that a hang can be named.

        What it raises is given back: a future does not carry every error, and a ``GeneratorExit`` closes who awaits it.
        """
        self.thread = threading.get_ident()
        try:
            return function(), None
        except BaseException as error:
            return None, error


def _stack(top: FrameType | None) -> list[FrameType]:
    frames = []
    while top is not None:
        frames.append(top)
        top = top.f_back
    return frames[::-1]
