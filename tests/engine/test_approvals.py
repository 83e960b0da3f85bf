"""Answers to steps that wait: what is shown before them, what is kept of a secret, and an answer that is lost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import turns
from tests.fakes.kernel import FaultyBackend
from tests.fakes.plans import write_files

from aura.errors import RequestError, StoreReadOnly
from aura.stores.memory import MemoryBackend
from aura.testing.run import Run
from aura.testing.world import World, open_world

#: Too short to be looked for in other text, and long enough.
PIN, PASSWORD = "4711", "correct horse battery"
ASKS = """\
    steps:
      - name: a
        action: approval.wait
        params:
          message: Go
          inputs: {pin: {type: string, secret: true}, word: {type: string, secret: true}, n: integer}
      - {name: b, action: assert, params: {that: "{{ steps.a.output.values.pin == '4711' }}", message: another pin}}
      - {name: c, action: log, params: {message: "it is {{ steps.a.output.values.word }}"}}
    returns: "{{ steps.a.output.values.n }}"
    """
LOOPS = """\
    steps:
      a:
        action: approval.wait
        loop: {for_each: [x, y], parallelism: 2}
        params: {message: Go, inputs: {pin: {type: string, secret: true}}}
    """
MANY = """\
    steps:
      e: {action: event.wait, loop: {times: 150, parallelism: 150}, params: {name: x, timeout: 1m}}
      s: {action: sleep, params: {duration: 1m}}
      z: {action: approval.wait, params: {message: Go, timeout: 1h}}
    """


@asynccontextmanager
async def asking(folder: Path, text: str, **keys: Any) -> AsyncIterator[tuple[World, Run]]:
    """A world in which a run of this task waits."""
    plan = write_files(folder / "plans", {"p/tasks/t.yaml": text}) / "p"
    async with open_world(plan, **keys) as world:
        run = await world.start("t")
        await world.until(run, state="waiting")
        yield world, run


async def answer(world: World, run: Run, index: int | None = None, approved: bool = True, **values: Any) -> str:
    return await world.engine.answer(run.cid, "z" if "z" in values else "a", index, approved, values, "somebody")


def dump(world: World) -> str:
    """All that is in the database, but for what waits."""
    assert isinstance(world.backend, MemoryBackend)
    return "\n".join(line for line in world.backend.connection.iterdump() if not line.startswith('INSERT INTO "wait"'))


async def test_secret_value_reaches_the_next_step_and_is_nowhere_on_record(tmp_path: Path) -> None:
    async with asking(tmp_path, ASKS) as (world, run):
        assert await answer(world, run, pin=PIN, word=PASSWORD, n=5) in ("waiting", "running")
        await world.settle()
        assert (run.state, run.result) == ("succeeded", 5)
        assert run.steps["a"].output["values"] == {"pin": "***", "word": "***", "n": 5}
        lines = await world.engine.history.log_entries(cid=run.cid)
        assert "it is ***" in [line.record()["message"] for line in lines]
        text = dump(world)
        assert f'"{PIN}"' not in text.replace("'4711'", "")
        assert PASSWORD not in text


async def test_secret_value_of_an_item_is_not_on_record(tmp_path: Path) -> None:
    async with asking(tmp_path, LOOPS) as (world, run):
        for index in range(2):
            await answer(world, run, index, pin=PIN)
        await world.settle()
        assert [one["values"] for one in run.steps["a"].output] == [{"pin": "***"}] * 2
        assert PIN not in dump(world)


async def test_waits_are_shown_those_first_that_ask_and_a_hundred_of_them(tmp_path: Path) -> None:
    async with asking(tmp_path, MANY) as (world, run):
        shown = run.record.waiting_for
        assert shown is not None
        first, *others = shown["waits"]
        assert (first["step"], first["message"], first["until"] - first["since"]) == ("z", "Go", 3600.0)
        assert (shown["kind"], shown["waits_total"], len(others)) == ("approval", 152, 99)
        assert {wait["kind"] for wait in others} == {"event"}
        assert shown["steps"][:2] == ["z", "e[0]"]
        await world.settle()
        assert run.record.waiting_for is None


async def test_answer_is_acknowledged_when_it_is_on_record(tmp_path: Path) -> None:
    backend = FaultyBackend()
    backend.error = StoreReadOnly("the disk is full")
    async with asking(tmp_path, ASKS, backend=backend) as (world, run):
        backend.failing = 2
        async with anyio.create_task_group() as group:  # one child, which ends when the disk takes writes again
            group.start_soon(partial(answer, world, run, pin=PIN, word=PASSWORD, n=5))
            await turns(3)
            assert (run.state, backend.failing > 0) == ("waiting", True)
            with pytest.raises(RequestError) as caught:
                await answer(world, run, approved=False)
            assert caught.value.code == "answered"
        assert backend.failing == 0
        await world.settle()
        assert run.result == 5


@pytest.mark.parametrize("way", ["cancel", "end"])
async def test_answer_to_what_has_ended_is_refused_with_its_state(tmp_path: Path, way: str) -> None:
    async with asking(tmp_path, ASKS) as (world, run):
        if way == "cancel":
            await world.engine.cancel(run.cid)
        else:
            await answer(world, run, pin=PIN, word=PASSWORD, n=5)
        await world.settle()
        with pytest.raises(RequestError) as caught:
            await answer(world, run, approved=False)
        assert (caught.value.code, caught.value.extra["state"]) == ("ended", run.state)


async def test_answer_to_no_run_is_refused(tmp_path: Path) -> None:
    async with asking(tmp_path, LOOPS) as (world, run):
        with pytest.raises(RequestError) as caught:
            await answer(world, Run(world, "0" * 36), pin=PIN)
        assert caught.value.code == "unknown_run"
        await world.engine.cancel(run.cid)
