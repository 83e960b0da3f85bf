"""The check of plans: every problem with its place, near names, hints, and no code of a plan run."""

import time
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.plans import SHIPPED, check_files, problems_of, write_files

from aura.lifecycle import Recovery, StepState
from aura.loader import check_plans
from aura.plan import RESERVED_PLAN_NAMES, Dependency, Retry, Task

LOG = "{action: log, params: {message: x}}"
ENDED = frozenset({StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED, StepState.TIMED_OUT})
ACTIONS = """
from aura import action, Context

@action
async def ping(ctx: Context, host: str, count: int = 1) -> int:
    return count
"""


def task_of(folder: Path, text: str) -> Task:
    (checked,) = check_files(folder, {"lab/tasks/t.yaml": text, "lab/actions.py": ACTIONS})
    assert checked.plan is not None, checked.problems
    return checked.plan.tasks["t"]


def problems_in(folder: Path, text: str) -> list[str]:
    """The problems of one task, without its file name."""
    found = problems_of(folder, {"lab/tasks/t.yaml": text, "lab/actions.py": ACTIONS})
    return [problem.removeprefix("lab/tasks/t.yaml:") for problem in found]


# -- what is read -----------------------------------------------------------------------------------------------------


def test_task_with_everything(tmp_path: Path) -> None:
    task = task_of(
        tmp_path,
        """
        title: Nightly
        description: All of it
        lane: event
        priority: -5
        labels: {team: ops}
        timeout: 10m
        queue_timeout: 1h
        cleanup_timeout: 500ms
        recovery: restart
        steps:
          a:
            action: ping
            params: {host: h}
            retry: {attempts: 3, delay: 1s}
            timeout: 20s
            continue_on_failure: true
            idempotent: true
            outputs: {n: "{{ result }}"}
        finally:
          tidy: {action: log, params: {message: "{{ error.message }}"}}
        returns: "{{ steps.a.outputs.n }}"
        """,
    )
    step = task.steps["a"]
    assert (task.title, task.lane, task.priority, task.labels) == ("Nightly", "event", -5, {"team": "ops"})
    assert (task.timeout, task.queue_timeout, task.cleanup_timeout) == (600.0, 3600.0, 0.5)
    assert task.recovery is Recovery.RESTART
    assert (step.action, step.retry, step.timeout) == ("lab.ping", Retry(3, 1.0), 20.0)
    assert step.continue_on_failure
    assert step.idempotent
    assert (step.source.file, step.source.line, step.source.column) == ("lab/tasks/t.yaml", 12, 3)
    assert task.finally_["tidy"].action == "log"


def test_defaults_of_a_task(tmp_path: Path) -> None:
    task = task_of(tmp_path, f"steps: {{a: {LOG}}}")
    assert (task.lane, task.priority, task.timeout, task.cleanup_timeout) == ("main", 0, None, 10.0)
    assert task.recovery is Recovery.FAIL
    assert task.returns is None
    assert task.steps["a"].retry == Retry(1, 0.0)


@pytest.mark.parametrize(
    ("depends_on", "dependencies", "any_of"),
    [
        pytest.param("a", {"a": {StepState.SUCCEEDED}}, False, id="name"),
        pytest.param("[a, b]", {"a": {StepState.SUCCEEDED}, "b": {StepState.SUCCEEDED}}, False, id="list"),
        pytest.param("{any: [a, b]}", {"a": {StepState.SUCCEEDED}, "b": {StepState.SUCCEEDED}}, True, id="any"),
        pytest.param("{a: failed}", {"a": {StepState.FAILED, StepState.TIMED_OUT}}, False, id="failed-with-timed-out"),
        pytest.param("{a: timed_out}", {"a": {StepState.TIMED_OUT}}, False, id="timed-out-alone"),
        pytest.param(
            "{a: [succeeded, skipped]}", {"a": {StepState.SUCCEEDED, StepState.SKIPPED}}, False, id="list-of-states"
        ),
        pytest.param("{a: ended, b: succeeded}", {"a": ENDED, "b": {StepState.SUCCEEDED}}, False, id="ended"),
        pytest.param("[]", {}, False, id="nothing"),
    ],
)
def test_depends_on(tmp_path: Path, depends_on: str, dependencies: dict[str, set[StepState]], any_of: bool) -> None:
    task = task_of(
        tmp_path, f"steps: {{c: {{action: log, params: {{message: x}}, depends_on: {depends_on}}}, a: {LOG}, b: {LOG}}}"
    )
    step = task.steps["c"]
    assert step.depends_on == tuple(Dependency(name, frozenset(states)) for name, states in dependencies.items())
    assert step.any_of is any_of


