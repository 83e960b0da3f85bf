"""Hearing that something in a folder may have changed: one bell for all who watch folders.

Theory of operation. ``Folders`` has one inotify instance and one thread for the whole server, however many watch. A
*watch* says which folders it covers, each by its identity (device and inode) with a path to it, and is rung when
anything directly in one of them may have changed. A bell says neither what nor that it is over: whoever is rung looks
at its folders, compares, and covers what is there now. That order loses nothing: a watch is rung once more as soon as
its new folders are armed, so what happened between its look and that moment is found by the next look.

What inotify does not tell, and how it is found all the same:
- A folder that was deleted and made again, moved away, or replaced behind a link has another identity: the look covers
  that, and the watcher is made anew. One that was moved away and back is silent though its identity is the same, so an
  event about a covered folder itself has the watcher made anew too.
- File systems without events, a root that was not there, links that were swapped further up: every watch is rung each
  ``NET`` seconds, whatever was heard. What finds no room (``MAX_FOLDERS``, the system's own limits on watches) is rung
  by that alone; the log says so once.
- A lost event (an overflow, a name that is no text) rings all.

Not here: what has changed, and when it is whole (``settling`` for plans). Making the watcher anew holds the
interpreter for 15 µs a folder: hence ``MAX_FOLDERS``.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from watchfiles._rust_notify import RustNotify

T = TypeVar("T")
#: Seconds between two bells that ring for everyone, whatever was heard.
NET = 3.0
#: How many folders are watched for events at once, all watches together.
MAX_FOLDERS = 2000
#: Milliseconds: between two looks of the thread, so what an event and an end wait for; how long events gather at most.
STEP, GATHER = 50, 100

#: Who listens, by a thread that waits for something to be heard, by what ends the listening.
_listening: dict[threading.Event, "asyncio.Task[Any]"] = {}
#: Device and inode.
Identity = tuple[int, int]
#: Paths that something has happened to, or None: it is unknown to which.
_Heard = set[str] | None


def identity_of(status: os.stat_result) -> Identity:
    """Tell a folder from another that has its path."""
    return status.st_dev, status.st_ino


class Watch:
    """What one listener wants to hear of. ``ring`` is called on the loop: it only notes that it was."""

    def __init__(self, folders: "Folders", ring: Callable[[], object]) -> None:
        self._folders = folders
        self.ring = ring
        self.covered: Mapping[Identity, str] = {}

    def cover(self, folders: Mapping[Identity, str]) -> None:
        """Be rung for changes directly in these folders, and no others. What is covered already costs nothing.

        Each is a folder that was just listed, by an absolute path. If any is new, the watch is rung when it is armed.
        """
        if folders != self.covered:
            self.covered = dict(folders)
            self._folders.change(self)

    def close(self) -> None:
        """Be rung no more. Harmless the second time."""
        self._folders.forget(self)


class Folders:
    """Rings watches. One for a server; ``serve`` is its child. Nothing is rung while that does not run."""

    def __init__(self, warn: Callable[[str], object]) -> None:
        """``warn`` is told, once, that some folders are not watched for events."""
        self._warn = warn
        self._warned = False
        #: In the order in which they began; those that cover too much for the rest of the room are rung by ``NET``.
        self._watches: dict[Watch, None] = {}
        #: The watches that have been changed since the watcher was made.
        self._changed: set[Watch] = set()
        self._limiter = CapacityLimiter(1)
        #: Ends the listening that is under way; each has its own.
        self._told = threading.Event()
        self._notify: RustNotify | None = None
        self._armed: dict[Identity, str] = {}
        #: An event was about an armed folder itself, or was lost: what is armed may be deaf.
        self._doubtful = False
        self._rung_all = 0.0

    def watch(self, ring: Callable[[], object]) -> Watch:
        """Begin a watch that covers nothing yet: the listener looks at its folders first."""
        watch = Watch(self, ring)
        self._watches[watch] = None
        return watch

    def ring(self) -> None:
        """Ring everyone."""
        for watch in list(self._watches):
            watch.ring()

    def change(self, watch: Watch) -> None:
        """A watch covers other folders than before."""
        if watch in self._watches:
            self._changed.add(watch)
            self._told.set()

    def forget(self, watch: Watch) -> None:
        """A watch is over."""
        self._watches.pop(watch, None)
        self._changed.discard(watch)

    async def serve(self) -> None:
        """Ring, until cancelled.

        **Cancellation**: ends with the thread that listens, within ``STEP``.
        """
        self._rung_all = anyio.current_time()
        # two children: who listens, and who tells its thread to end when both are cancelled
        async with anyio.create_task_group() as group:
            group.start_soon(self._end_when_cancelled, name="end of the folder watcher")
            try:
                while True:
                    await self._arm()
                    self._tell(await self._listen(), self._armed)
            finally:
                if self._notify is not None:
                    self._notify.close()
                self._notify, self._armed = None, {}

    async def _end_when_cancelled(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self._told.set()

    # -- what is watched

    async def _arm(self) -> None:
        """Have a watcher for what is covered, the one that is there or another; ring the watches that are new to it."""
        self._told = threading.Event()  # what is changed from here on tells the listening that follows
        changed, self._changed = self._changed, set()
        wanted = self._wanted()
        if wanted != self._armed or self._doubtful:
            self._doubtful = False
            former, self._notify = self._notify, None
            self._notify, heard = await self._in_thread(partial(self._replace, former, wanted))
            known, self._armed = self._armed, wanted
            self._tell(heard, known)
        for watch in changed:
            watch.ring()

    def _replace(self, former: RustNotify | None, wanted: Mapping[Identity, str]) -> tuple[RustNotify | None, _Heard]:
        """Make a watcher in place of another, in a thread, and give what that had heard and not told yet."""
        made = self._made(wanted)  # before the other ends, so that nothing falls between them
        if former is None:
            return made, set()
        heard = _next(former, 1)
        former.close()
        return made, heard

    def _wanted(self) -> dict[Identity, str]:
        wanted: dict[Identity, str] = {}
        for watch in self._watches:
            if len(wanted) + len(watch.covered) <= MAX_FOLDERS:
                wanted.update(watch.covered)
            else:
                self._warn_once(f"more than {MAX_FOLDERS} folders are to be watched")
        return wanted

    def _made(self, wanted: Mapping[Identity, str]) -> RustNotify | None:
        """Make a watcher, or None if there is nothing to watch or the system gives none."""
        paths = [path for path in wanted.values() if os.access(path, os.R_OK)]
        if not paths:
            return None
        try:
            return RustNotify(paths, False, False, 0, False, False)
        except (OSError, RuntimeError) as error:  # no more watches or instances; or one of them has just gone
            if not isinstance(error, FileNotFoundError):
                self._warn_once(str(error))
            self._doubtful = True
            return None

    def _warn_once(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(f"some folders are only looked at every {NET:g} s, since the system cannot watch them: {why}")

    # -- what is heard

    async def _listen(self) -> _Heard:
        """Wait for something to be heard, for being told to look again, or for the next bell that rings for all."""
        left = max(0.05, self._rung_all + NET - anyio.current_time())
        told, task = self._told, asyncio.current_task()
        assert task is not None
        _listening[told] = task
        try:
            return await self._in_thread(partial(_hear, self._notify, left, told))
        finally:
            _listening.pop(told, None)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await to_thread.run_sync(call, limiter=self._limiter)

    def _tell(self, heard: _Heard, armed: Mapping[Identity, str]) -> None:
        """Ring whom it concerns. ``armed`` is what the watcher was made for that heard it."""
        now = anyio.current_time()
        if heard is None or now - self._rung_all >= NET:
            self._rung_all = now
            self.ring()
        else:
            known = {path: identity for identity, path in armed.items()}
            touched = {known[place] for path in heard for place in (path, os.path.dirname(path)) if place in known}
            for watch in [watch for watch in self._watches if not touched.isdisjoint(watch.covered)]:
                watch.ring()
        self._doubtful |= heard is None or not heard.isdisjoint(armed.values())


def hearing() -> "set[asyncio.Task[Any]]":
    """Whose threads only wait for something to be heard, and were not told to end: virtual time waits for none."""
    return {task for told, task in list(_listening.items()) if not told.is_set()}  # a copy: threads change it


def _hear(notify: RustNotify | None, seconds: float, told: threading.Event) -> _Heard:
    """Wait in a thread for what the watcher hears, ``seconds`` at most, or until told."""
    try:
        return _heard_within(notify, seconds, told)
    finally:  # here too: a test may freeze who listens
        _listening.pop(told, None)


def _heard_within(notify: RustNotify | None, seconds: float, told: threading.Event) -> _Heard:
    if notify is None:
        told.wait(seconds)
        return set()
    end = time.monotonic() + seconds
    heard: _Heard = set()
    # it is not given the event: told by that it would throw away what it has heard
    while not heard and heard is not None and not told.is_set() and time.monotonic() < end:
        heard = _next(notify, STEP)
    return heard


def _next(notify: RustNotify, step: int) -> _Heard:
    """Give what has been heard once nothing more came for a step, or nothing after one."""
    try:
        heard = notify.watch(GATHER, step, step, None)
    except RuntimeError:  # such as a name that is no text; what else it has heard is lost with it
        return None
    return {path for _, path in heard} if isinstance(heard, set) else set()
