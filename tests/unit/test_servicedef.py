"""What a service is: its mark, its signature, what is found of it without running code, and when it is none."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import aura
from aura.actions import Action, action
from aura.builtin import shipped
from aura.context import Context
from aura.loading.generations import Generations
from aura.loading.loader import check_plans
from aura.loading.pyscan import Scan, Shape, scan
from aura.servicedef import Service, find_circle, is_service, service

HEAD = "from aura import Context, action, service\nfrom contextlib import asynccontextmanager\n"
PORT = "@service\nasync def port():\n    yield 1\n"
NONE = "a service is an `async def` that yields what it opened, once, or an async context manager"


@service
async def camera(ctx: Context, port: Any, size: int = 3) -> AsyncIterator[int]:
    """The camera.

    More of it.
    """
    yield size


def test_service_is_read_from_its_function() -> None:
    found = Service.of(camera, "lab", ["port", "camera"])
    assert (found.name, found.full_name, str(found)) == ("camera", "lab.camera", "service camera of plan lab")
    assert (found.wants_context, found.needs, found.description) == (True, ("port",), "The camera.")
    assert (found.broken_by, found.open_timeout) == ((), 30.0)


def test_mark_has_a_name_a_bound_and_errors() -> None:
    @service(name="other", broken_by=(OSError,), open_timeout=5)
    async def made() -> AsyncIterator[None]:
        yield

    found = Service.of(made, "lab", [])
    assert (found.name, found.broken_by, found.open_timeout) == ("other", (OSError,), 5.0)
    assert is_service(made)
    assert not is_service(test_mark_has_a_name_a_bound_and_errors)
    assert aura.service is service


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        pytest.param({"broken_by": OSError}, "give a tuple of exceptions", id="no-tuple"),
        pytest.param({"broken_by": ("OSError",)}, "give a tuple of exceptions", id="names"),
        pytest.param({"broken_by": (BaseException,)}, "give a tuple of exceptions", id="base"),
        pytest.param({"open_timeout": 0}, "give a number of seconds", id="zero"),
        pytest.param({"open_timeout": "5s"}, "give a number of seconds", id="text"),
        pytest.param({"open_timeout": float("nan")}, "give a number of seconds", id="nan"),
        pytest.param({"open_timeout": True}, "give a number of seconds", id="bool"),
    ],
)
def test_mark_that_means_nothing(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        service(**keys)


async def coroutine() -> int:
    return 1


def generator() -> Iterator[int]:
    yield 1


def plain() -> int:
    return 1


async def needy(port: int, what: int) -> AsyncIterator[int]:
    yield port


async def wide(*ports: int) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        pytest.param(coroutine, NONE, id="coroutine"),
        pytest.param(generator, NONE, id="generator"),
        pytest.param(plain, NONE, id="function"),
        pytest.param(needy, "nobody gives its parameter 'what': it is no service of this plan", id="unknown"),
        pytest.param(wide, "parameter ports must be an ordinary named one", id="star"),
    ],
)
def test_function_that_is_no_service(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"service {function.__name__}: {message}"):
        Service.of(service(function), "lab", ["port"])


def test_context_manager_is_one() -> None:
    @service
    @asynccontextmanager
    async def made(port: int) -> AsyncIterator[int]:
        yield port

    assert Service.of(made, "lab", ["port"]).needs == ("port",)


@pytest.mark.parametrize(
    ("needs", "circle"),
    [
        pytest.param({"a": ["b"], "b": []}, [], id="none"),
        pytest.param({"a": ["a"]}, ["a", "a"], id="itself"),
        pytest.param({"a": ["b"], "b": ["c"], "c": ["b"]}, ["b", "c", "b"], id="two"),
    ],
)
def test_circles_are_found(needs: dict[str, list[str]], circle: list[str]) -> None:
    found = find_circle(needs)
    assert sorted(set(found)) == sorted(set(circle))
    assert all(after in needs[before] for before, after in pairwise(found))


class NoJson:
    pass


def test_action_is_given_what_has_the_name_of_a_service() -> None:
    @action
    async def snap(ctx: Context, port: NoJson, count: int) -> None: ...

    found = Action.of(snap, "lab", ["port", "camera"])
    assert found.services == ("port",)
    assert list(found.params_schema()["properties"]) == ["count"]
    with pytest.raises(TypeError, match="is not a type that JSON can become"):
        Action.of(snap, "lab")


# -- without running code


def scan_of(code: str, **files: str) -> Scan:
    return scan(
        "lab", {"actions/a.py": (HEAD + code).encode(), **{f"actions/{n}.py": t.encode() for n, t in files.items()}}
    )


def test_services_are_found_and_are_no_parameters() -> None:
    found = scan_of("@action\ndef snap(port, count): pass\n", ports=HEAD + PORT)
    assert found.services == {"port": Shape((), frozenset())}
    assert found.actions == {"snap": Shape(("count",), frozenset({"count"}))}
    assert (found.complete, found.problems) == (True, ())


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import aura\n@aura.service\nasync def port(): yield 1\n", id="by-module"),
        pytest.param("from aura import service as s\n@s(open_timeout=1)\nasync def port(): yield 1\n", id="renamed"),
        pytest.param("@service(name='port')\nasync def other(): yield 1\n", id="named"),
        pytest.param("@service\n@asynccontextmanager\nasync def port(): yield 1\n", id="context-manager"),
        pytest.param("@service\nasync def port():\n async with x() as y:\n  yield y\n", id="inside-a-block"),
    ],
)
def test_service_is_found(code: str) -> None:
    found = scan_of(code)
    assert (list(found.services), found.problems, found.complete) == (["port"], (), True)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("def make(f): return service(f)\nport = make(x)\n", id="by-call"),
        pytest.param("n = 'port'\n@service(name=n)\nasync def other(): yield 1\n", id="name-computed"),
    ],
)
def test_service_that_cannot_be_known_leaves_the_parameters_uncertain(code: str) -> None:
    found = scan_of(code + "@action\ndef snap(port): pass\n")
    assert (found.actions["snap"].loose, found.problems) == (True, ())


@pytest.mark.parametrize(
    ("code", "problems"),
    [
        pytest.param("@service\ndef port():\n    yield 1\n", [f"service port: {NONE}"], id="generator"),
        pytest.param("@service\nasync def port():\n    return 1\n", [f"service port: {NONE}"], id="coroutine"),
        pytest.param(
            "@service\nasync def port():\n    async def inner(): yield 1\n    return inner\n",
            [f"service port: {NONE}"],
            id="yield-in-another",
        ),
        pytest.param(
            PORT + "@service\nasync def camera(ctx, port, size, *, wide=1): yield 1\n",
            ["service camera: nobody gives its parameter 'size': it is no service of this plan"],
            id="unknown-parameter",
        ),
        pytest.param(
            "@service\nasync def a(b): yield 1\n@service\nasync def b(a): yield 1\n",
            ["services cannot need each other in a circle: "],
            id="circle",
        ),
        pytest.param(
            PORT + "@action(isolation='process')\ndef snap(port): pass\n",
            ["action snap: it runs in a process of its own, and the service port lives in the server's"],
            id="in-a-process",
        ),
        pytest.param(
            "@service\nasync def ctx(): yield 1\n",
            ["service ctx: no parameter of an action can have this name"],
            id="called-ctx",
        ),
        pytest.param(
            PORT + "@action(name='port')\ndef other(): pass\n",
            ["service port: an action of this plan has that name; rename one of them"],
            id="name-of-an-action",
        ),
    ],
)
def test_what_is_wrong_is_found_without_running_code(code: str, problems: list[str]) -> None:
    found = scan_of(code)
    assert [one.message[: len(wanted)] for one, wanted in zip(found.problems, problems, strict=True)] == problems


def test_two_services_of_one_name() -> None:
    (problem,) = scan_of(PORT, b=HEAD + PORT).problems
    assert (
        str(problem) == "lab/actions/b.py:4:1: the service 'port' is in lab/actions/a.py:4 already; its name is unique"
    )


# -- the import


def write(folder: Path, code: str, task: str = "steps: {a: {action: snap, params: {count: 1}}}") -> Path:
    for path, text in {"actions.py": HEAD + code, "tasks/t.yaml": task}.items():
        file = folder / "lab" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


SNAP = "@action\nasync def snap(port, count: int) -> int:\n    return count\n"


@pytest.mark.anyio
async def test_import_finds_services_and_opens_none(tmp_path: Path) -> None:
    opens = "import pathlib\n@service\nasync def port():\n    pathlib.Path('/nowhere/x').touch()\n    yield 1\n"
    generations = Generations(write(tmp_path, opens + SNAP), shipped())
    (status,) = await generations.reload()
    assert (status.status, status.errors) == ("ready", ())
    generation = generations.current("lab")
    assert list(generation.services) == ["port"]
    assert generation.action("lab.snap").services == ("port",)
    generations.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("code", "line", "message"),
    [
        pytest.param("mark = service\n@mark\nasync def port(): return 1\n", 4, f"service port: {NONE}", id="coroutine"),
        pytest.param(
            "mark = service\n@mark\nasync def port(what): yield 1\n",
            4,
            "nobody gives its parameter 'what'",
            id="unknown",
        ),
        pytest.param(
            "mark = service\n@mark\nasync def port(port): yield 1\n", 4, "in a circle: port -> port", id="circle"
        ),
        pytest.param("mark = service\n@mark\nasync def ctx(): yield 1\n", 4, "can have this name", id="ctx"),
        pytest.param(
            "mark = service(name='snap')\n@mark\nasync def port(): yield 1\n",
            6,
            "another 'snap'",
            id="name-of-an-action",
        ),
        pytest.param(
            "mark = service\n@mark\nasync def port(): yield 1\nother = port\n@mark\nasync def port(): yield 2\n",
            4,
            "there is another service 'port'",
            id="twice",
        ),
    ],
)
async def test_import_finds_what_no_scan_can(tmp_path: Path, code: str, line: int, message: str) -> None:
    generations = Generations(write(tmp_path, code + SNAP), shipped())
    (status,) = await generations.reload()
    assert status.status == "broken"
    places = [(one.file, one.line) for one in status.errors if message in one.message]
    assert places == [("lab/actions.py", line)], status.errors


@pytest.mark.parametrize(
    ("params", "message"),
    [
        pytest.param("{count: 1, port: x}", "lab.snap has no parameter 'port'", id="given"),
        pytest.param("{}", "lab.snap needs the parameter count", id="missing"),
        pytest.param("{count: 1}", None, id="right"),
    ],
)
def test_check_knows_what_a_service_gives(tmp_path: Path, params: str, message: str | None) -> None:
    root = write(tmp_path, PORT + SNAP, f"steps: {{a: {{action: snap, params: {params}}}}}")
    (checked,) = check_plans(root, shipped())
    assert [message in one.message for one in checked.problems if message] == [True] * (message is not None)
    assert bool(checked.problems) is (message is not None)
