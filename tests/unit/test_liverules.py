"""An interrupt rule as it stands, by itself: its last firings, its shape, and how its triggers read."""

import msgspec
import pytest

from aura.expressions import condition, template
from aura.interrupt import Preempts, Rule
from aura.interrupts.rules import LastFired, LiveRule, shape_of
from aura.plan import Plan
from aura.schedule import OnEvent, Poll, Trigger
from aura.task import Source

BARE = Rule("r", Source("lab/interrupts.yaml", 2), (Trigger(OnEvent("a.b")),), "save")


def rule(**keys: object) -> Rule:
    return msgspec.structs.replace(BARE, **keys)


def live(cooldown: float = 10.0) -> LiveRule:
    return LiveRule(Plan("lab", "/plans/lab", {}), rule(cooldown=cooldown))


def fired(cid: str, at: float = 0.0) -> LastFired:
    return LastFired(at, at, "e", cid, [], 0)


@pytest.mark.parametrize(
    ("fates", "last"),
    [
        pytest.param({}, "c", id="all on their way"),
        pytest.param({"a": True, "b": True, "c": True}, "c", id="all stored"),
        pytest.param({"a": False, "b": False, "c": False}, None, id="all lost"),
        pytest.param({"a": True, "b": False, "c": False}, "a", id="the later ones lost"),
        pytest.param({"a": False, "b": True, "c": False}, "b", id="one stored"),
        pytest.param({"c": False}, "b", id="the last one lost"),
        pytest.param({"c": True, "a": False}, "c", id="the last one stored first"),
    ],
)
def test_lost_firing_never_was(fates: dict[str, bool], last: str | None) -> None:
    made = live()
    for cid in ("a", "b", "c"):
        made.note_fired(fired(cid))
    for cid, stored in fates.items():
        made.settle_fired(cid, stored)
    assert (made.last_fired.cid if made.last_fired else None) == last


@pytest.mark.parametrize(("mono", "left"), [(100.0, 10.0), (109.0, 1.0), (110.0, 0.0), (1000.0, 0.0)])
def test_cooldown_is_counted_from_the_last_firing(mono: float, left: float) -> None:
    made = live()
    assert made.cooldown_left(mono) == 0.0
    made.note_fired(fired("a", 100.0))
    assert made.cooldown_left(mono) == left


def test_changed_rule_hears_what_became_of_a_firing_of_the_former_one() -> None:
    former, now = live(), live(20.0)
    former.note_fired(fired("a"))
    now.take_after(former)
    former.settle_fired("a", False)
    assert now.last_fired is None


def test_shape_is_the_same_in_another_place() -> None:
    elsewhere = rule(source=Source("lab/interrupts.yaml", 9), inputs={"n": template("{{ event }}", "f:9")})
    assert shape_of(elsewhere) == shape_of(rule(inputs={"n": template("{{ event }}", "f:2")}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"grace": 1.0}, {"grace": 2.0}, id="grace"),
        pytest.param({"inputs": {"n": template(1, "f")}}, {"inputs": {"n": template(True, "f")}}, id="one-true"),
        pytest.param({"inputs": {"n": template("1", "f")}}, {"inputs": {"n": template(1, "f")}}, id="text-number"),
        pytest.param({"preempts": Preempts(tasks=("a",))}, {"preempts": Preempts(plans=("a",))}, id="preempts"),
        pytest.param({"triggers": (Trigger(OnEvent("a")),)}, {"triggers": (Trigger(OnEvent("b")),)}, id="event"),
        pytest.param(
            {"triggers": (Trigger(OnEvent("a"), condition("{{ 1 }}", "f")),)},
            {"triggers": (Trigger(OnEvent("a"), condition("{{ 2 }}", "f")),)},
            id="when",
        ),
        pytest.param(
            {"triggers": (Trigger(Poll("p.a", {}, 1.0)),)}, {"triggers": (Trigger(Poll("p.a", {}, 2.0)),)}, id="poll"
        ),
    ],
)
def test_shape_is_another_if_it_says_something_else(one: dict[str, object], other: dict[str, object]) -> None:
    assert shape_of(rule(**one)) != shape_of(rule(**other))
