"""Retention: lets go of the oldest ended runs, with all that is theirs, so that data stays bounded.

Theory of operation. Every few seconds it looks for ended runs that are older than the settings' ``days``, or not among
the newest ``runs``, and takes them off the record in units of few rows, one at a time. After each unit it pauses for
three times as long as that took, so commits of runs hardly ever wait for it. The runs' workdirs go with them; then what
belongs to no run: log lines, events, the why-ledger, idempotency keys, starts of the server.

- *Never* a run that has not ended, nor one that an open run hangs together with (``records.removal``).
- Nothing goes for its age while the clock is doubted (``clockdoubt``).
- A run stays for ``FRESH`` seconds after its end, so that whoever waited for the end can read it.
- A workdir that cannot be removed is named in the log once, and tried again at every look. One that belongs to no run
  (an older database was put back) goes when nothing in it has changed for ``days``.

What a crash does: a run is gone, or is there whole. What was left of a removed one is noted (``removed``), and goes at
the next look.

Its units wait like any other while the storage cannot be written, and are never refused.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

from aura.engine.clockdoubt import DAY, ClockDoubt, read_gap
from aura.failpoints import Site
from aura.records.ageing import (
    NOBODYS,
    Ageing,
    find_cutoff,
    find_why_cutoff,
    take_boots,
    take_keys,
    take_of_nobody,
    take_why,
)
from aura.records.removal import (
    NO_SEQ,
    Bounds,
    Clearing,
    Gone,
    find_known,
    find_runs,
    find_window,
    forget_removed,
    list_removed,
    remove_runs,
)
from aura.records.runs import together
from aura.records.sizes import Sizes, read_sizes
from aura.runs.runtime import Runtime
from aura.runs.workdirs import Removed, list_workdirs, remove_workdirs
from aura.store import Unit

T = TypeVar("T")

#: Seconds between two looks.
LOOK_EVERY = 10.0
#: Seconds for which a run is kept after its end, whatever the bounds.
FRESH = 5.0
#: How many runs, or rows, one unit takes; how many names in workdirs go at once.
RUNS, ROWS, NAMES = 50, 500, 1000
#: How much longer than a unit the pause after it is, and the least pause in seconds.
PAUSES, LEAST_PAUSE = 3, 0.005
#: Seconds between two looks for workdirs that belong to no run.
STRAYS_EVERY = 24 * 3600.0


class Retention:
    """Removes what is no longer kept. ``rows`` counts what it has taken since the start, ``runs`` the runs of these."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._clock = runtime.clock
        self._bounds = runtime.settings.store.retention
        #: Deleting files is slow, and never more than one thread's work.
        self._limiter = CapacityLimiter(1)
        self._doubt = ClockDoubt(runtime.clock, runtime.log)
        self._has_looked = False
        self._strays_at = -math.inf
        #: Workdirs that could not be removed, and have been named.
        self._told: set[str] = set()
        self.runs = self.rows = 0
        #: How large the database was at the last look; None before the first.
        self.sizes: Sizes | None = None
        #: Set once the boot is over: before that the store is not its own.
        self.ready = anyio.Event()

    async def serve(self) -> None:
        """Look again and again, until cancelled."""
        await self.ready.wait()
        while True:
            await self.look()
            await anyio.sleep(LOOK_EVERY)

    def status(self) -> dict[str, Any]:
        """What the status says of it (``api.RetentionStatus``); times are Unix seconds."""
        sizes = self.sizes or Sizes(None, None, None)
        removed = {"removed_runs": self.runs, "removed_rows": self.rows}
        return {"days": self._bounds.days, "runs": self._bounds.runs, **removed, **sizes._asdict()}

    async def look(self) -> None:
        """Remove everything that is no longer kept."""
        cutoff = await self._find_cutoff()
        await self._finish()
        await self._remove_runs(cutoff)
        await self._remove_strays(cutoff)
        await self._age(cutoff)
        self.sizes = await self._runtime.store.read(read_sizes)

    async def _find_cutoff(self) -> float:
        """Before which time, in Unix seconds, what has ended is too old; 0 while the clock is doubted."""
        if not self._has_looked:
            gap = await self._runtime.store.read(partial(read_gap, boot=self._runtime.boot))
            self._doubt.note_gap(gap, self._bounds.days)
            self._has_looked = True
        return 0.0 if self._doubt.is_doubted() else self._clock.wall() - self._bounds.days * DAY

    async def _remove_runs(self, cutoff: float) -> None:
        bounds = Bounds(cutoff, self._clock.wall() - FRESH, self._bounds.runs)
        window = await self._runtime.store.read(lambda x: find_window(x, bounds))
        after: int | None = NO_SEQ
        gone: Sequence[Gone] = ()
        while after is not None:
            find = partial(find_runs, bounds=bounds, window=window, after=after, limit=RUNS)
            found, after = await self._runtime.store.read(find)
            for few in _parts(found, RUNS):
                gone = await self._remove_few(few, gone)
        if gone:
            await self._put(forget_removed(gone))

    async def _remove_few(self, few: Sequence[Gone], gone: Sequence[Gone]) -> Sequence[Gone]:
        """Remove runs with all that is theirs, in one unit if it is little, and the notes of those that are ``gone``.

        Gives those of which nothing but the note is left.
        """
        clearing = Clearing(few, ROWS)
        await self._put(together([forget_removed(gone), remove_runs(few), clearing]))
        self.runs += len(few)
        self.rows += len(few) + clearing.rows
        return await self._clear(few, clearing.rows)

    async def _clear(self, runs: Sequence[Gone], taken: int) -> Sequence[Gone]:
        """Remove what is left of runs that are off the record, and give those of which nothing is.

        ``taken``: how many rows the last unit took.
        """
        if taken >= ROWS:
            await self._take_all(partial(Clearing, runs, ROWS))
        gone = set(await self._remove_workdirs([run.cid for run in runs]))
        return [run for run in runs if run.cid in gone]

    async def _finish(self) -> None:
        """Remove what older looks have left of runs that they took off the record."""
        after = NO_SEQ
        while left := await self._runtime.store.read(partial(list_removed, after=after, limit=RUNS)):
            after = left[-1].seq
            await self._put(forget_removed(await self._clear(left, ROWS)))

    async def _take_all(self, unit: Callable[[], Clearing | Ageing]) -> None:
        """Hand over units until one takes fewer rows than it may."""
        while True:
            one = unit()
            await self._put(one)
            self.rows += one.rows
            if one.rows < ROWS:
                return

    async def _put(self, unit: Unit) -> None:
        """Hand a unit over, wait for its commit, and then leave the writer to others."""
        began = self._clock.monotonic()
        await self._runtime.store.put(unit, site=Site.PRUNE).wait()
        await anyio.sleep(max(LEAST_PAUSE, PAUSES * (self._clock.monotonic() - began)))

    async def _remove_workdirs(self, names: Sequence[str]) -> list[str]:
        """Remove folders, a part at a time; give those that are gone. What cannot be removed is said once."""
        gone: list[str] = []
        left = list(names)
        while left:
            removed = await self._in_thread(partial(remove_workdirs, self._runtime.workdirs, left, NAMES))
            gone += removed.gone
            self._tell(removed)
            left = [name for name in left if name not in removed.failed and name not in set(removed.gone)]
        return gone

    def _tell(self, removed: Removed) -> None:
        for name, why in removed.failed.items():
            if name not in self._told:
                self._told.add(name)
                path = self._runtime.workdirs / name
                self._runtime.log.warning(f"the workdir {path} of a run that is not kept cannot be removed: {why}")

    async def _remove_strays(self, cutoff: float) -> None:
        """Remove workdirs of runs that are not on record, once a day."""
        now = self._clock.monotonic()
        if now < self._strays_at:
            return
        self._strays_at = now + STRAYS_EVERY
        names = await self._in_thread(partial(list_workdirs, self._runtime.workdirs, cutoff))
        for few in _parts(names, ROWS):  # one that was made since they were listed is not among them
            known = await self._runtime.store.read(partial(find_known, cids=few))
            strays = [name for name in few if name not in known and name not in self._runtime.open]
            await self._remove_workdirs(strays)

    async def _age(self, cutoff: float) -> None:
        """Remove what belongs to no run."""
        for kind in NOBODYS:
            before = await self._runtime.store.read(partial(find_cutoff, kind=kind, cutoff=cutoff))
            await self._take_all(partial(Ageing, take_of_nobody(kind, before), ROWS))
        why = await self._runtime.store.read(partial(find_why_cutoff, cutoff=cutoff))
        for take in (take_why(why), take_keys(self._clock.wall()), take_boots(cutoff)):
            await self._take_all(partial(Ageing, take, ROWS))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run file work. A cancel waits for it: it is bounded by ``NAMES``."""
        return await to_thread.run_sync(work, limiter=self._limiter)


def _parts(found: Sequence[T], size: int) -> list[Sequence[T]]:
    return [found[start : start + size] for start in range(0, len(found), size)]
