"""Why nothing started: for every reason of the why-ledger a scenario through the engine, and what is shown of it."""

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.scheduling.schedule_kit import Lab, clock_at, counted_turns, crashed, open_lab, schedule, write_plan

from aura.engine.whyview import AT_ONCE
from aura.errors import RequestError, StoreReadOnly
from aura.ledger import WRITE_EVERY
from aura.records.ageing import MOST_WHY, Ageing, find_why_cutoff, take_why
from aura.records.why import WhyFilter, list_why
from aura.run import Cause, Request
from aura.stores.memory import MemoryBackend
from aura.why import REASONS, Why

pytestmark = pytest.mark.anyio

ALL = WhyFilter()
RULE = 'rules:\n  low: {{triggers: [{{event: "battery.low"{when}}}], task: save{more}}}\n'
SAVE = "steps: {only: {action: sleep, params: {duration: 60s}}}"
SINGLE = "mode: single\nsteps: {only: {action: sleep, params: {duration: 10s}}}"
CALLS = "steps: {call: {action: task.start, params: {task: work, inputs: \"{{ {'day': 5} }}\"}}}"


def rules(when: str = "", more: str = "") -> str:
    return RULE.format(when=when and f', when: "{when}"', more=more and f", {more}")


def write_files(folder: Path, rules: str | None = None, **files: str) -> None:
    """Write the plan ``lab``; ``rules`` is its interrupts.yaml."""
    home = write_plan(folder, save=SAVE, **files)
    if rules is not None:
        (home / "interrupts.yaml").write_text(rules, encoding="utf-8")


class Scenario(NamedTuple):
    """What is done, in a lab of these files, and the line that tells of it."""

    files: dict[str, str]
    story: Callable[[Lab], Awaitable[object]]
    line: tuple[Any, ...]
    detail: str


async def heard(world: Lab, times: int = 1, **payload: Any) -> None:
    for _ in range(times):
        await world.emit("disk.full", payload)


async def fired(world: Lab, times: int = 1) -> None:
    for _ in range(times):
        await world.emit("battery.low")


async def stopped_and_passed(world: Lab, **parts: float) -> None:
    await world.engine.stop("cancel", 1.0)
    await world.advance(**parts)


async def asked(world: Lab, task: str = "work", plan: str = "lab", times: int = 1, **wishes: Any) -> None:
    for _ in range(times):
        with suppress(RequestError):
            await world.engine.submit(Request(plan, task, **wishes), Cause("api"))


async def looped(world: Lab) -> None:
    await heard(world)
    await world.settle()


async def full_for_a_moment(world: Lab) -> None:
    runtime = world.server.engine.runtime
    runtime.store.unavailable = StoreReadOnly("the disk is full")
    await asked(world)
    runtime.store.unavailable = None


async def misfired(world: Lab) -> None:
    await stopped_and_passed(world, hours=3, minutes=1)
    await world.engine.start()
    await world.advance(seconds=1)


async def held_back(world: Lab) -> None:
    await heard(world, 3)
    await world.advance(seconds=3)


async def by_hand(world: Lab) -> None:
    with suppress(RequestError):
        world.engine.items.run(world.item("x"), {"day": 7}, "api")


async def fired_by_hand(world: Lab) -> None:
    for _ in range(3):
        with suppress(RequestError):
            await world.engine.fire("lab", "low")
    await world.settle()


def on_event(more: str = "", **keys: str) -> dict[str, str]:
    return {"items": schedule(x=f"triggers: [{{event: disk.full{more}}}]" + "".join(f", {k}: {keys[k]}" for k in keys))}


def named(reason: str, count: int = 1, *, item: str | None = "x", rule: str | None = None, task: str = "work") -> Any:
    return (reason, "lab", item, rule, task, count)


