"""Cron expressions: what is one, and which field is wrong."""

import pytest

from aura.cron import NICKNAMES, read_cron


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        pytest.param("30 2 * * *", "30 2 * * *", id="five"),
        pytest.param(" 30  2 * * * ", "30 2 * * *", id="spaces"),
        pytest.param("*/5 0 2 * * *", "*/5 0 2 * * *", id="seconds"),
        pytest.param("0 8-18/2 1,15 jan-mar mon", "0 8-18/2 1,15 jan-mar mon", id="words"),
        pytest.param("0 0 L * *", "0 0 L * *", id="last-day"),
        pytest.param("0 0 * * 5L", "0 0 * * 5L", id="last-friday"),
        pytest.param("0 0 29 2 *", "0 0 29 2 *", id="leap-day"),
        pytest.param("@daily", "0 0 * * *", id="nickname"),
    ],
)
def test_expression_is_read(text: str, fields: str) -> None:
    assert read_cron(text) == fields


@pytest.mark.parametrize("nickname", NICKNAMES)
def test_nickname_means_an_expression(nickname: str) -> None:
    assert read_cron(NICKNAMES[nickname]) == read_cron(nickname)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "5 fields, or 6 with seconds first, not 0", id="empty"),
        pytest.param("* * * * * * *", "not 7", id="seven"),
        pytest.param("60 * * * *", "minute: '60' is none", id="minute"),
        pytest.param("60 0 * * * *", "second: '60' is none", id="second"),
        pytest.param("0 24 * * *", "hour: '24' is none", id="hour"),
        pytest.param("0 0 * 13 *", "month: '13' is none", id="month"),
        pytest.param("0 0 * * 8", "day-of-week: '8' is none", id="day-of-week"),
        pytest.param("0 0 30 2 *", "day-of-month: '30' is none, or one that never comes", id="never"),
        pytest.param("0 0 */30 2 1#5", "there is no time that '0 0 */30 2 1#5' means", id="never-together"),
        pytest.param("0 " * 300, "at most 200 characters", id="long"),
        pytest.param("@dayly", "did you mean '@daily'?", id="nickname"),
        pytest.param("@reboot", "subscribe to the event engine.started", id="reboot"),
    ],
)
def test_what_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"cron|second|minute|hour|day|month|nickname|time") as caught:
        read_cron(text)
    assert message in str(caught.value)
