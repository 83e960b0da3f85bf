"""The pool of resources: all at once or nothing, in order, never over capacity, and no wait for ever."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura.errors import ResourceCircle, ResourceMissing
from aura.kernel.pool import Pool
from aura.plan import Rate, Semaphore
from aura.resources import Claim, Holder, Name, Slot

NAMES = ("arm", "lamp", "screen")


class _Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Bench:
    """A pool with a clock of its own, and what was told to whom."""

    def __init__(self, **counts: int) -> None:
        self.time = 0.0
        self.timers: list[tuple[float, Callable[[], None], _Timer]] = []
        self.pool = Pool(lambda: self.time, self.call_later)
        for name, count in counts.items():
            self.pool.put(name, Semaphore(count))
        self.told: list[Claim] = []
        self.numbers = 0

    def call_later(self, seconds: float, call: Callable[[], None]) -> _Timer:
        self.timers.append((self.time + seconds, call, timer := _Timer()))
        return timer

    def advance(self, seconds: float) -> None:
        end = self.time + seconds
        while due := [entry for entry in self.timers if entry[0] <= end and not entry[2].cancelled]:
            first = min(due, key=lambda entry: entry[0])
            self.timers.remove(first)
            self.time = max(self.time, first[0])
            first[1]()
        self.time = end

    def claim(self, holder: Holder, priority: int = 0, outside: bool = False, **needs: int) -> Claim:
        return self.claim_of(holder, needs, priority, outside)

    def claim_of(self, holder: Holder, needs: Mapping[Any, int], priority: int = 0, outside: bool = False) -> Claim:
        self.numbers += 1
        claim: Claim

        def told() -> bool:
            self.told.append(claim)
            return True

        claim = Claim(holder, needs, (-priority, self.numbers, 0), told, outside)
        return claim

    def ask(self, holder: Holder, **needs: int) -> bool:
        return self.pool.ask(self.claim_of(holder, needs))

    def used(self) -> dict[Name, int]:
        return {name: in_use for name, _, in_use, _ in self.pool}


def run(name: str) -> Holder:
    return Holder(f"run {name}")


def below(parent: Holder, name: str = "s") -> Holder:
    return Holder(f"step {name} of {parent.label}", parent)


# -- taking and giving back


def test_claim_takes_all_of_it_or_nothing() -> None:
    bench = Bench(arm=1, screen=2)
    a, b = run("a"), run("b")
    assert bench.ask(a, screen=2)
    assert not bench.ask(b, arm=1, screen=1)
    assert bench.used() == {"arm": 0, "screen": 2}
    bench.pool.give_back(a)
    assert bench.used() == {"arm": 1, "screen": 1}


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(ResourceMissing, match="3 of screen are needed at once, and there is only 2 of it"):
        Bench(screen=2).ask(run("a"), screen=3)


def test_those_who_wait_are_met_by_priority_and_then_in_order() -> None:
    bench = Bench(screen=1)
    first = run("a")
    assert bench.ask(first, screen=1)
    waiting = [bench.claim(run(name), priority, screen=1) for name, priority in (("b", 0), ("c", 5), ("d", 5))]
    assert not any(bench.pool.ask(claim) for claim in waiting)
    bench.pool.give_back(first)
    for claim in (waiting[1], waiting[2], waiting[0]):
        assert bench.told[-1] is claim
        bench.pool.give_back(claim.holder)
    assert len(bench.told) == 3


def test_later_claim_does_not_take_what_an_earlier_one_waits_for() -> None:
    bench = Bench(arm=1, screen=1)
    holds, early, late = run("a"), run("b"), run("c")
    assert bench.ask(holds, arm=1)
    assert not bench.ask(early, arm=1, screen=1)
    assert not bench.ask(late, screen=1)
    bench.pool.give_back(holds)
    assert early.held == {"arm": 1, "screen": 1}
    bench.pool.give_back(early)
    assert late.held == {"screen": 1}


def test_claims_that_share_nothing_do_not_hold_each_other_up() -> None:
    bench = Bench(arm=1, screen=1)
    assert bench.ask(run("a"), arm=1)
    assert not bench.ask(run("b"), arm=1)
    assert bench.ask(run("c"), screen=1)


def test_withdrawn_claim_holds_nobody_up() -> None:
    bench = Bench(arm=1, screen=1)
    assert bench.ask(run("a"), arm=1)
    early, late = bench.claim(run("b"), arm=1, screen=1), bench.claim(run("c"), screen=1)
    assert not bench.pool.ask(early)
    assert not bench.pool.ask(late)
    bench.pool.withdraw(early)
    assert bench.told == [late]


def test_more_of_a_resource_lets_those_go_that_wait() -> None:
    bench = Bench(screen=1)
    assert bench.ask(run("a"), screen=1)
    claim = bench.claim(run("b"), screen=1)
    assert not bench.pool.ask(claim)
    bench.pool.put("screen", Semaphore(2))
    assert bench.told == [claim]


def test_less_of_a_resource_takes_nothing_away() -> None:
    bench = Bench(screen=2)
    a, b = run("a"), run("b")
    assert bench.ask(a, screen=1)
    assert bench.ask(b, screen=1)
    bench.pool.put("screen", Semaphore(1))
    claim = bench.claim(run("c"), screen=1)
    assert not bench.pool.ask(claim)
    bench.pool.give_back(a)
    assert bench.told == []
    bench.pool.give_back(b)
    assert bench.told == [claim]


def test_who_waits_for_more_than_there_is_by_now_is_met_by_all_of_it() -> None:
    bench = Bench(screen=2)
    a = run("a")
    assert bench.ask(a, screen=1)
    claims = [bench.claim(run("b"), screen=2), bench.claim(run("c"), screen=1)]
    assert [bench.pool.ask(claim) for claim in claims] == [False, False]
    bench.pool.put("screen", Semaphore(1))
    for claim in claims:
        assert claim not in bench.told
        bench.pool.give_back(a)
        assert bench.told[-1] is claim
        a = claim.holder
    bench.pool.give_back(a)
    assert bench.used() == {"screen": 0}


def test_slots_are_kept_by_who_comes_back() -> None:
    bench = Bench(screen=1)
    slot = Slot("p", "t", None)
    bench.pool.put(slot, Semaphore(1))
    a = run("a")
    assert bench.pool.ask(bench.claim_of(a, {slot: 1, "screen": 1}))
    bench.pool.give_back(a, keep_slots=True)
    assert (a.held, bench.used()["screen"]) == ({slot: 1}, 0)
    bench.pool.part(a)
    assert bench.used() == {"screen": 0}, "a slot that nobody has or wants is forgotten"


def test_what_those_above_hold_is_lent() -> None:
    bench = Bench(screen=3)
    top = run("a")
    step = below(top)
    assert bench.ask(top, screen=1)
    assert bench.ask(step, screen=2)
    assert Holder("run c", step).lent("screen") == 3


# -- outside


def test_outside_is_told_and_asks_again() -> None:
    bench = Bench(screen=1)
    a, b = run("a"), run("b")
    assert bench.ask(a, screen=1)
    claim = bench.claim(b, outside=True, screen=1)
    assert not bench.pool.ask(claim)
    bench.pool.give_back(a)
    assert (bench.told, b.held) == ([claim], {})
    assert bench.pool.ask(claim)
    assert b.held == {"screen": 1}


def test_what_is_inside_does_not_wait_behind_what_is_outside() -> None:
    bench = Bench(arm=1, screen=1)
    assert bench.ask(run("a"), arm=1)
    assert not bench.pool.ask(bench.claim(run("b"), outside=True, arm=1, screen=1))
    assert not bench.pool.ask(bench.claim(run("c"), outside=True, screen=1))
    assert bench.ask(run("d"), screen=1)


def test_it_is_kept_for_an_earlier_one_outside_that_is_about_to_ask() -> None:
    bench = Bench(screen=1)
    a = run("a")
    assert bench.ask(a, screen=1)
    outside, inside = bench.claim(run("b"), outside=True, screen=1), bench.claim(run("c"), screen=1)
    assert not bench.pool.ask(outside)
    assert not bench.pool.ask(inside)
    bench.pool.give_back(a)
    assert bench.told == [outside]
    bench.pool.settle()
    assert bench.told == [outside, inside], "it did not ask after all"


def test_slot_comes_first_and_the_rest_is_not_waited_for_before() -> None:
    bench = Bench(screen=1)
    slot = Slot("p", "t", None)
    bench.pool.put(slot, Semaphore(1))
    a = run("a")
    assert bench.pool.ask(bench.claim_of(a, {slot: 1}))
    waiting = bench.claim_of(run("b"), {slot: 1, "screen": 1}, outside=True)
    assert not bench.pool.ask(waiting)
    other = run("c")
    assert bench.pool.ask(bench.claim(other, outside=True, screen=1)), "it waits for its mode and not for the screen"
    bench.pool.part(a)
    assert bench.told == [waiting]
    assert not bench.pool.ask(waiting)
    bench.pool.give_back(other)
    assert bench.pool.ask(waiting)


# -- rates


def test_rate_starts_full_and_fills_evenly() -> None:
    bench = Bench()
    bench.pool.put("api", Rate(3, 60.0))
    holders = [run(str(n)) for n in range(6)]
    assert [bench.ask(holder, api=1) for holder in holders] == [True] * 3 + [False] * 3
    times: list[int] = []
    for _ in range(601):
        bench.advance(0.1)
        times += [round(bench.time)] * (len(bench.told) - len(times))
    assert times == [20, 40, 60]


def test_one_that_asks_as_the_rate_has_just_filled_up_keeps_nobody_waiting() -> None:
    bench = Bench()
    bench.pool.put("api", Rate(5, 1.0))
    assert bench.ask(run("a"), api=4)
    assert not bench.ask(run("b"), api=5)
    assert not bench.ask(run("c"), api=1)
    bench.advance(1.0)  # c has all but what rounding took
    assert not bench.ask(run("d"), api=1)
    bench.advance(1.0)
    assert len(bench.told) == 3


def test_rate_is_not_given_back() -> None:
    bench = Bench()
    bench.pool.put("api", Rate(1, 60.0))
    a = run("a")
    assert bench.ask(a, api=1)
    bench.pool.give_back(a)
    assert not bench.ask(run("b"), api=1)
    assert bench.used() == {"api": 1}


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0.0, 3.0)), max_size=60), st.floats(0.01, 20.0))
def test_rate_never_gives_more_than_it_may(asks: list[tuple[int, float]], per: float) -> None:
    bench = Bench()
    bench.pool.put("api", Rate(5, per))
    taken: list[tuple[float, int]] = []
    for need, pause in asks:
        before = len(bench.told)
        if bench.ask(run("x"), api=need):
            taken.append((bench.time, need))
        bench.advance(pause)
        taken += [(bench.time, claim.needs["api"]) for claim in bench.told[before:]]
    for index, (start, _) in enumerate(taken):
        for end, _ in taken[index:]:
            spent = sum(need for at, need in taken if start <= at <= end)
            assert spent <= 5 + (end - start + 3.0) * 5 / per + 1e-6, "what was met in a pause is noted at its end"
    bench.advance(per * 400)
    assert all(waiting == 0 for *_, waiting in bench.pool)


# -- circles


def test_two_runs_that_want_what_the_other_holds_are_a_circle() -> None:
    bench = Bench(arm=1, screen=1)
    a, b = run("a"), run("b")
    assert bench.ask(a, screen=1)
    assert bench.ask(b, arm=1)
    assert not bench.ask(below(a), arm=1)
    with pytest.raises(ResourceCircle) as refused:
        bench.ask(below(b), screen=1)
    said = "it would wait for ever: run b holds arm and waits for screen, run a holds screen and waits for arm"
    assert str(refused.value) == said
    bench.pool.give_back(b)
    assert len(bench.told) == 1


def test_run_that_wants_more_than_is_left_beside_its_own_is_a_circle() -> None:
    bench = Bench(screen=2)
    a = run("a")
    assert bench.ask(a, screen=1)
    with pytest.raises(ResourceCircle, match="run a holds screen and waits for screen"):
        bench.ask(below(a), screen=2)


def test_attempt_that_ends_by_itself_closes_no_circle() -> None:
    bench = Bench(arm=1, screen=1)
    a, b = run("a"), run("b")
    held = below(a, "x")
    assert bench.ask(held, screen=1)
    assert bench.ask(b, arm=1)
    assert not bench.ask(below(a, "y"), arm=1)
    assert not bench.ask(below(b), screen=1), "step x ends, whatever step y waits for"


def test_sub_task_is_a_part_of_the_attempt_that_waits_for_it() -> None:
    bench = Bench(arm=1, screen=1)
    a, b = run("a"), run("b")
    step = below(a)
    assert bench.ask(step, screen=1)
    assert bench.ask(b, arm=1)
    assert not bench.ask(Holder("run child", step), arm=1)
    with pytest.raises(ResourceCircle):
        bench.ask(below(b), screen=1)


@pytest.mark.parametrize("first", ["the one that rests", "the other one"])
def test_what_rests_below_one_that_waits_ends_no_earlier_than_that(first: str) -> None:
    """A sub-task that rests keeps its slot; its parent waits to go on, and another's sub-task for that slot."""
    bench, slot = Bench(arm=1), Slot("p", "c", None)
    bench.pool.put(slot, Semaphore(1))
    rests, other = run("rests"), run("other")
    assert bench.ask(other, arm=1)
    assert bench.pool.ask(bench.claim_of(below(below(rests), "c"), {slot: 1}))
    bench.pool.give_back(rests, keep_slots=True)
    goes_on = bench.claim(rests, outside=True, arm=1)
    claims = [goes_on, bench.claim_of(below(below(other), "c"), {slot: 1})]
    claims = claims if first == "the one that rests" else claims[::-1]
    assert not bench.pool.ask(claims[0])
    with pytest.raises(ResourceCircle, match="run rests holds the mode of p/c and waits for arm"):
        bench.pool.ask(claims[1])


