"""Holds as functions of firings and runs: what they say agrees with the contract put as naively as can be."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.heldruns import a_run

from aura.interrupt import HandlerStart, Preempts, Terms, Then
from aura.kernel.holds import Holds, active_below, covers, fits, topmost
from aura.runs.firing import Firing
from aura.runs.liverun import LiveRun

NAMES = st.text("ab-", min_size=1, max_size=4)
PATTERNS = st.lists(st.text("ab*", min_size=1, max_size=4) | st.just("*"), min_size=1, max_size=2).map(tuple)
LANES = st.sampled_from(["main", "event"])
LABELS = st.dictionaries(st.sampled_from("kl"), st.sampled_from("vw"), max_size=2)
PRIORITIES = st.integers(-2, 2)

preempts = st.builds(
    Preempts,
    lanes=st.lists(LANES, max_size=2, unique=True).map(tuple),
    plans=PATTERNS,
    tasks=PATTERNS,
    labels=LABELS,
    below_priority=PRIORITIES | st.just(1001),
)
#: As ``preempts``, but most often the whole of a lane.
wholes = st.builds(Preempts, lanes=st.lists(LANES, max_size=2, unique=True).map(tuple))
terms = st.builds(
    Terms,
    preempts=preempts | wholes,
    then=st.sampled_from(Then),
    handler_starts=st.sampled_from(HandlerStart),
    grace=st.just(5.0),
    plan_name=st.none() | NAMES,
)
runs = st.builds(a_run, st.integers(0, 99), plan=NAMES, task=NAMES, lane=LANES, priority=PRIORITIES, labels=LABELS)
#: A run, what it is a part of, and so on.
trees = st.lists(runs, min_size=1, max_size=4)


def means(pattern: str, name: str) -> bool:
    """Whether a name is what a pattern says, in which ``*`` stands for any text."""
    if not pattern.startswith("*"):
        return name[:1] == pattern[:1] and (not pattern or means(pattern[1:], name[1:]))
    return any(means(pattern[1:], name[n:]) for n in range(len(name) + 1))


def naively_fits(said: Terms, run: LiveRun) -> bool:
    wanted = said.preempts
    asked = {
        "lane": run.lane in set(wanted.lanes),
        "plan": any(means(pattern, run.plan_name) for pattern in wanted.plans),
        "task": any(means(pattern, run.task_name) for pattern in wanted.tasks),
        "label": all(run.accepted.labels.get(name) == value for name, value in wanted.labels.items()),
        "priority": not run.priority >= wanted.below_priority,
        "own plan": said.plan_name is None or run.plan_name == said.plan_name,
    }
    return all(asked.values())


def stacked(made: Sequence[LiveRun]) -> Sequence[LiveRun]:
    """Make each run a part of the next one; the children of each are known."""
    for child, parent in pairwise(made):
        child.parent = parent
        parent.children.setdefault("s", []).append(child)
    return made


def a_firing(id: int, said: Terms, priority: int = 0) -> Firing[LiveRun]:
    handler = a_run(1000 + id, lane="interrupt")
    firing = Firing(id, "p", f"r{id}", "e", None, priority, 0.0, said, handler)
    handler.firing = firing
    return firing


@settings(max_examples=60, deadline=None)
@given(terms, runs)
def test_run_fits_if_all_of_it_does(said: Terms, run: LiveRun) -> None:
    assert fits(said, run) is naively_fits(said, run)


@settings(max_examples=60, deadline=None)
@given(terms, trees)
def test_topmost_is_the_last_one_that_fits_on_the_way_up(said: Terms, tree: list[LiveRun]) -> None:
    found = [run for run in stacked(tree) if naively_fits(said, run)]
    assert topmost(said, tree[0]) is (found[-1] if found else None)


@settings(max_examples=60, deadline=None)
@given(trees)
def test_what_is_below_a_run_is_all_of_it(tree: list[LiveRun]) -> None:
    stacked(tree)
    assert list(active_below(tree[-1])) == tree[:-1][::-1]


@settings(max_examples=60, deadline=None)
@given(terms, trees, st.booleans(), st.booleans(), st.booleans())
def test_firing_covers_what_fits_and_what_it_has_stopped(
    said: Terms, tree: list[LiveRun], stopped: bool, spared: bool, caused: bool
) -> None:
    run, top = stacked(tree)[0], topmost(said, tree[0])
    firing = a_firing(1, said)
    if caused:
        run = a_run(7, root=firing.cid, lane=run.lane)
    run.stopped_by = firing if stopped else None
    firing.spared = [top] if spared and top else []
    assert covers(firing, run) is (stopped or (top is not None and not spared and not caused))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(terms, PRIORITIES), max_size=4), runs, LANES, st.booleans())
def test_nothing_of_a_closed_lane_is_admitted_but_what_is_exempt(
    opened: list[tuple[Terms, int]], run: LiveRun, lane: str, caused: bool
) -> None:
    holds, firings = Holds(), [a_firing(n, said, priority) for n, (said, priority) in enumerate(opened)]
    for firing in firings:
        holds.add(firing)
    if caused and firings:
        run = a_run(7, root=firings[0].cid, lane=lane)
    run.lane = lane
    assert holds.admits(run) is not any(covers(firing, run) for firing in firings)
    assert holds.over(run) == [firing for firing in holds.open if covers(firing, run)]
    if holds.closes(lane) and holds.admits(run):
        assert run.accepted.root_cid in {firing.cid for firing in holds.open}


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(6)), st.lists(PRIORITIES, min_size=6, max_size=6))
def test_first_handler_alone_may_start_by_priority_then_by_order(order: list[int], priorities: list[int]) -> None:
    holds = Holds()
    said = Terms(Preempts(), Then.RESUME, HandlerStart.AFTER_CLEANUP, 5.0)
    firings = [a_firing(n, said, priority) for n, priority in enumerate(priorities)]
    for n in order:
        holds.add(firings[n])
    while holds.open:
        first = min(holds.open, key=lambda one: (-one.priority, one.id))
        assert [one for one in holds.open if holds.admits(one.handler)] == [first]
        first.awaited = {a_run(1)}
        assert not holds.admits(first.handler)  # it waits for a clean-up, and the next one for it
        assert holds.over(first.handler) == [first]
        holds.remove(first)
        holds.remove(first)
