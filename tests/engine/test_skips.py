"""Why steps were skipped, as runs of a real plan have it on record: data, words, events, log lines, trees."""

import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aura.engine.reruns import taken_over
from aura.records.columns import decode
from aura.records.reading import get_step_rows
from aura.testing.run import Run
from aura.testing.world import World, open_world

TASKS = {
    "values": """\
        inputs:
          n: {type: integer, default: 2}
        steps:
          a: {action: log, params: {message: a}}
          b:
            action: log
            when: "{{ inputs.n > 3 and steps.a.state == 'succeeded' }}"
            params: {message: b}
            depends_on: a
          c: {action: log, params: {message: c}, depends_on: b}
          d: {action: log, params: {message: d}, depends_on: c}
        """,
    "fails": """\
        steps:
          a: {action: fail, params: {message: no paper}}
          b: {action: log, params: {message: b}, depends_on: a}
          c: {action: log, params: {message: c}, depends_on: b}
        """,
    "unspeakable": """\
        inputs:
          n: {type: integer, default: 0}
        steps:
          a:
            action: log
            when: "{{ 1 / inputs.n > 3 }}"
            params: {message: a}
        """,
    "stops": """\
        steps:
          a: {action: stop}
          b: {action: log, params: {message: b}, depends_on: a}
        """,
    "cleans": """\
        steps:
          a: {action: log, params: {message: a}}
        finally:
          tidy: {action: log, when: "{{ run.state == 'failed' }}", params: {message: tidy}}
        """,
    "branches": """\
        steps:
          a: {action: log, when: "{{ run.attempt > 5 }}", params: {message: a}}
          b: {action: log, params: {message: b}}
        """,
    "secret": """\
        inputs:
          key: {type: string, secret: true}
        steps:
          a: {action: log, when: "{{ inputs.key == 'x' }}", params: {message: a}}
        """,
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "lab" / "tasks").mkdir(parents=True)
    for name, text in TASKS.items():
        (tmp_path / "lab" / "tasks" / f"{name}.yaml").write_text(textwrap.dedent(text))
    async with open_world(tmp_path / "lab") as opened:
        yield opened


def skipped_events(world: World, run: Run) -> dict[str, Any]:
    """The events that tell of skipped steps: step → payload."""
    query = "SELECT step, payload FROM history WHERE name='step.skipped' AND seq=?"
    return {step: decode(payload) for step, payload in world.backend.execute(query, (run.record.seq,))}


async def said(world: World, run: Run) -> list[str]:
    """The log lines of Aura's own about the steps of a run."""
    entries = await world.engine.history.log_entries(cid=run.cid)
    found = [entry.record() for entry in entries]
    return [f"{line['step']} {line['level']}: {line['message']}" for line in found if "skipped" in line["message"]]


async def test_condition_that_does_not_hold_is_explained_everywhere(world: World) -> None:
    run = await world.run("values")
    b = run.steps["b"]
    at = {"file": "lab/tasks/values.yaml", "line": 7}
    condition = "{{ inputs.n > 3 and steps.a.state == 'succeeded' }}"
    values = {"inputs.n": 2, "steps.a.state": "succeeded"}
    assert (b.state, b.explained) == ("skipped", {"because": "when", "expression": condition, "values": values, **at})
    sentence = f'when is false: {condition} with inputs.n = 2, steps.a.state = "succeeded" (lab/tasks/values.yaml:7)'
    assert b.skipped_because == sentence
    assert skipped_events(world, run)["b"] == {"because": sentence, "explained": b.explained}
    assert (await said(world, run))[0] == f"b info: skipped: {sentence}"


async def test_condition_that_holds_leaves_nothing(world: World) -> None:
    run = await world.run("values", inputs={"n": 4})
    assert {step.state for step in run.steps.values()} == {"succeeded"}
    assert {step.explained for step in run.steps.values()} == {None}
    assert await said(world, run) == []


