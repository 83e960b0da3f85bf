"""Generations: import from the snapshot, what a failing load leaves behind, and that nothing keeps an old one alive."""

import asyncio
import gc
import linecache
import os
import sys
import threading
import time
import traceback
import weakref
from pathlib import Path
from typing import Any

import anyio.lowlevel
import msgspec
import pytest
from tests.fakes.plans import LOG, SHIPPED, write_files

from aura.errors import ActionMissing, ConfigError, RequestError
from aura.loading.generations import Found, Generations, PlanStatus
from aura.loading.importing import Abandonable, Package
from aura.plan import Semaphore

ACTIONS = """
    from aura import action, Context
    from .values import VALUE

    @action
    def value(ctx: Context, plus: int = 0) -> int:
        '''Give a value.'''
        return VALUE + plus

    @action
    def fail():
        raise ValueError(VALUE)
"""
LAB = {
    "lab/plan.yaml": "title: Lab\ndescription: A plan\nvars: {port: 1}\n",
    "lab/tasks/t.yaml": "steps: {a: {action: value}}\n",
    "lab/actions/main.py": ACTIONS,
    "lab/actions/values.py": "VALUE = 1\n",
}


def generations(root: Path, files: dict[str, str] | None = None, **settings: Any) -> Generations:
    write_files(root, LAB if files is None else files)
    return Generations(root, SHIPPED, **settings)


def values(root: Path, text: str) -> None:
    (root / "lab/actions/values.py").write_text(text)


async def load_one(plans: Generations) -> PlanStatus:
    (status,) = await plans.reload()
    return status


def call(plans: Generations, name: str = "lab.value") -> Any:
    return plans.current("lab").action(name).function(None)


async def test_plan_is_loaded(tmp_path: Path) -> None:
    plans = generations(tmp_path)
    status = await load_one(plans)
    assert (status.name, status.title, status.description, status.task_count) == ("lab", "Lab", "A plan", 1)
    assert (status.status, status.errors, status.warnings) == ("ready", (), ())
    generation, task = plans.task("lab", "t")
    assert generation.hash == status.generation
    assert task.steps["a"].action == "lab.value"
    assert list(generation.actions) == ["value", "fail"]
    assert generation.action("log") is SHIPPED["log"]
    assert generation.action("lab.value").description == "Give a value."


@pytest.mark.parametrize("name", ["lab.nope", "nope", "other.value"])
async def test_action_that_is_not_there(tmp_path: Path, name: str) -> None:
    plans = generations(tmp_path)
    await plans.reload()
    with pytest.raises(ActionMissing):
        plans.current("lab").action(name)


async def test_old_generation_keeps_its_code_and_its_source(tmp_path: Path) -> None:
    plans = generations(tmp_path)
    await plans.reload()
    old = plans.current("lab")
    values(tmp_path, "VALUE = 2\n")
    await plans.reload()
    assert (old.action("lab.value").function(None), call(plans)) == (1, 2)
    (tmp_path / "lab/actions/main.py").write_text("# quite another text\n" * 20)
    with pytest.raises(ValueError, match="1") as caught:
        old.action("lab.fail").function()
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert frame.filename == f"{old.code_prefix}actions/main.py"
    assert frame.line == "raise ValueError(VALUE)"


