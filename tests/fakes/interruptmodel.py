"""What interrupts must come to: the contract of pre-emption as a model that can be checked by eye.

Whatever can happen at a time has happened when the model is looked at; a clean-up takes no time, but for a step that is
given until its grace is over to end by itself (``until``). A task has two steps. Time is any clock's, in seconds.
"""

from dataclasses import dataclass, field
from typing import Any

from aura.interrupt import HandlerStart, Rule, Then
from aura.lifecycle import Recovery
from aura.runs.liverun import AGEING
from aura.task import Preempt

#: Lane → how many run in it at once, the most urgent lane first.
LIMITS = {"interrupt": 1, "main": 2, "event": 1}
#: How long a pause gives a step that may not be cut off; and how much longer than the grace a handler waits.
CLEANUP, SLACK = 10.0, 0.07
#: After so many crashes in a row a run is not started again.
PARKED = 3
#: What becomes of a run that the engine's end cuts off, by its recovery; any other ends.
KEPT = {Recovery.RESUME: "preempted", Recovery.RESTART: "queued"}


@dataclass(eq=False)
class ModelRun:
    """A run; of a handler ``firing`` is what it handles, of what a handler has started ``root`` is that one."""

    cid: str
    lane: str
    priority: int
    since: float
    preempt: Preempt
    recovery: Recovery
    labels: dict[str, str] = field(default_factory=dict)
    root: "ModelRun | None" = None
    firing: "ModelFiring | None" = None
    state: str = "queued"
    step: int = 0
    doomed: bool = False
    paused: bool = False
    until: float = 0.0
    stopped_by: "ModelFiring | None" = None
    preemptions: int = 0
    crashes: int = 0

    @property
    def told(self) -> bool:
        """Whether a firing has told it to stop, and it has not yet."""
        return self.stopped_by is not None and self.state == "stopping"


@dataclass(eq=False)
class ModelFiring:
    """A firing: ``awaited`` are those whose clean-up its handler waits for, until ``until``."""

    rule: Rule
    handler: ModelRun
    victims: list[ModelRun]
    spared: list[ModelRun]
    awaited: set[ModelRun]
    until: float
    open: bool = True

    def fits(self, run: ModelRun) -> bool:
        wanted = self.rule.preempts
        fits = run.lane in wanted.lanes and run.priority < wanted.below_priority
        return fits and wanted.labels.items() <= run.labels.items()

    def covers(self, run: ModelRun) -> bool:
        free = run.firing or run.root is self.handler or run in self.spared
        return run.stopped_by is self or (self.fits(run) and not free)


