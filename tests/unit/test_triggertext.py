"""Triggers as people read them and as data, of every kind."""

from typing import Any, get_args

import pytest

from aura.duration import format_duration, parse_duration
from aura.expressions import condition, template
from aura.schedule import (
    At,
    Change,
    Cron,
    Debounce,
    Every,
    Expect,
    Kind,
    Misfire,
    OnEvent,
    OnFile,
    OnWebhook,
    Poll,
    Scheme,
    Timed,
    Trigger,
)
from aura.triggertext import KINDS, kind_of, spec_of, text_of, when_of

PLAIN = {"jitter_s": 0.0, "misfire": "run_once", "misfire_grace_s": None}
NEW_YEAR = 1_798_761_600.0
WHEN = condition("{{ event.payload }}", "f")
#: A trigger, what people read, and all that it says.
CASES: list[tuple[Kind, str, dict[str, Any]]] = [
    (Cron("30 2 * * *", None, Timed()), "cron 30 2 * * *", {"cron": "30 2 * * *", "timezone": None, **PLAIN}),
    (
        Cron("@daily", "Europe/Berlin", Timed(Misfire.SKIP, 3600.0, 30.0)),
        "cron @daily (Europe/Berlin)",
        {"cron": "@daily", "timezone": "Europe/Berlin", "jitter_s": 30.0, "misfire": "skip", "misfire_grace_s": 3600.0},
    ),
    (Every(300.0, None, Timed()), "every 5m", {"every_s": 300.0, "from": None, **PLAIN}),
    (
        Every(0.5, NEW_YEAR, Timed()),
        "every 500ms from 2027-01-01T00:00:00Z",
        {"every_s": 0.5, "from": "2027-01-01T00:00:00.000000Z", **PLAIN},
    ),
    (At(NEW_YEAR + 0.25, Timed()), "at 2027-01-01T00:00:00.250000Z", {"at": "2027-01-01T00:00:00.250000Z", **PLAIN}),
    (OnEvent("a.*"), "event a.*", {"event": "a.*", "debounce": None}),
    (
        OnEvent("a", Debounce(2.0, template("{{ event.payload.disk }}", "f"))),
        "event a, once none has come for 2s by {{ event.payload.disk }}",
        {"event": "a", "debounce": {"for_s": 2.0, "key": "{{ event.payload.disk }}"}},
    ),
    (
        OnFile(template("{{ vars.inbox }}", "f"), "*.csv", frozenset({Change.DELETED, Change.ADDED}), True),
        "file *.csv in {{ vars.inbox }}, each",
        {"path": "{{ vars.inbox }}", "pattern": "*.csv", "changes": ["added", "deleted"], "each": True},
    ),
    (OnWebhook("hook", Scheme.GITHUB), "webhook github", {"secret": "hook", "scheme": "github"}),
    (
        Poll("lab.look", {"path": template("{{ secrets.place }}", "f")}, 90.5),
        "poll lab.look every 1m30.5s",
        {"action": "lab.look", "params": {"path": "{{ secrets.place }}"}, "every_s": 90.5},
    ),
    (Expect("b.done", 93_600.0), "expect b.done within 1d2h", {"expect": "b.done", "within_s": 93_600.0}),
]


@pytest.mark.parametrize(("kind", "text", "spec"), CASES, ids=[text for _, text, _ in CASES])
def test_trigger_is_shown_in_words_and_as_data(kind: Kind, text: str, spec: dict[str, Any]) -> None:
    trigger = Trigger(kind)
    assert (text_of(trigger), spec_of(trigger), when_of(trigger)) == (text, spec, None)
    assert text.startswith(kind_of(trigger))


@pytest.mark.parametrize(("when", "said"), [(WHEN, "{{ event.payload }}"), (condition(False, "f"), "False")])
def test_condition_is_shown_as_it_is_written(when: Any, said: str) -> None:
    trigger = Trigger(OnEvent("a"), when)
    assert (text_of(trigger), when_of(trigger)) == (f"event a when {said}", said)


def test_every_kind_has_a_case() -> None:
    assert {type(kind) for kind, _, _ in CASES} == set(KINDS) == set(get_args(Kind))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.1, "100ms"),
        (1, "1s"),
        (59.5, "59.5s"),
        (60, "1m"),
        (5400, "1h30m"),
        (86_400, "1d"),
        (90_061, "1d1h1m1s"),
    ],
)
def test_duration_is_written_as_it_is_read(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert parse_duration(text) == pytest.approx(seconds)
