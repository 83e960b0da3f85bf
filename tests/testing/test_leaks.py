"""What a run leaves behind is found, with its name and the line at which it was made; and nothing else is."""

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.testing.kit import one_step, write_plan
from tests.testing.leaky import ACTIONS, LINES, NAMES

from aura.processes.leftovers import look_at
from aura.resources import Holder
from aura.testing.leaks import Leak, watch_leaks
from aura.testing.run import Run
from aura.testing.virtual_time import ThreadGate
from aura.testing.world import World, plan_world

pytestmark = pytest.mark.anyio
#: Real seconds: what is planted stays, so nothing is gained by waiting for it.
SOON = 0.02


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    files = {"actions.py": ACTIONS, "plan.yaml": "resources: {screen: 1}\n"}
    files |= {f"tasks/{name}.yaml": one_step(name) for name in NAMES}
    files["tasks/nothing.yaml"] += "resources: {screen: 1}\n"
    async with plan_world(write_plan(tmp_path / "plans" / "lab", files)) as opened:
        opened.allow("processes", "network", "files")
        yield opened


async def leaks_of(world: World, task: str, patience: float = SOON) -> list[Leak]:
    """What a run of a task leaves; it is put away afterwards."""
    with watch_leaks(world, patience) as leaks:
        run = await world.run(task)
        run.assert_succeeded()
        found = await leaks.found(run)
    await world.run("tidy")
    return found


def only(found: list[Leak]) -> Leak:
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("begun", [pytest.param(False, id="fresh"), pytest.param(True, id="begun")])
@pytest.mark.parametrize(
    ("task", "kind", "what"),
    [
        ("process", "process", "sleep 60 (pid "),
        ("process_of_a_shell", "process", "/bin/sh -c 'sleep 60; true' (pid "),
        ("process_that_became_another", "process", "sleep 60 (pid "),
        ("thread", "thread", "poller, now at "),
        ("thread_of_a_def", "thread", "poller, now at "),
        ("temporary_file", "temporary file", ".scan (3 bytes)"),
        ("temporary_folder", "temporary file", " (a folder, 1 files in it, 4 bytes)"),
        ("file", "open file", "/etc/passwd (number "),
        ("open_socket", "open file", "socket at 127.0.0.1:"),
        ("child", "child", "sleeper, which waits at "),
        ("grandchild", "child", "sleeper, which waits at "),
    ],
)
async def test_leak_is_found_with_its_line(world: World, task: str, kind: str, what: str, begun: bool) -> None:
    if begun:
        await world.open()
    leak = only(await leaks_of(world, task))
    assert (leak.kind, leak.where) == (kind, LINES[task])
    assert what in leak.what


async def test_pipe_is_found_without_a_line(world: World) -> None:
    found = await leaks_of(world, "pipe")
    assert [(leak.kind, leak.where) for leak in found] == [("open file", None)] * 2


@pytest.mark.parametrize(
    "task",
    [
        "nothing",
        "processes_that_end",
        "threads_that_end",
        "files_that_are_closed",
        "pipe_that_the_collector_closes",
        "children_that_end",
        "child_that_ends_a_little_later",
        "uses_a_service",
        "works_with_a_service",
    ],
)
async def test_clean_run_leaves_nothing(world: World, task: str) -> None:
    assert await leaks_of(world, task, patience=5.0) == []


async def test_clean_up_of_a_stop_leaves_nothing(world: World) -> None:
    with watch_leaks(world) as leaks:
        run = await world.start("files_that_are_closed")
        await world.until(run, step="a", state="running")
        await run.cancel()
        await world.settle()
        assert await leaks.found(run) == []


async def test_worker_that_hangs_is_found_where_it_stands(world: World) -> None:
    await world.open()
    gate = ThreadGate()
    world.fake_service("gate", gate)
    with watch_leaks(world, SOON) as leaks:
        run = await world.start("hang")
        await world.until(lambda: gate.waiting)
        await run.cancel()
        await world.until(lambda: run.live is not None and run.live.stuck)
        leak = only(await leaks.found(run))
    gate.open()
    assert (leak.kind, leak.where) == ("thread", LINES["hang"])


