"""Priorities of runs that have been accepted: changed in memory at once, and told of when that is on record.

A run that waits in its lane moves at once; one that is delayed, paused or running keeps the new priority for the next
time it waits. If it cannot be stored the memory goes back to what is on record.
"""

from typing import NamedTuple

import msgspec

from aura.engine.history import History
from aura.errors import FieldError, Lost, RequestError
from aura.failpoints import Site
from aura.kernel.admission import refusal
from aura.kernel.dispatcher import Dispatcher
from aura.lifecycle import FINAL
from aura.records.runs import change_priority
from aura.run import PRIORITIES
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime


class Prioritized(NamedTuple):
    """A run with its new priority."""

    cid: str
    priority: int
    state: str


class _Changing(msgspec.Struct):
    """A run with changes on their way: the priority that is on record, and how many units are not written."""

    stored: int
    count: int = 0


class Priorities:
    """Changes priorities."""

    def __init__(self, runtime: Runtime, dispatcher: Dispatcher, history: History) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._history = history
        self._changing: dict[str, _Changing] = {}

    async def change(self, cid: str, priority: int) -> Prioritized:
        """Give a run another priority; returns once it is on record.

        Raises:
            RequestError: ``invalid``, ``unknown_run``, or ``ended`` with its state.
        """
        if priority not in PRIORITIES:
            error = FieldError("/priority", f"{priority} is not between -1000 and 1000")
            raise RequestError("invalid", "the request is not valid", errors=[error])
        run = self._runtime.open.get(cid)
        if run is None or run.sealed:
            raise await self._ended(cid)
        state = run.state.value
        try:
            await self._hand_over(run, priority)
        except Lost:
            raise await self._ended(cid) from None
        except Exception as error:
            raise refusal(error) from error
        return Prioritized(cid, priority, state)

    async def _ended(self, cid: str) -> RequestError:
        record = await self._history.wait_run(cid)  # nobody is told of an end before it is on record
        if record.state in FINAL:
            return RequestError(
                "ended", f"run {cid} has already ended: it is {record.state}", extra={"state": record.state}
            )
        detail = f"run {cid} is {record.state} on record, but a change of it was lost; restart the server to settle it"
        return RequestError("conflict", detail, extra={"state": record.state})

    async def _hand_over(self, run: LiveRun, priority: int) -> None:
        change = self._changing.setdefault(run.cid, _Changing(run.priority))
        change.count += 1
        self._dispatcher.change_priority(run, priority)

        def committed() -> None:
            change.stored = priority
            over(None)

        def over(_: Exception | None) -> None:
            change.count -= 1
            if change.count == 0:
                del self._changing[run.cid]
                self._dispatcher.change_priority(run, change.stored)

        unit = change_priority(run.seq, priority)
        await self._runtime.store.put(unit, committed, over, refusable=True, site=Site.HOP, owner=run).wait()