def test_steps_are_in_an_order_that_respects_the_graph(tmp_path: Path) -> None:
    late = "{action: log, params: {message: x}, depends_on: b}"
    assert list(task_of(tmp_path, f"steps: {{c: {late}, b: {LOG}, a: {LOG}}}").steps) == ["b", "a", "c"]


def test_list_of_steps_is_a_sequence(tmp_path: Path) -> None:
    item = "action: log, params: {message: x}"
    task = task_of(tmp_path, f"steps: [{{name: b, {item}}}, {{name: a, {item}}}, {{name: c, {item}, depends_on: b}}]")
    assert {name: [d.step for d in step.depends_on] for name, step in task.steps.items()} == {
        "b": [],
        "a": ["b"],
        "c": ["b"],
    }


def test_plan_yaml(tmp_path: Path) -> None:
    text = "title: Lab\ndescription: D\ntimezone: Europe/Berlin\nvars: {inbox: /srv, n: [1]}\nsecrets: [pin]\n"
    (checked,) = check_files(tmp_path, {"lab/plan.yaml": text})
    plan = checked.plan
    assert plan is not None
    assert (plan.title, plan.description, plan.timezone) == ("Lab", "D", "Europe/Berlin")
    assert plan.vars == {"inbox": "/srv", "n": [1]}
    assert plan.secrets == {"pin"}
    assert plan.directory == str(tmp_path / "lab")


def test_plan_without_plan_yaml_takes_the_servers_time_zone(tmp_path: Path) -> None:
    write_files(tmp_path, {"lab/tasks/a/b.yaml": f"steps: {{a: {LOG}}}"})
    (checked,) = check_plans(tmp_path, SHIPPED, timezone="Europe/Paris")
    assert checked.plan is not None
    assert checked.plan.timezone == "Europe/Paris"
    assert list(checked.plan.tasks) == ["a/b"]


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", "1:1: the file is empty", id="empty"),
        pytest.param("# nothing\n", "1:1: the file is empty", id="only-comments"),
        pytest.param("[]", "1:1: a task must be a mapping, not a list", id="list"),
        pytest.param("title: x", "1:1: a task needs `steps`", id="no-steps"),
        pytest.param("steps: {}", "1:8: steps: a task needs at least one step", id="no-step"),
        pytest.param("steps: x", "1:8: steps must be a mapping, not text", id="steps-text"),
        pytest.param(
            f"titel: x\nsteps: {{a: {LOG}}}", "1:1: a task has no key 'titel'; did you mean 'title'?", id="key"
        ),
        pytest.param(f"title: 1\nsteps: {{a: {LOG}}}", "1:8: title: text is needed, not a number", id="title"),
        pytest.param(
            f"lane: mian\nsteps: {{a: {LOG}}}", "1:7: lane: main or event is needed, not 'mian'; did", id="lane"
        ),
        pytest.param(
            f"lane: interrupt\nsteps: {{a: {LOG}}}", "1:7: lane: `interrupt` is not supported yet", id="lane-i"
        ),
        pytest.param(
            f"priority: 1001\nsteps: {{a: {LOG}}}", "1:11: priority: a whole number from -1000", id="priority"
        ),
        pytest.param(f"priority: true\nsteps: {{a: {LOG}}}", "1:11: priority: a whole number", id="priority-boolean"),
        pytest.param(f"timeout: 90\nsteps: {{a: {LOG}}}", "1:10: timeout: 90 has no unit; say 90s", id="timeout"),
        pytest.param(f"timeout: 0\nsteps: {{a: {LOG}}}", "1:10: timeout: 0 would be over at once", id="timeout-0"),
        pytest.param(
            f"recovery: resume\nsteps: {{a: {LOG}}}", "1:11: recovery: `resume` is not supported", id="resume"
        ),
        pytest.param(f"labels: {{a: 1}}\nsteps: {{a: {LOG}}}", "1:13: the label a must be plain text", id="label"),
        pytest.param(f"labels: [a]\nsteps: {{a: {LOG}}}", "1:9: labels must be a mapping, not a list", id="labels"),
        pytest.param("steps: {A-b: " + LOG + "}", "1:9: 'A-b' cannot name a step", id="step-name"),
        pytest.param("steps: {any: " + LOG + "}", "1:9: a step cannot be called any", id="step-any"),
        pytest.param("steps: {a: {}}", "1:9: step a says no action", id="no-action"),
        pytest.param("steps: {a: x}", "1:12: step a must be a mapping, not text", id="step-text"),
        pytest.param(
            "steps: {a: {actoin: log}}", "1:13: step a has no key 'actoin'; did you mean 'action'?", id="key-near"
        ),
        pytest.param("steps: {a: {action: log, retrys: 1}}", "1:26: step a has no key 'retrys'; did you", id="retrys"),
        pytest.param("steps: [x]", "1:9: an element of a list of steps is a mapping that", id="list-element"),
        pytest.param("steps: [{action: log}]", "1:9: an element of a list of steps", id="list-without-name"),
        pytest.param(
            "steps: {a: {action: log, params: {message: x}, timeout: soon}}", "1:57: timeout: 'soon' is not", id="soon"
        ),
        pytest.param(
            "steps: {a: {action: log, params: {message: x}, idempotent: 1}}", "1:60: idempotent: true or", id="boolean"
        ),
        pytest.param(
            "steps: {a: {action: log, params: {message: x}, retry: 3}}", "1:55: retry must be a mapping", id="retry"
        ),
        pytest.param(
            "steps: {a: {action: log, params: {message: x}, retry: {attempts: 0}}}", "1:66: attempts: a", id="attempts"
        ),
        pytest.param(
            "steps: {a: {action: log, params: {message: x}, retry: {delay: 1}}}",
            "1:63: delay: 1 has no unit",
            id="delay",
        ),
        pytest.param(
            "steps: {a: {action: log, params: [x]}}", "1:34: params must be a mapping, not a list", id="params"
        ),
    ],
)
def test_problem_of_the_grammar(tmp_path: Path, text: str, problem: str) -> None:
    assert any(found.startswith(problem) for found in problems_in(tmp_path, text)), problems_in(tmp_path, text)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("1:1", "mode: single"),
        ("1:1", "resources: {screen: 1}"),
        ("1:1", "preempt: never"),
        ("1:1", f"on_preempt: {{p: {LOG}}}"),
        ("1:1", f"on_resume: {{r: {LOG}}}"),
    ],
    ids=lambda value: value.split(":")[0],
)
def test_key_of_a_task_that_comes_later(tmp_path: Path, where: str, text: str) -> None:
    (problem,) = problems_in(tmp_path, f"{text}\nsteps: {{a: {LOG}}}")
    assert problem == f"{where}: `{text.split(':')[0]}` is not supported yet"


