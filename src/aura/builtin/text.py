"""Shipped actions on text: ``text.search``, ``text.replace`` and ``text.split``.

Patterns are RE2's (``patterns``), so that no text takes them more than linear time. What is not short is worked on in a
thread.
"""

from collections.abc import Callable
from typing import Annotated, TypeVar, TypeVarTuple

import msgspec

from aura.actions import MAX_OUTPUT, action
from aura.builtin.threads import in_thread
from aura.errors import ParamsInvalid
from aura.filters import regex_search
from aura.patterns import compile_pattern

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Up to how many characters are worked on at once, on the event loop: about a millisecond.
SHORT = 4096


@action(name="text.search")
async def search(text: str, pattern: str, ignore_case: bool = False) -> str | None:
    """Find the first match of a pattern, or its first group if it has one; null if there is none."""
    return await _off_the_loop(text, regex_search, text, pattern, ignore_case)


@action(name="text.replace")
async def replace(text: str, pattern: str, replacement: str, ignore_case: bool = False, literal: bool = False) -> str:
    r"""Replace each match of a pattern; \1 in the replacement is its first group. With literal both are plain text."""
    if literal and ignore_case:
        raise ParamsInvalid("text.replace: ignore_case is for patterns; write the pattern as one, without literal")
    function = _replace_literally if literal else _replace
    return await _off_the_loop(text, function, text, pattern, replacement, ignore_case)


@action(name="text.split")
async def split(
    text: str,
    separator: str | None = None,
    pattern: str | None = None,
    max: Annotated[int, msgspec.Meta(ge=1)] | None = None,
) -> list[str]:
    """Split at each separator, at each match of a pattern, or, without either, at blanks and line breaks."""
    if separator is not None and pattern is not None:
        raise ParamsInvalid("text.split takes a separator (plain text) or a pattern, not both")
    if separator == "":
        raise ParamsInvalid("text.split: the separator is empty; give a text, or leave it out")
    times = -1 if max is None else max - 1
    if pattern is None:
        return await _off_the_loop(text, text.split, separator, times)
    return await _off_the_loop(text, _split, text, pattern, times)


def _replace(text: str, pattern: str, replacement: str, ignore_case: bool) -> str:
    return compile_pattern(pattern, ignore_case).replace(replacement, text, _bounded)


def _replace_literally(text: str, old: str, new: str, _: bool) -> str:
    if not old:
        raise ParamsInvalid("text.replace: with literal the pattern must not be empty")
    _bounded(len(text) + text.count(old) * (len(new) - len(old)))
    return text.replace(old, new)


def _split(text: str, pattern: str, times: int) -> list[str]:
    """Split at the matches that are not empty; groups are not among the parts."""
    parts: list[str] = []
    end = 0
    for found in compile_pattern(pattern).find_all(text):
        if len(parts) == times:
            break
        if found.end() > found.start():
            parts.append(text[end : found.start()])
            end = found.end()
    return [*parts, text[end:]]


def _bounded(length: int) -> None:
    if length > MAX_OUTPUT:
        raise ValueError(f"the text would be longer than {MAX_OUTPUT} characters, the most that a step can give")


async def _off_the_loop(text: str, function: Callable[[*Ts], T], *args: *Ts) -> T:
    return function(*args) if len(text) <= SHORT else await in_thread(function, *args)
