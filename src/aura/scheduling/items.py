"""The items of the schedules that are served: which there are over reloads and restarts, switches, starts by hand.

Theory of operation. An item is known by its plan and its name, and is the same ``LiveItem`` in all versions of its
plan. Each kind of trigger is a ``Source`` that is told at each load which items there are; what says what it said
before goes on as it was, so a reload touches the timers of nothing that has not changed.

An item that is started by hand starts whatever its switch and its cooldown say, but its mode counts.

What a crash does: what is known of an item, and switches, are rows.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from aura.errors import RequestError
from aura.failpoints import Site
from aura.kernel.admission import Admitted
from aura.plan import Plan
from aura.records.items import MAX_AWAY, ItemRow, Started, drop_item, put_item
from aura.records.switches import Switch, drop_switch, put_switch
from aura.run import CauseKind
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime
from aura.sandbox import near
from aura.schedule import Item
from aura.scheduling.liveitem import Key, LiveItem, says
from aura.scheduling.sources import Source
from aura.scheduling.starts import Starts, Wish
from aura.store import Ticket, Unit
from aura.task import Mode


class Items:
    """The items that are served. ``sources`` is each kind of trigger."""

    def __init__(self, runtime: Runtime, starts: Starts, sources: Sequence[Source]) -> None:
        self._runtime = runtime
        self.starts = starts
        self.sources = sources
        self.live: dict[Key, LiveItem] = {}
        self._switches: dict[Key, Switch] = {}
        #: What is known of those that are not served now: they may come back.
        self._away: dict[Key, tuple[ItemRow, Started]] = {}

    # -- which there are

    def take_over(self, switches: Sequence[Switch], rows: Mapping[Key, tuple[ItemRow, Started]]) -> None:
        """Take what an older boot has kept of items, before they are first loaded."""
        self._switches = {(one.plan_name, one.name): one for one in switches if one.kind == "item"}
        self._away = dict(rows)

    def reload(self, *, everything: bool) -> None:
        """Take over the items of the versions of the plans that are served now.

        One that is suspended hears of events again if its plan has a new version, or ``everything`` was loaded.
        """
        served: dict[Key, tuple[Plan, Item]] = {}
        for status in self._runtime.generations.statuses():
            if status.generation:
                plan = self._runtime.generations.current(status.name).plan
                served |= {(plan.name, name): (plan, item) for name, item in plan.items.items()}
        for key in self.live.keys() - served.keys():
            self._drop(key)
        for key, (plan, item) in served.items():
            self._take(key, plan, item, everything)

    def _take(self, key: Key, plan: Plan, item: Item, everything: bool) -> None:
        live = self.live.get(key)
        is_known = live is not None and live.item is item
        if live is None:
            live = self.live[key] = self._come_back(key, plan, item)
        if everything or live.plan is not plan:
            live.suspended = None
        live.plan, live.item = plan, item
        live.switch = self._switch_of(key, item.enabled)
        if not is_known:
            live.refused.clear()  # what it says now may be refused for something else
            self._anchor(live)
        for source in self.sources:
            source.keep(live)

    def _come_back(self, key: Key, plan: Plan, item: Item) -> LiveItem:
        row, started = self._away.pop(key, (ItemRow(*key), Started()))
        live = LiveItem(plan, item, row, started)
        if row.last_at is not None:  # a wall clock that was set back meanwhile makes no cooldown longer
            clock = self._runtime.clock
            live.last_mono = clock.monotonic() - max(0.0, clock.wall() - row.last_at)
        return live

    def _anchor(self, live: LiveItem) -> None:
        """Note when each of its triggers with times of their own was first seen: there are no slots before that."""
        now, row = self._runtime.clock.wall(), live.row
        anchors = {said: row.anchors.get(said, now) for said in map(says, live.timed())}
        looked_to = row.looked_to or now
        if (anchors, looked_to) != (row.anchors, row.looked_to):
            live.row = msgspec.structs.replace(row, anchors=anchors, looked_to=looked_to)
            self._runtime.store.put(put_item(live.row, now), refusable=True, site=Site.ITEM)

    def _drop(self, key: Key) -> None:
        live = self.live.pop(key)
        for source in self.sources:
            source.drop(live)
        self._away[key] = (live.row, live.started)  # the same: a start that is refused later gives its slot back
        store, now = self._runtime.store, self._runtime.clock.wall()
        store.put(put_item(live.row, now), refusable=True, site=Site.ITEM)
        while len(self._away) > MAX_AWAY:  # the one that has been away longest
            oldest = next(iter(self._away))
            del self._away[oldest]
            store.put(drop_item(oldest), refusable=True, site=Site.ITEM)

    # -- being on

    def start(self) -> None:
        """Let triggers start runs."""
        for source in self.sources:
            source.start()

    def request_stop(self, grace: float = float("inf")) -> None:
        """Let triggers start nothing more, until ``start``."""
        for source in self.sources:
            source.request_stop(grace)

    def close(self) -> None:
        """End what would act after the server's end."""
        for source in self.sources:
            source.close()

    # -- by hand

    def find(self, plan_name: str, item_name: str) -> LiveItem:
        """An item that is served.

        Raises:
            RequestError: ``unknown_plan``, ``unknown_item``, with what is near.
        """
        live = self.live.get((plan_name, item_name))
        if live is None:
            items = self._runtime.generations.current(plan_name).plan.items  # or it says that there is no such plan
            hint = near(item_name, items) or f"; it has {', '.join(items) or 'none'}"
            raise RequestError("unknown_item", f"plan {plan_name} has no item {item_name!r}{hint}")
        return live

    def run(
        self, live: LiveItem, inputs: Mapping[str, Any], kind: CauseKind, also: Callable[[LiveRun], Unit] | None = None
    ) -> Admitted:
        """Start an item by hand, with its inputs and over them these. Does not wait: the ticket says when it is stored.

        ``also`` gives, for the new run, what is written with it or not at all.

        Raises:
            RequestError: it is refused; nothing was stored.
        """
        return self.starts.by_hand(Wish(live, kind, inputs=inputs), also)

    def mode_of(self, key: Key) -> Mode | None:
        """What becomes of a start of an item while runs of it are open; None if it says nothing, or is not served."""
        live = self.live.get(key)
        return None if live is None else live.item.mode

    # -- switches

    def switch(self, live: LiveItem, enabled: bool, by: str) -> Ticket:
        """Switch an item on or off, until its file says something else. It counts when the ticket says so."""
        now = self._runtime.clock.wall()
        switch = Switch("item", live.plan_name, live.item.name, enabled, live.item.enabled, now, by)
        after = partial(self._switched, switch)
        return self._runtime.store.put(put_switch(switch), after, refusable=True, site=Site.SWITCH)

    def _switched(self, switch: Switch) -> None:
        """It is on record. What is served may be another version by now."""
        key = (switch.plan_name, switch.name)
        self._switches[key] = switch
        live = self.live.get(key)
        if live is not None:
            live.switch = self._switch_of(key, live.item.enabled)
            live.suspended = None if live.enabled else live.suspended
            for source in self.sources:
                source.wake(live)

    def _switch_of(self, key: Key, file_enabled: bool) -> Switch | None:
        """What somebody has switched, if the file still says what it said then."""
        switch = self._switches.get(key)
        if switch is not None and switch.file_enabled != file_enabled:
            del self._switches[key]
            # if it is lost, the next start finds the same and drops it again
            self._runtime.store.put(drop_switch("item", *key), refusable=True, site=Site.SWITCH)
            return None
        return switch
