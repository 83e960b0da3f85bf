"""What a poll asks with: the ctx of its action, threads and processes, what is left of them, and what hangs."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.interrupts_kit import ACTIONS, Lab, lab_settings, write_plan
from tests.engine.polls_kit import POLL, SENSE, Deaf, asked, lines, low, open_polled, poll_of, sensor
from tests.fakes.kernel import no_hang

from aura.errors import ExitCode
from aura.polling.question import GRACE, LONGEST
from aura.runs.attempt import PULSE
from aura.testing.virtual_time import ThreadGate
from aura.testing.world import open_world

pytestmark = pytest.mark.anyio

OWN = f"""{ACTIONS}
import os, threading
from aura import action, service, Context
from tests.engine.polls_kit import sensor

@service
async def line(ctx):
    yield "a line"

@action
async def ask_service(line: str) -> str | list[str]:
    return [line]

@action
def in_thread(ctx: Context) -> list[int]:
    ctx.log.warning("in a thread")
    return [threading.get_ident()]

@action
def in_gate() -> None:
    sensor.gate.wait()
"""
FAR = f"""{ACTIONS}
import os
from aura import action, Context

@action(isolation="process")
def elsewhere(ctx: Context, n: int) -> dict[str, int]:
    (ctx.workdir / "note").write_text("x")
    return {{"pid": os.getpid(), "n": n}}
