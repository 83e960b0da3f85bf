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


class ResourceStatus(Shape, frozen=True, kw_only=True):
    """A resource: how much there is, how much is in use or, of a rate, spent, and how many runs and steps wait."""

    capacity: int
    in_use: int
    waiting: int


class PlanCounts(Shape, frozen=True, kw_only=True):
    """How many plans there are, by status."""

    ready: int
    stale: int
    broken: int


class StoreStatus(Shape, frozen=True, kw_only=True):
    """The storage: whether it takes new work, how many writes wait, and the commits since the start.

    ``disk_free`` is the room on the data folder's disk in bytes at the last look, None where nobody looks.
    """

    writable: bool
    pending: int
    commits: int
    disk_free: int | None = None


class RetentionStatus(Shape, frozen=True, kw_only=True):
    """What is kept: ended runs for ``days``, and ``runs`` of them at most; what was removed since the start.

    ``bytes`` is the size of the database, ``reusable_bytes`` of these wait to be used again, and ``oldest_at`` is when
    the oldest run that is kept was accepted, all at the last look, a few seconds ago.
    """

    days: int
    runs: int
    removed_runs: int
    removed_rows: int
    bytes: int | None
    reusable_bytes: int | None
    oldest_at: Time | None


class ServiceStatus(Shape, frozen=True, kw_only=True):
    """A service child of the server."""

    state: str
    failures: int
    last_error: str | None


class PlanServices(Shape, frozen=True, kw_only=True):
    """How many services of plans are open, and how many did not close and were left behind."""

    open: int = 0
    stuck: int = 0


class Suspended(Shape, frozen=True, kw_only=True):
    """Who is asked about events no more, since some went round in a circle through it: by which event, why and when."""

    subscriber: str
    event: str
    reason: str
    at: Time


class EventsStatus(Shape, frozen=True, kw_only=True):
    """How many wait for events, how many events are being stored, how often one that waits has failed, who is cut off.

    Of ``suspended`` the latest are named.
    """

    subscribers: int = 0
    on_the_way: int = 0
    failures: int = 0
    suspended: list[Suspended] = []


class OpenInterrupt(Shape, frozen=True, kw_only=True):
    """A firing of an interrupt rule that has not ended; ``cid`` is its handler, and ``state`` that one's state.

    It is ``cleanup`` while the handler waits for the runs ``awaited``. Of these and of ``victims`` some are named.
    """

    plan_name: str
    rule: str
    cid: str
    state: str
    since: Time
    awaited: list[str]
    victims: list[str]
    victim_count: int


class InterruptsStatus(Shape, frozen=True, kw_only=True):
    """The firings that are open, the most urgent first; of ``open_total`` the first are named."""

    open: list[OpenInterrupt] = []
    open_total: int = 0


class TakenOver(Shape, frozen=True, kw_only=True):
    """The handler ``cid`` of an interrupt rule has taken over the resources ``names``."""

    plan_name: str
    rule: str
    cid: str
    names: list[str]


class StuckRun(Shape, frozen=True, kw_only=True):
    """A run that did not end when told to: the step and the line that it hangs at, since when, and what had stopped it.

    ``interrupt`` is ``plan/rule`` if the firing of a rule had. ``taken_over``: by whom what it holds was taken.
    """

    cid: str
    plan_name: str
    task_name: str
    lane: str
    step: str
    hangs_at: str
    since: Time
    stop: str | None = None
    interrupt: str | None = None
    taken_over: list[TakenOver] = []


class StuckStatus(Shape, frozen=True, kw_only=True):
    """The runs that hang, those that have for the longest first; of ``total`` some are named."""

    runs: list[StuckRun] = []
    total: int = 0


class LoopBlock(Shape, frozen=True, kw_only=True):
    """The event loop was kept for ``seconds`` until ``at``, mostly at a line, by a step; null if not known."""

    at: Time
    seconds: float
    file: str | None = None
    line: int | None = None
    function: str | None = None
    cid: str | None = None
    plan_name: str | None = None
    task_name: str | None = None
    step: str | None = None


class LoopStatus(Shape, frozen=True, kw_only=True):
    """How late the event loop last went on, in seconds, and what has blocked it within the last hour, the latest ten.

    ``stalled``: for five seconds or more within the last minute, so that the server is not ready.
    """

    lag_s: float = 0.0
    stalled: bool = False
    blocked: list[LoopBlock] = []