@pytest.mark.parametrize(
    "text",
    [
        "loop: {times: 3}",
        "preempt: never",
        "resources: {screen: 1}",
        "retry: {backoff: 2}",
        "retry: {max_delay: 1s}",
        "retry: {jitter: true}",
        "retry: {errors: [OSError]}",
        'retry: {when: "{{ true }}"}',
    ],
)
def test_key_of_a_step_that_comes_later(tmp_path: Path, text: str) -> None:
    (problem,) = problems_in(tmp_path, f"steps: {{a: {{action: log, params: {{message: x}}, {text}}}}}")
    assert "is not supported yet" in problem


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        pytest.param("{a: {D, depends_on: b}}", "steps has no step 'b'", id="unknown"),
        pytest.param("{pong: {D, depends_on: ping}, pign: {D}}", "steps has no step 'ping'; did you mean", id="near"),
        pytest.param("{a: {D, depends_on: a}}", "the steps wait for each other: a → a", id="self"),
        pytest.param(
            "{a: {D, depends_on: c}, b: {D, depends_on: a}, c: {D, depends_on: [b]}}",
            "the steps wait for each other: a → c → b → a",
            id="circle",
        ),
        pytest.param(
            "{a: {D}, b: {D, depends_on: {a: done}}}", "failed, skipped, succeeded, timed_out are", id="state"
        ),
        pytest.param("{a: {D}, b: {D, depends_on: {a: []}}}", "are the states to wait for", id="no-state"),
        pytest.param("{a: {D}, b: {D, depends_on: [a, a]}}", "a is named twice", id="twice"),
        pytest.param("{a: {D}, b: {D, depends_on: [1]}}", "the name of a step is needed, not a number", id="number"),
        pytest.param("{a: {D}, b: {D, depends_on: {any: a}}}", "a step's name, a list of names, {any", id="any-name"),
        pytest.param("{a: {D}, b: {D, depends_on: {any: [a], a: failed}}}", "beside `any` nothing else", id="any-more"),
        pytest.param("{a: {D}, b: {D, depends_on: 1}}", "a step's name, a list of names", id="wrong"),
        pytest.param("[{name: a, D}, {name: a, D}]", "the step 'a' is here a second time", id="twice-in-a-list"),
    ],
)
def test_problem_of_dependencies(tmp_path: Path, steps: str, problem: str) -> None:
    text = f"steps: {steps}".replace("D", "action: log, params: {message: x}")
    (found,) = problems_in(tmp_path, text)
    assert problem in found