async def test_what_is_held_for_an_ended_run_is_found(world: World) -> None:
    await world.open()
    with watch_leaks(world) as leaks:
        run = await world.start("nothing")
        live = run.live
        assert live is not None
        await world.settle()
        pool, lane = world.engine.claims.pool, world.engine.dispatcher.lanes["main"]
        holder = Holder(f"run {run.cid}")
        pool.hold(holder, {"lab/screen": 1})
        lane.placed.add(live)
        found = await leaks.found(run)
        pool.give_back(holder)
        lane.placed.discard(live)
    assert found == [
        Leak("resource", f"1 of lab/screen, by run {run.cid}"),
        Leak("place", f"of lane main, by run {run.cid}"),
    ]


async def test_what_another_run_holds_is_no_leak(world: World) -> None:
    await world.open()
    with watch_leaks(world) as leaks:
        await world.start("nothing")
        run = await world.run("children_that_end")
        assert await leaks.found(run) == []


async def test_run_that_goes_on_is_refused(world: World) -> None:
    with watch_leaks(world) as leaks:
        run = await world.start("nothing")
        with pytest.raises(RuntimeError, match=r"when it has ended"):
            await leaks.found(run)


async def test_temporary_folder_is_put_back_and_emptied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/somewhere")
    before = tempfile.tempdir
    with watch_leaks(world):
        await world.run("temporary_file")
        private = tempfile.gettempdir()
        assert os.environ["TMPDIR"] == private != before
    assert (tempfile.tempdir, os.environ["TMPDIR"]) == (before, "/somewhere")
    assert not Path(private).exists()


async def test_process_that_is_found_is_killed(world: World) -> None:
    leak = only(await leaks_of(world, "process"))  # its tidying waits for the end of the process
    assert look_at(int(leak.what.rpartition(" ")[2].rstrip(")"))) is None


async def test_leak_says_itself_in_a_line(world: World) -> None:
    leak = only(await leaks_of(world, "child"))
    assert str(leak).startswith("child sleeper, which waits at lab/actions.py:")
    assert str(leak).endswith(f", started at {LINES['child']}")


# -- locks

LOCKS = """\
import asyncio, threading
from types import SimpleNamespace
import anyio
from aura import action, service
{defined}
@action
async def take():
    {taken}
"""
CLASS = "class Camera:\n    def __init__(self): self.lock = {kind}\n"


async def leaks_of_locks(tmp_path: Path, defined: str, taken: str) -> tuple[list[Leak], str]:
    """What taking a lock leaves, and the plan's text."""
    text = LOCKS.format(defined=defined, taken=taken)
    plan = write_plan(tmp_path / "plans" / "lab", {"actions.py": text, "tasks/take.yaml": one_step("take")})
    async with plan_world(plan) as world:
        with watch_leaks(world) as leaks:
            run = await world.run("take")
            run.assert_succeeded()
            return await leaks.found(run), text


def line_in(text: str, part: str) -> str:
    return f"lab/actions.py:{text[: text.index(part)].count(chr(10)) + 1}"


@pytest.mark.parametrize(
    ("made", "taken"),
    [
        ("threading.Lock()", "camera.acquire()"),
        ("threading.RLock()", "camera.acquire()"),
        ("threading.Condition()", "camera.acquire()"),
        ("threading.Semaphore(2)", "camera.acquire()"),
        ("threading.BoundedSemaphore(2)", "camera.acquire()"),
        ("asyncio.Lock()", "await camera.acquire()"),
        ("asyncio.Condition()", "await camera.acquire()"),
        ("asyncio.Semaphore(2)", "await camera.acquire()"),
        ("asyncio.BoundedSemaphore(2)", "await camera.acquire()"),
        ("anyio.Lock()", "await camera.acquire()"),
        ("anyio.Condition()", "camera.acquire_nowait()"),
        ("anyio.Semaphore(2)", "await camera.acquire()"),
        ("anyio.Semaphore(2, max_value=2)", "await camera.acquire()"),
        ("anyio.CapacityLimiter(2)", "await camera.acquire_on_behalf_of(1)"),
    ],
)
async def test_each_kind_of_lock_is_found(tmp_path: Path, made: str, taken: str) -> None:
    found, text = await leaks_of_locks(tmp_path, f"camera = {made}", taken)
    assert found == [Leak("lock", "actions.py: camera", line_in(text, taken.removeprefix("await ")))]


