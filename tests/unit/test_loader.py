"""The check of plans: their folders, ``plan.yaml``, their Python, and that no code of theirs is run."""

import time
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.plans import LOG, SHIPPED, check_files, problems_in, problems_of, write_files

from aura.loading.loader import check_plans
from aura.plan import RESERVED_PLAN_NAMES


def test_plan_yaml(tmp_path: Path) -> None:
    text = "title: Lab\ndescription: D\ntimezone: Europe/Berlin\nvars: {inbox: /srv, n: [1]}\n"
    (checked,) = check_files(tmp_path, {"lab/plan.yaml": text})
    plan = checked.plan
    assert plan is not None
    assert (plan.title, plan.description, plan.timezone) == ("Lab", "D", "Europe/Berlin")
    assert plan.vars == {"inbox": "/srv", "n": [1]}
    assert plan.directory == str(tmp_path / "lab")


def test_plan_without_plan_yaml_takes_the_servers_time_zone(tmp_path: Path) -> None:
    write_files(tmp_path, {"lab/tasks/a/b.yaml": f"steps: {{a: {LOG}}}"})
    (checked,) = check_plans(tmp_path, SHIPPED, timezone="Europe/Paris")
    assert checked.plan is not None
    assert checked.plan.timezone == "Europe/Paris"
    assert list(checked.plan.tasks) == ["a/b"]


def test_all_problems_are_found_at_once(tmp_path: Path) -> None:
    text = "titel: x\npreempt: nov\nsteps:\n  a: {action: pong, timeout: 5}\n  b: {action: log, depends_on: c}\n"
    assert [problem.split(":")[0] for problem in problems_in(tmp_path, text)] == ["1", "2", "4", "4", "5", "5"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", "1:1: the file is empty", id="empty"),
        pytest.param("a", "1:1: plan.yaml must be a mapping, not text", id="text"),
        pytest.param("titel: x", "1:1: plan.yaml has no key 'titel'; did you mean 'title'?", id="key"),
        pytest.param("timezone: Mars/Base", "1:11: timezone: there is no time zone 'Mars/Base'", id="timezone"),
        pytest.param("timezone: ../etc/passwd", "1:11: timezone: there is no time zone", id="timezone-path"),
        pytest.param("vars: [a]", "1:7: vars must be a mapping, not a list", id="vars"),
        pytest.param("vars: {A: 1}", "1:8: 'A' cannot name a variable", id="vars-name"),
        pytest.param("vars: {a: '{{ x }}'}", "1:11: a: a variable is plain data", id="vars-expression"),
        pytest.param("secrets: a", "1:10: secrets: a list of names of secrets is needed, not text", id="secrets"),
        pytest.param("reload: tests", "1:9: reload must be a mapping, not text", id="reload"),
        pytest.param("reload: {gates: tests, gate: tests}", "1:10: reload has no key 'gates'; did", id="reload-key"),
        pytest.param("reload: {gate: test}", "1:16: gate: tests is needed, not 'test'; did you mean", id="gate"),
        pytest.param("reload: {gate_timeout: 1m}", "1:9: reload: say what a new version has to pass", id="no-gate"),
        pytest.param("reload: {gate: tests, gate_timeout: 5}", "1:37: gate_timeout: ", id="gate-timeout"),
        pytest.param("reload: {gate: tests, gate_timeout: 2h}", "1:37: gate_timeout: an hour is", id="gate-too-long"),
    ],
)
def test_problem_of_plan_yaml(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems_of(tmp_path, {"lab/plan.yaml": text})
    assert found.startswith(f"lab/plan.yaml:{problem}")


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        pytest.param({"Lab/plan.yaml": "title: x"}, "Lab:1:1: the folder's name 'Lab' cannot be a plan's", id="upper"),
        pytest.param({"my plan/plan.yaml": "title: x"}, "my plan:1:1: the folder's name 'my plan'", id="blank"),
        pytest.param({"lab/tasks/A.yaml": f"steps: {{a: {LOG}}}"}, "lab/tasks/A.yaml:1:1: 'A' cannot be", id="task"),
        pytest.param({"lab/tasks/a.yml": ""}, "lab/tasks/a.yml:1:1: name it tasks/a.yaml", id="yml"),
        pytest.param({"lab/plans.yaml": ""}, "lab/plans.yaml:1:1: this is no file of a plan; did you mean", id="stray"),
        pytest.param(
            {"lab/actions.py": "", "lab/actions/a.py": ""}, "lab/actions.py:1:1: there is a folder actions", id="both"
        ),
    ],
)
def test_problem_of_the_folder(tmp_path: Path, files: dict[str, str], problem: str) -> None:
    (found,) = problems_of(tmp_path, files)
    assert found.startswith(problem)