LOOP = "steps: {only: {action: event.emit, params: {name: disk.full}}}"
SCENARIOS = {
    "item: condition": Scenario(
        on_event(', when: "{{ event.payload.free < 10 }}"'),
        lambda world: heard(world, 3, free=11),
        named("condition_false", 3),
        "its when does not hold",
    ),
    "item: switched off": Scenario(
        on_event(enabled="false"), heard, named("disabled"), "it is switched off"
    ),
    "item: slot while switched off": Scenario(
        {"items": schedule(x="enabled: false, triggers: [{every: 5m}]")},
        lambda world: world.advance(minutes=6),
        named("disabled"),
        "due 2026-01-01T00:05",
    ),
    "item: missed": Scenario(
        {"items": schedule(x="triggers: [{cron: '0 * * * *'}]")}, misfired, named("misfire", 2), "2 slots were missed"
    ),
    "item: cooldown": Scenario(
        on_event(cooldown="1h"), lambda world: heard(world, 3), named("cooldown", 2), "its cooldown ends in"
    ),
    "item: mode": Scenario(
        {**on_event(task="one"), "one": SINGLE}, lambda world: heard(world, 3), named("mode", 2, task="one"), "runs"
    ),
    "item: debounced": Scenario(
        on_event(", debounce: {for: 2s}"), held_back, named("debounced", 2), "2 events before disk.full"
    ),
    "item: inputs": Scenario(
        on_event(inputs='{day: "{{ event.payload.n }}"}'),
        lambda world: heard(world, n=5),
        named("bad_inputs"),
        "string is needed, not integer",
    ),
    "item: circle": Scenario(
        {**on_event(task="loop"), "loop": LOOP}, looped, named("loop_detected", task="loop"), "disk.full"
    ),
    "item: by hand": Scenario(
        {"items": schedule(x="enabled: true")}, by_hand, named("bad_inputs"), "inputs/day string is needed"
    ),
    "rule: condition": Scenario(
        {"rules": rules(when="{{ event.payload }}")}, fired,
        named("condition_false", item=None, rule="low", task="save"), "its when does not hold",
    ),
    "rule: cooldown": Scenario(
        {"rules": rules(more="cooldown: 1h")}, lambda world: fired(world, 3),
        named("cooldown", 2, item=None, rule="low", task="save"), "its cooldown ends in",
    ),
    "rule: by hand": Scenario(
        {"rules": rules(more="max_pending: 1")}, fired_by_hand,
        named("queue_full", item=None, rule="low", task="save"), "1 firings of it wait",
    ),
    "client: mode": Scenario(
        {"one": SINGLE}, lambda world: asked(world, "one", times=4), named("mode", 3, item=None, task="one"), "runs"
    ),
    "client: inputs": Scenario(
        {}, lambda world: asked(world, inputs={"day": 5}), named("bad_inputs", item=None), "inputs/day string is needed"
    ),
    "client: task": Scenario(
        {}, lambda world: asked(world, "wrok"), ("bad_inputs", "lab", None, None, None, 1), "'wrok'"
    ),
    "client: plan": Scenario(
        {}, lambda world: asked(world, plan="x"), ("bad_inputs", None, None, None, None, 1), "'x'"
    ),
    "client: storage": Scenario({}, full_for_a_moment, named("storage_full", item=None), "the disk is full"),
    "step: inputs": Scenario(
        {"calls": CALLS}, lambda world: world.run("calls"), named("bad_inputs", item=None), "asked for by step call of"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
async def test_what_did_not_start_is_one_line(tmp_path: Path, name: str) -> None:
    scenario = SCENARIOS[name]
    write_files(tmp_path, **scenario.files)
    async with open_lab(tmp_path, write=False) as world:
        await scenario.story(world)
        await world.advance(seconds=WRITE_EVERY + 1)
        [line] = (await world.engine.why(ALL, 100)).lines
        assert (line.reason, line.plan_name, line.item, line.rule, line.task_name, line.count) == scenario.line
        assert scenario.detail in line.detail
        assert list_why(world.backend.execute, ALL, 10) == [line]
        assert world.engine.not_started == {(line.reason, line.plan_name): line.count}


# -- what does not begin yet


async def test_what_is_queued_while_the_engine_is_stopped_is_paused_until_it_starts(tmp_path: Path) -> None:
    items = schedule(x="triggers: [{every: 5m}]", y="triggers: [{event: disk.full}]", z="triggers: [{every: 1h}]")
    async with open_lab(tmp_path, items=items) as world:
        await stopped_and_passed(world, minutes=11)
        await asked(world, times=3)
        await asked(world, delay_s=3600.0)
        await heard(world)
        lines = (await world.engine.why(ALL, 100)).lines
        found = [(line.reason, line.item, line.task_name, line.count) for line in lines]
        assert found == [("paused", None, "work", 3), ("paused", "x", "work", 2), ("paused", "y", "work", 1)]
        assert lines[0].detail == "the engine is stopped: it is queued until `aura start`"
        assert lines[1].detail.startswith("the engine is stopped: 2 of its slots, the first 2026-01-01T00:05:00")
        assert (await world.engine.why(WhyFilter(item="x"), 10)).lines == [lines[1]]
        await world.engine.start()
        await world.advance(seconds=10)
        assert [line.reason for line in (await world.engine.why(ALL, 100)).lines] == ["misfire"]


async def test_what_a_hold_covers_is_held_until_its_end(tmp_path: Path) -> None:
    home = write_plan(tmp_path, save=SAVE)
    (home / "interrupts.yaml").write_text(rules(), encoding="utf-8")
    async with open_lab(tmp_path, write=False) as world:
        handler = await world.fire("low")
        await asked(world, times=2)
        await world.advance(seconds=1)
        [line] = (await world.engine.why(ALL, 100)).lines
        assert (line.reason, line.plan_name, line.rule, line.task_name, line.count) == ("held", "lab", None, "work", 2)
        assert line.detail == f"it waits for the end of rule lab/low, handled by run {handler}"
        await world.settle()
        assert (await world.engine.why(ALL, 100)).lines == []


async def test_thousands_of_queued_runs_are_one_line_and_leave_the_loop_to_others(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        await world.engine.stop("cancel", 1.0)
        began = world.now
        await world.engine.submit_batch([Request("lab", "work")] * 1000, Cause("api"), True)
        await world.advance(minutes=1)
        await world.engine.submit_batch([Request("lab", "work")] * 1000, Cause("api"), True)
        async with counted_turns() as turns:
            [line] = (await world.engine.why(ALL, 100)).lines
        assert (line.count, line.first_at) == (2000, began)
        assert len(turns) >= 2000 / AT_ONCE
        assert (await world.engine.why(WhyFilter(reason="mode"), 100)).lines == []


async def test_pages_go_from_what_waits_to_what_did_not_start(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=schedule(x="triggers: [{every: 5m}]"), one=SINGLE) as world:
        await asked(world, "one", times=2)
        await world.settle()
        await asked(world, inputs={"day": 5})
        await stopped_and_passed(world, minutes=6)
        await asked(world)
        whole = (await world.engine.why(ALL, 100)).lines
        found: list[Why] = []
        page = await world.engine.why(ALL, 1)
        while page.next is not None and len(found) < 10:
            found += page.lines
            page = await world.engine.why(ALL, 1, page.next)
        assert [*found, *page.lines] == whole
        assert [line.reason for line in whole] == ["paused", "paused", "bad_inputs", "mode"]


# -- batches, restarts, retention


async def test_atomic_batch_that_is_refused_is_one_line(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        good, bad = Request("lab", "work"), Request("lab", "work", {"day": 5})
        with pytest.raises(RequestError):
            await world.engine.submit_batch([good, bad, good], Cause("api"), atomic=True)
        world.server.engine.admission.closed = True
        with pytest.raises(RequestError):
            await world.engine.submit_batch([good, Request("lab", "slow")], Cause("api"), atomic=True)
        await world.engine.submit_batch([good, bad], Cause("api"), atomic=False)
        lines = [(line.reason, line.plan_name, line.task_name, line.count) for line in world.unstarted()]
        assert lines == [("bad_inputs", "lab", "work", 1), ("paused", "lab", None, 1), ("paused", "lab", "work", 2)]


async def test_request_that_could_not_be_stored_is_a_line(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        world.backend.execute("CREATE TEMP TRIGGER no BEFORE INSERT ON run BEGIN SELECT RAISE(ABORT, 'no'); END")
        await asked(world)
        assert [(line.reason, line.task_name) for line in world.unstarted()] == [("storage_full", "work")]


async def test_end_of_the_server_writes_what_is_open_and_the_next_goes_on_behind_it(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        await asked(world, inputs={"day": 5})
        world.server.engine.runtime.ledger.close()
        await world.server.engine.runtime.store.written()
        left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("01:00")) as world:
        await asked(world, inputs={"day": 5})
        assert [line.id for line in world.unstarted()] == [1, 2]


async def test_detail_has_no_secret_of_the_plan(tmp_path: Path) -> None:
    items = schedule(x='triggers: [{event: disk.full}], inputs: {day: "{{ [secrets.pin] }}"}')
    async with open_lab(tmp_path, items=items, plan="secrets: [pin]") as world:
        world.secrets(pin="hunter-two-two")
        await world.emit("disk.full", {"pin": "hunter-two-two"})
        await asked(world, "hunter-two-two")
        assert len(world.unstarted()) == 2
        assert "hunter" not in "".join(line.detail for line in world.unstarted())


def test_old_lines_go_by_age_and_by_number() -> None:
    backend = MemoryBackend()
    backend.execute(
        """INSERT INTO why (at, reason, detail, count, first_at) WITH RECURSIVE n(i) AS
        (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT i, 'mode', '', 1, i FROM n""",
        (MOST_WHY + 10,),
    )
    for cutoff, left in ((0.0, MOST_WHY + 1), (MOST_WHY, 11)):
        before = find_why_cutoff(backend.execute, cutoff)
        for _ in range(3):  # units of a few rows each
            Ageing(take_why(before), 50_000)(backend.execute)
        assert backend.execute("SELECT count(*), max(at) FROM why").fetchone() == (left, MOST_WHY + 10)


async def test_retention_takes_what_is_too_old(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        await asked(world, inputs={"day": 5})
        await world.advance(days=1)
        assert len(world.unstarted()) == 1
        await world.advance(days=30)
        await world.server.engine.retention.look()
        assert world.unstarted() == []


def test_every_reason_has_a_scenario() -> None:
    told = {scenario.line[0] for scenario in SCENARIOS.values()}
    elsewhere = {"paused", "held", "gate"}  # what does not begin yet, above; of a gate: test_gate
    assert told | elsewhere | {"duplicate"} == set(REASONS)  # duplicate: test_webhooks


# -- slots that are refused alike

TICK = "triggers: [{every: 1s}]"
NEVER = 'triggers: [{every: 1s, when: "{{ false }}"}]'
NO_DAY = 'triggers: [{every: 1s}], inputs: {day: "{{ 5 }}"}'


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        pytest.param(f"enabled: false, {TICK}", "disabled", id="switched off"),
        pytest.param(NEVER, "condition_false", id="condition"),
        pytest.param(f"cooldown: 1h, {TICK}", "cooldown", id="cooldown"),
        pytest.param(f"task: hour, {TICK}", "mode", id="mode"),
        pytest.param(NO_DAY, "bad_inputs", id="inputs"),
    ],
)
async def test_slots_that_are_refused_alike_are_a_line_a_minute(tmp_path: Path, keys: str, reason: str) -> None:
    hour = "mode: single\nsteps: {only: {action: sleep, params: {duration: 1h}}}"
    async with open_lab(tmp_path, items=schedule(x=keys), hour=hour, clock=clock_at("00:00")) as world:
        await world.advance(minutes=3, seconds=2)
        lines = world.unstarted()
        assert [line.reason for line in lines] == [reason] * len(lines)
        assert len(lines) in (3, 4)
        assert sum(line.count for line in lines) + len(world.runs(world.item("x").item.task_name)) == 182
        assert lines[1].count == 60
        assert re.search(r"; 60 slots, due from 2026-01-01T00:01:0\d\S* to 2026-01-01T00:02:0\d\S*Z$", lines[1].detail)
        assert list_why(crashed(world).execute, ALL, 10)[::-1] == lines
        assert (logged(world), world.engine.not_started[reason, "lab"]) == (
            len(lines) if reason == "bad_inputs" else 0, sum(line.count for line in lines)
        )  # fmt: skip


async def test_slots_apart_or_refused_otherwise_have_lines_of_their_own(tmp_path: Path) -> None:
    items = schedule(x=f"enabled: false, {TICK}", y="enabled: false, triggers: [{every: 1m}]")
    async with open_lab(tmp_path, items=items, clock=clock_at("00:00", recheck=1.0)) as world:
        await world.advance(seconds=61)
        world.jump(-120)
        await world.advance(seconds=1)
        await world.rewrite(tmp_path, items=schedule(x="task: slow, enabled: false, triggers: [{every: 1s}]"))
        await world.advance(seconds=2)
        found = [(line.item, line.task_name, line.count) for line in world.unstarted() if line.count > 1]
        assert found[0] == ("x", "work", 60)
        assert found[-1][:2] == ("x", "slow")


def logged(world: Lab) -> int:
    return int(world.backend.execute("SELECT count(*) FROM log WHERE message LIKE '%did not %'").fetchone()[0])


@pytest.mark.parametrize(
    ("files", "event", "reason"),
    [
        pytest.param(on_event(inputs='{day: "{{ event.payload.n }}"}'), "disk.full", "bad_inputs", id="item"),
        pytest.param({"rules": rules(more="max_pending: 1")}, "battery.low", "queue_full", id="rule"),
    ],
)
async def test_storm_of_refusals_is_a_word_in_the_log_a_minute(
    tmp_path: Path, files: dict[str, str], event: str, reason: str
) -> None:
    write_files(tmp_path, **files)
    async with open_lab(tmp_path, write=False) as world:
        for _ in range(50):
            await world.emit(event, {"n": 5})
        await world.advance(seconds=2)
        assert (logged(world), sum(line.count for line in world.unstarted(reason)) >= 48) == (1, True)
        await world.advance(seconds=70)
        for _ in range(3):
            await world.emit(event, {"n": 5})
        await world.advance(seconds=2)
        assert logged(world) == 2


async def test_endless_detail_is_kept_short_everywhere(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=schedule(x="enabled: true")) as world:
        with suppress(RequestError):
            world.engine.items.run(world.item("x"), {"y" * 900_000: 7}, "api")
        shown = world.engine.schedules.shown("lab", "x")
        assert max(len(shown["reason"]), len(shown["last_missed"]["detail"]), len(world.unstarted()[0].detail)) < 600
