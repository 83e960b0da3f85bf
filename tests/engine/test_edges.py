"""One edge: at every kind of await and at every moment a stop is thrown in once, and the clean-up runs whole."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from tests.engine.kit import Opened, opened, quiet, step, task, until, virtual_loop
from tests.fakes.children import running_of
from tests.fakes.kernel import begun, noting

from aura.builtin import shell
from aura.context import Context
from aura.lifecycle import Stop
from aura.runs.liverun import LiveRun
from aura.testing.virtual_time import START, ThreadGate

#: Turns of the loop from a stop to the record, with all clean-up; an action that burns takes thousands.
FEW_TURNS = 120
#: Beside the step that is stopped: nothing, so that it runs in its run's own child, or one more that sleeps.
ALONE_OR_BESIDE = pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])


class Delivered:
    """Awaits a coroutine and counts the cancellations that are thrown into it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # type: ignore[return-value]

    def __iter__(self) -> "Delivered":
        return self

    def __next__(self) -> Any:
        return self._coroutine.send(None)

    send = property(lambda self: self._coroutine.send)

    def throw(self, error: BaseException, *_: Any) -> Any:
        self.count += isinstance(error, asyncio.CancelledError)
        return self._coroutine.throw(error)

    def close(self) -> None:
        self._coroutine.close()


class Probe:
    """An action that waits somewhere and then cleans up at several awaits, and what was seen of it."""

    def __init__(self, wait: Callable[["Probe"], Awaitable[object]]) -> None:
        self.wait = wait
        self.log: list[str] = []
        self.gate = anyio.Event()
        self.thread = ThreadGate()
        self.delivered = Delivered(self._body())
        self.ctx: Context | None = None
        self.most = 1

    async def __call__(self, ctx: Context) -> None:
        self.ctx = ctx
        await self.delivered

    async def _body(self) -> None:
        try:
            await self.wait(self)
            self.log.append("went on")
            await anyio.sleep(3600)
        finally:
            await cleans_up()
            self.log.append("clean")

    def step(self, name: str = "a") -> Any:
        async def act(ctx: Context) -> None:
            await self(ctx)

        return step(name, act)


async def cleans_up() -> None:
    """A clean-up of several awaits, none of them shielded."""
    await anyio.sleep(0.001)
    await anyio.lowlevel.checkpoint()
    with anyio.fail_after(5):
        await asyncio.sleep(0.001)
    async with anyio.create_task_group() as group:  # one that sleeps; ends with it
        group.start_soon(anyio.sleep, 0.001)
    async with asyncio.timeout(5):
        await asyncio.wait_for(asyncio.sleep(0.001), 5)


class Watched:
    """A world with the probe's step, perhaps one more beside it, and a step that depends on the first."""

    def __init__(self, kit: Opened, probe: Probe) -> None:
        self.kit, self.probe = kit, probe
        self.turns = 0
        self._look = kit.loop.look
        kit.loop.look = self._counting_look  # type: ignore[method-assign]

    def _counting_look(self) -> bool:
        self.turns += 1
        assert self.turns < 100_000, "it burns"
        return self._look()

    async def assert_stopped(self, run: LiveRun, most: int = 1) -> None:
        """The run ends soon and as cancelled, by one cancellation; all of the clean-up ran, and nothing else.

        ``most``: how many cancellations there may have been, with those of the action's own.
        """
        told, before = self.kit.loop.time(), self.turns
        record = await self.kit.ended(run)
        assert (record.state, record.stop, record.cleanup_error) == ("cancelled", "cancel", None)
        assert self.probe.log == ["clean"]
        assert 1 <= self.probe.delivered.count <= max(most, self.probe.most)
        assert self.kit.loop.time() - told < 0.1
        assert self.turns - before < FEW_TURNS
        assert {name: s.state for name, s in (await self.kit.steps(run)).items() if name != "beside"} == {
            "a": "cancelled",
            "after": "cancelled",
        }


@contextlib.asynccontextmanager
async def watching(folder: Path, probe: Probe, beside: bool = False) -> AsyncIterator[Watched]:
    steps = [probe.step(), step("after", noting(probe.log, "after"), ("a",))]
    if beside:
        steps.append(step("beside", at_sleep_alone))
    async with opened(folder, task("t", *steps)) as kit:
        yield Watched(kit, probe)


