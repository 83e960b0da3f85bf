"""Refused requests: each is counted, and those that nobody else tells of are lines of the why-ledger.

Items and interrupt rules note by themselves why they did not start (``scheduling.starts``, ``triggers``), by hand too:
they know more of it. Here is what clients ask for, and steps.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aura.errors import RequestError
from aura.run import Cause, Request
from aura.runs.runtime import Runtime
from aura.why import Why, reason_of

#: Whose refusals are noted here, by the kind of what asked.
_NOTED = frozenset({"api", "cli", "task", "rerun"})
#: What is refused since there is no such thing: a line names only what there is, so that nobody can fill the memory.
_NAMELESS, _TASKLESS = "unknown_plan", "unknown_task"


class Refusals:
    """Notes requests that are refused."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def note(self, refused: RequestError, plan_name: str | None, task_name: str | None, cause: Cause) -> None:
        """A request was refused; of an atomic batch it is the one at fault. A name is None where many are."""
        self._runtime.measures.refusals.note(refused.code)
        if cause.kind not in _NOTED or cause.item is not None:
            return
        plan = None if refused.code == _NAMELESS else plan_name
        task = None if refused.code in (_NAMELESS, _TASKLESS) else task_name
        detail = f"{_asked(cause)}{detail_of(refused)}"
        self._runtime.ledger.note(Why(reason_of(refused.code), detail, plan, None, None, task))

    @contextmanager
    def noting(self, requests: Sequence[Request], cause: Cause) -> Iterator[None]:
        """Note a refusal of all these requests together that leaves the block, and let it go on."""
        try:
            yield
        except RequestError as refused:
            plans = {request.plan_name for request in requests}
            tasks = {request.task_name for request in requests}
            plan = plans.pop() if len(plans) == 1 else None
            self.note(refused, plan, tasks.pop() if plan is not None and len(tasks) == 1 else None, cause)
            raise


def detail_of(refused: RequestError) -> str:
    """What a refusal says, with what is wrong with each field."""
    return refused.detail + "".join(f"; {error.path.lstrip('/')} {error.message}" for error in refused.errors)


def _asked(cause: Cause) -> str:
    if cause.kind == "task":
        return f"asked for by step {cause.step} of run {cause.cid}: "
    return f"asked for as a rerun of {cause.cid}: " if cause.kind == "rerun" else ""
