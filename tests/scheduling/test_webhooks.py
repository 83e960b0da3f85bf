"""Webhooks in virtual time: what a proven call starts, once; what is declined, refused, repeated, over a crash too."""

from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.engine.kit import until
from tests.fakes.kernel import FaultyBackend
from tests.fakes.webhooks import SECRET, aura_headers
from tests.scheduling.schedule_kit import Lab, at, clock_at, crashed, open_lab, schedule

from aura.errors import RequestError, StoreFull
from aura.records import deliveries
from aura.records.deliveries import DeliveryRow, insert_delivery
from aura.scheduling import webhooks
from aura.scheduling.signatures import HookCall
from aura.scheduling.webhooks import HookReceipt
from aura.stores.memory import MemoryBackend

pytestmark = pytest.mark.anyio

PLAN = "secrets: [hook]"
HOOK = schedule(deploy="triggers: [{webhook: {secret: hook}}]")
BODY = {"ref": "{{ 7*7 }}", "n": 1}


def hook(more: str = "", when: str = "") -> str:
    """A schedule with the item ``deploy``, which has a webhook."""
    condition = f", when: {when!r}" if when else ""
    return schedule(deploy=f"{more}triggers: [{{webhook: {{secret: hook}}{condition}}}]")


def call_of(world: Lab, payload: Any = BODY, **how: Any) -> HookCall:
    """A call as its sender makes it, now if ``at`` says nothing else."""
    body = msgspec.json.encode(payload)
    headers = aura_headers(body, **{"at": world.now, **how})
    return HookCall([(name.lower().encode(), value.encode()) for name, value in headers.items()], body)


async def called(world: Lab, payload: Any = BODY, *, item: str = "deploy", **how: Any) -> HookReceipt | None:
    """Call a webhook; None if the call is not proven."""
    proven = world.engine.webhooks.prove("lab", item, call_of(world, payload, **how))
    return await world.engine.webhooks.receive(proven, payload) if proven else None


def lab(folder: Path, items: str = HOOK, **how: Any) -> Any:
    return open_lab(folder, items=items, plan=PLAN, **how)


async def test_call_starts_its_item_with_the_body_as_data(tmp_path: Path) -> None:
    async with lab(tmp_path, hook("inputs: {day: '{{ event.payload.ref }}'}, ")) as world:
        world.secrets(hook=SECRET)
        receipt = await called(world)
        await world.settle()
        (run,) = world.runs()
        assert receipt == HookReceipt(run.record.cause["event_id"], run.cid)
        assert (run.record.cause["kind"], run.record.cause["item"], run.record.lane) == ("webhook", "deploy", "event")
        assert run.result["day"] == "{{ 7*7 }}"
        seen = run.result["event"]
        assert (seen["id"], seen["name"], seen["payload"]) == (receipt.event_id, "webhook.received", BODY)
        assert (seen["root"], seen["depth"], seen["plan_name"]) == (receipt.event_id, 0, "lab")
        assert seen["headers"] == {"x-aura-id": "d1", "x-aura-timestamp": str(int(world.now))}
        assert world.payloads("webhook.received") == [BODY]


async def test_secret_in_a_payload_is_shown_nowhere(tmp_path: Path) -> None:
    async with lab(tmp_path) as world:
        world.secrets(hook=SECRET)
        await called(world, {"key": SECRET, "text": f"so {SECRET}"}, id=SECRET)
        await called(world, {"key": SECRET}, id=SECRET)
        await world.settle()
        assert world.unstarted("duplicate")
        kept = [row for table in ("run", "event", "step", "why", "webhook_delivery", "log")
                for row in world.backend.execute(f"SELECT * FROM {table}").fetchall()]  # fmt: skip
        assert SECRET not in repr(kept)
        assert repr(kept).count("***") >= 3


@pytest.mark.parametrize("payload", [None, 7, "text", [1, [2]], {"a": {"b": None}}, "x" * 500_000])
async def test_body_is_any_json(tmp_path: Path, payload: Any) -> None:
    async with lab(tmp_path) as world:
        world.secrets(hook=SECRET)
        assert await called(world, payload)
        await world.settle()
        assert world.payloads("webhook.received") == [payload]
        assert [run.state for run in world.runs()] == ["succeeded"]