@pytest.mark.parametrize(
    ("defined", "taken", "path"),
    [
        pytest.param(
            "class Camera:\n    lock = asyncio.Lock()", "await Camera.lock.acquire()", "Camera.lock", id="class"
        ),
        pytest.param(
            CLASS.format(kind="anyio.Lock()") + "camera = Camera()",
            "await camera.lock.acquire()",
            "camera.lock",
            id="object",
        ),
        pytest.param(
            "cameras = {'a': [asyncio.Lock()]}", "await cameras['a'][0].acquire()", "cameras['a'][0]", id="container"
        ),
        pytest.param(
            "desk = SimpleNamespace(lock=anyio.Lock())", "await desk.lock.acquire()", "desk.lock", id="namespace"
        ),
        pytest.param(
            "def make():\n    lock = threading.Lock()\n    def take(): lock.acquire()\n    return take\nuse = make()",
            "use()",
            "use.lock",
            id="closure",
        ),
    ],
)
async def test_lock_is_found_wherever_the_plan_keeps_it(tmp_path: Path, defined: str, taken: str, path: str) -> None:
    found, _ = await leaks_of_locks(tmp_path, defined, taken)
    assert [(leak.kind, leak.what) for leak in found] == [("lock", f"actions.py: {path}")]


@pytest.mark.parametrize(
    ("defined", "taken"),
    [
        pytest.param("camera = anyio.Lock()", "async with camera: pass", id="given-back"),
        pytest.param("camera = threading.Lock()\ncamera.acquire()", "pass", id="taken-before"),
        pytest.param("cameras = []", "cameras.append(asyncio.Semaphore(0))", id="new-without-a-bound"),
        pytest.param("bell = threading.Event()", "bell.set()", id="event"),
    ],
)
async def test_lock_that_is_as_before_is_no_leak(tmp_path: Path, defined: str, taken: str) -> None:
    assert (await leaks_of_locks(tmp_path, defined, taken))[0] == []


@pytest.mark.parametrize(
    ("defined", "taken", "at"),
    [
        pytest.param("camera = anyio.Lock()", "await camera.acquire()", "camera.acquire", id="taken-in-one-place"),
        pytest.param(
            "camera = anyio.Lock()\nasync def other(): await camera.acquire()",
            "await camera.acquire()",
            "camera = ",
            id="taken-in-two",
        ),
        pytest.param(
            "lock = anyio.Lock()\n" + CLASS.format(kind="anyio.Lock()") + "camera = Camera()",
            "await camera.lock.acquire(), (lock.locked(), 1)",
            "camera.lock.acquire",
            id="another-of-the-same-name",
        ),
    ],
)
async def test_line_of_a_lock_is_where_it_is_taken_or_made(tmp_path: Path, defined: str, taken: str, at: str) -> None:
    found, text = await leaks_of_locks(tmp_path, defined, taken)
    assert only(found).where == line_in(text, at)


async def test_lock_of_a_service_is_found(tmp_path: Path) -> None:
    service = CLASS.format(kind="anyio.Lock()") + "@service\nasync def camera():\n    yield Camera()\n"
    found, text = await leaks_of_locks(
        tmp_path, service, "pass\n@action\nasync def snap(camera): await camera.lock.acquire()"
    )
    assert found == []
    plan = tmp_path / "plans" / "lab"
    (plan / "tasks" / "take.yaml").write_text(one_step("snap"))
    async with plan_world(plan) as world:
        with watch_leaks(world) as leaks:
            run: Run = await world.run("take")
            leak: Any = only(await leaks.found(run))
    assert leak == Leak("lock", "service lab.camera: lock", line_in(text, "camera.lock.acquire"))
