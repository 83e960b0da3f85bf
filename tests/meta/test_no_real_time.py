"""The engine's own behaviour is tested on worlds, in virtual time: nobody there waits in real time for something."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FOLDERS = ("engine", "scheduling", "testing")
#: A whole server with its doors: sockets live in real time. It waits for what happens, and never for a time to pass.
WITH_SOCKETS = ["engine/test_supervisor.py"]
FILES = sorted(file for folder in FOLDERS for file in (TESTS / folder).rglob("*.py"))


def sleeps(tree: ast.Module) -> Iterator[int]:
    """The lines of ``time.sleep`` in a test itself; a function within one is an action, and may hold up its thread."""
    for outer in tree.body:
        made = [node for node in ast.walk(outer) if node is not outer and is_function(node)]
        inner = {id(node) for function in made for node in ast.walk(function)}
        calls = (node for node in ast.walk(outer) if isinstance(node, ast.Call) and id(node) not in inner)
        yield from (call.lineno for call in calls if ast.unparse(call.func) in ("time.sleep", "sleep"))


def functions_of(file: Path) -> set[str]:
    """The names of a module's own functions."""
    return {node.name for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TESTS)))
def test_no_test_sleeps(file: Path) -> None:
    assert list(sleeps(ast.parse(file.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_tests_run_on_the_virtual_loop(folder: str) -> None:
    text = (TESTS / folder / "conftest.py").read_text(encoding="utf-8")
    assert '"loop_factory": VirtualLoop' in text


def test_only_tests_with_sockets_choose_another_loop() -> None:
    own = [file for file in FILES if file.name != "conftest.py" and "anyio_backend" in functions_of(file)]
    assert [str(file.relative_to(TESTS)) for file in own] == WITH_SOCKETS


def test_a_sleep_is_seen() -> None:
    code = "import time\ndef test_a():\n    def action():\n        time.sleep(1)\n    time.sleep(2)\n"
    assert list(sleeps(ast.parse(code))) == [5]
