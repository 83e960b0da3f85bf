"""The guard: what the plans of a world may do beyond their own process, and what was refused.

Theory of operation. Python tells an audit hook of what is about to leave the interpreter (``audit``); ``wayout`` says
what each such event is. While the code of an attempt or a service of a guarded world runs, the guard is asked, and what
is not allowed is refused in place of what was to happen. Whose code that is says the context (``plancode.RUNNING`` with
``PERMIT``); threads that a plan starts itself do not copy that, so they are noted as they start. The test's own code,
its fakes' too, and Aura's do as they like.

There are three kinds: ``network``, ``processes`` and ``files``. Files may be changed in the world's own folder, in the
system's folder for temporary files and in ``__pycache__``, and be read everywhere but by ``file.*`` of Aura, which stay
in those places and in the plan's folder. A test allows a kind, a folder, or all that one action does by that action's
name.

A refusal is no ``OSError``: what a plan does about a broken network does not hide it. A plan may swallow it all the
same, so each is noted in ``refused``.

Limits. Not heard of: what code in C or ``ctypes`` asks the system for directly; what goes through a file or a socket
that was open before; named pipes and device files that are made; processes that ``multiprocessing`` spawns (those that
it forks are); threads begun by ``_thread.start_new_thread``; what a process does that was allowed to start, and an
action with ``isolation="process"`` runs in one. A relative path that ``os.open`` is given with a ``dir_fd`` is taken as
below the current folder: of its ``dir_fd`` nothing is heard.
"""

import functools
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from aura.actions import Action
from aura.errors import NotAllowed
from aura.runs.attempt import Attempt
from aura.sandbox import near
from aura.servicedef import Service
from aura.testing.audit import listen
from aura.testing.guarding.permit import PERMIT, STARTS, Permit, note_thread, present
from aura.testing.guarding.wayout import KINDS, WAYS_OUT, WayOut, only_reads
from aura.testing.plancode import RUNNING

#: The shipped actions that leave the process: the kind, and what they do.
LEAVING: Final = {
    "shell.run": ("processes", "starts a process"),
    "python.run": ("processes", "starts a process"),
    "http.request": ("network", "uses the network"),
}
#: How many refusals are kept.
KEPT = 100


