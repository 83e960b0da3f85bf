"""The schema for editors against the reader of the files: what one takes the other takes, key by key."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it brings no types

from aura.builtin import shipped
from aura.loading import fileschema, inputspec, loopfile, modefile, planfile, retryfile, schemaparts, stepfile, taskfile
from aura.loading.fileschema import plan_schema, task_schema
from aura.loading.loader import check_plans
from aura.loading.yamlfile import load

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference/plan-files.md").read_text(encoding="utf-8")
STEP = "steps: {a: {action: log, params: {message: x}}}\n"


def of_step(fields: str) -> str:
    return f"steps: {{a: {{action: log, params: {{message: x}}, {fields}}}}}"


def errors(schema: dict[str, Any], text: str) -> list[str]:
    found = Draft202012Validator(schema).iter_errors(load(text.encode(), "f").value)
    return [error.message for error in found]


def examples() -> Iterator[tuple[str, str]]:
    """Task files: those of the plans, and those of the reference."""
    for file in sorted((ROOT / "plans").glob("*/tasks/**/*.yaml")):
        yield f"{file.parents[1].name}/{file.stem}", file.read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml (\w+)\n(.+?)^```", REFERENCE, re.MULTILINE | re.DOTALL)
    for number, (kind, text) in enumerate(blocks):
        inner = "".join(f"  {line}\n" for line in text.splitlines())
        if kind not in ("plan", "interrupts", "schedule"):
            yield (
                f"{kind}-{number}",
                {"task": text, "steps": f"steps:\n{inner}", "inputs": f"{STEP}inputs:\n{inner}"}[kind],
            )


def plan_files() -> Iterator[tuple[str, str]]:
    for file in sorted((ROOT / "plans").glob("*/plan.yaml")):
        yield file.parent.name, file.read_text(encoding="utf-8")
    yield "reference", re.findall(r"^```yaml plan\n(.+?)^```", REFERENCE, re.MULTILINE | re.DOTALL)[0]


@pytest.mark.parametrize("schema", [task_schema(), plan_schema()], ids=["task", "plan"])
def test_schema_is_one(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("text", [text for _, text in examples()], ids=[name for name, _ in examples()])
def test_task_that_is_right_fits(text: str) -> None:
    assert errors(task_schema(), text) == []


@pytest.mark.parametrize("text", [text for _, text in plan_files()], ids=[name for name, _ in plan_files()])
def test_plan_that_is_right_fits(text: str) -> None:
    assert errors(plan_schema(), text) == []


WRONG = [
    pytest.param("title: no steps", id="no-steps"),
    pytest.param("steps: {}", id="empty-graph"),
    pytest.param("steps: []", id="empty-sequence"),
    pytest.param(f"{STEP}stepps: 1", id="unknown-key"),
    pytest.param(f"{STEP}preempt: later", id="preempt"),
    pytest.param(f"{STEP}title: [1]", id="title"),
    pytest.param(f"{STEP}lane: interrupt", id="lane"),
    pytest.param(f"{STEP}priority: 1001", id="priority"),
    pytest.param(f"{STEP}recovery: again", id="recovery"),
    pytest.param(f"{STEP}mode: double", id="mode"),
    pytest.param(f"{STEP}mode: {{max: 2}}", id="mode-without-kind"),
    pytest.param(f"{STEP}mode: {{kind: single, max: 2}}", id="mode-with-foreign-max"),
    pytest.param(f"{STEP}mode: {{kind: queued, max: 0}}", id="mode-max"),
    pytest.param(f"{STEP}mode: {{kind: single, key: 1}}", id="mode-key"),
    pytest.param(f"{STEP}timeout: 5", id="no-unit"),
    pytest.param(f"{STEP}timeout: '1:30'", id="colon"),
    pytest.param(f"{STEP}timeout: soon", id="no-duration"),
    pytest.param(f"{STEP}labels: {{a: 1}}", id="label"),
    pytest.param(f"{STEP}labels: {{a: '{{{{ x }}}}'}}", id="label-with-expression"),
    pytest.param(f"{STEP}inputs: {{A: string}}", id="input-name"),
    pytest.param(f"{STEP}inputs: {{a: text}}", id="type"),
    pytest.param(f"{STEP}inputs: {{a: {{description: x}}}}", id="no-type"),
    pytest.param(f"{STEP}inputs: {{a: {{type: string, minimum: 1}}}}", id="key-of-another-type"),
    pytest.param(f"{STEP}inputs: {{a: {{type: string, secret: true, default: x}}}}", id="default-of-a-secret"),
    pytest.param(f"{STEP}inputs: {{a: {{type: string, secret: true, enum: [x]}}}}", id="values-of-a-secret"),
    pytest.param(f"{STEP}inputs: {{a: {{type: string, enum: []}}}}", id="empty-enum"),
    pytest.param(f"{STEP}inputs: {{a: {{type: array, items: {{type: text}}}}}}", id="inner-type"),
    pytest.param("steps: {a: {params: {}}}", id="no-action"),
    pytest.param("steps: {A: {action: log, params: {message: x}}}", id="step-name"),
    pytest.param("steps: {any: {action: log, params: {message: x}}}", id="step-any"),
    pytest.param("steps: [{action: log, params: {message: x}}]", id="sequence-without-name"),
    pytest.param(of_step("preempt: true"), id="preempt-of-a-step"),
    pytest.param(of_step("when: maybe"), id="when"),
    pytest.param(of_step("retry: {attempts: 0}"), id="attempts"),
    pytest.param(of_step("retry: {attempts: 2, backoff: 0.5}"), id="backoff"),
    pytest.param(of_step("retry: {attempts: 2, max_delay: 0}"), id="max-delay"),
    pytest.param(of_step("retry: {attempts: 2, errors: []}"), id="no-errors"),
    pytest.param(of_step("retry: {attempts: 2, errors: [a.B]}"), id="error-with-module"),
    pytest.param(of_step("retry: {attempts: 2, errors: [A, A]}"), id="error-twice"),
    pytest.param(of_step("retry: {errors: [A]}"), id="errors-without-attempts"),
    pytest.param(of_step("retry: {attempts: 1, when: true}"), id="retry-when-without-attempts"),
    pytest.param(of_step("when: false"), id="when-false"),
    pytest.param(of_step("loop: {}"), id="loop-over-nothing"),
    pytest.param(of_step("loop: {times: 2, until: true}"), id="loop-of-two-kinds"),
    pytest.param(of_step("loop: {times: -1}"), id="times"),
    pytest.param(of_step("loop: {times: 'a{{ 1 }}'}"), id="times-text"),
    pytest.param(of_step("loop: {for_each: 3}"), id="for-each"),
    pytest.param(of_step("loop: {while: false}"), id="while-false"),
    pytest.param(of_step("loop: {while: true, parallelism: 2}"), id="parallelism-of-rounds"),
    pytest.param(of_step("loop: {times: 2, max_iterations: 2}"), id="iterations-of-items"),
    pytest.param(of_step("loop: {times: 2, delay: 1s}"), id="delay-of-items"),
    pytest.param(of_step("loop: {times: 2, parallelism: 1001}"), id="parallelism"),
    pytest.param(of_step("loop: {times: 2, on_item_failure: go}"), id="on-item-failure"),
    pytest.param(of_step("resources: [a]"), id="resources-list"),
    pytest.param(of_step("resources: {A: 1}"), id="resource-name"),
    pytest.param(of_step("resources: {a: 0}"), id="resource-none"),
    pytest.param(of_step("idempotent: maybe"), id="boolean"),
    pytest.param(of_step("depends_on: {b: gone}"), id="state"),
    pytest.param(of_step("depends_on: {b: []}"), id="no-state"),
    pytest.param(of_step("depends_on: [b, b]"), id="twice"),
    pytest.param(of_step("depends_on: {any: [b], c: failed}"), id="any-and"),
    pytest.param(of_step("depends_on: {any: []}"), id="any-none"),
    pytest.param(of_step("outputs: {A: 1}"), id="output-name"),
    pytest.param(f"{STEP}finally: {{b: {{actoin: log}}}}", id="handler"),
    pytest.param("steps: {a: {action: event.wait, params: {name: 3}}}", id="event-name"),
    pytest.param("steps: {a: {action: event.wait, params: {name: x, when: maybe}}}", id="event-when"),
    pytest.param("steps: [{name: a, action: event.wait, params: {name: x, when: false}}]", id="event-when-false"),
    pytest.param("steps: {a: {action: approval.wait, params: {message: ''}}}", id="approval-message"),
    pytest.param("steps: {a: {action: approval.wait, params: {message: x, inputs: {A: string}}}}", id="approval-name"),
    pytest.param("steps: {a: {action: approval.wait, params: {message: x, inputs: [a]}}}", id="approval-inputs"),
]


@pytest.mark.parametrize("text", WRONG)
def test_task_that_is_wrong_fits_neither_schema_nor_reader(tmp_path: Path, text: str) -> None:
    file = tmp_path / "lab/tasks/t.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    (checked,) = check_plans(tmp_path, shipped())
    assert checked.problems
    assert errors(task_schema(), text)


WRONG_PLANS = [
    *("titel: x", "vars: [1]", "vars: {A: 1}", "timezone: 1"),
    *("reload: tests", "reload: {gate: test}", "reload: {gate: tests, gate_timeout: 5}", "reload: {gate_timeout: 5m}"),
    *("secrets: a", "secrets: [A]", "secrets: [a, a]", "secrets: [1]"),
    *("uses: notify", "uses: [1]", "uses: [No]", "uses: [a, a]", "resources: [a]", "resources: {A: 1}"),
    *("resources: {a: 0}", "resources: {a: {rate: 1}}", "resources: {a: {per: 1m}}"),
    "resources: {a: {rate: 1, per: 1}}",
    *("defaults: [a]", "defaults: {job: {}}", "defaults: {task: {steps: {}}}", "defaults: {step: {action: log}}"),
    *("defaults: {task: {timeout: 5}}", "defaults: {step: {retry: {attempts: 0}}}", "defaults: {task: {mode: twice}}"),
]


@pytest.mark.parametrize("text", WRONG_PLANS)
def test_plan_that_is_wrong_fits_neither_schema_nor_reader(tmp_path: Path, text: str) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/plan.yaml").write_text(text)
    (checked,) = check_plans(tmp_path, shipped())
    assert checked.problems
    assert errors(plan_schema(), text)


@pytest.mark.parametrize("text", ["500ms", "90s", "1h30m", "2d", "PT1H", "1.5h", "1 h 30 m", "P1DT2H", "1h500ms"])
def test_duration_that_is_right_fits(text: str) -> None:
    assert errors(task_schema(), f"{STEP}timeout: {text}") == []


@pytest.mark.parametrize(
    ("shapes", "keys"),
    [
        pytest.param(fileschema._TASK, taskfile.KEYS, id="task"),
        pytest.param(fileschema._STEP, stepfile.KEYS, id="step"),
        pytest.param(fileschema._INPUT, inputspec.KEYS, id="input"),
        pytest.param(plan_schema()["properties"], planfile.KEYS, id="plan"),
        pytest.param(fileschema._reload()["properties"], planfile.RELOAD_KEYS, id="reload"),
        pytest.param(fileschema._retry()["properties"], retryfile.KEYS, id="retry"),
        pytest.param(fileschema._loop()["properties"], loopfile.KEYS, id="loop"),
        pytest.param(schemaparts.mode()["anyOf"][1]["properties"], modefile.KEYS, id="mode"),
    ],
)
def test_schema_has_the_reader_s_keys_and_no_other(shapes: dict[str, Any], keys: tuple[str, ...]) -> None:
    assert sorted(shapes) == sorted(keys)