class NextDue(Shape, frozen=True, kw_only=True):
    """The item that is due next."""

    plan_name: str
    item: str
    due: Time


class ScheduleStatus(Shape, frozen=True, kw_only=True):
    """The items of all schedules: how many, how many of them are on, how many of those suspended, which is next."""

    items: int = 0
    enabled: int = 0
    suspended: int = 0
    next: NextDue | None = None


class ServerStatus(Shape, frozen=True, kw_only=True):
    """What a server is and how it fares."""

    state: EngineState
    version: str
    boot: int
    started_at: Time
    uptime_s: float
    lanes: dict[str, LaneStatus]
    resources: dict[str, ResourceStatus]
    plans: PlanCounts
    store: StoreStatus
    retention: RetentionStatus | None = None
    services: dict[str, ServiceStatus]
    plan_services: PlanServices = PlanServices()
    events: EventsStatus = EventsStatus()
    interrupts: InterruptsStatus = InterruptsStatus()
    schedule: ScheduleStatus = ScheduleStatus()
    stuck: StuckStatus = StuckStatus()
    loop: LoopStatus = LoopStatus()
    reasons: list[str]


class EngineAnswer(Shape, frozen=True, kw_only=True):
    """The state of the engine after it was told something."""

    state: EngineState


class ReloadedPlan(Shape, frozen=True, kw_only=True):
    """How a plan stands after a load. ``testing`` is a newer version whose tests run: it is served once they pass."""

    name: str
    status: PlanState
    generation: str | None
    errors: list[Problem]
    testing: str | None = None


class Reloaded(Shape, frozen=True, kw_only=True):
    """All plans after a load."""

    plans: list[ReloadedPlan]


# -- plans ------------------------------------------------------------------------------------------------------------


class Plan(Shape, frozen=True, kw_only=True):
    """A plan in the list of plans. ``testing`` is a newer version whose tests run: it is served once they pass."""

    name: str
    title: str
    description: str
    status: PlanState
    generation: str | None
    task_count: int
    errors: list[Problem]
    testing: str | None = None
    uses: list[str]
    preempts_others: bool


class TaskLoop(Shape, frozen=True, kw_only=True):
    """What a step is done for: ``key`` is ``for_each times while until``, ``value`` as the plan file has it."""

    key: str
    value: Any
    parallelism: int


class TaskStep(Shape, frozen=True, kw_only=True):
    """A step of a task. ``depends_on`` is ``{step: [states]}``, or that in ``{"any": …}``.

    ``when`` is its condition, ``attempts`` how often it is tried at the most, ``task`` the task that it runs or starts.
    """

    name: str
    action: str
    depends_on: dict[str, Any]
    when: str | None
    loop: TaskLoop | None
    attempts: int
    task: str | None


class Place(Shape, frozen=True, kw_only=True):
    """A line of a plan's file."""

    file: str
    line: int


class Task(Shape, frozen=True, kw_only=True):
    """A task. ``inputs`` is a JSON Schema; ``handlers`` has the steps of each, such as ``finally``, that it has.

    ``started_by`` are the items of schedules that start it, each as ``plan/item``.
    """

    name: str
    title: str
    description: str
    inputs: dict[str, Any]
    lane: str
    priority: int
    mode: str
    steps: list[TaskStep]
    handlers: dict[str, list[TaskStep]]
    started_by: list[str] = []
    source: Place


class Action(Shape, frozen=True, kw_only=True):
    """An action, or a service that actions are given.

    ``params`` and ``result`` are JSON Schemas, empty for a service; ``plan_name`` is null for one that Aura ships.
    ``services`` are those of its plan that it is given; ``open`` says of a service whether it is, and is null for an
    action.
    """

    name: str
    description: str
    params: dict[str, Any]
    result: dict[str, Any]
    plan_name: str | None
    cancellable: bool
    kind: Literal["action", "service"] = "action"
    services: list[str] = []
    open: bool | None = None


# -- runs -------------------------------------------------------------------------------------------------------------


class ErrorCause(Shape, frozen=True, kw_only=True):
    """Why a run did not succeed that a step waited for; ``cid`` is null if it was refused."""

    cid: str | None
    type: str
    message: str


