"""Firing a rule by hand, and firings that cannot be stored: all of it, or nothing."""

import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.interrupts_kit import Lab, open_lab, preempted, rule
from tests.fakes.kernel import FaultyBackend

from aura.errors import RequestError, StoreReadOnly
from aura.events import STAGED
from aura.interrupts import interrupts
from aura.interrupts.triggers import REQUESTED
from aura.records.firings import open_firing
from aura.store import Execute

pytestmark = pytest.mark.anyio

SINGLE = "mode: single\nsteps: {save: {action: sleep, params: {duration: 500ms}}}\n"
NEEDS = "inputs: {n: integer}\nsteps: {save: {action: log, params: {message: x}}}\n"


async def refused(world: Lab, payload: Any = None) -> RequestError:
    """Why the rule cannot be fired; nothing of it may be on record."""
    await world.loop.wait_quiet()
    rows = count(world)
    with pytest.raises(RequestError) as caught:
        await world.fire("low_battery", payload)
    await world.loop.wait_quiet()
    assert count(world) == rows
    told = [entry for entry in world.engine.journal.events_since(0) if entry.name == REQUESTED]
    assert STAGED not in [entry.state for entry in told]
    return caught.value


def count(world: Lab) -> list[int]:
    """How many events, runs, firings and rows of history are on record."""
    return [
        world.backend.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("event", "run", "firing", "history")
    ]


