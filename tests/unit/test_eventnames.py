"""Patterns of events, and Aura's own names."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura.eventnames import OWN, RESERVED, matches, read_name, read_pattern
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


# -- names


@pytest.mark.parametrize("name", ["a", "battery.low", "a-b.c_d.9", "x" * 200])
def test_name_is_one(name: str) -> None:
    assert read_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "a.", "a..b", "a.*", "**", "a b", "a\n", "ä", "x" * 201])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of an event"):
        read_name(name)


# -- matching


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.**", "a", True),
        ("a.**", "a.b.c", True),
        ("a.**.z", "a.z", True),
        ("a.**.z", "a.b.z.c.z", True),
        ("a.**.z", "a.z.b", False),
        ("**", "a.b", True),
        ("*", "a", True),
        ("**", "run.succeeded", False),
        ("*.succeeded", "run.succeeded", False),
        ("**.loop_detected", "aura.loop_detected", False),
        ("run.*", "run.succeeded", True),
        ("run.**", "run.succeeded", True),
        ("a.run.*", "a.run.x", True),
    ],
)
def test_pattern_fits(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


def slowly(pattern: tuple[str, ...], name: tuple[str, ...]) -> bool:
    """What a pattern means, as one would say it."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(slowly(pattern[1:], name[taken:]) for taken in range(len(name) + 1))
    return bool(name) and pattern[0] in ("*", name[0]) and slowly(pattern[1:], name[1:])


PARTS = st.sampled_from(["a", "b", "run", "aura"])


@given(
    st.lists(PARTS | st.sampled_from(["*", "**"]), min_size=1, max_size=7).map(tuple),
    st.lists(PARTS, min_size=1, max_size=7).map(tuple),
)
@settings(deadline=None, max_examples=1000)
def test_matching_is_what_the_words_say(pattern: tuple[str, ...], name: tuple[str, ...]) -> None:
    hidden = pattern[0] in ("*", "**") and name[0] in RESERVED
    assert matches(".".join(pattern), ".".join(name)) == (slowly(pattern, name) and not hidden)


def test_worst_pattern_is_matched_quickly() -> None:
    name = ".".join(["a"] * 100)
    began = time.process_time()
    for _ in range(100):
        assert not matches(".".join(["**.a"] * 40) + ".b", name)
    assert time.process_time() - began < 5


# -- Aura's own, as they are told

#: First parts of what later versions tell.
LATER = ("interrupt.", "schedule.", "file.", "webhook.", "poll.")


def test_every_own_event_is_told_and_nothing_else_is() -> None:
    source = Path(__file__).parents[2] / "src" / "aura"
    texts = [file.read_text() for file in source.rglob("*.py") if file.name != "eventnames.py"]
    told = {name for text in texts for name in re.findall(r'"((?:run|step|approval|plan|engine|aura)\.[a-z_]+)"', text)}
    told |= {"state.changed"} & {name for text in texts for name in re.findall(r'"(state\.changed)"', text)}
    told |= {f"engine.{name}" for text in texts for name in re.findall(r'tell_engine\("([a-z]+)"', text)}
    told |= {*RUN_ENDED.values(), *STEP_ENDED.values()}
    assert {name for name in OWN if not name.startswith(LATER)} - told == set()


def test_names_that_runs_and_steps_are_told_by_are_known() -> None:
    source = Path(__file__).parents[2] / "src" / "aura"
    files = ("runs/seal", "runs/conclude", "kernel/executor", "kernel/starting", "kernel/pausing", "engine/boot")
    texts = [(source / f"{name}.py").read_text() for name in files]
    told = {name for text in texts for name in re.findall(r'"((?:run|step)\.[a-z_]+)"', text)} - {"step.step"}
    assert told - OWN == set()
