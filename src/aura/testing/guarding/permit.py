"""What the code that runs now may do, in a guarded world: the permit of its attempt, or of its service.

``plancode.RUNNING`` says whose code runs; ``PERMIT`` goes with it in the same context, and counts only where it has the
same owner: it is set in a child that others use afterwards. Threads that a plan starts itself copy no context, so they
are noted as they start (``audit`` tells of that); those of pools do, and are not.
"""

import os
import sys
import threading
from contextvars import ContextVar
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from aura.actions import Action
from aura.runs.attempt import Attempt
from aura.servicedef import Service
from aura.testing.guarding.wayout import WayOut
from aura.testing.plancode import RUNNING, innermost_line, plan_line

#: What the names of threads begin with that are of pools: these copy the context of who gives them work.
_POOLS = ("AnyIO worker", "asyncio_", "aura ")


class Judge(Protocol):
    """Whose permit it is (``guard.Guard``)."""

    def judge(self, permit: "Permit", way: WayOut) -> None: ...


class Permit:
    """What the code of one attempt or service may do. ``is_free``: it is a fake, and does as it likes."""

    __slots__ = ("action", "granted", "guard", "is_free", "owner")

    def __init__(
        self,
        guard: "Judge",
        owner: "Attempt | Service",
        action: Action | None = None,
        granted: frozenset[str] = frozenset(),
        *,
        is_free: bool = False,
    ) -> None:
        self.guard = guard
        self.owner = owner
        self.action = action
        self.granted = granted
        self.is_free = is_free

    @property
    def reads_anywhere(self) -> bool:
        """Whether it may read every file: all code may but that of the shipped actions on files."""
        return self.action is None or self.action.plan_name is not None or not self.action.name.startswith("file.")

    @property
    def plan_folder(self) -> str | None:
        home = self.owner.home if isinstance(self.owner, Attempt) else None
        return os.path.realpath(home.directory) if home is not None else None

    def __str__(self) -> str:
        if isinstance(self.owner, Service):
            return str(self.owner)
        called = f" ({self.action.name})" if self.action is not None else ""
        return f"step {self.owner.step.name}{called}"

    def place(self) -> str:
        """The line of a plan's code at which it is, else that of its step."""
        if where := innermost_line(sys._getframe(1)):
            return where
        if isinstance(self.owner, Service):
            return f"plan {self.owner.plan_name}"
        waiting = (plan_line(frame) for frame in reversed(self.owner.edge.frames()))
        return next(filter(None, waiting), None) or str(self.owner.step.step.source)

    @property
    def instead(self) -> str:
        """How to do without."""
        if isinstance(self.owner, Service):
            return f"world.fake_service({self.owner.name!r}, …)"
        return f"world.fake({self.action.name!r}, returns=…)" if self.action is not None else "a fake"


#: Of the attempt or service whose code runs here; that of an older one where ``owner`` is not ``RUNNING``.
PERMIT: ContextVar[Permit | None] = ContextVar("aura_permit", default=None)


def present() -> Permit | None:
    running = RUNNING.get()
    if running is not None:
        permit = PERMIT.get()
        return permit if permit is not None and permit.owner is running else None
    # asked without ``current_thread``, which makes one where there is none
    thread = threading._active.get(threading.get_ident()) if _THREADS else None  # type: ignore[attr-defined]
    return _THREADS.get(thread) if thread is not None else None


#: The threads that plans have started themselves.
_THREADS: WeakKeyDictionary[threading.Thread, Permit] = WeakKeyDictionary()


#: The audit events of a thread that is started; what it is to call comes first.
STARTS: Final = frozenset({"_thread.start_new_thread", "_thread.start_joinable_thread"})


def note_thread(called: object) -> None:
    """Note whose a thread is that is about to start; what it is to call is a method of the thread's object."""
    permit, thread = present(), getattr(called, "__self__", None)
    if permit is not None and isinstance(thread, threading.Thread) and not thread.name.startswith(_POOLS):
        _THREADS[thread] = permit
