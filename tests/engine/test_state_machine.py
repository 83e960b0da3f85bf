"""State against chance, over both stores: whatever is set, deleted and compared, in whatever order, crash or no crash.

Hypothesis makes up the order of rules: changes by several clients, one after the other or at once, time, a store that
hangs, a stop in good order, a crash that leaves what is committed. The model is a dictionary of what each key may be:
what was answered is so, what was not answered before a crash may be so. Nothing acknowledged is lost, and nothing that
has expired is seen.

With ``MACHINE_EXAMPLES=1000`` in the environment it tells that many stories, made up anew each time (CONTRIBUTING.md).
"""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from tests.engine.kit import Opened, opened, quiet, step, task
from tests.language.doing import Memory, Sqlite, StoreKind

from aura.context import Context
from aura.records.state import read_states
from aura.runs.keepable import is_same
from aura.store import StoreBackend
from aura.testing.virtual_time import BEGINNING, START, VirtualLoop

EXAMPLES = os.environ.get("MACHINE_EXAMPLES")
KEYS = st.sampled_from(["a", "b", "odd key"])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(0, 3), st.sampled_from(["", "x", [1], {"n": 1}, 1.0]))
TTLS = st.sampled_from([None, None, None, 3.0, 10.0])

#: What a key is: nothing, or (value, when it expires or None).
Known = tuple[Any, float | None] | None
#: What a client asks of the state: name of the method, key and what else it is given.
Asked = tuple[str, str, tuple[Any, ...]]


class World:
    """One start of the engine, with a run whose step does what clients ask for."""

    def __init__(self, backend: StoreBackend, clients: int = 4) -> None:
        self.backend = backend
        self.opened = asyncio.Event()
        self.closing = asyncio.Event()
        self.kit: Opened
        self.ctx: Context

    async def serve(self, folder: Path) -> None:
        """Be there until told to close."""

        async def act(ctx: Context) -> None:
            self.ctx = ctx
            self.opened.set()
            await anyio.sleep_forever()

        async with opened(folder, task("t", step("a", act)), backend=self.backend) as self.kit:
            await self.kit.begin_run("t")
            await self.closing.wait()


