"""``aura.embed.open_server``: a server in the event loop of another program, of which nothing is left."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from tests.fakes.host import SOON, Gate, gate, nothing_left, own_tmp, write_lab
from tests.fakes.served import write_plans

from aura.embed import EmbeddedServer, open_server
from aura.errors import (
    AuraError,
    ConfigError,
    EmbedError,
    RequestError,
    ServerEnded,
    StoreInUse,
    StoreIOError,
    WorkLeft,
)
from aura.processes import leftovers
from aura.stores.folder import DataFolder

__all__ = ["gate", "own_tmp"]  # fixtures
QUICK = {"server": {"grace": "300ms", "port": 0}}


@pytest.fixture
def lab(tmp_path: Path, own_tmp: Path) -> Path:
    """A plans folder; temporary files go to a folder of the test's own."""
    return write_lab(tmp_path)


async def running(server: EmbeddedServer, task: str) -> str:
    """A run of which the first step has begun."""
    cid = (await server.submit("lab", task)).cid
    with anyio.fail_after(SOON):
        while not await server.runs(state="running", cids=(cid,)):
            await anyio.lowlevel.checkpoint()
        await server.emit("lab.begun")  # its commit comes behind that of the start: whoever waited for it has gone on
    return cid


async def warm(lab: Path, **more: Any) -> None:
    """Do all of it once: what Python itself does at a first time is no trace of ours."""
    async with open_server(lab, settings=QUICK, **more) as server:
        await server.wait((await server.submit("lab", "hello")).cid)
        await server.wait((await server.submit("lab", "spawns")).cid)
        await server.wait((await server.submit("lab", "exits_in_a_thread")).cid)


def use(lab: Path, **more: Any) -> None:
    """The same in a loop of its own, which ends anyio's idle threads with it."""
    anyio.run(lambda: warm(lab, **more))


# -- what it does


async def test_run_is_submitted_waited_for_and_listed(lab: Path) -> None:
    async with open_server(lab) as server:
        accepted = await server.submit("lab", "hello", {"day": "monday"}, priority=3, labels={"team": "ops"})
        run = await server.wait(accepted.cid, timeout=SOON)
        assert (run.state, run.result, run.priority) == ("succeeded", {"day": "monday"}, 3)
        assert [step.name for step in run.steps] == ["say"]
        assert [run.cid for run in await server.runs(labels={"team": "ops"})] == [accepted.cid]
        assert await server.runs(state="failed") == []
        assert (await server.status()).state == "running"
        assert (server.address, server.token) == ("", None)


async def test_run_is_cancelled(lab: Path) -> None:
    async with open_server(lab) as server:
        cid = await running(server, "nap")
        with pytest.raises(TimeoutError):
            await server.wait(cid, timeout=0)
        assert (await server.cancel(cid, "enough")).state == "stopping"
        run = await server.wait(cid, timeout=SOON)
        assert (run.state, run.reason) == ("cancelled", "enough")


async def test_same_request_under_a_key_is_one_run(lab: Path) -> None:
    async with open_server(lab) as server:
        cids = {(await server.submit("lab", "hello", idempotency_key="k")).cid for _ in range(3)}
        assert len(cids) == len(await server.runs()) == 1


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("call", "code"),
    [
        pytest.param(lambda s: s.submit("lab", "helo"), "unknown_task", id="task"),
        pytest.param(lambda s: s.submit("lab", "hello", {"day": 7}), "inputs_invalid", id="input"),
        pytest.param(lambda s: s.submit("lab", "hello", {"day": object()}), "inputs_invalid", id="not-json"),
        pytest.param(lambda s: s.submit("lab", "hello", {"day": nested(5000)}), "inputs_invalid", id="too-deep"),
        pytest.param(lambda s: s.submit("lab", "hello", priority="high"), "invalid", id="priority"),
        pytest.param(lambda s: s.submit("lab", "hello", delay="soon"), "invalid", id="delay"),
        pytest.param(lambda s: s.wait("nobody"), "unknown_run", id="wait"),
        pytest.param(lambda s: s.cancel("nobody"), "unknown_run", id="cancel"),
        pytest.param(lambda s: s.runs(colour="red"), "invalid", id="filter"),
    ],
)
async def test_refusal_has_its_code(lab: Path, call: Any, code: str) -> None:
    async with open_server(lab) as server:
        with pytest.raises(RequestError) as refused:
            await call(server)
        assert refused.value.code == code


