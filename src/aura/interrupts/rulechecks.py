"""Says whether an event fires an interrupt rule, and if not why; gives what its expressions may name, and its inputs.

It decides nothing but that: ``triggers`` asks, in the turn in which an event is handed to the store.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

from aura.errors import RequestError
from aura.events import EventEntry
from aura.expressions import Condition
from aura.interrupts.rules import LiveRule, waiting_of
from aura.kernel.dispatcher import Dispatcher
from aura.lifecycle import PLACED
from aura.plan import Plan
from aura.polling.triggerscope import scope_of, starting_scope
from aura.runs.firing import payload_of
from aura.runs.runtime import Runtime
from aura.why import reason_of

#: The events by which a run that was stopped rests and goes on: a rule that stops it again by them never lets it.
_OF_VICTIMS = frozenset({"run.preempted", "run.requeued", "run.resumed", "run.started"})


class Refusal(NamedTuple):
    """Why an event does not fire a rule: a code of the why-ledger, and what to say."""

    reason: str
    detail: str


class RuleChecks:
    """Asks a rule's conditions."""

    def __init__(self, runtime: Runtime, dispatcher: Dispatcher) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher

    def refusal(self, live: LiveRule, when: Condition | None, event: EventEntry) -> Refusal | None:
        """Why an event does not fire a rule by a trigger with this condition; None if it does."""
        if not live.enabled:
            return Refusal("disabled", "it is switched off")
        if live.name in event.via or self._is_of_victim(live, event):
            return Refusal("loop_detected", f"event {event.name} was brought about by a firing of its own")
        return self._condition(live, when, event) or self._room(live)

    def _is_of_victim(self, live: LiveRule, event: EventEntry) -> bool:
        """Whether an event only says that a run was stopped by this rule, or goes on after that."""
        run = self._runtime.open.get(event.cid or "") if event.name in _OF_VICTIMS else None
        by = None if run is None else run.preempted_by
        return by is not None and (by.plan_name, by.rule) == live.key

    def _condition(self, live: LiveRule, when: Condition | None, event: EventEntry) -> Refusal | None:
        try:
            if when is not None and not when.test(self.scope_of(live.plan, event)):
                return Refusal("condition_false", f"its when does not hold for event {event.id}")
        except Exception as error:
            return Refusal("bad_inputs", f"its when cannot be asked: {error}")
        if live.rule.while_running and not self.runs_any(live):
            return Refusal("condition_false", f"none of {', '.join(live.rule.while_running)} runs")
        return None

    def _room(self, live: LiveRule) -> Refusal | None:
        left = live.cooldown_left(self._runtime.clock.monotonic())
        if left > 0:
            return Refusal("cooldown", f"its cooldown ends in {left:.3g} s")
        full = self.full(live)
        return None if full is None else Refusal("queue_full", full)

    def full(self, live: LiveRule) -> str | None:
        """What to say if as many of its firings wait as may, whoever fires it; None if there is room for another."""
        if waiting_of(live, self._dispatcher.holds.open) >= live.rule.max_pending:
            return f"{live.rule.max_pending} firings of it wait"
        return None

    def runs_any(self, live: LiveRule) -> bool:
        """Say whether a task of its ``while_running`` runs: it has its place, or that of its parent, and is not stuck.

        What waits, is paused or was stopped by an interrupt does not run.
        """
        names, placed = live.rule.while_running, chain(self._dispatcher.placed(), self._dispatcher.in_place)
        mine = (run for run in placed if run.plan_name == live.plan_name and run.task_name in names)
        return any(run.state in PLACED and not run.stuck for run in mine)

    def inputs_of(self, live: LiveRule, event: EventEntry) -> dict[str, Any]:
        """The inputs of its handler.

        Raises:
            RequestError: ``inputs_invalid``: one of them has no value.
        """
        scope = self.scope_of(live.plan, event)
        try:
            return {name: given.render(scope) for name, given in live.rule.inputs.items()}
        except Exception as error:
            raise RequestError("inputs_invalid", f"its inputs cannot be made: {error}") from error

    def scope_of(self, plan: Plan, event: EventEntry | None = None) -> dict[str, Any]:
        """What a rule's expressions may name; ``event`` and ``due`` only where one has come."""
        if event is None:
            return scope_of(self._runtime, plan)
        return starting_scope(self._runtime, plan, payload_of(event), event.time)


def why_refused(live: LiveRule, refused: RequestError) -> Refusal:
    """A refused handler as a reason why its rule did not fire."""
    said: Mapping[str, str] = {error.path: error.message for error in refused.errors}
    details = "".join(f"; {path.lstrip('/')} {message}" for path, message in said.items())
    return Refusal(reason_of(refused.code), f"{refused.detail}{details}: {live.rule.source}")
