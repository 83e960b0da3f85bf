"""What runs, and their steps, take from the pool and give back.

It owns the pool, what each name means (a plan's own resource goes before one of ``aura.toml``), and what a run holds
(``LiveRun.claims``). The counting is the pool's, the groups are ``modes``'.

- A run takes its slot and its task's resources together, before it has a place; the dispatcher asks. It keeps the slot
  until its final seal and gives the resources back at every seal, to take them again at its next start.
- A step, an item and each try of one takes its step's resources before its start is written; the executor asks. They
  are given back when the attempt has ended: those of a stuck one when its body has. Until then an interrupt's handler
  may have what a stuck run holds (``takeovers``).
- A sub-task in its parent's place asks only for what those above it do not hold.

What a run has nothing to do with costs one look at an attribute. What a crash does: nothing here is stored.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Any

from aura.errors import RequestError, ResourceMissing, RunError
from aura.graph import Progress
from aura.kernel.holds import active_below
from aura.kernel.modes import Modes, is_bounded
from aura.kernel.pool import Pool
from aura.lifecycle import RunState
from aura.loading.generation import Generation
from aura.plan import Plan, Semaphore
from aura.resources import Claim, Holder, Name, Order, Slot
from aura.runs.liverun import LiveRun, Phase, RunClaims
from aura.runs.runtime import Runtime
from aura.runs.stops import time_left
from aura.task import Needs, Task
from aura.wait import WaitKind


class Claims:
    """Takes and gives back for runs. ``pool`` is for looking only."""

    def __init__(self, runtime: Runtime, modes: Modes) -> None:
        self._runtime = runtime
        self._modes = modes
        loop = asyncio.get_running_loop()
        self.pool = Pool(loop.time, loop.call_later)
        for name, resource in runtime.settings.resources.items():
            self.pool.put(name, resource)
        self._numbers = count()
        #: Meets what a handler waits for with what stuck runs hold, and says whether it did (``takeovers``).
        self.take_over: Callable[[LiveRun, Claim], bool] = lambda _run, _claim: False
        modes.hold = self.hold_slot

    def close(self) -> None:
        """Stop the timers."""
        self.pool.close()

    def reload(self) -> None:
        """Take over how much there is of each resource by the versions of the plans that are served now."""
        for status in self._runtime.generations.statuses():
            if status.generation:
                plan = self._runtime.generations.current(status.name).plan
                for name, resource in plan.resources.items():
                    self.pool.put(f"{plan.name}/{name}", resource)

    # -- the start of a run

    def take_start(self, run: LiveRun, told: Callable[[], bool]) -> bool:
        """Take what a run needs to start, and say whether it may; else it waits, is told, and asks again.

        A sub-task takes what those above it lack; it is told when it has that. The definition that was looked at stays
        in ``run.found``, or why the run cannot start.
        """
        generation, task = run.generation, run.task
        if run.state is RunState.WAITING and self._has_kept(run):
            return True
        if generation is None or task is None:
            try:
                run.found = generation, task = self._runtime.generations.task(run.plan_name, run.task_name)
            except RequestError as refused:
                run.found = refused
                return True
        if run.claims is None and not (run.accepted.cause.item or task.resources or is_bounded(task.mode)):
            return True
        try:
            met = self._ask_start(run, generation, task, told)
        except RunError as refused:
            self.leave(run)
            run.found = refused
            return True
        if not met:
            run.found = None  # it may be another one when it starts
        return met

    def _ask_start(self, run: LiveRun, generation: Generation, task: Task, told: Callable[[], bool]) -> bool:
        if run.claims is not None and run.parent is not None:  # another attempt may wait for it now
            run.claims.holder.stand_below(self._attempt_above(run, run.parent))
        claims = self._claims_of(run)
        needs = self._needs(generation.plan, task.resources, claims.holder)
        if is_bounded(task.mode):
            self._modes.enter(run, generation, task)
        for slot, number in self._modes.slots(run, task):
            self.pool.put(slot, Semaphore(number))
            if slot not in claims.holder.held:
                needs = {slot: 1, **needs}
        claim = claims.start
        if claim is not None and (claim.needs != needs or claim.order[0] != run.rank):
            self.leave(run)
            claim = None
        if claim is None:
            if run.parent is not None:
                told = partial(self._start_met, run, (generation, task), told)
            claims.start = claim = Claim(claims.holder, needs, self._order(run), told, outside=run.parent is None)
        if needs and not (self.pool.ask(claim) or self.take_over(run, claim)):
            return False
        claims.start = None
        return True

    def _start_met(self, run: LiveRun, found: tuple[Generation, Task], told: Callable[[], bool]) -> bool:
        """A sub-task has what it waited for; it does not ask again."""
        assert run.claims is not None
        run.claims.start = None
        run.found = found
        return told()

    def keep(self, run: LiveRun) -> None:
        """Note what a run that waits, and that an older boot left, had taken: it and its steps have it still."""
        if run.generation is None or run.task is None:
            return
        plan = run.generation.plan
        if run.task.resources:
            self._keep(plan, run.task.resources, self._claims_of(run).holder)
        for key, opened in run.open_waits.items():
            needs = run.graphs[Phase.MAIN].find(key).step.resources
            if needs and opened.wait.kind not in (WaitKind.RETRY, WaitKind.ROUND):  # between tries nothing is held
                claims = self._claims_of(run)
                holder = Holder(f"step {key} of {claims.holder.label}", claims.holder)
                claims.steps[key] = Claim(holder, self._keep(plan, needs, holder), self._order(run), lambda: True)

    def _keep(self, plan: Plan, needs: Needs, holder: Holder) -> Mapping[Name, int]:
        """Note what a holder had taken of what is needed; a rate is spent."""
        kept = self._needs(plan, self._counted(plan, needs), holder)
        self.pool.hold(holder, kept)
        return kept

    def _has_kept(self, run: LiveRun) -> bool:
        """Whether a run that waits has what it took: a sub-task has not if the run above it was paused meanwhile."""
        if run.parent is None or run.generation is None or run.task is None or not run.task.resources:
            return True
        plan, holder = run.generation.plan, self._claims_of(run).holder
        needs = self._needs(plan, self._counted(plan, run.task.resources), holder)
        return all(holder.held.get(name, 0) >= wanted for name, wanted in needs.items())

    def _counted(self, plan: Plan, needs: Needs) -> Needs:
        """The needs without those of rates."""
        everyones = self._runtime.settings.resources
        return {
            name: wanted
            for name, wanted in needs.items()
            if isinstance(plan.resources.get(name) or everyones.get(name), Semaphore)
        }

    def leave(self, run: LiveRun) -> None:
        """Let a run wait no longer for what it needs to start."""
        if run.claims is not None and run.claims.start is not None:
            self.pool.withdraw(run.claims.start)
            run.claims.start = None

    def release(self, run: LiveRun) -> None:
        """Give back what a run holds, after its seal: all of it if it has ended, all but its slot if not."""
        if run.claims is not None:
            if run.claims.steps:  # else no step waits or was met either
                run.claims.steps.clear()
                run.claims.waiting.clear()
                run.claims.met.clear()
            run.claims.start = None
            if run.claims.timer is not None:
                run.claims.timer.cancel()
            if run.sealed:
                self.pool.part(run.claims.holder)
                run.claims = None
            else:
                self.pool.give_back(run.claims.holder, keep_slots=True)
        if run.sealed:
            self._modes.leave(run)

    def waits_to_start(self, run: LiveRun) -> bool:
        """Whether a run stands in line for what it needs to start."""
        return run.claims is not None and run.claims.start is not None

    def holders_before(self, handler: LiveRun) -> list[LiveRun]:
        """The runs that hold what a handler, or what is a part of it, waits for."""
        claims = [claim for run in (handler, *active_below(handler)) for claim in self._waiting(run)]
        labels = {label for claim in claims for found in self.pool.lacks(claim).values() for label in found}
        found = [self._runtime.open.get(label.removeprefix("run ")) for label in sorted(labels)]
        return [run for run in found if run is not None and run is not handler]

    def _waiting(self, run: LiveRun) -> list[Claim]:
        """What a run, or the steps of it, wait for."""
        if run.claims is None:
            return []
        return [run.claims.steps[key] for key in run.claims.waiting] or ([run.claims.start] if run.claims.start else [])

    def keepers(self) -> list[LiveRun]:
        """The runs that wait in a lane to go on, and hold a slot for which a sub-task waits."""
        labels = self.pool.keepers()
        if not labels:
            return []
        found = [self._runtime.open.get(label.removeprefix("run ")) for label in labels]
        return [run for run in found if run is not None and run.waits]

    def settle(self) -> None:
        """After the dispatcher has looked at all that may start: keep nothing for those that could not."""
        self.pool.settle()

    def hold_slot(self, run: LiveRun, slot: Slot) -> None:
        """Note that a run that has begun has a slot."""
        holder = self._claims_of(run).holder
        if slot not in holder.held:
            self.pool.put(slot, Semaphore(1))  # whatever its mode says is put by the next one that asks
            self.pool.hold(holder, {slot: 1})

    # -- the tries of a step

    def take_try(self, run: LiveRun, progress: Progress) -> bool:
        """Take what one try of a step, or of an item of it, needs; say False if it waits and comes up as ``run.due``.

        Raises:
            ResourceCircle: it would wait for ever. ResourceMissing: there is no such resource, or not so much of it.
        """
        needs = progress.step.resources
        if not needs:
            return True
        claims, key = self._claims_of(run), progress.key
        if key in claims.steps:
            claims.met.pop(key, None)
            return key not in claims.waiting
        assert run.generation is not None
        holder = Holder(f"step {key} of {claims.holder.label}", claims.holder)
        try:
            wanted = self._needs(run.generation.plan, needs, claims.holder)
            claim = Claim(holder, wanted, self._order(run), lambda: self._met(run, progress))
            if self.pool.ask(claim) or self.take_over(run, claim):
                claims.steps[key] = claim
                return True
        except RunError:
            self.pool.part(holder)
            raise
        claims.steps[key] = claim
        claims.waiting[key] = progress
        self._bound(run)
        return False

    def take_over_waiting(self, run: LiveRun) -> None:
        """Let a part of a handler, or steps of it, that wait have what stuck runs hold, as far as that is enough."""
        if run.claims is None:
            return
        claims = [run.claims.steps[key] for key in run.claims.waiting]
        if run.parent is not None and run.claims.start is not None:
            claims.append(run.claims.start)
        for claim in claims:
            if self.take_over(run, claim):
                claim.told()

    def has_asked(self, run: LiveRun, key: str) -> bool:
        """Whether a try waits for what it needs, or has it."""
        return run.claims is not None and key in run.claims.steps

    def _met(self, run: LiveRun, progress: Progress) -> bool:
        assert run.claims is not None
        run.claims.met[progress.key] = run.claims.waiting.pop(progress.key)
        run.due.append(progress)
        run.changed()
        return True

    def end_try(self, run: LiveRun, key: str) -> None:
        """Give back what a try took: its attempt has ended, or does not begin."""
        if run.claims is not None and key in run.claims.steps:
            claim = run.claims.steps.pop(key)
            run.claims.waiting.pop(key, None)
            run.claims.met.pop(key, None)
            self.pool.part(claim.holder, keep_slots=True)  # those of a sub-task that rests are below it

    def review(self, run: LiveRun, nothing_starts: bool) -> None:
        """Give back what need not start any more takes or waits for, and let those whose time is over come up."""
        if run.claims is None or not run.claims.steps:
            return
        for key in list(run.claims.steps):
            progress = run.claims.waiting.get(key) or run.claims.met.get(key)
            if key not in run.live and (nothing_starts or (progress is not None and progress.ended)):
                self.end_try(run, key)
        if time_left(run) <= 0:  # they fail, as all that would start now
            for key, progress in list(run.claims.waiting.items()):
                self.end_try(run, key)
                run.due.append(progress)
        self._bound(run)

    def _bound(self, run: LiveRun) -> None:
        """Wake the executor when there is no time left for what waits in a handler."""
        assert run.claims is not None
        if run.claims.timer is not None:
            run.claims.timer.cancel()
            run.claims.timer = None
        left = time_left(run)
        if run.claims.waiting and left != float("inf"):
            run.claims.timer = asyncio.get_running_loop().call_later(max(0.0, left), run.changed)

    # -- what is shown

    def waiting_for(self, run: LiveRun) -> dict[str, Any] | None:
        """What a run, or steps of it, wait for: ``kind`` (resource, mode), ``names``, ``holders``, and ``steps``."""
        claims = self._waiting(run)
        if run.claims is None or not claims:
            return None
        keys = list(run.claims.waiting)
        lacks: dict[Name, list[str]] = {}
        for claim in claims:
            lacks |= self.pool.lacks(claim)
        resources = sorted(name for name in lacks if isinstance(name, str))
        holders = sorted({label.removeprefix("run ") for labels in lacks.values() for label in labels})
        shown: dict[str, Any] = {"kind": "resource" if resources else "mode", "names": resources, "holders": holders}
        return shown | ({"steps": keys} if keys else {})

    def status(self) -> dict[str, dict[str, Any]]:
        """Every resource that is declared or in use: how much there is, how much is in use, how many wait for it."""
        shown = {
            f"{status.name}/{name}": {"capacity": resource.count, "in_use": 0, "waiting": 0}
            for status in self._runtime.generations.statuses()
            if status.generation
            for name, resource in self._runtime.generations.current(status.name).plan.resources.items()
        }
        for name, resource, in_use, waiting in self.pool:
            if isinstance(name, str):
                shown[name] = {"capacity": resource.count, "in_use": in_use, "waiting": waiting}
        return dict(sorted(shown.items()))

    # -- what it is made of

    def _claims_of(self, run: LiveRun) -> RunClaims:
        if run.claims is None:
            above = self._attempt_above(run, run.parent) if run.parent is not None else None
            run.claims = RunClaims(Holder(f"run {run.cid}", above))
        return run.claims

    def _attempt_above(self, child: LiveRun, parent: LiveRun) -> Holder:
        """The holder of the attempt that a sub-task is a part of: its own, also if it holds nothing."""
        claims = self._claims_of(parent)
        assert child.accepted.call is not None
        key = child.accepted.call.split("/")[1]  # as ``children`` makes it
        claim = claims.steps.get(key)
        return claim.holder if claim is not None else Holder(f"step {key} of {claims.holder.label}", claims.holder)

    def _needs(self, plan: Plan, needs: Needs, holder: Holder) -> dict[Name, int]:
        """The needs by the names of the pool, without what those above a holder hold."""
        found: dict[Name, int] = {}
        for name, wanted in needs.items():
            known = self._name(plan, name)
            lent = holder.lent(known)
            if wanted > lent:
                found[known] = found.get(known, 0) + wanted - lent
        return found

    def _name(self, plan: Plan, name: str) -> Name:
        own = plan.resources.get(name)
        if own is not None:
            self.pool.put(f"{plan.name}/{name}", self._served(plan).resources.get(name, own))
            return f"{plan.name}/{name}"
        if name in self._runtime.settings.resources:
            return name
        raise ResourceMissing(
            f"there is no resource {name!r}; declare it in plan.yaml of {plan.name}, or under [resources] in aura.toml"
        )

    def _served(self, plan: Plan) -> Plan:
        """The version of a plan that is served: it says how much there is, to runs of an older one too."""
        try:
            return self._runtime.generations.current(plan.name).plan
        except RequestError:
            return plan

    def _order(self, run: LiveRun) -> Order:
        return (run.rank, run.seq, next(self._numbers))
