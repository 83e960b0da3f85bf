"""Tells the body of a test that what it waits for can never come, at the line at which it waits.

The loop finds a deadlock (``virtual_time``); whoever waits in one of the world's own methods is told there. The body
may also wait for something of its own, such as an event that nobody sets: then it is cancelled where it stands, and
what comes out of it is the ``Deadlock``, with the body's own lines as its traceback and none of those of libraries.
"""

import asyncio
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

import anyio

from aura.testing.virtual_time import Deadlock, VirtualLoop

#: Files whose lines say nothing to the author of a test.
_LIBRARIES = re.compile("/asyncio/|/anyio/|/contextlib.py|/aura/testing/|/_pytest/")
#: What the child is called in which the body runs, where children are named.
BODY = "the test"


def told_of_deadlocks(explain: Callable[[], str] | None = None) -> AbstractAsyncContextManager[object]:
    """Raise a deadlock out of the body, which is inside. ``explain``: what is added to its message."""
    return _Body(explain or str)


class _Body:
    """The time of a body; it is entered and left in the same child, which has that name meanwhile."""

    def __init__(self, explain: Callable[[], str]) -> None:
        self._explain = explain
        self._found: Deadlock | None = None
        self._child: asyncio.Task[object] | None = None
        self._former_name = ""

    async def __aenter__(self) -> object:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop), "a world needs the virtual loop: see aura.testing.virtual_time"
        self._child = asyncio.current_task()
        assert self._child is not None
        self._former_name = self._child.get_name()
        self._child.set_name(BODY)
        # the test's body; cancelled only by a deadlock, which is then what it raises
        self._scope = anyio.CancelScope().__enter__()
        self._listening = loop.on_deadlock(self._tell)
        self._listening.__enter__()
        return self

    def _tell(self, deadlock: Deadlock) -> None:
        more = self._explain()
        self._found = Deadlock(f"{deadlock}\n{more}") if more else deadlock
        self._scope.cancel("deadlock")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        __tracebackhide__ = True
        self._listening.__exit__(None, None, None)
        swallowed = self._scope.__exit__(kind, error, trace)
        if self._child is not None:
            self._child.set_name(self._former_name)
        if self._found is None:
            return bool(swallowed)
        other = None if error is None or isinstance(error, asyncio.CancelledError) else error
        raise self._found.with_traceback(own_frames(trace)) from other


def own_frames(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the lines of libraries."""
    kept: list[TracebackType] = []
    while trace is not None:
        if not _LIBRARIES.search(trace.tb_frame.f_code.co_filename):
            kept.append(trace)
        trace = trace.tb_next
    made: TracebackType | None = None
    for one in reversed(kept):
        made = TracebackType(made, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return made
