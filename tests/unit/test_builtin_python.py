"""``python.run``: what a script sees and gives, what is refused, and how it names what went wrong."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.fakes.children import running_of, until_file
from tests.fakes.context import Bench

from aura.builtin import shipped
from aura.builtin.python import NO_FILE
from aura.errors import ParamsInvalid, ProcessDied, RaisedElsewhere
from aura.isolation import calls, interpreter, messages
from aura.processes import leftovers
from aura.run import Failure


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, shipped())
    yield made
    left = running_of(made.host.process_environment["AURA_CID"])
    for seen in left:
        leftovers.send(seen, signal.SIGKILL)
    assert not left


async def failure_of(bench: Bench, **params: Any) -> Failure:
    with pytest.raises(RaisedElsewhere) as raised:
        await bench.call("python.run", **params)
    found: Failure = raised.value.failure
    return found


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param("", None, id="empty"),
        pytest.param("x = 1", None, id="no result"),
        pytest.param("result = inputs['a'] + 1", 2, id="inputs"),
        pytest.param("result = inputs", {"a": 1}, id="all inputs"),
        pytest.param("result = __name__", "__main__", id="it is the main module"),
        pytest.param("import __main__\nresult = __main__.inputs['a']", 1, id="also to importers"),
        pytest.param("import sys\nresult = 3\nsys.exit()", 3, id="sys.exit is an end"),
        pytest.param("result = 3\nraise SystemExit(0)", 3, id="exit code 0 is one"),
        pytest.param("import sys\nresult = sys.argv", [NO_FILE], id="no arguments"),
        pytest.param("import sys\nresult = sys.stdin.read()", "", id="nothing to read"),
        pytest.param("import os, pathlib\nresult = pathlib.Path('.').resolve().name[:4]", "test", id="in the workdir"),
        pytest.param("result = '__file__' in globals()", False, id="it has no file"),
        pytest.param("def f():\n    return result0\nresult0 = [1]\nresult = f()", [1], id="functions see its names"),
        pytest.param("from __future__ import annotations\nresult = 1", 1, id="future"),
        pytest.param("import pathlib, datetime\nresult = [pathlib.Path('/a'), datetime.date(2026, 1, 2)]",
                     ["/a", "2026-01-02"], id="what JSON can become"),
        pytest.param("import multiprocessing as m\nwith m.get_context('fork').Pool(2) as pool:\n"
                     "    result = pool.map(abs, [-1, -2])", [1, 2], id="a pool of processes"),
        pytest.param("import asyncio\nresult = asyncio.run(asyncio.sleep(0, 5))", 5, id="asyncio"),
        pytest.param("import anyio\nasync def f():\n    return 6\nresult = anyio.run(f)", 6, id="anyio"),
        pytest.param("import os\nresult = os.umask(0)", 0o077, id="private files"),
        pytest.param("result = '\\u00e9\\U0001f600\\0'", "é\U0001f600\0", id="text"),
        pytest.param("import threading\nresult = threading.current_thread() is threading.main_thread()", True,
                     id="main thread"),
        pytest.param("print('é\\ud800')\nresult = 1", 1, id="what cannot be printed"),
        pytest.param("import sys\nsys.stdout.close()\nresult = 1", 1, id="stdout closed"),
    ],
)  # fmt: skip
async def test_script_gives_what_it_leaves_in_result(bench: Bench, code: str, expected: Any) -> None:
    assert await bench.call("python.run", code=code, inputs={"a": 1}) == expected


@pytest.mark.parametrize(
    ("code", "type", "message", "line"),
    [
        pytest.param("x = 1\nraise ValueError('no')", "ValueError", "no", 2, id="error"),
        pytest.param("x = (\n", "SyntaxError", "'(' was never closed (<code>, line 1)", 1, id="syntax"),
        pytest.param("if 1:\nx = 2", "IndentationError", "expected an indented block", 2, id="indentation"),
        pytest.param("x = 1\x00", "SyntaxError", "source code string cannot contain null bytes", None, id="NUL"),
        pytest.param("return 1", "SyntaxError", "'return' outside function", 1, id="return"),
        pytest.param("await f()", "SyntaxError", "'await' outside function", 1, id="await"),
        pytest.param("nothing", "NameError", "name 'nothing' is not defined", 1, id="name"),
        pytest.param("import no_such", "ModuleNotFoundError", "No module named 'no_such'", 1, id="module"),
        pytest.param("inputs.a", "AttributeError", "'dict' object has no attribute 'a'", 1, id="inputs are a mapping"),
        pytest.param("inputs['b']", "KeyError", "'b'", 1, id="an input that is not there"),
        pytest.param("def f(n): f(n + 1)\nf(0)", "RecursionError", "maximum recursion depth", 1, id="recursion"),
        pytest.param("x = 2 ** 70 + None", "TypeError", "unsupported operand", 1, id="type"),
        pytest.param("assert False, 'so'", "AssertionError", "so", 1, id="assert"),
        pytest.param("raise KeyboardInterrupt", "KeyboardInterrupt", "", 1, id="no Exception"),
        pytest.param("import sys\nsys.exit(3)", "SystemExit", "the code called sys.exit(3)", 2, id="exit code"),
        pytest.param("import sys\nsys.exit('why')", "SystemExit", "the code called sys.exit('why')", 2, id="exit text"),
        pytest.param("bytearray(1 << 62)", "MemoryError", "", 1, id="memory"),
        pytest.param("result = {1}", "bad_output", "{1} is not JSON", None, id="a set"),
        pytest.param("result = b'x'", "bad_output", "b'x' is not JSON", None, id="bytes"),
        pytest.param("result = object()", "bad_output", "object is not JSON", None, id="an object"),
        pytest.param("result = {1: 2}", "bad_output", "the key 1 is not text", None, id="a key"),
        pytest.param("result = float('inf')", "bad_output", "inf is not JSON", None, id="infinity"),
        pytest.param("result = '\\ud800'", "bad_output", "the result has no JSON text", None, id="a lone surrogate"),
        pytest.param("result = 1\nfor _ in range(70): result = [result]", "bad_output", "deeper", None, id="deep"),
        pytest.param("result = []\nresult.append(result)", "bad_output", "nests deeper than 64", None, id="in itself"),
        pytest.param("result = 'x' * 2000000", "bad_output", "2000002 bytes of JSON; at most", None, id="large"),
        pytest.param("import decimal\nresult = range(3)", "bad_output", "range is not JSON", None, id="a range"),
    ],
)  # fmt: skip
async def test_script_that_fails_says_why_and_where(
    bench: Bench, code: str, type: str, message: str, line: int | None
) -> None:
    failure = await failure_of(bench, code=code)
    assert (failure.type, failure.line) == (type, line)
    assert message in failure.message
    assert failure.file == (None if line is None else NO_FILE)
    assert "isolation" not in failure.trace


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param("import os\nos._exit(0)", "ended with exit code 0 before it gave a result", id="_exit"),
        pytest.param("import os\nos._exit(3)", "ended with exit code 3 before it gave a result", id="exit code"),
        pytest.param("import os\nos.abort()", "was killed by SIGABRT before it gave a result", id="abort"),
        pytest.param("import os\nos.kill(os.getpid(), 9)", "by SIGKILL before it gave a result, and not by", id="kill"),
        pytest.param("import os\nos.kill(os.getpid(), 15)", "was killed by SIGTERM before it", id="TERM from outside"),
        pytest.param("import os\nos.kill(os.getpid(), 40)", "was killed by signal 40 before", id="no name"),
        pytest.param("import ctypes\nctypes.string_at(0)", "was killed by SIGSEGV before", id="a crash in C"),
        pytest.param("import os\nos.closerange(0, 100)\nos._exit(0)", "ended with exit code 0", id="all files closed"),
        pytest.param("import os\nos.closerange(3, 100)\nresult = 1", "before it gave a result", id="its socket closed"),
        pytest.param("import os\nfor n in range(3, 100):\n    try: os.write(n, b'ab' * 99)\n    except OSError: pass\n"
                     "result = 1", "a message of", id="nonsense on its socket"),
    ],
)  # fmt: skip
async def test_process_that_ends_without_an_answer(bench: Bench, code: str, message: str) -> None:
    with pytest.raises((ProcessDied, ValueError)) as raised:
        await bench.call("python.run", code=code)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        pytest.param({}, ParamsInvalid, "needs either code", id="neither"),
        pytest.param({"code": "", "file": "a.py"}, ParamsInvalid, "and not both", id="both"),
        pytest.param({"code": 1}, ParamsInvalid, "Expected `str | null`, got `int`", id="a number"),
        pytest.param({"code": "", "inputs": [1]}, ParamsInvalid, "Expected `object`, got `array`", id="inputs"),
        pytest.param({"code": "", "args": []}, ParamsInvalid, "unknown field `args`", id="unknown"),
        pytest.param({"code": "\ud800"}, ParamsInvalid, "has no JSON text", id="a lone surrogate"),
        pytest.param({"code": "", "inputs": {"a": "\ud800"}}, ParamsInvalid, "has no JSON text", id="in the inputs"),
        pytest.param({"file": "none.py"}, FileNotFoundError, "none.py", id="no such file"),
        pytest.param({"file": "../x.py"}, PermissionError, "workdir", id="out of the workdir"),
        pytest.param({"file": "."}, IsADirectoryError, "", id="a folder"),
        pytest.param({"file": "binary.py"}, ValueError, "is not text in UTF-8", id="not UTF-8"),
        pytest.param({"file": "large.py"}, ValueError, "is larger than 1048576 bytes", id="too large"),
        pytest.param({"file": "/dev/zero"}, OSError, "", id="a device"),
    ],
)
async def test_bad_parameters(bench: Bench, params: dict[str, Any], error: type[Exception], message: str) -> None:
    (bench.workdir / "binary.py").write_bytes(b"x = '\xff'")
    (bench.workdir / "large.py").write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(error) as raised:
        await bench.call("python.run", **params)
    assert message in str(raised.value)


async def test_file_runs_with_its_neighbours_and_is_named_in_errors(bench: Bench) -> None:
    (bench.workdir / "lib").mkdir()
    (bench.workdir / "lib/beside.py").write_text("answer = 42\n")
    script = bench.workdir / "lib/script.py"
    script.write_text("\ufeffimport beside\nresult = [beside.answer, __file__]\nif inputs: raise ValueError('é')\n")
    assert await bench.call("python.run", file="lib/script.py") == [42, str(script)]
    failure = await failure_of(bench, file=str(script), inputs={"a": 1})
    assert (failure.type, failure.file, failure.line) == ("ValueError", str(script), 3)
    assert "raise ValueError('é')" in failure.trace
    assert {"ValueError", "Exception"} <= set(failure.bases)


async def test_what_it_prints_is_in_the_log_before_it_ends(bench: Bench) -> None:
    code = "import sys\nprint('one\\ntwo')\nprint('three', file=sys.stderr)\nsys.stdout.write('four')"
    await bench.call("python.run", code=code)
    assert bench.log.texts("info") == ["one", "two", "four"]
    assert bench.log.texts("warning") == ["three"]


async def test_flood_is_bounded_and_does_not_hold_it_up(bench: Bench) -> None:
    code = "for n in range(300_000): print('a line of a flood', n)\nresult = 'done'"
    with anyio.fail_after(60):
        assert await bench.call("python.run", code=code) == "done"
    assert len(bench.log.lines) < 50_000
    assert any("dropped" in text or "not logged" in text for text in bench.log.texts("info"))


async def test_nothing_of_a_job_shows_to_other_users(bench: Bench) -> None:
    code = "result = [open(f'/proc/self/{name}').read() for name in ('cmdline', 'environ')] + [inputs['secret'][:3]]"
    *shown, seen = await bench.call("python.run", code=code, inputs={"secret": "hush-hush"})
    assert seen == "hus"
    assert not [text for text in shown if "hush" in text]


async def test_nothing_of_the_server_is_in_its_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AURA_TOKEN", "AURA_SECRET_SMTP", "PYTHONSTARTUP", "SOMETHING"):
        monkeypatch.setenv(name, "hidden")
    found = await bench.call("python.run", code="import os\nresult = dict(os.environ)")
    assert "hidden" not in found.values()
    assert {"PATH", "AURA_BOOT", "AURA_CID", "AURA_STEP", "AURA_ATTEMPT", "AURA_PROCESS"} <= found.keys()


async def test_files_of_the_server_are_not_open_in_it(bench: Bench, tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), False)
        listing = "from pathlib import Path\nhandles = Path('/proc/self/fd').iterdir()\n"
        listing += "result = [str(handle.readlink()) for handle in handles if handle.is_symlink()]"
        found = await bench.call("python.run", code=listing)
    assert not [name for name in found if name.endswith("/open")]
    assert len([name for name in found if name.startswith("socket:")]) == 1


async def test_cancel_ends_it_and_its_clean_up_runs(bench: Bench) -> None:
    code = (
        "import time\ntry:\n    open('ready', 'w').write('\\n')\n    time.sleep(100)\nfinally:\n    open('clean', 'w')"
    )
    # the script alone; cancelled below
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: bench.call("python.run", code=code))
        await until_file(bench.workdir / "ready")
        bench.host.grace = 5.0
        group.cancel_scope.cancel()
    assert (bench.workdir / "clean").exists()


async def test_second_stop_does_not_break_into_the_clean_up(bench: Bench) -> None:
    code = """
import os, time
try:
    open("ready", "w").write("\\n")
    time.sleep(100)
finally:
    os.kill(os.getpid(), 15)
    time.sleep(0.01)
    open("clean", "w")
"""
    # the script alone; cancelled below
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: bench.call("python.run", code=code))
        await until_file(bench.workdir / "ready")
        group.cancel_scope.cancel()
    assert (bench.workdir / "clean").exists()


async def test_no_process_to_be_had_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/no/such/python")
    with pytest.raises(ProcessDied, match=r"no process of its own could be started: .*No such file"):
        await bench.call("python.run", code="")
    monkeypatch.setattr("sys.executable", "")
    with pytest.raises(ProcessDied, match="does not know its own Python"):
        await bench.call("python.run", code="")


async def test_python_that_cannot_begin_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_START", "raise SystemExit('broken')")
    with pytest.raises(ProcessDied, match="ended with exit code 1 before it gave a result"):
        await bench.call("python.run", code="")
    assert bench.log.texts("warning") == ["broken"]


def test_limits_are_what_the_documents_say() -> None:
    assert (calls.EXIT_TIME, messages.MAX_FRAME) == (2.0, 8 * 1024 * 1024)
