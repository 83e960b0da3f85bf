"""When a plan that has changed is taken to be whole, in the times of a clock that the test makes up."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.loading.snapshot import Look
from aura.watching.settling import DOUBT, GONE, QUIET, TWICE, Settling

#: What wall time is when the monotonic one is 0.
WALL = 1_000_000.0


def look(**files: tuple[int, float]) -> Look:
    """What is seen of files with a size and the time of their change; a size below 0: it cannot be looked at."""
    stamps = {
        name: None if size < 0 else (1, hash(name), size, 0, round((WALL + at) * 1e9))
        for name, (size, at) in files.items()
    }
    return Look(stamps, {(1, 1): "/plans/lab"})


class Seen:
    """One plan, as it is seen at times."""

    def __init__(self, known: Look) -> None:
        self.settling = Settling()
        self.see(known, 0.0)
        self.settling.loaded("lab", known)

    def see(self, seen: Look | None, now: float, skew: float = 0.0) -> None:
        self.settling.see({"lab": seen}, now, WALL + now + skew)

    def ripe(self, now: float) -> bool | None:
        """Whether it is tentative, or None if it is not ripe."""
        found = self.settling.ripe(now)
        return found["lab"][1] if found else None


BEFORE = look(plan=(10, 0.0), task=(10, 0.0))


@pytest.mark.parametrize(
    ("after", "ripe_at"),
    [
        pytest.param(look(plan=(11, 50.0), task=(10, 0.0)), 50.0 + QUIET, id="written"),
        pytest.param(look(plan=(10, 50.0), task=(10, 0.0)), 50.0 + QUIET, id="written-with-the-same-size"),
        pytest.param(look(plan=(10, 0.0), task=(10, 0.0), more=(3, 50.0)), 50.0 + QUIET, id="added"),
        pytest.param(look(plan=(10, 0.0), task=(10, 0.0), more=(0, 50.0)), 50.0 + QUIET, id="added-and-empty"),
        pytest.param(look(plan=(0, 50.0), task=(10, 0.0)), 50.0 + DOUBT, id="emptied"),
        pytest.param(look(plan=(-1, 50.0), task=(10, 0.0)), 50.1 + DOUBT, id="unreadable"),
        pytest.param(look(task=(10, 0.0)), 50.1 + DOUBT, id="removed"),
        pytest.param(Look({}, {}), 50.1 + DOUBT, id="folder-that-cannot-be-listed"),
        pytest.param(None, 50.1 + GONE, id="gone"),
    ],
)
def test_change_is_ripe_when_it_has_been_quiet_for_as_long_as_it_needs(after: Look | None, ripe_at: float) -> None:
    seen = Seen(BEFORE)
    seen.see(BEFORE, 49.9)
    seen.see(after, 50.1)  # it was changed at 50.0, where a file says so
    assert seen.settling.next_at() == pytest.approx(ripe_at)
    assert seen.ripe(ripe_at - 0.01) is None
    assert seen.ripe(ripe_at + 0.01) is not None


def test_each_change_begins_anew() -> None:
    seen = Seen(BEFORE)
    for number in range(20):
        at = 50 + 0.15 * number
        seen.see(look(plan=(10 + number, at), task=(10, 0.0)), at)
        assert seen.ripe(at + 0.14) is None
    assert seen.ripe(at + QUIET + 0.01) is True


def test_what_goes_back_to_what_was_loaded_is_no_change() -> None:
    seen = Seen(BEFORE)
    seen.see(None, 50.0)
    seen.see(BEFORE, 51.0)
    assert seen.settling.next_at() == math.inf


def test_what_could_not_be_served_is_tried_once_more_when_no_doubt_is_left() -> None:
    seen = Seen(BEFORE)
    half = look(plan=(5, 50.0), task=(10, 0.0))
    seen.see(half, 50.0)
    assert seen.ripe(50.25) is True
    seen.settling.put_off("lab", half)
    assert seen.ripe(50.9) is None
    assert seen.ripe(51.01) is False
    seen.settling.loaded("lab", half)
    assert seen.settling.next_at() == math.inf


def test_change_after_what_was_loaded_is_not_forgotten() -> None:
    seen = Seen(BEFORE)
    first, second = look(plan=(11, 50.0), task=(10, 0.0)), look(plan=(12, 50.3), task=(10, 0.0))
    seen.see(first, 50.0)
    seen.see(second, 50.3)
    seen.settling.loaded("lab", first)
    assert seen.ripe(50.51) is True


def test_plan_that_is_gone_is_forgotten_once_it_was_removed() -> None:
    seen = Seen(BEFORE)
    seen.see(None, 50.0)
    seen.settling.loaded("lab", None)
    assert not seen.settling.changing()
    seen.see(BEFORE, 60.0)  # and is new when it comes back
    assert seen.settling.changing() == {"lab"}


@pytest.mark.parametrize("skew", [-1e6, -1.0, 1.0, 1e6], ids=str)
def test_clock_of_the_file_system_that_is_wrong_counts_within_two_looks_alone(skew: float) -> None:
    seen = Seen(BEFORE)
    seen.see(BEFORE, 49.99, skew)
    seen.see(look(plan=(11, 50.0), task=(10, 0.0)), 50.1, skew)
    assert seen.ripe(50.18) is None
    assert seen.ripe(50.1 + QUIET + 0.01) is True


def test_what_was_moved_into_place_is_ripe_once_it_was_seen_twice() -> None:
    seen = Seen(BEFORE)
    seen.see(look(plan=(11, 20.0), task=(12, 20.0)), 50.0)  # such as behind a link: written long ago
    assert seen.settling.next_at() == pytest.approx(50.0 + TWICE)


@given(st.lists(st.tuples(st.floats(0.001, 3.0), st.sampled_from(["write", "empty", "gone", "look"])), max_size=30))
def test_nothing_is_ripe_before_it_was_quiet(moves: list[tuple[float, str]]) -> None:
    """Whatever a writer does: what is loaded had not changed for QUIET, and the plan had been gone for GONE."""
    seen, now, changed_at = Seen(BEFORE), 10.0, 0.0
    current: Look | None = BEFORE
    for pause, move in moves:
        now += pause
        if move != "look" and (current, move) != (None, "gone"):
            changed_at = now
            current = None if move == "gone" else look(plan=(11 * (move == "write"), now), task=(10, 0.0))
        seen.see(current, now)
        for found, _ in seen.settling.ripe(now).values():
            assert found is current
            assert now - changed_at >= (QUIET if found else GONE) - 1e-6
            seen.settling.loaded("lab", found)
