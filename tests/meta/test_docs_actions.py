"""``docs/reference/actions.md`` against the shipped actions: each has its section, parameters, defaults, an example."""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aura.actions import Action
from aura.builtin import shipped
from aura.loading.loader import check_plans
from aura.loading.yamlfile import load
from aura.processes.process import RESERVED

DOCS = Path(__file__).parents[2] / "docs/reference/actions.md"
ACTIONS = shipped()
#: Defaults that a reader knows by another name.
SAID = {
    ("file.glob", "root"): "the workdir",
    ("shell.run", "cwd"): "the workdir",
    ("http.request", "timeout"): "30s",
}
#: Types of the inputs that examples name, where they are not text.
KINDS = {"copies": "integer"}


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", DOCS.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def defaults_of(action: Action) -> dict[str, Any]:
    """Parameter → its default as JSON, or None if it must be given."""
    found = {}
    for field in msgspec.structs.fields(action.params):
        made = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        found[field.name] = None if made is msgspec.NODEFAULT else json.dumps(made)
    return found


def test_sections_are_the_shipped_actions() -> None:
    assert sorted(sections()) == sorted(ACTIONS)


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_parameters_and_their_defaults_are_documented(action: Action) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]*)\|", sections()[action.name], flags=re.MULTILINE))
    expected = defaults_of(action)
    assert list(rows) == list(expected)
    for name, default in expected.items():
        said = rows[name].strip(" `")
        if action.name == "shell.run" and name in ("argv", "shell"):
            assert not said  # one of both is needed
        else:
            assert said == SAID.get((action.name, name), (default or "").strip('"'))


@pytest.mark.parametrize("name", ACTIONS)
def test_examples_are_plans_that_check(name: str, tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.+?)```", sections()[name], flags=re.DOTALL)
    assert f"action: {name}" in example
    inputs = {key: KINDS.get(key, "string") for key in re.findall(r"inputs\.(\w+)", example)}
    task = tmp_path / "lab/tasks/t.yaml"
    task.parent.mkdir(parents=True)
    task.write_text(f"inputs: {json.dumps(inputs)}\nsteps:\n{textwrap.indent(example, '  ')}")
    for step in load(example, "example.yaml").value.values():
        if name.startswith("task."):  # the task that it names is there as well
            named, inputs = step["params"]["task"], dict.fromkeys(step["params"]["inputs"], "string")
            text = f"inputs: {json.dumps(inputs)}\nsteps:\n  s: {{action: log, params: {{message: x}}}}\n"
            task.with_name(f"{named}.yaml").write_text(text)
    (checked,) = check_plans(tmp_path, ACTIONS)
    assert not checked.problems


def test_variables_that_find_processes_are_documented() -> None:
    text = sections()["shell.run"]
    assert all(re.search(rf"\b{name}\b", text) for name in RESERVED)
