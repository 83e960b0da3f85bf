"""What is shown of items while things happen to them: when they are due, what they started, and why they did not."""

from pathlib import Path
from typing import Any

import pytest
from tests.scheduling.schedule_kit import Lab, at, clock_at, counted_turns, crashed, open_lab, schedule, write_plan

from aura.errors import RequestError
from aura.kernel.keys import key_of
from aura.run import Cause
from aura.secrets import Environment, Secrets
from aura.web import shapes

pytestmark = pytest.mark.anyio

HOURLY = schedule(hourly="triggers: [{cron: '0 * * * *'}]")


def shown(world: Lab, name: str, plan_name: str = "lab") -> Any:
    """An item as the door shows it."""
    return shapes.scheduled_item(world.engine.schedules.shown(plan_name, name))


async def test_item_is_shown_over_its_life(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HOURLY, clock=clock_at("00:30")) as world:
        item = shown(world, "hourly")
        assert (item.enabled, item.mode, item.source.file, item.source.line) == (True, "single", "lab/schedule.yaml", 2)
        assert (item.last_due, item.last_cid, item.reason) == (None, None, None)
        assert item.next_due.timestamp() == at("01:00")
        await world.advance(minutes=31)
        [run] = world.runs()
        item = shown(world, "hourly")
        assert (item.last_due.timestamp(), item.last_cid, item.reason) == (at("01:00"), run.cid, None)
        assert item.next_due.timestamp() == at("02:00")


async def test_miss_is_the_reason_until_the_next_start(tmp_path: Path) -> None:
    items = schedule(often="triggers: [{event: go, when: '{{ event.payload.n > 1 }}'}]", off="enabled: false")
    async with open_lab(tmp_path, items=items) as world:
        live = world.item("often")
        world.engine.starts.note(live, "condition_false", "its when does not hold", 3)
        item = shown(world, "often")
        assert item.reason == "condition_false: its when does not hold"
        assert (item.missed, item.last_missed.reason) == ({"condition_false": 3}, "condition_false")
        await world.advance(1)
        await world.engine.schedules.run("lab", "often", {}, Cause("api"))
        assert shown(world, "often").reason is None


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        pytest.param("enabled: false, triggers: [{every: 1h}]", "it is switched off in its file", id="off"),
        pytest.param("", "it has no triggers: it is started by hand", id="by-hand"),
        pytest.param("triggers: [{at: '2020-01-01T00:00:00Z'}]", "none of its times is still to come", id="past"),
        pytest.param("triggers: [{at: '2020-01-01T00:00:00Z'}, {event: a}]", None, id="past-and-event"),
        pytest.param("triggers: [{every: 1h}]", None, id="fine"),
    ],
)
async def test_reason_says_why_it_would_not_start(tmp_path: Path, keys: str, reason: str | None) -> None:
    async with open_lab(tmp_path, items=schedule(it=keys or "cooldown: 0")) as world:
        assert shown(world, "it").reason == reason


async def test_webhook_without_its_secret_says_so(tmp_path: Path) -> None:
    items = schedule(it="triggers: [{webhook: {secret: hook}}]")
    async with open_lab(tmp_path, items=items, plan="secrets: [hook]") as world:
        runtime = world.engine.runtime
        assert shown(world, "it").reason is None
        assert shown(world, "it").triggers[0].spec["path"] == "/api/hooks/lab/it"
        runtime.secrets = Secrets([Environment({})], runtime.redactor, print)
        assert shown(world, "it").reason == "the secret hook is nowhere: nobody can call its webhook"


async def test_folder_that_cannot_be_looked_at_says_so(tmp_path: Path) -> None:
    items = schedule(it="triggers: [{file: {path: inbox, pattern: '*.csv'}}]")
    async with open_lab(tmp_path, items=items) as world:
        [folder] = shown(world, "it").folders
        assert (folder.path, folder.pattern, folder.trouble) == (str(tmp_path / "plans/lab/inbox"), "*.csv", None)
        [watch] = world.engine.file_triggers.of(world.item("it"))
        watch.trouble = "permission denied"
        item = shown(world, "it")
        assert item.folders[0].trouble == "permission denied"
        assert "permission denied" in item.reason


