"""Plans with ``reload: {gate: tests}`` in virtual time: what is served when, what becomes of runs. Tests are fakes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.fakes.kernel import copy_of
from tests.scheduling.schedule_kit import WORK, lab_settings, write_plan

from aura.engine.engine import Engine
from aura.errors import Problem, RequestError
from aura.events import LogEntry
from aura.loading.gating import Trial
from aura.records.why import WhyFilter
from aura.run import Cause, Receipt, Request
from aura.server import Server
from aura.stores.memory import MemoryBackend
from aura.testing.virtual_time import VirtualClock
from aura.watching.gate import Gate

pytestmark = pytest.mark.anyio

GATED = "reload: {gate: tests}\n"
FAILED = (Problem("lab/tests/test_lab.py", 3, 1, "test_it failed: assert 1 == 2"),)
TAKES = 10.0


class FakeRunner:
    """Takes ten seconds for each trial, and gives what ``outcome`` says of it: no problems, if nobody changes that."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.ended: list[str] = []
        self.at_once = self.most_at_once = 0
        self.cleared = False
        self.outcome: Callable[[Trial], tuple[Problem, ...]] = lambda _trial: ()

    async def clear(self) -> None:
        self.cleared = True

    async def run(self, trial: Trial) -> tuple[Problem, ...]:
        self.trials.append(trial)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await anyio.sleep(TAKES)
            self.ended.append(trial.name)
        finally:
            self.at_once -= 1
        return self.outcome(trial)

    @property
    def tried(self) -> list[str]:
        """The plans whose trials have begun."""
        return [trial.name for trial in self.trials]


class Gated:
    """A server over the plans of a folder, whose tests are fakes."""

    def __init__(self, server: Server, folder: Path, runner: FakeRunner, backend: MemoryBackend) -> None:
        self.server, self.folder, self.runner, self.backend = server, folder, runner, backend
        self.engine: Engine = server.engine
        self.lines: list[LogEntry] = []
        self.engine.journal.add_sink(self.lines.append)

    def stands(self, name: str = "lab") -> tuple[str, bool, list[str]]:
        """How a plan stands, whether tests of it run, and what is wrong with it."""
        status = next(one for one in self.engine.generations.statuses() if one.name == name)
        return status.status, status.testing is not None, [one.message for one in status.errors]

    def tasks(self, name: str = "lab") -> set[str]:
        """The tasks that are served, but for those of each plan."""
        return set(self.engine.generations.current(name).plan.tasks) - {"work", "slow"}

    async def submit(self, task: str = "work") -> Receipt:
        return await self.engine.submit(Request("lab", task, {}), Cause("api"))

    async def state_of(self, cid: str) -> str:
        return (await self.engine.history.get_run(cid)).record.state

    def told(self, name: str) -> int:
        """How many events of this name are on record."""
        count: int = self.backend.execute("SELECT count(*) FROM event WHERE name=?", (name,)).fetchone()[0]
        return count


def write(folder: Path, name: str = "lab", *, plan: str = GATED, test: str | None = "", **files: Any) -> None:
    """Write a plan with a gate, and a file of tests with this text."""
    home = write_plan(folder, name, plan=plan, **files)
    if test is not None:
        (home / "tests").mkdir(exist_ok=True)
        (home / f"tests/test_{name}.py").write_text(test)


def refuse_to_leave(code: int) -> None:
    raise AssertionError(f"the server would have left with {code}")


@asynccontextmanager
async def serving(
    folder: Path, runner: FakeRunner | None = None, backend: MemoryBackend | None = None
) -> AsyncIterator[Gated]:
    """Serve what is in a folder; nothing is loaded by itself."""
    runner, backend = runner or FakeRunner(), backend or MemoryBackend()
    settings, clock = lab_settings(folder), VirtualClock()
    server = Server(
        settings, clock=clock, leave=refuse_to_leave, http=False, backend=backend, providers=[], runner=runner
    )
    # the server; ended by ``request_stop``
    async with anyio.create_task_group() as group:
        await group.start(server.serve)
        try:
            yield Gated(server, folder, runner, backend)
        finally:
            server.request_stop()


