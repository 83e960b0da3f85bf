"""Idempotency keys: whatever comes twice, is cut off, fails or crashes in between, there is one run for one key."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, turns
from tests.engine.test_undone import fails_when_it_runs
from tests.fakes.invariants import check_idle
from tests.fakes.kernel import FaultyBackend, copy_of, works

from aura.errors import RequestError
from aura.kernel import admission
from aura.kernel.keys import Key, Keys, key_of
from aura.records.keys import KEEP_KEYS, OLD_KEYS
from aura.records.runs import accept_run
from aura.run import Cause, Outcomes, Receipt, Request
from aura.store import Ticket
from aura.stores.memory import MemoryBackend

CAUSE = Cause("api")
T = task("t", step("a", works))
ASKED = Request("p", "t")


def run_key(text: str = "k", body: Any = None) -> Key:
    return key_of("run", text, body or {"task_name": "t"})


def batch_key(text: str = "k", body: Any = None) -> Key:
    return key_of("batch", text, body or {"tasks": []})


def rows(kit: Opened, table: str = "run") -> int:
    count: int = kit.backend.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return count


async def refusal_of(asking: Awaitable[object]) -> RequestError:
    with pytest.raises(RequestError) as refused:
        await asking
    return refused.value


class Clients:
    """Asks for runs side by side and keeps what each is told."""

    def __init__(self, kit: Opened, group: anyio.abc.TaskGroup) -> None:
        self.kit = kit
        self.keys = kit.engine.keys
        self.group = group
        self.told: list[Receipt | str] = []

    def ask(self, key: Key, request: Request = ASKED) -> anyio.CancelScope:
        """Begin one, as its own child; the scope cuts it off."""
        scope = anyio.CancelScope()

        async def asks() -> None:
            with scope:
                try:
                    self.told.append(await self.keys.submit(request, CAUSE, key))
                except RequestError as refused:
                    self.told.append(refused.code)

        self.group.start_soon(asks)
        return scope

    def forget(self) -> None:
        """Have those who come now ask as if nobody was being answered."""
        self.keys = Keys(self.kit.engine.runtime, self.kit.engine.admission)

    @property
    def cids(self) -> set[str]:
        return {told.cid for told in self.told if isinstance(told, Receipt)}


@asynccontextmanager
async def clients_of(folder: Path, *tasks: Any, **keys: Any) -> AsyncIterator[Clients]:
    async with opened(folder, *(tasks or [T]), **keys) as kit, anyio.create_task_group() as group:
        yield Clients(kit, group)


class Held(Clients):
    """Clients of an engine whose commits stand still until they are let go."""

    backend: FaultyBackend

    async def hold(self) -> None:
        """Have a commit under way, so that what comes now is one batch behind it."""
        self.backend.gate = anyio.Event()
        self.kit.engine.runtime.store.put(lambda execute: None)
        await quiet()

    async def let_go(self) -> None:
        gate, self.backend.gate = self.backend.gate, None
        assert gate is not None
        gate.set()
        await quiet()


@asynccontextmanager
async def held_clients(folder: Path, **keys: Any) -> AsyncIterator[Held]:
    backend = FaultyBackend()
    async with opened(folder, T, backend=backend, **keys) as kit, anyio.create_task_group() as group:
        clients = Held(kit, group)
        clients.backend = backend
        await clients.hold()
        yield clients


# -- one key, one run


async def test_same_key_and_body_are_answered_as_the_first_time(tmp_path: Path) -> None:
    async with opened(tmp_path, T) as kit:
        first = await kit.engine.submit(ASKED, CAUSE, run_key())
        await kit.settle()
        again = await kit.engine.submit(ASKED, CAUSE, run_key())
        assert (first.replayed, again.replayed) == (False, True)
        assert (again.cid, again.state) == (first.cid, first.state)
        assert (rows(kit), rows(kit, "idempotency")) == (1, 1)


async def test_same_key_and_another_body_are_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    async with opened(tmp_path, T) as kit:
        first = await kit.engine.submit(ASKED, CAUSE, run_key())
        refused = await refusal_of(kit.engine.submit(ASKED, CAUSE, run_key(body={"task_name": "u"})))
        assert (refused.code, refused.status, rows(kit)) == ("key_reused", 422, 1)
        assert (await kit.engine.submit(ASKED, CAUSE, run_key())).cid == first.cid


async def test_two_kinds_of_request_have_keys_of_their_own(tmp_path: Path) -> None:
    async with opened(tmp_path, T) as kit:
        one = await kit.engine.submit(ASKED, CAUSE, run_key("k", [1]))
        batch = await kit.engine.submit_batch([ASKED], CAUSE, False, batch_key("k", [1]))
        assert [one.replayed, batch.replayed] == [False, False]
        assert rows(kit) == 2


async def test_same_text_of_two_owners_is_two_keys(tmp_path: Path) -> None:
    async with opened(tmp_path, T) as kit:
        found = [
            await kit.engine.submit(ASKED, CAUSE, key_of("run", "k", body, owner)) for owner in "ab" for body in "xx"
        ]
        assert [receipt.replayed for receipt in found] == [False, True, False, True]
        assert (len({receipt.cid for receipt in found}), rows(kit)) == (2, 2)


async def test_two_hundred_at_once_are_one_run(tmp_path: Path) -> None:
    async with clients_of(tmp_path) as clients:
        for _ in range(200):
            clients.ask(run_key())
        await quiet()
        assert len(clients.told) == 200
        assert len(clients.cids) == 1
        assert sum(told.replayed for told in clients.told if isinstance(told, Receipt)) == 199
        assert (rows(clients.kit), clients.kit.engine.runtime.seq) == (1, 1)


async def test_many_keys_at_once_are_each_one_run(tmp_path: Path) -> None:
    async with clients_of(tmp_path) as clients:
        for number in range(200):
            clients.ask(run_key(f"k{number % 20}"))
        await quiet()
        assert (len(clients.told), len(clients.cids), rows(clients.kit)) == (200, 20, 20)


async def test_who_comes_while_the_first_is_being_stored_waits_for_it(tmp_path: Path) -> None:
    async with held_clients(tmp_path) as clients:
        clients.ask(run_key())
        await quiet()
        clients.ask(run_key())
        clients.ask(run_key(body="another"))
        await quiet()
        assert clients.told == []
        await clients.let_go()
        assert (len(clients.cids), clients.told[2], rows(clients.kit)) == (1, "key_reused", 1)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param({"a": 1, "b": {"c": [1], "d": 2}}, {"b": {"d": 2, "c": [1]}, "a": 1}, True, id="another order"),
        pytest.param({"a": [1, 2]}, {"a": [2, 1]}, False, id="order of a list"),
        pytest.param({"a": 1}, {"a": "1"}, False, id="a number and a text"),
        pytest.param({"a": None}, {}, False, id="null and missing"),
        pytest.param(Request("p", "t"), {**{"plan_name": "p"}}, False, id="something else"),
    ],
)
def test_body_counts_by_what_it_says(one: Any, other: Any, same: bool) -> None:
    assert (key_of("run", "k", one) == key_of("run", "k", other)) is same


@pytest.mark.parametrize("text", ["", "x" * 256, "ä", "a\nb", "a\tb", "\x7f", "a\0"], ids=repr)
def test_text_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as refused:
        key_of("run", text, {})
    assert (refused.value.code, refused.value.status) == ("bad_header", 400)


# -- what was refused, or could not be stored


async def test_refused_request_leaves_no_key(tmp_path: Path) -> None:
    async with opened(tmp_path, T, lanes={"main": 1}, queue=1) as kit:
        await kit.engine.stop("cancel", 0.1)
        await kit.engine.submit(ASKED, CAUSE)
        for _ in range(2):
            assert (await refusal_of(kit.engine.submit(ASKED, CAUSE, run_key()))).code == "queue_full"
        assert rows(kit, "idempotency") == 0
        await kit.engine.start()
        await kit.settle()
        assert not (await kit.engine.submit(ASKED, CAUSE, run_key())).replayed


async def test_those_who_wait_for_one_that_is_refused_are_refused_alike(tmp_path: Path) -> None:
    async with clients_of(tmp_path) as clients:
        for _ in range(50):
            clients.ask(run_key(), Request("p", "nope"))
        clients.ask(run_key(body="another"))
        await quiet()
        assert sorted(str(told) for told in clients.told)[-50:] == ["unknown_task"] * 50
        assert (len(clients.cids), rows(clients.kit)) == (1, 1)  # what the others wanted was none of its business


async def test_acceptance_that_cannot_be_stored_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path, T) as kit:
        with monkeypatch.context() as patch:
            patch.setattr(admission, "accept_run", fails_when_it_runs(accept_run))
            assert (await refusal_of(kit.engine.submit(ASKED, CAUSE, run_key()))).code == "internal"
        assert (rows(kit), rows(kit, "idempotency")) == (0, 0)
        assert not (await kit.engine.submit(ASKED, CAUSE, run_key())).replayed
        await kit.settle()
        check_idle(kit)


# -- the first one is cut off


@pytest.mark.parametrize("body", [None, "another"], ids=["the same", "another body"])
async def test_who_comes_after_one_that_was_cut_off_waits_until_it_is_stored(tmp_path: Path, body: Any) -> None:
    async with held_clients(tmp_path) as clients:
        cut_off = clients.ask(run_key())
        await quiet()
        cut_off.cancel()
        await quiet()
        clients.ask(run_key(body=body))
        await quiet()
        assert clients.told == []
        await clients.let_go()
        await clients.kit.settle()
        assert len(clients.cids) == (body is None)
        assert (clients.told == ["key_reused"], rows(clients.kit)) == (body is not None, 1)
        assert not clients.kit.engine.keys._flights
        check_idle(clients.kit)


async def test_nobody_is_refused_what_one_that_was_cut_off_has_asked_for(tmp_path: Path) -> None:
    async with held_clients(tmp_path, lanes={"main": 1}, queue=1) as clients:
        await clients.let_go()
        await clients.kit.engine.stop("cancel", 0.1)
        await clients.hold()
        cut_off = clients.ask(run_key())
        await quiet()
        cut_off.cancel()
        await quiet()
        clients.ask(run_key())  # the queue is full, of its own run
        await quiet()
        await clients.let_go()
        (receipt,) = clients.told
        assert isinstance(receipt, Receipt)
        assert (receipt.replayed, rows(clients.kit)) == (True, 1)


async def test_one_that_was_cut_off_and_could_not_be_stored_leaves_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with held_clients(tmp_path) as clients:
        with monkeypatch.context() as patch:
            patch.setattr(admission, "accept_run", fails_when_it_runs(accept_run))
            cut_off = clients.ask(run_key())
            await quiet()
            cut_off.cancel()
            await quiet()
        clients.ask(run_key())
        await clients.let_go()
        await clients.kit.settle()
        (receipt,) = clients.told
        assert isinstance(receipt, Receipt)
        assert (receipt.replayed, rows(clients.kit)) == (False, 1)
        check_idle(clients.kit)


# -- the index decides


@pytest.mark.parametrize("together", [True, False], ids=["in one commit", "in two commits"])
@pytest.mark.parametrize("stopped", [True, False], ids=["queued", "its start behind it"])
async def test_second_one_that_nobody_knew_of_is_given_the_answer_of_the_first(
    tmp_path: Path, together: bool, stopped: bool
) -> None:
    async with held_clients(tmp_path) as clients:
        kit = clients.kit
        if stopped:
            await clients.let_go()
            await kit.engine.stop("cancel", 0.1)
            await clients.hold()
        cut_off = clients.ask(run_key())
        await quiet()
        cut_off.cancel()
        await quiet()
        if not together:  # the first one's commit is under way when the second is handed over
            gate, clients.backend.gate = clients.backend.gate, anyio.Event()
            assert gate is not None
            gate.set()
            await quiet()
        clients.forget()
        clients.ask(run_key())
        await quiet()
        assert kit.engine.runtime.seq == 2  # nobody knew better
        assert clients.told == []
        await clients.let_go()
        await kit.engine.start()
        await kit.settle()
        (receipt,) = clients.told
        assert isinstance(receipt, Receipt)
        assert receipt.replayed
        assert [(run.cid, run.state) for run in kit.runs()] == [(receipt.cid, "succeeded")]
        assert kit.engine.measures.refusals.counts == {}
        check_idle(kit)


async def test_loser_with_another_body_is_refused_by_the_index(tmp_path: Path) -> None:
    async with held_clients(tmp_path) as clients:
        cut_off = clients.ask(run_key())
        await quiet()
        cut_off.cancel()
        await quiet()
        clients.forget()
        clients.ask(run_key(body="another"))
        await quiet()
        await clients.let_go()
        await clients.kit.settle()
        assert (clients.told, rows(clients.kit)) == (["key_reused"], 1)
        check_idle(clients.kit)


# -- crashes


@pytest.mark.parametrize("told", [True, False], ids=["after the commit", "before the commit"])
async def test_client_that_was_not_told_asks_the_next_server(tmp_path: Path, told: bool) -> None:
    async with held_clients(tmp_path / "one") as clients:
        clients.ask(run_key())
        await quiet()
        if told:
            await clients.let_go()
        left = copy_of(clients.backend)
        if not told:
            await clients.let_go()
    async with opened(tmp_path / "two", T, backend=left) as kit:
        receipt = await kit.engine.submit(ASKED, CAUSE, run_key())
        assert (receipt.replayed, rows(kit)) == (told, 1)
        assert ({receipt.cid} == clients.cids) is told
        await kit.settle()


# -- batches


def shown(outcomes: Outcomes) -> list[tuple[Any, ...]]:
    return [
        (o.cid, o.state, o.plan_name, o.task_name) if isinstance(o, Receipt) else (o.code, o.detail, o.errors, o.extra)
        for o in outcomes.items
    ]


async def test_batch_that_comes_again_has_the_same_items(tmp_path: Path) -> None:
    async with opened(tmp_path, T) as kit:
        bad = RequestError("invalid", "no", errors=[], extra={"n": 1})
        wanted: Sequence[Request | RequestError] = [ASKED, Request("p", "nope"), bad, ASKED]
        first = await kit.engine.submit_batch(wanted, CAUSE, False, batch_key())
        again = await kit.engine.submit_batch(wanted, CAUSE, False, batch_key())
        assert (first.replayed, again.replayed, rows(kit)) == (False, True, 2)
        assert shown(first) == shown(again)
        assert [type(item) for item in again.items] == [Receipt, RequestError, RequestError, Receipt]
        await kit.settle()


async def test_batch_of_which_all_is_refused_leaves_no_key(tmp_path: Path) -> None:
    async with opened(tmp_path, T) as kit:
        for _ in range(2):
            found = await kit.engine.submit_batch([Request("p", "nope")], CAUSE, False, batch_key())
            assert (found.replayed, rows(kit), rows(kit, "idempotency")) == (False, 0, 0)


async def test_atomic_batch_that_is_refused_leaves_no_key(tmp_path: Path) -> None:
    async with opened(tmp_path, T) as kit:
        refused = await refusal_of(kit.engine.submit_batch([ASKED, Request("p", "nope")], CAUSE, True, batch_key()))
        assert [error.path for error in refused.errors] == ["/tasks/1"]
        assert (rows(kit), rows(kit, "idempotency")) == (0, 0)


class FailsAt(MemoryBackend):
    """Fails by itself each unit that would store the run with this sequence."""

    bad = 0

    async def commit(self, batch: Sequence[Ticket]) -> None:
        self.execute("DROP TRIGGER IF EXISTS bad")
        self.execute(
            f"CREATE TRIGGER bad BEFORE INSERT ON run WHEN new.seq = {self.bad} BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        await super().commit(batch)


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "one by one"])
async def test_batch_with_a_key_is_stored_as_one_or_not_at_all(tmp_path: Path, atomic: bool) -> None:
    backend = FailsAt()
    async with opened(tmp_path, T, backend=backend) as kit:
        backend.bad = 2
        asked = [ASKED] * 3
        assert (await refusal_of(kit.engine.submit_batch(asked, CAUSE, atomic, batch_key()))).code == "internal"
        assert (rows(kit), rows(kit, "idempotency")) == (0, 0)
        assert not (await kit.engine.submit_batch(asked, CAUSE, atomic, batch_key())).replayed
        await kit.settle()
        assert [run.state for run in kit.runs()] == ["succeeded"] * 3
        check_idle(kit)


async def test_atomic_batch_without_a_key_is_stored_as_one_or_not_at_all(tmp_path: Path) -> None:
    backend = FailsAt()
    async with opened(tmp_path, T, backend=backend) as kit:
        backend.bad = 2
        assert (await refusal_of(kit.engine.submit_batch([ASKED] * 3, CAUSE, True))).code == "internal"
        assert rows(kit) == 0
        got = await kit.engine.submit_batch([ASKED] * 3, CAUSE, True)
        await kit.settle()
        assert [run.cid for run in kit.runs()] == [item.cid for item in got.items if isinstance(item, Receipt)]
        check_idle(kit)


# -- how long


async def test_key_is_kept_for_a_day_and_while_its_run_is_not_final(tmp_path: Path) -> None:
    async with opened(tmp_path, T) as kit:
        short = await kit.engine.submit(ASKED, CAUSE, run_key("short"))
        late = Request("p", "t", delay_s=3 * KEEP_KEYS)
        long = await kit.engine.submit(late, CAUSE, run_key("long"))
        await kit.advance(KEEP_KEYS - 1)
        assert (await kit.engine.submit(ASKED, CAUSE, run_key("short"))).cid == short.cid
        await kit.advance(2)
        await kit.engine.submit(ASKED, CAUSE, run_key("new"))
        assert not (await kit.engine.submit(ASKED, CAUSE, run_key("short"))).replayed
        assert (await kit.engine.submit(late, CAUSE, run_key("long"))).cid == long.cid
        await kit.advance(3 * KEEP_KEYS)
        await kit.engine.submit(ASKED, CAUSE, run_key("newer"))
        assert not (await kit.engine.submit(late, CAUSE, run_key("long"))).replayed


@pytest.mark.parametrize("delay", [0.0, 10 * KEEP_KEYS], ids=["ended", "not final"])
async def test_few_old_keys_are_looked_at_with_each_new_one(tmp_path: Path, delay: float) -> None:
    async with opened(tmp_path, T) as kit:
        for number in range(3 * OLD_KEYS):
            await kit.engine.submit(Request("p", "t", delay_s=delay), CAUSE, run_key(f"old {number}"))
        await kit.advance(KEEP_KEYS + 1)
        await kit.engine.submit(ASKED, CAUSE, run_key("new"))
        expired = "SELECT count(*) FROM idempotency WHERE keep_until <= ?"
        assert kit.backend.execute(expired, (kit.now,)).fetchone() == (2 * OLD_KEYS,)
        assert rows(kit, "idempotency") == 3 * OLD_KEYS + 1 - (OLD_KEYS if delay == 0 else 0)


# -- nothing is left behind


async def test_requests_with_keys_leave_nothing_in_memory(tmp_path: Path) -> None:
    async with clients_of(tmp_path) as clients:
        for number in range(20):
            clients.ask(run_key(f"k{number % 3}"), ASKED if number % 2 else Request("p", "nope")).deadline = (
                anyio.current_time() if number % 5 else float("inf")
            )
        await turns(3)
        await quiet()
        await clients.kit.settle()
        assert clients.kit.engine.keys._flights == {}


ASKS: dict[str, Callable[[Opened], Awaitable[object]]] = {
    "run": lambda kit: kit.engine.submit(ASKED, CAUSE),
    "batch": lambda kit: kit.engine.submit_batch([ASKED] * 3, CAUSE, True),
}


@pytest.mark.parametrize("kind", ASKS)
async def test_request_without_a_key_asks_the_store_for_none(tmp_path: Path, kind: str) -> None:
    async with opened(tmp_path, T) as kit:
        read = kit.engine.runtime.store.read
        kit.engine.runtime.store.read = None  # type: ignore[assignment,method-assign]
        await ASKS[kind](kit)
        kit.engine.runtime.store.read = read  # type: ignore[method-assign]
        assert rows(kit, "idempotency") == 0
        await kit.settle()
