"""Who keeps the event loop: what a look from another thread at the loop's thread finds.

It reads frames and changes nothing. The event loop's own frame (``Handle._run``) says *what* runs, the innermost frame
of plan code *where*, and the frame of ``perform``, in which every attempt runs, *for which run and step*, or that of
``Question.call`` *for which poll*. So nothing has to be noted while steps run, and a look costs some tens of
microseconds, paid only when the loop is late (and a millisecond for each 10,000 open runs, where a stack is in no
attempt).

Limits. A child that an action began in a task group of anyio is traced to its attempt by its scopes; one of plain
asyncio (``asyncio.create_task``) is named by file and line alone. A loop that is not asyncio's own shows nothing.
"""

import asyncio
from asyncio.events import Handle
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FrameType
from typing import Any, NamedTuple

from anyio._backends._asyncio import _task_states

from aura.loading.importing import is_plan_code
from aura.polling.question import Question
from aura.runs.attempt import Attempt
from aura.runs.liverun import LiveRun
from aura.runs.perform import perform

#: What a debugger's frames are in: whoever stands at a breakpoint keeps the loop, and wants to.
_DEBUGGERS = ("bdb", "pdb", "pydevd")


class Place(NamedTuple):
    """A line of code; ``own`` if it is a plan's."""

    file: str
    line: int
    function: str
    own: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


class Culprit(NamedTuple):
    """What runs on the loop: ``handle`` tells one call of the loop from the next, the rest says where and for whom."""

    handle: object
    place: Place
    run: LiveRun | None
    attempt: Attempt | None
    #: The question of a poll that runs, where no run does.
    asked: Question | None = None


def culprit_of(runs: Mapping[str, LiveRun], frame: FrameType | None) -> Culprit | None:
    """Who runs if the loop's thread is in ``frame``; None if the loop waits or is being debugged.

    ``runs``: all that are in memory.
    """
    frames = list(_outwards(frame))
    handle = _handle_of(frames)
    if handle is None or any(_module_of(frame).partition(".")[0] in _DEBUGGERS for frame in frames):
        return None
    own = [frame for frame in frames if is_plan_code(frame)]
    place = _place((own or frames)[0], own=bool(own))
    if frames[0].f_code is Handle._run.__code__ and isinstance(handle._callback, BuiltinFunctionType):
        place = place._replace(function=handle._callback.__qualname__)  # the loop calls C alone: it has no frame
    run, attempt = _performed(frames) or _traced(handle, runs) or (None, None)
    return Culprit(handle, place, run, attempt, _asked(frames))


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames of a stack, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _handle_of(frames: list[FrameType]) -> Any:
    """The call of the loop that runs; None if it runs none."""
    return next((frame.f_locals.get("self") for frame in frames if frame.f_code is Handle._run.__code__), None)


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _place(frame: FrameType, *, own: bool) -> Place:
    code = frame.f_code
    return Place(code.co_filename, frame.f_lineno or code.co_firstlineno, code.co_qualname, own)


def _performed(frames: list[FrameType]) -> tuple[LiveRun, Attempt] | None:
    """The attempt inside which the stack is."""
    for frame in frames:
        if frame.f_code is perform.__code__:
            return frame.f_locals["run"], frame.f_locals["attempt"]
    return None


def _asked(frames: list[FrameType]) -> Question | None:
    """The question of a poll inside which the stack is."""
    return next((frame.f_locals["self"] for frame in frames if frame.f_code is Question.call.__code__), None)


def _traced(handle: Any, runs: Mapping[str, LiveRun]) -> tuple[LiveRun, Attempt] | None:
    """The attempt inside whose scopes the child that runs was begun.

    The child is asked of the call that was found: the loop may have gone on to another one since.
    """
    child = getattr(handle._callback, "__self__", None)
    state: Any = _task_states.get(child) if isinstance(child, asyncio.Task) else None  # anyio has no public word for it
    scopes = []
    scope = state.cancel_scope if state is not None else None
    while scope is not None:
        scopes.append(scope)
        scope = scope._parent_scope
    live = (run for run in list(runs.values()) if run.live)  # of very many that wait this is all that is asked
    attempts = ((run, attempt) for run in live for attempt in list(run.live.values()))
    return next((found for found in attempts if any(found[1].edge.is_round(scope) for scope in scopes)), None)
