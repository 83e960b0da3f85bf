"""Room on the disk: what is refused while it is short, and what is written all the same.

Theory of operation. A service child looks at the disk every second. Of what is free there are three marks:

- below twice ``store.min_free`` log lines are no longer stored: they stop first, and live readers still get them;
- below ``store.min_free`` new work is refused; what was accepted goes on, and all of it is recorded;
- at nothing SQLite says so before the next look does: the *ballast* (``disk``) is given back in that instant, and the
  units that may not be refused are tried again at once, into its room.

The ballast counts as room that is not there: it is made if ``store.min_free`` is left beside it, and while it is away
that much more has to be free. So new work never takes the room of what runs. Each mark is left a tenth higher than it
is met, or a disk that is just at it would change its mind with every line. Too few files that can still be made are as
bad as too few bytes.

Everything is decided on the loop's thread; the ballast is made in another one. What a crash does: the ballast is there
or not, and the next start looks.
"""

from collections.abc import Callable

import anyio
from anyio import CapacityLimiter, to_thread

from aura.store import FULL
from aura.stores.disk import Disk, Free

#: Seconds between two looks.
LOOK_EVERY = 1.0
#: The ballast's size in bytes, and which part of ``store.min_free`` it is at most.
BALLAST_SIZE = 4 * 2**20
BALLAST_PART = 4
#: How many looks pass before a ballast that came to nothing is tried again: some file systems reserve no room (ZFS).
VAIN_LOOKS = 60
#: Files that must still be possible for new work: a run makes some, and so does SQLite.
MIN_FILES = 64
#: What has to be free before a disk that was full is written to again, in bytes, however low ``store.min_free`` is.
LEAST_ROOM = 2**20
#: By how much a mark is left higher than it is met.
MARGIN = 1.1
#: Log lines are stored above this many times ``store.min_free``.
LOG_FACTOR = 2

_MIB = 2**20


class Space:
    """What the disk has room for. Without a ``disk``, as in a world, there is always enough.

    ``refusal`` is why new work is refused, ``log_refusal`` why log lines are not stored; None while there is room.
    """

    def __init__(self, disk: Disk | None = None, min_free: int = 0) -> None:
        self._disk = disk
        self._min_free = min_free
        self._size = min(BALLAST_SIZE, min_free // BALLAST_PART)
        self._limiter = CapacityLimiter(1)
        self.refusal: str | None = None
        self.log_refusal: str | None = None
        #: What was free at the last look; None before the first.
        self.free: Free | None = None
        #: How much of the ballast is not there, in bytes, and what would be free beside a whole one.
        self._missing = 0
        self._room = Free(0, None)
        #: How many looks pass before the ballast is tried again.
        self._rest = 0
        #: How often the ballast was given back.
        self.drops = 0
        #: Called when new work begins to be refused.
        self.on_short: Callable[[], object] = bool
        #: Told of each change, with the level and the text of a log line.
        self.tell: Callable[[str, str], object] = _to_nobody

    @property
    def reasons(self) -> list[str]:
        """Why it is degraded: the worse of the two, if any."""
        worst = self.refusal or self.log_refusal
        return [worst] if worst else []

    async def serve(self) -> None:
        """Look at the disk again and again, until cancelled.

        Raises:
            OSError: it does not say how much room it has.
        """
        if self.free is not None:  # the look of ``open``: by it, before anything is accepted
            self._judge()
        while True:
            self._measure()
            self._rest = max(self._rest - 1, 0)
            if self._wants_ballast():
                await to_thread.run_sync(self._make_ballast, limiter=self._limiter)
                self._measure()
                self._rest = VAIN_LOOKS if self._missing else 0
            self._judge()
            await anyio.sleep(LOOK_EVERY)

    def open(self) -> None:
        """Look for the first time, before the database is opened; blocks.

        On a disk without room the start itself needs what an older one has kept.

        Raises:
            OSError: the disk does not say how much room it has.
        """
        assert self._disk is not None
        if self._disk.free().bytes < max(self._size, LEAST_ROOM):
            self._disk.drop_ballast()
        self._measure()
        if self._wants_ballast():
            self._make_ballast()
            self._measure()

    def drop(self) -> bool:
        """SQLite says that the disk is full: give the ballast back, and say whether there was one."""
        if self._disk is None:
            return False
        held = self._disk.held() > 0
        if held:
            self._disk.drop_ballast()
            self.drops += 1
        self._refuse(FULL)
        return held

    def _measure(self) -> None:
        """Ask how much room there is: every local file system answers from memory."""
        assert self._disk is not None
        self.free = self._disk.free()
        self._missing = self._size - self._disk.held()
        self._room = Free(self.free.bytes - self._missing, self.free.files)

    def _wants_ballast(self) -> bool:
        return self._missing != 0 and self._rest == 0 and not self._missed(self._room)

    def _make_ballast(self) -> None:
        assert self._disk is not None
        self._disk.make_ballast(self._size)

    def _missed(self, room: Free) -> bool:
        """Whether there is too little room for new work, once it is refused for it or not."""
        margin = MARGIN if self.refusal else 1.0
        least = max(self._min_free * margin, LEAST_ROOM if self.refusal else 0)
        return room.bytes < least or (room.files is not None and room.files < MIN_FILES * margin)

    def _judge(self) -> None:
        """Decide by the last look what is refused from now on."""
        if self._missed(self._room):
            self._refuse(f"{self._found()}; new work is refused until there is more")
        elif self.refusal is not None:
            self.refusal = None
            self.tell("info", "there is room on the disk again: new work is accepted")
        least = LOG_FACTOR * self._min_free * (MARGIN if self.log_refusal else 1.0)
        if self.refusal is not None or self._room.bytes < least:
            self._refuse_lines(f"{self._found()}; log lines are not stored until there is more")
        elif self.log_refusal is not None:
            self.log_refusal = None
            self.tell("info", "there is room on the disk again: log lines are stored")

    def _refuse(self, why: str) -> None:
        first, self.refusal = self.refusal is None, why
        self._refuse_lines(why)
        if first:
            self.tell("warning", why)
            self.on_short()

    def _refuse_lines(self, why: str) -> None:
        first, self.log_refusal = self.log_refusal is None, why
        if first and self.refusal is None:
            self.tell("warning", why)

    def _found(self) -> str:
        """How short the room is, in words."""
        room = self._room
        if room.files is not None and room.files < MIN_FILES * MARGIN:
            return f"the disk has room for {room.files} more files"
        wanted = f"store.min_free is {self._min_free / _MIB:.4g} MiB"
        return f"the disk has {max(room.bytes, 0) / _MIB:.4g} MiB of room, and {wanted}"


def _to_nobody(_level: str, _text: str) -> None:
    """What ``tell`` is until somebody listens."""
