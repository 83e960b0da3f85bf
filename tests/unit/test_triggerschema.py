"""The schemas of schedule.yaml and interrupts.yaml against their readers: what one takes the other takes."""

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it brings no types
from tests.fakes.plans import problems_of
from tests.unit import test_interruptfile, test_schedulefile

from aura.loading import interruptfile, schedulefile, triggerfile, triggerschema
from aura.loading.triggerschema import interrupts_schema, schedule_schema
from aura.loading.yamlfile import load

TRIGGER = "items: {{x: {{task: tidy, triggers: [{}]}}}}\n"
RULE = "rules: {{x: {{task: save, triggers: [{{event: a}}], {}}}}}\n"


def errors(schema: dict[str, Any], text: str) -> list[str]:
    found = Draft202012Validator(schema).iter_errors(load(text.encode(), "f").value)
    return [error.message for error in found]


@pytest.mark.parametrize("schema", [schedule_schema(), interrupts_schema()], ids=["schedule", "interrupts"])
def test_schema_is_one(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        pytest.param(schedule_schema(), test_schedulefile.WHOLE, id="schedule"),
        pytest.param(schedule_schema(), "items: {}", id="no-items"),
        pytest.param(schedule_schema(), "items: {x: {task: tidy, mode: {kind: queued, max: 2}}}", id="mode"),
        pytest.param(schedule_schema(), TRIGGER.format("{cron: '@daily'}"), id="nickname"),
        pytest.param(schedule_schema(), TRIGGER.format("{cron: ' 0 0 2 * * mon-fri '}"), id="six-fields"),
        pytest.param(schedule_schema(), TRIGGER.format("{at: '2027-01-01 00:00:00.5+0100'}"), id="offset"),
        pytest.param(schedule_schema(), TRIGGER.format("{every: 1h30m, jitter: 0, when: true}"), id="zero"),
        pytest.param(interrupts_schema(), test_interruptfile.WHOLE, id="interrupts"),
        pytest.param(interrupts_schema(), RULE.format("preempts: {}"), id="preempts-nothing-else"),
    ],
)
def test_file_that_is_right_fits(tmp_path: Path, schema: dict[str, Any], text: str) -> None:
    assert errors(schema, text) == []
    rules = "rules" in schema["properties"]
    tests = test_interruptfile if rules else test_schedulefile
    name = "interrupts" if rules else "schedule"
    assert problems_of(tmp_path, {**tests.TASKS, f"lab/{name}.yaml": text}) == []


@pytest.mark.parametrize(
    "trigger",
    [
        "5m",
        "{}",
        "{corn: x}",
        "{every: 1m, at: '2027-01-01T00:00:00Z'}",
        "{every: 1m, form: x}",
        "{event: a, jitter: 1s}",
        "{cron: '* * * *'}",
        "{cron: 5}",
        "{cron: '@daily', misfire: run}",
        "{cron: '@daily', misfire_grace: 1}",
        "{every: 5}",
        "{every: 0}",
        "{every: 1m, from: soon}",
        "{at: '2027-01-01T00:00:00'}",
        "{at: 5}",
        "{event: 'a..b'}",
        "{event: a, debounce: 2s}",
        "{event: a, debounce: {key: x}}",
        "{file: inbox}",
        "{file: {}}",
        "{file: {path: a, changes: [aded]}}",
        "{file: {path: a, changes: []}}",
        "{file: {path: a, each: 1}}",
        "{webhook: {}}",
        "{webhook: {secret: 'A-1'}}",
        "{webhook: {secret: a, scheme: github2}}",
        "{poll: {action: sleep}}",
        "{poll: {action: sleep, params: [a], every: 1m}}",
        "{expect: a}",
        "{expect: a, within: 0}",
        "{every: 1m, when: maybe}",
    ],
)
def test_trigger_that_is_wrong_fits_neither_schema_nor_reader(tmp_path: Path, trigger: str) -> None:
    text = TRIGGER.format(trigger)
    assert errors(schedule_schema(), text)
    assert test_schedulefile.problems(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "itmes: {}",
        "{}",
        "items: [a]",
        "items: {A: {task: tidy}}",
        "items: {x: {}}",
        "items: {x: {task: tidy, tasks: 1}}",
        "items: {x: {task: tidy, enabled: 1}}",
        "items: {x: {task: tidy, cooldown: 5}}",
        "items: {x: {task: tidy, mode: one}}",
        "items: {x: {task: tidy, inputs: [a]}}",
        "items: {x: {task: tidy, triggers: {every: 1m}}}",
    ],
)
def test_schedule_that_is_wrong_fits_neither(tmp_path: Path, text: str) -> None:
    assert errors(schedule_schema(), text)
    assert test_schedulefile.problems(tmp_path, text)


@pytest.mark.parametrize(
    "rule",
    [
        "plan: other",
        "preempts: [main]",
        "preempts: {lane: main}",
        "preempts: {lanes: [interrupt]}",
        "preempts: {plans: [Lab]}",
        "preempts: {plans: [a/b]}",
        "preempts: {tasks: [a//b]}",
        "preempts: {labels: {a: 1}}",
        "preempts: {below_priority: 1002}",
        "then: go_on",
        "handler_starts: now",
        "grace: 5",
        "max_pending: 0",
        "priority: 1001",
        "while_running: save",
        "while_running: [Save]",
        "enabled: 1",
    ],
)
def test_line_of_a_rule_that_is_wrong_fits_neither(tmp_path: Path, rule: str) -> None:
    text = RULE.format(rule)
    assert errors(interrupts_schema(), text)
    assert test_interruptfile.problems(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "rules: {x: {task: save}}",
        "rules: {x: {task: save, triggers: []}}",
        "rules: {x: {triggers: [{event: a}]}}",
        "rules: {x: {task: save, triggers: [{cron: '@daily'}]}}",
        "rules: {x: {task: save, triggers: [{event: a, debounce: {for: 1s}}]}}",
        "rules: {a-b: {task: save, triggers: [{event: a}]}}",
    ],
)
def test_rules_that_are_wrong_fit_neither(tmp_path: Path, text: str) -> None:
    assert errors(interrupts_schema(), text)
    assert test_interruptfile.problems(tmp_path, text)


@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        pytest.param(triggerschema.ITEM, schedulefile.ITEM_KEYS, id="item"),
        pytest.param(triggerschema.RULE, interruptfile.RULE_KEYS, id="rule"),
        pytest.param(triggerschema.PREEMPTS, interruptfile.PREEMPTS_KEYS, id="preempts"),
        pytest.param(triggerschema.DEBOUNCE, triggerfile.DEBOUNCE_KEYS, id="debounce"),
        pytest.param(triggerschema.FILE, triggerfile.FILE_KEYS, id="file"),
        pytest.param(triggerschema.WEBHOOK, triggerfile.WEBHOOK_KEYS, id="webhook"),
        pytest.param(triggerschema.POLL, triggerfile.POLL_KEYS, id="poll"),
    ],
)
def test_schema_has_the_reader_s_keys_and_no_other(rows: triggerschema.Rows, keys: tuple[str, ...]) -> None:
    assert sorted(rows) == sorted(keys)


def test_every_key_of_a_trigger_has_its_row_and_no_other_has() -> None:
    keys = {key for kind, made in triggerfile.KINDS.items() for key in (kind, *made.beside, "when")}
    assert set(triggerschema.TRIGGER) == keys
