"""The queue: how work fares in the lanes, and what waits."""

from aura.api.common import Shape, Time
from aura.api.runs import WaitingFor
from aura.lifecycle import RunState


class Flow(Shape, frozen=True, kw_only=True):
    """How work fares in a lane, or of a plan. ``delayed`` is part of ``queued``; what nothing is known of is null."""

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
    """How work fares in a lane."""

    lane: str
    limit: int


class PlanFlow(Flow, frozen=True, kw_only=True):
    """How work of a plan fares; ``plan_name`` null stands for all those that are not told apart."""

    plan_name: str | None


class QueueOverview(Shape, frozen=True, kw_only=True):
    """The queue in figures. Waits and rates are of the last ``window_s`` seconds."""

    lanes: list[LaneFlow]
    plans: list[PlanFlow]
    window_s: float


class QueuedRun(Shape, frozen=True, kw_only=True):
    """A run that waits for a place; ``state`` is ``preempted`` if an interrupt or a pause has stopped it before."""

    cid: str
    plan_name: str
    task_name: str
    lane: str
    priority: int
    state: RunState = RunState.QUEUED
    accepted_at: Time
    not_before: Time | None
    waiting_for: WaitingFor | None = None
