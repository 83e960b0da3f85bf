"""``on_failure``, ``on_cancel`` and ``finally``: when they run, what they see, and that nothing cuts or hangs them."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import opened, step, task, until

from aura.lifecycle import Stop


def noting(log: list[str], name: str) -> Any:
    async def act(what: str = "") -> None:
        log.append(f"{name} {what}".strip())

    return act


async def works() -> None:
    return


async def fails() -> None:
    raise ValueError("no")


async def forever() -> None:
    await anyio.sleep(3600)


def with_handlers(log: list[str], body: Any, **keys: Any) -> Any:
    seen = "{{ run.state }} {{ error.message if error else '-' }}"
    return task(
        "t",
        step("a", body),
        on_failure=[step("f", noting(log, "on_failure"), params={"what": seen})],
        on_cancel=[step("c", noting(log, "on_cancel"), params={"what": seen})],
        finally_=[step("z", noting(log, "finally"), params={"what": seen})],
        **keys,
    )


@pytest.mark.parametrize(
    ("body", "stop", "log"),
    [
        (works, None, ["finally succeeded -"]),
        (fails, None, ["on_failure failed no", "finally failed no"]),
        (forever, Stop.CANCEL, ["on_cancel cancelled -", "finally cancelled -"]),
        (forever, Stop.TIMEOUT, ["on_failure timed_out timeout", "finally timed_out timeout"]),
        (forever, Stop.SHUTDOWN, ["on_cancel cancelled -", "finally cancelled -"]),
    ],
    ids=["success", "failure", "cancel", "time-out", "shutdown"],
)
async def test_handlers_fit_the_ending(tmp_path: Path, body: Any, stop: Stop | None, log: list[str]) -> None:
    got: list[str] = []
    async with opened(tmp_path, with_handlers(got, body)) as kit:
        run = await kit.begin_run("t")
        if stop:
            await until(lambda: run.live)
            kit.stop(run, stop, grace=5)
        record = await kit.ended(run)
        assert got == log
        assert record.cleanup_error is None
        assert record.state == log[-1].split()[1]


async def test_finally_is_not_cut_by_a_cancel_and_does_not_change_a_success(tmp_path: Path) -> None:
    gate = anyio.Event()
    log: list[str] = []

    async def tidy() -> None:
        await gate.wait()
        log.append("tidy")

    async with opened(tmp_path, task("t", step("a", works), finally_=[step("z", tidy)])) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "z" in run.live)
        assert kit.stop(run, Stop.CANCEL) == "stopping"
        gate.set()
        assert ((await kit.ended(run)).state, log) == ("succeeded", ["tidy"])


async def test_on_failure_of_a_plain_failure_can_be_cancelled_and_the_run_stays_failed(tmp_path: Path) -> None:
    log: list[str] = []
    made = task("t", step("a", fails), on_failure=[step("f", forever)], finally_=[step("z", noting(log, "finally"))])
    async with opened(tmp_path, made) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "f" in run.live)
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert (record.state, log) == ("failed", ["finally"])


async def test_cleanup_timeout_ends_a_handler_and_the_record_says_so(tmp_path: Path) -> None:
    later = [step("z", forever), step("y", works, ("z",))]
    async with opened(tmp_path, task("t", step("a", works), finally_=later, cleanup_timeout=0.02)) as kit:
        record = await kit.record("t")
        assert record.state == "succeeded"
        assert record.cleanup_error is not None
        assert (record.cleanup_error["type"], record.cleanup_error["step"]) == ("TimeoutError", "z")
        assert (await kit.steps(record.cid))["y"].state == "skipped"


async def test_failing_finally_is_a_cleanup_error(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works), finally_=[step("z", fails)])) as kit:
        record = await kit.record("t")
        assert record.cleanup_error is not None
        assert (record.state, record.error, record.cleanup_error["message"]) == ("succeeded", None, "no")


async def test_shutdown_brings_the_end_of_a_running_finally_nearer(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works), finally_=[step("z", forever)]), grace=0.1) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "z" in run.live)
        with anyio.fail_after(3):
            await kit.engine.stop("cancel", 0.1)
        record = await kit.ended(run)
        assert (record.state, record.cleanup_error and record.cleanup_error["type"]) == ("succeeded", "TimeoutError")


async def test_retry_of_a_handler_step(tmp_path: Path) -> None:
    tries: list[int] = []

    async def flaky() -> None:
        tries.append(1)
        if len(tries) < 2:
            raise OSError("busy")

    async with opened(tmp_path, task("t", step("a", works), finally_=[step("z", flaky, retry={"attempts": 2})])) as kit:
        record = await kit.record("t")
        assert (record.state, record.cleanup_error, len(tries)) == ("succeeded", None, 2)
