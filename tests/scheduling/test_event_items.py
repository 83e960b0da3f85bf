"""Events that start items: what a run is told of its event, which event starts what, and circles that are cut."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from tests.scheduling.schedule_kit import crashed, lab_settings, open_lab, schedule

from aura.bus import LOOP_DETECTED, MAX_VIA

pytestmark = pytest.mark.anyio

HEARS = schedule(hear="triggers: [{event: disk.full}]")
#: Tasks that emit an event of their own.
EMITS = {
    name: f"steps: [{{name: say, action: event.emit, params: {{name: {event}}}}}]"
    for name, event in {"says_a": "a", "says_b": "b"}.items()
}


async def test_event_starts_a_run_that_is_told_of_it(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HEARS) as world:
        receipt = await world.engine.emit("disk.full", {"disk": "sda"})
        await world.settle()
        [run] = world.runs()
        assert receipt.started == [run.cid]
        assert run.record.lane == "event"
        assert run.result["event"]["payload"] == {"disk": "sda"}
        assert run.result["event"]["id"] == receipt.event_id
        cause = run.record.cause
        assert [cause[key] for key in ("kind", "item", "event_id")] == ["event", "hear", receipt.event_id]
        accepted = world.backend.execute("SELECT root_cid, depth, chain FROM run").fetchone()
        assert (accepted[1], '"item lab/hear"' in accepted[2]) == (0, True)


@pytest.mark.parametrize(
    ("triggers", "started", "reasons"),
    [
        pytest.param("{event: 'disk.*'}", 1, [], id="pattern"),
        pytest.param("{event: '*'}", 0, [], id="one-part"),
        pytest.param("{event: '**'}", 1, [], id="any-parts"),
        pytest.param("{event: other}", 0, [], id="another"),
        pytest.param("{event: 'disk.*'}, {event: disk.full}, {event: '**'}", 1, [], id="many-fit-and-it-starts-once"),
        pytest.param("{event: disk.full}, {event: disk.full}", 1, [], id="the-same-twice"),
        pytest.param("{event: disk.full, when: '{{ event.payload > 3 }}'}", 1, [], id="it-holds"),
        pytest.param("{event: disk.full, when: '{{ event.payload > 7 }}'}", 0, ["condition_false"], id="not"),
        pytest.param(
            "{event: disk.full, when: '{{ false }}'}, {event: '**', when: '{{ event.payload == 5 }}'}",
            *(1, []),
            id="the-second-one-holds",
        ),
        pytest.param("{event: disk.full, when: '{{ false }}'}, {event: '**', when: '{{ false }}'}", 0, None, id="none"),
        pytest.param("{event: disk.full, when: '{{ event.payload.x.y > 1 }}'}", 0, ["bad_inputs"], id="it-fails"),
        pytest.param("{event: 'run.*', when: '{{ false }}'}, {event: other}", 0, [], id="own-are-others"),
    ],
)
async def test_which_event_starts_it(
    tmp_path: Path, triggers: str, started: int, reasons: Sequence[str] | None
) -> None:
    async with open_lab(tmp_path, items=schedule(hear=f"triggers: [{triggers}]")) as world:
        await world.emit("disk.full", 5)
        await world.settle()
        await world.advance(seconds=2)
        assert len(world.runs()) == started
        assert world.reasons() == (["condition_false"] if reasons is None else list(reasons))
        assert sum(line.count for line in world.unstarted()) == len(world.reasons())


async def test_star_never_means_events_of_auras_own(tmp_path: Path) -> None:
    async with open_lab(
        tmp_path, items=schedule(all="triggers: [{event: '*'}, {event: '**'}, {event: '*.*'}]")
    ) as world:
        await world.run("work")
        await world.engine.stop("cancel", 1.0)
        await world.engine.start()
        await world.settle()
        assert len(world.runs()) == 1


async def test_cooldown_counts_from_the_last_start(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=schedule(hear="cooldown: 10s, triggers: [{event: a}]")) as world:
        for _ in range(4):
            await world.emit("a")
            await world.advance(seconds=4)
        assert len(world.runs()) == 2
        assert [(line.reason, line.count) for line in world.unstarted()] == [("cooldown", 2)]


async def test_item_that_is_off_hears_and_says_so(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=schedule(hear="enabled: false, triggers: [{event: a}]")) as world:
        await world.emit("a")
        await world.engine.items.switch(world.item("hear"), True, "me").wait()
        await world.emit("a")
        await world.advance(seconds=2)
        assert (len(world.runs()), world.reasons()) == (1, ["disabled"])


async def test_inputs_that_cannot_be_made_are_a_line_and_the_event_is_kept(tmp_path: Path) -> None:
    items = schedule(hear="inputs: {day: '{{ event.payload.day.x.y }}'}, triggers: [{event: a}]")
    async with open_lab(tmp_path, items=items) as world:
        receipt = await world.engine.emit("a", {})
        await world.advance(seconds=2)
        assert (receipt.started, world.reasons(), world.payloads("a")) == ([], ["bad_inputs"], [{}])


# -- what stays


async def test_stopped_engine_accepts_by_events_and_starts_them_later(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HEARS) as world:
        await world.engine.stop("cancel", 1.0)
        await world.emit("disk.full", 1)
        await world.advance(minutes=1)
        assert [run.state for run in world.runs()] == ["queued"]
        await world.engine.start()
        await world.settle()
        assert [run.state for run in world.runs()] == ["succeeded"]


async def test_event_of_a_run_outlives_a_crash_and_a_rerun(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HEARS) as world:
        await world.engine.stop("cancel", 1.0)
        await world.emit("disk.full", {"n": 7})
        await world.advance()
        left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left) as world:
        await world.settle()
        [run] = world.runs()
        await world.engine.rerun(run.cid)
        await world.settle()
        first, again = world.runs()
        assert first.result["event"]["payload"] == again.result["event"]["payload"] == {"n": 7}
        assert (again.record.cause["kind"], again.record.cause["item"]) == ("rerun", None)


async def test_start_that_cannot_be_stored_leaves_the_event_and_no_trace(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=schedule(hear="cooldown: 1h, triggers: [{event: a}]")) as world:
        world.backend.execute("CREATE TRIGGER no BEFORE INSERT ON run BEGIN SELECT RAISE(ABORT, 'no'); END")
        assert (await world.engine.emit("a", 1)).started == []
        world.backend.execute("DROP TRIGGER no")
        assert len((await world.engine.emit("a", 2)).started) == 1
        await world.settle()
        assert (world.payloads("a"), len(world.runs())) == ([1, 2], 1)


async def test_reload_changes_what_is_heard_and_nothing_is_heard_twice(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HEARS) as world:
        for items, count in [(HEARS, 1), (HEARS.replace("disk.full", "'disk.*'"), 2), (HEARS.replace("full", "b"), 2)]:
            await world.rewrite(tmp_path, items=items)
            await world.emit("disk.full")
            await world.settle()
            assert len(world.runs()) == count
        await world.rewrite(tmp_path, items="items: {}")
        await world.emit("disk.b")
        await world.settle()
        assert len(world.runs()) == 2
        assert world.engine.runtime.bus.subscribers == 0


# -- circles

RULE = """
rules:
  react: {triggers: [{event: b}], task: says_a, preempts: {lanes: []}}
