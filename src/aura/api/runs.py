"""Runs: how they are asked for, listed and shown with their steps, and what they say when told something."""

from typing import Any, Literal

from aura.api.common import Shape, Time
from aura.lifecycle import RunState, StepState

CauseKind = Literal["api", "cli", "schedule", "event", "webhook", "file", "poll", "task", "interrupt", "rerun"]


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


class Prioritized(Shape, frozen=True, kw_only=True):
    """The priority of a run after it was changed."""

    cid: str
    priority: int
    state: RunState


class Cancelled(Shape, frozen=True, kw_only=True):
    """The runs that were told to cancel."""

    cancelled: list[str]