"""


@pytest.fixture(autouse=True)
def fresh_sensor() -> None:
    """Have the sensor as it is before anybody asks."""
    sensor.__init__()  # type: ignore[misc]


def poll(action: str, params: str = "{}", when: str = "true") -> str:
    """A trigger that asks once a minute."""
    return f"{{poll: {{action: {action}, params: {params}, every: 1m}}, when: {when}}}"


async def fired(world: Lab) -> Any:
    """What the first turn has said."""
    await world.until(world.firings)
    return world.payloads("poll.fired")[0]


def failure(world: Lab) -> tuple[str, str]:
    """Why the last question failed."""
    error = poll_of(world)["error"]
    return error["type"], error["message"]


# -- its ctx


async def test_action_has_the_ctx_of_its_plan(tmp_path: Path) -> None:
    plan = "vars: {n: 7}\nsecrets: [key]\n"

    async def act(ctx: Any) -> Any:
        ctx.log.warning("asked")
        ctx.progress(1, 2)
        await ctx.state.set("last", ctx.vars["n"])
        await ctx.emit("sensor.read", ctx.vars["n"])
        return [ctx.plan_name, ctx.vars["n"], len(ctx.secrets["key"]) > 0, ctx.checkpointed, ctx.time_left()]

    sensor.act = act
    async with open_polled(tmp_path, plan=plan) as world:
        assert await fired(world) == ["lab", 7, True, None, LONGEST]
        [line] = [line.record() for line in sensor.lines if line.message == "asked"]
        assert (line["plan_name"], line["cid"], line["fields"]) == ("lab", None, {"poll": "rule lab/low"})
        said = "SELECT name, plan_name, cid, depth FROM event WHERE name IN ('state.changed', 'sensor.read')"
        assert set(world.backend.execute(said)) == {("state.changed", "lab", None, 0), ("sensor.read", "lab", None, 0)}


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda ctx: ctx.run("work"), id="run"),
        pytest.param(lambda ctx: ctx.start("work"), id="start"),
        pytest.param(lambda ctx: ctx.checkpoint(1), id="checkpoint"),
    ],
)
async def test_what_needs_a_run_is_refused(tmp_path: Path, act: Callable[[Any], Any]) -> None:
    sensor.act = act
    async with open_polled(tmp_path) as world:
        await asked(world, 1)
        kind, message = failure(world)
        assert kind == "no_run"
        assert "a poll is part of no run" in message


async def test_sleep_that_would_give_its_place_back_fails(tmp_path: Path) -> None:
    async with open_polled(tmp_path, poll("sleep", "{duration: 1h}")) as world:
        await world.advance(1)
        assert failure(world)[0] == "no_run"


async def test_params_may_hold_expressions(tmp_path: Path) -> None:
    sensor.value = True
    given = "{given: ['{{ vars.n + 1 }}', '{{ plan.name }}', '{{ now() | date }}']}"
    async with open_polled(tmp_path, poll("sense", given), plan="vars: {n: 7}\n") as world:
        await asked(world, 1)
        assert sensor.given == [8, "lab", "2026-01-01"]


async def test_expression_without_a_value_is_a_failure(tmp_path: Path) -> None:
    async with open_polled(tmp_path, poll("sense", "{given: '{{ vars.n / 0 }}'}"), plan="vars: {n: 7}\n") as world:
        await world.advance(1)
        assert failure(world)[0] == "expression_error"
        assert sensor.times == []


@pytest.mark.parametrize(
    ("value", "says"),
    [
        pytest.param(object(), "not JSON", id="no-json"),
        pytest.param(["x" * 66_000], "bytes of JSON", id="too-large"),
        pytest.param("\ud800", "no JSON text", id="half-a-character"),
    ],
)
async def test_answer_that_cannot_be_a_payload_is_a_failure(tmp_path: Path, value: Any, says: str) -> None:
    sensor.value = value
    async with open_polled(tmp_path) as world:
        await asked(world, 1)
        kind, message = failure(world)
        assert kind == "bad_output"
        assert says in message
        assert world.firings() == []


async def test_stray_cancellation_is_a_failure(tmp_path: Path) -> None:
    async def act(_: Any) -> None:
        raise anyio.get_cancelled_exc_class()

    sensor.act = act
    async with open_polled(tmp_path) as world:
        await asked(world, 2)
        assert failure(world)[0] == "stray_cancellation"


# -- other ways to run


async def test_action_may_use_a_service(tmp_path: Path) -> None:
    async with open_polled(tmp_path, poll("ask_service"), actions=OWN) as world:
        assert await fired(world) == ["a line"]


async def test_plain_function_runs_in_a_thread(tmp_path: Path) -> None:
    async with open_polled(tmp_path, poll("in_thread"), actions=OWN) as world:
        assert await fired(world) != [threading.get_ident()]
        assert lines() == ["in a thread"]


async def test_action_of_a_used_plan_is_asked(tmp_path: Path) -> None:
    write_plan(tmp_path, "far", rules=None, actions=ACTIONS + SENSE)
    sensor.value = ["far"]
    async with open_polled(tmp_path, poll("far.sense"), plan="uses: [far]\n") as world:
        assert await fired(world) == ["far"]


async def test_action_in_a_process_leaves_neither_that_nor_its_folder(tmp_path: Path) -> None:
    async with open_polled(tmp_path, poll("elsewhere", "{n: 3}"), actions=FAR) as world:
        answer = await fired(world)
        assert answer["n"] == 3
        assert not os.path.exists(f"/proc/{answer['pid']}")
        assert list(world.engine.workdirs.iterdir()) == []


async def test_process_that_a_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    command = '{shell: "setsid sleep 300 >/dev/null 2>&1 & echo $!"}'
    async with open_polled(tmp_path, poll("shell.run", command)) as world:
        pid = (await fired(world))["stdout"].strip()
        await world.advance(1)
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().split()[2] == "Z"


# -- stops


def cleaning(log: list[Any], seconds: float = 0.2) -> Callable[[Any], Any]:
    """What hangs until it is stopped, and needs so long to clean up."""

    async def act(ctx: Any) -> None:
        try:
            await anyio.sleep(3600)
        finally:
            log.append(ctx.stopping_because)
            await anyio.sleep(seconds)
            log.append("clean")

    return act


async def test_stop_of_the_engine_lets_a_question_clean_up(tmp_path: Path) -> None:
    log: list[Any] = []
    sensor.act = cleaning(log)
    async with open_polled(tmp_path) as world:
        await world.advance(1)
        began = world.loop.time()
        await world.engine.stop("cancel", 1.0)
        assert log == ["shutdown", "clean"]
        assert 0.2 <= world.loop.time() - began < 0.5
        assert poll_of(world)["failures"] == 0, "it was stopped, and has not failed"


async def test_reload_stops_the_question_of_a_poll_that_is_gone(tmp_path: Path) -> None:
    log: list[Any] = []
    sensor.act = cleaning(log)
    async with open_polled(tmp_path) as world:
        await world.advance(1)
        await world.rewrite(tmp_path, rules="rules: {}", actions=ACTIONS + SENSE)
        await world.advance(1)
        assert log == ["cancel", "clean"]
        assert world.engine.polls.left == []


async def test_poll_that_comes_back_while_it_is_stopped_is_the_same_one(tmp_path: Path) -> None:
    sensor.act = cleaning([], GRACE - 1)
    async with open_polled(tmp_path) as world:
        await world.advance(1)
        await world.rewrite(tmp_path, rules="rules: {}", actions=ACTIONS + SENSE)
        await world.rewrite(tmp_path, rules=low(), actions=ACTIONS + SENSE)
        await world.advance(1)
        assert len(sensor.times) == 1
        await world.advance(GRACE)
        assert (len(sensor.times), sensor.most) == (2, 1)


async def test_question_times_out(tmp_path: Path) -> None:
    log: list[Any] = []
    sensor.act = cleaning(log)
    async with open_polled(tmp_path) as world:
        await world.advance(LONGEST + 1)
        assert log == ["timeout", "clean"]
        assert failure(world) == ("TimeoutError", f"it did not answer within {LONGEST:g} s")
    assert sensor.most == 1


# -- what hangs


async def test_question_that_hangs_is_stuck_and_nothing_is_asked_until_it_has_ended(tmp_path: Path) -> None:
    sensor.act = deaf = Deaf()
    async with open_polled(tmp_path) as world:
        await world.advance(LONGEST + GRACE + PULSE + 0.1)
        assert poll_of(world)["last_state"] == "stuck"
        assert world.engine.polls.stuck == ["the poll lab.sense of rule lab/low"]
        [said] = lines("error")
        assert said.startswith("the poll lab.sense of rule lab/low does not end and is left behind; it hangs at ")
        await world.advance(10)
        assert deaf.begun == 1
        deaf.free = True
        sensor.act = None
        await world.advance(1)
        assert poll_of(world)["last_state"] == "ok"
        assert world.engine.measures.polls == {("lab", "failed"): 1, ("lab", "ok"): 1}
        assert lines()[-2].endswith("has ended after all")


async def test_stop_of_the_engine_does_not_wait_for_a_question_that_hangs(tmp_path: Path) -> None:
    sensor.act = deaf = Deaf()
    async with open_polled(tmp_path) as world:
        await world.advance(1)
        with no_hang(1.0):
            await world.engine.stop("cancel", 0.3)
        assert world.engine.state == "stopped"
        await world.engine.start()
        await world.advance(10)
        assert deaf.begun == 1
        deaf.free = True
        await world.advance(1)
        assert deaf.begun > 1


async def test_thread_that_hangs_is_named_with_its_line(tmp_path: Path) -> None:
    async with open_polled(tmp_path, poll("in_gate"), actions=OWN) as world:
        sensor.gate = ThreadGate()
        await world.until(lambda: sensor.gate.waiting)
        await world.engine.stop("cancel", 0.1)
        [said] = lines("error")
        assert "it hangs at lab@" in said
        assert said.endswith(f"actions.py:{OWN.splitlines().index('    sensor.gate.wait()') + 1}")
        sensor.gate.open()
        await world.until(lambda: not world.engine.polls.left)


async def test_server_that_has_to_leave_a_poll_behind_says_so(tmp_path: Path) -> None:
    sensor.act = Deaf()
    home = write_plan(tmp_path, rules=low(poll=POLL), actions=ACTIONS + SENSE)
    left: list[int] = []
    async with open_world(home, settings=lab_settings(tmp_path), leave=left.append, kind=Lab) as world:
        await world.advance(1)
    assert set(left) == {ExitCode.INTERNAL}
    assert world.server.left_services == ["the poll lab.sense of rule lab/low"]
