"""What every part of the work layer shares: the store, the journal, the clock, this boot's identity, the group of runs.

``hand_over`` is the one way in which a change of a run gets to the store: its rows, at most one move, and the events
that tell of it, in one unit. Readers see the events when the unit is committed, never before.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter
from anyio.abc import TaskGroup

from aura.actions import Action
from aura.bus import Bus, Offered, joined
from aura.clock import Clock
from aura.config import Settings
from aura.events import EventEntry
from aura.failpoints import Site
from aura.graph import StepProgress
from aura.journal import Journal
from aura.ledger import Ledger
from aura.lifecycle import FINAL, RunState, check_move
from aura.loading.generation import Generation
from aura.loading.generations import Generations
from aura.logs import Logs
from aura.progress import ProgressBell
from aura.records.checkpoints import CheckpointUnit
from aura.records.columns import encoded
from aura.records.loops import LoopUnit
from aura.records.runs import Accepted, HistoryRow, change_run, together
from aura.records.waits import WaitUnit
from aura.redaction import Redactor
from aura.run import CidSource
from aura.runs.attempt import Attempt, Calls, Emits
from aura.runs.checkpoints import Checkpoints
from aura.runs.interceptor import Interceptor
from aura.runs.liverun import LiveRun
from aura.runs.measures import Measures
from aura.runs.planstate import Ground
from aura.runs.planstates import PlanStates
from aura.runs.services import Services
from aura.secrets import Secrets
from aura.store import Store, Ticket, Unit
from aura.stores.space import Space

#: How many ``def`` actions may be in worker threads at once; further ones wait for a thread.
ACTION_THREADS = 64
#: How many of the latest faults the status names.
FAULTS_SHOWN = 10
#: Whose unit a change of a run is, by the move that it brings.
_SITES: Mapping[RunState | None, Site] = {
    None: Site.HOP,
    RunState.RUNNING: Site.START,
    RunState.STOPPING: Site.STOPPING,
    **dict.fromkeys((RunState.QUEUED, RunState.WAITING, RunState.PREEMPTED), Site.COME_BACK),
    **dict.fromkeys(FINAL, Site.OUTCOME),
}


class Runtime:
    """The shared ground of the work layer. ``runs`` is set by whoever opens the group (``server``)."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        store: Store,
        journal: Journal,
        logs: Logs,
        generations: Generations,
        redactor: Redactor,
        secrets: Secrets,
        boot: int,
        store_id: str,
        space: Space | None = None,
        interceptor: Interceptor | None = None,
        last_seq: int = 0,
        last_cid: str | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.store = store
        #: What the disk has room for.
        self.space = space or Space()
        self.journal = journal
        self.logs = logs
        self.log = logs.logger_for()
        self.bus = Bus(store, journal, self.log)
        self.ledger = Ledger(store, clock, redactor)
        self.generations = generations
        self.redactor = redactor
        self.secrets = secrets
        self.boot = boot
        self.store_id = store_id
        self.boot_tag = f"{store_id}.{boot}"
        self.workdirs: Path = settings.data / "work"
        self.seq = last_seq
        #: When the last of all runs was accepted, in Unix seconds; it never goes back.
        self.since = 0.0
        self.cids = CidSource(last_cid)
        #: All runs in memory: those that have not ended, or whose end is not committed yet.
        self.open: dict[str, LiveRun] = {}
        #: Where run bodies live; no lane, handler or engine owns them, so that each of these can stop without them.
        self.runs: TaskGroup
        #: What stands behind ``ctx.run``; set by the engine.
        self.calls: Calls
        #: Called after each fault; set by the engine.
        self.on_fault: Callable[[], object] = bool
        #: What stands behind ``ctx.emit``; set by the engine.
        self.emits: Emits
        self.plan_states = PlanStates(Ground(store, self.bus, clock, redactor, self.fault))
        self.checkpoints = Checkpoints(store, redactor)
        self._interceptor = interceptor
        self.services = Services(logs, generations, secrets, self.open, self.boot_tag, interceptor)
        self.progress_bell = ProgressBell(journal)
        self.threads = CapacityLimiter(ACTION_THREADS)
        self.faults: deque[str] = deque(maxlen=FAULTS_SHOWN)
        loop = asyncio.get_running_loop()  # whose time the clock gives as well
        self.measures = Measures(loop.time, list(settings.lanes), store)

    def action(self, home: Generation, name: str) -> Action:
        """The action that is called for a step; in a test, maybe one that stands for it. Raises as ``home.action``."""
        found = home.action(name)
        return found if self._interceptor is None else self._interceptor.action(found)

    def body_of(self, attempt: Attempt, coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """What an attempt awaits to have its coroutine done; in a test, somebody may listen."""
        return coroutine if self._interceptor is None else self._interceptor.attempt(attempt, coroutine)

    def fault(self, what: str, error: BaseException) -> None:
        """Record a broken rule or a lost write of Aura's own; it shows as ``degraded`` until the next start."""
        self.faults.append(f"{what}: {self.redactor.text(repr(error)):.200}")
        self.log.error(f"engine fault: {what}", exc_info=error)
        self.on_fault()

    def hand_over(
        self,
        run: LiveRun,
        to: RunState | None = None,
        after: Callable[[], object] | None = None,
        also: Unit | None = None,
    ) -> Ticket:
        """Hand the store what has changed of a run, and at most one move to ``to``. Does not wait.

        ``after`` runs once it is committed. ``to`` may be the state that the run is in: its other columns are written.
        ``also`` is written with it, or not at all.
        """
        former = run.row
        if to is not None and to is not former:
            check_move(former, to)
        run.row = to or former
        try:
            columns = run.columns(self.boot) if to is not None else None
            steps = run.take_step_rows()
            loops = run.take_loops()
            waits = run.take_waits()
            checkpoints = run.take_former_checkpoints() if run.former_checkpoints else None
            entries, history = self._stage(run)  # last: what is staged must be handed over
        except BaseException:
            run.row = former  # nothing was handed over
            raise
        deliveries = self.bus.deliver(entries)
        unit = change_run(run.seq, steps, history, str(former), columns)
        others = [other for other in (loops, waits, checkpoints, also, *joined(deliveries)) if other is not None]
        return self.store.put(
            together([unit, *others]) if others else unit,
            partial(self._committed, entries, deliveries, after),
            partial(self._lost, run, entries, deliveries, loops, waits, checkpoints, former, run.row),
            site=Site.STUCK if run.stuck and to is former else _SITES[None if to is former else to],
            owner=run,
            certain=also is None and not deliveries,
        )

    def _stage(self, run: LiveRun) -> tuple[list[EventEntry], list[HistoryRow]]:
        happened, run.happened = run.happened, []
        entries: list[EventEntry] = []
        history: list[HistoryRow] = []
        try:
            for name, step, payload in happened:
                entry = self.stage_event(run, name, step, payload)
                entries.append(entry)
                history.append(history_row(run.seq, entry))
        except BaseException:
            self.journal.settle(entries, False)  # else they would hold back all that stands behind them
            raise
        return entries, history

    def stage_event(self, run: LiveRun, name: str, step: str | None = None, payload: Any = None) -> EventEntry:
        """Give an event of a run its id and its place on the streams; it must be settled after its commit."""
        return self.journal.stage(
            name,
            cid=run.cid,
            plan_name=run.plan_name,
            task_name=run.task_name,
            step=step,
            payload=payload,
            root=run.accepted.root_cid,
            depth=run.accepted.depth,
            cause=run.accepted.cause.event_id,
            chain=run.chain,
        )

    def live_run(self, accepted: Accepted, inputs: Mapping[str, Any]) -> LiveRun:
        """Make the live side of a run."""
        self.since = max(self.since, accepted.accepted_at)
        return LiveRun(
            accepted,
            inputs,
            since=self.since,
            boot_tag=self.boot_tag,
            workdirs=self.workdirs,
            logger_for=self.logs.logger_for,
            redactor=self.redactor,
            on_progress=self.progress_bell.ring,
            secrets=self.secrets,
            plan_state=self.plan_states.of(accepted.plan_name).scope,
        )

    def _committed(
        self, entries: Sequence[EventEntry], deliveries: Sequence[Offered], after: Callable[[], object] | None
    ) -> None:
        self.journal.settle(entries, True)
        if deliveries:
            self.bus.settle(deliveries, True)
        if after:
            after()

    def _lost(
        self,
        run: LiveRun,
        entries: Sequence[EventEntry],
        deliveries: Sequence[Offered],
        loops: LoopUnit | None,
        waits: WaitUnit | None,
        checkpoints: CheckpointUnit | None,
        former: RunState,
        to: RunState,
        error: Exception,
    ) -> None:
        """A unit was rolled back alone: the next one has to write what it should have written, from where it stood."""
        self.journal.settle(entries, False)
        self.bus.settle(deliveries, False)
        if run.refused:  # the start of a run whose acceptance failed loses its compare-and-set: no fault
            return
        self.fault(f"a change of run {run.cid} was not stored", error)
        if to is not former:
            on_record = run.lost_from or former
            if run.row is to:
                run.row, run.lost_from = on_record, None
            else:  # moves that were handed over behind it begin where it was to lead, and are lost in their turn
                run.lost_from = on_record
        else:  # of a move that did not take place nothing has happened
            run.happened[:0] = [(entry.name, entry.step, entry.payload) for entry in entries]
        run.mark_all()
        if loops is not None:
            run.former_loops.update(loops.former)
        if waits is not None:
            run.dirty_waits = dict.fromkeys(waits.keys_over) | run.dirty_waits
        if checkpoints is not None:
            run.former_checkpoints += [one for one in checkpoints.former if one.key not in (run.checkpoints or {})]
        if run.sealed:  # the record is what counts now; whoever waits reads it there
            run.lost = True
            self.forget(run)

    def forget(self, run: LiveRun) -> None:
        """Let a run leave the memory and tell all who wait for it."""
        if not run.lost:
            self.measures.note_end(run.lane, run.plan_name, run.state)
        self.open.pop(run.cid, None)
        run.end()

    def note_step(self, step: StepProgress) -> None:
        """Count a step that has ended, if it had begun."""
        if step.started_at is not None and step.finished_at is not None:
            self.measures.note_step(step.state, step.finished_at - step.started_at)


def history_row(seq: int, entry: EventEntry) -> HistoryRow:
    """An event of a run as the store keeps it."""
    return (entry.id, seq, entry.name, entry.step, entry.time, encoded(entry.payload))
