"""Whether an event fires a rule, and what is said if it does not."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.interrupts_kit import Lab, crashed, lab_settings, open_lab, rule, rules, write_plan

from aura.lifecycle import RunState
from aura.run import Cause, Request
from aura.testing.run import Run
from aura.testing.virtual_time import VirtualClock

pytestmark = pytest.mark.anyio

ECHO = """
inputs: {text: {type: string, default: nothing}}
steps: {say: {action: log, params: {message: "{{ inputs.text }}"}}}
returns: "{{ inputs.text }}"
"""
ARM = "steps: {set: {action: state.set, params: {key: armed, value: 7}}}"
PLAN = "vars: {limit: 10}\nsecrets: [pin]\n"


def why(world: Lab, name: str = "low_battery") -> str | None:
    """The reason why a rule did not fire the last time."""
    missed = world.rule(name).last_missed
    return missed.reason if missed else None


@pytest.mark.parametrize(
    ("when", "payload", "fires"),
    [
        pytest.param("event.payload.percent < vars.limit", {"percent": 9}, True, id="vars"),
        pytest.param("event.payload.percent < vars.limit", {"percent": 10}, False, id="false"),
        pytest.param("event.name == 'battery.low' and event.cid == none", None, True, id="event"),
        pytest.param("plan.name == 'lab' and now() | date('%Y') == '2026'", None, True, id="plan and now"),
        pytest.param("due == event.time | time", None, True, id="due"),
        pytest.param("state.armed == 7", None, True, id="state"),
        pytest.param("event.payload == secrets.pin", "1234", True, id="secrets"),
    ],
)
async def test_when_decides(tmp_path: Path, when: str, payload: Any, fires: bool) -> None:
    on = f'{{event: "battery.low", when: "{{{{ {when} }}}}"}}'
    async with open_lab(tmp_path, rules=rule(on=on), plan=PLAN, arm=ARM) as world:
        world.secrets(pin="1234")
        await world.run("arm")
        receipt = await world.tell(payload=payload)
        assert [one.rule for one in receipt.interrupts] == (["low_battery"] if fires else [])
        assert why(world) == (None if fires else "condition_false")
        assert len(world.firings()) == len(world.runs("save")) == int(fires)
        await world.settle()


@pytest.mark.parametrize(
    ("keys", "on", "said"),
    [
        pytest.param("", '{event: battery.low, when: "{{ event.payload.a.b > 1 }}"}', "when", id="when"),
        pytest.param("", '{event: battery.low, when: "{{ event.name }}"}', "gave the text", id="text"),
        pytest.param('inputs: {text: "{{ event.payload.a.b.c }}"}', "{event: battery.low}", "inputs", id="inputs"),
        pytest.param('inputs: {text: "{{ event.payload }}"}', "{event: battery.low}", "text object", id="type"),
    ],
)
async def test_what_cannot_be_asked_is_said_with_its_place_and_fires_nothing(
    tmp_path: Path, keys: str, on: str, said: str
) -> None:
    async with open_lab(tmp_path, rules=rule(keys, on=on, task="echo"), echo=ECHO) as world:
        assert (await world.tell()).interrupts == []
        missed = world.rule().last_missed
        assert missed is not None
        assert (missed.reason, world.rule().missed["bad_inputs"]) == ("bad_inputs", 1)
        assert said in missed.detail or said == "text object"
        assert "lab/interrupts.yaml:2" in missed.detail
        assert len(world.payloads("battery.low")) == 1
        assert world.runs() == []


async def test_secret_in_a_reason_is_hidden(tmp_path: Path) -> None:
    on = '{event: battery.low, when: "{{ secrets.pin }}"}'
    async with open_lab(tmp_path, rules=rule(on=on), plan=PLAN) as world:
        world.secrets(pin="hunter2hunter2")
        await world.tell()
        missed = world.rule().last_missed
        assert missed is not None
        assert "hunter2" not in missed.detail
        assert "***" in missed.detail


async def test_secret_in_an_input_is_hidden_on_record(tmp_path: Path) -> None:
    text = rule('inputs: {text: "pin {{ secrets.pin }}"}', task="echo")
    async with open_lab(tmp_path, rules=text, plan=PLAN, echo=ECHO) as world:
        world.secrets(pin="hunter2hunter2")
        cid = (await world.tell()).interrupts[0].cid
        await world.settle()
        (record,) = [run.record for run in world.runs("echo")]
        assert (record.cid, record.inputs, record.result) == (cid, {"text": "pin ***"}, "pin ***")


async def test_inputs_are_made_of_the_event(tmp_path: Path) -> None:
    text = rule('inputs: {text: "{{ event.payload.percent }} of {{ event.name }}"}', task="echo")
    async with open_lab(tmp_path, rules=text, echo=ECHO) as world:
        await world.tell()
        await world.settle()
        assert world.runs("echo")[0].result == "5 of battery.low"


async def test_event_that_fits_two_triggers_fires_once(tmp_path: Path) -> None:
    on = '{event: "battery.low"}, {event: "battery.*"}'
    async with open_lab(tmp_path, rules=rule(on=on)) as world:
        run = await world.begin_run()
        assert len((await world.tell()).interrupts) == 1
        await world.settle()
        assert (len(world.firings()), run.record.preemptions, why(world)) == (1, 1, None)


async def test_second_trigger_fires_where_the_first_does_not(tmp_path: Path) -> None:
    on = '{event: "battery.low", when: false}, {event: "battery.*"}'
    async with open_lab(tmp_path, rules=rule(on=on)) as world:
        assert len((await world.tell()).interrupts) == 1
        await world.settle()


async def test_event_fires_every_rule_that_listens(tmp_path: Path) -> None:
    on = "triggers: [{event: battery.low}]"
    async with open_lab(tmp_path, rules=rules(a=on, b=on)) as world:
        assert [one.rule for one in (await world.tell()).interrupts] == ["a", "b"]
        await world.settle()
        assert [(name, outcome) for name, _, _, outcome in world.firings()] == [("a", "succeeded"), ("b", "succeeded")]


# -- cooldown


async def test_cooldown_begins_with_the_firing(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule("cooldown: 10s")) as world:
        await world.tell()
        await world.advance(9.9)
        assert (await world.tell()).interrupts == []
        assert why(world) == "cooldown"
        assert world.rule().cooldown_left(world.engine.clock.monotonic()) == pytest.approx(0.1)
        await world.advance(0.1)
        assert len((await world.tell()).interrupts) == 1
        await world.settle()


async def test_cooldown_goes_on_over_a_restart(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule("cooldown: 10s")) as world:
        await world.begin_run()
        cid = (await world.tell()).interrupts[0].cid
        await world.settle()
        at = world.now
        kept = crashed(world)
    async with open_lab(tmp_path, backend=kept, write=False) as world:
        await world.advance(5)
        assert (await world.tell()).interrupts == []
        shown = world.engine.rule("lab", "low_battery")
        assert (shown["last_cid"], shown["last_victim_count"], len(shown["last_victims"])) == (cid, 1, 1)
        await world.advance(at + 10 - world.now)
        assert len((await world.tell()).interrupts) == 1
        await world.settle()


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("jump", [-86_400.0, -1.0, 86_400.0], ids=["a day back", "a second back", "a day on"])
async def test_wall_clock_that_is_set_makes_no_cooldown_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float, restart: bool
) -> None:
    async with open_lab(tmp_path, rules=rule("cooldown: 10s")) as world:
        await world.tell()
        await world.settle()
        kept = crashed(world)
        if not restart:
            await check_cooldown(world, monkeypatch, jump)
            return
    monkeypatch.setattr(VirtualClock, "wall", lambda self: self._offset + jump + self.monotonic())
    async with open_lab(tmp_path, backend=kept, write=False) as world:
        await world.advance(10)
        assert len((await world.tell()).interrupts) == 1
        await world.settle()


async def check_cooldown(world: Lab, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    clock: Any = world.engine.clock
    monkeypatch.setattr(clock, "_offset", clock._offset + jump)
    await world.advance(5)
    assert (await world.tell()).interrupts == []
    await world.advance(5)
    assert len((await world.tell()).interrupts) == 1
    await world.settle()


# -- while_running


async def test_while_running_counts_what_has_its_place(tmp_path: Path) -> None:
    text = rule("while_running: [work], preempts: {tasks: [other]}")
    async with open_lab(tmp_path, rules=text) as world:
        assert (await world.tell()).interrupts == []
        assert why(world) == "condition_false"
        run = await world.begin_run()
        assert len((await world.tell()).interrupts) == 1
        await world.until(run, state="succeeded")
        assert (await world.tell()).interrupts == []
        await world.settle()


@pytest.mark.parametrize("rests", ["paused", "preempted", "waiting", "queued"])
async def test_what_does_not_run_does_not_count_for_while_running(tmp_path: Path, rests: str) -> None:
    text = rules(a="while_running: [work], max_pending: 5", b="")
    work = "steps:\n  - {name: long, action: event.wait, params: {name: go.on}}\n" if rests == "waiting" else None
    files = {"work": work} if work else {}
    async with open_lab(tmp_path, rules=text, **files) as world:
        if rests == "queued":
            run = await world.start("work", delay_s=5)
        elif rests == "waiting":
            run = await world.start("work")
            await world.until(run, state="waiting")
        else:
            run = await world.begin_run()
            await (world.engine.pause(run.cid) if rests == "paused" else world.fire("b"))
            await world.until(lambda: world.live(run).state is RunState.PREEMPTED)
        assert (await world.tell("go.a")).interrupts == []
        assert why(world, "a") == "condition_false"
        await world.engine.cancel(run.cid)
        await world.settle()


async def test_sub_task_counts_for_while_running(tmp_path: Path) -> None:
    parent = "steps: {call: {action: task.run, params: {task: work}}}\n"
    text = rule("while_running: [work], preempts: {tasks: [other]}")
    async with open_lab(tmp_path, rules=text, parent=parent) as world:
        await world.start("parent")
        await world.until(lambda: any(run.steps.get("first") for run in world.runs("work")))
        assert len((await world.tell()).interrupts) == 1
        await world.settle()


# -- bounds and modes


async def test_only_so_many_firings_wait(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule("max_pending: 2")) as world:
        first = await world.fire("low_battery")
        await world.until(lambda: world.live(first).begun)
        assert [len((await world.tell()).interrupts) for _ in range(3)] == [1, 1, 0]
        assert why(world) == "queue_full"
        await world.settle()
        assert [outcome for *_, outcome in world.firings()] == ["succeeded"] * 3
        assert len((await world.tell()).interrupts) == 1
        await world.settle()


async def test_only_a_rule_s_own_firings_count_and_show(tmp_path: Path) -> None:
    write_plan(tmp_path, "other", rules=rules(a="max_pending: 1"))
    async with open_lab(tmp_path, rules=rules(a="max_pending: 1", b="")) as world:
        await world.tell("go.b")
        await world.tell("go.b")
        fired = (await world.tell("go.a")).interrupts
        assert sorted(one.plan_name for one in fired) == ["lab", "other"]
        shown = {(one["plan_name"], one["rule"]): [each["cid"] for each in one["open"]] for one in world.engine.rules()}
        assert {key: len(cids) for key, cids in shown.items()} == {("lab", "a"): 1, ("lab", "b"): 2, ("other", "a"): 1}
        assert sorted(shown["lab", "a"] + shown["other", "a"]) == sorted(one.cid for one in fired)
        await world.settle()


async def test_handler_that_its_mode_refuses_is_noted_and_nothing_is_held(tmp_path: Path) -> None:
    save = "mode: single\nsteps: {save: {action: sleep, params: {duration: 500ms}}}\n"
    async with open_lab(tmp_path, rules=rule(), save=save) as world:
        run = await world.begin_run()
        assert len((await world.tell()).interrupts) == 1
        assert (await world.tell()).interrupts == []
        assert why(world) == "mode"
        await world.settle()
        assert (run.state, run.record.preemptions, len(world.firings())) == ("succeeded", 1, 1)


async def test_handlers_of_mode_restart_replace_each_other(tmp_path: Path) -> None:
    save = "mode: restart\nsteps: {save: {action: sleep, params: {duration: 500ms}}}\n"
    async with open_lab(tmp_path, rules=rule(), save=save) as world:
        run = await world.begin_run()
        first = (await world.tell()).interrupts[0].cid
        await world.until(lambda: world.live(first).begun)
        await world.tell()
        await world.settle()
        assert [outcome for *_, outcome in world.firings()] == ["cancelled", "succeeded"]
        assert run.state == "succeeded"


async def test_firings_while_the_engine_is_stopped_wait_for_its_start(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        await world.engine.stop("cancel", 1)
        assert len((await world.tell()).interrupts) == 1
        assert world.runs("save")[0].state == "queued"
        await world.engine.start()
        await world.settle()
        assert [outcome for *_, outcome in world.firings()] == ["succeeded"]


async def test_quick_succession_of_events_loses_none(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule("max_pending: 1000")) as world:
        run = await world.begin_run()
        async with anyio.create_task_group() as group:  # one child for each event; each ends with its answer
            for _ in range(50):
                group.start_soon(world.tell)
        await world.settle()
        assert [outcome for *_, outcome in world.firings()] == ["succeeded"] * 50
        assert run.state == "succeeded"


@pytest.mark.parametrize("cross_plan", [True, False])
async def test_rule_stops_and_holds_the_work_of_other_plans_if_the_settings_let_it(
    tmp_path: Path, cross_plan: bool
) -> None:
    write_plan(tmp_path, "other", rules=None)
    async with open_lab(tmp_path, settings=lab_settings(tmp_path, cross_plan=cross_plan)) as world:
        mine, others = await world.start("work"), await submit(world, "other")
        await world.until(mine, step="long", state="running")
        await world.until(others, step="long", state="running")
        receipt = await world.tell()
        later = await submit(world, "other")
        await world.until(world.runs("save")[0], state="running")
        await world.loop.wait_quiet()
        assert (mine.state, others.state) == ("preempted", "preempted" if cross_plan else "running")
        assert later.state == ("queued" if cross_plan else "running")
        assert len(world.victims(receipt.interrupts[0].cid)) == 1 + cross_plan
        await world.settle()
        assert {run.state for run in world.runs()} == {"succeeded"}


async def submit(world: Lab, plan_name: str) -> Run:
    """Start the task ``work`` of a plan."""
    return Run(world, (await world.engine.submit(Request(plan_name, "work"), Cause("api"))).cid)