async def at_sleep_alone() -> None:
    await anyio.sleep(3600)


# -- the kinds of await


async def at_sleep(probe: Probe) -> None:
    await anyio.sleep(3600)


async def at_asyncio_sleep(probe: Probe) -> None:
    await asyncio.sleep(3600)


async def at_receive(probe: Probe) -> None:
    send, receive = anyio.create_memory_object_stream[int](1)
    async with send, receive:
        await receive.receive()


async def at_send(probe: Probe) -> None:
    send, receive = anyio.create_memory_object_stream[int](0)
    async with send, receive:
        await send.send(1)


async def at_queue(probe: Probe) -> None:
    await asyncio.Queue[int]().get()


async def at_lock(probe: Probe) -> None:
    lock = anyio.Lock()

    async def holds() -> None:
        async with lock:
            await anyio.sleep(3600)

    holder = asyncio.ensure_future(holds())
    try:
        await anyio.lowlevel.checkpoint()
        await lock.acquire()
    finally:
        holder.cancel()


async def at_semaphore(probe: Probe) -> None:
    await anyio.Semaphore(0).acquire()


async def at_limiter(probe: Probe) -> None:
    limiter = anyio.CapacityLimiter(1)
    async with limiter:
        await limiter.acquire_on_behalf_of(object())


async def at_condition(probe: Probe) -> None:
    condition = anyio.Condition()
    async with condition:
        await condition.wait()


async def at_event(probe: Probe) -> None:
    await anyio.Event().wait()


async def at_fail_after(probe: Probe) -> None:
    with anyio.fail_after(3600):
        await anyio.sleep(3600)


async def at_move_on_after(probe: Probe) -> None:
    with anyio.move_on_after(3600):
        await anyio.sleep(3600)


async def at_asyncio_timeout(probe: Probe) -> None:
    async with asyncio.timeout(3600):
        await asyncio.sleep(3600)


async def at_wait_for(probe: Probe) -> None:
    await asyncio.wait_for(asyncio.sleep(3600), 3600)


async def at_gather(probe: Probe) -> None:
    await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(3600))


async def at_asyncio_wait(probe: Probe) -> None:
    child = asyncio.ensure_future(asyncio.sleep(3600))
    try:
        await asyncio.wait([child])
    finally:
        child.cancel()


async def at_asyncio_task_group(probe: Probe) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(3600))


async def in_asyncio_task_group(probe: Probe) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(3600))
        await asyncio.sleep(3600)


async def in_task_group(probe: Probe) -> None:
    probe.most = 2  # the group's own level meets its host while it waits for the child
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 3600)
        await anyio.sleep(3600)


async def at_task_group_of_task_groups(probe: Probe) -> None:
    async def parts() -> None:
        async with anyio.create_task_group() as inner:  # cancelled with its host, whose cancellation is the outer one's
            inner.start_soon(anyio.sleep, 3600)
            await anyio.sleep(3600)

    async with anyio.create_task_group() as group:  # one child, which ends when the stop comes
        group.start_soon(parts)


async def at_task(probe: Probe) -> None:
    await asyncio.ensure_future(asyncio.sleep(3600))


async def at_shield(probe: Probe) -> None:
    inner = asyncio.ensure_future(asyncio.sleep(3600))
    try:
        await asyncio.shield(inner)
    finally:
        assert not inner.cancelled()
        inner.cancel()


async def at_future(probe: Probe) -> None:
    await asyncio.get_running_loop().create_future()


async def numbers() -> AsyncIterator[int]:
    try:
        while True:
            await anyio.sleep(3600)
            yield 1
    finally:
        await anyio.sleep(0.001)


async def at_async_generator(probe: Probe) -> None:
    async for _ in numbers():
        pass


async def at_aclosing(probe: Probe) -> None:
    async with contextlib.aclosing(numbers()) as made:  # type: ignore[type-var]
        await anext(made)


async def yields_then_hangs() -> AsyncIterator[int]:
    try:
        yield 1
    finally:
        await anyio.sleep(3600)


async def in_aclose(probe: Probe) -> None:
    made = yields_then_hangs()
    await anext(made)
    await made.aclose()  # type: ignore[attr-defined]


