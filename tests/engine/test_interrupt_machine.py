"""Interrupts against chance: in whatever order runs come, end and are stopped, a model knows what must become of each.

Hypothesis makes up the order of rules: requests in both lanes, of every ``preempt`` and ``recovery``; steps that end
and fail; cancels, pauses, priorities; rules fired by hand and by events, two by one event, nested, switched off and on;
handlers that end, fail and start runs of their own; the engine stopped and started; time; crashes. After each of them
the engine, its records and the model of ``tests/fakes/interruptmodel.py`` say the same of each run and each firing.

The engine lives on a private virtual loop that runs only inside a rule, over each of the two stores. No time passes
but in the rule that says so.

With ``MACHINE_EXAMPLES=1000`` in the environment it tells that many stories, made up anew each time (CONTRIBUTING.md).
"""

import asyncio
import os
from collections.abc import Awaitable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.engine.kit import Opened, PythonGenerations, opened, quiet, step, task
from tests.fakes.interruptmodel import LIMITS, Model, ModelFiring, ModelRun
from tests.fakes.invariants import check_history, check_idle
from tests.language.doing import Memory, Sqlite

from aura.context import Context
from aura.errors import RequestError
from aura.interrupt import HandlerStart, Preempts, Rule, Then
from aura.lifecycle import FINAL, Recovery
from aura.loading.generations import PlanStatus
from aura.run import Cause, Request, RunRecord
from aura.schedule import OnEvent, Trigger
from aura.store import StoreBackend
from aura.task import Preempt, Source
from aura.testing.run import Run
from aura.testing.virtual_time import VirtualLoop

EXAMPLES = os.environ.get("MACHINE_EXAMPLES")
#: How many stories are told of each store.
STORIES = {Memory: 15, Sqlite: 3}
#: Seconds that an engine drains before it stops what runs. A timer of a run is never due at that time.
DRAIN = 2.5
TASKS = [f"{preempt.value}_{recovery.value}" for preempt in Preempt for recovery in Recovery]
TEAM = {"team": "a"}
LANES = ("main", "event")


def _rule(name: str, event: str, recovery: Recovery, preempts: Preempts, **keys: Any) -> Rule:
    trigger = Trigger(OnEvent(event))
    source = Source("interrupts.yaml", 1)
    return Rule(name, source, (trigger,), f"handle_{recovery.value}", preempts=preempts, max_pending=1000, **keys)


RULES = {
    made.name: made
    for made in (
        _rule("all", "low", Recovery.RESTART, Preempts()),
        _rule("all_too", "low", Recovery.RESUME, Preempts(), then=Then.RESTART),
        _rule("both_lanes", "high", Recovery.FAIL, Preempts(LANES), priority=10),
        _rule("team", "high", Recovery.RESUME, Preempts(LANES, labels=TEAM), then=Then.RESTART, priority=10),
        _rule("little", "top", Recovery.FAIL, Preempts(below_priority=1), then=Then.CANCEL, priority=20),
        _rule("once", "top", Recovery.RESUME, Preempts(), handler_starts=HandlerStart.AT_ONCE, priority=20),
    )
}


class Ruled(PythonGenerations):
    """A plan made in Python that has the rules."""

    def __init__(self, *tasks: Any) -> None:
        super().__init__(*tasks)
        assert self.now is not None
        self.now.plan = msgspec.structs.replace(self.now.plan, rules=RULES)

    def statuses(self) -> list[PlanStatus]:
        return [PlanStatus("p", "", "", "ready", "g1", 1)]


class Gate:
    """Where a step waits until it is told how to end, or what to do."""

    def __init__(self) -> None:
        self.opened = anyio.Event()
        self.says = ""

    def open(self, says: str) -> None:
        self.says = says
        self.opened.set()


