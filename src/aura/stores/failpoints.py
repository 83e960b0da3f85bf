"""A backend round the real one that passes the failpoints of each unit. Made only where a failpoint is waited for.

It changes the units and side effects of the tickets that it is given, which it owns until they are resolved, and leaves
the commit itself to the real backend.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from aura import failpoints
from aura.failpoints import Moment, Site, passed
from aura.store import Execute, StoreBackend, Ticket, Unit

T = TypeVar("T")


def with_failpoints(backend: StoreBackend) -> StoreBackend:
    """The backend itself, or, if a failpoint is waited for, one round it."""
    return FailpointBackend(backend) if failpoints.is_armed() else backend


class FailpointBackend:
    """Passes ``before``, ``inside``, ``after`` and ``told`` for each unit that says whose it is."""

    def __init__(self, inner: StoreBackend) -> None:
        self._inner = inner
        self._watched: set[Ticket] = set()  # those on their way: a batch that could not be written comes again

    @property
    def execute(self) -> Execute:
        return self._inner.execute

    async def commit(self, batch: Sequence[Ticket]) -> None:
        mine = [(ticket, ticket.site) for ticket in batch if ticket.site is not None]
        for ticket, site in mine:
            passed(site, Moment.BEFORE)
            self._watch(ticket, site)
        await self._inner.commit(batch)
        self._watched.clear()
        for ticket, site in mine:
            if ticket.error is None:
                passed(site, Moment.AFTER)

    def _watch(self, ticket: Ticket, site: Site) -> None:
        if ticket not in self._watched:
            self._watched.add(ticket)
            ticket.unit, ticket.certain = partial(_inside, ticket.unit, site), False
            ticket.after = partial(_told, ticket.after, site)

    async def read(self, query: Callable[[Execute], T]) -> T:
        return await self._inner.read(query)

    def close(self) -> None:
        passed(Site.CHECKPOINT, Moment.BEFORE)
        self._inner.close()
        passed(Site.CHECKPOINT, Moment.AFTER)


def _inside(unit: Unit, site: Site, execute: Execute) -> None:
    unit(execute)
    passed(site, Moment.INSIDE)


def _told(after: Callable[[], object] | None, site: Site) -> None:
    """Run the side effect; the waiters, who are woken next, run in the loop's next turn, and this in the one after."""
    if after is not None:
        after()
    if Moment.TOLD in failpoints.SITES[site]:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, passed, site, Moment.TOLD)
