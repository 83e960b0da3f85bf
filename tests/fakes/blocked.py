"""A store in memory that cannot be written for some time, as if another process held its lock or the disk were full."""

from collections.abc import Sequence

import anyio

from aura.errors import StoreLocked, StoreReadOnly
from aura.store import Ticket
from aura.stores.memory import MemoryBackend
from aura.stores.sqlite import BUSY_SLICE

LOCKED = StoreLocked("locked")
FULL = StoreReadOnly("full")
NEVER = float("inf")


class Blocked(MemoryBackend):
    """Cannot be written before ``free`` (loop time); each try takes as long as a real one."""

    def __init__(self, error: StoreReadOnly, free: float = NEVER) -> None:
        super().__init__()
        self.error = error
        self.free = free
        self.last_try = 0.0

    async def commit(self, batch: Sequence[Ticket]) -> None:
        self.last_try = anyio.current_time()
        if self.last_try < self.free:
            await anyio.sleep(BUSY_SLICE)
            raise self.error
        await super().commit(batch)
