"""The journal: order, gaps, staged events, rings of single runs."""

import itertools
import time
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from aura.clock import SystemClock
from aura.events import BOOT_SHIFT, Entry
from aura.journal import BATCH_BYTES, WOKEN_AT_ONCE, Gap, Journal, Reader

BOOT = 3
BASE = BOOT << BOOT_SHIFT
ALL = ("log", "event")


def make(ring: int = 100, ring_bytes: int = 10**9) -> Journal:
    return Journal(BOOT, SystemClock(), ring=ring, ring_bytes=ring_bytes)


def numbers(reader: Reader) -> list[int]:
    return [entry.id - BASE for entry in reader.take().entries]


def test_ids_count_up_from_the_boot_number() -> None:
    journal = make()
    assert [journal.log("info", "a").id, journal.stage("run.started").id] == [BASE + 1, BASE + 2]
    assert (journal.head, journal.tail) == (BASE + 3, BASE + 1)


def test_reader_gets_what_comes_after_it_was_opened() -> None:
    journal = make()
    journal.log("info", "before")
    reader = journal.subscribe(ALL)
    journal.log("info", "after")
    assert numbers(reader) == [2]
    assert numbers(reader) == []


@pytest.mark.parametrize(
    ("after", "seen"),
    [
        pytest.param(BASE + 2, [3, 4], id="in the ring"),
        pytest.param(BASE + 4, [], id="the newest"),
        pytest.param(BASE, [1, 2, 3, 4], id="just before the first"),
        pytest.param(BASE - 5, [1, 2, 3, 4], id="of an older boot"),
        pytest.param(BASE + 99, [], id="not given out yet"),
    ],
)
def test_subscribe_after_an_id_begins_behind_it(after: int, seen: list[int]) -> None:
    journal = make()
    for _ in range(4):
        journal.log("info", "x")
    assert numbers(journal.subscribe(ALL, after=after)) == seen


@pytest.mark.parametrize(
    ("kinds", "match", "seen"),
    [
        pytest.param(("log",), None, [1, 3], id="one kind"),
        pytest.param(("event",), None, [2], id="the other kind"),
        pytest.param(ALL, lambda e: e.cid == "a", [2, 3], id="all kinds that match"),
        pytest.param(("log",), lambda e: e.cid == "a", [3], id="one kind that matches"),
    ],
)
def test_reader_filters(kinds: tuple[str, ...], match: Callable[[Entry], bool] | None, seen: list[int]) -> None:
    journal = make()
    reader = journal.subscribe(kinds, match)
    journal.log("info", "x", cid="b")
    journal.settle([journal.stage("run.started", cid="a")], committed=True)
    journal.log("info", "x", cid="a")
    assert numbers(reader) == seen


def test_staged_event_holds_back_what_follows_until_it_is_committed() -> None:
    journal = make()
    reader = journal.subscribe(ALL)
    staged = journal.stage("run.started")
    journal.log("info", "behind it")
    assert numbers(reader) == []
    journal.settle([staged], committed=True)
    assert numbers(reader) == [1, 2]


def test_event_of_a_failed_unit_is_never_seen() -> None:
    journal = make()
    reader = journal.subscribe(ALL)
    staged = journal.stage("run.started")
    journal.log("info", "behind it")
    journal.settle([staged], committed=False)
    assert numbers(reader) == [2]


def test_events_settled_out_of_order_are_shown_in_order() -> None:
    journal = make()
    reader = journal.subscribe(ALL)
    first, second = journal.stage("run.started"), journal.stage("run.succeeded")
    journal.settle([second], committed=True)
    assert numbers(reader) == []
    journal.settle([first], committed=True)
    assert numbers(reader) == [1, 2]


def test_reader_that_fell_behind_gets_one_gap() -> None:
    journal = make(ring=10)
    reader = journal.subscribe(ALL)
    for _ in range(25):
        journal.log("info", "x")
    batch = reader.take()
    assert batch.gap == Gap(BASE + 1, BASE + 15)
    assert [entry.id - BASE for entry in batch.entries] == list(range(16, 26))
    assert reader.take() == (None, [])