async def test_same_size_within_a_second_is_another_version(tmp_path: Path) -> None:
    plans = generations(tmp_path)
    await plans.reload()
    stat = (tmp_path / "lab/actions/values.py").stat()
    values(tmp_path, "VALUE = 3\n")
    os.utime(tmp_path / "lab/actions/values.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    await plans.reload()
    assert call(plans) == 3
    assert not list(tmp_path.rglob("*.pyc"))


async def test_unchanged_plan_keeps_its_generation(tmp_path: Path) -> None:
    plans = generations(tmp_path)
    await plans.reload()
    first = plans.current("lab")
    await plans.reload()
    assert plans.current("lab") is first


def packages() -> set[str]:
    """The packages of plans called lab that are loaded in this process."""
    return {name.split(".")[0] for name in sys.modules if name.startswith("_aura_plan") and "lab" in name}


async def test_nothing_of_ours_keeps_an_old_generation(tmp_path: Path) -> None:
    before = packages()  # other tests leave some behind, with work that hangs
    plans = generations(tmp_path)
    await plans.reload()
    old = weakref.ref(plans.current("lab"))
    code = weakref.ref(plans.current("lab").action("lab.value").function)
    prefix = plans.current("lab").code_prefix
    plans.task("lab", "t")
    values(tmp_path, "VALUE = 2\n")
    await plans.reload()
    assert old() is None
    gc.collect()
    assert code() is None
    assert not [file for file in linecache.cache if file.startswith(prefix)]
    assert len(packages() - before) == 1


async def test_import_inside_a_function_finds_the_same_version(tmp_path: Path) -> None:
    late = "from aura import action\n@action\ndef value():\n    from .values import VALUE\n    return VALUE\n"
    plans = generations(tmp_path, LAB | {"lab/actions/main.py": late})
    await plans.reload()
    old = plans.current("lab").action("lab.value").function
    held = plans.current("lab")
    values(tmp_path, "VALUE = 2\n")
    await plans.reload()
    assert (old(), plans.current("lab").action("lab.value").function()) == (1, 2)
    assert held.hash


async def test_module_knows_its_folder_and_leaves_the_path_alone(tmp_path: Path) -> None:
    code = "from aura import action\n@action\ndef where() -> str:\n    return __file__\n"
    before = list(sys.path)
    plans = generations(tmp_path, {"lab/actions.py": code})
    await plans.reload()
    assert call_plain(plans, "lab.where") == str(tmp_path / "lab/actions.py")
    assert sys.path == before


def call_plain(plans: Generations, name: str) -> Any:
    return plans.current("lab").action(name).function()


async def test_two_plans_do_not_see_each_others_modules(tmp_path: Path) -> None:
    code = "from aura import action\nfrom .values import V\n@action\ndef v() -> str:\n    return V\n"
    files = {f"{plan}/{file}": text for plan in "ab" for file, text in {"actions/x.py": code}.items()}
    plans = generations(tmp_path, files | {"a/actions/values.py": "V = 'a'", "b/actions/values.py": "V = 'b'"})
    await plans.reload()
    assert [plans.current(plan).action(f"{plan}.v").function() for plan in "ab"] == ["a", "b"]


async def test_shipped_action_imported_by_a_plan_is_not_its_own(tmp_path: Path) -> None:
    plans = generations(tmp_path, {"lab/actions.py": "from aura.builtin.flow import fail, log\n"})
    assert (await load_one(plans)).status == "ready"
    assert not plans.current("lab").actions


# -- loads that fail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        pytest.param("x = 1 / 0\n", "lab/actions/values.py:1:1: the import failed: ZeroDivisionError", id="raises"),
        pytest.param("import sys\nsys.exit(3)\n", "values.py:2:1: the import called sys.exit(3)", id="exit"),
        pytest.param("raise KeyboardInterrupt\n", "lab/actions/values.py:1:1: the import failed: Key", id="interrupt"),
        pytest.param("import asyncio\nraise asyncio.CancelledError\n", "values.py:2:1: the import failed", id="cancel"),
        pytest.param("raise BaseExceptionGroup('g', [SystemExit()])\n", "values.py:1:1: the import failed", id="group"),
        pytest.param("def f(:\n", "lab/actions/values.py:1:7: SyntaxError: invalid syntax", id="syntax"),
        pytest.param("", "main.py:3:1: the import failed: ImportError: cannot import name", id="name"),
        pytest.param("import no_such_module\n", "values.py:1:1: the import failed: ModuleNotFoundError", id="module"),
        pytest.param("import main\n", "imports inside a plan are relative, such as", id="absolute"),
        pytest.param(
            "class E(Exception):\n    def __str__(self): raise OSError\nraise E\n",
            "values.py:3:1: the import",
            id="str",
        ),
    ],
)
async def test_broken_edit_keeps_the_old_generation(tmp_path: Path, code: str, problem: str) -> None:
    plans = generations(tmp_path)
    ready = await load_one(plans)
    values(tmp_path, code)
    status = await load_one(plans)
    assert (status.status, status.generation, status.title) == ("stale", ready.generation, "Lab")
    assert problem in str(status.errors[0])
    assert call(plans) == 1


