"""What becomes of each run that an older boot left open. Nothing here writes: ``boot`` does, all of it at once.

Theory of operation. Whatever an older boot left as running is an orphan by proof, and is moved by the boot table of
``lifecycle``. One with ``recovery: resume`` goes on where it was if nothing was lost that must not happen twice: every
step, or item of a loop, that the crash caught in the middle says that it is ``idempotent``. The others are as they
were: what has ended stays ended, what waits goes on waiting, and what was caught is pending again and has used up no
try. Which steps may run again is kept with the code of such a run when it starts (``keptcode``), so that this can be
decided before any plan is loaded.

The ties. A step that only runs another task (``task.run``) does nothing of its own: it may run again if its sub-task
goes on, has its outcome, or never began. A sub-task goes on if it could by itself *and* its parent does; else it has
ended, and a parent that goes on asks for it anew (``children``). The rounds of ``on_preempt`` and ``on_resume`` count
for nothing: the second runs anew whenever the run goes on, and a sub-task of either does not go on. After
``PARK_AFTER`` crashes in a row a run is not started again.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from aura.kernel.dispatcher import HANDLERS
from aura.lifecycle import FINAL, PLACED, STEP_FINAL, Recovery, RunState, StepState, Stop, boot_move
from aura.records.boots import OpenRun
from aura.records.columns import encode
from aura.records.generations import Again, Rule
from aura.records.loops import LoopRows
from aura.records.runs import ItemRow, StepRow
from aura.run import Failure

#: Why a sub-task is ended that had not begun, or rested.
PARENT_ENDED = "its parent has ended"
#: Why a sub-task is ended that had not begun, of a parent that goes on and asks for it anew.
NOT_BEGUN = "the server ended before it began"
#: Why a sub-task rests: its parent goes on, and lets it go on.
PARENT_RESTS = "its parent rests"
#: The reason of a run that the server ended under.
CRASH = "crash"
#: After so many crashes in a row under the same run it is not started again (reason ``parked``).
PARK_AFTER = 3
UNKNOWN_STEP = encode(Failure("outcome_unknown", "the server ended while it was running").shown())

_RESTING = (RunState.WAITING, RunState.PREEMPTED)
#: Of a step or an item: its body may have run.
IN_THE_MIDDLE = (StepState.RUNNING, StepState.STOPPING)


class Orphan(msgspec.Struct, frozen=True):
    """A run that an older boot left open, and what becomes of it.

    ``goes_on`` is the run as it goes on where it was; None of one that starts over, has ended, or was at rest.
    ``starts_over``: it was at rest, and begins from its beginning, since that is what the firing wants that stopped it.
    """

    found: OpenRun
    to: RunState
    reason: str | None
    error: Failure | None
    cleanup_error: Failure | None
    crashes: int
    goes_on: OpenRun | None = None
    starts_over: bool = False

    @property
    def held(self) -> bool:
        """Whether it is kept from starting by itself."""
        return self.to not in FINAL and (self.goes_on or self.found).held


def decide_all(
    found: Sequence[OpenRun],
    again: Again,
    now: float,
    to_start_over: Collection[int] = (),
    to_end: Mapping[int, str] = MappingProxyType({}),
) -> list[Orphan]:
    """Say what becomes of each; they come in the order of acceptance, and so a parent before its sub-tasks.

    ``again`` says which steps may run again; ``now`` is in Unix seconds. ``to_start_over`` are the sequences of those
    that do if they rest, ``to_end`` those of what an interrupt ends for good, with the reasons.
    """
    able = _Able(found, again)
    decided: dict[str, Orphan] = {}
    for one in found:
        parent_cid = one.record.parent_cid
        own = decide(one, now, able.rules(one) if able.can_go_on(one) else None)
        if one.record.seq in to_end:
            own = end_for_good(own, to_end[one.record.seq])
        if one.record.seq in to_start_over:
            own = start_over(own)
        decided[one.record.cid] = own if parent_cid is None else decide_child(own, decided.get(parent_cid))
    return list(decided.values())


def decide(found: OpenRun, now: float, rules: Mapping[str, Rule] | None = None) -> Orphan:
    """Say what becomes of one orphan: its computed outcome if its steps had all ended, else by the boot table.

    ``rules`` are given for one that can go on where it was.
    """
    record = found.record
    state, recovery = RunState(record.state), Recovery(record.recovery)
    stop = Stop[record.stop.upper()] if record.stop else None
    ran = state in PLACED
    crashes = found.crashes + 1 if ran else found.crashes
    if ran and found.ending is not None:
        return _end_of_cleanup(found, stop, crashes)
    if ran and record.stuck and stop in (Stop.INTERRUPT, Stop.SHUTDOWN):  # it had been given up: it may not come back
        return Orphan(found, RunState.CANCELLED, "stuck", None, _not_run(ran), crashes)
    to = boot_move(state, stop, recovery)
    goes_on = to is RunState.PREEMPTED and ran
    if (to is RunState.QUEUED or (goes_on and rules is not None)) and crashes >= PARK_AFTER:
        return Orphan(found, RunState.CRASHED, "parked", _unknown(found), _not_run(ran), crashes)
    if goes_on and rules is None:
        to = RunState.CRASHED
    if to in FINAL:
        crashed = to is RunState.CRASHED
        reason, error = (CRASH, _unknown(found)) if crashed else (record.reason, None)
        return Orphan(found, to, reason, error, _not_run(ran), crashes)
    if to is RunState.QUEUED and found.held:  # it was told to pause, and somebody was told so
        to = RunState.PREEMPTED
    again = _going_on(found, rules, now) if goes_on and rules is not None else None
    return Orphan(found, to, record.reason if found.held or not goes_on else CRASH, None, None, crashes, again)


def _end_of_cleanup(found: OpenRun, stop: Stop | None, crashes: int) -> Orphan:
    """Its steps had ended, and so it has its outcome; how far its handlers came is unknown."""
    unknown = Failure("cleanup_unknown", "the server ended during its clean-up; how far it came is unknown")
    to, error = RunState(found.ending or ""), failure_on_record(found.record.error)
    if to is RunState.TIMED_OUT and stop is Stop.CANCEL:  # it was cancelled in its clean-up, and somebody was told
        to, error = RunState.CANCELLED, None
    return Orphan(found, to, found.record.reason, error, unknown, crashes)


def decide_child(own: Orphan, parent: Orphan | None) -> Orphan:
    """Say what becomes of a sub-task: it rests, or goes on, only with its parent; else it ends."""
    found, state = own.found, RunState(own.found.record.state)
    if own.to in FINAL:
        return own
    if state in _RESTING and parent is not None and _stays(parent):
        return own if own.held or state is RunState.WAITING else _resting(own)
    parent_goes_on = parent is not None and parent.goes_on is not None
    if own.goes_on is not None and parent_goes_on:
        record = msgspec.structs.replace(own.goes_on.record, reason=PARENT_RESTS)
        resting = msgspec.structs.replace(own.goes_on, record=record, held=True)
        return msgspec.structs.replace(own, reason=PARENT_RESTS, goes_on=resting)
    if state in PLACED:
        return Orphan(found, RunState.CRASHED, CRASH, _unknown(found), _not_run(ran=True), own.crashes)
    begun = found.record.started_at is not None
    reason = NOT_BEGUN if parent_goes_on and not begun else PARENT_ENDED
    return Orphan(found, RunState.CANCELLED, reason, None, _not_run(begun), own.crashes)


def start_over(orphan: Orphan) -> Orphan:
    """Let a run that rests, or was to go on, begin from its beginning; one that is held, when somebody resumes it.

    Any other stays as it is decided, and so does a handler that was displaced: it comes back as it was.
    """
    record = orphan.found.record
    if orphan.to is not RunState.PREEMPTED or record.lane == HANDLERS:
        return orphan
    to = RunState.PREEMPTED if orphan.held or record.parent_cid else RunState.QUEUED
    reason = record.reason if orphan.held else None
    return msgspec.structs.replace(orphan, to=to, reason=reason, goes_on=None, starts_over=True)


def end_for_good(orphan: Orphan, reason: str) -> Orphan:
    """Let a run end as cancelled that a firing ends for good: it may have been told, and that not be on record.

    One that has its outcome keeps it, and so does a handler that was displaced: it comes back.
    """
    record = orphan.found.record
    if record.lane == HANDLERS or (orphan.to in FINAL and orphan.to is not RunState.CRASHED):
        return orphan
    begun = record.started_at is not None
    return Orphan(orphan.found, RunState.CANCELLED, reason, None, _not_run(begun), orphan.crashes)


def _resting(own: Orphan) -> Orphan:
    """A sub-task that a firing has stopped, and that stood ready to go on: it does with its parent."""
    record = msgspec.structs.replace(own.found.record, reason=PARENT_RESTS)
    found = msgspec.structs.replace(own.found, record=record, held=True)
    return msgspec.structs.replace(own, found=found, reason=PARENT_RESTS)


def _stays(orphan: Orphan) -> bool:
    """Whether a run rests, or goes on, with all that it has done."""
    if orphan.starts_over:
        return False
    return orphan.to in _RESTING and (orphan.goes_on is not None or orphan.found.record.state == orphan.to)


# -- who can go on where it was


class _Able:
    """Which runs can go on where they were; asked of each before anything is decided."""

    def __init__(self, found: Sequence[OpenRun], again: Again) -> None:
        self._again = again
        self._found = {one.record.cid: one for one in found}
        self._children: dict[str, list[OpenRun]] = {}
        for one in found:
            if one.record.parent_cid is not None:
                self._children.setdefault(one.record.parent_cid, []).append(one)
        self._able: set[str] = set()
        for one in reversed(found):  # sub-tasks before their parents
            if self._look(one):
                self._able.add(one.record.cid)

    def rules(self, found: OpenRun) -> Mapping[str, Rule] | None:
        """Which steps of its task may run again; None if its code was not kept."""
        record = found.record
        return self._again.get((record.plan_name, record.generation or ""), {}).get(record.task_name)

    def can_go_on(self, found: OpenRun) -> bool:
        """Whether nothing of it was lost that must not happen twice."""
        return found.record.cid in self._able

    def _look(self, found: OpenRun) -> bool:
        rules = self.rules(found)
        if rules is None or found.record.recovery != Recovery.RESUME or found.record.state not in PLACED:
            return False
        if self._is_of_handler(found):
            return False
        return all(self._may_again(found, rules[_step_of(key)], key) for key in _caught(found, rules))

    def _is_of_handler(self, found: OpenRun) -> bool:
        """Whether a handler of its parent asked for it: those begin anew, and their calls with them."""
        parent = self._found.get(found.record.parent_cid or "")
        rules = None if parent is None else self.rules(parent)
        return rules is not None and _step_of(_key_asking(found)) not in rules

    def _may_again(self, found: OpenRun, rule: Rule, key: str) -> bool:
        if rule is not Rule.CALL:
            return rule is Rule.AGAIN
        asked = [child for child in self._children.get(found.record.cid, ()) if _key_asking(child) == key]
        return all(_is_known(child) or self.can_go_on(child) for child in asked)


def _key_asking(child: OpenRun) -> str:
    """The key of the step, or item, of its parent that a sub-task answers."""
    assert child.record.call is not None
    return child.record.call.split("/")[1]


def _is_known(child: OpenRun) -> bool:
    """Whether nothing of a sub-task was lost: none of its steps ran, or all had ended and it has its outcome."""
    return child.record.state not in PLACED or child.ending is not None


def _caught(found: OpenRun, rules: Mapping[str, Rule]) -> Iterator[str]:
    """The keys of the steps and items that were in the middle of a try. A loop is, if one of its items was."""
    for _, name, state, *_ in found.steps:
        if state in IN_THE_MIDDLE and name in rules:
            loop = found.loops.get(name)
            if loop is None:
                yield name
            else:
                yield from (f"{name}[{item[2]}]" for item in loop.items if item[3] in IN_THE_MIDDLE)


def _step_of(key: str) -> str:
    return key.partition("[")[0]


def _going_on(found: OpenRun, rules: Mapping[str, Rule], now: float) -> OpenRun:
    """A run as it goes on: what was in the middle of a try is pending again, as if that try had never begun."""
    steps = [_given_back(row) if row[1] in rules else _handler_ended(row, now) for row in found.steps]
    loops = {
        name: LoopRows(rows.over, [_item_given_back(i) if name in rules else _item_ended(i, now) for i in rows.items])
        for name, rows in found.loops.items()
    }
    reason = found.record.reason if found.held else None
    record = msgspec.structs.replace(found.record, state=RunState.PREEMPTED.value, reason=reason)
    return msgspec.structs.replace(found, record=record, steps=steps, loops=loops)


def _given_back(row: StepRow) -> StepRow:
    seq, name, state, attempt, starts, started_at, *rest = row
    if state not in IN_THE_MIDDLE:
        return row
    return (seq, name, StepState.PENDING.value, max(0, attempt - 1), starts, started_at, *_nothing(len(rest)))


def _item_given_back(row: ItemRow) -> ItemRow:
    seq, name, index, state, attempt, starts, started_at, *rest = row
    if state not in IN_THE_MIDDLE:
        return row
    return (seq, name, index, StepState.PENDING.value, max(0, attempt - 1), starts, started_at, *_nothing(len(rest)))


def _nothing(count: int) -> Any:
    return (None,) * count


def _handler_ended(row: StepRow, now: float) -> StepRow:
    """A step of ``on_preempt`` or ``on_resume``: those begin anew when they are due again."""
    if row[2] in STEP_FINAL or row[2] == StepState.PENDING:
        return row
    seq, name, _, attempt, starts, started_at, *_ = row
    return (seq, name, StepState.FAILED.value, attempt, starts, started_at, now, None, None, UNKNOWN_STEP, None, None)


def _item_ended(row: ItemRow, now: float) -> ItemRow:
    """An item of a step of such a handler."""
    seq, name, index, state, attempt, starts, started_at, *_ = row
    if state in STEP_FINAL:
        return row
    if state in IN_THE_MIDDLE:
        return (seq, name, index, StepState.FAILED.value, attempt, starts, started_at, now, None, None, UNKNOWN_STEP)
    return (seq, name, index, StepState.CANCELLED.value, attempt, starts, started_at, now, None, None, None)


# -- what is said of it


def failure_on_record(shown: Mapping[str, Any] | None) -> Failure | None:
    """A failure read back from a record."""
    return Failure(**shown) if shown else None


def _unknown(found: OpenRun) -> Failure:
    """Name the steps that were caught in the middle."""
    caught = [row[1] for row in found.steps if row[2] in IN_THE_MIDDLE]
    if not caught:
        return Failure("crashed", "the server ended under it, between two steps")
    names = ", ".join(caught)
    text = f"the server ended while step {names} was running; what it did is unknown"
    return Failure("crashed", text, caught[0])


def _not_run(ran: bool) -> Failure | None:
    return Failure("not_run", "the server had ended: its clean-up steps did not run") if ran else None
