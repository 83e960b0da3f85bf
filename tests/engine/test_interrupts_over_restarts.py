"""Firings over crashes, restarts and stops, and whatever else meets a handler or a victim meanwhile.

Every turn of it is gone through in ``test_interrupts_at_every_turn``; here stands what has a name.
"""

from pathlib import Path
from typing import Any

import pytest
from tests.engine.interrupts_kit import SAVE, WORK, Lab, crashed, open_lab, preempted, rule
from tests.engine.test_retention import keeper
from tests.fakes.invariants import events_of

from aura.records.switches import MAX_SWITCHES, Switch, put_switch, read_switches
from aura.stores.memory import MemoryBackend
from aura.testing.run import Run

pytestmark = pytest.mark.anyio

RESUMES = "recovery: resume\n"
#: Its steps may run again.
KEPT_SAVE = RESUMES + "steps: {save: {action: sleep, params: {duration: 500ms}, idempotent: true}}\n"
TELLS = KEPT_SAVE + 'returns: "{{ event.payload.percent }} of {{ event.name }}"\n'
WAITS = 'steps: {wait: {action: event.wait, params: {name: "battery.full"}}}\n'
#: Its clean-up takes 0.3 s.
TIDY = """
import anyio
from aura import action, Context

@action
async def hold(ctx: Context, seconds: float = 0.9) -> str:
    try:
        await anyio.sleep(seconds)
    finally:
        if ctx.stopping_because:
            await anyio.sleep(0.3)
    return "done"
"""


async def handled(world: Lab) -> tuple[Run, Run]:
    """A victim and its handler, which runs."""
    victim = await world.begin_run()
    await world.tell()
    handler = world.runs("save")[0]
    await world.until(handler, step="save", state="running")
    return victim, handler


async def left(folder: Path, **files: str) -> MemoryBackend:
    """What a crash leaves while the handler runs."""
    async with open_lab(folder, backend=MemoryBackend(), **files) as world:
        await handled(world)
        return crashed(world)


# -- boot


async def test_handler_that_cannot_go_on_ends_its_firing_at_the_boot(tmp_path: Path) -> None:
    backend = await left(tmp_path)
    async with open_lab(tmp_path, backend=backend, write=False) as world:
        [(_, cid, _, outcome)] = world.firings()
        assert (outcome, world.runs("save")[0].state) == ("crashed", "crashed")
        [ended] = world.payloads("interrupt.ended")
        assert (ended["cid"], ended["state"], ended["victim_count"]) == (cid, "crashed", 1)
        await world.settle()
        victim = world.runs("work")[0]
        assert (victim.state, victim.record.attempt, preempted(victim)) == ("succeeded", 1, (1, cid))
        lines = [entry.record() for entry in await world.engine.history.log_entries(cid=cid)]
        said = [line["message"] for line in lines if line["level"] == "error"]
        assert [text.rpartition("; ")[2] for text in said] == ["what it stopped goes on"]


async def test_handler_that_goes_on_keeps_its_firing_open_and_sees_its_event(tmp_path: Path) -> None:
    backend = await left(tmp_path, save=TELLS)
    async with open_lab(tmp_path, backend=backend, write=False) as world:
        victim, handler = world.runs("work")[0], world.runs("save")[0]
        await world.until(handler, step="save", state="running")
        assert (victim.state, len(world.open_firings())) == ("preempted", 1)
        late = await world.start("work")
        await world.advance(0.1)
        assert late.state == "queued"
        await world.settle()
        assert handler.result == "5 of battery.low"
        assert {run.state for run in world.runs()} == {"succeeded"}


@pytest.mark.parametrize("held", [False, True], ids=["in its lane", "paused"])
async def test_what_is_to_start_over_does_so_in_the_boot(tmp_path: Path, held: bool) -> None:
    async with open_lab(tmp_path, backend=MemoryBackend(), rules=rule("then: restart")) as world:
        victim, _ = await handled(world)
        if held:
            assert await world.engine.pause(victim.cid) == "preempted"
        backend = crashed(world)
    async with open_lab(tmp_path, backend=backend, write=False) as world:
        victim = world.runs("work")[0]
        if held:
            await world.advance(2)
            assert (victim.state, world.live(victim).held, victim.steps["first"].state) == (
                "preempted",
                "paused",
                "pending",
            )
            await world.engine.resume(victim.cid)
        await world.settle()
        assert (victim.state, victim.record.attempt) == ("succeeded", 2)
        assert ("run.requeued" in events_of(world.backend.execute, victim.record.seq)) is not held


async def test_next_crash_does_not_forget_what_is_to_start_over(tmp_path: Path) -> None:
    backend = await left(tmp_path, rules=rule("then: restart"))
    async with open_lab(tmp_path, backend=backend, write=False) as world:
        await world.engine.stop("cancel", 0.3)
        backend = crashed(world)
    async with open_lab(tmp_path, backend=backend, write=False) as world:
        await world.settle()
        victim = world.runs("work")[0]
        assert (victim.state, victim.record.attempt) == ("succeeded", 2)


