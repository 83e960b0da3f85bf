"""What a run has left inside of Aura: children of its attempts, resources, and places of lanes."""

import asyncio
import sys
from collections.abc import Callable
from weakref import WeakKeyDictionary

from aura.engine.engine import Engine
from aura.runs.attempt import Attempt
from aura.runs.edge import suspended_in
from aura.testing.detectors.detector import Leak, has_ended
from aura.testing.plancode import Origin, origin, plan_line
from aura.testing.virtual_time import VirtualLoop


class Children:
    """Detects children that a plan's code has made within an attempt and that have not ended when its run has."""

    def __init__(self, loop: VirtualLoop, engine: Callable[[], Engine]) -> None:
        self._loop = loop
        self._engine = engine
        self._former: Callable[[asyncio.Task[object]], object] | None = None
        self._made: WeakKeyDictionary[asyncio.Task[object], tuple[Attempt, Origin]] = WeakKeyDictionary()

    def begin(self) -> None:
        if self._loop.on_child != self._note:
            self._former, self._loop.on_child = self._loop.on_child, self._note

    def left(self) -> list[Leak]:
        runtime = self._engine().runtime
        frozen = {child for life in self._loop.frozen for child in life.children}
        alive = [(child, made) for child, made in list(self._made.items()) if not child.done() and child not in frozen]
        return [_leak(child, made) for child, (attempt, made) in alive if has_ended(runtime, attempt)]

    def close(self) -> None:
        self._loop.on_child = self._former

    def _note(self, child: asyncio.Task[object]) -> None:
        if self._former is not None:
            self._former(child)
        made = origin(sys._getframe(1))
        if isinstance(made.running, Attempt) and made.where is not None and not made.by_aura:
            self._made[child] = made.running, made


def _leak(child: "asyncio.Task[object]", made: Origin) -> Leak:
    coroutine = child.get_coro()
    stands = [where for frame in suspended_in(coroutine) if (where := plan_line(frame)) is not None]
    what = getattr(coroutine, "__qualname__", child.get_name())
    return Leak("child", what + (f", which waits at {stands[-1]}" if stands else ""), made.where)


class Holdings:
    """Detects what the engine still has down for runs that have ended."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine

    def begin(self) -> None:
        pass

    def left(self) -> list[Leak]:
        return [*self._resources(), *self._places()]

    def close(self) -> None:
        pass

    def _resources(self) -> list[Leak]:
        engine = self._engine()
        alive = {f"run {cid}" for cid in engine.runtime.open}
        held = [(label, name, count) for label, names in engine.claims.pool.held() for name, count in names.items()]
        return [Leak("resource", f"{count} of {name}, by {who}") for who, name, count in held if who not in alive]

    def _places(self) -> list[Leak]:
        dispatcher, alive = self._engine().dispatcher, self._engine().runtime.open
        placed = [*dispatcher.placed(), *dispatcher.stuck(), *dispatcher.in_place, *dispatcher.gone]
        return [Leak("place", f"of lane {run.lane}, by run {run.cid}") for run in placed if run.cid not in alive]
