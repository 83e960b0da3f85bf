"""Follows the coroutines of plans, step by step, and can hold one where it is suspended.

What is followed is each attempt's coroutine, and that of each child that a plan's own code starts within an attempt: by
a task group, ``gather`` or ``create_task``. The children of Aura itself are not followed.

Theory of operation. A coroutine is done by being sent something, or having something thrown into it, until it ends;
after each of these steps but the last it is suspended, at some line. ``Followed`` stands between it and whoever does
that, and tells the follower of each. The follower may say that the coroutine is to be *held* where it is suspended, or
before its first step: what is sent meanwhile, or an error of what it waits for, is kept until it is let go. Only a
cancellation gets through. So what somebody does at that moment, over however many turns of the loop, meets it there.

Nothing else changes for it: held, it looks like one whose child is slow to have its turn. No virtual time passes by the
holding. It cannot hang for ever: whoever holds lets go in a ``finally`` (``sweptrun``).
"""

import asyncio
import sys
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from aura.loading.importing import is_plan_code
from aura.runs.attempt import Attempt
from aura.runs.edge import suspended_in
from aura.testing.plancode import RUNNING, origin, plan_line
from aura.testing.sweeping.catching import Catch

if TYPE_CHECKING:
    from aura.testing.world import World

#: How many coroutines that cannot be ended are kept, since Python complains of one that is collected and goes on
#: awaiting. Each may have its whole world with it, so of more than these Python is left to complain of the oldest.
KEPT = 200
_ABANDONED: deque[Any] = deque(maxlen=KEPT)
_AWAITED = ("cr_await", "gi_yieldfrom", "ag_await")
#: After so many cancellations at one moment a coroutine is ended: it swallows them all, and time would never go on.
ENOUGH = 100
#: What waits for the end of children, and takes each further cancellation for the first.
WAITS_FOR_CHILDREN = "TaskGroup.__aexit__"


class Spot(NamedTuple):
    """Where one frame of a plan stands. The frame is its ``id``, so that nothing is kept alive."""

    frame: int
    at: int
    line: str | None


class Stand(NamedTuple):
    """Where a coroutine is suspended: in which frames of plans, outermost first, and the names of what those await."""

    spots: tuple[Spot, ...]
    below: tuple[str, ...]

    @property
    def line(self) -> str | None:
        """The innermost line of a plan, if it is in any."""
        return self.spots[-1].line if self.spots else None

    def line_since(self, former: "Stand") -> str | None:
        """The outermost line of a plan to which it has gone on since it was elsewhere."""
        other = dict(zip(self.spots, former.spots, strict=False))
        return next((spot.line for spot in self.spots if spot != other.get(spot)), self.line)


class Follower(Protocol):
    """Told of one step after the other, synchronously, within the child that takes it."""

    def begins(self, one: "Followed") -> bool:
        """It is about to take its first step; says whether it is to be held before that."""
        ...

    def suspended(self, one: "Followed") -> bool:
        """It is suspended; says whether it is to be held there."""
        ...

    def thrown(self, one: "Followed", error: BaseException) -> None:
        """Something is about to be thrown into it."""
        ...

    def ended(self, one: "Followed", error: BaseException | None) -> None:
        """It has ended, with an error if there is one."""
        ...


