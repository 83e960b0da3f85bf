"""Plans that change below a real server: served by watching alone, whole or not at all, unless it is told not to."""

import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec
import pytest
from tests.acceptance import reloads
from tests.fakes.real import HELLO, Real, open_real
from tests.fakes.web import make_settings

from aura.server import Server


async def wait_until(check: Callable[[], bool], seconds: float = 8.0) -> None:
    with anyio.fail_after(seconds):
        while not check():  # noqa: ASYNC110 - files and threads have no event of the loop
            await anyio.sleep(0.005)


def title(server: Server, task: str = "hello") -> str | None:
    tasks = server.engine.generations.current("lab").plan.tasks
    return tasks[task].title if task in tasks else None


async def served(real: Real, tmp: Path, new: str) -> None:
    """Write another title, and wait until it is served."""
    (tmp / "plans/lab/tasks/hello.yaml").write_text(HELLO.replace("title: Hello", f"title: {new}"))
    await wait_until(lambda: title(real.server) == new)


async def test_saved_plan_is_served_also_after_a_stop_and_a_start_of_the_engine(tmp_path: Path) -> None:
    async with open_real(tmp_path) as real:
        await served(real, tmp_path, "one")
        assert (await real.get("/api/plans/lab/tasks/hello"))["title"] == "one"
        children = real.server.supervisor.status()
        assert children["plan watcher"]["state"] == children["folder watcher"]["state"] == "running"
        assert (await real.http.post("/api/system/stop", json={"mode": "cancel"})).status_code < 300
        await wait_until(lambda: real.server.engine.state == "stopped")
        (tmp_path / "plans/lab/tasks/late.yaml").write_text(HELLO)
        assert (await real.http.post("/api/system/start")).status_code < 300
        await wait_until(lambda: title(real.server, "late") == "Hello")
        await served(real, tmp_path, "two")
        stops = anyio.current_time()
    assert anyio.current_time() - stops < 1.5  # nothing waits for a thread that listens


HANGS = "import time\nwhile True:\n    time.sleep(0.01)\n"


async def test_plan_whose_import_hangs_holds_no_other_plan_for_long(tmp_path: Path) -> None:
    async with open_real(tmp_path) as real:
        await served(real, tmp_path, "one")
        (tmp_path / "plans/bad/tasks").mkdir(parents=True)
        (tmp_path / "plans/bad/actions.py").write_text(HANGS)
        await wait_until(lambda: any(thread.name == "aura import of bad" for thread in threading.enumerate()))
        began = anyio.current_time()
        await served(real, tmp_path, "two")
        assert anyio.current_time() - began < 5  # its import has ten seconds
        assert any(thread.name == "aura import of bad" for thread in threading.enumerate())
    assert anyio.current_time() - began < 8  # nor does it hold the end
    await wait_until(lambda: not any(thread.name == "aura import of bad" for thread in threading.enumerate()))


async def test_server_that_is_told_not_to_watch_does_not(tmp_path: Path) -> None:
    (tmp_path / "plans/lab/tasks").mkdir(parents=True)
    (tmp_path / "plans/lab/tasks/hello.yaml").write_text(HELLO)
    server = Server(msgspec.structs.replace(make_settings(tmp_path), reload=False))
    async with anyio.create_task_group() as group:  # the server; ends by ``request_stop``
        await group.start(server.serve)
        assert "plan watcher" not in server.supervisor.status()
        assert server.engine.reloader._watches == {}
        server.request_stop()


async def test_server_serves_whole_versions_only_whatever_a_writer_does(tmp_path: Path) -> None:
    report = await reloads.torture(tmp_path / "server", 25, 3)
    assert report.mixed == []
    assert report.missing == 0
    assert report.served >= 5


@pytest.mark.parametrize(
    ("files", "versions"),
    [
        pytest.param({}, {7}, id="whole"),
        pytest.param({"tasks/t1.yaml": reloads.files_of(8)["tasks/t1.yaml"]}, {7, 8}, id="a-task-of-another"),
        pytest.param({"actions.py": reloads.files_of(8)["actions.py"]}, {7, 8}, id="code-of-another"),
        pytest.param({"schedule.yaml": reloads.files_of(8)["schedule.yaml"]}, {7, 8}, id="items-of-another"),
        pytest.param({"schedule.yaml": "items: {}"}, {7, -1}, id="something-missing"),
    ],
)
async def test_sampler_sees_what_is_mixed(tmp_path: Path, files: dict[str, str], versions: set[int]) -> None:
    writer = reloads.Writer(tmp_path / "plans", 1)
    writer.make(tmp_path / "plans/seen", 7)
    for path, text in files.items():
        (tmp_path / "plans/seen" / path).write_text(text)
    async with open_real(tmp_path) as real:
        assert reloads.versions_in(real.server.engine.generations.current("seen")) == versions
