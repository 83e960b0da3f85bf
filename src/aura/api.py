"""The public JSON shapes of the HTTP interface, each once: the routes answer with them, the clients read them.

Times are aware ``datetime``s and travel as RFC 3339 in UTC; durations are seconds, in fields that end in ``_s``. What a
member means is said in ``docs/reference/http.md``; ``GET /openapi.json`` is made from these types. Readers ignore
members that they do not know, so that a newer server may say more.
"""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from aura.errors import FieldError, Problem
from aura.lifecycle import RunState, StepState

T = TypeVar("T")

Time = Annotated[datetime, msgspec.Meta(tz=True)]
Level = Literal["debug", "info", "warning", "error", "critical"]
EngineState = Literal["running", "stopping", "stopped", "degraded"]
PlanState = Literal["ready", "stale", "broken"]
TokenScope = Literal["read", "logs", "run", "manage", "admin"]
CauseKind = Literal["api", "cli", "schedule", "event", "webhook", "file", "poll", "task", "interrupt", "rerun"]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all that travels."""


class Page(Shape, Generic[T], frozen=True, kw_only=True):
    """Part of a list. ``next_cursor`` asks for the next part; null at the end."""

    items: list[T]
    next_cursor: str | None


class ProblemDocument(Shape, frozen=True, kw_only=True):
    """A refusal (RFC 9457). ``code`` is stable, ``errors`` has every bad field, further members depend on the code."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError]


# -- the server -------------------------------------------------------------------------------------------------------


class Readiness(Shape, frozen=True, kw_only=True):
    """Whether work is taken and started, and if not, why."""

    ready: bool
    reasons: list[str]


class LaneStatus(Shape, frozen=True, kw_only=True):
    """How full a lane is, in runs."""

    limit: int
    running: int
    queued: int
    stuck: int


class PlanCounts(Shape, frozen=True, kw_only=True):
    """How many plans there are, by status."""

    ready: int
    stale: int
    broken: int


class StoreStatus(Shape, frozen=True, kw_only=True):
    """The storage: whether it takes writes, how many wait, and the commits since the start."""

    writable: bool
    pending: int
    commits: int


class ServiceStatus(Shape, frozen=True, kw_only=True):
    """A service child of the server."""

    state: str
    failures: int
    last_error: str | None


class ServerStatus(Shape, frozen=True, kw_only=True):
    """What a server is and how it fares."""

    state: EngineState
    version: str
    boot: int
    started_at: Time
    uptime_s: float
    lanes: dict[str, LaneStatus]
    plans: PlanCounts
    store: StoreStatus
    services: dict[str, ServiceStatus]
    reasons: list[str]


class EngineAnswer(Shape, frozen=True, kw_only=True):
    """The state of the engine after it was told something."""

    state: EngineState


class ReloadedPlan(Shape, frozen=True, kw_only=True):
    """How a plan stands after a load."""

    name: str
    status: PlanState
    generation: str | None
    errors: list[Problem]


class Reloaded(Shape, frozen=True, kw_only=True):
    """All plans after a load."""

    plans: list[ReloadedPlan]


# -- plans ------------------------------------------------------------------------------------------------------------


class Plan(Shape, frozen=True, kw_only=True):
    """A plan in the list of plans."""

    name: str
    title: str
    description: str
    status: PlanState
    generation: str | None
    task_count: int
    errors: list[Problem]
    preempts_others: bool


class TaskStep(Shape, frozen=True, kw_only=True):
    """A step of a task. ``depends_on`` is ``{step: [states]}``, or that in ``{"any": …}``."""

    name: str
    action: str
    depends_on: dict[str, Any]


class Place(Shape, frozen=True, kw_only=True):
    """A line of a plan's file."""

    file: str
    line: int


class Task(Shape, frozen=True, kw_only=True):
    """A task. ``inputs`` is a JSON Schema; ``handlers`` has the steps of ``on_failure on_cancel finally``, if any."""

    name: str
    title: str
    description: str
    inputs: dict[str, Any]
    lane: str
    priority: int
    mode: str
    steps: list[TaskStep]
    handlers: dict[str, list[TaskStep]]
    source: Place


class Action(Shape, frozen=True, kw_only=True):
    """An action. ``params`` and ``result`` are JSON Schemas; ``plan_name`` is null for one that Aura ships."""

    name: str
    description: str
    params: dict[str, Any]
    result: dict[str, Any]
    plan_name: str | None
    cancellable: bool


# -- runs -------------------------------------------------------------------------------------------------------------


class Error(Shape, frozen=True, kw_only=True):
    """Why a step or a run failed."""

    type: str
    message: str
    step: str | None = None
    item: int | None = None
    file: str | None = None
    line: int | None = None


class Progress(Shape, frozen=True, kw_only=True):
    """How far a step is. ``total`` is null if nobody knows."""

    done: float
    total: float | None
    message: str


class Cause(Shape, frozen=True, kw_only=True):
    """What asked for a run; members that do not apply are null."""

    kind: CauseKind
    item: str | None = None
    rule: str | None = None
    event_id: str | None = None
    cid: str | None = None


