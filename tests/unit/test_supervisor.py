"""The boundary round a service child: what counts as a failure, the pauses, the end, what the status says."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import anyio
import pytest

from aura.clock import SystemClock
from aura.engine.supervisor import Child, Supervisor
from aura.testing.virtual_time import VirtualLoop

FIRST, LONGEST = 1.0, 4.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The pauses are exact and take no time."""
    return "asyncio", {"loop_factory": VirtualLoop}


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Serving:
    """A child that plays a script: each call serves for some seconds, then raises, or returns if there is no error."""

    def __init__(self, *script: tuple[float, BaseException | None]) -> None:
        self.script = list(script)
        self.begun: list[float] = []

    async def __call__(self) -> None:
        self.begun.append(anyio.current_time())
        if not self.script:
            await anyio.sleep_forever()
        seconds, error = self.script.pop(0)
        await anyio.sleep(seconds)
        if error is not None:
            raise error

    def gaps(self) -> list[float]:
        """The seconds between one call's beginning and the next one's."""
        return [round(b - a, 3) for a, b in zip(self.begun, self.begun[1:], strict=False)]


def supervisor() -> Supervisor:
    return Supervisor(SystemClock(), first=FIRST, longest=LONGEST)


async def serve_for(
    seconds: float, made: Supervisor, serve: Callable[[], Awaitable[object]], longest: float = LONGEST
) -> Child:
    """Run a child for a while, then cancel it."""
    with anyio.move_on_after(seconds):
        await made.serve("x", serve, longest=longest)
    return made.children["x"]


