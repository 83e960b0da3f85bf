"""Stopping and starting: the engine inside a server, the server itself, and what is on record afterwards."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, until

from aura.actions import Action
from aura.errors import RequestError
from aura.lifecycle import Recovery
from aura.stores.memory import MemoryBackend
from aura.testing.virtual_time import ThreadGate


async def forever() -> None:
    await anyio.sleep(3600)


def noting(log: list[str], name: str) -> Any:
    async def act() -> None:
        log.append(name)

    return act


async def test_drain_lets_running_work_end(tmp_path: Path) -> None:
    gate = anyio.Event()

    async def gated() -> None:
        await gate.wait()

    async with opened(tmp_path, task("t", step("a", gated))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.live)
        assert kit.engine.request_stop("drain", 10) == "stopping"
        await quiet()
        assert run.stop is None
        gate.set()
        await until(lambda: kit.engine.state == "stopped")
        assert (await kit.ended(run)).state == "succeeded"


async def test_drain_cancels_when_its_grace_is_over(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.live)
        await kit.engine.stop("drain", 0.02)
        assert (await kit.ended(run)).state == "cancelled"


async def test_cancel_ends_a_drain_and_start_meanwhile_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.live)
        kit.engine.request_stop("drain", 3600)
        await quiet()
        with pytest.raises(RequestError, match="being stopped"):
            await kit.engine.start()
        kit.engine.request_stop("cancel")
        assert (await kit.ended(run)).reason == "shutdown"
        await until(lambda: kit.engine.state == "stopped")
        assert await kit.engine.start() == "running"


async def test_server_stop_ends_a_long_drain(tmp_path: Path) -> None:
    with anyio.fail_after(5):
        async with opened(tmp_path, task("t", step("a", forever)), grace=0.1) as kit:
            run = await kit.begin_run("t")
            await until(lambda: run.live)
            kit.engine.request_stop("drain", 3600)
            await quiet()


async def test_stop_does_not_wait_for_stuck_work_but_counts_it(tmp_path: Path) -> None:
    gate = ThreadGate()

    def blocked() -> None:
        gate.wait()

    async with opened(tmp_path, task("t", step("a", blocked)), task("u", step("b", noting([], "b")))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: gate.waiting)
        assert await kit.engine.stop("cancel", 0.05) == "stopped"
        assert kit.engine.status()["lanes"]["main"]["stuck"] == 1
        await kit.engine.start()
        assert (await kit.run("u")).state == "succeeded"
        gate.open()
        record = await kit.ended(run)
        assert (record.state, record.stop, record.reason) == ("cancelled", "shutdown", "stuck")


async def states_by_name(backend: MemoryBackend) -> dict[str, tuple[str, str | None]]:
    rows = backend.execute("SELECT task_name, state, reason FROM run ORDER BY seq")
    return {name: (state, reason) for name, state, reason in rows}


async def test_server_stop_with_runs_in_every_state(tmp_path: Path) -> None:
    gate = ThreadGate()
    backend = MemoryBackend()

    def blocked() -> None:
        gate.wait()

    made = [
        task("done", step("a", noting([], "a"))),
        task("runs", step("b", forever)),
        task("comes_back", step("c", forever), recovery=Recovery.RESTART),
        task("hangs", step("d", blocked), recovery=Recovery.RESTART),
        task("waits", step("e", forever)),
    ]
    left: list[int] = []
    async with opened(tmp_path, *made, backend=backend, lanes={"main": 3}, grace=0.05) as kit:
        kit.server._leave = lambda code: (left.append(code), gate.open())[0]  # type: ignore[func-returns-value]
        await kit.run("done")
        for name in ("runs", "comes_back", "hangs"):
            run = await kit.begin_run(name)
            await until(lambda run=run: run.live)  # type: ignore[misc]
        await until(lambda: gate.waiting)
        await kit.begin_run("waits")
    assert left[0] == 70
    assert await states_by_name(backend) == {
        "done": ("succeeded", None),
        "runs": ("cancelled", "shutdown"),
        "comes_back": ("queued", None),
        "hangs": ("cancelled", "stuck"),
        "waits": ("queued", None),
    }


async def test_admission_answers_503_while_the_server_stops(tmp_path: Path) -> None:
    codes: list[str] = []
    kit: Opened

    async def act() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            try:
                await kit.begin_run("t")
            except RequestError as refused:
                codes.append(refused.code)

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.live)
        await quiet()
    assert codes == ["shutting_down"]


async def test_host_cancel_becomes_a_stop_with_cleanup(tmp_path: Path) -> None:
    log: list[str] = []
    backend = MemoryBackend()

    async def act() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            await anyio.sleep(0.001)
            log.append("clean")

    with anyio.CancelScope() as host:
        async with opened(tmp_path, task("t", step("a", act)), backend=backend) as kit:
            run = await kit.begin_run("t")
            await until(lambda: run.live)
            await quiet()
            host.cancel()
            await anyio.sleep(3600)
    assert log == ["clean"]
    assert await states_by_name(backend) == {"t": ("cancelled", "shutdown")}


async def test_queue_of_a_stopped_server_goes_on_after_the_next_start(tmp_path: Path) -> None:
    log: list[str] = []
    backend = MemoryBackend()
    made = [task("t", step("a", noting(log, "a"))), task("r", step("b", forever), recovery=Recovery.RESTART)]
    async with opened(tmp_path, *made, backend=backend, grace=0.1) as kit:
        restarted = await kit.begin_run("r")
        await until(lambda: restarted.live)
        await kit.engine.stop("cancel", 0.1)
        queued = await kit.begin_run("t")
    made[1] = task("r", step("b", noting(log, "b")), recovery=Recovery.RESTART)
    again = MemoryBackend(backend.connection)
    async with opened(tmp_path, *made, backend=again) as kit:
        assert kit.engine.boot == 2
        assert (await kit.ended(queued.cid)).state == "succeeded"
        record = await kit.ended(restarted.cid)
        assert (record.state, record.attempt) == ("succeeded", 2)
        assert sorted(log) == ["a", "b"]
        starts = again.execute("SELECT starts FROM step WHERE name='b'").fetchone()
        assert starts == (2,)


async def test_failing_dispatcher_is_served_again_and_what_was_accepted_starts(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", noting([], "a")))) as kit:
        real = kit.engine.dispatcher._take_due

        def broken() -> None:
            kit.engine.dispatcher._take_due = real  # type: ignore[method-assign]
            raise RuntimeError("injected")

        dispatcher = kit.engine.supervisor.children["dispatcher"]
        kit.engine.dispatcher._take_due = broken  # type: ignore[method-assign]
        assert (await kit.run("t")).state == "succeeded"
        assert (kit.engine.state, dispatcher.failures) == ("running", 1)
        assert dispatcher.last_error == "RuntimeError: injected"


def test_action_of_a_plain_function_is_read_once() -> None:
    from aura.actions import action

    @action
    def plain(x: int, y: str = "b") -> str:
        """Say it. More."""
        return y * x

    made = Action.of(plain, "p")
    assert (made.name, made.is_async, made.description) == ("p.plain", False, "Say it. More.")
    assert made.params_schema()["required"] == ["x"]
    assert plain(2) == "bb"
