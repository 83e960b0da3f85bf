"""Plans that use others: what a check finds without an import, and what the signatures that were imported tell."""

from pathlib import Path

import pytest
from tests.fakes.plans import LOG, SHIPPED, check_files, write_files

from aura.loading.loader import check_plans

NOTIFY = {
    "notify/actions.py": """
        from aura import action, Context

        @action
        async def mail(ctx: Context, to: str, text: str = "") -> int:
            return len(text)

        @action
        def beep() -> None: ...
        """,
    "notify/tasks/tell.yaml": f"inputs: {{to: string, count: {{type: integer, default: 1}}}}\nsteps: {{a: {LOG}}}\n",
    "notify/tasks/deep/er.yaml": f"steps: {{a: {LOG}}}\n",
}


def problems(root: Path, step: str, head: str = "uses: [notify]", **more: str) -> list[str]:
    """The problems of a plan ``lab`` with one step, beside ``notify``, without the name of the task's file."""
    lab = {"lab/plan.yaml": head, "lab/tasks/t.yaml": f"inputs: {{x: string}}\nsteps: {{a: {step}}}"}
    other = {"lab/tasks/other.yaml": f"inputs: {{x: string}}\nsteps: {{a: {LOG}}}"}
    write_files(root, NOTIFY | lab | other | more)
    found = [p for one in check_plans(root, SHIPPED) for p in one.problems]
    return [str(problem).removeprefix("lab/tasks/t.yaml:") for problem in found]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("{action: notify.mail, params: {to: a}}", id="action"),
        pytest.param("{action: notify.mail, params: {to: '{{ inputs.x }}', text: b}}", id="expression"),
        pytest.param("{action: notify.beep}", id="no-parameters"),
        pytest.param("{action: task.run, params: {task: tell, plan: notify, inputs: {to: a}}}", id="task"),
        pytest.param("{action: task.run, params: {task: deep/er, plan: notify}}", id="task-in-a-folder"),
        pytest.param("{action: task.run, params: {task: other, inputs: {x: y}}}", id="own-task"),
        pytest.param("{action: task.run, params: {task: other, plan: lab, inputs: {x: y}}}", id="own-by-name"),
        pytest.param("{action: task.run, params: {task: '{{ inputs.x }}', plan: notify}}", id="task-by-expression"),
        pytest.param("{action: task.run, params: {task: x, plan: '{{ inputs.x }}'}}", id="plan-by-expression"),
        pytest.param("{action: task.run, params: {task: tell, plan: notify, inputs: '{{ {} }}'}}", id="all-inputs"),
        pytest.param(
            "{action: task.run, params: {task: tell, plan: notify, inputs: {to: a, count: '{{ 1 }}'}}}", id="one-input"
        ),
    ],
)
def test_use_that_is_right(tmp_path: Path, step: str) -> None:
    assert problems(tmp_path, step) == []


@pytest.mark.parametrize(
    ("step", "said"),
    [
        pytest.param(
            "{action: notify.mial, params: {to: a}}",
            "2:21: the plan notify has no action 'mial'; did you mean 'mail'?",
            id="action",
        ),
        pytest.param(
            "{action: notfy.mail}", "2:21: there is no plan 'notfy'; did you mean 'notify'?", id="plan-of-action"
        ),
        pytest.param("{action: shel.run}", "2:21: there is no plan 'shel'; did you mean 'shell'?", id="shipped"),
        pytest.param("{action: notify.mail}", "2:13: notify.mail needs the parameter to", id="missing"),
        pytest.param(
            "{action: notify.mail, params: {to: a, txt: b}}",
            "2:50: notify.mail has no parameter 'txt'; did you mean 'text'?",
            id="parameter",
        ),
        pytest.param(
            "{action: task.run, params: {task: tel, plan: notify}}",
            "2:46: the plan notify has no task 'tel'; did you mean 'tell'?",
            id="task",
        ),
        pytest.param(
            "{action: task.run, params: {task: tell}}", "2:46: the plan lab has no task 'tell'", id="own-task"
        ),
        pytest.param(
            "{action: task.run, params: {task: tell, plan: notfy}}",
            "2:58: there is no plan 'notfy'; did you mean 'notify'?",
            id="plan-of-task",
        ),
        pytest.param(
            "{action: task.run, params: {task: tell, plan: notify, inputs: {to: a, cuont: 1}}}",
            "2:82: the task notify/tell has no input 'cuont'; did you mean 'count'?",
            id="input",
        ),
        pytest.param(
            "{action: task.run, params: {task: tell, plan: notify, inputs: {count: 1}}}",
            "2:66: the task notify/tell needs the input to",
            id="missing-input",
        ),
        pytest.param(
            "{action: task.run, params: {task: tell, plan: notify}}",
            "2:40: the task notify/tell needs the input to",
            id="no-inputs",
        ),
        pytest.param(
            "{action: task.run, params: {task: tell, plan: notify, inputs: {to: a, count: many}}}",
            "2:89: the task notify/tell: count: integer is needed, not string",
            id="type-of-input",
        ),
    ],
)
def test_use_that_is_wrong(tmp_path: Path, step: str, said: str) -> None:
    assert problems(tmp_path, step) == [said]


