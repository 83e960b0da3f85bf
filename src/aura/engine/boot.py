"""The boot: counts this start, and settles what an older one left, before anybody is told that the server is ready.

Only one process owns the data folder (the lock), so whatever an older boot left as running is an orphan by proof: there
are no heartbeats and no leases. Each orphan is moved by the boot table of ``lifecycle`` with compare-and-set, all of
them in one transaction with their history. A crash in the middle of it changes nothing.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from aura.clock import Clock
from aura.errors import InternalError, StoreCannotCreate, StoreReadOnly
from aura.events import EventEntry
from aura.failpoints import Moment, Site, passed
from aura.lifecycle import FINAL, PLACED, STARTABLE, STEP_FINAL, Recovery, RunState, StepState, Stop, boot_move
from aura.records.boots import OpenRun, read_open_runs
from aura.records.checkpoints import forget_checkpoints
from aura.records.columns import encode, encoded
from aura.records.generations import drop_generations
from aura.records.loops import end_items, forget_items
from aura.records.runs import Accepted, RunColumns, StepRow, change_run
from aura.records.waits import forget_waits
from aura.run import Cause, Failure
from aura.runs.restoring import inherited_of
from aura.runs.runtime import Runtime, history_row
from aura.store import Execute, raise_if_lost

#: Why a sub-task is ended that had not begun, or rested.
PARENT_ENDED = "its parent has ended"
#: After so many crashes in a row under the same run it is not started again (reason ``parked``).
PARK_AFTER = 3


class Orphan(msgspec.Struct, frozen=True):
    """A run that an older boot left open, and what becomes of it."""

    found: OpenRun
    to: RunState
    reason: str | None
    error: Failure | None
    cleanup_error: Failure | None
    crashes: int


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
            execute("ROLLBACK")
            raise
        execute("COMMIT")
    except sqlite3.Error as error:
        with suppress(StoreReadOnly):
            raise_if_lost(error)
        message = f"the database cannot be written: {error}; if another process holds it, end that and start again"
        raise StoreCannotCreate(message) from error
    passed(site, Moment.AFTER)


def settle_orphans(execute: Execute, runtime: Runtime, clock: Clock) -> list[OpenRun]:
    """Move every orphan, and give the runs that are queued or preempted now, in the order of their acceptance.

    Runs on the writing connection, before the store's flusher does.
    """
    orphans = decide_all(read_open_runs(execute))
    staged = []

    def settle() -> None:
        for orphan in orphans:
            if orphan.to != orphan.found.record.state:
                staged.append(_move(execute, runtime, orphan, clock.wall()))
        drop_generations(execute)

    in_one_transaction(execute, Site.BOOT_SETTLE, settle)
    runtime.journal.settle(staged, True)
    for orphan in orphans:
        if orphan.error is not None:
            record = orphan.found.record
            log = runtime.logs.logger_for(record.cid, record.plan_name, record.task_name)
            log.warning(f"run {record.cid} is {orphan.to}: {orphan.error.message}")
    return [_as_moved(o) for o in orphans if o.to in STARTABLE]


def decide_all(found: Iterable[OpenRun]) -> list[Orphan]:
    """Say what becomes of each; they come in the order of acceptance, and so a parent before its sub-tasks."""
    decided: dict[str, Orphan] = {}
    for one in found:
        parent_cid = one.record.parent_cid
        decided[one.record.cid] = decide(one) if parent_cid is None else decide_child(one, decided.get(parent_cid))
    return list(decided.values())


def decide_child(found: OpenRun, parent: Orphan | None) -> Orphan:
    """Say what becomes of a sub-task: it is kept if both rest, and else it ends, whatever its ``recovery``."""
    orphan = decide(found)
    state = RunState(found.record.state)
    if orphan.to in FINAL or (state in _RESTING and parent is not None and _rests(parent)):
        return orphan
    if state in PLACED:
        return Orphan(found, RunState.CRASHED, "crash", _unknown(found), _not_run(ran=True), orphan.crashes)
    begun = found.record.started_at is not None
    return Orphan(found, RunState.CANCELLED, PARENT_ENDED, None, _not_run(begun), orphan.crashes)


_RESTING = (RunState.WAITING, RunState.PREEMPTED)


def _rests(orphan: Orphan) -> bool:
    return orphan.to in _RESTING and orphan.found.record.state == orphan.to


def decide(found: OpenRun) -> Orphan:
    """Say what becomes of one orphan: its computed outcome if its steps had all ended, else by the boot table."""
    record = found.record
    state, recovery = RunState(record.state), Recovery(record.recovery)
    stop = Stop[record.stop.upper()] if record.stop else None
    ran = state in PLACED
    crashes = found.crashes + 1 if ran else found.crashes
    if ran and found.ending is not None:
        unknown = Failure("cleanup_unknown", "the server ended during its clean-up; how far it came is unknown")
        to, error = RunState(found.ending), failure_on_record(record.error)
        if to is RunState.TIMED_OUT and stop is Stop.CANCEL:  # it was cancelled in its clean-up, and somebody was told
            to, error = RunState.CANCELLED, None
        return Orphan(found, to, record.reason, error, unknown, crashes)
    if ran and record.stuck and stop in (Stop.INTERRUPT, Stop.SHUTDOWN):  # it had been given up: it may not come back
        return Orphan(found, RunState.CANCELLED, "stuck", None, _not_run(ran), crashes)
    to = boot_move(state, stop, recovery)
    if to is RunState.QUEUED and crashes >= PARK_AFTER:
        return Orphan(found, RunState.CRASHED, "parked", _unknown(found), _not_run(ran), crashes)
    if to is RunState.PREEMPTED and ran:  # nothing is resumed in the middle of a step yet
        to = RunState.CRASHED
    if to is RunState.QUEUED and found.held:  # it was told to pause, and somebody was told so
        to = RunState.PREEMPTED
    match to:
        case RunState.QUEUED | RunState.WAITING | RunState.PREEMPTED:
            return Orphan(found, to, record.reason, None, None, crashes)
        case RunState.CRASHED:
            return Orphan(found, to, "crash", _unknown(found), _not_run(ran), crashes)
        case RunState.CANCELLED | RunState.TIMED_OUT:
            return Orphan(found, to, record.reason, None, _not_run(ran), crashes)
        case _:
            raise InternalError(f"the boot table moved run {record.cid} from {state} to {to}")


def failure_on_record(shown: Mapping[str, Any] | None) -> Failure | None:
    """A failure read back from a record."""
    return Failure(**shown) if shown else None


def _unknown(found: OpenRun) -> Failure:
    """Name the steps that were caught in the middle."""
    caught = _caught(found.steps)
    if not caught:
        return Failure("crashed", "the server ended under it, between two steps")
    names = ", ".join(caught)
    text = f"the server ended while step {names} was running; what it did is unknown"
    return Failure("crashed", text, caught[0])


def _not_run(ran: bool) -> Failure | None:
    return Failure("not_run", "the server had ended: its clean-up steps did not run") if ran else None


def _caught(steps: Iterable[StepRow]) -> list[str]:
    return [row[1] for row in steps if row[2] not in STEP_FINAL and row[2] != StepState.PENDING]


def _move(execute: Execute, runtime: Runtime, orphan: Orphan, now: float) -> EventEntry:
    record = orphan.found.record
    ended = orphan.to in FINAL
    held = not ended and orphan.found.held
    columns = RunColumns(
        state=orphan.to.value,
        stop=record.stop if ended else None,
        reason=orphan.reason if ended or held else None,
        generation=record.generation,
        ending=None,
        stuck=record.stuck,
        held=held,
        attempt=record.attempt,
        crashes=orphan.crashes,
        started_at=record.started_at if ended else None,
        finished_at=now if ended else None,
        active_s=record.active_s if ended else 0.0,
        boot=runtime.boot,
        result=encoded(record.result),
        error=encoded(orphan.error.shown()) if orphan.error else None,
        cleanup_error=encoded(orphan.cleanup_error.shown()) if orphan.cleanup_error else None,
    )
    entry = runtime.journal.stage(
        "run.requeued" if orphan.to is RunState.QUEUED else f"run.{orphan.to.value}",
        cid=record.cid,
        plan_name=record.plan_name,
        task_name=record.task_name,
        payload={"reason": orphan.reason, "boot": runtime.boot},
        root=record.root_cid,
        depth=record.depth,
    )
    steps = [_step_row(row, ended, now) for row in orphan.found.steps if row[2] not in STEP_FINAL]
    if not ended:
        steps = _steps_again(orphan.found)
    change_run(record.seq, steps, [history_row(record.seq, entry)], record.state, columns)(execute)
    if orphan.found.waits:
        forget_waits(execute, record.seq)
    if orphan.found.checkpoints:
        forget_checkpoints(execute, record.seq)
    if orphan.found.loops:
        _settle_items(execute, orphan.found, ended, now)
    return entry


def _settle_items(execute: Execute, found: OpenRun, ended: bool, now: float) -> None:
    """The items of an orphan: as its steps."""
    if ended:
        end_items(execute, found.record.seq, now, _UNKNOWN_STEP)
    else:
        forget_items(execute, found.record.seq, but_of={row[1] for row in inherited_of(found)})


_UNKNOWN_STEP = encode(Failure("outcome_unknown", "the server ended while it was running").shown())


def _step_row(row: StepRow, ended: bool, now: float) -> StepRow:
    """A step of an orphan: for good if the run has ended, else as if it had never begun, but for how often it did."""
    seq, name, state, attempt, starts, started_at, *_ = row
    if not ended:
        return (seq, name, StepState.PENDING.value, 0, starts, None, None, None, None, None, None, None)
    if state == StepState.PENDING:
        return (seq, name, StepState.CANCELLED.value, attempt, starts, started_at, now, None, None, None, None, None)
    return (seq, name, StepState.FAILED.value, attempt, starts, started_at, now, None, None, _UNKNOWN_STEP, None, None)


def _steps_again(found: OpenRun) -> list[StepRow]:
    """The steps of a run that is to start over; what it has taken over from the run that it repeats stays as it is."""
    inherited = inherited_of(found)
    return inherited + [_step_row(row, ended=False, now=0.0) for row in found.steps if row not in inherited]


def _as_moved(orphan: Orphan) -> OpenRun:
    found = orphan.found
    if orphan.to == found.record.state:
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
    )
