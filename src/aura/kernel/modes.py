"""Modes: what happens when a task is asked for while it runs.

It owns which open runs count for each other: a *group* is the runs of a task, those with the same key if its mode has
one. It decides at acceptance, and replaces. How many of a group run at once is a slot of the pool (``claims``): a run
takes it at its first start, with all else that it needs, and keeps it to its final seal, also while it is pre-empted.

- ``single`` refuses while any run of the group is open.
- ``queued`` lets one run, and ``max`` wait.
- ``restart`` accepts. Once that is on record, and never before, every other open run of the group that was accepted
  before is cancelled; the new one starts when they have cleaned up. So of many requests at once the last one stays, and
  one that could not be stored replaces nobody.
- ``parallel`` lets ``max`` run and the rest wait.

A task without a bound costs nothing here, and its runs are in no group. When a bound comes with another version of the
plan, or with a restart of the server, the runs that are open are looked for once (``see``); those that have begun hold
their slots then.

What a crash does: ``Accepted.mode_key`` is on record. A replacement that was accepted and not carried out yet is
carried out at the boot (``resume``), unless the plan is another version by then: what was accepted under another mode
replaces nobody.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import msgspec

from aura.clock import Clock
from aura.errors import FieldError, RequestError, RunError
from aura.lifecycle import PLACED
from aura.loading.generation import Generation
from aura.resources import Slot
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime
from aura.task import Mode, ModeKind, Task

#: How many of the runs that are in the way a refusal names.
NAMED = 100


def is_bounded(mode: Mode) -> bool:
    """Whether runs of the task count for each other at all."""
    return mode.kind is not ModeKind.PARALLEL or mode.max is not None


def at_once(mode: Mode) -> int:
    """How many runs of a group of a bounded mode run at once."""
    return mode.max or 1 if mode.kind is ModeKind.PARALLEL else 1


def key_text(value: Any, hide: Callable[[str], str] | None = None) -> str:
    """A key as canonical JSON: two that are equal are the same text. One in which ``hide`` finds a secret is a hash."""
    text = msgspec.json.encode(value, order="sorted").decode()
    if hide is not None and hide(text) is not text:
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return text


def slot_of(run: LiveRun) -> Slot:
    """The slot that a run needs if its task's mode is bounded."""
    return Slot(run.plan_name, run.task_name, run.accepted.mode_key)


class ItemSlots(Protocol):
    """What is counted of runs that items have started (``scheduling.itemmodes``)."""

    def slot(self, run: LiveRun) -> tuple[Slot, int] | None:
        """The slot that a run needs besides, and how many there are of it."""

    def enter(self, run: LiveRun) -> None:
        """Count a run that was accepted."""

    def leave(self, run: LiveRun) -> None:
        """Count a run no longer."""

    def replace(self, run: LiveRun) -> None:
        """Its acceptance is on record: cancel all that it takes the place of."""


class NoItems:
    """No item has started anything."""

    def slot(self, _run: LiveRun) -> tuple[Slot, int] | None:
        return None

    def enter(self, run: LiveRun) -> None:
        """There is nothing to count."""

    def leave(self, run: LiveRun) -> None:
        """There is nothing to count."""

    def replace(self, run: LiveRun) -> None:
        """There is nothing to replace."""


