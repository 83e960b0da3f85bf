"""What comes out of a process: lines, bounds on what is logged and kept."""

import os

import pytest

from aura.pipes import BYTES_PER_S, LINE_CAP, LINES_PER_S, LOG_CAP, Kept, Lines, Pipe


class Logged:
    """Lines in a time that the test owns."""

    def __init__(self) -> None:
        self.now = 0.0
        self.texts: list[str] = []
        self.lines = Lines(self.texts.append, lambda: self.now)


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        pytest.param([b"a\nb\n"], ["a", "b"], id="two lines"),
        pytest.param([b"a", b"b\n"], ["ab"], id="a line in two pieces"),
        pytest.param([b"a\nb"], ["a", "b"], id="a last line without an end"),
        pytest.param([b"a\r\n\n"], ["a", ""], id="CR LF, and an empty line"),
        pytest.param([b"\xc3", b"\xa9\n"], ["é"], id="a character in two pieces"),
        pytest.param([b"\xff\x00\n"], ["\ufffd\x00"], id="what is not UTF-8 is replaced, NUL is kept"),
        pytest.param([b"\x1b[31mred\n"], ["\x1b[31mred"], id="escapes are data"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_lines_are_cut(chunks: list[bytes], lines: list[str]) -> None:
    logged = Logged()
    for chunk in chunks:
        logged.lines.feed(chunk)
    logged.lines.finish()
    assert logged.texts == lines


@pytest.mark.parametrize("end", [b"\n", b""], ids=["with an end", "without"])
def test_line_that_is_too_long_is_cut_with_a_marker(end: bytes) -> None:
    logged = Logged()
    for _ in range(3):
        logged.lines.feed(b"x" * LINE_CAP)
    logged.lines.feed(end + b"after\n")
    logged.lines.finish()
    dropped = 2 * LINE_CAP + (0 if end else len("after"))
    assert logged.texts[0] == "x" * LINE_CAP + f" … {dropped} bytes dropped …"
    assert logged.texts[1:] == (["after"] if end else [])


def test_lines_beyond_the_rate_are_counted_not_logged() -> None:
    logged = Logged()
    logged.lines.feed(b"x\n" * 10_000)
    assert len(logged.texts) == 2 * LINES_PER_S
    logged.lines.finish()
    assert logged.texts[-1] == "… 8000 lines, 16000 bytes not logged: that was too much at once …"


def test_lines_go_on_at_a_line_boundary_after_a_flood() -> None:
    logged = Logged()
    logged.lines.feed(b"x\n" * 10_000 + b"cut he")
    logged.now = 1.0
    logged.lines.feed(b"re\nwhole\n")
    assert logged.texts[2 * LINES_PER_S :] == [
        "… 8000 lines, 16008 bytes not logged: that was too much at once …",
        "whole",
    ]


def test_bytes_beyond_the_rate_are_not_logged() -> None:
    logged = Logged()
    logged.lines.feed((b"y" * 65_000 + b"\n") * 100)
    assert 2 * BYTES_PER_S <= sum(map(len, logged.texts)) <= 2 * BYTES_PER_S + LINE_CAP


def test_bytes_beyond_the_cap_are_not_logged() -> None:
    logged = Logged()
    for second in range(60):
        logged.now = float(second)
        logged.lines.feed((b"y" * 65_000 + b"\n") * 100)
    size = sum(map(len, logged.texts))
    assert 2 * BYTES_PER_S < size < LOG_CAP + 2 * BYTES_PER_S


@pytest.mark.parametrize(
    ("size", "dropped"),
    [pytest.param(99, 0, id="short"), pytest.param(100, 0, id="exact"), pytest.param(1000, 900, id="long")],
)
@pytest.mark.parametrize("piece", [1, 7, 1000], ids=["byte by byte", "pieces", "at once"])
def test_kept_has_the_beginning_and_the_end(size: int, dropped: int, piece: int) -> None:
    data = bytes(65 + i % 26 for i in range(size))
    kept = Kept(100)
    for at in range(0, size, piece):
        kept.feed(data[at : at + piece])
    text = kept.text()
    expected = data.decode()
    if dropped:
        expected = f"{data[:50].decode()}\n… {dropped} bytes dropped …\n{data[-50:].decode()}"
    assert text == expected


def test_kept_can_be_cut_further() -> None:
    kept = Kept(100)
    kept.feed(b"0123456789")
    assert kept.text(4) == "01\n… 6 bytes dropped …\n89"


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


def test_pipe_that_was_never_started_closes_both_ends() -> None:
    pipe = Pipe(lambda chunk: None)
    end = pipe.write_end
    pipe.close()
    pipe.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(end)
