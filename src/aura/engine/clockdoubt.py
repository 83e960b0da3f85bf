"""Whether the wall clock is to be believed when it says that records are old.

A machine without a battery, or with a bad time server, may be years ahead for a while: then everything that is kept
looks old, and what retention has removed does not come back. So a clock that has jumped far ahead, while the server
runs or since the one before it, is doubted for ``DOUBT`` seconds, and whoever looks after the machine is told. A laptop
that slept for days is doubted as well, which costs nothing but that day.
"""

from aura.clock import Clock, rfc3339
from aura.context import Log
from aura.store import Execute

DAY = 24 * 3600.0
#: A jump of more seconds than this is doubted while the server runs.
JUMP = DAY
#: For how many seconds of running it is.
DOUBT = DAY

_GAP = """SELECT started_at - (SELECT max(max(started_at, coalesce(ended_at, 0))) FROM boot WHERE number < ?)
 FROM boot WHERE number = ?"""


def read_gap(execute: Execute, boot: int) -> float:
    """The seconds between the last sign of an older start of the server and this one; 0 for the first."""
    row = execute(_GAP, (boot, boot)).fetchone()
    return float(row[0] or 0.0) if row else 0.0


class ClockDoubt:
    """Looks at the clock from time to time."""

    def __init__(self, clock: Clock, log: Log) -> None:
        self._clock = clock
        self._log = log
        self._ahead = clock.wall() - clock.monotonic()
        self._until = 0.0

    def note_gap(self, seconds: float, days: int) -> None:
        """Note how long there was no server before this one: if it is longer than ``days``, everything looks old."""
        if seconds > days * DAY:
            self._begin(f"no server has run on this data for {seconds / DAY:.0f} days")

    def is_doubted(self) -> bool:
        """Look at the clock now, and say whether records may be younger than it makes them."""
        ahead = self._clock.wall() - self._clock.monotonic()
        if ahead - self._ahead > JUMP:
            self._begin(f"the clock has jumped {(ahead - self._ahead) / DAY:.0f} days ahead")
        self._ahead = ahead
        return self._clock.monotonic() < self._until

    def _begin(self, why: str) -> None:
        self._until = self._clock.monotonic() + DOUBT
        self._log.warning(
            f"{why}, to {rfc3339(self._clock.wall())}: nothing is removed for its age for a day of running; "
            "if the clock is wrong, set it right"
        )
