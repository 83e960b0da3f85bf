"""The pytest plugin: collection, fixtures, markers and reports, tried in a pytest of its own.

Most run within this process (`inprocess`), where the plugin is registered as everywhere; a subprocess where it matters.
"""

import textwrap
from pathlib import Path

import pytest
from tests.testing.kit import one_step, write_plan

import aura.testing.world  # noqa: F401 - else each of pytester's runs imports it again

pytest_plugins = ["pytester"]

PLAN = {
    "actions.py": "from aura import action\n\n@action\nasync def ping(host: str) -> int:\n    return len(host)\n",
    "tasks/report.yaml": one_step("ping", "{host: four}"),
}
TEST = """\
async def test_report(world):
    run = await world.run("report")
    run.assert_succeeded()
    assert run.result == 4
"""


@pytest.fixture
def plans(pytester: pytest.Pytester) -> Path:
    """Two plans, each with a test of the same name."""
    for name in ("lab", "shop"):
        write_plan(pytester.path / "plans" / name, {**PLAN, "tests/test_plan.py": TEST})
    return pytester.path / "plans"


def run_here(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "no:schemathesis", "-p", "no:cacheprovider", "-W", "error", *args)


def run_beside(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:schemathesis", "-p", "no:cacheprovider", *args)


@pytest.mark.parametrize("mode", ["prepend", "importlib"])
@pytest.mark.parametrize(
    "more", [{}, {"tests/conftest.py": "import pytest\n\n@pytest.fixture\ndef own():\n    return 1\n"}]
)
def test_two_plans_may_have_test_files_of_the_same_name(
    pytester: pytest.Pytester, plans: Path, mode: str, more: dict[str, str]
) -> None:
    for name in ("lab", "shop"):
        asks = {"tests/test_own.py": "def test_own(own):\n    assert own == 1\n"} if more else {}
        write_plan(plans / name, {**more, **asks})
    result = run_here(pytester, "--strict-markers", "--strict-config", f"--import-mode={mode}")
    result.assert_outcomes(passed=4 if more else 2)


def test_nothing_has_to_be_configured_in_a_process_of_its_own(pytester: pytest.Pytester, plans: Path) -> None:
    result = run_beside(pytester, "-W", "error")
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("place", ["tests/deep/er/test_plan.py", "tests/deep/test_plan.py"])
def test_files_in_folders_of_tests_are_of_the_plan(pytester: pytest.Pytester, plans: Path, place: str) -> None:
    write_plan(plans / "lab", {place: TEST, "tests/deep/conftest.py": "", "tests/helper.py": "four = 4\n"})
    run_here(pytester, "plans/lab").assert_outcomes(passed=2)


def test_rootdir_without_plans_is_as_ever(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one():\n    assert 1\n\nclass TestTwo:\n    def test_two(self):\n        pass\n")
    run_here(pytester).assert_outcomes(passed=2)


def test_whoever_does_not_use_it_does_not_import_aura(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import sys\n\ndef test_one():\n"
        "    assert not [name for name in sys.modules if name.startswith(('aura.testing', 'aura.engine'))]\n"
    )
    run_beside(pytester).assert_outcomes(passed=1)


def test_without_the_plugin_a_test_is_told_that_there_is_no_world(pytester: pytest.Pytester, plans: Path) -> None:
    result = run_beside(pytester, "-p", "no:aura", "plans/lab")
    result.stdout.fnmatch_lines_random(["*fixture 'world' not found*"])


def test_tests_of_plans_may_run_in_parallel(pytester: pytest.Pytester, plans: Path) -> None:
    result = run_beside(pytester, "-n", "2", "-W", "error")
    result.assert_outcomes(passed=2)


# -- beside other tests


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_tests_of_anyio_keep_their_own_backend(pytester: pytest.Pytester, plans: Path, mode: str) -> None:
    pytester.makepyfile(
        test_others="""
        import asyncio
        import pytest

        @pytest.fixture(params=["asyncio"])
        def anyio_backend(request):
            return request.param

        @pytest.mark.anyio
        async def test_ordinary():
            assert type(asyncio.get_running_loop()).__name__ != "VirtualLoop"

        @pytest.mark.plan("plans/lab")
        async def test_virtual(world):
            assert type(asyncio.get_running_loop()).__name__ == "VirtualLoop"
        """
    )
    run_here(pytester, "-o", f"anyio_mode={mode}").assert_outcomes(passed=4)


def test_parametrised_tests_and_async_fixtures_use_the_world_of_their_test(
    pytester: pytest.Pytester, plans: Path
) -> None:
    text = """
    import pytest

    @pytest.fixture
    async def ran(world):
        yield await world.run("report")
        assert len(world.runs()) == 1

    @pytest.mark.parametrize("n", [1, 2, 3])
    async def test_each(world, ran, n):
        assert [run.cid for run in world.runs()] == [ran.cid]

    class TestGroup:
        async def test_in_a_class(self, world):
            assert (await world.run("report")).result == 4
    """
    write_plan(plans / "lab", {"tests/test_more.py": textwrap.dedent(text)})
    run_here(pytester, "plans/lab/tests/test_more.py").assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("marks", "outcome", "said"),
    [
        pytest.param('@pytest.mark.plan("plans/lab")', {"passed": 1}, "", id="relative"),
        pytest.param('@pytest.mark.plan("plans/lab", "plans/shop")', {"passed": 1}, "", id="several"),
        pytest.param('@pytest.mark.plan(ROOT / "plans" / "lab")', {"passed": 1}, "", id="path"),
        pytest.param('@pytest.mark.plan(str(ROOT / "plans" / "lab"))', {"passed": 1}, "", id="absolute"),
        pytest.param("", {"errors": 1}, "which plan is it about*PLAN/tests/*mark", id="none"),
        pytest.param('@pytest.mark.plan("plans/lob")', {"errors": 1}, "*'plans/lob' is not there*", id="missing"),
        pytest.param("@pytest.mark.plan()", {"errors": 1}, "*plan() names no plan*", id="empty"),
        pytest.param("@pytest.mark.plan(5)", {"errors": 1}, "*plan(5)*", id="number"),
        pytest.param('@pytest.mark.plan("plans")', {"errors": 1}, "*is no plan: *tasks/*plan.yaml*", id="no-plan"),
        pytest.param('@pytest.mark.plan("plans/lab", "else/far")', {"errors": 1}, "*beside*", id="elsewhere"),
    ],
)
def test_marker_names_the_plan(
    pytester: pytest.Pytester, plans: Path, marks: str, outcome: dict[str, int], said: str
) -> None:
    write_plan(pytester.path / "else" / "far", PLAN)
    pytester.makepyfile(
        f"import pytest\nfrom pathlib import Path\nROOT = Path(__file__).parent\n\n{marks}\n{TEST}",
    )
    result = run_here(pytester, "test_marker_names_the_plan.py")
    result.assert_outcomes(**outcome)
    if said:
        result.stdout.fnmatch_lines_random([f"*{said}*"])


# -- what is wrong with a test


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("def test_sync(world):\n    pass\n", "*asks for `world`*async def*", id="sync"),
        pytest.param("def test_generator(world):\n    yield 1\n", "*", id="generator"),
        pytest.param(
            "import pytest\n\n@pytest.fixture(scope='module')\nasync def wide(anyio_backend):\n    yield 1\n\n"
            "async def test_wide(wide, world):\n    pass\n",
            "*ScopeMismatch*anyio_backend*",
            id="wide-async-fixture",
        ),
        pytest.param(
            "import pytest\n\n@pytest.fixture(scope='module')\nasync def wide(world):\n    yield 1\n\n"
            "async def test_wide(wide):\n    pass\n",
            "*ScopeMismatch*",
            id="wide-fixture-that-asks-for-a-world",
        ),
        pytest.param("def broken(:\n", "*SyntaxError*", id="syntax-error"),
        pytest.param("import nowhere_to_be_found\n", "*nowhere_to_be_found*", id="import-error"),
    ],
)
def test_what_is_wrong_with_a_test_is_said(pytester: pytest.Pytester, plans: Path, text: str, said: str) -> None:
    write_plan(plans / "lab", {"tests/test_plan.py": text})
    result = run_here(pytester, "plans/lab")
    assert result.ret != 0
    result.stdout.fnmatch_lines_random([said])
    assert "AssertionError" not in result.stdout.str()