async def test_same_delivery_starts_one_run_however_many_come_at_once(tmp_path: Path) -> None:
    async with lab(tmp_path) as world:
        world.secrets(hook=SECRET)
        found: list[HookReceipt | None] = []

        async def one() -> None:
            found.append(await called(world))

        async with anyio.create_task_group() as group:  # 200 callers; each ends with its answer
            for _ in range(200):
                group.start_soon(one)
        await world.settle()
        (run,) = world.runs()
        new = HookReceipt(run.record.cause["event_id"], run.cid)
        old = new._replace(is_new=False)
        assert Counter(found) == {new: 1, old: 199}
        assert len(world.payloads("webhook.received")) == 1
        assert sum(line.count for line in world.unstarted("duplicate")) == 199
        assert not world.engine.webhooks._flights


async def test_index_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that does not see the first one's row starts nothing: its unit fails, and it looks again."""
    answers = iter([None])
    find = webhooks._find
    async with lab(tmp_path) as world:
        world.secrets(hook=SECRET)
        first = await called(world)
        assert first
        monkeypatch.setattr(webhooks, "_find", lambda key, execute: next(answers, find(key, execute)))
        assert await called(world) == first._replace(is_new=False)
        assert list(answers) == []
        await world.settle()
        assert [run.cid for run in world.runs()] == [first.started]
        assert len(world.payloads("webhook.received")) == 1
        assert world.engine.runtime.bus.room.taken == 0


async def test_delivery_is_known_after_a_crash_and_to_its_own_item_alone(tmp_path: Path) -> None:
    items = schedule(**dict.fromkeys(("deploy", "other"), "triggers: [{webhook: {secret: hook}}]"))
    async with lab(tmp_path, items) as world:
        world.secrets(hook=SECRET)
        first = await called(world)
        other = await called(world, item="other")
        assert first
        assert other
        assert other.is_new
        left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left, clock=clock_at("00:01")) as world:
        world.secrets(hook=SECRET)
        assert await called(world) == first._replace(is_new=False)
        assert await called(world, {"another": "body"}) == first._replace(is_new=False)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"secret": "another"}, id="secret"),
        pytest.param({"item": "nothing"}, id="no such item"),
        pytest.param({"item": "tick"}, id="item without a webhook"),
        pytest.param({"at": at("00:00") - 301}, id="too old"),
        pytest.param({"at": at("00:00") + 400}, id="from the future"),
    ],
)
async def test_call_without_a_proof_leaves_nothing(tmp_path: Path, how: Any) -> None:
    items = HOOK + schedule(tick="triggers: [{every: 5m}]").removeprefix("items:\n")
    async with lab(tmp_path, items) as world:
        world.secrets(hook=SECRET)
        assert await called(world, **how) is None
        await world.advance()
        assert (world.runs(), world.unstarted(), world.payloads("webhook.received")) == ([], [], [])


async def test_operator_is_told_seldom_why_calls_prove_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path) as world:
        world.secrets(hook=SECRET)

        def told() -> list[str]:
            rows = world.backend.execute("SELECT message FROM log WHERE message LIKE '%without a proof%'").fetchall()
            return [text for (text,) in rows]

        for _ in range(50):
            await called(world, secret="another")
        await world.advance(seconds=30)
        (line,) = told()
        assert line.endswith("webhook of item lab/deploy without a proof: x-aura-signature does not fit")
        await world.advance(seconds=31)
        await called(world, at=0)
        await world.advance(seconds=5)
        assert len(told()) == 2


