"""The functions and filters of expressions that are Aura's own, and those of Jinja's that are kept."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from aura.errors import ExpressionError
from aura.expressions import template
from aura.filters import FILTERS

BERLIN = ZoneInfo("Europe/Berlin")
SCOPE: Mapping[str, Any] = {
    "now": lambda: datetime(2027, 3, 28, 12, tzinfo=BERLIN),
    "due": datetime(2027, 3, 29, 0, 30, tzinfo=BERLIN),
    "gap": datetime(2027, 3, 27, 2, 30, tzinfo=BERLIN),
    "event": {"time": "2026-11-22T08:00:00Z", "seconds": 1763798400},
    "text": "status=ok code=17 it's",
}


def value_of(expression: str) -> Any:
    return template(f"{{{{ {expression} }}}}", "f:1").render(SCOPE)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        pytest.param("now()", "2027-03-28T12:00:00+02:00", id="now"),
        pytest.param("now() | date", "2027-03-28", id="date"),
        pytest.param("now() | date('%d.%m.%Y')", "28.03.2027", id="date-format"),
        pytest.param("now() | time('%H:%M')", "12:00", id="time-format"),
        pytest.param("event.time | time", "2026-11-22T08:00:00Z", id="time-of-text"),
        pytest.param("event.seconds | time", "2025-11-22T09:00:00+01:00", id="time-of-seconds-in-the-plans-zone"),
        pytest.param("'2026-11-22T08:00:00' | time", "2026-11-22T08:00:00+01:00", id="no-offset-is-the-plans-zone"),
        pytest.param("'2026-11-22' | date('%j')", "326", id="date-of-date"),
        pytest.param("(due - days(1)) | date", "2027-03-28", id="yesterday-over-the-spring-change"),
        pytest.param("due - days(1)", "2027-03-28T00:30:00+01:00", id="days-keep-the-hour"),
        pytest.param("due - hours(24)", "2027-03-27T23:30:00+01:00", id="hours-are-time-that-passes"),
        pytest.param("gap + days(1)", "2027-03-28T03:30:00+02:00", id="an-hour-that-is-not-there"),
        pytest.param("event.time + minutes(90)", "2026-11-22T09:30:00Z", id="text-plus-duration"),
        pytest.param("hours(1) + event.time", "2026-11-22T09:00:00Z", id="duration-plus-text"),
        pytest.param("now() - event.time", 10_893_600.0, id="difference"),
        pytest.param("(now() - event.time) > days(100)", True, id="compare-durations"),
        pytest.param("(event.time | time) < now()", True, id="compare-times"),
        pytest.param("minutes(5)", 300.0, id="duration-is-seconds"),
        pytest.param("'1h30m' | duration", 5400.0, id="duration-of-text"),
        pytest.param("90 | duration", 90.0, id="duration-of-seconds"),
        pytest.param("minutes(5) ~ 's'", "300s", id="duration-in-text"),
        pytest.param("hours(1) / minutes(1)", 60.0, id="ratio"),
        pytest.param("[minutes(1), seconds(1)] | sum", 61.0, id="sum-of-durations"),
    ],
)
def test_time(expression: str, value: Any) -> None:
    assert value_of(expression) == value
    assert type(value_of(expression)) is type(value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        pytest.param("{'a': [1, none, true]} | json", '{"a":[1,null,true]}', id="json"),
        pytest.param("{'a': 1} | json(indent=2)", '{\n  "a": 1\n}', id="json-indent"),
        pytest.param("'{\"a\": [1, null]}' | from_json", {"a": [1, None]}, id="from_json"),
        pytest.param("text | regex_search('code=([0-9]+)')", "17", id="regex-first-group"),
        pytest.param("text | regex_search('code=[0-9]+')", "code=17", id="regex-match"),
        pytest.param("text | regex_search('nothing')", None, id="regex-none"),
        pytest.param("text | regex_search('STATUS', true)", "status", id="regex-ignore-case"),
        pytest.param("text | regex_replace('([a-z]+)=', '\\\\1: ')", "status: ok code: 17 it's", id="regex-replace"),
        pytest.param("'/a/b.txt' | basename", "b.txt", id="basename"),
        pytest.param("'/a/b.txt' | dirname", "/a", id="dirname"),
        pytest.param("text | sh", "'status=ok code=17 it'\"'\"'s'", id="sh"),
        pytest.param("['a b', 1, '-rf'] | sh", "'a b' 1 -rf", id="sh-list"),
        pytest.param("'' | sh", "''", id="sh-empty"),
        pytest.param("'a' | sha256", "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", id="sha256"),
        pytest.param("'hé' | b64encode", "aMOp", id="b64encode"),
        pytest.param("'aMOp' | b64decode", "hé", id="b64decode"),
        pytest.param("[1, true, null, 'x'] | join(',')", "1,true,null,x", id="join"),
        pytest.param("true | string", "true", id="string"),
        pytest.param("'a-b' | replace('-', '+')", "a+b", id="replace"),
        pytest.param("[3, 1, 2] | sort", [1, 2, 3], id="sort"),
        pytest.param("2.567 | round(1)", 2.6, id="round"),
        pytest.param("'x' | center(5)", "  x  ", id="center"),
        pytest.param("[1, 2, 3] | batch(2)", [[1, 2], [3]], id="batch"),
        pytest.param("{'b': 1} | dictsort", [["b", 1]], id="tuples-become-lists"),
    ],
)
def test_data(expression: str, value: Any) -> None:
    assert value_of(expression) == value


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        pytest.param("'soon' | time", "'soon' is not a time; RFC 3339", id="time"),
        pytest.param("'soon' | duration", "'soon' is not a duration", id="duration"),
        pytest.param("null | date", "a time is needed, not null", id="date-of-null"),
        pytest.param("'2027-03-28' - days(1) | date", "a time is needed, not a duration", id="date-of-days"),
        pytest.param("days('x')", "a number is needed", id="days"),
        pytest.param("now() + days(40000)", "between 0 and a hundred years", id="too-many-days"),
        pytest.param("'9999-12-31T00:00:00Z' + days(2)", "leave the calendar", id="end-of-calendar"),
        pytest.param("1e300 | time", "not a time of the calendar", id="seconds-beyond-the-calendar"),
        pytest.param("'{' | from_json", "the text is not JSON", id="from_json"),
        pytest.param("1 | from_json", "from_json needs text, not a number", id="from_json-of-number"),
        pytest.param("'%%%' | b64decode", "not the Base64", id="b64decode"),
        pytest.param("'/w==' | b64decode", "not the Base64 of UTF-8", id="b64decode-bytes"),
        pytest.param("'a' | regex_search('(')", "is not a regular expression", id="regex"),
        pytest.param("'a' | regex_search('(?=a)')", "is not a regular expression", id="regex-look-ahead"),
        pytest.param("'a' | regex_replace('a', '\\\\9')", "names a group that the", id="regex-group"),
        pytest.param("'a\\0b' | sh", "NUL", id="sh-nul"),
        pytest.param("['a'] | sum", "sum needs numbers", id="sum"),
        pytest.param("{1: 2}", "JSON has no other keys", id="key-that-is-no-text"),
        pytest.param("[] | json(indent=99)", "not between 0 and 16", id="indent"),
    ],
)
def test_failure(expression: str, said: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        value_of(expression)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["attr", "format", "xmlattr", "pprint", "safe", "escape", "urlize", "random"])
def test_filter_of_jinja_is_left_out(name: str) -> None:
    assert name not in FILTERS
