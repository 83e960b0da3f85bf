"""Plans that change while they are served, in virtual time: what is loaded when, what is said, what is left alone."""

import gc
import itertools
import linecache
import re
import shutil
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.scheduling.schedule_kit import WORK, Lab, open_lab, schedule, write_plan

from aura.bus import MAX_DEPTH
from aura.events import Chain, Emitter, LogEntry
from aura.loading.generations import FAILS_FOR
from aura.loading.snapshot import Snapshot, read_plan
from aura.testing.virtual_time import BEGINNING

pytestmark = pytest.mark.anyio

PLANS = ("lab", "other")
RULES = """
rules:
  urgent: {triggers: [{event: alarm.*}], task: work}
"""
CODE = """
from aura import action, service

@service
async def camera():
    yield "camera"

@action
async def version(camera: str) -> int:
    return %d
"""


class Watched:
    """A lab whose plans are looked at whenever the test says so (``look``), and loaded as they settle."""

    def __init__(self, world: Lab, folder: Path) -> None:
        self.world = world
        self.home = folder / "plans/lab"
        self.engine = world.server.engine
        self.lines: list[LogEntry] = []
        self.engine.journal.add_sink(self.lines.append)

    async def look(self, seconds: float = 0.03) -> None:
        """Ring the bell, and let time pass."""
        self.engine.folders.ring()
        await self.world.advance(seconds)

    def plans(self) -> dict[str, str]:
        """How each plan stands."""
        return {status.name: status.status for status in self.engine.generations.statuses()}

    def said(self) -> list[str]:
        """What the log has said of plans since it was last asked, without versions."""
        lines, self.lines[:] = [re.sub(" [0-9a-f]{12}$", "", line.message) for line in self.lines], []
        return [line for line in lines if line.startswith(("plan ", "the plans "))]

    def serves(self, name: str = "lab") -> bool:
        """Whether what is served is what is in the folder."""
        return self.engine.generations.current(name).hash == read_plan(self.home.parent, name).hash


@asynccontextmanager
async def watched(folder: Path, **files: Any) -> AsyncIterator[Watched]:
    """Open a lab, and watch it as a server does, but for the bell."""
    # the watcher; ended by ``request_stop``
    async with open_lab(folder, **files) as world, anyio.create_task_group() as group:
        watched = Watched(world, folder)
        group.start_soon(world.engine.reloader.begin())
        await watched.look(0.3)
        watched.said()
        yield watched
        world.engine.reloader.request_stop()


async def test_change_is_served_once_it_has_settled(tmp_path: Path) -> None:
    async with watched(tmp_path) as lab:
        write_plan(tmp_path, more=WORK)
        await lab.look(0.15)
        assert not lab.serves()
        await lab.world.advance(0.1)
        assert lab.serves()
        assert lab.said() == ["plan lab was loaded again, version"]
        assert len(lab.world.payloads("plan.reloaded")) == 1


CIRCLE = "steps: {only: {action: event.emit, params: {name: round}}}"
HEARS = schedule(
    hears="task: circle, triggers: [{event: round}]",
    waits="task: circle, triggers: [{expect: round, within: 1h}, {event: round}]",
)
HEARS_RULE = "rules:\n  low: {triggers: [{event: round}], task: work, preempts: {lanes: [event], plans: [lab]}}\n"


@pytest.mark.parametrize(
    ("how", "heals"), [("other plan", False), ("own plan", True), ("all", True)], ids=lambda value: str(value)
)
async def test_what_is_suspended_hears_again_by_a_load_of_its_own_plan(tmp_path: Path, how: str, heals: bool) -> None:
    write_plan(tmp_path, "other")
    home = write_plan(tmp_path)
    (home / "interrupts.yaml").write_text(HEARS_RULE, encoding="utf-8")
    async with watched(tmp_path, items=HEARS, circle=CIRCLE) as lab:
        world = lab.world
        bus, chain = world.engine.runtime.bus, Chain("1", "1", MAX_DEPTH, ())
        bus.emit("round", None, origin=Emitter("lab", "circle", "some-cid", None, chain))
        await world.settle()

        def standing() -> list[bool]:
            items, rule = [world.item("hears"), world.item("waits")], world.engine.triggers.find("lab", "low")
            return [*(item.suspended is None for item in items), rule.suspended is None]

        assert standing() == [False] * 3
        heard = bus.subscribers
        if how == "all":
            await world.engine.reload()
        else:
            write_plan(tmp_path, {"other plan": "other", "own plan": "lab"}[how], more=WORK)
            await lab.look(0.5)
            assert lab.said()
        assert standing() == [heals] * 3
        assert bus.subscribers - heard == (4 if heals else 0)
        assert len(world.engine.status()["events"]["suspended"]) == (0 if heals else 3)


