"""When a plan that has changed is whole: what was seen of its files decides, and how long ago they changed last.

Theory of operation. Files of a plan are written one after the other and each bit by bit, and nothing says when that is
over. So a version is a candidate once nothing of its plan has changed for a while, and how long a while depends on what
the change looks like:

- ``QUIET``: whatever else. A version that can be served is served then. One that cannot be (it does not parse, its
  import fails, it does not fit other plans) may be half written: it is *tentative*, and put off.
- ``DOUBT``: a file that had content has none, or is gone, or cannot be looked at: editors truncate and then write, or
  remove and then rename. And what was put off: now it is said what is wrong with it.
- ``GONE``: the plan's folder is not there.

The time runs from the change itself, as the file system has it, not from when it was heard of: so the way of an event
to here costs nothing. Where that clock cannot be right (network drives have their own) it runs from the last look that
did not show the change; and whatever clocks say, what is loaded was seen by two looks ``TWICE`` apart.

A writer that pauses for longer than ``QUIET`` in the middle of a version, whose beginning can be served as it is, has
that served; who cannot write quicker renames a folder, or a link, into place.

No I/O and no clock in here: ``reloader`` looks, asks when, and loads.
"""

import math
from collections.abc import Mapping

import msgspec

from aura.loading.snapshot import Look, Stamp

#: Seconds without a change.
QUIET, DOUBT, GONE = 0.2, 1.0, 2.0
#: The least time between the first and the last look at what is loaded, in seconds.
TWICE = 0.05


class _Change(msgspec.Struct):
    """What was last seen of a plan that differs from what was loaded: ``seen`` first at a time, and quiet ``since``.

    ``look`` is None if the plan is gone.
    """

    look: Look | None
    seen: float
    since: float
    put_off: bool = False

    def ripe_at(self, known: Look | None) -> float:
        doubtful = self.put_off or is_doubtful(known, self.look)
        quiet = GONE if self.look is None else DOUBT if doubtful else QUIET
        return max(self.since + quiet, self.seen + TWICE)


class Settling:
    """What was loaded of each plan, and what has changed since. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._known: dict[str, Look] = {}
        self._changes: dict[str, _Change] = {}
        #: When each plan was last looked at.
        self._seen_at: dict[str, float] = {}

    def see(self, looks: Mapping[str, Look | None], now: float, wall: float) -> None:
        """Take in what looks at plans have shown, None for one that is gone.

        ``wall`` is the time of now by the clock of the file system.
        """
        for name, look in looks.items():
            known, change = self._known.get(name), self._changes.get(name)
            if is_same(look, known):
                self._changes.pop(name, None)
            elif change is None or not is_same(look, change.look):
                age = wall - _changed_at(known if change is None else change.look, look)
                since = min(now, max(now - age, self._seen_at.get(name, -math.inf)))
                self._changes[name] = _Change(look, now, since)
            self._seen_at[name] = now
            if look is None and known is None:  # it came and went
                del self._seen_at[name]

    def ripe(self, now: float) -> dict[str, tuple[Look | None, bool]]:
        """The plans to be loaded now: what was seen of each, and whether it is tentative.

        With the first that is ripe come those that were put off: it may have been the others that they did not fit.
        """
        if self.next_at() > now:
            return {}
        return {
            name: (change.look, now - change.since < DOUBT)
            for name, change in self._changes.items()
            if change.put_off or change.ripe_at(self._known.get(name)) <= now
        }

    def next_at(self) -> float:
        """When the next plan is ripe if nothing more changes; of none, infinity."""
        return min((one.ripe_at(self._known.get(name)) for name, one in self._changes.items()), default=math.inf)

    def changing(self) -> frozenset[str]:
        """The plans that are not as they were loaded."""
        return frozenset(self._changes)

    def known(self) -> frozenset[str]:
        """The plans that were there when they were last looked at, or loaded."""
        return frozenset(self._known.keys() | self._changes.keys())

    def loaded(self, name: str, look: Look | None) -> None:
        """That is what was loaded, whatever came of it."""
        if look is None:
            self._known.pop(name, None)
            self._seen_at.pop(name, None)
        else:
            self._known[name] = look
        change = self._changes.get(name)
        if change is not None and is_same(look, change.look):
            del self._changes[name]

    def know(self, name: str) -> None:
        """A plan is served; if it was never seen, its next look is a change, also if it is gone."""
        self._known.setdefault(name, Look({}, {}))

    def put_off(self, name: str, look: Look | None) -> None:
        """It could not be served, and nothing was said of it yet."""
        change = self._changes.get(name)
        if change is not None and is_same(look, change.look):
            change.put_off = True


def is_same(one: Look | None, other: Look | None) -> bool:
    """Say whether two looks have seen the same content."""
    if one is None or other is None:
        return one is other
    return one.stamps == other.stamps and bool(one.folders) == bool(other.folders)


def is_doubtful(known: Look | None, look: Look | None) -> bool:
    """Say whether a file that had content has none now, is gone, or cannot be looked at."""
    now = _stamps(look)
    return any(_size(stamp) and not _size(now.get(path)) for path, stamp in _stamps(known).items())


def _stamps(look: Look | None) -> Mapping[str, Stamp | None]:
    return {} if look is None else look.stamps


def _size(stamp: Stamp | None) -> int:
    return 0 if stamp is None else stamp[2]


def _changed_at(former: Look | None, look: Look | None) -> float:
    """When the last file that differs was changed, in seconds by the file system; if it cannot say, infinity."""
    before, now = _stamps(former), _stamps(look)
    if not now or before.keys() - now.keys():
        return math.inf
    changed = [stamp for path, stamp in now.items() if stamp != before.get(path)]
    return max((stamp[4] / 1e9 if stamp else math.inf for stamp in changed), default=math.inf)
