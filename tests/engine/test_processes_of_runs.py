"""Child processes under the real engine: however a run is stopped, nothing of them is left."""

import secrets
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, step, task
from tests.fakes.children import running_of, until_file

from aura.actions import Context
from aura.builtin import shell
from aura.lifecycle import Stop
from aura.liverun import LiveRun

STUBBORN = "trap '' TERM; setsid sleep 100 & echo > ready; sleep 100; sleep 100"


def command(text: str) -> Any:
    """An action that runs a shell text."""

    async def act(ctx: Context) -> Any:
        return await shell.run(ctx, shell=text)

    return act


async def ready(kit: Opened, task_name: str = "t") -> LiveRun:
    """Begin a run and wait until its command says that it is ready."""
    run = await kit.begin(task_name)
    with anyio.fail_after(10):
        await until_file(kit.engine.runtime.workdirs / run.cid / "ready")
    return run


@pytest.mark.parametrize("kind", [Stop.CANCEL, Stop.TIMEOUT, Stop.SHUTDOWN], ids=lambda kind: kind.label)
async def test_stop_of_a_run_ends_its_processes(tmp_path: Path, kind: Stop) -> None:
    async with opened(tmp_path, task("t", step("a", command(STUBBORN)))) as kit:
        run = await ready(kit)
        kit.stop(run, kind, grace=1.0)
        record = await kit.ended(run)
        assert record.state in ("cancelled", "timed_out")
        assert not record.stuck
        assert not running_of(run.cid)


async def test_timeout_of_a_step_ends_its_processes(tmp_path: Path) -> None:
    made = task("t", step("a", command(STUBBORN), timeout=0.5), cleanup_timeout=1.0)
    async with opened(tmp_path, made) as kit:
        record = await kit.run("t")
        assert record.error is not None
        assert (record.state, record.error["type"]) == ("failed", "TimeoutError")
        assert not running_of(record.cid)


async def test_what_an_earlier_step_left_in_the_background_ends_with_a_stop(tmp_path: Path) -> None:
    daemon = step("a", command("setsid sleep 100 >/dev/null 2>&1 &"))
    made = task("t", daemon, step("b", command("echo > ready; sleep 100"), ("a",)))
    async with opened(tmp_path, made) as kit:
        run = await ready(kit)
        assert len(running_of(run.cid)) >= 2
        kit.stop(run, Stop.CANCEL, grace=1.0)
        await kit.ended(run)
        assert not running_of(run.cid)


async def test_stop_of_the_server_ends_all_processes(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", command(STUBBORN))), grace=1.0) as kit:
        runs = [await ready(kit) for _ in range(3)]
    assert not [seen for run in runs for seen in running_of(run.cid)]


async def test_command_does_not_see_what_is_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secrets.token_hex(8)
    for name in ("AURA_TOKEN", "AURA_SECRET_X", "DATABASE_URL"):
        monkeypatch.setenv(name, secret)
    made = task("t", step("a", command("env; cat /proc/self/environ")), returns="{{ steps.a.output.stdout }}")
    async with opened(tmp_path, made) as kit:
        record = await kit.run("t")
        assert secret not in record.result
        for mark in (f"AURA_CID={record.cid}", "AURA_STEP=a", f"AURA_BOOT={kit.engine.runtime.boot_tag}"):
            assert mark in record.result


async def test_action_that_waits_for_itself_is_ended_by_its_timeout(tmp_path: Path) -> None:
    async def act() -> None:
        lock = anyio.Semaphore(1)
        async with lock, lock:
            pass

    async with opened(tmp_path, task("t", step("a", act, timeout=0.1))) as kit:
        record = await kit.run("t")
        assert record.error is not None
        assert (record.state, record.error["type"]) == ("failed", "TimeoutError")
