"""Child processes under the real engine: however a run is stopped, nothing of them is left."""

import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, step, task, until
from tests.fakes.children import running_of, until_file
from tests.fakes.children import until as really_until
from tests.fakes.kernel import forever, works

from aura.builtin import shell
from aura.context import Context
from aura.lifecycle import Stop
from aura.processes import leftovers
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend

STUBBORN = "trap '' TERM; setsid sleep 100 & echo > ready; sleep 100; sleep 100"


def command(text: str) -> Any:
    """An action that runs a shell text."""

    async def act(ctx: Context) -> Any:
        return await shell.run(ctx, shell=text)

    return act


async def ready(kit: Opened, task_name: str = "t") -> LiveRun:
    """Begin a run and wait until its command says that it is ready."""
    run = await kit.begin_run(task_name)
    with anyio.fail_after(10):
        await until_file(kit.engine.runtime.workdirs / run.cid / "ready")
    return run


@asynccontextmanager
async def a_process(marks: Mapping[str, str]) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A process with these marks that nobody here waits for."""
    environment = {"PATH": os.defpath, **marks}
    popen = subprocess.Popen(["sleep", "100"], env=environment, start_new_session=True)  # noqa: ASYNC220 - a moment
    try:
        await really_until(lambda: getattr(leftovers.look_at(popen.pid), "marks", None))
        yield popen
    finally:
        popen.kill()
        popen.wait()


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
        record = await kit.record("t")
        assert record.error is not None
        assert (record.state, record.error["type"]) == ("failed", "TimeoutError")
        assert not running_of(record.cid)


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
        record = await kit.record("t")
        assert secret not in record.result


async def test_command_carries_the_marks_of_its_start(tmp_path: Path) -> None:
    async def act(ctx: Context) -> str:
        found = await shell.run(ctx, shell="env")
        if ctx.attempt == 1:
            raise OSError("again")
        lines = found.stdout.splitlines()
        return " ".join(sorted(line for line in lines if line.startswith("AURA_") and "PROCESS" not in line))

    made = task("t", step("a", act, retry={"attempts": 2}), returns="{{ steps.a.output }}")
    async with opened(tmp_path, made) as kit:
        record = await kit.record("t")
        boot = kit.engine.runtime.boot_tag
        assert record.result == f"AURA_ATTEMPT=2 AURA_BOOT={boot} AURA_CID={record.cid} AURA_STEP=a"


@pytest.mark.parametrize(
    "left",
    [
        pytest.param("setsid sleep 100 >/dev/null 2>&1 &", id="left its session"),
        pytest.param("(setsid sh -c 'setsid sleep 100 & exit' >/dev/null 2>&1 &)", id="daemon"),
        pytest.param("exec >&- 2>&-; sleep 100 &", id="closed its pipes"),
        pytest.param("sh -c 'trap \"\" TERM; sleep 100; sleep 100' >/dev/null 2>&1 &", id="ignores TERM"),
    ],
)
async def test_what_a_step_left_in_the_background_ends_with_a_stop(tmp_path: Path, left: str) -> None:
    quick = step("a", command(f"{left} echo > ready" if left.endswith("&") else f"{left}; echo > ready"))
    async with opened(tmp_path, task("t", quick, step("b", forever, ("a",)))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "b" in run.live)
        await really_until(lambda: running_of(run.cid))  # for a moment, while it becomes a program, it shows no marks
        kit.stop(run, Stop.CANCEL, grace=1.0)
        record = await kit.ended(run)
        assert (record.state, record.stuck, running_of(run.cid)) == ("cancelled", False, [])


async def test_boot_ends_what_older_boots_left_and_nothing_else(tmp_path: Path) -> None:
    backend = MemoryBackend()
    async with opened(tmp_path, task("t", step("a", works)), backend=backend) as kit:
        tag = kit.engine.runtime.boot_tag
    store = tag.rpartition(".")[0]
    async with (
        a_process({"AURA_BOOT": tag}) as older,
        a_process({"AURA_BOOT": f"{store}x.1"}) as strangers,
        opened(tmp_path, task("t", step("a", works)), backend=MemoryBackend(backend.connection)) as kit,
    ):
        assert kit.engine.boot == 2
        assert (older.poll(), strangers.poll()) == (-signal.SIGTERM, None)


async def test_server_adopts_what_its_commands_leave(tmp_path: Path) -> None:
    left = command("(setsid sleep 100 >/dev/null 2>&1 &) ; echo > ready")
    async with opened(tmp_path, task("t", step("a", left), step("b", forever, ("a",)))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "b" in run.live)
        await really_until(lambda: {seen.parent for seen in running_of(run.cid)} == {os.getpid()})