class StateMachine(RuleBasedStateMachine):
    """What clients were told, and what they may therefore expect."""

    kind: StoreKind

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        #: What callbacks of the loop have raised: it tells nobody else.
        self.raised: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _loop, context: self.raised.append(context))
        self.folder = tempfile.TemporaryDirectory()
        self.store = self.kind(Path(self.folder.name))
        #: key → what it may be, by what was answered; more than one if a crash came before an answer.
        self.may_be: dict[str, list[Known]] = {}
        self.world = self.open(self.store.backend)

    # -- driving

    def do(self, work: Any) -> Any:
        """Let the loop run until this is done."""
        return self.loop.run_until_complete(work)

    def open(self, backend: StoreBackend) -> World:
        world = World(backend)
        self.served = self.loop.create_task(world.serve(Path(self.folder.name)))

        async def wait_open() -> None:
            with anyio.fail_after(60):
                await world.opened.wait()
            await quiet()

        self.do(wait_open())
        return world

    def close(self) -> None:
        self.world.closing.set()
        self.do(self.served)

    @property
    def now(self) -> float:
        """The wall time, as the world's clock has it."""
        return BEGINNING - START + self.loop.time()

    def possible(self, key: str) -> list[Known]:
        """What a key may be now: what has expired is nothing."""
        found = [
            None if one and one[1] is not None and one[1] <= self.now else one for one in self.may_be.get(key, [None])
        ]
        return [one for index, one in enumerate(found) if one not in found[:index]]

    # -- what a change makes of what is known

    def change(self, asked: Asked, known: Known) -> tuple[Any, Known]:
        """The answer to what is asked, and what the key is then."""
        method, _, given = asked
        value = known[0] if known else None
        match method:
            case "get":
                return (known[0] if known else given[0]), known
            case "set":
                return None, self.made(given[0], given[1])
            case "delete":
                return known is not None, None
            case _:
                won = is_same(given[0], value)
                return won, self.made(given[1], given[2]) if won else known

    def made(self, value: Any, ttl: float | None) -> Known:
        return value, None if ttl is None else self.now + ttl

    async def ask(self, asked: Asked) -> Any:
        method, key, given = asked
        return await getattr(self.world.ctx.state, method)(key, *given)

    def expect(self, asked: Asked, answer: Any) -> None:
        """An answer has to be one of those that what is known allows; what it rules out is not so."""
        key = asked[1]
        fits = [
            then for said, then in (self.change(asked, known) for known in self.possible(key)) if is_same(said, answer)
        ]
        assert fits, (asked, answer, self.possible(key))
        self.may_be[key] = fits

    # -- what may happen

    @rule(key=KEYS, default=VALUES)
    def get(self, key: str, default: Any) -> None:
        asked = ("get", key, (default,))
        self.expect(asked, self.do(self.ask(asked)))

    @rule(key=KEYS, value=VALUES, ttl=TTLS)
    def set(self, key: str, value: Any, ttl: float | None) -> None:
        asked = ("set", key, (value, ttl))
        self.expect(asked, self.do(self.ask(asked)))

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        asked = ("delete", key, ())
        self.expect(asked, self.do(self.ask(asked)))

    @rule(key=KEYS, expected=VALUES, value=VALUES, ttl=TTLS)
    def compare_and_set(self, key: str, expected: Any, value: Any, ttl: float | None) -> None:
        asked = ("compare_and_set", key, (expected, value, ttl))
        self.expect(asked, self.do(self.ask(asked)))

    CHANGES = st.one_of(
        st.tuples(st.just("set"), KEYS, st.tuples(VALUES, TTLS)),
        st.tuples(st.just("delete"), KEYS, st.tuples()),
        st.tuples(st.just("compare_and_set"), KEYS, st.tuples(VALUES, VALUES, TTLS)),
    )

    @rule(asked=st.lists(CHANGES, min_size=2, max_size=5))
    def many_at_once(self, asked: list[Asked]) -> None:
        """Changes of one turn count in the order in which they were asked for."""

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*map(self.ask, asked))

        for one, answer in zip(asked, self.do(all_of_them()), strict=True):
            self.expect(one, answer)

    @rule(asked=st.lists(CHANGES, max_size=4), after=st.integers(0, 6))
    def crash(self, asked: list[Asked], after: int) -> None:
        """Changes are asked for, some turns pass, and the process is gone; only those that were answered must be so."""
        answered: dict[int, Any] = {}

        async def one(index: int) -> None:
            answered[index] = await self.ask(asked[index])

        clients = [self.loop.create_task(one(index)) for index in range(len(asked))]

        async def some_turns() -> None:
            for _ in range(after):
                await asyncio.sleep(0)

        self.do(some_turns())
        told = dict(answered)
        left = self.store.left()
        self.close()  # the clients of what is gone: nothing that they are told any more counts
        for client in clients:
            client.cancel()
        self.do(ended(clients))
        for index, change in enumerate(asked):
            if index in told:
                self.expect(change, told[index])
            else:
                self.may_have_been(change)
        self.world = self.open(left)

    def may_have_been(self, asked: Asked) -> None:
        key = asked[1]
        possible = self.possible(key)
        self.may_be[key] = possible + [self.change(asked, known)[1] for known in possible]

    @rule()
    def restart(self) -> None:
        self.close()
        self.world = self.open(self.store.again())

    @rule(seconds=st.sampled_from([0.5, 3.0, 7.0, 20.0]))
    def time(self, seconds: float) -> None:
        self.do(self.world.kit.advance(seconds))

    # -- what must be so

    @invariant()
    def nothing_is_seen_but_what_is_known(self) -> None:
        seen, keys = self.do(self.look())
        assert sorted(seen) == keys
        for key in ("a", "b", "odd key"):
            found = [seen[key]] if key in seen else None
            assert any(is_same(found, one and [one[0]]) for one in self.possible(key)), (key, found)

    async def look(self) -> tuple[dict[str, Any], list[str]]:
        """What an expression sees, and what an action does."""
        scope = self.world.kit.engine.runtime.plan_states.of("p").scope
        return {key: scope[key] for key in ("a", "b", "odd key") if key in scope}, await self.world.ctx.state.keys()

    @invariant()
    def memory_is_what_is_on_record(self) -> None:
        state = self.world.kit.engine.runtime.plan_states.of("p")
        rows = {row[1]: (row[2], row[3]) for row in self.do(self.world.backend.read(read_states))}
        assert rows == state._shown
        assert state._count == len(rows)
        assert state._bytes == sum(len(key.encode()) + len(value) for key, (value, _) in rows.items())
        assert not state._pending

    @invariant()
    def no_callback_has_failed(self) -> None:
        assert not self.raised

    def teardown(self) -> None:
        self.close()
        self.loop.close()
        self.folder.cleanup()


async def ended(clients: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*clients, return_exceptions=True)


@pytest.mark.parametrize("kind", [Memory, Sqlite], ids=["memory", "sqlite"])
def test_state_is_what_was_answered_whatever_happens(kind: StoreKind) -> None:
    class OverStore(StateMachine):
        pass

    OverStore.kind = kind
    chosen = settings(
        max_examples=int(EXAMPLES or 12),
        stateful_step_count=20,
        derandomize=EXAMPLES is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(OverStore, settings=chosen)
