"""Loops: what a step goes over, which of its items may begin, when it is over, and what it gives.

Theory of operation. For the graph a step that loops is one step, and it is ``running`` from the moment in which its
loop begins to that in which it is over. What is tried are its items, or rounds: each is a ``graph.ItemProgress`` with
attempts, retries and a record of its own, whose key in ``run.live`` and ``run.backoffs`` is ``name[index]``. This
module decides; ``starting`` begins items, ``conclude`` ends them, and the step with the last of them.

- *What it goes over* is asked once, when the step is ready and its ``when`` was true, and frozen: a list, the pairs of
  a mapping, or a number of times. It is on record with the step's start, and a resume goes on with it.
- *Items* begin in their order, ``parallelism`` of them at once. The start of each is on record before it begins, its
  end with the starts that this makes possible, all that have gathered in one unit; there is no event for each of them.
- *Rounds* of ``while`` and ``until`` come one after the other, ``delay`` apart: the step's own key in ``run.backoffs``
  is that rest. ``while`` is asked when a round has ended and once more after the rest, so that a loop that is over does
  not rest, and one that goes on is right about the time. ``until`` is asked when a round has ended.
- *Failures.* With ``on_item_failure: stop`` nothing more begins after the first: items that wait for their next try end
  with the error that they have, those that run are let end, and the step fails with the first error. With ``continue``
  it succeeds, with null in place of what failed.

The ties. An item that ends in the turn of a stop of its run has ended: so has the step, if that was the last. An item
that a stop cuts off is pending again when its run comes back, and begins before those that never did; a rest is over
then. A ``stop`` in a loop ends the run as everywhere: items that run are cut off, and the step is cancelled unless that
item was its last.

A run that starts over forgets its items, in the unit that says so; a loop that begins forgets what it may find, so that
rows of an older beginning never count. What a crash does: started items are on record and their ends are not. A run
that is not to go on has them ended by the boot, and one that starts over has them forgotten.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from aura.actions import MAX_OUTPUT
from aura.clock import Clock
from aura.errors import BadOutput, LoopInvalid, LoopLimit
from aura.graph import ItemProgress, LoopProgress, StepProgress
from aura.lifecycle import StepState
from aura.records.columns import encode
from aura.runs.liverun import LiveRun, Phase
from aura.runs.perform import checked_output
from aura.runs.scope import scope_of, scope_of_loop
from aura.runs.waits import Waits
from aura.task import MAX_ITEMS, Loop
from aura.wait import SHORTEST, Wait, WaitKind


def begin_loop(run: LiveRun, progress: StepProgress, clock: Clock) -> None:
    """Freeze what a step goes over.

    Raises:
        LoopInvalid: it is no list, mapping or number of times, or too many. BadOutput: it is too large to be kept.
        ExpressionError: it has no value.
    """
    loop = _loop(progress)
    over: Sequence[Any] | None = None
    over_json = b"null"
    if loop.for_each is not None:
        over = _items(loop.for_each.render(scope_of(run, clock)))
        over_json = _kept(over)
    elif loop.times is not None:
        over = _times(loop.times.render(scope_of(run, clock)))
        over_json = encode(len(over))
    progress.loop = LoopProgress(over, over_json)


def thawed(over: Any) -> Sequence[Any] | None:
    """What a step goes over, of what is on record of it: a list, a number of times, or None of rounds."""
    return range(over) if isinstance(over, int) else over


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = [{"key": key, "value": part} for key, part in value.items()]
    if not isinstance(value, list):
        raise LoopInvalid(f"for_each gave {_named(value)}, and needs a list or a mapping")
    _bound("for_each", len(value))
    return value


def _times(value: Any) -> range:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise LoopInvalid(f"times gave {_named(value)}, and needs a whole number that is not negative")
    _bound("times", value)
    return range(value)


def _bound(what: str, count: int) -> None:
    if count > MAX_ITEMS:
        raise LoopInvalid(f"{what} gave {count} items; a step goes over {MAX_ITEMS} at most: share them among steps")


def _named(value: Any) -> str:
    return encode(value).decode()[:80]


def _kept(over: Sequence[Any]) -> bytes:
    try:
        return checked_output(over)[1]
    except BadOutput as error:
        raise BadOutput(f"what for_each gave is too large: {error}") from None


def cancel_items(run: LiveRun, loop: LoopProgress, now: float) -> None:
    """End what is open of a loop that is over, whatever it was: items that have begun, or were about to."""
    for item in loop.items if loop.open else ():
        if not item.ended:
            item.state, item.finished_at = StepState.CANCELLED, now
            run.mark(item)
    loop.open = 0
    loop.left.clear()


# -- which may begin


def take_items(run: LiveRun, progress: StepProgress, waits: Waits) -> list[ItemProgress]:
    """Take the items that may begin now: each is given once. A round that has to wait is waited for."""
    loop, rules = progress.loop, _loop(progress)
    assert loop is not None
    if loop.failure is not None:
        return []
    taken, loop.left = loop.left, []
    if loop.over is None:
        if not loop.open and not _rests(run, progress, loop, rules, waits):
            taken.append(loop.add(progress.step))
        return taken
    while loop.open < rules.parallelism and len(loop.items) < len(loop.over):
        taken.append(loop.add(progress.step))
    return taken


def _rests(run: LiveRun, progress: StepProgress, loop: LoopProgress, rules: Loop, waits: Waits) -> bool:
    """Whether a loop has to wait before its next round; it begins to, if it has not."""
    rested, loop.rested = loop.rested, False
    if rested or not loop.items or not rules.delay:
        return False
    if progress.key in run.open_waits:
        return True
    if rules.delay >= SHORTEST and run.phase is Phase.MAIN:
        waits.begin(run, progress, Wait(WaitKind.ROUND, rules.delay))
    elif progress.key not in run.backoffs:
        timer = asyncio.get_running_loop().call_later(rules.delay, _rest_over, run, progress)
        run.backoffs[progress.key] = timer
    return True


def _rest_over(run: LiveRun, progress: StepProgress) -> None:
    assert progress.loop is not None
    del run.backoffs[progress.key]
    progress.loop.rested = progress.loop.unasked = True
    run.changed()


# -- when it is over


def is_over(run: LiveRun, progress: StepProgress, clock: Clock) -> bool:
    """Whether nothing of a loop runs and nothing more is to begin. It asks ``until`` and ``while``.

    Raises:
        LoopLimit: as many rounds as may be are over, and there is to be another. ExpressionError: what it asks has no
            value.
    """
    loop, rules = progress.loop, _loop(progress)
    assert loop is not None
    loop.unasked = False
    if loop.open:
        return False
    if loop.failure is not None:
        return True
    count = len(loop.items)
    if loop.over is not None:
        return count == len(loop.over)
    last = loop.last_before(count)
    if rules.until is not None and count and rules.until.test(scope_of_loop(run, clock, count - 1, count - 1, last)):
        return True
    if rules.while_ is not None and not rules.while_.test(scope_of_loop(run, clock, count, count, last)):
        return True
    if count >= rules.max_iterations:
        raise LoopLimit(f"the loop was not over after {count} rounds, which is its max_iterations")
    return False


def collect(progress: StepProgress) -> None:
    """Make the lists that a step has given of what its items have: null where one failed.

    Raises:
        BadOutput: together they are larger than an output may be.
    """
    loop = progress.loop
    assert loop is not None
    output_json = b"[" + b",".join([item.output_json or b"null" for item in loop.items]) + b"]"
    _check_size("the results", len(output_json))
    done = [item if item.state is StepState.SUCCEEDED else None for item in loop.items]
    outputs = {
        name: [item.outputs[name] if item and item.outputs else None for item in done] for name in progress.step.outputs
    }
    if outputs:
        _check_size("the outputs", len(encode(outputs)))
    progress.output = [item.output if item else None for item in done]
    progress.output_json, progress.outputs = output_json, outputs or None


def _check_size(what: str, size: int) -> None:
    if size > MAX_OUTPUT:
        together = f"{what} of its items are {size} bytes of JSON together"
        raise BadOutput(f"{together}; at most {MAX_OUTPUT} are kept: write them to files")


def _loop(progress: StepProgress) -> Loop:
    loop = progress.step.loop
    assert loop is not None
    return loop
