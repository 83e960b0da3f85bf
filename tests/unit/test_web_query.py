"""Cursors and pages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import RequestError
from aura.web.query import PageQuery, RunQuery, first_page, make_cursor, page_by_name, read_cursor


@given(st.sampled_from(["runs", "queue"]), st.text(max_size=50))
def test_cursor_comes_back_as_it_was(kind: str, position: str) -> None:
    assert read_cursor(kind, make_cursor(kind, position)) == position


@given(st.text(max_size=60))
def test_forged_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_cursor("runs", cursor)
    assert caught.value.code == "bad_cursor"


@given(st.integers(0, 2**60), st.integers(0, 200), st.integers(1, 255))
def test_mangled_cursor_is_refused(position: int, at: int, change: int) -> None:
    cursor = make_cursor("runs", position)
    at %= len(cursor)
    mangled = cursor[:at] + chr(ord(cursor[at]) ^ change) + cursor[at + 1 :]
    assert cursor_or_refusal(mangled) in (str(position), "bad_cursor")  # base64 has spare bits at its end


def cursor_or_refusal(cursor: str) -> str:
    try:
        return read_cursor("runs", cursor)
    except RequestError as error:
        return error.code


def test_cursor_belongs_to_its_list() -> None:
    with pytest.raises(RequestError):
        read_cursor("runs", make_cursor("queue", 1))


@pytest.mark.parametrize("position", ["x", "", "-1", "1.5", "1" * 19, "1" * 5000, "\u0661"])
def test_made_up_number_in_a_whole_cursor_is_refused(position: str) -> None:
    with pytest.raises(RequestError) as caught:
        PageQuery(cursor=make_cursor("runs", position)).number("runs")
    assert caught.value.code == "bad_cursor"


def test_number_of_no_cursor_is_none() -> None:
    assert PageQuery().number("runs") is None
    assert PageQuery(cursor=make_cursor("runs", 7)).number("runs") == 7


@pytest.mark.parametrize(("found", "page", "last"), [([1, 2], [1, 2], None), ([1, 2, 3], [1, 2], 2), ([], [], None)])
def test_first_page(found: list[int], page: list[int], last: int | None) -> None:
    assert first_page(found, 2) == (page, last)


def test_page_by_name_goes_on_behind_a_name_that_is_gone() -> None:
    names = ["a", "b", "c", "d"]
    _, cursor = page_by_name(names, names, PageQuery(limit=2), "plans")
    left = ["a", "c", "d"]
    assert page_by_name(left, left, PageQuery(limit=2, cursor=cursor), "plans") == (["c", "d"], None)


def test_labels_and_cids_are_split() -> None:
    wanted = RunQuery(label=["team:ops", "url:http://x"], cid="a,b").wanted()
    assert (wanted.labels, wanted.cids) == ({"team": "ops", "url": "http://x"}, ("a", "b"))
