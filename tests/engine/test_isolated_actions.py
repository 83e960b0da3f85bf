"""``@action(isolation="process")`` under the real engine: what its code sees, gives, raises and asks for."""

from pathlib import Path
from typing import Any

import pytest
from tests.fakes.children import running_of
from tests.fakes.isolated import begun, ended, stop, world_of

from aura.testing.world import World


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param("def do() -> int:\n    return 1", 1, id="def"),
        pytest.param("async def do() -> int:\n    await anyio.sleep(0)\n    return 1", 1, id="async def"),
        pytest.param("def do() -> list[str]:\n    return halves('ab')", ["a", "b"], id="its own modules"),
        pytest.param("def do() -> str:\n    return Path.cwd().parent.name", "work", id="in the workdir"),
        pytest.param("def do(ctx: Context) -> bool:\n    return ctx.workdir == Path.cwd()", True, id="ctx.workdir"),
        pytest.param("def do(ctx: Context) -> list:\n    return [ctx.step, ctx.attempt]", ["a", 1], id="ctx.step"),
        pytest.param("def do(ctx: Context) -> str:\n    return os.environ['AURA_STEP']", "a", id="marks"),
        pytest.param("def do() -> date:\n    return date(2026, 1, 2)", "2026-01-02", id="a date"),
        pytest.param("def do() -> Path:\n    return Path('/x')", "/x", id="a path"),
        pytest.param("def do(ctx: Context) -> bool:\n    return ctx.time_left() > 9e9", True, id="time_left"),
        pytest.param("def do(ctx: Context) -> str:\n    return ctx.vars['city']", "Ghent", id="vars"),
        pytest.param("def do() -> None:\n    print('x')", None, id="null"),
        pytest.param("def do() -> str:\n    return 'é\\U0001f600\\0'", "é\U0001f600\0", id="text"),
        pytest.param(
            "def do() -> int:\n    return len(os.listdir('/proc/self/task'))", 2, id="one thread beside its own"
        ),
        pytest.param("def do() -> str:\n    return sys.stdin.read()", "", id="nothing to read"),
        pytest.param(
            "def do() -> bool:\n    return os.getpid() == os.getpgrp() == os.getsid(0)", True, id="its own session"
        ),
    ],
)
async def test_action_runs_in_its_own_process(tmp_path: Path, code: str, expected: Any) -> None:
    async with world_of(tmp_path, code, plan="vars: {city: Ghent}") as world:
        run = await world.run("t")
        assert (run.state, run.steps["a"].output) == ("succeeded", expected), run.explain()
        assert not running_of(run.cid)


async def test_parameters_have_the_types_of_the_annotations(tmp_path: Path) -> None:
    code = """
@dataclass
class Box:
    width: int

@action(isolation="process")
def check(box: Box, day: date, wait: timedelta, names: list[str] = ["x"]) -> list[str]:
    return [type(box).__name__, day.isoformat(), str(wait.total_seconds()), *names]
"""
    params = "{box: {width: 2}, day: 2026-01-02, wait: PT90S}"
    async with world_of(
        tmp_path, "def do() -> None: ..." + code, f"steps: {{a: {{action: check, params: {params}}}}}"
    ) as world:
        run = await world.run("t")
        assert run.steps["a"].output == ["Box", "2026-01-02", "90.0", "x"], run.explain()