def test_ring_is_bounded_in_bytes() -> None:
    journal = make(ring=1000, ring_bytes=100_000)
    reader = journal.subscribe(ALL)
    for _ in range(50):
        journal.log("info", "x" * 10_000)
    batch = reader.take()
    assert batch.gap is not None
    assert 1 <= len(batch.entries) <= 5


def test_staged_event_pushed_out_of_the_ring_stays_hidden_and_blocks_nothing() -> None:
    journal = make(ring=5)
    reader = journal.subscribe(ALL)
    staged = journal.stage("run.started")
    for _ in range(5):
        journal.log("info", "x")
    assert reader.take().gap == Gap(BASE + 1, BASE + 1)
    journal.settle([staged], committed=True)
    journal.log("info", "x")
    assert numbers(reader) == [7]


def test_batch_is_bounded_in_bytes() -> None:
    journal = make()
    reader = journal.subscribe(ALL)
    for _ in range(80):
        journal.log("info", "x" * 60_000)
    taken = 0
    while entries := reader.take().entries:
        assert sum(entry.size for entry in entries) < 2 * BATCH_BYTES
        taken += len(entries)
    assert taken == 80


def test_frame_has_id_and_data_and_is_encoded_once() -> None:
    journal = make()
    entry = journal.log("info", "a\n\nevent: admin\ndata: x", fields={"k": "\r\n"})
    frame = entry.frame
    assert frame.startswith(b'id: %d\ndata: {"kind":"log"' % entry.id)
    assert frame.count(b"\n") == 3
    assert b"\r" not in frame
    assert entry.frame is frame


def test_publishing_without_a_reader_encodes_nothing() -> None:
    assert make().log("info", "x").kept_frame is None


async def test_wait_returns_when_something_is_published() -> None:
    journal = make()
    reader = journal.subscribe(ALL)
    async with anyio.create_task_group() as group:  # the waiter, which ends by itself
        group.start_soon(reader.wait)
        await anyio.wait_all_tasks_blocked()
        journal.log("info", "x")
    assert numbers(reader) == [1]


async def test_wait_returns_when_the_reader_is_closed() -> None:
    journal = make()
    reader = journal.subscribe(ALL)
    async with anyio.create_task_group() as group:  # the waiter, which ends by itself
        group.start_soon(reader.wait)
        await anyio.wait_all_tasks_blocked()
        reader.close()
    assert journal.readers == 0


async def wait_all(readers: list[Reader], woken: list[int]) -> None:
    """Let every reader wait until it has something, and note the order in which they have."""

    async def wait(number: int) -> None:
        await readers[number].wait()
        woken.append(number)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:  # the readers, each until something comes or it is closed
            for number in range(len(readers)):
                group.start_soon(wait, number)


async def test_few_readers_are_woken_in_a_turn_and_all_in_order() -> None:
    journal, woken = make(), list[int]()
    readers = [journal.subscribe(ALL) for _ in range(5 * WOKEN_AT_ONCE)]
    steps = []
    async with anyio.create_task_group() as group:  # the waiting, which ends once all have been woken
        group.start_soon(wait_all, readers, woken)
        await anyio.wait_all_tasks_blocked()
        journal.log("info", "x")
        assert woken == []
        while len(woken) < len(readers):
            steps.append(len(woken))
            await anyio.lowlevel.cancel_shielded_checkpoint()
    assert max(after - before for before, after in itertools.pairwise(steps)) <= WOKEN_AT_ONCE
    assert woken == list(range(len(readers)))


async def test_readers_that_wait_again_get_no_turn_beside_the_others() -> None:
    journal, turns = make(), [0]

    async def follow(reader: Reader) -> None:
        while True:
            await reader.wait()
            reader.take()
            turns[-1] += 1

    async with anyio.create_task_group() as group:  # the readers; cancelled once they have been watched for a while
        for _ in range(5 * WOKEN_AT_ONCE):
            group.start_soon(follow, journal.subscribe(ALL))
        await anyio.wait_all_tasks_blocked()
        for _ in range(12):
            journal.log("info", "x")
            turns.append(0)
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert 0 < max(turns) <= 2 * WOKEN_AT_ONCE  # twice, where a turn of this test has two of the readers' in it


