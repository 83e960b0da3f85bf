"""A run in memory: what the work layer knows of it between its acceptance and its committed end.

``LiveRun`` holds state and says how it is written down (``RunColumns``, step rows, history); it starts nothing and
decides nothing. Who changes it: ``admission`` makes it, ``dispatcher`` gives it a place, ``executor`` drives its
graphs, ``stops`` stops it, ``seal`` ends it. All of them run on the event loop, and none awaits between reading and
writing a state.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import anyio
import msgspec

from aura.context import Log
from aura.errors import AuraError
from aura.events import Chain, Emitter, clean_text
from aura.graph import Graph, ItemProgress, Progress, StepProgress
from aura.lifecycle import FINAL, STEP_FINAL, Recovery, RunState, StepState, Stop
from aura.loading.generation import Generation
from aura.masking import secret_values
from aura.records.checkpoints import Checkpoint, CheckpointUnit
from aura.records.columns import encode, encoded
from aura.records.loops import LoopRows, LoopUnit
from aura.records.runs import Accepted, ItemRow, RunColumns, StepRow
from aura.records.waits import WaitRow, WaitUnit, wait_unit
from aura.redaction import Redactor
from aura.resources import Claim, Holder
from aura.run import Failure, PreemptedBy
from aura.runs.attempt import Attempt
from aura.runs.firing import Firing
from aura.runs.hang import Hang
from aura.runs.hiding import hidden_columns, hidden_item, hidden_step, hidden_wait, secrets_in
from aura.secrets import Secrets
from aura.store import Ticket
from aura.task import DEFAULT_CLEANUP_TIMEOUT, Steps, Task
from aura.wait import OpenWait


class Phase(StrEnum):
    """Which of a task's graphs a run is in. All but ``MAIN`` are handlers."""

    MAIN = "steps"
    ON_FAILURE = "on_failure"
    ON_CANCEL = "on_cancel"
    ON_PREEMPT = "on_preempt"
    ON_RESUME = "on_resume"
    FINALLY = "finally"


#: What hides the secrets of a run that nobody has given any.
_NO_SECRETS = Redactor()
#: The longest message of a step's progress, in bytes.
MAX_PROGRESS_TEXT = 1024
#: How many seconds of waiting make up for one of priority.
AGEING = 60.0
#: (name, step, payload) of an event that the next unit tells of.
Happening = tuple[str, str | None, Any]


def _tell_nobody(_cid: str) -> None:
    return


class RunClaims(msgspec.Struct, eq=False):
    """What a run has to do with resources; only ``claims`` changes it.

    ``start`` is what it waits for to start. By key ``steps`` has what their tries took or wait for, ``waiting`` those
    that wait, ``met`` those that waited and have not begun yet; ``timer`` wakes the executor when there is no time left
    for them.
    """

    holder: Holder
    start: Claim | None = None
    steps: dict[str, Claim] = {}
    waiting: dict[str, Progress] = {}
    met: dict[str, Progress] = {}
    timer: asyncio.TimerHandle | None = None


