"""Percentiles, the window, bounds and the lateness of the loop, with a clock that stands where the test puts it."""

from collections.abc import Sequence
from itertools import pairwise

import anyio
import pytest

from aura.histogram import LONG, SHORT, SIZES, Histogram
from aura.runs.measures import (
    LAG_EVERY,
    MAX_PLANS,
    OTHER,
    RECENT,
    SLOT,
    SLOTS,
    Measures,
    Refusals,
    percentile,
    serve_loop_lag,
)

WINDOW = SLOT * SLOTS
#: Where the clock stands at first: some way into a slot.
BEGAN = 1000.0


class FakeClock:
    """And the store of that time, in which the last commit is always the one of this moment."""

    recheck = 5.0
    commit_times = Histogram(SHORT)
    batch_sizes = Histogram(SIZES)

    def __init__(self) -> None:
        self.now = BEGAN

    @property
    def written_at(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Counting:
    """Measures and their clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.measures = Measures(self.clock.monotonic, ["main", "event"], self.clock)

    def wait(self, seconds: float, at: float, lane: str = "main", plan_name: str = "p") -> None:
        """Note a wait at so many seconds after the beginning."""
        self.clock.now = BEGAN + at
        self.measures.note_wait(lane, plan_name, seconds)

    def end(self, at: float, state: str = "succeeded") -> None:
        self.clock.now = BEGAN + at
        self.measures.note_end("main", "p", state)

    def seen(self, at: float, lane: str = "main") -> tuple[list[float], int, int]:
        """The waits of the window at that time, and how many runs started and ended in it."""
        self.clock.now = BEGAN + at
        recent = self.measures.recent()
        return [wait[1] for wait in recent.waits[lane]], recent.started[lane, "p"], recent.ended[lane, "p"]


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.mark.parametrize(
    ("values", "part", "wanted"),
    [
        pytest.param([], 0.5, None, id="nothing"),
        pytest.param([3.0], 0.5, 3.0, id="one-median"),
        pytest.param([3.0], 0.95, 3.0, id="one-p95"),
        pytest.param([1.0, 2.0], 0.5, 1.0, id="the-lower-of-two"),
        pytest.param([1.0, 2.0, 3.0], 0.5, 2.0, id="the-middle"),
        pytest.param([1.0, 2.0], 0.95, 2.0, id="p95-of-two"),
        pytest.param([float(n) for n in range(1, 101)], 0.5, 50.0, id="p50-of-100"),
        pytest.param([float(n) for n in range(1, 101)], 0.95, 95.0, id="p95-of-100"),
        pytest.param([float(n) for n in range(1, 20)], 0.95, 19.0, id="p95-of-19"),
        pytest.param([float(n) for n in range(1, 21)], 0.95, 19.0, id="p95-of-20"),
        pytest.param([1.0, 2.0], 0.0, 1.0, id="p0"),
        pytest.param([1.0, 2.0], 1.0, 2.0, id="p100"),
    ],
)
def test_percentile_is_a_value_that_was_there(values: Sequence[float], part: float, wanted: float | None) -> None:
    assert percentile(values, part) == wanted


@pytest.mark.parametrize(
    ("value", "place"),
    [(0.0, 0), (1.0, 0), (1.1, 1), (5.0, 1), (5.1, 2)],
    ids=["zero", "on", "above", "last", "beyond"],
)
def test_histogram_counts_a_value_by_the_bound_that_it_does_not_exceed(value: float, place: int) -> None:
    histogram = Histogram((1.0, 5.0))
    histogram.add(value)
    assert (histogram.counts.index(1), sum(histogram.counts), histogram.sum) == (place, 1, value)


def test_histogram_is_cumulative_for_who_reads_it() -> None:
    histogram = Histogram((1.0, 5.0))
    for value in (0.5, 0.6, 2.0, 9.0):
        histogram.add(value)
    assert histogram.cumulative() == [2, 3, 4]


@pytest.mark.parametrize("bounds", [LONG, SHORT, SIZES], ids=["long", "short", "sizes"])
def test_bounds_ascend(bounds: Sequence[float]) -> None:
    assert all(low < high for low, high in pairwise(bounds))


# -- the window


def test_a_new_process_has_seen_nothing(counting: Counting) -> None:
    assert counting.seen(0) == ([], 0, 0)
    assert counting.measures.recent().seconds == 0


def test_window_reaches_back_to_the_beginning_at_first(counting: Counting) -> None:
    counting.wait(2.0, at=1)
    counting.wait(4.0, at=100)
    counting.end(at=101)
    assert counting.seen(200) == ([2.0, 4.0], 2, 1)
    assert counting.measures.recent().seconds == 200


def test_window_forgets_what_is_older(counting: Counting) -> None:
    counting.wait(2.0, at=1)
    counting.end(at=2)
    counting.wait(4.0, at=600)
    assert counting.seen(WINDOW + SLOT) == ([4.0], 1, 0)
    assert counting.seen(600 + WINDOW + SLOT) == ([], 0, 0)


def test_window_counts_ends_where_nothing_starts(counting: Counting) -> None:
    for at in (1, 600, 700):
        counting.end(at=at)
    assert counting.seen(WINDOW + SLOT) == ([], 0, 2)


@pytest.mark.parametrize("silence", [0.0, 1.0, 400.0, WINDOW - SLOT, WINDOW * 3], ids=str)
def test_window_counts_all_that_came_after_a_silence_and_nothing_twice(counting: Counting, silence: float) -> None:
    for at in range(0, 300, 7):
        counting.wait(1.0, at=at)
    for at in range(10):
        counting.wait(2.0, at=300 + silence + at)
    waits, started, _ = counting.seen(300 + silence + 10)
    assert waits.count(2.0) == 10
    assert started == len(waits)


@pytest.mark.parametrize("every", [0.5, 7.0, SLOT, 100.0], ids=str)
def test_window_is_at_most_a_slot_shorter_than_it_could_be(counting: Counting, every: float) -> None:
    for n in range(int(2 * WINDOW / every)):
        counting.wait(1.0, at=n * every)
        if n % 97 == 0:
            counting.seen(n * every)
    waits, started, _ = counting.seen(2 * WINDOW)
    seconds = counting.measures.recent().seconds
    assert WINDOW - SLOT <= seconds <= WINDOW
    assert started == len(waits) == pytest.approx(seconds / every, abs=2)


def test_window_keeps_a_bounded_number_of_waits(counting: Counting) -> None:
    for n in range(RECENT + 100):
        counting.wait(float(n), at=1)
    waits, started, _ = counting.seen(1)
    assert (len(waits), waits[0], started) == (RECENT, 100.0, RECENT + 100)


def test_lanes_do_not_crowd_each_other_out(counting: Counting) -> None:
    counting.wait(7.0, at=1, lane="event")
    for _ in range(2 * RECENT):
        counting.wait(1.0, at=2)
    assert counting.seen(3, "event") == ([7.0], 1, 0)


def test_a_clock_that_was_set_back_gives_no_negative_wait(counting: Counting) -> None:
    counting.wait(-5.0, at=1)
    assert counting.seen(2) == ([0.0], 1, 0)
    counting.measures.note_step("failed", -1.0)
    assert counting.measures.steps["failed"].sum == 0


# -- bounds


def test_ten_thousand_plans_are_counted_under_a_bounded_number_of_names(counting: Counting) -> None:
    for n in range(10_000):
        counting.wait(1.0, at=1, plan_name=f"p{n}")
        counting.measures.note_end("main", f"p{n}", "failed")
    plans = {plan for _, plan in counting.measures.counts.started}
    assert plans == {plan for _, plan, _ in counting.measures.counts.ended}
    assert len(plans) == MAX_PLANS + 1
    assert counting.measures.counts.ended["main", OTHER, "failed"] == 10_000 - MAX_PLANS


def test_a_plan_keeps_the_name_under_which_it_was_counted_first(counting: Counting) -> None:
    names = [f"p{n}" for n in range(MAX_PLANS + 1)]
    assert [counting.measures.label(name) for name in names] == [*names[:-1], OTHER]
    assert [counting.measures.label(name) for name in reversed(names)] == [OTHER, *reversed(names[:-1])]


# -- refusals and the loop


def test_refusals_are_counted_by_their_code() -> None:
    refusals = Refusals()
    for code in ("invalid", "queue_full", "invalid"):
        refusals.note(code)
    assert refusals.counts == {"invalid": 2, "queue_full": 1}


async def test_loop_lag_is_how_late_the_loop_goes_on() -> None:
    clock = FakeClock()
    measures = Measures(clock.monotonic, [], clock)

    async def sleep(seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        clock.now += seconds + 0.3  # something has kept the loop
        if sum(measures.loop_lag.counts) == 2:
            scope.cancel()

    with anyio.fail_after(10), anyio.CancelScope() as scope, pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio, "sleep", sleep)
        await serve_loop_lag(measures, clock)
    assert measures.loop_lag.sum == pytest.approx(0.9)
    assert LAG_EVERY < 1
