"""Shipped actions on what a plan remembers: ``state.get``, ``set``, ``delete`` and ``compare_and_set``.

What they do is ``planstate``'s. It is the plan of the step whose state they work on.
"""

from typing import Any

from aura.actions import action
from aura.context import Context
from aura.duration import Duration


@action(name="state.get")
async def get(ctx: Context, key: str, default: Any = None) -> Any:
    """Give what the plan remembers under a key, or a default."""
    return await ctx.state.get(key, default)


@action(name="state.set")
async def set_(ctx: Context, key: str, value: Any, ttl: Duration | None = None) -> None:
    """Have the plan remember a value under a key, for good or for a time."""
    await ctx.state.set(key, value, ttl)


@action(name="state.delete")
async def delete(ctx: Context, key: str) -> bool:
    """Forget a key; gives whether there was one."""
    return await ctx.state.delete(key)


@action(name="state.compare_and_set")
async def compare_and_set(ctx: Context, key: str, expected: Any, value: Any, ttl: Duration | None = None) -> bool:
    """Give a key a value if it has the expected one; gives whether it had."""
    return await ctx.state.compare_and_set(key, expected, value, ttl)
