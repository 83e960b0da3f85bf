"""Which times triggers mean: cron beside a model of Debian's, grids that do not drift, what has come."""

import math
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduling import cronmodel

from aura.cron import read_cron
from aura.schedule import At, Cron, Every, Timed, Trigger
from aura.scheduling.crontimes import cron_times
from aura.scheduling.liveitem import MAX_SPANS, with_slots
from aura.scheduling.slots import Come, latest_slots, next_slot, slots_after

NO_END = 253_402_300_799.0


def cron(fields: str, zone: str | None = None) -> Trigger:
    return Trigger(Cron(fields, zone, Timed()))


def every(period: float, start: float | None = None) -> Trigger:
    return Trigger(Every(period, start, Timed()))


def unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def local(trigger: Trigger, zone: str, after: str, count: int) -> list[str]:
    """The first slots after a time, as the clocks of a zone show them."""
    found = islice(slots_after(trigger, zone, unix(after), 0.0), count)
    return [datetime.fromtimestamp(due, ZoneInfo(zone)).isoformat() for due in found]


# -- cron


@pytest.mark.parametrize("name", cronmodel.ZONES)
def test_cron_is_debians_at_changes(name: str) -> None:
    """All changes of 40 years are compared by ``make cron``; here each zone has two, at different times."""
    moments = cronmodel.changes(ZoneInfo(name), 2000 + len(name), 2006 + len(name))[:2]
    assert list(cronmodel.differences(name, cronmodel.EXPRESSIONS[len(name) % 2 :: 2], moments)) == []


def test_fixed_time_runs_once_each_day_in_many_zones() -> None:
    """All zones and years are for ``make cron``."""
    for number, name in enumerate(sorted(available_timezones())[::12]):
        year = 1990 + number % 50
        moments = cronmodel.changes(ZoneInfo(name), year, year + 1)
        assert list(cronmodel.not_once_a_day(name, cronmodel.DAILY[number % 4], moments)) == []


@pytest.mark.parametrize(
    ("fields", "zone", "after", "expected"),
    [
        pytest.param(
            "0 30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00Z",
            ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
            id="six fields in a gap",
        ),
        pytest.param(
            "20 30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00Z",
            ["2026-10-25T02:30:20+02:00", "2026-10-26T02:30:20+01:00"],
            id="six fields in a fold",
        ),
        pytest.param(
            "0 0,30 2,3 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00Z",
            ["2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00", "2026-03-30T02:00:00+02:00"],
            id="all in a gap are one",
        ),
        pytest.param(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:45Z",
            ["2026-10-25T02:00:00+01:00", "2026-10-25T02:30:00+01:00", "2026-10-25T03:00:00+01:00"],
            id="begun in a fold",
        ),
        pytest.param(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-25T01:10Z",
            ["2026-10-26T02:30:00+01:00"],
            id="begun in the second half of a fold",
        ),
        pytest.param(
            "30 2 * * *",
            "Pacific/Apia",
            "2011-12-29T00:00Z",
            ["2011-12-29T02:30:00-10:00", "2011-12-31T02:30:00+14:00"],
            id="day that never was",
        ),
        pytest.param(
            "0 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T00:00Z",
            ["2026-10-04T02:30:00+11:00", "2026-10-05T02:00:00+11:00"],
            id="gap of half an hour",
        ),
        pytest.param(
            "0 0 29 2 *",
            "UTC",
            "2096-03-01T00:00Z",
            ["2104-02-29T00:00:00+00:00"],
            id="leap day over a century",
        ),
        pytest.param(
            "59 59 23 31 12 *", "UTC", "1970-01-01T00:00Z", ["1970-12-31T23:59:59+00:00"], id="from the beginning"
        ),
        pytest.param(
            "*/40 0 1 5 *",
            "Europe/Berlin",
            "2026-01-10T00:00Z",
            ["2026-05-01T00:00:00+02:00", "2026-05-01T00:40:00+02:00"],
            id="far beyond a change",
        ),
        pytest.param("0 12 L * *", "UTC", "2028-02-10T00:00Z", ["2028-02-29T12:00:00+00:00"], id="last day"),
    ],
)
def test_cron_means(fields: str, zone: str, after: str, expected: list[str]) -> None:
    assert local(cron(fields), zone, after, len(expected)) == expected


