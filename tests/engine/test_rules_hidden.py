"""Secrets in what rules hear, ask and say: none stands on record, in the log, or in what doors show."""

from pathlib import Path

import pytest
from tests.engine.interrupts_kit import Lab, open_lab, rule
from tests.engine.polls_kit import asked, open_polled, sensor

from aura.errors import RequestError

pytestmark = pytest.mark.anyio

SECRET = "hunter2hunter2"
PLAN = "secrets: [pin]\n"
#: Takes a text, and says what its event and its input are.
ECHO = """
inputs: {text: {type: string, default: none}}
steps: {say: {action: log, params: {message: "{{ event.payload }} {{ inputs.text }}"}}}
returns: "{{ [event.payload, inputs.text] }}"
"""


@pytest.fixture(autouse=True)
def fresh_sensor() -> None:
    """Have the sensor as it is before anybody asks."""
    sensor.__init__()  # type: ignore[misc]


def leaks(world: Lab) -> list[str]:
    """The rows on record that have the secret in them."""
    tables = world.backend.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    rows = [repr(row) for (name,) in tables for row in world.backend.execute(f"SELECT * FROM {name}").fetchall()]
    return [row[:300] for row in rows if SECRET in row]


def know(world: Lab) -> None:
    """Have the secret known, as it is once a step or a rule has read it."""
    world.secrets(pin=SECRET)
    world.engine.runtime.redactor.learn("lab/pin", SECRET)


@pytest.mark.parametrize("by_hand", [False, True], ids=["event", "by-hand"])
async def test_no_row_of_a_firing_has_a_secret(tmp_path: Path, by_hand: bool) -> None:
    text = rule('inputs: {text: "pin {{ secrets.pin }}"}', task="echo")
    async with open_lab(tmp_path, rules=text, plan=PLAN, echo=ECHO) as world:
        know(world)
        payload = {"said": f"the pin is {SECRET}", SECRET: [SECRET]}
        await (world.fire("low_battery", payload) if by_hand else world.tell(payload=payload))
        assert len(world.firings()) == 1
        await world.settle()
        assert leaks(world) == []
        assert world.runs("echo")[0].state == "succeeded"
        assert SECRET not in repr(world.engine.rules())


async def test_no_row_of_a_poll_has_a_secret(tmp_path: Path) -> None:
    on = '{poll: {action: sense, params: {given: "{{ secrets.pin }}"}, every: 2s}}'
    sensor.script = [RuntimeError(f"{SECRET} is wrong"), {"a": SECRET}]
    async with open_polled(tmp_path, on, 'inputs: {text: "{{ event.payload.a }}"}', plan=PLAN, save=ECHO) as world:
        know(world)
        await asked(world, 1)
        assert "*** is wrong" in repr(world.engine.rules())
        await asked(world, 2)
        await world.settle()
        assert len(world.firings()) == 1
        assert leaks(world) == []
        assert SECRET not in repr([line.record() for line in sensor.lines])


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        pytest.param("{{ secrets.pin | duration }}", "type: string", id="expression"),
        pytest.param("{{ {secrets.pin: 1} }}", "type: object, properties: {a: integer}", id="pointer"),
    ],
)
async def test_refusal_of_a_fire_by_hand_hides_a_secret(tmp_path: Path, given: str, kind: str) -> None:
    text, echo = rule(f'inputs: {{text: "{given}"}}', task="echo"), ECHO.replace("type: string, default: none", kind)
    async with open_lab(tmp_path, rules=text, plan=PLAN, echo=echo) as world:
        world.secrets(pin=SECRET)
        with pytest.raises(RequestError) as caught:
            await world.fire("low_battery")
        said = repr((caught.value.detail, caught.value.errors))
        assert caught.value.code == "inputs_invalid"
        assert SECRET not in said
        assert "***" in said