class Served:
    """One start of the server, up to its end or its crash."""

    def __init__(self, folder: Path, backend: StoreBackend) -> None:
        self.folder = folder
        self.backend = backend
        self.opened = asyncio.Event()
        self.closing = asyncio.Event()
        self.gates: dict[str, Gate] = {}
        self.kit: Opened

    async def serve(self) -> None:
        """Be there until told to close."""
        plan = Ruled(*self.tasks())
        lanes = {lane: limit for lane, limit in LIMITS.items() if lane != "interrupt"}
        async with opened(self.folder, generations=plan, backend=self.backend, lanes=lanes) as self.kit:
            self.opened.set()
            await self.closing.wait()

    def tasks(self) -> list[Any]:
        async def act(ctx: Context) -> None:
            await self.act(ctx)

        def made(name: str, recovery: Recovery, preempt: Preempt = Preempt.NOW) -> Any:
            first, second = step("a", act, idempotent=True), step("b", act, ("a",), idempotent=True)
            return task(name, first, second, preempt=preempt, recovery=recovery)

        handlers = [made(f"handle_{recovery.value}", recovery) for recovery in Recovery]
        each = [(preempt, recovery) for preempt in Preempt for recovery in Recovery]
        return handlers + [made(f"{preempt.value}_{recovery.value}", recovery, preempt) for preempt, recovery in each]

    async def act(self, ctx: Context) -> None:
        """Wait to be told how to end; a handler starts runs until then."""
        while True:
            gate = self.gates[ctx.cid] = Gate()
            await gate.opened.wait()
            if gate.says == "fail":
                raise OSError("told to")
            if gate.says == "end":
                return
            await ctx.start(gate.says)


