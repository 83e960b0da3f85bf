"""Idempotency keys: a request that comes again under its key is answered as the first time, and is carried out once.

Theory of operation. The key's row, with the answer in it, is written in the unit of the acceptance itself: both are on
record, or neither is, and a request that was refused leaves no key. The unique index has the last word: if the key is
taken, the unit fails alone, the acceptance is undone quietly, and whoever asked is given the answer that is on record.

That it never has to is the work of the *flights*: while a request is being answered for the first time, those that come
with its key wait for it and are given its answer, or its refusal. A flight ends when the store has its answer or will
never have it, also if whoever asked has gone before: else the next one would be decided about once more, and could be
refused (a full queue, a plan that is gone by now) what is about to be on record.

What a crash does: it ends the flights. The client does not know whether its request was accepted, sends it again, and
finds the answer or is the first.

A key is kept for a day (``records.KEEP_KEYS``), and longer while one of its runs is not final. Old ones go a few at a
time, with the writing of new ones.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import anyio
import msgspec

from aura.errors import FieldError, KeyTaken, RequestError
from aura.kernel.admission import Admission, Admitted, refusal
from aura.lifecycle import RunState
from aura.records.columns import encode
from aura.records.keys import KeyRow, find_key, insert_key
from aura.records.runs import together
from aura.run import Cause, Outcomes, Receipt, Request
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime
from aura.store import Ticket, Unit

_FORM = re.compile(r"[\x20-\x7e]{1,255}")


Kind = Literal["run", "batch", "rerun"]


class Key(msgspec.Struct, frozen=True):
    """What a client calls a request. ``scope`` is its kind, ``body`` the SHA-256 of what it asks for.

    ``owner`` is the id of the client's token, empty for who needs none: the same text of two owners is two keys.
    """

    scope: Kind
    text: str
    body: bytes
    owner: str = ""

    @property
    def name(self) -> str:
        """What it is on record as; an id has no colon."""
        return f"{self.owner}:{self.text}"


def key_of(scope: Kind, text: str, body: Any, owner: str = "") -> Key:
    """Make the key of a request. The body, plain data or structs, counts by what it says and not by how it is written.

    Raises:
        RequestError: ``bad_header``: the key is not 1 to 255 printable characters of ASCII.
    """
    if _FORM.fullmatch(text) is None:
        raise RequestError("bad_header", "an Idempotency-Key has 1 to 255 printable ASCII characters")
    return Key(scope, text, hashlib.sha256(msgspec.json.encode(body, order="sorted")).digest(), owner)


class _Refused(msgspec.Struct, frozen=True):
    """A refused item of a batch, as it is kept."""

    code: str
    detail: str
    errors: list[FieldError]
    retry_after: float | None
    extra: dict[str, Any]

    @classmethod
    def of(cls, error: RequestError) -> "_Refused":
        return cls(error.code, error.detail, list(error.errors), error.retry_after, error.extra)

    def error(self) -> RequestError:
        return RequestError(
            self.code, self.detail, errors=self.errors, retry_after=self.retry_after, extra=dict(self.extra)
        )


class _Run(msgspec.Struct, frozen=True):
    """An accepted item, as it is kept."""

    cid: str
    plan_name: str
    task_name: str

    def receipt(self, replayed: bool) -> Receipt:
        return Receipt(self.cid, RunState.QUEUED.value, self.plan_name, self.task_name, replayed)


class _Item(msgspec.Struct, frozen=True):
    """One item of an answer: one of the two."""

    run: _Run | None = None
    refused: _Refused | None = None

    @classmethod
    def of(cls, outcome: LiveRun | RequestError) -> "_Item":
        if isinstance(outcome, RequestError):
            return cls(refused=_Refused.of(outcome))
        return cls(run=_Run(outcome.cid, outcome.plan_name, outcome.task_name))

    def outcome(self, replayed: bool) -> Receipt | RequestError:
        if self.run is not None:
            return self.run.receipt(replayed)
        assert self.refused is not None
        return self.refused.error()


#: Makes, of what was accepted and refused, the unit that keeps the answer under its key.
Keep = Callable[[Sequence[LiveRun | RequestError]], Unit]


class _Found(NamedTuple):
    """What is on record under a key."""

    body: bytes
    answer: bytes


class _Flight:
    """A request that is being answered for the first time. ``ticket`` is that of the answer, once it is handed over.

    Invariant: when it is ``over``, at most one of ``found`` and ``refused`` is set; with neither the next one asks.
    """

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.ticket: Ticket | None = None
        self.found: _Found | None = None
        self.refused: _Refused | None = None
        self.over = anyio.Event()


class Keys:
    """Answers requests that have a key."""

    def __init__(self, runtime: Runtime, admission: Admission) -> None:
        self._runtime = runtime
        self._admission = admission
        #: By scope and key. Bounded by the requests that are in flight, and by what waits to be written.
        self._flights: dict[tuple[str, str], _Flight] = {}

    async def submit(self, request: Request, cause: Cause, key: Key) -> Receipt:
        """Accept a request, or give the receipt of the first time.

        Raises:
            RequestError: ``key_reused``: the key is another request's. Or it is refused, and nothing of it is stored.
        """

        async def ask(also: Callable[[LiveRun], Unit]) -> Admitted:
            return self._admission.request(request, cause, also)

        return await self.accept(ask, key)

    async def accept(self, ask: Callable[[Callable[[LiveRun], Unit]], Awaitable[Admitted]], key: Key) -> Receipt:
        """Accept what ``ask`` decides and hands over, with what is to be written beside it; or give the first receipt.

        Raises:
            RequestError: as ``submit``, and as ``ask`` does.
        """

        async def hand_over(keep: Keep) -> Ticket:
            return (await ask(lambda run: keep([run]))).ticket

        (item,), replayed = await self._once(key, hand_over)
        receipt = item.outcome(replayed)
        assert isinstance(receipt, Receipt)  # of one that was refused alone nothing is kept
        return receipt

    async def submit_batch(
        self, requests: Sequence[Request | RequestError], cause: Cause, atomic: bool, key: Key
    ) -> Outcomes:
        """Accept many as one unit, or give the outcomes of the first time.

        Raises:
            RequestError: as ``submit``; or ``atomic``, and one of them is refused.
        """

        async def ask(keep: Keep) -> Ticket:
            if atomic:
                self._admission.check_all(requests, cause)
            return self._admission.request_together(requests, cause, keep)

        items, replayed = await self._once(key, ask)
        return Outcomes([item.outcome(replayed) for item in items], replayed)

    async def _once(self, key: Key, ask: Callable[[Keep], Awaitable[Ticket]]) -> tuple[list[_Item], bool]:
        """Give the answer that belongs to a key, and whether it is an old one. ``ask`` decides and hands over."""
        while True:  # each round waits for another one's answer, finds one, gives one, or was refused by the index
            flight = self._flights.get((key.scope, key.name))
            if flight is not None:
                await flight.over.wait()
                if flight.found is not None:
                    return _replay(key, flight.found), True
                if flight.refused is not None and flight.body == key.body:
                    raise flight.refused.error()
                continue
            with self._flying(key) as flight:
                row = await self._runtime.store.read(partial(find_key, scope=key.scope, key=key.name))
                if row is not None:
                    flight.found = _Found(*row)
                    return _replay(key, flight.found), True
                try:
                    flight.found = _Found(key.body, await self._ask(flight, key, ask))
                except KeyTaken:
                    continue
                return _replay(key, flight.found), False

    @contextmanager
    def _flying(self, key: Key) -> Iterator[_Flight]:
        flight = self._flights[key.scope, key.name] = _Flight(key.body)
        try:
            yield flight
        except RequestError as refused:
            if flight.found is None:
                flight.refused = _Refused.of(refused)
            raise
        finally:
            if flight.ticket is None or flight.ticket.done:
                self._end(key, flight)
            else:
                self._leave(key, flight, flight.ticket)

    def _end(self, key: Key, flight: _Flight) -> None:
        del self._flights[key.scope, key.name]
        flight.over.set()

    def _leave(self, key: Key, flight: _Flight, ticket: Ticket) -> None:
        """Whoever asked has gone before the answer was written: the flight ends when that is known."""
        after, failed = ticket.after, ticket.failed

        def written() -> None:
            self._end(key, flight)  # the next one finds the answer on record
            if after is not None:
                after()

        def lost(error: Exception) -> None:
            self._end(key, flight)
            if failed is not None:
                failed(error)

        ticket.after, ticket.failed = written, lost

    async def _ask(self, flight: _Flight, key: Key, ask: Callable[[Keep], Awaitable[Ticket]]) -> bytes:
        """Be the first, and give the answer once it is on record.

        Raises:
            RequestError: it is refused, or cannot be stored. KeyTaken: it was not the first.
        """
        answer = b""

        def keep(outcomes: Sequence[LiveRun | RequestError]) -> Unit:
            nonlocal answer
            answer = encode([_Item.of(outcome) for outcome in outcomes])
            seqs = [outcome.seq for outcome in outcomes if isinstance(outcome, LiveRun)]
            if not seqs:  # nothing of a batch was accepted: it may be asked for again, as what is refused alone
                return together([])
            first, last = seqs[0], seqs[-1]  # of one turn: nobody's is between them
            now = self._runtime.clock.wall()
            return insert_key(KeyRow(key.scope, key.name, key.body, answer, first, last, now))

        flight.ticket = await ask(keep)
        try:
            await flight.ticket.wait()
        except KeyTaken:
            raise
        except Exception as error:
            raise refusal(error) from error
        return answer


def _replay(key: Key, found: _Found) -> list[_Item]:
    if found.body != key.body:
        raise RequestError(
            "key_reused", f"the Idempotency-Key {key.text!r} was sent with another body before; use a new key"
        )
    return msgspec.json.decode(found.answer, type=list[_Item])
