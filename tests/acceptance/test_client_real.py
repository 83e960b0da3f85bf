"""The typed client against the real server: runs to their end, and a stream over a restart."""

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
from tests.fakes.real import open_real
from tests.fakes.served import Served, open_served, write_plans
from tests.fakes.web import free_port

from aura import api
from aura.client import AsyncClient, Client, Request, Target

PLANS = {
    "lab/tasks/hello.yaml": 'steps: {say: {action: log, params: {message: "hi"}}}\nreturns: {said: hi}\n',
    "lab/tasks/count.yaml": """
steps:
  one: {action: log, params: {message: "one"}}
  nap: {action: shell.run, params: {argv: [sleep, "60"]}, depends_on: one}
""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_plans(tmp_path, PLANS)
    return tmp_path


def target(served: Served) -> Target:
    return Target(served.address, (served.folder / "data" / "token").read_text().strip())


async def test_run_is_asked_for_and_waited_for(tmp_path: Path) -> None:
    async with open_real(tmp_path) as real:
        token = real.http.headers["Authorization"].removeprefix("Bearer ")
        async with AsyncClient(Target(str(real.http.base_url).rstrip("/"), token)) as client:
            accepted = await client.run_task("lab", "hello", {"day": "2026"})
            with anyio.fail_after(20):
                run = await client.wait_run(accepted.cid)
            assert (run.state, run.result) == ("succeeded", {"day": "2026"})
            with pytest.raises(TimeoutError):
                await client.wait_run((await client.run_task("lab", "long")).cid, 0.1)
            assert [run.task_name async for run in client.active_runs()] == ["long"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    write_plans(folder, PLANS)
    with open_served(folder) as served:
        yield served


def test_blocking_client_serves_several_threads(served: Served) -> None:
    def ask(number: int) -> object:
        answer = client.run_task("lab", "hello", labels={"n": str(number)}, wait=20)
        assert isinstance(answer, api.Run)
        return answer.result

    with Client(target(served)) as client, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(20))) == [{"said": "hi"}] * 20
        assert len(list(client.runs(task_name="hello", page_size=7))) >= 20


def test_batch_says_what_became_of_each(served: Served) -> None:
    with Client(target(served)) as client:
        done = client.batch([Request("lab", "hello"), Request("lab", "nothing")])
        assert (done.accepted, done.refused) == (1, 1)
        assert done.items[0].cid
        assert (done.items[1].error or {})["code"] == "unknown_task"


def test_stream_goes_on_over_a_restart_and_misses_nothing(folder: Path) -> None:
    port = str(free_port())
    came: queue.Queue[api.EventRecord | None] = queue.Queue()

    def follow() -> None:
        for record in client.follow_run(cid):
            if isinstance(record, api.EventRecord):
                came.put(record)
        came.put(None)

    def until(name: str) -> None:
        while seen[-1:] != [name]:
            record = came.get(timeout=30)
            assert record, f"the stream ended before {name}"
            seen.append(f"{record.name} {record.step or ''}".rstrip())

    seen: list[str] = []
    with open_served(folder, "--port", port) as served, Client(target(served)) as client:
        cid = client.run_task("lab", "count").cid
        threading.Thread(target=follow, daemon=True).start()
        until("step.started nap")
        client.pause(cid)
        until("run.preempted")
        assert served.stop() == 0
        with open_served(folder, "--port", port):
            client.resume(cid)
            until("step.started nap")
            client.cancel(cid)
            until("run.cancelled")
            assert came.get(timeout=30) is None
            whole = [record for record in client.follow_run(cid) if isinstance(record, api.EventRecord)]
    assert seen == [f"{record.name} {record.step or ''}".rstrip() for record in whole]


def test_requests_wait_for_a_server_that_restarts(folder: Path) -> None:
    port = str(free_port())
    with open_served(folder, "--port", port) as served, Client(target(served)) as client, ThreadPoolExecutor(1) as pool:
        assert client.status().boot == 1
        assert served.stop() == 0
        waiting = pool.submit(client.run_task, "lab", "hello", wait=20)
        with open_served(folder, "--port", port):
            answer = waiting.result(30)
            assert isinstance(answer, api.Run)
            assert client.status().boot == 2
