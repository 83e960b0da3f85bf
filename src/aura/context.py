"""``Context``: what an action is handed besides its parameters, and ``ContextHost``, what stands behind it.

Nothing here acts by itself: each call goes to the host, the attempt in this process or the child of one in another.
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anyio
import anyio.from_thread

from aura.errors import ContextClosed
from aura.redaction import Stream

T = TypeVar("T")


class Log(Protocol):
    """What ``ctx.log`` offers: one line of text, and fields beside it."""

    def debug(self, event: str, **fields: Any) -> Any: ...
    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...
    def exception(self, event: str, **fields: Any) -> Any: ...


class StateHost(Protocol):
    """What stands behind a ``State``."""

    async def get(self, key: str, default: Any) -> Any: ...
    async def set(self, key: str, value: Any, ttl: float | str | None) -> None: ...
    async def delete(self, key: str) -> bool: ...
    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl: float | str | None) -> bool: ...
    async def keys(self, prefix: str) -> list[str]: ...


class ContextHost(Protocol):
    """What stands behind a ``Context``: the attempt that made it. ``live`` is false once the attempt is over."""

    @property
    def live(self) -> bool: ...
    @property
    def plan_name(self) -> str: ...
    @property
    def log(self) -> Log: ...
    @property
    def stopping_because(self) -> str | None: ...
    @property
    def workdir(self) -> Path: ...
    @property
    def process_environment(self) -> Mapping[str, str]: ...
    def hiding(self) -> Stream: ...
    def grace_left(self) -> float: ...
    def time_left(self) -> float: ...
    def progress(self, done: float, total: float | None, message: str) -> None: ...
    async def run_task(self, task: str, inputs: Mapping[str, Any], plan: str | None) -> Any: ...
    async def start_task(self, task: str, inputs: Mapping[str, Any], plan: str | None) -> str: ...
    async def emit(self, event: str, payload: Any) -> str: ...
    @property
    def state(self) -> StateHost: ...
    async def checkpoint(self, value: Any) -> None: ...
    @property
    def checkpointed(self) -> Any: ...


class State:
    """What a plan remembers over its runs: values by key, each plain JSON. ``ctx.state`` gives it.

    A key is text of 1 to 200 characters that can be printed; a value has at most 64 KiB of JSON and no secret in it; a
    plan remembers at most 10,000 keys and 16 MiB. A ``ttl`` is in seconds, or text such as ``10m``: after so long the
    key is gone; without one it stays, whatever it had before.

    Each method but ``get`` and ``keys`` returns once what it did is stored.

    Raises:
        StateInvalid: a key, a value or a ttl cannot be one. StateFull: there is no room for more.

    Cancellation: what was asked for is stored as a whole, or not at all.
    """

    __slots__ = ("_ctx",)

    def __init__(self, ctx: "Context") -> None:
        self._ctx = ctx

    async def get(self, key: str, default: Any = None) -> Any:
        """The value of a key; ``default`` if there is none."""
        return await self._ctx._open().state.get(key, default)

    async def set(self, key: str, value: Any, ttl: float | str | None = None) -> None:
        """Give a key a value, whatever it had."""
        await self._ctx._open().state.set(key, value, ttl)

    async def delete(self, key: str) -> bool:
        """Forget a key; says whether there was one."""
        return await self._ctx._open().state.delete(key)

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl: float | str | None = None) -> bool:
        """Give a key a value if it has the ``expected`` one, and say whether it had.

        To expect None is to expect that there is no such key, or that its value is null. Of many that do this in the
        same moment one wins.
        """
        return await self._ctx._open().state.compare_and_set(key, expected, value, ttl)

    async def keys(self, prefix: str = "") -> list[str]:
        """All keys that begin so, sorted."""
        return await self._ctx._open().state.keys(prefix)


class Context:
    """What an action may know and do besides its parameters.

    It belongs to one start of one step. Once that has ended, or has been given up as stuck, every use of it raises
    ``ContextClosed``, so that a forgotten thread cannot act for a run that has gone on without it.
    """

    __slots__ = ("_host", "attempt", "cid", "secrets", "step", "vars")

    def __init__(
        self,
        host: ContextHost,
        *,
        cid: str,
        step: str,
        attempt: int,
        variables: Mapping[str, Any],
        secrets: Mapping[str, str],
    ) -> None:
        self._host = host
        self.cid = cid
        self.step = step
        self.attempt = attempt
        self.vars = variables
        self.secrets = secrets

    def _open(self) -> ContextHost:
        if not self._host.live:
            raise ContextClosed(f"ctx of step {self.step} of run {self.cid} was used after that attempt was over")
        return self._host

    @property
    def plan_name(self) -> str:
        """The plan whose action this is."""
        return self._open().plan_name

    @property
    def log(self) -> Log:
        """The run's log; every line carries the run, the step and the attempt. May be used from any thread."""
        return self._open().log

    @property
    def stopping_because(self) -> str | None:
        """Why this attempt is being stopped: ``interrupt shutdown timeout cancel``; None while it is not."""
        return self._open().stopping_because

    @property
    def workdir(self) -> Path:
        """The run's own folder, made at first use; relative paths of the shipped actions are below it."""
        return self._open().workdir

    @property
    def process_environment(self) -> Mapping[str, str]:
        """What a child process of this attempt must have in its environment, so that it can be found and ended."""
        return self._open().process_environment

    def hiding(self) -> Stream:
        """What hides secrets in bytes that come in chunks, such as the output of a process."""
        return self._open().hiding()

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far this step is: ``done`` of ``total``, in any unit. Cheap; may be called as often as one likes."""
        self._open().progress(done, total, message)

    def grace_left(self) -> float:
        """Seconds that remain for clean-up once a stop has come; infinite while none has."""
        return self._open().grace_left()

    def time_left(self) -> float:
        """Seconds until a time-out would stop this attempt: its own, its run's, or that of a run above it.

        Infinite if there is none. Once it is being stopped, what is left of its grace.
        """
        return self._open().time_left()

    async def run(self, task: str, inputs: Mapping[str, Any] | None = None, plan: str | None = None) -> Any:
        """Run a task in the place of this run and give its result once it has ended: a sub-task.

        ``plan``: of another plan, which this one's ``plan.yaml`` has to name in ``uses``. When this attempt is told to
        stop, the sub-task is; a step that was stopped to come back goes on with the same one, as long as it makes its
        calls in the same order.

        Raises:
            TaskFailed: it is refused, or did not succeed. TaskRecursion: this run is part of a run of that task.

        Cancellation: the sub-task is stopped, and its end is waited for.
        """
        return await self._open().run_task(task, inputs or {}, plan)

    async def start(self, task: str, inputs: Mapping[str, Any] | None = None, plan: str | None = None) -> str:
        """Ask for a run of a task, as any client would, and give its ``cid`` once it is accepted. It is not waited for.

        Raises:
            TaskFailed: it is refused.
        """
        return await self._open().start_task(task, inputs or {}, plan)

    @property
    def state(self) -> State:
        """What this plan remembers over its runs; of an action of another plan it is that one's."""
        self._open()
        return State(self)

    async def checkpoint(self, value: Any) -> None:
        """Put by how far this step, or this item of a loop, is; returns once that is stored.

        ``value`` is plain JSON of at most 64 KiB, without a secret in it; it takes the place of the last one. It is
        kept until the step or item has ended, over tries, stops and restarts of the server.

        Raises:
            CheckpointInvalid: it cannot be kept.
        """
        await self._open().checkpoint(value)

    @property
    def checkpointed(self) -> Any:
        """What this step or item has put by last (``checkpoint``); None if nothing."""
        return self._open().checkpointed

    async def emit(self, event: str, payload: Any = None) -> str:
        """Emit an event and give its id once it is on record, with what it starts or wakes.

        ``event`` is its dotted name, which may not begin as those of Aura's own do; the payload is JSON, of 64 KiB at
        most. It waits while too many events are on their way to the store.

        Raises:
            EventRefused: the name or the payload is none that it may have, or it could not be stored.

        Cancellation: once it has been handed over the event is stored all the same.
        """
        return await self._open().emit(event, payload)

    @contextmanager
    def cleanup(self, timeout: float = 5.0) -> Iterator[None]:
        """Shield what must not be cut off half-way, for ``timeout`` seconds at most.

        The shield cannot hang: when the time is over, what is inside is cancelled.
        """
        with anyio.move_on_after(timeout, shield=True):
            yield

    def from_thread(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run an async function on the event loop, from an action that is a plain ``def``, and wait for its result."""
        self._open()
        return anyio.from_thread.run(function, *args)
