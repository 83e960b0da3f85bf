"""Polls of interrupt rules: when they ask, what counts as a turn, and what stops, reloads and failures do to that."""

from pathlib import Path
from typing import Any

import pytest
from tests.engine.interrupts_kit import WORK, crashed
from tests.engine.polls_kit import POLL, asked, lines, low, open_polled, poll_of, sensor

from aura.polling.polls import LONGEST_PAUSE
from aura.testing.virtual_time import LULL, Deadlock

pytestmark = pytest.mark.anyio

LONG_WORK = WORK.replace("action: hold", "action: hold, params: {seconds: 8}")
WAITS = "steps: [{name: wait, action: event.wait, params: {name: nothing.comes}}]"


@pytest.fixture(autouse=True)
def fresh_sensor() -> None:
    """Have the sensor as it is before anybody asks."""
    sensor.__init__()  # type: ignore[misc]


# -- when it asks


async def test_poll_asks_at_once_and_then_every_so_often(tmp_path: Path) -> None:
    async with open_polled(tmp_path) as world:
        began = world.loop.time()
        await world.advance(7)
        assert [round(at - began, 3) for at in sensor.times] == [0, 2, 4, 6]
        assert poll_of(world)["next_in_s"] == 1


async def test_poll_that_takes_longer_than_its_period_never_overlaps_itself(tmp_path: Path) -> None:
    sensor.lasts = 5.0
    async with open_polled(tmp_path) as world:
        await world.advance(21)
    assert sensor.gaps == [5, 5, 5, 5]
    assert sensor.most == 1


async def test_poll_that_takes_a_while_keeps_its_period(tmp_path: Path) -> None:
    sensor.lasts = 1.5
    async with open_polled(tmp_path) as world:
        await world.advance(9)
    assert sensor.gaps == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("every", "gaps"),
    [
        pytest.param("2s", [4, 8, 16, 32, 64, 128, 256, LONGEST_PAUSE, LONGEST_PAUSE], id="it-doubles"),
        pytest.param("4m", [LONGEST_PAUSE, LONGEST_PAUSE], id="up-to-five-minutes"),
        pytest.param("10m", [600, 600], id="a-longer-period-stays"),
    ],
)
async def test_failures_back_off_and_an_answer_ends_that(tmp_path: Path, every: str, gaps: list[float]) -> None:
    sensor.script = [OSError("no")] * len(gaps)
    async with open_polled(tmp_path, f"{{poll: {{action: sense, every: {every}}}}}") as world:
        await asked(world, len(gaps) + 2)
        assert poll_of(world)["failures"] == 0
    assert sensor.gaps[:-1] == gaps
    assert sensor.gaps[-1] == {"2s": 2, "4m": 240, "10m": 600}[every]


# -- what is a turn


@pytest.mark.parametrize(
    ("answers", "fired"),
    [
        pytest.param([False, True], 1, id="it-turns"),
        pytest.param([True], 1, id="the-first-one"),
        pytest.param([True, True, True], 1, id="it-stays"),
        pytest.param([True, False, True], 2, id="it-comes-back"),
        pytest.param([False, None, 0, [], {}], 0, id="what-is-empty-is-false"),
        pytest.param([0, 3], 1, id="a-number"),
        pytest.param([True, OSError("no"), True], 1, id="a-failure-is-no-answer"),
        pytest.param([False, OSError("no"), True], 1, id="a-failure-before-a-turn"),
        pytest.param([OSError("no"), True], 1, id="a-failure-first"),
        pytest.param([True, "yes", True], 1, id="text-is-no-answer"),
    ],
)
async def test_rule_fires_when_an_answer_turns_true(tmp_path: Path, answers: list[Any], fired: int) -> None:
    sensor.script, sensor.value = [*answers], answers[-1]
    async with open_polled(tmp_path) as world:
        await asked(world, len(answers) + 2)
        assert len(world.firings()) == len(world.runs("save")) == fired


