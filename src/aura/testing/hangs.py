"""Threads of ``def`` actions that never return: when one is abandoned, and what is left of it.

Theory of operation. Nobody can end a thread from outside. One that has neither returned nor asked the loop for anything
for so many real seconds is *abandoned*: what its step waits for is given a ``Deadlock`` that names it, so that the step
fails and its server can stop, and whoever waits in the test is told the same. An exception is thrown into the thread,
which ends a loop in Python. What blocks in C stays, blocked: nothing that it calls on the loop gets there any more, and
the end of the process does not wait for it. What it does to files or to memory when it wakes up nobody can prevent.

Whose a thread is, and what its step waits for, is read from its frames: ``Attempt.run_in_thread`` knows the attempt,
anyio's worker the future. A thread that waits for the loop is not looked at: it is the loop's turn.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any, NamedTuple
from weakref import WeakSet

from anyio._backends import _asyncio as _anyio

from aura.loading.importing import throw_exit_into
from aura.runs.attempt import Attempt
from aura.testing.plancode import innermost_line

_ASKS_THE_LOOP = (
    _anyio.AsyncIOBackend.run_async_from_thread.__code__,
    _anyio.AsyncIOBackend.run_sync_from_thread.__code__,
)
_WORKS = _anyio.WorkerThread.run.__code__
_ACTS = Attempt.run_in_thread.__code__


class Hang(NamedTuple):
    """A thread that computes for an attempt. ``future`` is what the attempt's step waits for."""

    thread: _anyio.WorkerThread
    attempt: Attempt
    future: "asyncio.Future[Any]"
    #: The line of the plan at which it stands, as ``lab/actions.py:12``.
    where: str | None

    def __str__(self) -> str:
        step = f"step {self.attempt.step.name!r} of run {self.attempt.run.cid}"
        return f"{step}, at {self.where or 'no line of a plan'}"

    def abandon(self, error: Exception) -> None:
        """Have its step fail with an error; the thread ends as soon as it returns, if it ever does."""
        self.thread.root_task.remove_done_callback(self.thread.stop)
        self.thread.stop()
        throw_exit_into(self.thread)
        if not self.future.done():
            self.future.set_exception(error)


class Hangs:
    """What is known of the worker threads of one loop."""

    def __init__(self) -> None:
        #: Since when a thread computes the same, in real time, and for which future that is.
        self._since: dict[threading.Thread, tuple[object, float]] = {}
        #: When a thread has called the loop for the last time.
        self._called: dict[int, float] = {}
        self.abandoned: WeakSet[threading.Thread] = WeakSet()

    def may_call(self) -> bool:
        """Note that the present thread calls the loop; say whether it may."""
        if self.abandoned and threading.current_thread() in self.abandoned:
            return False
        self._called[threading.get_ident()] = time.monotonic()
        return True

    def look(self, workers: Iterable[_anyio.WorkerThread], seconds: float) -> list[Hang]:
        """Those that have given no sign for so many real seconds; they count as abandoned from now on."""
        now, frames = time.monotonic(), sys._current_frames()
        computing = [hang for thread in workers if (hang := _hang_of(thread, frames)) is not None]
        self._since = {hang.thread: (hang.future, self._begun(hang, now)) for hang in computing}
        over = [hang for hang in computing if now - self._last_sign(hang) > seconds]
        self.abandoned.update(hang.thread for hang in over)
        return over

    def _begun(self, hang: Hang, now: float) -> float:
        future, since = self._since.get(hang.thread, (None, now))
        return since if future is hang.future else now

    def _last_sign(self, hang: Hang) -> float:
        return max(self._since[hang.thread][1], self._called.get(hang.thread.ident or 0, 0.0))


def _hang_of(thread: _anyio.WorkerThread, frames: Mapping[int, FrameType]) -> Hang | None:
    """What a worker computes for an attempt; None if it is idle, waits for the loop or works for somebody else."""
    top = frame = frames.get(thread.ident or 0)
    attempt = None
    while frame is not None and frame.f_code not in _ASKS_THE_LOOP:
        if frame.f_code is _ACTS:
            attempt = frame.f_locals["self"]
        elif frame.f_code is _WORKS and attempt is not None:
            return Hang(thread, attempt, frame.f_locals["future"], innermost_line(top))
        frame = frame.f_back
    return None


class _Worker(_anyio.WorkerThread):
    """One of anyio's; the end of the process does not wait for those of a loop whose threads may be abandoned.

    Such a loop is told of each answer.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        if getattr(self.loop, "thread_timeout", None) is not None:
            self.daemon = True

    def _report_result(self, *args: Any) -> None:
        if (flight := getattr(self.loop, "flight", None)) is not None:
            flight.note_answer()
        super()._report_result(*args)


def let_threads_be_left() -> None:
    """Have anyio make such workers; it has no public word for it. Harmless if it does already."""
    _anyio.WorkerThread = _Worker  # type: ignore[misc,assignment]
