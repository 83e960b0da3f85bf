"""Runs in memory of which only what lanes and holds look at is known."""

from collections.abc import Mapping

from aura.records.runs import Accepted
from aura.run import Cause
from aura.runs.liverun import LiveRun


def a_run(
    seq: int,
    *,
    plan: str = "p",
    task: str = "t",
    lane: str = "main",
    priority: int = 0,
    labels: Mapping[str, str] | None = None,
    root: str | None = None,
    since: float = 0.0,
) -> LiveRun:
    """A run of this sequence that waits since ``since``, in seconds; ``root``: the cid of its root cause."""
    accepted = Accepted(
        seq=seq,
        cid=f"c{seq}",
        plan_name=plan,
        task_name=task,
        generation="g",
        lane=lane,
        priority=priority,
        labels=labels or {},
        recovery="fail",
        due=since,
        not_before=None,
        accepted_at=since,
        cause=Cause("api"),
        parent_cid=None,
        root_cid=root or f"c{seq}",
        depth=0,
        boot=1,
        inputs=b"{}",
    )
    return LiveRun(accepted, {}, boot_tag="s.1", workdirs=None, logger_for=None, since=since)  # type: ignore[arg-type]