@pytest.mark.parametrize("code", ["x = 1 / 0\n", "import sys\nsys.exit()\n"], ids=["error", "exit"])
async def test_failed_load_leaves_nothing_behind(tmp_path: Path, code: str) -> None:
    plans = generations(tmp_path)
    await plans.reload()
    gc.collect()
    before = packages_below(tmp_path)
    gc.disable()
    try:
        values(tmp_path, code)
        await plans.reload()
        await anyio.lowlevel.checkpoint()  # the loop lets go of what woke us
        join_imports()
        assert packages_below(tmp_path) == before
    finally:
        gc.enable()


def join_imports() -> None:
    for thread in threading.enumerate():
        if thread.name == "aura import of lab":
            thread.join(5)
            assert not thread.is_alive()


def packages_below(root: Path) -> list[str]:
    """The private packages that are still there, alive or in sys.modules, for plans below a folder."""
    alive = [t for t in gc.get_objects() if isinstance(t, Package) and t.directory.startswith(str(root))]
    return [package.name for package in alive if package.name in sys.modules] + [package.name for package in alive]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda file: os.mkfifo(file), id="fifo"),
        pytest.param(lambda file: file.symlink_to("/etc/hostname"), id="link-out"),
        pytest.param(lambda file: file.symlink_to("nope"), id="unreadable"),
    ],
)
async def test_file_that_cannot_be_read_any_more_keeps_the_old_generation(tmp_path: Path, spoil: Any) -> None:
    plans = generations(tmp_path)
    ready = await load_one(plans)
    (tmp_path / "lab/tasks/t.yaml").unlink()
    spoil(tmp_path / "lab/tasks/t.yaml")
    status = await load_one(plans)
    assert (status.status, status.generation) == ("stale", ready.generation)
    assert status.errors[0].file == "lab/tasks/t.yaml"


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        pytest.param(
            "while True: pass\n", "lab/actions/values.py:1:1: the import hangs: it took longer than", id="loop"
        ),
        pytest.param("import time\ntime.sleep(2)\n", "lab/actions/values.py:2:1: the import hangs", id="sleep"),
    ],
)
async def test_import_that_hangs_is_given_up(tmp_path: Path, code: str, problem: str) -> None:
    plans = generations(tmp_path, import_timeout=1.0)
    ready = await load_one(plans)
    values(tmp_path, code)
    status = await load_one(plans)
    assert (status.status, status.generation) == ("stale", ready.generation)
    assert problem in str(status.errors[0])
    assert call(plans) == 1


#: Writes a word for each import, and waits for a file.
SLOW = """
import time
from pathlib import Path
with Path({0!r}).open("a") as log:
    log.write("begun ")
while not Path({0!r} + ".go").exists():
    time.sleep(0.005)
VALUE = {1}
"""


def hurried(plans: Generations, *names: str) -> list[Found]:
    """What the watcher reads."""
    return [Found(name, plans.read(name), hurried=True) for name in names]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.loading.generations.PATIENCE", 0.02)


