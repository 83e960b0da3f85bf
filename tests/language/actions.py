"""The actions of every plan in the cases: small, exact, and quick in virtual time."""

import builtins
from pathlib import Path
from typing import Any

import anyio

from aura import Context, action


@action
async def give(value: Any = None) -> Any:
    """Give back what it is given."""
    return value


@action
async def say(ctx: Context, text: Any) -> Any:
    """Write a line that the case may expect under ``said``."""
    ctx.log.info(str(text), said=True)
    return text


@action
async def wait(ctx: Context, seconds: float = 1.0, value: Any = None, text: Any = None) -> Any:
    """Take so many seconds; say ``text`` and, if it is stopped, that it was cut off."""
    if text is not None:
        ctx.log.info(f"{text} begins", said=True)
    try:
        await anyio.sleep(seconds)
    except BaseException:
        ctx.log.info(f"{ctx.step if text is None else text} is cut off", said=True)
        raise
    if text is not None:
        ctx.log.info(f"{text} ends", said=True)
    return value


@action
async def boom(kind: str = "ValueError", message: str = "boom") -> None:
    """Raise a built-in exception."""
    raise getattr(builtins, kind)(message)


@action
async def flaky(ctx: Context, fails: int = 1, kind: str = "ConnectionError", seconds: float = 0.0) -> int:
    """Fail the first ``fails`` attempts, then give the number of the attempt."""
    await anyio.sleep(seconds)
    if ctx.attempt <= fails:
        raise getattr(builtins, kind)(f"attempt {ctx.attempt}")
    return ctx.attempt


@action
async def fail_if(bad: Any, value: Any = None, seconds: float = 0.0) -> Any:
    """Fail if ``bad`` is true, else give ``value``."""
    await anyio.sleep(seconds)
    if bad:
        raise ValueError(f"bad: {value}")
    return value


@action
async def count(ctx: Context, name: str = "count") -> int:
    """Say how often it was called in this run, under this name."""
    file = Path(ctx.workdir, name)
    number = int(file.read_text()) + 1 if file.exists() else 1
    file.write_text(str(number))
    return number


@action
def in_thread(value: Any = None) -> Any:
    """As ``give``, in a thread."""
    return value


@action
async def not_json() -> Any:
    """Give what JSON does not have."""
    return {1, 2}