@pytest.mark.parametrize(
    ("code", "type", "message"),
    [
        pytest.param("def do() -> None:\n    raise ValueError('no')", "ValueError", "no", id="its own error"),
        pytest.param("async def do() -> None:\n    raise ValueError('no')", "ValueError", "no", id="async def"),
        pytest.param("def do() -> None:\n    sys.exit(3)", "SystemExit", "the code called sys.exit(3)", id="sys.exit"),
        pytest.param("def do() -> None:\n    os._exit(0)", "ProcessDied", "exit code 0 before it gave", id="os._exit"),
        pytest.param("def do() -> None:\n    os.abort()", "ProcessDied", "killed by SIGABRT before", id="abort"),
        pytest.param("def do() -> None:\n    os.kill(os.getpid(), 9)", "ProcessDied", "no memory left", id="SIGKILL"),
        pytest.param("def do() -> None:\n    os.kill(os.getpid(), 15)", "ProcessDied", "by SIGTERM", id="SIGTERM"),
        pytest.param("def do() -> set:\n    return {1}", "bad_output", "{1} is not JSON", id="a set"),
        pytest.param("def do() -> float:\n    return float('nan')", "bad_output", "nan is not JSON", id="nan"),
        pytest.param("def do() -> str:\n    return '\\ud800'", "bad_output", "has no JSON text", id="half a character"),
        pytest.param("def do() -> str:\n    return 'x' * 1048575", "bad_output", "is 1048577 bytes of", id="too large"),
        pytest.param("def do() -> int:\n    return 'x'", "bad_output", "its annotation does not", id="annotation"),
        pytest.param(
            "def do() -> None:\n    raise ExceptionGroup('g', [OSError('a'), OSError('b')])",
            "OSError", "a (and 1 more errors)", id="a group",
        ),
        pytest.param(
            "def do() -> None:\n    raise type('Odd', (OSError,), {'__str__': lambda self: 1 / 0})",
            "Odd", "<Odd, whose text cannot be had: ZeroDivisionError>", id="an error without a text",
        ),
        pytest.param(
            "def do() -> None:\n    threading.Thread(target=print).start()\n    raise RecursionError", "RecursionError",
            "", id="no text",
        ),
    ],
)  # fmt: skip
async def test_failure_is_told(tmp_path: Path, code: str, type: str, message: str) -> None:
    async with world_of(tmp_path, code) as world:
        run = await world.run("t")
        assert run.error is not None, run.explain()
        assert (run.state, run.error["type"]) == ("failed", type)
        assert message in run.error["message"]
        assert not running_of(run.cid)


async def test_error_names_the_line_of_the_plan_and_its_traceback_is_in_the_log(tmp_path: Path) -> None:
    async with world_of(tmp_path, "def do() -> None:\n    os.stat('/no/such')\n") as world:
        run = await world.run("t")
        assert run.error is not None
        assert run.error["type"] == "FileNotFoundError"
        assert run.error["file"].startswith("lab@")
        assert run.error["file"].endswith("/actions/main.py")
        line = (tmp_path / "lab/actions/main.py").read_text().split("\n")[run.error["line"] - 1]
        assert line == "    os.stat('/no/such')"
        shown = [e.fields for e in await entries(world, run.cid) if "exception" in e.fields]
        assert "os.stat('/no/such')" in shown[0]["exception"]
        assert "isolation" not in shown[0]["exception"]


async def entries(world: World, cid: str) -> list[Any]:
    found = await world.engine.history.run_entries(cid, 0, 1000)
    return [entry for entry in found if entry.kind == "log"]


CALLS = """
def do(ctx: Context) -> list:
    found = [ctx.from_thread(ctx.run, "sub", {"n": 2})]
    try:
        ctx.from_thread(ctx.run, "none")
    except Exception as error:
        found.append([type(error).__name__, error.cause["type"]])
    return found
"""
ASYNC_CALLS = """
async def do(ctx: Context) -> list:
    found = [await ctx.run("sub", {"n": 2})]
    try:
        await ctx.run("none")
    except Exception as error:
        found.append([type(error).__name__, error.cause["type"]])
    return found
"""
SUB = """
inputs: {n: integer}
steps: {b: {action: log, params: {message: "{{ inputs.n }}"}}}
returns: "{{ inputs.n * 2 }}"
"""


@pytest.mark.parametrize("code", [pytest.param(CALLS, id="def"), pytest.param(ASYNC_CALLS, id="async def")])
async def test_ctx_runs_tasks_and_their_errors_come_back(tmp_path: Path, code: str) -> None:
    async with world_of(tmp_path, code, tasks__sub=SUB) as world:
        run = await world.run("t")
        assert run.steps["a"].output == [4, ["TaskFailed", "unknown_task"]], run.explain()
        assert [child.state for child in world.runs("sub")] == ["succeeded"]


