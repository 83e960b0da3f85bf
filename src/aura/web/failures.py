"""Callers that were refused for want of a good token, counted by their address, so that guessing is slow.

Whoever has a good token is never counted and never kept out, also at an address from which others guess. The address is
that of the connection: ``Forwarded`` and its kin are not believed.
"""

from collections.abc import Callable

from aura.errors import RequestError

#: So many are refused with 401 within so many seconds; the others with 429.
MAX_FAILURES = 10
WINDOW = 60.0
#: Addresses that are remembered; one more forgets the one whose window began first.
MAX_ADDRESSES = 4096
NO_TOKEN = "send the header Authorization: Bearer TOKEN; `aura token` prints the local one"  # noqa: S105 - a sentence


class Failures:
    """The count of one server. ``now`` gives monotonic seconds."""

    def __init__(self, now: Callable[[], float], limit: int = MAX_FAILURES) -> None:
        self._now = now
        self._limit = limit
        #: address → when its window ends, and how many came in it. In the order of the ends.
        self._seen: dict[str, tuple[float, int]] = {}

    def refuse(self, address: str, detail: str = NO_TOKEN) -> RequestError:
        """Count a failure and give the refusal of it: 401, or 429 if there were too many."""
        end, count = self._seen.get(address, (0.0, 0))
        now = self._now()
        if end <= now:
            end, count = self._begin(address, now), 0
        self._seen[address] = end, count + 1
        if count < self._limit:
            return RequestError("unauthorized", detail)
        message = f"more than {self._limit} requests without a good token came from {address or 'there'}; send one"
        return RequestError("too_many_requests", message, retry_after=end - now)

    def _begin(self, address: str, now: float) -> float:
        self._seen.pop(address, None)
        if len(self._seen) >= MAX_ADDRESSES:
            del self._seen[next(iter(self._seen))]
        return now + WINDOW