async def test_turn_is_an_event_with_the_answer_that_is_stored_with_the_firing(tmp_path: Path) -> None:
    sensor.script = [{"percent": 20}, {"percent": 5}]
    sensor.value = {"percent": 20}
    save = "{steps: {save: {action: sleep, params: {duration: 0s}}}, returns: '{{ [event.name, event.payload] }}'}"
    poll = '{poll: {action: sense, every: 2s}, when: "{{ event.payload.percent < 10 }}"}'
    async with open_polled(tmp_path, poll, save=save) as world:
        await asked(world, 2)
        await world.settle()
        [(_, _, event_id, outcome)] = world.firings()
        assert world.payloads("poll.fired") == [{"percent": 5}]
        [(kept, plan)] = world.backend.execute("SELECT id, plan_name FROM event WHERE name='poll.fired'").fetchall()
        assert (str(kept), plan, outcome) == (event_id, "lab", "succeeded")
        assert world.runs("save")[0].result == ["poll.fired", {"percent": 5}]


async def test_turn_in_the_cooldown_is_missed_with_its_reason(tmp_path: Path) -> None:
    sensor.script = [True, False, True]
    async with open_polled(tmp_path, extra="cooldown: 1m") as world:
        await asked(world, 4)
        assert len(world.firings()) == 1
        assert world.rule("low").missed == {"cooldown": 1}


async def test_turn_that_could_not_be_stored_comes_again(tmp_path: Path) -> None:
    sensor.script, sensor.value = [False, True], True
    async with open_polled(tmp_path) as world:
        world.backend.execute("CREATE TRIGGER no BEFORE INSERT ON firing BEGIN SELECT RAISE(ABORT, 'no'); END")
        await asked(world, 2)
        assert world.rule("low").missed == {"storage_full": 1}
        world.backend.execute("DROP TRIGGER no")
        await asked(world, 4)
        assert len(world.firings()) == 1


# -- whether it asks


async def test_rule_that_is_off_asks_nothing_and_begins_anew_when_it_is_on(tmp_path: Path) -> None:
    sensor.value = True
    async with open_polled(tmp_path) as world:
        await world.advance(3)
        await world.switch_rule(False, "low")
        await world.advance(60)
        assert sensor.gaps == [2]
        await world.switch_rule(True, "low")
        await world.loop.wait_quiet()
        assert len(sensor.times) == 3, "it asks at once"
        await world.settle()
        assert len(world.firings()) == 2


async def test_rule_asks_only_while_one_of_its_tasks_runs(tmp_path: Path) -> None:
    sensor.value = False
    async with open_polled(tmp_path, extra="while_running: [work]", work=LONG_WORK) as world:
        await world.advance(60)
        assert sensor.times == []
        await world.run("work")
        await world.advance(60)
        assert sensor.gaps == [2, 2, 2]


async def test_what_it_has_stopped_is_not_stopped_again_for_the_same_thing(tmp_path: Path) -> None:
    sensor.value = True
    save = "steps: {save: {action: sleep, params: {duration: 5s}}}"
    async with open_polled(tmp_path, extra="while_running: [work]", work=LONG_WORK, save=save) as world:
        run = await world.start("work")
        await world.until(run, state="succeeded", within=60)
        assert run.record.preemptions == len(world.firings()) == 1


async def test_pause_of_what_it_watches_forgets_nothing(tmp_path: Path) -> None:
    sensor.value = True
    async with open_polled(tmp_path, extra="while_running: [work]", work=LONG_WORK) as world:
        run = await world.start("work")
        await world.advance(4)
        await world.engine.pause(run.cid)
        await world.advance(10)
        await world.engine.resume(run.cid)
        await world.until(run, state="succeeded", within=60)
        assert len(world.firings()) == 1


@pytest.mark.parametrize("fired", [pytest.param(1, id="while-it-is-handled"), pytest.param(2, id="later")])
async def test_first_answer_after_a_crash_is_a_turn_unless_one_is_being_handled(tmp_path: Path, fired: int) -> None:
    sensor.value = True
    save = "{recovery: restart, steps: {save: {action: sleep, params: {duration: 10s}}}}"
    async with open_polled(tmp_path, save=save) as world:
        await world.advance(3 if fired == 1 else 15)
        backend = crashed(world)
    async with open_polled(tmp_path, backend=backend, save=save) as world:
        await world.advance(3)
        assert len(world.firings()) == fired


# -- stops and reloads


async def test_poll_rests_while_the_engine_is_stopped_and_begins_anew_at_the_start(tmp_path: Path) -> None:
    sensor.value = True
    async with open_polled(tmp_path) as world:
        await world.advance(3)
        await world.engine.stop("cancel", 1.0)
        assert poll_of(world)["next_in_s"] is None
        await world.advance(60)
        assert len(sensor.times) == 2
        await world.engine.start()
        await world.advance(1)
        assert len(sensor.times) == 3
        assert len(world.firings()) == 2


