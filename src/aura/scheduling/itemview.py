"""What is shown of the items of schedules: what each says, how it stands, and why it would not start as things are.

It only looks. Times are Unix seconds. What starts items is in ``starts``, what switches them in ``items``.
"""

from collections.abc import Iterable
from typing import Any

from aura.errors import RequestError
from aura.polling.polls import Polls
from aura.runs.runtime import Runtime
from aura.schedule import At, Cron, Every, OnWebhook, Trigger
from aura.scheduling.filetriggers import FileTriggers
from aura.scheduling.liveitem import LiveItem
from aura.triggertext import kind_of, spec_of, text_of, when_of


class ItemView:
    """Shows items. ``polls`` has theirs too, by the item's ``name``; ``files`` the folders of their triggers."""

    def __init__(self, runtime: Runtime, polls: Polls, files: FileTriggers) -> None:
        self._runtime = runtime
        self._polls = polls
        self._files = files

    def shown(self, live: LiveItem, state: str) -> dict[str, Any]:
        """An item as it stands; ``state`` is that of the engine."""
        item, row, switch, clock = live.item, live.row, live.switch, self._runtime.clock
        return {
            "plan_name": live.plan_name,
            "item": item.name,
            "task_plan": item.plan_name,
            "task_name": item.task_name,
            "source": {"file": item.source.file, "line": item.source.line},
            "enabled": live.enabled,
            "switched_by": switch.by if switch else None,
            "switched_at": switch.at if switch else None,
            "mode": item.mode.kind.value if item.mode else None,
            "cooldown_s": item.cooldown,
            "cooldown_left_s": round(live.cooldown_left(clock.monotonic()), 3),
            "triggers": [_trigger(live, one) for one in item.triggers],
            "polls": [poll.shown() for poll in self._polls.of(live.name)],
            "folders": self._files.shown(live),
            "next_due": live.next_due,
            "last_due": row.last_due,
            "last_started_at": row.last_at,
            "last_cid": row.last_cid,
            "missed": dict(live.missed),
            "last_missed": _missed(live),
            "suspended": live.suspended,
            "reason": self.reason(live, state),
        }

    def reason(self, live: LiveItem, state: str) -> str | None:
        """Why its triggers would not start it now or, if they would, why it did not start the last time that one came.

        None: it started then, or it was never due.
        """
        for why in (
            _off(live),
            self._no_task(live),
            self._stopped(state),
            self._no_secret(live),
            self._files.trouble(live),
            self._missed_last(live),
        ):
            if why is not None:
                return why
        return _nothing_to_come(live)

    def _no_task(self, live: LiveItem) -> str | None:
        """Its task may be of another plan, which may be gone."""
        try:
            self._runtime.generations.task(live.item.plan_name, live.item.task_name)
        except RequestError as missing:
            return missing.detail
        return None

    def _stopped(self, state: str) -> str | None:
        if state in ("stopping", "stopped"):
            return "the engine is stopped: times that come are missed, and what events start waits until `aura start`"
        return None

    def _no_secret(self, live: LiveItem) -> str | None:
        hooks = [one.kind for one in live.item.triggers if isinstance(one.kind, OnWebhook)]
        missing = [hook.secret for hook in hooks if not self._runtime.secrets.has(live.plan, hook.secret)]
        return f"the secret {missing[0]} is nowhere: nobody can call its webhook" if missing else None

    def _missed_last(self, live: LiveItem) -> str | None:
        left = live.cooldown_left(self._runtime.clock.monotonic())
        if left > 0:
            return f"its cooldown ends in {left:.3g} s"
        if live.last_missed is None or live.last_missed[2] < (live.row.last_at or 0.0):
            return None
        reason, detail, _ = live.last_missed
        return f"{reason}: {detail}"


def _off(live: LiveItem) -> str | None:
    if not live.enabled:
        return "it is switched off in its file" if live.switch is None else f"it was switched off by {live.switch.by}"
    return live.suspended


def _nothing_to_come(live: LiveItem) -> str | None:
    """What starts by hand alone, or by times of which none is left."""
    if not live.item.triggers:
        return "it has no triggers: it is started by hand"
    if live.next_due is None and all(isinstance(one.kind, Cron | Every | At) for one in live.item.triggers):
        return "none of its times is still to come"
    return None


def _trigger(live: LiveItem, trigger: Trigger) -> dict[str, Any]:
    """A trigger in words and as data; of a webhook with the path to which its calls go."""
    spec = spec_of(trigger)
    if isinstance(trigger.kind, OnWebhook):
        spec["path"] = f"/api/hooks/{live.plan_name}/{live.item.name}"
    return {"kind": kind_of(trigger), "text": text_of(trigger), "spec": spec, "when": when_of(trigger)}


def _missed(live: LiveItem) -> dict[str, Any] | None:
    if live.last_missed is None:
        return None
    reason, detail, at = live.last_missed
    return {"reason": reason, "detail": detail, "at": at}


def summary(items: Iterable[LiveItem]) -> dict[str, Any]:
    """The items in figures, for the status: how many, how many are on, and which is due next."""
    served = list(items)
    on = [live for live in served if live.enabled]
    first = min((live for live in on if live.next_due is not None), key=lambda live: live.next_due or 0.0, default=None)
    return {
        "items": len(served),
        "enabled": len(on),
        "suspended": sum(1 for live in on if live.suspended),
        "next": None
        if first is None
        else {"plan_name": first.plan_name, "item": first.item.name, "due": first.next_due},
    }
