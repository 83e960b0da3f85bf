"""The dispatcher: the one consumer of what admission accepted; it owns a heap per lane and the places.

Theory of operation. Accepted runs arrive on a memory object stream. A stream cannot be re-ordered, so the dispatcher
moves what has arrived into the lanes' heaps and starts from there, as long as a lane has a place. All changes of lanes
happen on the event loop without an await in between: there is no lock, and no moment in which a run is in two places.
Other parts wake it by ``kick``; kicks coalesce.

It is stopped by a message and not by a cancellation, so that nothing is lost between the stream and a heap. While it is
stopped, runs are accepted and wait; ``take_in`` moves them to their heaps for whoever wants to look.

Before a run gets a place it takes all that it needs (``claims``): its task's resources, and its slot of the task's
mode. One that cannot have them is set aside: it keeps its position, holds no place, and does not hold up those of its
lane that can. It is told when its turn has come, and is first looked at then in its lane's order.

What an open firing of an interrupt rule covers is set aside as well, before it asks for anything (``holds``). Handlers
go first: their lane is filled before the others.

A delayed run (``not_before``) waits in a heap of its own by time; one timer wakes the dispatcher for the earliest.

What a crash does: nothing here is stored. Queued runs are rows; the boot puts them into their lanes again.
"""

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import anyio

from aura.config import LaneSettings
from aura.kernel.claims import Claims
from aura.kernel.holds import Holds, active_below
from aura.kernel.lanes import STALE_AT_LEAST, Lane
from aura.lifecycle import STARTABLE, RunState
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime

#: The lane of the handlers of interrupt rules.
HANDLERS = "interrupt"
#: How many runs of a lane that is held in part are looked at in one turn of the loop.
LOOKED_THROUGH = 200
#: How many of those that a hold has kept from starting are looked at in one turn when it is over.
RETURNED = 100


