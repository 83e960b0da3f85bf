"""Regular expressions that meet data: what is refused, what is found, and that every search ends soon."""

import time

import pytest

from aura.patterns import compile_pattern


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        pytest.param(r"^\d{4}-\d{2}-\d{2}$", "2026-11-22", "2026-11-22", id="date"),
        pytest.param(r"(\d{1,3}\.){3}\d{1,3}", "at 10.0.0.1:80", "10.0.0.1", id="address"),
        pytest.param(r"^[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}$", "a@b.example", "a@b.example", id="mail"),
        pytest.param(r"https?://[^\s/]+(/\S*)?", "see http://x.example/y now", "http://x.example/y", id="url"),
        pytest.param(r"(?s)a.b", "a\nb", "a\nb", id="dotall"),
        pytest.param(r"[\pL]+", "12 élan", "élan", id="letters-of-any-script"),
    ],
)
def test_ordinary_pattern_works(pattern: str, text: str, found: str) -> None:
    match = compile_pattern(pattern).search(text)
    assert match is not None
    assert match.group() == found


def test_end_of_text_is_not_before_a_line_end() -> None:
    assert compile_pattern(r"^\d{4}$").search("2026\n") is None


def test_case_is_ignored_on_request() -> None:
    assert compile_pattern("abc", True).search("xABC")
    assert not compile_pattern("abc").search("xABC")


def test_every_match_is_replaced() -> None:
    assert compile_pattern(r"(\d)").sub(lambda m: f"<{m.group(1)}>", "a1é2") == "a<1>é<2>"


@pytest.mark.parametrize(
    "pattern",
    ["(", "[", "a{2,1}", r"(a)\1", "(?=a)b", "a" * 1001, "(" * 500, "((a{1000}){1000}){10}"],
    ids=lambda p: p[:12],
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"is not a regular expression|a pattern must be"):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"(a*)*b",
        r"(a|a)*b",
        r"(x+x+)+y",
        r"(\w+\s?)*$",
        r"(.*)*x",
        r"^(([a-z])+.)+[A-Z]([a-z])+$",
        r".*.*.*.*x",
    ],
)
def test_pattern_that_would_make_a_backtracking_matcher_hang_ends_soon(pattern: str) -> None:
    begun = time.perf_counter()
    compile_pattern(pattern).search("a" * 100_000 + "!")
    assert time.perf_counter() - begun < 5.0


def test_text_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="characters; a pattern searches at most"):
        compile_pattern("a").search("a" * 1_100_000)