"""
RUNS = MAX_VIA + 1  # the first, and those that it may go through once more
SAYS_A, SAYS_B = {"says_a": RUNS}, {"says_b": RUNS}


@pytest.mark.parametrize(
    ("one", "more", "first", "runs"),
    [
        pytest.param("task: says_a, triggers: [{event: a}]", {}, "a", SAYS_A, id="a-a"),
        pytest.param(
            "task: says_b, triggers: [{event: a}]",
            {"two": "task: says_a, triggers: [{event: b}]"},
            *("a", {"says_a": MAX_VIA, "says_b": RUNS}),
            id="a-b-a",
        ),
        pytest.param("task: says_b, triggers: [{event: '**'}]", {}, "x", SAYS_B, id="any"),
        pytest.param("task: says_b, triggers: [{event: '*'}, {event: b}, {event: '**'}]", {}, "x", SAYS_B, id="many"),
        pytest.param("triggers: [{event: run.accepted}, {event: a}]", {}, "a", {"work": RUNS}, id="own-accepted"),
        pytest.param("triggers: [{event: run.succeeded}, {event: a}]", {}, "a", {"work": RUNS}, id="own-succeeded"),
        pytest.param("task: says_a, triggers: [{event: aura.*}, {event: a}]", {}, "a", SAYS_A, id="told"),
        pytest.param("task: says_a, triggers: [{event: a, debounce: {for: 2s}}]", {}, "a", SAYS_A, id="debounced"),
    ],
)
async def test_circle_is_cut_and_named_once(
    tmp_path: Path, one: str, more: dict[str, str], first: str, runs: dict[str, int]
) -> None:
    async with open_lab(tmp_path, items=schedule(one=one, **more), **EMITS) as world:
        await world.emit(first)
        await world.advance(minutes=5)
        assert {name: len(world.runs(name)) for name in runs} == runs
        [told] = world.payloads(LOOP_DETECTED)
        [named] = world.engine.status()["events"]["suspended"]
        name = "two" if more else "one"  # of two, it is the depth that is too much for the other one
        assert told["subscriber"] == named["subscriber"] == f"item lab/{name}"
        assert world.item(name).suspended == told["reason"]
        [line] = world.unstarted("loop_detected")
        assert (line.item, line.count) == (name, 1)


@pytest.mark.parametrize("how", ["reload", "enable"])
async def test_suspended_item_hears_again_after(tmp_path: Path, how: str) -> None:
    items = schedule(one="task: says_a, triggers: [{event: a}, {event: go}]")
    async with open_lab(tmp_path, items=items, **EMITS) as world:
        await world.emit("a")
        await world.settle()
        await world.emit("go")
        await world.settle()
        assert len(world.runs()) == RUNS
        if how == "reload":
            await world.engine.reload()
        else:
            await world.engine.items.switch(world.item("one"), True, "me").wait()
        assert (world.item("one").suspended, world.engine.status()["events"]["suspended"]) == (None, [])
        await world.emit("go")
        await world.settle()
        assert len(world.runs()) == 2 * RUNS


async def test_circle_of_a_rule_and_an_item_is_cut(tmp_path: Path) -> None:
    items = schedule(one="task: says_b, triggers: [{event: a}]")
    async with open_lab(tmp_path, items=items, **EMITS) as world:
        (tmp_path / "plans" / "lab" / "interrupts.yaml").write_text(RULE)
        await world.engine.reload()
        await world.emit("a")
        await world.settle()
        # the rule never fires by what its own firing has brought about
        assert {name: len(world.runs(name)) for name in EMITS} == {"says_a": 1, "says_b": 2}
        assert [told["subscriber"] for told in world.payloads(LOOP_DETECTED)] == ["rule lab/react"]


async def test_chain_of_too_many_items_is_cut_at_its_depth(tmp_path: Path) -> None:
    names = [f"e{n}" for n in range(25)]
    tasks = {f"t{n}": f"steps: [{{name: say, action: event.emit, params: {{name: e{n + 1}}}}}]" for n in range(25)}
    items = schedule(**{f"i{n}": f"task: t{n}, triggers: [{{event: {name}}}]" for n, name in enumerate(names)})
    async with open_lab(tmp_path, items=items, **tasks) as world:
        await world.emit("e0")
        await world.settle()
        assert len(world.runs()) == 17
        [named] = world.engine.status()["events"]["suspended"]
        assert named["subscriber"] == "item lab/i17"


# -- storms


async def test_storm_fills_the_lane_and_no_more(tmp_path: Path) -> None:
    settings = lab_settings(tmp_path)
    lanes = dict(settings.lanes) | {"event": msgspec.structs.replace(settings.lanes["event"], queue=50, limit=2)}
    settings = msgspec.structs.replace(settings, lanes=lanes)
    items = schedule(hear="task: slow, triggers: [{event: a}]", off="triggers: [{event: a, when: '{{ false }}'}]")
    async with open_lab(tmp_path, items=items, settings=settings) as world:
        tickets = [world.engine.runtime.bus.emit("a", n).ticket for n in range(500)]
        await tickets[-1].wait()
        await world.advance(seconds=2)
        [full], [off] = world.unstarted("queue_full"), world.unstarted("condition_false")
        assert (len(world.runs()), full.count, off.count) == (50, 450, 500)
        assert len(world.payloads("a")) == 500
