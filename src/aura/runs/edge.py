"""The edge: a coroutine is told to stop once, and whatever comes of it becomes a value.

Theory of operation. anyio delivers a cancellation as a level: again at every await, so that an unshielded clean-up in
somebody's ``finally`` is lost, and an action that swallows it burns a core. Here, and nowhere else, a stop is delivered
as one *edge*. A coroutine is awaited inside two scopes; ``outer`` is cancelled, and ``inner`` becomes a shield as soon
as the cancellation has been taken, so that none follows:

- in the same turn, if the child took it then (``task.cancelling()`` grew);
- else (its waiter was already done, it is the running child, it has not begun, or it sits in a shield of its own) it is
  *pending*. To shield regardless would lose the stop. anyio tries again in the turns that follow; after each step of
  the child one look, in the next turn and behind anyio's, closes the shield as soon as it was taken. Not later: the
  child may await another one (``gather``), in whose clean-up each further try would be one more cancellation.

*What is not ours.* While the edge is pending, what is thrown in may be another's: a time-out of the action's own that
was due in the same turn, or in its own shield. An error that does not carry our scope's name closes the shield only on
loan: as soon as the action has used it up (``task.cancelling()`` has shrunk) the shield opens again and the edge comes.
If nobody has cancelled the child at all, it is what the action awaits that was cancelled, and nothing is closed.

The *pulse* opens the shield once more and closes it by the same rule.

*Evidence* is whether our edge was thrown in (``seen``). A coroutine that ends with a ``CancelledError`` after its edge
was sent has seen it as well: into a thread no edge can be thrown.

Nothing leaves ``attend``: it catches inside both scopes, and before the child's next await what a stranger left on it
(``task.cancel()`` by somebody else) is used up. A scope or task group that the action left open is closed, for the
group that the child is in could not end any more, and with it the server.

Limits. The children of a task group that the action itself opened get the level. A stop that meets the failure of such
a child in one turn may be swallowed by the group (asyncio's ``TaskGroup`` does that); then the pulse comes to help.
"""

import asyncio
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from types import FrameType
from typing import Any

from anyio._backends._asyncio import CancelScope, _task_states

from aura.run import leaves_of

#: What the cancellation says that a coroutine gets. It does not have anyio's words: behind the shield a task group of
#: the action's own, of which a child has a group as well, would take it for its own cancellation, and swallow it.
STOPPED = "the attempt is being stopped"


