"""Webhooks: items of schedules that somebody outside starts, who knows a secret of their plan.

Theory of operation. A call is first *proven*, on its bytes alone (``signatures``). A call that is not is told nothing,
not even whether there is such a hook or whether its secret is set; the log tells the operator why, once a minute for
each hook. Then it is *received*, in one turn: the event ``webhook.received`` with the body as its payload is addressed
to the item, so it is on record together with the run that it starts and with the delivery, or nothing is.

- What the item itself does not want (its switch, its ``when``, its cooldown) is received and starts nothing. A run that
  is refused is the caller's matter: nothing is stored, and the same delivery may come again.
- A delivery that has started a run starts no other one: the unique index of its row has the last word. That it never
  has to is the work of the *flights*: while a delivery is being received, those that say they are the same wait for it.
- While the engine is stopped calls are received as ever, and what they start waits in its lane.

The body is data. It is rendered nowhere; only what an expression of the plan names of it gets into inputs.

What a crash does: the caller does not know whether it was received, calls again, and is told or is the first.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import anyio

from aura.bus import Delivery
from aura.errors import FieldError, KeyTaken, RequestError, RunError
from aura.events import EventEntry, size_of
from aura.kernel.admission import Admission, Reserved, refusal
from aura.records.deliveries import DeliveryRow, delivery_key, find_delivery, insert_delivery
from aura.records.runs import together
from aura.runs.runtime import Runtime
from aura.sandbox import near
from aura.schedule import OnWebhook, Scheme, Trigger
from aura.scheduling.liveitem import Key, LiveItem
from aura.scheduling.signatures import HookCall, verdict
from aura.scheduling.starts import Refusal, Starts, Wish, event_of, why_refused
from aura.store import Execute, Ticket, Unit

RECEIVED = "webhook.received"
#: What ``event.headers`` has of a call, by lower-case names: what says what the call is, and nothing that proves it.
SHOWN_HEADERS = frozenset(
    f"x-github-{name}"
    for name in ("event", "delivery", "hook-id", "hook-installation-target-id", "hook-installation-target-type")
) | {
    *("content-type", "user-agent", "idempotency-key", "x-request-id", "x-aura-id", "x-aura-timestamp"),
    *("x-gitlab-event", "x-gitlab-event-uuid", "x-gitlab-instance", "x-gitlab-webhook-uuid"),
}
#: Seconds between two words about calls of one hook that were not proven.
TOLD_EVERY = 60.0
#: Why an item is not started without that being anybody's fault.
DECLINED = frozenset({"disabled", "condition_false", "cooldown"})
#: What a caller is told of the other reasons.
_CODES = {"mode": "refused_by_mode", "bad_inputs": "inputs_invalid", "queue_full": "queue_full"}
_Delivery = tuple[str, str, bytes]


class Proven(NamedTuple):
    """A call whose caller knows the secret. ``delivery`` is what it calls it, None for nothing."""

    live: LiveItem
    trigger: Trigger
    delivery: str | None
    headers: dict[str, str]


class HookReceipt(NamedTuple):
    """What a caller is told. ``started`` is the run, None if the item did not want to be started.

    ``is_new``: it is not the answer to an older call that was the same.
    """

    event_id: str
    started: str | None
    is_new: bool = True


class _Flight:
    """A delivery that is being received. Invariant: one that is handed over ends when its fate is known."""

    def __init__(self) -> None:
        self.handed_over = False
        self.over = anyio.Event()


class Webhooks:
    """The items that have a webhook. A ``Source``, which the HTTP door calls."""

    def __init__(self, runtime: Runtime, starts: Starts, admission: Admission) -> None:
        self._runtime = runtime
        self._starts = starts
        self._admission = admission
        self._hooks: dict[Key, LiveItem] = {}
        #: Bounded by the requests that are in flight, and by what waits to be written.
        self._flights: dict[_Delivery, _Flight] = {}
        #: Of the hooks that are there: when it was last said that a call was not proven, in monotonic time.
        self._told: dict[Key, float] = {}
        #: The secret of all hooks that are not there.
        self._nobody = secrets.token_bytes(32)

    # -- which hooks there are

    def keep(self, live: LiveItem) -> None:
        if hook_of(live) is None:
            self.drop(live)
            return
        self._hooks[live.key] = live
        self._told.pop(live.key, None)

    def drop(self, live: LiveItem) -> None:
        self._hooks.pop(live.key, None)
        self._told.pop(live.key, None)

    def wake(self, live: LiveItem) -> None:
        """Its switch is asked with each call."""

    def start(self) -> None:
        """Calls are received whether the engine runs or not."""

    def request_stop(self, _grace: float = float("inf")) -> None:
        """As ``start``."""

    def close(self) -> None:
        """It has no timers."""

    # -- proving

    def prove(self, plan_name: str, item_name: str, call: HookCall) -> Proven | None:
        """Find out whether a call is proven; None if it is not, whatever the reason."""
        live = self._hooks.get((plan_name, item_name))
        trigger = hook_of(live) if live else None
        secret, missing = self._secret(live, trigger)
        scheme = trigger.kind.scheme if trigger and isinstance(trigger.kind, OnWebhook) else Scheme.AURA
        said = verdict(scheme, secret or self._nobody, call, self._runtime.clock.wall())
        if live is None or trigger is None:
            return None
        if secret is None or said.why is not None:
            self._tell(live, missing, said.why or "")
            return None
        return Proven(live, trigger, said.delivery, self._shown(call))

    def as_proven(
        self, plan_name: str, item_name: str, headers: Sequence[tuple[bytes, bytes]], delivery: str | None
    ) -> Proven:
        """A call by somebody whom nobody doubts, for tests. Names of headers are in lower case.

        Raises:
            RequestError: there is no such webhook.
        """
        live = self._hooks.get((plan_name, item_name))
        trigger = hook_of(live) if live else None
        if live is None or trigger is None:
            known = sorted(item for plan, item in self._hooks if plan == plan_name)
            hint = f"{near(item_name, known)}; there are: {', '.join(known) or 'none'}"
            raise RequestError("unknown_item", f"plan {plan_name} has no webhook {item_name!r}{hint}")
        return Proven(live, trigger, delivery, self._shown(HookCall(headers, b"")))

    def _secret(self, live: LiveItem | None, trigger: Trigger | None) -> tuple[bytes | None, str | None]:
        """The secret of a hook; else, if there is such a hook, why there is none."""
        if live is None or trigger is None or not isinstance(trigger.kind, OnWebhook):
            return None, None
        try:
            return self._runtime.secrets.read(live.plan, trigger.kind.secret).reveal().encode(), None
        except RunError as error:
            return None, str(error)

    def _tell(self, live: LiveItem, missing: str | None, why: str) -> None:
        """Tell the operator why a call was not proven, seldom: anybody can call."""
        now = self._runtime.clock.monotonic()
        if now - self._told.get(live.key, -TOLD_EVERY) < TOLD_EVERY:
            return
        self._told[live.key] = now
        if missing is not None:
            self._starts.note(live, "bad_inputs", f"its webhook cannot be called: {missing}")
        else:
            said = f"somebody called the webhook of {live.name} without a proof: {why}"
            self._runtime.log.warning(said, plan=live.plan_name)

    def _shown(self, call: HookCall) -> dict[str, str]:
        names = {name for name, _ in call.headers if name.decode("latin-1") in SHOWN_HEADERS}
        shown = {name.decode(): b", ".join(call.given(name)).decode("latin-1") for name in sorted(names)}
        hidden: dict[str, str] = self._runtime.redactor.plain(shown)
        return hidden

    # -- receiving

    async def receive(self, proven: Proven, payload: Any) -> HookReceipt:
        """Receive a proven call with its body, plain JSON; returns once it is on record, or was before.

        Raises:
            RequestError: the run is refused, or nothing can be stored; nothing was. ``unknown_item``: the item is gone.
        """
        if proven.delivery is None:
            return await self._received(self._hand_over(proven, payload, None))
        key = (*proven.live.key, delivery_key(proven.delivery))
        while True:  # each round waits for another call's end, finds it on record, is received, or refused
            if (flight := self._flights.get(key)) is not None:
                await flight.over.wait()
                continue
            with self._flying(key) as flight:
                found = await self._runtime.store.read(partial(_find, key))
                if found is not None:
                    detail = f"delivery {proven.delivery} has started run {found.started} before"
                    self._starts.note(proven.live, "duplicate", detail)
                    return found
                meant = self._hand_over(proven, payload, key)
                flight.handed_over = True
                try:
                    return await self._received(meant)
                except KeyTaken:
                    continue

    @contextmanager
    def _flying(self, key: _Delivery) -> Iterator[_Flight]:
        flight = self._flights[key] = _Flight()
        try:
            yield flight
        finally:
            if not flight.handed_over:
                self._land(key)

    def _land(self, key: _Delivery) -> None:
        """A flight ends: the next call of it finds the delivery on record, or is the first."""
        self._flights.pop(key).over.set()

    def _hand_over(self, proven: Proven, payload: Any, key: _Delivery | None) -> "_Meant":
        """Hand over the event and what it brings about, in this turn. Raises as ``receive``."""
        self._check(proven.live)
        room, size = self._runtime.bus.room, size_of(payload)
        if not room.take_nowait():
            raise RequestError("events_full", f"{room.taken} events are on their way to the store; call again later")
        room.add(size)

        def settled() -> None:
            room.give_back(size)
            if key is not None:
                self._land(key)

        meant = _Meant(self._starts, proven, key, settled)
        try:
            emitted = self._runtime.bus.address(meant, RECEIVED, payload, plan_name=proven.live.plan_name)
        except Exception as error:
            room.give_back(size)
            if isinstance(error, RequestError):
                raise self._refused(proven.live, error) from None
            raise
        meant.ticket, meant.event_id = emitted.ticket, str(emitted.entry.id)
        return meant

    def _check(self, live: LiveItem) -> None:
        if self._hooks.get(live.key) is not live:
            raise RequestError("unknown_item", f"plan {live.plan_name} has no such webhook any more")
        self._admission.check_open()
        self._admission.check_space()

    def _refused(self, live: LiveItem, refused: RequestError) -> RequestError:
        """Note why a run was refused, and give what the caller is told: the same without secrets."""
        self._starts.note(live, *why_refused(refused))
        hide = self._runtime.redactor.text
        errors = [FieldError(hide(error.path), hide(error.message)) for error in refused.errors]
        return RequestError(
            refused.code, hide(refused.detail), errors=errors, retry_after=refused.retry_after, extra=refused.extra
        )

    async def _received(self, meant: "_Meant") -> HookReceipt:
        """Give the receipt once it is on record.

        Raises:
            RequestError: it could not be stored. KeyTaken: the delivery is on record already.
        """
        try:
            await meant.ticket.wait()
        except KeyTaken:
            raise
        except Exception as error:
            raise refusal(error) from error
        if meant.declined is not None:
            self._starts.note(meant.proven.live, *meant.declined)
        return HookReceipt(meant.event_id, meant.cid)


class _Meant:
    """The event of a call is meant for its item. ``ticket`` and ``event_id`` are there once it was handed over."""

    pattern = ""
    ticket: Ticket
    event_id: str

    def __init__(self, starts: Starts, proven: Proven, key: _Delivery | None, settled: Callable[[], object]) -> None:
        self.name = proven.live.name
        self.proven = proven
        #: The run that it starts; or why the item does not want to be started.
        self.cid: str | None = None
        self.declined: Refusal | None = None
        self._starts = starts
        self._key = key
        self._settled = settled

    def offer(self, event: EventEntry) -> Delivery:
        """Start the item, unless it does not want that.

        Raises:
            RequestError: the run is refused.
        """
        seen = {**event_of(event), "headers": self.proven.headers}
        wish = Wish(self.proven.live, "webhook", self.proven.trigger, seen, also=partial(self._row, event))
        declined = self._starts.refusal(wish)
        if declined is None:
            made = self._starts.open(wish, event)
            self.cid = made.started
            return made._replace(committed=partial(self._settle, made.committed), lost=partial(self._settle, made.lost))
        if declined.reason not in DECLINED:
            raise RequestError(_CODES.get(declined.reason, "conflict"), declined.detail)
        self.declined = declined
        return Delivery(None, self._settled, self._settled)

    def suspend(self, reason: str) -> None:
        """It is asked once."""

    def _settle(self, then: Callable[[], object]) -> None:
        try:
            then()
        finally:
            self._settled()

    def _row(self, event: EventEntry, reserved: Reserved) -> Unit:
        if self._key is None:
            return together([])
        return insert_delivery(DeliveryRow(*self._key, str(event.id), reserved.run.cid, event.time))


def hook_of(live: LiveItem) -> Trigger | None:
    """The trigger of an item that is a webhook; it has one at most."""
    return next((one for one in live.item.triggers if isinstance(one.kind, OnWebhook)), None)


def _find(key: _Delivery, execute: Execute) -> HookReceipt | None:
    found = find_delivery(execute, *key)
    return HookReceipt(*found, is_new=False) if found else None