FAILS = "from pathlib import Path\nwith Path({!r}).open('a') as log:\n    log.write('.')\n1 / 0\n"


async def test_version_that_cannot_be_imported_is_imported_once_until_somebody_asks(tmp_path: Path) -> None:
    log, plans = tmp_path / "imported", {"lab": "ready", "other": "broken"}
    write_plan(tmp_path, "other", actions=FAILS.format(str(log)))
    async with watched(tmp_path) as lab:
        await lab.look(3)
        assert (lab.plans(), log.read_text()) == (plans, ".")
        home = write_plan(tmp_path, "other", actions=FAILS.format(str(log)) + "#")
        await lab.look(3)
        assert (lab.plans(), log.read_text()) == (plans, "..")
        await lab.engine.reload()
        assert log.read_text() == "..."
        await lab.world.advance(FAILS_FOR)
        (home / "actions.py").touch()  # what it lacked may be there now
        await lab.look(3)
        assert (lab.plans(), log.read_text()) == (plans, "....")


async def test_plan_that_is_still_being_written_waits(tmp_path: Path) -> None:
    async with watched(tmp_path) as lab:
        for number in range(20):
            write_plan(tmp_path, more=f"title: v{number}\n" + WORK[: 30 + number])
            await lab.look(0.15)
        assert lab.said() == []
        assert lab.plans() == {"lab": "ready"}
        write_plan(tmp_path, more=WORK)
        await lab.look(0.3)
        assert (lab.serves(), lab.said()) == (True, ["plan lab was loaded again, version"])


async def test_what_cannot_be_served_is_said_once_and_only_when_it_has_settled(tmp_path: Path) -> None:
    async with watched(tmp_path) as lab:
        (lab.home / "tasks/work.yaml").write_text("steps: [")
        await lab.look(0.9)
        assert (lab.plans(), lab.said()) == ({"lab": "ready"}, [])
        await lab.world.advance(0.3)
        assert lab.plans() == {"lab": "stale"}
        [line] = lab.said()
        assert line.startswith("plan lab keeps its last good version: lab/tasks/work.yaml:2:")
        for _ in range(3):
            await lab.look(1)
        write_plan(tmp_path, "other")
        await lab.look(1)
        assert lab.said() == ["plan other is served, version"]
        write_plan(tmp_path)
        await lab.look(0.3)
        assert lab.said() == ["plan lab is in order again, version"]
        assert len(lab.world.payloads("plan.broken")) == 1


async def test_new_plan_that_cannot_be_served_yet_is_not_shown(tmp_path: Path) -> None:
    async with watched(tmp_path) as lab:
        write_plan(tmp_path, "other", work="steps: {a: {action: other.none}}")
        await lab.look(0.5)
        assert (lab.plans(), lab.said()) == ({"lab": "ready"}, [])
        await lab.world.advance(1)
        assert lab.plans() == {"lab": "ready", "other": "broken"}
        assert len(lab.said()) == 1


@pytest.mark.parametrize("lost", ["empty", "removed"])
async def test_file_that_was_emptied_or_removed_may_come_back(tmp_path: Path, lost: str) -> None:
    async with watched(tmp_path, more=WORK) as lab:
        before, file = lab.engine.generations.current("lab"), lab.home / "tasks/more.yaml"
        file.write_text("") if lost == "empty" else file.unlink()
        await lab.look(0.8)
        assert lab.engine.generations.current("lab") is before
        file.write_text(WORK)
        await lab.look(2)
        assert lab.engine.generations.current("lab") is before
        file.unlink()
        await lab.look(1.3)
        assert "more" not in lab.engine.generations.current("lab").plan.tasks