class LiveRun(msgspec.Struct, eq=False):
    """One run that has not ended, or whose end is not committed yet.

    Invariants: ``row`` is the state that the last unit handed over will have written, ``state`` is the one in memory;
    ``waits`` is set while it is in its lane's queue, which it never is while it is ``held``, and ``entry`` is the heap
    entry that counts; a sub-task stands in no queue, and is ``held`` whenever it rests; ``sealed`` is set once, by the
    seal, and nothing changes a sealed run.
    """

    accepted: Accepted
    inputs: Mapping[str, Any]
    boot_tag: str
    workdirs: Path
    logger_for: Callable[..., Log]
    #: What hides secrets in all that is written down of it, and what reads those of its plan.
    redactor: Redactor = _NO_SECRETS
    #: Told of each ``note_progress``.
    on_progress: Callable[[str], object] = _tell_nobody
    secrets: Secrets | None = None
    #: What its plan remembers, as expressions name it.
    plan_state: Mapping[str, Any] = {}
    # -- of ``accepted``, since they are asked for often or may change
    seq: int = 0
    cid: str = ""
    plan_name: str = ""
    task_name: str = ""
    lane: str = ""
    priority: int = 0
    not_before: float | None = None
    recovery: Recovery = Recovery.FAIL
    # -- what it runs
    generation: Generation | None = None
    task: Task | None = None
    attempt: int = 0
    crashes: int = 0
    #: How often each step began, for ever, and how many starts there were since the run's own last beginning.
    starts: dict[str, int] = {}
    begun_starts: int = 0
    used_processes: bool = False
    graphs: dict[Phase, Graph] = {}
    phase: Phase = Phase.MAIN
    live: dict[str, Attempt] = {}
    #: By key what waits for its next try, and the loops that rest between two rounds; and what need not wait any more.
    backoffs: dict[str, asyncio.TimerHandle] = {}
    due: list[Progress] = []
    #: By key what waits for something that is on record (``waits``), and what of it is over and not seen to yet.
    open_waits: dict[str, OpenWait] = {}
    woken: list[OpenWait] = []
    progress: dict[str, dict[str, Any]] = {}
    #: By key what its steps and items have put by; None until one has. What it has of them on record and needs no more.
    checkpoints: dict[str, Checkpoint] | None = None
    former_checkpoints: list[Checkpoint] = []
    scope: dict[str, Any] | None = None
    #: The event that has started it, as expressions see it.
    event: Mapping[str, Any] | None = None
    #: By which events it goes on; None while it is those that led to its acceptance alone.
    chain: Chain | None = None
    #: The run that it is a part of, if one of that run's steps waits for it.
    parent: "LiveRun | None" = None
    #: The runs that are a part of it and have not ended, by the key of the attempt that waits for them, or will again.
    children: dict[str, list["LiveRun"]] = {}
    #: Of a run that has a parent: set whenever nothing of it runs.
    over: anyio.Event | None = None
    # -- where it stands
    state: RunState = RunState.QUEUED
    row: RunState = RunState.QUEUED
    stop: Stop | None = None
    #: The shortest grace that a stop gave it, in seconds.
    grace: float = float("inf")
    #: Loop time at which its handlers have to be done, and at which a shutdown wants it gone.
    cleanup_deadline: float = float("inf")
    shutdown_deadline: float = float("inf")
    reason: str | None = None
    #: Of the row that says that it is stopping.
    stop_ticket: Ticket | None = None
    ending: RunState | None = None
    stuck: bool = False
    #: Of one that is stuck: where it hangs, and who has taken what it holds.
    hang: Hang | None = None
    #: Why it is kept from starting until somebody resumes it (``pausing``); None if it is not.
    held: str | None = None
    #: Of the row that says whether it is.
    hold_ticket: Ticket | None = None
    #: An older boot left it in the middle, and it has not gone on yet.
    taken_over: bool = False
    #: Of a handler: what it handles. Of a victim: which firing has stopped it, until that has ended, and the loop time
    #: at which it was told, until it is gone.
    firing: "Firing[LiveRun] | None" = None
    stopped_by: "Firing[LiveRun] | None" = None
    told_at: float | None = None
    #: Which firing ends it for good, if another one had stopped it before, to come back.
    ended_by: "Firing[LiveRun] | None" = None
    #: Loop time at which it gave its place back, until its seal, if that comes later (``leaving``).
    gone_at: float | None = None
    #: Loop time at which the grace of the firing that has stopped it is over, its clean-up included.
    graces_end: float = float("inf")
    #: The firings whose handlers wait until it is gone.
    awaited_by: "Sequence[Firing[LiveRun]]" = ()
    preempted_by: PreemptedBy | None = None
    preemptions: int = 0
    #: It goes on by itself or somebody resumed it, and has not yet: whenever it is ``preempted`` it stands in its lane.
    resumed: bool = False
    sealed: bool = False
    refused: bool = False
    #: Its end could not be stored.
    lost: bool = False
    #: Where its row stands while moves are lost one behind the other; None when the last of them is.
    lost_from: RunState | None = None
    fault: BaseException | None = None
    # -- what it takes
    #: What the dispatcher found of its task when it gave it its place, or why it cannot start.
    found: tuple[Generation, Task] | AuraError | None = None
    claims: RunClaims | None = None
    # -- its place and its time
    entry: tuple[float, int, "LiveRun"] | None = None
    #: Since when it waits, in Unix seconds; never less than of one that was accepted before it.
    since: float = 0.0
    waits: bool = False
    placed: bool = False
    #: Its wait for its first start has been noted.
    waited: bool = False
    timer: asyncio.TimerHandle | None = None
    #: Seconds that were left of its ``queue_timeout`` when it was paused.
    queue_left: float | None = None
    active_s: float = 0.0
    active_since: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    # -- what it came to
    result: bytes | None = None
    error: Failure | None = None
    cleanup_error: Failure | None = None
    # -- what the next unit has to write
    dirty: dict[str, StepProgress] = {}
    dirty_items: dict[str, ItemProgress] = {}
    #: The steps whose loop has begun, and those whose items are to be forgotten.
    dirty_loops: dict[str, StepProgress] = {}
    former_loops: set[str] = set()
    #: The waits that are new, by key; None of those that are over.
    dirty_waits: dict[str, OpenWait | None] = {}
    #: A wait of it may be on record.
    has_waited: bool = False
    happened: list[Happening] = []
    former_rows: list[StepRow] = []
    former_items: list[ItemRow] = []
    #: What an older boot left of its steps, while they are in no graph: its plan's code is not the same any more.
    kept_rows: list[StepRow] = []
    kept_loops: Mapping[str, LoopRows] = {}
    kept_waits: Sequence[WaitRow] = ()
    #: What a rerun takes over of the run that it repeats: in its graph whenever it begins from its beginning.
    inherited: Sequence[StepRow] = ()
    inherited_loops: Mapping[str, LoopRows] = {}
    columns_changed: bool = False
    _has_changed: bool = False
    _change: asyncio.Event | None = None
    _ended: bool = False
    _done: anyio.Event | None = None
    _released: anyio.Event | None = None

    def __post_init__(self) -> None:
        accepted = self.accepted
        self.seq, self.cid = accepted.seq, accepted.cid
        self.plan_name, self.task_name = accepted.plan_name, accepted.task_name
        self.lane, self.priority, self.not_before = accepted.lane, accepted.priority, accepted.not_before
        self.recovery = Recovery(accepted.recovery)
        self.chain = accepted.chain

    def __repr__(self) -> str:
        return f"<run {self.cid} {self.state}>"

    @property
    def rank(self) -> int:
        """Where it stands among those that wait: lower comes first. A microsecond counts one.

        Waiting makes up for priority, so that nothing starves: ``AGEING`` seconds of it for one of priority. Since all
        that wait do so at the same pace, their order never changes by it, and this is the same at any time.
        """
        return round((self.since - AGEING * self.priority) * 1e6)

    # -- the plan that it runs

    def take(self, generation: Generation, task: Task) -> None:
        """Begin from the beginning with this generation, which it keeps until it ends or starts over."""
        self.generation, self.task = generation, task
        self.attempt += 1
        self.begun_starts = 0
        self.graphs = {Phase.MAIN: self._graph(task.steps)}
        self.phase = Phase.MAIN
        self.scope = None

    def enter(self, phase: Phase) -> Graph:
        """Go on with another of the task's graphs."""
        assert self.task is not None
        steps: Mapping[Phase, Steps] = {
            Phase.ON_FAILURE: self.task.on_failure,
            Phase.ON_CANCEL: self.task.on_cancel,
            Phase.ON_PREEMPT: self.task.on_preempt,
            Phase.ON_RESUME: self.task.on_resume,
            Phase.FINALLY: self.task.finally_,
        }
        self.phase = phase
        self.scope = None  # the handler sees how the run will end, and its own steps
        self.graphs[phase] = self._graph(steps[phase])
        return self.graphs[phase]

    def _graph(self, steps: Steps) -> Graph:
        graph = Graph(steps)
        for name, starts in self.starts.items():
            if name in graph.steps:
                graph.steps[name].starts = starts
        return graph

    @property
    def main(self) -> Graph | None:
        return self.graphs.get(Phase.MAIN)

    @property
    def begun(self) -> bool:
        """Whether a step has begun since it was last started from its beginning."""
        return self.begun_starts > 0

    @property
    def bounded(self) -> bool:
        """Whether its present graph counts against ``cleanup_timeout`` and not against its own time-out.

        Handlers do, but ``on_failure`` of a plain failure and ``on_resume``, which are work like any other.
        """
        if self.phase is Phase.MAIN or self.phase is Phase.ON_RESUME:
            return False
        return self.phase is not Phase.ON_FAILURE or self.ending is not RunState.FAILED

    @property
    def awaited_until(self) -> float:
        """The loop time at which the attempt of its parent that waits for it times out; infinite if none does."""
        if self.parent is None:
            return float("inf")
        keys = [key for key, children in self.parent.children.items() if self in children]
        return min((self.parent.live[key].timeout_at for key in keys if key in self.parent.live), default=float("inf"))

    @property
    def may_wait(self) -> bool:
        """Whether it may give its place back when nothing of it is left but waits: whoever waits for it waits so too.

        That is a ``task.run`` of a run that may. Code of a plan that waits for a sub-task, and a handler, keep theirs.
        """
        run = self
        while run.phase is Phase.MAIN and run.parent is not None and run.accepted.call is not None:
            attempt = run.parent.live.get(run.accepted.call.split("/")[1])
            if attempt is None or attempt.step.step.action != "task.run":
                return False
            run = run.parent
        return run.phase is Phase.MAIN

    @property
    def waits_for_resources(self) -> bool:
        """Whether steps of it wait for what others hold."""
        return self.claims is not None and bool(self.claims.waiting)

    @property
    def kept(self) -> bool:
        """Whether an interrupt or a shutdown leaves it preempted: it is paused, or was and has not gone on yet."""
        return self.held is not None or self.resumed or self.row is RunState.PREEMPTED

    def handlers(self, ending: RunState | None) -> list[Phase]:
        """The handlers that it goes through if it ends so, in their order; none while its code is not known."""
        found: list[Phase] = []
        if self.task is None:
            return found
        if self.task.on_failure and ending in (RunState.FAILED, RunState.TIMED_OUT):
            found.append(Phase.ON_FAILURE)
        if self.task.on_cancel and ending is RunState.CANCELLED:
            found.append(Phase.ON_CANCEL)
        if self.task.finally_:
            found.append(Phase.FINALLY)
        return found

    @property
    def cleanup_timeout(self) -> float:
        """How long its clean-up may take, in seconds."""
        return self.task.cleanup_timeout if self.task else DEFAULT_CLEANUP_TIMEOUT

    @property
    def code_prefixes(self) -> tuple[str, ...]:
        """What the file names of its plan's code, and of that of the plans that it uses, begin with."""
        return self.generation.code_prefixes if self.generation else ()

    @property
    def workdir_path(self) -> Path:
        """Where its own folder is, or would be."""
        return self.workdirs / self.cid

    @property
    def workdir(self) -> Path:
        """Its own folder, made at first use; it lives as long as the run's record."""
        self.workdir_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.workdir_path

    def logger(self, step: str | None = None, attempt: int | None = None) -> Log:
        """Make a logger whose lines say that they are this run's."""
        return self.logger_for(self.cid, self.plan_name, self.task_name, step, attempt)

    def emitter(self, step: str | None = None) -> Emitter:
        """What an event says of its origin that comes from this run."""
        accepted = self.accepted
        chain = self.chain or Chain(accepted.cause.event_id, accepted.root_cid, accepted.depth)
        return Emitter(self.plan_name, self.task_name, self.cid, step, chain)

    # -- what happened, and how it is written down

    def mark(self, progress: Progress, event: str | None = None, payload: Any = None) -> None:
        """Note that a step, or an item of one, has changed, and the event that says so."""
        if event:
            self.happened.append((event, progress.name, payload))
        if isinstance(progress, ItemProgress):  # ``steps`` is not built anew for each: the step is marked at its end
            self.dirty_items[progress.key] = progress
            return
        assert isinstance(progress, StepProgress)
        self.dirty[progress.name] = progress
        if self.scope is not None:
            self.scope["steps"][progress.name] = progress.value()

    def mark_all(self) -> None:
        """Note every step that has begun or ended as changed: a unit that should have written some was lost."""
        found = [progress for graph in self.graphs.values() for progress in graph]
        self.dirty.update({step.name: step for step in found if step.starts or step.finished_at})
        for step in found:
            if step.loop is not None:
                self.dirty_loops[step.name] = step
                self.dirty_items.update({item.key: item for item in step.loop.items})
        self.dirty_waits.update({key: one for key, one in self.open_waits.items() if one.here is None})

    def count_start(self, progress: Progress) -> None:
        """Count a start that is being written down."""
        progress.attempt += 1
        progress.starts += 1
        if progress.index is None:
            self.starts[progress.name] = progress.starts
        self.begun_starts += 1

    def uncount_start(self, progress: Progress) -> None:
        """Take back a start whose body never began."""
        self.begun_starts -= 1
        progress.attempt -= 1
        progress.starts -= 1
        if progress.index is None:
            self.starts[progress.name] = progress.starts
        if not progress.starts:
            progress.started_at = None

    def start_over(self) -> None:
        """Forget all but how often each step began: it takes the plan's current generation when it starts again."""
        looping = {step.name for graph in self.graphs.values() for step in graph if step.loop is not None}
        self.former_loops |= looping.difference(self.inherited_loops)
        self.dirty_items.clear()
        self.dirty_loops.clear()
        self.generation = self.task = None
        if self._released:
            self._released.set()
            self._released = None
        self.graphs.clear()
        self.begun_starts = 0
        self.progress.clear()
        self.drop_checkpoints()
        self.phase = Phase.MAIN
        self.scope = self.started_at = self.error = self.cleanup_error = self.result = self.queue_left = None
        self.active_s = 0.0

    def end_former_steps(self, now: float) -> None:
        """End on record what began in an earlier start and is none of this one's steps: its run ends without it.

        So do the items of steps that an older boot left and that are in no graph.
        """
        known = {progress.name for graph in self.graphs.values() for progress in graph}
        known |= {row[1] for row in (*self.kept_rows, *self.inherited) if row[2] in STEP_FINAL}
        self.former_rows = [
            (self.seq, name, StepState.CANCELLED.value, 0, starts, None, now, None, None, None, None, None)
            for name, starts in self.starts.items()
            if name not in known
        ]
        left = [row for loop in self.kept_loops.values() for row in loop.items if row[3] not in STEP_FINAL]
        self.former_items = [(*row[:3], StepState.CANCELLED.value, *row[4:7], now, *row[8:]) for row in left]

    def come_back(self) -> None:
        """Forget the stop: it is to run again."""
        self.stop = self.ending = self.stop_ticket = None
        self.reason = self.held
        self.grace = self.cleanup_deadline = self.shutdown_deadline = self.graces_end = float("inf")
        self.scope = None  # that of ``on_preempt`` says how it was stopped

    def note_progress(self, step: str, done: float, total: float | None, message: str) -> None:
        """Keep the last progress of a step; it lives in memory only. From any thread."""
        self.progress[step] = {
            "done": _finite(done) or 0.0,
            "total": _finite(total),
            "message": clean_text(self.redactor.text(str(message)), MAX_PROGRESS_TEXT),
        }
        self.on_progress(self.cid)

    def drop_checkpoint(self, progress: Progress) -> None:
        """Forget what a step, or an item of one, has put by: it has ended. Its items' goes with a step."""
        assert self.checkpoints is not None
        of_all = isinstance(progress, StepProgress) and progress.loop is not None
        keys = [key for key, one in self.checkpoints.items() if one.step == progress.name] if of_all else [progress.key]
        self.former_checkpoints += [self.checkpoints.pop(key) for key in keys if key in self.checkpoints]

    def drop_checkpoints(self) -> None:
        """Forget all that its steps have put by: it ends, or starts over."""
        if self.checkpoints:
            self.former_checkpoints += self.checkpoints.values()
            self.checkpoints = None

    def count_active(self, now: float) -> None:
        """Add the time since the last call to what counts against its time-out. ``now`` is monotonic."""
        if self.active_since is not None:
            self.active_s += now - self.active_since
            self.active_since = now

    def hold_secrets(self) -> None:
        """Have what is secret of its inputs hidden everywhere, from its first start until it has ended."""
        if self.accepted.secret_inputs and not self.sealed:
            values = secret_values(self.inputs, self.accepted.secret_inputs)
            self.redactor.hold(self.cid, secrets_in(values))

    def columns(self, boot: int) -> RunColumns:
        """The columns that change, as they are now."""
        columns = RunColumns(  # by their places: a third of the time that their names take
            str(self.row),  # not ``value``: that is a property, of two calls
            self.generation.hash if self.generation else self.accepted.generation,
            str(self.ending) if self.ending in FINAL else None,
            self.attempt,
            self.crashes,
            self.started_at,
            self.finished_at,
            round(self.active_s, 6),
            boot,
            self.preemptions,
            encode(self.preempted_by) if self.preempted_by else None,
            self.stop.label if self.stop else None,
            self.reason,
            self.stuck,
            self.held is not None,
            self.result,
            encoded(self.error.shown()) if self.error else None,
            encoded(self.cleanup_error.shown()) if self.cleanup_error else None,
        )
        return hidden_columns(self.redactor, columns) if self.redactor.knows else columns

    def take_step_rows(self) -> list[StepRow]:
        """The rows of the steps that have changed since the last call."""
        rows = [step_row(self.seq, p) for p in self.dirty.values()]
        if self.redactor.knows:
            rows = [hidden_step(self.redactor, row) for row in rows]
        self.dirty.clear()
        if self.former_rows:
            rows += self.former_rows
            self.former_rows = []
        return rows

    def take_loops(self) -> LoopUnit | None:
        """What has changed of its loops and their items since the last call; None if nothing has."""
        if not (self.dirty_items or self.dirty_loops or self.former_loops or self.former_items):
            return None
        begun = {step.name: step.loop.over_json for step in self.dirty_loops.values() if step.loop is not None}
        rows = [item_row(self.seq, item) for item in self.dirty_items.values()]
        if self.redactor.knows:
            begun = {name: self.redactor.encoded(over) for name, over in begun.items()}
            rows = [hidden_item(self.redactor, row) for row in rows]
        items = [*rows, *self.former_items]
        found = LoopUnit(self.seq, tuple(self.former_loops), begun, items)
        self.dirty_items.clear()
        self.dirty_loops.clear()
        self.former_loops.clear()
        self.former_items.clear()
        return found

    def take_waits(self) -> WaitUnit | None:
        """What has changed of its waits since the last call; None if nothing has."""
        if not self.dirty_waits:
            return None
        found, self.dirty_waits = self.dirty_waits, {}
        self.has_waited = True
        if self.redactor.knows:
            found = {key: wait and hidden_wait(self.redactor, wait) for key, wait in found.items()}
        return wait_unit(self.seq, found)

    def take_wait(self, key: str) -> WaitUnit:
        """One of its waits that has changed since the last call of ``take_waits``."""
        found, self.dirty_waits = self.dirty_waits, {key: self.dirty_waits[key]}
        unit = self.take_waits()
        assert unit is not None
        self.dirty_waits = {other: wait for other, wait in found.items() if other != key}
        return unit

    def take_former_checkpoints(self) -> CheckpointUnit:
        """The checkpoints that are to be forgotten since the last call."""
        found, self.former_checkpoints = self.former_checkpoints, []
        return CheckpointUnit(self.seq, found)

    # -- waiting for it

    def changed(self) -> None:
        """Wake the executor: a step has ended, a back-off is over, or a stop has come."""
        self._has_changed = True
        if self._change:
            self._change.set()

    async def wait_change(self) -> None:
        """Return once ``changed`` has been called since the last return. Only its executor waits here."""
        if not self._has_changed:
            self._change = asyncio.Event()
            await self._change.wait()
            self._change = None
        self._has_changed = False

    def end(self) -> None:
        """Tell all who wait that its end is committed."""
        self._ended = True
        self.redactor.release(self.cid)
        for event in (self._done, self.over, self._released):
            if event:
                event.set()

    async def wait_end(self) -> None:
        """Return once its end is committed, or its acceptance was undone."""
        if not self._ended:
            self._done = self._done or anyio.Event()
            await self._done.wait()

    @property
    def holds(self) -> Generation | None:
        """The generation that it keeps until it has ended, or is to start over."""
        return None if self._ended else self.generation

    async def wait_release(self) -> None:
        """Return once it holds no generation, or another one."""
        if self.holds is not None:
            self._released = self._released or anyio.Event()
            await self._released.wait()


def _finite(number: float | None) -> float | None:
    """A number that JSON has: infinities and NaN become None. Raises TypeError, ValueError if it is none."""
    number = number if number is None or isinstance(number, int | float) else float(number)
    return number if number is not None and math.isfinite(number) else None


def step_row(seq: int, progress: StepProgress) -> StepRow:
    """A step as the store keeps it."""
    return (
        seq,
        progress.name,
        str(progress.state),
        progress.attempt,
        progress.starts,
        progress.started_at,
        progress.finished_at,
        progress.output_json,
        encoded(progress.outputs),
        encoded(progress.error.shown()) if progress.error else None,
        progress.skipped_because,
        encoded(progress.explained) if progress.explained else None,
    )


def item_row(seq: int, item: ItemProgress) -> ItemRow:
    """An item of a step that loops, as the store keeps it."""
    return (
        seq,
        item.name,
        item.index,
        str(item.state),
        item.attempt,
        item.starts,
        item.started_at,
        item.finished_at,
        item.output_json,
        encoded(item.outputs),
        encoded(item.error.shown()) if item.error else None,
    )
