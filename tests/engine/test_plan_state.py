"""What plans remember: ``ctx.state``, ``state`` in expressions, many at once, times to live, bounds, restarts."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import opened, step, task, turns, until
from tests.fakes.kernel import FaultyBackend, copy_of

from aura.context import Context, State
from aura.errors import ContextClosed, StateFull, StateInvalid, StoreReadOnly
from aura.lifecycle import Stop
from aura.records.columns import encode
from aura.runs.keepable import MAX_VALUE
from aura.runs.planstate import MAX_BYTES, MAX_KEYS
from aura.store import Execute, Ticket, Unit
from aura.stores.memory import MemoryBackend
from aura.testing.virtual_time import VirtualClock

Work = Callable[[Context], Any]


def doing(*works: Work) -> Any:
    """A task whose only step does these things, one after the other, and gives what they give."""

    async def act(ctx: Context) -> Any:
        return [await work(ctx) for work in works]

    return task("t", step("a", act), returns="{{ steps.a.output }}")


async def results(folder: Path, *works: Work, backend: MemoryBackend | None = None) -> Any:
    async with opened(folder, doing(*works), backend=backend) as kit:
        run = await kit.run("t")
        assert run.state == "succeeded", run.explain()
        return run.result


def rows(backend: Any) -> dict[str, bytes]:
    return dict(backend.execute("SELECT key, value FROM state").fetchall())


def get(key: str, *default: Any) -> Work:
    return lambda ctx: ctx.state.get(key, *default)


def put(key: str, value: Any, ttl: float | str | None = None) -> Work:
    return lambda ctx: ctx.state.set(key, value, ttl)


def compare(key: str, expected: Any, value: Any) -> Work:
    return lambda ctx: ctx.state.compare_and_set(key, expected, value)


def delete(key: str) -> Work:
    return lambda ctx: ctx.state.delete(key)


def keys(*prefix: str) -> Work:
    return lambda ctx: ctx.state.keys(*prefix)


async def rest(seconds: float, _ctx: Context) -> None:
    await anyio.sleep(seconds)


def later(seconds: float) -> Work:
    return partial(rest, seconds)


# -- one after the other

TABLE: dict[str, tuple[Sequence[Work], Sequence[Any]]] = {
    "nothing is null": ([get("k"), get("k", 7)], [None, 7]),
    "set and get": ([put("k", {"a": [1, 2.5, None]}), get("k")], [None, {"a": [1, 2.5, None]}]),
    "set again": ([put("k", 1), put("k", "b"), get("k")], [None, None, "b"]),
    "null is a value": ([put("k", None), get("k", 7), keys()], [None, None, ["k"]]),
    "delete": ([put("k", 1), delete("k"), delete("k"), get("k")], [None, True, False, None]),
    "keys by prefix": ([put("b2", 1), put("a1", 1), put("b1", 1), keys("b")], [None, None, None, ["b1", "b2"]]),
    "compare with nothing": ([compare("k", None, 1), compare("k", None, 2), get("k")], [True, False, 1]),
    "compare with null": ([put("k", None), compare("k", None, 1), get("k")], [None, True, 1]),
    "compare whole values": ([put("k", {"a": [1]}), compare("k", {"a": [1.0]}, 2), get("k")], [None, True, 2]),
    "true is not 1": ([put("k", True), compare("k", 1, 2), get("k")], [None, False, True]),
    "compare with another": ([put("k", [1, 2]), compare("k", [2, 1], 3), get("k")], [None, False, [1, 2]]),
    "ttl": ([put("k", 1, 5), later(4.9), get("k"), later(0.1), get("k")], [None, None, 1, None, None]),
    "ttl as text": ([put("k", 1, "2m"), later(119), get("k"), later(1), get("k")], [None, None, 1, None, None]),
    "ttl begins anew": (
        [put("k", 1, 5), later(3), put("k", 2, 5), later(3), get("k"), later(2), get("k")],
        [None, None, None, None, 2, None, None],
    ),
    "ttl is dropped": ([put("k", 1, 5), put("k", 2), later(9), get("k")], [None, None, None, 2]),
    "expired is absent": (
        [put("k", 1, 5), later(5), delete("k"), keys(), compare("k", None, 2), get("k")],
        [None, None, False, [], True, 2],
    ),
    "odd keys": ([put("ä b/c.d[0]", 1), get("ä b/c.d[0]")], [None, 1]),
    "longest key": ([put("k" * 200, 1), get("k" * 200)], [None, 1]),
    "largest value": ([put("k", "x" * (MAX_VALUE - 2)), lambda ctx: length(ctx, "k")], [None, MAX_VALUE - 2]),
}


async def length(ctx: Context, key: str) -> int:
    return len(await ctx.state.get(key))


@pytest.mark.parametrize(("works", "expected"), TABLE.values(), ids=TABLE)
async def test_what_is_remembered(tmp_path: Path, works: Sequence[Work], expected: Sequence[Any]) -> None:
    assert await results(tmp_path, *works) == expected


# -- what cannot be kept

BAD: dict[str, tuple[Work, type[Exception], str]] = {
    "empty key": (put("", 1), StateInvalid, "1 to 200 characters"),
    "long key": (put("k" * 201, 1), StateInvalid, "1 to 200 characters"),
    "control character": (put("a\nb", 1), StateInvalid, "can be printed"),
    "half a character": (put("\ud800", 1), StateInvalid, "can be printed"),
    "key that is no text": (put(7, 1), StateInvalid, "7 is no key"),  # type: ignore[arg-type]
    "get of a bad key": (get(""), StateInvalid, "is no key"),
    "delete of a bad key": (delete(""), StateInvalid, "is no key"),
    "compare of a bad key": (compare("", 1, 2), StateInvalid, "is no key"),
    "a set": (put("k", {1}), StateInvalid, "is not JSON"),
    "not a number": (put("k", float("nan")), StateInvalid, "is not JSON"),
    "expected is no JSON": (compare("k", {1}, 2), StateInvalid, "is not JSON"),
    "no Unicode": (put("k", "\ud800"), StateInvalid, "no JSON text"),
    "too large": (put("k", "x" * MAX_VALUE), StateInvalid, f"{MAX_VALUE + 2} bytes"),
    "ttl 0": (put("k", 1, 0), StateInvalid, "ttl is 0"),
    "ttl 0 as text": (put("k", 1, "0s"), StateInvalid, "ttl is 0"),
    "ttl is negative": (put("k", 1, -1), StateInvalid, "not a duration"),
    "ttl is endless": (put("k", 1, float("inf")), StateInvalid, "not a duration"),
    "ttl is no time": (put("k", 1, "soon"), StateInvalid, "not a duration"),
    "ttl without a unit": (put("k", 1, "90"), StateInvalid, "say 90s"),
    "ttl is a list": (put("k", 1, [1]), StateInvalid, "ttl"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("work", "error", "message"), BAD.values(), ids=BAD)
async def test_what_cannot_be_kept_changes_nothing(
    tmp_path: Path, work: Work, error: type[Exception], message: str
) -> None:
    async def refused(ctx: Context) -> None:
        with pytest.raises(error, match=message):
            await work(ctx)

    backend = MemoryBackend()
    await results(tmp_path, put("before", 1), refused, backend=backend)
    assert rows(backend) == {"before": b"1"}


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("k", "a hunter2-hunter2 b", False),
        ("hunter2-hunter2", 1, False),
        ("k", {"hunter2-hunter2": 1}, False),
        ("k", "hunter", True),
    ],
    ids=["in a value", "as the key", "in a member", "a part of it"],
)
async def test_secret_is_never_kept(tmp_path: Path, key: str, value: Any, kept: bool) -> None:
    async def tries(ctx: Context) -> bool:
        if kept:
            await ctx.state.set(key, value)
        else:
            with pytest.raises(StateInvalid, match=r"^[^2]+$"):
                await ctx.state.set(key, value)
        return kept

    async with opened(tmp_path, doing(tries)) as kit:
        kit.engine.runtime.redactor.learn("p/password", "hunter2-hunter2")
        assert (await kit.run("t")).result == [kept]


async def test_value_given_is_a_copy(tmp_path: Path) -> None:
    async def spoils(ctx: Context) -> None:
        (await ctx.state.get("k")).append("spoiled")

    assert await results(tmp_path, put("k", [1]), spoils, get("k")) == [None, None, [1]]


# -- how much


def filled(keys: int, value: bytes = b"1", lives: float | None = None, first: int = 0) -> MemoryBackend:
    """A store in which the plan remembers so many keys, ``000`` and on, which live so many seconds from now."""
    backend = MemoryBackend()
    ends = None if lives is None else VirtualClock().wall() + lives
    for number in range(first, first + keys):
        backend.execute("INSERT INTO state VALUES ('p', ?, ?, 0.0, ?)", (f"{number:03}", value, ends))
    return backend


async def is_full(ctx: Context, key: str = "more", value: Any = 1) -> bool:
    try:
        await ctx.state.set(key, value)
    except StateFull:
        return True
    return False


async def test_so_many_keys_and_no_more(tmp_path: Path) -> None:
    works = [put("more", 1), lambda ctx: is_full(ctx, "again"), lambda ctx: is_full(ctx, "000"), delete("001"), is_full]
    found = await results(tmp_path, *works, backend=filled(MAX_KEYS - 1))
    assert found == [None, True, False, True, False]


LARGE = "x" * (MAX_VALUE - 2)
#: So many of them, under keys of three characters, and not one more.
MANY = MAX_BYTES // (MAX_VALUE + 3)


async def test_so_many_bytes_and_no_more(tmp_path: Path) -> None:
    works = [
        lambda ctx: is_full(ctx, "one", LARGE),
        lambda ctx: is_full(ctx, "000"),
        lambda ctx: is_full(ctx, "one", LARGE),
    ]
    found = await results(tmp_path, *works, backend=filled(MANY, encode(LARGE)))
    assert found == [True, False, False]


async def test_what_has_expired_makes_room(tmp_path: Path) -> None:
    backend = filled(MAX_KEYS - 1, lives=60.0)
    found = await results(tmp_path, put("stays", 1), is_full, later(60), is_full, keys(), backend=backend)
    assert found == [None, True, None, False, ["more", "stays"]]
    assert rows(backend) == {"more": b"1", "stays": b"1"}


async def test_compare_and_set_of_what_makes_room(tmp_path: Path) -> None:
    """The row of the key that it compares with is dropped by the unit before its own."""
    backend = filled(MANY, encode(LARGE), lives=60.0)
    backend.execute("INSERT INTO state VALUES ('p', 'k', '1', 0.0, ?)", (VirtualClock().wall() + 60.0,))
    assert await results(tmp_path, later(60), compare("k", None, LARGE), keys(), backend=backend) == [None, True, ["k"]]


# -- many at once


async def many(ctx: Context, count: int, work: Callable[[State, int], Any]) -> list[Any]:
    found: list[Any] = [None] * count

    async def one(index: int) -> None:
        found[index] = await work(ctx.state, index)

    async with anyio.create_task_group() as group:  # its children end by themselves, with their commits
        for index in range(count):
            group.start_soon(one, index)
    return found


async def test_one_of_a_hundred_wins_each_round(tmp_path: Path) -> None:
    async def race(ctx: Context) -> list[int]:
        former: Any = None
        winners = []
        for number in range(5):

            def wins(state: State, index: int, number: int = number, former: Any = former) -> Any:
                return state.compare_and_set("k", former, [number, index])

            won = await many(ctx, 100, wins)
            winners.append(sum(won))
            former = await ctx.state.get("k")
            assert won[former[1]], "it was told that it had lost"
        return winners

    assert await results(tmp_path, race) == [[1] * 5]


async def add_one(state: State, index: int) -> None:
    while True:
        former = await state.get("n")
        if await state.compare_and_set("n", former, (former or 0) + 1):
            return


async def test_a_hundred_items_count_to_a_hundred(tmp_path: Path) -> None:
    async def act(ctx: Context) -> None:
        await add_one(ctx.state, 0)

    made = task("t", step("a", act, loop={"times": 100, "parallelism": 100}), returns="{{ state.n }}")
    async with opened(tmp_path, made) as kit:
        assert (await kit.run("t")).result == 100


async def test_a_hundred_runs_count_to_a_hundred(tmp_path: Path) -> None:
    async def act(ctx: Context) -> None:
        await add_one(ctx.state, 0)

    async with opened(tmp_path, task("t", step("a", act)), lanes={"main": 100}) as kit:
        for _ in range(100):
            await kit.begin_run("t")
        await kit.settle()
        assert rows(kit.backend) == {"n": b"100"}


async def test_one_of_many_deletes(tmp_path: Path) -> None:
    found = await results(tmp_path, put("k", 1), lambda ctx: many(ctx, 20, lambda state, index: state.delete("k")))
    assert sorted(found[1]) == [False] * 19 + [True]


SPINS: dict[str, Callable[[State], Any]] = {
    "get": lambda state: state.get("k"),
    "keys": lambda state: state.keys(),
    "delete": lambda state: state.delete("k"),
    "compare and set": lambda state: state.compare_and_set("k", 1, 2),
}


@pytest.mark.parametrize("call", SPINS.values(), ids=SPINS)
async def test_whoever_asks_again_and_again_can_be_stopped(tmp_path: Path, call: Callable[[State], Any]) -> None:
    asked = 0

    async def act(ctx: Context) -> None:
        nonlocal asked
        while asked < 100_000:  # so that a test that fails ends as well
            await call(ctx.state)
            asked += 1

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await kit.begin_run("t")
        while not asked:
            await turns(1)
        kit.stop(run, Stop.CANCEL)
        assert (await kit.ended(run)).state == "cancelled"
    assert asked < 100


async def test_state_from_threads(tmp_path: Path) -> None:
    def act(ctx: Context) -> Any:
        ctx.from_thread(ctx.state.set, "k", 1)
        return [ctx.from_thread(ctx.state.compare_and_set, "k", 1, 2), ctx.from_thread(ctx.state.get, "k")]

    async with opened(tmp_path, task("t", step("a", act), returns="{{ steps.a.output }}")) as kit:
        assert (await kit.run("t")).result == [True, 2]


async def test_state_is_refused_when_the_attempt_is_over(tmp_path: Path) -> None:
    held: list[State] = []

    async def act(ctx: Context) -> None:
        held.append(ctx.state)

    async with opened(tmp_path, task("t", step("a", act))) as kit:
        await kit.run("t")
        state = held[0]
        for call in (
            state.get("k"),
            state.set("k", 1),
            state.delete("k"),
            state.compare_and_set("k", 1, 2),
            state.keys(),
        ):
            with pytest.raises(ContextClosed):
                await call
        assert rows(kit.backend) == {}


# -- the store


class Picky(FaultyBackend):
    """Loses each unit that writes a value in ``loses``, and that one alone."""

    loses: frozenset[bytes] = frozenset()

    async def commit(self, batch: Sequence[Ticket]) -> None:
        for ticket in batch:
            ticket.unit = self._picking(ticket.unit)
        await super().commit(batch)

    def _picking(self, unit: Unit) -> Unit:
        def picked(execute: Execute) -> None:
            def pick(sql: str, *values: Any) -> Any:
                if sql.startswith("INSERT INTO state") and values[0][2] in self.loses:
                    raise ValueError("lost")
                return execute(sql, *values)

            unit(pick)

        return picked


async def tried(work: Any) -> Any:
    try:
        return await work
    except ValueError as error:
        return str(error)


LOST: dict[str, tuple[Sequence[Work], set[bytes], Sequence[Any], bytes | None]] = {
    "a larger one": ([put("k", "long")], {b'"long"'}, ["lost"], b"0"),
    "one of a new key": ([put("new", 1)], {b"1"}, ["lost"], b"0"),
    "the first of two": ([put("k", 1), put("k", 2)], {b"1"}, ["lost", None], b"2"),
    "the last of two": ([put("k", 1), put("k", 2)], {b"2"}, [None, "lost"], b"1"),
    "both": ([put("k", 1), put("k", 2)], {b"1", b"2"}, ["lost", "lost"], b"0"),
    "what is compared with": ([put("k", 1), compare("k", 1, 2)], {b"1"}, ["lost", False], b"0"),
    "what it was compared with, and it fits all the same": (
        [put("k", 1), compare("k", 0, 2)],
        {b"1"},
        ["lost", True],
        b"2",
    ),
    "a chain of comparisons": (
        [compare("k", 0, 1), compare("k", 1, 2), compare("k", 2, 3)],
        {b"1"},
        ["lost", False, False],
        b"0",
    ),
    "the middle of a chain": (
        [compare("k", 0, 1), compare("k", 1, 2), compare("k", 2, 3)],
        {b"2"},
        [True, "lost", False],
        b"1",
    ),
    "a deletion behind it": ([put("k", 1), delete("k")], {b"1"}, ["lost", True], None),
    "what was there behind a deletion": ([delete("k"), put("k", 1), delete("k")], {b"1"}, [True, "lost", True], None),
    "nothing to delete after all": ([delete("k"), delete("k")], set(), [True, False], None),
}


@pytest.mark.parametrize(("works", "loses", "answers", "left"), LOST.values(), ids=LOST)
async def test_change_that_is_lost(
    tmp_path: Path, works: Sequence[Work], loses: set[bytes], answers: Sequence[Any], left: bytes | None
) -> None:
    """Memory is what is on record, whatever was handed over behind a change that was lost."""
    backend = Picky()
    found: dict[int, Any] = {}

    async def act(ctx: Context) -> Any:
        await ctx.state.set("k", 0)
        backend.loses = frozenset(loses)
        backend.gate = anyio.Event()
        async with anyio.create_task_group() as group:  # its children end when the gate is open
            for index, work in enumerate(works):

                async def one(index: int = index, work: Work = work) -> None:
                    found[index] = await tried(work(ctx))

                group.start_soon(one)
            await turns(5)
            gate, backend.gate = backend.gate, None
            gate.set()
        return await ctx.state.get("k")

    faults = sum(answer == "lost" for answer in answers)
    async with opened(
        tmp_path, task("t", step("a", act), returns="{{ steps.a.output }}"), backend=backend, faults=faults
    ) as kit:
        run = await kit.run("t")
        assert [found[index] for index in range(len(works))] == list(answers)
        assert rows(backend).get("k") == left
        assert run.result == (None if left is None else int(left))
        state = kit.engine.runtime.plan_states.of("p")
        assert (state._count, state._bytes) == (len(rows(backend)), sum(len(v) + 1 for v in rows(backend).values()))
        assert not state._pending


async def test_nobody_sees_what_is_not_on_record(tmp_path: Path) -> None:
    backend = FaultyBackend()
    seen: list[Any] = []

    async def act(ctx: Context) -> None:
        await ctx.state.set("k", 1)

    async with opened(tmp_path, task("t", step("a", act)), backend=backend) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.live and run.live["a"].edge._task)
        backend.gate = anyio.Event()
        await turns(20)
        seen.append(kit.engine.runtime.plan_states.of("p").get("k"))
        backend.gate.set()
        backend.gate = None
        await kit.ended(run)
        seen.append(kit.engine.runtime.plan_states.of("p").get("k"))
    assert seen == [None, b"1"]


async def test_change_waits_while_the_disk_is_full(tmp_path: Path) -> None:
    backend = FaultyBackend()

    async def act(ctx: Context) -> None:
        backend.error, backend.failing = StoreReadOnly("full"), 5
        await ctx.state.set("k", 1)

    async with opened(tmp_path, task("t", step("a", act)), backend=backend) as kit:
        assert (await kit.run("t")).state == "succeeded"
    assert rows(backend) == {"k": b"1"}


async def test_state_lasts_over_a_crash(tmp_path: Path) -> None:
    reads = task("reads", step("b", lambda: None), returns=["{{ state.k }}", "{{ state.short }}", "{{ state.gone }}"])
    writes = doing(put("k", [1]), put("short", 2, 100), put("gone", 3, 5), later(6))
    async with opened(tmp_path, writes, reads) as kit:
        await kit.run("t")
        left = copy_of(kit.backend)  # type: ignore[arg-type]
        async with opened(tmp_path / "again", writes, reads, backend=left) as again:
            assert (await again.run("reads")).result == [[1], 2, None]
            assert rows(left).keys() == {"k", "short"}


# -- the event


async def test_each_change_is_told(tmp_path: Path) -> None:
    backend = MemoryBackend()
    works = [put("k", "value"), compare("k", 1, 2), compare("k", "value", 3), delete("k"), delete("k"), get("k")]
    await results(tmp_path, *works, backend=backend)
    told = backend.execute("SELECT name, payload, plan_name, task_name, step FROM event WHERE name LIKE 'state.%'")
    expected = [
        ("state.changed", b'{"plan_name":"p","key":"k","exists":%b}' % exists, "p", "t", "a")
        for exists in (b"true", b"true", b"false")
    ]
    assert told.fetchall() == expected