async def test_event_is_emitted_and_on_record(lab: Path) -> None:
    async with open_server(lab) as server:
        emitted = await server.emit("host.ready", {"n": 1})
        assert (emitted.event_id.isdecimal(), emitted.started) == (True, [])
        with pytest.raises(RequestError) as refused:
            await server.emit("run.started")
    assert refused.value.code == "reserved_event"


async def test_inputs_are_the_servers_own(lab: Path) -> None:
    async with open_server(lab) as server:
        inputs = {"day": "a"}
        accepted = await server.submit("lab", "hello", inputs, delay=0.2)
        inputs["day"] = "b"
        assert (await server.wait(accepted.cid)).result == {"day": "a"}


async def test_door_is_served_where_it_says(lab: Path) -> None:
    async with open_server(lab, settings=QUICK, http=True) as server:
        headers = {"Authorization": f"Bearer {server.token}"}
        async with httpx2.AsyncClient(base_url=server.address, headers=headers) as http:
            assert (await http.get("/api/system/status")).json()["state"] == "running"


async def test_two_servers_at_once_know_nothing_of_each_other(lab: Path, tmp_path: Path) -> None:
    async with open_server(lab, data=tmp_path / "a") as first, open_server(lab, data=tmp_path / "b") as second:
        ours, theirs = await first.submit("lab", "logs"), await second.submit("lab", "hello")
        await first.wait(ours.cid)
        await second.wait(theirs.cid)
        assert [run.cid for run in await first.runs()] == [ours.cid]
        assert [run.cid for run in await second.runs()] == [theirs.cid]


async def test_next_server_on_the_data_folder_goes_on(lab: Path, tmp_path: Path) -> None:
    async with open_server(lab, data=tmp_path / "data", settings=QUICK) as server:
        queued = await server.submit("lab", "hello", delay="1s")
    async with open_server(lab, data=tmp_path / "data", settings=QUICK) as server:
        assert (await server.wait(queued.cid, timeout=SOON)).state == "succeeded"


async def test_lines_of_the_plans_libraries_are_logged_and_the_hosts_are_not(lab: Path) -> None:
    async with open_server(lab) as server:
        logging.getLogger("host").warning("of the host")
        await server.wait((await server.submit("lab", "logs")).cid)
        entries = await server._guest.engine.history.log_entries()
    messages = [entry.record()["message"] for entry in entries]
    assert "from a library" in messages
    assert "of the host" not in messages


# -- what it leaves


@pytest.mark.parametrize("http", [False, True], ids=["no-door", "door"])
@pytest.mark.parametrize("data", [None, "data"], ids=["memory", "folder"])
def test_nothing_is_left(lab: Path, tmp_path: Path, http: bool, data: str | None) -> None:
    more = {"http": http, "data": data and tmp_path / data}
    with nothing_left(first=True):
        use(lab, **more)
    with nothing_left():
        use(lab, **more)
    if data:
        DataFolder.open(tmp_path / data).release()


async def test_no_child_of_the_loop_is_left(lab: Path) -> None:
    before = asyncio.all_tasks()
    await warm(lab)
    assert asyncio.all_tasks() == before


async def test_process_that_a_run_left_is_ended(lab: Path) -> None:
    async with open_server(lab, settings=QUICK) as server:
        await server.wait((await server.submit("lab", "spawns")).cid, timeout=SOON)
        boot = server._guest.engine.runtime.boot_tag

        def ours() -> list[Any]:
            return [seen for seen in leftovers.look_at_all() if seen.marks.get(leftovers.BOOT) == boot]

        assert len(ours()) == 1
    assert ours() == []


class Oops(Exception):
    """An error of the host's."""


async def test_error_in_the_body_stops_the_server_and_is_raised(lab: Path, tmp_path: Path) -> None:
    async def host() -> None:
        async with open_server(lab, data=tmp_path / "data", settings=QUICK) as server:
            await running(server, "nap")
            raise Oops

    with pytest.raises(Oops):
        await host()
    async with open_server(lab, data=tmp_path / "data") as server:
        assert (await server.runs())[0].reason == "shutdown"