@pytest.mark.parametrize("held", [False, True], ids=["in its lane", "paused"])
async def test_sub_task_that_waits_ends_in_the_boot_if_its_parent_starts_over(tmp_path: Path, held: bool) -> None:
    top = RESUMES + "steps: {b: {action: task.run, params: {task: leaf}}, long: {action: hold}}\n"
    files = {"rules": rule("then: restart"), "work": top, "leaf": WAITS}
    async with open_lab(tmp_path, backend=MemoryBackend(), **files) as world:
        victim, _ = await handled(world)
        assert world.runs("leaf")[0].state == "waiting"
        if held:
            await world.engine.pause(victim.cid)
        backend = crashed(world)
    async with open_lab(tmp_path, backend=backend, write=False) as world:
        victim, leaf, _ = world.runs()
        assert (victim.state in ("queued", "running", "preempted"), leaf.state) == (True, "cancelled")
        if held:
            await world.engine.resume(victim.cid)
        await world.until(lambda: len(world.runs("leaf")) > 1 and world.runs("leaf")[1].state == "waiting")
        await world.tell("battery.full")
        await world.settle()
        assert [run.state for run in world.runs()] == ["succeeded", "cancelled", "crashed", "succeeded"]


async def test_displaced_handler_goes_on_where_it_was_whatever_the_dead_rule_says(tmp_path: Path) -> None:
    two = rule() + "  fire: {triggers: [{event: smoke}], task: fight, priority: 5, then: restart}\n"
    async with open_lab(tmp_path, backend=MemoryBackend(), rules=two, save=KEPT_SAVE, fight=SAVE) as world:
        await handled(world)
        await world.tell("smoke")
        await world.until(world.runs("fight")[0], step="save", state="running")
        backend = crashed(world)
    async with open_lab(tmp_path, backend=backend, write=False) as world:
        assert (world.runs("fight")[0].state, world.runs("save")[0].state) == ("crashed", "preempted")
        await world.settle()
        handler, victim = world.runs("save")[0], world.runs("work")[0]
        assert (handler.state, handler.record.attempt, victim.state) == ("succeeded", 1, "succeeded")


async def test_cooldown_holds_over_a_restart(tmp_path: Path) -> None:
    files = {"rules": rule("cooldown: 1h"), "save": KEPT_SAVE}
    async with open_lab(tmp_path, backend=MemoryBackend(), **files) as world:
        await world.tell()
        await world.settle()
        backend = crashed(world)
    async with open_lab(tmp_path, backend=backend, write=False) as world:
        assert [*(await world.tell()).interrupts] == []
        await world.advance(3600)
        assert len((await world.tell()).interrupts) == 1


# -- stops of the engine


async def test_firing_of_a_stopped_engine_stops_nobody_and_is_handled_first(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        await world.engine.stop("drain", 1)
        queued = await world.start("work", priority=1000)
        await world.tell()
        handler = world.runs("save")[0]
        assert world.victims(handler.cid) == []
        await world.engine.start()
        await world.until(handler, state="running")
        assert queued.state == "queued"
        await world.settle()
        assert (queued.state, handler.state, preempted(queued)) == ("succeeded", "succeeded", (0, None))


async def test_firing_while_the_engine_drains_leaves_what_runs_alone(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        run = await world.begin_run()
        world.engine.request_stop("drain", 5)
        await world.tell()
        await world.until(lambda: world.engine.state == "stopped")
        assert (run.state, preempted(run), world.runs("save")[0].state) == ("succeeded", (0, None), "queued")
        await world.engine.start()
        await world.settle()
        assert world.open_firings() == []


# -- what meets a handler


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"rules": None, "save": None}, "failed"),
        ({"save": "inputs: {wanted: {type: string}}\n" + SAVE, "rules": None}, "failed"),
    ],
    ids=["its task is gone", "its inputs do not fit any more"],
)
async def test_handler_that_cannot_start_ends_its_firing(tmp_path: Path, change: dict[str, Any], state: str) -> None:
    async with open_lab(tmp_path, actions=TIDY) as world:
        victim = await world.begin_run()
        await world.tell()
        home = tmp_path / "plans" / "lab"
        (home / "interrupts.yaml").unlink()
        (home / "tasks" / "save.yaml").unlink()
        if change["save"]:
            (home / "tasks" / "save.yaml").write_text(change["save"])
        await world.engine.reload()
        await world.settle()
        handler = world.runs("save")[0]
        assert (handler.state, victim.state) == (state, "succeeded"), handler.explain()
        assert world.firings()[0][3] == state


async def test_handler_that_waits_too_long_for_its_start_ends_its_firing(tmp_path: Path) -> None:
    async with open_lab(tmp_path, actions=TIDY, save="queue_timeout: 100ms\n" + SAVE) as world:
        victim = await world.begin_run()
        await world.tell()
        await world.settle()
        assert (world.runs("save")[0].state, victim.state) == ("timed_out", "succeeded")
        assert world.firings()[0][3] == "timed_out"


