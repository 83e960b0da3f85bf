"""What is on record, for whoever asks: runs, their steps, their events and log lines.

Everything here is read from the store and so is committed; the memory only adds what no row says: the live progress of
a step, what a run waits for, and a stop that is under way. Nothing here changes anything.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from aura.errors import RequestError
from aura.events import Entry
from aura.interrupts.ruleview import held_by
from aura.kernel.claims import Claims
from aura.kernel.dispatcher import Dispatcher
from aura.lifecycle import RunState
from aura.records.events import EventFilter, EventPage, read_events
from aura.records.firings import StoppedRuns, read_stopped
from aura.records.reading import RunFilter, get_run, get_steps, list_children, list_runs, read_logs, read_run_stream
from aura.records.removal import removed_to
from aura.run import RunRecord, StepRecord
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime
from aura.runs.waits import Waits
from aura.wait import WaitKind

#: How many sub-tasks a run is shown with.
CHILDREN_SHOWN = 100
#: How many of the runs that a handler's firing has stopped it is shown with.
STOPPED_SHOWN = 100
#: How many of the runs that hold a place are listed at once, unless more are asked for.
ACTIVE_LIMIT = 1000
#: How many of a run's waits are shown: those that somebody can end first, then in this order of their kinds.
WAITS_SHOWN = 100
WAITS_IN_ORDER = (WaitKind.APPROVAL, WaitKind.EVENT, WaitKind.TASK, WaitKind.SLEEP, WaitKind.RETRY, WaitKind.ROUND)


class RunDetail(msgspec.Struct, frozen=True):
    """One run, whole: its record, its steps, its newest sub-tasks, and the live progress of steps that run, by step.

    ``stopped``: of the handler of an interrupt, what that has stopped.
    """

    record: RunRecord
    steps: list[StepRecord]
    children: list[RunRecord]
    progress: Mapping[str, Mapping[str, Any]]
    stopped: StoppedRuns = StoppedRuns()


class History:
    """Reads the record. ``flush_logs`` returns once every log line written so far is stored."""

    def __init__(
        self,
        runtime: Runtime,
        dispatcher: Dispatcher,
        claims: Claims,
        waits: Waits,
        flush_logs: Callable[[], Awaitable[object]],
    ) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._claims = claims
        self._waits = waits
        self._flush_logs = flush_logs

    async def list_runs(self, wanted: RunFilter, limit: int, before: int | None = None) -> list[RunRecord]:
        """The newest runs first, accepted before the sequence ``before``."""
        return [self.as_it_is(r) for r in await self._runtime.store.read(lambda x: list_runs(x, wanted, limit, before))]

    async def active_runs(self, limit: int = ACTIVE_LIMIT, before: int | None = None) -> list[RunRecord]:
        """The newest of the runs that run now, or hang, accepted before the sequence ``before``."""
        holding = [*self._dispatcher.placed(), *self._dispatcher.stuck(), *self._dispatcher.in_place]
        runs = [*holding, *self._dispatcher.gone]
        newest = sorted((run for run in runs if before is None or run.seq < before), key=lambda run: -run.seq)
        found: list[RunRecord] = []
        while newest and len(found) < limit:  # some may not be on record yet
            wanted, newest = newest[: limit - len(found)], newest[limit - len(found) :]
            found += await self.list_runs(RunFilter(cids=tuple(run.cid for run in wanted)), limit)
        return found

    async def get_run(self, cid: str) -> RunDetail:
        """One run, whole.

        Raises:
            RequestError: ``unknown_run``.
        """

        def query(execute: Any) -> tuple[RunRecord, list[StepRecord], list[RunRecord], StoppedRuns] | None:
            record = get_run(execute, cid)
            if record is None:
                return None
            handles = record.cause.get("kind") == "interrupt"
            stopped = read_stopped(execute, cid, STOPPED_SHOWN) if handles else StoppedRuns()
            return record, get_steps(execute, record.seq), list_children(execute, cid, CHILDREN_SHOWN), stopped

        found = await self._runtime.store.read(query)
        if found is None:
            raise self._unknown(cid)
        record, steps, children, stopped = found
        below = [self.as_it_is(child) for child in children]
        return RunDetail(self.as_it_is(record), steps, below, self.progress_of(cid), stopped)

    def progress_of(self, cid: str) -> Mapping[str, Mapping[str, Any]]:
        """How far the steps are that run now, as they said last; empty for a run that is not in memory."""
        live = self._runtime.open.get(cid)
        return dict(live.progress) if live else {}

    async def wait_run(self, cid: str) -> RunRecord:
        """One run once it has ended and that is committed.

        Raises:
            RequestError: ``unknown_run``.
        """
        live = self._runtime.open.get(cid)
        if live is not None:
            await live.wait_end()
        return await self.record(cid)

    async def run_entries(self, cid: str, after: int, limit: int) -> list[Entry]:
        """The log lines and events of a run with ids above ``after``, by id."""
        await self._flush_logs()
        return await self._runtime.store.read(lambda x: read_run_stream(x, cid, after, limit))

    async def log_entries(
        self,
        *,
        after: int = 0,
        limit: int = 1000,
        until: int | None = None,
        level: int | None = None,
        plan_name: str | None = None,
        task_name: str | None = None,
        cid: str | None = None,
        newest: bool = False,
    ) -> list[Entry]:
        """Log lines with ids above ``after`` and below ``until``, by id; the last ones with ``newest``."""
        await self._flush_logs()
        return await self._runtime.store.read(
            lambda x: read_logs(
                x,
                after=after,
                limit=limit,
                until=until,
                level=level,
                plan_name=plan_name,
                task_name=task_name,
                cid=cid,
                newest=newest,
            )
        )

    async def event_entries(self, wanted: EventFilter, after: int, until: int, limit: int) -> EventPage:
        """Of the next ``limit`` events with ids above ``after`` and below ``until`` those that are wanted, by id."""
        return await self._runtime.store.read(lambda x: read_events(x, wanted, after, until, limit))

    async def removed_to(self, stream: str) -> int:
        """The highest id that retention has taken off a stream (``EVENTS_TO`` or ``LOGS_TO``); 0 if it took none."""
        return await self._runtime.store.read(lambda x: removed_to(x, stream))

    async def record(self, cid: str) -> RunRecord:
        """One run as it is on record.

        Raises:
            RequestError: ``unknown_run``.
        """
        record = await self._runtime.store.read(lambda x: get_run(x, cid))
        if record is None:
            raise self._unknown(cid)
        return record

    def as_it_is(self, record: RunRecord) -> RunRecord:
        """A stored record, with what it waits for; a stop that writes no row of its own is shown all the same."""
        live = self._runtime.open.get(record.cid)
        if live and (
            live.claims is not None
            or live.open_waits
            or self._dispatcher.holds.open
            or self._dispatcher.lacks_code(live)
        ):
            record = msgspec.structs.replace(record, waiting_for=self.waiting_for(live))
        if live and live.state is RunState.STOPPING and record.state == RunState.RUNNING:
            return msgspec.structs.replace(record, state=live.state.value, reason=live.reason)
        return record

    def waiting_for(self, run: LiveRun) -> dict[str, Any] | None:
        """What a run waits for, or steps of it.

        It is the end of an interrupt, its plan's gate, a resource or its mode, and what is on record of its waits.
        """
        lacks, waits = self._held(run) or self._gated(run) or self._claims.waiting_for(run), self._waits.shown(run)
        if not waits:
            return lacks
        waits.sort(key=lambda wait: WAITS_IN_ORDER.index(wait["kind"]))  # stable: by step and item among equals
        keys = [wait["step"] if wait["index"] is None else f"{wait['step']}[{wait['index']}]" for wait in waits]
        shown = lacks or {"kind": waits[0]["kind"], "names": [], "holders": []}
        steps = [*shown.get("steps", ()), *keys[:WAITS_SHOWN]]
        return shown | {"steps": steps, "waits": waits[:WAITS_SHOWN], "waits_total": len(waits)}

    def _held(self, run: LiveRun) -> dict[str, Any] | None:
        """Who keeps a run from starting, if an interrupt does."""
        if not self._dispatcher.is_kept(run):
            return None
        over = self._dispatcher.holds.over(run)
        return held_by(run, over) if over else None

    def _gated(self, run: LiveRun) -> dict[str, Any] | None:
        """The plan whose tests keep a run from starting, if they do."""
        return {"kind": "gate", "names": [run.plan_name], "holders": []} if self._dispatcher.lacks_code(run) else None

    def _unknown(self, cid: str) -> RequestError:
        kept = self._runtime.settings.store.retention
        bounds = f"{kept.days} day{'s' * (kept.days > 1)} and {kept.runs} at most"
        return RequestError("unknown_run", f"there is no run {cid[:64]!r}: ended runs are kept for {bounds}")
