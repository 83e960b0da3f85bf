"""The boot: counts this start, and settles what an older one left, before anybody is told that the server is ready.

Only one process owns the data folder (the lock), so whatever an older boot left as running is an orphan by proof: there
are no heartbeats and no leases. What becomes of each is decided in ``orphans``. Here they are moved with
compare-and-set, all of them in one transaction with their history. A crash in the middle of it changes nothing.
"""

import sqlite3
from collections.abc import Callable
from contextlib import suppress

import msgspec

from aura.clock import Clock
from aura.errors import StoreCannotCreate, StoreReadOnly
from aura.events import Chain, EventEntry
from aura.failpoints import Moment, Site, passed
from aura.interrupts.deadfirings import DeadFiring, dead_of, end_dead, ended_by, restarted_by, tell_dead
from aura.kernel.orphans import IN_THE_MIDDLE, UNKNOWN_STEP, Orphan, decide_all
from aura.lifecycle import FINAL, STARTABLE, STEP_FINAL, RunState, StepState
from aura.records.boots import OpenRun, read_open_runs
from aura.records.checkpoints import forget_checkpoints
from aura.records.columns import encode, encoded
from aura.records.firings import read_open_firings
from aura.records.generations import drop_generations, read_again
from aura.records.loops import LoopUnit, end_items, forget_items
from aura.records.runs import Accepted, RunColumns, StepRow, change_run
from aura.records.waits import forget_waits
from aura.run import Cause
from aura.runs.restoring import inherited_of
from aura.runs.runtime import Runtime, history_row
from aura.store import Execute, raise_if_lost


def in_one_transaction(execute: Execute, site: Site, work: Callable[[], None]) -> None:
    """Run ``work`` between BEGIN and COMMIT; roll back if it raises. ``site`` says whose commit it is.

    Raises:
        StoreCannotCreate: the database cannot be written now. StoreCorrupt, StoreIOError: as their names say.
    """
    passed(site, Moment.BEFORE)
    try:
        execute("BEGIN IMMEDIATE")
        try:
            work()
            passed(site, Moment.INSIDE)
        except BaseException:
            with suppress(sqlite3.Error):  # a disk that is full has made SQLite do so already
                execute("ROLLBACK")
            raise
        execute("COMMIT")
    except sqlite3.Error as error:
        with suppress(StoreReadOnly):
            raise_if_lost(error)
        advice = "make room if its disk is full, end what holds it if it is locked, and start again"
        message = f"the database cannot be written: {error}; {advice}"
        raise StoreCannotCreate(message) from error
    passed(site, Moment.AFTER)


def settle_orphans(execute: Execute, runtime: Runtime, clock: Clock) -> list[OpenRun]:
    """Move every orphan, and give the runs that may start now, or rest, in the order of their acceptance.

    Runs on the writing connection, before the store's flusher does.
    """
    orphans, dead = _decide(execute, clock.wall())
    staged = []

    def settle() -> None:
        for orphan in orphans:
            if orphan.to != orphan.found.record.state or orphan.starts_over:
                staged.extend(_move(execute, runtime, orphan, clock.wall()))
        drop_generations(execute)
        staged.extend(end_dead(execute, runtime, dead, clock.wall()))

    in_one_transaction(execute, Site.BOOT_SETTLE, settle)
    runtime.journal.settle(staged, True)
    tell_dead(runtime, dead)
    for orphan in orphans:
        if orphan.error is not None:
            record = orphan.found.record
            log = runtime.logs.logger_for(record.cid, record.plan_name, record.task_name)
            log.warning(f"run {record.cid} is {orphan.to}: {orphan.error.message}")
    return [_as_moved(o) for o in orphans if o.to in STARTABLE]


def _decide(execute: Execute, now: float) -> tuple[list[Orphan], list[DeadFiring]]:
    """What becomes of each orphan, and the firings that end."""
    found, again, firings = read_open_runs(execute), read_again(execute), read_open_firings(execute)
    ended = ended_by(firings)
    orphans = decide_all(found, again, now, to_end=ended)
    dead = dead_of(firings, orphans)
    if restarted := restarted_by(dead):  # handlers stay as they are decided, and so the dead are the same
        orphans = decide_all(found, again, now, restarted, ended)
    return orphans, dead


def _move(execute: Execute, runtime: Runtime, orphan: Orphan, now: float) -> list[EventEntry]:
    """Write one down as it is to be, and give the event of its move, if it is one."""
    record = orphan.found.record
    told = [_stage_move(runtime, orphan)] if orphan.to != record.state else []
    history = [history_row(record.seq, entry) for entry in told]
    change_run(record.seq, _steps(orphan, now), history, record.state, _columns(orphan, runtime.boot, now))(execute)
    _settle_parts(execute, orphan, now)
    return told


def _stage_move(runtime: Runtime, orphan: Orphan) -> EventEntry:
    record = orphan.found.record
    return runtime.journal.stage(
        "run.requeued" if orphan.to is RunState.QUEUED else f"run.{orphan.to.value}",
        cid=record.cid,
        plan_name=record.plan_name,
        task_name=record.task_name,
        payload={"reason": orphan.reason, "boot": runtime.boot},
        root=record.root_cid,
        depth=record.depth,
    )


