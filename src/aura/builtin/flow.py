"""Shipped actions that say, wait and decide: ``log``, ``sleep``, ``fail``, ``stop`` and ``assert``."""

from typing import Any, Literal

import anyio
import msgspec

from aura.actions import action
from aura.context import Context
from aura.duration import Duration
from aura.errors import ActionFailed, AssertionFailed, EndRun, WaitFor
from aura.wait import SHORTEST, Wait, WaitKind


@action(name="log")
async def log(ctx: Context, message: Any, level: Literal["debug", "info", "warning", "error"] = "info") -> None:
    """Write a line to the run's log; what is not text is written as JSON."""
    text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
    getattr(ctx.log, level)(text)


@action(name="sleep")
async def sleep(duration: Duration) -> None:
    """Wait for a time, such as 500ms or 1h30m."""
    if duration < SHORTEST:
        await anyio.sleep(duration)
    else:
        raise WaitFor(Wait(WaitKind.SLEEP, seconds=duration))


@action(name="fail")
async def fail(message: str) -> None:
    """Fail this step with a message."""
    raise ActionFailed(message)


@action(name="stop")
async def stop(result: Any = None) -> None:
    """End the run here as succeeded, with a result."""
    raise EndRun(result)


@action(name="assert")
async def assert_(that: bool, message: str) -> None:
    """Fail this step with a message unless something is true."""
    if not that:
        raise AssertionFailed(message)