def test_rate_closes_no_circle() -> None:
    bench = Bench(screen=1)
    bench.pool.put("api", Rate(1, 1.0))
    a, b = run("a"), run("b")
    assert bench.ask(a, screen=1)
    assert bench.ask(b, api=1)
    assert not bench.ask(below(a), api=1)
    assert not bench.ask(below(b), screen=1)


def test_order_closes_no_circle_either() -> None:
    """An earlier claim waits for what ``a`` holds; ``a`` must not wait behind it for what is free."""
    bench = Bench(arm=2)
    a, b = run("a"), run("b")
    assert bench.ask(a, arm=1)
    early = bench.claim(below(b), 9, arm=2)
    assert not bench.pool.ask(early)
    step = below(a)
    assert bench.ask(step, arm=1)
    bench.pool.give_back(a)
    assert bench.told == [early]


def test_wait_that_a_later_one_makes_hopeless_by_its_order_goes_before_it() -> None:
    bench = Bench(arm=1, lamp=1, screen=1)
    c, w, x = run("c"), run("w"), run("x")
    assert bench.ask(c, lamp=1)
    assert bench.ask(x, screen=1)
    assert not bench.ask(below(w), arm=1, screen=1)
    behind = bench.claim(below(c), arm=1)
    assert not bench.pool.ask(behind), "it waits behind w, which waits for x"
    assert not bench.ask(below(x), lamp=1), "x waits for c now, so c goes before w"
    assert bench.told == [behind]


