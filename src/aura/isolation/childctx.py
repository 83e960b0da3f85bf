"""``ctx`` in a process of its own: what it knows came with the job, what it does the server does."""

import asyncio
import math
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from aura.context import Context, Log, StateHost
from aura.events import clean_text, plain
from aura.isolation.childlink import Link
from aura.isolation.messages import About, Progressed, Said
from aura.redaction import Redactor, Stream

T = TypeVar("T")


class ChildContext(Context):
    """The context of a job. What is asked of it is asked of the attempt's, on the other side."""

    __slots__ = ()

    def from_thread(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run an async function, from an action that is a plain ``def``, and wait for its result."""
        self._open()
        return asyncio.run(function(*args))


def context_of(about: About, link: Link, marks: Mapping[str, str]) -> Context:
    """Make the context of a job."""
    return ChildContext(
        _Host(about, link, marks),
        cid=about.cid,
        step=about.step,
        attempt=about.attempt,
        variables=about.variables,
        secrets=_Secrets(about.secrets, link),
    )


class _Host:
    """What stands behind ``ctx`` here (``actions.ContextHost``)."""

    def __init__(self, about: About, link: Link, marks: Mapping[str, str]) -> None:
        self._link = link
        self._ends_at = math.inf if about.time_left is None else time.monotonic() + about.time_left
        self._stop_ends_at: float | None = None
        self.log: Log = _Log(link)
        self.plan_name = about.plan_name
        self.workdir = Path(about.workdir)
        self.checkpointed = about.checkpointed
        self.state: StateHost = _State(link)
        self.process_environment = marks

    @property
    def live(self) -> bool:
        return self._link.usable

    @property
    def stopping_because(self) -> str | None:
        return self._link.stop.because if self._link.stop else None

    def grace_left(self) -> float:
        stop = self._link.stop
        if stop is None or stop.grace is None:
            return math.inf
        if self._stop_ends_at is None:
            self._stop_ends_at = time.monotonic() + stop.grace
        return max(0.0, self._stop_ends_at - time.monotonic())

    def time_left(self) -> float:
        return self.grace_left() if self._link.stop else max(0.0, self._ends_at - time.monotonic())

    def progress(self, done: float, total: float | None, message: str) -> None:
        self._link.progress(Progressed(float(done), None if total is None else float(total), clean_text(str(message))))

    async def run_task(self, task: str, inputs: Mapping[str, Any], plan: str | None) -> Any:
        return await self._link.request("run", task, dict(inputs), plan)

    async def start_task(self, task: str, inputs: Mapping[str, Any], plan: str | None) -> str:
        return str(await self._link.request("start", task, dict(inputs), plan))

    async def emit(self, event: str, payload: Any) -> str:
        return str(await self._link.request("emit", event, payload))

    def hiding(self) -> Stream:
        return Redactor().stream()  # the server hides what comes from here

    async def checkpoint(self, value: Any) -> None:
        await self._link.request("checkpoint", value)
        self.checkpointed = value


class _State:
    """What stands behind ``ctx.state``."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def get(self, key: str, default: Any) -> Any:
        return await self._link.request("state.get", key, default)

    async def set(self, key: str, value: Any, ttl: float | str | None) -> None:
        await self._link.request("state.set", key, value, ttl)

    async def delete(self, key: str) -> bool:
        return bool(await self._link.request("state.delete", key))

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl: float | str | None) -> bool:
        return bool(await self._link.request("state.compare_and_set", key, expected, value, ttl))

    async def keys(self, prefix: str) -> list[str]:
        return list(await self._link.request("state.keys", prefix))


class _Log:
    """``ctx.log``; each line is one message."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def debug(self, event: str, **fields: Any) -> None:
        self._say("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._say("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._say("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._say("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        self._say("error", event, {**fields, "exception": traceback.format_exc()})

    def _say(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        self._link.send(Said(level, clean_text(str(event)), plain(fields)))


class _Secrets(Mapping[str, str]):
    """The secrets of the plan: each is asked for when it is used, and read then."""

    def __init__(self, names: list[str], link: Link) -> None:
        self._names = names
        self._link = link

    def __getitem__(self, name: str) -> str:
        return str(self._link.ask("secret", name).result())

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<secrets {', '.join(self._names)}>"
