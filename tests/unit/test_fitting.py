"""Plans that use others, loaded: what is served together, what gives way, and whose code and variables a step gets."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.plans import LOG, SHIPPED, write_files

from aura.errors import ActionMissing
from aura.loading.generation import Generation
from aura.loading.generations import Generations

NOTIFY = {
    "notify/plan.yaml": "vars: {host: mail.example.org}\n",
    "notify/actions.py": "from aura import action\n@action\ndef mail(to: str) -> str:\n    return to\n",
    "notify/tasks/tell.yaml": f"steps: {{a: {LOG}}}\n",
}
LAB = {
    "lab/plan.yaml": "uses: [notify]\n",
    "lab/tasks/t.yaml": "steps: {a: {action: notify.mail, params: {to: x}}}\n",
}
RENAMED = {"notify/actions.py": "from aura import action\n@action\ndef post(to: str) -> str:\n    return to\n"}
Rows = dict[str, tuple[str, str]]


async def load(plans: Generations, root: Path, files: dict[str, str]) -> Rows:
    """Write files and reload; of each plan its status and its first problem."""
    write_files(root, files)
    return {one.name: (one.status, str(one.errors[0]) if one.errors else "") for one in await plans.reload()}


def served(plans: Generations, name: str = "lab") -> str:
    return plans.current(name).hash


async def opened(root: Path, files: dict[str, str]) -> Generations:
    """Load what has to be right."""
    plans = Generations(root, SHIPPED)
    assert {status for status, _ in (await load(plans, root, files)).values()} == {"ready"}
    return plans


async def test_action_of_another_plan_is_found(tmp_path: Path) -> None:
    plans = await opened(tmp_path, LAB | NOTIFY)
    lab, notify = plans.current("lab"), plans.current("notify")
    assert lab.action("notify.mail") is notify.action("notify.mail")
    assert lab.home_of("notify.mail") is notify
    assert [lab.home_of(name) for name in ("log", "lab.x")] == [lab, lab]
    assert [one.uses for one in plans.statuses()] == [("notify",), ()]


async def test_types_are_checked_against_the_imported_action(tmp_path: Path) -> None:
    rows = await load(
        Generations(tmp_path, SHIPPED),
        tmp_path,
        LAB | NOTIFY | {"lab/tasks/t.yaml": "steps: {a: {action: notify.mail, params: {to: 5}}}\n"},
    )
    assert rows["lab"] == ("broken", "lab/tasks/t.yaml:1:47: notify.mail: to: Expected `str`, got `int`")
    assert rows["notify"] == ("ready", "")


async def test_newest_version_is_the_one_that_a_step_gets(tmp_path: Path) -> None:
    plans = await opened(tmp_path, LAB | NOTIFY)
    lab, before = plans.current("lab"), served(plans, "notify")
    code = NOTIFY["notify/actions.py"].replace("return to", "return to + '!'")
    await load(plans, tmp_path, {"notify/actions.py": code})
    assert plans.current("lab") is lab
    assert lab.home_of("notify.mail").hash == served(plans, "notify") != before
    assert lab.action("notify.mail").function("x") == "x!"


async def test_plan_that_lost_what_it_uses_stays_served_and_is_stale(tmp_path: Path) -> None:
    plans = await opened(tmp_path, LAB | NOTIFY)
    lab = plans.current("lab")
    rows = await load(plans, tmp_path, RENAMED)
    assert rows["lab"] == ("stale", "lab/tasks/t.yaml:1:21: the plan notify has no action 'mail'")
    assert rows["notify"] == ("ready", "")
    assert plans.current("lab") is lab
    with pytest.raises(ActionMissing, match=r"there is no action 'notify.mail' in the version that is served"):
        lab.action("notify.mail")
    assert (await load(plans, tmp_path, NOTIFY))["lab"] == ("ready", "")
    assert plans.current("lab") is lab


async def test_plan_whose_used_plan_is_gone_says_so(tmp_path: Path) -> None:
    plans = await opened(tmp_path, LAB | NOTIFY)
    (tmp_path / "notify").rename(tmp_path / ".notify")
    assert await load(plans, tmp_path, {}) == {"lab": ("stale", "lab/plan.yaml:1:8: there is no plan 'notify'")}
    with pytest.raises(ActionMissing, match=r"no action 'notify.mail': there is no plan 'notify'"):
        plans.current("lab").action("notify.mail")


async def test_broken_plan_breaks_one_that_uses_it_until_it_is_mended(tmp_path: Path) -> None:
    plans = Generations(tmp_path, SHIPPED)
    rows = await load(plans, tmp_path, LAB | NOTIFY | {"notify/actions.py": "1 / 0\n"})
    assert rows["lab"][0] == "broken"
    said = (
        "lab/plan.yaml:1:8: the plan notify, which this one uses, cannot be loaded: notify/actions.py:1:1: the import"
    )
    assert rows["lab"][1].startswith(said)
    assert set((await load(plans, tmp_path, NOTIFY)).values()) == {("ready", "")}


async def test_stale_plan_is_used_as_it_is_served(tmp_path: Path) -> None:
    plans = await opened(tmp_path, LAB | NOTIFY)
    rows = await load(plans, tmp_path, {"notify/actions.py": "1 / 0\n", "lab/tasks/u.yaml": f"steps: {{a: {LOG}}}\n"})
    assert (rows["notify"][0], rows["lab"]) == ("stale", ("ready", ""))
    assert "u" in plans.current("lab").plan.tasks


async def test_new_version_that_does_not_fit_gives_way_to_the_one_before(tmp_path: Path) -> None:
    plans = await opened(tmp_path, LAB | NOTIFY)
    lab = plans.current("lab")
    rows = await load(plans, tmp_path, {"lab/tasks/t.yaml": "steps: {a: {action: notify.male, params: {to: x}}}\n"})
    assert rows["lab"][0] == "stale"
    assert "the plan notify has no action 'male'; did you mean 'mail'?" in rows["lab"][1]
    assert plans.current("lab") is lab
    assert (await load(plans, tmp_path, LAB))["lab"] == ("ready", "")


async def test_what_is_used_is_settled_first(tmp_path: Path) -> None:
    """A new ``notify`` does not fit ``base`` and gives way; a new ``lab`` that fits the one before is served."""
    base = {"base/actions.py": "from aura import action\n@action\ndef one() -> None: ...\n"}
    plans = await opened(tmp_path, LAB | NOTIFY | base)
    lab, notify = served(plans), served(plans, "notify")
    changed = {
        "notify/plan.yaml": "uses: [base]\n",
        "notify/tasks/two.yaml": "steps: {a: {action: base.two}}\n",
        "lab/tasks/t.yaml": "steps: {a: {action: notify.mail, params: {to: y}}}\n",
    }
    rows = await load(plans, tmp_path, RENAMED | changed)
    assert {name: status for name, (status, _) in rows.items()} == {"base": "ready", "lab": "ready", "notify": "stale"}
    assert served(plans, "notify") == notify
    assert served(plans) != lab


async def test_version_that_fits_only_what_is_not_served_gives_way_as_well(tmp_path: Path) -> None:
    plans = await opened(tmp_path, LAB | NOTIFY)
    before = [served(plans), served(plans, "notify")]
    changed = {
        "notify/tasks/two.yaml": "steps: {a: {action: base.two}}\n",
        "lab/tasks/t.yaml": "steps: {a: {action: notify.post, params: {to: x}}}\n",
    }
    rows = await load(plans, tmp_path, RENAMED | changed)
    assert "there is no plan 'base'" in rows["notify"][1]
    assert "the plan notify has no action 'post'" in rows["lab"][1]
    assert [served(plans), served(plans, "notify")] == before


@pytest.mark.parametrize("names", [("a", "b", "c"), ("c", "b", "a")], ids=["forward", "backward"])
async def test_chain_of_uses_changes_together(tmp_path: Path, names: tuple[str, ...]) -> None:
    first, second, third = names
    code = "from aura import action\n@action\ndef {}() -> None: ...\n"

    def files(version: str) -> dict[str, str]:
        return {
            f"{first}/plan.yaml": f"uses: [{second}]\n",
            f"{first}/tasks/t.yaml": f"steps: {{a: {{action: {second}.{version}}}}}\n",
            f"{second}/plan.yaml": f"uses: [{third}]\n",
            f"{second}/tasks/t.yaml": f"steps: {{a: {{action: {third}.{version}}}}}\n",
            f"{second}/actions.py": code.format(version),
            f"{third}/actions.py": code.format(version),
        }

    plans = await opened(tmp_path, files("one"))
    assert set((await load(plans, tmp_path, files("two"))).values()) == {("ready", "")}


def circle(version: str) -> dict[str, str]:
    """Two plans that use each other, the actions of both called by a version."""
    code = f"from aura import action\n@action\ndef {version}() -> None: ...\n"
    return {
        path: text
        for one, other in (("a", "b"), ("b", "a"))
        for path, text in {
            f"{one}/plan.yaml": f"uses: [{other}]\n",
            f"{one}/actions.py": code,
            f"{one}/tasks/t.yaml": f"steps: {{a: {{action: {other}.{version}}}}}\n",
        }.items()
    }


async def test_circle_changes_together_or_not_at_all(tmp_path: Path) -> None:
    plans = await opened(tmp_path, circle("one"))
    before = [served(plans, name) for name in "ab"]
    half = {path: text for path, text in circle("two").items() if path.startswith("a/")}
    rows = await load(plans, tmp_path, half)
    assert (rows["a"][0], rows["b"][0]) == ("stale", "ready")
    assert [served(plans, name) for name in "ab"] == before
    assert set((await load(plans, tmp_path, circle("two"))).values()) == {("ready", "")}
    assert not set(before) & {served(plans, name) for name in "ab"}


@pytest.mark.parametrize("bad", ["a", "b"])
async def test_circle_goes_back_whole_if_one_of_it_does(tmp_path: Path, bad: str) -> None:
    plans = await opened(tmp_path, circle("one"))
    before = [served(plans, name) for name in "ab"]
    rows = await load(plans, tmp_path, circle("two") | {f"{bad}/tasks/x.yaml": "steps: {a: {action: gone.x}}\n"})
    assert "there is no plan 'gone'" in rows[bad][1]
    assert {status for status, _ in rows.values()} == {"stale"}
    assert [served(plans, name) for name in "ab"] == before


async def test_tasks_that_are_run_by_name_are_checked_at_a_load(tmp_path: Path) -> None:
    step = "{action: task.run, params: {task: tell, plan: notify}}"
    plans = await opened(tmp_path, LAB | NOTIFY | {"lab/tasks/t.yaml": f"steps: {{a: {step}}}\n"})
    (tmp_path / "notify/tasks/tell.yaml").unlink()
    rows = await load(plans, tmp_path, {})
    assert rows["lab"] == ("stale", "lab/tasks/t.yaml:1:46: the plan notify has no task 'tell'")


async def test_kept_version_gets_actions_as_they_are_now(tmp_path: Path) -> None:
    plans = await opened(tmp_path, LAB | NOTIFY)
    old = plans.current("lab")
    kept = await plans.load_kept("lab", old.hash, old.files)
    assert kept.action("notify.mail") is plans.current("notify").action("notify.mail")
    await load(plans, tmp_path, RENAMED)
    again = await plans.load_kept("lab", old.hash, old.files)
    with pytest.raises(ActionMissing):
        again.action("notify.mail")


async def test_nothing_keeps_a_used_plans_old_version(tmp_path: Path) -> None:
    plans = await opened(tmp_path, LAB | NOTIFY)
    lab = plans.current("lab")
    assert lab.action("notify.mail").function("x") == "x"
    old: weakref.ref[Any] = weakref.ref(plans.current("notify"))
    code = weakref.ref(lab.action("notify.mail").function)
    await load(plans, tmp_path, {"notify/actions.py": NOTIFY["notify/actions.py"] + "# more\n"})
    gc.collect()
    assert old() is None
    assert code() is None


async def test_version_that_gave_way_leaves_nothing_behind(tmp_path: Path) -> None:
    plans = await opened(tmp_path, LAB | NOTIFY)
    made = "from aura import action\n@action\ndef own() -> None: ...\n"
    bad = "steps: {a: {action: notify.male}}\n"
    await load(plans, tmp_path, {"lab/actions.py": made, "lab/tasks/t.yaml": bad})
    gc.collect()
    left = [one for one in gc.get_objects() if isinstance(one, Generation) and str(tmp_path) in one.plan.directory]
    assert {one.hash for one in left} == {served(plans), served(plans, "notify")}