FIELDS = st.tuples(
    st.sampled_from(("0", "*", "*/7", "3,50")),
    st.sampled_from(("0", "*", "30", "*/20", "5-7")),
    st.sampled_from(("*", "2", "0,3", "*/5", "23")),
    st.sampled_from(("*", "1", "29,31", "L")),
    st.sampled_from(("*", "2,3,10")),
    st.sampled_from(("*", "SUN", "1-5", "0#2")),
).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(FIELDS, st.sampled_from(cronmodel.ZONES), st.integers(0, 70 * 365 * 86_400))
def test_cron_backwards_is_cron_forwards(fields: str, name: str, start: int) -> None:
    try:
        read_cron(fields)
    except ValueError:
        return
    zone, times = ZoneInfo(name), cron_times(fields)
    forwards = list(islice(times.instants(zone, start, 1), 60))
    assert forwards == sorted(set(forwards))
    assert forwards[0] >= start
    assert list(islice(times.instants(zone, forwards[-1], -1), len(forwards))) == forwards[::-1]
    before = next(times.instants(zone, start - 1, -1), None)
    assert before is None or next(times.instants(zone, before + 1, 1)) == forwards[0]


@pytest.mark.parametrize("fields", ["*/20 * * * *", "30 2 * * *"], ids=["real", "fixed"])
@given(starts=st.lists(st.integers(1, 2_000), min_size=2, max_size=20))
@settings(max_examples=30, deadline=None)
def test_first_slot_is_the_same_whatever_was_asked_before(fields: str, starts: list[int]) -> None:
    times, zone = cron_times(fields), ZoneInfo("Europe/Berlin")
    for minutes in starts:
        start = int(unix("2026-10-24T12:00:00Z")) + minutes * 61
        assert times.first_from(zone, start) == next(times.instants(zone, start, 1))


def test_zone_that_is_gone_is_an_error() -> None:
    with pytest.raises(ZoneInfoNotFoundError):
        next_slot(cron("* * * * *", "Gone/Away"), 0.0, "UTC", 0.0)


@pytest.mark.parametrize("trigger", [cron("* * * * *"), cron("0 0 1 1 *"), every(0.1), every(86_400 * 365 * 9000)])
def test_calendar_has_an_end(trigger: Trigger) -> None:
    assert next_slot(trigger, 0.0, "Europe/Berlin", NO_END) is None


# -- every, at


@settings(max_examples=100, deadline=None)
@given(
    st.floats(0.1, 1e8),
    st.one_of(st.none(), st.floats(0, 4e9)),
    st.floats(0, 4e9),
    st.integers(1, 10**6),
)
def test_every_is_a_grid_without_holes(period: float, start: float | None, anchor: float, number: int) -> None:
    """Its n-th slot is found from just before it, and is not found again from itself, wherever rounding falls."""
    trigger, base = every(period, start), anchor if start is None else start
    due = base + number * period
    if due > 200e9:
        return
    assert next_slot(trigger, min(anchor, base), "UTC", math.nextafter(due, 0)) == due
    after = next_slot(trigger, min(anchor, base), "UTC", due)
    assert after == base + (number + 1) * period


