"""Virtual time: jumps, what holds the clock, quiet moments, conditions, deadlocks."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import from_thread, to_thread
from hypothesis import given
from hypothesis import strategies as st

from aura.eventloop import StayingLoop, is_alone
from aura.loading.importing import call_abandonable
from aura.processes import leftovers
from aura.testing import holding
from aura.testing.lives import Life
from aura.testing.sweeping.following import HeldWhile
from aura.testing.virtual_time import START, Deadlock, NotReached, ThreadGate, VirtualClock, VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def loop() -> VirtualLoop:
    running = asyncio.get_running_loop()
    assert isinstance(running, VirtualLoop)
    return running


def since_start() -> float:
    return round(loop().time() - START, 6)


def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run on a loop of its own, outside of any plugin."""
    virtual = VirtualLoop()
    try:
        return virtual.run_until_complete(main())
    finally:
        virtual.close()


async def test_loop_is_alone_while_nobody_but_who_asks_would_come_up() -> None:
    assert is_alone(loop())
    loop().call_later(1.0, bool)
    assert is_alone(loop())  # that comes up when time passes
    loop().call_soon(bool)
    assert not is_alone(loop())
    await asyncio.sleep(0)
    assert is_alone(loop())


def test_loop_in_real_time_never_says_that_it_is_alone() -> None:
    with asyncio.Runner(loop_factory=StayingLoop) as runner:
        assert not is_alone(runner.get_loop())


# -- jumping


async def test_year_passes_in_no_time() -> None:
    began = time.monotonic()
    await anyio.sleep(365 * 86_400)
    assert since_start() == 365 * 86_400
    assert time.monotonic() - began < 5


async def test_wall_clock_goes_with_it() -> None:
    clock = VirtualClock(0.0)
    before = (clock.wall(), clock.monotonic())
    await anyio.sleep(90)
    assert (clock.wall() - before[0], clock.monotonic() - before[1]) == (90.0, 90.0)
    assert clock.wall() == 90.0


@given(st.lists(st.integers(min_value=0, max_value=10**11), min_size=1, max_size=30))
def test_timers_fire_in_their_order_at_their_time(milliseconds: list[int]) -> None:
    delays = [number / 1000 for number in milliseconds]

    fired: list[tuple[float, float]] = []

    def note(delay: float) -> None:
        fired.append((delay, since_start()))

    async def main() -> None:
        for delay in delays:
            loop().call_later(delay, note, delay)
        await anyio.sleep(max(delays) + 1)

    run(main)
    assert [delay for delay, _ in fired] == sorted(delays)
    assert all(at == pytest.approx(delay, abs=1e-5) for delay, at in fired)


async def test_timer_that_is_due_comes_beside_what_goes_on() -> None:
    came = asyncio.Event()
    asyncio.get_running_loop().call_later(0, came.set)
    for _ in range(3):
        await asyncio.sleep(0)
    assert came.is_set()


@pytest.mark.parametrize("turns", [1, 10])
async def test_input_is_taken_beside_what_goes_on(turns: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        read = asyncio.ensure_future(loop().sock_recv(ours, 1))
        for _ in range(turns):
            await asyncio.sleep(0)  # from the first one on it listens
        theirs.send(b"x")
        for _ in range(3):
            await asyncio.sleep(0)
        assert read.done()


async def test_connections_may_be_opened_beside_processes() -> None:
    await (await asyncio.create_subprocess_exec("true")).wait()
    ours, theirs = socket.socketpair()
    with theirs:
        reader, writer = await asyncio.open_connection(sock=ours)
        theirs.send(b"x")
        assert await reader.read(1) == b"x"
        writer.close()
        await writer.wait_closed()


async def test_timeouts_of_anyio_and_asyncio_are_exact() -> None:
    with anyio.move_on_after(3600):
        await anyio.sleep_forever()
    assert since_start() == 3600
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(50), 20)
    assert since_start() == 3620


# -- what holds the clock


def slow_thread() -> str:
    time.sleep(0.05)
    return "answer"


async def in_a_worker_thread() -> object:
    return await to_thread.run_sync(slow_thread)