@pytest.mark.parametrize(
    ("step", "place"),
    [
        pytest.param("{action: notify.mail, params: {to: a}}", "2:21", id="action"),
        pytest.param("{action: notify.nothing}", "2:21", id="unknown-action"),
        pytest.param("{action: task.run, params: {task: tell, plan: notify, inputs: {to: a}}}", "2:58", id="task"),
        pytest.param("{action: task.run, params: {task: '{{ inputs.x }}', plan: notify}}", "2:70", id="any-task"),
    ],
)
def test_plan_that_is_not_in_uses(tmp_path: Path, step: str, place: str) -> None:
    said = f"{place}: plan lab does not use notify: add `uses: [notify]` to plan.yaml"
    assert problems(tmp_path, step, "title: Lab") == [said]


@pytest.mark.parametrize(
    ("head", "said"),
    [
        pytest.param("uses: notify", "1:7: uses: a list of names of plans is needed, not text", id="text"),
        pytest.param("uses: [7]", "1:8: the name of a plan is needed, not a number", id="number"),
        pytest.param("uses: ['No tify']", "1:8: 'No tify' cannot be the name of a plan", id="name"),
        pytest.param("uses: [lab]", "1:8: a plan does not use itself: its own actions and tasks are open", id="itself"),
        pytest.param("uses: [notify, notify]", "1:16: notify is named twice", id="twice"),
        pytest.param("uses: [notify, notfy]", "1:16: there is no plan 'notfy'; did you mean 'notify'?", id="unknown"),
        pytest.param("uses: [shell]", "1:8: there is no plan 'shell'", id="shipped"),
        pytest.param("uses: [lba]", "1:8: there is no plan 'lba'", id="nearest-is-itself"),
    ],
)
def test_uses_that_are_wrong(tmp_path: Path, head: str, said: str) -> None:
    (found,) = problems(tmp_path, LOG, head)
    assert found.startswith(f"lab/plan.yaml:{said}")


def test_plan_yaml_that_cannot_be_read_is_the_only_problem(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "{action: notify.mail, params: {to: a}}", "uses: [notify")
    assert found.startswith("lab/plan.yaml:")


def test_plans_may_use_each_other(tmp_path: Path) -> None:
    back = {
        "notify/plan.yaml": "uses: [lab]",
        "notify/tasks/back.yaml": "steps: {a: {action: lab.ping}}",
        "lab/actions.py": "from aura import action\n@action\ndef ping() -> None: ...\n",
    }
    assert problems(tmp_path, "{action: notify.beep}", **back) == []


@pytest.mark.parametrize(
    ("spoiled", "files"),
    [
        pytest.param("a task of it", {"notify/tasks/tell.yaml": "steps: {"}, id="task"),
        pytest.param("its plan.yaml", {"notify/plan.yaml": "titel: x"}, id="plan-yaml"),
        pytest.param("its Python", {"notify/other.py": "("}, id="python"),
    ],
)
def test_plan_is_not_blamed_for_what_is_wrong_in_one_that_it_uses(
    tmp_path: Path, spoiled: str, files: dict[str, str]
) -> None:
    step = "{action: task.run, params: {task: tell, plan: notify, inputs: {to: a}}}"
    (found,) = problems(tmp_path, step, **files)
    assert found.startswith("notify/"), spoiled


def test_action_that_only_an_import_can_find_is_no_problem_yet(tmp_path: Path) -> None:
    made = "from aura import action\nfor name in ('a', 'b'):\n    globals()[name] = action(name=name)(lambda: None)\n"
    assert problems(tmp_path, "{action: notify.made}", **{"notify/actions.py": made}) == []


def test_resources_of_a_plan(tmp_path: Path) -> None:
    (checked,) = check_files(tmp_path, {"lab/plan.yaml": "resources: {screen: 2, api: {rate: 60, per: 1m}}"})
    assert checked.plan is not None
    assert repr(checked.plan.resources) == "{'screen': Semaphore(count=2), 'api': Rate(count=60, per=60.0)}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("[screen]", "1:12: resources must be a mapping, not a list", id="list"),
        pytest.param("{screen: 0}", "1:21: screen: a whole number from 1 to 1000000 is needed, not 0", id="zero"),
        pytest.param("{screen: true}", "1:21: screen: a whole number from 1 to 1000000 is needed, not", id="boolean"),
        pytest.param("{screen: 1.5}", "1:21: screen: a whole number from 1 to 1000000 is needed, not 1.5", id="half"),
        pytest.param("{screen: }", "1:21: screen: a whole number from 1 to 1000000 is needed, not nothing", id="null"),
        pytest.param("{Screen: 1}", "1:13: 'Screen' cannot name a resource", id="name"),
        pytest.param("{api: {rate: 60}}", "1:13: api: a rate says `rate` and `per`, such as {rate: 60", id="no-per"),
        pytest.param("{api: {per: 1m}}", "1:13: api: a rate says `rate` and `per`, such as {rate: 60", id="no-rate"),
        pytest.param("{api: {rate: 0, per: 1m}}", "1:25: rate: a whole number from 1 to", id="rate"),
        pytest.param("{api: {rate: 1, per: 60}}", "1:33: per: 60 has no unit", id="unit"),
        pytest.param("{api: {rate: 1, per: 0}}", "1:33: per: a rate needs some time, such as 1m", id="no-time"),
        pytest.param("{api: {rate: 1, per: 1m, each: 2}}", "1:37: api has no key 'each'", id="key"),
    ],
)
def test_resources_that_are_wrong(tmp_path: Path, text: str, said: str) -> None:
    (checked,) = check_files(tmp_path, {"lab/plan.yaml": f"resources: {text}"})
    (found,) = checked.problems
    assert str(found).startswith(f"lab/plan.yaml:{said}")