class InterruptMachine(RuleBasedStateMachine):
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
        self.place = self.folder / str(next(self.numbers))
        self.place.mkdir()
        self.store = self.kind(self.place)
        self.model = Model()
        self.switched_off: set[str] = set()
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
        self.served = Served(self.place, backend)
        self.serving = self.loop.create_task(self.served.serve())
        self.rules_since_start = 0
        self.do(self.served.opened.wait())

    def close(self) -> None:
        self.served.closing.set()
        self.loop.run_until_complete(self.serving)

    @property
    def kit(self) -> Opened:
        return self.served.kit

    @property
    def now(self) -> float:
        return self.loop.time()

    def chosen(self, which: int) -> ModelRun | None:
        """One of the runs that have not ended, the latest ones first; now and then one that has."""
        runs = [run for run in self.model.runs.values() if run.state not in FINAL or which == 0]
        return runs[-1 - which % len(runs)] if runs else None

    def refusal_of(self, ask: Awaitable[Any]) -> str | None:
        """Ask something, and give the code of its refusal."""
        try:
            self.do(ask)
        except RequestError as refused:
            return refused.code
        return None

    def add(self, cid: str, task_name: str, lane: str, **keys: Any) -> ModelRun:
        """Tell the model of a run."""
        word, _, recovery = task_name.partition("_") if lane == "interrupt" else task_name.rpartition("_")
        preempt = Preempt.NOW if lane == "interrupt" else Preempt(word)
        run = ModelRun(cid, lane, since=self.now, preempt=preempt, recovery=Recovery(recovery), **keys)
        self.model.runs[cid] = run
        return run

    # -- what may happen

    @rule(
        names=st.lists(st.sampled_from(TASKS), min_size=1, max_size=4),
        lane=st.sampled_from(["main", "main", "event"]),
        priority=st.integers(-1, 1),
        labels=st.sampled_from([{}, TEAM]),
    )
    def submit(self, names: list[str], lane: str, priority: int, labels: dict[str, str]) -> None:
        for name in names:
            request = Request("p", name, lane=lane, priority=priority, labels=labels)
            accepted = self.do(self.kit.engine.submit(request, Cause("api")))
            self.add(accepted.cid, name, lane, priority=priority, labels=labels)
            self.model.settle()

    @rule(name=st.sampled_from(sorted(RULES)))
    def fire(self, name: str) -> None:
        self.fired(self.do(self.kit.engine.fire("p", name)), {name})

    @rule(name=st.sampled_from(["low", "high", "top"]))
    def emit(self, name: str) -> None:
        expected = {one.name for one in RULES.values() if one.triggers == (Trigger(OnEvent(name)),)}
        self.fired(self.do(self.kit.engine.emit(name)), expected - self.switched_off)

    def fired(self, receipt: Any, expected: set[str]) -> None:
        """Tell the model of what an event has fired, in that order."""
        assert {fired.rule for fired in receipt.interrupts} == expected
        for fired in receipt.interrupts:
            made = RULES[fired.rule]
            handler = self.add(fired.cid, made.task_name, "interrupt", priority=made.priority)
            self.model.fire(made, handler, self.now)
        self.model.settle()

    @rule(name=st.sampled_from(sorted(RULES)), enabled=st.booleans())
    def switch(self, name: str, enabled: bool) -> None:
        self.do(self.kit.engine.switch_rule("p", name, enabled, "chance"))
        self.switched_off = self.switched_off - {name} if enabled else self.switched_off | {name}

    @rule(which=st.integers(0, 10), says=st.sampled_from(["end", "end", "end", "fail"]))
    def end_step(self, which: int, says: str) -> None:
        placed = self.model.placed()
        if placed:
            self.tell(placed[-1 - which % len(placed)], says)

    @rule(says=st.sampled_from(["end", "end", "end", "fail"]))
    def end_step_of_handler(self, says: str) -> None:
        for run in self.model.placed("interrupt"):
            self.tell(run, says)

    def tell(self, run: ModelRun, says: str) -> None:
        self.do(self.open_gate(run, says))
        self.model.step_ends(run, says == "fail")
        self.model.settle()

    async def open_gate(self, run: ModelRun, says: str) -> None:
        self.served.gates.pop(run.cid).open(says)

    @rule(name=st.sampled_from(TASKS))
    def handler_starts_a_run(self, name: str) -> None:
        for handler in self.model.placed("interrupt"):
            self.do(self.open_gate(handler, name))
            [cid] = self.kit.engine.runtime.open.keys() - self.model.runs.keys() or [""]
            self.add(cid, name, "main", priority=0, root=handler)
            self.model.settle()

    @rule(which=st.integers(0, 10))
    def cancel(self, which: int) -> None:
        if run := self.chosen(which):
            assert self.refusal_of(self.kit.engine.cancel(run.cid)) == ("ended" if run.state in FINAL else None)
            if run.state not in FINAL:
                self.model.leave(run, "cancelled")
                self.model.settle()

    @rule(which=st.integers(0, 10))
    def pause(self, which: int) -> None:
        if run := self.chosen(which):
            never = run.state == "running" and run.preempt is Preempt.NEVER and not run.paused
            expected = "ended" if run.state in FINAL else "conflict" if never else None
            assert self.refusal_of(self.kit.engine.pause(run.cid)) == expected
            if expected is None:
                self.model.pause(run, self.now)
                self.model.settle()

    @rule(which=st.integers(0, 10))
    def resume(self, which: int) -> None:
        if run := self.chosen(which):
            expected = "ended" if run.state in FINAL else None if run.paused else "conflict"
            assert self.refusal_of(self.kit.engine.resume(run.cid)) == expected
            run.paused = False
            self.model.settle()

    @rule(which=st.integers(0, 10), priority=st.integers(-2, 2))
    def prioritize(self, which: int, priority: int) -> None:
        if run := self.chosen(which):
            expected = "ended" if run.state in FINAL else None
            assert self.refusal_of(self.kit.engine.set_priority(run.cid, priority)) == expected
            run.priority = priority if expected is None else run.priority
            self.model.settle()

    @rule(mode=st.sampled_from(["drain", "cancel"]))
    def stop(self, mode: Any) -> None:
        self.do(self.request_stop(mode))
        if self.model.engine == "running":
            self.model.engine, self.model.stops_at = "stopping", self.now + DRAIN
        if mode == "cancel" and self.model.engine == "stopping":
            self.model.stop_all()
        self.model.settle()

    async def request_stop(self, mode: Any) -> None:
        self.kit.engine.request_stop(mode, DRAIN)

    @rule()
    def start(self) -> None:
        expected = "conflict" if self.model.engine == "stopping" else None
        assert self.refusal_of(self.kit.engine.start()) == expected
        self.model.engine = self.model.engine if expected else "running"
        self.model.settle()

    @rule(seconds=st.sampled_from([1, 3, 6, 61]))
    def time_passes(self, seconds: int) -> None:
        began = self.now
        self.do(self.kit.advance(seconds))
        for second in range(1, seconds + 1):
            self.model.tick(began + second)

    @precondition(lambda self: self.rules_since_start > 5)
    @rule()
    def crash(self) -> None:
        left = self.store.left()
        self.close()
        self.open(left)
        self.model.crash()
        self.model.settle()

    # -- what must be so

    @invariant()
    def engine_is_as_the_model_says(self) -> None:
        self.rules_since_start += 1
        assert self.kit.engine.state == self.model.engine
        shown = self.model.shown()
        assert {run.cid: self.in_memory(run) for run in self.model.runs.values()} == shown
        for run in self.model.runs.values():
            if run.state in ("running", "stopping"):
                assert self.kit.engine.runtime.open[run.cid].live.keys() == {"ab"[run.step]}, run

    def in_memory(self, run: ModelRun) -> Any:
        """Of a run what the model shows; of one that has ended as it is on record."""
        live = self.kit.engine.runtime.open.get(run.cid)
        if live is None:
            record = self.record(run)
            stopped_by = run.stopped_by.handler.cid if run.stopped_by else None
            return (record.state, False, record.preemptions, stopped_by)
        by = live.stopped_by.cid if live.stopped_by else None
        return (live.state.value, live.held is not None, live.preemptions, by)

    def record(self, run: ModelRun) -> RunRecord:
        return Run(self.kit, run.cid).record

    @invariant()
    def firings_are_as_the_model_says(self) -> None:
        found = [(firing.rule, firing.cid) for firing in self.kit.engine.dispatcher.holds.open]
        assert found == [(firing.rule.name, firing.handler.cid) for firing in self.model.open]
        on_record = self.execute("SELECT cid FROM firing WHERE ended_at IS NULL")
        assert {cid for (cid,) in on_record} == {firing.handler.cid for firing in self.model.open}
        for firing in self.model.firings:
            assert self.victims_on_record(firing) == {run.cid for run in firing.victims}
        assert len(self.model.placed("interrupt")) <= 1

    def victims_on_record(self, firing: ModelFiring) -> set[str]:
        sql = "SELECT run.cid FROM victim JOIN run USING (seq) JOIN firing ON firing.id=firing WHERE firing.cid=?"
        return {cid for (cid,) in self.execute(sql, firing.handler.cid)}

    def execute(self, sql: str, *values: Any) -> list[Any]:
        return list(self.served.backend.execute(sql, values))

    @invariant()
    def record_is_what_is_in_memory(self) -> None:
        for run in self.model.runs.values():
            record = self.record(run)
            assert (record.state, record.preemptions) == (run.state, run.preemptions)
            check_history(self.served.backend.execute, record.seq, self.row_of(run))
            assert (record.preempted_by is not None) is (run.preemptions > 0)

    def row_of(self, run: ModelRun) -> str:
        return "running" if run.state == "stopping" else run.state

    @invariant()
    def engine_has_no_fault(self) -> None:
        assert not self.raised
        assert not self.kit.engine.runtime.faults
        for name, lane in self.kit.engine.dispatcher.lanes.items():
            assert {run.cid for run in lane.placed} == {run.cid for run in self.model.placed(name)}

    # -- the end

    def teardown(self) -> None:
        try:
            self.time_passes(12)
            self.start()
            for run in list(self.model.runs.values()):
                if run.paused:
                    self.resume_one(run)
            while placed := self.model.placed():
                self.tell(placed[0], "end")
                self.engine_is_as_the_model_says()
            assert all(run.state in FINAL for run in self.model.runs.values()), self.model.shown()
            self.firings_are_as_the_model_says()
            assert not self.kit.engine.dispatcher.holds.open
            check_idle(self.kit)
        finally:
            self.close()
            self.loop.close()

    def resume_one(self, run: ModelRun) -> None:
        assert self.refusal_of(self.kit.engine.resume(run.cid)) is None
        run.paused = False
        self.model.settle()


@pytest.mark.parametrize("kind", [Memory, Sqlite], ids=["memory", "sqlite"])
def test_interrupts_keep_their_promises_whatever_happens(tmp_path: Path, kind: type[Memory] | type[Sqlite]) -> None:
    class InFolder(InterruptMachine):
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