class Error(Shape, frozen=True, kw_only=True):
    """Why a step or a run failed. ``cause`` is there with ``TaskFailed``."""

    type: str
    message: str
    step: str | None = None
    item: int | None = None
    file: str | None = None
    line: int | None = None
    cause: ErrorCause | None = None


class Progress(Shape, frozen=True, kw_only=True):
    """How far a step is. ``total`` is null if nobody knows."""

    done: float
    total: float | None
    message: str


WaitKind = Literal["event", "approval", "sleep", "retry", "round", "task"]


class Wait(Shape, frozen=True, kw_only=True):
    """What a step, or the item ``index`` of one that loops, waits for; members that do not apply are null.

    ``kind`` is ``event`` (its name fits ``pattern``), ``approval`` (an answer to ``message``, with values that fit the
    JSON Schema ``inputs``), ``sleep``, ``retry`` (the next try), ``round`` (the next of its loop), or ``task`` (the run
    ``cid`` waits itself). At ``until`` it is over at the latest.
    """

    step: str
    index: int | None
    kind: WaitKind
    pattern: str | None = None
    message: str | None = None
    inputs: dict[str, Any] | None = None
    cid: str | None = None
    since: Time
    until: Time | None


class WaitingFor(Shape, frozen=True, kw_only=True):
    """What a run waits for to start, or, with ``steps``, what those steps of it wait for, an item as ``step[0]``.

    ``kind`` is ``resource``, or ``mode``: for runs of its own task. ``names`` are the resources that it lacks, a plan's
    own as ``plan/name``; ``holders`` are the runs that hold them, or are in its way. ``held``: for the end of the
    interrupts ``names``, each as ``plan/rule``, whose handlers are ``holders``; ``cleanup``: a handler for that of what
    it stops. ``gate``: for the tests of the plan in ``names``, of which no version is served before they have passed.
    Any other ``kind`` is of the first of ``waits``: at most 100 of those steps, approvals first;
    ``waits_total`` counts all.
    """

    kind: Literal["resource", "mode", "held", "cleanup", "gate"] | WaitKind
    names: list[str]
    holders: list[str]
    steps: list[str] = []
    waits: list[Wait] = []
    waits_total: int = 0


class Cause(Shape, frozen=True, kw_only=True):
    """What asked for a run; members that do not apply are null."""

    kind: CauseKind
    item: str | None = None
    rule: str | None = None
    event_id: str | None = None
    cid: str | None = None
    step: str | None = None
    index: int | None = None


class PreemptedBy(Shape, frozen=True, kw_only=True):
    """The rule that has stopped a run, its handler ``cid``, when, and how long the run's clean-up took."""

    plan_name: str
    rule: str
    cid: str
    at: Time
    cleanup_s: float


class Victim(Shape, frozen=True, kw_only=True):
    """A run that an interrupt has stopped: the state to which that led, or ``stuck``, and when; null until then."""

    cid: str
    outcome: str | None
    gone_at: Time | None


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
    waiting_for: WaitingFor | None
    parent_cid: str | None
    stuck: bool
    preempted_by: PreemptedBy | None
    preemptions: int
    cause: Cause


class Explained(Shape, frozen=True, kw_only=True, omit_defaults=True):
    """Why a step was skipped, by ``because``: ``when dependency ended_early``; what does not apply is left out.

    ``when``: ``expression`` and the ``values`` of what it names; of a long value the beginning of its JSON.
    ``dependency``: ``step`` ended in ``state``, ``wanted`` would have done; ``any`` has all if one of them would have;
    ``root`` is the step in which the chain of such skips began. ``ended_early``: ``step`` ended the run.
    """

    because: str
    file: str
    line: int
    expression: str | None = None
    values: dict[str, Any] | None = None
    step: str | None = None
    state: StepState | None = None
    wanted: list[StepState] | None = None
    any: list[str] | None = None
    root: str | None = None
    root_state: StepState | None = None


class Item(Shape, frozen=True, kw_only=True):
    """An item of a step that loops, or a round of it, that has begun; ``item`` is what it goes over."""

    index: int
    item: Any
    state: StepState
    attempt: int
    started_at: Time | None
    finished_at: Time | None
    error: Error | None