async def in_athrow(probe: Probe) -> None:
    made = yields_then_hangs()
    await anext(made)
    await made.athrow(OSError("own"))  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def resource() -> AsyncIterator[None]:
    try:
        yield
    finally:
        await cleans_up()


async def in_context_manager(probe: Probe) -> None:
    async with resource():
        await anyio.sleep(3600)


async def at_exit_of_context_manager(probe: Probe) -> None:
    async with contextlib.asynccontextmanager(yields_then_hangs)():
        pass


async def at_anyio_process(probe: Probe) -> None:
    await anyio.run_process(["sleep", "100"])


async def at_shell(probe: Probe) -> None:
    assert probe.ctx is not None
    await shell.run(probe.ctx, shell="sleep 100")


async def at_ever_new_sleeps(probe: Probe) -> None:
    for _ in range(10**6):
        await anyio.sleep(0.0005)


WAITS = [
    at_sleep,
    at_asyncio_sleep,
    at_receive,
    at_send,
    at_queue,
    at_lock,
    at_semaphore,
    at_limiter,
    at_condition,
    at_event,
    at_fail_after,
    at_move_on_after,
    at_asyncio_timeout,
    at_wait_for,
    at_gather,
    at_asyncio_wait,
    at_asyncio_task_group,
    in_asyncio_task_group,
    in_task_group,
    at_task_group_of_task_groups,
    at_task,
    at_shield,
    at_future,
    at_async_generator,
    at_aclosing,
    in_aclose,
    in_athrow,
    in_context_manager,
    at_exit_of_context_manager,
    at_ever_new_sleeps,
]
PROCESSES = [at_anyio_process, at_shell]
EVERY_WAIT = pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)


@ALONE_OR_BESIDE
@EVERY_WAIT
async def test_stop_of_one_that_waits(tmp_path: Path, wait: Any, beside: bool) -> None:
    async with watching(tmp_path, Probe(wait), beside) as world:
        run = await begun(world.kit, 1 + beside)
        world.kit.stop(run, Stop.CANCEL)
        await world.assert_stopped(run)


@pytest.mark.parametrize("wait", PROCESSES, ids=lambda wait: wait.__name__)
async def test_stop_of_one_that_waits_for_a_process(tmp_path: Path, wait: Any) -> None:
    async with watching(tmp_path, Probe(wait)) as world:
        run = await world.kit.begin_run("t")
        await until(lambda: world.kit.loop.flight.is_any())
        world.kit.stop(run, Stop.CANCEL, grace=0.2)  # anyio's own kills at the pulse only
        record = await world.kit.ended(run)
        assert (record.state, world.probe.log) == ("cancelled", ["clean"])
        assert not running_of(run.cid)


@ALONE_OR_BESIDE
@EVERY_WAIT
async def test_stop_in_the_turn_in_which_the_wait_before_was_over(tmp_path: Path, wait: Any, beside: bool) -> None:
    async def gate_first(probe: Probe) -> None:
        await probe.gate.wait()
        await wait(probe)

    async with watching(tmp_path, Probe(gate_first), beside) as world:
        run = await begun(world.kit, 1 + beside)
        world.probe.gate.set()
        world.kit.stop(run, Stop.CANCEL)
        await world.assert_stopped(run)


@ALONE_OR_BESIDE
@EVERY_WAIT
async def test_stop_by_the_running_action_itself(tmp_path: Path, wait: Any, beside: bool) -> None:
    async def stops_itself(probe: Probe) -> None:
        await probe.gate.wait()
        world.kit.stop(run, Stop.CANCEL)
        await wait(probe)

    async with watching(tmp_path, Probe(stops_itself), beside) as world:
        run = await begun(world.kit, 1 + beside)
        world.probe.gate.set()
        await world.assert_stopped(run)


@ALONE_OR_BESIDE
@EVERY_WAIT
async def test_stop_in_a_shield_of_the_actions_own(tmp_path: Path, wait: Any, beside: bool) -> None:
    async def shielded_first(probe: Probe) -> None:
        with anyio.CancelScope(shield=True):
            await probe.gate.wait()
            await cleans_up()
        await wait(probe)

    async with watching(tmp_path, Probe(shielded_first), beside) as world:
        run = await begun(world.kit, 1 + beside)
        world.kit.stop(run, Stop.CANCEL)
        await quiet()
        assert (world.probe.log, world.probe.delivered.count) == ([], 0)
        world.probe.gate.set()
        await world.assert_stopped(run)