class Modes:
    """The groups of open runs. ``cancel`` cancels a run, for a reason; ``hold`` gives one that has begun its slot."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        #: The same for runs that an item of a schedule has started; that counts them as well.
        self.of_items: ItemSlots = NoItems()
        self.cancel: Callable[[LiveRun, str], object]
        self.hold: Callable[[LiveRun, Slot], object]
        #: By the sequence of the runs, in which they were accepted.
        self._groups: dict[Slot, dict[int, LiveRun]] = {}
        #: (plan, task) → the version of the plan for which the open runs were looked for.
        self._seen: dict[tuple[str, str], str] = {}

    # -- deciding

    def slot(
        self, generation: Generation, task: Task, inputs: Mapping[str, Any], labels: Mapping[str, str]
    ) -> Slot | None:
        """The slot of a run that is asked for; None if its task's mode has no bound.

        Raises:
            RequestError: ``inputs_invalid``: the key cannot be rendered.
        """
        if not is_bounded(task.mode):
            return None
        key = None
        if task.mode.key is not None:
            key = _rendered(task, generation, inputs, labels, self._runtime.clock)
            # a key is kept on record, and all that counts is whether two are the same
            if task.has_secrets or self._runtime.redactor.text(key) is not key:
                key = f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
        return Slot(task.plan_name, task.name, key)

    def check(self, generation: Generation, task: Task, slot: Slot, beside: int = 0) -> None:
        """Say whether one more run may be accepted; ``beside`` others of its group are being, together with it.

        Raises:
            RequestError: ``refused_by_mode``, with ``running``: the runs that are in the way.
        """
        mode = task.mode
        if mode.kind not in (ModeKind.SINGLE, ModeKind.QUEUED):
            return
        self.see(generation, task)
        there = self._open(slot)
        count = len(there) + beside
        key_shown = slot.key is not None and not task.has_secrets
        what = f"{task.plan_name}/{task.name}" + (f" with the key {slot.key}" if key_shown else "")
        running = [run.cid for run in there[:NAMED]]
        if mode.kind is ModeKind.SINGLE and count:
            named = ", ".join(running[:3]) or "another one of this batch"
            detail = f"{what} runs already ({named}), and its mode is single; ask again when that has ended"
            raise RequestError("refused_by_mode", detail, extra={"running": running})
        if mode.kind is ModeKind.QUEUED and mode.max is not None and count > mode.max:
            detail = f"{count - 1} runs of {what} wait already, and its mode lets {mode.max} wait; ask again later"
            raise RequestError("refused_by_mode", detail, extra={"running": running})

    def _open(self, slot: Slot) -> list[LiveRun]:
        """The open runs of a group, in the order of their acceptance."""
        return [run for run in self._groups.get(slot, {}).values() if not run.sealed]

    # -- who is in a group

    def enter(self, run: LiveRun, generation: Generation, task: Task) -> None:
        """Count a run that was accepted, or goes on."""
        self.see(generation, task)
        self._add(run)

    def _add(self, run: LiveRun) -> None:
        self._groups.setdefault(slot_of(run), {})[run.seq] = run

    def slots(self, run: LiveRun, task: Task) -> list[tuple[Slot, int]]:
        """The slots that a run needs to start, by its task's mode and by its item's, and how many there are of each."""
        found: list[tuple[Slot, int]] = []
        if is_bounded(task.mode):
            found.append((slot_of(run), at_once(task.mode)))
        if run.accepted.cause.item is not None and (of_item := self.of_items.slot(run)) is not None:
            found.append(of_item)
        return found

    def leave(self, run: LiveRun) -> None:
        """Count a run no longer: it has ended, or was never stored."""
        if run.accepted.cause.item is not None:
            self.of_items.leave(run)
        if self._groups:
            group = self._groups.get(slot_of(run))
            if group is not None:
                group.pop(run.seq, None)
                if not group:
                    del self._groups[slot_of(run)]

    def see(self, generation: Generation, task: Task) -> None:
        """Look once for open runs of a task whose mode is bounded now."""
        where = (task.plan_name, task.name)
        if self._seen.get(where) == generation.hash:
            return
        self._seen[where] = generation.hash
        for run in self._runtime.open.values():
            if (run.plan_name, run.task_name) == where and not run.sealed:
                self._add(run)
                if run.state in PLACED or run.begun:
                    self.hold(run, slot_of(run))

    # -- replacing

    def replace(self, run: LiveRun) -> None:
        """Cancel all that this run takes the place of: its acceptance is on record."""
        spared = set(_above(run))
        for other in self._open(slot_of(run)):
            if other.seq < run.seq and other.cid not in spared:
                self.cancel(other, f"replaced by {run.cid}")

    def resume(self, runs: Collection[LiveRun]) -> None:
        """Carry out what an older boot accepted and did not come to."""
        for run in sorted(runs, key=lambda run: -run.seq):
            if not run.sealed:
                self._resume(run)

    def _resume(self, run: LiveRun) -> None:
        try:
            generation, task = self._runtime.generations.task(run.plan_name, run.task_name)
        except RequestError:  # the run says so itself when it is to start
            return
        if is_bounded(task.mode):
            self.enter(run, generation, task)
            if task.mode.kind is ModeKind.RESTART and run.accepted.generation == generation.hash:
                self.replace(run)


def _above(run: LiveRun) -> list[str]:
    """The runs that it is a part of: it does not replace those."""
    found = []
    while run.parent is not None:
        run = run.parent
        found.append(run.cid)
    return found


def _rendered(
    task: Task, generation: Generation, inputs: Mapping[str, Any], labels: Mapping[str, str], clock: Clock
) -> str:
    """The key as canonical JSON: two that are equal are the same text."""
    assert task.mode.key is not None
    plan = generation.plan
    zone = ZoneInfo(plan.timezone)
    scope = {
        "inputs": inputs,
        "vars": plan.vars,
        "plan": {"name": plan.name, "dir": plan.directory},
        "run": {"labels": dict(labels)},
        "now": lambda: datetime.fromtimestamp(clock.wall(), zone),
    }
    try:
        return key_text(task.mode.key.render(scope))
    except RunError as error:
        message = f"the key of its mode cannot be rendered: {error}"
    except Exception as error:  # a filter may raise anything
        message = f"the key of its mode cannot be rendered: {error!r:.200}"
    if task.has_secrets:  # what went wrong may quote them
        message = "the key of its mode cannot be rendered"
    raise RequestError(
        "inputs_invalid",
        f"the inputs of {task.plan_name}/{task.name} are not valid: {message}",
        errors=[FieldError("/inputs", message)],
    )
