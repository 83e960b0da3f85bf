"""Whose code runs now, in a world: that of an attempt, or of a service; and which line of a plan that is.

``RUNNING`` is the one place where this is kept. An attempt's coroutine runs in a child that others use before and after
it, so it is set for each step that the coroutine takes and put back after that (``Marked``). What an attempt starts
copies its context: the children that it makes, and the worker threads of ``to_thread`` and of executors, are its own.
``threading.Thread`` does not copy it. A service has a child of its own, in which it is set once.

Both are marked where ``Interception.marks`` says so: whoever wants to know sets that before a run begins.
"""

import functools
import sys
from collections.abc import Coroutine, Generator
from contextvars import ContextVar
from types import FrameType
from typing import Any

import msgspec

from aura.loading.importing import is_plan_code
from aura.runs.attempt import Attempt
from aura.servicedef import Service

#: The attempt, or the service, whose code runs in this context; None outside of both.
RUNNING: ContextVar[Attempt | Service | None] = ContextVar("aura_running", default=None)


class Marked(Coroutine[Any, Any, Any]):
    """An attempt's coroutine, which has ``RUNNING`` set while it runs."""

    def __init__(self, attempt: Attempt, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._attempt = attempt
        self._coroutine = coroutine

    @property
    def cr_await(self) -> Any:
        """For whoever looks where it is suspended."""
        return self._coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._coroutine.__await__())

    def send(self, value: Any) -> Any:
        token = RUNNING.set(self._attempt)
        try:
            return self._coroutine.send(value)
        finally:
            RUNNING.reset(token)

    def throw(self, error: Any, *rest: Any) -> Any:
        token = RUNNING.set(self._attempt)
        try:
            return self._coroutine.throw(error, *rest)
        finally:
            RUNNING.reset(token)
            del error  # this frame is in its traceback: a circle, which the collector would have to find

    def close(self) -> None:
        self._coroutine.close()


def marked_service(service: Service) -> Service:
    """The same service, which has ``RUNNING`` set in the child in which it lives."""
    function = service.function

    @functools.wraps(function)
    def opened(*given: Any, **named: Any) -> Any:
        RUNNING.set(service)
        return function(*given, **named)

    return msgspec.structs.replace(service, function=opened)


class Origin(msgspec.Struct, frozen=True, eq=False):
    """Who made something: the line of a plan, if that is known, and whether it was Aura itself, or a service."""

    where: str | None
    running: Attempt | Service | None
    by_aura: bool

    @property
    def by_service(self) -> bool:
        return isinstance(self.running, Service)


def origin(frame: FrameType | None = None) -> Origin:
    """Who does what is being done now: the innermost line of a plan, unless code of Aura's stands below it.

    Of a shipped action it is the line of its step.
    """
    running = RUNNING.get()
    frame = frame or sys._getframe(1)
    while frame is not None:
        if (where := plan_line(frame)) is not None:
            return Origin(where, running, by_aura=False)
        if _is_of_aura(frame):
            return Origin(_step_line(running), running, by_aura=True)
        frame = frame.f_back
    return Origin(None, running, by_aura=False)


def _is_of_aura(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__"))
    return name.startswith("aura.") and not name.startswith("aura.testing.")


def _step_line(running: Attempt | Service | None) -> str | None:
    return str(running.step.step.source) if isinstance(running, Attempt) else None


def plan_line(frame: FrameType) -> str | None:
    """The line of a plan at which a frame stands, as ``lab/actions.py:12``; None if it is no plan's."""
    if not is_plan_code(frame):
        return None
    return plan_place(frame.f_code.co_filename, frame.f_lineno)


def plan_place(code_file: str, line: int) -> str | None:
    """A line of a file name in a plan's code, as ``lab/actions.py:12``; None if it is none of a plan."""
    plan, at, below = code_file.partition("@")
    return f"{plan}/{below.partition('/')[2]}:{line}" if at else None


def innermost_line(frame: FrameType | None) -> str | None:
    """The innermost line of a plan from a frame outwards."""
    while frame is not None:
        if (where := plan_line(frame)) is not None:
            return where
        frame = frame.f_back
    return None
