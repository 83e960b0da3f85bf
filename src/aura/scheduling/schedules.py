"""What doors ask of the items of schedules: which there are and how they stand, starting one, switching one.

It decides nothing: ``items`` does. Each that changes something returns once that is on record.
"""

from collections.abc import Callable, Mapping
from typing import Any

from anyio import CapacityLimiter, to_thread

from aura.kernel.admission import Admitted, stored
from aura.kernel.keys import Key, Keys
from aura.lifecycle import RunState
from aura.polling.polls import Polls
from aura.run import Cause, Receipt
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime
from aura.scheduling.filetriggers import FileTriggers
from aura.scheduling.items import Items
from aura.scheduling.itemview import ItemView, summary
from aura.scheduling.liveitem import Key as ItemKey
from aura.scheduling.preview import preview
from aura.scheduling.watched import Watched
from aura.store import Unit

#: How far a preview looks whose end is not said, in seconds.
AHEAD = 7 * 86_400.0


class Schedules:
    """The items that are served, as doors see them. ``state`` gives that of the engine."""

    def __init__(
        self, runtime: Runtime, items: Items, keys: Keys, polls: Polls, files: FileTriggers, state: Callable[[], str]
    ) -> None:
        self._runtime = runtime
        self._items = items
        self._keys = keys
        self._view = ItemView(runtime, polls, files)
        self._state = state
        #: For previews, one at a time.
        self._limiter = CapacityLimiter(1)

    # -- looking

    def names(self) -> list[ItemKey]:
        """The plan and the name of each item, in the order of ``plan/item``."""
        return sorted(self._items.live, key="/".join)

    def shown(self, plan_name: str, item_name: str) -> dict[str, Any]:
        """An item as it stands.

        Raises:
            RequestError: ``unknown_plan``, ``unknown_item``, with what is near.
        """
        return self._view.shown(self._items.find(plan_name, item_name), self._state())

    def starting(self, plan_name: str) -> dict[str, list[str]]:
        """By task of a plan the items that start it, each as ``plan/item``; a task that none starts is not there."""
        found: dict[str, list[str]] = {}
        for key in self.names():
            item = self._items.live[key].item
            if item.plan_name == plan_name:
                found.setdefault(item.task_name, []).append("/".join(key))
        return found

    def status(self) -> dict[str, Any]:
        """The items in figures."""
        return summary(self._items.live.values())

    async def preview(self, plan_name: str, item_name: str, begin: float | None, end: float | None) -> dict[str, Any]:
        """When an item is due, from ``begin`` (now) on until before ``end`` (``AHEAD`` later), in Unix seconds.

        Raises:
            RequestError: ``unknown_plan``, ``unknown_item``; ``invalid``: this is no span.
        """
        live = self._items.find(plan_name, item_name)
        begin = self._runtime.clock.wall() if begin is None else begin
        end = begin + AHEAD if end is None else end
        found = await to_thread.run_sync(preview, Watched.of(live), begin, end, limiter=self._limiter)
        return {"items": [slot._asdict() for slot in found.slots], "cut": found.cut}

    # -- doing

    async def run(
        self, plan_name: str, item_name: str, inputs: Mapping[str, Any], cause: Cause, key: Key | None = None
    ) -> Receipt:
        """Start an item by hand, with its inputs and over them these; or give the receipt of the first time of its key.

        Raises:
            RequestError: ``unknown_plan``, ``unknown_item``, ``key_reused``; or its run is refused. Nothing was stored.
        """
        if key is None:
            admitted = self._items.run(self._items.find(plan_name, item_name), inputs, cause.kind)
            await stored(admitted.ticket)
            run = admitted.run
            return Receipt(run.cid, RunState.QUEUED.value, run.plan_name, run.task_name)

        async def ask(also: Callable[[LiveRun], Unit]) -> Admitted:  # asked only if the key has no answer yet
            return self._items.run(self._items.find(plan_name, item_name), inputs, cause.kind, also)

        return await self._keys.accept(ask, key)

    async def switch(self, plan_name: str, item_name: str, enabled: bool, by: str) -> None:
        """Switch an item on or off, until its file says something else. Raises as ``run`` does."""
        await stored(self._items.switch(self._items.find(plan_name, item_name), enabled, by))
