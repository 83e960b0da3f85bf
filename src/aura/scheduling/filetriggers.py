"""File triggers: which folders are looked at for which items, and the child in which that is done.

Each folder has a child of its own (``filewatch``), which one that hangs or fails shares with nothing else. They look
while the engine runs; what changes while it is stopped, or while there is no server, is found by the first look after.
The path of a folder is made when its plan is loaded. What knows a folder again over reloads and restarts is its item,
its path and its pattern; what else its trigger says counts from the next look on.

In a world nothing rings but ``look``, and ``look_where_changed``, which that of a plan's test calls whenever somebody
may have changed a file (``testing.doors``); and files settle in virtual time.
"""

import os
from collections.abc import Iterator
from typing import Any

import anyio
from anyio.abc import TaskGroup

from aura.records.files import WatchKey
from aura.runs.runtime import Runtime
from aura.schedule import OnFile, Trigger
from aura.scheduling.filewatch import LOOKS_AT_ONCE, Watch
from aura.scheduling.liveitem import Key, LiveItem
from aura.scheduling.starts import Starts
from aura.watching.folders import Folders


class FileTriggers:
    """Looks at folders for items. A ``Source``; ``serve`` is a child of the engine."""

    def __init__(self, runtime: Runtime, starts: Starts, folders: Folders) -> None:
        self._runtime = runtime
        self._starts = starts
        self._folders = folders
        self._looks = anyio.CapacityLimiter(LOOKS_AT_ONCE)
        self._watches: dict[Key, dict[WatchKey, Watch]] = {}
        #: Why the path of a trigger could not be made.
        self._broken: dict[Key, list[str]] = {}
        #: The children of ``serve``, while that runs.
        self._group: TaskGroup | None = None
        self._on = False
        self._told = anyio.Event()

    # -- which there are

    def keep(self, live: LiveItem) -> None:
        former = self._watches.pop(live.key, dict[WatchKey, Watch]())
        now: dict[WatchKey, Watch] = {}
        self._broken.pop(live.key, None)
        for key, trigger in self._wanted(live):
            now[key] = former.pop(key) if key in former else self._new(key, live, trigger)
            now[key].trigger = trigger
        for watch in former.values():
            watch.close()
        if now:
            self._watches[live.key] = now

    def _new(self, key: WatchKey, live: LiveItem, trigger: Trigger) -> Watch:
        watch = Watch(self._runtime, self._starts, self._folders, self._looks, key, live, trigger)
        self._begin(watch)
        return watch

    def _wanted(self, live: LiveItem) -> Iterator[tuple[WatchKey, Trigger]]:
        said: list[tuple[str, str]] = []
        for trigger in live.item.triggers:
            if isinstance(trigger.kind, OnFile):
                root = self._root(live, trigger.kind)
                if root is not None:
                    said.append((root, trigger.kind.pattern))
                    yield WatchKey(*live.key, *said[-1], said.count(said[-1])), trigger

    def _root(self, live: LiveItem, spec: OnFile) -> str | None:
        """The absolute path of a folder; None if it has none."""
        scope = {"vars": live.plan.vars, "plan": {"name": live.plan.name, "dir": live.plan.directory}}
        try:
            path = spec.path.render(scope)
            if not isinstance(path, str) or not path:
                raise ValueError(f"a path is needed, not {path!r:.60}")
        except Exception as error:
            why = f"the path of its files cannot be made: {error}"
            self._broken.setdefault(live.key, []).append(why)
            self._runtime.log.error(f"{live.name} does not start by files: {why}", plan=live.plan_name)
            return None
        return os.path.normpath(os.path.join(live.plan.directory, path))

    def drop(self, live: LiveItem) -> None:
        for watch in self._watches.pop(live.key, {}).values():
            watch.close()
        self._broken.pop(live.key, None)

    def wake(self, live: LiveItem) -> None:
        """Its folders are looked at whether it is on or not: what changes while it is off is passed over."""

    # -- being on

    def start(self) -> None:
        self._on, self._told = True, anyio.Event()

    def request_stop(self, _grace: float = float("inf")) -> None:
        self._on = False
        self._told.set()

    def close(self) -> None:
        for watches in self._watches.values():
            for watch in watches.values():
                watch.close()

    async def serve(self) -> None:
        """Look at folders until ``request_stop``; ends in the next turns after that."""
        # A child for each folder; one ends by ``close`` of its watch, all by ``request_stop``. All their waits can be
        # cancelled.
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                for watches in self._watches.values():
                    for watch in watches.values():
                        self._begin(watch)
                if self._on:
                    await self._told.wait()
            finally:
                self._group = None
                group.cancel_scope.cancel("the engine stops")

    def _begin(self, watch: Watch) -> None:
        if self._group is not None:
            watch.scope = anyio.CancelScope()
            self._group.start_soon(self._attend, watch, watch.scope, name=str(watch))

    async def _attend(self, watch: Watch, scope: anyio.CancelScope) -> None:
        with scope:
            await watch.serve()

    # -- looking

    def look(self) -> None:
        """Have all folders looked at soon."""
        for watches in self._watches.values():
            for watch in watches.values():
                watch.ring()

    def look_where_changed(self) -> None:
        """Have those looked at soon in which something has changed, in a world."""
        for watches in self._watches.values():
            for watch in watches.values():
                watch.ring_if_changed()

    @property
    def has_folders(self) -> bool:
        """Whether any folder is looked at."""
        return bool(self._watches)

    @property
    def are_settled(self) -> bool:
        """Whether each folder was looked at since that was asked for, and what has changed is told."""
        return not self._on or all(one.is_settled for some in self._watches.values() for one in some.values())

    def of(self, live: LiveItem) -> list[Watch]:
        """The folders of an item."""
        return list(self._watches.get(live.key, {}).values())

    def trouble(self, live: LiveItem) -> str | None:
        """Why an item is not told of all changes of its files, if so."""
        troubles = [*self._broken.get(live.key, []), *(one.trouble_shown for one in self.of(live) if one.trouble)]
        return "; ".join(troubles) or None

    def shown(self, live: LiveItem) -> list[dict[str, Any]]:
        """What doors show of the folders of an item."""
        return [watch.shown() for watch in self.of(live)]
