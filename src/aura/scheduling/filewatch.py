"""One folder that a trigger looks at: what is known of it, when to look, and what is told when files have changed.

Theory of operation. A look compares what is there with what is known, and nothing but a look decides: the bell of
``watching.folders`` only says that it may be worth one. What has changed and has then settled (``settling``) is told
(``filebatch``): the event, the run that it starts, or why it starts none, and what is known of the files from then on
are one unit. What is not stored has not been told: the next look finds it again.

- The first time that a folder is looked at, what lies there is known and not told, as a schedule has no slots before it
  was first seen. Of a folder that is not there yet, that is nothing.
- Later it does not matter for how long nobody looked: what has changed since is told, once, as it is then.
- While the folder itself is not there or cannot be read, its files are as they were.
- A look is made in a thread. One that takes longer than ``LONGEST_LOOK`` is given up, and there is no next one before
  its thread has ended: a drive that hangs has one thread, and holds up nothing else.

What a crash does: what was told is on record, what was not is found again. A first look that was not on record to its
end begins anew.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

import anyio

from aura.errors import RequestError, StoreError
from aura.failpoints import Site
from aura.loading.importing import ImportTimeout, call_abandonable
from aura.records.files import WatchKey, begin_watch, note_seen, put_files, put_watch, read_files
from aura.records.runs import together
from aura.runs.runtime import Runtime
from aura.schedule import OnFile, Trigger
from aura.scheduling.filebatch import FILE_CHANGED, MAX_FILES_TOLD, Batch, Changed, batches, changed_of
from aura.scheduling.filesets import FilePattern, Look, Sign, look_at, shown
from aura.scheduling.liveitem import LiveItem
from aura.scheduling.settling import Settling
from aura.scheduling.starts import Starts
from aura.store import Ticket, Unit
from aura.watching.folders import Folders

#: How long a look may take, in seconds, and how many are made at once, all folders together.
LONGEST_LOOK = 30.0
LOOKS_AT_ONCE = 4
#: Between two looks it rests so many times as long as the last one took, and so long at least, in seconds.
REST, LEAST_REST = 10.0, 0.05
#: How soon it looks again after something has failed, in seconds.
AGAIN = 5.0
#: How many events are handed over before it waits until they are on record.
TOLD_AT_ONCE = 100
#: The threads that look at something now, by name: not as long as they live, which is a moment longer.
_LOOKING: set[str] = set()
_HANGS = f"the file system does not answer within {LONGEST_LOOK:g} s"


class Watch:
    """One folder of one trigger. ``looks`` bounds how many are looked at at once."""

    def __init__(
        self,
        runtime: Runtime,
        starts: Starts,
        folders: Folders,
        looks: anyio.CapacityLimiter,
        key: WatchKey,
        live: LiveItem,
        trigger: Trigger,
    ) -> None:
        self._runtime = runtime
        self._starts = starts
        self._looks = looks
        self.key = key
        self._pattern = FilePattern(key.pattern)
        self.live = live
        #: As the version of its plan says it that is served.
        self.trigger = trigger
        #: What is known, that is: on record. None before the first look. Changed by commits alone.
        self.known: dict[str, Sign] | None = None
        self._settling = Settling()
        self._bell = anyio.Event()
        self._covering = folders.watch(self.ring)
        #: Those of what was told last.
        self._tickets: list[Ticket] = []
        #: Why not everything of it can be told now; None if all is well.
        self.trouble: str | None = None
        self.looked_at: float | None = None
        #: Whether it has looked since its bell rang last.
        self._has_looked = False
        #: Ends its child; made by ``filetriggers`` with that.
        self.scope = anyio.CancelScope()

    @property
    def spec(self) -> OnFile:
        kind = self.trigger.kind
        assert isinstance(kind, OnFile)
        return kind

    def ring(self) -> None:
        """Have it look soon."""
        self._bell.set()

    def ring_if_changed(self) -> None:
        """Have it look soon if a look at this moment, on the loop, finds anything: for worlds, whose folders are small.

        That takes some 50 µs; the thread of a look in vain would take 10 ms of a test.
        """
        if self.known is not None and not self._settling.is_changing:
            with suppress(Exception):  # it will say so
                look = look_at(self.key.root, self._pattern, self.known)
                if not look.changes and look.trouble == self.trouble:
                    return
        self.ring()

    @property
    def is_settled(self) -> bool:
        """Whether it has looked since it was rung, and all that has changed is told; or it cannot be."""
        may_tell = self.trouble is None and self._settling.is_changing
        return self._has_looked and not self._bell.is_set() and not may_tell

    def close(self) -> None:
        """Look no more."""
        self.scope.cancel("it is not served any more")
        self._covering.close()

    # -- its child

    async def serve(self) -> None:
        """Look whenever that may be worth it, until cancelled.

        **Cancellation**: at any time: what was handed over is stored, and is known when it is.
        """
        while True:
            self._bell = anyio.Event()
            self._has_looked = False
            began = anyio.current_time()
            pause = await self._turn()
            self._has_looked = True
            rest = (anyio.current_time() - began) * (REST if pause is None else 1.0)
            await anyio.sleep(max(LEAST_REST, rest))
            # its only child: this wait; ended by the bell, or by its time
            with anyio.move_on_after(float("inf") if pause is None else max(0.0, pause - LEAST_REST)):
                await self._bell.wait()

    async def _turn(self) -> float | None:
        """Look once, and tell what there is to tell. Gives the seconds until the next look, None for when it rings."""
        try:
            if self.known is None:
                await self._recall()
            return await self._look(self.known) if self.known is not None else AGAIN
        except (StoreError, RequestError) as error:
            self._note_trouble(f"nothing can be stored: {error}")
        except Exception as error:
            if self._note_trouble(f"it cannot be looked at: {error!r}"):
                self._runtime.fault(f"{self} could not be looked at", error)
        return AGAIN

    # -- what is known

    async def _recall(self) -> None:
        """Get what is known from the record. What was handed over for it before is on record by then."""
        store = self._runtime.store
        await store.put(note_seen(self.key, self._runtime.clock.wall()), refusable=True, site=Site.ITEM).wait()
        found = await store.read(partial(read_files, key=self.key))
        if found is None:
            await self._meet()
        else:
            self.known = {path: Sign(*sign) for path, sign in found.items()}

    async def _meet(self) -> None:
        """See it for the first time: what lies there is known."""
        look = await self._look_in_thread({})
        if look is None or look.is_blind:
            self._note_trouble(look.trouble if look else _HANGS)
            return
        files = {path: sign for path, sign in look.changes.items() if sign is not None}
        await self._put(begin_watch(self.key))
        for piece in _pieces(files):  # so that nobody else waits long for a commit
            await self._put(put_files(self.key, piece))
        await self._put(put_watch(self.key, self._runtime.clock.wall()))
        self.known = files
        if files:
            said = f"{self} is looked at for the first time: what lies there, {len(files)} files, is not told"
            self._runtime.log.info(said, plan=self.live.plan_name)

    async def _put(self, unit: Unit) -> None:
        await self._runtime.store.put(unit, refusable=True, site=Site.ITEM).wait()

    def _learn(self, files: Sequence[Changed]) -> None:
        """They are on record as told."""
        assert self.known is not None
        for one in files:
            if one.sign is None:
                self.known.pop(one.path, None)
            else:
                self.known[one.path] = one.sign

    # -- looking

    async def _look(self, known: Mapping[str, Sign]) -> float | None:
        await self._settle_tickets()
        look = await self._look_in_thread(known)
        if look is None:
            self._note_trouble(_HANGS)
            return AGAIN
        self._covering.cover(look.folders)
        now = anyio.current_time()
        if not look.is_blind:
            settled = self._settling.look(look.changes, known, now)
            await self._tell(changed_of(settled, known))
        self.looked_at = self._runtime.clock.wall()
        self._note_trouble(look.trouble)
        return self._settling.pause(known, now)

    async def _settle_tickets(self) -> None:
        """Wait for what was told before its child was ended: what is known says so only then."""
        for ticket in self._tickets:
            with suppress(Exception):  # it was not stored: it will be found again
                await ticket.wait()
        self._tickets.clear()

    async def _look_in_thread(self, known: Mapping[str, Sign]) -> Look | None:
        """Look; None if the file system does not answer."""
        name = f"aura files {self.key.id}"
        if name in _LOOKING:
            return None
        async with self._looks:
            looking = partial(_look_noted, name, self.key.root, self._pattern, known)
            outcome = await call_abandonable(looking, LONGEST_LOOK, name)
        if isinstance(outcome.error, ImportTimeout):
            self._covering.cover({})
            return None
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    # -- telling

    async def _tell(self, changed: Sequence[Changed]) -> None:
        """Tell what has changed; returns when it is on record.

        Raises:
            StoreError, RequestError: not all of it could be stored. What was not will be found again.
        """
        wanted = [one for one in changed if one.change in self.spec.changes]
        await self._keep_quietly([one for one in changed if one.change not in self.spec.changes])
        if not wanted:
            return
        if not self.live.enabled:
            await self._pass_over(wanted)
            return
        each = self.spec.each  # a reload may change it while this waits
        told = batches(wanted, self.key.root, each)
        while some := list(islice(told, TOLD_AT_ONCE)):
            for files in some:
                self._tickets.append(self._address(files, each))
            for ticket in self._tickets:
                await ticket.wait()
            self._tickets.clear()

    def _address(self, files: Sequence[Changed], each: bool) -> Ticket:
        batch = Batch(self._runtime, self._starts, self.live, self.trigger, files, self.key, self._learn)
        payload = batch.payload(each)
        return self._runtime.bus.address(batch, FILE_CHANGED, payload, plan_name=self.live.plan_name).ticket

    async def _keep_quietly(self, changed: Sequence[Changed], line: Unit | None = None) -> None:
        """Know of changes that nobody is told of."""
        for first in range(0, len(changed), MAX_FILES_TOLD):
            some = changed[first : first + MAX_FILES_TOLD]
            units = [put_files(self.key, {one.path: one.sign for one in some}), *([line] if line else [])]
            line = None
            learn = partial(self._learn, some)
            self._tickets.append(self._runtime.store.put(together(units), learn, refusable=True, site=Site.ITEM))
            await self._tickets[-1].wait()

    async def _pass_over(self, changed: Sequence[Changed]) -> None:
        """Its item is switched off."""
        count = len(changed) if self.spec.each else 1
        detail = f"it is switched off; {len(changed)} files in {shown(self.key.root)} have changed"
        line = self._starts.line(self.live, "disabled", detail, count)
        await self._keep_quietly(changed, self._runtime.ledger.unit(line))

    # -- looking at it

    def _note_trouble(self, trouble: str | None) -> bool:
        """Note why it cannot be told of, or that it can; once in the log. Says whether it is news."""
        if trouble == self.trouble:
            return False
        self.trouble, former = trouble, self.trouble
        log, plan = self._runtime.log, self.live.plan_name
        if trouble is None:
            log.info(f"{self} is looked at again; before, {former}", plan=plan)
        else:
            log.warning(f"{self} is not wholly looked at: {trouble}", plan=plan)
        return True

    @property
    def trouble_shown(self) -> str:
        """The trouble with its folder."""
        return f"{shown(self.key.root)}: {self.trouble}"

    def shown(self) -> dict[str, Any]:
        """What doors show of it. ``looked_at`` is in Unix seconds; ``files`` is None before the first look."""
        return {
            "path": shown(self.key.root),
            "pattern": self.key.pattern,
            "files": None if self.known is None else len(self.known),
            "looked_at": self.looked_at,
            "trouble": self.trouble,
        }

    def __str__(self) -> str:
        return f"the folder {shown(self.key.root)} of {self.live.name}"


def _look_noted(name: str, root: str, pattern: FilePattern, known: Mapping[str, Sign]) -> Look:
    _LOOKING.add(name)
    try:
        return look_at(root, pattern, known)
    finally:
        _LOOKING.discard(name)


def _pieces(files: Mapping[str, Sign]) -> Iterator[dict[str, Sign]]:
    rest = iter(files.items())
    while piece := dict(islice(rest, MAX_FILES_TOLD)):
        yield piece
