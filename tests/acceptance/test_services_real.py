"""Services of a real ``aura serve``: what opens and closes them, and that nothing else does."""

import signal
from pathlib import Path

import pytest
from tests.fakes.children import running_in
from tests.fakes.door import Door, wait_until
from tests.fakes.served import Served, aura, open_served, write_plans

PLAN = {
    "lab/tasks/use.yaml": "steps: {a: {action: use}}\n",
    "lab/tasks/hold.yaml": "steps: {a: {action: hold}}\n",
    "lab/tasks/child.yaml": "steps: {a: {action: pid}}\nreturns: '{{ steps.a.output }}'\n",
    "lab/actions.py": """
import subprocess
from pathlib import Path
import anyio
from aura import Context, action, service

VERSION = "one"

def note(text):
    with open("marks", "a") as file:
        file.write(f"{text} {VERSION}\\n")

@service
async def port(ctx: Context):
    note("open port")
    yield "port"
    note("close port")

@service
async def camera(port):
    note("open camera")
    yield "camera"
    await anyio.sleep(0.1)
    note("close camera")

@service
async def browser(ctx: Context):
    with subprocess.Popen(["sleep", "3600"], env=dict(ctx.process_environment) | {"PATH": "/usr/bin:/bin"}) as child:
        yield child.pid
        child.kill()

@action
async def use(camera) -> str:
    return camera

@action
async def pid(browser) -> int:
    return browser

@action
async def hold(camera) -> None:
    note("hold")
    while not Path("go").exists():
        await anyio.sleep(0.02)
""",
}


def marks(served: Served) -> list[str]:
    file = served.folder / "marks"
    return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_plans(tmp_path, PLAN)
    return tmp_path


def run_to_its_end(door: Door, task: str) -> None:
    cid = door.run(task)
    wait_until(lambda: door.get(f"/api/runs/{cid}")["state"] == "succeeded")


def test_service_is_opened_by_a_run_alone_and_closed_at_sigterm(folder: Path) -> None:
    assert aura("check", cwd=folder, env={}).code == 0
    with open_served(folder) as served:
        door = Door(served)
        assert door.ask("POST", "/api/system/reload").status == 200
        assert served.aura("actions").code == 0
        assert marks(served) == []
        run_to_its_end(door, "use")
        run_to_its_end(door, "use")
        assert marks(served) == ["open port one", "open camera one"]
        assert door.get("/api/system/status")["plan_services"] == {"open": 2, "stuck": 0}
        listed = {one["name"]: one["open"] for one in served.aura("actions", "--json").json["items"]}
        assert (listed["lab.camera"], listed["lab.browser"], listed["lab.use"]) == (True, False, None)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(30) == 0
        assert marks(served)[2:] == ["close camera one", "close port one"]


def test_old_version_is_closed_after_its_last_run(folder: Path) -> None:
    with open_served(folder) as served:
        door = Door(served)
        cid = door.run("hold")
        wait_until(lambda: "hold one" in marks(served))
        code = PLAN["lab/actions.py"].replace('"one"', '"two"')
        write_plans(folder, {"lab/actions.py": code})
        assert door.ask("POST", "/api/system/reload").status == 200
        run_to_its_end(door, "use")
        assert marks(served)[3:] == ["open port two", "open camera two"]
        (folder / "go").touch()
        wait_until(lambda: door.get(f"/api/runs/{cid}")["state"] == "succeeded")
        wait_until(lambda: marks(served)[5:] == ["close camera one", "close port one"])
        assert door.get("/api/system/status")["plan_services"] == {"open": 2, "stuck": 0}


def test_process_of_a_service_is_ended_by_the_start_after_a_kill(folder: Path) -> None:
    with open_served(folder) as served:
        run_to_its_end(Door(served), "child")
        (child,) = set(running_in(folder)) - {served.process.pid}
        served.process.kill()
        served.process.wait(30)
    assert running_in(folder) == [child]
    with open_served(folder) as served:
        assert running_in(folder) == [served.process.pid]