class Followed(Coroutine[Any, Any, Any]):
    """A coroutine that is followed: of an attempt, or of a child that a plan's code has made within it."""

    def __init__(
        self, follower: Follower, attempt: Attempt, coroutine: Coroutine[Any, Any, Any], *, is_child: bool
    ) -> None:
        self.attempt = attempt
        self.is_child = is_child
        self.coroutine = coroutine
        #: How many cancellations were thrown in at one moment, one behind the other.
        self.cancellations = 0
        #: What has become of the last one that was thrown in.
        self.catch = Catch()
        self._cancelled_at = 0.0
        self._child: asyncio.Task[Any] | None = None
        self._is_abandoned = False
        self._follower = follower
        self._begun = False
        self._gate: asyncio.Future[None] | None = None
        self._is_held = False
        self._kept: Callable[[], Any] | None = None

    def __getattr__(self, name: str) -> Any:
        """What is asked of a coroutine: where it is suspended, whether it has begun, its name."""
        return getattr(self.coroutine, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self.coroutine.__await__())

    def send(self, value: Any) -> Any:
        if not self._begun:
            self._begun = True
            self._child = asyncio.current_task()
            self._is_held = self._follower.begins(self)
        if self._is_held:
            return self._wait(lambda: self.coroutine.send(value))
        self.cancellations = 0
        kept, self._kept = self._kept, None
        return self._go_on(kept or (lambda: self.coroutine.send(value)))

    def throw(self, error: Any, *rest: Any) -> Any:
        if self._is_held and not isinstance(error, CancelledError):
            return self._wait(lambda: self._throw(error, *rest))
        self._is_held, self._kept = False, None
        return self._throw(error, *rest)

    def close(self) -> None:
        self.coroutine.close()

    def abandon(self) -> None:
        """End it, whatever it does."""
        self._is_abandoned = True
        if self._child is not None:
            self._child.cancel()

    @property
    def is_deaf(self) -> bool:
        """Whether it swallows all cancellations; a group that waits for its children does too, and ends with them."""
        return self.cancellations > ENOUGH and WAITS_FOR_CHILDREN not in self.stand().below

    # -- holding

    @property
    def is_held(self) -> bool:
        """Whether it is held, and nothing has got through to it."""
        return self._is_held

    def let_go(self) -> None:
        """Let it go on with what came meanwhile; harmless if it is not held."""
        self._is_held = False
        if self._gate is not None and not self._gate.done():
            self._gate.set_result(None)

    def _wait(self, then: Callable[[], Any]) -> Any:
        """Keep what was to happen, and wait for the gate instead."""
        self._kept = then
        self._gate = asyncio.get_running_loop().create_future()
        return next(iter(self._gate))

    # -- going on

    def _throw(self, error: Any, *rest: Any) -> Any:
        throw = self.coroutine.throw
        if isinstance(error, CancelledError):
            self.catch = Catch()
            throw = partial(self.catch.throw, self.coroutine)
            now = asyncio.get_running_loop().time()
            self.cancellations = self.cancellations + 1 if now == self._cancelled_at else 1
            self._cancelled_at = now
        self._follower.thrown(self, error)
        if self._is_abandoned or self.is_deaf:
            return self._go_on(lambda: self._end(error))
        return self._go_on(lambda: throw(error, *rest))

    def _end(self, error: BaseException) -> Any:
        inside = list(_awaited(self.coroutine))
        try:
            self.coroutine.close()
        except RuntimeError:  # it swallows that as well
            _ABANDONED.extend(inside)
        raise error

    def _go_on(self, step: Callable[[], Any]) -> Any:
        try:
            awaited = step()
        except StopIteration:
            self._follower.ended(self, None)
            raise
        except BaseException as error:
            self._follower.ended(self, error)
            raise
        self._is_held = self._follower.suspended(self)
        return awaited

    # -- where it is

    def stand(self) -> Stand:
        """Where it is suspended now."""
        frames = suspended_in(self.coroutine)
        own = [place for place, frame in enumerate(frames) if is_plan_code(frame)]
        spots = (Spot(id(frames[place]), frames[place].f_lasti, plan_line(frames[place])) for place in own)
        below = frames[own[-1] + 1 if own else 0 :]
        return Stand(tuple(spots), tuple(frame.f_code.co_qualname for frame in below))


def _awaited(awaitable: Any) -> Iterator[Any]:
    """A coroutine, what it awaits, what that awaits, and so on."""
    while awaitable is not None:
        yield awaitable
        awaitable = next((found for name in _AWAITED if (found := getattr(awaitable, name, None)) is not None), None)


class HeldWhile(Coroutine[Any, Any, Any]):
    """A coroutine of a test, which is held before its next step while there is a gate; a cancellation gets through."""

    def __init__(self, gate: Callable[[], "asyncio.Future[None] | None"], coroutine: Coroutine[Any, Any, Any]) -> None:
        self._gate = gate
        self._coroutine = coroutine
        self._kept: Callable[[], Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._coroutine.__await__())

    def send(self, value: Any) -> Any:
        return self._step(lambda: self._coroutine.send(value))

    def throw(self, error: Any, *rest: Any) -> Any:
        if isinstance(error, CancelledError):
            return self._coroutine.throw(error, *rest)
        return self._step(lambda: self._coroutine.throw(error, *rest))

    def close(self) -> None:
        self._coroutine.close()

    def _step(self, step: Callable[[], Any]) -> Any:
        step = self._kept or step
        gate = self._gate()
        if gate is not None and not gate.done():
            self._kept = step
            return next(iter(gate))
        self._kept = None
        return step()


def follow(world: "World", follower: Follower) -> None:
    """Have a follower told of everything that attempts of a world do from now on, in all its lives."""

    def around_attempt(attempt: Attempt, coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        return Followed(follower, attempt, coroutine, is_child=False)

    def around_child(coroutine: Any) -> Any:
        running = RUNNING.get()
        if not isinstance(running, Attempt):
            return coroutine
        made = origin(sys._getframe(1))
        if made.by_aura or made.where is None:
            return coroutine
        return Followed(follower, running, coroutine, is_child=True)

    world.interception.marks = True
    world.interception.around_attempt = around_attempt
    world.loop.around_child = around_child