async def stray() -> None:
    """Await something that somebody else has cancelled."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


def group_of(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("outer", [BaseExceptionGroup("inner", list(errors))])


# -- what is a failure


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        pytest.param(OSError("gone"), "OSError: gone", id="error"),
        pytest.param(group_of(OSError("a"), ValueError("b")), "OSError: a (and 1 more errors)", id="groups"),
        pytest.param(SystemExit(3), "SystemExit: 3", id="system-exit"),
        pytest.param(KeyboardInterrupt(), "KeyboardInterrupt: ", id="keyboard-interrupt"),
        pytest.param(group_of(SystemExit(3)), "SystemExit: 3", id="system-exit-in-groups"),
        pytest.param(GeneratorExit(), "GeneratorExit: ", id="generator-exit"),
        pytest.param(asyncio.CancelledError(), "CancelledError: ", id="cancelled-by-nobody"),
        pytest.param(Unspeakable(), "Unspeakable: <Unspeakable, whose text cannot be had: SystemExit>", id="no-text"),
    ],
)
async def test_every_error_of_a_child_is_caught_and_heals(error: BaseException, shown: str) -> None:
    serving = Serving((0, error))
    child = await serve_for(FIRST * 1.5, supervisor(), serving)
    assert (len(serving.begun), child.failures, child.last_error) == (2, 1, shown)


async def test_await_of_what_others_cancelled_is_a_failure() -> None:
    child = await serve_for(FIRST / 2, supervisor(), stray)
    assert (child.state, child.failures) == ("failed", 1)


async def test_return_without_being_told_is_a_failure() -> None:
    child = await serve_for(FIRST / 2, supervisor(), Serving((0, None)))
    assert child.state == "failed"
    assert str(child.last_error).startswith("InternalError: x ended without being told to")


@pytest.mark.parametrize("seconds", [FIRST / 2, FIRST * 1.5], ids=["in its pause", "while it serves"])
async def test_cancelled_scope_ends_the_child(seconds: float) -> None:
    with anyio.fail_after(LONGEST):
        child = await serve_for(seconds, supervisor(), Serving((0, OSError())))
    assert child.failures == 1


async def test_cancel_by_a_stranger_is_a_failure_and_heals() -> None:
    made = supervisor()
    async with anyio.create_task_group() as group:
        group.start_soon(made.serve, "x", Serving(), name="x")
        await anyio.sleep(1)
        for child in asyncio.all_tasks():
            if child.get_name() == "x":
                child.cancel()
        await anyio.sleep(LONGEST)
        assert (made.children["x"].state, made.children["x"].failures) == ("running", 1)
        group.cancel_scope.cancel()


async def test_error_while_it_is_cancelled_does_not_keep_it() -> None:
    async def serve() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("clean-up")

    with anyio.fail_after(LONGEST):
        child = await serve_for(1, supervisor(), serve)
    assert child.last_error == "OSError: clean-up"


# -- the pauses


async def test_pauses_double_up_to_the_longest() -> None:
    serving = Serving(*[(0, OSError())] * 5)
    await serve_for(100, supervisor(), serving)
    assert serving.gaps() == [1, 2, 4, 4, 4]


@pytest.mark.parametrize(
    ("served", "pauses"),
    [
        pytest.param(LONGEST - 0.5, [1, 2, 4, 4], id="not-long-enough"),
        pytest.param(LONGEST, [1, 2, 1, 2], id="well"),
    ],
)
async def test_child_that_served_well_begins_with_the_first_pause(served: float, pauses: list[float]) -> None:
    serving = Serving((0, OSError()), (0, OSError()), (served, OSError()), (0, OSError()))
    await serve_for(100, supervisor(), serving)
    gaps = serving.gaps()
    assert [*gaps[:2], gaps[2] - served, gaps[3]] == pauses


async def test_child_may_have_a_shorter_longest_pause() -> None:
    serving = Serving(*[(0, OSError())] * 3)
    await serve_for(100, supervisor(), serving, longest=1.5)
    assert serving.gaps() == [1, 1.5, 1.5]


async def test_child_that_is_told_in_its_pause_is_served_once_more_at_once() -> None:
    told = anyio.Event()
    serving = Serving((0, OSError()), (0, None))
    made = supervisor()
    async with anyio.create_task_group() as group:  # the child, which ends because it is told
        group.start_soon(made.serve, "x", serving, told)
        await anyio.sleep(FIRST / 4)
        told.set()
    assert (serving.gaps(), made.children["x"].state, made.reasons) == ([FIRST / 4], "stopped", [])


@pytest.mark.parametrize("when", ["before", "while"], ids=["told before", "told while it serves"])
async def test_child_that_was_told_and_fails_has_one_more_try_at_most(when: str) -> None:
    told = anyio.Event()
    serving = Serving((1, OSError("1")), (1, OSError("2")), (1, OSError("3")))
    made = supervisor()
    if when == "before":
        told.set()
    asyncio.get_running_loop().call_later(0.5, told.set)
    await made.serve("x", serving, told)
    assert serving.gaps() == ([] if when == "before" else [1])
    assert made.children["x"].state == "failed"
    assert made.reasons[0].startswith("x failed and is not served again: OSError: ")


async def test_told_child_may_return() -> None:
    told = anyio.Event()
    told.set()
    made = supervisor()
    await made.serve("x", Serving((1, None)), told)
    assert made.status() == {"x": {"state": "stopped", "failures": 0, "last_error": None}}


# -- what is said


async def test_child_is_a_reason_while_it_is_away_and_stays_counted() -> None:
    made = supervisor()
    seen: list[tuple[list[str], str]] = []
    async with anyio.create_task_group() as group:  # the child, cancelled below
        group.start_soon(made.serve, "x", Serving((1, OSError("gone"))))
        for _ in range(3):
            await anyio.sleep(0.75)
            seen.append((made.reasons, made.children["x"].state))
        group.cancel_scope.cancel()
    assert seen == [
        ([], "running"),
        (["x failed and is served again in 0.5 s: OSError: gone"], "failed"),
        ([], "running"),
    ]
    assert made.status() == {"x": {"state": "stopped", "failures": 1, "last_error": "OSError: gone"}}


async def test_name_that_serves_again_keeps_its_count() -> None:
    made = supervisor()
    for _ in range(2):
        await serve_for(FIRST / 2, made, Serving((0, OSError())))
    assert made.children["x"].failures == 2


async def test_each_failure_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    await serve_for(FIRST * 1.5, supervisor(), Serving((0, OSError("gone"))))
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "x failed and is served again in 1 s")
    assert "in __call__\n    raise error\nOSError: gone" in logging.Formatter().format(record)


async def test_log_that_fails_makes_nothing_worse() -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("no log")

    handler = Broken()
    logging.getLogger("aura.engine.supervisor").addHandler(handler)
    try:
        child = await serve_for(FIRST * 1.5, supervisor(), Serving((0, OSError())))
    finally:
        logging.getLogger("aura.engine.supervisor").removeHandler(handler)
    assert (child.failures, child.last_error) == (1, "OSError: ")
