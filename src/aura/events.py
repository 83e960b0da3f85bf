"""Events and log lines as plain records: Aura's own event names, the public shapes, and how one becomes an SSE frame.

Both kinds share one sequence of ids (``boot << 40 | n``), so that a stream that mixes them can be resumed by one
number. Nothing is published here: ``journal`` holds the records and hands them to readers; ``records`` stores them.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from aura.clock import rfc3339
from aura.lifecycle import FINAL, STEP_FINAL, RunState, StepState

#: final state of a run → the event that says so. After it nothing more comes from that run.
RUN_ENDED: Mapping[RunState, str] = {state: f"run.{state}" for state in RunState if state in FINAL}
#: final state of a step → the event that says so.
STEP_ENDED: Mapping[StepState, str] = {state: f"step.{state}" for state in StepState if state in STEP_FINAL}
#: The events after which the stream of a run ends.
RUN_ENDS = frozenset(RUN_ENDED.values())

LEVELS: Mapping[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
LEVEL_NAMES: Mapping[int, str] = {number: name for name, number in LEVELS.items()}
#: The longest message of a log line, in bytes of UTF-8.
MAX_LINE = 64 * 1024
MAX_FIELD_DEPTH = 8
MAX_FIELD_ITEMS = 256
#: How far a boot number is shifted in an id.
BOOT_SHIFT = 40
#: Most bytes of an entry that are not its text: the object, its frame's names and times.
_OVERHEAD = 512

#: An entry is staged until the commit of its unit is known; then it is shown, or dropped and never seen by anyone.
STAGED, SHOWN, DROPPED = 0, 1, 2


class _Held(msgspec.Struct, eq=False, kw_only=True):
    """What the journal needs beside the record itself. ``size`` is an upper estimate in bytes, frame included."""

    state: int = SHOWN
    size: int = _OVERHEAD
    kept_frame: bytes | None = None


class Entry(_Held, eq=False):
    """One record of the journal. ``time`` is in Unix seconds."""

    kind: ClassVar[str] = ""
    id: int
    time: float
    cid: str | None
    plan_name: str | None
    task_name: str | None
    step: str | None

    def record(self) -> dict[str, Any]:
        """The public JSON shape; ``id`` is decimal text there, since JSON readers lose digits of large numbers."""
        raise NotImplementedError

    @property
    def frame(self) -> bytes:
        """The record as one SSE frame, encoded at first need and then kept."""
        if self.kept_frame is None:
            self.kept_frame = b"id: %d\ndata: %b\n\n" % (self.id, encode(self.record()))
        return self.kept_frame


class LogEntry(Entry, eq=False):
    """One log line. ``level`` is one of ``LEVELS``' numbers; ``fields`` is plain JSON data."""

    kind: ClassVar[str] = "log"
    level: int
    message: str
    attempt: int | None
    fields: dict[str, Any]

    def record(self) -> dict[str, Any]:
        return {
            "kind": "log",
            "id": str(self.id),
            "time": rfc3339(self.time),
            "level": LEVEL_NAMES.get(self.level, "info"),
            "message": self.message,
            "plan_name": self.plan_name,
            "task_name": self.task_name,
            "cid": self.cid,
            "step": self.step,
            "attempt": self.attempt,
            "fields": self.fields,
        }


class Chain(msgspec.Struct, frozen=True):
    """By what a run does what it does: the event that started it, or woke it last, and those before that one.

    ``cause`` is that event's id, None of a run that no event started; ``root`` the first of the chain, an event's id or
    a ``cid``; ``depth`` how many events, and runs that started runs, led to it; ``via`` the names of the subscribers
    that it went through, one for each time.
    """

    cause: str | None
    root: str
    depth: int
    via: tuple[str, ...] = ()


class Emitter(msgspec.Struct, frozen=True):
    """The step of a run that an event comes from, and the chain that the run stands in.

    Of what a plan does outside of its runs task, run and chain are None: with the event a chain begins.
    """

    plan_name: str
    task_name: str | None
    cid: str | None
    step: str | None
    chain: Chain | None


class Fired(msgspec.Struct, frozen=True):
    """An interrupt rule that an event has fired, and the ``cid`` of its handler."""

    plan_name: str
    rule: str
    cid: str