def test_failing_test_shows_values_and_runs_and_logs(pytester: pytest.Pytester, plans: Path) -> None:
    wrong = (
        TEST.replace("== 4", "== 5") + "\n\nasync def test_fault(world):\n    world.fake('ping', does=lambda: 'x')\n"
    )
    write_plan(plans / "lab", {"tests/test_plan.py": wrong, "tasks/report.yaml": one_step("log", "{message: hello}")})
    result = run_here(pytester, "plans/lab")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*assert None == 5*",
            "*+  where None = <Run report * succeeded>.result*",
            "*runs of this world*",
            "run lab/report *: succeeded",
            "*log of this world*",
            "*info*hello*",
        ]
    )


def test_fake_that_could_not_be_real_fails_a_test_that_survived_it(pytester: pytest.Pytester, plans: Path) -> None:
    text = 'async def test_it(world):\n    world.fake("ping", does=lambda: "x")\n    await world.run("report")\n'
    write_plan(plans / "lab", {"tests/test_plan.py": text.replace("lambda:", "lambda host:")})
    result = run_here(pytester, "plans/lab")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*FakeError: the fake of lab.ping cannot give 'x'*"])


DEADLOCKS = {
    "event": "    await anyio.Event().wait()",
    "run": '    await world.run("waits")',
    "settle": '    await world.start("waits")\n    await world.settle()',
    "until": '    run = await world.start("waits")\n    await world.until(run, state="succeeded")',
}