class Step(Shape, frozen=True, kw_only=True):
    """A step of a run that has begun or ended. ``skipped_because`` is a sentence, ``explained`` the same as data.

    Of one that loops ``items`` has at most 100 in their order: those that failed, those that run, and the last of the
    others; ``items_total`` counts all that it goes over. They are null of other steps.
    """

    name: str
    state: StepState
    attempt: int
    started_at: Time | None
    finished_at: Time | None
    duration_s: float | None
    output: Any
    error: Error | None
    skipped_because: str | None
    explained: Explained | None
    items: list[Item] | None
    items_total: int | None
    items_ended: int | None
    items_failed: int | None


class SubTask(Shape, frozen=True, kw_only=True):
    """A run that a step, or the item ``index`` of one that loops, has asked for and waits for, or waited for."""

    cid: str
    plan_name: str
    task_name: str
    state: RunState
    step: str
    index: int | None


class Run(RunShort, frozen=True, kw_only=True):
    """One run with everything. ``sub_tasks`` are its newest, in the order in which they were asked for.

    Of an interrupt's handler ``victims`` are the first of the ``victim_count`` runs that the interrupt has stopped.
    """

    inputs: dict[str, Any]
    result: Any
    steps: list[Step]
    sub_tasks: list[SubTask]
    victims: list[Victim] = []
    victim_count: int = 0


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


class FiredInterrupt(Shape, frozen=True, kw_only=True):
    """An interrupt that an event has fired, and the run that handles it."""

    plan_name: str
    rule: str
    cid: str


class EmittedEvent(Shape, frozen=True, kw_only=True):
    """An event that is on record, the runs that it has started, and the interrupts that it has fired."""

    event_id: str
    started: list[str]
    interrupts: list[FiredInterrupt]


class ReceivedCall(Shape, frozen=True, kw_only=True):
    """A call of a webhook that is on record: its event, and the run that it has started."""

    event_id: str
    started: list[str]


class Preempts(Shape, frozen=True, kw_only=True):
    """Which runs a rule stops: those that all of this fits."""

    lanes: list[str]
    plans: list[str]
    tasks: list[str]
    labels: dict[str, str]
    below_priority: int


class Missed(Shape, frozen=True, kw_only=True):
    """Why a rule, or an item, did not start though one of its triggers came, the last time: a code and a sentence."""

    reason: str
    detail: str
    at: Time


class Why(Shape, frozen=True, kw_only=True):
    """A start that did not become a run or, with ``paused`` and ``held``, does not begin yet: ``count`` of them.

    ``item`` and ``rule`` are of the plan. ``time`` is that of the last, ``first_time`` that of the first; of what does
    not begin yet they are now and since when it waits.
    """

    time: Time
    reason: str
    plan_name: str | None
    item: str | None
    rule: str | None
    task_name: str | None
    detail: str
    count: int
    first_time: Time


class RuleFiring(Shape, frozen=True, kw_only=True):
    """A firing of a rule that has not ended: its handler and that one's state, what fired it, whom it has stopped.

    Of many ``victims`` and ``spared`` the first are named.
    """

    cid: str
    event_id: str
    at: Time
    state: RunState
    victims: list[str]
    victim_count: int
    spared: list[str]


class Poll(Shape, frozen=True, kw_only=True):
    """A poll of a rule, or an item, as it stands. ``last_state`` and ``last_at`` are None before its first answer.

    ``stuck``: it does not end though it was told to. ``error`` is why the last question failed, ``failures`` how many
    have in a row; ``next_in_s`` is None while it is being asked, or the engine is stopped.
    """

    action: str
    every_s: float
    last_at: Time | None
    last_state: Literal["ok", "failed", "stuck"] | None
    error: Error | None
    failures: int
    next_in_s: float | None


