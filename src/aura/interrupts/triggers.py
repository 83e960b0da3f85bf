"""What fires interrupt rules: which rules there are, who hears of events for them, switches, and firing by hand.

Theory of operation. Each trigger of each rule that is served is a subscriber of the bus. Whether a rule fires is
decided in the turn in which its event is handed to the store (``rulechecks``): the rule is on, the event's chain has
not gone through it, its ``when`` holds, one of ``while_running`` runs, it is not in its cooldown, and not too many of
its firings wait. The first of these that does not hold is noted on the rule (``Missed``), so that whoever asks why
nothing happened is told. An event fires a rule once, however many of its triggers it fits.

A rule that is fired by hand fires whatever its switch, its cooldown and ``while_running`` say, but ``max_pending``
bounds that too; if it is refused, or its handler, nothing is stored, not even the event.

A rule is put off by nobody but its file and whoever switches it. A chain of too many events suspends it, as it does any
subscriber: that shows, and the next load of its plan or ``enable`` ends it.

What a crash does: switches are rows, and when a rule last fired is known from its firings.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from aura.bus import LOOP_DETECTED, Delivery, Emitted, check_event
from aura.errors import FieldError, RequestError
from aura.events import EventEntry
from aura.expressions import Condition
from aura.failpoints import Site
from aura.interrupt import Rule
from aura.interrupts.interrupts import Interrupts, Sight
from aura.interrupts.rulechecks import Refusal, RuleChecks, why_refused
from aura.interrupts.rulepolls import RulePolls
from aura.interrupts.rules import LastFired, LiveRule
from aura.kernel.admission import Admission
from aura.kernel.dispatcher import Dispatcher
from aura.kernel.refusals import detail_of
from aura.plan import Plan
from aura.polling.polls import Polls
from aura.records.firings import LastFiring
from aura.records.switches import Switch, drop_switch, put_switch
from aura.runs.runtime import Runtime
from aura.sandbox import near
from aura.schedule import OnEvent
from aura.store import Ticket
from aura.why import reason_of

#: The event of a rule that somebody fires by hand.
REQUESTED = "interrupt.requested"
#: Of how many rules that are not served it is known when they fired last.
MAX_AWAY = 1000
Key = tuple[str, str]


class RuleTrigger:
    """One trigger of a rule, as the bus asks it. ``suspended`` is told why it is asked no more."""

    def __init__(
        self,
        live: LiveRule,
        pattern: str,
        offer: Callable[[EventEntry], Delivery | None],
        suspended: Callable[[str], object] = bool,
    ) -> None:
        self._offer = offer
        self._suspended = suspended
        self.name = live.name
        self.pattern = pattern

    def offer(self, event: EventEntry) -> Delivery | None:
        """Say what an event brings about."""
        return self._offer(event)

    def suspend(self, reason: str) -> None:
        """It is asked no more."""
        self._suspended(reason)


class Triggers:
    """The rules that are served, and what fires them."""

    def __init__(
        self,
        runtime: Runtime,
        interrupts: Interrupts,
        admission: Admission,
        dispatcher: Dispatcher,
        polls: Polls,
    ) -> None:
        self._runtime = runtime
        self._interrupts = interrupts
        self._admission = admission
        self.checks = RuleChecks(runtime, dispatcher)
        self.polls = RulePolls(runtime, dispatcher.holds, self.checks, polls, self.offer)
        self.rules: dict[Key, LiveRule] = {}
        self._subscribed: dict[Key, list[RuleTrigger]] = {}
        self._switches: dict[Key, Switch] = {}
        #: When those fired last that are not served now: they may come back.
        self._fired: dict[Key, LastFired] = {}

    # -- which rules there are

    def take_over(self, switches: Sequence[Switch], fired: Sequence[LastFiring]) -> None:
        """Take what an older boot has kept of rules, before they are first loaded."""
        self._switches = {(one.plan_name, one.name): one for one in switches if one.kind == "rule"}
        self._fired = {(one.row.plan_name, one.row.rule): self._reckoned(one) for one in fired}

    def _reckoned(self, one: LastFiring) -> LastFired:
        """A firing of an older process: a wall clock that was set back meanwhile makes no cooldown longer."""
        clock, row = self._runtime.clock, one.row
        mono = clock.monotonic() - max(0.0, clock.wall() - row.at)
        stopped = [run.cid for run in one.stopped.first]
        return LastFired(row.at, mono, row.event_id, row.cid, stopped, one.stopped.total)

    def reload(self, *, everything: bool) -> None:
        """Take over the rules of the versions of the plans that are served now.

        A rule that is suspended hears of events again if its plan has a new version, or ``everything`` was loaded.
        One that says what it said before goes on as it was, in whatever line it stands. A plan that cannot be served
        keeps its last good version, and so its rules. Firings that are open keep the terms that they began with.
        """
        served: dict[Key, tuple[Plan, Rule]] = {}
        for status in self._runtime.generations.statuses():
            if status.generation:
                plan = self._runtime.generations.current(status.name).plan
                served |= {(plan.name, name): (plan, rule) for name, rule in plan.rules.items()}
        for key in self.rules.keys() - served.keys():
            self._drop(key)
        for key, (plan, rule) in served.items():
            self._take(key, plan, rule, everything)

    def _take(self, key: Key, plan: Plan, rule: Rule, everything: bool) -> None:
        former, live = self.rules.get(key), LiveRule(plan, rule)
        if former is not None and former.shape == live.shape:
            is_loaded = everything or former.plan is not plan
            former.stay(plan, rule)
            if is_loaded:
                self._heal(former)
            return
        if former is not None:
            live.take_after(former)
        elif key in self._fired:
            live.note_fired(self._fired.pop(key))
        live.switch = self._switch_of(key, rule.enabled)
        self._unsubscribe(key)
        self.rules[key] = live
        self._subscribed[key] = [
            self._trigger(live, number, one.kind.pattern)
            for number, one in enumerate(rule.triggers)
            if isinstance(one.kind, OnEvent)
        ]
        self._subscribe(key)
        self.polls.keep(live)

    def _trigger(self, live: LiveRule, number: int, pattern: str) -> RuleTrigger:
        return RuleTrigger(live, pattern, partial(self._heard, live, number), partial(self._suspended, live))

    def _drop(self, key: Key) -> None:
        self._unsubscribe(key)
        self.polls.drop(self.rules[key])
        last = self.rules.pop(key).last_fired
        if last is not None:
            self._fired[key] = last
            while len(self._fired) > MAX_AWAY:  # the one that has been away longest
                del self._fired[next(iter(self._fired))]

    def _subscribe(self, key: Key) -> None:
        for trigger in self._subscribed[key]:
            self._runtime.bus.subscribe(trigger)

    def _unsubscribe(self, key: Key) -> None:
        for trigger in self._subscribed.pop(key, ()):
            self._runtime.bus.unsubscribe(trigger)

    def _suspended(self, live: LiveRule, reason: str) -> None:
        live.suspended = reason
        self._note(live, Refusal("loop_detected", reason))

    def _heal(self, live: LiveRule) -> None:
        """Let a rule hear of events again that heard of too many."""
        if live.suspended is not None:
            live.suspended = None
            self._subscribe(live.key)

    def _switch_of(self, key: Key, file_enabled: bool) -> Switch | None:
        """What somebody has switched, if the file still says what it said then."""
        switch = self._switches.get(key)
        if switch is not None and switch.file_enabled != file_enabled:
            del self._switches[key]
            # if it is lost, the next start finds the same and drops it again
            self._runtime.store.put(drop_switch("rule", *key), refusable=True, site=Site.SWITCH)
            return None
        return switch

    # -- events

    def _heard(self, live: LiveRule, number: int, event: EventEntry) -> Delivery | None:
        """An event has come that fits this one of a rule's triggers."""
        if live.last_fired is not None and live.last_fired.event_id == str(event.id):
            return None  # by another of its triggers: at most once for each event
        return self.offer(live, live.rule.triggers[number].when, event)

    def offer(self, live: LiveRule, when: Condition | None, event: EventEntry) -> Delivery | None:
        """Fire a rule by an event if it may; else it is noted why not."""
        refusal = self.checks.refusal(live, when, event)
        if refusal is None:
            try:
                return self._open(live, event)
            except RequestError as refused:
                refusal = why_refused(live, refused)
        if refusal.reason == "loop_detected" and event.name != LOOP_DETECTED:  # else it would tell of itself
            self._runtime.bus.tell_of_circle(live.name, event, refusal.detail)
        self._note(live, refusal)
        return None

    def _open(self, live: LiveRule, event: EventEntry) -> Delivery:
        return self._interrupts.open(live, event, self.checks.inputs_of(live, event))

    def _note(self, live: LiveRule, refusal: Refusal) -> None:
        reason, detail = refusal.reason, self._runtime.ledger.shown(refusal.detail)
        live.note_missed(reason, detail, self._runtime.clock.wall())
        if self._runtime.ledger.note(live.line(reason, detail)) and reason not in _QUIET:
            self._runtime.log.warning(f"{live.name} did not fire ({reason}): {detail}", plan=live.plan_name)

    # -- by hand

    def find(self, plan_name: str, rule_name: str) -> LiveRule:
        """A rule that is served.

        Raises:
            RequestError: ``unknown_plan``, ``unknown_rule``, with what is near.
        """
        live = self.rules.get((plan_name, rule_name))
        if live is None:
            rules = self._runtime.generations.current(plan_name).plan.rules  # or it says that there is no such plan
            hint = near(rule_name, rules) or f"; it has {', '.join(rules) or 'none'}"
            raise RequestError("unknown_rule", f"plan {plan_name} has no rule {rule_name!r}{hint}")
        return live

    def sight(self, live: LiveRule) -> Sight:
        """Whom a rule would stop, wait for and spare if it fired now."""
        return self._interrupts.look(self._interrupts.terms_of(live), live.rule.priority)

    def fire(self, live: LiveRule, payload: Any) -> Emitted:
        """Fire a rule by hand. Does not wait: it is on record when the ticket says so.

        Raises:
            RequestError: it cannot fire, as its handler is refused, or the payload; nothing was stored.
        """
        plain, _ = check_event("manual", payload)
        try:
            return self._fire(live, plain)
        except RequestError as refused:
            self._runtime.ledger.note(live.line(reason_of(refused.code), detail_of(refused)))
            raise self._hidden(refused) from None

    def _fire(self, live: LiveRule, payload: Any) -> Emitted:
        self._admission.check_open()
        self._admission.check_space()
        if full := self.checks.full(live):  # else whoever may fire could fill the memory
            raise RequestError("queue_full", f"{live.name} cannot fire: {full}; ask again later")
        by_hand = RuleTrigger(live, "", partial(self._open, live))
        return self._runtime.bus.address(by_hand, REQUESTED, payload, plan_name=live.plan_name)

    def _hidden(self, refused: RequestError) -> RequestError:
        """The same without secrets: the handler's inputs may be made of some, and who may fire need not know them."""
        hide = self._runtime.redactor.text
        errors = [FieldError(hide(error.path), hide(error.message)) for error in refused.errors]
        return RequestError(
            refused.code, hide(refused.detail), errors=errors, retry_after=refused.retry_after, extra=refused.extra
        )

    def switch(self, live: LiveRule, enabled: bool, by: str) -> Ticket:
        """Switch a rule on or off, until its file says something else. It counts when the ticket says so."""
        file_enabled, now = live.rule.enabled, self._runtime.clock.wall()
        switch = Switch("rule", live.plan_name, live.rule.name, enabled, file_enabled, now, by)
        return self._runtime.store.put(
            put_switch(switch), partial(self._switched, switch), refusable=True, site=Site.SWITCH
        )

    def _switched(self, switch: Switch) -> None:
        """It is on record. What is served may be another version by now."""
        key = (switch.plan_name, switch.name)
        self._switches[key] = switch
        live = self.rules.get(key)
        if live is not None:
            live.switch = self._switch_of(key, live.rule.enabled)
            if live.enabled:
                self._heal(live)
                self.polls.wake(live)


#: What is not worth a line in the log each time.
_QUIET = frozenset({"condition_false", "disabled", "cooldown"})
