"""What is shown of interrupts: the rules as they stand, the firings that are open, and what a firing would do.

It only looks. Rules are in ``triggers``, firings in ``interrupts`` and ``holds``. Times are Unix seconds.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from aura.interrupt import Preempts, Terms
from aura.interrupts.interrupts import Sight
from aura.interrupts.rules import LiveRule, firings_of
from aura.kernel.holds import fits
from aura.runs.firing import Firing
from aura.runs.liverun import LiveRun

#: How many open firings, and how many runs of each, the status names.
OPEN_SHOWN = 20
#: How many runs a dry run names of each kind.
NAMED = 1000


def rule_shown(live: LiveRule, holds: Iterable[Firing[LiveRun]], cross_plan: bool, mono: float) -> dict[str, Any]:
    """A rule as it stands, with its open firings; ``mono`` is the monotonic time."""
    source = live.rule.source
    more = {"source": {"file": source.file, "line": source.line}, "preempts_others": reaches_others(live, cross_plan)}
    return live.shown(mono, firings_of(live, holds)) | more


def reaches_others(live: LiveRule, cross_plan: bool) -> bool:
    """Say whether a rule may stop work of plans other than its own."""
    return cross_plan and any(pattern != live.plan_name for pattern in live.rule.preempts.plans)


# -- firings


def open_shown(firings: list[Firing[LiveRun]]) -> dict[str, Any]:
    """The open firings for the status, the most urgent first."""
    return {"open": [_firing_shown(firing) for firing in firings[:OPEN_SHOWN]], "open_total": len(firings)}


def _firing_shown(firing: Firing[LiveRun]) -> dict[str, Any]:
    return {
        "plan_name": firing.plan_name,
        "rule": firing.rule,
        "cid": firing.cid,
        "state": _state(firing),
        "since": firing.at,
        "awaited": sorted(run.cid for run in firing.awaited)[:OPEN_SHOWN],
        "victims": [victim.cid for victim in firing.victims[:OPEN_SHOWN]],
        "victim_count": len(firing.victims),
    }


def _state(firing: Firing[LiveRun]) -> str:
    """That of its handler, or ``cleanup`` while it waits for what it stops."""
    return firing.handler.state.value if firing.ready else "cleanup"


def held_by(run: LiveRun, over: list[Firing[LiveRun]]) -> dict[str, Any]:
    """What a run waits for that open firings keep from starting: ``kind``, ``names`` and ``holders``.

    A handler that is the first of all waits for the clean-up of what it stops, which are its ``holders`` then.
    """
    if over[0] is run.firing:
        return {"kind": "cleanup", "names": [], "holders": sorted(one.cid for one in over[0].awaited)[:OPEN_SHOWN]}
    return {"kind": "held", "names": [one.name for one in over], "holders": [one.cid for one in over]}


# -- what a firing would do


def dry_run_shown(terms: Terms, sight: Sight, queued: Iterable[LiveRun]) -> dict[str, Any]:
    """What a firing of these terms would do now: whom it would stop and spare, and what could not start while it is.

    ``queued`` are the runs that wait for a place.
    """
    held = Counter(run.lane for run in queued if fits(terms, run))
    return {
        "victims": [run.cid for run in sight.victims[:NAMED]],
        "spared": [run.cid for run in sight.spared[:NAMED]],
        "holds": [_hold(terms, lane, held[lane]) for lane in terms.preempts.lanes],
    }


def _hold(terms: Terms, lane: str, queued: int) -> Mapping[str, Any]:
    """A lane, and what of it could not start."""
    wanted: Preempts = terms.preempts
    return {
        "lane": lane,
        "plans": list(wanted.plans) if terms.plan_name is None else [terms.plan_name],
        "tasks": list(wanted.tasks),
        "labels": dict(wanted.labels),
        "below_priority": wanted.below_priority,
        "queued": queued,
    }
