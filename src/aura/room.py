"""Room for what is on its way to the store: a bound in items and bytes, and a fair wait for those who may wait.

It counts and nothing else; who has taken a place gives it back. A place is handed to the one who has waited longest, so
that nobody who came later goes first. And a pace for what many want to do in the same turn of the loop.
"""

import asyncio
from collections import deque


class Room:
    """So many items, and about so many bytes of them, at once. Used from the loop's thread only."""

    def __init__(self, items: int, size: int) -> None:
        self._items = items
        self._max_size = size
        self._size = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        #: How many places are taken now.
        self.taken = 0

    @property
    def is_full(self) -> bool:
        return self.taken >= self._items or self._size >= self._max_size

    def take_nowait(self) -> bool:
        """Take a place; false if there is none. While others wait there is none: what comes back is handed to them."""
        if self.is_full:
            return False
        self.taken += 1
        return True

    async def take(self) -> None:
        """Take a place as soon as there is one. **Cancellation**: takes none."""
        if self.take_nowait():
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():  # a place was handed over in the same turn
                self.give_back()
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def add(self, size: int) -> None:
        """Say how large that is for which a place was taken, in bytes."""
        self._size += size

    def give_back(self, size: int = 0) -> None:
        """Give a place back, and hand on what is free."""
        self.taken -= 1
        self._size -= size
        while self._waiting and not self.is_full:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self.taken += 1
                waiter.set_result(None)


class Pace:
    """Spreads what many want to do at once over turns of the loop, so that others have their turns between them.

    In one turn it may take about ``share`` seconds; who comes beyond that waits for a later one, in order. Used from
    the loop's thread only.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._waiting: deque[asyncio.Future[None]] = deque()
        #: Seconds that it has taken in this turn, and what it takes for one of them, lately.
        self._spent = 0.0
        self._mean = 0.0
        self._armed = False

    async def turn(self) -> None:
        """Return in a turn in which there is time for it. **Cancellation**: nothing is taken."""
        if self._spent < self._share and not self._waiting:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._arm()
        await waiter

    def note(self, seconds: float) -> None:
        """Say how long it has taken for one of them."""
        self._mean += (seconds - self._mean) / 16
        self._spent += seconds
        if self._spent:
            self._arm()

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """A new turn has begun."""
        self._armed, self._spent = False, 0.0
        room = max(1, int(self._share / self._mean)) if self._mean > 0 else len(self._waiting)
        while self._waiting and room:
            waiter = self._waiting.popleft()
            if not waiter.done():  # else it was cancelled
                waiter.set_result(None)
                room -= 1
        if self._waiting:
            self._arm()
