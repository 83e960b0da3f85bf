"""What goes on while the power may fail: runs of every kind, and clients that note down what they were told.

Each fact is noted at the moment from which on it may not be lost: an answer that a client has got, a body that has
begun, a value that was put by. ``missing`` looks for it in a database.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import anyio
from tests.engine.kit import Opened, opened, step, task, until
from tests.power.connection import PowerBackend
from tests.power.disk import Disk

from aura.context import Context
from aura.errors import RequestError, StoreError, StoreIOError, StoreReadOnly, WaitFor
from aura.run import Cause, Request
from aura.store import Execute, StoreBackend
from aura.wait import Wait, WaitKind

#: What the clients ask for, by the task's name.
ASKED = ("chain", "loops", "waits", "hangs", "keeps", "fails")
DOOR = "door.open"


class Asked(NamedTuple):
    """A client is about to ask for a run, with this label."""

    label: str


class Accepted(NamedTuple):
    """A client was told that this run is accepted."""

    cid: str
    label: str


class Refused(NamedTuple):
    """A client was told that nothing is stored of what it asked for."""

    label: str


class Ended(NamedTuple):
    """A client was told that this run has ended, and how."""

    cid: str
    state: str


class Emitted(NamedTuple):
    """A client was told that this event is stored."""

    id: int


class Began(NamedTuple):
    """The body of a step has begun."""

    cid: str
    step: str


class Kept(NamedTuple):
    """A body was told that this state of its plan is stored."""

    key: str
    value: int


Fact = Asked | Accepted | Refused | Ended | Emitted | Began | Kept
Note = Callable[[Fact], object]


def tasks(note: Note) -> list[Any]:
    """The plan, whose bodies note what they know to be stored."""

    def body(name: str, act: Callable[[Context], Any] | None = None, seconds: float = 0.2) -> Any:
        async def action(ctx: Context) -> Any:
            note(Began(ctx.cid, name))
            await anyio.sleep(seconds)
            return await act(ctx) if act else "x" * 300

        return step(name, action)

    async def keep(ctx: Context) -> None:
        for value in range(3):
            await ctx.checkpoint({"value": value})
            await ctx.state.set(ctx.cid, value)
            note(Kept(ctx.cid, value))

    async def fail(_: Context) -> None:
        raise OSError("no")

    async def hear() -> None:
        raise WaitFor(Wait(WaitKind.EVENT, None, pattern=DOOR))

    async def item(ctx: Context) -> int:
        note(Began(ctx.cid, "items"))
        return 1

    def behind(made: tuple[Any, Any], name: str) -> Any:
        return step(made[0].name, made[1], (name,))

    return [
        task("chain", body("a"), behind(body("b"), "a"), behind(body("c"), "b"), returns="{{ steps.c.output }}"),
        task("loops", step("items", item, loop={"for_each": [1, 2, 3]})),
        task("waits", body("first"), step("heard", hear, ("first",)), behind(body("last"), "heard")),
        task("hangs", body("long", seconds=3600.0), finally_=[body("tidy")]),
        task("keeps", body("puts", keep)),
        task("fails", body("bad", fail), on_failure=[body("sorry")]),
    ]


class Clients:
    """They ask for runs, each alone, and note what they are told."""

    def __init__(self, kit: Opened, note: Note, random: Random) -> None:
        self.kit = kit
        self.note = note
        self.random = random
        self.refused: list[Exception] = []
        self.ended = 0

    async def ask(self, number: int) -> None:
        label = str(number)
        task_name = ASKED[number % len(ASKED)]
        await anyio.sleep(self.random.random() * 3)
        self.note(Asked(label))
        try:
            accepted = await self.kit.engine.submit(Request("p", task_name, labels={"n": label}), Cause("api"))
        except (RequestError, StoreReadOnly) as error:
            self.refused.append(error)
            self.note(Refused(label))
        else:
            self.note(Accepted(accepted.cid, label))
            try:
                await self.follow(task_name, accepted.cid)
            except (RequestError, StoreError) as error:
                self.refused.append(error)
        self.ended += 1

    async def follow(self, task_name: str, cid: str) -> None:
        if task_name == "hangs":
            await anyio.sleep(self.random.random())
            await self.kit.engine.cancel(cid, "asked")
        if task_name == "waits":
            await anyio.sleep(1.0)
            receipt = await self.kit.engine.emit(DOOR, {"n": cid})
            self.note(Emitted(int(receipt.event_id)))
        self.note(Ended(cid, (await self.kit.engine.history.wait_run(cid)).state))


class Told(NamedTuple):
    """How a story went: the server's exit codes, what clients were refused, and when the last of them had ended."""

    codes: list[int]
    refused: list[Exception]
    ended_at: float