@pytest.mark.parametrize(
    "again", [pytest.param(low(), id="the-plan"), pytest.param(low("cooldown: 7s"), id="the-rule")]
)
async def test_reload_leaves_a_poll_alone_that_is_as_it_was(tmp_path: Path, again: str) -> None:
    sensor.value = True
    async with open_polled(tmp_path) as world:
        await world.advance(3)
        await world.rewrite(tmp_path, rules=again, plan="title: another\n", **_actions(world))
        assert poll_of(world)["next_in_s"] == 1
        await world.advance(4)
        assert sensor.gaps == [2, 2, 2]
        assert len(world.firings()) == 1


async def test_reload_begins_a_changed_poll_anew(tmp_path: Path) -> None:
    sensor.value = True
    async with open_polled(tmp_path) as world:
        await world.advance(3)
        await world.rewrite(tmp_path, rules=low(poll=POLL.replace("2s", "5s")), **_actions(world))
        await world.advance(11)
        assert sensor.gaps == [2, 1, 5, 5]
        assert len(world.firings()) == 2


@pytest.mark.parametrize("rules", [pytest.param(None, id="plan"), pytest.param("rules: {}", id="rule")])
async def test_reload_ends_a_poll_that_is_gone(tmp_path: Path, rules: str | None) -> None:
    async with open_polled(tmp_path) as world:
        await world.advance(1)
        if rules is None:
            (tmp_path / "plans" / "lab").rename(tmp_path / "lab")
            await world.engine.reload()
        else:
            await world.rewrite(tmp_path, rules=rules, **_actions(world))
        await world.advance(60)
    assert len(sensor.times) == 1


def _actions(world: Any) -> dict[str, str]:
    """The plan's code as it is."""
    return {"actions": (world.server.settings.plans / "lab" / "actions.py").read_text()}


# -- what is seen of it


async def test_failure_shows_and_is_told_when_it_is_the_first_or_another(tmp_path: Path) -> None:
    sensor.script = [OSError("no"), OSError("no"), ValueError("odd"), True, OSError("no")]
    sensor.value = OSError("no")
    async with open_polled(tmp_path) as world:
        await asked(world, 1)
        shown = poll_of(world)
        assert (shown["last_state"], shown["failures"], shown["next_in_s"]) == ("failed", 1, 4)
        assert (shown["error"]["type"], shown["error"]["message"]) == ("OSError", "no")
        await asked(world, 6)
        what = "the poll lab.sense of rule lab/low has failed: "
        assert lines() == [f"{what}OSError: no", f"{what}ValueError: odd", f"{what}OSError: no"]
        assert world.engine.state == "running", "a poll that fails degrades nothing"
        assert world.engine.measures.polls == {("lab", "failed"): 5, ("lab", "ok"): 1}


async def test_answer_shows(tmp_path: Path) -> None:
    async with open_polled(tmp_path) as world:
        await asked(world, 1)
        at = world.now
        await world.advance(0.5)
        assert poll_of(world) == {
            "action": "lab.sense",
            "every_s": 2.0,
            "last_at": at,
            "last_state": "ok",
            "error": None,
            "failures": 0,
            "next_in_s": 1.5,
        }


# -- virtual time


async def test_polls_keep_no_deadlock_from_being_seen(tmp_path: Path) -> None:
    async with open_polled(tmp_path, waits=WAITS) as world:
        run = await world.start("waits")

        async def act(_: Any) -> bool:
            if len(sensor.times) > LULL:  # nobody has seen it: so that this test ends
                await world.engine.cancel(run.cid)
            return False

        sensor.act = act
        began = world.loop.time()
        with pytest.raises(Deadlock, match="nothing is scheduled"):
            await world.settle()
        assert LULL <= world.loop.time() - began <= LULL + 4


async def test_poll_that_brings_something_about_is_waited_for(tmp_path: Path) -> None:
    sensor.script, sensor.value = [False] * 90, True
    waits = WAITS.replace("nothing.comes", "poll.fired")
    async with open_polled(tmp_path, "{poll: {action: sense, every: 10m}}", waits=waits) as world:
        run = await world.start("waits")
        await world.settle()
        assert run.state == "succeeded"
        assert len(sensor.times) == 91
