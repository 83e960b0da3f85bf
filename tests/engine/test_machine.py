"""The engine against chance: whatever is asked of it and whatever breaks, in whatever order, its promises hold.

Hypothesis makes up the order of rules: requests, with keys and without, reruns, cancels, pauses, priorities, stops and
starts, time, a store that fails or hangs, crashes.
After each of them everything that is on record and in memory is compared with what clients were told.

The engine lives on a private virtual loop that runs only inside a rule. A crash is a copy of the committed rows; the
old world is then taken away, and nothing that it does any more counts.

With ``MACHINE_EXAMPLES=1000`` in the environment it tells that many stories, made up anew each time (CONTRIBUTING.md).
"""

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from tests.engine.kit import Opened, opened, quiet, step, task, turns
from tests.fakes.invariants import check_history, check_idle
from tests.fakes.kernel import FaultyBackend, copy_of

from aura.context import Context
from aura.errors import RequestError, StoreReadOnly
from aura.kernel.keys import key_of
from aura.kernel.lanes import Lane
from aura.lifecycle import FINAL, PLACED, STARTABLE, STEP_FINAL, Recovery, RunState
from aura.plan import Rate, Semaphore
from aura.run import Cause, Request
from aura.runs.liverun import LiveRun
from aura.task import Mode, ModeKind
from aura.testing.virtual_time import VirtualLoop

EXAMPLES = os.environ.get("MACHINE_EXAMPLES")
LIMIT = 2
#: Virtual seconds in which all that one example can ask for is over.
ALL_OVER = 3600.0
#: What the runs of each task come to if nobody stops them.
BY_THEMSELVES = {
    "quick": "succeeded",
    "slow": "succeeded",
    "again": "succeeded",
    "fails": "failed",
    "tidy": "succeeded",
    "impatient": "succeeded",
    "late": "timed_out",
    "tree": "succeeded",
    "loops": "succeeded",
    "neat": "succeeded",
    "alone": "succeeded",
    "latest": "succeeded",
    "line": "succeeded",
    "holds": "succeeded",
    "crosses": "succeeded",
}
RESOURCES: dict[str, Semaphore | Rate] = {"arm": Semaphore(1), "screen": Semaphore(1), "api": Rate(2, 5.0)}
#: Tasks of which one run is at work at a time.
ONE_AT_A_TIME = {"alone", "latest", "line"}


