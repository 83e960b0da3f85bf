"""The places of open streams: how many there may be, of everyone and of one token, and when a caller's time is over."""

from types import TracebackType

from aura.clock import Clock
from aura.errors import RequestError
from aura.web.grants import Grant
from aura.web.tokens import LOCAL

#: Which part of all streams one token may have; the local one may have all.
SHARE = 4


class StreamLimit:
    """Counts the open streams of a server and refuses those that would be too many."""

    def __init__(self, limit: int, clock: Clock) -> None:
        self._limit = limit
        self.clock = clock
        self.open = 0

    def take(self, grant: Grant) -> "Lease":
        """Count one more stream of a caller; it is open until the lease, a context manager, is left.

        Raises:
            RequestError: ``too_many_streams``.
        """
        share = self._limit if grant.token.id == LOCAL else max(1, self._limit // SHARE)
        if self.open >= self._limit:
            raise RequestError("too_many_streams", f"{self._limit} streams are open; close some", retry_after=5)
        if grant.token.streams >= share:
            raise RequestError("too_many_streams", f"{share} streams of this token are open; close some", retry_after=5)
        return Lease(self, grant)


class Lease:
    """The place of one stream, and the end of what allows it."""

    def __init__(self, limit: StreamLimit, grant: Grant) -> None:
        self._limit = limit
        self._grant = grant
        limit.open += 1
        grant.token.streams += 1

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limit.open -= 1
        self._grant.token.streams -= 1

    async def wait_ended(self) -> None:
        """Return when the caller's token or session has been revoked or has expired: the stream has to end then."""
        await self._grant.wait_ended(self._limit.clock)
