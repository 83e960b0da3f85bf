"""The boundary round every service child: one that fails heals, and ends nothing but itself.

Theory of operation. A service child is one that serves as long as the server, or the engine, does: the dispatcher, the
writer of logs, the door. Each is run by ``Supervisor.serve``, inside the child itself, so that no error of it ever
reaches its group. What counts as a failure is every exception that is not a cancellation of this child, ``SystemExit``
and ``KeyboardInterrupt`` of a bug included, and a return that nobody asked for. A failed child is logged with its
traceback, is a reason for ``degraded`` until it serves again, stays counted, and is served again after a pause.

The rules of the pauses.
- The first is ``FIRST_PAUSE``; each is twice as long as the one before, up to ``LONGEST_PAUSE``, or less where a child
  that people need to get in, or out, says so.
- A child that has served for at least its longest pause has served well: its next pause is the first one again.
- A child that is told to end (``told``) ends a pause at once and is served once more, so that it can end in its own
  way: the writer of logs stores what has gathered. If that fails too, it is over.

A supervisor has no children, owns no child's work and does not know what a child does.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal

import anyio
import msgspec

from aura.clock import Clock
from aura.errors import InternalError
from aura.run import Hide, failure_of

#: Pauses before a child that failed is served again, in seconds: the first, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
#: How much of an error the status shows.
MAX_SHOWN = 200

Serve = Callable[[], Awaitable[object]]

log = logging.getLogger(__name__)


class Child(msgspec.Struct):
    """What is known of one service child. ``pause`` is its latest in seconds, ``retry_at`` when that ends, if it does.

    ``failed``: it is in its pause, or was told to end and could not. ``stopped``: it was told to end and has.
    """

    name: str
    state: Literal["running", "failed", "stopped"] = "stopped"
    failures: int = 0
    last_error: str | None = None
    pause: float = 0.0
    retry_at: float | None = None

    def fail(self, error: BaseException, hide: Hide = str) -> None:
        """Note a failure; ``hide`` is asked of its text."""
        failure = failure_of(error, hide=hide)
        self.state = "failed"
        self.failures += 1
        self.last_error = f"{failure.type}: {failure.message}"[:MAX_SHOWN]


class Supervisor:
    """Runs service children so that they heal. One for a server; ``children`` has each that ever served, by name."""

    def __init__(self, clock: Clock, *, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> None:
        self._clock = clock
        self._first = first
        self._longest = longest
        self.children: dict[str, Child] = {}
        #: Called after each failure.
        self.on_failure: Callable[[], object] | None = None
        #: Asked of what is shown of failures.
        self.hide: Hide = str

    async def serve(
        self, name: str, serve: Serve, told: anyio.Event | None = None, *, longest: float = math.inf
    ) -> None:
        """Run a child by ``serve``, again and again while it fails, until it returns after ``told`` was set.

        ``longest`` shortens the longest pause. A name serves once at a time.

        **Cancellation**: ends the child, or its pause, at once.
        """
        told = told or anyio.Event()
        longest = min(longest, self._longest)
        child = self.children.setdefault(name, Child(name))
        pause = self._first
        try:
            while True:
                last = told.is_set()
                child.state, child.retry_at = "running", None
                began = self._clock.monotonic()
                error = await _outcome(serve)
                if error is None and told.is_set():
                    return
                if self._clock.monotonic() - began >= longest:  # it has served well
                    pause = self._first
                self._note(child, error or InternalError(f"{name} ended without being told to"), pause, last)
                if last:
                    return
                await self.wait_pause(child, told)
                pause = min(2 * pause, longest)
        finally:
            if child.state == "running":
                child.state = "stopped"

    def _note(self, child: Child, error: BaseException, pause: float, last: bool) -> None:
        """Put a failure on record; the ``last`` one is not followed by a pause."""
        child.fail(error, self.hide)
        child.pause = 0.0 if last else pause
        child.retry_at = None if last else self._clock.monotonic() + pause
        with suppress(Exception):  # whoever cannot be told of a failure must not make it worse
            log.error("%s failed and %s", child.name, self._says_when(child), exc_info=error)
            if self.on_failure is not None:
                self.on_failure()

    async def wait_pause(self, child: Child, told: anyio.Event) -> None:
        """Let ``child.pause`` seconds pass, or return as soon as the child is told to end."""
        with anyio.move_on_after(child.pause):  # the pause, bounded by itself
            await told.wait()

    def _says_when(self, child: Child) -> str:
        if child.retry_at is None:
            return "is not served again"
        return f"is served again in {max(0.0, child.retry_at - self._clock.monotonic()):.3g} s"

    @property
    def reasons(self) -> list[str]:
        """Every child that is away, with its error and when it is tried again."""
        failed = [child for child in self.children.values() if child.state == "failed"]
        return [f"{child.name} failed and {self._says_when(child)}: {child.last_error}" for child in failed]

    def status(self) -> dict[str, dict[str, Any]]:
        """What the status says of each child, by name."""
        return {
            child.name: {"state": child.state, "failures": child.failures, "last_error": child.last_error}
            for child in self.children.values()
        }


async def _outcome(serve: Serve) -> BaseException | None:
    """Run a child to its end, and give what it failed with. Only a cancellation that is meant for it passes.

    A ``CancelledError`` that comes out of something that somebody else cancelled is an error like any other.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        await serve()
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and _scope_is_cancelled():
            raise
        while task.cancelling() > before:  # plan code has cancelled all children that it found
            task.uncancel()
        return error
    return None


def _scope_is_cancelled() -> bool:
    return anyio.current_effective_deadline() == -math.inf