async def test_hook_without_its_secret_says_so_on_its_item_and_to_nobody_else(tmp_path: Path) -> None:
    async with lab(tmp_path) as world:
        world.secrets(hook=None)
        assert [await called(world) for _ in range(5)] == [None] * 5
        await world.advance()
        (line,) = world.unstarted()
        assert (line.reason, line.item) == ("bad_inputs", "deploy")
        assert line.detail.startswith("its webhook cannot be called: the secret hook of plan lab is nowhere")
        world.secrets(hook=SECRET)
        assert await called(world)


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        pytest.param(hook(when="{{ event.payload.n > 1 }}"), "condition_false", id="when"),
        pytest.param(hook("enabled: false, "), "disabled", id="disabled"),
    ],
)
async def test_item_that_does_not_want_it_is_not_started(tmp_path: Path, items: str, reason: str) -> None:
    async with lab(tmp_path, items) as world:
        world.secrets(hook=SECRET)
        receipt = await called(world)
        assert receipt
        assert receipt.started is None
        await world.advance()
        assert (world.runs(), world.reasons()) == ([], [reason])
        assert world.payloads("webhook.received") == [BODY]
        await world.rewrite(tmp_path, items=HOOK)  # the same delivery may come again: it has started nothing
        again = await called(world)
        assert again
        assert again.started
        assert again.is_new


async def test_cooldown_counts(tmp_path: Path) -> None:
    async with lab(tmp_path, hook("cooldown: 1m, ")) as world:
        world.secrets(hook=SECRET)
        receipts = [await called(world, id="a"), await called(world, id="b")]
        assert [receipt and receipt.started is not None for receipt in receipts] == [True, False]
        await world.advance(seconds=61)
        assert (await called(world, id="b")) is not None
        assert (len(world.runs()), world.reasons()) == (2, ["cooldown"])


WAITING = "mode: {kind: single}\nsteps: {only: {action: sleep, params: {duration: 10s}}}"


async def test_refused_run_stores_nothing_and_the_delivery_may_come_again(tmp_path: Path) -> None:
    items = schedule(deploy="task: lone, triggers: [{webhook: {secret: hook}}]")
    async with lab(tmp_path, items, lone=WAITING.replace("{kind: single}", "single")) as world:
        world.secrets(hook=SECRET)
        assert await called(world, id="a")
        with pytest.raises(RequestError) as refused:
            await called(world, id="b")
        assert (refused.value.code, refused.value.status) == ("refused_by_mode", 409)
        assert (world.reasons(), len(world.payloads("webhook.received"))) == (["mode"], 1)
        await world.settle()
        second = await called(world, id="b")
        assert second
        assert second.is_new
        assert len(world.runs()) == 2


@pytest.mark.parametrize(
    ("items", "says"),
    [
        pytest.param(hook("inputs: {day: '{{ event.payload.none.x }}'}, "), "inputs", id="inputs"),
        pytest.param(hook("inputs: {day: '{{ event.payload.n }}'}, "), "", id="type"),
        pytest.param(hook(when="{{ event.payload.none.x }}"), "when", id="when"),
    ],
)
async def test_body_that_does_not_fit_is_refused(tmp_path: Path, items: str, says: str) -> None:
    async with lab(tmp_path, items) as world:
        world.secrets(hook=SECRET)
        with pytest.raises(RequestError) as refused:
            await called(world)
        assert refused.value.code == "inputs_invalid"
        assert says in refused.value.detail
        await world.advance()
        assert (world.runs(), world.reasons(), world.payloads("webhook.received")) == ([], ["bad_inputs"], [])


async def test_stopped_engine_receives_and_starts_later(tmp_path: Path) -> None:
    async with lab(tmp_path) as world:
        world.secrets(hook=SECRET)
        await world.engine.stop("cancel", 1.0)
        assert await called(world)
        (run,) = world.runs()
        assert run.state == "queued"
        await world.engine.start()
        await world.settle()
        assert run.state == "succeeded"


async def test_calls_without_an_id_are_each_their_own(tmp_path: Path) -> None:
    items = schedule(deploy="triggers: [{webhook: {secret: hook, scheme: bearer}}]")
    async with lab(tmp_path, items) as world:
        world.secrets(hook=SECRET)
        call = HookCall([(b"authorization", f"Bearer {SECRET}".encode())], b"1")
        for _ in range(2):
            proven = world.engine.webhooks.prove("lab", "deploy", call)
            assert proven
            assert (await world.engine.webhooks.receive(proven, 1)).is_new
        await world.settle()
        assert [run.result["event"]["headers"] for run in world.runs()] == [{}, {}]


