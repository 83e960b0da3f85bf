"""How much of what processes say goes to the log: of one, and of many at once."""

from collections.abc import Iterator

import pytest

from aura.processes.floods import (
    KIB,
    LINE_COST,
    LOG_CAP,
    MIB,
    OWN,
    PAUSE,
    QUIET,
    ROW_COST,
    SHARED,
    Allowance,
    Bucket,
    Rate,
)


def said(allowances: list[Allowance], size: int, times: Iterator[float]) -> list[int]:
    """How many lines of ``size`` bytes each may say if all say as many as they can, a thousand at a time at most."""
    counts = [0] * len(allowances)
    for now in times:
        for number, allowance in enumerate(allowances):
            for _ in range(1000):
                if not allowance.take_line(now):
                    break
                allowance.charge(now, size)
                counts[number] += 1
    return counts


def seconds(many: int) -> Iterator[float]:
    return (tenth / 10 for tenth in range(many * 10))


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(Rate(10, 50))
    taken = 0
    for now in (0.0, 0.0, 1.0, 2.0):
        while bucket.has_room(now):
            bucket.take(1)
            taken += 1
    assert taken == 50 + 2 * 10


def test_bucket_is_never_more_than_full() -> None:
    bucket = Bucket(Rate(10, 50))
    assert bucket.has_room(0.0)
    assert bucket.has_room(1e9)
    bucket.take(50)
    assert not bucket.has_room(1e9)


@pytest.mark.parametrize("size", [1, 80, 60_000])
def test_one_command_has_a_rate_of_its_own(size: int) -> None:
    [lines] = said([Allowance(Bucket(SHARED))], size, seconds(5))
    cost = lines * (size + LINE_COST)
    assert OWN.burst + 2 * MIB < cost < OWN.burst + 5 * OWN.per_s + size + LINE_COST


def test_all_commands_share_a_rate() -> None:
    shared = Bucket(SHARED)
    lines = said([Allowance(shared) for _ in range(50)], 80, seconds(5))
    cost = sum(lines) * (80 + LINE_COST)
    assert cost < SHARED.burst + 5 * SHARED.per_s + 50 * (QUIET.burst + 5 * QUIET.per_s + 2 * KIB)


def test_quiet_command_loses_nothing_to_the_floods_of_others() -> None:
    shared = Bucket(SHARED)
    floods, quiet = [Allowance(shared) for _ in range(50)], Allowance(shared)
    for second in range(5):
        said(floods, 80, iter([float(second)]))
        for _ in range(20):
            assert quiet.take_line(float(second))
            quiet.charge(float(second), 80)


def test_command_that_had_no_room_is_not_asked_for_a_while() -> None:
    allowance = Allowance(Bucket(SHARED))
    said([allowance], 80, iter([0.0] * 10))
    assert not allowance.take_line(PAUSE * 0.9)
    assert allowance.take_line(PAUSE)


@pytest.mark.parametrize("size", [0, 1, 60_000])
def test_all_of_it_is_bounded_for_ever(size: int) -> None:
    [lines] = said([Allowance(Bucket(SHARED))], size, (float(second) for second in range(200)))
    assert lines * (size + ROW_COST) < LOG_CAP + size + ROW_COST
    assert lines * (size + ROW_COST) >= LOG_CAP
