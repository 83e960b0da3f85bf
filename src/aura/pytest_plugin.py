"""The pytest plugin: the fixtures ``world`` and ``sweep``, the marker ``plan``, and how a plan's tests are collected.

**The trick.** A test that asks for ``world`` runs on an event loop whose time is virtual (``testing.virtual_time``): as
soon as nobody can do anything before the next timer, the clock is moved to it. So an hour's sleep takes microseconds, a
year of a daily schedule less than a second, and a run gives the same result on every machine. On that loop runs Aura
itself, with nothing left out but its HTTP door: whatever a plan does in a test went through the same
lanes, attempts, stops and commits as it will on the server. The store is in memory, and each test has its own world.

**How a test gets there.** The fixture ``world`` needs the fixture ``anyio_backend``, so anyio's own plugin, which comes
with anyio, runs every async test and fixture around it; nobody has to configure or mark anything for that. For these
tests alone ``anyio_backend`` is given the virtual loop, whatever it is for others. The test's body is then awaited
within ``told_of_deadlocks``: it is the one thing outside of the world.

**What a deadlock looks like.** If nothing is scheduled, no thread or child process works, and the body waits, then
nothing can ever happen: the test fails at once with ``Deadlock``, which names every child and the line at which it
waits. Without that it would hang.

**The limits.**
- What asks the machine for the time (``time.time()``, ``datetime.now()``) gets the real one; a plan's own ``now()`` and
  everything of Aura's is virtual.
- Threads and child processes that an action waits for hold the clock until they answer. One that is silent for a second
  lets time go on beside it, at the pace of real time, so that a grace can end.
- No thread can be ended from outside. A ``def`` action that gives no sign for a minute (the setting
  ``aura_thread_timeout``) fails its test, with the line at which it stands, and its thread is abandoned; after ten
  seconds the terminal is told of it. An action that may hang says ``isolation="process"``.
- What talks to a process of somebody else's over a socket is answered in real time; virtual time does not wait for it.
- A fixture of a wider scope that is async cannot be used beside a world, which has a loop of its own for each test:
  pytest says so (``ScopeMismatch``).

**Collection.** A file ``test_*.py`` or ``*_test.py`` below ``<plans>/<plan>/tests/`` is imported under a name with the
plan's in it, so that two plans may both have a ``test_plan.py``, and finds its plan by its place. A plan is a folder
with ``tasks/`` or ``plan.yaml``. Elsewhere ``@pytest.mark.plan("path/to/plan")`` names it, relative to the test's file;
a second path is that of another plan to be served beside it.

**Plans without tests.** With ``--aura-sweep`` their tasks are tests: see ``aura.testing.sweeping.untested``.

**Cost.** Whoever does not use it pays for the import of this file, and of what ``from aura import action`` needs: the
engine and ``aura.testing`` are imported by the first test that asks.
"""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

if TYPE_CHECKING:
    from aura.testing.sweeping.sweep import Sweep
    from aura.testing.virtual_time import VirtualLoop
    from aura.testing.world import World

#: Asked for by what runs in virtual time; who parametrises ``anyio_backend`` looks for it.
VIRTUAL = "_aura_virtual_time"
_PACKAGE = "aura_plan_tests"
_THREAD_TIMEOUT, _DEFAULT_TIMEOUT = "aura_thread_timeout", "60s"


def pytest_addoption(parser: pytest.Parser) -> None:
    said = "sweep each task of plans that have no tests: stop it at each of its await points"
    parser.getgroup("aura").addoption("--aura-sweep", action="store_true", help=said)
    said = "real time after which a `def` action that does not return fails its test (60s)"
    parser.addini(_THREAD_TIMEOUT, said, default=_DEFAULT_TIMEOUT)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "plan(path, *others): the plan that the test's world or sweep serves, by its folder"
    )
    _import_aura_as_it_is(config)
    if config.getini(_THREAD_TIMEOUT) != _DEFAULT_TIMEOUT:  # who does not set it imports nothing of Aura's here
        _thread_timeout(config)


