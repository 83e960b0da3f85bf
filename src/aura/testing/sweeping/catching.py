"""Where code of a plan catches a cancellation that is thrown into it: the line that a report names as the swallower.

Only the one step is traced in which the cancellation is thrown in, and only the frames of the plan that were suspended
then. The cancellation goes outwards from frame to frame; the outermost that it comes to is the one that catches it, if
any does. There the line of the ``except`` or ``with`` counts that is met first after it, else that of a ``return``,
``break`` or ``continue`` in a ``finally``. What catches it later, after further awaits, is not found; nor is anything
while somebody else traces, such as a debugger.
"""

import linecache
import sys
from asyncio import CancelledError
from types import FrameType
from typing import Any

from aura.loading.importing import is_plan_code
from aura.runs.edge import suspended_in
from aura.testing.plancode import plan_place

#: How many lines are noted of a frame: what follows a catch soon says no more.
_MOST = 100
_EXCEPT = ("except ", "except:", "except(", "except*")
_CATCHES = (*_EXCEPT, "with ", "async with ")
_LEAVES = ("return", "break", "continue")


class Catch:
    """One cancellation on its way out of a coroutine."""

    def __init__(self) -> None:
        #: The line that has caught it, as ``lab/actions.py:14``; None if that is not known.
        self.where: str | None = None
        self._frame: FrameType | None = None
        self._lines: list[int] = []

    def throw(self, coroutine: Any, error: Any, *rest: Any) -> Any:
        """Throw it in, as ``coroutine.throw`` does, and note where it is caught."""
        if sys.gettrace() is not None:
            return coroutine.throw(error, *rest)
        frames = [frame for frame in suspended_in(coroutine) if is_plan_code(frame)]
        for frame in frames:
            frame.f_trace = self._trace
        sys.settrace(lambda frame, _event, _arg: self._trace if frame in frames else None)
        try:
            return coroutine.throw(error, *rest)
        finally:
            sys.settrace(None)
            for frame in frames:
                frame.f_trace = None
            self.where, self._frame = self._found(), None
            del error  # this frame is in its traceback: a circle, which the collector would have to find

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "exception" and issubclass(arg[0], CancelledError):
            self._frame, self._lines = frame, []
        elif event == "line" and frame is self._frame and len(self._lines) < _MOST:
            self._lines.append(frame.f_lineno)
        return self._trace

    def _found(self) -> str | None:
        if self._frame is None or not self._lines:
            return None
        file = self._frame.f_code.co_filename
        said = [(line, linecache.getline(file, line).strip()) for line in self._lines]
        first = next((place for place, (_, text) in enumerate(said) if text.startswith(_CATCHES)), None)
        if first is None:
            line, text = said[-1]
            return plan_place(file, line) if text.startswith(_LEAVES) else None
        while first + 1 < len(said) and said[first + 1][1].startswith(_EXCEPT):  # the one before did not fit
            first += 1
        return plan_place(file, said[first][0])