async def test_plan_whose_folder_is_gone_goes_after_two_seconds(tmp_path: Path) -> None:
    async with watched(tmp_path) as lab:
        write_plan(tmp_path, "other")
        await lab.look(0.3)
        lab.said()
        (tmp_path / "plans/other").rename(tmp_path / "away")
        await lab.look(1.9)
        assert lab.plans() == {"lab": "ready", "other": "ready"}
        (tmp_path / "away").rename(tmp_path / "plans/other")
        await lab.look(1)
        shutil.rmtree(tmp_path / "plans/other")
        await lab.look(2.3)
        assert lab.plans() == {"lab": "ready"}
        assert lab.said() == ["plan other is gone: its folder is"]


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
async def test_plans_stay_when_their_root_is_away_and_are_followed_when_it_is_back(tmp_path: Path, left: str) -> None:
    async with watched(tmp_path) as lab:
        (tmp_path / "plans").rename(tmp_path / "away")
        if left == "an empty folder":  # as a drive that is not mounted leaves it
            (tmp_path / "plans").mkdir()
        await lab.look(60)
        assert lab.plans() == {"lab": "ready"}
        assert [line.split(":")[0] for line in lab.said()] == ["the plans stay as they are"]
        (tmp_path / "away").rename(tmp_path / "plans")
        write_plan(tmp_path, more=WORK)
        await lab.world.advance(0.9)
        assert lab.serves()