MANY_CALLS = """
async def do(ctx: Context) -> list:
    return sorted(await asyncio.gather(*(ctx.run("sub", {"n": n}) for n in range(20))))
"""


async def test_many_calls_at_once_are_answered_each(tmp_path: Path) -> None:
    async with world_of(tmp_path, MANY_CALLS, tasks__sub=SUB) as world:
        run = await world.run("t")
        assert run.steps["a"].output == [2 * n for n in range(20)], run.explain()


GIVEN_UP = """
async def do(ctx: Context) -> str:
    with anyio.move_on_after(0.2):
        await ctx.run("hang")
    with anyio.fail_after(20):
        while not await ctx.state.get("gone"):
            await anyio.sleep(0.01)
    return "went on"
"""


async def test_call_that_is_given_up_there_is_given_up_here(tmp_path: Path) -> None:
    hang = "steps: {h: {action: event.wait, params: {name: never}}}\n"
    hang += "on_cancel: {c: {action: state.set, params: {key: gone, value: true}}}"
    async with world_of(tmp_path, GIVEN_UP, tasks__hang=hang) as world:
        run = await world.run("t")
        assert run.steps["a"].output == "went on", run.explain()
        assert [child.state for child in world.runs("hang")] == ["cancelled"]


LOG = """
def do(ctx: Context) -> None:
    print("printed")
    print("wrong", file=sys.stderr)
    ctx.log.info("said", n=1, odd=object)
    ctx.log.warning("careful")
    try:
        1 / 0
    except ZeroDivisionError:
        ctx.log.exception("caught")
    os.system("echo of a child")
    sys.stdout.write("no line end")
"""


async def test_what_it_logs_and_prints_is_in_the_log(tmp_path: Path) -> None:
    async with world_of(tmp_path, LOG) as world:
        run = await world.run("t")
        found = {(entry.level, entry.message): entry for entry in await entries(world, run.cid)}
        wanted = {(20, "printed"), (30, "wrong"), (20, "said"), (30, "careful"), (40, "caught"), (20, "of a child")}
        assert wanted | {(20, "no line end")} <= found.keys()
        assert found[20, "said"].fields == {"n": 1, "odd": "<class 'object'>"}
        assert "ZeroDivisionError" in found[40, "caught"].fields["exception"]
        assert {entry.step for entry in found.values()} == {"a"}


AFTER = """
def do(ctx: Context) -> list:
    refused = []
    child = os.fork()
    if child == 0:
        try:
            ctx.log.info("from a fork")
        except Exception as error:
            os._exit(7 if type(error).__name__ == "ContextClosed" else 8)
    refused.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    def later():
        threading.main_thread().join()
        try:
            ctx.progress(1)
        except Exception as error:
            print("too late:", type(error).__name__)
    threading.Thread(target=later).start()
    return refused
"""


async def test_ctx_refuses_in_a_fork_and_after_the_end(tmp_path: Path) -> None:
    async with world_of(tmp_path, AFTER) as world:
        run = await world.run("t")
        assert run.steps["a"].output == [7], run.explain()
        texts = [entry.message for entry in await entries(world, run.cid)]
        assert "too late: ContextClosed" in texts
        assert "from a fork" not in texts


async def test_code_of_the_generation_runs_whatever_is_in_the_folder_now(tmp_path: Path) -> None:
    code = "def do() -> list[str]:\n    from .cut import halves\n    return halves('ab')"
    async with world_of(tmp_path, code) as world:
        (tmp_path / "lab/actions/cut.py").write_text("raise RuntimeError('another version')")
        run = await world.run("t")
        assert run.steps["a"].output == ["a", "b"], run.explain()


