"""What plans remember: values by key, which last over runs, reloads and restarts.

Theory of operation. All of it is in memory, since expressions read it without waiting, and on record, a row for each
key. What is *shown* is what is on record. A change is decided in one turn: it is compared with what the changes before
it will have made, joins the queue of its key, and is handed to the store with the event that tells of it. When its
commit is known it is shown, and then whoever made it goes on. So nobody sees what may still be undone, and of many that
compare and set one key in the same turn exactly one does.

- *An answer that changes nothing* (a comparison that fails, nothing to delete) waits for the change that it was decided
  by: if that one is lost, it is decided again.
- *A unit that is lost* is taken out of its key's queue; what was handed over behind it stands. Only a change that was
  made by comparing looks again when it is written, and is lost in its turn if it is not as it was.
- *Expiry* is a time of the wall clock. What has expired is null at once wherever it is read; its row goes when its plan
  is full, or at the next start. There is no timer.

Each plan has its own: an action works on that of its own plan, a step's expressions on that of their task's. What a
plan remembers stays when it is removed, and is there when it is put back.

What a crash does: what was answered is on record; of what was not, each change is there as a whole or not at all.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec
from anyio.lowlevel import checkpoint

from aura.bus import Bus
from aura.clock import Clock
from aura.duration import Duration, parse_duration
from aura.errors import Lost, StateFull, StateInvalid
from aura.events import Emitter
from aura.plaindata import OpenMapping
from aura.records.columns import decode
from aura.records.runs import together
from aura.records.state import Kept, drop_state, expect_state, put_state
from aura.redaction import Redactor
from aura.runs.keepable import is_same, kept_json, plain_or
from aura.store import Store, Ticket

#: The longest key, in characters.
MAX_KEY = 200
#: How much one plan may remember: keys, and bytes of keys and values.
MAX_KEYS = 10_000
MAX_BYTES = 16 * 1024 * 1024


#: Hands over a unit: told of what runs when it is stored, and of what runs when it is lost.
Put = Callable[[Callable[[], object], Callable[[Exception], object]], Ticket]


class Ground(msgspec.Struct, frozen=True, eq=False):
    """What the states of all plans stand on. ``fault`` is told of changes that the store has lost."""

    store: Store
    bus: Bus
    clock: Clock
    redactor: Redactor
    fault: Callable[[str, BaseException], object]


class Change(msgspec.Struct, eq=False):
    """A change that is on its way to the store: what becomes of keys, None for nothing. ``ticket`` is its unit's.

    ``before`` is the one that it was decided by, while the fate of either is unknown.
    """

    entries: Mapping[str, Kept | None]
    before: "Change | None" = None
    ticket: Ticket | None = None

    @property
    def is_lost(self) -> bool:
        """Whether it was not stored; known once it has been waited for."""
        return self.ticket is None or self.ticket.error is not None

    async def wait(self) -> None:
        """Return once it is committed; raise what it was lost by."""
        assert self.ticket is not None
        await self.ticket.wait()


class PlanState:
    """What one plan remembers.

    Invariant: ``_shown`` is what is on record; ``_pending`` has, by key and in order, the changes of unknown fate;
    ``_count`` and ``_bytes`` are of what there will be when all of them are stored.
    """

    def __init__(self, plan_name: str, ground: Ground) -> None:
        self._plan_name = plan_name
        self._ground = ground
        self._shown: dict[str, Kept] = {}
        self._pending: dict[str, deque[Change]] = {}
        self._count = self._bytes = 0
        #: What an expression of this plan names as ``state``.
        self.scope = StateScope(self)

    def load(self, key: str, kept: Kept) -> None:
        """Take what an older start has left on record."""
        self._shown[key] = kept
        self._count += 1
        self._bytes += _size(key, kept)

    # -- what is there

    def get(self, key: str) -> bytes | None:
        """The value of a key on record, as JSON; None if there is none, or it has expired."""
        kept = self._shown.get(key)
        return None if kept is None or _has_expired(kept, self._now) else kept[0]

    def list_keys(self) -> list[str]:
        """All keys that have a value on record, sorted."""
        now = self._now
        return sorted(key for key, kept in self._shown.items() if not _has_expired(kept, now))

    @property
    def _now(self) -> float:
        return self._ground.clock.wall()

    def _decided(self, key: str) -> Kept | None:
        """What a key will be when all that is on its way is stored; it may have expired."""
        pending = self._pending.get(key)
        return pending[-1].entries[key] if pending else self._shown.get(key)

    # -- changing it

    async def set(self, key: str, value: Any, ttl: float | str | None, origin: Emitter) -> None:
        """Give a key a value; returns once that is stored. ``ttl`` as for ``actions.State``."""
        await self._change(self.checked_key(key), self._kept(value, ttl), origin).wait()

    async def delete(self, key: str, origin: Emitter) -> bool:
        """Forget a key, and say whether there was one, once that is certain."""
        self.checked_key(key)
        while True:
            if not self._is_there(self._decided(key)):
                if await self._is_so(key):
                    return False
                continue
            await self._change(key, None, origin).wait()
            return True

    async def compare_and_set(
        self, key: str, expected: Any, value: Any, ttl: float | str | None, origin: Emitter
    ) -> bool:
        """Give a key a value if it has the expected one; say whether it had, once that is certain."""
        self.checked_key(key)
        kept, expected = self._kept(value, ttl), plain_or(expected, StateInvalid)
        while True:
            former = self._decided(key)
            if not is_same(expected, decode(former[0]) if former and self._is_there(former) else None):
                if await self._is_so(key):
                    return False
                continue
            change = self._change(key, kept, origin, comparing=True)
            try:
                await change.wait()
            except Lost:
                if change.before is not None and change.before.is_lost:  # that is why
                    continue
                raise
            return True

    def _is_there(self, kept: Kept | None) -> bool:
        return kept is not None and not _has_expired(kept, self._now)

    def _last(self, key: str) -> Change | None:
        pending = self._pending.get(key)
        return pending[-1] if pending else None

    async def _is_so(self, key: str) -> bool:
        """Return once it is certain that a key is as it was decided to be; False if it is not, after all."""
        last = self._last(key)
        if last is None:
            await checkpoint()  # whoever asks again and again lets others go on, and can be stopped
            return True
        try:
            await last.wait()
        except Exception:
            return False
        return True

    def _change(self, key: str, kept: Kept | None, origin: Emitter, *, comparing: bool = False) -> Change:
        """Hand over a change of one key, and the event that tells of it.

        ``comparing``: it is lost if the key is not as it was decided to be when that is written.

        Raises:
            StateFull: there is no room for it.
        """
        name = self._plan_name
        if kept is not None:
            self._make_room(key, kept)
        unit = put_state(name, key, kept, self._now) if kept else drop_state(name, [key])
        if comparing:
            unit = together([expect_state(name, key, self._decided(key)), unit])
        announce = partial(
            self._ground.bus.announce,
            "state.changed",
            {"plan_name": name, "key": key, "exists": kept is not None},
            origin=origin,
            also=unit,
        )
        change = Change({key: kept}, self._last(key))
        return self._hand_over(change, lambda after, failed: announce(after=after, failed=failed))

    def _hand_over(self, change: Change, put: Put) -> Change:
        for key in change.entries:
            before = self._decided(key)
            self._pending.setdefault(key, deque()).append(change)
            self._recount(key, before)
        change.ticket = put(partial(self._stored, change), partial(self._lost, change))
        return change

    def _stored(self, change: Change) -> None:
        change.before = None
        for key, kept in change.entries.items():
            self._take_out(key, change)
            if kept is None:
                self._shown.pop(key, None)
            else:
                self._shown[key] = kept

    def _lost(self, change: Change, error: Exception) -> None:
        """A change was rolled back alone: those behind it stand, if they were not made by comparing."""
        for key in change.entries:
            before = self._decided(key)
            self._take_out(key, change)
            self._recount(key, before)
        if not isinstance(error, Lost):
            self._ground.fault(f"a change of what plan {self._plan_name} remembers was not stored", error)

    def _take_out(self, key: str, change: Change) -> None:
        pending = self._pending[key]
        pending.remove(change)
        if not pending:
            del self._pending[key]

    # -- how much there is

    def _recount(self, key: str, before: Kept | None) -> None:
        """Count a key whose decided value was ``before``, and may be another now."""
        now = self._decided(key)
        self._count += (now is not None) - (before is not None)
        self._bytes += _size(key, now) - _size(key, before)

    def _make_room(self, key: str, kept: Kept) -> None:
        if self._fits(key, kept):
            return
        self.forget_expired()
        if not self._fits(key, kept):
            what = f"{self._count} keys and {self._bytes} bytes"
            raise StateFull(
                f"plan {self._plan_name} remembers {what}, and may {MAX_KEYS} keys and {MAX_BYTES} bytes: "
                "delete what is not needed, or give it a ttl"
            )

    def _fits(self, key: str, kept: Kept) -> bool:
        former = self._decided(key)
        more = _size(key, kept) - _size(key, former)
        return self._count + (former is None) <= MAX_KEYS and (more <= 0 or self._bytes + more <= MAX_BYTES)

    def forget_expired(self) -> None:
        """Let go of what has expired; does not wait. Nobody is told: it was gone already."""
        now = self._now
        gone = [key for key, kept in self._shown.items() if _has_expired(kept, now) and key not in self._pending]
        if gone:
            unit = drop_state(self._plan_name, gone)
            self._hand_over(Change(dict.fromkeys(gone)), partial(self._ground.store.put, unit))

    # -- what may be kept

    def checked_key(self, key: str) -> str:
        """Give a key as it is.

        Raises:
            StateInvalid: it cannot be one.
        """
        check_key(key)
        if self._ground.redactor.text(key) != key:
            raise StateInvalid("a key with a secret in it is not kept: keys are shown")
        return key

    def _kept(self, value: Any, ttl: float | str | None) -> Kept:
        data = kept_json(value, self._ground.redactor, StateInvalid)
        return data, None if ttl is None else self._now + _seconds(ttl)


def check_key(key: Any) -> None:
    """Raise ``StateInvalid`` for what no key can be, whoever asks."""
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY or not key.isprintable():
        raise StateInvalid(f"{key!r:.60} is no key: it is text of 1 to {MAX_KEY} characters that can be printed")


def _has_expired(kept: Kept, now: float) -> bool:
    return kept[1] is not None and kept[1] <= now


def _size(key: str, kept: Kept | None) -> int:
    return 0 if kept is None else len(key.encode()) + len(kept[0])


def _seconds(ttl: float | str) -> float:
    try:
        seconds = parse_duration(ttl) if isinstance(ttl, str) else Duration.of_seconds(ttl)
    except (ValueError, TypeError) as error:
        raise StateInvalid(f"ttl: {error}") from None
    if not seconds:
        raise StateInvalid("ttl is 0: a key lives for longer than that, and for ever without ttl")
    return seconds


class StateScope(OpenMapping):
    """``state`` in an expression: each key is read when it is asked for. As a whole it is all that is remembered."""

    __slots__ = ("_state",)

    def __init__(self, state: PlanState) -> None:
        super().__init__()
        self._state = state

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._state.get(key) is not None

    def __getitem__(self, key: str) -> Any:
        data = self._state.get(key)
        return None if data is None else decode(data)

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.list_keys())

    def __len__(self) -> int:
        return len(self._state.list_keys())

    def items(self) -> Any:
        return {key: self[key] for key in self}.items()