async def test_chain_leads_to_its_root_whatever_that_was(world: World) -> None:
    fails, values = await world.run("fails"), await world.run("values")
    found = {name: fails.steps[name].explained or {} for name in "bc"}
    assert {name: (why["step"], why["root"], why["root_state"]) for name, why in found.items()} == {
        "b": ("a", "a", "failed"),
        "c": ("b", "a", "failed"),
    }
    why = values.steps["d"].explained or {}
    assert (why["step"], why["root"], why["root_state"]) == ("c", "b", "skipped")
    where = "(lab/tasks/fails.yaml:4)"
    assert (
        fails.steps["c"].skipped_because
        == f"wants b succeeded, but it was skipped, in the end because a failed {where}"
    )


async def test_condition_without_a_value_fails_and_has_its_values_all_the_same(world: World) -> None:
    run = await world.run("unspeakable")
    a = run.steps["a"]
    assert (a.state, run.state, a.skipped_because) == ("failed", "failed", None)
    assert a.error is not None
    assert "division by zero" in a.error["message"]
    assert (a.explained or {})["values"] == {"inputs.n": 0}


async def test_early_end_is_explained(world: World) -> None:
    b = (await world.run("stops")).steps["b"]
    assert b.explained == {"because": "ended_early", "step": "a", "file": "lab/tasks/stops.yaml", "line": 3}
    assert b.skipped_because == "a ended the run (lab/tasks/stops.yaml:3)"


async def test_step_of_a_handler_is_explained_by_what_it_saw(world: World) -> None:
    tidy = (await world.run("cleans")).steps["tidy"]
    assert (tidy.explained or {})["values"] == {"run.state": "succeeded"}


async def test_secret_input_is_in_no_explanation(world: World) -> None:
    run = await world.run("secret", inputs={"key": "hunter2"})
    assert (run.steps["a"].explained or {})["values"] == {"inputs.key": "***"}
    assert "hunter2" not in run.explain() + str(skipped_events(world, run)) + str(await said(world, run))


async def test_run_is_explained_as_a_tree(world: World) -> None:
    run = await world.run("values")
    where = "lab/tasks/values.yaml"
    assert run.explain().splitlines() == [
        f"run lab/values {run.cid}: succeeded",
        "├─ started by api",
        "├─ a: succeeded",
        "├─ b: skipped (when is false)",
        f"│  ├─ {{{{ inputs.n > 3 and steps.a.state == 'succeeded' }}}} ({where}:7)",
        "│  ├─ inputs.n = 2",
        '│  └─ steps.a.state = "succeeded"',
        "├─ c: skipped (b was skipped)",
        f"│  └─ wants b succeeded ({where}:10)",
        "└─ d: skipped (c was skipped)",
        f"   ├─ wants c succeeded ({where}:11)",
        "   └─ in the end because b was skipped",
    ]


async def test_tree_has_errors(world: World) -> None:
    lines = (await world.run("fails")).explain().splitlines()
    assert lines[2].startswith("├─ a: failed (")
    assert "no paper" in lines[2]


async def test_explanation_is_taken_over_by_a_rerun(world: World) -> None:
    first = await world.run("branches")
    again = Run(world, (await world.engine.rerun(first.cid, "b")).cid)
    await world.engine.history.wait_run(again.cid)
    assert again.steps["a"].explained is not None
    assert again.steps["a"] == first.steps["a"]


@pytest.mark.parametrize(
    ("because", "explained", "kept"),
    [
        pytest.param("when is false", None, True, id="when-of-an-older-record"),
        pytest.param("a failed", None, False, id="dependency-of-an-older-record"),
        pytest.param("anything", b'{"because":"when"}', True, id="when"),
        pytest.param("when is false", b'{"because":"dependency"}', False, id="dependency"),
    ],
)
async def test_what_its_when_has_skipped_is_told_by_the_data(
    world: World, because: str, explained: bytes | None, kept: bool
) -> None:
    run = await world.run("values")
    rows = {row[1]: row for row in get_step_rows(world.backend.execute, run.record.seq)}
    steps = world.engine.generations.task("lab", "values")[1].steps
    rows = {"a": rows["a"], "b": (*rows["b"][:10], because, explained)}
    steps = {"a": steps["a"], "b": steps["b"], "other": steps["a"]}
    assert [row[1] for row in taken_over(steps, rows, "other")] == (["a", "b"] if kept else ["a"])
