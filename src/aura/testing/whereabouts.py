"""Where everyone is, in words: the line at which each child of a loop waits, and that at which each thread stands.

For messages alone: of a deadlock, and of work that holds a test up.
"""

import asyncio
import re
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from aura.runs.edge import suspended_in

#: Files in which a wait is nobody's own.
_LIBRARIES = re.compile("/asyncio/|/anyio/|/contextlib.py|/aura/testing/")
#: Of a thread: also where the engine calls an action, and where threads and what waits in them begin.
_THREADED = re.compile(_LIBRARIES.pattern + "|/aura/runs/|/threading.py|/queue.py|/concurrent/")
#: What waits for a test's body, and is none of it.
_RUNNERS = ("TestRunner._call_in_runner_task",)


def describe_children(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Name every child of a loop and the line of ours, or of a plan's, at which it waits, in the order of the names."""
    frozen = {child for life in getattr(loop, "frozen", ()) for child in life.children}
    waiting = [task for task in asyncio.all_tasks(loop) - frozen if not _is_runner(task)]
    return sorted(f"{task.get_name()}: {_where(task)}" for task in waiting)


def describe_threads() -> list[str]:
    """Name every other thread that is in code of somebody's own, and the innermost line of that."""
    frames = {ident: top for ident, top in sys._current_frames().items() if ident != threading.get_ident()}
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    own = {ident: next((f for f in _outwards(top) if _is_own(f)), None) for ident, top in frames.items()}
    return sorted(f"{names.get(ident, 'a thread')}: {_line(frame)}" for ident, frame in own.items() if frame)


def _is_runner(task: "asyncio.Task[Any]") -> bool:
    return getattr(task.get_coro(), "__qualname__", "").startswith(_RUNNERS)


def _where(task: "asyncio.Task[Any]") -> str:
    frames = suspended_in(task.get_coro())
    if not frames:
        return "has not begun"
    own = [frame for frame in frames if not _LIBRARIES.search(frame.f_code.co_filename)]
    return _line((own or frames)[-1])


def _outwards(top: FrameType | None) -> Iterator[FrameType]:
    while top is not None:
        yield top
        top = top.f_back


def _is_own(frame: FrameType) -> bool:
    return not _THREADED.search(frame.f_code.co_filename)


def _line(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