class Edge:
    """Awaits a coroutine and delivers at most one cancellation to it, and one more by ``pulse``.

    ``value`` or ``error`` is what came of it; ``seen`` whether our edge was thrown in.
    """

    __slots__ = ("_base", "_coroutine", "_inner", "_lent", "_outer", "_pending", "_task", "error", "seen", "value")

    def __init__(self) -> None:
        # outer: the one coroutine of ``attend``; ended by ``deliver`` or by the coroutine's own end.
        # inner: the same; it is the shield that turns the level into an edge. It cannot hang anything for ever: when
        # the grace is over the attempt is pulsed and then left behind as stuck, and its owner waits no longer.
        self._outer = CancelScope()
        self._inner = CancelScope()
        self._task: asyncio.Task[Any] | None = None
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        #: What the child's ``cancelling()`` was before, and when the shield was closed for a cancellation of another's.
        self._base = 0
        self._lent: int | None = None
        #: The edge was sent, and not taken at once; nobody has seen it yet.
        self._pending = False
        self.seen = False
        self.value: Any = None
        self.error: BaseException | None = None

    async def attend(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Await ``coroutine``; never raises what it raises, whatever that is."""
        self._task = task = asyncio.current_task()
        assert task is not None
        self._base = base = task.cancelling()
        self._coroutine = coroutine
        try:
            with self._outer, self._inner:
                try:
                    self.value = await self
                except BaseException as error:
                    self.error = plain_error(error)
        except RuntimeError as error:  # both scopes refuse to end while one inside them is open
            self._close_left_open(error)
        if self._outer.cancel_called and isinstance(self.error, CancelledError):
            self.seen = True
        if task.cancelling() > base:  # a stranger's cancel must not meet our next await
            while task.cancelling() > base:
                task.uncancel()
            with suppress(CancelledError):  # once: a level would come again for ever, and is for our owner to see
                await asyncio.sleep(0)

    def _close_left_open(self, refusal: RuntimeError) -> None:
        """Close what the action left open, ours as well, and make that its error."""
        state = _task_states[self._task]  # type: ignore[index]  # anyio has no public word for it
        while (left := state.cancel_scope) is not self._inner:
            if left is None:
                raise refusal
            left.cancel("its action has ended")  # for the children of a task group
            left.__exit__(None, None, None)
        self._inner.__exit__(None, None, None)
        self._outer.__exit__(None, None, None)
        if self.error is None:
            self.error = RuntimeError("the action ended with a cancel scope or a task group of its own still open")

    def deliver(self, reason: str) -> None:
        """Cancel, as one edge. Does not wait."""
        self._shield_if_taken(lambda: self._outer.cancel(reason))

    def pulse(self) -> None:
        """Open the shield once, by the same rule; anyio then delivers again what ``outer`` already has."""
        self._shield_if_taken(self._open)

    def _open(self) -> None:
        self._inner.shield = False

    def _shield_if_taken(self, cancel: Callable[[], object]) -> None:
        before = self._task.cancelling() if self._task else 0
        cancel()
        if self._task is None:
            return
        if self._task.cancelling() > before:
            self._inner.shield = True
        else:
            self._pending = True
            self._look_later()

    def _look_later(self) -> None:
        """Look in the next turn, after anyio has tried again, whether the child took it."""
        assert self._task is not None
        asyncio.get_running_loop().call_soon(self._look, self._task.cancelling())

    def _look(self, before: int) -> None:
        assert self._task is not None
        if self._pending and self._task.cancelling() > before:
            self._inner.shield = True

    # -- the send/throw wrapper round the coroutine; a world counts suspension points here as well

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # type: ignore[return-value]  # it has send, throw and close: all that an await needs

    def __iter__(self) -> "Edge":
        return self

    def __next__(self) -> Any:
        assert self._coroutine is not None
        if self._pending:
            return self._step(self._coroutine.send, None)
        return self._coroutine.send(None)

    def send(self, value: Any) -> Any:
        assert self._coroutine is not None
        return self._coroutine.send(value)

    def throw(self, error: BaseException, *_: Any) -> Any:
        assert self._coroutine is not None
        if isinstance(error, CancelledError) and self._outer.cancel_called:
            self._note(error)
            if self._is_ours(error):
                error = CancelledError(STOPPED)
        try:
            if self._pending:
                return self._step(self._coroutine.throw, error)
            return self._coroutine.throw(error)
        finally:
            del error  # this frame is in its traceback: a circle, which the collector would have to find

    def _note(self, error: CancelledError) -> None:
        """Take note of a cancellation that is thrown in: close the shield, on loan if it may be another's."""
        assert self._task is not None
        if self._pending:
            if self._is_ours(error):
                self._pending = False
            elif self._task.cancelling() > self._base:
                self._lent = self._task.cancelling()
            else:
                return  # nobody has cancelled this child: what it awaits was cancelled
            self._inner.shield = True
        self.seen = True

    def _is_ours(self, error: CancelledError) -> bool:
        said = error.args[0] if error.args else None  # of a stranger's it may be anything
        return isinstance(said, str) and said.startswith(f"Cancelled via cancel scope {id(self._outer):x}")

    def _step(self, step: Callable[[Any], Any], value: Any) -> Any:
        """Go on while the edge is pending; open the shield again when the action has used up what was another's."""
        assert self._task is not None
        try:
            return step(value)
        finally:
            del value  # as in ``throw``
            if self._lent is not None and self._task.cancelling() < self._lent:
                self._lent = None
                self.seen = False
                self._inner.shield = False
            if not self._inner.shield:
                self._look_later()

    def close(self) -> None:
        assert self._coroutine is not None
        self._coroutine.close()

    def is_round(self, scope: CancelScope) -> bool:
        """Whether it is the scope that the coroutine runs in: the scopes that its children begin are inside that."""
        return scope is self._inner

    def frames(self) -> list[FrameType]:
        """The frames that the coroutine is suspended in, outermost first."""
        return suspended_in(self._coroutine)


def plain_error(error: BaseException) -> BaseException:
    """Give an error that can be looked at: a group without its cancellations, or one of them if it has nothing else."""
    try:
        if not isinstance(error, BaseExceptionGroup):
            isinstance(error, CancelledError)  # raises if it lies about its class
            return error
        leaves = list(leaves_of(error))
        others = [leaf for leaf in leaves if not isinstance(leaf, CancelledError)]
    except Exception as broken:
        return RuntimeError(f"<{type(error).__name__}, which cannot be looked at: {type(broken).__name__}>")
    if len(others) == len(leaves):
        return error
    return BaseExceptionGroup("what is left without the cancellations", others) if others else leaves[0]


def suspended_in(awaitable: Any) -> list[FrameType]:
    """The frames that a coroutine, or whatever else is awaited, is suspended in, outermost first."""
    frames: list[FrameType] = []
    while awaitable is not None:
        if isinstance(awaitable, Edge):
            awaitable = awaitable._coroutine
            continue
        frame = _first(awaitable, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None:
            frames.append(frame)
        awaitable = _first(awaitable, "cr_await", "gi_yieldfrom", "ag_await")
    return frames


def _first(thing: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(thing, name, None)) is not None), None)
