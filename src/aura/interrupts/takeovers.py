"""What a handler takes over: resources that a stuck run holds.

What is stuck keeps what it holds until its body ends, and others wait for that. An interrupt's handler does not: it,
its steps, and its sub-tasks in its place have it as a loan (``pool``), if the firing covers the stuck run, or outranks
it. When the handler gives it back it is the stuck run's again, or free if that has ended meanwhile; another part of
the handler, or another handler, may have it next. Slots of a mode are not lent: they are no resources.

Each time is told by an event, a line in the log and the status. What a crash does: nothing here is stored.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator

from aura.kernel.claims import Claims
from aura.kernel.dispatcher import Dispatcher
from aura.kernel.holds import active_below, covers
from aura.lifecycle import RunState
from aura.resources import Claim, Holder
from aura.runs.firing import Firing
from aura.runs.hang import Taken
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime


class Takeovers:
    """Lends what stuck runs hold."""

    def __init__(self, runtime: Runtime, claims: Claims, dispatcher: Dispatcher) -> None:
        self._runtime = runtime
        self._claims = claims
        self._dispatcher = dispatcher
        claims.take_over = self._take_over
        # after this turn: who gives back is in the middle of that
        claims.pool.on_returned = lambda: asyncio.get_running_loop().call_soon(self.look_again)

    def look_again(self) -> None:
        """A run is stuck, or has again what it had lent: let the handlers that wait for what it holds have it."""
        for firing in list(self._dispatcher.holds.open):
            handler = firing.handler
            self._dispatcher.look_again(handler)  # if it waits in its lane, it asks there
            for run in (handler, *active_below(handler)):
                self._claims.take_over_waiting(run)

    def _take_over(self, run: LiveRun, claim: Claim) -> bool:
        firing = _firing_of(run) if self._dispatcher.holds.open else None
        if firing is None:
            return False
        lenders = {holder: stuck for stuck in self._stuck(firing) for holder in _holders_of(stuck)}
        names: dict[str, list[str]] = defaultdict(list)
        for loan in self._claims.pool.take_over(claim, lenders):
            names[lenders[loan.lender].cid].append(str(loan.name))
        for stuck in dict.fromkeys(lenders.values()):
            if stuck.cid in names:
                self._tell(firing, run, stuck, sorted(set(names[stuck.cid])))
        if not (names or claim.outside):  # of one outside the dispatcher is looking now
            self._dispatcher.kick()  # who holds it may have to go on first
        return bool(names)

    def _stuck(self, firing: Firing[LiveRun]) -> Iterator[LiveRun]:
        """The stuck runs that a firing covers, or that its handler outranks."""
        for top in self._dispatcher.stuck():
            outranked = top.firing is not None and top.firing.priority < firing.priority
            for run in (top, *active_below(top)):
                if run.stuck and (outranked or covers(firing, run)):
                    yield run

    def _tell(self, firing: Firing[LiveRun], run: LiveRun, stuck: LiveRun, names: list[str]) -> None:
        if stuck.hang is not None:
            stuck.hang.note(Taken(firing.plan_name, firing.rule, firing.cid, names))
        payload = {
            "plan": firing.plan_name,
            "rule": firing.rule,
            "cid": firing.cid,
            "from": stuck.cid,
            "names": names,
        }
        self._runtime.bus.announce("interrupt.taken_over", payload, origin=run.emitter())
        run.logger().warning(f"it takes over {', '.join(names)} from {stuck.cid}, which is stuck and holds that still")


def _firing_of(run: LiveRun) -> Firing[LiveRun] | None:
    """What a run handles that has not been told to stop, or what that does of which it is a part."""
    top = run
    while top.parent is not None:
        top = top.parent
    return top.firing if top.state is not RunState.STOPPING else None


def _holders_of(stuck: LiveRun) -> Iterator[Holder]:
    """What holds for a stuck run: it, and those of its steps that hang."""
    if stuck.claims is None:
        return
    yield stuck.claims.holder
    for key, claim in stuck.claims.steps.items():
        if key in stuck.live and stuck.live[key].stuck:
            yield claim.holder
