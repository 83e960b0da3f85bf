"""What a process prints becomes lines of the log: how it is cut, what is shown of it, what is dropped and said."""

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.events import MAX_LINE, clean_text, printable
from aura.processes import loglines
from aura.processes.floods import MIB, PAUSE, SHARED, Allowance, Bucket
from aura.processes.loglines import LINE_CAP, TAIL_LINES, Lines
from aura.redaction import Redactor, Stream


class Logged:
    """Lines in a time that the test owns."""

    def __init__(self, hiding: Stream | None = None) -> None:
        self.now = 0.0
        self.texts: list[str] = []
        self.lines = Lines(self.texts.append, Allowance(Bucket(SHARED)), lambda: self.now, hiding)

    def feed(self, *chunks: bytes) -> list[str]:
        for chunk in chunks:
            self.lines.feed(chunk)
        self.lines.finish()
        return self.texts


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        pytest.param([b"a\nb\n"], ["a", "b"], id="two lines"),
        pytest.param([b"a", b"b\n"], ["ab"], id="a line in two pieces"),
        pytest.param([b"a\nb"], ["a", "b"], id="a last line without an end"),
        pytest.param([b"a\r\n\n"], ["a", ""], id="CR LF, and an empty line"),
        pytest.param([b"a\r", b"\nb\n"], ["a", "b"], id="CR LF in two pieces"),
        pytest.param([b"\r 10%\r 20%\r", b" 30%\n"], [" 10%", " 20%", " 30%"], id="a progress bar"),
        pytest.param([b"a\r", b"\r", b"b\r"], ["a", "b"], id="a CR that ends nothing gives no line"),
        pytest.param([b"a\r\r\n"], ["a", ""], id="two CR and an LF"),
        pytest.param([b"\xc3", b"\xa9\n"], ["é"], id="a character in two pieces"),
        pytest.param([b"\xff\xfe\n"], ["\ufffd\ufffd"], id="what is not UTF-8 is replaced"),
        pytest.param([b"a\0b\x07\x7f\xc2\x85\tc\n"], ["a\\x00b\\x07\\x7f\\x85\tc"], id="control characters are shown"),
        pytest.param([b"\x1b[31mred\n"], ["\\x1b[31mred"], id="escapes are shown"),
        pytest.param(["\u202eevil\n".encode()], ["\\x202eevil"], id="and what turns text round"),
        pytest.param([b""], [], id="nothing"),
    ],
)
def test_lines_are_cut_and_made_fit_to_be_shown(chunks: list[bytes], lines: list[str]) -> None:
    assert Logged().feed(*chunks) == lines


def modelled(data: bytes) -> list[str]:
    """What the lines of ``data`` are, if there is room for all."""
    found = re.findall(rb"([^\r\n]*)(\r\n|\r|\n|\Z)", data)
    return [printable(line.decode(errors="replace")) for line, end in found if line or end in (b"\n", b"\r\n")]


