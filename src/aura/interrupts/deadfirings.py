"""What becomes of the firings of interrupt rules that an older boot left open. ``boot`` writes it, all of it at once.

Theory of operation. An open firing lives as long as its handler does. One whose handler has ended, ends in this boot,
or is gone, is *dead*: it ends in the same transaction, and what it had stopped goes back by its rule. What is to start
over does so in that transaction as well: else the next crash would forget that it was to. A firing whose handler goes
on, or starts over, stays open, and keeps what it covers (``Interrupts.take_over``). What either was to end for good
(``then: cancel``) ends in the same transaction as well: it is told before that is on record, and may have cleaned up.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from aura.events import Chain, EventEntry
from aura.interrupt import Then
from aura.kernel.orphans import Orphan
from aura.lifecycle import FINAL
from aura.records.events import insert_event
from aura.records.firings import OpenFiring, end_firing, read_handler_state
from aura.runs.firing import ending_payload, ending_text
from aura.runs.runtime import Runtime
from aura.store import Execute


class DeadFiring(NamedTuple):
    """An open firing whose handler does not live, and what becomes of that one in this boot, if it was still open."""

    found: OpenFiring
    handler: Orphan | None


def dead_of(found: Iterable[OpenFiring], orphans: Iterable[Orphan]) -> list[DeadFiring]:
    """The open firings whose handlers are final, or gone, once the orphans are settled."""
    by_cid = {orphan.found.record.cid: orphan for orphan in orphans}
    both = [DeadFiring(one, by_cid.get(one.row.cid)) for one in found]
    return [dead for dead in both if dead.handler is None or dead.handler.to in FINAL]


def restarted_by(dead: Iterable[DeadFiring]) -> set[int]:
    """The sequences of what such firings have stopped, and want to start over."""
    return {victim.seq for one in dead if one.found.row.terms.then is Then.RESTART for victim in one.found.victims}


def ended_by(found: Iterable[OpenFiring]) -> dict[int, str]:
    """The sequences of what open firings end for good, with the reasons, whether their handlers live or not."""
    ending = [one for one in found if one.row.terms.then is Then.CANCEL]
    return {
        victim.seq: f"interrupted by {one.row.plan_name}/{one.row.rule}" for one in ending for victim in one.victims
    }


def end_dead(execute: Execute, runtime: Runtime, dead: Sequence[DeadFiring], now: float) -> Iterator[EventEntry]:
    """End them on record, with the events that say so; those are staged."""
    for one in dead:
        row = one.found.row
        state = read_handler_state(execute, row.cid) or "removed"
        end_firing(row.id, now, state)(execute)
        entry = _stage(runtime, one, ending_payload(row, state, now, len(one.found.victims)))
        insert_event(entry)(execute)
        yield entry


def _stage(runtime: Runtime, one: DeadFiring, payload: Mapping[str, object]) -> EventEntry:
    row = one.found.row
    record = one.handler.found.record if one.handler else None
    chain = msgspec.convert(record.chain, Chain) if record and record.chain else None
    return runtime.journal.stage(
        "interrupt.ended",
        plan_name=row.plan_name,
        task_name=record.task_name if record else None,
        payload=payload,
        root=chain.root if chain else row.cid,
        depth=record.depth if record else 0,
        cause=chain.cause if chain else None,
        chain=chain,
    )


def tell_dead(runtime: Runtime, dead: Sequence[DeadFiring]) -> None:
    """Say in the log what the end of the server has cut short."""
    for one in dead:
        row = one.found.row
        task_name = one.handler.found.record.task_name if one.handler else None
        state = one.handler.to if one.handler else None
        why = one.handler.error.message if one.handler and one.handler.error else "the server ended under it"
        runtime.logs.logger_for(row.cid, row.plan_name, task_name).error(ending_text(row, state, why))