def _import_aura_as_it_is(config: pytest.Config) -> None:
    """Take Aura out of what pytest rewrites: that is for the assertions of plugins, which would take seconds here.

    pytest has no public word for it; where it is another one, the import is slow and nothing else.
    """
    hook = getattr(config.pluginmanager, "rewrite_hook", None)
    marked, asked = getattr(hook, "_must_rewrite", None), getattr(hook, "_marked_for_rewrite_cache", None)
    if isinstance(marked, set) and isinstance(asked, dict):
        marked.discard("aura")
        marked -= {name for name in marked if name.startswith("aura.")}
        asked.clear()


# -- in virtual time


@pytest.fixture(name=VIRTUAL)
def _virtual_time() -> None:
    """Says that a test runs in virtual time."""


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the tests of worlds, and no others, the virtual loop; a mark beats the fixture's own parameters."""
    if VIRTUAL in metafunc.fixturenames:
        backend = ("asyncio", {"loop_factory": _virtual_loop(metafunc.config)})
        given = [pytest.param(backend, id=pytest.HIDDEN_PARAM)]
        metafunc.definition.add_marker(pytest.mark.parametrize("anyio_backend", given))


def _virtual_loop(config: pytest.Config) -> "type[VirtualLoop]":
    """The loop in virtual time, as the settings have it."""
    from aura.testing.virtual_time import VirtualLoop

    VirtualLoop.thread_timeout = _thread_timeout(config)
    return VirtualLoop


def _thread_timeout(config: pytest.Config) -> float:
    """Seconds of the setting.

    Raises:
        pytest.UsageError: it is no time.
    """
    from aura.duration import parse_duration

    said = config.getini(_THREAD_TIMEOUT)
    try:
        return float(parse_duration(said))
    except ValueError as error:
        raise pytest.UsageError(f"{_THREAD_TIMEOUT} = {said}: {error}") from None


@pytest.fixture
async def world(
    anyio_backend: object,  # noqa: ARG001 - who asks for it is run by anyio's plugin
    _aura_virtual_time: None,
    request: pytest.FixtureRequest,
) -> "AsyncIterator[World]":
    """A world in virtual time over the test's plan: see ``aura.testing.world``."""
    from aura.testing.world import plan_world

    plan, *others = _plans_of(request)
    writable = filter(None, [request.config.getoption("basetemp")])  # where ``tmp_path`` is then
    async with plan_world(plan, others, writable=list(map(Path, writable))) as opened:
        yield opened


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Have the body of a test awaited within what tells it of deadlocks; whoever awaits it is anyio's plugin."""
    if VIRTUAL in pyfuncitem.fixturenames:
        pyfuncitem.obj = _within_world(pyfuncitem)
    return (yield)


