"""Ends that race: each run has one outcome, and everybody was told the truth about it.

Runs come in swarms, and each is stopped in a turn of its own, so that the stops are spread over all the turns that such
a run takes. Clients ask as the HTTP door does, and keep the answer: 202 is a state, 409 the state that it has ended in.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, step, task, turns
from tests.fakes.invariants import check_idle

from aura.errors import RequestError
from aura.lifecycle import FINAL, Recovery
from aura.run import Cause, Request
from aura.runs.liverun import LiveRun

SWARM = 100
#: More turns than any of these runs takes; a stop in the last of them comes too late.
TURNS = 20
#: (state, stop) of the record for what a client may have been told.
TRUE: dict[str, set[tuple[str, str | None]]] = {
    "cancelled": {("cancelled", "cancel")},
    "stopping": {("cancelled", "cancel"), ("succeeded", "cancel")},
    "ended as succeeded": {("succeeded", None)},
    "ended as cancelled": {("cancelled", "cancel")},
}


async def two_turns() -> None:
    await turns(2)


async def a_second() -> None:
    await anyio.sleep(1)


def swarm(kit: Opened, size: int = SWARM) -> list[LiveRun]:
    """Runs that are accepted in one turn."""
    return [kit.engine.admission.request(Request("p", "t"), Cause("api")).run for _ in range(size)]


def ends(kit: Opened) -> dict[str, tuple[str, str | None]]:
    """State and stop of every run, by cid; each has ended, and has exactly one end in its history."""
    rows = kit.backend.execute("SELECT cid, state, stop FROM run").fetchall()
    marks = ",".join(f"'run.{state}'" for state in FINAL)
    told = kit.backend.execute(f"SELECT cid, name FROM history JOIN run USING (seq) WHERE name IN ({marks})").fetchall()
    assert sorted(told) == sorted((cid, f"run.{state}") for cid, state, _ in rows)
    return {cid: (state, stop) for cid, state, stop in rows}


class Clients:
    """Cancel runs, and keep what they were told."""

    def __init__(self, kit: Opened) -> None:
        self.kit = kit
        self.told: list[tuple[str, str]] = []

    async def cancel(self, run: LiveRun) -> None:
        try:
            answer = await self.kit.engine.cancel(run.cid)
        except RequestError as refused:
            if refused.code != "ended":
                raise
            answer = f"ended as {refused.extra['state']}"
        self.told.append((run.cid, answer))

    def check(self) -> Counter[str]:
        """Everybody was told the truth; gives how many were told what."""
        found = ends(self.kit)
        for cid, answer in self.told:
            assert found[cid] in TRUE[answer], (answer, found[cid])
        return Counter(answer for _, answer in self.told)


SHAPES = {
    "one step": [step("a", two_turns)],
    "two at once": [step("a", two_turns), step("b", two_turns)],
    "chain": [step("a", two_turns), step("b", two_turns, ("a",))],
}


@pytest.mark.parametrize(("shape", "swarms"), [("one step", 80), ("two at once", 10), ("chain", 10)])
async def test_cancel_racing_the_finish_ten_thousand_times(tmp_path: Path, shape: str, swarms: int) -> None:
    async with opened(tmp_path, task("t", *SHAPES[shape]), lanes={"main": SWARM}) as kit:
        clients = Clients(kit)
        for _ in range(swarms):
            runs = swarm(kit)
            async with anyio.create_task_group() as group:  # a client for each run; ends with its answer
                for turn in range(TURNS):
                    for run in runs[turn::TURNS]:
                        group.start_soon(clients.cancel, run)
                    await turns(1)
            await kit.settle()
        assert set(clients.check()) == {"cancelled", "stopping", "ended as succeeded"}
        assert len(clients.told) == swarms * SWARM
        check_idle(kit)


@pytest.mark.parametrize("apart", [0, 1, 2, 5], ids=lambda apart: f"{apart} turns apart")
async def test_two_cancels_agree(tmp_path: Path, apart: int) -> None:
    async with opened(tmp_path, task("t", *SHAPES["chain"]), lanes={"main": SWARM}) as kit:
        clients = Clients(kit)
        runs = swarm(kit)
        async with anyio.create_task_group() as group:  # two clients for each run; each ends with its answer
            for turn in range(TURNS + apart):
                due = runs[turn::TURNS] if turn < TURNS else []
                for run in due + (runs[turn - apart :: TURNS] if turn >= apart else []):
                    group.start_soon(clients.cancel, run)
                await turns(1)
        await kit.settle()
        clients.check()
        assert Counter(cid for cid, _ in clients.told) == dict.fromkeys([run.cid for run in runs], 2)


async def test_cancel_of_all_names_those_that_it_told(tmp_path: Path) -> None:
    made = task("t", *SHAPES["chain"], recovery=Recovery.RESTART)
    async with opened(tmp_path, made, lanes={"main": 20}) as kit:
        for turn in range(TURNS):
            runs = swarm(kit, 40)
            await turns(turn)
            named = await kit.engine.cancel_where(task_name="t")
            await kit.settle()
            found = ends(kit)
            assert {run.cid for run in runs if found[run.cid][1] == "cancel"} == set(named), turn
        check_idle(kit)


@pytest.mark.parametrize("late", [-0.1, 0.0, 0.1], ids=["before it", "with it", "after it"])
@pytest.mark.parametrize("of_the_run", [True, False], ids=["of the run", "of the step"])
async def test_timeout_racing_the_finish(tmp_path: Path, late: float, of_the_run: bool) -> None:
    limit = 1.0 + late
    made = [step("a", a_second, timeout=None if of_the_run else limit), step("b", a_second)]
    async with opened(tmp_path, task("t", *made, timeout=limit if of_the_run else None), lanes={"main": SWARM}) as kit:
        swarm(kit)
        await kit.settle()
        states = {state for state, _ in ends(kit).values()}
        cut = "timed_out" if of_the_run else "failed"
        allowed = {"succeeded"} if late > 0 else {cut} if late < 0 else {"succeeded", cut}  # at once: either
        assert states <= allowed
        check_idle(kit)


@pytest.mark.parametrize("mode", ["cancel", "drain"])
@pytest.mark.parametrize("recovery", [Recovery.FAIL, Recovery.RESTART], ids=str)
async def test_shutdown_racing_the_finish(tmp_path: Path, recovery: Recovery, mode: Any) -> None:
    made = task("t", *SHAPES["chain"], recovery=recovery)
    async with opened(tmp_path, made, lanes={"main": 20}) as kit:
        for turn in range(TURNS):
            swarm(kit, 30)
            await turns(turn)
            await kit.engine.stop(mode, 1.0)
            assert not any(kit.engine.dispatcher.placed())
            await kit.engine.start()
        await kit.settle()
        allowed = {("succeeded", None)} | ({("cancelled", "shutdown")} if recovery is Recovery.FAIL else set())
        found = set(ends(kit).values())
        assert found == ({("succeeded", None)} if mode == "drain" else allowed), found
        check_idle(kit)