@pytest.mark.parametrize(
    ("trigger", "after", "expected"),
    [
        pytest.param(every(10), 0, 110, id="one period after it was first seen"),
        pytest.param(every(10, 40), 0, 110, id="on the grid of the past"),
        pytest.param(every(10, 1000), 0, 1000, id="begins where its file says"),
        pytest.param(every(10, 95), 104, 105, id="between"),
        pytest.param(every(0.1, 0), 100.05, 1001 * 0.1, id="below a second"),
        pytest.param(every(1.1, 0), math.nextafter(100 * 1.1, 0), 100 * 1.1, id="just before"),
        pytest.param(cron("* * * * *"), 120, 180, id="cron, not the same again"),
        pytest.param(Trigger(At(500, Timed())), 0, 500, id="at"),
        pytest.param(Trigger(At(500, Timed())), 500, None, id="at has been"),
        pytest.param(Trigger(At(50, Timed())), 0, None, id="at lies before it was first seen"),
        pytest.param(Trigger(At(NO_END, Timed())), 0, NO_END, id="at the end of times"),
    ],
)
def test_next_slot(trigger: Trigger, after: float, expected: float | None) -> None:
    assert next_slot(trigger, 100.0, "UTC", after) == expected


# -- what has come


@pytest.mark.parametrize(
    ("trigger", "after", "until", "expected"),
    [
        pytest.param(every(10), 0, 125, Come([110, 120]), id="all"),
        pytest.param(every(10), 0, 165, Come([140, 150, 160], 3, 110, 130), id="more"),
        pytest.param(every(10), 120, 120, Come([]), id="none"),
        pytest.param(every(10, 1000), 0, 900, Come([]), id="not begun"),
        pytest.param(cron("* * * * * *"), 0, 103.5, Come([101, 102, 103]), id="cron"),
        pytest.param(cron("* * * * * *"), 0, 110, Come([108, 109, 110], 7, 101, 107), id="cron, more"),
        pytest.param(cron("* * * * * *"), 0, 1000, Come([998, 999, 1000], 98, 900, 997, False), id="cron, not counted"),
        pytest.param(Trigger(At(500, Timed())), 0, 600, Come([500]), id="at"),
        pytest.param(Trigger(At(500, Timed())), 0, 400, Come([]), id="at is to come"),
    ],
)
def test_latest_slots(trigger: Trigger, after: float, until: float, expected: Come) -> None:
    assert latest_slots(trigger, 100.0, "UTC", after, until, 3) == expected


def test_latest_slot_seen_from_the_second_half_of_a_fold_is_in_the_first() -> None:
    until = unix("2026-10-25T02:10:00+01:00")
    come = latest_slots(cron("50 2 * * *"), 0.0, "Europe/Berlin", until - 5 * 86_400, until, 1)
    assert come.dues == [unix("2026-10-25T02:50:00+02:00")]


@pytest.mark.parametrize("trigger", [cron("* * * * * *"), every(0.1), cron("* * * * 1 *"), cron("0 0 29 2 *")])
def test_latest_slots_after_a_year_down_are_found_at_once(trigger: Trigger) -> None:
    began = time.process_time()
    come = latest_slots(trigger, 0.0, "Europe/Berlin", 1.7e9, 1.7e9 + 365 * 86_400, 100)
    assert time.process_time() - began < 0.25  # some milliseconds; one that counted all would take minutes
    assert come.dues == sorted(come.dues)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.lists(st.integers(0, 400), max_size=40), st.lists(st.integers(1000, 1400), max_size=40))
def test_settled_spans_hold_every_slot_and_join_over_the_greatest_leap_last(
    data: st.DataObject, low: list[int], high: list[int]
) -> None:
    spans: Sequence[tuple[float, float]] = ()
    dues = data.draw(st.permutations([*low, *high]))
    while dues:
        count = data.draw(st.integers(1, len(dues)))
        spans, dues = with_slots(spans, dues[:count]), dues[count:]
    assert all(any(first <= due <= last for first, last in spans) for due in [*low, *high])
    assert not any(first <= 700 <= last for first, last in spans)
    edges = [edge for span in spans for edge in span]
    assert len(spans) <= MAX_SPANS
    assert edges == sorted(edges)
