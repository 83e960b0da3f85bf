"""Resources, and who may hold and ask for them: nouns. ``pool`` does the counting, ``claims`` knows runs and steps."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import msgspec


class Semaphore(msgspec.Struct, frozen=True):
    """A resource of which ``count`` can be held at a time."""

    count: int


class Rate(msgspec.Struct, frozen=True):
    """A resource of which ``count`` can be spent in ``per`` seconds. It fills evenly, and is not given back."""

    count: int
    per: float


Resource = Semaphore | Rate


class Slot(msgspec.Struct, frozen=True, cache_hash=True):
    """What a task's mode counts: a run of a task, or of those with the same key."""

    plan_name: str
    task_name: str
    key: str | None

    def __str__(self) -> str:
        return f"the mode of {self.plan_name}/{self.task_name}"


Name = str | Slot
#: (-priority, sequence, number of the claim): no two are the same.
Order = tuple[int, int, int]
#: How much a rate may lack and still do: rounding.
_EPSILON = 1e-9


class Holder:
    """Who may hold something: a run, or, below it, an attempt. ``label`` is what a message calls it."""

    __slots__ = ("below", "borrowed", "claim", "held", "label", "lending", "parent")

    def __init__(self, label: str, parent: "Holder | None" = None) -> None:
        self.label = label
        self.parent: Holder | None = None
        self.below: set[Holder] = set()
        self.held: dict[Name, int] = {}
        #: What it waits for.
        self.claim: Claim | None = None
        #: Of what it holds, what goes back to others; and what others hold that comes back to it.
        self.borrowed: list[Loan] = []
        self.lending: list[Loan] = []
        if parent is not None:
            self.stand_below(parent)

    def stand_below(self, parent: "Holder") -> None:
        """Be a part of another one: that cannot end before this has."""
        self.stand_apart()
        self.parent = parent
        below = self
        while below.parent is not None:  # one that held nothing may have been taken away
            below.parent.below.add(below)
            below = below.parent

    def stand_apart(self) -> None:
        """Be below nobody any more; nor are those above it that have nothing else."""
        holder, above = self, self.parent
        while above is not None:
            above.below.discard(holder)
            if not above.is_idle:
                return
            holder, above = above, above.parent

    @property
    def is_idle(self) -> bool:
        """Whether it holds and lends nothing and waits for nothing, and nobody is below it."""
        return not (self.held or self.below or self.claim or self.lending)

    @property
    def root(self) -> "Holder":
        """The run at the top."""
        return self if self.parent is None else self.parent.root

    def lent(self, name: Name) -> int:
        """How much of a resource those above it hold."""
        above = self.parent
        return 0 if above is None else above.held.get(name, 0) + above.lent(name)

    def above(self) -> "Iterator[Holder]":
        """Itself and all above it."""
        one: Holder | None = self
        while one is not None:
            yield one
            one = one.parent

    def line(self) -> "list[Holder]":
        """Itself, all above it and all below it."""
        return [*self.above(), *self.tree()[1:]]

    def tree(self) -> "list[Holder]":
        """Itself and all below it, each before what is below it."""
        found = [self]
        for one in found:  # it grows meanwhile
            found += one.below
        return found


class Loan:
    """What one holder has of another until it gives it back: to that one, while that one is still there."""

    __slots__ = ("borrower", "count", "lender", "name")

    def __init__(self, lender: Holder, borrower: Holder, name: Name, count: int) -> None:
        self.lender = lender
        self.borrower = borrower
        self.name = name
        self.count = count


class Claim:
    """What a holder asks for. ``told`` is called once when it is met, or, ``outside``, when its turn has come.

    ``told`` of one that is outside says whether it asks again in a moment; it may be called many times.
    """

    __slots__ = ("holder", "needs", "order", "outside", "set_aside", "told", "waits_in")

    def __init__(
        self, holder: Holder, needs: Mapping[Name, int], order: Order, told: Callable[[], bool], outside: bool = False
    ) -> None:
        self.holder = holder
        self.needs = needs
        self.order = order
        self.told = told
        self.outside = outside
        #: What it needs is kept for it.
        self.set_aside = False
        #: Of which resources it stands in line.
        self.waits_in: tuple[Name, ...] = ()


class Timer(Protocol):
    def cancel(self) -> None: ...


class Bin:
    """One resource: how much of it is in use, or when it was how full, and who waits for it in order.

    ``now`` gives the time in seconds: that of a rate passes.
    """

    __slots__ = ("_now", "at", "in_use", "inside", "level", "outside", "resource", "timer")

    def __init__(self, resource: Resource, now: Callable[[], float]) -> None:
        self.resource = resource
        self.in_use = 0
        self.level = float(resource.count)
        self._now = now
        self.at = now()
        self.inside: list[tuple[Order, Claim]] = []
        self.outside: list[tuple[Order, Claim]] = []
        self.timer: Timer | None = None

    def free(self) -> float:
        """How much can be taken now."""
        if not isinstance(self.resource, Rate):
            return self.resource.count - self.in_use
        now = self._now()
        self.level = min(self.resource.count, self.level + (now - self.at) * self.resource.count / self.resource.per)
        self.at = now
        return self.level + _EPSILON

    def wanted(self, need: int) -> int:
        """How much has to be free for one that needs so much: all of it, if there is less by now than it asked for."""
        return min(need, self.resource.count)

    def queue(self, claim: Claim) -> list[tuple[Order, Claim]]:
        return self.outside if claim.outside else self.inside

    @property
    def waiting(self) -> int:
        return len(self.inside) + len(self.outside)