def test_step_of_a_handler_has_a_name_of_its_own(tmp_path: Path) -> None:
    (problem,) = problems_in(tmp_path, f"steps: {{a: {LOG}}}\nfinally: {{a: {LOG}}}")
    assert problem.startswith("2:11: the step 'a' is in steps already")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        pytest.param("{{ foo }}", "unknown name 'foo'", id="unknown"),
        pytest.param("{{ input.day }}", "unknown name 'input'; did you mean 'inputs'?", id="near"),
        pytest.param("{{ inputs.dya }}", "the task has no input 'dya'; did you mean 'day'?", id="input"),
        pytest.param("{{ inputs['dya'] }}", "the task has no input 'dya'", id="input-in-brackets"),
        pytest.param("{{ vars.inbx }}", "plan.yaml has no variable 'inbx'; did you mean 'inbox'?", id="variable"),
        pytest.param("{{ secrets.pni }}", "plan.yaml declares no secret 'pni'; did you mean 'pin'?", id="secret"),
        pytest.param("{{ run.cdi }}", "run has no 'cdi'; did you mean 'cid'?", id="run"),
        pytest.param("{{ plan.path }}", "plan has no 'path'", id="plan"),
        pytest.param("{{ steps.nope.output }}", "the task has no step 'nope'", id="step"),
        pytest.param(
            "{{ steps.b.output }}", "steps.b is named here, but this step does not come after b", id="not-after"
        ),
        pytest.param("{{ steps.a.output }}", "steps.a is named here, but this step does not come after a", id="itself"),
        pytest.param("{{ steps.tidy.output }}", "steps.tidy is named here, but this step does not", id="handler"),
        pytest.param("{{ result.x }}", "`result` is there only in a step's outputs", id="result"),
        pytest.param("{{ error.message }}", "`error` is there only in on_failure and finally", id="error"),
        pytest.param("{{ due | date }}", "`due` is there only in a schedule; in a task it is run.due", id="due"),
        pytest.param("{{ state.x }}", "`state` is not supported yet", id="state"),
        pytest.param("{{ loop.item }}", "`loop` is not supported yet", id="loop"),
        pytest.param("{{ inputs.day | upcase }}", "there is no filter 'upcase'", id="filter"),
        pytest.param("{{ inputs.day", "a {{ is never closed", id="open"),
    ],
)
def test_problem_of_names(tmp_path: Path, message: str, problem: str) -> None:
    files = {
        "lab/plan.yaml": "vars: {inbox: /srv}\nsecrets: [pin]\n",
        "lab/tasks/t.yaml": f'inputs: {{day: string}}\nsteps:\n  a: {{action: log, params: {{message: "{message}"}}}}\n'
        f"  b: {LOG}\nfinally: {{tidy: {LOG}}}\n",
    }
    (found,) = problems_of(tmp_path, files)
    assert found.startswith("lab/tasks/t.yaml:3:38: ")
    assert problem in found


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("outputs: {x: '{{ result }} {{ steps.b.output }}'}", id="result-in-outputs"),
        pytest.param("when: '{{ steps.a.output and steps.b.state }}'", id="all-before"),
        pytest.param("when: '{{ event is null or now() > run.due }}'", id="event-now-run"),
        pytest.param("params: {message: '{{ plan.name }}{{ days(1) }}{{ null }}{{ range(2) }}'}", id="functions"),
    ],
)
def test_names_that_are_there(tmp_path: Path, text: str) -> None:
    text = text if text.startswith("params") else f"params: {{message: x}}, {text}"
    last = f"{{action: log, depends_on: b, {text}}}"
    assert not problems_in(
        tmp_path, f"steps: {{c: {last}, a: {LOG}, b: {{action: log, params: {{message: x}}, depends_on: a}}}}"
    )


