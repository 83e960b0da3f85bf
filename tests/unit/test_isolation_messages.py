"""Frames between a server and an isolated process: however they are cut, the same messages come out."""

import socket
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura import errors
from aura.errors import ContextClosed, RaisedElsewhere, RunError, TaskFailed
from aura.isolation.childlink import Link, error_of
from aura.isolation.messages import MAX_FRAME, Asked, Ended, Frames, Progressed, Said, frame_of, from_child
from aura.run import Failure, failure_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)
MESSAGES = (
    st.builds(Said, TEXT, TEXT, st.dictionaries(TEXT, PLAIN, max_size=3))
    | st.builds(Progressed, st.floats(allow_nan=False, allow_infinity=False), st.none(), TEXT)
    | st.builds(Asked, st.integers(0, 2**60), TEXT, st.lists(PLAIN, max_size=3))
    | st.builds(Ended, PLAIN)
)


@given(st.lists(MESSAGES, max_size=5), st.lists(st.integers(0, 300), max_size=10))
def test_any_cut_gives_the_same_messages(messages: list[Any], cuts: list[int]) -> None:
    data = b"".join(map(frame_of, messages))
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    frames = Frames(MAX_FRAME)
    bodies = [body for start, end in pairwise(places) for body in frames.feed(data[start:end])]
    assert [from_child.decode(body) for body in bodies] == messages


def test_frame_that_is_too_large_is_refused_before_it_is_there() -> None:
    frames = Frames(10)
    assert list(frames.feed(b"\0\0\0\x0a" + b"x" * 10)) == [b"x" * 10]
    with pytest.raises(ValueError, match="a message of 11 bytes; at most 10 are taken"):
        list(frames.feed(b"\0\0\0\x0b"))


def test_last_progress_is_said_before_the_end_and_little_between() -> None:
    mine, theirs = socket.socketpair()
    link = Link(theirs.detach())
    for done in range(1000):
        link.progress(Progressed(done, 999, ""))
    link.end(Ended(1))
    said = [from_child.decode(body) for body in Frames(MAX_FRAME).feed(mine.recv(1 << 20))]
    mine.close()
    link._socket.close()
    assert said[0] == Progressed(0, 999, "")
    assert said[-2:] == [Progressed(999, 999, ""), Ended(1)]
    assert len(said) < 100
    with pytest.raises(ContextClosed):
        link.progress(Progressed(1, 1, ""))


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RunError)]
)
def test_every_named_error_comes_back_as_something_with_its_name(kind: type[RunError]) -> None:
    made = error_of(Failure(kind.type, "why", cause={"cid": "c"}))
    assert failure_of(made).type == kind.type
    assert failure_of(made).message == "why"


@pytest.mark.parametrize(
    ("type", "kind"), [("ValueError", ValueError), ("Odd", RaisedElsewhere), ("SystemExit", RaisedElsewhere)]
)
def test_other_errors_come_back_as_what_python_has_or_by_name(type: str, kind: type[Exception]) -> None:
    made = error_of(Failure(type, "why"))
    assert isinstance(made, kind)
    assert failure_of(made).type == type


def test_cause_of_a_task_that_failed_comes_along() -> None:
    made = error_of(failure_of(TaskFailed("no", {"cid": "c", "type": "X", "message": "m"})))
    assert isinstance(made, TaskFailed)
    assert made.cause == {"cid": "c", "type": "X", "message": "m"}