async def test_nothing_is_removed_before_what_an_older_start_left_has_been_ended(tmp_path: Path) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab, anyio.create_task_group() as group:
        gate = Gate(lab.engine.runtime, lab.engine.reload, frozenset)
        runner = gate.runner = FakeRunner()
        group.start_soon(gate.serve)  # ended below
        await anyio.sleep(1)
        assert not runner.cleared
        gate.take_over([])
        await anyio.sleep(1)
        assert runner.cleared
        group.cancel_scope.cancel()


async def test_first_version_is_served_once_its_tests_have_passed(tmp_path: Path) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab:
        status, testing, [error] = lab.stands()
        assert (status, testing) == ("broken", True)
        assert "are running; it is served once they pass" in error
        with pytest.raises(RequestError, match="tests of version"):
            await lab.submit()
        await anyio.sleep(TAKES + 1)
        assert lab.stands() == ("ready", False, [])
        assert await lab.state_of((await lab.submit()).cid)
        await anyio.sleep(1)
        assert (lab.told("plan.broken"), lab.told("plan.reloaded")) == (0, 1)


async def test_new_version_waits_and_the_old_one_and_other_plans_go_on(tmp_path: Path) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab:
        await anyio.sleep(TAKES + 1)
        write(tmp_path, more=WORK)
        write_plan(tmp_path, "other", extra=WORK)
        await lab.engine.reload()
        assert lab.stands() == ("ready", True, [])
        assert (lab.tasks(), lab.tasks("other")) == (set(), {"extra"})
        await anyio.sleep(TAKES + 1)
        assert (lab.stands(), lab.tasks()) == (("ready", False, []), {"more"})
        said = [line.message[:40] for line in lab.lines if line.plan_name == "lab" or "plan lab" in line.message]
        assert [line.split(",")[0] for line in said if "tests of" in line] == ["the tests of plan lab"]
        assert sum("was loaded again" in line for line in said) == 1


async def test_version_whose_tests_fail_is_not_served_until_they_are_others(tmp_path: Path) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab:
        await anyio.sleep(TAKES + 1)
        lab.runner.outcome = lambda trial: () if b"right" in trial.snapshot.tests["tests/test_lab.py"] else FAILED
        write(tmp_path, more=WORK)
        await lab.engine.reload()
        await anyio.sleep(TAKES + 1)
        assert lab.stands() == ("stale", False, ["test_it failed: assert 1 == 2"])
        assert (lab.tasks(), lab.told("plan.broken")) == (set(), 1)
        write(tmp_path, test="# right", more=WORK)
        await lab.engine.reload()
        assert lab.stands() == ("stale", True, ["test_it failed: assert 1 == 2"])
        await anyio.sleep(TAKES + 1)
        assert (lab.stands(), lab.tasks(), lab.told("plan.broken")) == (("ready", False, []), {"more"}, 1)


async def test_who_asks_for_a_load_has_what_failed_tried_again(tmp_path: Path) -> None:
    write(tmp_path)
    runner = FakeRunner()
    runner.outcome = lambda _trial: FAILED
    async with serving(tmp_path, runner) as lab:
        for count in (1, 2):
            await anyio.sleep(TAKES + 1)
            assert (lab.stands()[0], lab.told("plan.broken"), len(runner.trials)) == ("broken", count, count)
            await lab.engine.reload()
            assert lab.stands()[:2] == ("broken", True)
        runner.outcome = lambda _trial: ()
        plans = await lab.engine.wait_tested(2 * TAKES)
        assert [plan.status for plan in plans] == ["ready"]


async def test_wait_for_tests_ends_in_time(tmp_path: Path) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab:
        [plan] = await lab.engine.wait_tested(1)
        assert (plan.status, plan.testing is not None) == ("broken", True)


async def test_trials_come_one_after_the_other_as_asked_for(tmp_path: Path) -> None:
    for name in ("lab", "beta", "alpha"):
        write(tmp_path, name)
    async with serving(tmp_path) as lab:
        await anyio.sleep(3 * TAKES + 1)
        assert (lab.runner.ended, lab.runner.most_at_once) == (["alpha", "beta", "lab"], 1)
        stand = [(plan.name, plan.status) for plan in lab.engine.generations.statuses()]
        assert stand == [("alpha", "ready"), ("beta", "ready"), ("lab", "ready")]


