"""How much of what processes say may go to the log, so that no flood of theirs fills it or keeps the server busy.

It counts and nothing else; ``loglines`` asks it before each line.

Theory of operation. All is counted in bytes, in buckets that fill as time passes and that each line empties; what a
line costs beside its text is counted as ``LINE_COST`` bytes more, so that a million short lines are no cheaper than
what they cost. One command at a time may say ``OWN``; what all commands say together is bounded by ``SHARED``, for the
log is written on the one event loop that all share. So that a quiet command loses nothing to the floods of others, the
first ``QUIET`` of each is given beside that. When there is no room the command is not asked again for ``PAUSE``: what
is kept then comes in stretches that can be read, and not as a line here and there.

Apart from the rate there is the whole of it: one start of a step adds at most ``LOG_CAP`` bytes to the log that is
stored, ``ROW_COST`` counted for each row.
"""

import anyio.lowlevel
import msgspec

KIB, MIB = 1024, 1024 * 1024
#: What a line costs to publish and to store, beside its text, in bytes that cost as much.
LINE_COST = KIB
#: What a row of the log takes on disk beside its text.
ROW_COST = 200
#: The most that one start of a step adds to the stored log, in bytes.
LOG_CAP = 10 * MIB
#: For how long nothing more is taken when there was no room, in seconds.
PAUSE = 1.0


class Rate(msgspec.Struct, frozen=True):
    """Bytes a second, and how many at once."""

    per_s: int
    burst: int


OWN = Rate(MIB, 2 * MIB)
SHARED = Rate(4 * MIB, 2 * MIB)
QUIET = Rate(32 * KIB, 64 * KIB)


class Bucket:
    """What is left of a rate. It is full at first; the last line may take more than is in it."""

    __slots__ = ("_at", "_left", "_rate")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._left = float(rate.burst)
        self._at: float | None = None

    def has_room(self, now: float) -> bool:
        passed = 0.0 if self._at is None else now - self._at
        self._at = now
        self._left = min(float(self._rate.burst), self._left + passed * self._rate.per_s)
        return self._left > 0

    def take(self, size: int) -> None:
        self._left -= size


_shared: anyio.lowlevel.RunVar[Bucket] = anyio.lowlevel.RunVar("aura.processes.floods.shared")


def shared_bucket() -> Bucket:
    """What all commands of this event loop share."""
    bucket = _shared.get(None)
    if bucket is None:
        bucket = Bucket(SHARED)
        _shared.set(bucket)
    return bucket


class Allowance:
    """What one start of a step may still say in the log, over all of its streams."""

    __slots__ = ("_closed_until", "_left", "_own", "_quiet", "_shared")

    def __init__(self, shared: Bucket) -> None:
        self._own, self._quiet, self._shared = Bucket(OWN), Bucket(QUIET), shared
        self._left = LOG_CAP
        self._closed_until = 0.0

    def take_line(self, now: float) -> bool:
        """Say whether a line that begins now may be said; ``charge`` it then. ``now`` is in seconds."""
        if self._left <= 0 or now < self._closed_until:
            return False
        has_room = self._own.has_room(now) and (self._quiet.has_room(now) or self._shared.has_room(now))
        if not has_room:
            self._closed_until = now + PAUSE
        return has_room

    def charge(self, now: float, size: int) -> None:
        """Count a line of so many bytes that has been said."""
        cost = size + LINE_COST
        self._left -= size + ROW_COST
        self._own.take(cost)
        (self._quiet if self._quiet.has_room(now) else self._shared).take(cost)
