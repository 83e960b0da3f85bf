"""The order of a lane: by priority, first come first served within one, and nothing starves."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.heldruns import a_run

from aura.kernel.lanes import Lane
from aura.runs.liverun import AGEING, LiveRun
from aura.settings import LaneSettings

PRIORITIES = st.integers(-1000, 1000)
#: Unix seconds that never go back, as ``Runtime.since``.
TIMES = st.lists(st.floats(1.7e9, 1.9e9), min_size=1, max_size=12).map(sorted)


def lane_of(runs: list[LiveRun]) -> Lane:
    lane = Lane("main", LaneSettings(limit=1))
    for run in runs:
        lane.count(run)
        lane.push(run)
    return lane


def taken(lane: Lane) -> list[LiveRun]:
    found = []
    while (run := lane.pop()) is not None:
        found.append(run)
    return found


@settings(max_examples=60, deadline=None)
@given(TIMES, PRIORITIES, st.randoms(use_true_random=False))
def test_first_come_is_first_served_within_a_priority(times: list[float], priority: int, random: object) -> None:
    runs = [a_run(seq, priority=priority, since=since) for seq, since in enumerate(times)]
    pushed = runs[:]
    random.shuffle(pushed)  # type: ignore[attr-defined]  # what was set aside comes back in any order
    assert taken(lane_of(pushed)) == runs


@settings(max_examples=60, deadline=None)
@given(PRIORITIES, st.integers(1, 1000), st.floats(1.7e9, 1.8e9), st.floats(0.001, 1e6))
def test_run_waits_behind_later_ones_for_a_minute_of_each_priority_at_most(
    priority: int, more: int, since: float, later: float
) -> None:
    patient = a_run(1, priority=priority, since=since)
    urgent = a_run(2, priority=priority + more, since=since + later)
    edge = more * AGEING
    first = urgent if urgent.since - since < edge else patient
    if abs(urgent.since - since - edge) > 1e-5:  # a microsecond counts one
        assert taken(lane_of([patient, urgent]))[0] is first


@settings(max_examples=60, deadline=None)
@given(TIMES, st.data())
def test_order_is_the_same_at_any_time(times: list[float], data: st.DataObject) -> None:
    runs = [a_run(seq, priority=data.draw(PRIORITIES), since=since) for seq, since in enumerate(times)]
    lane = lane_of(runs)
    shown = lane.in_order()
    aside = lane.pop()
    assert aside is shown[0]
    lane.set_aside(aside)
    assert lane.in_order() == shown
    assert (lane.pop() is aside) is False
    lane.push(aside)
    assert lane.in_order()[0] is aside


@settings(max_examples=60, deadline=None)
@given(TIMES, st.data())
def test_changed_priority_moves_a_run_to_where_it_would_have_stood(times: list[float], data: st.DataObject) -> None:
    runs = [a_run(seq, priority=data.draw(PRIORITIES), since=since) for seq, since in enumerate(times)]
    lane, moved = lane_of(runs), data.draw(st.sampled_from(runs))
    moved.priority = data.draw(PRIORITIES)
    lane.push(moved)
    assert taken(lane) == sorted(runs, key=lambda run: (run.rank, run.seq))
