"""Shipped actions that run other tasks: ``task.run`` and ``task.start``. What they do is ``children``'s."""

from typing import Any

import msgspec

from aura.actions import action
from aura.context import Context


class Started(msgspec.Struct, frozen=True):
    """A run that was asked for and is accepted."""

    cid: str


@action(name="task.run")
async def run(ctx: Context, task: str, plan: str | None = None, inputs: dict[str, Any] = {}) -> Any:  # noqa: B006
    """Run a task in this run's place, wait for its end, and give its result."""
    return await ctx.run(task, inputs, plan)


@action(name="task.start")
async def start(ctx: Context, task: str, plan: str | None = None, inputs: dict[str, Any] = {}) -> Started:  # noqa: B006
    """Ask for a run of a task as any client would, and do not wait for it."""
    return Started(await ctx.start(task, inputs, plan))
