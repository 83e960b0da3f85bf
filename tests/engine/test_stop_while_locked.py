"""The server's end while the storage cannot be written: what waits for it, until when, and what it leaves with."""

from pathlib import Path

import anyio
import pytest
from tests.engine.kit import opened, quiet, step, task, until
from tests.fakes.blocked import FULL, LOCKED, NEVER, Blocked
from tests.fakes.kernel import forever, noting, works

from aura.engine.engine import HURRIED_SLACK, SLACK
from aura.errors import RequestError, StoreReadOnly
from aura.run import Cause, Request
from aura.server import HURRIED_GRACE, WRITE_SLACK

T = task("t", step("a", forever))
REQUEST = (Request("p", "t"), Cause("api"))


async def test_run_that_waits_for_its_start_goes_back_if_the_lock_goes_before_the_deadline(tmp_path: Path) -> None:
    backend = Blocked(LOCKED, free=0.0)
    # a client that waits for its answer
    async with anyio.create_task_group() as clients, opened(tmp_path, T, backend=backend, grace=1) as kit:
        backend.free = NEVER
        clients.start_soon(kit.engine.submit, *REQUEST)
        await until(lambda: any(kit.engine.dispatcher.placed()))
        backend.free = anyio.current_time() + 1 + SLACK + 0.5  # the engine has stopped waiting by then
    assert kit.left == []
    assert backend.execute("SELECT state, reason, stuck FROM run").fetchall() == [("queued", None, 0)]


async def test_quicker_stop_shortens_the_wait_for_a_run_that_waits_for_its_start(tmp_path: Path) -> None:
    backend = Blocked(LOCKED, free=0.0)
    # a client that waits for its answer
    async with anyio.create_task_group() as clients, opened(tmp_path, T, backend=backend) as kit:
        backend.free = NEVER
        clients.start_soon(kit.engine.submit, *REQUEST)
        await until(lambda: any(kit.engine.dispatcher.placed()))
        kit.engine.request_stop("cancel", 600)
        await quiet()
        begun = anyio.current_time()
        kit.engine.request_stop("cancel", 0.2)
        with anyio.move_on_after(30):
            await until(lambda: kit.engine.state == "stopped")
        took, backend.free = anyio.current_time() - begun, 0.0
    assert took < 0.2 + HURRIED_SLACK + 0.1
    assert (kit.left, backend.execute("SELECT state FROM run").fetchall()) == ([], [("queued",)])


@pytest.mark.parametrize("error", [LOCKED, FULL], ids=["locked", "full"])
async def test_idle_server_that_cannot_write_its_end_leaves_with_74_at_its_deadline(
    tmp_path: Path, error: StoreReadOnly, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = Blocked(error, free=0.0)
    async with opened(tmp_path, T, backend=backend, grace=5) as kit:
        backend.free = NEVER
        begun = anyio.current_time()
    assert kit.left == [74]
    assert 5 + WRITE_SLACK <= anyio.current_time() - begun < 5 + WRITE_SLACK + 0.3
    assert capsys.readouterr().err.startswith(f"aura: the server ended with 3 changes unwritten: {error}")


async def test_second_signal_brings_the_deadline_nearer(tmp_path: Path) -> None:
    backend = Blocked(LOCKED, free=0.0)
    async with opened(tmp_path, T, backend=backend, grace=600) as kit:
        backend.free = NEVER
        kit.server.request_stop()
        await quiet()
        kit.server.request_stop()
        begun = anyio.current_time()
    assert kit.left == [74]
    assert anyio.current_time() - begun < HURRIED_GRACE + WRITE_SLACK + 0.3


async def test_refused_request_gives_its_place_back_before_the_storage_can_be_written_again(tmp_path: Path) -> None:
    backend = Blocked(FULL, free=0.0)
    async with opened(tmp_path, task("t", step("a", works)), backend=backend, lanes={"main": 1}) as kit:
        backend.free = NEVER
        with pytest.raises(RequestError):
            await kit.engine.submit(*REQUEST)
        await quiet()
        running, known = kit.engine.status()["lanes"]["main"]["running"], dict(kit.engine.runtime.open)
        backend.free = 0.0
        assert (running, known) == (0, {})
        await until(lambda: not kit.engine.reasons)
        assert (await kit.record("t")).state == "succeeded"


async def test_finally_that_waited_for_its_start_in_vain_is_on_record_as_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Blocked(LOCKED, free=0.0)
    log: list[str] = []

    async def lock() -> None:
        backend.free = NEVER

    made = task("t", step("a", lock), finally_=[step("z", noting(log, "z"))])
    async with opened(tmp_path, made, backend=backend, grace=1) as kit:
        record_left = kit.engine.record_left

        def just_too_late() -> int:  # the lock goes when the run has got its record, and not before
            backend.free = 0.0
            return record_left()

        monkeypatch.setattr(kit.engine, "record_left", just_too_late)
        run = await kit.begin_run("t")
        await until(lambda: "z" in run.live or (run.main and run.main.outcome() and not run.live))
        await kit.advance(0.5)
    state, cleanup_error = backend.execute("SELECT state, cleanup_error FROM run").fetchone()
    assert (state, log) == ("succeeded", [])
    assert b"not_run" in cleanup_error
