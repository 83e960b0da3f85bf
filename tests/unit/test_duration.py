"""Durations as plan files and JSON carry them."""

import re
from typing import Any

import msgspec
import pytest

from aura.actions import Action, action
from aura.duration import Duration, decode_hook, parse_duration, schema_hook
from aura.errors import ParamsInvalid


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("500ms", 0.5, id="milliseconds"),
        pytest.param("90s", 90, id="seconds"),
        pytest.param("1h30m", 5400, id="hours-and-minutes"),
        pytest.param("1h 30m", 5400, id="with-a-blank"),
        pytest.param("2d", 172_800, id="days"),
        pytest.param("1w", 604_800, id="weeks"),
        pytest.param("1.5h", 5400, id="decimal"),
        pytest.param("1h30m500ms", 5400.5, id="all-with-milliseconds"),
        pytest.param("10 minutes", 600, id="words"),
        pytest.param("PT1H", 3600, id="iso"),
        pytest.param("P1DT12H", 129_600, id="iso-days"),
        pytest.param("PT0.5S", 0.5, id="iso-decimal"),
        pytest.param(0, 0, id="zero"),
        pytest.param("0", 0, id="zero-as-text"),
    ],
)
def test_duration_is_seconds(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(90, "90 has no unit; say 90s", id="bare-number"),
        pytest.param("90", "say 90s", id="bare-number-as-text"),
        pytest.param(1.5, "say 1.5s", id="bare-decimal"),
        pytest.param("1:30", "'1:30' is not a duration", id="clock"),
        pytest.param("-5s", "'-5s' is not a duration", id="negative"),
        pytest.param("", "'' is not a duration", id="empty"),
        pytest.param("soon", "write 500ms, 90s, 1h30m, 2d or PT1H", id="word"),
        pytest.param("1m30", "'1m30'", id="number-without-unit-at-the-end"),
        pytest.param("500ms1s", "'500ms1s'", id="units-out-of-order"),
        pytest.param("P1Y", "'P1Y'", id="years-have-no-length"),
        pytest.param("1e3s", "'1e3s'", id="exponent"),
        pytest.param("١s", "is not a duration", id="digits-of-another-script"),
        pytest.param("9" * 200 + "s", "is not a duration", id="endless"),
        pytest.param("999999999d", "between 0 and a hundred years", id="beyond-the-calendar"),
        pytest.param(True, "True is not a duration", id="boolean"),
        pytest.param(None, "None is not a duration", id="null"),
    ],
)
def test_duration_refuses(text: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_duration(text)


SECOND = Duration(1)


@action
async def rest(duration: Duration, pause: Duration = SECOND) -> None:
    """Rest a while."""


@pytest.mark.parametrize(
    ("given", "bound"),
    [
        pytest.param("1m", 60.0, id="text"),
        pytest.param(2.5, 2.5, id="number-is-seconds-as-json-carries-them"),
        pytest.param(Duration(3), 3.0, id="duration"),
    ],
)
def test_duration_as_a_parameter_takes(given: Any, bound: float) -> None:
    arguments = Action.of(rest).bind({"duration": given})
    assert arguments == {"duration": bound, "pause": 1.0}
    assert isinstance(arguments["duration"], Duration)


@pytest.mark.parametrize("given", [-1, "soon", True, None, float("inf")], ids=repr)
def test_duration_as_a_parameter_refuses(given: Any) -> None:
    with pytest.raises(ParamsInvalid):
        Action.of(rest).bind({"duration": given})


def test_duration_has_a_json_schema() -> None:
    assert Action.of(rest).params_schema()["properties"]["duration"]["type"] == ["string", "number"]


def test_hooks_refuse_other_types() -> None:
    with pytest.raises(NotImplementedError):
        decode_hook(complex, 1)
    with pytest.raises(NotImplementedError):
        schema_hook(complex)


def test_duration_leaves_an_action_as_a_number() -> None:
    @action
    def measure() -> Duration:
        return Duration(1.5)

    assert msgspec.json.encode(Action.of(measure).check_result(measure())) == b"1.5"
