"""``interrupts.yaml``: what is read from it, and every problem with its place."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.plans import LOG, problems_of

from aura.interrupt import HandlerStart, Preempts, Rule, Then
from aura.loading.fields import Reader
from aura.loading.interruptfile import PREEMPTS_KEYS, RULE_KEYS, read_interrupts
from aura.loading.planfile import PlanHead
from aura.loading.triggerfile import Place
from aura.loading.yamlfile import load
from aura.schedule import OnEvent, Poll

TASKS = {
    "lab/tasks/save.yaml": f"inputs: {{why: {{type: string, default: x}}}}\nsteps: {{a: {LOG}}}\n",
    "lab/tasks/deep/report.yaml": f"steps: {{a: {LOG}}}\n",
}
WHOLE = """
rules:
  low_battery:
    triggers:
      - {event: "battery.low", when: "{{ event.payload.percent < 10 }}"}
      - {poll: {action: sleep, params: {duration: 1s}, every: 2s}}
    task: save
    inputs: {why: "{{ event.name }}"}
    preempts: {lanes: [main, event], plans: [lab], tasks: ["deep/*", "re*"], labels: {team: ops}, below_priority: 5}
    then: restart
    handler_starts: at_once
    grace: 0
    cooldown: 30s
    max_pending: 3
    priority: 100
    while_running: [deep/report]
    enabled: false