def _settle_parts(execute: Execute, orphan: Orphan, now: float) -> None:
    """Write what belongs to one, beside its steps."""
    found = orphan.found
    if orphan.goes_on is not None:
        _put_items(execute, found, orphan.goes_on)
        return
    if found.waits:
        forget_waits(execute, found.record.seq)
    if found.checkpoints:
        forget_checkpoints(execute, found.record.seq)
    if found.loops:
        _settle_items(execute, found, orphan.to in FINAL, now)


def _columns(orphan: Orphan, boot: int, now: float) -> RunColumns:
    record = orphan.found.record
    ended = orphan.to in FINAL
    keeps = ended or orphan.goes_on is not None
    return RunColumns(
        state=orphan.to.value,
        stop=record.stop if ended else None,
        reason=orphan.reason if ended or orphan.held else None,
        generation=record.generation,
        ending=None,
        stuck=record.stuck,
        held=orphan.held,
        attempt=record.attempt,
        crashes=orphan.crashes,
        started_at=record.started_at if keeps else None,
        finished_at=now if ended else None,
        active_s=record.active_s if keeps else 0.0,
        boot=boot,
        result=encoded(record.result),
        error=encoded(orphan.error.shown()) if orphan.error else None,
        cleanup_error=encoded(orphan.cleanup_error.shown()) if orphan.cleanup_error else None,
        preempted_by=encoded(record.preempted_by),
        preemptions=record.preemptions,
    )


def _steps(orphan: Orphan, now: float) -> list[StepRow]:
    """The rows of an orphan's steps that are written."""
    found = orphan.found
    if orphan.goes_on is not None:
        return [row for row, was in zip(orphan.goes_on.steps, found.steps, strict=True) if row != was]
    if orphan.to in FINAL:
        return [_step_row(row, ended=True, now=now) for row in found.steps if row[2] not in STEP_FINAL]
    return _steps_again(found)


def _put_items(execute: Execute, found: OpenRun, goes_on: OpenRun) -> None:
    """Write what was in the middle of a try of the items of a run that goes on."""
    for name, rows in goes_on.loops.items():
        changed = [row for row, was in zip(rows.items, found.loops[name].items, strict=True) if row != was]
        LoopUnit(found.record.seq, (), {}, changed)(execute)


def _settle_items(execute: Execute, found: OpenRun, ended: bool, now: float) -> None:
    """The items of an orphan: as its steps."""
    if ended:
        end_items(execute, found.record.seq, now, UNKNOWN_STEP)
    else:
        forget_items(execute, found.record.seq, but_of={row[1] for row in inherited_of(found)})


def _step_row(row: StepRow, ended: bool, now: float) -> StepRow:
    """A step of an orphan: for good if the run has ended, else as if it had never begun, but for how often it did."""
    seq, name, state, attempt, starts, started_at, *_ = row
    if not ended:
        return (seq, name, StepState.PENDING.value, 0, starts, None, None, None, None, None, None, None)
    if state not in IN_THE_MIDDLE:
        return (seq, name, StepState.CANCELLED.value, attempt, starts, started_at, now, None, None, None, None, None)
    return (seq, name, StepState.FAILED.value, attempt, starts, started_at, now, None, None, UNKNOWN_STEP, None, None)


def _steps_again(found: OpenRun) -> list[StepRow]:
    """The steps of a run that is to start over; what it has taken over from the run that it repeats stays as it is."""
    inherited = inherited_of(found)
    return inherited + [_step_row(row, ended=False, now=0.0) for row in found.steps if row not in inherited]


def _as_moved(orphan: Orphan) -> OpenRun:
    found = orphan.found
    if orphan.goes_on is not None:
        return msgspec.structs.replace(orphan.goes_on, crashes=orphan.crashes)
    if orphan.to == found.record.state and not orphan.starts_over:
        return found
    record = msgspec.structs.replace(found.record, state=orphan.to.value, started_at=None, active_s=0.0)
    steps = _steps_again(found)
    loops = {row[1]: found.loops[row[1]] for row in inherited_of(found) if row[1] in found.loops}
    return OpenRun(record, None, found.held, orphan.crashes, steps, loops)


def accepted_of(found: OpenRun) -> Accepted:
    """The acceptance of a run, read back from its record."""
    r = found.record
    return Accepted(
        seq=r.seq,
        cid=r.cid,
        plan_name=r.plan_name,
        task_name=r.task_name,
        generation=r.generation or "",
        lane=r.lane,
        priority=r.priority,
        labels=r.labels,
        recovery=r.recovery,
        due=r.due,
        not_before=r.not_before,
        accepted_at=r.accepted_at,
        cause=msgspec.convert(r.cause, Cause),
        parent_cid=r.parent_cid,
        root_cid=r.root_cid,
        depth=r.depth,
        boot=r.boot,
        inputs=encode(r.inputs),
        mode_key=r.mode_key,
        secret_inputs=tuple(r.secret_inputs or ()),
        call=r.call,
        chain=msgspec.convert(r.chain, Chain) if r.chain else None,
    )