class EventReceipt(msgspec.Struct, frozen=True):
    """What whoever emitted an event is told of it: its id, the runs that it has started, the rules it has fired."""

    event_id: str
    started: list[str] = []
    interrupts: list[Fired] = []


class EventEntry(Entry, eq=False):
    """One event. ``cause`` is the id of the event that led to it, ``root`` the first of that chain.

    ``chain`` is that of the run that it comes from, if events have led to it: it is kept with it, and not shown.
    """

    kind: ClassVar[str] = "event"
    name: str
    payload: Any
    cause: str | None
    root: str | None
    depth: int
    chain: Chain | None = None

    def record(self) -> dict[str, Any]:
        return {
            "kind": "event",
            "id": str(self.id),
            "name": self.name,
            "time": rfc3339(self.time),
            "payload": self.payload,
            "plan_name": self.plan_name,
            "task_name": self.task_name,
            "cid": self.cid,
            "step": self.step,
            "cause": self.cause,
            "root": self.root,
            "depth": self.depth,
        }

    @property
    def ends_run(self) -> bool:
        """Say whether nothing more comes from this run."""
        return self.name in RUN_ENDS

    @property
    def hops(self) -> int:
        """How many events, and runs that started runs, have led to it: its depth, or more if its run was woken."""
        return self.depth if self.chain is None else max(self.depth, self.chain.depth + 1)

    @property
    def via(self) -> tuple[str, ...]:
        """The subscribers that its chain went through."""
        return self.chain.via if self.chain else ()


def chain_after(event: EventEntry, subscriber: str, begun: Chain | None = None) -> Chain:
    """The chain of a run that an event has started or woken through a subscriber.

    Whoever wakes a run by an event replaces the run's chain by this, so that what the run emits from then on counts as
    led to by that event, and a circle of events comes to an end. What has started the run stays (``begun``): else a
    handler that waits for an event could fire its own rule.
    """
    former = [one for one in begun.via if one not in event.via] if begun else []
    return Chain(str(event.id), event.root or str(event.id), event.hops, (*former, *event.via, subscriber))


def encode(record: Any) -> bytes:
    """Encode a record as one line of JSON; text that is not Unicode and values that are not JSON become their like."""
    try:
        return _encoder.encode(record)
    except (UnicodeEncodeError, TypeError, RecursionError, OverflowError):
        return _encoder.encode(plain(record))


def clean_text(text: str, limit: int = MAX_LINE) -> str:
    """Give text that every sink can write: lone surrogates replaced, cut to ``limit`` bytes with a marker."""
    if text.isascii() and len(text) <= limit:
        return text
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return raw.decode()
    return f"{raw[:limit].decode('utf-8', 'ignore')} … {len(raw) - limit} bytes dropped"


_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Give text that cannot steer a terminal: control characters, ESC and bidirectional marks become escapes."""
    return _STEERING.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def plain(value: Any, depth: int = 0) -> Any:
    """Turn anything into JSON data of bounded depth and width; what is not JSON becomes its ``repr``."""
    match value:
        case None | bool():
            return value
        case int() if value.bit_length() <= 64:
            return int(value)
        case float() if math.isfinite(value):
            return float(value)
        case str():
            return clean_text(str(value))
        case Mapping() if depth < MAX_FIELD_DEPTH:
            pairs = list(value.items())[:MAX_FIELD_ITEMS]
            return {_text(key): plain(item, depth + 1) for key, item in pairs}
        case list() | tuple() if depth < MAX_FIELD_DEPTH:
            return [plain(item, depth + 1) for item in value[:MAX_FIELD_ITEMS]]
    return _text(value)


def size_of(value: Any) -> int:
    """Estimate the bytes that plain data takes as JSON."""
    kind = type(value)  # of each event, so it has to be quick
    if kind is str:
        return len(value) + 8
    size = 8
    if kind is dict:
        for key, item in value.items():
            size += len(key) + 8 + (len(item) + 8 if type(item) is str else size_of(item))
        return size
    if kind is list:
        for item in value:
            size += size_of(item)
        return size
    return 16


def _text(value: Any) -> str:
    if type(value) is str:
        return clean_text(value)
    try:
        return clean_text(str(value) if isinstance(value, str) else repr(value), 4096)
    except Exception as broken:
        return f"<{type(value).__name__}, whose repr raised {type(broken).__name__}>"


_encoder = msgspec.json.Encoder(enc_hook=_text)