async def test_reader_that_is_closed_wakes_no_other() -> None:
    journal, woken = make(), list[int]()
    readers = [journal.subscribe(ALL) for _ in range(3)]
    async with anyio.create_task_group() as group:  # the waiting, which ends once all have been closed
        group.start_soon(wait_all, readers, woken)
        for number in (1, 0, 2):
            await anyio.wait_all_tasks_blocked()
            waiters = set(journal._ring._waiting)
            readers[number].close()
            await anyio.wait_all_tasks_blocked()
            assert len(waiters - set(journal._ring._waiting)) == 1
    assert woken == [1, 0, 2]


async def test_wait_that_was_cancelled_leaves_nothing_behind() -> None:
    journal = make()
    reader = journal.subscribe(ALL)
    for _ in range(10):
        with anyio.move_on_after(0):
            await reader.wait()
    assert not journal._ring._waiting
    journal.log("info", "x")
    await reader.wait()


async def test_wait_that_is_cancelled_while_its_turn_comes_loses_nothing() -> None:
    journal = make()
    readers = [journal.subscribe(ALL) for _ in range(3 * WOKEN_AT_ONCE)]
    async with anyio.create_task_group() as group:  # readers that wait; cancelled at once after the line
        for reader in readers:
            group.start_soon(reader.wait)
        await anyio.wait_all_tasks_blocked()
        journal.log("info", "x")
        group.cancel_scope.cancel()
    assert [numbers(reader) for reader in readers] == [[1]] * len(readers)
    journal.log("info", "y")
    await readers[-1].wait()


async def test_wait_goes_on_while_an_event_is_only_staged() -> None:
    journal = make()
    reader = journal.subscribe(ALL)
    journal.stage("run.started")
    with anyio.move_on_after(0.01) as scope:
        await reader.wait()
    assert scope.cancelled_caught


# -- one run ----------------------------------------------------------------------------------------------------------


def test_watch_run_gives_that_run_alone() -> None:
    journal = make()
    reader = journal.watch_run("a")
    journal.log("info", "x", cid="a")
    journal.log("info", "x", cid="b")
    journal.settle([journal.stage("run.started", cid="a")], committed=True)
    assert numbers(reader) == [1, 3]


def test_watch_run_begins_with_what_is_still_staged() -> None:
    journal = make()
    journal.settle([journal.stage("run.accepted", cid="a")], committed=True)
    staged = journal.stage("run.started", cid="a")
    journal.log("info", "behind it", cid="a")
    reader = journal.watch_run("a")
    assert reader.start == staged.id
    journal.settle([staged], committed=True)
    assert numbers(reader) == [2, 3]


def test_second_watcher_of_a_run_gets_everything_from_its_start() -> None:
    journal = make()
    first = journal.watch_run("a")
    journal.log("info", "x", cid="a")
    held = journal.stage("run.started", cid="other")
    journal.log("info", "held back in the big ring, shown in the run's own", cid="a")
    second = journal.watch_run("a")
    assert second.start == held.id
    assert (numbers(first), numbers(second)) == ([1, 3], [3])


def test_ring_of_a_run_goes_with_its_last_reader() -> None:
    journal = make()
    first, second = journal.watch_run("a"), journal.watch_run("a")
    first.close()
    first.close()
    assert journal.readers == 1
    second.close()
    assert journal.readers == 0
    assert not journal._runs


def test_watcher_that_fell_behind_gets_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.journal.RUN_RING", 3)
    journal = make()
    reader = journal.watch_run("a")
    for cid in "abababababa":
        journal.log("info", "x", cid=cid)
    batch = reader.take()
    assert batch.gap == Gap(BASE + 1, BASE + 5)
    assert [entry.id - BASE for entry in batch.entries] == [7, 9, 11]


async def test_ten_readers_get_400000_entries_a_second() -> None:
    """Counted in processor time, since a test machine may be busy with other things; and then given half."""
    journal = Journal(BOOT, SystemClock())
    readers = [journal.subscribe(("log",)) for _ in range(10)]
    began = time.process_time()
    delivered = 0
    for _ in range(20):
        for _ in range(1000):
            journal.log("info", "hello", cid="c", plan_name="p", task_name="t", step="s")
        for reader in readers:
            batch = reader.take()
            assert batch.frames()
            delivered += len(batch.entries)
    assert delivered == 200_000
    assert delivered / (time.process_time() - began) > 200_000