@pytest.mark.usefixtures("impatient")
async def test_slow_import_goes_on_while_others_are_loaded(tmp_path: Path) -> None:
    log = tmp_path / "log"
    plans = generations(tmp_path / "plans", LAB | {f"other{path[3:]}": text for path, text in LAB.items()})
    await plans.reload()
    for number in (2, 3):
        values(tmp_path / "plans", SLOW.format(str(log), 7))
        (tmp_path / "plans/other/actions/values.py").write_text(f"VALUE = {number}\n")
        statuses = await plans.reload(lambda: hurried(plans, "lab", "other"))
        assert [one.status for one in statuses] == ["ready", "ready"]
        assert (call(plans), plans.current("other").action("other.value").function(None)) == (1, number)
        assert plans.put_off == {"lab"}
    (tmp_path / "log.go").touch()
    join_imports()
    await plans.reload(lambda: [*hurried(plans, "lab"), Found("other")])
    assert (call(plans), log.read_text()) == (7, "begun ")
    assert not plans.put_off


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["changed", "changed to one as slow", "gone", "closed", "too long"])
async def test_slow_import_that_nobody_wants_any_more_ends(tmp_path: Path, how: str) -> None:
    plans = generations(tmp_path / "plans", import_timeout=0.1 if how == "too long" else 30.0)
    await plans.reload()
    values(tmp_path / "plans", SLOW.format(str(tmp_path / "log"), 7))
    await plans.reload(lambda: hurried(plans, "lab"))
    if how == "closed":
        plans.close()
    elif how == "gone":
        await plans.reload(list)
    elif how == "changed":
        values(tmp_path / "plans", "VALUE = 5")
        await plans.reload(lambda: hurried(plans, "lab"))
        assert call(plans) == 5
    elif how == "changed to one as slow":
        values(tmp_path / "plans", SLOW.format(str(tmp_path / "log"), 8))
        await plans.reload(lambda: hurried(plans, "lab"))
        plans.give_up()
    else:
        await anyio.sleep(0.1)
        (status,) = await plans.reload(lambda: hurried(plans, "lab"))
        assert "the import hangs: it took longer than 0.1s" in str(status.errors[0])
    join_imports()


def two_plans(log: Path, other: str) -> dict[str, str]:
    """The plan ``lab``, whose import is slow, and after it ``other``."""
    second = {f"other{path[3:]}": text for path, text in LAB.items()}
    slow = SLOW.format(str(log), 7)
    return {**LAB, **second, "lab/actions/values.py": slow, "other/actions/values.py": other}


@pytest.mark.usefixtures("impatient")
async def test_whole_load_imports_others_while_one_is_slow(tmp_path: Path) -> None:
    log = tmp_path / "log"
    wakes = f"from pathlib import Path\nPath({str(log)!r} + '.go').touch()\nVALUE = 3\n"
    plans = generations(tmp_path / "plans", two_plans(log, wakes), import_timeout=5.0)
    assert [(one.name, one.status) for one in await plans.reload()] == [("lab", "ready"), ("other", "ready")]
    other = plans.current("other").action("other.value")
    assert (call(plans), other.function(None), log.read_text()) == (7, 3, "begun ")


@pytest.mark.usefixtures("impatient")
async def test_whole_load_that_is_cancelled_gives_all_imports_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    plans = generations(tmp_path / "plans", two_plans(log, SLOW.format(str(log), 3)), import_timeout=30.0)
    async with anyio.create_task_group() as group:  # one child: the load, cancelled once both imports are under way
        group.start_soon(plans.reload)
        while not log.exists() or log.read_text().count("begun") < 2:  # noqa: ASYNC110 - threads wake nobody
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    join_imports()
    assert plans.statuses() == []


@pytest.mark.usefixtures("impatient")
async def test_whole_load_waits_for_a_slow_import_that_is_under_way(tmp_path: Path) -> None:
    plans = generations(tmp_path / "plans", LAB | {"lab/actions/values.py": SLOW.format(str(tmp_path / "log"), 7)})
    assert await plans.reload(lambda: hurried(plans, "lab")) == []  # a new plan is not shown before that
    asyncio.get_running_loop().call_later(0.1, (tmp_path / "log.go").touch)
    assert [one.status for one in await plans.reload()] == ["ready"]
    assert (call(plans), (tmp_path / "log").read_text()) == (7, "begun ")


async def test_mended_plan_is_ready_again(tmp_path: Path) -> None:
    plans = generations(tmp_path)
    first = await load_one(plans)
    values(tmp_path, "(")
    assert (await load_one(plans)).status == "stale"
    values(tmp_path, "VALUE = 1\n")
    assert await load_one(plans) == first


