"""Before a world begins: its time, its variables, its secrets and what its plan remembers."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.testing.kit import one_step, write_plan

from aura.testing.virtual_time import BEGINNING
from aura.testing.world import World, plan_world

BERLIN = ZoneInfo("Europe/Berlin")
PLAN = """\
timezone: Europe/Berlin
vars: {inbox: /srv/inbox, most: 3}
secrets: [token, door]
"""
KEYS = """\
from aura import Context, action

@action
async def reads(ctx: Context, name: str) -> str | None:
    return ctx.secrets.get(name)
"""


@pytest.fixture
def plan(lab: Path) -> Path:
    return write_plan(
        lab,
        {
            "plan.yaml": PLAN,
            "schedule.yaml": 'items:\n  nightly: {task: report, triggers: [{cron: "30 2 * * *"}]}\n',
            "tasks/report.yaml": one_step("anything", '{value: "{{ [vars.inbox, vars.most] }}"}'),
            "tasks/now.yaml": one_step("anything", '{value: "{{ now() }}"}'),
            "tasks/secret.yaml": one_step("anything", '{value: "{{ secrets.token | length }}"}'),
            "tasks/count.yaml": one_step("state.set", '{key: n, value: "{{ (state.n or 0) + 1 }}"}'),
            "tasks/short.yaml": one_step("state.set", "{key: brief, value: 1, ttl: 10m}"),
            "tasks/remembers.yaml": one_step("state.get", "{key: n, default: nothing}"),
        },
    )


@pytest.fixture
async def world(plan: Path) -> AsyncIterator[World]:
    async with plan_world(plan) as opened:
        yield opened


# -- its time

ACROSS_THE_GAP = [f"2027-03-{day}" for day in ("27T02:30:00+01:00", "28T03:00:00+02:00", "29T02:30:00+02:00")]
ACROSS_THE_FOLD = [f"2027-10-{day}" for day in ("30T02:30:00+02:00", "31T02:30:00+02:00")] + [
    "2027-11-01T02:30:00+01:00"
]


@pytest.mark.parametrize(
    ("at", "dues"),
    [
        pytest.param("2027-03-27T00:00:00+01:00", ACROSS_THE_GAP, id="text"),
        pytest.param(datetime(2027, 3, 27, tzinfo=BERLIN), ACROSS_THE_GAP, id="datetime"),
        pytest.param(datetime(2027, 3, 26, 23, tzinfo=UTC), ACROSS_THE_GAP, id="of-another-zone"),
        pytest.param("2027-03-26T23:00:00Z", ACROSS_THE_GAP, id="text-in-utc"),
        pytest.param("2027-10-30T00:00:00+02:00", ACROSS_THE_FOLD, id="fold"),
        pytest.param(datetime(2027, 10, 30, tzinfo=timezone(timedelta(hours=2))), ACROSS_THE_FOLD, id="fixed-offset"),
    ],
)
async def test_schedule_over_a_change_of_daylight_saving(world: World, at: str | datetime, dues: list[str]) -> None:
    world.begin(at)
    await world.advance(days=3)
    assert [run.due for run in world.runs("report")] == dues
    world.assert_all_succeeded()


async def test_now_of_expressions_is_the_time_of_the_world_in_the_zone_of_the_plan(world: World) -> None:
    world.begin("2027-03-27T00:00:00+01:00")
    await world.advance("1h30m")
    assert str((await world.run("now")).result).startswith("2027-03-27T01:30:00")
    assert world.now == pytest.approx(datetime(2027, 3, 27, 1, 30, tzinfo=BERLIN).timestamp(), abs=1)


async def test_world_begins_on_the_first_of_january_2026_unless_it_is_told(world: World) -> None:
    await world.advance()
    assert world.now == BEGINNING == datetime(2026, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "at",
    [
        pytest.param("tomorrow", id="no-time"),
        pytest.param("2027-03-27T00:00:00", id="no-zone"),
        pytest.param(datetime(2027, 3, 27), id="naive"),
        pytest.param("", id="empty"),
    ],
)
async def test_what_is_no_time_is_refused_with_an_example(world: World, at: Any) -> None:
    with pytest.raises(ValueError, match="no time"):
        world.begin(at)


@pytest.mark.parametrize(
    ("name", "does"),
    [
        pytest.param("begin", lambda world: world.begin("2027-01-01T00:00:00Z"), id="begin"),
        pytest.param("vars", lambda world: world.vars(inbox="x"), id="vars"),
        pytest.param("state", lambda world: world.state.update(x=1), id="state"),
        pytest.param("state", lambda world: world.state.pop("n"), id="state-removal"),
    ],
)
async def test_what_comes_before_the_beginning_is_refused_after_the_first_await(
    world: World, name: str, does: Callable[[World], Any]
) -> None:
    world.state["n"] = 1
    await world.advance()
    with pytest.raises(RuntimeError, match=rf"world\.{name} comes before anything is awaited"):
        does(world)


# -- variables


async def test_variables_are_those_of_the_file_and_over_them_the_tests(world: World) -> None:
    world.vars(inbox="/elsewhere")
    world.vars(most=4)
    assert (await world.run("report")).result == ["/elsewhere", 4]


async def test_variable_that_the_plan_does_not_have_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="no variable 'imbox'; did you mean 'inbox'"):
        world.vars(imbox="x")


async def test_variables_last_over_a_crash_and_a_reload(world: World) -> None:
    world.vars(most=4)
    await world.crash_and_restart()
    await world.reload()
    assert (await world.run("report")).result == ["/srv/inbox", 4]


# -- secrets


async def test_secret_that_is_not_set_is_a_random_text_and_stays_the_same(world: World, plan: Path) -> None:
    first = (await world.run("secret")).result
    assert first > 15
    assert (await world.run("secret")).result == first


async def test_secret_may_be_set_at_any_time(world: World) -> None:
    world.secrets(token="abcdefghij")
    assert (await world.run("secret")).result == 10
    world.secrets(token="x" * 40)
    assert (await world.run("secret")).result == 40


async def test_secret_that_is_nowhere_fails_the_step(world: World) -> None:
    world.secrets(token=None)
    run = await world.run("secret")
    assert run.state == "failed"
    assert "token" in run.explain()


async def test_secret_that_the_plan_does_not_have_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="has a secret 'tokem'; did you mean 'token'"):
        world.secrets(tokem="x")


async def test_secret_is_shown_to_nobody(world: World, plan: Path) -> None:
    write_plan(plan, {"tasks/tells.yaml": one_step("log", '{message: "it is {{ secrets.token }}"}')})
    world.secrets(token="very-secret-text")
    run = await world.run("tells")
    run.assert_succeeded()
    assert [line["message"] for line in run.logs("info")] == ["it is ***"]


# -- state


async def test_state_is_there_from_the_beginning_and_as_actions_leave_it(world: World) -> None:
    world.state.update(n=41, other={"a": [1]})
    assert (await world.run("remembers")).result == 41
    await world.run("count")
    assert (world.state["n"], dict(world.state), len(world.state)) == (42, {"n": 42, "other": {"a": [1]}}, 2)
    assert ("n" in world.state, world.state.get("m", "none"), repr(world.state)) == (
        True, "none", "{'n': 42, 'other': {'a': [1]}}"
    )  # fmt: skip


async def test_state_that_is_taken_back_before_the_beginning_is_not_there(world: World) -> None:
    world.state["n"] = 41
    del world.state["n"]
    with pytest.raises(KeyError):
        del world.state["n"]
    assert (await world.run("remembers")).result == "nothing"


async def test_state_ends_with_its_time_to_live(world: World) -> None:
    await world.run("short")
    assert world.state["brief"] == 1
    await world.advance("11m")
    assert "brief" not in world.state


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("n", {1, 2}, id="no-json"),
        pytest.param("n", float("nan"), id="no-number"),
        pytest.param("", 1, id="empty-key"),
        pytest.param(5, 1, id="key-no-text"),
        pytest.param("x" * 201, 1, id="key-too-long"),
        pytest.param("n", "x" * 70_000, id="too-much"),
    ],
)
async def test_state_that_no_plan_could_have_is_refused(world: World, key: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"world\.state"):
        world.state[key] = value
    assert len(world.state) == 0


async def test_state_that_is_set_lasts_over_a_crash(world: World) -> None:
    world.state["n"] = 1
    await world.run("count")
    await world.crash_and_restart()
    assert world.state == {"n": 2}