async def test_cancelled_host_gets_its_server_stopped(lab: Path, tmp_path: Path) -> None:
    with anyio.CancelScope() as host:
        async with open_server(lab, data=tmp_path / "data", settings=QUICK) as server:
            await running(server, "nap")
            host.cancel()
            await anyio.sleep_forever()
    DataFolder.open(tmp_path / "data").release()
    with pytest.raises(ServerEnded):
        await server.status()


async def test_host_that_asyncio_cancels_again_and_again_gets_its_server_stopped(
    lab: Path, tmp_path: Path, gate: Gate
) -> None:
    ready = asyncio.Event()

    async def host() -> None:
        async with open_server(lab, data=tmp_path / "data", settings={"server": {"grace": "20s"}}) as server:
            await server.submit("lab", "cleans")
            await anyio.to_thread.run_sync(gate.entered.wait, SOON)
            ready.set()
            await asyncio.sleep(3600)

    hosting = asyncio.create_task(host())
    await ready.wait()
    with anyio.fail_after(15):  # far less than the grace: the second one hurries
        while not hosting.done():
            hosting.cancel()
            await asyncio.sleep(0.05)
    assert (hosting.cancelled(), gate.begun.is_set()) == (True, True)
    DataFolder.open(tmp_path / "data").release()


async def test_host_that_is_cancelled_while_it_starts_leaves_nothing(lab: Path, tmp_path: Path) -> None:
    with anyio.CancelScope() as host:
        host.cancel()
        async with open_server(lab, data=tmp_path / "data"):
            pytest.fail("it began")
    DataFolder.open(tmp_path / "data").release()


# -- what cannot start


def no_plans(tmp: Path) -> Any:
    return {"plans": tmp / "nowhere"}


def unsafe_plans(tmp: Path) -> Any:
    (tmp / "plans").chmod(0o777)
    return {}


def no_such_setting(tmp: Path) -> Any:
    return {"settings": {"server": {"prot": 1}}}


def bad_value(tmp: Path) -> Any:
    return {"settings": {"server": {"port": "many"}}}


def plans_twice(tmp: Path) -> Any:
    return {"settings": {"plans": "elsewhere"}}


def data_is_a_file(tmp: Path) -> Any:
    (tmp / "file").touch()
    return {"data": tmp / "file"}


FAULTS = [no_plans, unsafe_plans, no_such_setting, bad_value, plans_twice, data_is_a_file]


@pytest.mark.parametrize("prepare", FAULTS, ids=lambda prepare: prepare.__name__)
def test_start_that_fails_says_why_and_leaves_nothing(lab: Path, tmp_path: Path, prepare: Any) -> None:
    use(lab)
    arguments = {"plans": lab, **prepare(tmp_path)}

    async def host() -> None:
        async with open_server(**arguments):
            pytest.fail("it began")

    with nothing_left(), pytest.raises(AuraError):
        anyio.run(host)


def test_data_folder_in_use_is_refused_and_leaves_nothing(lab: Path, tmp_path: Path) -> None:
    use(lab)
    owner = DataFolder.open(tmp_path / "data")
    with nothing_left(), pytest.raises(StoreInUse, match=f"process {os.getpid()} "):
        use(lab, data=tmp_path / "data")
    owner.release()