class World:
    """One start of the engine, up to its end or its crash."""

    def __init__(self, backend: FaultyBackend, began: Counter[tuple[str, str]]) -> None:
        self.backend = backend
        self.began = began
        self.gone = False
        self.opened = asyncio.Event()
        self.closing = asyncio.Event()
        self.clients: set[asyncio.Task[None]] = set()
        #: Runs that were given a place that another run ought to have had.
        self.before_their_turn: list[LiveRun] = []
        #: Runs that were cancelled while they rested, and clean up beside those that have a place of the limit's.
        self.beside: list[LiveRun] = []
        self.kit: Opened

    async def serve(self, folder: Path) -> None:
        """Be there until told to close."""
        lanes = {"main": LIMIT}
        async with opened(folder, *self.tasks(), backend=self.backend, lanes=lanes, resources=RESOURCES) as self.kit:
            for lane in self.kit.engine.dispatcher.lanes.values():
                setattr(lane, "place", self.in_order(lane, lane.place))  # noqa: B010 - a function for a method
            self.opened.set()
            await self.closing.wait()

    def in_order(self, lane: Lane, place: Callable[[LiveRun], None]) -> Callable[[LiveRun], None]:
        """``place``, which first looks whether another run ought to have this place."""

        def place_next(run: LiveRun) -> None:
            now = self.kit.now
            if run.state is RunState.STOPPING:
                self.beside.append(run)
                place(run)
                return
            others = [r for r in self.kit.engine.runtime.open.values() if r.waits and r.lane == lane.name]
            others = [r for r in others if r not in lane.aside]  # those wait for what others hold
            ready = [r for r in others if r.not_before is None or r.not_before <= now]
            if any((-run.priority, run.seq) > (-other.priority, other.seq) for other in ready):
                self.before_their_turn.append(run)
            place(run)

        return place_next

    def tasks(self) -> list[Any]:
        sleeps, works, fails = self.body(2.0), self.body(0.0), self.body(0.5, OSError("no"))
        runs_leaf = self.runs_leaf()
        return [
            task("quick", step("q", works)),
            task("slow", step("s", sleeps), step("t", works, ("s",)), cleanup_timeout=5),
            task("again", step("a", works), step("g", sleeps, ("a",)), recovery=Recovery.RESTART),
            task("fails", step("f", fails, retry={"attempts": 2, "delay": 1.0}), on_failure=[step("h", works)]),
            task("tidy", step("x", sleeps), step("y", works), finally_=[step("z", works)]),
            task("impatient", step("i", sleeps), queue_timeout=3.0),
            task("late", step("l", sleeps), timeout=1.0, finally_=[step("m", sleeps)]),
            task(
                *("neat", step("u", sleeps), step("v", works, ("u",))),
                on_preempt=[step("n", sleeps)],
                on_resume=[step("o", works)],
            ),
            task("tree", step("b", runs_leaf), step("c", works, ("b",)), finally_=[step("d", works)]),
            task("loops", self.looping(), step("w", works, ("r",)), finally_=[step("d", works)]),
            task("leaf", step("e", sleeps), step("k", works, ("e",))),
            *self.tasks_that_share(sleeps, works),
        ]

    def tasks_that_share(self, sleeps: Any, works: Any) -> list[Any]:
        """Tasks that count their runs, and take from each other what there is one of."""
        arm, screen = {"arm": 1}, {"screen": 1}
        return [
            task("alone", step("one", sleeps), mode=Mode(ModeKind.SINGLE)),
            task("latest", step("new", sleeps), mode=Mode(ModeKind.RESTART), resources={"api": 1}),
            task("line", step("next", sleeps), mode=Mode(ModeKind.QUEUED, 2), resources=screen),
            task("holds", step("h1", works), step("h2", sleeps, ("h1",), resources=arm), resources=screen),
            task("crosses", step("c1", sleeps), step("c2", works, ("c1",), resources=screen), resources=arm),
        ]

    def looping(self) -> Any:
        """A step that loops, whose items note that they have begun, and are tried twice."""

        async def act(ctx: Context, index: int) -> int:
            if not self.gone:
                self.began[ctx.cid, f"r[{index}]"] += 1
            await anyio.sleep(0.4)
            if ctx.attempt == 1 and index % 2:
                raise OSError("not yet")
            return index

        loop = {"times": 5, "parallelism": 2}
        return step("r", act, params={"index": "{{ loop.index }}"}, loop=loop, retry={"attempts": 2, "delay": 0.5})

    def runs_leaf(self) -> Any:
        """An action that notes that it has begun, and runs the task ``leaf`` in its place."""

        async def act(ctx: Context) -> None:
            if not self.gone:
                self.began[ctx.cid, ctx.step] += 1
            await ctx.run("leaf")

        return act

    def body(self, seconds: float, error: Exception | None = None) -> Any:
        """An action that notes that it has begun, takes its time, and as much again to clean up."""

        async def act(ctx: Context) -> None:
            if not self.gone:
                self.began[ctx.cid, ctx.step] += 1
            try:
                await turns(1)
                await anyio.sleep(seconds)
            except asyncio.CancelledError:
                await anyio.sleep(seconds)
                raise
            if error is not None:
                raise error

        return act


