"""Which steps of a graph can never start, whatever the others come to: found without running anything.

The rules. For each step it is known in which states it can end, and what must hold of the steps before it for it to
start at all: a state that one of them has to end in, and, since that one then must have started, all that it needs
itself. If two of these wishes leave no state for some step, or none that it can end in, the step can only be skipped.

It errs on one side alone: what it reports can never run. A step may always fail, also one that looks harmless; what
expressions give is not looked at, but for a ``when`` that is plainly false.
"""

from collections.abc import Iterator, Mapping

from aura.lifecycle import StepState
from aura.task import Dependency, Step

P = StepState
States = frozenset[StepState]
#: step → the states of which it must end in one.
Wishes = dict[str, States]

_ONLY_SKIPPED = frozenset({P.SKIPPED})
_WORDS = {
    P.SUCCEEDED: "succeeded",
    P.FAILED: "failed",
    P.TIMED_OUT: "timed out",
    P.SKIPPED: "been skipped",
    P.CANCELLED: "been cancelled",
}


class Unreachable(Exception):
    """The step that is looked at can never start. The text says why, ``at`` is the path of the reason in the step."""

    def __init__(self, reason: str, *at: str) -> None:
        super().__init__(reason)
        self.at = at


def unreachable(steps: Mapping[str, Step]) -> Iterator[tuple[Step, Unreachable]]:
    """Give each step that can only be skipped, and why. The steps are in an order that respects their graph."""
    if all(_may_start_after_success(step) for step in steps.values()):  # so can all, one after the other
        return
    ends: dict[str, States] = {}
    wishes: dict[str, Wishes] = {}
    for name, step in steps.items():
        try:
            wishes[name] = _wishes_of(step, steps, ends, wishes)
            ends[name] = _ends_of(step, ends)
        except Unreachable as reason:
            ends[name] = _ONLY_SKIPPED
            yield step, reason


def _may_start_after_success(step: Step) -> bool:
    fits = [P.SUCCEEDED in dependency.states for dependency in step.depends_on]
    return _is_open(step) and (all(fits) or (step.any_of and any(fits)))


def _is_open(step: Step) -> bool:
    """Say whether ``when`` can hold."""
    return step.when is None or step.when.value is not False


def _ends_of(step: Step, ends: Mapping[str, States]) -> States:
    """The states in which a step that can start can end."""
    found = {P.SUCCEEDED, P.FAILED, P.CANCELLED}
    if step.timeout is not None and step.loop is None:  # of a loop the items time out, and it fails
        found.add(P.TIMED_OUT)
    held_back = any(not ends[wish.step] <= wish.states for wish in step.depends_on)
    if held_back or (step.when is not None and step.when.value is not True):
        found.add(P.SKIPPED)
    return frozenset(found)


def _wishes_of(
    step: Step, steps: Mapping[str, Step], ends: Mapping[str, States], wishes: Mapping[str, Wishes]
) -> Wishes:
    """What must hold of the steps before it for a step to start.

    Raises:
        Unreachable: it cannot hold.
    """
    if not _is_open(step):
        raise Unreachable("`when` is false", "when")
    if not step.any_of:
        return _all_of(step.depends_on, steps, ends, wishes)
    choices = []
    for dependency in step.depends_on:
        if ends[dependency.step] & dependency.states:
            choices.append(_all_of((dependency,), steps, ends, wishes))
    if step.depends_on and not choices:
        names = ", ".join(dependency.step for dependency in step.depends_on)
        raise Unreachable(f"it needs one of {names}, and these can only be skipped", "depends_on")
    shared = set(choices[0]).intersection(*choices) if choices else set()
    return {name: frozenset().union(*(choice[name] for choice in choices)) for name in shared}


def _all_of(
    dependencies: tuple[Dependency, ...],
    steps: Mapping[str, Step],
    ends: Mapping[str, States],
    wishes: Mapping[str, Wishes],
) -> Wishes:
    found: Wishes = {}
    #: Whose wish it was that a step ends in one of the states found so far, if not the first one's.
    by: dict[str, str] = {}
    for dependency in dependencies:
        name, states = dependency.step, dependency.states & ends[dependency.step]
        if not states:
            reason = (
                f"it needs {name} to have {_words(dependency.states)}, but {_why_not(steps[name], dependency, ends)}"
            )
            raise Unreachable(reason, "depends_on", name)
        wanted = {name: states} | ({} if P.SKIPPED in states else wishes[name])
        if not found:  # a chain is as long as a task may be: its wishes are handed on as a whole
            found = wanted
            continue
        for other, allowed in wanted.items():
            left = found.get(other, allowed) & allowed
            if not left:
                first = _wish(by.get(other, dependencies[0].step), other, found[other])
                second = _wish(name, other, allowed)
                raise Unreachable(f"it needs {first}, and {second}", "depends_on", name)
            if left != found.get(other):
                found[other], by[other] = left, name
    return found


def _wish(by: str, name: str, states: States) -> str:
    wish = f"{name} to have {_words(states)}"
    return wish if by == name else f"{by}, which needs {wish}"


def _words(states: States) -> str:
    return " or ".join(word for state, word in _WORDS.items() if state in states)


def _why_not(step: Step, wish: Dependency, ends: Mapping[str, States]) -> str:
    if ends[step.name] == _ONLY_SKIPPED:
        return f"{step.name} can only be skipped"
    reasons = {P.SKIPPED: "is never skipped", P.TIMED_OUT: "is a loop that fails" if step.loop else "has no timeout"}
    return f"{step.name} " + " and ".join(text for state, text in reasons.items() if state in wish.states)
