"""``aura init``: a plan that checks, where there was room for it, and nothing else touched."""

import json
import os
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it brings no types
from tests.fakes.commands import Command, commands_in

from aura.cli.init import files
from aura.loading.snapshot import check_folder_safe
from aura.loading.yamlfile import load


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands_in(tmp_path, monkeypatch, capsys)


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_plan_is_written_and_checks_at_once(run: Command, tmp_path: Path) -> None:
    made = run("init")
    assert made.code == 0
    assert made.out.splitlines() == [f"plans/hello/{name}" for name in files()]
    assert tree(tmp_path) == {f"plans/hello/{name}": text for name, text in files().items()}
    assert run("check").err == "1 plan, no problems\n"
    assert "now: aura test --plans plans\n" in made.err


def test_plan_is_added_to_plans_that_are_there(run: Command, tmp_path: Path) -> None:
    own = tmp_path / "there/own/tasks/t.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("steps: {a: {action: log, params: {message: x}}}")
    made = run("init", "there", "--json")
    assert made.json == {"plans": "there", "plan": "hello", "files": [f"there/hello/{name}" for name in files()]}
    assert own.read_text().startswith("steps")
    assert run("check", "there").err == "2 plans, no problems\n"


def test_what_is_there_is_left_as_it_is(run: Command, tmp_path: Path) -> None:
    run("init")
    (tmp_path / "plans/hello/tasks/greet.yaml").write_text("mine")
    before = tree(tmp_path)
    again = run("init")
    assert (again.code, again.out) == (73, "")
    assert "plans/hello is there already and is left as it is" in again.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_what_is_in_the_way_is_named(run: Command, tmp_path: Path, kind: str) -> None:
    for name in ("plans", "there/hello"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine") if kind == "file" else path.symlink_to("nowhere")
    assert "plans is there and is not a folder" in run("init").err
    found = run("init", "there")
    assert (found.code, "there/hello is there already" in found.err) == (73, True)


def test_folder_below_a_file_cannot_be_made(run: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = run("init", "file/plans")
    assert (made.code, "file/plans cannot be made: Not a directory" in made.err) == (73, True)


def test_failure_half_way_leaves_nothing(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str, encoding: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    made = run("init")
    assert (made.code, "No space left on device; nothing was left behind" in made.err) == (73, True)
    assert list((tmp_path / "plans").iterdir()) == []


def test_files_are_safe_whatever_the_umask(run: Command, tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        run("init")
    finally:
        os.umask(former)
    check_folder_safe(tmp_path / "plans")


def test_files_name_schemas_that_are_there_and_that_they_fit(run: Command, tmp_path: Path) -> None:
    run("init")
    plan = tmp_path / "plans/hello"
    for name in ("plan.yaml", "tasks/greet.yaml"):
        first, *_ = (plan / name).read_text().splitlines()
        schema = json.loads(((plan / name).parent / first.removeprefix("# yaml-language-server: $schema=")).read_text())
        validator = Draft202012Validator(schema)
        assert list(validator.iter_errors(load((plan / name).read_bytes(), name).value)) == []
        assert list(validator.iter_errors({"no_such_key": 1})) != []
