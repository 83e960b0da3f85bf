"""Why nothing started, for whoever asks: the lines of the ledger, and before them what does not begin *yet*.

The ledger says what did not start and never will. What is queued while the engine is stopped (``paused``), an
interrupt holds it (``held``) or the tests of its plan have not passed (``gate``), and slots that have come while it is
stopped, will begin or be settled later: that is looked up in the memory when somebody asks, and never stored. Times are
Unix seconds.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice

import msgspec
from anyio.lowlevel import checkpoint

from aura.clock import rfc3339
from aura.kernel.dispatcher import Dispatcher
from aura.lifecycle import RunState
from aura.records.why import WhyFilter, fits
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime
from aura.schedule import At, Cron, Every, Trigger
from aura.scheduling.items import Items
from aura.scheduling.liveitem import LiveItem, says
from aura.scheduling.slots import slots_after
from aura.why import Place, Why

#: How many of the slots that wait are counted of a trigger.
SLOTS_COUNTED = 20
#: How many queued runs it looks at before others have their turn.
AT_ONCE = 500
#: The reasons that what does not begin yet may have, and no wish for one.
WAITING = (None, "paused", "held", "gate")
PAUSED = ("paused", "the engine is stopped: it is queued until `aura start`")
#: The plan, the item, the rule and the task of a start.
Names = tuple[str | None, str | None, str | None, str | None]


class WhyPage(msgspec.Struct, frozen=True):
    """A part of the list, and behind which place the next one begins; None at the end."""

    lines: list[Why]
    next: Place | None


class WhyView:
    """Looks. ``is_running``: whether the engine starts runs."""

    def __init__(self, runtime: Runtime, dispatcher: Dispatcher, items: Items, is_running: Callable[[], bool]) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._items = items
        self._is_running = is_running

    async def page(self, wanted: WhyFilter, limit: int, after: Place | None = None) -> WhyPage:
        """What does not begin yet, by name, then what did not start, the newest first; behind the place ``after``."""
        lines: list[Why] = []
        if after is None or after.at is None:
            lines = [line for line in await self.waiting(wanted) if after is None or _name(line) > after.name]
        before = None if after is None or after.at is None else (after.at, after.id)
        if len(lines) <= limit:
            lines += await self._runtime.ledger.read(wanted, limit - len(lines) + 1, before)
        shown = lines[:limit]
        return WhyPage(shown, place_of(shown[-1]) if len(lines) > limit else None)

    async def waiting(self, wanted: WhyFilter) -> list[Why]:
        """What does not begin yet, a line for what is of the same thing, by name; ``at`` is now."""
        if wanted.reason not in WAITING:
            return []
        now = self._runtime.clock.wall()
        lines: dict[str, Why] = {}
        for line in (*await self._of_runs(now), *self._of_items(now)):
            first = lines.setdefault(_name(line), line)
            if first is not line:
                since = min(first.first_at or now, line.first_at or now)
                lines[_name(line)] = msgspec.structs.replace(first, count=first.count + line.count, first_at=since)
        return [lines[name] for name in sorted(lines) if fits(lines[name], wanted)]

    async def _of_runs(self, now: float) -> Iterator[Why]:
        """The queued runs that do not begin, a line for those that are alike: there may be thousands of these."""
        is_stopped = not self._is_running()
        if not (is_stopped or self._dispatcher.keeps_some):
            return iter([])
        alike = defaultdict[tuple[str, str, *Names], list[float]](list)
        for number, run in enumerate(list(self._dispatcher.in_no_order())):
            if number % AT_ONCE == AT_ONCE - 1:
                await checkpoint()
            if run.state is RunState.QUEUED and (kept := self._kept(run, is_stopped, now)) is not None:
                alike[*kept, *_names(run)].append(max(run.accepted.accepted_at, run.not_before or 0.0))
        return (Why(*key, len(since), now, min(since)) for key, since in alike.items())

    def _kept(self, run: LiveRun, is_stopped: bool, now: float) -> tuple[str, str] | None:
        """What keeps a queued run from starting beside its lane and what it needs: the reason and the detail."""
        if is_stopped:
            return PAUSED if (run.not_before or 0.0) <= now else None
        if self._dispatcher.is_kept(run) and (firings := self._dispatcher.holds.over(run)):
            rule = f"rule {firings[0].plan_name}/{firings[0].rule}"
            return "held", f"it waits for the end of {rule}, handled by run {firings[0].cid}"
        if self._dispatcher.lacks_code(run):
            return "gate", f"it waits for the tests of plan {run.plan_name}, which have not passed"
        return None

    def _of_items(self, now: float) -> Iterator[Why]:
        if not self._is_running():
            for live in self._items.live.values():
                if live.enabled and live.next_due is not None and live.next_due <= now:
                    yield _of_slots(live, live.next_due, now)


def place_of(line: Why) -> Place:
    """Where a line stands."""
    return Place(line.at, line.id) if line.id else Place(None, 0, _name(line))


def _name(line: Why) -> str:
    """What makes a line that is not stored the one that it is."""
    return "\0".join([line.reason, *(part or "" for part in (line.plan_name, line.item, line.rule, line.task_name))])


def _names(run: LiveRun) -> Names:
    """Whose start a run is."""
    cause = run.accepted.cause
    plan_name = (cause.plan_name or run.plan_name) if cause.item or cause.rule else run.plan_name
    return (plan_name, cause.item, cause.rule, run.task_name)


def _of_slots(live: LiveItem, since: float, now: float) -> Why:
    """The slots of an item that have come while nothing starts; no more of them are counted than it takes to see."""
    dues = {due for trigger in live.timed() for due in _dues(live, trigger, now)}
    more = " or more" if len(dues) >= SLOTS_COUNTED else ""
    kinds = [trigger.kind for trigger in live.timed()]
    rules = sorted({kind.timed.misfire.value for kind in kinds if isinstance(kind, Cron | Every | At)})
    detail = f"the engine is stopped: {len(dues)}{more} of its slots, the first {rfc3339(since)}, wait for `aura start`"
    detail += f" (misfire: {', '.join(rules)})"
    names = (live.plan_name, live.item.name, None, live.item.task_name)
    return Why("paused", detail, *names, max(1, len(dues)), now, since)


def _dues(live: LiveItem, trigger: Trigger, now: float) -> Iterator[float]:
    anchor = live.row.anchors.get(says(trigger), now)
    slots = slots_after(trigger, live.plan.timezone, max(live.row.looked_to, anchor), anchor)
    return (due for due in islice(slots, SLOTS_COUNTED) if due <= now)
