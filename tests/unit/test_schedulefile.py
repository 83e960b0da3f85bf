"""``schedule.yaml``: what is read from it, and every problem with its place."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.plans import LOG, problems_of

from aura.loading.fields import Reader
from aura.loading.planfile import PlanHead
from aura.loading.schedulefile import ITEM_KEYS, read_schedule
from aura.loading.triggerfile import KINDS, Place
from aura.loading.yamlfile import load
from aura.schedule import (
    At,
    Change,
    Cron,
    Debounce,
    Every,
    Expect,
    Item,
    Misfire,
    OnEvent,
    OnFile,
    OnWebhook,
    Poll,
    Scheme,
    Timed,
)
from aura.task import Mode, ModeKind

NEW_YEAR = 1798761600.0  # 2027-01-01T00:00:00Z
TASKS = {
    "lab/plan.yaml": "vars: {inbox: /srv}\nsecrets: [hook]\n",
    "lab/tasks/report.yaml": f"inputs: {{day: string, n: {{type: integer, default: 1}}}}\nsteps: {{a: {LOG}}}\n",
    "lab/tasks/tidy.yaml": f"steps: {{a: {LOG}}}\n",
}
WHOLE = """
items:
  nightly:
    task: report
    inputs: {day: "{{ (due - days(1)) | date }}"}
    enabled: false
    mode: queued
    cooldown: 5m
    triggers:
      - {cron: "30 2 * * *", timezone: Europe/Berlin, jitter: 30s, misfire: skip, misfire_grace: 1h}
      - {every: 5m, from: "2027-01-01T00:00:00Z", misfire: run_all}
      - {at: "2027-01-01T01:00:00+01:00", when: "{{ vars.inbox != '' }}"}
      - {event: "disk.*", when: "{{ event.payload.free < 10 }}", debounce: {for: 2s, key: "{{ event.payload.disk }}"}}
      - {file: {path: "{{ vars.inbox }}", pattern: "*.csv", changes: [added], each: true}}
      - {webhook: {secret: hook, scheme: github}}
      - {poll: {action: sleep, params: {duration: 1s}, every: 30s}, when: "{{ event.payload > 100 }}"}
      - {expect: "backup.done", within: 26h}
