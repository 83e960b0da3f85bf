"""What a reload and a restart keep of an interrupt rule: its cooldown, what somebody has switched, its open firings."""

from pathlib import Path

import pytest
from tests.engine.interrupts_kit import Lab, crashed, open_lab, rule, rules, write_plan
from tests.fakes.kernel import FaultyBackend

from aura.errors import RequestError, StoreReadOnly
from aura.interrupts import triggers

pytestmark = pytest.mark.anyio


async def fires(world: Lab, event: str = "battery.low") -> bool:
    """Whether such an event fires a rule."""
    return bool((await world.tell(event)).interrupts)


def switches(world: Lab) -> list[tuple[str, int]]:
    """What somebody has switched, on record."""
    return list(world.backend.execute("SELECT name, enabled FROM switch ORDER BY name").fetchall())


# -- reloads


async def test_rule_that_says_the_same_stays_whatever_line_it_stands_in(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule("cooldown: 10s")) as world:
        await fires(world)
        await fires(world)
        before = world.rule()
        await world.rewrite(tmp_path, rules="# moved\n\n" + rule("cooldown: 10s"))
        assert world.rule() is before
        assert (before.rule.source.line, before.missed["cooldown"]) == (4, 1)
        assert not await fires(world)
        await world.settle()


@pytest.mark.parametrize(
    ("former", "now"),
    [
        pytest.param("priority: 1", "priority: 2", id="priority"),
        pytest.param("cooldown: 10s", "cooldown: 20s", id="cooldown"),
        pytest.param('inputs: {n: ["1"]}', "inputs: {n: [1]}", id="type of an input"),
        pytest.param("inputs: {n: [true]}", "inputs: {n: [1]}", id="true and one"),
        pytest.param("preempts: {tasks: [a]}", "preempts: {tasks: [b]}", id="preempts"),
    ],
)
async def test_rule_that_says_something_else_is_another(tmp_path: Path, former: str, now: str) -> None:
    save = "inputs: {n: {type: array, default: []}}\nsteps: {a: {action: log, params: {message: x}}}\n"
    async with open_lab(tmp_path, rules=rule(former), save=save) as world:
        before = world.rule()
        assert await fires(world)
        await world.rewrite(tmp_path, rules=rule(now), save=save)
        assert world.rule() is not before
        assert world.rule().last_fired == before.last_fired is not None
        await world.settle()


async def test_changed_rule_keeps_its_cooldown_and_switch(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule("cooldown: 10s")) as world:
        await fires(world)
        await world.settle()
        await world.rewrite(tmp_path, rules=rule("cooldown: 20s"))
        assert not await fires(world)
        await world.switch_rule(False)
        await world.rewrite(tmp_path, rules=rule("cooldown: 0"))
        assert not await fires(world)
        assert world.rule().last_missed is not None
        assert world.rule().missed == {"disabled": 1}
        await world.switch_rule(True)
        assert await fires(world)
        await world.settle()


async def test_changed_trigger_counts_at_once_and_the_former_no_more(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        await world.rewrite(tmp_path, rules=rule(on="{event: battery.flat}"))
        assert (await fires(world), await fires(world, "battery.flat")) == (False, True)
        await world.settle()


async def test_removed_rule_fires_no_more_and_is_the_same_when_it_comes_back(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule("cooldown: 10s")) as world:
        await fires(world)
        await world.rewrite(tmp_path, rules=rules(other=""))
        assert not await fires(world)
        with pytest.raises(RequestError, match=r"no rule 'low_battery'; it has other"):
            world.rule()
        await world.rewrite(tmp_path, rules=rule("cooldown: 10s"))
        assert not await fires(world)
        assert world.rule().missed == {"cooldown": 1}
        await world.settle()


async def test_only_so_many_rules_that_are_away_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "MAX_AWAY", 1)
    async with open_lab(tmp_path, rules=rules(a="cooldown: 1h", b="cooldown: 1h")) as world:
        assert [await fires(world, "go.a"), await fires(world, "go.b")] == [True, True]
        await world.settle()
        await world.rewrite(tmp_path, rules=rules(b="cooldown: 1h"))
        await world.rewrite(tmp_path, rules=rules(c=""))
        await world.rewrite(tmp_path, rules=rules(a="cooldown: 1h", b="cooldown: 1h"))
        assert [await fires(world, "go.a"), await fires(world, "go.b")] == [True, False]
        await world.settle()


async def test_removed_plan_takes_its_rules_away(tmp_path: Path) -> None:
    home = write_plan(tmp_path, "other", rules=rule())
    async with open_lab(tmp_path, rules=rules(a="")) as world:
        assert await fires(world)
        home.rename(tmp_path / "gone")
        await world.engine.reload()
        assert not await fires(world)
        await world.settle()


@pytest.mark.parametrize("broken", ["rules: 5", "rules: {x: {task: nothing}}", "rules: [", ""])
async def test_broken_edit_takes_no_rule_away(tmp_path: Path, broken: str) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        before = world.rule()
        await world.rewrite(tmp_path, rules=broken)
        assert world.rule() is before
        assert await fires(world)
        await world.settle()