async def test_folder_behind_a_link_that_is_swapped_is_served(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_plan(tmp_path, f".{name}", more=f"title: {name}{WORK}")
    link = tmp_path / "plans/link"
    link.symlink_to(".one")
    async with watched(tmp_path) as lab:
        (tmp_path / "plans/new").symlink_to(".two")
        (tmp_path / "plans/new").rename(link)
        await lab.look(0.3)
        assert lab.engine.generations.current("link").plan.tasks["more"].title == "two"


async def test_file_that_everybody_can_write_is_refused_and_the_last_good_version_stays(tmp_path: Path) -> None:
    async with watched(tmp_path) as lab:
        lab.engine.generations._guarded = True  # as in a server; a world is not asked who may write to it
        for folder in (tmp_path, *tmp_path.rglob("*")):
            folder.chmod(folder.stat().st_mode & ~0o022)
        await lab.look(1.5)
        (lab.home / "tasks/work.yaml").chmod(0o666)
        await lab.look(1.5)
        assert lab.plans() == {"lab": "stale"}
        assert "can be written by everybody; `chmod go-w" in lab.said()[-1]
        (tmp_path / "plans").chmod(0o777)
        write_plan(tmp_path, more=WORK)
        await lab.look(5)
        assert "more" not in lab.engine.generations.current("lab").plan.tasks
        assert len(lab.said()) == 1
        (tmp_path / "plans").chmod(0o755)
        (lab.home / "tasks/work.yaml").chmod(0o644)
        await lab.look(2)
        assert lab.plans() == {"lab": "ready"}


async def test_temporary_files_of_editors_load_nothing(tmp_path: Path) -> None:
    async with watched(tmp_path) as lab:
        before = lab.engine.generations.current("lab")
        for name in (".work.yaml.swp", "work.yaml~", "4913", "#work.yaml#", "work.yaml.tmp"):
            (lab.home / "tasks" / name).write_text("steps: [")
        for name in (".git", "__pycache__"):
            (lab.home / name).mkdir()
            (lab.home / name / "a.yaml").write_text("steps: [")
        await lab.look(3)
        assert lab.engine.generations.current("lab") is before
        assert lab.said() == []


async def test_two_plans_that_fit_only_each_other_come_one_after_the_other(tmp_path: Path) -> None:
    uses = {"plan": "uses: [lib]\n", "more": "steps: {a: {action: lib.b}}"}
    code = "from aura import action\n@action\nasync def %s() -> int:\n    return 1\n"
    write_plan(tmp_path, "lib", actions=code % "a")
    async with watched(tmp_path) as lab:
        write_plan(tmp_path, **uses)
        await lab.look(0.4)  # its action is not there yet
        write_plan(tmp_path, "lib", actions=code % "b")
        await lab.look(0.4)
        assert lab.plans() == {"lab": "ready", "lib": "ready"}
        assert sorted(lab.said()) == ["plan lab was loaded again, version", "plan lib was loaded again, version"]


async def test_items_of_plans_that_did_not_change_keep_their_timers(tmp_path: Path) -> None:
    write_plan(tmp_path, "other")
    async with watched(tmp_path, items=schedule(tick="triggers: [{every: 1s}]")) as lab:
        started = lab.world.now
        for number in range(40):
            write_plan(tmp_path, "other", more=f"title: v{number}{WORK}")
            await lab.look(0.25)
        dues = [run.record.due for run in lab.world.runs()]
        assert len(dues) == pytest.approx(lab.world.now - started, abs=1)
        assert {round(after - before, 6) for before, after in itertools.pairwise(dues)} == {1.0}
        assert len(lab.world.payloads("plan.reloaded")) >= 30


#: An action that writes its own plan anew and has it loaded.
RENEW = """
from pathlib import Path
from aura import action, Context
from tests.scheduling.test_hot_reload import LOADS

@action
async def renew(ctx: Context, folder: str) -> str:
    (Path(folder) / "schedule.yaml").write_text("items: {tick: {task: work, triggers: [{every: 5m}, {every: 3m}]}}")
    await LOADS[-1]()
    return "by the version that it began with"
"""
#: What loads the plans of the world that a test has open.
LOADS: list[Callable[[], Awaitable[object]]] = []


async def test_run_that_loads_its_own_plan_leaves_all_other_timers_as_they_were(tmp_path: Path) -> None:
    every = schedule(tick="triggers: [{every: 5m}]")
    write_plan(tmp_path, "other", items=every)
    task = "steps: {a: {action: renew, params: {folder: '{{ plan.dir }}'}}}\nreturns: {by: '{{ steps.a.output }}'}"
    async with open_lab(tmp_path, items=every, actions=RENEW, renew=task) as world:
        LOADS.append(world.engine.reload)
        await world.advance(minutes=7)
        run = await world.run("renew")
        assert (run.state, run.result) == ("succeeded", {"by": "by the version that it began with"}), run.explain()
        await world.advance(minutes=8.5)
        dues = {
            plan: [run.record.due for run in world.runs("work") if run.record.cause["plan_name"] == plan]
            for plan in PLANS
        }
        minutes = {plan: [round((due - BEGINNING) / 60) for due in found] for plan, found in dues.items()}
        assert minutes == {"other": [5, 10, 15], "lab": [5, 10, 13, 15]}


async def test_former_version_is_unloaded_though_items_rules_and_services_know_the_plan(tmp_path: Path) -> None:
    items = schedule(
        tick="triggers: [{every: 1s}]",
        heard="triggers: [{event: x.*}]",
        asked='triggers: [{poll: {action: lab.version, every: 1s}, when: "{{ event.payload > 5 }}"}]',
    )
    async with watched(tmp_path, items=items, actions=CODE % 1, more="steps: {a: {action: lab.version}}") as lab:
        (lab.home / "interrupts.yaml").write_text(RULES)
        await lab.look(0.4)
        assert lab.serves()
        assert (await lab.world.run("more")).state == "succeeded"
        await lab.world.advance(2)
        former = weakref.ref(lab.engine.generations.current("lab"))
        plan = weakref.ref(lab.engine.generations.current("lab").actions["version"].function)
        (lab.home / "actions.py").write_text(CODE % 2)
        await lab.look(0.4)
        assert lab.serves()
        await lab.world.advance(3)
        gc.collect()
        assert (former(), plan()) == (None, None)


async def test_run_that_has_started_keeps_its_code_and_its_traceback_shows_it(tmp_path: Path) -> None:
    code = (
        "import anyio\nfrom aura import action\n@action\nasync def late() -> int:\n    await anyio.sleep(5)\n    %s\n"
    )
    async with watched(
        tmp_path, actions=code % "raise ValueError('old')", more="steps: {a: {action: lab.late}}"
    ) as lab:
        prefix = lab.engine.generations.current("lab").code_prefix
        run = await lab.world.start("more")
        await lab.world.advance(1)
        (lab.home / "actions.py").write_text(code % "return 2")
        await lab.look(0.4)
        assert lab.serves()
        assert linecache.getline(f"{prefix}actions.py", 6).strip() == "raise ValueError('old')"
        await lab.world.settle()
        error = run.steps["a"].error
        assert error is not None
        assert (error["message"], error["line"]) == ("old", 6)
        assert (await lab.world.run("more")).state == "succeeded"


async def test_run_that_changes_its_own_plan_ends_as_it_began_and_leaves_others_alone(tmp_path: Path) -> None:
    code = """
import anyio, pathlib
from aura import action

NUMBER = 1

@action
async def renew() -> int:
    here = pathlib.Path(__file__)
    here.write_text(here.read_text().replace("NUMBER = 1", "NUMBER = 2"))
    await anyio.sleep(3)
    return NUMBER
"""
    write_plan(tmp_path, "other", items=schedule(tick="triggers: [{every: 1s}]"))
    more = 'steps: {a: {action: lab.renew}}\nreturns: "{{ steps.a.output }}"'
    async with watched(tmp_path, actions=code, more=more) as lab:
        run = await lab.world.start("more")
        await lab.look(1)
        await lab.look(1)
        assert lab.said() == ["plan lab was loaded again, version"]
        await lab.world.until(run, state="succeeded")
        assert run.result == 1
        dues = [run.record.due for run in lab.world.runs("work")]
        assert {round(after - before, 6) for before, after in itertools.pairwise(dues)} == {1.0}


async def test_reloads_that_are_asked_for_and_those_of_the_watcher_do_not_race(tmp_path: Path) -> None:
    async with watched(tmp_path) as lab:
        write_plan(tmp_path, more=WORK)
        await lab.look(0.19)
        async with anyio.create_task_group() as group:  # five loads beside the watcher's; each ends by itself
            for _ in range(5):
                group.start_soon(lab.engine.reload)
            await lab.world.advance(0.1)
        assert lab.said() == ["plan lab was loaded again, version"]
        assert len(lab.world.payloads("plan.reloaded")) == 1


async def test_plan_that_was_broken_by_another_is_served_when_that_is_in_order(tmp_path: Path) -> None:
    code = "from aura import action\n@action\nasync def %s() -> int:\n    return 1\n"
    write_plan(tmp_path, "lib", actions=code % "a")
    async with watched(tmp_path) as lab:
        write_plan(tmp_path, plan="uses: [lib]\n", more="steps: {a: {action: lib.b}}")
        await lab.look(1.5)
        assert lab.plans() == {"lab": "stale", "lib": "ready"}
        write_plan(tmp_path, "lib", actions=code % "b")
        await lab.look(0.4)
        assert lab.plans() == {"lab": "ready", "lib": "ready"}
        assert lab.serves()


@pytest.mark.parametrize("when", ["before it is read", "while it is read"])
async def test_what_changes_around_the_reading_is_not_served(tmp_path: Path, when: str) -> None:
    """Nothing rings for that change: what reads it must see it by itself, and wait for it to settle."""
    async with watched(tmp_path) as lab:
        generations, before = lab.engine.generations, lab.engine.generations.current("lab")
        read = generations.read

        def change_while_read(name: str) -> Snapshot:
            generations.read = read  # type: ignore[method-assign]
            snapshot = read(name)
            write_plan(tmp_path, more=f"title: half{WORK}")
            return snapshot

        write_plan(tmp_path, more=WORK)
        await lab.look(0.1)
        if when == "before it is read":
            write_plan(tmp_path, more=f"title: half{WORK}")
        else:
            generations.read = change_while_read  # type: ignore[method-assign]
        await lab.world.advance(0.25)
        assert generations.current("lab") is before
        await lab.world.advance(0.25)
        assert lab.serves()


async def test_plan_that_came_back_in_the_last_instant_is_never_away(tmp_path: Path) -> None:
    async with watched(tmp_path) as lab:
        lab.home.rename(tmp_path / "away")
        await lab.look(1.95)
        (tmp_path / "away").rename(lab.home)  # nothing rings for that
        await lab.world.advance(1)
        assert (lab.plans(), lab.said()) == ({"lab": "ready"}, [])


async def test_code_of_a_broken_plan_does_not_run_again_when_another_plan_changes(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    code = f"with open({str(ran)!r}, 'a') as file:\n    file.write('x')\nraise ValueError\n"
    write_plan(tmp_path, "broken", actions=code)
    async with watched(tmp_path) as lab:
        await lab.look(2)
        before = ran.read_text()
        for number in range(3):
            write_plan(tmp_path, more=f"title: v{number}{WORK}")
            await lab.look(0.4)
        assert (lab.plans(), lab.serves()) == ({"broken": "broken", "lab": "ready"}, True)
        assert ran.read_text() == before


async def test_plan_that_went_before_the_first_look_is_gone(tmp_path: Path) -> None:
    write_plan(tmp_path, "other")
    async with open_lab(tmp_path) as world, anyio.create_task_group() as group:  # the watcher; ends by request_stop
        shutil.rmtree(tmp_path / "plans/other")
        group.start_soon(world.engine.reloader.begin())
        await world.advance(3)
        assert [status.name for status in world.engine.generations.statuses()] == ["lab"]
        world.engine.reloader.request_stop()