async def test_reason_names_who_switched_it_off_and_a_stopped_engine(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HOURLY) as world:
        await world.engine.stop("cancel", 1.0)
        assert shown(world, "hourly").reason.startswith("the engine is stopped: ")
        await world.engine.schedules.switch("lab", "hourly", False, "ops")
        item = shown(world, "hourly")
        assert (item.enabled, item.switched_by, item.reason) == (False, "ops", "it was switched off by ops")
        assert item.switched_at is not None
        await world.engine.schedules.switch("lab", "hourly", True, "ops")
        await world.engine.start()
        assert shown(world, "hourly").reason is None


async def test_cooldown_is_shown_and_no_hindrance_by_hand(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=schedule(it="cooldown: 1m, triggers: [{event: go}]")) as world:
        for _ in range(2):
            await world.engine.schedules.run("lab", "it", {}, Cause("api"))
        await world.advance(20)
        item = shown(world, "it")
        assert (item.cooldown_s, item.cooldown_left_s, item.reason) == (60.0, 40.0, "its cooldown ends in 40 s")


async def test_task_of_another_plan_that_is_gone_is_the_reason(tmp_path: Path) -> None:
    write_plan(tmp_path, "other")
    items = schedule(it="plan: other, task: work, triggers: [{every: 1h}]")
    async with open_lab(tmp_path, items=items, plan="uses: [other]") as world:
        assert (shown(world, "it").task_plan, shown(world, "it").reason) == ("other", None)
        assert world.engine.schedules.starting("other") == {"work": ["lab/it"]}
        assert world.engine.schedules.starting("lab") == {}
        (tmp_path / "plans/other/tasks/work.yaml").rename(tmp_path / "plans/other/tasks/labour.yaml")
        await world.engine.reload()
        assert "other has no task 'work'" in shown(world, "it").reason


async def test_key_of_a_run_by_hand_gives_the_first_run(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HOURLY) as world:
        key = key_of("run", "k", {"item": "hourly"})
        receipts = [await world.engine.schedules.run("lab", "hourly", {}, Cause("cli"), key) for _ in range(2)]
        assert [one.replayed for one in receipts] == [False, True]
        assert receipts[0].cid == receipts[1].cid == shown(world, "hourly").last_cid
        await world.settle()
        [run] = world.runs()
        assert (run.record.cause["kind"], run.record.cause["item"]) == ("cli", "hourly")


async def test_key_of_a_run_by_hand_outlives_its_item(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HOURLY) as world:
        key = key_of("run", "k1", {"item": "hourly"})
        first = await world.engine.schedules.run("lab", "hourly", {}, Cause("api"), key)
        await world.rewrite(tmp_path, items="items: {}")
        again = await world.engine.schedules.run("lab", "hourly", {}, Cause("api"), key)
        assert (again.cid, again.replayed) == (first.cid, True)


async def test_start_by_hand_that_is_lost_never_was(tmp_path: Path) -> None:
    items = schedule(it="cooldown: 1m, triggers: [{event: go}]")
    async with open_lab(tmp_path, items=items) as world:
        await world.engine.schedules.run("lab", "it", {}, Cause("api"))
        await world.advance(minutes=2)
        before = shown(world, "it")

        def refused(*_: Any) -> None:
            raise OSError("no such table")

        lost = world.engine.items.run(world.item("it"), {}, "api", lambda run: refused)
        with pytest.raises(OSError, match="no such table"):
            await lost.ticket.wait()
        assert shown(world, "it") == before
        assert world.engine.measures.item_starts == {("lab", "api"): 1}
        assert len(world.runs()) == 1


async def test_starts_are_counted_by_their_cause(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=schedule(tick="triggers: [{every: 5m}]")) as world:
        await world.advance(minutes=11)
        await world.engine.schedules.run("lab", "tick", {}, Cause("cli"))
        assert world.engine.measures.item_starts == {("lab", "schedule"): 2, ("lab", "cli"): 1}