class Rule(Shape, frozen=True, kw_only=True):
    """An interrupt rule as it stands; ``triggers`` are in words.

    ``switched_by``: somebody has changed ``enabled``, until the file's own word changes. ``pending`` firings wait for
    their handler's start. Of the last firing ``last_cid`` is the handler and ``last_victims`` are the first of the runs
    that it was to stop. ``missed`` counts by code how often the rule did not fire since the server's start;
    ``suspended``: why it hears of no events any more. ``preempts_others``: it may stop work of other plans.
    """

    plan_name: str
    rule: str
    task_name: str
    source: Place
    enabled: bool
    switched_by: str | None
    switched_at: Time | None
    priority: int
    then: Literal["resume", "restart", "cancel"]
    handler_starts: Literal["after_cleanup", "at_once"]
    grace_s: float
    cooldown_s: float
    cooldown_left_s: float
    max_pending: int
    pending: int
    preempts: Preempts
    preempts_others: bool
    triggers: list[str]
    polls: list[Poll]
    while_running: list[str]
    last_fired_at: Time | None
    last_cid: str | None
    last_victims: list[str]
    last_victim_count: int
    missed: dict[str, int]
    last_missed: Missed | None
    suspended: str | None
    open: list[RuleFiring]


TriggerKind = Literal["cron", "every", "at", "event", "file", "webhook", "poll", "expect"]


class Trigger(Shape, frozen=True, kw_only=True):
    """A trigger of an item: ``text`` in words, ``spec`` all that it says, durations in seconds, but its ``when``.

    Expressions are shown as they are written. A webhook's ``spec`` has the ``path`` to which its calls go.
    """

    kind: TriggerKind
    text: str
    spec: dict[str, Any]
    when: str | None


class WatchedFolder(Shape, frozen=True, kw_only=True):
    """A folder of a file trigger: how many of its files are known, null before the first look, and when that was.

    ``trouble``: why not all changes in it are told.
    """

    path: str
    pattern: str
    files: int | None
    looked_at: Time | None
    trouble: str | None


class ScheduledItem(Shape, frozen=True, kw_only=True):
    """An item of a schedule as it stands. ``task_plan`` is the plan of its task, mostly its own.

    ``next_due`` and ``last_due`` are of triggers with times of their own; ``last_cid`` is the run that it started last,
    at ``last_started_at``. ``missed`` counts by code how often it did not start since the server's start. ``reason``:
    why it would not start as things are or, if it would, why it did not the last time; null if it did.
    """

    plan_name: str
    item: str
    task_plan: str
    task_name: str
    source: Place
    enabled: bool
    switched_by: str | None
    switched_at: Time | None
    mode: str | None
    cooldown_s: float
    cooldown_left_s: float
    triggers: list[Trigger]
    polls: list[Poll]
    folders: list[WatchedFolder]
    next_due: Time | None
    last_due: Time | None
    last_started_at: Time | None
    last_cid: str | None
    missed: dict[str, int]
    last_missed: Missed | None
    suspended: str | None
    reason: str | None


class PreviewedSlot(Shape, frozen=True, kw_only=True):
    """A time at which an item is due; ``local`` is the same in the zone of its trigger, as RFC 3339 with its offset.

    ``dst`` says what is unusual about it where the clocks change. ``gap``: they skip its time, so it comes right after
    that; ``fold``: they show its time twice that day.
    """

    due: Time
    local: str
    dst: Literal["gap", "fold"] | None


class Preview(Shape, frozen=True, kw_only=True):
    """The times at which an item is due in a span, in their order. ``cut``: there are more, after the last of these."""

    items: list[PreviewedSlot]
    cut: bool


class Hold(Shape, frozen=True, kw_only=True):
    """What of a lane could not start while a firing is open; so many runs of that are ``queued`` now."""

    lane: str
    plans: list[str]
    tasks: list[str]
    labels: dict[str, str]
    below_priority: int
    queued: int


class DryRun(Shape, frozen=True, kw_only=True):
    """What a firing would do now: the runs that it would stop, those that it would spare, what could not start."""

    victims: list[str]
    spared: list[str]
    holds: list[Hold]


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
    """A run that waits for a place; ``state`` is ``preempted`` if an interrupt or a pause has stopped it before."""

    cid: str
    plan_name: str
    task_name: str
    lane: str
    priority: int
    state: RunState = RunState.QUEUED
    accepted_at: Time
    not_before: Time | None
    waiting_for: WaitingFor | None = None


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


class StepProgress(Progress, frozen=True, kw_only=True):
    """How far a step, or an item of one (``step[0]``), is now, told on the stream of its run."""

    step: str


class Shutdown(Shape, frozen=True, kw_only=True):
    """The server ends; the stream goes on when it is back."""