async def test_open_firing_keeps_the_terms_that_it_began_with(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule("then: restart")) as world:
        run = await world.begin_run()
        assert await fires(world)
        await world.rewrite(tmp_path, rules=rule("then: cancel, preempts: {tasks: [nothing]}"))
        other = await world.start("work")
        await world.settle()
        assert (run.state, run.record.preemptions, run.steps["first"].attempt) == ("succeeded", 1, 1)
        assert other.state == "succeeded"
        assert len(await world.engine.history.run_entries(run.cid, 0, 1000)) > 0
        assert [row.count("step.started") for row in [await names(world, run.cid)]] == [4]


async def names(world: Lab, cid: str) -> list[str]:
    """The names of a run's events."""
    return [e.record().get("name", "") for e in await world.engine.history.run_entries(cid, 0, 1000)]


async def test_rule_that_is_removed_while_its_handler_runs_ends_as_ever(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        run = await world.begin_run()
        await fires(world)
        await world.rewrite(tmp_path, rules="rules: {}\n")
        assert not await fires(world)
        await world.settle()
        assert (run.state, [outcome for *_, outcome in world.firings()]) == ("succeeded", ["succeeded"])


# -- switches


async def test_rule_that_is_switched_off_does_not_fire_until_it_is_switched_on(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        live = await world.switch_rule(False)
        assert (live.enabled, await fires(world), live.missed["disabled"]) == (False, False, 1)
        shown = world.engine.rule("lab", "low_battery")
        assert (shown["enabled"], shown["switched_by"], shown["switched_at"]) == (False, "a test", world.now)
        await world.switch_rule(True)
        assert await fires(world)
        await world.settle()


@pytest.mark.parametrize("down", [False, True], ids=["reload", "restart"])
@pytest.mark.parametrize(
    ("former", "switched", "now", "enabled", "kept"),
    [
        pytest.param("true", False, "true", False, True, id="off"),
        pytest.param("false", True, "false", True, True, id="on"),
        pytest.param("true", False, "false", False, False, id="off, and the file says so too"),
        pytest.param("false", True, "true", True, False, id="on, and the file says so too"),
        pytest.param("true", True, "false", False, False, id="on again, and the file says off"),
    ],
)
async def test_switch_holds_until_the_file_s_own_word_changes(
    tmp_path: Path, former: str, switched: bool, now: str, enabled: bool, kept: bool, down: bool
) -> None:
    async with open_lab(tmp_path, rules=rule(f"enabled: {former}")) as world:
        await world.switch_rule(switched)
        if not down:
            await world.rewrite(tmp_path, rules=rule(f"enabled: {now}, priority: 3"))
            await check_switch(world, enabled, kept)
            return
        backend = crashed(world)
    async with open_lab(tmp_path, backend=backend, rules=rule(f"enabled: {now}")) as world:
        await check_switch(world, enabled, kept)


async def check_switch(world: Lab, enabled: bool, kept: bool) -> None:
    await world.loop.wait_quiet()
    assert (world.rule().enabled, world.rule().switch is not None, len(switches(world))) == (enabled, kept, kept)
    assert await fires(world) is enabled
    await world.settle()


async def test_switch_that_the_file_has_overruled_does_not_come_back_with_its_former_word(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        await world.switch_rule(False)
        await world.rewrite(tmp_path, rules=rule("enabled: false"))
        await world.rewrite(tmp_path, rules=rule("enabled: true"))
        assert await fires(world)
        await world.settle()
        backend = crashed(world)
    async with open_lab(tmp_path, backend=backend, write=False) as world:
        assert await fires(world)
        await world.settle()


async def test_switch_of_a_rule_that_is_away_for_a_while_holds(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        await world.switch_rule(False)
        await world.rewrite(tmp_path, rules="rules: {}\n")
        await world.rewrite(tmp_path, rules=rule())
        assert not await fires(world)


async def test_switch_that_cannot_be_stored_does_not_count(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with open_lab(tmp_path, rules=rule(), backend=backend) as world:
        await world.loop.wait_quiet()
        backend.failing, backend.error = 1, StoreReadOnly("full")
        with pytest.raises(RequestError) as refused:
            await world.switch_rule(False)
        assert refused.value.code == "storage_unavailable"
        await world.loop.wait_until(lambda: world.engine.runtime.store.unavailable is None)
        assert (world.rule().enabled, switches(world)) == (True, [])
        assert await fires(world)
        await world.settle()


@pytest.mark.parametrize(
    ("plan_name", "name", "code", "said"),
    [
        pytest.param("lba", "low_battery", "unknown_plan", "lab", id="plan"),
        pytest.param("lab", "low_batery", "unknown_rule", "did you mean 'low_battery'", id="rule"),
        pytest.param("lab", "x", "unknown_rule", "it has low_battery", id="nothing near"),
    ],
)
async def test_rule_that_there_is_not(tmp_path: Path, plan_name: str, name: str, code: str, said: str) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        for ask in (
            lambda: world.engine.switch_rule(plan_name, name, True, "x"),
            lambda: world.engine.fire(plan_name, name),
        ):
            with pytest.raises(RequestError) as refused:
                await ask()
            assert refused.value.code == code
            assert said in refused.value.detail