@pytest.mark.parametrize("crash", [False, True], ids=["", "over a crash"])
async def test_hold_stands_while_the_handler_waits(tmp_path: Path, crash: bool) -> None:
    async with open_lab(tmp_path, backend=MemoryBackend(), save=WAITS) as world:
        victim = await world.begin_run()
        await world.tell()
        await world.until(world.runs("save")[0], state="waiting")
        backend = crashed(world)
        if not crash:
            await check_waits(world, victim)
    if crash:
        async with open_lab(tmp_path, backend=backend, write=False) as world:
            await check_waits(world, world.runs("work")[0])


async def check_waits(world: Lab, victim: Run) -> None:
    await world.advance(3600)
    assert (victim.state, len(world.open_firings())) == ("preempted", 1)
    await world.tell("battery.full")
    await world.settle()
    assert (victim.state, world.firings()[0][3]) == ("succeeded", "succeeded")


@pytest.mark.parametrize("crash", [False, True], ids=["", "over a crash"])
async def test_hold_stands_while_the_handler_is_paused(tmp_path: Path, crash: bool) -> None:
    async with open_lab(tmp_path, backend=MemoryBackend()) as world:
        victim, handler = await handled(world)
        await world.engine.pause(handler.cid)
        await world.until(handler, state="preempted")
        backend = crashed(world)
        if not crash:
            await check_paused(world, victim, handler)
    if crash:
        async with open_lab(tmp_path, backend=backend, write=False) as world:
            await check_paused(world, world.runs("work")[0], world.runs("save")[0])


async def check_paused(world: Lab, victim: Run, handler: Run) -> None:
    await world.advance(3600)
    assert (victim.state, len(world.open_firings())) == ("preempted", 1)
    await world.engine.resume(handler.cid)
    await world.settle()
    assert (victim.state, world.firings()[0][3]) == ("succeeded", "succeeded")


# -- what meets a victim


async def test_victim_that_is_paused_stays_so_when_the_firing_ends(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        victim, handler = await handled(world)
        await world.engine.pause(victim.cid)
        await world.until(handler, state="succeeded")
        await world.advance(60)
        assert (victim.state, world.live(victim).held) == ("preempted", "paused")
        await world.engine.resume(victim.cid)
        await world.settle()
        assert (victim.state, victim.record.attempt) == ("succeeded", 1)


async def test_pause_of_a_victim_that_is_resumed_under_the_hold_waits_for_its_end(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        victim, handler = await handled(world)
        await world.engine.pause(victim.cid)
        await world.engine.resume(victim.cid)
        await world.advance(0.1)
        assert (victim.state, handler.state) == ("preempted", "running")
        await world.settle()
        assert victim.state == "succeeded"


async def test_victim_with_another_priority_goes_on_in_its_order(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        first = await world.begin_run()
        second, handler = await world.start("work"), None
        await world.tell()
        handler = world.runs("save")[0]
        await world.until(handler, state="running")
        await world.engine.set_priority(first.cid, 500)
        assert first.state == "preempted"
        await world.settle()
        assert (first.record.priority, first.state, second.state) == (500, "succeeded", "succeeded")


async def test_victim_that_another_run_replaces_ends_under_the_hold_and_the_other_waits(tmp_path: Path) -> None:
    async with open_lab(tmp_path, work="mode: restart\n" + WORK) as world:
        victim, handler = await handled(world)
        other = await world.start("work")
        await world.until(victim, state="cancelled")
        await world.advance(0.1)
        assert (other.state, handler.state) == ("queued", "running")
        await world.settle()
        assert (victim.state, other.state) == ("cancelled", "succeeded")


async def test_victim_that_is_cancelled_stays_so_over_a_crash(tmp_path: Path) -> None:
    async with open_lab(tmp_path, backend=MemoryBackend(), rules=rule("then: restart"), save=KEPT_SAVE) as world:
        victim, _ = await handled(world)
        await world.engine.cancel(victim.cid)
        backend = crashed(world)
    async with open_lab(tmp_path, backend=backend, write=False) as world:
        await world.settle()
        assert [run.state for run in world.runs()] == ["cancelled", "succeeded"]
        assert world.open_firings() == []


# -- what is kept


async def test_firing_goes_with_its_handler_and_what_is_said_of_a_victim_with_that(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        await handled(world)
        await world.settle()
        await world.advance(days=2)
        await world.run("work")
        await keeper(world.engine.runtime, days=1).look()
        tables = ("firing", "victim", "removed")
        counts = [world.backend.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]
        assert (counts, len(world.runs())) == ([0, 0, 0], 1)


def test_switches_are_bounded_and_the_last_ones_stay() -> None:
    execute = MemoryBackend().execute
    for at in range(MAX_SWITCHES + 2):
        execute("INSERT INTO switch VALUES ('rule', ?, 'r', 0, 1, ?, 'me')", (f"p{at}", float(at)))
    put_switch(Switch("rule", "p", "r", False, True, 1e9, "me"))(execute)
    found = {one.at for one in read_switches(execute)}
    assert (len(found), min(found), max(found)) == (MAX_SWITCHES, 3, 1e9)