class Dispatcher:
    """Gives runs their places, in order. ``execute`` is what a started run's child runs."""

    def __init__(self, runtime: Runtime, lanes: Mapping[str, LaneSettings], claims: Claims) -> None:
        self._runtime = runtime
        self._claims = claims
        self.lanes = {name: Lane(name, settings) for name, settings in lanes.items()}
        self._in_urgency = sorted(self.lanes.values(), key=lambda lane: lane.name != HANDLERS)
        self.execute: Callable[[LiveRun], Coroutine[Any, Any, None]]
        self.holds = Holds()
        #: Told of each run that gives its place back and of which a firing wants to know (``interrupts``).
        self.on_left: Callable[[LiveRun], object] = bool
        #: The sub-tasks that a firing keeps from starting.
        self._barred: dict[LiveRun, None] = {}
        #: A hold has ended, and not all that it has kept from starting has been looked at.
        self._returning = False
        # Unbounded as a stream, bounded by admission: it refuses what would make a lane's queue longer than its limit.
        self._send, self._receive = anyio.create_memory_object_stream[LiveRun](float("inf"))
        #: Rung with each run and each kick. ``serve`` waits for it with nothing in hand: a run that is handed to one
        #: who waits in ``receive`` is lost with it if an error comes up there.
        self._bell = asyncio.Event()
        self._stopping = True
        #: By time. As in a lane's heap, an entry counts while its run points to it: one that was paused and resumed
        #: may have two.
        self._delayed: list[tuple[float, int, LiveRun]] = []
        self._timer: asyncio.TimerHandle | None = None
        #: One event for all who wait until nothing runs; None while nobody does.
        self._idle: anyio.Event | None = None
        #: What runs, or hangs, in the place of its parent.
        self.in_place: set[LiveRun] = set()
        #: What has given its place back and is not sealed yet (``leaving``).
        self.gone: set[LiveRun] = set()

    # -- intake

    def enter(self, run: LiveRun) -> None:
        """Take a run that may start: accepted, or to run again at its old position."""
        self.lanes[run.lane].count(run)
        run.waits = True
        self._send.send_nowait(run)
        self._bell.set()
        if self._stopping:  # nobody serves: what is cancelled meanwhile must not pile up in the stream
            self.take_in()

    def leave(self, run: LiveRun) -> None:
        """Forget a run that waits, in its lane or in the place of its parent: it is not to start."""
        self._claims.leave(run)
        self._barred.pop(run, None)
        if run.waits:
            run.waits = False
            run.entry = None
            self.lanes[run.lane].discount(run)
            self.lanes[run.lane].aside.discard(run)

    def change_priority(self, run: LiveRun, priority: int) -> None:
        """Give a run another priority. It moves if it stands in its lane, else the next time that it gets there."""
        if priority != run.priority:
            run.priority = priority
            if run.entry is not None and isinstance(run.entry[0], int):  # the entry of a delayed one begins with a time
                self._claims.leave(run)  # it asks again at its new position
                self._push(run)
                self.kick()

    def _push(self, run: LiveRun) -> None:
        """Put a run at its position, and where it is found in a lane that is closed but for such as this one."""
        lane = self.lanes[run.lane]
        lane.push(run)
        if self.holds.open and self.holds.admits(run):
            lane.exempt(run)

    def take_in(self) -> None:
        """Move what has arrived into the heaps."""
        try:
            while True:
                run = self._receive.receive_nowait()
                if run.waits:
                    self._place_in_heap(run)
        except anyio.WouldBlock:
            return

    def _place_in_heap(self, run: LiveRun) -> None:
        if run.not_before is not None and run.not_before > self._runtime.clock.wall():
            run.entry = (run.not_before, run.seq, run)
            heapq.heappush(self._delayed, run.entry)
            self._forget_cancelled()
            self._arm()
        else:
            self._push(run)

    def _forget_cancelled(self) -> None:
        """Clear the delayed runs of those that no longer wait, once they may be the most of them."""
        if len(self._delayed) > 2 * sum(lane.waiting for lane in self.lanes.values()) + STALE_AT_LEAST:
            self._delayed = [entry for entry in self._delayed if entry[2].entry is entry]
            heapq.heapify(self._delayed)

    def _arm(self) -> None:
        """Set the timer for the earliest delayed run; looks at the wall clock again now and then, in case it jumps."""
        if self._timer:
            self._timer.cancel()
        clock = self._runtime.clock
        wait = min(clock.recheck, max(0.0, self._delayed[0][0] - clock.wall()))
        self._timer = asyncio.get_running_loop().call_later(wait, self.kick)

    def _take_due(self) -> None:
        if not self._delayed:
            return
        now = self._runtime.clock.wall()
        while self._delayed and ((first := self._delayed[0])[0] <= now or first[2].entry is not first):
            heapq.heappop(self._delayed)
            if first[2].entry is first:
                self._push(first[2])
        if self._delayed:
            self._arm()

    # -- serving

    async def serve(self) -> None:
        """Start runs as places come free, until ``request_stop``; return at once if that came first."""
        self.kick()
        while True:
            if self._bell.is_set():
                await asyncio.sleep(0)  # the others have their turn first
            else:
                await self._bell.wait()
            self._bell.clear()
            self.take_in()
            if self._stopping:
                return
            self._take_due()
            self._fill()

    def allow(self) -> None:
        """Let runs start again, by the next ``serve``."""
        self._stopping = False

    def kick(self) -> None:
        """Wake the dispatcher: a place came free, or an order changed."""
        self._bell.set()

    def request_stop(self) -> None:
        """Let ``serve`` return; nothing starts after it has."""
        self._stopping = True
        self.kick()

    def _fill(self) -> None:
        looked_at = 0
        for lane in self._in_urgency:
            while not lane.is_empty and lane.has_place and (run := self._next(lane)) is not None:
                if self._has_code(run) and self._claims.take_start(run, partial(self._turn_of, run)):
                    self._start(lane, run)
                else:
                    lane.set_aside(run)
                looked_at += 1
                if self._returning and looked_at == RETURNED:
                    self.kick()  # the others have their turn first
                    return
        self._returning = False
        self._start_keepers()
        if self.holds.open:
            self._start_needed()
        self._claims.settle()

    def _next(self, lane: Lane) -> LiveRun | None:
        """Take out the first of a lane that no firing keeps from starting."""
        if not self.holds.open:
            return lane.pop()
        if self.holds.closes(lane.name):
            return self._next_exempt(lane)
        for _ in range(LOOKED_THROUGH):
            run = lane.pop()
            if run is None or self.holds.admits(run):
                return run
            lane.set_aside(run)
        self.kick()  # the others have their turn first
        return None

    def _next_exempt(self, lane: Lane) -> LiveRun | None:
        """Take out the first of a lane that is closed to all but what a firing itself has brought about."""
        while (run := lane.pop_exempt()) is not None and not self.holds.admits(run):
            lane.set_aside(run)  # another firing keeps it
        return run

    def hold_begun(self) -> None:
        """A firing has begun: what it keeps from starting stands in line for nothing before those who may."""
        for lane in self.lanes.values():
            for run in lane.aside:
                if not self.holds.admits(run):
                    self._claims.leave(run)
        for run in [child for top in self.placed() if top.children for child in active_below(top)]:
            if self._claims.waits_to_start(run) and not self.holds.admits(run):
                self._claims.leave(run)
                self._barred[run] = None

    def hold_changed(self) -> None:
        """A firing has ended: look again at all that it has kept from starting."""
        self._returning = True
        self.ask_again()
        for lane in self.lanes.values():
            lane.forget_exempt()
            if self.holds.closes(lane.name):
                for run in filter(self.holds.admits, lane.in_order()):
                    lane.exempt(run)
        self.start_barred()

    def start_barred(self) -> None:
        """Let the sub-tasks begin that were kept from it, unless they still are."""
        barred, self._barred = self._barred, {}
        for run in barred:
            self.start_in_place(run)

    def _start_keepers(self) -> None:
        """Let those go on, whatever their lane's limit, whose slot a sub-task waits for: its place may be the last."""
        for run in self._claims.keepers():
            if run.entry is not None and not self.lanes[run.lane].has_place and self.holds.admits(run):
                self._start_beyond(run)

    def _start_needed(self) -> None:
        """Let those go on, whatever keeps them, that hold what the first handler waits for: else both would wait."""
        for run in self._claims.holders_before(self.holds.open[0].handler):
            if run.waits and run.entry is not None:
                self._start_beyond(run)
            for child in [child for child in active_below(run) if child in self._barred and self._has_code(child)]:
                del self._barred[child]
                child.stopped_by = None  # it has come back
                self._ask_in_place(child)

    def _has_code(self, run: LiveRun) -> bool:
        """Whether a run that is to start need not wait for the first version of its plan, whose tests have not passed.

        It waits aside until then: the next load that changes this has all looked at again (``ask_again``).
        """
        return run.generation is not None or not self._runtime.generations.is_awaited(run.plan_name)

    def _start_beyond(self, run: LiveRun) -> None:
        if not self._has_code(run):
            return
        lane, has_all = self.lanes[run.lane], self._claims.take_start(run, partial(self._turn_of, run))
        if has_all:
            run.stopped_by = None  # it has come back, if a firing had stopped it
            lane.take_out(run)
            self._start(lane, run)

    def ask_again(self) -> None:
        """Look again at all that were set aside: what they need, or how much there is of it, may be another now."""
        for lane in self.lanes.values():
            lane.take_back_aside()
        self.kick()

    def look_again(self, run: LiveRun) -> None:
        """Look again at a run that was set aside: a firing does not keep it from starting any more."""
        lane = self.lanes[run.lane]
        if run in lane.aside:
            self._push(run)
        self.kick()

    def _turn_of(self, run: LiveRun) -> bool:
        """What a run that was set aside waited for can be had: it is looked at again. Says whether that is soon."""
        self.look_again(run)
        lane = self.lanes[run.lane]
        return lane.has_place and not self._stopping and self.holds.admits(run)

    def _start(self, lane: Lane, run: LiveRun) -> None:
        run.waits = False
        lane.discount(run)
        if run.state not in STARTABLE:
            return
        run.state = RunState.RUNNING
        lane.place(run)
        # in ``runs``: the run's own child; it ends by its seal and is never cancelled from outside
        self._runtime.runs.start_soon(self.execute, run, name=run.cid)

    def start_at_once(self, run: LiveRun) -> None:
        """Start a run that waits or rests whatever its lane's limit, also while nothing else is started.

        It is being ended, and has clean-up to run. It holds a place so that stops find it, beyond the limit if need be.
        """
        if run.parent is not None:
            self._claims.leave(run)  # it may have waited to go on
            self._barred.pop(run, None)
            self._mark_begun(run)
            self._execute_in_place(run)
            return
        self.leave(run)
        self.lanes[run.lane].place(run)
        # in ``runs``: as in ``_start``
        self._runtime.runs.start_soon(self.execute, run, name=run.cid)

    def start_in_place(self, run: LiveRun) -> None:
        """Start a sub-task in the place of its parent, as soon as it has what it needs beside what that one holds."""
        self._mark_begun(run)
        if self.holds.admits(run) and self._has_code(run):
            self._ask_in_place(run)
        else:
            self._barred[run] = None
            self.kick()  # a handler may wait for it

    def _ask_in_place(self, run: LiveRun) -> None:
        start = partial(self._execute_in_place, run)
        if self._claims.take_start(run, start):
            start()
        else:
            self.kick()  # who holds what it waits for may have to go on first

    def _mark_begun(self, run: LiveRun) -> None:
        """From now on something of it runs, or waits to; who waits for the end of that goes on waiting."""
        if run.over is None or run.over.is_set():
            run.over = anyio.Event()

    def _execute_in_place(self, run: LiveRun) -> bool:
        if run.state in STARTABLE:
            run.state = RunState.RUNNING
        self.in_place.add(run)
        # in ``runs``: as in ``_start``
        self._runtime.runs.start_soon(self.execute, run, name=run.cid)
        return True

    def rest(self, run: LiveRun) -> None:
        """Give back what a run that waits has kept, all but its slot: it is paused."""
        self._claims.release(run)
        self.kick()

    def rest_in_place(self, run: LiveRun) -> None:
        """Let a sub-task rest that waits for what it needs."""
        assert run.over is not None
        self._claims.leave(run)
        self._barred.pop(run, None)
        run.over.set()

    # -- places

    def release(self, run: LiveRun) -> None:
        """Take a run's place back and let the next one start."""
        if run.state is not RunState.WAITING:  # that keeps what it took beside its place
            self._claims.release(run)
        if run.awaited_by or run.firing is not None:
            self.on_left(run)
        if run.over is not None:  # a sub-task
            self.in_place.discard(run)
            if run.state is RunState.PREEMPTED and run.stopped_by is not None and run.held is None:
                self._barred[run] = None  # it alone was stopped: whoever waits for it goes on waiting
            else:
                self._barred.pop(run, None)
                run.over.set()
            self._freed()
            return
        self.leave(run)
        lane = self.lanes[run.lane]
        if run.placed or run in lane.stuck:
            lane.release(run)
        elif run not in self.gone:
            return
        self.gone.discard(run)
        self._freed()

    def vacate(self, run: LiveRun) -> None:
        """Take back the place, and what else it has, of a run that is sealed soon: nothing of it runs any more."""
        self._claims.release(run)
        self.lanes[run.lane].release(run)
        self.gone.add(run)
        self.kick()

    def release_stuck(self, run: LiveRun) -> None:
        """Take the place of a run that hangs."""
        if run.awaited_by or run.firing is not None:
            self.on_left(run)
        if run.parent is None:
            self.lanes[run.lane].release_stuck(run)
        self._freed()

    def _freed(self) -> None:
        if self.holds.open or self._returning or not all(lane.is_empty for lane in self._in_urgency):
            self.kick()  # else nobody is there who could start, or for whom anything is kept
        if self._idle is not None and not self._busy():
            self._idle.set()
            self._idle = None

    def _busy(self) -> bool:
        return bool(self.gone) or any(self.placed()) or any(not run.stuck for run in self.in_place)

    def placed(self) -> Iterable[LiveRun]:
        """All runs that hold a place."""
        return (run for lane in self.lanes.values() for run in lane.placed)

    def stuck(self) -> list[LiveRun]:
        """All runs that held a place, were given up as stuck and have not ended."""
        return [run for lane in self.lanes.values() for run in lane.stuck]

    async def wait_idle(self) -> None:
        """Return once nothing runs but what is stuck, and what has run is sealed."""
        while self._busy():
            self._idle = self._idle or anyio.Event()
            await self._idle.wait()

    def queued(self, lane: str | None = None) -> list[LiveRun]:
        """What waits, lane by lane, in the order in which it would start; delayed ones last."""
        self.take_in()
        wanted = [found for name, found in self.lanes.items() if lane in (None, name)]
        ready = [run for found in wanted for run in found.in_order()]
        delayed = [entry[2] for entry in sorted(self._delayed, key=lambda d: d[:2]) if entry[2].entry is entry]
        return ready + [run for run in delayed if lane in (None, run.lane)]

    def in_no_order(self) -> Iterator[LiveRun]:
        """All that waits; nobody may come or go meanwhile."""
        self.take_in()
        for lane in self.lanes.values():
            yield from lane.in_no_order()
        yield from (entry[2] for entry in self._delayed if entry[2].entry is entry)

    @property
    def keeps_some(self) -> bool:
        """Whether anything at all may be ``is_kept`` or ``lacks_code``."""
        return bool(self.holds.open) or self._runtime.generations.awaits_some

    def is_kept(self, run: LiveRun) -> bool:
        """Whether a run waits in its lane, or a sub-task until it may start, while a firing is open."""
        return bool(self.holds.open) and (run.waits or run in self._barred)

    def lacks_code(self, run: LiveRun) -> bool:
        """Whether a run that is to start waits for the tests of its plan, of which no version is served."""
        return (run.waits or run in self._barred) and not self._has_code(run)

    def place_of(self, run: LiveRun) -> tuple[float, ...]:
        """Where a queued run stands in the order of ``queued``, whoever else comes or goes."""
        entry = run.entry
        assert entry is not None, f"{run} does not wait"
        if isinstance(entry[0], int):
            return (0, [*self.lanes].index(run.lane), *entry[:2])
        return (1, *entry[:2])

    def close(self) -> None:
        """End the stream and the timer, when the server ends."""
        self._claims.close()
        if self._timer:
            self._timer.cancel()
        self._send.close()
        self._receive.close()