def test_port_that_is_taken_is_refused_and_leaves_nothing(lab: Path) -> None:
    use(lab, http=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        settings = {"server": {"port": taken.getsockname()[1]}}

        async def host() -> None:
            async with open_server(lab, settings=settings, http=True):
                pytest.fail("it began")

        with nothing_left(), pytest.raises(ConfigError, match="cannot listen"):
            anyio.run(host)


def test_other_loop_than_asyncios_is_refused(lab: Path) -> None:
    with pytest.raises(EmbedError, match="asyncio"):
        open_server(lab).__aenter__().send(None)


# -- what ends otherwise


async def hang(server: EmbeddedServer, gate: Gate, task: str) -> str:
    """A run that hangs in its plan's code."""
    cid = (await server.submit("lab", task)).cid
    await anyio.to_thread.run_sync(gate.begun.wait, SOON)
    return cid


@pytest.mark.parametrize("task", ["hangs", "swallows"])
async def test_work_that_hangs_is_left_and_named(lab: Path, tmp_path: Path, gate: Gate, task: str) -> None:
    cids: list[str] = []

    async def host() -> None:
        async with open_server(lab, data=tmp_path / "data", settings=QUICK) as server:
            cids.append(await hang(server, gate, task))

    with pytest.raises(WorkLeft) as left:
        await host()
    assert left.value.cids == tuple(cids)
    async with open_server(lab, data=tmp_path / "data", settings=QUICK) as server:  # its lock is free
        run = await server.wait(cids[0])
    assert (run.state, run.reason) == ("cancelled", "stuck")
    gate.let_go()
    guests = [child for child in asyncio.all_tasks() if child.get_name() == "aura server"]
    assert len(guests) == 1
    await asyncio.wait_for(guests[0], SOON)  # and what was left goes


async def test_service_that_hangs_in_its_close_is_left_and_named(lab: Path, tmp_path: Path) -> None:
    code = """
        import asyncio
        from pathlib import Path
        from aura import action, service

        @service
        async def port():
            yield "port"
            while not Path(__file__).with_name("go").exists():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    pass

        @action
        async def use(port) -> str:
            return port
    """
    files = {"shop/actions.py": dedent(code), "shop/tasks/use.yaml": "steps: {a: {action: use}}"}
    write_plans(lab.parent, files)

    async def host() -> None:
        async with open_server(lab, data=tmp_path / "data", settings=QUICK) as server:
            await server.wait((await server.submit("shop", "use")).cid, timeout=SOON)

    with pytest.raises(WorkLeft, match="plan code of service port of plan shop did not end") as left:
        await host()
    assert left.value.cids == ()
    (lab / "shop/go").touch()
    (guest,) = [child for child in asyncio.all_tasks() if child.get_name() == "aura server"]
    await asyncio.wait_for(guest, SOON)


async def test_cancelled_host_is_told_of_what_hangs(lab: Path, gate: Gate) -> None:
    async def host() -> None:
        async with open_server(lab, settings=QUICK) as server:
            await hang(server, gate, "hangs")
            scope.cancel()
            await anyio.sleep_forever()

    with anyio.CancelScope() as scope, pytest.raises(WorkLeft):
        await host()


async def test_storage_that_is_lost_ends_the_body_with_that_error(lab: Path, tmp_path: Path) -> None:
    opened: list[EmbeddedServer] = []

    async def host() -> None:
        async with open_server(lab, data=tmp_path / "data", settings=QUICK) as server:
            opened.append(server)
            await running(server, "nap")
            for file in (tmp_path / "data").glob("aura.db*"):
                file.unlink()
            with pytest.raises(StoreIOError):
                await server.submit("lab", "hello")
            await anyio.sleep_forever()

    with pytest.raises(StoreIOError, match="removed"):
        await host()
    with pytest.raises(StoreIOError):
        await opened[0].status()
    DataFolder.open(tmp_path / "data").release()


async def test_call_after_the_end_fails(lab: Path) -> None:
    async with open_server(lab) as server:
        accepted = await server.submit("lab", "hello")
    for call in (server.submit("lab", "hello"), server.wait(accepted.cid), server.cancel("x"), server.runs()):
        with pytest.raises(ServerEnded):
            await call


async def test_calls_in_flight_at_the_end_are_answered(lab: Path) -> None:
    answers: dict[str, Any] = {}

    async def wait(server: EmbeddedServer, name: str, cid: str) -> None:
        try:
            answers[name] = (await server.wait(cid)).state
        except AuraError as error:
            answers[name] = type(error)

    # the calls, each ended by its answer
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as waiting, open_server(lab, settings=QUICK) as server:
            cids = {"running": await running(server, "nap")}
            cids["queued"] = (await server.submit("lab", "hello", delay="1h")).cid
            for name, cid in cids.items():
                waiting.start_soon(wait, server, name, cid)
            await anyio.lowlevel.checkpoint()
    assert answers == {"running": "cancelled", "queued": ServerEnded}


@pytest.mark.parametrize("task", ["exits", "exits_in_a_thread"])
async def test_plan_code_that_exits_fails_its_run_alone(lab: Path, task: str) -> None:
    async with open_server(lab) as server:
        run = await server.wait((await server.submit("lab", task)).cid, timeout=SOON)
        assert run.state == "failed"
        assert run.error is not None
        assert run.error.type == "SystemExit"


def test_import_is_without_the_door() -> None:
    code = "import sys, aura.embed; print(*[m for m in sys.modules if m.partition('.')[0] in sys.argv])"
    argv = [sys.executable, "-c", code, "starlette", "hypercorn", "h11", "httpx2", "rich.console"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