@pytest.mark.parametrize(
    ("where", "good"),
    [
        ("on_failure: {h: {action: log, params: {message: '{{ error.message }}{{ steps.a.state }}'}}}", True),
        ("finally: {h: {action: log, params: {message: '{{ error.type if error }}'}}}", True),
        ("on_cancel: {h: {action: log, params: {message: '{{ steps.a.output }}'}}}", True),
        ("on_cancel: {h: {action: log, params: {message: '{{ error.message }}'}}}", False),
        ("returns: {x: '{{ steps.a.output }}'}", True),
        ("returns: '{{ steps.b.output }}'", False),
        ("returns: '{{ result }}'", False),
    ],
)
def test_names_around_the_steps(tmp_path: Path, where: str, good: bool) -> None:
    assert bool(problems_in(tmp_path, f"steps: {{a: {LOG}}}\n{where}")) is not good


def test_problem_inside_a_list_is_at_its_line(tmp_path: Path) -> None:
    text = "steps:\n  a:\n    action: shell.run\n    params:\n      argv:\n        - echo\n        - '{{ foo }}'\n"
    assert problems_in(tmp_path, text) == ["7:11: unknown name 'foo'"]


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        pytest.param("{action: pong}", "1:20: there is no action 'pong' in this plan; did you mean 'ping'?", id="own"),
        pytest.param("{action: lgo}", "1:20: there is no action 'lgo' in this plan; did you mean 'log'?", id="shipped"),
        pytest.param(
            "{action: shell.rnu}", "1:20: there is no action 'shell.rnu'; did you mean 'shell.run'?", id="dot"
        ),
        pytest.param("{action: http.request}", "1:20: the action http.request is not supported yet", id="later"),
        pytest.param("{action: notify.mail}", "1:20: the action 'notify.mail' is of another plan; `uses`", id="uses"),
        pytest.param("{action: ping}", "1:20: lab.ping needs the parameter host", id="missing"),
        pytest.param("{action: ping, params: {hots: h}}", "1:35: lab.ping has no parameter 'hots'; did", id="unknown"),
        pytest.param("{action: log, params: {message: 5}}", "1:43: log: message: Expected `str`, got `int`", id="type"),
        pytest.param("{action: sleep, params: {duration: 90}}", "1:46: sleep: duration: 90 has no unit", id="duration"),
        pytest.param("{action: 7}", "1:20: action: text is needed, not a number", id="number"),
    ],
)
def test_problem_of_an_action(tmp_path: Path, step: str, problem: str) -> None:
    assert any(found.startswith(problem) for found in problems_in(tmp_path, f"steps: {{a: {step}}}"))


def test_own_action_may_be_named_in_full(tmp_path: Path) -> None:
    task = task_of(tmp_path, "steps: {a: {action: lab.ping, params: {host: '{{ plan.name }}', count: 2}}}")
    assert task.steps["a"].action == "lab.ping"


def test_all_problems_are_found_at_once(tmp_path: Path) -> None:
    text = "titel: x\nmode: single\nsteps:\n  a: {action: pong, timeout: 5}\n  b: {action: log, depends_on: c}\n"
    assert [problem.split(":")[0] for problem in problems_in(tmp_path, text)] == ["1", "2", "4", "4", "5", "5"]


# -- plan.yaml and the folder -----------------------------------------------------------------------------------------


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
        pytest.param("secrets: {a: b}", "1:10: secrets: a list of names is needed", id="secrets"),
        pytest.param("secrets: [a, a]", "1:14: a is named twice", id="secrets-twice"),
        pytest.param("secrets: [A]", "1:11: 'A' cannot name a secret", id="secrets-name"),
        pytest.param("uses: [notify]", "1:1: `uses` is not supported yet", id="uses"),
        pytest.param("resources: {screen: 1}", "1:1: `resources` is not supported yet", id="resources"),
        pytest.param("defaults: {}", "1:1: `defaults` is not supported yet", id="defaults"),
        pytest.param("reload: {gate: tests}", "1:1: `reload` is not supported yet", id="reload"),
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
        pytest.param({"lab/schedule.yaml": ""}, "lab/schedule.yaml:1:1: schedule.yaml is not supported yet", id="s"),
        pytest.param({"lab/interrupts.yaml": ""}, "lab/interrupts.yaml:1:1: interrupts.yaml is not supported", id="i"),
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
