"""What a run is on record: requests, causes, failures, and the shapes that doors show. Plain data, nothing runs here.

The live, changing side of a run is ``graph.RunGraph`` (how far its steps are) and ``executor.LiveRun`` (who runs it).
"""

import traceback
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, TracebackType
from typing import Annotated, Any, Literal

import msgspec
import uuid_utils

from aura.errors import HttpFailed, RaisedElsewhere, RequestError, RunError, TaskFailed
from aura.events import clean_text

CauseKind = Literal["api", "cli", "schedule", "event", "webhook", "file", "poll", "task", "interrupt", "rerun"]


class Cause(msgspec.Struct, frozen=True):
    """What asked for a run. ``cid``, with ``step`` and, of one that loops, the item's ``index``: another run's step.

    ``plan_name`` is that of the ``item`` of a schedule; runs of it count for each other, by its mode, if ``key`` is the
    same.
    """

    kind: CauseKind = "api"
    item: str | None = None
    rule: str | None = None
    event_id: str | None = None
    cid: str | None = None
    step: str | None = None
    index: int | None = None
    plan_name: str | None = None
    key: str | None = None


PRIORITIES = range(-1000, 1001)
#: Lanes that a request may ask for; handlers of interrupt rules alone run in the third.
OPEN_LANES = frozenset({"main", "event"})
#: The longest delay that can be asked for, in seconds.
MAX_DELAY = 366 * 24 * 3600.0
MAX_LABELS = 64
#: The longest name or value of a label, in characters.
MAX_LABEL = 1024


def _said(**keywords: Any) -> msgspec.Meta:
    """What the schema says of a field; ``admission`` is what checks it, wherever a request comes from."""
    return msgspec.Meta(extra_json_schema=keywords)