class Guard:
    """What the plans of one world may do beyond their own process."""

    def __init__(self, *places: Path | str, everything: bool = False) -> None:
        """``places``: folders in which files may be changed besides that for temporary ones.

        ``everything``: nothing is refused but actions that are denied; nobody is watched.
        """
        self.everything = everything
        #: What was refused, the newest last.
        self.refused: deque[str] = deque(maxlen=KEPT)
        self._places = [os.path.realpath(place) for place in (tempfile.gettempdir(), *places)]
        self._allowed: set[str] = set()
        self._denied: set[str] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Refuse what leaves the process, until the end of this."""
        stop = listen(_heard)
        try:
            yield
        finally:
            stop()

    # -- what a test says

    def allow(self, *words: str) -> None:
        """Allow what ``words`` mean: full names of actions, kinds, absolute paths without links."""
        self._allowed.update(words)
        self._denied.difference_update(words)

    def deny(self, *words: str) -> None:
        """Take that back; an action is refused then whatever it does, a kind and a path whoever it is."""
        self._denied.update(words)
        self._allowed.difference_update(words)

    # -- who runs

    def begin(self, action: Action, *, is_fake: bool = False) -> None:
        """Note that the attempt whose code runs is to call an action.

        Raises:
            NotAllowed: it leaves the process and is not allowed, or it is denied.
        """
        owner = RUNNING.get()
        if self.everything or not isinstance(owner, Attempt):
            if not is_fake:
                self.check(action)
            return
        # of an action that leaves, only Aura's own code runs here, and once it may be called it may do all that it does
        is_free = is_fake or action.isolated or _leaving(action)[0] is not None
        permit = Permit(self, owner, action, self._granted(action), is_free=is_free)
        PERMIT.set(permit)
        if not is_fake:
            self.check(action, permit)

    def watched(self, service: Service) -> Service:
        """The same service, which is refused what it may not do. It is opened in a child of its own."""
        function = service.function

        @functools.wraps(function)
        def opened(*given: Any, **named: Any) -> Any:
            running = RUNNING.get()
            if isinstance(running, Service):
                PERMIT.set(Permit(self, running))
            return function(*given, **named)

        return msgspec.structs.replace(service, function=opened)

    def _granted(self, action: Action) -> frozenset[str]:
        """The kinds that an action may do since it is allowed by its name: all."""
        return frozenset(KINDS) if action.name in self._allowed else frozenset()

    # -- refusing

    def check(self, action: Action, permit: Permit | None = None) -> None:
        """Refuse an action that may not be called.

        Raises:
            NotAllowed: it leaves the process and is not allowed, or it is denied.
        """
        kind, does = ("processes", "runs in a process of its own") if action.isolated else _leaving(action)
        if action.name not in self._denied and (kind is None or self._may(kind, self._granted(action))):
            return
        where = f" at {permit.place()}" if permit is not None else ""
        if action.name in self._denied:
            raise self._refusal(f"{action.name}{where} is denied in this test")
        raise self._refusal(
            f"{action.name}{where} {does}, which a test has to allow: fake it with "
            f"world.fake({action.name!r}, returns=…), or let it with world.allow({action.name!r})"
        )

    def judge(self, permit: Permit, way: WayOut) -> None:
        """Refuse what is about to happen.

        Raises:
            NotAllowed: it is not allowed.
        """
        if way.kind == "files":
            wrong = [path for path in way.paths if not self._may_touch(permit, path, way)]
            word = os.path.dirname(wrong[0]) if wrong else ""
        else:
            wrong = [] if self._may(way.kind, permit.granted) else [way.what]
            word = way.kind
        if wrong:
            raise self._refusal(
                f"{permit} wanted to {way.does} {wrong[0]} at {permit.place()}, which a test has to allow: "
                f"put {permit.instead} in its place, or let it with world.allow({word!r})"
            )

    def _may(self, kind: str, granted: frozenset[str]) -> bool:
        return kind not in self._denied and (self.everything or kind in granted or kind in self._allowed)

    def _may_touch(self, permit: Permit, path: str, way: WayOut) -> bool:
        if way.only_reads and permit.reads_anywhere:
            return True
        if _is_below(path, self._denied):
            return False
        if self._may("files", permit.granted) or _is_below(path, self._places) or _is_below(path, self._allowed):
            return True
        if way.only_reads:
            return _is_below(path, filter(None, [permit.plan_folder]))
        return path == os.devnull or "/__pycache__/" in f"{path}/"

    def _refusal(self, said: str) -> NotAllowed:
        self.refused.append(said)
        return NotAllowed(said)


def _leaving(action: Action) -> tuple[str | None, str]:
    return LEAVING.get(action.name, (None, "")) if action.plan_name is None else (None, "")


def _is_below(path: str, folders: Any) -> bool:
    return any(path == folder or path.startswith(f"{folder.rstrip('/')}/") for folder in folders if folder[:1] == "/")


def word_of(said: str | Path, action: Callable[[str], Action]) -> str:
    """What a test means by a word: a kind, a folder or file, or an action, which ``action`` finds.

    Raises:
        ValueError: nothing; with near names.
    """
    text = str(said)
    if text in KINDS:
        return text
    if os.path.isabs(text):
        return os.path.realpath(text)
    try:
        return action(text).name
    except AssertionError as error:
        kinds = ", ".join(KINDS)
        raise ValueError(
            f"allow and deny know {kinds}, absolute paths and actions{near(text, KINDS)}: {error}"
        ) from None


# -- what is heard


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    """Ask the guard of whoever's code is about to leave the process; called for each audit event there is."""
    look = WAYS_OUT.get(event)
    if look is None:
        if event in STARTS:
            note_thread(arguments[0])
        return
    permit = present()
    if permit is None or permit.is_free or (permit.reads_anywhere and only_reads(event, arguments)):
        return
    way = look(event, arguments)
    if way is not None:
        permit.guard.judge(permit, way)
