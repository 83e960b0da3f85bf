"""The pool of resources: what there is of each, who holds how much of it, and who waits.

It owns counts, rates and the order of those who wait. It knows neither runs nor plans (``claims`` does), and it does
nothing by itself but for one timer for each rate that somebody waits for.

Theory of operation. A *claim* names how much it needs of each resource, and takes all of it at once or nothing. A
semaphore is given back; a rate fills evenly, starts full and is spent. Claims wait in the order of ``(-priority,
seq)``: a later one may not take a resource that an earlier one waits for, so none starves; those that share no resource
do not hold each other up.

Two kinds wait. What is *inside* runs: it never waits behind what is *outside* and has yet to start, since that may need
a place which only those inside give back. One that is outside is told when its turn has come, and asks again when it
has the rest (``ask``); if it says that it is about to, what it needs is kept for it until ``settle``. It stands in line
for its slot first, and for the rest once it can have that.

What a holder has may be lent to one that waits (``take_over``). It is held once at any time, by the borrower; when that
one gives it back it goes to the lender, or is free if the lender has ended meanwhile.

A wait that would close a circle is refused, and the order of those inside must not close one either: who would wait for
ever behind an earlier one goes before it, one outside that holds its slot still and is to go on too (``circles``).

What a crash does: nothing here is stored.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping

from aura.errors import ResourceCircle, ResourceMissing
from aura.kernel.circles import circle_text, find_left
from aura.resources import Bin, Claim, Holder, Loan, Name, Order, Rate, Resource, Slot, Timer

#: The shortest wait for a rate, in seconds: time must pass, whatever rounding says.
_SHORTEST = 0.001


class Pool:
    """All resources. ``now`` is in seconds; ``call_later`` calls after some of them."""

    def __init__(
        self, now: Callable[[], float], call_later: Callable[[float, Callable[[], None]], Timer] | None = None
    ) -> None:
        self._now = now
        self._call_later = call_later
        self._bins: dict[Name, Bin] = {}
        self._set_aside: list[Claim] = []
        #: Told when lenders have again what they had lent (``takeovers``).
        self.on_returned: Callable[[], object] = bool
        #: Those that hold something or wait inside, in the order in which they began to.
        self._holders: dict[Holder, None] = {}
        #: How many inside wait for a slot.
        self._slots_awaited = 0

    # -- what there is

    def put(self, name: Name, resource: Resource) -> None:
        """Make a resource known, or change how much there is of it."""
        found = self._bins.get(name)
        if found is None:
            self._bins[name] = Bin(resource, self._now)
        elif found.resource != resource:
            found.free()
            found.resource = resource
            if isinstance(resource, Rate):
                found.level = min(found.level, resource.count)
            if found.waiting:
                self._look([name])

    def __iter__(self) -> Iterator[tuple[Name, Resource, int, int]]:
        """Every resource with how much of it is in use, and how many claims wait for it."""
        for name, found in self._bins.items():
            used = found.resource.count - int(found.free())
            yield name, found.resource, used, found.waiting

    def held(self) -> Iterator[tuple[str, Mapping[Name, int]]]:
        """What is held, with the label of the run that it is held for."""
        return ((holder.root.label, holder.held) for holder in self._holders if holder.held)

    def lacks(self, claim: Claim) -> dict[Name, list[str]]:
        """What a claim that waits waits for: each resource with the labels of the runs that hold it."""
        lacking = [n for n in claim.needs if not self._there(claim, n)] or list(claim.needs)
        return {name: sorted({h.root.label for h in self._holders if h.held.get(name)}) for name in lacking}

    def keepers(self) -> set[str]:
        """The labels of the runs that hold a slot for which somebody inside waits."""
        if not self._slots_awaited:
            return set()
        slots = {name for name, found in self._bins.items() if isinstance(name, Slot) and found.inside}
        return {holder.root.label for holder in self._holders if slots & holder.held.keys()}

    # -- asking

    def ask(self, claim: Claim) -> bool:
        """Take what a claim needs and say True, or let it wait; one that waits already may ask again.

        Raises:
            ResourceMissing: there is not so much of it, ever. ResourceCircle: it would wait for ever.
        """
        self._check(claim)
        if self._may_take(claim) or self._must_pass(claim):
            self._leave(claim)
            self._take(claim)
            self._look(claim.needs)  # those behind it may go with what it has left
            return True
        self._enter(claim)
        return False

    def _check(self, claim: Claim) -> None:
        for name, need in claim.needs.items():
            count = self._bins[name].resource.count
            if need > count:
                raise ResourceMissing(f"{need} of {name} are needed at once, and there is only {count} of it")

    def _enter(self, claim: Claim) -> None:
        """Let a claim stand in line where it has to."""
        like_another = self._is_like_the_last(claim)
        if claim.holder.claim is not claim:
            claim.holder.claim = claim
            if not claim.outside or _keeps_something(claim.holder):
                self._check_circle(claim, like_another)
        in_line = self._lines(claim)
        for name in in_line:
            if name not in claim.waits_in:
                insort(self._bins[name].queue(claim), (claim.order, claim))
                self._slots_awaited += not claim.outside and isinstance(name, Slot)
                self._arm(name, self._bins[name])
        claim.waits_in = in_line
        if like_another or (claim.outside and not _keeps_something(claim.holder)):
            return
        for holder in self._left(in_order=True):  # it goes before some of them now, or holds what they wait for
            if holder.claim is not None:
                self._look(holder.claim.waits_in)

    def _lines(self, claim: Claim) -> tuple[Name, ...]:
        slots = [name for name in claim.needs if isinstance(name, Slot)]
        if claim.outside and not all(self._has_turn(claim, slot) for slot in slots):
            return tuple({*slots, *claim.waits_in})
        return tuple(claim.needs)

    def _left(self, in_order: bool = False) -> dict[Holder, None]:
        return find_left(self._bins, self._holders, in_order)

    def _is_like_the_last(self, claim: Claim) -> bool:
        """Whether one that waits already is met whenever this one could be: another item of the same loop."""
        queue = next((self._bins[name].inside for name in claim.needs), [])
        if not queue or claim.outside or claim.holder.held:
            return False
        order, last = queue[-1]
        same = last.holder.parent is claim.holder.parent and last.needs == claim.needs
        return same and claim.holder.parent is not None and not last.holder.held and order < claim.order

    def _check_circle(self, claim: Claim, like_another: bool) -> None:
        self._holders[claim.holder] = None
        left = {} if like_another else self._left()
        if claim.holder in left:
            claim.holder.claim = None
            self._forget(claim.holder)
            raise ResourceCircle(circle_text(self._bins, claim, left))

    def withdraw(self, claim: Claim) -> None:
        """Let a claim wait no longer. Harmless for one that does not: it may have been refused."""
        names = claim.waits_in or claim.needs
        if claim.holder.claim is claim:
            self._leave(claim)
            self._forget(claim.holder)
        if claim.holder.is_idle:
            claim.holder.stand_apart()
        self._look(names)

    def take_over(self, claim: Claim, lenders: Iterable[Holder]) -> list[Loan]:
        """Meet a claim that waits with what lenders hold, out of its turn; gives no loans if that is not enough."""
        loans = self._find_loans(claim, list(lenders))
        if not loans:
            return []
        self._leave(claim)
        for loan in loans:
            self._bins[loan.name].in_use -= loan.count
            _change(loan.lender.held, loan.name, -loan.count)
            loan.lender.lending.append(loan)
            loan.borrower.borrowed.append(loan)
            self._forget(loan.lender)
        self._take(claim)
        self._look(claim.needs)
        return loans

    def _find_loans(self, claim: Claim, lenders: list[Holder]) -> list[Loan]:
        """What a claim would have to borrow; nothing if even that were not enough, or need not be."""
        found: list[Loan] = []
        for name, need in claim.needs.items():
            if self._has_turn(claim, name):
                continue
            if isinstance(name, Slot) or isinstance(self._bins[name].resource, Rate):
                return []
            short = self._bins[name].wanted(need)
            if not self._behind(claim, name):
                short -= max(0, int(self._free(claim, name)))
            for lender in lenders:
                count = min(short, lender.held.get(name, 0))
                if count > 0:
                    found.append(Loan(lender, claim.holder, name, count))
                    short -= count
            if short > 0:
                return []
        return found

    def _end_loans(self, holder: Holder) -> None:
        """Give back what a holder that gives back all has borrowed; what it has lent is no longer its own."""
        if holder.borrowed:
            self.on_returned()
        for loan in holder.borrowed:
            _change(holder.held, loan.name, -loan.count)
            _change(loan.lender.held, loan.name, loan.count)
            loan.lender.lending.remove(loan)
            self._holders[loan.lender] = None
        holder.borrowed.clear()
        for loan in holder.lending:
            loan.borrower.borrowed.remove(loan)
        holder.lending.clear()

    def settle(self) -> None:
        """Keep nothing any longer for those that were told and have not asked."""
        while self._set_aside:
            asleep, self._set_aside = self._set_aside, []
            for claim in asleep:
                claim.set_aside = False
            names = {name: None for claim in asleep for name in claim.waits_in}
            self._look(names, tell=False)

    # -- holding

    def hold(self, holder: Holder, needs: Mapping[Name, int]) -> None:
        """Note that somebody holds something, whatever there is of it: it did before anybody counted."""
        for name, count in needs.items():
            holder.held[name] = holder.held.get(name, 0) + count
            self._bins[name].in_use += count
        self._holders[holder] = None

    def give_back(self, holder: Holder, keep_slots: bool = False) -> None:
        """Give back what a holder and all below it hold, and let none of them wait."""
        freed: dict[Name, None] = {}
        tree = holder.tree()
        for one in tree:
            if one.claim is not None:
                freed |= dict.fromkeys(one.claim.needs)
                self._leave(one.claim)
            if one.borrowed or one.lending:
                self._end_loans(one)
            kept: dict[Name, int] = {}
            if keep_slots:
                kept = {name: held for name, held in one.held.items() if isinstance(name, Slot)}
            for name, held in one.held.items():
                if name not in kept:
                    self._bins[name].in_use -= held
                    freed[name] = None
            one.held = kept
            self._forget(one)
        for one in tree:  # what keeps its slot stays below it, and nothing else
            if one is not holder and one.is_idle:
                one.stand_apart()
        self._look(freed)

    def part(self, holder: Holder, keep_slots: bool = False) -> None:
        """Give back all that a holder and those below it hold, and take it from the one above."""
        self.give_back(holder, keep_slots)
        if holder.parent is not None and holder.is_idle:
            holder.stand_apart()

    def _take(self, claim: Claim) -> None:
        held = claim.holder.held
        for name, need in claim.needs.items():
            found = self._bins[name]
            if isinstance(found.resource, Rate):
                found.level -= need
            else:
                found.in_use += need
                held[name] = held.get(name, 0) + need
        if held:
            self._holders[claim.holder] = None
        else:
            self._forget(claim.holder)

    def _leave(self, claim: Claim) -> None:
        if claim.holder.claim is not claim:
            return
        claim.holder.claim = None
        claim.set_aside = False
        for name in claim.waits_in:
            queue = self._bins[name].queue(claim)
            del queue[_position(queue, claim)]
            self._slots_awaited -= not claim.outside and isinstance(name, Slot)
        claim.waits_in = ()

    def _forget(self, holder: Holder) -> None:
        if not holder.held and holder.claim is None:
            self._holders.pop(holder, None)

    # -- whose turn it is

    def _there(self, claim: Claim, name: Name) -> bool:
        """Whether there is enough of a resource, beside what is kept for an earlier one."""
        return self._free(claim, name) >= self._bins[name].wanted(claim.needs[name])

    def _free(self, claim: Claim, name: Name) -> float:
        """How much of a resource a claim could have, beside what is kept for an earlier one."""
        free = self._bins[name].free()
        if self._set_aside:
            before = (c for c in self._set_aside if c.set_aside and c.order < claim.order and c is not claim)
            free -= sum(c.needs.get(name, 0) for c in before)
        return free

    def _may_take(self, claim: Claim) -> bool:
        return all(self._has_turn(claim, name) for name in claim.needs)

    def _has_turn(self, claim: Claim, name: Name) -> bool:
        return self._there(claim, name) and not self._behind(claim, name)

    def _behind(self, claim: Claim, name: Name) -> bool:
        """Whether an earlier one waits for the same: nobody inside waits for one that is outside."""
        found = self._bins[name]
        return _stands_before(found.inside, claim) or (claim.outside and _stands_before(found.outside, claim))

    def _must_pass(self, claim: Claim) -> bool:
        """Whether a claim could be met now, and would wait for ever behind the earlier ones."""
        if claim.outside and not _keeps_something(claim.holder):
            return False
        if not all(self._there(claim, name) for name in claim.needs):
            return False
        waits, claim.holder.claim = claim.holder.claim, claim
        known = claim.holder in self._holders
        self._holders[claim.holder] = None
        stays = claim.holder in self._left(in_order=True)
        claim.holder.claim = waits
        if not known:
            del self._holders[claim.holder]
        return stays

    def _look(self, names: Iterable[Name], tell: bool = True) -> None:
        """Let those who wait for these go on, as far as they can; ``tell`` those outside whose turn it is."""
        todo = dict.fromkeys(names)
        while todo:
            name, _ = todo.popitem()
            found = self._bins.get(name)
            if found is None:
                continue
            if found.outside and tell:
                self._tell(name, found.outside[0][1])
                for claim in self._resting(name) if found.inside else ():
                    self._tell(name, claim)
            if found.inside:
                for claim in self._met(found):
                    todo |= dict.fromkeys(claim.needs)
            if found.inside or found.outside:
                self._arm(name, found)
            elif isinstance(name, Slot) and not found.in_use:
                del self._bins[name]

    def _resting(self, name: Name) -> list[Claim]:
        """Those who wait outside for a resource to go on, and hold their slot: who is inside may wait for that."""
        claims = (holder.claim for holder in self._holders if holder.claim is not None)
        return [claim for claim in claims if claim.outside and name in claim.waits_in]

    def _tell(self, name: Name, claim: Claim) -> None:
        """Tell one of those outside that its turn has come, if it has."""
        soon = isinstance(name, Slot) and self._has_turn(claim, name) and claim.waits_in == (name,)
        if claim.set_aside or not (soon or self._may_take(claim) or self._must_pass(claim)) or not claim.told():
            return
        claim.set_aside = True
        self._set_aside.append(claim)

    def _met(self, found: Bin) -> Iterator[Claim]:
        """Meet those inside that can be met, in order."""
        for _, claim in list(found.inside):
            if found.free() < 1:
                return
            if claim.holder.claim is claim and (self._may_take(claim) or self._must_pass(claim)):
                self._leave(claim)
                self._take(claim)
                yield claim
                claim.told()

    def _arm(self, name: Name, found: Bin) -> None:
        """Look again when a rate has filled up for the first who waits for it."""
        if not isinstance(found.resource, Rate) or self._call_later is None:
            return
        free = found.free()
        first = [claim for queue in (found.inside, found.outside) for _, claim in queue[:1]]
        lacks = [found.wanted(claim.needs[name]) - free for claim in first]
        if any(lack > 0 for lack in lacks):
            if found.timer is not None:  # else it stays: it may be about to strike for one that need not lack any more
                found.timer.cancel()
            least = min(lack for lack in lacks if lack > 0)
            seconds = max(_SHORTEST, least * found.resource.per / found.resource.count)
            found.timer = self._call_later(seconds, lambda: self._look([name]))

    def close(self) -> None:
        """Stop the timers."""
        for found in self._bins.values():
            if found.timer is not None:
                found.timer.cancel()
        self._call_later = None


def _change(held: dict[Name, int], name: Name, by: int) -> None:
    held[name] = held.get(name, 0) + by
    if not held[name]:
        del held[name]


def _keeps_something(holder: Holder) -> bool:
    """Whether a run that waits to start, or a sub-task of it that rests, holds something: its slot."""
    return bool(holder.held) or any(one.held for one in holder.tree())


def _stands_before(queue: list[tuple[Order, Claim]], claim: Claim) -> bool:
    """Whether somebody in a line is to go before a claim."""
    return bool(queue) and queue[0][0] < claim.order


def _position(queue: list[tuple[Order, Claim]], claim: Claim) -> int:
    return bisect_left(queue, claim.order, key=lambda entry: entry[0])
