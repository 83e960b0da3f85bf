"""Many readers of one stream, some of whom have stopped reading: who publishes notices nothing, nothing stays behind.

``benchmarks/bench_streams.py`` does this with 1,000 of them and a server of its own.
"""

import gc
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from tests.fakes.engine import FakeEngine
from tests.fakes.web import Web, connections, open_web

READERS = 200
STUCK = 10
RING = 1000
LINES = 40
#: Live objects that 200 connections, their clients and what pools keep may leave: each reader needs some 300.
LEFT = 3000


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path, engine=FakeEngine(ring=RING)) as opened:
        opened.engine.journal._sinks.clear()  # what is stored would count as memory
        yield opened


def connect(web: Web, query: str = "", window: int | None = None) -> socket.socket:
    sock = socket.socket()
    if window:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    sock.connect(("127.0.0.1", web.port))
    sock.sendall(web.head("GET", f"/api/logs/stream{query}"))
    sock.setblocking(False)
    return sock


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.lowlevel.checkpoint()


def taken(sock: socket.socket) -> bytes:
    """What has come."""
    chunks = []
    try:
        while chunk := sock.recv(1 << 16):
            chunks.append(chunk)
    except BlockingIOError:
        pass
    return b"".join(chunks)


async def open_all(web: Web) -> tuple[list[socket.socket], list[socket.socket]]:
    """The readers, and those that will not read."""
    stuck = [connect(web, window=4096) for _ in range(STUCK)]
    await until(lambda: web.engine.journal.readers == STUCK)
    readers = [connect(web, "?plan_name=live") for _ in range(READERS - STUCK)]
    await until(lambda: web.engine.journal.readers == READERS)
    return readers, stuck


async def close_all(web: Web, socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.close()
    await until(lambda: not web.engine.journal.readers and not connections())


async def publish(web: Web, lines: int, size: int, plan: str) -> list[float]:
    """Publish, a turn of the loop after each line; how long each call took."""
    took = []
    for _ in range(lines):
        begin = time.perf_counter()
        web.engine.journal.log("info", "x" * size, plan_name=plan)
        took.append(time.perf_counter() - begin)
        await anyio.lowlevel.checkpoint()
    return took


async def test_publishing_waits_for_no_reader_and_every_reader_gets_everything(web: Web) -> None:
    readers, stuck = await open_all(web)
    took = sorted(await publish(web, LINES, 60, "live"))
    assert took[len(took) // 2] < 0.002  # waking each of them in the call would take longer
    texts = [b""] * len(readers)

    def all_has_come() -> bool:
        for number, sock in enumerate(readers):
            texts[number] += taken(sock)
        return all(text.count(b"}\n\n") == LINES for text in texts)

    await until(all_has_come)
    assert not any(b"event: gap" in text for text in texts)
    await close_all(web, readers + stuck)


async def test_others_have_their_turn_while_many_are_served(web: Web) -> None:
    readers, stuck = await open_all(web)
    web.engine.journal.log("info", "x", plan_name="live")
    turns = 0
    while not all(taken(sock).count(b"}\n\n") for sock in readers[-1:]):
        turns += 1
        await anyio.lowlevel.checkpoint()
    assert turns >= (READERS - STUCK) // 16
    await close_all(web, readers + stuck)


async def test_stuck_reader_that_reads_again_gets_a_gap_and_what_follows(web: Web) -> None:
    with closing(connect(web, window=4096)) as sock:
        await until(lambda: web.engine.journal.readers)
        await publish(web, 200, 60_000, "flood")  # fills every buffer on the way
        await publish(web, RING + 100, 60, "flood")  # and then the ring
        text = b""

        def has_come() -> bool:
            nonlocal text
            text = text[-500_000:] + taken(sock)
            return b"event: gap" in text

        await until(has_come)
        last = web.engine.journal.log("info", "the last line").id
        text = b""

        def the_last_has_come() -> bool:
            nonlocal text
            text += taken(sock)
            return b"the last line" in text

        await until(the_last_has_come)
        assert b"id: %d\n" % last in text


async def test_memory_is_what_it_was_when_all_have_gone(web: Web) -> None:
    await once(web)
    gc.collect()
    before = sys.getallocatedblocks()
    await once(web)
    gc.collect()
    assert sys.getallocatedblocks() - before < LEFT


async def once(web: Web) -> None:
    readers, stuck = await open_all(web)
    await publish(web, LINES, 60, "live")
    await publish(web, 100, 60_000, "flood")
    await close_all(web, readers + stuck)
    await publish(web, RING, 60, "live")  # the ring is full of the same
