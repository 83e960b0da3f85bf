"""The shipped action that emits: ``event.emit``. What it does is ``emitting``'s."""

from typing import Any

import msgspec

from aura.actions import action
from aura.context import Context


class EmittedEvent(msgspec.Struct, frozen=True):
    """An event that is on record."""

    event_id: str


@action(name="event.emit")
async def emit(ctx: Context, name: str, payload: Any = None) -> EmittedEvent:
    """Emit an event, and give its id once it is on record."""
    return EmittedEvent(await ctx.emit(name, payload))