async def test_newer_version_takes_the_place_of_one_that_waits_or_runs(tmp_path: Path) -> None:
    write(tmp_path, "alpha")
    write(tmp_path)
    async with serving(tmp_path) as lab:
        await anyio.sleep(1)
        write(tmp_path, more=WORK)
        await lab.engine.reload()  # it waits behind alpha
        write(tmp_path, "alpha", more=WORK)
        await lab.engine.reload()
        await anyio.sleep(2 * TAKES + 1)
        assert lab.runner.tried == ["alpha", "lab", "alpha"]
        assert lab.runner.ended == ["lab", "alpha"]
        assert (lab.tasks(), lab.tasks("alpha")) == ({"more"}, {"more"})


@pytest.mark.parametrize("change", ["back", "ungated", "broken", "gone"])
async def test_trial_ends_when_its_version_is_not_wanted_any_more(tmp_path: Path, change: str) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab:
        await anyio.sleep(TAKES + 1)
        write(tmp_path, more=WORK)
        await lab.engine.reload()
        await anyio.sleep(1)
        home = tmp_path / "plans/lab"
        if change == "back":
            (home / "tasks/more.yaml").unlink()
        elif change == "gone":
            home.rename(tmp_path / "away")
        else:
            (home / "plan.yaml").write_text("title: x\n" if change == "ungated" else "titel: x\n")
        await lab.engine.reload()
        await anyio.sleep(0.1)
        assert (lab.runner.at_once, lab.runner.ended) == (0, ["lab"])
        served = {plan.name: lab.tasks() for plan in lab.engine.generations.statuses() if not plan.testing}
        assert served == {"back": {"lab": set()}, "gone": {}, "ungated": {"lab": {"more"}}}.get(change, {"lab": set()})


async def test_what_was_tested_is_served_whatever_the_folder_is_by_then(tmp_path: Path) -> None:
    write(tmp_path, more=WORK)
    async with serving(tmp_path) as lab:
        await anyio.sleep(1)
        (tmp_path / "plans/lab/tasks/half.yaml").write_text("steps: [")
        await anyio.sleep(TAKES)
        assert (lab.stands(), lab.tasks()) == (("ready", False, []), {"more"})


async def test_outcome_waits_for_a_plans_folder_that_is_away(tmp_path: Path) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab:
        (tmp_path / "plans").rename(tmp_path / "away")
        await anyio.sleep(TAKES + 5)
        assert lab.stands()[0] == "broken"
        (tmp_path / "away").rename(tmp_path / "plans")
        await anyio.sleep(2)
        assert lab.stands() == ("ready", False, [])


@pytest.mark.parametrize("test", [None, "helper"])
async def test_plan_without_tests_says_that_the_gate_is_closed(tmp_path: Path, test: str | None) -> None:
    write(tmp_path, test=None)
    if test is not None:
        (tmp_path / "plans/lab/tests").mkdir()
        (tmp_path / "plans/lab/tests/helper.py").write_text("")
    async with serving(tmp_path) as lab:
        status, testing, [error] = lab.stands()
        assert (status, testing, lab.runner.trials) == ("broken", False, [])
        assert error.startswith("the gate is closed: there are no tests; write tests/test_")


async def test_error_of_the_runner_is_a_problem_of_the_plan(tmp_path: Path) -> None:
    def fail(_trial: Trial) -> tuple[Problem, ...]:
        raise OSError(28, "No space left on device")

    write(tmp_path)
    runner = FakeRunner()
    runner.outcome = fail
    async with serving(tmp_path, runner) as lab:
        await anyio.sleep(TAKES + 1)
        status, _, [error] = lab.stands()
        assert status == "broken"
        assert error.startswith("the tests could not be run: [Errno 28] No space left on device; put that right")


async def test_stop_ends_a_trial(tmp_path: Path) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab:
        await anyio.sleep(1)
        assert lab.runner.at_once == 1
    assert (lab.runner.at_once, lab.runner.ended) == (0, [])


async def test_stop_lets_those_go_who_wait_for_tests(tmp_path: Path) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab:
        await anyio.sleep(1)
        lab.server.request_stop()
        with anyio.fail_after(1):
            [plan] = await lab.engine.wait_tested(TAKES)
        assert plan.status == "broken"


