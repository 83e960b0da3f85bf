"""What somebody does first, on a real server: `init check test run`; then a look around: `actions graph doctor`.

Each command here, and the server, is an interpreter of its own and no fork (``tests/fakes/forked.py``).
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.served import AURA, Served, aura, open_served

from aura import __version__


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("first")
    made = aura("init", "mine", cwd=folder, env={}, fresh=True)
    assert made.code == 0, made.err
    with open_served(folder, "--port", "0", "--plans", "mine", fresh=True) as served:
        yield served


def test_plan_that_init_wrote_checks_and_runs(served: Served) -> None:
    assert served.aura("check", "mine").err == "1 plan, no problems\n"
    done = served.aura("run", "hello/greet")
    assert (done.code, done.json) == (0, {"greeting": "Hello world!"})
    done = served.aura("run", "hello/greet", "-i", "who=Ann", "-i", "times=3")
    assert (done.json, "info    say: Hello, Hello, Hello Ann!" in done.err) == (
        {"greeting": "Hello, Hello, Hello Ann!"},
        True,
    )


@pytest.mark.parametrize("command", [[AURA, "test", "--plans", "mine"], [sys.executable, "-m", "pytest", "mine"]])
def test_tests_that_init_wrote_pass_and_the_server_reloads_nothing(served: Served, command: list[str]) -> None:
    before = served.aura("plans", "--json").json
    done = subprocess.run(command, cwd=served.folder, capture_output=True, text=True, check=False)
    assert (done.returncode, re.search(r"\d passed in ", done.stdout) is not None) == (0, True), done.stdout
    if command[0] == AURA:
        assert [file for file in (served.folder / "mine").rglob("*") if "cache" in file.name] == []
    assert served.aura("plans", "--json").json == before


def test_actions_are_a_table_of_all(served: Served) -> None:
    rows = [line.split() for line in served.aura("actions").out.splitlines()]
    assert rows[0] == ["ACTION", "PARAMETERS", "PLAN", "DESCRIPTION"]
    assert ["hello.greeting", "who", "[times]", "hello", "Make", "a", "greeting."] in rows
    assert any(row[:3] == ["file.write", "path", "content"] for row in rows)
    found = served.aura("actions", "--json").json["items"]
    assert [action["name"] for action in found] == [row[0] for row in rows[1:]]


def test_graph_of_the_server_is_that_of_the_files(served: Served) -> None:
    drawn = served.aura("graph", "hello/greet").out
    assert drawn == "○  make  hello.greeting\n│\n○  say   log\n"
    assert served.aura("graph", "hello/greet", "--plans", "mine").out == drawn
    whole = served.aura("graph", "hello/greet", "--json").json
    assert whole == served.aura("graph", "hello/greet", "--plans", "mine", "--json").json
    assert served.aura("graph", "hello/greet", "--format", "mermaid").out.startswith("flowchart TD\n")


@pytest.mark.parametrize("more", [[], ["--plans", "mine"]], ids=["server", "files"])
@pytest.mark.parametrize("task", ["hello/gret", "helo/greet", "hello"])
def test_graph_of_what_is_not_there_is_64(served: Served, task: str, more: list[str]) -> None:
    done = served.aura("graph", task, *more)
    assert (done.code, done.out, "Traceback" in done.err) == (64, "", False)


def test_graph_of_a_plan_that_does_not_load_is_1(tmp_path: Path) -> None:
    (tmp_path / "plans/lab/tasks").mkdir(parents=True)
    (tmp_path / "plans/lab/tasks/t.yaml").write_text("stepps: 1")
    done = aura("graph", "lab/t", "--plans", "plans", cwd=tmp_path, env={})
    assert (done.code, "lab/tasks/t.yaml:1:1" in done.err) == (1, True)


def test_doctor_beside_its_server_finds_it_well(served: Served) -> None:
    found = served.aura("doctor", "--plans", "mine")
    assert found.code == 64  # the folder is a setting, and this command only reads them
    (served.folder / "aura.toml").write_text('plans = "mine"\n')
    found = served.aura("doctor", "--json")
    items = found.json["items"]
    assert (found.code, [item for item in items if item["level"] == "fail"]) == (0, [])
    said = {item["what"]: item["detail"] for item in items}
    assert said["server"] == f"running at {served.address}, version {__version__}"
    assert said["data folder"].endswith(", a server holds it")
    assert "its pages were not checked" in said["database"]
