"""The examples of plan tests that users are shown, literally, as a test file of a plan."""

from pathlib import Path

import pytest
from tests.testing.kit import write_plan

import aura.testing.world  # what is first imported within a run of pytester's is imported again in each of them

pytest_plugins = ["pytester"]

PLAN = {
    "plan.yaml": "timezone: Europe/Berlin\n",
    "actions.py": """\
from aura import action

@action
async def ping(host: str) -> dict[str, int]:
    raise ConnectionError(host)

@action
async def write_report(day: str) -> dict[str, str]:
    return {"path": f"{day}.txt"}
""",
    "tasks/report.yaml": """\
inputs:
  day: {type: string, default: "2026-11-22"}
  hosts: {type: array, items: {type: string}, default: []}
steps:
  ping: {action: ping, params: {host: "{{ loop.item }}"}, loop: {for_each: "{{ inputs.hosts }}"}}
  report: {action: write_report, params: {day: "{{ inputs.day }}"}, depends_on: ping}
returns: {path: "{{ steps.report.output.path }}"}
""",
    "tasks/save_everything.yaml": "steps:\n  save: {action: sleep, params: {duration: 500ms}}\n",
    "schedule.yaml": 'items:\n  nightly: {task: report, triggers: [{cron: "30 2 * * *"}]}\n',
    "interrupts.yaml": """\
rules:
  low_battery:
    triggers: [{event: "battery.low", when: "{{ event.payload.percent < 10 }}"}]
    task: save_everything
""",
}
TESTS = """\
async def test_report(world):
    ping = world.fake("ping", returns={"ms": 3})
    run = await world.run("report", inputs={"day": "2026-11-22", "hosts": ["a"]})
    assert run.state == "succeeded", run.explain()
    assert run.steps["ping"].output == [{"ms": 3}] and run.result == {"path": "2026-11-22.txt"}
    assert ping.calls[0] == {"host": "a"}

async def test_schedule_over_dst(world):
    world.begin("2027-03-27T00:00:00+01:00")
    await world.advance(days=3)
    assert [r.due for r in world.runs("report")] == [
        "2027-03-27T02:30:00+01:00", "2027-03-28T03:00:00+02:00", "2027-03-29T02:30:00+02:00"
    ]

async def test_interrupt_resumes(world):
    world.fake("ping", returns={"ms": 3}, takes="2s")
    run = await world.start("report", inputs={"day": "2026-11-22", "hosts": ["a"]})
    await world.until(run, step="ping", state="running")
    await world.emit("battery.low", payload={"percent": 5})
    await world.settle()
    assert run.state == "succeeded" and run.preemptions == 1 and world.runs("save_everything")[0].state == "succeeded"
"""
#: In a file of its own: what sweeps is tried in depth in `test_sweep.py`.
SWEEPS = """\
def test_cleans_up(sweep):
    fakes = {"ping": {"returns": {"ms": 3}}}
    inputs = {"day": "2026-11-22", "hosts": ["a"]}
    sweep("report", inputs=inputs, fakes=fakes).assert_clean()
    sweep("report", inputs=inputs, fakes=fakes, by="interrupt:low_battery").assert_same_result()
"""


def test_examples_of_worlds_pass_as_they_stand(pytester: pytest.Pytester) -> None:
    write_plan(pytester.path / "plans" / "lab", {**PLAN, "tests/test_plan.py": TESTS})
    found = pytester.runpytest_inprocess("-p", "no:schemathesis", "-p", "no:cacheprovider", "-W", "error")
    found.assert_outcomes(passed=3)


def test_example_of_sweeps_passes_as_it_stands(pytester: pytest.Pytester) -> None:
    source = Path(aura.testing.world.__file__).with_name("sweeping").joinpath("sweep.py").read_text(encoding="utf-8")
    if "raise NotImplementedError" in source:
        pytest.skip("sweeps are not there yet")
    write_plan(pytester.path / "plans" / "lab", {**PLAN, "tests/test_sweeps.py": SWEEPS})
    found = pytester.runpytest_inprocess("-p", "no:schemathesis", "-p", "no:cacheprovider", "-W", "error")
    found.assert_outcomes(passed=1)
