"""What comes out of a process: it is read, and what is kept of it is bounded."""

import os
import sys
import time

import pytest
from tests.fakes.children import until

from aura.processes.pipes import CHUNK, LONG, SMALL_CHUNK, Kept, Pipe


@pytest.mark.parametrize(
    ("size", "dropped"),
    [pytest.param(99, 0, id="short"), pytest.param(100, 0, id="whole"), pytest.param(101, 61, id="long"), (1000, 960)],
)
@pytest.mark.parametrize("piece", [1, 7, 1000], ids=["byte by byte", "pieces", "at once"])
def test_kept_has_all_or_the_two_ends(size: int, dropped: int, piece: int) -> None:
    data = bytes(65 + i % 26 for i in range(size))
    kept = Kept(100, 20)
    for at in range(0, size, piece):
        kept.feed(data[at : at + piece])
    expected = data.decode()
    if dropped:
        expected = f"{data[:20].decode()}\n… {dropped} bytes dropped …\n{data[-20:].decode()}"
    assert kept.text() == expected


def test_kept_can_be_cut_further() -> None:
    kept = Kept(100, 20)
    kept.feed(b"0123456789")
    assert kept.text(10) == "0123456789"
    assert kept.text(4) == "01\n… 6 bytes dropped …\n89"


def test_kept_remembers_little_of_much() -> None:
    kept = Kept(256 * 1024, 64 * 1024)
    for _ in range(1000):
        kept.feed(b"x" * 65536)
    assert sys.getsizeof(kept._head) + sys.getsizeof(kept._tail) < 300 * 1024


async def test_pipe_remembers_what_its_sink_raised_and_reads_on() -> None:
    def sink(chunk: bytes) -> None:
        raise ValueError("full")

    pipe = Pipe(sink)
    writer = os.dup(pipe.write_end)
    pipe.start()
    os.write(writer, b"x")
    os.close(writer)
    await pipe.ended.wait()
    assert isinstance(pipe.error, ValueError)


async def test_pipe_reads_more_at_a_time_and_less_after_its_sink_was_slow() -> None:
    sizes: list[int] = []

    def sink(chunk: bytes) -> None:
        sizes.append(len(chunk))
        if len(chunk) == CHUNK:
            time.sleep(2 * LONG)

    pipe = Pipe(sink)
    writer = os.dup(pipe.write_end)
    pipe.start()
    for written in range(1, 100):
        os.write(writer, b"x" * CHUNK)
        await until(lambda written=written: sum(sizes) == written * CHUNK)  # type: ignore[misc]
        if CHUNK in sizes[:-1]:
            break
    os.close(writer)
    await pipe.ended.wait()
    assert sizes[0] == SMALL_CHUNK
    assert max(sizes[sizes.index(CHUNK) + 1 :]) < CHUNK


def test_pipe_that_was_never_started_closes_both_ends() -> None:
    pipe = Pipe(lambda chunk: None)
    end = pipe.write_end
    pipe.close()
    pipe.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(end)