def _within_world(pyfuncitem: pytest.Function) -> Any:
    body = pyfuncitem.obj
    if not inspect.iscoroutinefunction(body):
        raise pytest.UsageError(f"{pyfuncitem.nodeid} asks for `world`: make it an `async def`")
    world: Any = pyfuncitem.funcargs["world"]

    async def within_world(**given: Any) -> None:
        __tracebackhide__ = True
        from aura.testing.deadlocks import told_of_deadlocks

        async with told_of_deadlocks():
            await body(**given)
        world.check()

    return within_world


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what ran in the world of a test that has failed."""
    report = yield
    world: Any = getattr(item, "funcargs", {}).get("world")
    if report.failed and report.when != "teardown" and hasattr(world, "explain"):  # then its store is closed
        report.sections.append(("runs of this world", world.explain()))
        if refused := world.refused:
            report.sections.append(("refused in this world", "\n".join(refused)))
        if lines := world.logs("info")[-50:]:
            shown = "\n".join(f"{line['time'][:23]} {line['level']:<8} {line['message']}" for line in lines)
            report.sections.append(("log of this world", shown))
    return report


# -- sweeps


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> "Callable[..., Sweep]":
    """Run a task once for each of its await points, and stop it there: see ``aura.testing.sweeping.sweep``."""
    from aura.testing.sweeping.sweep import sweeper

    _virtual_loop(request.config)
    plan, *others = _plans_of(request)
    return sweeper(plan, others)


# -- the plan of a test


def _plans_of(request: pytest.FixtureRequest) -> list[Path]:
    marker = request.node.get_closest_marker("plan")
    if marker is not None:
        return _marked_plans(request, marker.args)
    found = _plan_above(request.path)
    if found is None:
        raise pytest.UsageError(
            f"{request.node.nodeid}: which plan is it about? Put the file below PLAN/tests/, "
            'or mark the test with @pytest.mark.plan("path/to/plan")'
        )
    return [found]


def _marked_plans(request: pytest.FixtureRequest, paths: tuple[object, ...]) -> list[Path]:
    if not paths:
        raise pytest.UsageError(f'{request.node.nodeid}: plan() names no plan: write plan("path/to/plan")')
    plans = [_named_plan(request, path) for path in paths]
    if far := [plan for plan in plans if plan.parent != plans[0].parent]:
        raise pytest.UsageError(
            f"{request.node.nodeid}: the plans of a world are in one folder, as those of a server are: "
            f"{far[0]} is not beside {plans[0]}"
        )
    return plans


def _named_plan(request: pytest.FixtureRequest, path: object) -> Path:
    if not isinstance(path, str | Path):
        raise pytest.UsageError(f"{request.node.nodeid}: plan({path!r}): a plan is named by the path of its folder")
    folder = (request.path.parent / path).resolve()
    if not folder.is_dir():
        raise pytest.UsageError(f"{request.node.nodeid}: the plan {str(path)!r} is not there: {folder} is no folder")
    if not is_plan(folder):
        raise pytest.UsageError(f"{request.node.nodeid}: {folder} is no plan: it has neither tasks/ nor plan.yaml")
    return folder


def _plan_above(file: Path) -> Path | None:
    """The plan that a file below its ``tests/`` is about."""
    for folder in file.parents:
        if folder.name == "tests" and is_plan(folder.parent):
            return folder.parent
    return None


def is_plan(folder: Path) -> bool:
    """Whether a folder is a plan's."""
    return (folder / "plan.yaml").is_file() or (folder / "tasks").is_dir()


# -- collecting


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """With ``--aura-sweep``, collect the tasks of plans that have no tests."""
    if file_path.suffix != ".yaml" or not parent.config.getoption("--aura-sweep"):
        return None
    from aura.testing.sweeping.untested import collect_task

    return collect_task(file_path, parent)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect a plan's test file under a name of its own."""
    plan = _plan_above(module_path)
    if plan is None or module_path.name == "conftest.py":
        return None
    made: pytest.Module = PlanTests.from_parent(parent, path=module_path)
    return made


class PlanTests(pytest.Module):
    """A test file of a plan; two plans may each have one of the same name."""

    def _getobj(self) -> Any:
        plan = _plan_above(self.path)
        assert plan is not None
        inner = self.path.relative_to(plan / "tests").with_suffix("").parts
        try:
            return _import(".".join((_PACKAGE, f"{plan.name}_{crc32(str(plan).encode()):x}", *inner)), self.path)
        except (Exception, SystemExit) as error:
            text = "".join(traceback.format_exception(error))
            raise self.CollectError(f"{self.path} cannot be imported:\n{text}") from error


def _import(name: str, path: Path) -> Any:
    """Import a file as a module, by whoever finds it first: pytest's own finder rewrites its assertions."""
    if name in sys.modules:
        return sys.modules[name]
    found = (finder.find_spec(name, [str(path.parent)]) for finder in sys.meta_path)
    spec = next((one for one in found if one is not None), None) or importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
