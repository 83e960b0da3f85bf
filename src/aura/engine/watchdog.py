"""The loop watchdog: whoever blocks the event loop is named, in the log, in its run, in the status and in a metric.

Theory of operation. Everything in the server goes on from one event loop, so a step that computes, or sleeps, without
an ``await`` stops all of it, and nothing on the loop can tell while that lasts. So the loop *beats*, every ``BEAT``
seconds, and a thread looks at the beat as often. The thread only watches: it runs no work and decides nothing, and what
it finds is told by the loop when that is back. Only of a block that has lasted for ``LONG`` it says so at once.

What a block is: one call of the loop (``culprit.Culprit.handle``) that two looks have found running and that lasted for
``BLOCKED`` seconds. What is none:
- many short calls in one turn of the loop: it is busy, which ``aura_loop_lag_seconds`` shows;
- a loop that waits, though its beat is late: it was not given the processor, or not the interpreter;
- time in which the whole process stood still (SIGSTOP, a laptop that slept): the thread woke late as well, and the loop
  used no processor time meanwhile. (A regular expression that goes wild does; it only keeps the thread from looking);
- time in which the loop could have gone on and got no processor: the machine was busy with others;
- a debugger.

The ties. A block that is over when the loop beats is told in that beat, so that its line is in the log before the end
of its run is. The thread is a daemon, ends with the service child, and hands its errors to it. What a crash does: of a
block that lasts nothing is left but what was said on stderr.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from aura.context import Log
from aura.engine.blocks import BEAT, LONG, LOOK, Block, Watch
from aura.engine.culprit import Place, culprit_of
from aura.runs.runtime import Runtime

#: For how many seconds a long block keeps the server from being ready, and any block is shown; and how many are.
UNREADY_FOR, SHOWN_FOR, SHOWN = 60.0, 3600.0, 10
#: How long the end of the thread is waited for, in seconds: it only ever waits for its next look, or for stderr.
THREAD_END = 0.2
#: What a block that no plan is to blame for is counted as.
NO_PLAN = "(none)"
#: What is said for a place that C code let nobody see.
UNSEEN = "a place that could not be seen"


class _Shown(NamedTuple):
    """What is kept of a block; ``when`` is monotonic time, ``text`` says what, by whom and where."""

    when: float
    text: str
    status: dict[str, Any]


class Watchdog:
    """Watches the running loop (``serve``), and knows what was found lately. One for an engine.

    ``is_ready``: whether there is anything yet that could be kept from going on. ``tell`` is called by the thread with
    what is to be said of a long block while it lasts.
    """

    def __init__(self, runtime: Runtime, is_ready: Callable[[], bool], on_long: Callable[[], object]) -> None:
        self._runtime = runtime
        self._is_ready = is_ready
        self._on_long = on_long
        self.tell: Callable[[str], object] = bool
        #: How late the last beat was, in seconds.
        self.lag = 0.0
        self._shown: deque[_Shown] = deque(maxlen=SHOWN)
        #: The long ones: no number of others puts these out.
        self._long: deque[_Shown] = deque(maxlen=SHOWN)

    async def serve(self) -> None:
        """Watch until cancelled.

        Raises:
            Exception: what the thread has failed with.
        """
        ident = threading.get_ident()
        who = partial(culprit_of, self._runtime.open)
        watch = Watch(time.monotonic, who, _used_by(ident), _starved(threading.get_native_id()))
        thread = _Thread(watch, ident, self._tell_long)
        thread.start()
        try:
            while True:
                await anyio.sleep(BEAT)
                self.lag, over = watch.beat()
                self._report(over)
                if thread.failure is not None:
                    raise thread.failure
        finally:
            thread.end()

    def _tell_long(self, block: Block) -> None:
        if self._is_ready():
            self.tell(f"{_text_of(block)} so far")

    def _report(self, over: Iterable[Block]) -> None:
        for block in over if self._is_ready() else ():
            runtime = self._runtime
            owner = block.run or block.asked
            label = runtime.measures.label(owner.plan_name) if owner is not None else NO_PLAN
            runtime.measures.note_block(label, block.seconds)
            as_shown = _as_shown(runtime.clock.wall(), block)
            shown = _Shown(runtime.clock.monotonic(), _text_of(block), as_shown)
            self._shown.append(shown)
            self._log(block)
            if block.seconds >= LONG:
                self._long.append(shown)
                self._on_long()

    def _log(self, block: Block) -> None:
        log: Log = self._runtime.log
        if block.run is not None and block.attempt is not None:
            log = block.run.logger(block.attempt.step.name, block.attempt.step.attempt)
        elif block.asked is not None:
            log = block.asked.logger()
        place = block.place
        advice = "; await there what takes long, or make it a def action" if place and place.own else ""
        log.warning(
            f"blocked the event loop for {block.seconds:.2f} s at {place or UNSEEN}: nothing else went on{advice}",
            blocked_s=round(block.seconds, 3), **_fields_of(place),
        )  # fmt: skip

    # -- what is shown

    @property
    def reasons(self) -> list[str]:
        """The long blocks of the last minute: why the server is not ready."""
        if not self._long:
            return []
        now = self._runtime.clock.monotonic()
        lately = (shown for shown in self._long if now - shown.when < UNREADY_FOR)
        return [f"{shown.text}, {now - shown.when:.0f} s ago" for shown in lately]

    def status(self) -> dict[str, Any]:
        """What the status says of the loop. Times are Unix seconds."""
        now = self._runtime.clock.monotonic()
        lately = [shown.status for shown in self._shown if now - shown.when < SHOWN_FOR]
        return {"lag_s": round(self.lag, 3), "stalled": bool(self.reasons), "blocked": lately}


def _text_of(block: Block) -> str:
    step = f" step {block.attempt.step.name}" if block.attempt is not None else ""
    by = f"by run {block.run.cid}{step} " if block.run is not None else ""
    by = f"by the poll of {block.asked.name} " if block.asked is not None else by
    return f"the event loop was blocked for {block.seconds:.1f} s {by}at {block.place or UNSEEN}"


def _fields_of(place: Place | None) -> dict[str, Any]:
    if place is None:
        return {"file": None, "line": None, "function": None}
    return {"file": place.file, "line": place.line, "function": place.function}


def _as_shown(at: float, block: Block) -> dict[str, Any]:
    run, attempt, owner = block.run, block.attempt, block.run or block.asked
    return {
        "at": at,
        "seconds": round(block.seconds, 3),
        **_fields_of(block.place),
        "cid": run.cid if run is not None else None,
        "plan_name": owner.plan_name if owner is not None else None,
        "task_name": run.task_name if run is not None else None,
        "step": attempt.step.name if attempt is not None else None,
    }


class _Thread:
    """The thread that looks, until ``end``. It raises nothing: its ``failure`` is its owner's."""

    def __init__(self, watch: Watch, ident: int, tell: Callable[[Block], object]) -> None:
        """``ident`` is the thread's that the loop runs in."""
        self._watch, self._ident, self._tell = watch, ident, tell
        self._going_on = threading.Lock()  # released by ``end``; no Event: nothing may come between waking and looking
        self._going_on.acquire()
        self._thread = threading.Thread(target=self._look, name="aura loop watchdog", daemon=True)
        self.failure: Exception | None = None
        self.start = self._thread.start

    def _look(self) -> None:
        try:
            while not self._going_on.acquire(timeout=LOOK):
                if (block := self._watch.look(sys._current_frames().get(self._ident))) is not None:
                    self._tell(block)
        except Exception as error:  # raised by the service child, which heals
            self.failure = error

    def end(self) -> None:
        """End it, and wait for that; one that hangs at a terminal that was stopped is left, and ends after that."""
        self._going_on.release()
        self._thread.join(THREAD_END)


def _used_by(ident: int) -> Callable[[], float]:
    """Gives the processor time of a thread in seconds; always 0 where the system does not tell."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return float
    number = time.pthread_getcpuclockid(ident)
    return lambda: time.clock_gettime(number)


def _starved(native_id: int) -> Callable[[], bool]:
    """Gives whether a thread is runnable: if it then uses no processor time, others have the processors."""
    stat = Path(f"/proc/self/task/{native_id}/stat")

    def is_runnable() -> bool:
        with suppress(OSError):  # this system has no such file
            return stat.read_bytes().rpartition(b")")[2].split()[0] == b"R"
        return False

    return is_runnable