async def test_retry_matches_the_bases_of_an_error(tmp_path: Path) -> None:
    code = """
def do(ctx: Context) -> int:
    if ctx.attempt == 1:
        raise FileNotFoundError("not yet")
    return ctx.attempt
"""
    task = "steps: {a: {action: do, retry: {attempts: 2, delay: 100ms, errors: [OSError]}}}"
    async with world_of(tmp_path, code, task) as world:
        run = await world.run("t")
        assert run.steps["a"].output == 2, run.explain()


@pytest.mark.parametrize(
    ("decorator", "message"),
    [
        pytest.param('isolation="thread"', "isolation='thread': it is 'process', or not given", id="another word"),
        pytest.param("isolation=True", "isolation=True: it is 'process', or not given", id="no text"),
    ],
)
async def test_other_isolation_is_a_problem_of_the_plan(tmp_path: Path, decorator: str, message: str) -> None:
    code = f"def do() -> None: ...\n\n@action({decorator})\ndef other() -> None: ..."
    with pytest.raises(AssertionError, match=message):
        async with world_of(tmp_path, code):
            pass


async def test_twenty_at_once(tmp_path: Path) -> None:
    code = "def do(n: int) -> int:\n    return n * n"
    task = 'steps: {a: {action: do, loop: {times: 20, parallelism: 20}, params: {n: "{{ loop.index }}"}}}'
    async with world_of(tmp_path, code, task) as world:
        run = await world.run("t")
        assert run.steps["a"].output == [n * n for n in range(20)], run.explain()


REMEMBERS = """
async def do(ctx: Context) -> list:
    await ctx.state.set("n", [1, {"a": None}])
    found = [await ctx.state.get("n"), await ctx.state.get("none", 5), await ctx.state.keys()]
    found += [await ctx.state.compare_and_set("n", 2, 3), await ctx.state.delete("n"), await ctx.state.delete("n")]
    try:
        await ctx.state.set("", 1)
    except Exception as error:
        found.append(type(error).__name__)
    return found
"""


async def test_ctx_state_is_the_plans(tmp_path: Path) -> None:
    async with world_of(tmp_path, REMEMBERS) as world:
        run = await world.run("t")
        expected = [[1, {"a": None}], 5, ["n"], False, True, False, "StateInvalid"]
        assert run.steps["a"].output == expected, run.explain()


CHECKPOINTS = """
def do(ctx: Context) -> list:
    found = ctx.checkpointed
    ctx.from_thread(ctx.checkpoint, {"at": ctx.attempt})
    if ctx.attempt == 1:
        raise OSError("again")
    return [found, ctx.checkpointed]
"""


async def test_checkpoint_is_there_at_the_next_try(tmp_path: Path) -> None:
    task = "steps: {a: {action: do, retry: {attempts: 2, delay: 100ms}}}"
    async with world_of(tmp_path, CHECKPOINTS, task) as world:
        run = await world.run("t")
        assert run.steps["a"].output == [{"at": 1}, {"at": 2}], run.explain()


EMITS = """
async def do(ctx: Context) -> list:
    found = [bool(await ctx.emit("lab.done", {"n": 1}))]
    try:
        await ctx.emit("run.started")
    except Exception as error:
        found.append(str(error))
    return found
"""


async def test_event_is_emitted_and_a_refusal_comes_back(tmp_path: Path) -> None:
    async with world_of(tmp_path, EMITS) as world:
        run = await world.run("t")
        emitted, refused = run.steps["a"].output
        assert emitted
        assert "run.started" in refused, run.explain()


async def test_progress_comes_with_its_last_word(tmp_path: Path) -> None:
    code = (
        "def do(ctx: Context) -> None:\n    for n in range(10_000): ctx.progress(n, 9999, 'x')\n    time.sleep(0.3)\n"
    )
    code += "    Path('ready').write_text('\\n')\n    time.sleep(100)"
    async with world_of(tmp_path, code) as world:
        run = await begun(world)
        assert run.live is not None
        assert run.live.progress["a"] == {"done": 9999.0, "total": 9999.0, "message": "x"}
        stop(world, run)
        await ended(world, run)
