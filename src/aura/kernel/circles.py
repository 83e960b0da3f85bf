"""Circles of those who wait for each other: whether there is one, and what it says.

Theory of operation. A *holder* is a run, or an attempt of one below it; it can end when all that is below it has ended
and its own claim is met, as are those of all above it (what rests below a run that waits goes on with that one), and
then frees what it holds. Whether a new claim can ever be met is found by reduction: let all holders end that can, again
and again; if the one that asks is left, the wait would close a circle and is refused. Letting a claim be met can close
none, so nothing else has to be looked at. The order of those inside must not close one either: who would wait for ever
behind an earlier one goes before it. Places are not looked at: who waits for
one, and holds the slot that a sub-task waits for, goes on beyond its lane's limit (``dispatcher``).
"""

from collections.abc import Iterable, Mapping

from aura.resources import Bin, Claim, Holder, Name, Rate

Bins = Mapping[Name, Bin]


def find_left(bins: Bins, holders: Iterable[Holder], in_order: bool = False) -> dict[Holder, None]:
    """Those that can never end, if all others do; ``in_order``: and none goes before an earlier one inside."""
    if not any(_grips(bins, holder) for holder in holders):
        return {}
    return _Reduction(bins, holders, in_order).left


def _grips(bins: Bins, holder: Holder) -> bool:
    """Whether it waits while it, or one above or below it, holds what somebody waits for: else there is no circle."""
    claim = holder.claim
    if claim is None:
        return False
    return any(bins[name].waiting or name in claim.needs for one in holder.line() for name in one.held)


def circle_text(bins: Bins, claim: Claim, left: Mapping[Holder, None]) -> str:
    """Say who waits for whom, from the one that asks round to itself."""
    links: list[tuple[str, Name]] = []
    waits: Claim | None = claim
    while waits is not None and all(label != waits.holder.root.label for label, _ in links):
        name, holder = _held_up(bins, waits, left)
        links.append((waits.holder.root.label, name))
        waits = next((h.claim for h in holder.root.tree() if h in left and h.claim), None)
    said = [f"{label} holds {links[index - 1][1]} and waits for {name}" for index, (label, name) in enumerate(links)]
    return f"it would wait for ever: {', '.join(said)}"


def _held_up(bins: Bins, claim: Claim, left: Mapping[Holder, None]) -> tuple[Name, Holder]:
    """Of what a claim lacks, one resource and one of those that hold it and cannot end."""
    for name in claim.needs:
        for holder in left:
            if holder.held.get(name) and bins[name].free() < bins[name].wanted(claim.needs[name]):
                return name, holder
    return next(iter(claim.needs)), claim.holder


class _Reduction:
    """Lets all holders end that can, again and again. ``left`` are those that cannot."""

    def __init__(self, bins: Mapping[Name, Bin], holders: Iterable[Holder], in_order: bool) -> None:
        self._bins = bins
        self._free = {name: found.free() for name, found in bins.items()}
        self._in_order = in_order
        #: By resource how many of those at the head of its line have ended.
        self._ended: dict[Name, int] = {}
        self.left: dict[Holder, None] = {}
        for holder in holders:
            above: Holder | None = holder
            while above is not None and above not in self.left:
                self.left[above] = None
                above = above.parent
        while self._end_some():
            pass

    def _end_some(self) -> bool:
        ended = False
        for holder in list(self.left):
            if self._can_end(holder):
                ended = True
                del self.left[holder]
                for name, count in holder.held.items():
                    self._free[name] += count
        return ended

    def _can_end(self, holder: Holder) -> bool:
        if any(below in self.left for below in holder.below):
            return False
        return all(one.claim is None or self._can_be_met(one.claim) for one in holder.above())

    def _can_be_met(self, claim: Claim) -> bool:
        for name, need in claim.needs.items():
            found = self._bins[name]
            if not isinstance(found.resource, Rate) and self._free[name] < found.wanted(need):
                return False
        return not self._in_order or all(self._is_first(claim, name) for name in claim.needs)

    def _is_first(self, claim: Claim, name: Name) -> bool:
        line = self._bins[name].inside
        first = self._ended.get(name, 0)
        while first < len(line) and line[first][1].holder not in self.left:
            first += 1
        self._ended[name] = first
        return first == len(line) or line[first][0] >= claim.order
