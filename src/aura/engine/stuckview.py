"""What is shown of runs that are stuck: where they hang, what had stopped them, and who has taken over what."""

from collections.abc import Iterable
from typing import Any

from msgspec import to_builtins

from aura.kernel.dispatcher import Dispatcher
from aura.runs.liverun import LiveRun

#: How many stuck runs the status names, those that hang longest.
STUCK_SHOWN = 20


def stuck_shown(dispatcher: Dispatcher) -> dict[str, Any]:
    """The stuck runs, and how many there are. Times are Unix seconds."""
    found = [*dispatcher.stuck(), *(run for run in dispatcher.in_place if run.stuck)]
    return {"runs": list(_shown(found))[:STUCK_SHOWN], "total": len(found)}


def _shown(runs: list[LiveRun]) -> Iterable[dict[str, Any]]:
    hanging = [(run, run.hang) for run in runs if run.hang is not None]
    for run, hang in sorted(hanging, key=lambda one: (one[1].since, one[0].seq)):
        by = run.preempted_by
        yield {
            "cid": run.cid,
            "plan_name": run.plan_name,
            "task_name": run.task_name,
            "lane": run.lane,
            "step": hang.step,
            "hangs_at": hang.where,
            "since": hang.since,
            "stop": run.stop.label if run.stop else None,
            "interrupt": f"{by.plan_name}/{by.rule}" if by is not None else None,
            "taken_over": to_builtins(hang.taken),
        }