async def tell(folder: Path, backend: StoreBackend, note: Note, random: Random, runs: int) -> Told:
    """Have so many runs asked for, and end in order."""
    told: list[Told] = []
    try:
        async with opened(folder, *tasks(note), backend=backend, lanes={"main": 4}) as kit:
            told.append(await _ask_for_all(kit, Clients(kit, note, random), runs))
    except AssertionError:  # of engine faults: those of a process that would be gone are none
        if not told or not told[0].codes:
            raise
    return told[0]


async def _ask_for_all(kit: Opened, clients: Clients, runs: int) -> Told:
    # the clients; each ends when its run has; all are cancelled when the server says that its storage is lost
    async with anyio.create_task_group() as group:
        for number in range(runs):
            group.start_soon(clients.ask, number)
        group.start_soon(_watch, kit, group.cancel_scope, clients, runs)
    told = Told(kit.left, clients.refused, anyio.current_time())
    if kit.left:  # a real process would be gone: nobody may wait for what it would have written
        assert not kit.engine.runtime.faults
        kit.engine.runtime.store.fail_all(StoreIOError("the process has ended"))
    return told


async def _watch(kit: Opened, scope: anyio.CancelScope, clients: Clients, runs: int) -> None:
    """End when all clients have and what was held back is written, or end them."""
    store = kit.engine.runtime.store
    await until(lambda: kit.left or (clients.ended == runs and not store.blocked))
    scope.cancel("the storage is lost" if kit.left else "all have ended")


async def record(folder: Path, seed: int, runs: int, **how: Any) -> Disk:
    """Play the story on a disk that remembers. ``how``: ``honest``, ``synchronous``."""
    disk = Disk(honest=how.pop("honest", True))
    (folder / "disk").mkdir()
    backend = PowerBackend(folder / "disk/aura.db", disk, **how)
    await tell(folder, backend, disk.mark, Random(seed), runs)
    return disk


# -- looking for what was told ----------------------------------------------------------------------------------------

_FINAL = frozenset({"succeeded", "failed", "cancelled", "timed_out", "crashed"})


def missing(execute: Execute, facts: list[Fact]) -> Iterator[Fact]:
    """The facts that a database knows nothing of, and runs that nobody had asked for."""
    runs = dict(execute("SELECT cid, state FROM run").fetchall())
    begun = set(execute("SELECT cid, name FROM step JOIN run USING (seq) WHERE starts > 0").fetchall())
    events = {id for (id,) in execute("SELECT id FROM event")}
    kept = {key: int(value) for key, value in execute("SELECT key, value FROM state")}
    yield from (fact for fact in facts if not _known(fact, runs, begun, events, kept))
    asked = {fact.label for fact in facts if isinstance(fact, Asked)}
    asked -= {fact.label for fact in facts if isinstance(fact, Refused)}
    for (label,) in execute("SELECT json_extract(labels, '$.n') FROM run").fetchall():
        if label not in asked:
            yield Asked(label)


def _known(
    fact: Fact, runs: dict[str, str], begun: set[tuple[str, str]], events: set[int], kept: dict[str, int]
) -> bool:
    match fact:
        case Asked() | Refused():  # held against the runs below
            return True
        case Accepted(cid, _):
            return cid in runs
        case Ended(cid, state):
            return runs.get(cid) == state and state in _FINAL
        case Emitted(id):
            return id in events
        case Began(cid, name):
            return (cid, name) in begun
        case Kept(key, value):
            return kept.get(key, -1) >= value
