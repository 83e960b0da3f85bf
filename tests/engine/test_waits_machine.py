"""Waiting against chance: in whatever order runs wait, and are woken, paused, cancelled and crashed, a model knows all.

Hypothesis makes up the order of rules: runs that wait for events, answers and times, with and without time-outs, alone
and in loops, beside each other and in sub-tasks; events that fit and that do not; answers, good, bad and second ones;
commits that fail; time; crashes at rest and a few turns after something was asked. The model says what is then on
record of each run: its state, its result, what it waits for. Nothing that was acknowledged is lost, and nothing is
woken twice: the record says how often each step has begun and succeeded.

The engine lives on a private virtual loop that runs only inside a rule, over each of the two stores. No time passes
but in the rule that says so.

With ``MACHINE_EXAMPLES=1000`` in the environment it tells that many stories, made up anew each time (CONTRIBUTING.md).
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from tests.engine.kit import quiet, turns
from tests.fakes.invariants import check_history
from tests.fakes.plans import write_files
from tests.fakes.waitmodel import ENDED, TASKS, ModelRun, tasks_of_plan
from tests.language.doing import Memory, Sqlite

from aura.config import Settings, load_settings
from aura.errors import RequestError
from aura.store import StoreBackend
from aura.testing.run import Run
from aura.testing.virtual_time import VirtualLoop
from aura.testing.world import World, open_world

EXAMPLES = os.environ.get("MACHINE_EXAMPLES")
#: How many stories are told of each store.
STORIES = {Memory: 20, Sqlite: 6}
#: Nobody waits for an event that is for this one.
NOBODY = 9


class Served:
    """One start of the server, up to its end or its crash."""

    def __init__(self, plan: Path, chosen: Settings, backend: StoreBackend) -> None:
        self.plan = plan
        self.settings = chosen
        self.backend = backend
        self.opened = asyncio.Event()
        self.closing = asyncio.Event()
        self.world: World

    async def serve(self) -> None:
        """Be there until told to close."""
        async with open_world(self.plan, settings=self.settings, backend=self.backend) as self.world:
            self.opened.set()
            await self.closing.wait()


class WaitsMachine(RuleBasedStateMachine):
    """The engine, and beside it the model of what it must come to."""

    folder: Path
    kind: type[Memory] | type[Sqlite]
    numbers: Iterator[int]

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        #: What callbacks of the loop have raised: it tells nobody else.
        self.raised: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _loop, context: self.raised.append(context))
        place = self.folder / str(next(self.numbers))
        self.plan = write_files(place / "plans", tasks_of_plan("p")) / "p"
        flags = {"data": place / "data", "plans": place / "plans"}
        self.settings = load_settings(flags, {}, None, place)
        self.store = self.kind(place)
        self.runs: dict[str, ModelRun] = {}
        self.told = 0
        self.open(self.store.backend)

    # -- driving

    def do(self, work: Awaitable[Any]) -> Any:
        """Let the loop run until this is done, and everything that can happen at this time has happened."""

        async def then_quiet() -> Any:
            found = await work
            await quiet()
            return found

        return self.loop.run_until_complete(then_quiet())

    def open(self, backend: StoreBackend) -> None:
        self.served = Served(self.plan, self.settings, backend)
        self.serving = self.loop.create_task(self.served.serve())
        self.do(self.served.opened.wait())

    def close(self) -> None:
        self.served.closing.set()
        self.loop.run_until_complete(self.serving)

    @property
    def world(self) -> World:
        return self.served.world

    @property
    def now(self) -> float:
        return self.loop.time()

    def execute(self, sql: str, *values: Any) -> list[Any]:
        return list(self.served.backend.execute(sql, values))

    def chosen(self, which: int) -> ModelRun:
        """One of the runs, the latest ones first."""
        return list(self.runs.values())[-1 - which % len(self.runs)]

    def refusal_of(self, ask: Awaitable[Any]) -> str | None:
        """Ask something, and give the code of its refusal."""
        try:
            self.do(ask)
        except RequestError as refused:
            return refused.code
        return None

    # -- what may happen

    @rule(names=st.lists(st.sampled_from(sorted(TASKS)), min_size=1, max_size=3), who=st.integers(0, 2))
    def start(self, names: list[str], who: int) -> None:
        for name in names:
            run = self.do(self.world.start(name, inputs={"who": who}))
            self.runs[run.cid] = ModelRun(run.cid, name, TASKS[name](who), self.now)

    @rule(who=st.sampled_from([0, 0, 1, 2, NOBODY]), name=st.sampled_from(["go.on", "go.on", "go", "go.on.more"]))
    def emit(self, who: int, name: str) -> None:
        number = self.number()
        self.do(self.emitted(name, who, number))
        self.came(name, who, number)

    @rule(who=st.integers(0, 2))
    def emit_two_at_once(self, who: int) -> None:
        """The first counts, and neither waits for the other's commit."""
        first, second = self.number(), self.number()

        async def emit() -> None:
            bus = self.world.engine.runtime.bus
            for emitted in [bus.emit("go.on", {"who": who, "n": number}) for number in (first, second)]:
                await emitted.ticket.wait()

        self.do(emit())
        self.came("go.on", who, first)

    def number(self) -> int:
        self.told += 1
        return self.told

    async def emitted(self, name: str, who: int, number: int) -> None:
        await self.world.engine.runtime.bus.emit(name, {"who": who, "n": number}).ticket.wait()

    def came(self, name: str, who: int, number: int) -> None:
        for run in self.runs.values():
            run.event(name, who, number, self.now)

    @rule(which=st.integers(0, 10), approved=st.booleans(), good=st.sampled_from([True, True, False]))
    def answer(self, which: int, approved: bool, good: bool) -> None:
        if not self.runs:
            return
        run, number = self.chosen(which), self.number()
        expected = run.refuses_answer(good or not approved)
        assert self.refusal_of(self.answered(run, approved, number if good else "no number")) == expected
        if expected is None:
            run.answer(number if approved else None, self.now)

    async def answered(self, run: ModelRun, approved: bool, number: int | str) -> None:
        await self.world.engine.answer(run.cid, run.asks, None, approved, {"n": number}, "chance")

    @rule(which=st.integers(0, 10))
    def pause(self, which: int) -> None:
        if self.runs:
            run = self.chosen(which)
            expected = "ended" if run.final else None
            assert self.refusal_of(self.world.engine.pause(run.cid, "chance")) == expected
            run.pause()

    @rule(which=st.integers(0, 10))
    def resume(self, which: int) -> None:
        if self.runs:
            run = self.chosen(which)
            expected = "ended" if run.final else None if run.paused else "conflict"
            assert self.refusal_of(self.world.engine.resume(run.cid)) == expected
            run.resume(self.now)

    @rule(which=st.integers(0, 30))
    def cancel(self, which: int) -> None:
        if self.runs:
            run = self.chosen(which)
            assert self.refusal_of(self.world.engine.cancel(run.cid)) == ("ended" if run.final else None)
            run.cancel()

    @rule(seconds=st.sampled_from([0.7, 3.1, 11.3, 41.9]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.world.advance(seconds))
        for run in self.runs.values():
            run.time(self.now)

    @rule()
    def crash(self) -> None:
        left = self.store.left()
        self.close()
        self.open(left)

    @rule()
    def restart(self) -> None:
        self.close()
        self.open(self.store.again())

    @rule(which=st.integers(0, 10), who=st.integers(0, 2))
    def what_is_kept_while_paused_outlives_a_crash(self, which: int, who: int) -> None:
        self.pause(which)
        self.emit_two_at_once(who)
        self.answer(which, approved=True, good=True)
        self.crash()

    @rule(who=st.integers(0, 2), after=st.integers(0, 12))
    def crash_in_the_middle_of_an_event(self, who: int, after: int) -> None:
        """What the emitter was told of counts; and if it is on record, then with all that it woke."""
        number = self.number()
        told = self.crash_after(after, partial(self.emitted, "go.on", who, number))
        stored = number in [_number(row) for row in self.execute("SELECT payload FROM event")]
        assert stored or not told
        if stored:
            woken = [run for run in self.runs.values() if run.event("go.on", who, number, self.now)]
            self.look_at_work(woken)

    @rule(which=st.integers(0, 10), after=st.integers(0, 12))
    def crash_in_the_middle_of_an_answer(self, which: int, after: int) -> None:
        if not self.runs:
            return
        run, number = self.chosen(which), self.number()
        if run.refuses_answer(good=True) is not None:
            return
        before = self.answers_on_record(run)
        told = self.crash_after(after, partial(self.answered, run, True, number))
        stored = self.answers_on_record(run) > before
        assert stored or not told
        if stored:
            run.answer(number, self.now)
            self.look_at_work([run])

    def look_at_work(self, woken: list[ModelRun]) -> None:
        """What was woken was at work when the server crashed, or was not; if it was it has crashed, as ever."""
        for run in woken:
            record = Run(self.world, run.cid).record
            if record.state == "crashed":
                assert record.reason == "crash"
                run.final = "crashed"

    def answers_on_record(self, run: ModelRun) -> int:
        sql = "SELECT count(*) FROM history WHERE name='approval.answered' AND seq=(SELECT seq FROM run WHERE cid=?)"
        return int(self.execute(sql, run.cid)[0][0])

    def crash_after(self, after: int, ask: Callable[[], Awaitable[None]]) -> bool:
        """Let somebody ask, and crash after so many turns of the loop; say whether it was told by then."""
        client = self.loop.create_task(_settled(ask))
        self.loop.run_until_complete(turns(after))
        told = client.done()
        left = self.store.left()
        self.do(client)
        self.close()
        self.open(left)
        return told

    # -- what must be so

    @invariant()
    def record_is_as_the_model_says(self) -> None:
        for run in self.runs.values():
            record = Run(self.world, run.cid).record
            assert record.state == run.state, (run, record)
            check_history(self.served.backend.execute, record.seq, record.state)
            if run.final == "succeeded":
                assert record.result == run.results, (run, record)
                assert self.done(record.seq) == dict.fromkeys(run.steps, (1, 1)), run
            elif not run.final:
                assert self.shown(record) == run.waits_for, (run, record)

    def done(self, seq: int) -> dict[str, tuple[int, int]]:
        """Step → how often it has succeeded, and how often what comes behind it has begun."""
        sql = "SELECT step, name FROM history WHERE seq=? AND name IN ('step.succeeded', 'step.started') ORDER BY id"
        told = [tuple(row) for row in self.execute(sql, seq)]
        begun = told.count(("z", "step.started"))
        return {step: (told.count((step, "step.succeeded")), begun) for step in {step for step, _ in told}}

    @staticmethod
    def shown(record: Any) -> set[tuple[str, str]]:
        """The step, or item, and the kind of each of the waits that are shown."""
        waits = (record.waiting_for or {}).get("waits", ())
        keys = [wait["step"] if wait["index"] is None else f"{wait['step']}[{wait['index']}]" for wait in waits]
        return {(key, wait["kind"]) for key, wait in zip(keys, waits, strict=True)}

    @invariant()
    def nothing_is_kept_of_what_has_ended(self) -> None:
        left = self.execute(
            "SELECT DISTINCT cid FROM wait JOIN run USING (seq) WHERE state IN (SELECT value FROM json_each(?))", ENDED
        )
        assert left == []

    @invariant()
    def engine_has_no_fault(self) -> None:
        assert not self.world.engine.runtime.faults
        assert not self.raised

    def teardown(self) -> None:
        try:
            for run in self.runs.values():
                if run.paused and not run.final:
                    self.do(self.world.engine.resume(run.cid))
                    run.resume(self.now)
            for who in range(3):
                self.emit_for_all(who)
            self.time_passes(100.0)
            for run in self.runs.values():
                if run.refuses_answer(good=True) is None:
                    self.do(self.answered(run, False, 0))
                    run.answer(None, self.now)
            self.record_is_as_the_model_says()
            assert all(run.final for run in self.runs.values()), self.runs
            assert not self.world.engine.runtime.open
            assert not self.world.engine.runtime.bus.subscribers
        finally:
            self.close()
            self.loop.close()

    def emit_for_all(self, who: int) -> None:
        number = self.number()
        self.do(self.emitted("go.on", who, number))
        self.came("go.on", who, number)


async def _settled(ask: Callable[[], Awaitable[None]]) -> None:
    await ask()


def _number(row: Any) -> Any:
    """The number of an event on record."""
    return (json.loads(row[0]) or {}).get("n") if row[0] else None


@pytest.mark.parametrize("kind", [Memory, Sqlite], ids=["memory", "sqlite"])
def test_what_waits_is_woken_once_whatever_happens(tmp_path: Path, kind: type[Memory] | type[Sqlite]) -> None:
    class InFolder(WaitsMachine):
        folder = tmp_path
        numbers = count()

    InFolder.kind = kind
    chosen = settings(
        max_examples=int(EXAMPLES or STORIES[kind]),
        stateful_step_count=30,
        derandomize=EXAMPLES is None,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(InFolder, settings=chosen)
