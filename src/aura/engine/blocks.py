"""What a block of the event loop is, and how one is told from a loop that is busy, waits, or is not let run.

It holds the rules alone: it has no thread, reads no frames and asks no clock. ``watchdog`` has these, and the theory.
"""

import threading
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

from aura.engine.culprit import Culprit, Place
from aura.polling.question import Question
from aura.runs.attempt import Attempt
from aura.runs.liverun import LiveRun

#: How often the loop beats, and how often that is looked at, in seconds.
BEAT = 0.05
LOOK = 0.05
#: Lateness of a beat from which on it is asked who is to blame, in seconds.
SUSPICIOUS = 0.1
#: From how many seconds on it is a block, and a long one.
BLOCKED, LONG = 0.25, 5.0
#: How many lines of one block are told apart.
MAX_PLACES = 100


class Block(NamedTuple):
    """The loop was kept for ``seconds``, for the most part at ``place``, if that could be seen."""

    seconds: float
    place: Place | None
    run: LiveRun | None
    attempt: Attempt | None
    #: The question of a poll that kept it.
    asked: Question | None = None


class _Suspect:
    """A call of the loop that was found running; times are seconds for which the beat had been late."""

    def __init__(self, handle: object, began: float) -> None:
        self.handle = handle
        self.run: LiveRun | None = None
        self.attempt: Attempt | None = None
        self.asked: Question | None = None
        self.places: Counter[Place] = Counter()
        self.began = self.seen = began
        self.looks = 0
        self.told = False

    def see(self, found: Culprit, late: float) -> None:
        """It was found, perhaps again."""
        self.run, self.attempt = self.run or found.run, self.attempt or found.attempt
        self.asked = self.asked or found.asked
        if found.place in self.places or len(self.places) < MAX_PLACES:
            self.places[found.place] += 1
        self.looks += 1
        self.seen = late

    def block(self, end: float) -> Block | None:
        """What it comes to if it has ended at ``end``."""
        if self.looks < 2 or end - self.began < BLOCKED:
            return None
        often = [place for place, _ in self.places.most_common()]
        place = next((place for place in often if place.own), next(iter(often), None))
        return Block(end - self.began, place, self.run, self.attempt, self.asked)


class Watch:
    """What the loop and its watcher share: the beat, and who is suspected. The lock is held for a beat, or a look.

    ``now`` is monotonic time; ``who`` tells of a frame what it runs; ``used`` is the processor time of the loop's
    thread; ``starved`` says whether that thread could run and is not let. Times are seconds.
    """

    def __init__(
        self,
        now: Callable[[], float],
        who: Callable[[FrameType | None], Culprit | None],
        used: Callable[[], float],
        starved: Callable[[], bool],
    ) -> None:
        self._now, self._who, self._used, self._starved = now, who, used, starved
        self._lock = threading.Lock()
        self._beat = self._looked = now()
        self._used_then = used()
        #: Seconds since the last beat in which the loop was not let run, whatever was to run on it.
        self._lost = 0.0
        #: Nobody was suspected since the last beat: whoever is now has had the loop from the beginning.
        self._is_first = True
        self._suspect: _Suspect | None = None
        self._over: list[Block] = []

    def beat(self) -> tuple[float, list[Block]]:
        """The loop beats: give how late, and the blocks that are over."""
        with self._lock:
            now = self._now()
            late = max(0.0, now - self._beat - BEAT)
            self._end_suspect(late - self._lost)
            self._beat, self._lost, self._is_first = now, 0.0, True
            over, self._over = self._over, []
            return late, over

    def look(self, frame: FrameType | None) -> Block | None:
        """Look at the beat, every ``LOOK`` seconds: give a block that has just become a long one.

        ``frame`` is what the loop's thread is in. If the watcher was kept from looking as well it is asked at once who
        that is: it was C code that kept the interpreter, and it goes on as soon as it can.
        """
        with self._lock:
            now = self._now()
            kept_out = now - self._looked >= BLOCKED
            found = self._who(frame) if kept_out else None
            self._lost = min(self._lost + self._lost_lately(now), now - self._beat)
            late = now - self._beat - BEAT - self._lost
            if late < SUSPICIOUS:
                return None
            if kept_out:
                self._blame(found, late)
            else:
                self._suspect_now(self._who(frame), late)
            return self._long_block(late)

    def _lost_lately(self, now: float) -> float:
        """How many of the seconds since the last look the loop was not let run in.

        If this look comes late itself the process stood still, but for what the loop has computed meanwhile.
        """
        gap, used = now - self._looked, self._used()
        self._looked, idle, self._used_then = now, gap - (used - self._used_then), used
        if gap > 2 * LOOK:
            return max(0.0, idle - LOOK)
        is_late = now - self._beat - BEAT - self._lost >= SUSPICIOUS
        return max(0.0, idle) if is_late and self._starved() else 0.0

    def _blame(self, found: Culprit | None, late: float) -> None:
        """One look has to do. What is not in a plan's code may well have come after whoever it was: nobody is named."""
        suspect = self._suspect
        if suspect is None or found is None or found.handle is not suspect.handle:
            self._change_suspect(found.handle if found is not None else object(), late)
        assert self._suspect is not None
        self._suspect.looks += 1
        if found is not None and found.place.own:
            self._suspect.see(found, late)
        else:
            self._suspect.seen = late
            self._suspect.looks += 1

    def _suspect_now(self, found: Culprit | None, late: float) -> None:
        if found is None:
            self._change_suspect(None, late)
            return
        if self._suspect is None or self._suspect.handle is not found.handle:
            self._change_suspect(found.handle, late)
        assert self._suspect is not None
        self._suspect.see(found, late)

    def _change_suspect(self, handle: object | None, late: float) -> None:
        if self._suspect is not None:
            self._end_suspect(self._suspect.seen)
        if handle is not None:
            self._suspect = _Suspect(handle, 0.0 if self._is_first else late)
        self._is_first = False

    def _long_block(self, late: float) -> Block | None:
        suspect = self._suspect
        if suspect is None or suspect.told or (block := suspect.block(late)) is None or block.seconds < LONG:
            return None
        suspect.told = True
        return block

    def _end_suspect(self, end: float) -> None:
        suspect, self._suspect = self._suspect, None
        if suspect is not None and (block := suspect.block(end)) is not None:
            self._over.append(block)