@ALONE_OR_BESIDE
@EVERY_WAIT
async def test_stop_in_a_clean_up_that_the_action_does_for_itself(tmp_path: Path, wait: Any, beside: bool) -> None:
    async def failing(probe: Probe) -> None:
        try:
            raise OSError("own")
        except OSError:
            await wait(probe)

    async with watching(tmp_path, Probe(failing), beside) as world:
        run = await begun(world.kit, 1 + beside)
        world.kit.stop(run, Stop.CANCEL)
        await world.assert_stopped(run)


async def test_stop_before_a_parallel_attempt_begins(tmp_path: Path) -> None:
    log: list[str] = []
    made = task("t", *(step(name, noting(log, name)) for name in ("a", "b")), step("c", noting(log, "c"), ("a",)))
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.live and kit.stop(run, Stop.CANCEL))  # asked between two turns, before they begin
        assert ((await kit.ended(run)).state, log) == ("cancelled", [])
        assert set(kit.backend.execute("SELECT state, starts FROM step").fetchall()) == {("cancelled", 0)}


async def test_action_that_swallows_in_asyncios_way_gets_no_second_edge(tmp_path: Path) -> None:
    async def swallows_politely(probe: Probe) -> None:
        with anyio.CancelScope(shield=True):
            await probe.gate.wait()
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            assert current is not None
            while current.cancelling():
                current.uncancel()
        await anyio.sleep(1)

    async def act(ctx: Context) -> None:
        probe.delivered = Delivered(swallows_politely(probe))
        await probe.delivered

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        probe = Probe(swallows_politely)
        probe.delivered.close()
        run = await begun(kit)
        kit.stop(run, Stop.CANCEL)
        probe.gate.set()
        assert ((await kit.ended(run)).state, probe.delivered.count) == ("succeeded", 1)


# -- what a stop does to those that the action has started itself


async def test_children_of_a_task_group_get_the_level_and_its_host_the_edge(tmp_path: Path) -> None:
    hits: list[int] = []

    async def child() -> None:
        while True:
            try:
                await anyio.sleep(3600)
            except asyncio.CancelledError:
                hits.append(1)
                if len(hits) == 5:
                    raise

    async def host(probe: Probe) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            group.start_soon(anyio.sleep, 3600)

    async with watching(tmp_path, Probe(host)) as world:
        run = await begun(world.kit)
        world.kit.stop(run, Stop.CANCEL)
        await world.assert_stopped(run)
        assert len(hits) == 5


async def helper(ended: list[str]) -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        await cleans_up()
        ended.append("clean")


async def one(helpers: list[asyncio.Task[None]]) -> None:
    await helpers[0]


async def gathered(helpers: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*helpers)


async def with_a_bound(helpers: list[asyncio.Task[None]]) -> None:
    await asyncio.wait_for(helpers[0], 3600)


@pytest.mark.parametrize("join", [one, gathered, with_a_bound], ids=lambda join: join.__name__)
@pytest.mark.parametrize("moment", ["waiting", "waiter done", "running", "in a shield", "in a thread"])
async def test_those_that_an_action_awaits_are_cancelled_once_and_clean_up_whole(
    tmp_path: Path, join: Any, moment: str
) -> None:
    ended: list[str] = []

    async def act(probe: Probe) -> None:
        helpers = [asyncio.ensure_future(helper(ended)) for _ in range(1 + (join is gathered))]
        if moment == "in a thread":
            await to_thread.run_sync(probe.thread.wait)
        elif moment != "waiting":
            with anyio.CancelScope(shield=moment == "in a shield"):
                await probe.gate.wait()
        if moment == "running":
            world.kit.stop(run, Stop.CANCEL)
        try:
            await join(helpers)
        finally:
            assert ended == ["clean"] * len(helpers)

    async with watching(tmp_path, Probe(act)) as world:
        run = await begun(world.kit)
        if moment != "running":
            world.kit.stop(run, Stop.CANCEL)
        world.probe.gate.set()
        world.probe.thread.open()
        await world.assert_stopped(run)


