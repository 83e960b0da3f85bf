"""Query strings: pages with opaque cursors, and the filters of runs and logs, each a struct that says what it takes."""

import base64
import binascii
import re
import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from aura.errors import FieldError, RequestError
from aura.eventnames import read_pattern
from aura.events import LEVELS, Entry, LogEntry
from aura.lifecycle import RunState
from aura.records.events import EventFilter
from aura.records.reading import RunFilter
from aura.records.why import WhyFilter
from aura.web.validate import invalid
from aura.why import Place, Reason

T = TypeVar("T")

MAX_CIDS = 500
#: The name of the why-ledger's list in its cursors.
WHY = "why"
#: What a cursor that counts holds: anybody can make one, so it may be anything; SQLite takes 63 bits.
_NUMBER = re.compile(r"[0-9]{1,18}")

Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Time = Annotated[datetime, msgspec.Meta(tz=True)]
Level = Literal["debug", "info", "warning", "error", "critical"]


class Nothing(msgspec.Struct, frozen=True):
    """The query of a route that takes none."""


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a list: at most ``limit`` items, behind what ``cursor`` stands for."""

    limit: Limit = 100
    cursor: str | None = None

    def position(self, kind: str) -> str | None:
        """What the cursor stands for, None at the beginning.

        Raises:
            RequestError: ``bad_cursor``.
        """
        return None if self.cursor is None else read_cursor(kind, self.cursor)

    def number(self, kind: str) -> int | None:
        """What a cursor that counts stands for, None at the beginning.

        Raises:
            RequestError: ``bad_cursor``.
        """
        position = self.position(kind)
        if position is not None and not _NUMBER.fullmatch(position):
            raise bad_cursor()
        return None if position is None else int(position)


class RunQuery(PageQuery, frozen=True, kw_only=True):
    """Filters of the list of runs. ``label`` is ``name:value``, repeatable; ``cid`` a list with commas."""

    state: RunState | None = None
    plan_name: str | None = None
    task_name: str | None = None
    lane: str | None = None
    label: list[str] = []
    cid: str | None = None
    since: Time | None = None
    until: Time | None = None

    def wanted(self) -> RunFilter:
        """The same as the store's filter.

        Raises:
            RequestError: ``invalid``: a label is not ``name:value``, or there are too many cids.
        """
        cids = tuple(self.cid.split(",")) if self.cid else ()
        if len(cids) > MAX_CIDS:
            raise invalid([FieldError("/cid", f"lists more than {MAX_CIDS} runs")])
        return RunFilter(
            state=self.state.value if self.state else None,
            plan_name=self.plan_name,
            task_name=self.task_name,
            lane=self.lane,
            labels=dict(_label(text) for text in self.label),
            cids=cids,
            since=self.since.timestamp() if self.since else None,
            until=self.until.timestamp() if self.until else None,
        )


def _label(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not name or not colon:
        raise invalid([FieldError("/label", f"{text[:100]!r} is not a label; say label=team:ops")])
    return name, value


class WhyQuery(PageQuery, frozen=True, kw_only=True):
    """Which lines of the why-ledger are wanted; ``since`` and ``until`` are about the last time of each."""

    plan_name: str | None = None
    item: str | None = None
    rule: str | None = None
    task_name: str | None = None
    reason: Reason | None = None
    since: Time | None = None
    until: Time | None = None

    def wanted(self) -> WhyFilter:
        """The same as the ledger's filter."""
        return WhyFilter(
            plan_name=self.plan_name,
            item=self.item,
            rule=self.rule,
            task_name=self.task_name,
            reason=self.reason,
            since=self.since.timestamp() if self.since else None,
            until=self.until.timestamp() if self.until else None,
        )

    def place(self) -> Place | None:
        """The place that the cursor stands for, None at the beginning.

        Raises:
            RequestError: ``bad_cursor``.
        """
        position = self.position(WHY)
        try:
            return None if position is None else msgspec.json.decode(position, type=Place)
        except msgspec.MsgspecError:
            raise bad_cursor() from None


class QueueQuery(PageQuery, frozen=True, kw_only=True):
    lane: str | None = None


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which log lines are wanted; what is None does not restrict. ``level`` is the lowest."""

    level: Level | None = None
    plan_name: str | None = None
    task_name: str | None = None
    cid: str | None = None

    def fits(self, entry: Entry) -> bool:
        """Say whether a log line is wanted."""
        return (
            (self.cid is None or entry.cid == self.cid)
            and (self.level is None or (isinstance(entry, LogEntry) and entry.level >= LEVELS[self.level]))
            and (self.plan_name is None or entry.plan_name == self.plan_name)
            and (self.task_name is None or entry.task_name == self.task_name)
        )

    def conditions(self) -> dict[str, Any]:
        """The same as keyword arguments of ``Engine.log_entries``."""
        level = None if self.level is None else LEVELS[self.level]
        return {"level": level, "plan_name": self.plan_name, "task_name": self.task_name, "cid": self.cid}


class EventQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are wanted; what is None does not restrict. ``name`` is a name, or a pattern of names."""

    name: str | None = None
    plan_name: str | None = None
    task_name: str | None = None
    cid: str | None = None

    def wanted(self) -> EventFilter:
        """The same as the store's filter.

        Raises:
            RequestError: ``invalid``: the name is no pattern.
        """
        try:
            name = None if self.name is None else read_pattern(self.name)
        except ValueError as error:
            raise invalid([FieldError("/name", str(error))]) from None
        return EventFilter(name, self.plan_name, self.task_name, self.cid)


class SocketQuery(LogQuery, frozen=True, kw_only=True):
    """The same, and the id behind which to go on: a WebSocket's client cannot send ``Last-Event-ID``."""

    last_id: str | None = None


class RunLogQuery(PageQuery, frozen=True, kw_only=True):
    level: Level | None = None


# -- cursors ----------------------------------------------------------------------------------------------------------


def make_cursor(kind: str, position: object) -> str:
    """Encode a place in a list. The check sum is there to tell a mangled cursor, not to keep a secret."""
    text = f"{kind}:{position}".encode()
    return base64.urlsafe_b64encode(zlib.crc32(text).to_bytes(4, "big") + text).decode().rstrip("=")


def read_cursor(kind: str, cursor: str) -> str:
    """Give the place for which ``make_cursor`` made this cursor.

    Raises:
        RequestError: ``bad_cursor``: it is of another list, or nobody here made it.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        text = raw[4:].decode()
    except (binascii.Error, ValueError):
        raw, text = b"", ""
    made_for, colon, position = text.partition(":")
    if not colon or made_for != kind or raw[:4] != zlib.crc32(text.encode()).to_bytes(4, "big"):
        raise bad_cursor()
    return position


def bad_cursor() -> RequestError:
    """The refusal of a cursor that nobody here made."""
    return RequestError("bad_cursor", "the cursor is not one of this list; ask for the first page without one")


def first_page(found: Sequence[T], limit: int) -> tuple[Sequence[T], T | None]:
    """Split what was read with a limit of one more: the page, and its last item if there is more behind it."""
    if len(found) <= limit:
        return found, None
    return found[:limit], found[limit - 1]


def page_by_name(
    items: Sequence[T], names: Sequence[str], query: PageQuery, kind: str
) -> tuple[Sequence[T], str | None]:
    """One page of a short list that is in memory and sorted by ``names``, and the next cursor."""
    after = query.position(kind)
    begin = 0 if after is None else sum(1 for name in names if name <= after)
    end = begin + query.limit
    return items[begin:end], make_cursor(kind, names[end - 1]) if end < len(items) else None
