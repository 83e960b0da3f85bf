"""Steering: what users tell a run that has not ended: cancel, pause, resume, and an answer that it waits for.

Each returns once what it has brought about is on record. How a run stops is decided in ``stops``, how it rests in
``pausing``, and what an answer must be in ``waits``.
"""

from collections.abc import Mapping
from typing import Any

from aura.engine.history import History
from aura.errors import RequestError
from aura.kernel.admission import Admission, refusal
from aura.kernel.children import family
from aura.kernel.pausing import Pausing
from aura.lifecycle import FINAL, RunState, Stop
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime
from aura.runs.stops import UNCERTAIN, Answer, Stops
from aura.runs.waits import Waits
from aura.store import Ticket


class Steering:
    """Tells open runs what users want of them; it keeps nothing of its own."""

    def __init__(
        self, runtime: Runtime, admission: Admission, history: History, stops: Stops, pausing: Pausing, waits: Waits
    ) -> None:
        self._runtime = runtime
        self._admission = admission
        self._history = history
        self._stops = stops
        self._pausing = pausing
        self._waits = waits

    async def cancel(self, cid: str, reason: str | None = None) -> str:
        """Cancel a run, wherever it is; returns its state once the cancel is on record.

        Raises:
            RequestError: ``unknown_run``, or ``ended`` with its state.
        """
        run = await self._open_run(cid)
        if self._has_no_time(run):
            self._admission.check_open()
        return await self._told(run, *self.request_cancel(run, reason))

    def request_cancel(self, run: LiveRun, reason: str | None = None) -> tuple[Answer, Ticket | None]:
        """Ask for the cancel of a run and do not wait; the ticket is that of the unit in which it is on record."""
        self._pausing.find_code(run)  # that of one that rests may be served again: its clean-up needs it
        return self._stops.request_stop(run, Stop.CANCEL, reason)

    def _has_no_time(self, run: LiveRun) -> bool:
        """Whether its clean-up would have to begin while the server is going; it keeps till the server is back."""
        return self._admission.closed and run.state is RunState.PREEMPTED

    async def pause(self, cid: str, reason: str | None = None) -> str:
        """Pause a run, wherever it is; returns its state, ``stopping`` or ``preempted``, once that is on record.

        Raises:
            RequestError: ``unknown_run``, ``ended``, or ``conflict``: see ``pausing``.
        """
        self._admission.check_open()
        run = await self._open_run(cid)
        check_stands_alone(run, "pause")
        return await (self._told(run, Answer.ENDED, None) if run.sealed else self._pausing.pause(run, reason))

    async def resume(self, cid: str) -> str:
        """Let a paused run go on; returns its state, ``preempted`` or ``stopping``, once that is on record.

        Raises:
            RequestError: ``unknown_run``, ``ended``, or ``conflict``: see ``pausing``.
        """
        self._admission.check_open()
        run = await self._open_run(cid)
        check_stands_alone(run, "resume")
        return await (self._told(run, Answer.ENDED, None) if run.sealed else self._pausing.resume(run))

    async def answer(
        self, cid: str, step: str, index: int | None, approved: bool, values: Mapping[str, Any], by: str
    ) -> str:
        """Answer a step, or an item of one, that waits for it; returns the run's state once that is on record.

        ``by`` is whoever answers, as it is shown; ``values`` count with a yes alone.

        Raises:
            RequestError: ``unknown_run``; ``ended``, ``not_waiting`` or ``answered`` with the run's state;
                ``inputs_invalid`` with all values that do not fit.
        """
        self._admission.check_open()
        run = await self._open_run(cid)
        if run.sealed and run.state in FINAL:
            return await self._told(run, Answer.ENDED, None)
        run, ticket = self._waits.answer(cid, step, index, approved, values, by)
        try:
            await ticket.wait()
        except Exception as error:
            raise refusal(error, "nothing has been answered; ask again") from error
        return run.state.value

    async def _open_run(self, cid: str) -> LiveRun:
        """A run that has not ended on record, as it is in memory.

        Raises:
            RequestError: ``unknown_run``, or ``ended`` with its state.
        """
        run = self._runtime.open.get(cid)
        if run is None:
            record = await self._history.record(cid)
            if record.state in FINAL:
                raise _ended(record.cid, record.state)
            detail = (
                f"run {cid} is {record.state} on record, but a change of it was lost; restart the server to settle it"
            )
            raise RequestError("conflict", detail, extra={"state": record.state})
        return run

    async def _told(self, run: LiveRun, answer: Answer, ticket: Ticket | None) -> str:
        """Return once what the stop has found or done is on record."""
        if answer is Answer.STOPPING and ticket is not None:
            try:
                await ticket.wait()
            except Exception as error:
                raise refusal(error, UNCERTAIN) from error
            return RunState.STOPPING.value
        await run.wait_end()  # its end, or that nothing of it had begun: nobody is told before it is committed
        if run.refused:
            raise RequestError("unknown_run", f"run {run.cid} could not be stored; nothing of it was kept")
        if run.lost:
            raise RequestError("internal", f"the end of run {run.cid} could not be stored; restart the server")
        if answer is Answer.ENDED:
            raise _ended(run.cid, run.state.value)
        return run.state.value

    async def cancel_where(
        self,
        *,
        state: str | None = None,
        plan_name: str | None = None,
        task_name: str | None = None,
        lane: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Cancel every open run that fits all that is given, and name those that were told."""
        fits = [
            run
            for run in list(self._runtime.open.values())
            if not (run.sealed or self._has_no_time(run))
            and state in (None, run.state)
            and plan_name in (None, run.plan_name)
            and task_name in (None, run.task_name)
            and lane in (None, run.lane)
            and (labels or {}).items() <= run.accepted.labels.items()
        ]
        told = [(run, *self.request_cancel(run)) for run in fits]  # all in this turn: one commit
        cancelled = []
        for run, answer, ticket in told:
            try:
                await self._told(run, answer, ticket)
            except RequestError:  # it could not be stored
                continue
            cancelled.append(run.cid)
        return cancelled


def check_stands_alone(run: LiveRun, verb: str) -> None:
    """Refuse what cannot be asked of a part of another run.

    Raises:
        RequestError: ``conflict``, with the ``cid`` of the run of which it can.
    """
    if run.parent is not None and not run.sealed:
        *_, top = family(run)
        detail = f"run {run.cid} is a sub-task: {verb} its parent {top.cid}"
        raise RequestError("conflict", detail, extra={"state": run.state.value, "cid": top.cid})


def _ended(cid: str, state: str) -> RequestError:
    return RequestError("ended", f"run {cid} has already ended: it is {state}", extra={"state": state})
