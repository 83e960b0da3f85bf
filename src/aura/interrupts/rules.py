"""The interrupt rules of the plans that are served, as they stand: on or off, when they fired, why they did not.

What fires them is in ``triggers``, whether an event does in ``rulechecks``.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from aura.interrupt import Rule
from aura.plan import Plan
from aura.records.switches import Switch
from aura.runs.firing import Firing
from aura.runs.liverun import LiveRun
from aura.task import Source
from aura.triggertext import text_of
from aura.why import Why

#: How many runs of a firing are named.
NAMED = 100


class Missed(msgspec.Struct, frozen=True):
    """Why a rule did not fire, the last time that it did not: a code of the why-ledger; ``at`` is in Unix seconds."""

    reason: str
    detail: str
    at: float


class LastFired(msgspec.Struct, frozen=True):
    """A firing of a rule: when, in Unix seconds and by the monotonic clock, its event, its handler, its victims.

    Of one of an older process ``mono`` is reckoned back, so that the wall clock is asked once. Not all of very many
    ``victims`` are named.
    """

    at: float
    mono: float
    event_id: str
    cid: str
    victims: Sequence[str]
    victim_count: int


class LiveRule:
    """One rule as it is served. A changed one of the same name is another, with what ``take_after`` says."""

    def __init__(self, plan: Plan, rule: Rule) -> None:
        self.plan = plan
        self.rule = rule
        #: What it says, but not where: as long as this is the same, nothing of it begins anew.
        self.shape = shape_of(rule)
        self.switch: Switch | None = None
        #: Its last firings: the last that is known to be on record, and those on their way there. The newest is last.
        self._fired: list[LastFired] = []
        #: By code: how often it did not fire. And the last time.
        self.missed: Counter[str] = Counter()
        self.last_missed: Missed | None = None
        #: Why it hears of no events any more.
        self.suspended: str | None = None

    @property
    def plan_name(self) -> str:
        return self.plan.name

    @property
    def key(self) -> tuple[str, str]:
        return (self.plan.name, self.rule.name)

    @property
    def name(self) -> str:
        """As circles of events and people name it."""
        return f"rule {self.plan.name}/{self.rule.name}"

    @property
    def enabled(self) -> bool:
        """Whether its triggers fire it: as somebody has switched it, else as its file says."""
        return self.rule.enabled if self.switch is None else self.switch.enabled

    # -- firings

    @property
    def last_fired(self) -> LastFired | None:
        """Its last firing, on record or on its way there."""
        return self._fired[-1] if self._fired else None

    def cooldown_left(self, mono: float) -> float:
        """Seconds for which its triggers do not fire it yet. ``mono`` is monotonic: the wall clock may be set."""
        last = self.last_fired
        return 0.0 if last is None else max(0.0, last.mono + self.rule.cooldown - mono)

    def note_fired(self, fired: LastFired) -> None:
        """Note that it has fired; whether that is stored is said by ``settle_fired``."""
        self._fired.append(fired)

    def settle_fired(self, cid: str, stored: bool) -> None:
        """Say what has become of the firing of this handler; one that was lost never was."""
        number = next((n for n, one in enumerate(self._fired) if one.cid == cid), None)
        if number is None:
            return  # a later one is stored already
        if stored:
            del self._fired[:number]
        else:
            del self._fired[number]

    def note_missed(self, reason: str, detail: str, at: float) -> None:
        """Note that it has not fired."""
        self.missed[reason] += 1
        self.last_missed = Missed(reason, detail, at)

    def line(self, reason: str, detail: str) -> Why:
        """A line of the why-ledger: why it has not fired."""
        return Why(reason, detail, self.plan_name, None, self.rule.name, self.rule.task_name)

    # -- looking

    def shown(self, mono: float, firings: Sequence[Firing[LiveRun]]) -> dict[str, Any]:
        """What doors show of it, with its open firings. Times are Unix seconds, but for ``mono``: monotonic, now."""
        rule, switch, last = self.rule, self.switch, self.last_fired
        return {
            "plan_name": self.plan_name,
            "rule": rule.name,
            "task_name": rule.task_name,
            "enabled": self.enabled,
            "switched_by": switch.by if switch else None,
            "switched_at": switch.at if switch else None,
            "priority": rule.priority,
            "then": rule.then.value,
            "handler_starts": rule.handler_starts.value,
            "grace_s": rule.grace,
            "cooldown_s": rule.cooldown,
            "cooldown_left_s": round(self.cooldown_left(mono), 3),
            "max_pending": rule.max_pending,
            "pending": waiting_of(self, firings),
            "preempts": msgspec.to_builtins(rule.preempts),
            "triggers": [text_of(trigger) for trigger in rule.triggers],
            "while_running": list(rule.while_running),
            "last_fired_at": last.at if last else None,
            "last_cid": last.cid if last else None,
            "last_victims": list(last.victims) if last else [],
            "last_victim_count": last.victim_count if last else 0,
            "missed": dict(self.missed),
            "last_missed": msgspec.to_builtins(self.last_missed),
            "suspended": self.suspended,
            "open": [_open(firing) for firing in firings],
        }

    # -- reloads

    def take_after(self, former: "LiveRule") -> None:
        """Keep of a former version of the rule when it fired: its cooldown goes on."""
        self._fired = former._fired

    def stay(self, plan: Plan, rule: Rule) -> None:
        """Take over a version that says the same, perhaps in another line."""
        self.plan, self.rule = plan, rule


def firings_of(live: LiveRule, firings: Iterable[Firing[LiveRun]]) -> list[Firing[LiveRun]]:
    """Those of a rule, of the ``firings`` that are open; it is the same rule in all its versions."""
    name, plan_name = live.rule.name, live.plan_name
    return [firing for firing in firings if firing.rule == name and firing.plan_name == plan_name]


def waiting_of(live: LiveRule, firings: Iterable[Firing[LiveRun]]) -> int:
    """How many firings of a rule, of those that are open, wait for their handler's start."""
    return sum(1 for firing in firings_of(live, firings) if not firing.handler.begun)


def _open(firing: Firing[LiveRun]) -> dict[str, Any]:
    return {
        "cid": firing.cid,
        "event_id": firing.event_id,
        "at": firing.at,
        "state": firing.handler.state.value,
        "victims": [victim.cid for victim in firing.victims[:NAMED]],
        "victim_count": len(firing.victims),
        "spared": [spared.cid for spared in firing.spared[:NAMED]],
    }


def shape_of(rule: Rule) -> str:
    """All that a rule says, without the places in its file."""
    placeless = msgspec.structs.replace(rule, source=Source("", 0))
    return repr(msgspec.to_builtins(placeless, enc_hook=_value_of))


def _value_of(written: Any) -> Any:
    """What a template or a condition is made from."""
    return written.value