async def in_an_executor() -> object:
    return await asyncio.to_thread(slow_thread)


async def in_a_process_of_asyncio() -> object:
    code = "import time; time.sleep(0.05); print('answer', end='')"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    return out.decode()


async def in_a_process_of_anyio() -> object:
    done = await anyio.run_process(["sh", "-c", "sleep 0.05; printf answer"])
    return done.stdout.decode()


@pytest.mark.parametrize(
    "work",
    [in_a_worker_thread, in_an_executor, in_a_process_of_asyncio, in_a_process_of_anyio],
    ids=lambda f: f.__name__,
)
async def test_work_in_flight_is_overtaken_by_no_timer(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    with anyio.fail_after(0.001):
        assert await work() == "answer"
    assert since_start() == 0


async def test_executor_that_is_shut_down_holds_nothing() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        loop().run_in_executor(executor, int)
    assert not loop().flight.is_any()


async def test_thread_that_waits_for_the_loop_holds_nothing() -> None:
    def ask() -> None:
        from_thread.run(anyio.sleep, 3600)

    await to_thread.run_sync(ask)
    assert since_start() == 3600


async def test_thread_at_a_gate_holds_nothing_until_it_is_opened() -> None:
    gate = ThreadGate()

    def wait_there() -> None:
        gate.wait()
        time.sleep(0.05)  # in flight again

    async with anyio.create_task_group() as group:
        group.start_soon(to_thread.run_sync, wait_there)
        await loop().wait_until(lambda: gate.waiting)
        await anyio.sleep(60)
        gate.open()
        with anyio.CancelScope() as scope:
            loop().call_later(1, scope.cancel)
            await loop().wait_quiet()
        assert since_start() == 60


async def test_work_that_says_nothing_lets_time_go_on_with_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "PATIENCE", 0.02)
    hanging = threading.Event()
    began = time.monotonic()
    async with anyio.create_task_group() as group:
        group.start_soon(to_thread.run_sync, hanging.wait, 20)
        await anyio.sleep(0.1)
        assert time.monotonic() - began >= 0.1  # no faster than real time
        hanging.set()


async def test_terminal_is_told_who_holds_the_time(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(holding, "PATIENCE", 0.02)
    monkeypatch.setattr(holding, "TOLD_AFTER", 0.05)
    hanging = threading.Event()

    def computes() -> None:
        hanging.wait(20)

    async with anyio.create_task_group() as group:
        group.start_soon(to_thread.run_sync, computes)
        await anyio.sleep(0.3)
        hanging.set()
    said = capfd.readouterr().err
    assert "time has stood still for 0.05 s" in said
    assert said.count("test_virtual_time.py:") == 1
    assert "computes" in said


async def test_work_that_goes_on_talking_lets_time_go_on_with_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "ENDURANCE", 0.05)
    told = threading.Event()

    def talks() -> None:
        while not told.wait(0.001):
            from_thread.run_sync(bool)

    async with anyio.create_task_group() as group:
        group.start_soon(to_thread.run_sync, talks)
        await anyio.sleep(0.1)  # its time-out, as it were
        told.set()


async def works_in_threads(pieces: int) -> None:
    for _ in range(pieces):
        await to_thread.run_sync(time.sleep, 0.02)


async def works_in_an_executor(pieces: int) -> None:
    for _ in range(pieces):
        await asyncio.to_thread(time.sleep, 0.02)


async def works_in_processes(pieces: int) -> None:
    for _ in range(pieces):
        process = await asyncio.create_subprocess_exec("sleep", "0.02")
        await process.wait()


CHAINS = [works_in_threads, works_in_an_executor, works_in_processes]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda f: f.__name__)
async def test_pieces_of_work_each_of_which_ends_hold_the_time_however_many(
    chain: Callable[[int], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "ENDURANCE", 0.5)
    began = loop().time()
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 1)
        working = loop().create_task(chain(50))
        await loop().wait_quiet()
        assert working.done()
        assert loop().time() == began


