"""Regular expressions that meet data: what is refused, and that what is allowed ends soon."""

import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura.patterns import compile_pattern


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"(a*)*b",
        r"(a|a)*b",
        r"(?i)(xa|Xa)*y",
        r"(x+x+)+y",
        r"(\w+\s?)*$",
        r"(.*)*",
        r"(a?)*",
        r"^(([a-z])+.)+[A-Z]([a-z])+$",
        r"(?:a{1,5}){1,5}b",
        r"(?=(a+)+$)b",
        r"(a+)\1+",
    ],
)
def test_pattern_that_could_take_exponential_time_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="could take exponential time"):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        pytest.param(r"^\d{4}-\d{2}-\d{2}$", "2026-11-22", "2026-11-22", id="date"),
        pytest.param(r"(\d{1,3}\.){3}\d{1,3}", "at 10.0.0.1:80", "10.0.0.1", id="address"),
        pytest.param(r"([a-z]+-)*[a-z]+", "a-b-c", "a-b-c", id="words-with-hyphens"),
        pytest.param(r"(\w+)(?:,\s*(\w+))*", "a, b, c", "a, b, c", id="list"),
        pytest.param(r"^[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}$", "a@b.example", "a@b.example", id="mail"),
        pytest.param(r"https?://[^\s/]+(/\S*)?", "see http://x.example/y now", "http://x.example/y", id="url"),
        pytest.param(r"v(\d+)\.(\d+)(?:\.(\d+))?", "v1.2.3", "v1.2.3", id="version"),
        pytest.param(r"(.*)=(.*)", "a=b", "a=b", id="pair"),
        pytest.param(r"(cat|dog)+", "catdog", "catdog", id="branches-with-different-beginnings"),
        pytest.param(r"(?s)a.b", "a\nb", "a\nb", id="dotall"),
        pytest.param(r"(?>a+)b", "aab", "aab", id="atomic"),
    ],
)
def test_ordinary_pattern_works(pattern: str, text: str, found: str) -> None:
    match = compile_pattern(pattern).search(text)
    assert match is not None
    assert match.group() == found


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        pytest.param(r"error: (.*)", "x" * 200_000 + "error: full", id="linear-pattern-long-line"),
        pytest.param(r'"id": "([^"]+)"', '"x": 1, ' * 20_000 + '"id": "7"', id="json-in-one-line"),
        pytest.param(r"(\w+): (\d+)", "some line\n" * 20_000 + "total: 17", id="quadratic-pattern-short-lines"),
    ],
)
def test_long_text_is_searched_where_that_is_safe(pattern: str, text: str) -> None:
    assert compile_pattern(pattern).search(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        pytest.param(r"[a-z]+\d", "a" * 5000, id="quadratic"),
        pytest.param(r"(a*)(a*)b", "a" * 400, id="cubic"),
        pytest.param(r".*.*x", "a" * 100, id="fourth-degree"),
        pytest.param(r"\s+$", "\n" * 5000, id="over-line-ends"),
        pytest.param(r"a", "a" * 300_000, id="any-pattern"),
    ],
)
def test_text_too_long_for_the_pattern_is_refused(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match="too long for the pattern"):
        compile_pattern(pattern).search(text)
    with pytest.raises(ValueError, match="too long for the pattern"):
        compile_pattern(pattern).sub(lambda _: "", text)


def test_pattern_of_a_higher_degree_is_refused() -> None:
    with pytest.raises(ValueError, match="too many of its repeats overlap"):
        compile_pattern(".*.*.*.*x")


@pytest.mark.parametrize("pattern", ["(", "[", "a{2,1}", r"\1", "(?P<x>a)(?P<x>b)", "a" * 1001, "(" * 500], ids=repr)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"is not a regular expression|a pattern must be"):
        compile_pattern(pattern)


_ATOMS = st.sampled_from(["a", "b", ",", ".", "[ab]", "[^a]", r"\w", r"\d", r"\s"])
_REPEATS = st.sampled_from(["", "", "*", "+", "?", "*?", "{2,}", "{1,3}"])


def _sequences(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = st.one_of(inner, st.lists(inner, min_size=2, max_size=2).map("|".join)).map("(?:{})".format)
    return st.lists(st.tuples(group, _REPEATS).map("".join), min_size=1, max_size=3).map("".join)


@settings(max_examples=150, deadline=None)
@given(
    pattern=st.recursive(st.tuples(_ATOMS, _REPEATS).map("".join), _sequences, max_leaves=6),
    unit=st.sampled_from(["a", "ab", ",", "a,", "1", " ", "b,a"]),
    end=st.sampled_from(["$", "x", ""]),
)
def test_search_of_an_allowed_text_ends_soon(pattern: str, unit: str, end: str) -> None:
    try:
        compiled = compile_pattern(pattern + end)
    except ValueError:
        return
    begun = time.perf_counter()
    for length in (64, 300, 4096):
        with suppress(ValueError):  # too long for it
            compiled.search((unit * length)[: length - 1] + "!")
    assert time.perf_counter() - begun < 5.0