class Model:
    """Runs and firings, and what becomes of them by each thing that may happen."""

    def __init__(self) -> None:
        self.runs: dict[str, ModelRun] = {}
        self.firings: list[ModelFiring] = []
        self.engine = "running"
        self.stops_at = 0.0

    @property
    def open(self) -> list[ModelFiring]:
        """The open firings, the most urgent first."""
        return sorted((f for f in self.firings if f.open), key=lambda f: -f.rule.priority)

    def placed(self, lane: str | None = None) -> list[ModelRun]:
        return [r for r in self.runs.values() if r.state in ("running", "stopping") and lane in (None, r.lane)]

    def may_start(self, run: ModelRun) -> bool:
        if run.state not in ("queued", "preempted") or run.paused:
            return False
        if run.firing is not None:
            at_once = run.firing.rule.handler_starts is HandlerStart.AT_ONCE
            return self.open[0] is run.firing and (at_once or not run.firing.awaited)
        return not any(firing.covers(run) for firing in self.open)

    def settle(self) -> None:
        """Start what may start, in order; an engine that is being stopped and has nothing to wait for is stopped."""
        if self.engine == "stopping" and not self.placed():
            self.engine = "stopped"
        for lane, limit in LIMITS.items() if self.engine == "running" else ():
            waiting = [run for run in self.runs.values() if run.lane == lane and self.may_start(run)]
            waiting.sort(key=lambda run: run.since - AGEING * run.priority)
            for run in waiting[: limit - len(self.placed(lane))]:
                run.state = "running"
                if run.doomed:
                    self.leave(run, "failed")
                    self.settle()

    # -- firings

    def fire(self, rule: Rule, handler: ModelRun, now: float) -> None:
        """A rule fires: what fits and runs is stopped, unless the engine starts nothing."""
        handler.firing = firing = ModelFiring(rule, handler, [], [], set(), now + rule.grace + SLACK)
        self.firings.append(firing)
        for run in [*self.runs.values()] if self.engine == "running" else ():
            was_stopped = run.stopped_by is not None and run.state in ("preempted", "stopping")
            if not (firing.fits(run) if run.firing is None else run.firing.rule.priority < rule.priority):
                continue
            if run.preempt is Preempt.NEVER and run.state == "running":
                firing.spared.append(run)
            elif run.state == "running" or (was_stopped and rule.then is Then.CANCEL and run.firing is None):
                self.displace(firing, run, now)
            elif run.state == "stopping":
                firing.awaited.add(run)

    def displace(self, firing: ModelFiring, run: ModelRun, now: float) -> None:
        run.stopped_by, run.state = firing, "stopping"
        firing.victims.append(run)
        firing.awaited.add(run)
        if firing.rule.then is Then.CANCEL and run.firing is None:
            self.leave(run, "cancelled")
        else:
            self.interrupt(run, now + firing.rule.grace)
            if run.state == "stopping":
                firing.until += firing.rule.grace

    def interrupt(self, run: ModelRun, until: float) -> None:
        """It is stopped to come back: now, or when its step has ended, but not later than ``until``."""
        run.state, run.until = "stopping", until
        if run.preempt is Preempt.NOW:
            self.leave(run, "preempted")

    def leave(self, run: ModelRun, state: str) -> None:
        """It has cleaned up, or ended, and gives its place back; the firing of a handler ends with it."""
        was_told, run.state = run.told, state
        run.preemptions += was_told and state in ("preempted", "cancelled")
        for firing in self.open:
            firing.awaited.discard(run)
        if state not in ("queued", "preempted"):
            run.paused = False
            if run.firing is not None:
                self.end(run.firing)
        elif was_told and run.stopped_by is not None and not run.stopped_by.open:
            self.come_back(run)
        if state == "queued":
            self.start_over(run)

    def end(self, firing: ModelFiring) -> None:
        firing.open = False
        for run in firing.victims:
            if run.stopped_by is firing and not run.told:
                self.come_back(run)

    def come_back(self, run: ModelRun) -> None:
        assert run.stopped_by is not None
        again = run.stopped_by.rule.then is Then.RESTART and run.firing is None and run.state == "preempted"
        run.stopped_by = None
        if again:
            self.start_over(run)

    def start_over(self, run: ModelRun) -> None:
        run.step, run.doomed, run.state = 0, False, "preempted" if run.paused else "queued"

    # -- what else may happen

    def step_ends(self, run: ModelRun, fails: bool) -> None:
        run.step += 1
        if run.state == "stopping" and run.step == 1:
            run.doomed = fails  # what is left of it is looked at when it goes on
            self.leave(run, "preempted")
        elif fails or run.step == 2:
            self.leave(run, "failed" if fails else "succeeded")

    def pause(self, run: ModelRun, now: float) -> None:
        if run.state == "running":
            self.interrupt(run, now + CLEANUP)
        elif run.state == "queued":
            run.state = "preempted"
        run.paused = True

    def stop_all(self) -> None:
        """The engine stops what runs, by its recovery."""
        for run in self.placed():
            run.crashes = 0
            self.leave(run, "preempted" if run.paused else KEPT.get(run.recovery, "cancelled"))

    def crash(self) -> None:
        """The server is gone, and starts again."""
        for run in self.placed():
            run.crashes, run.state = run.crashes + 1, "running"  # as its row says, whoever has told it to stop
            self.leave(run, "crashed" if run.crashes >= PARKED else KEPT.get(run.recovery, "crashed"))
        for firing in self.open:
            firing.spared.clear()
            firing.awaited.clear()
            for run in firing.victims:
                run.stopped_by = firing if run.state == "preempted" else None
        self.engine = "running"

    def tick(self, now: float) -> None:
        """A second has passed, and no timer but these is due within it."""
        for firing in self.open:
            if firing.until <= now:
                firing.awaited.clear()
        if self.engine == "stopping" and self.stops_at <= now:
            self.stop_all()
        for run in self.placed():
            if run.state == "stopping" and run.until <= now:
                self.leave(run, "preempted")
        self.settle()

    def shown(self) -> dict[str, Any]:
        """Of each run what a test compares."""
        return {
            run.cid: (run.state, run.paused, run.preemptions, run.stopped_by.handler.cid if run.stopped_by else None)
            for run in self.runs.values()
        }