async def test_server_that_is_going_receives_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path, hook("enabled: false, ")) as world:
        world.secrets(hook=SECRET)
        world.engine.admission.closed = True
        with pytest.raises(RequestError) as refused:
            await called(world)
        assert refused.value.code == "shutting_down"
        await world.advance()
        assert world.payloads("webhook.received") == []


async def test_item_that_goes_while_its_body_is_read_is_not_started(tmp_path: Path) -> None:
    async with lab(tmp_path) as world:
        world.secrets(hook=SECRET)
        proven = world.engine.webhooks.prove("lab", "deploy", call_of(world))
        assert proven
        await world.rewrite(tmp_path, items="items: {}")
        with pytest.raises(RequestError) as refused:
            await world.engine.webhooks.receive(proven, BODY)
        assert refused.value.code == "unknown_item"
        assert world.runs() == []


async def test_storage_that_fails_is_told_and_the_delivery_may_come_again(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with lab(tmp_path, backend=backend) as world:
        world.secrets(hook=SECRET)
        await world.advance()
        backend.failing, backend.error = 1, StoreFull("full")
        with pytest.raises(RequestError) as refused:
            await called(world)
        assert refused.value.code == "storage_unavailable"
        assert world.engine.runtime.bus.room.taken == 0
        await world.advance(seconds=5)
        receipt = await called(world)
        assert receipt
        assert receipt.is_new
        assert len(world.runs()) == 1


async def test_caller_that_goes_away_leaves_its_delivery_received(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with lab(tmp_path, backend=backend) as world:
        world.secrets(hook=SECRET)
        await world.advance()
        backend.gate = anyio.Event()
        with anyio.move_on_after(1) as gone:
            await called(world)
        assert gone.cancelled_caught
        async with anyio.create_task_group() as group:  # the next caller, who waits for the first one's fate
            found: list[HookReceipt | None] = []

            async def again() -> None:
                found.append(await called(world))

            group.start_soon(again)
            await until(lambda: world.engine.webhooks._flights)
            backend.gate.set()
        assert [receipt and receipt.is_new for receipt in found] == [False]
        assert len(world.runs()) == 1


async def test_rule_hears_of_a_call(tmp_path: Path) -> None:
    async with lab(tmp_path) as world:
        (tmp_path / "plans/lab/interrupts.yaml").write_text(
            "rules: {urgent: {triggers: [{event: webhook.received}], task: work}}"
        )
        await world.engine.reload()
        world.secrets(hook=SECRET)
        await called(world)
        await world.settle()
        assert Counter(run.record.cause["kind"] for run in world.runs()) == {"webhook": 1, "interrupt": 1}


async def test_large_events_count_in_their_lane(tmp_path: Path) -> None:
    async with lab(tmp_path) as world:
        world.secrets(hook=SECRET)
        await world.engine.stop("cancel", 1.0)
        lane = world.engine.dispatcher.lanes["event"]
        await called(world, "x" * 1000, id="a")
        assert lane.waiting_bytes > 1000
        lane.bytes_limit = 2000
        with pytest.raises(RequestError, match="2000"):
            await called(world, "x" * 1000, id="b")
        await world.engine.start()
        await world.settle()
        assert lane.waiting_bytes == 0


def test_old_deliveries_are_forgotten_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MAX_DELIVERIES", 5)
    execute = MemoryBackend().execute

    def keep(number: int, at: float) -> int:
        insert_delivery(DeliveryRow("lab", "deploy", bytes([number]), "1", "c", at))(execute)
        return int(execute("SELECT count(*) FROM webhook_delivery").fetchone()[0])

    assert [keep(number, 0.0) for number in range(20)][-1] == 20  # too many, but none is old
    assert keep(20, deliveries.SURELY_KEPT + 1) == 11
    assert keep(21, deliveries.SURELY_KEPT + 1) == 5
    assert keep(22, deliveries.SURELY_KEPT + 2) == 5
    assert keep(23, -2 * deliveries.KEEP_DELIVERIES) == 1  # the clock was far ahead: what it said then is old
