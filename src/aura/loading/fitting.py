"""Plans of one load fitted together: what uses others is served only if they have what it uses.

Theory of operation. The plans are looked at in an order in which what is used comes first, again and again until
nothing changes: a new version that does not fit what the others are to serve gives way to the one before. A version
that is served already stays, even if a plan that it uses has lost what it needs, since its other tasks are as good as
ever; that is a problem of its plan until both fit again. In a circle of uses, versions that fit only each other come
together or not at all.
"""

from collections.abc import Mapping

import msgspec

from aura.errors import Problem
from aura.loading.crosscheck import Offer, Using, check_using
from aura.loading.generation import Generation
from aura.loading.loader import CheckedPlan


class Loaded(msgspec.Struct, eq=False):
    """What a load has made of one plan: the generation to be served, None if there is none, and what is wrong.

    ``former`` is what was served before; a new generation that does not fit what others serve goes back to it.
    ``unfit``: what is wrong is that it does not fit the others. ``kept_back``: a newer version, which has not
    passed its gate. ``importing``: a newer version is still being imported.
    """

    generation: Generation | None
    using: Using
    former: Generation | None
    former_using: Using
    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    unfit: bool = False
    kept_back: CheckedPlan | None = None
    importing: bool = False

    def offer(self) -> Offer:
        """What others may use of it."""
        if self.generation is None:
            return Offer({}, complete=True, tasks={}, broken=self.errors[0])
        return Offer(self.generation.actions, complete=True, tasks=self.generation.plan.tasks)

    def go_back(self, problems: tuple[Problem, ...]) -> None:
        """Serve what was served before."""
        self.unfit = True
        self.generation, self.using, self.errors = self.former, self.former_using, problems


def fit_together(loaded: Mapping[str, Loaded]) -> None:
    """Check the plans against what the others are to serve, and take back what does not fit."""
    offers = {name: one.offer() for name, one in loaded.items()}
    order = _used_first(loaded)
    unsettled = True
    while unsettled:  # each round but the last takes a new generation away
        unsettled = False
        for name in order:
            one = loaded[name]
            if one.generation is None or one.generation is one.former:
                continue
            problems = check_using(one.using, offers)
            if problems:
                one.go_back(problems)
                offers[name] = one.offer()
                unsettled = True
    for one in loaded.values():
        if one.generation is not None and not one.errors:  # what fits still fits; of the others only now is all known
            one.errors = check_using(one.using, offers)
            one.unfit = bool(one.errors)


def _used_first(loaded: Mapping[str, Loaded]) -> list[str]:
    """The names of the plans, each behind those that it uses, but for circles."""
    found: list[str] = []
    seen: set[str] = set()
    waiting = [(name, False) for name in loaded]
    while waiting:
        name, used_are_there = waiting.pop()
        if used_are_there:
            found.append(name)
        elif name in loaded and name not in seen:
            seen.add(name)
            waiting += [(name, True), *((other, False) for other in loaded[name].using.uses)]
    return found
