"""The modes of items: what happens when one is to start while runs of it are open.

It counts the open runs of each item, whatever their task's own mode says of them; both have to be met. The words are
those of ``kernel.modes``, and so is the way: ``single`` and ``queued`` refuse at the start, ``restart`` cancels the
others once the new run is on record, and how many run at once is a slot of the pool, beside that of the task. When a
mode comes with another version of the plan, the open runs that have begun hold their slots then.

What a crash does: a run's cause, its item and its key, is on record. A replacement that was accepted and not carried
out yet is carried out at the boot.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from aura.errors import FieldError, RequestError
from aura.kernel.modes import NAMED, at_once, is_bounded, key_text
from aura.lifecycle import PLACED
from aura.resources import Slot
from aura.run import Cause
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime
from aura.scheduling.liveitem import Key, LiveItem
from aura.task import Mode, ModeKind


class ItemModes:
    """The open runs of items. ``cancel`` cancels a run, for a reason; ``hold`` gives one that has begun its slot."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.cancel: Callable[[LiveRun, str], object]
        self.hold: Callable[[LiveRun, Slot], object]
        #: The mode of an item that is served; None if it has none, or is not served.
        self.mode_of: Callable[[Key], Mode | None] = lambda _key: None
        #: By the sequence of the runs, in which they were accepted.
        self._open: dict[Key, dict[int, LiveRun]] = {}
        #: The mode of an item with open runs, with which those that have begun hold their slots.
        self._seen: dict[Key, Mode] = {}

    # -- deciding

    def key(self, live: LiveItem, scope: Callable[[], Mapping[str, Any]], inputs: Mapping[str, Any]) -> str | None:
        """The key by which the runs of an item count for each other; None if its mode has none.

        ``scope`` gives what it may name beside the inputs, if it is asked.

        Raises:
            RequestError: ``inputs_invalid``: it cannot be rendered.
        """
        mode = live.item.mode
        if mode is None or mode.key is None or not is_bounded(mode):
            return None
        try:
            return key_text(mode.key.render({**scope(), "inputs": inputs}), self._runtime.redactor.text)
        except Exception as error:
            message = f"the key of its mode cannot be rendered: {error}"
            raise RequestError("inputs_invalid", message, errors=[FieldError("/inputs", message)]) from error

    def check(self, live: LiveItem, key: str | None) -> None:
        """Say whether one more run of an item may be accepted.

        Raises:
            RequestError: ``refused_by_mode``, with ``running``: the runs that are in the way.
        """
        mode = live.item.mode
        if mode is None or mode.kind not in (ModeKind.SINGLE, ModeKind.QUEUED):
            return
        there = self._others(live.key, key)
        if not there:
            return
        running = [run.cid for run in there[:NAMED]]
        if mode.kind is ModeKind.SINGLE:
            detail = f"{live.name} runs already ({', '.join(running[:3])}), and its mode is single"
            raise RequestError("refused_by_mode", detail, extra={"running": running})
        if mode.kind is ModeKind.QUEUED and mode.max is not None and len(there) > mode.max:
            detail = f"{len(there) - 1} runs of {live.name} wait already, and its mode lets {mode.max} wait"
            raise RequestError("refused_by_mode", detail, extra={"running": running})

    def _others(self, item: Key, key: str | None) -> list[LiveRun]:
        """The open runs of an item with a key, in the order of their acceptance."""
        found = self._open.get(item)
        if not found:
            return []
        return [run for run in found.values() if not run.sealed and run.accepted.cause.key == key]

    def slot(self, run: LiveRun) -> tuple[Slot, int] | None:
        """The slot that a run needs for the mode of its item, and how many there are; None if it needs none."""
        item = _item_of(run.accepted.cause)
        mode = None if item is None else self.mode_of(item)
        if item is None or mode is None or not is_bounded(mode):
            return None
        self._see(item, mode)
        return _slot_of(item, run), at_once(mode)

    def _see(self, item: Key, mode: Mode) -> None:
        """Look once for runs that have begun before the item had this mode."""
        if self._seen.get(item) is not mode and item in self._open:
            self._seen[item] = mode
            for run in self._open[item].values():
                if not run.sealed and (run.state in PLACED or run.begun):
                    self.hold(run, _slot_of(item, run))

    # -- who is open

    def enter(self, run: LiveRun) -> None:
        """Count a run that was accepted, or goes on, if an item has started it."""
        item = _item_of(run.accepted.cause)
        if item is not None:
            self._open.setdefault(item, {})[run.seq] = run

    def leave(self, run: LiveRun) -> None:
        """Count a run no longer: it has ended, or was never stored."""
        item = _item_of(run.accepted.cause)
        if item is not None and item in self._open:
            self._open[item].pop(run.seq, None)
            if not self._open[item]:
                del self._open[item]
                self._seen.pop(item, None)

    # -- replacing

    def replace(self, run: LiveRun) -> None:
        """Cancel all that this run takes the place of, if its item says ``restart``: its acceptance is on record."""
        item = _item_of(run.accepted.cause)
        mode = None if item is None else self.mode_of(item)
        if item is None or mode is None or mode.kind is not ModeKind.RESTART:
            return
        for other in self._others(item, run.accepted.cause.key):
            if other.seq < run.seq:
                self.cancel(other, f"replaced by {run.cid}")

    def resume(self, runs: Collection[LiveRun]) -> None:
        """Count what an older boot left open, and carry out what it did not come to."""
        for run in runs:
            self.enter(run)
        for run in runs:
            self.slot(run)
        for run in sorted(runs, key=lambda run: -run.seq):
            if not run.sealed:
                self.replace(run)


def _slot_of(item: Key, run: LiveRun) -> Slot:
    return Slot(item[0], f"item {item[1]}", run.accepted.cause.key)


def _item_of(cause: Cause) -> Key | None:
    return None if cause.item is None or cause.plan_name is None else (cause.plan_name, cause.item)
