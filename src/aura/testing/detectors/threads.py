"""Threads that a run has left: alive, not there before, and neither Aura's own nor an idle worker of a pool.

A worker of anyio's or asyncio's pool stays for the next one who needs a thread; it is a leak while it is in code of a
plan for a run that has ended or is stuck. A thread cannot be ended from outside, so ``close`` leaves them.
"""

import sys
import threading
from collections.abc import Callable
from concurrent.futures.thread import _WorkItem
from contextvars import Context
from types import FrameType

from aura.runs.attempt import Attempt
from aura.runs.runtime import Runtime
from aura.testing.detectors.detector import Leak, has_ended
from aura.testing.detectors.makings import Makings
from aura.testing.plancode import RUNNING, innermost_line, plan_line

_POOLS = ("AnyIO worker", "asyncio_")
#: What the names of Aura's own begin with, and of those of asyncio that wait for a child process.
_NOT_A_PLANS = ("aura ", "aura-", "asyncio-waitpid-")


class Threads:
    """Detects threads. ``runtime`` gives that of the present life."""

    def __init__(self, runtime: Callable[[], Runtime], makings: Makings) -> None:
        self._runtime = runtime
        self._makings = makings
        self._known: set[threading.Thread] = set()
        self._numbers: set[int] = set()

    def begin(self) -> None:
        self._known = set(threading.enumerate())
        self._numbers = set(sys._current_frames())

    def left(self) -> list[Leak]:
        alive = threading.enumerate()
        named = [thread for thread in alive if not thread.name.startswith(_NOT_A_PLANS)]
        suspect = [one for one in named if one.name.startswith(_POOLS) or one not in self._known]
        frames = sys._current_frames()
        found = [leak for thread in suspect if (leak := self._leak(thread, frames.get(thread.ident or 0)))]
        nameless = frames.keys() - self._numbers - {thread.ident for thread in alive}
        return found + [_nameless(number, where) for number in nameless if (where := innermost_line(frames[number]))]

    def close(self) -> None:
        pass

    def _leak(self, thread: threading.Thread, frame: FrameType | None) -> Leak | None:
        if frame is None or isinstance(thread, threading._DummyThread):  # it is ending, or none of Python's
            return None
        where = innermost_line(frame)
        if thread.name.startswith(_POOLS):
            busy = where is not None and self._is_late(_runs_for(frame))
            return Leak("thread", f"{thread.name}, still at {where}", where) if busy else None
        made = self._makings.of_thread(thread)
        if made is not None and (made.by_service or made.by_aura):
            return None
        stands = where or f"{frame.f_code.co_filename}:{frame.f_lineno}"
        return Leak("thread", f"{thread.name}, now at {stands}", made.where if made else where)

    def _is_late(self, running: object) -> bool:
        if not isinstance(running, Attempt):
            return False
        runtime: Runtime = self._runtime()
        return running.stuck or has_ended(runtime, running)


def _nameless(number: int, where: str) -> Leak:
    return Leak("thread", f"{number}, now at {where}", where)


def _runs_for(frame: FrameType | None) -> object:
    """What a worker of a pool was given its work by: among what the pool's own frames know is the context of that."""
    while frame is not None:
        for value in [] if plan_line(frame) else list(frame.f_locals.values()):
            # an executor's item has a method of its context
            call = getattr(value.fn, "__self__", None) if type(value) is _WorkItem else value
            if type(call) is Context and (running := call.get(RUNNING)) is not None:
                return running
        frame = frame.f_back
    return None