def test_plans_whose_names_differ_in_case_alone_are_not_both_served(tmp_path: Path) -> None:
    write_files(tmp_path, {"lab/plan.yaml": "title: x", "LAB/plan.yaml": "title: y"})
    assert {plan.name: plan.plan is not None for plan in check_plans(tmp_path, SHIPPED)} == {"LAB": False, "lab": True}


@pytest.mark.parametrize("name", sorted(RESERVED_PLAN_NAMES))
def test_name_of_shipped_actions_is_no_plans(tmp_path: Path, name: str) -> None:
    (found,) = problems_of(tmp_path, {f"{name}/plan.yaml": "title: x"})
    assert found.startswith(f"{name}:1:1: no plan can be called")


def test_what_is_no_part_of_a_plan_is_left_alone(tmp_path: Path) -> None:
    files = {
        "README.md": "x",
        ".git/config": "x",
        "__pycache__/x.py": "(",
        "lab/README.md": "x",
        "lab/data/x.yaml": "a: [",
        "lab/data/x.py": "(",
        "lab/tests/test_lab.py": "(",
        "lab/tasks/.a.yaml.swp": "x",
        "lab/tasks/notes.txt": "x",
    }
    (checked,) = check_files(tmp_path, files)
    assert (checked.name, checked.problems) == ("lab", ())


def test_check_runs_no_code(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n@exec('raise SystemExit')\ndef f(): pass\n"
    assert not problems_of(tmp_path / "plans", {"lab/actions.py": code})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        pytest.param("x = 1\ndef f(:\n", "lab/actions.py:2:7: SyntaxError: invalid syntax", id="syntax"),
        pytest.param(
            "if x:\nprint()\n", "lab/actions.py:2:1: IndentationError: expected an indented", id="indentation"
        ),
        pytest.param("a\0b", "lab/actions.py:1:1: ", id="nul"),
        pytest.param("(" * 10_000, "lab/actions.py:1:", id="deep"),
        pytest.param(
            "from aura import action\n@action\ndef log():\n    pass\n",
            "lab/actions.py:3:1: the action 'log' has",
            id="log",
        ),
        pytest.param(
            "from aura import action\n@action\ndef f(): pass\n@action(name='f')\ndef g(): pass\n",
            "lab/actions.py:5:1: the action 'f' is in lab/actions.py:3 already",
            id="twice",
        ),
    ],
)
def test_problem_of_python(tmp_path: Path, code: str, problem: str) -> None:
    (found,) = problems_of(tmp_path, {"lab/actions.py": code})
    assert found.startswith(problem)


@pytest.mark.parametrize("data", ["plan.yaml", "tasks/t.yaml", "actions.py"], ids=["plan-yaml", "task", "python"])
def test_file_that_is_too_large(tmp_path: Path, data: str) -> None:
    (found,) = problems_of(tmp_path, {f"lab/{data}": "#" * (1024 * 1024 + 1)})
    assert found == f"lab/{data}:1:1: the file is larger than 1024 KiB"


def test_hundred_plans_are_checked_soon(tmp_path: Path) -> None:
    task = f"inputs: {{day: string}}\nsteps:\n  a: {LOG}\n  b: {{action: log, params: {{message: '{{{{ N }}}}'}}}}\n"
    write_files(tmp_path, {f"p{n}/tasks/t.yaml": task.replace("N", f"inputs.day ~ {n}") for n in range(100)})
    begun = time.process_time()
    assert all(plan.plan for plan in check_plans(tmp_path, SHIPPED))
    assert time.process_time() - begun < 1.0


def test_problems_are_plain_data(tmp_path: Path) -> None:
    (checked,) = check_files(tmp_path, {"lab/tasks/t.yaml": "steps: {a: {action: pong}}"})
    problem: Any = checked.problems[0]
    assert (problem.file, problem.line, problem.column) == ("lab/tasks/t.yaml", 1, 21)
