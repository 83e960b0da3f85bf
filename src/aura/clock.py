"""The one source of time: wall time for people and calendars, monotonic time for durations.

Nothing else in the engine asks for either, so that a test may own both. Monotonic time is the event loop's own, so
that timers and the clock can never disagree.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol

import msgspec


class Clock(Protocol):
    """Wall and monotonic time, both in seconds."""

    @property
    def recheck(self) -> float:
        """How long who waits for a wall time may wait before looking again, since that may have jumped meanwhile."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch; may jump both ways."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back and do not count a suspend; only differences mean anything."""
        ...


class SystemClock:
    """The machine's wall clock and the running event loop's time."""

    recheck = 5.0

    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


#: The last second that RFC 3339 can write.
_LAST_SECOND = 253402300799.0


def utc(seconds: float) -> datetime:
    """Unix seconds as an aware time in UTC, to the microsecond.

    A time outside the years 1970 to 9999, as a broken clock may give, becomes the nearest one inside.
    """
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LAST_SECOND), UTC)


def rfc3339(seconds: float) -> str:
    """Write Unix seconds in UTC with microseconds, as ``utc`` has them: ``2026-11-22T02:30:00.000000Z``."""
    moment = utc(seconds)
    text: str = msgspec.to_builtins(moment)  # far quicker than ``isoformat``
    return text if moment.microsecond else text[:-1] + ".000000Z"
