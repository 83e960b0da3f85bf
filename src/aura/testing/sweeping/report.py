"""What a sweep has found, and how it says so: what is wrong of a run that was stopped at a point, and many of these.

The same finding at several points is shown once, with the first of them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from aura.lifecycle import FINAL, StepState
from aura.run import RunRecord
from aura.testing.leaks import Leak
from aura.testing.sweeping.points import Point
from aura.testing.sweeping.sweptrun import Seen, Undisturbed
from aura.testing.sweeping.ways import SAME, Way

#: How many points of one finding a report names.
SHOWN = 10
#: The kind of what only says that the run has come to something else.
RESULT = "result"
#: The leaks that a crash may not leave; all others end with the process.
_OF_A_CRASH = frozenset({"process", "resource", "place"})
#: What is said of the clean-up of a run that a crash has hit: nobody was there for it.
_CRASHED = frozenset({"not_run", "cleanup_unknown"})
#: How many characters of a value are shown.
_VALUE = 200


class Finding(msgspec.Struct, frozen=True):
    """Something wrong: at which point the run was stopped, and what came of it. ``point`` None: it was not stopped.

    ``kind``: that of a leak, or ``state``, ``finally``, ``clean-up``, ``swallowed``, ``lost clean-up``, ``result``.
    Findings of one kind with the same ``topic`` are shown as one. ``tree`` shows the run, where that says more.
    """

    point: Point | None
    kind: str
    message: str
    topic: str
    tree: str = ""


# -- of one run


def judge(way: Way, point: Point, undisturbed: Undisturbed, seen: Seen) -> list[Finding]:
    """Say what is wrong with a run that was stopped at a point."""
    troubles = [Finding(point, one.kind, one.message, one.message) for one in seen.troubles]
    if seen.unfinished is not None:
        return [*troubles, Finding(point, "state", f"it does not end: {seen.unfinished}", "it does not end", seen.tree)]
    return [
        *troubles,
        *_of_state(way, point, undisturbed, seen),
        *_of_finally(way, point, undisturbed, seen),
        *_of_clean_up(way, point, undisturbed, seen),
        *(of_leak(point, leak) for leak in _new_leaks(way, undisturbed, seen)),
        *_of_result(way, point, undisturbed, seen),
    ]


def _of_state(way: Way, point: Point, undisturbed: Undisturbed, seen: Seen) -> Iterable[Finding]:
    wanted = way.expected(undisturbed.task.recovery, undisturbed.then)
    same = undisturbed.seen.record.state
    allowed = {same if state == SAME else state for state in wanted}
    if seen.record.state in allowed or _is_as_if_never_stopped(undisturbed, seen):
        return
    message = f"it ended as {_ending(seen)}, not as {' or '.join(sorted(allowed))}"
    yield Finding(point, "state", message, f"{seen.record.state} {seen.record.error}", seen.tree)


def _is_as_if_never_stopped(undisturbed: Undisturbed, seen: Seen) -> bool:
    """Whether the run has ended as when nobody stops it, and so has every step: the stop came too late, or rests."""
    mains = undisturbed.task.steps
    former = {name: state for name, state in undisturbed.seen.steps.items() if name in mains}
    now = {name: state for name, state in seen.steps.items() if name in mains}
    return seen.record.state == undisturbed.seen.record.state and former == now


def _of_finally(way: Way, point: Point, undisturbed: Undisturbed, seen: Seen) -> Iterable[Finding]:
    record = seen.record
    if record.state not in FINAL or not seen.begun or _is_cut_by_crash(way, record):
        return
    for name in undisturbed.task.finally_:
        state = seen.steps.get(name, StepState.PENDING)
        if state in (StepState.PENDING, StepState.CANCELLED):
            yield Finding(point, "finally", f"the step {name} of `finally` did not run: it is {state}", name, seen.tree)


def _of_clean_up(way: Way, point: Point, undisturbed: Undisturbed, seen: Seen) -> Iterable[Finding]:
    error, former = seen.record.cleanup_error, undisturbed.seen.record.cleanup_error
    if error is None or _is_cut_by_crash(way, seen.record):
        return
    if former is None or former["type"] != error["type"]:
        yield Finding(point, "clean-up", f"its clean-up failed: {_failure(error)}", error["type"], seen.tree)


def _is_cut_by_crash(way: Way, record: RunRecord) -> bool:
    """Whether nobody was there for the clean-up of a run, or not for all of it."""
    return way.word == "crash" and record.cleanup_error is not None and record.cleanup_error["type"] in _CRASHED


def _new_leaks(way: Way, undisturbed: Undisturbed, seen: Seen) -> list[Leak]:
    """The leaks of a run but for those of one that nobody stops."""
    former = {_topic_of(leak) for leak in undisturbed.seen.leaks}
    counts = [leak for leak in seen.leaks if way.word != "crash" or leak.kind in _OF_A_CRASH]
    return [leak for leak in counts if _topic_of(leak) not in former]


def of_leak(point: Point | None, leak: Leak) -> Finding:
    """The finding that something was left."""
    made = f" (made there: {leak.where})" if leak.where else ""
    return Finding(point, leak.kind, f"{leak.kind} {leak.what} is left{made}", _topic_of(leak))


def _topic_of(leak: Leak) -> str:
    return f"{leak.kind} {leak.where or leak.what}"


#: What a message calls that.
_STATE = "the plan's state"


def _of_result(way: Way, point: Point, undisturbed: Undisturbed, seen: Seen) -> Iterable[Finding]:
    if not way.brings_back(undisturbed.task.recovery, undisturbed.then):
        return
    former, now = _comparable(undisturbed.seen), _comparable(seen)
    said = [f"{what} {_difference(former[what], now[what])}" for what in former if former[what] != now[what]]
    if said:
        message = f"it is not as when nobody stops it: {'; '.join(said)}"
        if former[_STATE] != now[_STATE] and seen.changed_state:
            message += f" (changed at {', '.join(seen.changed_state)})"
        yield Finding(point, RESULT, message, "; ".join(said), seen.tree)


def _comparable(seen: Seen) -> dict[str, Any]:
    """What the run came to, without what is another in each world: its id and its folder."""
    came_to = {"state": seen.record.state, "result": seen.record.result, _STATE: dict(seen.kept)}
    text = json.dumps(came_to, sort_keys=True, default=repr)
    made: dict[str, Any] = json.loads(text.replace(seen.record.cid, "<cid>").replace(seen.data, "<data>"))
    return made


def _difference(former: Any, now: Any) -> str:
    if isinstance(former, dict) and isinstance(now, dict):
        keys = [key for key in {**former, **now} if former.get(key, _GONE) != now.get(key, _GONE)]
        return ", ".join(f"{key!r} {_difference(former.get(key, _GONE), now.get(key, _GONE))}" for key in keys)
    return f"is {_shown(now)}, not {_shown(former)}"


_GONE = object()


def _shown(value: Any) -> str:
    return "not there" if value is _GONE else f"{value!r:.{_VALUE}}"


def _ending(seen: Seen) -> str:
    record = seen.record
    why = _failure(record.error) if record.error is not None else record.reason
    refused = f"; it could not be stopped: {seen.refused}" if seen.refused else ""
    return f"{record.state}{f' ({why})' if why else ''}{refused}"


def _failure(error: Mapping[str, Any]) -> str:
    at = f" at {error['file']}:{error['line']}" if error.get("file") else ""
    step = f" in step {error['step']}" if error.get("step") else ""
    return f"{error['type']}: {error['message']}{step}{at}"


# -- of many


def told(way: Way, findings: Sequence[Finding]) -> list[str]:
    """The findings in words, the same ones together."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.kind, finding.topic), []).append(finding)
    return [line for group in groups.values() for line in _group(way, group)]


def _group(way: Way, group: Sequence[Finding]) -> Iterable[str]:
    first, *others = group
    yield f"{_at(way, first.point)}: {first.message}"
    if others:
        yield f"    and so at {len(others)} other points:"
        yield from (f"    {one.point}" for one in others[: SHOWN - 1])
        if len(others) >= SHOWN:
            yield f"    … and {len(others) - SHOWN + 1} more"
    if first.tree:
        yield from (f"    {line}" for line in first.tree.splitlines())


def _at(way: Way, point: Point | None) -> str:
    return f"{way.said} at {point}" if point is not None else "undisturbed"
