"""When a change of a file counts: once it has stayed as it is for a while, so that half-written files are waited out.

It keeps what is changing of one folder, and since when it has been as it is. It asks neither clock nor file system.
"""

from collections.abc import Mapping

from aura.scheduling.filesets import Changes, Sign

#: For how long a file has to stay as it is, in seconds, and one that was emptied: most programs that write a file again
#: empty it first.
SETTLE = 0.5
SETTLE_EMPTIED = 2.0
#: For how long what has settled waits for what has not, so that what is copied together is told together, in seconds.
LONGEST_WAIT = 5.0


class Settling:
    """The files of a folder that are not as they are known."""

    def __init__(self) -> None:
        #: By path: as it is, and since when.
        self._since: dict[str, tuple[Sign | None, float]] = {}

    def look(self, changes: Changes, known: Mapping[str, Sign], now: float) -> dict[str, Sign | None]:
        """Take what differs from what is known, at ``now``; give what counts now, if anything does."""
        former, self._since = self._since, {}
        for path, sign in changes.items():
            as_before = former.get(path)
            self._since[path] = as_before if as_before is not None and as_before[0] == sign else (sign, now)
        waits = {path: self._settles_at(path, known) - now for path in self._since}
        settled = {path: self._since[path][0] for path, wait in waits.items() if wait <= 0}
        if len(settled) < len(waits) and all(wait > -LONGEST_WAIT for wait in waits.values()):
            return {}
        return settled

    @property
    def is_changing(self) -> bool:
        """Whether there is any that has not settled, or was not found as it is known since."""
        return bool(self._since)

    def pause(self, known: Mapping[str, Sign], now: float) -> float | None:
        """Seconds until the next of them has settled, if it stays as it is; None if nothing is changing."""
        ends = [self._settles_at(path, known) - now for path in self._since]
        return min((end for end in ends if end > 0), default=0.0) if ends else None

    def _settles_at(self, path: str, known: Mapping[str, Sign]) -> float:
        sign, since = self._since[path]
        emptied = sign is not None and sign.size == 0 and path in known and known[path].size > 0
        return since + (SETTLE_EMPTIED if emptied else SETTLE)
