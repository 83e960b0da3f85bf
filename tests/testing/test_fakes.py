"""Fakes of actions and services: each kind in place of each kind, and those that could not be real."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.testing.kit import happened, one_step, write_plan

from aura.testing.fakes import FakeError
from aura.testing.virtual_time import BEGINNING
from aura.testing.world import World, plan_world

MAIL = """\
from aura import Context, action, service
from collections.abc import AsyncIterator

@service
async def smtp(ctx: Context) -> AsyncIterator[str]:
    yield "the real one"

@action
async def mail(to: str, smtp: str) -> str:
    return smtp + " to " + to
"""
#: task → (its action, its parameters in YAML, what a fake may give, how that appears, something that it cannot give)
KINDS: dict[str, tuple[str, str, Any, Any, Any]] = {
    "coroutine": ("ping", "{host: a}", {"ms": 5}, {"ms": 5, "via": None}, {"ms": "quick"}),
    "nested": ("ping_all", "{hosts: [a]}", [{"ms": 5}], [{"ms": 5, "via": None}], [{"ms": "quick"}]),
    "thread": ("weigh", "{sample: {weight: 2.5, labels: [x], unit: g}, timeout: 3}", 4.5, 4.5, "heavy"),
    "optional": (
        "find",
        "{name: x}",
        {"weight": 1, "labels": []},
        {"weight": 1, "labels": [], "unit": "kg"},
        {"labels": []},
    ),
    "unchecked": ("anything", "{value: 1}", ["x", None], ["x", None], {1, 2}),
    "shipped": ("file.checksum", "{path: x}", "00ff", "00ff", 255),
    "isolated": ("crunch", "{n: 3}", 10, 10, "ten"),
    "service": ("snap", "{}", "a picture", "a picture", ["a picture"]),
    "other": ("mail.mail", "{to: me}", "sent", "sent", None),
}
CALLS = {
    "coroutine": {"host": "a", "count": 1},
    "nested": {"hosts": ["a"]},
    "thread": {"sample": {"weight": 2.5, "labels": ["x"], "unit": "g"}, "timeout": 3.0},
    "optional": {"name": "x"},
    "unchecked": {"value": 1},
    "shipped": {"path": "x", "algorithm": "sha256"},
    "isolated": {"n": 3},
    "service": {},
    "other": {"to": "me"},
}
by_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def plan(lab: Path) -> Path:
    write_plan(lab.parent / "mail", {"actions.py": MAIL})
    tasks = {f"tasks/{kind}.yaml": one_step(action, params) for kind, (action, params, *_) in KINDS.items()}
    return write_plan(lab, {"plan.yaml": "uses: [mail]\n", **tasks})


@pytest.fixture
async def world(plan: Path) -> AsyncIterator[World]:
    async with plan_world(plan) as opened:
        yield opened


@by_kind
async def test_fake_of_each_kind_gives_what_it_is_told(world: World, kind: str) -> None:
    action, _, given, shown, _ = KINDS[kind]
    fake = world.fake(action, returns=given)
    run = await world.run(kind)
    run.assert_succeeded()
    assert (run.result, fake.calls) == (shown, [CALLS[kind]])


@by_kind
async def test_fake_of_each_kind_fails_as_it_is_told(world: World, kind: str) -> None:
    fake = world.fake(KINDS[kind][0], raises=ConnectionError("no line"))
    run = await world.run(kind)
    assert run.error is not None
    assert (run.state, run.error["type"], run.error["message"]) == ("failed", "ConnectionError", "no line")
    assert fake.calls == [CALLS[kind]]


@by_kind
async def test_fake_of_each_kind_does_and_takes_its_time(world: World, kind: str) -> None:
    action, _, given, shown, _ = KINDS[kind]
    called: list[dict[str, Any]] = []

    async def does(**params: Any) -> Any:
        called.append(params)
        await anyio.sleep(1)
        return given

    world.fake(action, does=does, takes="1h")
    began = world.now
    run = await world.run(kind)
    assert (run.result, called, round(world.now - began)) == (shown, [CALLS[kind]], 3601)


@by_kind
async def test_fake_that_cannot_give_this_is_refused_at_once(world: World, kind: str) -> None:
    action, _, given, _, wrong = KINDS[kind]
    with pytest.raises(FakeError, match=rf"the fake of {action}|{action} cannot give"):
        world.fake(action, returns=wrong)
    with pytest.raises(FakeError):
        world.fake(action, sequence=[given, ValueError("a failure may be"), wrong])


@by_kind
async def test_fake_that_turns_out_not_to_be_real_fails_the_step_and_the_test(world: World, kind: str) -> None:
    action, _, _, _, wrong = KINDS[kind]
    world.fake(action, does=lambda **_: wrong)
    run = await world.run(kind)
    assert run.error is not None
    assert (run.state, run.error["type"]) == ("failed", "FakeError")
    with pytest.raises(FakeError, match="cannot give"):
        world.check()


class Pong(msgspec.Struct):
    ms: int
    via: str | None = None


@dataclass
class Sample:
    weight: float
    labels: list[str]


@pytest.mark.parametrize(
    ("kind", "given", "shown"),
    [
        pytest.param("coroutine", Pong(7, "eth0"), {"ms": 7, "via": "eth0"}, id="struct"),
        pytest.param("optional", Sample(1.5, ["x"]), {"weight": 1.5, "labels": ["x"], "unit": "kg"}, id="dataclass"),
        pytest.param("optional", None, None, id="none"),
        pytest.param("unchecked", (1, 2), [1, 2], id="tuple"),
    ],
)
async def test_result_of_a_fake_may_be_an_object_and_becomes_plain(
    world: World, kind: str, given: Any, shown: Any
) -> None:
    world.fake(KINDS[kind][0], returns=given)
    assert (await world.run(kind)).result == shown


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        pytest.param("coroutine", {"returns": {"ms": 5}}, id="returns"),
        pytest.param("coroutine", {"sequence": [{"ms": 5}]}, id="sequence"),
        pytest.param("coroutine", {"does": lambda host: {"ms": 5}}, id="does"),
        pytest.param("nested", {"returns": [{"ms": 5}]}, id="in-a-list"),
    ],
)
async def test_fake_gives_the_defaults_that_it_leaves_out(world: World, kind: str, keys: dict[str, Any]) -> None:
    world.fake(KINDS[kind][0], **keys)
    full = {"ms": 5, "via": None}
    assert (await world.run(kind)).result == ([full] if kind == "nested" else full)


async def test_fake_gives_no_key_that_the_real_result_does_not_have(world: World) -> None:
    with pytest.raises(FakeError, match="Pong has no 'vai'; did you mean 'via'"):
        world.fake("ping", returns={"ms": 5, "vai": "eth0"})


async def test_sequence_gives_one_outcome_to_each_call_and_no_more(world: World, plan: Path) -> None:
    fake = world.fake("ping", sequence=[ConnectionError("busy"), {"ms": 1}])
    states = [(await world.run("coroutine")).state for _ in range(3)]
    assert (states, len(fake.calls)) == (["failed", "succeeded", "failed"], 3)
    with pytest.raises(FakeError, match="once more than its sequence of 2 has"):
        world.check()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        pytest.param({"returns": {"ms": 1}, "raises": OSError()}, "has returns and raises", id="two"),
        pytest.param({"does": 5}, "does=5 cannot be called", id="does-no-function"),
        pytest.param({"does": lambda: {"ms": 1}}, "the action's parameters are: host, count", id="does-takes-nothing"),
        pytest.param({"does": lambda host, port: None}, "missing a required argument: 'port'", id="does-takes-more"),
        pytest.param({"raises": "no line"}, "raise a subclass of Exception", id="raises-text"),
        pytest.param({"raises": KeyboardInterrupt}, "raise a subclass of Exception", id="raises-no-failure"),
        pytest.param({"raises": KeyboardInterrupt()}, "raise a subclass of Exception", id="raises-no-failure-made"),
        pytest.param({"sequence": [KeyboardInterrupt]}, "raise a subclass of Exception", id="no-failure-in-sequence"),
        pytest.param({"sequence": {"ms": 1}}, "sequence is a list", id="sequence-mapping"),
        pytest.param({"sequence": 3}, "sequence is a list", id="sequence-number"),
        pytest.param({"sequence": "abc"}, "sequence is a list", id="sequence-text"),
        pytest.param({"returns": {"ms": 1}, "takes": "soon"}, "takes='soon'", id="takes-no-duration"),
        pytest.param({"returns": {"ms": 1}, "takes": -1}, "takes=-1", id="takes-negative"),
        pytest.param({"returns": {"ms": 1}, "takes": float("nan")}, "takes=nan", id="takes-no-number"),
        pytest.param({"return": {"ms": 1}}, "'return'.*did you mean 'returns'", id="unknown-word"),
        pytest.param({}, "cannot give None", id="nothing-where-a-result-must-be"),
    ],
)
async def test_fake_that_could_not_be_real_is_refused_when_it_is_made(
    world: World, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(FakeError, match=said):
        world.fake("ping", **keys)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("pong", "there is no action 'pong' to fake.*'ping'", id="near-of-its-own"),
        pytest.param("shell.rum", "'shell.run'", id="near-shipped"),
        pytest.param("mail.mial", "'mail.mail'", id="near-of-another-plan"),
        pytest.param("male.mail", "'mail.mail'|there is no plan 'male'", id="near-plan"),
        pytest.param("lab.pong", "'lab.ping'|'ping'", id="near-with-its-plan"),
        pytest.param("", "there is no action ''", id="empty"),
    ],
)
async def test_fake_of_an_unknown_action_is_refused_with_a_near_name(world: World, name: str, said: str) -> None:
    with pytest.raises(FakeError, match=said):
        world.fake(name, returns=1)


@pytest.mark.parametrize(
    "does",
    [
        pytest.param(lambda host: {"ms": 1}, id="some-of-the-parameters"),
        pytest.param(lambda host, count: {"ms": 1}, id="all"),
        pytest.param(lambda count, host="z": {"ms": 1}, id="in-any-order"),
        pytest.param(lambda **given: {"ms": 1}, id="whatever-comes"),
        pytest.param(lambda host, *, mood="fine": {"ms": 1}, id="with-a-default-of-its-own"),
        pytest.param(lambda host, **rest: {"ms": len(rest)}, id="one-and-the-rest"),
    ],
)
async def test_does_is_called_with_the_parameters_by_name(world: World, does: Callable[..., Any]) -> None:
    world.fake("ping", does=does)
    run = await world.run("coroutine")
    run.assert_succeeded()
    assert run.result == {"ms": 1, "via": None}


async def test_fake_may_be_replaced_in_the_middle_of_a_run_and_of_a_world(world: World, plan: Path) -> None:
    first = world.fake("ping", returns={"ms": 1})
    assert (await world.run("coroutine")).result == {"ms": 1, "via": None}
    second = world.fake("lab.ping", returns={"ms": 2})
    assert (await world.run("coroutine")).result == {"ms": 2, "via": None}
    assert (len(first.calls), len(second.calls)) == (1, 1)


async def test_fault_of_a_fake_that_was_replaced_is_not_forgotten(world: World) -> None:
    world.fake("ping", does=lambda host: {"ms": "quick"})
    await world.run("coroutine")
    world.fake("ping", returns={"ms": 1})
    with pytest.raises(FakeError, match="cannot give"):
        world.check()


async def test_what_a_fake_gives_and_notes_is_nobody_elses(world: World) -> None:
    answer, full = {"ms": 1}, {"ms": 1, "via": None}
    fake = world.fake("ping", returns=answer)
    answer["ms"] = 2
    run = await world.run("coroutine")
    fake.calls[0]["host"] = "changed by the test"
    assert (run.result, (await world.run("coroutine")).result) == (full, full)
    assert fake.calls[1]["host"] == "a"


async def test_exception_that_is_raised_again_and_again_does_not_grow(world: World) -> None:
    error = ConnectionError("busy")
    world.fake("ping", raises=error)
    for _ in range(3):
        await world.run("coroutine")
    depth, at = 0, error.__traceback__
    while at is not None:
        depth, at = depth + 1, at.tb_next
    assert depth < 12


async def test_call_with_parameters_that_the_action_does_not_take_fails_as_for_real(world: World, plan: Path) -> None:
    write_plan(plan, {"tasks/coroutine.yaml": one_step("ping", '{host: "{{ 5 }}"}')})
    await world.reload()
    fake = world.fake("ping", returns={"ms": 1})
    run = await world.run("coroutine")
    assert run.error is not None
    assert (run.error["type"], fake.calls) == ("params_invalid", [])


async def test_fake_says_what_it_stands_for(world: World) -> None:
    fake = world.fake("ping", returns={"ms": 1})
    await world.run("coroutine")
    assert repr(fake) == "<Fake lab.ping, called once>"


# -- where fakes are asked


async def test_fake_answers_for_the_polls_of_items_and_of_rules(world: World, plan: Path) -> None:
    write_plan(
        plan,
        {
            "tasks/react.yaml": one_step("note", "{what: reacted}"),
            "schedule.yaml": "items:\n  full:\n    task: react\n"
            "    triggers: [{poll: {action: is_low, params: {n: 1}, every: 30s}}]\n",
            "interrupts.yaml": "rules:\n  low: {task: react, triggers: [{poll: {action: is_low, every: 2s}}]}\n",
        },
    )
    await world.load()
    fake = world.fake("is_low", does=lambda n: world.now > BEGINNING + 60)
    await world.advance(minutes=3)
    assert sorted(run.cause["kind"] for run in world.runs("react")) == ["interrupt", "poll"]
    assert {call["n"] for call in fake.calls} == {0, 1}


async def test_fakes_of_waits_and_sub_tasks_answer_at_once(world: World, plan: Path) -> None:
    write_plan(
        plan,
        {
            "tasks/all.yaml": "steps:\n"
            "  - {name: ask, action: approval.wait, params: {message: May I}}\n"
            "  - {name: rest, action: sleep, params: {duration: 1h}}\n"
            "  - {name: hear, action: event.wait, params: {name: door.opened}}\n"
            "  - {name: sub, action: task.run, params: {task: coroutine}}\n"
            'returns: ["{{ steps.ask.output.approved }}", "{{ steps.hear.output.name }}", "{{ steps.sub.output }}"]\n'
        },
    )
    await world.load()
    world.fake("approval.wait", returns={"approved": True, "by": "me", "at": "2026-01-01T00:00:00Z", "values": {}})
    slept = world.fake("sleep")
    heard = {"id": "1", "name": "door.opened", "time": "2026-01-01T00:00:00Z", "payload": None}
    origin = {"plan_name": None, "task_name": None, "cid": None, "step": None, "cause": None, "root": None, "depth": 0}
    world.fake("event.wait", returns=heard | origin)
    sub = world.fake("task.run", returns="of the child")
    run = await world.run("all")
    run.assert_succeeded()
    assert run.result == [True, "door.opened", "of the child"]
    assert (world.now - BEGINNING < 1, len(slept.calls), sub.calls[0]["task"]) == (True, 1, "coroutine")
    assert len(world.runs()) == 1


# -- services


async def test_faked_service_is_given_and_nothing_of_the_real_one_or_its_needs_runs(world: World) -> None:
    world.fake_service("camera", "a picture of a camera")
    run = await world.run("service")
    assert (run.result, happened) == ("a picture of a camera", [])


async def test_service_that_another_needs_may_be_faked_beneath_it(world: World) -> None:
    world.fake_service("power", "12 V")
    run = await world.run("service")
    assert (run.result, happened) == ("camera at 12 V", ["camera on"])


async def test_service_of_a_plan_that_this_one_uses_is_faked_by_its_full_name(world: World) -> None:
    world.fake_service("mail.smtp", "a fake")
    assert (await world.run("other")).result == "a fake to me"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("camra", "did you mean 'camera'", id="its-own"),
        pytest.param("mail.smpt", "did you mean 'mail.smtp'", id="of-another-plan"),
        pytest.param("ping", "there are: .*camera", id="an-action"),
    ],
)
async def test_fake_of_an_unknown_service_is_refused(world: World, name: str, said: str) -> None:
    with pytest.raises(FakeError, match=said):
        world.fake_service(name, None)
