"""Regular expressions that meet data: RE2, whose searches take time linear in the text, whatever the pattern.

Python's own matcher backtracks, keeps the interpreter to itself while it does, and cannot be told to stop: one pattern
such as ``(a+)+$`` and one unlucky text would hold up everything. RE2 has no look-around and no back-references; a
pattern with one is refused, as is one that would take too much memory.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import re2  # type: ignore[import-untyped]

MAX_PATTERN = 1000
MAX_SUBJECT = 1024 * 1024
#: How much memory a compiled pattern may take, in bytes.
MAX_MEMORY = 4 * 1024 * 1024


class Pattern:
    """A compiled pattern. ``groups`` is how many groups it has."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self.groups: int = compiled.groups

    def search(self, text: str) -> Any:
        """Find the first match, an object like the standard library's; None if there is none.

        Raises:
            ValueError: the text is too long.
        """
        return self._compiled.search(_bounded(text))

    def sub(self, replacement: Callable[[Any], str], text: str) -> str:
        """Replace every match.

        Raises:
            ValueError: the text is too long.
        """
        return str(self._compiled.sub(replacement, _bounded(text)))

    def find_all(self, text: str) -> Iterator[Any]:
        """Find all matches that do not overlap, one after the other.

        Raises:
            ValueError: the text is too long.
        """
        found: Iterator[Any] = self._compiled.finditer(_bounded(text))
        return found

    def replace(self, replacement: str, text: str, bound: Callable[[int], object]) -> str:
        """Replace every match by a text in which ``\\1`` is the match's first group.

        ``bound`` is told after each match how long what was put in is by then; it raises when that is too much.

        Raises:
            ValueError: the text is too long, or the replacement names a group that the pattern does not have.
        """
        made = 0

        def expand(found: Any) -> str:
            nonlocal made
            try:
                part = str(found.expand(replacement))
            except IndexError:
                raise ValueError(f"{replacement!r:.60} names a group that the pattern does not have") from None
            made += len(part)
            bound(made)
            return part

        return self.sub(expand, text)


def _bounded(text: str) -> str:
    if len(text) > MAX_SUBJECT:
        raise ValueError(f"the text has {len(text)} characters; a pattern searches at most {MAX_SUBJECT}")
    return text


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str, ignore_case: bool = False) -> Pattern:
    """Compile a pattern.

    Raises:
        ValueError: RE2 does not take it; the message says why.
    """
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern must be text of at most {MAX_PATTERN} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_MEMORY
    options.case_sensitive = not ignore_case
    try:
        return Pattern(re2.compile(pattern, options=options))
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"{pattern!r:.60} is not a regular expression that RE2 takes: {reason}") from None
