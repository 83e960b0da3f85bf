"""The thread that commits run in: one after the other, its errors come back, and it is gone at the end."""

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest

from aura.stores.onethread import OneThread


async def called(thread: OneThread, function: Any, *args: Any) -> Any:
    return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(thread, function, *args), 10)


def alive(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


async def test_all_is_done_in_one_daemon_thread_in_order() -> None:
    one, done = OneThread("in order"), list[tuple[int, threading.Thread]]()
    assert alive("in order") == []
    await asyncio.gather(*(called(one, lambda n=n: done.append((n, threading.current_thread()))) for n in range(20)))
    (thread,) = alive("in order")
    assert done == [(n, thread) for n in range(20)]
    assert thread.daemon
    one.shutdown()
    assert alive("in order") == []


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), GeneratorExit()], ids=repr)
async def test_what_is_raised_comes_back_and_the_thread_goes_on(error: BaseException) -> None:
    def fails() -> None:
        raise error

    one = OneThread("raising")
    try:
        future = one.submit(fails)
        with pytest.raises(type(error)):
            future.result(10)
        assert await called(one, sum, [1, 2]) == 3
    finally:
        one.shutdown()


async def test_work_of_which_nobody_wants_to_know_is_left_out() -> None:
    one, gate, done = OneThread("leaving out"), threading.Event(), list[int]()
    try:
        first = one.submit(gate.wait, 10)
        second = one.submit(done.append, 2)
        assert second.cancel()
        gate.set()
        assert first.result(10)
        assert one.submit(sum, [1]).result(10) == 1
        assert done == []
    finally:
        one.shutdown()


async def test_end_waits_for_no_work_that_hangs_and_for_none_that_never_began() -> None:
    OneThread("never").shutdown()
    one, begun, gate = OneThread("hanging"), threading.Event(), threading.Event()

    def hangs() -> None:
        begun.set()
        gate.wait(10)

    one.submit(hangs)
    assert begun.wait(10)
    one.shutdown()
    (thread,) = alive("hanging")
    gate.set()
    thread.join(10)
    assert not thread.is_alive()


async def test_thread_that_waits_keeps_nothing_alive() -> None:
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    one = OneThread("forgetting")
    try:
        one.submit(lambda _: None, thing).result(10)
        one.submit(int).result(10)  # the first is surely over and done with
        del thing
        gc.collect()
        assert gone() is None
    finally:
        one.shutdown()
