"""In which order runs of a lane start, against a model: by priority, then by acceptance, whatever happens to them."""

import random
from pathlib import Path
from typing import Any

import pytest
from tests.engine.kit import Opened, opened, step, task
from tests.fakes.invariants import check_idle
from tests.fakes.kernel import FaultyBackend, copy_of, works

from aura.kernel.lanes import Lane
from aura.run import Cause, Request
from aura.runs.liverun import LiveRun

#: How many requests, changes of priority and cancels make one story.
MOVES = 60
CAUSE = Cause("api")


def noting(log: list[str]) -> Any:
    async def act(what: str) -> None:
        log.append(what)

    return task("t", step("a", act, params={"what": "{{ run.cid }}"}))


class Model:
    """What waits: id → (priority, order of acceptance)."""

    def __init__(self) -> None:
        self.waiting: dict[str, tuple[int, int]] = {}
        self.accepted = 0

    def accept(self, cid: str, priority: int) -> None:
        self.accepted += 1
        self.waiting[cid] = (priority, self.accepted)

    def order(self) -> list[str]:
        return sorted(self.waiting, key=lambda cid: (-self.waiting[cid][0], self.waiting[cid][1]))


async def tell_a_story(kit: Opened, model: Model, chance: random.Random) -> None:
    """Ask for runs, move some and cancel some, while nothing starts."""
    for _ in range(MOVES):
        what = chance.choice(("one", "one", "three", "move", "cancel"))
        priority = chance.randint(-2, 2)
        if what == "one":
            model.accept((await kit.engine.submit(Request("p", "t", priority=priority), CAUSE)).cid, priority)
        elif what == "three":
            batch = await kit.engine.submit_batch([Request("p", "t", priority=priority)] * 3, CAUSE, True)
            for item in batch.items:
                model.accept(item.cid, priority)  # type: ignore[union-attr]  # none of them is refused
        elif model.waiting:
            cid = chance.choice(list(model.waiting))
            if what == "move":
                await kit.engine.set_priority(cid, priority)
                model.waiting[cid] = (priority, model.waiting[cid][1])
            else:
                await kit.engine.cancel(cid)
                del model.waiting[cid]


@pytest.mark.parametrize("seed", range(8))
async def test_runs_start_in_the_order_of_the_model(tmp_path: Path, seed: int) -> None:
    log: list[str] = []
    model, chance = Model(), random.Random(seed)
    async with opened(tmp_path, noting(log), lanes={"main": 1}) as kit:
        await kit.engine.stop("cancel", 0.1)
        await tell_a_story(kit, model, chance)
        assert [run["cid"] for run in kit.engine.queue_list()] == model.order()
        await kit.engine.start()
        await kit.settle()
        assert log == model.order()
        check_idle(kit)


@pytest.mark.parametrize("seed", range(4))
async def test_runs_start_in_the_order_of_the_model_after_a_crash(tmp_path: Path, seed: int) -> None:
    log: list[str] = []
    model, chance = Model(), random.Random(seed)
    backend = FaultyBackend()
    async with opened(tmp_path / "one", noting([]), lanes={"main": 1}, backend=backend) as kit:
        await kit.engine.stop("cancel", 0.1)
        await tell_a_story(kit, model, chance)
        left = copy_of(backend)
    async with opened(tmp_path / "two", noting(log), lanes={"main": 1}, backend=left) as kit:
        await kit.settle()
        assert log == model.order()


async def test_what_stands_behind_one_that_the_dispatcher_failed_over_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push, failed = Lane.push, list[LiveRun]()

    def fail_once(lane: Lane, run: LiveRun) -> None:
        if not failed:
            failed.append(run)
            raise MemoryError
        push(lane, run)

    async with opened(tmp_path, task("t", step("a", works))) as kit:
        monkeypatch.setattr(Lane, "push", fail_once)
        first = kit.engine.admission.request(Request("p", "t"), CAUSE).run
        kit.engine.dispatcher.kick()  # it stands between the two
        second = kit.engine.admission.request(Request("p", "t"), CAUSE).run
        await kit.ended(second)
        assert failed == [first]
        await kit.engine.cancel(first.cid)