@pytest.mark.parametrize("chain", CHAINS[:2], ids=lambda f: f.__name__)
async def test_pieces_of_work_without_an_end_let_time_go_on_with_real_time(
    chain: Callable[[int], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "LONGEST_HOLD", 0.05)
    with anyio.move_on_after(0.1) as scope:  # its time-out, as it were
        await chain(10**6)
    assert scope.cancelled_caught


async def test_quiet_comes_beside_work_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "PATIENCE", 0.02)
    hanging = threading.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(to_thread.run_sync, hanging.wait, 20)
        await loop().wait_quiet()
        assert not hanging.is_set()
        hanging.set()


def test_import_that_was_given_up_holds_no_time_on_this_loop_or_a_later_one() -> None:
    hanging = threading.Event()

    async def given_up() -> Any:
        return await call_abandonable(lambda: hanging.wait(60), 0.01, "aura import of lab")

    async def real_seconds() -> float:
        began = time.monotonic()
        await anyio.sleep(20)
        return time.monotonic() - began

    async def both() -> float:
        assert (await given_up()).error is not None
        return await real_seconds()

    assert run(both) < 10
    assert run(real_seconds) < 10
    hanging.set()


# -- quiet moments and conditions


async def test_quiet_is_after_all_that_can_happen_and_before_any_time() -> None:
    log: list[str] = []

    async def long() -> None:
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        log.append("ready")
        await anyio.sleep(0.000_1)
        log.append("later")

    async with anyio.create_task_group() as group:
        group.start_soon(long)
        await loop().wait_quiet()
        assert (log, since_start()) == (["ready"], 0)


async def test_condition_is_met_where_it_holds_for_a_turn_alone() -> None:
    state = ["before"]

    async def flash() -> None:
        await anyio.sleep(5)
        state[0] = "now"
        await anyio.lowlevel.checkpoint()
        state[0] = "after"

    async with anyio.create_task_group() as group:
        group.start_soon(flash)
        await loop().wait_until(lambda: state[0] == "now")
        assert since_start() == 5


async def test_condition_that_raises_raises_where_it_is_waited_for() -> None:
    looks: list[int] = []

    def broken() -> bool:
        looks.append(1)
        if len(looks) > 1:
            raise KeyError("no")
        return False

    with pytest.raises(KeyError):
        await loop().wait_until(broken)


async def test_condition_that_never_holds_beside_a_ticking_timer_is_given_up() -> None:
    async def tick() -> None:
        for _ in range(1000):
            await anyio.sleep(1)

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        with pytest.raises(NotReached):
            await loop().wait_until(lambda: False, limit=100)
        assert since_start() == 101
        group.cancel_scope.cancel()


# -- deadlocks


async def test_deadlock_is_raised_where_a_condition_is_waited_for_and_names_the_waits() -> None:
    async def sits_here() -> None:
        await anyio.Event().wait()

    async with anyio.create_task_group() as group:
        group.start_soon(sits_here, name="the one who sits")
        with pytest.raises(Deadlock) as found:
            await loop().wait_until(lambda: False)
        line = next(line for line in str(found.value).splitlines() if "the one who sits" in line)
        assert "test_virtual_time.py:" in line
        assert line.endswith("sits_here")
        group.cancel_scope.cancel()


async def test_sleep_for_ever_is_no_timer_and_keeps_no_deadlock_from_being_seen() -> None:
    async with anyio.create_task_group() as group:  # the one who sleeps, until the scope is cancelled
        group.start_soon(asyncio.sleep, float("inf"))
        with pytest.raises(Deadlock):
            await loop().wait_until(lambda: False, 1e6)
        group.cancel_scope.cancel()
    assert since_start() == 0


async def test_deadlock_is_told_to_whoever_registered_last() -> None:
    told: list[str] = []
    freed = anyio.Event()

    def tell(_: Deadlock) -> None:
        told.append("inner")
        freed.set()

    with loop().on_deadlock(lambda _: told.append("outer")), loop().on_deadlock(tell):
        await freed.wait()
    assert told == ["inner"]