async def test_thread_of_an_action_is_waited_for_and_then_the_edge_comes(tmp_path: Path) -> None:
    async def in_thread(probe: Probe) -> None:
        await to_thread.run_sync(probe.thread.wait)
        await anyio.sleep(3600)

    async with watching(tmp_path, Probe(in_thread)) as world:
        run = await world.kit.begin_run("t")
        await until(lambda: world.probe.thread.waiting)
        world.kit.stop(run, Stop.CANCEL)
        await quiet()
        assert world.probe.delivered.count == 0
        world.probe.thread.open()
        await world.assert_stopped(run)


async def test_what_an_action_shields_from_asyncio_goes_on(tmp_path: Path) -> None:
    log: list[str] = []

    async def kept() -> None:
        await anyio.sleep(1)
        log.append("kept")

    async def act() -> None:
        await asyncio.shield(asyncio.ensure_future(kept()))

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.CANCEL)
        assert ((await kit.ended(run)).state, log) == ("cancelled", [])
        await kit.advance(2)
        assert log == ["kept"]


# -- a cancellation of the action's own, at the time of the stop


async def times_out_anyio(seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await anyio.sleep(3600)


async def times_out_anyio_loudly(seconds: float) -> None:
    with contextlib.suppress(TimeoutError), anyio.fail_after(seconds):
        await anyio.sleep(3600)


async def times_out_asyncio(seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.sleep(3600)


async def times_out_wait_for(seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(3600), seconds)


async def times_out_and_cleans_up(seconds: float) -> None:
    with anyio.move_on_after(seconds):
        try:
            await anyio.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                await cleans_up()


async def ends_its_own_group(seconds: float) -> None:
    async with anyio.create_task_group() as group:
        asyncio.get_running_loop().call_later(seconds, group.cancel_scope.cancel)
        group.start_soon(anyio.sleep, 3600)


async def ends_a_helper(seconds: float) -> None:
    helper = asyncio.ensure_future(asyncio.sleep(3600))
    asyncio.get_running_loop().call_later(seconds, helper.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await helper


OWN = [
    times_out_anyio,
    times_out_anyio_loudly,
    times_out_asyncio,
    times_out_wait_for,
    times_out_and_cleans_up,
    ends_its_own_group,
]


@ALONE_OR_BESIDE
@pytest.mark.parametrize("own", OWN, ids=lambda own: own.__name__)
@pytest.mark.parametrize("shift", [-1e-9, 1e-9], ids=["stop first", "own first"])
async def test_own_cancellation_in_the_turn_of_the_stop_does_not_use_up_the_edge(
    tmp_path: Path, own: Any, shift: float, beside: bool
) -> None:
    async def act(probe: Probe) -> None:
        await own(1)
        await anyio.sleep(3600)

    async with watching(tmp_path, Probe(act), beside) as world:
        run = await begun(world.kit, 1 + beside)
        virtual_loop().call_at(START + 1 + shift, world.kit.stop, run, Stop.CANCEL)
        await until(lambda: run.stop)
        await world.assert_stopped(run, most=2)


@pytest.mark.parametrize("own", [*OWN, ends_a_helper], ids=lambda own: own.__name__)
async def test_own_cancellation_in_a_shield_does_not_use_up_the_edge(tmp_path: Path, own: Any) -> None:
    async def act(probe: Probe) -> None:
        with anyio.CancelScope(shield=True):
            await own(1)
        await anyio.sleep(3600)

    async with watching(tmp_path, Probe(act)) as world:
        run = await begun(world.kit)
        world.kit.stop(run, Stop.CANCEL)
        await world.kit.ended(run)
        assert world.probe.log == ["clean"]
        assert START + 1 <= world.kit.loop.time() < START + 1.1


async def test_own_timeout_while_the_clean_up_runs_does_not_use_up_the_edge(tmp_path: Path) -> None:
    async def act(probe: Probe) -> None:
        while True:
            with anyio.move_on_after(1):
                try:
                    await anyio.sleep(3600)
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(1)

    async with watching(tmp_path, Probe(act)) as world:
        run = await begun(world.kit)
        await world.kit.advance(0.9)
        world.kit.stop(run, Stop.CANCEL)
        record = await world.kit.ended(run)
        assert (record.state, world.probe.log, world.probe.delivered.count) == ("cancelled", ["clean"], 1)
        assert world.kit.loop.time() < START + 2.1