Priority = Annotated[int, _said(minimum=PRIORITIES.start, maximum=PRIORITIES.stop - 1)]
Lane = Annotated[str, _said(enum=sorted(OPEN_LANES))]
Label = Annotated[str, _said(maxLength=MAX_LABEL)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A wish for a run, as it comes from outside. ``delay_s`` is in seconds."""

    plan_name: str
    task_name: str
    inputs: dict[str, Any] = {}
    priority: Priority | None = None
    lane: Lane | None = None
    delay_s: Annotated[float, _said(minimum=0, maximum=MAX_DELAY)] = 0.0
    labels: Annotated[dict[str, Label], _said(maxProperties=MAX_LABELS, propertyNames={"maxLength": MAX_LABEL})] = {}


class Receipt(msgspec.Struct, frozen=True):
    """What whoever asked is told of an accepted run. ``replayed``: it was accepted when its key came first."""

    cid: str
    state: str
    plan_name: str
    task_name: str
    replayed: bool = False


class Outcomes(msgspec.Struct, frozen=True):
    """What whoever asked is told of a batch, in its order. ``replayed``: so it was told when its key came first."""

    items: list[Receipt | RequestError]
    replayed: bool = False


class Failure(msgspec.Struct, frozen=True):
    """Why a step or a run failed, as plans and clients see it (``error``).

    ``type`` is the exception's class name, or Aura's own word. ``file`` and ``line`` are of the innermost line of plan
    code, if there is one. ``cause`` is why another run did not succeed that was needed: its ``{cid, type, message}``,
    where ``cid`` is None if it was refused. ``bases`` are the names that ``retry.errors`` may name; they and ``trace``
    are not shown.
    """

    type: str
    message: str
    step: str | None = None
    item: int | None = None
    file: str | None = None
    line: int | None = None
    cause: Mapping[str, Any] | None = None
    bases: tuple[str, ...] = ()
    trace: str = ""
    #: How many seconds the other side asks to be left alone, if it does; not shown.
    retry_after: float | None = None

    def shown(self) -> dict[str, Any]:
        """The public form: ``{type, message, step, item, file, line, cause}``."""
        return {
            "type": self.type,
            "message": self.message,
            "step": self.step,
            "item": self.item,
            "file": self.file,
            "line": self.line,
            "cause": self.cause,
        }


#: The longest message, in bytes; a longer one is cut, with a marker.
MAX_MESSAGE = 4096
#: How many stacks, and of how many frames at most, are kept as text: what fails again and again does so at few places.
MAX_STACKS, MAX_FRAMES = 256, 50
#: Errors of which a traceback says more than their frames and themselves.
_TELLING = (BaseExceptionGroup, SyntaxError, NameError, AttributeError, ImportError)
#: Stacks as text, by where they stand. The code is kept with it, so that no other gets its id.
_STACKS: dict[tuple[tuple[int, int, int], ...], tuple[list[CodeType], str]] = {}
#: Hides what must not be shown of a text.
Hide = Callable[[str], str]


def failure_of(
    error: BaseException, step: str | None = None, plan_files: tuple[str, ...] = (), hide: Hide = str
) -> Failure:
    """Make a record of an exception; of a group, of its first leaf, with the others counted.

    ``plan_files`` is what the file names of plan code begin with. An exception whose ``__str__`` raises is
    recorded all the same. ``hide`` is asked of each text before it is cut; one that is cut says so, so that who hides
    secrets later, as of what was raised in another process, finds the rest of one there.
    """
    leaves = list(leaves_of(error))
    first = leaves[0]
    if isinstance(first, RaisedElsewhere):
        made_there: Failure = first.failure
        return msgspec.structs.replace(made_there, step=step)
    message = clean(_message_of(first, hide))
    if len(leaves) > 1:
        message += f" (and {len(leaves) - 1} more errors)"
    file, line = _innermost(first, plan_files)
    kind = first.type if isinstance(first, RunError) else type(first).__name__
    bases = tuple(base.__name__ for leaf in leaves for base in type(leaf).__mro__ if base is not object)
    cause = first.cause if isinstance(first, TaskFailed) else None
    after = first.retry_after if isinstance(first, HttpFailed) else None
    return Failure(kind, message, step, None, file, line, cause, bases, clean(_trace_of(error, hide)), after)


def clean(text: str) -> str:
    """Text that UTF-8 can hold: surrogates that stand alone become question marks."""
    return text.encode("utf-8", "replace").decode()


def leaves_of(error: BaseException) -> Iterable[BaseException]:
    """Flatten groups in groups to the errors that were really raised, in order, however deep."""
    waiting = [error]
    while waiting:
        first = waiting.pop()
        if isinstance(first, BaseExceptionGroup):
            waiting += reversed(first.exceptions)
        else:
            yield first


def _message_of(error: BaseException, hide: Hide) -> str:
    try:
        return clean_text(hide("; ".join([str(error), *getattr(error, "__notes__", ())])), MAX_MESSAGE)
    except BaseException as broken:  # a text is not worth more than the run
        return f"<{type(error).__name__}, whose text cannot be had: {type(broken).__name__}>"


def _trace_of(error: BaseException, hide: Hide) -> str:
    try:
        text = hide(_formatted(error))
        dropped = len(text) - 16 * MAX_MESSAGE
        return text if dropped <= 0 else f"\n… {dropped} bytes dropped …\n{text[dropped:]}"
    except BaseException:  # a text is not worth more than the run
        return "".join(traceback.format_tb(error.__traceback__))


def _formatted(error: BaseException) -> str:
    """What ``traceback.format_exception`` gives; of a plain error the frames are written out once for each stack."""
    codes, places = list[CodeType](), list[tuple[int, int, int]]()
    at: TracebackType | None = error.__traceback__
    while at is not None:
        codes.append(code := at.tb_frame.f_code)
        places.append((id(code), at.tb_lasti, at.tb_lineno))
        at = at.tb_next
    is_plain = error.__cause__ is None and error.__context__ is None and not isinstance(error, _TELLING)
    if not (is_plain and 0 < len(places) <= MAX_FRAMES):
        return "".join(traceback.format_exception(error))
    known = _STACKS.get(key := tuple(places))
    if known is None:
        if len(_STACKS) >= MAX_STACKS:
            _STACKS.clear()
        known = _STACKS[key] = codes, "".join(traceback.format_tb(error.__traceback__))
    return "".join(["Traceback (most recent call last):\n", known[1], *traceback.format_exception_only(error)])


def _innermost(error: BaseException, plan_files: tuple[str, ...]) -> tuple[str | None, int | None]:
    found: tuple[str | None, int | None] = (None, None)
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if name.startswith(plan_files):
            found = (name, line)
    return found


class CidSource:
    """Gives run ids: UUIDv7 (RFC 9562) as text, each greater than all before, whatever the clock does."""

    def __init__(self, last: str | None = None) -> None:
        self._last = uuid_utils.UUID(last).int if last else 0

    def next(self) -> str:
        cid = uuid_utils.uuid7()
        if cid.int <= self._last:
            cid = uuid_utils.UUID(int=self._last + 1)
        self._last = cid.int
        return str(cid)


class ItemRecord(msgspec.Struct, frozen=True):
    """One item of a step that loops, as doors show it. Times are Unix seconds."""

    index: int
    item: Any
    state: str
    attempt: int
    started_at: float | None
    finished_at: float | None
    error: Mapping[str, Any] | None


class StepRecord(msgspec.Struct, frozen=True):
    """One step of a run as doors show it. Times are Unix seconds, durations seconds.

    Of one that loops ``items`` are those that matter most, in their order, and how many there are, have ended and have
    failed; None of others.
    """

    name: str
    state: str
    attempt: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    output: Any = None
    error: Mapping[str, Any] | None = None
    skipped_because: str | None = None
    explained: Mapping[str, Any] | None = None
    items: list[ItemRecord] | None = None
    items_total: int | None = None
    items_ended: int | None = None
    items_failed: int | None = None


class PreemptedBy(msgspec.Struct, frozen=True):
    """Which firing has stopped a run: its rule and its handler, when, in Unix seconds, and how long the clean-up took.

    ``at`` is when the run was told.
    """

    plan_name: str
    rule: str
    cid: str
    at: float
    cleanup_s: float


class RunRecord(msgspec.Struct, frozen=True):
    """One run as it stands in the store. Times are Unix seconds; ``seq`` counts acceptances, for ever."""

    seq: int
    cid: str
    plan_name: str
    task_name: str
    generation: str | None
    lane: str
    priority: int
    labels: Mapping[str, str]
    state: str
    stop: str | None
    reason: str | None
    stuck: bool
    recovery: str
    attempt: int
    due: float
    not_before: float | None
    accepted_at: float
    started_at: float | None
    finished_at: float | None
    active_s: float
    cause: Mapping[str, Any]
    parent_cid: str | None
    root_cid: str
    depth: int
    boot: int
    inputs: Mapping[str, Any] | None = None
    result: Any = None
    error: Mapping[str, Any] | None = None
    cleanup_error: Mapping[str, Any] | None = None
    mode_key: str | None = None
    secret_inputs: list[str] | None = None
    #: What it waits for now, as ``claims.Claims.waiting_for`` says; on no record.
    waiting_for: Mapping[str, Any] | None = None
    call: str | None = None
    #: Who stopped it last, as ``PreemptedBy``, and how often somebody did.
    preempted_by: Mapping[str, Any] | None = None
    preemptions: int = 0
    #: As ``events.Chain``; not shown.
    chain: Mapping[str, Any] | None = None