@pytest.mark.parametrize("how", DEADLOCKS)
def test_deadlock_shows_the_line_of_the_test_and_nothing_of_libraries(
    pytester: pytest.Pytester, plans: Path, how: str
) -> None:
    text = f"import anyio\n\n\nasync def test_it(world):\n{DEADLOCKS[how]}\n"
    write_plan(plans / "lab", {"tests/test_plan.py": text, "tasks/waits.yaml": one_step("event.wait", "{name: a.b}")})
    result = run_here(pytester, "plans/lab")
    result.assert_outcomes(failed=1)
    shown = result.stdout.str()
    assert "Deadlock: nothing is scheduled and nothing is in flight" in shown
    assert f">   {DEADLOCKS[how].splitlines()[-1]}" in shown.splitlines()
    assert "the test: " in shown
    assert not [bad for bad in ("contextlib", "_asyncio.py", "TestRunner", "Task-") if bad in shown], shown


HANGS = """\
import threading
import time
from aura import Context, action

@action
def blocks() -> None:
    threading.Event().wait()

@action
def loops() -> None:
    while True:
        time.sleep(0.001)

@action
def asks(ctx: Context) -> None:
    import anyio
    ctx.from_thread(anyio.sleep, 3600)
"""
WITH_HANGS = """\
import anyio

async def test_run(world):
    await world.run("blocks")

async def test_body(world):
    await world.start("loops")
    await anyio.sleep_forever()

def test_swept(sweep):
    sweep("blocks").assert_clean()

async def test_later(world):
    await world.advance(days=1)
    await world.run("asks")
"""


def test_action_that_never_returns_fails_its_test_and_no_other(pytester: pytest.Pytester) -> None:
    tasks = {f"tasks/{name}.yaml": one_step(name) for name in ("blocks", "loops", "asks")}
    write_plan(pytester.path / "plans" / "lab", {"actions.py": HANGS, "tests/test_plan.py": WITH_HANGS, **tasks})
    pytester.makeini("[pytest]\naura_thread_timeout = 500ms\n")
    result = run_beside(pytester, "-W", "error", "-v")
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines_random(
        ["*::test_later PASSED*"]
        + [f"*`def` action has not returned for 0.5 s*step 'a' of run *, at lab/actions.py:{n}" for n in (7, 12)]
    )


def test_time_for_threads_that_is_no_time_is_said(pytester: pytest.Pytester, plans: Path) -> None:
    result = run_here(pytester, "-o", "aura_thread_timeout=soon", str(plans))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: aura_thread_timeout = soon: 'soon' is not a duration*"])


def test_plan_that_cannot_be_served_is_said_with_its_place(pytester: pytest.Pytester, plans: Path) -> None:
    write_plan(plans / "lab", {"tasks/report.yaml": "steps:\n  a: {action: pong}\n"})
    result = run_here(pytester, "plans/lab")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines_random(["*lab/tasks/report.yaml:2:*pong*"])


def test_hypothesis_with_a_world_is_refused_with_a_reason(pytester: pytest.Pytester, plans: Path) -> None:
    text = (
        "from hypothesis import given, strategies as st\n\n@given(st.integers())\n"
        "async def test_it(world, n):\n    pass\n"
    )
    write_plan(plans / "lab", {"tests/test_plan.py": text})
    result = run_here(pytester, "-p", "hypothesispytest", "plans/lab")
    assert result.ret != 0
    result.stdout.fnmatch_lines_random(["*FailedHealthCheck*"])
