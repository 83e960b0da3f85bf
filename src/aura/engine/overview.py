"""What is queued, running and waited for, by lane and by plan: one look at the lanes and at what was counted lately.

A look goes once through what is in memory (0.6 ms for each thousand queued runs) and changes nothing. What nothing is
known of is None, never 0.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from aura.kernel.lanes import Lane
from aura.runs.liverun import LiveRun
from aura.runs.measures import OTHER, Recent, percentile
from aura.runs.runtime import Runtime


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """How work fares in one lane, or of one plan.

    ``queued``: all that wait, ``delayed`` of them until their ``not_before``. ``oldest_age_s``: how long the one that
    waits longest could have started by now. ``wait_*`` and ``*_per_min`` are of the window.
    """

    running: int
    queued: int
    delayed: int
    stuck: int
    oldest_age_s: float | None
    wait_p50_s: float | None
    wait_p95_s: float | None
    started_per_min: float | None
    ended_per_min: float | None


class LaneFlow(Flow, frozen=True, kw_only=True):
    """A lane."""

    lane: str
    limit: int


class PlanFlow(Flow, frozen=True, kw_only=True):
    """A plan; ``plan_name`` None stands for all those that are not told apart."""

    plan_name: str | None


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """One look. ``window_s`` is how far back the window reaches."""

    lanes: list[LaneFlow]
    plans: list[PlanFlow]
    window_s: float


class _Part:
    """What one lane, or one plan, has of it all."""

    def __init__(self) -> None:
        self.running = self.queued = self.delayed = self.stuck = self.started = self.ended = 0
        #: Wall time since which the one that waits longest could have started.
        self.since: float | None = None
        self.waits: list[float] = []

    def count(self, run: LiveRun, now: float) -> None:
        """Count a run that waits, holds a place or hangs."""
        if not run.waits:
            self.running += run.placed
            self.stuck += not run.placed
            return
        self.queued += 1
        since = run.accepted.accepted_at
        if run.not_before is not None and run.not_before > since:
            since = run.not_before
        if since > now:
            self.delayed += 1
        elif not run.attempt and (self.since is None or since < self.since):  # one that comes back has had its wait
            self.since = since

    def add(self, other: "_Part") -> None:
        """Count what another part has counted."""
        self.running += other.running
        self.queued += other.queued
        self.delayed += other.delayed
        self.stuck += other.stuck
        self.since = min((since for since in (self.since, other.since) if since is not None), default=None)

    def flow(self, now: float, seconds: float) -> dict[str, Any]:
        """The fields of a ``Flow``."""
        waits = sorted(self.waits)
        return {
            "running": self.running,
            "queued": self.queued,
            "delayed": self.delayed,
            "stuck": self.stuck,
            "oldest_age_s": _rounded(None if self.since is None else now - self.since),
            "wait_p50_s": _rounded(percentile(waits, 0.50)),
            "wait_p95_s": _rounded(percentile(waits, 0.95)),
            "started_per_min": _rounded(60 * self.started / seconds if seconds else None),
            "ended_per_min": _rounded(60 * self.ended / seconds if seconds else None),
        }


def look(runtime: Runtime, lanes: Mapping[str, Lane]) -> Overview:
    """Look at everything now."""
    now = runtime.clock.wall()
    recent = runtime.measures.recent()
    by_lane = {name: _Part() for name in lanes}
    by_plan: dict[str, _Part] = defaultdict(_Part)
    for (lane, plan_name), part in _standing(runtime.open.values(), lanes, now).items():
        by_lane[lane].add(part)
        by_plan[runtime.measures.label(plan_name)].add(part)
    _add_recent(recent, by_lane, by_plan)
    return Overview(
        lanes=[
            LaneFlow(lane=name, limit=lanes[name].limit, **part.flow(now, recent.seconds))
            for name, part in by_lane.items()
        ],
        plans=[
            PlanFlow(plan_name=None if name == OTHER else name, **part.flow(now, recent.seconds))
            for name, part in sorted(by_plan.items())
        ],
        window_s=round(recent.seconds, 3),
    )


def _standing(runs: Iterable[LiveRun], lanes: Mapping[str, Lane], now: float) -> dict[tuple[str, str], _Part]:
    """What stands where now, by lane and name of the plan."""
    found: dict[tuple[str, str], _Part] = defaultdict(_Part)
    for run in runs:
        if run.waits or run.placed or run in lanes[run.lane].stuck:
            found[run.lane, run.plan_name].count(run, now)
    return found


def _add_recent(recent: Recent, by_lane: Mapping[str, _Part], by_plan: Mapping[str, _Part]) -> None:
    for (lane, plan), count in recent.started.items():
        by_lane[lane].started += count
        by_plan[plan].started += count
    for (lane, plan), count in recent.ended.items():
        by_lane[lane].ended += count
        by_plan[plan].ended += count
    for lane, waits in recent.waits.items():
        for _, seconds, plan in waits:
            by_lane[lane].waits.append(seconds)
            by_plan[plan].waits.append(seconds)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 6)