async def test_failure_like_the_one_before_is_told_again(tmp_path: Path) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab:
        await anyio.sleep(TAKES + 1)
        lab.runner.outcome = lambda _trial: FAILED
        for count in (1, 2):
            write(tmp_path, **{f"more{count}": WORK})
            await lab.engine.reload()
            await anyio.sleep(TAKES + 1)
            assert (lab.stands()[0], lab.told("plan.broken")) == ("stale", count)


# -- restarts


async def test_what_has_passed_is_served_at_once_after_a_crash(tmp_path: Path) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab:
        await anyio.sleep(TAKES + 1)
        backend = copy_of(lab.backend)
    async with serving(tmp_path, backend=backend) as lab:
        assert (lab.stands(), lab.runner.trials) == (("ready", False, []), [])


async def test_crash_in_the_middle_of_a_trial_begins_it_anew(tmp_path: Path) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab:
        await anyio.sleep(TAKES - 1)
        backend = copy_of(lab.backend)
    async with serving(tmp_path, backend=backend) as lab:
        await anyio.sleep(TAKES - 1)
        assert lab.stands()[:2] == ("broken", True)
        await anyio.sleep(2)
        assert lab.stands() == ("ready", False, [])


@pytest.mark.parametrize("fails", [False, True])
async def test_queued_runs_wait_after_a_restart_until_their_plan_is_served(tmp_path: Path, fails: bool) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab:
        await anyio.sleep(TAKES + 1)
        await lab.engine.stop("cancel", 0)
        cid = (await lab.submit()).cid
        backend = copy_of(lab.backend)
    write(tmp_path, more=WORK)
    runner = FakeRunner()
    runner.outcome = lambda _trial: FAILED if fails else ()
    async with serving(tmp_path, runner, backend) as lab:
        await anyio.sleep(TAKES - 1)
        assert await lab.state_of(cid) == "queued"
        await anyio.sleep(2)
        assert await lab.state_of(cid) == ("queued" if fails else "succeeded")
        runner.outcome = lambda _trial: ()
        await lab.engine.reload()
        await anyio.sleep(TAKES + 1)
        assert await lab.state_of(cid) == "succeeded"


async def test_run_that_waits_for_the_tests_of_its_plan_says_so(tmp_path: Path) -> None:
    write(tmp_path)
    async with serving(tmp_path) as lab:
        await anyio.sleep(TAKES + 1)
        await lab.engine.stop("cancel", 0)
        cid = (await lab.submit()).cid
        backend = copy_of(lab.backend)
    write(tmp_path, more=WORK)
    async with serving(tmp_path, backend=backend) as lab:
        await anyio.sleep(TAKES - 1)
        expected = {"kind": "gate", "names": ["lab"], "holders": []}
        assert (await lab.engine.history.get_run(cid)).record.waiting_for == expected
        assert [one["waiting_for"] for one in lab.engine.queue_list()] == [expected]
        [line] = (await lab.engine.why(WhyFilter(plan_name="lab"), 10)).lines
        assert (line.reason, line.task_name, line.count) == ("gate", "work", 1)
        assert line.detail == "it waits for the tests of plan lab, which have not passed"
        await anyio.sleep(2)
        assert (await lab.engine.history.get_run(cid)).record.waiting_for is None
        assert (await lab.engine.why(WhyFilter(plan_name="lab"), 10)).lines == []


async def test_queue_timeout_of_a_run_that_waits_counts_once_its_plan_is_served(tmp_path: Path) -> None:
    slow = "queue_timeout: 3s\nmode: single\nsteps: {a: {action: sleep, params: {duration: 1m}}}"
    write(tmp_path, slow=slow)
    async with serving(tmp_path) as lab:
        await anyio.sleep(TAKES + 1)
        await lab.engine.stop("cancel", 0)
        cid = (await lab.submit("slow")).cid
        backend = copy_of(lab.backend)
    write(tmp_path, slow=slow, more=WORK)
    async with serving(tmp_path, backend=backend) as lab:
        await anyio.sleep(TAKES - 1)
        await lab.engine.stop("cancel", 0)  # it is served, and nothing starts
        await anyio.sleep(2)
        assert await lab.state_of(cid) == "queued"
        await anyio.sleep(3)
        assert await lab.state_of(cid) == "timed_out"