# -- by chance


class Op(NamedTuple):
    kind: str
    run: int
    step: int
    needs: dict[str, int]
    priority: int


OPS = st.lists(
    st.builds(
        Op,
        st.sampled_from(["task", "step", "step", "end step", "end step", "withdraw", "end run"]),
        st.integers(0, 4),
        st.integers(0, 2),
        st.dictionaries(st.sampled_from(NAMES), st.integers(1, 2), min_size=1),
        st.integers(0, 2),
    ),
    max_size=60,
)


class Story:
    """Runs that take what they need to start, steps of them that take more, and all of it as chance will have it."""

    def __init__(self) -> None:
        self.bench = Bench(arm=2, lamp=2, screen=3)
        self.runs = [run(str(n)) for n in range(5)]
        self.started: set[int] = set()
        self.steps: dict[tuple[int, int], Claim] = {}
        self.starts: dict[int, Claim] = {}

    def do(self, op: Op) -> None:
        pool, key = self.bench.pool, (op.run, op.step)
        if op.kind == "task" and op.run not in self.started:
            self.start(op.run, op.needs, op.priority)
        elif op.kind == "step" and op.run in self.started and key not in self.steps:
            claim = self.bench.claim_of(below(self.runs[op.run]), op.needs, op.priority)
            try:
                pool.ask(claim)
                self.steps[key] = claim
            except ResourceCircle:
                pool.part(claim.holder)
        elif op.kind == "end step" and key in self.steps and self.steps[key].holder.claim is None:
            pool.part(self.steps.pop(key).holder)
        elif op.kind == "withdraw" and key in self.steps and self.steps[key].holder.claim is not None:
            pool.withdraw(self.steps[key])
            pool.part(self.steps.pop(key).holder)
        elif op.kind == "end run":
            self.end_run(op.run)
        self.let_start()

    def start(self, number: int, needs: dict[str, int], priority: int) -> None:
        if number not in self.starts:
            self.starts[number] = self.bench.claim_of(self.runs[number], needs, priority, outside=True)
        self.try_start(number)

    def try_start(self, number: int) -> None:
        if self.bench.pool.ask(self.starts[number]):
            del self.starts[number]
            self.started.add(number)

    def let_start(self) -> None:
        """What the dispatcher does when it is told."""
        while told := [n for n, claim in self.starts.items() if claim in self.bench.told]:
            self.bench.told = [claim for claim in self.bench.told if not claim.outside]
            for number in sorted(told, key=lambda n: self.starts[n].order):
                self.try_start(number)
        self.bench.pool.settle()

    def end_run(self, number: int) -> None:
        self.bench.pool.give_back(self.runs[number])
        self.started.discard(number)
        self.starts.pop(number, None)
        for key in [key for key in self.steps if key[0] == number]:
            del self.steps[key]

    def check(self) -> None:
        held: dict[Any, int] = {}
        for holder in (one for top in self.runs for one in top.tree()):
            for name, count in holder.held.items():
                held[name] = held.get(name, 0) + count
        assert {name: held.get(name, 0) for name in NAMES} == self.bench.used()
        assert all(in_use <= resource.count for _, resource, in_use, _ in self.bench.pool)
        for claim in [*self.steps.values(), *self.starts.values()]:
            met = claim.holder.claim is not claim
            assert claim.holder.held == (claim.needs if met else {}), "all of it or nothing"

    def finish(self) -> int:
        """Let everything end that can, until nothing is left; how many rounds that took."""
        for rounds in range(200):
            ready = [key for key, claim in self.steps.items() if claim.holder.claim is None]
            done = [n for n in self.started if not any(key[0] == n for key in self.steps)]
            if not (ready or done):
                assert (self.steps, self.started, self.starts) == ({}, set(), {}), "something waits for ever"
                return rounds
            for key in ready:
                self.bench.pool.part(self.steps.pop(key).holder)
            for number in done:
                self.end_run(number)
            self.let_start()
            self.check()
        raise AssertionError("it does not come to an end")


@settings(max_examples=200, deadline=None)
@given(OPS)
def test_nothing_is_over_capacity_half_taken_or_waits_for_ever(ops: list[Op]) -> None:
    story = Story()
    for op in ops:
        story.do(op)
        story.check()
    story.finish()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 2), min_size=1), min_size=1, max_size=20))
def test_oldest_that_waits_is_never_overtaken_for_what_it_waits_for(needs: list[dict[str, int]]) -> None:
    bench = Bench(arm=2, lamp=2, screen=2)
    waiting: list[Claim] = []
    held: list[Claim] = []
    for need in needs:
        claim = bench.claim_of(run("x"), need)
        shared = any(not claim.needs.keys().isdisjoint(other.needs) for other in waiting)
        if bench.pool.ask(claim):
            assert not shared
            held.append(claim)
        else:
            waiting.append(claim)
    while held:
        bench.pool.give_back(held.pop(0).holder)
        met = [claim for claim in waiting if claim.holder.claim is None]
        waiting = [claim for claim in waiting if claim.holder.claim is not None]
        held += met
        earlier = [(a, b) for a in waiting for b in met if a.order < b.order]
        assert all(a.needs.keys().isdisjoint(b.needs) for a, b in earlier)
    assert not waiting
