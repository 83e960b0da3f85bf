"""Patterns of events, and Aura's own names."""

import pytest

from aura.eventnames import OWN, RESERVED, read_pattern
from aura.events import RUN_ENDED, STEP_ENDED


@pytest.mark.parametrize(
    "pattern",
    [
        "a",
        "battery.low",
        "disk.*",
        "*.done",
        "a.**.z",
        "**",
        "*",
        "run.succeeded",
        "run.*",
        "step.**",
        "run.**.started",
    ],
)
def test_pattern_is_one(pattern: str) -> None:
    assert read_pattern(pattern) == pattern


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        pytest.param("", "is no pattern of events", id="empty"),
        pytest.param("a..b", "is no pattern", id="empty-part"),
        pytest.param(".a", "is no pattern", id="dot-first"),
        pytest.param("a b", "is no pattern", id="space"),
        pytest.param("a\n", "is no pattern", id="newline"),
        pytest.param("a*", "is no pattern", id="star-in-a-part"),
        pytest.param("a.***", "is no pattern", id="three-stars"),
        pytest.param("a" * 201, "is no pattern", id="long"),
        pytest.param("run.suceeded", "did you mean 'run.succeeded'?", id="own"),
        pytest.param("run.*.x", "Aura has no event 'run.*.x'", id="own-pattern"),
        pytest.param("aura", "Aura has no event 'aura'", id="own-family"),
    ],
)
def test_what_is_none_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match="event") as caught:
        read_pattern(pattern)
    assert message in str(caught.value)


def test_own_events_are_in_reserved_families_and_each_of_these_has_one() -> None:
    assert {name.split(".")[0] for name in OWN} == RESERVED


def test_events_that_are_there_already_are_among_them() -> None:
    assert {*RUN_ENDED.values(), *STEP_ENDED.values(), "run.accepted"} <= OWN