"""


def place(text: str) -> Place:
    return Place(Reader(load(text.encode(), "lab/interrupts.yaml")), "lab", PlanHead(), str)


def read(text: str) -> Rule:
    here = place(text)
    (rule,) = read_interrupts(here).values()
    assert here.reader.problems == []
    return rule


def problems(folder: Path, text: str) -> list[str]:
    """The problems of rules beside those tasks."""
    found = problems_of(folder, {**TASKS, "lab/interrupts.yaml": text})
    return [problem.removeprefix("lab/interrupts.yaml:") for problem in found]


def test_whole_rules_have_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, WHOLE) == []


def test_rule_is_read_whole() -> None:
    rule = read(WHOLE)
    assert (rule.name, rule.task_name, rule.source.line, rule.enabled) == ("low_battery", "save", 3, False)
    assert rule.preempts == Preempts(("main", "event"), ("lab",), ("deep/*", "re*"), {"team": "ops"}, 5)
    assert (rule.then, rule.handler_starts) == (Then.RESTART, HandlerStart.AT_ONCE)
    assert (rule.grace, rule.cooldown, rule.max_pending, rule.priority) == (0.0, 30.0, 3, 100)
    assert rule.while_running == ("deep/report",)
    event, poll = (trigger.kind for trigger in rule.triggers)
    assert event == OnEvent("battery.low")
    assert isinstance(poll, Poll)
    assert (poll.action, poll.period) == ("sleep", 2.0)


def test_defaults_of_a_rule() -> None:
    rule = read("rules: {x: {task: save, triggers: [{event: a}]}}")
    assert rule.preempts == Preempts(("main",), ("*",), ("*",), {}, 1001)
    assert (rule.then, rule.handler_starts) == (Then.RESUME, HandlerStart.AFTER_CLEANUP)
    assert (rule.grace, rule.cooldown, rule.max_pending, rule.priority) == (5.0, 0.0, 10, 0)
    assert (rule.while_running, rule.enabled, rule.inputs) == ((), True, {})


def test_preempts_that_names_some_keys_keeps_the_others() -> None:
    rule = read("rules: {x: {task: save, triggers: [{event: a}], preempts: {plans: [lab]}}}")
    assert rule.preempts == Preempts(plans=("lab",))


@pytest.mark.parametrize("event", ["run.failed", "run.*", "**", "*.done", "step.**", "interrupt.ended"])
def test_rule_may_hear_aura_s_own_events(event: str) -> None:
    assert read(f"rules: {{x: {{task: save, triggers: [{{event: '{event}'}}]}}}}").triggers[0].kind == OnEvent(event)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        pytest.param("taks: save", "5:5: rule x has no key 'taks'; did you mean 'task'?", id="key"),
        pytest.param("plan: other", "5:5: rule x has no key 'plan'", id="plan"),
        pytest.param("inputs: {wy: x}", "5:14: the task lab/save has no input 'wy'; did you mean 'why'?", id="input"),
        pytest.param(
            "inputs: {why: 1}", "5:19: the task lab/save: why: string is needed, not integer", id="input-type"
        ),
        pytest.param("inputs: {why: '{{ steps.a }}'}", "5:19: `steps` is there only in a task", id="input-name"),
        pytest.param("inputs: {why: '{{ secrets.x }}'}", "5:19: plan.yaml does not declare the secret", id="secret"),
        pytest.param("preempts: [main]", "5:15: preempts must be a mapping, not a list", id="preempts"),
        pytest.param("preempts: {lane: main}", "5:16: preempts has no key 'lane'; did you mean 'lanes'?", id="pre-key"),
        pytest.param("preempts: {lanes: main}", "5:23: lanes: a list is needed, not text", id="lanes"),
        pytest.param(
            "preempts: {lanes: [main, mian]}",
            "5:30: lanes: main or event is needed, not 'mian'; did you mean",
            id="lane",
        ),
        pytest.param("preempts: {lanes: [1]}", "5:24: lanes: main or event is needed, not a number", id="lane-number"),
        pytest.param("preempts: {plans: [Lab]}", "5:24: plans: a name is needed, not 'Lab'", id="plan-name"),
        pytest.param("preempts: {plans: [a/b]}", "5:24: plans: a name is needed, not 'a/b'", id="plan-slash"),
        pytest.param("preempts: {tasks: [a//b]}", "5:24: tasks: a name is needed, not 'a//b'", id="task-name"),
        pytest.param("preempts: {labels: {a: 1}}", "5:28: the label a must be text, not a number", id="label"),
        pytest.param("preempts: {below_priority: 1002}", "5:32: below_priority: a whole number from", id="below"),
        pytest.param("then: go_on", "5:11: then: resume or restart or cancel is needed, not 'go_on'", id="then"),
        pytest.param("handler_starts: now", "5:21: handler_starts: after_cleanup or at_once is needed", id="starts"),
        pytest.param("grace: 5", "5:12: grace: 5 has no unit; say 5s", id="grace"),
        pytest.param("cooldown: x", "5:15: cooldown: 'x' is not a duration", id="cooldown"),
        pytest.param("max_pending: 0", "5:18: max_pending: a whole number from 1 to 1000", id="pending"),
        pytest.param("priority: 1001", "5:15: priority: a whole number from -1000 to 1000", id="priority"),
        pytest.param("while_running: save", "5:20: while_running: a list is needed, not text", id="while"),
        pytest.param(
            "while_running: [saev]", "5:21: the plan lab has no task 'saev'; did you mean 'save'?", id="w-task"
        ),
        pytest.param("while_running: [Save]", "5:21: while_running: a name is needed, not 'Save'", id="w-name"),
        pytest.param("enabled: 1", "5:14: enabled: true or false is needed, not a number", id="enabled"),
    ],
)
def test_bad_line_of_a_rule(tmp_path: Path, line: str, problem: str) -> None:
    (found,) = problems(tmp_path, f"rules:\n  x:\n    task: save\n    triggers: [{{event: a}}]\n    {line}\n")
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        pytest.param("{task: save}", "1:9: x needs at least one trigger", id="no-trigger"),
        pytest.param("{task: save, triggers: []}", "1:9: x needs at least one trigger", id="empty"),
        pytest.param("{triggers: [{event: a}]}", "1:9: x says no task", id="no-task"),
        pytest.param("{task: sav, triggers: [{event: a}]}", "1:19: the plan lab has no task 'sav'; did", id="task"),
        pytest.param("5", "1:12: rule x must be a mapping, not a number", id="number"),
        pytest.param(
            "{task: save, triggers: [{cron: '@daily'}]}", "1:36: a trigger says one of event, poll", id="timed-trigger"
        ),
        pytest.param(
            "{task: save, triggers: [{event: a, debounce: {for: 1s}}]}",
            "1:47: a trigger with event has no key 'debounce'",
            id="debounce",
        ),
        pytest.param(
            "{task: save, triggers: [{event: run.suceeded}]}", "1:44: event: Aura has no event 'run.suc", id="event"
        ),
        pytest.param(
            "{task: save, triggers: [{poll: {action: slep, every: 2s}}]}", "1:52: there is no action 'slep'", id="poll"
        ),
    ],
)
def test_bad_rule(tmp_path: Path, rule: str, problem: str) -> None:
    (found,) = problems(tmp_path, f"rules: {{x: {rule}}}\n")
    assert found.startswith(problem)


@pytest.mark.parametrize("action", ["event.wait", "approval.wait", "task.run", "task.start", "stop"])
def test_poll_of_what_only_a_run_can_do_is_refused(action: str) -> None:
    found = place(f"rules: {{x: {{task: save, triggers: [{{poll: {{action: {action}, every: 2s}}}}]}}}}\n")
    read_interrupts(found)
    (problem,) = found.reader.problems
    assert (problem.line, problem.column) == (1, 52)
    assert f"a poll is part of no run, and {action} needs one" in problem.message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("rule: {}", "1:1: interrupts.yaml has no key 'rule'; did you mean 'rules'?", id="key"),
        pytest.param("{}", "1:1: interrupts.yaml needs `rules`", id="nothing"),
        pytest.param("rules: 5", "1:8: rules must be a mapping, not a number", id="number"),
        pytest.param("rules: {a-b: {}}", "1:9: 'a-b' cannot name a rule", id="name"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, problem: str) -> None:
    assert any(found.startswith(problem) for found in problems(tmp_path, text))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["x", "{{ due }}", "{{ x", "5m", "main", "a.b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*RULE_KEYS, *PREEMPTS_KEYS, "event", "poll", "when", "action"]), inner, max_size=5
        )
    ),
    max_leaves=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded machine is slow
@given(rule=ANYTHING)
def test_whatever_a_rule_is_reading_gives_rules_and_problems(rule: object) -> None:
    here = place("rules: {}")
    here.reader.document.value["rules"]["x"] = rule
    assert list(read_interrupts(here)) == ["x"]
