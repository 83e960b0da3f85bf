"""Failures on record: the traceback is Python's own, however often it is met."""

import traceback
from collections.abc import Callable

import pytest

from aura.run import MAX_FRAMES, MAX_STACKS, failure_of


def plain() -> None:
    raise ValueError("no")


def deep(frames: int = MAX_FRAMES + 5) -> None:
    if frames:
        deep(frames - 1)
    plain()


def caused() -> None:
    try:
        plain()
    except ValueError as error:
        raise RuntimeError("because of it") from error


def beside_another() -> None:
    try:
        plain()
    finally:
        raise RuntimeError("in clean-up")


def of_several() -> None:
    raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])


def with_notes() -> None:
    error = ValueError("no")
    error.add_note("a note")
    raise error


def misspelt() -> None:
    _ = [].apend  # type: ignore[attr-defined]


def raised(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("call", [plain, deep, caused, beside_another, of_several, with_notes, misspelt])
def test_trace_is_pythons(call: Callable[[], object]) -> None:
    for _ in range(2):  # the second time its frames are known
        error = raised(call)
        assert failure_of(error).trace == "".join(traceback.format_exception(error))


def test_trace_of_the_same_line_says_what_is_said_now() -> None:
    def fail(text: str) -> None:
        raise ValueError(text)

    traces = [failure_of(raised(lambda: fail(text))).trace for text in ("one", "two")]  # noqa: B023 - called at once
    assert [trace.splitlines()[-1] for trace in traces] == ["ValueError: one", "ValueError: two"]


def test_trace_after_very_many_others_is_still_its_own() -> None:
    def make(number: int) -> Callable[[], None]:
        names: dict[str, Callable[[], None]] = {}
        exec(compile("def f():\n  raise ValueError", f"file{number}", "exec"), names)
        return names["f"]

    for number in range(2 * MAX_STACKS + 3):  # code that is equal but for its file
        assert f'"file{number}", line 2, in f' in failure_of(raised(make(number))).trace
