"""Strays: whatever an action raises, gives back or leaves behind becomes a value, and nobody else notices."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.engine.kit import Opened, opened, step, task, until, virtual_loop
from tests.fakes.kernel import begun, noting, works

from aura.lifecycle import Stop
from aura.run import RunRecord

#: In the run's own child, or in a child of its own beside another step.
PARALLEL = pytest.mark.parametrize("parallel", [False, True], ids=["in the run's child", "in a child of its own"])


async def lives(kit: Opened, records: int = 1) -> None:
    """The server still works, had no fault, and has one record for each run."""
    assert (await kit.run("other")).state == "succeeded"
    assert not kit.engine.runtime.faults
    rows = kit.backend.execute("SELECT count(*), count(DISTINCT cid), sum(finished_at IS NOT NULL) FROM run")
    assert rows.fetchone() == (records + 1,) * 3


@contextlib.asynccontextmanager
async def world_of(folder: Path, *steps: Any, **keys: Any) -> AsyncIterator[Opened]:
    """A world with task t of these steps, and another task."""
    async with opened(folder, task("t", *steps, **keys), task("other", step("o", works))) as kit:
        yield kit


async def failed(kit: Opened) -> RunRecord:
    record = await kit.record("t")
    await lives(kit)
    assert (record.state, record.stop, record.error is not None) == ("failed", None, True)
    return record


# -- raised


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Faceless(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no face")

    __str__ = __repr__


class Endless(Exception):
    def __str__(self) -> str:
        return str(self)


class Liar(Exception):
    def __str__(self) -> Any:
        return 7


class Huge(Exception):
    def __str__(self) -> str:
        return "x" * 10_000_000


class Quits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Masked(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("no class")


class NoDict(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


def its_own_cause() -> Exception:
    error, other = ValueError("ring"), OSError("other")
    error.__cause__, other.__cause__ = other, error
    return error


def noted() -> Exception:
    error = ValueError("noted")
    error.__notes__ = 7  # type: ignore[assignment]
    return error


def deep_group() -> BaseException:
    made: Exception = KeyError("k")
    for _ in range(50):
        made = ExceptionGroup("deep", [made])
    return made


RAISED: dict[str, tuple[Any, str]] = {
    "CancelledError": (asyncio.CancelledError, "stray_cancellation"),
    "anyio's CancelledError": (
        lambda: asyncio.CancelledError("Cancelled via cancel scope 7f0000000000"),
        "stray_cancellation",
    ),
    "SystemExit": (lambda: SystemExit(3), "SystemExit"),
    "KeyboardInterrupt": (KeyboardInterrupt, "KeyboardInterrupt"),
    "GeneratorExit": (GeneratorExit, "GeneratorExit"),
    "StopIteration": (lambda: StopIteration(1), "RuntimeError"),
    "StopAsyncIteration": (lambda: StopAsyncIteration(1), "StopAsyncIteration"),
    "no text": (Mute, "Mute"),
    "no repr": (Faceless, "Faceless"),
    "endless text": (Endless, "Endless"),
    "a text that is none": (Liar, "Liar"),
    "a huge text": (Huge, "Huge"),
    "a text that quits": (Quits, "Quits"),
    "no class": (Masked, "RuntimeError"),
    "no attributes": (NoDict, "RuntimeError"),
    "its own cause": (its_own_cause, "ValueError"),
    "notes that are none": (noted, "ValueError"),
    "BaseException": (lambda: BaseException("bare"), "BaseException"),
    "group": (lambda: ExceptionGroup("g", [ExceptionGroup("h", [KeyError("k")]), OSError("o")]), "KeyError"),
    "deep group": (deep_group, "KeyError"),
    "group of SystemExit": (lambda: BaseExceptionGroup("g", [SystemExit(1)]), "SystemExit"),
    "group with CancelledError": (
        lambda: BaseExceptionGroup("g", [asyncio.CancelledError(), BaseExceptionGroup("h", [OSError("o")])]),
        "OSError",
    ),
    "group of CancelledError alone": (
        lambda: BaseExceptionGroup("g", [asyncio.CancelledError(), asyncio.CancelledError()]),
        "stray_cancellation",
    ),
    "group with a mute one": (lambda: ExceptionGroup("g", [Mute()]), "Mute"),
}
EVERY_ERROR = pytest.mark.parametrize(("make", "kind"), RAISED.values(), ids=RAISED.keys())


@PARALLEL
@EVERY_ERROR
async def test_what_is_raised_fails_the_step(tmp_path: Path, make: Any, kind: str, parallel: bool) -> None:
    log: list[str] = []

    async def act() -> None:
        await anyio.lowlevel.checkpoint()
        raise make()

    beside = [step("c", works)] if parallel else []
    steps = [step("a", act), *beside, step("b", noting(log, "b"), ("a",))]
    async with world_of(tmp_path, *steps, finally_=[step("z", noting(log, "z"))]) as kit:
        record = await failed(kit)
        assert record.error is not None
        assert (record.error["type"], record.error["step"], log) == (kind, "a", ["z"])


@EVERY_ERROR
async def test_what_is_raised_in_a_thread_fails_the_step(tmp_path: Path, make: Any, kind: str) -> None:
    def act() -> None:
        raise make()

    async with world_of(tmp_path, step("a", act)) as kit:
        record = await failed(kit)
        assert record.error is not None
        assert record.error["type"] == kind


@PARALLEL
@pytest.mark.parametrize(
    ("make", "cleanup_error"),
    [
        (asyncio.CancelledError, None),
        (lambda: BaseExceptionGroup("g", [asyncio.CancelledError(), asyncio.CancelledError()]), None),
        (lambda: BaseExceptionGroup("g", [asyncio.CancelledError(), OSError("o")]), "OSError"),
        (lambda: SystemExit(3), "SystemExit"),
        (GeneratorExit, "GeneratorExit"),
        (lambda: StopIteration(1), "RuntimeError"),
        (Mute, "Mute"),
        (Masked, "RuntimeError"),
    ],
    ids=["cancel", "group of cancels", "group", "SystemExit", "GeneratorExit", "StopIteration", "mute", "no class"],
)
async def test_what_is_raised_after_the_edge_is_a_stop(
    tmp_path: Path, make: Any, cleanup_error: str | None, parallel: bool
) -> None:
    async def act() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            raise make()

    beside = [step("c", works)] if parallel else []
    async with world_of(tmp_path, step("a", act), *beside) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert (record.state, record.error) == ("cancelled", None)
        assert (record.cleanup_error and record.cleanup_error["type"]) == cleanup_error
        await lives(kit)


class RaisesAtExit:
    """A context manager whose exit fails, before or after an await."""

    def __init__(self, awaits: bool) -> None:
        self.awaits = awaits

    async def __aenter__(self) -> None:
        return

    async def __aexit__(self, *_: object) -> None:
        if self.awaits:
            await anyio.sleep(0.01)
        raise OSError("does not close")


@pytest.mark.parametrize("awaits", [False, True], ids=["at once", "after an await"])
@pytest.mark.parametrize("stopped", [False, True], ids=["by itself", "stopped"])
async def test_exit_that_fails(tmp_path: Path, awaits: bool, stopped: bool) -> None:
    async def act() -> None:
        async with RaisesAtExit(awaits):
            if stopped:
                await anyio.sleep(3600)

    async with world_of(tmp_path, step("a", act)) as kit:
        run = await kit.begin_run("t")
        if stopped:
            await until(lambda: run.live and run.live["a"].edge._task)
            kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        error = record.cleanup_error if stopped else record.error
        assert error is not None
        assert (record.state, error["message"]) == ("cancelled" if stopped else "failed", "does not close")
        await lives(kit)


# -- cancelled by somebody else


async def awaits_what_a_stranger_cancels() -> None:
    other = asyncio.ensure_future(asyncio.sleep(3600))
    asyncio.get_running_loop().call_soon(other.cancel)
    await other


async def cancels_its_own_child() -> None:
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    await anyio.sleep(3600)


async def awaits_a_cancelled_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel("enough")
    await future


@PARALLEL
@pytest.mark.parametrize(
    "stray",
    [awaits_what_a_stranger_cancels, cancels_its_own_child, awaits_a_cancelled_future],
    ids=lambda f: f.__name__,
)
async def test_cancellation_that_is_not_ours_is_a_failure_of_the_step(
    tmp_path: Path, stray: Any, parallel: bool
) -> None:
    log: list[str] = []
    beside = [step("c", works)] if parallel else []
    async with world_of(tmp_path, step("a", stray), *beside, step("b", noting(log, "b"), ("a",))) as kit:
        record = await failed(kit)
        assert record.error is not None
        assert (record.error["type"], log) == ("stray_cancellation", [])


@PARALLEL
async def test_cancel_that_a_stranger_left_behind_does_not_meet_the_next_step(tmp_path: Path, parallel: bool) -> None:
    log: list[str] = []

    async def act() -> None:
        current = asyncio.current_task()
        assert current is not None
        for _ in range(3):
            current.cancel()

    beside = [step("c", works)] if parallel else []
    async with world_of(tmp_path, step("a", act), *beside, step("b", noting(log, "b"), ("a",))) as kit:
        assert ((await kit.run("t")).state, log) == ("succeeded", ["b"])
        await lives(kit)


@pytest.mark.parametrize("first", ["stranger", "stop"])
async def test_strangers_cancel_in_the_turn_of_the_stop(tmp_path: Path, first: str) -> None:
    log: list[str] = []

    async def act() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            await anyio.sleep(0.001)
            log.append("clean")

    async with world_of(tmp_path, step("a", act), step("b", noting(log, "b"), ("a",))) as kit:
        run = await begun(kit)
        child = run.live["a"].edge._task
        assert child is not None
        deeds: list[Any] = [child.cancel, lambda: kit.stop(run, Stop.CANCEL)]
        for deed in deeds if first == "stranger" else reversed(deeds):
            deed()
        assert ((await kit.ended(run)).state, log) == ("cancelled", ["clean"])
        await lives(kit)


# -- given back


class Unshown:
    def __repr__(self) -> str:
        raise RuntimeError("no face")

    __str__ = __repr__


async def nothing() -> None:
    return


def counting() -> Iterator[int]:
    yield 1


async def counting_async() -> AsyncIterator[int]:
    yield 1


def holding_itself() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def deep_lists() -> list[Any]:
    made: list[Any] = []
    for _ in range(100_000):
        made = [made]
    return made


GIVEN: dict[str, Any] = {
    "a coroutine": nothing,
    "a generator": counting,
    "an async generator": counting_async,
    "a function": lambda: nothing,
    "a set": lambda: {1},
    "NaN": lambda: float("nan"),
    "an object without a face": Unshown,
    "an exception": lambda: OSError("o"),
    "a list that holds itself": holding_itself,
    "deep lists": deep_lists,
    "a lone surrogate": lambda: "\ud800",
    "a number too large": lambda: 10**5000,
    "a NUL key of a strange kind": lambda: {(1, 2): 3},
}


@pytest.mark.parametrize("threaded", [False, True], ids=["async def", "def"])
@pytest.mark.parametrize("make", GIVEN.values(), ids=GIVEN.keys())
@pytest.mark.filterwarnings("ignore:coroutine 'nothing' was never awaited:RuntimeWarning")
async def test_result_that_is_no_json_fails_the_step(tmp_path: Path, make: Any, threaded: bool) -> None:
    async def act() -> Any:
        return make()

    def act_in_thread() -> Any:
        return make()

    async with world_of(tmp_path, step("a", act_in_thread if threaded else act)) as kit:
        record = await failed(kit)
        assert record.error is not None
        assert (record.error["type"], record.error["step"]) == ("bad_output", "a")
    gc.collect()


# -- left behind


async def breaks_off_a_generator_with_a_scope() -> None:
    async def numbers() -> AsyncIterator[int]:
        with anyio.move_on_after(5):
            yield 1
            yield 2

    async for _ in numbers():
        break


async def enters_a_scope() -> None:
    anyio.CancelScope().__enter__()


async def enters_scopes_with_deadlines() -> None:
    for seconds in (1, 2):
        anyio.CancelScope(deadline=anyio.current_time() + seconds).__enter__()
    await anyio.sleep(0.5)


async def enters_a_cancelled_scope() -> None:
    scope = anyio.CancelScope()
    scope.__enter__()
    scope.cancel()


async def enters_a_shield() -> None:
    anyio.CancelScope(shield=True).__enter__()


async def enters_a_group() -> None:
    group = anyio.create_task_group()
    await group.__aenter__()
    group.start_soon(anyio.sleep, 3600)


LEFT = [
    breaks_off_a_generator_with_a_scope,
    enters_a_scope,
    enters_scopes_with_deadlines,
    enters_a_cancelled_scope,
    enters_a_shield,
    enters_a_group,
]


@PARALLEL
@pytest.mark.parametrize("leave", LEFT, ids=lambda leave: leave.__name__)
async def test_scope_that_is_left_open_fails_the_step_and_harms_nobody(
    tmp_path: Path, leave: Any, parallel: bool
) -> None:
    log: list[str] = []
    virtual_loop().set_exception_handler(lambda loop, context: None)  # what the generator's end says, in no run
    beside = [step("c", works)] if parallel else []
    finally_ = [step("z", noting(log, "z"))]
    async with world_of(tmp_path, step("a", leave), *beside, finally_=finally_) as kit:
        record = await failed(kit)
        assert record.error is not None
        assert "still open" in record.error["message"]
        await kit.advance(10)
        assert log == ["z"]


@PARALLEL
@pytest.mark.parametrize("leave", LEFT[1:], ids=lambda leave: leave.__name__)
async def test_scope_that_is_left_open_by_one_that_is_stopped(tmp_path: Path, leave: Any, parallel: bool) -> None:
    log: list[str] = []

    async def act() -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await leave()
            await anyio.sleep(3600)
        finally:
            log.append("clean")

    beside = [step("c", works)] if parallel else []
    async with world_of(tmp_path, step("a", act), *beside, cleanup_timeout=1) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert log == ["clean"]
        assert record.state in ("cancelled", "failed")
        await lives(kit)


async def test_children_of_a_group_that_is_left_open_are_cancelled(tmp_path: Path) -> None:
    log: list[str] = []

    async def child() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            log.append("cancelled")

    async def act() -> None:
        group = anyio.create_task_group()
        await group.__aenter__()
        group.start_soon(child)
        await anyio.lowlevel.checkpoint()

    async with world_of(tmp_path, step("a", act)) as kit:
        await failed(kit)
        assert log == ["cancelled"]


async def test_child_that_an_action_leaves_behind_is_nobodys(tmp_path: Path) -> None:
    log: list[str] = []

    async def orphan() -> None:
        await anyio.sleep(1)
        log.append("orphan")
        raise SystemError("nobody hears it")

    async def act() -> None:
        orphans.append(asyncio.ensure_future(orphan()))

    orphans: list[asyncio.Future[None]] = []
    async with world_of(tmp_path, step("a", act)) as kit:
        assert (await kit.run("t")).state == "succeeded"
        await kit.advance(2)
        assert log == ["orphan"]
        await lives(kit)
    assert isinstance(orphans[0].exception(), SystemError)


async def in_a_future(leave: Any) -> None:
    await asyncio.ensure_future(leave())


async def gathered(leave: Any) -> None:
    await asyncio.gather(leave(), asyncio.sleep(3600))


async def in_a_group(leave: Any) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(leave)


async def unawaited(leave: Any) -> None:
    left = asyncio.ensure_future(leave())
    await asyncio.wait([left])
    raise OSError(f"it left with {left.exception()!r}")


@pytest.mark.usefixtures("sigint_is_handled")
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt], ids=lambda error: error.__name__)
@pytest.mark.parametrize("start", [in_a_future, gathered, in_a_group, unawaited], ids=lambda start: start.__name__)
async def test_exit_of_a_child_that_an_action_started_ends_nothing_but_its_step(
    tmp_path: Path, start: Any, error: type[BaseException]
) -> None:
    async def leave() -> None:
        await anyio.lowlevel.checkpoint()
        raise error("by a child")

    async def act() -> None:
        await start(leave)

    async with world_of(tmp_path, step("a", act)) as kit:
        record = await failed(kit)
        assert record.error is not None
        assert record.error["type"] == ("OSError" if start is unawaited else error.__name__)


class Wordless:
    def __str__(self) -> str:
        raise ValueError("no text")


async def test_stranger_whose_message_has_no_text_does_not_break_the_edge(tmp_path: Path) -> None:
    log: list[str] = []

    async def act() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            await anyio.sleep(1)
            log.append("clean")

    async with world_of(tmp_path, step("a", act)) as kit:
        run = await begun(kit)
        child = run.live["a"].edge._task
        assert child is not None
        child.cancel(Wordless())
        kit.stop(run, Stop.CANCEL)
        assert ((await kit.ended(run)).state, log) == ("cancelled", ["clean"])