async def test_rule_that_is_fired_by_hand_stops_and_brings_back(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        run = await world.begin_run()
        cid = await world.fire("low_battery", {"why": "a test"})
        await world.settle()
        assert preempted(run) == (1, cid)
        assert run.state == "succeeded"
        assert world.payloads("interrupt.requested") == [{"why": "a test"}]


@pytest.mark.parametrize("keys", ["enabled: false", "while_running: [work]", "cooldown: 1h"])
async def test_fire_by_hand_asks_for_no_condition(tmp_path: Path, keys: str) -> None:
    async with open_lab(tmp_path, rules=rule(keys)) as world:
        await world.fire("low_battery")
        await world.fire("low_battery")
        await world.settle()
        assert [outcome for *_, outcome in world.firings()] == ["succeeded", "succeeded"]


async def test_fire_by_hand_begins_the_cooldown(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule("cooldown: 10s")) as world:
        await world.fire("low_battery")
        assert (await world.tell()).interrupts == []
        await world.settle()


async def test_rule_that_listens_to_the_requests_is_fired_once_by_one_of_its_own(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule(on='{event: "interrupt.*"}')) as world:
        receipt = await world.engine.fire("lab", "low_battery")
        assert [one.rule for one in receipt.interrupts] == ["low_battery"]
        await world.settle()
        assert [outcome for *_, outcome in world.firings()] == ["succeeded"]


@pytest.mark.parametrize("payload", [object(), "x" * 70_000, float("nan")], ids=["object", "large", "nan"])
async def test_bad_payload_is_refused(tmp_path: Path, payload: Any) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        error = await refused(world, payload)
        assert (error.code, error.errors[0].path) == ("invalid", "/payload")


async def test_handler_that_its_mode_refuses_leaves_no_event(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule(), save=SINGLE) as world:
        run = await world.begin_run()
        await world.fire("low_battery")
        await world.until(run, state="preempted")
        await world.loop.wait_quiet()
        assert (await refused(world)).code == "refused_by_mode"
        assert len(world.open_firings()) == 1
        await world.settle()
        assert preempted(run)[0] == 1


async def test_only_so_many_firings_wait_by_hand(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule("max_pending: 2")) as world:
        first = await world.fire("low_battery")
        await world.until(lambda: world.live(first).begun)
        for _ in range(2):
            await world.fire("low_battery")
        assert (await refused(world)).code == "queue_full"
        await world.settle()
        assert [outcome for *_, outcome in world.firings()] == ["succeeded"] * 3


@pytest.mark.parametrize("given", ["{{ event.payload.n }}", "{{ event.payload.a.b.c }}"], ids=["type", "missing"])
async def test_bad_inputs_leave_no_event(tmp_path: Path, given: str) -> None:
    async with open_lab(tmp_path, rules=rule(f'inputs: {{n: "{given}"}}'), save=NEEDS) as world:
        run = await world.begin_run()
        assert (await refused(world, {"n": "text"})).code == "inputs_invalid"
        await world.settle()
        assert preempted(run)[0] == 0


async def test_server_that_is_shutting_down_refuses(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        world.engine.admission.closed = True
        assert (await refused(world)).code == "shutting_down"


async def test_disk_that_is_nearly_full_refuses_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        monkeypatch.setattr(world.engine.runtime.space, "refusal", "the disk is nearly full")
        assert (await refused(world)).code == "storage_unavailable"


async def test_storage_that_refuses_the_unit_undoes_the_firing(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with open_lab(tmp_path, rules=rule("cooldown: 1h"), backend=backend) as world:
        run = await world.begin_run()
        backend.failing, backend.error = 1, StoreReadOnly("full")
        assert (await refused(world)).code == "storage_unavailable"
        await world.loop.wait_until(lambda: world.engine.runtime.store.unavailable is None)
        assert world.engine.dispatcher.holds.open == []
        assert world.rule().last_fired is None
        await world.settle()
        assert (run.state, world.payloads("interrupt.requested")) == ("succeeded", [])
        assert len((await world.tell()).interrupts) == 1
        await world.settle()


async def test_event_whose_commit_fails_fires_nothing(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with open_lab(tmp_path, rules=rule("cooldown: 1h"), backend=backend) as world:
        run = await world.begin_run()
        backend.failing, backend.error = 1, StoreReadOnly("full")
        with pytest.raises(RequestError):
            await world.tell()
        await world.loop.wait_until(lambda: world.engine.runtime.store.unavailable is None)
        await world.settle()
        assert (run.state, world.firings(), world.runs("save")) == ("succeeded", [], [])
        assert world.rule().missed == {"storage_full": 1}
        assert len((await world.tell()).interrupts) == 1
        await world.settle()


def no_such_luck(*_: Any) -> Any:
    def unit(execute: Execute) -> None:
        raise sqlite3.IntegrityError("no such luck")

    return unit


async def test_firing_whose_unit_fails_alone_is_undone_and_the_event_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        run = await world.begin_run()
        monkeypatch.setattr(interrupts, "open_firing", no_such_luck)
        receipt = await world.tell()
        assert (receipt.interrupts, world.engine.dispatcher.holds.open) == ([], [])
        monkeypatch.undo()
        await world.settle()
        assert (run.state, world.firings(), world.runs("save")) == ("succeeded", [], [])
        assert len(world.payloads("battery.low")) == 1
        assert world.payloads("interrupt.fired") == []


async def test_fire_by_hand_whose_unit_fails_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        run = await world.begin_run()
        monkeypatch.setattr(interrupts, "open_firing", no_such_luck)
        with pytest.raises(RequestError) as caught:
            await world.fire("low_battery")
        monkeypatch.undo()
        await world.settle()
        assert caught.value.code == "internal"
        assert (run.state, world.firings(), world.payloads("interrupt.requested")) == ("succeeded", [], [])


async def test_one_lost_firing_of_two_in_a_row_leaves_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, bad = open_firing, iter([no_such_luck])
    async with open_lab(tmp_path, rules=rule()) as world:
        monkeypatch.setattr(interrupts, "open_firing", lambda *args: next(bad, real)(*args))
        async with anyio.create_task_group() as group:  # two children, which end with their answers
            group.start_soon(world.tell)
            group.start_soon(world.tell)
        await world.settle()
        assert [outcome for *_, outcome in world.firings()] == ["succeeded"]
        assert world.rule().last_fired is not None
        assert world.rule().missed == {"storage_full": 1}