def test_deadlock_that_nobody_registered_for_leaves_the_loop() -> None:
    virtual = VirtualLoop()
    waiting = virtual.create_task(asyncio.Event().wait())
    with pytest.raises(Deadlock):
        virtual.run_until_complete(waiting)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        virtual.run_until_complete(waiting)
    virtual.close()


async def test_life_may_freeze_whoever_is_to_be_called_in_the_same_turn() -> None:
    life = Life(1)
    freezing = loop().create_task(_freeze(life))  # made first, so that it has its turn before the others
    others = [loop().create_task(_spin(), context=life.context.copy()) for _ in range(5)]
    await freezing
    assert since_start() == 60
    loop().thaw(life)
    for other in others:
        other.cancel()
    await asyncio.wait(others)


async def test_timer_that_was_due_while_its_life_was_frozen_comes_beside_what_goes_on() -> None:
    life, came = Life(1), asyncio.Event()
    loop().call_later(1, came.set, context=life.context)
    loop().freeze(life)
    await asyncio.sleep(60)
    loop().thaw(life)
    for _ in range(3):
        await asyncio.sleep(0)
    assert came.is_set()


async def _freeze(life: Life) -> None:
    await asyncio.sleep(0)
    loop().freeze(life)
    await asyncio.sleep(60)


async def _spin() -> None:
    while True:  # noqa: ASYNC110 - it waits for nothing, and always has something to do
        await asyncio.sleep(0)


async def polls_in_a_worker_thread(begun: threading.Event, told: threading.Event) -> None:
    def polls() -> None:
        begun.set()
        told.wait(60)

    await to_thread.run_sync(polls)


async def polls_in_an_executor(begun: threading.Event, told: threading.Event) -> None:
    begun.set()
    await asyncio.to_thread(told.wait, 60)


async def asks_in_a_worker_thread(begun: threading.Event, told: threading.Event) -> None:
    def asks() -> None:
        begun.set()
        told.wait(0.05)
        from_thread.run_sync(bool)  # nobody answers before the life goes on

    await to_thread.run_sync(asks)


async def is_answered_as_it_freezes(begun: threading.Event, told: threading.Event) -> None:
    async def answer() -> None:
        begun.set()

    await to_thread.run_sync(from_thread.run, answer)


async def starts_a_process(begun: threading.Event, told: threading.Event) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    begun.set()
    try:
        await asyncio.sleep(3600)
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(
    "work",
    [
        polls_in_a_worker_thread,
        polls_in_an_executor,
        asks_in_a_worker_thread,
        is_answered_as_it_freezes,
        starts_a_process,
    ],
    ids=lambda f: f.__name__,
)
async def test_work_of_a_frozen_life_holds_nothing(
    work: Callable[[threading.Event, threading.Event], Coroutine[Any, Any, None]],
) -> None:
    begun, told = threading.Event(), threading.Event()
    life = Life(1)
    working = loop().create_task(work(begun, told), context=life.context.copy())
    await loop().wait_until(begun.is_set)
    loop().freeze(life)
    began = time.monotonic()
    await anyio.sleep(20)
    assert time.monotonic() - began < 10
    told.set()
    loop().thaw(life)
    working.cancel()
    await asyncio.wait([working])


async def test_child_of_a_frozen_life_that_is_held_with_its_answer_hides_no_other_work() -> None:
    """A sweep holds the child that a crash freezes, when its thread may have answered."""
    gate, held = loop().create_future(), list[asyncio.Future[None]]()
    held_child = HeldWhile(lambda: held[0] if held else None, to_thread.run_sync(lambda: held.append(gate)))
    life = Life(1)
    child = loop().create_task(held_child, context=life.context.copy())
    await loop().wait_until(lambda: held and not loop().flight.is_any())
    loop().freeze(life)
    with anyio.fail_after(0.001):
        assert await in_a_worker_thread() == "answer"
    loop().thaw(life)
    gate.set_result(None)
    await child


def test_process_that_an_earlier_loop_has_left_holds_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "awaited", {2**22 + 1})
    began = time.monotonic()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(anyio.sleep(20))
    assert time.monotonic() - began < 10