def in_chunks(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


PIECES = st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", b"\0", b"\xff", "é".encode(), b"d" * 9, b"\x1b["])


DATA = st.lists(PIECES, max_size=40).map(b"".join)
CUTS = st.lists(st.integers(0, 500), max_size=12)


@given(DATA, CUTS)
def test_any_chunks_give_the_lines_of_the_model(data: bytes, cuts: list[int]) -> None:
    assert Logged().feed(*in_chunks(data, cuts)) == modelled(data)


@given(DATA, CUTS)
def test_any_chunks_give_the_same_where_lines_are_too_long(data: bytes, cuts: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loglines, "LINE_CAP", 6)
        texts = Logged().feed(*in_chunks(data, cuts))
        assert texts == Logged().feed(data)
    shown = [text.partition(" … ") for text in texts]
    assert all(len(text.encode()) <= 6 for text, _, _ in shown)
    assert [bool(marker) for _, marker, _ in shown] == [len(line.encode()) > 6 for line in modelled(data)]


@given(DATA, CUTS, st.integers(1, 1500))
def test_any_chunks_drop_the_same_where_there_is_no_room(data: bytes, cuts: list[int], room: int) -> None:
    def fed(*chunks: bytes) -> list[str]:
        logged = Logged()
        logged.lines._allowance._left = room
        return logged.feed(*chunks)

    assert fed(*in_chunks(data, cuts)) == fed(data)


@pytest.mark.parametrize("end", [b"\n", b""], ids=["with an end", "without"])
def test_line_that_is_too_long_is_cut_with_a_marker_that_the_journal_keeps(end: bytes) -> None:
    texts = Logged().feed(*[b"x" * LINE_CAP] * 3, end + b"after\n")
    dropped = 2 * LINE_CAP + (0 if end else len("after"))
    assert texts[0] == "x" * LINE_CAP + f" … {dropped} bytes dropped …"
    assert texts[1:] == (["after"] if end else [])
    assert clean_text(texts[0]) == texts[0]


@pytest.mark.parametrize("piece", [b"\xff", b"\0", "é".encode(), b"\x1b"], ids=["noise", "NUL", "é", "ESC"])
def test_line_that_grows_when_it_is_shown_is_cut_too(piece: bytes) -> None:
    [text] = Logged().feed(piece * MAX_LINE + b"\n")
    shown, marker, dropped = text.partition(" … ")
    assert marker
    assert LINE_CAP * 0.9 < len(shown.encode()) <= LINE_CAP
    assert clean_text(text) == text
    assert int(dropped.split()[0]) < MAX_LINE * len(piece)


def test_what_there_is_no_room_for_is_counted_and_its_end_is_kept() -> None:
    texts = Logged().feed(b"".join(b"%d\n" % number for number in range(100_000)))
    said = next(index for index, text in enumerate(texts) if text.startswith("…"))
    assert texts[:said] == [str(number) for number in range(said)]
    assert texts[said + 1 :] == [str(number) for number in range(100_000 - TAIL_LINES, 100_000)]
    dropped = sum(len(str(number)) + 1 for number in range(said, 100_000 - TAIL_LINES))
    assert texts[said] == f"… {dropped} bytes dropped: more than the log takes …"


def test_lines_go_on_at_a_line_boundary_after_a_flood() -> None:
    logged = Logged()
    logged.lines.feed(b"x\n" * 10_000 + b"cut he")
    room = len(logged.texts)
    logged.now = PAUSE
    logged.lines.feed(b"re\nwhole\n")
    assert logged.texts[room:] == [f"… {2 * (10_000 - room) + 9} bytes dropped: more than the log takes …", "whole"]


def test_last_lines_of_what_was_dropped_are_whole() -> None:
    logged = Logged()
    logged.lines._allowance._left = 1
    texts = logged.feed(b"a\n", *[b"%06d" % number + b"x" * 500 + b"\n" for number in range(100)])
    last = texts[2:]
    assert {len(text) for text in last} == {506}
    assert (last[0][:6], last[-1][:6]) == (f"{100 - len(last):06}", "000099")
    assert texts[1] == f"… {507 * (100 - len(last))} bytes dropped: more than the log takes …"


def test_line_that_began_with_room_is_said_though_there_is_none_left_at_its_end() -> None:
    allowance, texts = Allowance(Bucket(SHARED)), list[str]()
    one, other = (Lines(texts.append, allowance, lambda: 0.0) for _ in range(2))
    one.feed(b"be")
    other.feed(b"x\n" * 10_000)
    said = len(texts)
    one.feed(b"gun\nnext\n")
    assert texts[said:] == ["begun"]


def test_two_cr_at_the_end_of_a_chunk_are_counted_once() -> None:
    logged = Logged()
    logged.lines._allowance._left = 1
    texts = logged.feed(b"a\n", b"b" * 20_000, b"c\r\r", b"\n" + b"d\n" * 200)
    assert texts[1] == f"… {20_000 + 4 + 2 * 100} bytes dropped: more than the log takes …"


def test_line_without_an_end_that_was_dropped_shows_its_end() -> None:
    logged = Logged()
    logged.lines._allowance._left = 1
    texts = logged.feed(b"a\n", b"x" * 100_000, b"the end")
    assert texts[:2] == ["a", f"… {100_007 - 16 * 1024} bytes dropped: more than the log takes …"]
    assert texts[2].endswith("xthe end")


def test_both_streams_and_all_that_was_said_stay_below_the_cap() -> None:
    logged, total = Logged(), 0
    for second in range(60):
        logged.now = float(second)
        logged.lines.feed((b"y" * 60_000 + b"\n") * 100)
    total = sum(map(len, logged.texts))
    assert 9 * MIB < total < 10 * MIB + LINE_CAP


@given(CUTS)
def test_secrets_are_hidden_wherever_chunks_cut_them(cuts: list[int]) -> None:
    redactor = Redactor()
    redactor.learn("p/key", "first half\nsecond half")
    data = b"a first half\nsecond half b\nfirst\n"
    texts = Logged(redactor.stream()).feed(*in_chunks(data, cuts))
    assert texts == ["a *** b", "first"]