class EngineMachine(RuleBasedStateMachine):
    """What clients were told, and what they may therefore expect."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        #: What callbacks of the loop have raised: it tells nobody else.
        self.raised: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _loop, context: self.raised.append(context))
        #: (cid, step) → how often its body has begun.
        self.began: Counter[tuple[str, str]] = Counter()
        #: cid → task, of all who were told that it is accepted.
        self.accepted: dict[str, str] = {}
        #: cid → what those were told who cancelled it.
        self.told: dict[str, set[str]] = {}
        #: Those whose pause was answered ``preempted``, and of which nobody has asked anything since.
        self.resting: set[str] = set()
        #: cid → how often something was asked of it.
        self.asks: Counter[str] = Counter()
        #: cid → its whole record, once it is final.
        self.final: dict[str, Any] = {}
        #: key → the runs that those were told of who asked under it: one and the same.
        self.keyed: dict[str, set[str]] = {}
        #: cid → the priority that was answered last, while nobody asks for another.
        self.priorities: dict[str, int] = {}
        #: cid → how often another priority was asked for.
        self.wishes: Counter[str] = Counter()
        #: Requests whose client was cut off by a crash before it had its answer.
        self.unknown = 0
        self.asked: set[str] = set()
        self.stops = self.crashes = 0
        self.full = False
        self.world = self.open(World(FaultyBackend(), self.began))

    # -- driving

    def do(self, work: Awaitable[Any]) -> None:
        """Let the loop run until this is done."""
        self.loop.run_until_complete(work)

    def open(self, world: World) -> World:
        async def wait_open() -> None:
            await world.opened.wait()
            await quiet()

        self.served = self.loop.create_task(world.serve(self.folder))
        self.do(wait_open())
        return world

    def client(self, ask: Callable[[Opened], Awaitable[None]], *refusals: str) -> None:
        """Be a client that waits for its answer beside everything else, and may be refused so as well."""
        world = self.world
        may_be = {"storage_unavailable", "conflict", "refused_by_mode", *refusals}

        async def wait() -> None:
            try:
                await ask(world.kit)
            except RequestError as refused:
                if refused.code not in may_be:
                    raise
            finally:
                world.clients.discard(task)

        task = self.loop.create_task(wait())
        world.clients.add(task)
        self.do(turns(1))

    def close(self, world: World) -> None:
        """Let a world end: nothing holds its store any more."""
        self.heal(world)
        world.closing.set()
        self.do(self.served)
        world.backend.connection.close()

    def heal(self, world: World) -> None:
        world.backend.failing = 0
        if world.backend.gate is not None:
            world.backend.gate.set()
            world.backend.gate = None

    # -- what may happen

    @rule(
        names=st.lists(st.sampled_from(sorted(BY_THEMSELVES)), min_size=1, max_size=5),
        first=st.integers(-1, 1),
        delay=st.sampled_from([0.0, 0.0, 0.0, 1.5]),
    )
    def submit(self, names: list[str], first: int, delay: float) -> None:
        """Ask for one run of each, the second with another priority than the first, and so on."""

        async def ask(kit: Opened, name: str, priority: int) -> None:
            accepted = await kit.engine.submit(Request("p", name, priority=priority, delay_s=delay), Cause("api"))
            self.accepted[accepted.cid] = name

        for index, name in enumerate(names):
            self.client(partial(ask, name=name, priority=(first + 1 + index) % 3 - 1))

    @rule(name=st.sampled_from(sorted(BY_THEMSELVES)), times=st.integers(1, 3))
    def submit_under_a_key(self, name: str, times: int) -> None:
        """Ask for one run of each task in all, as often as may be."""

        async def ask(kit: Opened) -> None:
            key = key_of("run", name, {"task": name})
            accepted = await kit.engine.submit(Request("p", name), Cause("api"), key)
            self.accepted[accepted.cid] = name
            self.keyed.setdefault(name, set()).add(accepted.cid)

        for _ in range(times):
            self.client(ask)

    @rule(which=st.integers(0, 10), from_step=st.sampled_from([None, "g", "m", "q", "t", "w", "y"]))
    def rerun(self, which: int, from_step: str | None) -> None:
        if not self.accepted:
            return
        cid = list(self.accepted)[-1 - which % len(self.accepted)]

        async def ask(kit: Opened) -> None:
            accepted = await kit.engine.rerun(cid, from_step)
            self.accepted[accepted.cid] = self.accepted[cid]

        self.client(ask, "invalid")

    @rule(which=st.integers(0, 10), priority=st.integers(-2, 2))
    def prioritize(self, which: int, priority: int) -> None:
        if not self.accepted:
            return
        cid = list(self.accepted)[-1 - which % len(self.accepted)]
        self.wishes[cid] += 1
        wishes = self.wishes[cid]
        self.priorities.pop(cid, None)

        async def ask(kit: Opened) -> None:
            answer = await kit.engine.set_priority(cid, priority)
            assert answer.priority == priority
            if self.wishes[cid] == wishes:
                self.priorities[cid] = priority

        self.client(ask, "ended")

    @rule(which=st.integers(0, 30))
    def cancel(self, which: int) -> None:
        if not self.accepted:
            return
        cid = self.one_of(which)
        self.asked.add(cid)

        async def ask(kit: Opened) -> None:
            try:
                answer = await kit.engine.cancel(cid)
            except RequestError as refused:
                if refused.code != "ended":
                    raise
                answer = f"ended as {refused.extra['state']}"
            self.told.setdefault(cid, set()).add(answer)

        self.client(ask)

    def one_of(self, which: int) -> str:
        """One of the runs, of which something is asked now; the latest ones first."""
        cid = list(self.accepted)[-1 - which % len(self.accepted)]
        self.asks[cid] += 1
        self.resting.discard(cid)
        return cid

    @rule(which=st.integers(0, 10))
    def pause(self, which: int) -> None:
        if not self.accepted:
            return
        cid = self.one_of(which)
        asks = self.asks[cid]

        async def ask(kit: Opened) -> None:
            answer = await kit.engine.pause(cid, "chance")
            if answer == "preempted" and self.asks[cid] == asks:
                self.resting.add(cid)

        self.client(ask, "ended")

    @rule(which=st.integers(0, 10))
    def resume(self, which: int) -> None:
        if not self.accepted:
            return
        cid = self.one_of(which)

        async def ask(kit: Opened) -> None:
            assert await kit.engine.resume(cid) in {"preempted", "stopping"}

        self.client(ask, "ended")

    @rule(name=st.sampled_from(sorted(BY_THEMSELVES)))
    def cancel_all(self, name: str) -> None:
        every = {cid for cid, task_name in self.accepted.items() if task_name == name}
        self.asked |= every
        self.asks.update(every)
        self.resting -= every
        self.asked.add(name)

        async def ask(kit: Opened) -> None:
            for cid in await kit.engine.cancel_where(task_name=name):
                self.told.setdefault(cid, set()).add("stopping")

        self.client(ask)

    @rule(mode=st.sampled_from(["drain", "cancel"]), grace=st.sampled_from([0.1, 1.0, 10.0]))
    def stop(self, mode: Any, grace: float) -> None:
        self.stops += 1

        async def ask(kit: Opened) -> None:
            kit.engine.request_stop(mode, grace)

        self.client(ask)

    @rule()
    def start(self) -> None:
        async def ask(kit: Opened) -> None:
            await kit.engine.start()

        self.client(ask)

    @rule(count=st.integers(1, 6))
    def some_turns(self, count: int) -> None:
        self.do(turns(count))

    @rule(seconds=st.sampled_from([0.3, 1.0, 2.0, 5.0]))
    def time(self, seconds: float) -> None:
        self.do(self.world.kit.advance(seconds))

    @rule(how=st.sampled_from(["fails", "hangs", "is well"]), times=st.integers(1, 4))
    def store(self, how: str, times: int) -> None:
        self.heal(self.world)
        if how == "fails":
            self.full = True
            self.world.backend.error, self.world.backend.failing = StoreReadOnly("full"), times
        elif how == "hangs":
            self.world.backend.gate = anyio.Event()

    @rule()
    def crash(self) -> None:
        old, old.gone = self.world, True
        left = copy_of(old.backend)
        self.crashes += 1
        self.unknown += len(old.clients)
        for client in old.clients:
            client.cancel()
        self.close(old)
        self.world = self.open(World(FaultyBackend(left.connection), self.began))

    # -- what must be so

    @invariant()
    def record_is_what_was_told(self) -> None:
        rows = self.rows()
        assert self.accepted.keys() <= rows.keys()
        asked_for = [row for row in rows.values() if row["parent_cid"] is None]
        assert len(asked_for) <= len(self.accepted) + self.unknown + len(self.world.clients)
        for cid, row in self.final.items():
            assert rows[cid] == row
        for cid, row in rows.items():
            self.check_run(cid, row)
        assert all(len(runs) == 1 for runs in self.keyed.values())
        assert {cid: rows[cid]["priority"] for cid in self.priorities} == self.priorities

    def rows(self) -> dict[str, dict[str, Any]]:
        found = self.world.backend.execute("SELECT * FROM run")
        names = [column[0] for column in found.description]
        return {row["cid"]: row for row in (dict(zip(names, values, strict=True)) for values in found)}

    def check_run(self, cid: str, row: dict[str, Any]) -> None:
        execute, seq, state = self.world.backend.execute, row["seq"], row["state"]
        check_history(execute, seq, state)
        steps = execute("SELECT name, state, starts FROM step WHERE seq=?", (seq,)).fetchall()
        for name, step_state, starts in steps:
            assert self.began[cid, name] <= starts, "a body began before its start was on record"
            assert state not in FINAL or step_state in STEP_FINAL, (state, steps)
        items = execute("SELECT step, idx, state, starts FROM item WHERE seq=?", (seq,)).fetchall()
        for name, index, item_state, starts in items:
            assert self.began[cid, f"{name}[{index}]"] <= starts, "an item began before its start was on record"
            assert state not in FINAL or item_state in STEP_FINAL, (state, items)
            assert state != RunState.SUCCEEDED or item_state == "succeeded", items
        assert (state, self.accepted.get(cid)) != ("succeeded", "loops") or len(items) == 5
        if state in FINAL:
            self.final[cid] = row

    @invariant()
    def places_and_queues_agree_with_the_runs(self) -> None:
        runtime, lanes = self.world.kit.engine.runtime, self.world.kit.engine.dispatcher.lanes
        runs = list(runtime.open.values())
        for lane in lanes.values():
            placed = {run for run in lane.placed if not run.refused}  # that one gives its place back in a few turns
            assert placed == {run for run in runs if run.placed and run.lane == lane.name}
            assert lane.waiting == sum(run.waits for run in runs if run.lane == lane.name)
            assert len(lane.placed - set(self.world.beside)) <= lane.limit
        for run in runs:
            if run.parent is not None:  # it stands in no lane and takes no place
                assert (run.placed, run.waits) == (False, False)
                continue
            assert run.sealed or run.placed is (run.state in PLACED)
            may_start = run.state in STARTABLE and (run.state is not RunState.WAITING or bool(run.woken))
            assert run.sealed or run.waits is (may_start and run.held is None)
        assert (self.world.before_their_turn, list(runtime.faults)) == ([], [])
        assert not self.world.kit.engine.supervisor.reasons

    @invariant()
    def nobody_has_what_another_one_has(self) -> None:
        kit = self.world.kit
        for name, resource, in_use, waiting in kit.engine.claims.pool:
            assert in_use <= resource.count, name
            assert waiting >= 0
        runs = [run for run in kit.engine.runtime.open.values() if not (run.sealed or run in self.world.beside)]
        at_work = Counter(run.task_name for run in runs if run.placed)
        assert all(at_work[name] <= 1 for name in ONE_AT_A_TIME)
        assert Counter(run.task_name for run in runs)["alone"] <= 1

    @invariant()
    def nothing_is_in_memory_that_has_ended_and_all_else_is(self) -> None:
        rows, held = self.rows(), self.world.kit.engine.runtime.open
        assert {cid for cid, row in rows.items() if row["state"] not in FINAL} == held.keys() & rows.keys()

    @invariant()
    def call_of_a_step_has_one_answer_that_ended_with_it(self) -> None:
        """Of each call there is one run but for those that were stopped for good; none outlives its parent."""
        rows = self.rows()
        below = [row for row in rows.values() if row["parent_cid"] is not None]
        for row in below:
            parent = rows[row["parent_cid"]]
            assert row["state"] in FINAL or parent["state"] not in FINAL, (row, parent)
        done = Counter(
            (row["parent_cid"], row["call"]) for row in below if row["state"] not in ("cancelled", "crashed")
        )
        assert not done or max(done.values()) == 1

    @invariant()
    def lane_is_never_fuller_on_record_than_it_may_be(self) -> None:
        beside = {run.cid for run in self.world.beside}
        rows = self.rows()
        states = [row["state"] for cid, row in rows.items() if cid not in beside and row["parent_cid"] is None]
        assert sum(state in PLACED for state in states) <= LIMIT

    @invariant()
    def what_was_paused_rests_until_somebody_asks_for_something_else(self) -> None:
        rows = self.rows()
        assert {(rows[cid]["state"], rows[cid]["held"]) for cid in self.resting} <= {("preempted", 1)}
        assert not any(row["held"] for row in rows.values() if row["state"] in FINAL)

    # -- the end

    def teardown(self) -> None:
        world = self.world
        self.heal(world)

        async def come_to_an_end() -> None:
            await anyio.sleep(60)  # stops are over, and the store is tried again
            self.resting.clear()
            for run in list(world.kit.engine.runtime.open.values()):
                if run.held is not None and run.parent is None:
                    await world.kit.engine.resume(run.cid)
            await world.kit.engine.start()
            await self.loop.wait_until(lambda: not world.kit.engine.runtime.open, ALL_OVER)
            await quiet()

        try:
            self.do(come_to_an_end())
            self.record_is_what_was_told()
            self.places_and_queues_agree_with_the_runs()
            assert not world.clients
            assert not self.raised
            check_idle(world.kit)
            for cid, name in self.accepted.items():
                self.check_end(cid, name, self.final[cid])
        finally:
            self.close(world)
            self.loop.close()

    def check_end(self, cid: str, name: str, row: dict[str, Any]) -> None:
        """A run ended by itself unless somebody stopped it, and as everybody was told who asked."""
        state, stop = row["state"], row["stop"]
        may_be = {BY_THEMSELVES[name]}
        may_be |= {"cancelled"} if self.asked & {cid, name} or (self.stops and stop == "shutdown") else set()
        may_be |= {"timed_out"} if name == "impatient" else set()
        may_be |= {"crashed"} if self.crashes else set()
        may_be |= {"failed"} if name == "tree" and self.full else set()  # its sub-task could not be stored
        may_be |= {"failed"} if name in ("holds", "crosses") else set()  # it would have waited for ever
        may_be |= {"cancelled"} if name == "latest" and str(row["reason"]).startswith("replaced by ") else set()
        assert state in may_be, (name, row)
        for answer in self.told.get(cid, ()):
            assert answer in {state, f"ended as {state}"} or (answer == "stopping" and stop == "cancel"), (answer, row)


def test_engine_keeps_its_promises_whatever_happens(tmp_path: Path) -> None:
    class InFolder(EngineMachine):
        folder = tmp_path

    chosen = settings(
        max_examples=int(EXAMPLES or 30),
        stateful_step_count=40,
        derandomize=EXAMPLES is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(InFolder, settings=chosen)
