"""The bound on what is on its way to the store."""

import asyncio

import anyio
import anyio.lowlevel

from aura.room import Pace, Room


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


async def test_full_room_lets_nobody_in_until_a_place_comes_back() -> None:
    room = Room(2, 100)
    assert [room.take_nowait() for _ in range(3)] == [True, True, False]
    room.give_back()
    assert (room.take_nowait(), room.taken) == (True, 2)


async def test_bytes_fill_it_as_well() -> None:
    room = Room(100, 10)
    assert room.take_nowait()
    room.add(10)
    assert not room.take_nowait()
    room.give_back(10)
    assert room.take_nowait()


async def test_who_waits_gets_a_place_in_turn_and_nobody_goes_first() -> None:
    room = Room(1, 100)
    assert room.take_nowait()
    got: list[int] = []

    async def wants(number: int) -> None:
        await room.take()
        got.append(number)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(wants, number)
                await turns()
            room.give_back()
            assert not room.take_nowait()  # the place is the first one's, who has not run yet
            await turns()
            assert got == [0]
            for _ in range(2):
                room.give_back()
                await turns()
    assert got == [0, 1, 2]
    assert room.taken == 1


async def test_waiter_that_is_cancelled_takes_no_place() -> None:
    room = Room(1, 100)
    assert room.take_nowait()
    async with anyio.create_task_group() as group:
        group.start_soon(room.take)
        await turns()
        group.cancel_scope.cancel()
    room.give_back()
    assert (room.taken, room.take_nowait()) == (0, True)


async def test_place_that_was_handed_to_a_cancelled_waiter_is_handed_on() -> None:
    room = Room(1, 100)
    assert room.take_nowait()
    first, second = asyncio.create_task(room.take()), asyncio.create_task(room.take())
    await turns()
    room.give_back()
    first.cancel()  # anyio would not: it has its place already, and only has not run yet
    await asyncio.wait([first, second], timeout=5)
    assert (first.cancelled(), second.done(), room.taken) == (True, True, 1)


async def test_cancel_in_the_turn_before_a_place_comes_back_loses_none() -> None:
    room = Room(1, 100)
    assert room.take_nowait()
    async with anyio.create_task_group() as group:
        group.start_soon(room.take)
        await turns()
        group.cancel_scope.cancel()
        room.give_back()  # before the cancelled one has run
    assert (room.taken, room.take_nowait()) == (0, True)


async def test_pace_lets_everybody_do_what_takes_no_time() -> None:
    pace = Pace(0.01)
    before = asyncio.get_running_loop().time()
    for _ in range(1000):
        await pace.turn()
        pace.note(0.0)
    assert asyncio.get_running_loop().time() - before < 5


async def test_pace_spreads_what_takes_long_over_turns_in_order() -> None:
    pace, done, most = Pace(0.01), list[int](), list[int]()

    async def wants(number: int) -> None:
        await pace.turn()
        done.append(number)
        pace.note(0.005)

    with anyio.fail_after(5):
        # 100 who want something; each ends by itself, and one who counts the turns
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(wants, number)
            while len(done) < 100:
                before = len(done)
                await anyio.lowlevel.checkpoint()
                most.append(len(done) - before)
    assert done == sorted(done)
    assert max(most) < 30  # until it knows what they take, then two or three


async def test_who_is_cancelled_while_it_waits_for_its_turn_is_passed_over() -> None:
    pace, done = Pace(0.01), list[int]()
    pace.note(1.0)

    async def wants(number: int) -> None:
        await pace.turn()
        done.append(number)

    with anyio.fail_after(5):
        # both wait; the first is cancelled, the second ends by itself
        async with anyio.create_task_group() as group, anyio.create_task_group() as first:
            first.start_soon(wants, 1)
            await asyncio.sleep(0)
            group.start_soon(wants, 2)
            await asyncio.sleep(0)
            first.cancel_scope.cancel()
    assert done[-1] == 2
    await pace.turn()