"""


def place(text: str) -> Place:
    return Place(
        Reader(load(text.encode(), "lab/schedule.yaml")),
        "lab",
        PlanHead(vars={"inbox": "/srv"}, secrets=("hook",)),
        str,
    )


def read(text: str) -> dict[str, Item]:
    here = place(text)
    items = read_schedule(here)
    assert here.reader.problems == []
    return items


def problems(folder: Path, text: str) -> list[str]:
    """The problems of a schedule beside those tasks."""
    found = problems_of(folder, {**TASKS, "lab/schedule.yaml": text})
    return [problem.removeprefix("lab/schedule.yaml:") for problem in found]


def test_whole_schedule_has_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, WHOLE) == []


def test_item_is_read_whole() -> None:
    item = read(WHOLE)["nightly"]
    assert (item.plan_name, item.task_name, item.enabled, item.cooldown) == ("lab", "report", False, 300.0)
    assert item.mode == Mode(ModeKind.QUEUED, 10)
    assert item.source.line == 3
    assert item.inputs["day"].value == "{{ (due - days(1)) | date }}"


def test_triggers_are_read_by_kind() -> None:
    kinds = [trigger.kind for trigger in read(WHOLE)["nightly"].triggers]
    cron, every, at, event, file, webhook, poll, expect = kinds
    assert cron == Cron("30 2 * * *", "Europe/Berlin", Timed(Misfire.SKIP, 3600.0, 30.0))
    assert every == Every(300.0, NEW_YEAR, Timed(Misfire.RUN_ALL))
    assert at == At(NEW_YEAR, Timed())
    assert isinstance(event, OnEvent)
    assert isinstance(event.debounce, Debounce)
    assert event.debounce.key is not None
    assert (event.pattern, event.debounce.quiet, event.debounce.key.value) == (
        "disk.*",
        2.0,
        "{{ event.payload.disk }}",
    )
    assert isinstance(file, OnFile)
    assert (file.path.value, file.pattern, file.each) == ("{{ vars.inbox }}", "*.csv", True)
    assert file.changes == {Change.ADDED}
    assert webhook == OnWebhook("hook", Scheme.GITHUB)
    assert isinstance(poll, Poll)
    assert (poll.action, poll.period, list(poll.params)) == ("sleep", 30.0, ["duration"])
    assert expect == Expect("backup.done", 93600.0)


def test_defaults_of_an_item() -> None:
    item = read("items: {x: {task: report}}")["x"]
    assert (item.enabled, item.mode, item.cooldown, item.triggers, item.inputs) == (True, None, 0.0, (), {})


@pytest.mark.parametrize(
    ("trigger", "mode"),
    [
        pytest.param("{every: 1m}", Mode(ModeKind.SINGLE), id="timed"),
        pytest.param("{event: a}", None, id="event"),
        pytest.param("{poll: {action: sleep, every: 1m}}", None, id="poll"),
    ],
)
def test_timed_item_runs_one_at_a_time_unless_it_says_otherwise(trigger: str, mode: Mode | None) -> None:
    assert read(f"items: {{x: {{task: report, triggers: [{trigger}]}}}}")["x"].mode == mode


def test_defaults_of_triggers() -> None:
    text = "items: {x: {task: t, triggers: [{file: {path: in}}, {webhook: {secret: hook}}, {cron: '@daily'}]}}"
    file, webhook, cron = (trigger.kind for trigger in read(text)["x"].triggers)
    assert isinstance(file, OnFile)
    assert (file.pattern, file.each) == ("*", False)
    assert file.changes == {Change.ADDED, Change.MODIFIED}
    assert webhook == OnWebhook("hook", Scheme.AURA)
    assert cron == Cron("0 0 * * *", None, Timed(Misfire.RUN_ONCE, None, 0.0))


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        pytest.param("{}", "1:9: x says no task", id="no-task"),
        pytest.param("[]", "1:12: item x must be a mapping, not a list", id="no-mapping"),
        pytest.param("{task: tidy, tasks: 1}", "1:25: item x has no key 'tasks'; did you mean 'task'?", id="key"),
        pytest.param("{task: tidi}", "1:19: the plan lab has no task 'tidi'; did you mean 'tidy'?", id="task"),
        pytest.param("{task: 1}", "1:19: task: text is needed, not a number", id="task-number"),
        pytest.param("{task: tidy, plan: lba}", "1:31: there is no plan 'lba'", id="plan"),
        pytest.param("{task: report}", "1:13: the task lab/report needs the input day", id="input-missing"),
        pytest.param(
            "{task: report, inputs: {dya: x}}",
            "1:27: the task lab/report needs the input day|"
            "1:36: the task lab/report has no input 'dya'; did you mean 'day'?",
            id="input-unknown",
        ),
        pytest.param(
            "{task: report, inputs: {day: x, n: y}}", "1:47: the task lab/report: n: integer is needed", id="input-type"
        ),
        pytest.param("{task: tidy, inputs: [a]}", "1:33: inputs must be a mapping, not a list", id="inputs"),
        pytest.param("{task: tidy, enabled: 1}", "1:34: enabled: true or false is needed", id="enabled"),
        pytest.param("{task: tidy, cooldown: 5}", "1:35: cooldown: 5 has no unit; say 5s", id="cooldown"),
        pytest.param("{task: tidy, mode: one}", "1:31: mode: single or restart or queued or parallel", id="mode"),
        pytest.param(
            "{task: tidy, mode: {kind: queued, key: '{{ steps.a }}'}}", "1:51: `steps` is there only in a task", id="k"
        ),
        pytest.param("{task: tidy, triggers: {every: 1m}}", "1:35: triggers: a list of triggers is needed", id="list"),
        pytest.param(
            "{task: tidy, triggers: [{webhook: {secret: hook}}, {webhook: {secret: hook}}]}",
            "1:35: triggers: an item has one webhook at most",
            id="two-webhooks",
        ),
    ],
)
def test_bad_item(tmp_path: Path, item: str, problem: str) -> None:
    found = problems(tmp_path, f"items: {{x: {item}}}\n")
    assert len(found) == len(problem.split("|"))
    assert all(one.startswith(said) for one, said in zip(found, problem.split("|"), strict=True)), found


@pytest.mark.parametrize(
    ("trigger", "problem"),
    [
        pytest.param("5m", "3: a trigger is a mapping such as {every: 5m}, not text", id="text"),
        pytest.param("{}", "3: a trigger says one of cron, every, at, event, file, webhook, poll, expect", id="none"),
        pytest.param("{corn: x}", "3: a trigger says one of cron, every", id="near"),
        pytest.param("{every: 1m, at: x}", "3: a trigger says one thing, not every and at: make them 2", id="two"),
        pytest.param(
            "{every: 1m, form: x}", "15: a trigger with every has no key 'form'; did you mean 'from'", id="key"
        ),
        pytest.param("{event: a, jitter: 1s}", "14: a trigger with event has no key 'jitter'", id="foreign-key"),
        pytest.param("{cron: '* * * *'}", "10: cron: a cron expression has 5 fields, or 6", id="cron-fields"),
        pytest.param("{cron: '0 24 * * *'}", "10: cron: hour: '24' is none, or one that never comes", id="cron-hour"),
        pytest.param("{cron: '0 0 30 2 *'}", "10: cron: day-of-month: '30' is none, or one", id="cron-never"),
        pytest.param("{cron: 5}", "10: cron: text is needed, not a number", id="cron-number"),
        pytest.param(
            "{cron: '@daly'}", "10: cron: there is no nickname '@daly'; did you mean '@daily'?", id="nickname"
        ),
        pytest.param("{cron: '@daily', timezone: Mars}", "30: timezone: there is no time zone 'Mars'", id="zone"),
        pytest.param("{cron: '@daily', misfire: run}", "29: misfire: run_once or skip or run_all", id="misfire"),
        pytest.param("{cron: '@daily', misfire_grace: 1}", "35: misfire_grace: 1 has no unit", id="grace"),
        pytest.param("{cron: '@daily', jitter: x}", "28: jitter: 'x' is not a duration", id="jitter"),
        pytest.param("{every: 5}", "11: every: 5 has no unit; say 5s", id="every"),
        pytest.param("{every: 0}", "11: every: 100ms is the shortest time", id="every-zero"),
        pytest.param("{every: 1m, from: soon}", "21: from: 'soon' is not a time", id="from"),
        pytest.param("{at: '2027-01-01T00:00:00'}", "8: at: '2027-01-01T00:00:00' does not say where", id="at-offset"),
        pytest.param("{at: 5}", "8: at: a time in quotes is needed", id="at-number"),
        pytest.param("{event: 'a..b'}", "11: event: 'a..b' is no pattern of events", id="event"),
        pytest.param("{event: run.suceeded}", "11: event: Aura has no event 'run.suceeded'; did you", id="own-event"),
        pytest.param("{event: [a]}", "11: event: text is needed, not a list", id="event-list"),
        pytest.param("{event: a, debounce: 2s}", "24: debounce must be a mapping, not text", id="debounce"),
        pytest.param("{event: a, debounce: {key: x}}", "14: debounce needs for", id="debounce-for"),
        pytest.param("{event: a, debounce: {for: 1s, key: '{{ x }}'}}", "39: unknown name 'x'", id="debounce-key"),
        pytest.param("{file: inbox}", "10: file must be a mapping, not text", id="file"),
        pytest.param("{file: {}}", "4: file needs path", id="file-path"),
        pytest.param("{file: {path: '{{ due }}'}}", "17: `due` is there only in `when`, in inputs", id="file-due"),
        pytest.param("{file: {path: '{{ state.x }}'}}", "17: `state` is not there in a path: it is", id="file-state"),
        pytest.param(
            "{file: {path: a, changes: [aded]}}", "29: changes: a list of added, modified, deleted is", id="ch"
        ),
        pytest.param("{file: {path: a, changes: []}}", "29: changes: a list of added", id="no-change"),
        pytest.param(
            "{file: {path: a, pattern: ../x}}", "29: pattern: a pattern of names below the path", id="pattern"
        ),
        pytest.param("{webhook: {}}", "4: webhook needs secret", id="webhook"),
        pytest.param("{webhook: {secret: 'A-1'}}", "22: secret: the name of a secret is needed", id="webhook-secret"),
        pytest.param(
            "{webhook: {secret: hok}}",
            "22: secret: plan.yaml does not declare the secret 'hok'; did you mean 'hook'?",
            id="undeclared",
        ),
        pytest.param(
            "{webhook: {secret: hook, scheme: github2}}", "36: scheme: aura or github or gitlab or bearer", id="scheme"
        ),
        pytest.param("{poll: {}}", "4: poll needs action and every", id="poll"),
        pytest.param(
            "{poll: {action: slep, every: 1m}}", "19: there is no action 'slep' in this plan", id="poll-action"
        ),
        pytest.param(
            "{poll: {action: sleep, params: {duraton: 1s, duration: 1s}, every: 1m}}",
            "35: sleep has no parameter 'duraton'; did you mean 'duration'?",
            id="poll-parameter",
        ),
        pytest.param(
            "{poll: {action: sleep, params: {duration: '{{ event }}'}, every: 1m}}",
            "45: `event` is there only in `when`",
            id="poll-event",
        ),
        pytest.param(
            "{poll: {action: sleep, params: {duration: 1s}, every: 10}}", "57: every: 10 has no", id="poll-every"
        ),
        pytest.param("{expect: a}", "3: expect needs `within`", id="within"),
        pytest.param("{expect: a, within: 0}", "23: within: 100ms is the shortest", id="within-zero"),
        pytest.param("{expect: 'a b', within: 1h}", "12: expect: 'a b' is no pattern", id="expect"),
        pytest.param("{every: 1m, when: maybe}", "21: a condition is one whole {{ … }}, or true or false", id="when"),
        pytest.param("{every: 1m, when: '{{ inputs.day }}'}", "21: `inputs` is there only in a task", id="when-inputs"),
        pytest.param("{every: 1m, when: '{{ secrets.a }}'}", "21: plan.yaml does not declare the s", id="when-secret"),
        pytest.param("{every: 1m, when: '{{ vars.x }}'}", "21: plan.yaml has no variable 'x'", id="when-var"),
        pytest.param("{event: a, when: '{{ event.pay }}'}", "20: an event has no 'pay'", id="when-event"),
        pytest.param("{event: a, when: '{{ plan.x }}'}", "20: plan has no 'x'", id="when-plan"),
        pytest.param("{event: a, when: '{{ a b }}'}", "20: ", id="when-syntax"),
    ],
)
def test_bad_trigger(tmp_path: Path, trigger: str, problem: str) -> None:
    text = f"items:\n  x:\n    task: tidy\n    triggers:\n    - {trigger}\n"
    found = problems(tmp_path, text)
    column, _, message = problem.partition(": ")
    assert len(found) == 1, found
    assert found[0].startswith(f"5:{int(column) + 4}: {message}"), found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("itmes: {}", "1:1: schedule.yaml has no key 'itmes'; did you mean 'items'?", id="key"),
        pytest.param("{}", "1:1: schedule.yaml needs `items`", id="nothing"),
        pytest.param("items: [a]", "1:8: items must be a mapping, not a list", id="list"),
        pytest.param("[a]", "1:1: schedule.yaml must be a mapping, not a list", id="no-mapping"),
        pytest.param("items: {A: {task: tidy}}", "1:9: 'A' cannot name an item", id="name"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, problem: str) -> None:
    assert any(found.startswith(problem) for found in problems(tmp_path, text))


def test_task_of_another_plan_must_be_open(tmp_path: Path) -> None:
    other = {"other/tasks/t.yaml": f"steps: {{a: {LOG}}}\n"}
    schedule = {"lab/schedule.yaml": "items: {x: {task: t, plan: other}}\n"}
    closed = problems_of(tmp_path / "a", {**TASKS, **other, **schedule})
    assert any("1:28: plan lab does not use other: add `uses: [other]` to plan.yaml" in one for one in closed)
    head = {"lab/plan.yaml": "uses: [other]\nvars: {inbox: /srv}\n"}
    assert problems_of(tmp_path / "b", {**TASKS, **other, **schedule, **head}) == []


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["x", "{{ due }}", "{{ x", "5m", "@daily", "a.b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*ITEM_KEYS, *KINDS, "when", "within", "debounce", "path", "action", "params", "for", "key"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(item=ANYTHING)
def test_whatever_an_item_is_reading_gives_items_and_problems(item: object) -> None:
    here = place("items: {}")
    here.reader.document.value["items"]["x"] = item
    assert list(read_schedule(here)) == ["x"]
