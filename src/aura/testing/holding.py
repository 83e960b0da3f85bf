"""How long work in flight may hold virtual time: a thread that computes, a process that runs.

What answers nothing for ``PATIENCE`` seconds lets time go on beside it, no faster than real time: so the grace of a
stop ends what hangs for ever. So does what has been in flight for ``ENDURANCE`` seconds, though it says something now
and then: a process that never stops printing meets its time-out. Of work that ends, and is followed by other work at
once, that counts anew for each piece, up to ``LONGEST_HOLD``.
"""

import time

#: Real seconds for which work in flight may be silent before time goes on beside it.
PATIENCE = 1.0
#: Real seconds for which the same work in flight may hold the time, whatever it says.
ENDURANCE = 10.0
#: Real seconds for which work may, each piece of which answers and is followed by another one at once.
LONGEST_HOLD = 60.0
#: Real seconds of silence after which the terminal is told who it is.
TOLD_AFTER = 10.0


class Hold:
    """One time in which work in flight holds the clock."""

    def __init__(self) -> None:
        self._begun = self._changed = self._heard = self._looked = time.monotonic()
        self._work: object = None
        self._told = False

    def look(self, heard: bool, work: object) -> float:
        """Note a look, whether anything was heard in it and what works; give the real seconds since the last one."""
        now = time.monotonic()
        if heard:
            self._heard, self._told = now, False
        if work != self._work:
            self._changed, self._work = now, work
        passed, self._looked = now - self._looked, now
        return passed

    @property
    def is_over(self) -> bool:
        """Whether time may go on beside the work."""
        if self._looked - self._heard > PATIENCE or self._looked - self._changed > ENDURANCE:
            return True
        return self._looked - self._begun > LONGEST_HOLD

    def is_to_be_told(self) -> bool:
        """Whether the terminal is to be told of it now: once for each silence."""
        if self._told or self._looked - self._heard <= TOLD_AFTER:
            return False
        self._told = True
        return True