# -- plans that use others


async def test_plan_meets_those_that_it_uses_as_they_are_served(tmp_path: Path) -> None:
    write_plan(tmp_path, "deep", plan="title: deep\n")
    write_plan(tmp_path, "base", plan="uses: [deep]\n")
    write(tmp_path, plan=GATED + "uses: [base]\n")
    async with serving(tmp_path) as lab:
        await anyio.sleep(1)
        [trial] = lab.runner.trials
        assert {name: used.files["plan.yaml"] for name, used in trial.used.items()} == {
            "base": b"uses: [deep]\n",
            "deep": b"title: deep\n",
        }


async def test_plan_that_failed_is_tried_again_when_one_that_it_uses_has_changed(tmp_path: Path) -> None:
    write_plan(tmp_path, "base", plan="title: wrong\n")
    write(tmp_path, plan=GATED + "uses: [base]\n")
    runner = FakeRunner()
    runner.outcome = lambda trial: FAILED if b"wrong" in trial.used["base"].files["plan.yaml"] else ()
    # the watcher; ended by ``request_stop``
    async with serving(tmp_path, runner) as lab, anyio.create_task_group() as group:
        group.start_soon(lab.engine.reloader.begin())
        await anyio.sleep(TAKES + 5)
        assert lab.stands()[0] == "broken"
        write_plan(tmp_path, "base", plan="title: right\n")
        lab.engine.folders.ring()
        await anyio.sleep(TAKES + 5)
        assert (lab.stands(), len(runner.trials)) == (("ready", False, []), 2)
        lab.engine.reloader.request_stop()


async def test_plan_that_uses_one_under_trial_comes_up_with_it(tmp_path: Path) -> None:
    write(tmp_path)
    call = "steps: {a: {action: task.run, params: {plan: lab, task: work}}}"
    write_plan(tmp_path, "user", plan="uses: [lab]\n", call=call)
    async with serving(tmp_path) as lab:
        assert lab.stands("user")[0] == "broken"
        await anyio.sleep(TAKES + 1)
        assert (lab.stands("user"), lab.tasks("user")) == (("ready", False, []), {"call"})


async def test_plans_with_gates_that_use_each_other_come_up(tmp_path: Path) -> None:
    write(tmp_path, plan=GATED + "uses: [beta]\n")
    write(tmp_path, "beta", plan=GATED + "uses: [lab]\n")
    async with serving(tmp_path) as lab:
        await anyio.sleep(3 * TAKES + 1)
        assert [lab.stands(name)[0] for name in ("beta", "lab")] == ["ready", "ready"]
        assert all(trial.used for trial in lab.runner.trials)


async def test_watcher_has_a_change_of_the_tests_alone_tried(tmp_path: Path) -> None:
    write(tmp_path, test="wrong")
    runner = FakeRunner()
    runner.outcome = lambda trial: FAILED if b"wrong" in trial.snapshot.tests["tests/test_lab.py"] else ()
    # the watcher; ended by ``request_stop``
    async with serving(tmp_path, runner) as lab, anyio.create_task_group() as group:
        group.start_soon(lab.engine.reloader.begin())
        await anyio.sleep(TAKES + 5)
        assert lab.stands()[0] == "broken"
        write(tmp_path, test="right")
        lab.engine.folders.ring()
        await anyio.sleep(0.5)
        assert len(runner.trials) == 1  # it may still be being written
        await anyio.sleep(TAKES + 5)
        assert (lab.stands(), len(runner.trials)) == (("ready", False, []), 2)
        lab.engine.reloader.request_stop()


async def test_version_that_may_still_be_written_is_not_tried(tmp_path: Path) -> None:
    write(tmp_path)
    # the watcher; ended by ``request_stop``
    async with serving(tmp_path) as lab, anyio.create_task_group() as group:
        group.start_soon(lab.engine.reloader.begin())
        await anyio.sleep(TAKES + 5)
        write(tmp_path, more=WORK)
        lab.engine.folders.ring()
        await anyio.sleep(0.5)
        assert (len(lab.runner.trials), lab.stands()) == (1, ("ready", False, []))
        await anyio.sleep(TAKES + 5)
        assert (len(lab.runner.trials), lab.tasks()) == (2, {"more"})
        lab.engine.reloader.request_stop()
