"""``docs/reference/plan-files.md`` and ``expressions.md`` against the code: every key, every example, every filter."""

import json
import re
import textwrap
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.fakes.plans import write_files

from aura.builtin import shipped
from aura.expressions import template
from aura.filters import FILTERS
from aura.loading import (
    defaults,
    inputspec,
    interruptfile,
    loopfile,
    modefile,
    planfile,
    retryfile,
    schedulefile,
    stepfile,
    taskfile,
    triggerfile,
)
from aura.loading.loader import check_plans
from aura.loading.snapshot import MAX_FILES

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
PLANS = (REFERENCE / "plan-files.md").read_text(encoding="utf-8")
EXPRESSIONS = (REFERENCE / "expressions.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml (\w+)\n(.+?)^```", PLANS, re.MULTILINE | re.DOTALL)
INPUTS = "inputs: {day: string}\n"
#: What the examples take for granted: the example of plan.yaml, the plan that it uses, and another task.
HEAD = next(text for kind, text in BLOCKS if kind == "plan")
OTHERS = {
    "notify/actions.py": "from aura import action\n@action\ndef mail(to: str, text: str) -> None: ...\n",
    "other/tasks/measure.yaml": f"{INPUTS}steps: {{a: {{action: log, params: {{message: x}}}}}}\n",
    "lab/tasks/measure.yaml": f"{INPUTS}steps: {{a: {{action: log, params: {{message: x}}}}}}\n",
}
QUEUE_LENGTH = "from aura import action\n@action\nasync def queue_length() -> int: return 0\n"
IS_LOW = "from aura import action\n@action\nasync def is_low() -> bool: return False\n"
SCOPE: Mapping[str, Any] = {
    "inputs": {"count": 3, "hosts": ["a", "b"], "place": {"items": 5}},
    "steps": {"ping": {"output": None}},
    "now": lambda: datetime(2027, 3, 28, 12, tzinfo=ZoneInfo("Europe/Berlin")),
}


def files_of(kind: str, text: str) -> dict[str, str]:
    """What a block of that kind stands for, as files of a plan."""
    inner = textwrap.indent(text, "  ")
    step = "steps: {a: {action: log, params: {message: x}}}\n"
    return {
        "plan": {"plan.yaml": text},
        "task": {"plan.yaml": HEAD, "tasks/t.yaml": text},
        "steps": {"plan.yaml": HEAD, "tasks/t.yaml": f"{INPUTS}steps:\n{inner}"},
        "inputs": {"tasks/t.yaml": f"{step}inputs:\n{inner}"},
        "schedule": {"plan.yaml": "uses: [other]\nsecrets: [hook]\n", "schedule.yaml": text, "actions.py": QUEUE_LENGTH}
        | {"tasks/report.yaml": f"{INPUTS}{step}"},
        "interrupts": {"interrupts.yaml": text, "actions.py": IS_LOW}
        | {f"tasks/{name}.yaml": step for name in re.findall(r"task: (\w+)", text)},
    }[kind]


@pytest.mark.parametrize(("kind", "text"), BLOCKS, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(BLOCKS)])
def test_example_is_right(tmp_path: Path, kind: str, text: str) -> None:
    write_files(tmp_path, {f"lab/{path}": content for path, content in files_of(kind, text).items()} | OTHERS)
    assert [problem for checked in check_plans(tmp_path, shipped()) for problem in checked.problems] == []


def section(title: str) -> str:
    return re.split(r"^## ", PLANS, flags=re.MULTILINE)[1:][headings().index(title)]


def headings() -> list[str]:
    return re.findall(r"^## (.+)$", PLANS, re.MULTILINE)


@pytest.mark.parametrize(
    ("title", "keys"),
    [
        pytest.param("plan.yaml", planfile.KEYS, id="plan"),
        pytest.param("Task", taskfile.KEYS, id="task"),
        pytest.param("Inputs", inputspec.KEYS, id="inputs"),
        pytest.param("Steps", stepfile.KEYS, id="step"),
        pytest.param("Schedules", {*schedulefile.ITEM_KEYS, *triggerfile.KINDS}, id="schedule"),
        pytest.param("Interrupt rules", interruptfile.RULE_KEYS, id="rule"),
    ],
)
def test_every_key_has_its_row_and_no_other_has(title: str, keys: Collection[str]) -> None:
    table = section(title).split("### ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(keys)


@pytest.mark.parametrize(
    ("title", "keys"),
    [
        pytest.param("Modes", modefile.KINDS, id="mode"),
        pytest.param("Loops", loopfile.KEYS, id="loop"),
        pytest.param("Retries", retryfile.KEYS, id="retry"),
    ],
)
def test_every_word_of_a_part_has_its_row_and_no_other_has(title: str, keys: Collection[str]) -> None:
    (part,) = re.findall(rf"^### {title}\n(.+?)^##", PLANS, re.MULTILINE | re.DOTALL)
    assert sorted(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) == sorted(keys)


def test_every_key_has_an_example() -> None:
    examples = " ".join(text for _, text in BLOCKS)
    keys = {
        *planfile.KEYS,
        *planfile.RELOAD_KEYS,
        *taskfile.KEYS,
        *inputspec.KEYS,
        *stepfile.KEYS,
        *retryfile.KEYS,
        *loopfile.KEYS,
        *modefile.KEYS,
        *interruptfile.RULE_KEYS,
        *interruptfile.PREEMPTS_KEYS,
        *schedulefile.ITEM_KEYS,
        *(key for kind, read in triggerfile.KINDS.items() for key in (kind, *read.beside)),
        *triggerfile.DEBOUNCE_KEYS,
        *triggerfile.FILE_KEYS,
        *triggerfile.WEBHOOK_KEYS,
        *triggerfile.POLL_KEYS,
    }
    assert [key for key in sorted(keys) if f"{key}:" not in examples] == []


ROWS = re.findall(r"^\|(?: `\w+` \|)? `(.*\{\{.+\}\}.*)` \| `(.+)` \|$", EXPRESSIONS, re.MULTILINE)


@pytest.mark.parametrize(("value", "gives"), ROWS, ids=[value for value, _ in ROWS])
def test_expression_gives_what_the_page_says(value: str, gives: str) -> None:
    assert json.loads(json.dumps(template(value.replace("\\|", "|"), "f:1").render(SCOPE))) == json.loads(gives)


def test_keys_that_may_have_a_default_are_those_of_the_code() -> None:
    said = PLANS.partition("### Defaults")[2].partition(". A task")[0].partition("; `step` may have")
    for text, first, keys in ((said[0], "task", defaults.TASK_KEYS), (said[2], "step", defaults.STEP_KEYS)):
        assert sorted(set(re.findall(r"`(\w+)`", text)) - {first}) == sorted(keys)


def test_page_has_expressions() -> None:
    assert len(ROWS) > 30


def test_every_filter_is_named_and_no_other_is() -> None:
    part = EXPRESSIONS.partition("## Filters")[2].partition("## Patterns")[0]
    own = set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE))
    kept = set(re.findall(r"`(\w+)`", part.partition("Kept from")[2].partition(". `groupby` gives")[0]))
    assert own | kept == set(FILTERS)
    assert not own & kept


def test_bounds_are_those_of_the_code() -> None:
    assert f"{MAX_FILES:,} in a plan" in PLANS