@pytest.mark.parametrize(
    ("path", "text"),
    [
        pytest.param("lab/tasks/t.yaml", "", id="emptied"),
        pytest.param("lab/tasks/t.yaml", "steps: {a: {action: valeu}}", id="action"),
        pytest.param("lab/tasks/t.yaml", "steps: {a: {action: value, params: {plus: x}}}", id="type-after-the-import"),
        pytest.param("lab/plan.yaml", "", id="plan-yaml-emptied"),
    ],
)
async def test_broken_yaml_keeps_the_old_generation(tmp_path: Path, path: str, text: str) -> None:
    plans = generations(tmp_path)
    ready = await load_one(plans)
    (tmp_path / path).write_text(text)
    status = await load_one(plans)
    assert (status.status, status.generation) == ("stale", ready.generation)
    assert status.errors[0].file == path


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        pytest.param("@action\ndef f(*hosts): pass\n", "parameter hosts must be an ordinary named one", id="signature"),
        pytest.param("@action\ndef f(x: complex): pass\n", "is not a type that JSON can become", id="type"),
        pytest.param(
            "@action\ndef f() -> complex: pass\n", "result: <class 'complex'> is not a type that", id="result"
        ),
        pytest.param("@action\ndef f(x: 'Nope'): pass\n", "name 'Nope' is not defined", id="annotation"),
        pytest.param(
            "for n in (1, 2):\n    @action(name='f')\n    def f(): pass\n    globals()[f'f{n}'] = f\n",
            "another",
            id="t",
        ),
    ],
)
async def test_action_that_cannot_be_one(tmp_path: Path, code: str, problem: str) -> None:
    plans = generations(tmp_path, {"lab/actions.py": f"from aura import action\n{code}"})
    status = await load_one(plans)
    assert status.status == "broken"
    assert status.errors[0].file == "lab/actions.py"
    assert problem in status.errors[0].message


@pytest.mark.parametrize(
    ("annotation", "result", "schema"),
    [
        pytest.param("object", {"a": [1]}, {"description": "Anything"}, id="object"),
        pytest.param("dict[str, object]", {"a": [1]}, None, id="objects"),
        pytest.param("Path", Path("/x"), {"type": "string"}, id="path"),
        pytest.param("list[Path]", [Path("/x")], {"type": "array", "items": {"type": "string"}}, id="paths"),
        pytest.param("NoReturn", None, {}, id="never"),
    ],
)
async def test_result_of_an_action_may_be_annotated_with(
    tmp_path: Path, annotation: str, result: Any, schema: dict[str, Any] | None
) -> None:
    head = "from pathlib import Path\nfrom typing import NoReturn\nfrom aura import action\n"
    plans = generations(tmp_path, {"lab/actions.py": f"{head}@action\ndef f() -> {annotation}: ...\n"})
    assert (await load_one(plans)).errors == ()
    action = plans.current("lab").actions["f"]
    assert schema is None or action.result_schema() == schema
    assert action.check_result(result) == msgspec.to_builtins(result, enc_hook=str)


async def test_action_that_only_the_import_can_find(tmp_path: Path) -> None:
    code = """
        from aura import action

        def make(number):
            def get(): return number
            get.__name__ = f"get_{number}"
            return action(get)

        get_1 = make(1)
        """
    plans = generations(tmp_path, {"lab/actions.py": code, "lab/tasks/t.yaml": "steps: {a: {action: get_1}}"})
    assert (await load_one(plans)).errors == ()
    write_files(tmp_path, {"lab/tasks/t.yaml": "steps: {a: {action: get_2}}"})
    status = await load_one(plans)
    assert str(status.errors[0]).startswith(
        "lab/tasks/t.yaml:1:21: there is no action 'get_2' in this plan; did you mean"
    )


def _pass_on(told: threading.Event, tell: threading.Event) -> None:
    told.wait()
    tell.set()


async def test_call_that_has_ended_harms_no_thread_that_has_its_number_now() -> None:
    for _ in range(1000):
        call = Abandonable(bool, 10, "aura import of lab")
        call._thread.join()  # and the loop has not heard of it yet
        go_on, ended_well = threading.Event(), threading.Event()
        other = threading.Thread(target=_pass_on, args=(go_on, ended_well))
        other.start()
        call.give_up()
        go_on.set()
        other.join()
        assert ended_well.is_set()
        if other.ident == call._thread.ident:
            return
    pytest.skip("this system gives no thread's number away again")