async def test_what_is_shown_survives_a_restart(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=HOURLY, clock=clock_at("00:30")) as world:
        await world.advance(minutes=31)
        await world.engine.schedules.switch("lab", "hourly", False, "ops")
        before = shown(world, "hourly")
        left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("01:10")) as world:
        after = shown(world, "hourly")
        names = ("enabled", "switched_by", "switched_at", "last_due", "last_cid", "last_started_at", "next_due")
        assert [getattr(after, name) for name in names] == [getattr(before, name) for name in names]


async def test_status_says_how_many_items_there_are_and_which_is_next(tmp_path: Path) -> None:
    items = schedule(
        a="triggers: [{every: 1h}]", b="enabled: false, triggers: [{every: 1m}]", c="triggers: [{event: x}]"
    )
    async with open_lab(tmp_path, items=items) as world:
        world.item("c").suspended = "a circle"
        found = world.engine.schedules.status()
        following = {"plan_name": "lab", "item": "a", "due": world.item("a").next_due}
        assert found == {"items": 3, "enabled": 2, "suspended": 1, "next": following}
        assert world.engine.schedules.names() == [("lab", "a"), ("lab", "b"), ("lab", "c")]


async def test_preview_is_of_the_next_week_unless_it_is_said(tmp_path: Path) -> None:
    items = schedule(daily="enabled: false, triggers: [{cron: '30 2 * * *', timezone: Europe/Berlin}]")
    async with open_lab(tmp_path, items=items, clock=clock_at("2027-03-25T12:00:00Z")) as world:
        found = shapes.preview(await world.engine.schedules.preview("lab", "daily", None, None))
        assert len(found.items) == 7
        gap = next(slot for slot in found.items if slot.dst)
        assert (gap.local, gap.dst) == ("2027-03-28T03:00:00+02:00", "gap")
        begin = at("2027-03-26T01:30:00Z")
        span = await world.engine.schedules.preview("lab", "daily", begin, begin + 86_400)
        assert [slot["due"] for slot in span["items"]] == [begin]
        with pytest.raises(RequestError, match="no time in it"):
            await world.engine.schedules.preview("lab", "daily", begin, begin - 1)


async def test_preview_has_no_times_that_cannot_be_said(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=schedule(daily="triggers: [{cron: '30 2 * * *'}]")) as world:
        begin = at("0001-01-01T00:00:00Z")
        found = shapes.preview(await world.engine.schedules.preview("lab", "daily", begin, 200_000.0))
        assert [slot.local for slot in found.items] == [slot.due.isoformat() for slot in found.items]
        assert [slot.local[:10] for slot in found.items] == ["1970-01-01", "1970-01-02", "1970-01-03"]


async def test_largest_preview_leaves_the_loop_to_others(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=schedule(rare="triggers: [{cron: '0 0 29 2 *'}]")) as world:
        async with counted_turns() as turns:
            found = await world.engine.schedules.preview("lab", "rare", None, at("9000-01-01T00:00:00Z"))
        assert (len(found["items"]), found["cut"]) == (1000, True)
        assert len(turns) > 100


@pytest.mark.parametrize(
    ("plan_name", "name", "code", "said"),
    [
        pytest.param("lab", "hourli", "unknown_item", "did you mean", id="item"),
        pytest.param("lab", "x", "unknown_item", "it has hourly", id="far"),
        pytest.param("nowhere", "hourly", "unknown_plan", "nowhere", id="plan"),
    ],
)
async def test_unknown_item_is_refused(tmp_path: Path, plan_name: str, name: str, code: str, said: str) -> None:
    async with open_lab(tmp_path, items=HOURLY) as world:
        with pytest.raises(RequestError, match=said) as refused:
            world.engine.schedules.shown(plan_name, name)
        assert refused.value.code == code
        with pytest.raises(RequestError, match=said):
            await world.engine.schedules.preview(plan_name, name, None, None)
