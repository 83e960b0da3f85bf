"""What comes to a world from outside by other doors than a request or an event: calls of webhooks, files, stops.

Nothing rings in a world when a file changes: on a server that is a thread that listens to the system. Who changes files
in a test is its body, or code of a plan. So the folders of file triggers are looked at whenever the body awaits
something of the world, and when an attempt has ended (``Interception.on_end``). Files settle in virtual time.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Literal

from aura.testing.run import Run
from aura.testing.virtual_time import VirtualLoop

if TYPE_CHECKING:
    from aura.testing.world import World

#: How long the engine has to stop, in virtual seconds, unless a test says otherwise.
GRACE = 10.0


class Doors:
    """The part of a world by which something gets in."""

    loop: VirtualLoop
    call: Callable[..., Awaitable[Any]]
    #: Whether folders are looked at by themselves: in the test of a plan.
    looks_at_files = False
    _look_is_due = False

    def _world(self) -> "World":
        raise NotImplementedError  # a world is one

    async def call_webhook(
        self, item: str, payload: Any = None, *, headers: Mapping[str, str] | None = None, delivery: str | None = None
    ) -> list[Run]:
        """Call the webhook of an item, as somebody who knows its secret; give the runs that this starts: one, or none
        where the item does not want it (``world.why()`` says why).

        ``headers``: of the call; a plan sees some of them as ``event.headers``. ``delivery``: what the sender calls it.
        The same one starts nothing again: it gives the run of the first call.

        Raises:
            RequestError: there is no such webhook, or the run is refused.
        """
        world = self._world()
        await world.open()
        given = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        proven = world.engine.webhooks.as_proven(world.plan_name, item, given, delivery)
        receipt = await self.call(world.engine.webhooks.receive, proven, payload)
        return [Run(world, receipt.started)] if receipt.started is not None else []

    async def stop_engine(self, mode: Literal["drain", "cancel"] = "cancel", grace: float = GRACE) -> None:
        """Stop starting runs, as ``aura stop`` does; the server goes on. ``grace``: virtual seconds for what runs."""
        await self._world().open()
        await self.call(self._world().engine.stop, mode, grace)

    async def start_engine(self) -> None:
        """Start runs again, as ``aura start`` does."""
        await self._world().open()
        await self.call(self._world().engine.start)

    # -- files

    @property
    def files_are_settled(self) -> bool:
        """Whether what has changed in folders that are looked at is told; where nobody looks, nobody waits for it."""
        return not self.looks_at_files or self._world().engine.file_triggers.are_settled

    def look_at_files(self) -> None:
        """Have the folders looked at soon in which the test, or a plan, has changed files."""
        self._look_is_due = False
        if self.looks_at_files and self._world().begun:
            self._world().engine.file_triggers.look_where_changed()

    def note_folders(self) -> None:
        """Have folders looked at from now on when code of a plan may have changed files."""
        looks = self.looks_at_files and self._world().engine.file_triggers.has_folders
        self._world().interception.on_end = self._look_later if looks else None

    def _look_later(self) -> None:
        """Look in the next turn, and not within the attempt that has just ended: the guard would ask what it may."""
        if not self._look_is_due:
            self._look_is_due = True
            self.loop.call_soon(self.look_at_files, context=Context())