async def test_hung_import_harms_nobody_else(tmp_path: Path) -> None:
    files = {"lab/actions.py": "while True: pass\n", "good/tasks/t.yaml": f"steps: {{a: {LOG}}}"}
    plans = generations(tmp_path, files, import_timeout=1.0)
    assert [(status.name, status.status) for status in await plans.reload()] == [("good", "ready"), ("lab", "broken")]
    join_imports()


async def test_import_that_starts_a_thread_is_warned_about(tmp_path: Path) -> None:
    code = """
        import threading
        end = threading.Event()
        threading.Thread(target=end.wait, name="poller", daemon=True).start()
        """
    plans = generations(tmp_path, {"lab/actions.py": code})
    status = await load_one(plans)
    started = next(thread for thread in threading.enumerate() if thread.name == "poller")
    sys.modules[[name for name in sys.modules if name.endswith("_lab.actions")][-1]].end.set()
    started.join(5)
    assert status.status == "ready"
    assert "the import started a thread, poller" in status.warnings[0].message


# -- asking for plans and tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "task", "code", "said"),
    [
        pytest.param("lba", "t", "unknown_plan", "there is no plan 'lba'; did you mean 'lab'?", id="plan"),
        pytest.param("lab", "tt", "unknown_task", "the plan lab has no task 'tt'; did you mean 't'?", id="task"),
        pytest.param("bad", "t", "plan_broken", "the plan 'bad' cannot be loaded: bad/plan.yaml:1:1", id="broken"),
    ],
)
async def test_what_cannot_be_run(tmp_path: Path, plan: str, task: str, code: str, said: str) -> None:
    plans = generations(tmp_path, LAB | {"bad/plan.yaml": ""})
    await plans.reload()
    with pytest.raises(RequestError) as caught:
        plans.task(plan, task)
    assert caught.value.code == code
    assert said in caught.value.detail


async def test_removed_plan_is_gone(tmp_path: Path) -> None:
    plans = generations(tmp_path)
    await plans.reload()
    os.rename(tmp_path / "lab", tmp_path / ".lab")
    assert await plans.reload() == []
    with pytest.raises(RequestError):
        plans.current("lab")


async def test_folder_that_vanished_changes_nothing(tmp_path: Path) -> None:
    plans = generations(tmp_path / "plans")
    await plans.reload()
    os.rename(tmp_path / "plans", tmp_path / "gone")
    with pytest.raises(ConfigError):
        await plans.reload()
    assert call(plans) == 1


async def test_variables_of_the_machine_win(tmp_path: Path) -> None:
    plans = generations(tmp_path, vars={"lab": {"port": 7}})
    await plans.reload()
    assert plans.current("lab").plan.vars == {"port": 7}


async def test_variable_that_the_plan_does_not_have_is_a_problem(tmp_path: Path) -> None:
    status = await load_one(generations(tmp_path, vars={"lab": {"prot": 7}}))
    assert "the settings override the variable 'prot', which is not here; did you mean 'port'?" in str(status.errors[0])


async def test_kept_version_knows_the_resources_of_all_plans(tmp_path: Path) -> None:
    files = {"lab/tasks/t.yaml": f"resources: {{screen: 1}}\nsteps: {{a: {LOG}}}\n"}
    plans = generations(tmp_path, files, resources={"screen": Semaphore(1)})
    assert (await load_one(plans)).errors == ()
    served = plans.current("lab")
    kept = await plans.load_kept("lab", served.hash, served.files)
    assert kept.plan.tasks["t"].resources == {"screen": 1}


async def test_hundred_reloads_leave_nothing_behind(tmp_path: Path) -> None:
    plans = generations(tmp_path)
    begun = time.process_time()
    functions = []
    for number in range(100):
        values(tmp_path, f"VALUE = {number}\n")
        await plans.reload()
        functions.append(weakref.ref(plans.current("lab").action("lab.value").function))
    gc.collect()
    assert call(plans) == 99
    assert sum(function() is not None for function in functions) == 1
    assert time.process_time() - begun < 10
