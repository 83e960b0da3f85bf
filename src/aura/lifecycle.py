"""The states of runs and steps, the stop kinds, and the tables of what may follow what.

Theory of operation. This file owns everything that affects states and knows nothing else: no I/O, no clock, no run.
One look-up says whether a move is allowed, and the message of every illegal move is written here. Final states have
empty rows: there is no way out. The diagram in ``docs/lifecycle.md`` is drawn from these tables, the database's CHECKs
and its trigger repeat them, and ``tests/unit/test_lifecycle.py`` holds every cell.

``stuck``, ``held`` and ``not_before`` are columns of a run, not states: a stuck run is ``stopping`` with a flag.

The ties. An outcome is sought from the graph first and from the stop kind second (``end_of_stop``). A stop of a higher
rank replaces a lower one; an equal or lower one changes nothing. What a crash does is the boot table (``boot_move``):
it is asked once for every run that is not final, before the server says ready.
"""

from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import assert_never

from aura.errors import InternalError


class RunState(StrEnum):
    """Each state says who moves a run out of it, and what a crash does to a run that is in it."""

    #: Accepted and stored, waits for a place. The dispatcher moves it on. A crash leaves it as it is.
    QUEUED = "queued"
    #: Holds a place; its steps run. Its own executor moves it on. A crash: as ``recovery`` says.
    RUNNING = "running"
    #: All unfinished steps wait for something that is stored; holds no place. What it waits for moves it on.
    WAITING = "waiting"
    #: Told to stop by a time-out or a cancel, cleaning up. Its own executor moves it on. A crash: as it was told.
    STOPPING = "stopping"
    #: Stopped to come back, or paused; holds no place. The dispatcher moves it on. A crash leaves it as it is.
    PREEMPTED = "preempted"
    #: Every step ended, and none failed that matters.
    SUCCEEDED = "succeeded"
    #: Every step ended or was skipped, and one failed that matters; or it could not begin.
    FAILED = "failed"
    #: Stopped for good: by a user, by its mode, by its parent, by a shutdown, or given up as stuck.
    CANCELLED = "cancelled"
    #: Stopped by its own time-out.
    TIMED_OUT = "timed_out"
    #: The server ended under it, or Aura itself failed: what the named step did is unknown.
    CRASHED = "crashed"


class Stop(IntEnum):
    """Why a run is told to stop, by rank: a higher one replaces a lower one.

    ``INTERRUPT`` and ``SHUTDOWN`` use up no attempt. Replacement by mode and a parent's stop are ``CANCEL``.
    """

    INTERRUPT = 1
    SHUTDOWN = 2
    TIMEOUT = 3
    CANCEL = 4

    @property
    def label(self) -> str:
        """The name as it is stored and shown: ``interrupt shutdown timeout cancel``."""
        return self.name.lower()


class Recovery(StrEnum):
    """What becomes of a run when the server crashes, or shuts down, under it."""

    FAIL = "fail"
    RESUME = "resume"
    RESTART = "restart"


class StepState(StrEnum):
    """``pending running retrying waiting stopping``, then a final one."""

    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    WAITING = "waiting"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


S = RunState

#: state → {next state: what causes the move}. The whole truth about runs.
RUN_MOVES: MappingProxyType[RunState, MappingProxyType[RunState, str]] = MappingProxyType(
    {
        S.QUEUED: MappingProxyType(
            {
                S.RUNNING: "the dispatcher gives it a place",
                S.PREEMPTED: "pause",
                S.FAILED: "it cannot begin: its plan is gone, or its inputs fit no more",
                S.CANCELLED: "cancel",
                S.TIMED_OUT: "it waited too long for a place",
                S.CRASHED: "an engine fault",
            }
        ),
        S.RUNNING: MappingProxyType(
            {
                S.QUEUED: "stopped before its first step, or shut down with recovery: restart",
                S.WAITING: "all unfinished steps wait for something stored",
                S.STOPPING: "time-out or cancel",
                S.PREEMPTED: "interrupt or pause, or shut down with recovery: resume",
                S.SUCCEEDED: "all steps ended",
                S.FAILED: "a step failed",
                S.CANCELLED: "shut down with recovery: fail, or stuck",
                S.TIMED_OUT: "time-out, before its row said so",
                S.CRASHED: "the server ended under it, or an engine fault",
            }
        ),
        S.WAITING: MappingProxyType(
            {
                S.RUNNING: "what it waits for came, and the dispatcher gives it a place",
                S.STOPPING: "cancel while it has clean-up to run",
                S.PREEMPTED: "pause",
                S.FAILED: "it cannot go on",
                S.CANCELLED: "cancel",
                S.TIMED_OUT: "time-out",
                S.CRASHED: "an engine fault",
            }
        ),
        S.STOPPING: MappingProxyType(
            {
                S.SUCCEEDED: "all steps had ended by themselves",
                S.FAILED: "a step had failed by itself",
                S.CANCELLED: "cancel",
                S.TIMED_OUT: "time-out",
                S.CRASHED: "an engine fault",
            }
        ),
        S.PREEMPTED: MappingProxyType(
            {
                S.RUNNING: "the dispatcher gives it a place again",
                S.WAITING: "resumed, and all unfinished steps wait for something stored",
                S.STOPPING: "cancel or time-out while it has clean-up to run",
                S.QUEUED: "it is to start over",
                S.FAILED: "it cannot go on",
                S.CANCELLED: "cancel",
                S.TIMED_OUT: "time-out",
                S.CRASHED: "an engine fault",
            }
        ),
        S.SUCCEEDED: MappingProxyType({}),
        S.FAILED: MappingProxyType({}),
        S.CANCELLED: MappingProxyType({}),
        S.TIMED_OUT: MappingProxyType({}),
        S.CRASHED: MappingProxyType({}),
    }
)

