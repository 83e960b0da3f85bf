"""Interrupts: the rules as they stand, their firings, and what a firing would do."""

from typing import Literal

from aura.api.common import Shape, Time
from aura.api.plans import Place
from aura.api.triggers import Missed, Poll
from aura.lifecycle import RunState


class Preempts(Shape, frozen=True, kw_only=True):
    """Which runs a rule stops: those that all of this fits."""

    lanes: list[str]
    plans: list[str]
    tasks: list[str]
    labels: dict[str, str]
    below_priority: int


class RuleFiring(Shape, frozen=True, kw_only=True):
    """A firing of a rule that has not ended: its handler and that one's state, what fired it, whom it has stopped.

    Of many ``victims`` and ``spared`` the first are named.
    """

    cid: str
    event_id: str
    at: Time
    state: RunState
    victims: list[str]
    victim_count: int
    spared: list[str]


class Rule(Shape, frozen=True, kw_only=True):
    """An interrupt rule as it stands; ``triggers`` are in words.

    ``switched_by``: somebody has changed ``enabled``, until the file's own word changes. ``pending`` firings wait for
    their handler's start. Of the last firing ``last_cid`` is the handler and ``last_victims`` are the first of the runs
    that it was to stop. ``missed`` counts by code how often the rule did not fire since the server's start;
    ``suspended``: why it hears of no events any more. ``preempts_others``: it may stop work of other plans.
    """

    plan_name: str
    rule: str
    task_name: str
    source: Place
    enabled: bool
    switched_by: str | None
    switched_at: Time | None
    priority: int
    then: Literal["resume", "restart", "cancel"]
    handler_starts: Literal["after_cleanup", "at_once"]
    grace_s: float
    cooldown_s: float
    cooldown_left_s: float
    max_pending: int
    pending: int
    preempts: Preempts
    preempts_others: bool
    triggers: list[str]
    polls: list[Poll]
    while_running: list[str]
    last_fired_at: Time | None
    last_cid: str | None
    last_victims: list[str]
    last_victim_count: int
    missed: dict[str, int]
    last_missed: Missed | None
    suspended: str | None
    open: list[RuleFiring]


class Hold(Shape, frozen=True, kw_only=True):
    """What of a lane could not start while a firing is open; so many runs of that are ``queued`` now."""

    lane: str
    plans: list[str]
    tasks: list[str]
    labels: dict[str, str]
    below_priority: int
    queued: int


class DryRun(Shape, frozen=True, kw_only=True):
    """What a firing would do now: the runs that it would stop, those that it would spare, what could not start."""

    victims: list[str]
    spared: list[str]
    holds: list[Hold]