class RunShort(Shape, frozen=True, kw_only=True):
    """A run in a list: all but its steps, inputs and result."""

    cid: str
    plan_name: str
    task_name: str
    generation: str | None
    lane: str
    priority: int
    labels: dict[str, str]
    state: RunState
    reason: str | None
    error: Error | None
    cleanup_error: Error | None
    attempt: int
    due: Time | None
    accepted_at: Time
    not_before: Time | None
    started_at: Time | None
    finished_at: Time | None
    progress: dict[str, Progress] | None
    waiting_for: dict[str, Any] | None
    parent_cid: str | None
    stuck: bool
    preempted_by: dict[str, Any] | None
    preemptions: int
    cause: Cause


class Step(Shape, frozen=True, kw_only=True):
    """A step of a run that has begun or ended."""

    name: str
    state: StepState
    attempt: int
    started_at: Time | None
    finished_at: Time | None
    duration_s: float | None
    output: Any
    error: Error | None
    skipped_because: str | None
    items: list[Any] | None


class Run(RunShort, frozen=True, kw_only=True):
    """One run with everything."""

    inputs: dict[str, Any]
    result: Any
    steps: list[Step]


class RunFile(Shape, frozen=True, kw_only=True):
    """A file in a run's workdir; ``path`` is relative to it."""

    path: str
    bytes: int
    modified_at: Time


class Accepted(Shape, frozen=True, kw_only=True):
    """A request that became a run."""

    cid: str
    state: RunState
    plan_name: str
    task_name: str


class BatchItem(Shape, frozen=True, kw_only=True, omit_defaults=True):
    """One outcome of a batch: the run, or the problem document of its refusal."""

    cid: str | None = None
    state: RunState | None = None
    error: dict[str, Any] | None = None


class Batch(Shape, frozen=True, kw_only=True):
    """What became of a batch, in its order."""

    items: list[BatchItem]
    accepted: int
    refused: int


class RunAnswer(Shape, frozen=True, kw_only=True):
    """The state of a run after it was told something."""

    cid: str
    state: RunState


class Prioritized(Shape, frozen=True, kw_only=True):
    """The priority of a run after it was changed."""

    cid: str
    priority: int
    state: RunState


class Cancelled(Shape, frozen=True, kw_only=True):
    """The runs that were told to cancel."""

    cancelled: list[str]


class Flow(Shape, frozen=True, kw_only=True):
    """How work fares in a lane, or of a plan. ``delayed`` is part of ``queued``; what nothing is known of is null."""

    running: int
    queued: int
    delayed: int
    stuck: int
    oldest_age_s: float | None
    wait_p50_s: float | None
    wait_p95_s: float | None
    started_per_min: float | None
    ended_per_min: float | None


class LaneFlow(Flow, frozen=True, kw_only=True):
    """How work fares in a lane."""

    lane: str
    limit: int


class PlanFlow(Flow, frozen=True, kw_only=True):
    """How work of a plan fares; ``plan_name`` null stands for all those that are not told apart."""

    plan_name: str | None


class QueueOverview(Shape, frozen=True, kw_only=True):
    """The queue in figures. Waits and rates are of the last ``window_s`` seconds."""

    lanes: list[LaneFlow]
    plans: list[PlanFlow]
    window_s: float


class QueuedRun(Shape, frozen=True, kw_only=True):
    """A run that waits for a place."""

    cid: str
    plan_name: str
    task_name: str
    lane: str
    priority: int
    accepted_at: Time
    not_before: Time | None


# -- tokens and browsers ----------------------------------------------------------------------------------------------


class Token(Shape, frozen=True, kw_only=True):
    """A token, without its secret. ``made_by`` is the id of the one that it was made with, or ``local``."""

    id: str
    name: str
    scopes: list[TokenScope]
    made_by: str
    created_at: Time
    expires_at: Time | None


class NewToken(Token, frozen=True, kw_only=True):
    """A token that was just made. ``token`` is its secret, which nobody is shown again."""

    token: str


class LoginCode(Shape, frozen=True, kw_only=True):
    """A code that opens one browser session within ``expires_in_s``; ``path`` is the page that does it."""

    code: str
    path: str
    expires_in_s: float


class Session(Shape, frozen=True, kw_only=True):
    """What a browser may do, and until when."""

    scopes: list[TokenScope]
    expires_at: Time


# -- records of streams -----------------------------------------------------------------------------------------------


class LogRecord(Shape, frozen=True, kw_only=True, tag_field="kind", tag="log"):
    """One log line."""

    id: str
    time: Time
    level: Level
    message: str
    plan_name: str | None
    task_name: str | None
    cid: str | None
    step: str | None
    attempt: int | None
    fields: dict[str, Any]


class EventRecord(Shape, frozen=True, kw_only=True, tag_field="kind", tag="event"):
    """One event."""

    id: str
    name: str
    time: Time
    payload: Any
    plan_name: str | None
    task_name: str | None
    cid: str | None
    step: str | None
    cause: str | None
    root: str | None
    depth: int


class Gap(Shape, frozen=True, kw_only=True, rename={"first": "from", "last": "to"}):
    """Records that a stream has missed, by their ids; ``first`` is null where nobody knows it."""

    first: str | None
    last: str


class Shutdown(Shape, frozen=True, kw_only=True):
    """The server ends; the stream goes on when it is back."""