P = StepState
#: state → the states that may follow. A step that was stopped to come back goes to ``pending`` again.
STEP_MOVES: MappingProxyType[StepState, frozenset[StepState]] = MappingProxyType(
    {
        P.PENDING: frozenset({P.RUNNING, P.SKIPPED, P.FAILED, P.CANCELLED}),
        P.RUNNING: frozenset(
            {P.PENDING, P.RETRYING, P.WAITING, P.STOPPING, P.SUCCEEDED, P.FAILED, P.CANCELLED, P.TIMED_OUT}
        ),
        P.RETRYING: frozenset({P.PENDING, P.RUNNING, P.WAITING, P.FAILED, P.CANCELLED, P.TIMED_OUT}),
        P.WAITING: frozenset({P.PENDING, P.RUNNING, P.RETRYING, P.SUCCEEDED, P.FAILED, P.CANCELLED, P.TIMED_OUT}),
        P.STOPPING: frozenset({P.PENDING, P.SUCCEEDED, P.FAILED, P.CANCELLED, P.TIMED_OUT}),
        P.SUCCEEDED: frozenset(),
        P.FAILED: frozenset(),
        P.SKIPPED: frozenset(),
        P.CANCELLED: frozenset(),
        P.TIMED_OUT: frozenset(),
    }
)

FINAL = frozenset(state for state, moves in RUN_MOVES.items() if not moves)
STEP_FINAL = frozenset(state for state, moves in STEP_MOVES.items() if not moves)
#: States in which a run holds a place in its lane.
PLACED = frozenset({S.RUNNING, S.STOPPING})
#: States from which the dispatcher may start a run.
STARTABLE = frozenset({S.QUEUED, S.WAITING, S.PREEMPTED})


def check_move(former: RunState, to: RunState) -> None:
    """Refuse a move that the table does not have.

    Raises:
        InternalError: the move is not in ``RUN_MOVES``.
    """
    if to not in RUN_MOVES[former]:
        allowed = ", ".join(RUN_MOVES[former]) or "nothing: it is final"
        raise InternalError(f"a run cannot go from {former} to {to}; from there it may go to {allowed}")


def check_step_move(former: StepState, to: StepState) -> None:
    """Refuse a move of a step that the table does not have.

    Raises:
        InternalError: the move is not in ``STEP_MOVES``.
    """
    if to not in STEP_MOVES[former]:
        allowed = ", ".join(sorted(STEP_MOVES[former])) or "nothing: it is final"
        raise InternalError(f"a step cannot go from {former} to {to}; from there it may go to {allowed}")


def outranks(new: Stop, old: Stop | None) -> bool:
    """Say whether a second stop replaces the first."""
    return old is None or new > old


def end_of_stop(
    stop: Stop, recovery: Recovery, *, stuck: bool, begun: bool, kept: bool, woken: bool = False
) -> RunState:
    """Where a run goes that was stopped before its graph had ended.

    ``stuck``: its body outlived the grace, so that it may never come back. ``begun``: a step of it has started.
    ``kept``: it has been paused, or was preempted and had not gone on yet. ``woken``: it was waiting, and had not gone
    on yet.
    """
    match stop:
        case Stop.CANCEL:
            return S.CANCELLED
        case Stop.TIMEOUT:
            return S.TIMED_OUT
        case Stop.INTERRUPT | Stop.SHUTDOWN if stuck:
            return S.CANCELLED
        case Stop.INTERRUPT | Stop.SHUTDOWN if kept:
            return S.PREEMPTED
        case Stop.SHUTDOWN if woken:
            return S.WAITING
        case Stop.INTERRUPT | Stop.SHUTDOWN if not begun:
            return S.QUEUED
        case Stop.INTERRUPT:
            return S.PREEMPTED
        case Stop.SHUTDOWN:
            return _END_OF_SHUTDOWN[recovery]
        case _:
            assert_never(stop)


_END_OF_SHUTDOWN = {Recovery.FAIL: S.CANCELLED, Recovery.RESUME: S.PREEMPTED, Recovery.RESTART: S.QUEUED}
_END_OF_CRASH = {Recovery.FAIL: S.CRASHED, Recovery.RESUME: S.PREEMPTED, Recovery.RESTART: S.QUEUED}


def boot_move(state: RunState, stop: Stop | None, recovery: Recovery) -> RunState:
    """The boot table: the state of a run that an older boot left in ``state``, by proof no longer running.

    Raises:
        InternalError: ``state`` is final; such a run is nobody's orphan.
    """
    match state:
        case S.QUEUED | S.WAITING | S.PREEMPTED:
            return state
        case S.STOPPING if stop is Stop.CANCEL:
            return S.CANCELLED
        case S.STOPPING if stop is Stop.TIMEOUT:
            return S.TIMED_OUT
        case S.RUNNING | S.STOPPING:
            return _END_OF_CRASH[recovery]
        case _:
            raise InternalError(f"a run that is {state} needs no boot move")


def mermaid() -> str:
    """Draw ``RUN_MOVES`` as a Mermaid state diagram, for ``docs/lifecycle.md``."""
    lines = ["stateDiagram-v2", "    [*] --> queued: accepted"]
    for state, moves in RUN_MOVES.items():
        lines += [f"    {state} --> {to}: {cause.replace(':', '#58;')}" for to, cause in moves.items()]
        if not moves:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines)
