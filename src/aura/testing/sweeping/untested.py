"""``--aura-sweep``: the tasks of plans that have no tests are tests themselves, each swept once with example inputs.

A file ``tasks/**/*.yaml`` is collected if its plan has no test file (``snapshot.has_test_file``). Its one test makes
inputs up from the task's schema (``examples``), fakes what would leave the process by a value made from its result's
schema, and cancels the run at each of its await points. A task with which that cannot be done is skipped, and the
reason says why: that no inputs can be made up for it, or that it does not succeed with those, are no fault of it.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aura.actions import Action
from aura.builtin import shipped
from aura.errors import RequestError
from aura.loading.generation import Generation
from aura.loading.snapshot import has_test_file
from aura.testing.guarding.guard import LEAVING
from aura.testing.plans import PlansOf
from aura.testing.sweeping.examples import NoExample, example, example_inputs
from aura.testing.sweeping.sweep import sweeper
from aura.testing.sweeping.sweptrun import in_world
from aura.testing.virtual_time import Deadlock


def collect_task(file: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The test of a task's file, if its plan has none of its own."""
    plan = next((folder.parent for folder in file.parents if folder.name == "tasks"), None)
    if plan is None or file.suffix != ".yaml" or has_test_file(plan):
        return None
    made: pytest.Collector = TaskFile.from_parent(parent, path=file, plan=plan)
    return made


class TaskFile(pytest.File):
    """A task's file; its one test is the sweep of it."""

    def __init__(self, *, plan: Path, **keys: Any) -> None:
        super().__init__(**keys)
        self.plan = plan

    def collect(self) -> list[pytest.Item]:
        return [SweptTask.from_parent(self, name="sweep")]


class SweptTask(pytest.Item):
    """The sweep of a task that nobody has written a test for."""

    def runtest(self) -> None:
        assert isinstance(self.parent, TaskFile)
        plan = self.parent.plan
        sweep_untested(plan, str(self.path.relative_to(plan / "tasks").with_suffix("")))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, "sweep"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, AssertionError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)


def sweep_untested(plan: Path, task: str) -> None:
    """Sweep a task with what can be made up for it, and skip it if that is not enough.

    Raises:
        AssertionError: it does not clean up; or the plan cannot be served.
    """
    generation: Generation = in_world(partial(_loaded, plan))
    try:
        inputs = example_inputs(generation.plan.tasks[task])
        fakes = {name: {"returns": example(action.result_schema())} for name, action in _leaving(generation).items()}
    except NoExample as error:
        pytest.skip(f"nothing can be made up for {plan.name}/{task}: {error}")
    try:
        swept = sweeper(plan)(task, inputs=inputs, fakes=fakes)
    except (AssertionError, Deadlock) as error:
        pytest.skip(f"{plan.name}/{task} does not succeed with inputs that are made up, {inputs}: {error}")
    swept.assert_clean()


async def _loaded(plan: Path) -> Generation:
    """The plan as it would be served."""
    plans = PlansOf([plan.name], plan.parent, shipped(), {}, timezone="UTC", resources={})
    statuses = {status.name: status for status in await plans.reload()}
    try:
        return plans.current(plan.name)
    except RequestError:
        errors = "\n".join(str(error) for error in statuses[plan.name].errors)
        raise AssertionError(f"plan {plan.name} cannot be served:\n{errors}") from None


def _leaving(generation: Generation) -> Mapping[str, Action]:
    """What leaves the process: the shipped actions that do, and what runs in a process of its own."""
    known = shipped()
    isolated = {name: action for name, action in generation.actions.items() if action.isolated}
    return {name: known[name] for name in LEAVING} | isolated
