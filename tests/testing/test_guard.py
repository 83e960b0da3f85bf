"""The guard of a world: each way out of the process, refused and allowed, from wherever a plan takes it."""

import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.testing.kit import one_step, write_plan

from aura.testing.world import World, plan_world

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.anyio

ACTIONS = """\
import asyncio, contextlib, os, socket, sqlite3, subprocess, tempfile, threading, urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio, httpx2
from aura import Context, action, service

def network(kind, at):
    match kind:
        case "connect":
            with socket.socket() as made:
                made.connect(("127.0.0.1", 9))
        case "unix":
            with socket.socket(socket.AF_UNIX) as made:
                made.connect(at)
        case "bind":
            with socket.socket() as made:
                made.bind(("127.0.0.1", 0))
        case "sendto":
            with socket.socket(type=socket.SOCK_DGRAM) as made:
                made.sendto(b"x", ("127.0.0.1", 9))
        case "lookup":
            socket.getaddrinfo("127.0.0.1", 9)
        case "create":
            socket.create_connection(("127.0.0.1", 9)).close()
        case "urllib":
            urllib.request.urlopen("http://127.0.0.1:9/", timeout=5)
        case "httpx":
            httpx2.get("http://127.0.0.1:9/")

def processes(kind, at):
    match kind:
        case "popen":
            subprocess.run(["true"], check=True)
        case "shell":
            subprocess.run("true", shell=True, check=True)
        case "system":
            os.system("true")
        case "posix_spawn":
            os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        case "fork":
            if not (child := os.fork()):
                os._exit(0)
            os.waitpid(child, 0)
        case "kill":
            os.kill(os.getpid(), 28)  # SIGWINCH, which nobody minds

def files(kind, at):
    path = Path(at)
    match kind:
        case "write":
            path.joinpath("new").write_text("x")
        case "append":
            with path.joinpath("old").open("a") as file:
                file.write("x")
        case "os.open":
            os.close(os.open(path / "new", os.O_CREAT | os.O_WRONLY))
        case "through_a_link":
            with tempfile.TemporaryDirectory() as folder:
                os.symlink(path, folder + "/link")
                Path(folder, "link", "new").write_text("x")
        case "at_a_link":
            with tempfile.TemporaryDirectory() as folder:
                os.symlink(path / "old", folder + "/link")
                with Path(folder, "link").open("a") as file:
                    file.write("x")
        case "pycache":
            path.joinpath("__pycache__").mkdir()
            path.joinpath("__pycache__", "new.pyc").write_text("x")
        case "remove":
            path.joinpath("old").unlink()
        case "rmdir":
            path.joinpath("sub").rmdir()
        case "mkdir":
            path.joinpath("new").mkdir()
        case "rename":
            path.joinpath("old").rename(path / "new")
        case "rename_away":
            path.joinpath("old").rename(tempfile.gettempdir() + "/old")
        case "link":
            os.link(path / "old", path / "new")
        case "symlink":
            os.symlink("/", path / "new")
        case "chmod":
            path.joinpath("old").chmod(0o600)
        case "utime":
            os.utime(path / "old", (1, 1))
        case "truncate":
            os.truncate(path / "old", 0)
        case "sqlite":
            sqlite3.connect(path / "new").close()
        case "dir_fd":
            folder = os.open(path, os.O_RDONLY)
            try:
                os.unlink("old", dir_fd=folder)
            finally:
                os.close(folder)

WAYS = {"network": network, "processes": processes, "files": files}

@action
async def leave(way: str, kind: str, at: str) -> None:
    WAYS[way](kind, at)

@action
def leave_in_thread(way: str, kind: str, at: str) -> None:
    WAYS[way](kind, at)

@action
def leave_in_own_thread(way: str, kind: str, at: str) -> None:
    errors = []
    def work():
        try:
            WAYS[way](kind, at)
        except Exception as error:
            errors.append(error)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for error in errors:
        raise error

@action
async def leave_in_executor(way: str, kind: str, at: str) -> None:
    await asyncio.get_running_loop().run_in_executor(None, WAYS[way], kind, at)

@action
def leave_in_own_executor(way: str, kind: str, at: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(WAYS[way], kind, at).result()

@action
async def leave_in_child(way: str, kind: str, at: str) -> None:
    async def work():
        WAYS[way](kind, at)
    await asyncio.create_task(work())

@action
async def leave_in_cleanup(way: str, kind: str, at: str) -> None:
    try:
        await anyio.sleep(1)
    finally:
        WAYS[way](kind, at)

@service
async def link(ctx: Context) -> AsyncIterator[int]:
    network("connect", "")
    yield 1

@action
async def use(link: int) -> int:
    return link

@action
async def dial(how: str) -> None:
    match how:
        case "asyncio":
            await asyncio.open_connection("127.0.0.1", 9)
        case "asyncio_by_name":
            await asyncio.open_connection("localhost", 9)
        case "anyio":
            await anyio.connect_tcp("127.0.0.1", 9)
        case "httpx2":
            async with httpx2.AsyncClient(trust_env=False) as client:
                await client.get("http://127.0.0.1:9/")
        case "process":
            await asyncio.create_subprocess_exec("true")

@action
def swallow() -> str:
    with contextlib.suppress(Exception):
        network("connect", "")
    return "as if nothing were"

@action
def behave(folder: str) -> int:
    import wsgiref.headers
    with tempfile.TemporaryDirectory() as made:
        Path(made, "a").write_text("x")
        Path(made, "a").rename(made + "/b")
        os.symlink("/etc/passwd", made + "/link")
        os.unlink(made + "/link")
    Path(folder, "c").write_text("x")
    with open(os.devnull, "w") as nothing:
        nothing.write("x")
    sqlite3.connect(":memory:").close()
    one, other = socket.socketpair()
    one.sendmsg([b"x"])
    one.close(), other.close()
    os.kill(os.getpid(), 0)
    return len(Path("/etc/passwd").read_text())

@action(isolation="process")
def crunch(n: int) -> int:
    return n * n
"""
TASKS = {
    f"tasks/{name}.yaml": "inputs: {way: string, kind: string, at: string}\n"
    + one_step(name, '{way: "{{ inputs.way }}", kind: "{{ inputs.kind }}", at: "{{ inputs.at }}"}')
    for name in (
        *("leave", "leave_in_thread", "leave_in_own_thread", "leave_in_executor"),
        *("leave_in_own_executor", "leave_in_child", "leave_in_cleanup"),
    )
} | {
    "tasks/use.yaml": one_step("use"),
    "tasks/dial.yaml": "inputs: {how: string}\n" + one_step("dial", '{how: "{{ inputs.how }}"}'),
    "tasks/swallow.yaml": one_step("swallow"),
    "tasks/behave.yaml": "inputs: {at: string}\n" + one_step("behave", '{folder: "{{ inputs.at }}"}'),
    "tasks/crunch.yaml": one_step("crunch", "{n: 3}"),
    "tasks/read.yaml": "inputs: {at: string}\n" + one_step("file.read", '{path: "{{ inputs.at }}"}'),
    "tasks/glob.yaml": "inputs: {at: string}\n" + one_step("file.glob", '{pattern: "*", root: "{{ inputs.at }}"}'),
    "tasks/write.yaml": "inputs: {at: string}\n" + one_step("file.write", '{path: "{{ inputs.at }}/new", content: x}'),
    "tasks/retried.yaml": "steps:\n  a: {action: dial, params: {how: asyncio}, "
    "retry: {attempts: 3, errors: [OSError]}}\n",
    "tasks/ask.yaml": one_step("http.request", '{url: "http://127.0.0.1:9/"}'),
    "tasks/shell.yaml": one_step("shell.run", '{argv: ["true"]}'),
}
NETWORK = ("connect", "unix", "bind", "sendto", "lookup", "create", "urllib", "httpx")
PROCESSES = ("popen", "shell", "system", "posix_spawn", "fork", "kill")
FILES = (
    *("write", "append", "os.open", "through_a_link", "remove", "rmdir", "mkdir", "rename", "rename_away"),
    *("at_a_link", "link", "symlink", "chmod", "utime", "truncate", "sqlite", "dir_fd"),
)
WAYS = [(way, kind) for way, kinds in
        {"network": NETWORK, "processes": PROCESSES, "files": FILES}.items() for kind in kinds]  # fmt: skip


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside of that for temporary files."""
    for name in ("temporary", "outside/sub"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "outside" / "old").write_text("old")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "outside"


@asynccontextmanager
async def guarded(tmp_path: Path) -> AsyncIterator[World]:
    plan = write_plan(tmp_path / "plans" / "lab", {"actions.py": ACTIONS, **TASKS})
    async with plan_world(plan) as world:
        yield world


@pytest.fixture
async def world(tmp_path: Path, outside: Path) -> AsyncIterator[World]:
    async with guarded(tmp_path) as world:
        yield world


def what_is_in(folder: Path) -> dict[str, Any]:
    return {path.name: (path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_nlink) for path in
            folder.iterdir()}  # fmt: skip


def error_of(run: Any) -> tuple[str, str]:
    return run.error["type"], run.error["message"]


@pytest.mark.parametrize(("way", "kind"), WAYS, ids=lambda value: str(value))
async def test_way_out_is_refused_until_it_is_allowed(world: World, outside: Path, way: str, kind: str) -> None:
    before = what_is_in(outside)
    inputs = {"way": way, "kind": kind, "at": str(outside if way == "files" else outside / "nobody")}
    refused = await world.run("leave", inputs=inputs)
    kind_of, message = error_of(refused)
    assert kind_of == "not_allowed", refused.explain()
    assert "lab/actions.py:" in message
    assert "world.allow(" in message
    assert what_is_in(outside) == before
    world.allow(way)
    run = await world.run("leave", inputs=inputs)
    assert run.error is None or run.error["type"] in ("ConnectionRefusedError", "FileNotFoundError", "URLError",
                                                      "ConnectError"), run.explain()  # fmt: skip
    assert len(world.refused) == 1


@pytest.mark.parametrize("task", [name[6:-5] for name in TASKS if "/leave" in name])
@pytest.mark.parametrize(("way", "kind"), [("network", "connect"), ("processes", "popen"), ("files", "write")])
async def test_way_out_is_refused_from_wherever_it_is_taken(
    world: World, outside: Path, task: str, way: str, kind: str
) -> None:
    run = await world.run(task, inputs={"way": way, "kind": kind, "at": str(outside)})
    assert error_of(run)[0] == "not_allowed", run.explain()
    assert f"step a (lab.{task}) wanted to " in world.refused[0]
    assert "lab/actions.py:" in world.refused[0]
    assert not (outside / "new").exists()


@pytest.mark.parametrize("how", ["asyncio", "asyncio_by_name", "anyio", "httpx2", "process"])
async def test_libraries_of_the_loop_are_refused(world: World, how: str) -> None:
    run = await world.run("dial", inputs={"how": how})
    assert error_of(run)[0] == "not_allowed", run.explain()
    assert " at lab/" in world.refused[0]


async def test_compiled_modules_may_be_written_anywhere(world: World, outside: Path) -> None:
    (await world.run("leave", inputs={"way": "files", "kind": "pycache", "at": str(outside)})).assert_succeeded()


async def test_service_is_refused_and_can_be_faked(world: World) -> None:
    run = await world.run("use")
    assert error_of(run)[0] == "not_allowed", run.explain()
    assert "world.fake_service('link', …)" in world.refused[0]
    world.fake_service("link", 5)
    assert (await world.run("use")).result == 5


async def test_refusal_is_not_retried_as_a_broken_network_is(world: World) -> None:
    run = await world.run("retried")
    assert (run.state, run.steps["a"].attempt, len(world.refused)) == ("failed", 1, 1)


async def test_refusal_that_a_plan_swallows_is_shown(world: World) -> None:
    run = await world.run("swallow")
    run.assert_succeeded()
    assert len(world.refused) == 1
    assert "not allowed: step a (lab.swallow) wanted to connect to 127.0.0.1:9 at lab/actions.py:" in world.explain()


async def test_clean_code_is_left_alone(world: World, tmp_path: Path) -> None:
    run = await world.run("behave", inputs={"at": str(tmp_path / "temporary")})
    run.assert_succeeded()
    assert world.refused == []


@pytest.mark.parametrize("allowed", ["{outside}", "{outside}/../outside/", "files", "leave", "lab.leave"])
async def test_files_are_allowed_by_folder_kind_and_action(world: World, outside: Path, allowed: str) -> None:
    inputs = {"way": "files", "kind": "write", "at": str(outside)}
    world.allow(allowed.format(outside=outside))
    (await world.run("leave", inputs=inputs)).assert_succeeded()
    world.deny(allowed.format(outside=outside))
    assert error_of(await world.run("leave", inputs=inputs))[0] == "not_allowed"


async def test_folder_that_is_allowed_does_not_allow_its_neighbour(world: World, outside: Path) -> None:
    beside = outside.with_name("outside-too")
    beside.mkdir()
    world.allow(outside)
    run = await world.run("leave", inputs={"way": "files", "kind": "write", "at": str(beside)})
    assert error_of(run)[0] == "not_allowed"


async def test_action_that_is_allowed_allows_no_other(world: World, outside: Path) -> None:
    world.allow("leave")
    run = await world.run("leave_in_child", inputs={"way": "files", "kind": "write", "at": str(outside)})
    assert error_of(run)[0] == "not_allowed"


@pytest.mark.parametrize(
    ("task", "allowed"),
    [("read", "file.read"), ("read", "files"), ("glob", "file.glob"), ("write", "file.write")],
    ids=lambda value: value,
)
async def test_actions_on_files_stay_where_they_may_write(
    world: World, outside: Path, tmp_path: Path, task: str, allowed: str
) -> None:
    at = outside / "old" if task == "read" else outside
    assert error_of(await world.run(task, inputs={"at": str(at)}))[0] == "not_allowed"
    world.allow(allowed)
    (await world.run(task, inputs={"at": str(at)})).assert_succeeded()


async def test_action_on_files_reads_the_plan(world: World, tmp_path: Path) -> None:
    run = await world.run("read", inputs={"at": str(tmp_path / "plans" / "lab" / "tasks" / "use.yaml")})
    run.assert_succeeded()


@pytest.mark.parametrize(
    ("task", "word", "error"),
    [
        ("shell", "shell.run", None),
        ("shell", "processes", None),
        ("crunch", "crunch", None),
        ("crunch", "processes", None),
        ("ask", "http.request", "ConnectionError"),
        ("ask", "network", "ConnectionError"),
    ],
)
async def test_action_that_leaves_is_allowed_by_name_or_kind(
    world: World, task: str, word: str, error: str | None
) -> None:
    assert error_of(await world.run(task))[0] == "not_allowed"
    world.allow(word)
    run = await world.run(task)
    assert (run.error and run.error["type"]) == error, run.explain()
    world.deny(word)
    assert error_of(await world.run(task))[0] == "not_allowed"


async def test_action_that_is_denied_is_refused_though_it_is_harmless(world: World) -> None:
    world.deny("swallow")
    run = await world.run("swallow")
    assert error_of(run) == ("not_allowed", world.refused[0])
    assert "lab.swallow" in world.refused[0]
    assert "is denied" in world.refused[0]


async def test_fake_does_as_it_likes(world: World, outside: Path) -> None:
    world.fake("use", does=lambda: (outside / "new").write_text("12"))
    world.fake_service("link", 1)
    assert (await world.run("use")).result == 2
    assert (outside / "new").exists()


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("netwrk", "'network'"),
        ("shell.rum", "'shell.run'"),
        ("leav", "'leave'"),
        ("srv/inbox", "absolute paths"),
    ],
)
async def test_word_that_means_nothing_is_an_error_with_what_is_near(world: World, word: str, near: str) -> None:
    for say in (world.allow, world.deny):
        with pytest.raises(ValueError, match=near):
            say(word)


async def test_only_the_plan_is_guarded_and_only_while_its_world_is_open(tmp_path: Path, outside: Path) -> None:
    async with guarded(tmp_path) as world:
        await world.run("swallow")
        (outside / "by_the_test").write_text("x")
        socket.getaddrinfo("127.0.0.1", 9)
        assert len(world.refused) == 1
    (outside / "later").write_text("x")


def test_failing_test_shows_what_was_refused(pytester: pytest.Pytester) -> None:
    test = 'async def test_it(world):\n    await world.run("swallow")\n    assert False\n'
    write_plan(pytester.path / "plans" / "lab", {"actions.py": ACTIONS, **TASKS, "tests/test_plan.py": test})
    result = pytester.runpytest_inprocess("-p", "no:schemathesis", "-p", "no:cacheprovider", "-W", "error")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*refused in this world*", "step a (lab.swallow) wanted to connect to 127.0.0.1:9 at *"]
    )
