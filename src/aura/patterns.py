"""Regular expressions that meet data: compiled once, and bounded so that no text can make a match run for ever.

Theory of operation. Python's matcher backtracks, keeps the interpreter to itself while it does, and cannot be told to
stop; so the bound has to come before. It is made of two rules.

A pattern that can take *exponential* time is refused. That needs a choice inside of a repeat: where to leave an inner
repeat, or which branch to take. If the next character always decides the choice, there is nothing to go back to: the
characters that an inner repeat goes on with must not be among those that can follow it, and the branches must begin
with different ones (the LL(1) rule). So ``(a+)+`` and ``(a|ab)*`` are refused, ``(\\d+,)*`` is not.

What remains is *polynomial*: a repeat can be entered at every position of the text, and every repeat that overlaps with
what follows it tries every length. The degree can be read from the pattern, and the longest line of the text (the text
itself, where a repeat can run over line ends) may be as long as ``_LONGEST`` says for it, which keeps the worst search
at some tenths of a second. Beyond the fourth degree nothing useful remains, and the pattern is refused as well.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, reduce
from operator import or_
from re import _constants as sre  # type: ignore[attr-defined]  # the standard library's own parser of patterns
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

MAX_PATTERN = 1000
MAX_SUBJECT = 256 * 1024
#: Degree of the worst case → the longest line that is searched; a pattern of a higher degree is refused.
_LONGEST = {1: MAX_SUBJECT, 2: 4 * 1024, 3: 300, 4: 64}

# A set of characters is a number: a bit for each character below 256, one for each kind of the others (here by one of
# that kind: digits, letters, blanks, the rest), and one, in what can follow, for a place such as the end of the text.
_KINDS = {"\u0660": 1 << 256, "\u0100": 1 << 257, "\u2003": 1 << 258, "\u20ac": 1 << 259}
_OTHERS = reduce(or_, _KINDS.values())
_ALL = (1 << 260) - 1
_PLACE = 1 << 260
_NEWLINE = 1 << ord("\n")
_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT)


class Pattern:
    """A compiled pattern whose searches end in good time."""

    def __init__(self, compiled: re.Pattern[str], degree: int, by_line: bool) -> None:
        self._compiled = compiled
        self._longest = _LONGEST[degree]
        self._by_line = by_line

    def search(self, text: str) -> re.Match[str] | None:
        """Find the first match.

        Raises:
            ValueError: the text is too long for this pattern.
        """
        self._check(text)
        return self._compiled.search(text)

    def sub(self, replacement: Callable[[re.Match[str]], str], text: str) -> str:
        """Replace every match.

        Raises:
            ValueError: the text is too long for this pattern.
        """
        self._check(text)
        return self._compiled.sub(replacement, text)

    def _check(self, text: str) -> None:
        length = max(map(len, text.split("\n"))) if self._by_line and len(text) > self._longest else len(text)
        if length > self._longest or len(text) > MAX_SUBJECT:
            what = "a line of the text" if self._by_line else "the text"
            raise ValueError(
                f"{what} is too long for the pattern {self._compiled.pattern!r:.60}, which could take too much time; "
                f"at most {self._longest} characters"
            )


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str, ignore_case: bool = False) -> Pattern:
    """Compile a pattern.

    Raises:
        ValueError: it is none, or could take exponential time; the message says what to change.
    """
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern must be text of at most {MAX_PATTERN} characters")
    flags = re.IGNORECASE if ignore_case else 0
    try:
        compiled = re.compile(pattern, flags)
        tree = sre_parser.parse(pattern, flags)
        analysis = _Analysis(tree.state.flags)
        analysis.look(list(tree), 0, inside=False)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r:.60} is not a regular expression: {error}") from None
    except _Ambiguous as error:
        raise ValueError(f"the pattern {pattern!r:.60} could take exponential time: {error}") from None
    degree = analysis.degree(list(tree))
    if degree not in _LONGEST:
        raise ValueError(f"the pattern {pattern!r:.60} could take too much time: too many of its repeats overlap")
    return Pattern(compiled, degree, not analysis.repeated & _NEWLINE)


class _Ambiguous(Exception):
    """A choice inside of a repeat that the next character does not decide."""


class _Analysis:
    """A walk over a pattern's tree. ``repeated`` are all characters that some unbounded repeat goes on with."""

    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._overlaps = 0
        self._scans = 0
        self.repeated = 0

    def degree(self, items: list[Any]) -> int:
        """The degree of the polynomial that bounds a search: 1 is linear."""
        begin = items[0] if items and not self._flags & re.MULTILINE else None
        anchored = begin in ((sre.AT, sre.AT_BEGINNING), (sre.AT, sre.AT_BEGINNING_STRING))
        begins, nullable = self._first(items)
        again = not anchored and (nullable or begins & self._scans & _ALL)
        return 1 + self._overlaps + bool(again)

    def look(self, items: list[Any], follow: int, *, inside: bool) -> None:
        """Check a sequence; ``follow`` is what can come after it, ``inside`` says that it is in a repeat."""
        for index, (kind, argument) in enumerate(items):
            first, nullable = self._first(items[index + 1 :])
            self._look_at(kind, argument, first | (follow if nullable else 0), inside)

    def _look_at(self, kind: Any, argument: Any, follow: int, inside: bool) -> None:
        if kind in _REPEATS:
            self._look_at_repeat(argument[0], argument[1], list(argument[2]), follow, inside)
        elif kind is sre.SUBPATTERN:
            self.look(list(argument[3]), follow, inside=inside)
        elif kind is sre.ATOMIC_GROUP:
            self.look(list(argument), follow, inside=inside)
        elif kind in (sre.ASSERT, sre.ASSERT_NOT):
            self.look(list(argument[1]), _ALL, inside=True)
        elif kind is sre.BRANCH:
            self._look_at_branches([list(branch) for branch in argument[1]], follow, inside)
        elif kind in (sre.GROUPREF, sre.GROUPREF_EXISTS):
            raise _Ambiguous("it refers back to a group")

    def _look_at_repeat(self, least: int, most: int, items: list[Any], follow: int, inside: bool) -> None:
        first, nullable = self._first(items)
        if least == most or most == 1:  # fixed, or `?`, which is one choice
            self.look(items, follow | (first if most > 1 else 0), inside=inside or most > 1)
            if inside and most == 1 and least == 0 and first & follow & _ALL:
                raise _Ambiguous("what `?` makes optional can also follow it")
            return
        if nullable:
            raise _Ambiguous("what is repeated can be empty")
        overlaps = bool(first & follow & _ALL)
        if inside and overlaps:
            raise _Ambiguous("what a repeat inside of a repeat goes on with can also follow it")
        self._overlaps += overlaps
        self._scans |= first if follow else 0
        self.repeated |= self._all_of(items)
        self.look(items, follow | first, inside=True)

    def _look_at_branches(self, branches: list[list[Any]], follow: int, inside: bool) -> None:
        seen = 0
        for branch in branches:
            first, nullable = self._first(branch)
            first |= follow if nullable else 0
            if inside and seen & first & _ALL:
                raise _Ambiguous("two branches in a repeat can begin with the same character")
            seen |= first
            self.look(branch, follow, inside=inside)

    # -- sets of characters -------------------------------------------------------------------------------------------

    def _first(self, items: Iterable[Any]) -> tuple[int, bool]:
        """What a sequence can begin with, and whether it can be empty."""
        found = 0
        for kind, argument in items:
            first, nullable = self._first_of(kind, argument)
            found |= first
            if not nullable:
                return found, False
        return found, True

    def _first_of(self, kind: Any, argument: Any) -> tuple[int, bool]:
        if kind in _REPEATS:
            first, nullable = self._first(argument[2])
            return first, nullable or argument[0] == 0
        if kind is sre.SUBPATTERN:
            return self._first(argument[3])
        if kind is sre.ATOMIC_GROUP:
            return self._first(argument)
        if kind is sre.BRANCH:
            parts = [self._first(branch) for branch in argument[1]]
            return reduce(or_, (first for first, _ in parts)), any(nullable for _, nullable in parts)
        if kind in (sre.AT, sre.ASSERT, sre.ASSERT_NOT):
            return _PLACE, True
        return self._characters(kind, argument), False

    def _all_of(self, items: Iterable[Any]) -> int:
        """Every character that can be in what a sequence matches."""
        found = 0
        for kind, argument in items:
            if kind in _REPEATS:
                found |= self._all_of(argument[2])
            elif kind is sre.SUBPATTERN:
                found |= self._all_of(argument[3])
            elif kind is sre.ATOMIC_GROUP:
                found |= self._all_of(argument)
            elif kind is sre.BRANCH:
                found |= reduce(or_, map(self._all_of, argument[1]))
            elif kind not in (sre.AT, sre.ASSERT, sre.ASSERT_NOT):
                found |= self._characters(kind, argument)
        return found

    def _characters(self, kind: Any, argument: Any) -> int:
        """The characters that an item of one character can match; for classes see ``_class``."""
        if kind is sre.LITERAL:
            return self._range(argument, argument)
        if kind is sre.NOT_LITERAL:
            return _ALL & ~(1 << argument) if argument < 256 else _ALL
        if kind is sre.RANGE:
            return self._range(*argument)
        if kind is sre.CATEGORY:
            return _category(argument)
        if kind is sre.IN:
            return self._class(argument)
        return _ALL if self._flags & re.DOTALL else _ALL & ~_NEWLINE  # ANY

    def _range(self, low: int, high: int) -> int:
        found = _OTHERS if high > 255 else 0
        for code in range(low, min(high, 255) + 1):
            found |= 1 << code
            if self._flags & re.IGNORECASE:
                for other in (chr(code).lower(), chr(code).upper()):
                    found |= 1 << ord(other) if len(other) == 1 and ord(other) < 256 else _OTHERS
        return found

    def _class(self, members: list[Any]) -> int:
        if not members or members[0][0] is not sre.NEGATE:
            return reduce(or_, (found for _, found in self._members(members)), 0)
        # of the characters above 255 a range covers only some: only a category takes a kind away as a whole
        wholly = (found if kind is sre.CATEGORY else found & ~_OTHERS for kind, found in self._members(members[1:]))
        return _ALL & ~reduce(or_, wholly, 0)

    def _members(self, members: list[Any]) -> Iterator[tuple[Any, int]]:
        for kind, argument in members:
            yield kind, self._characters(kind, argument)


_CLASSES = {
    sre.CATEGORY_DIGIT: r"\d",
    sre.CATEGORY_NOT_DIGIT: r"\D",
    sre.CATEGORY_SPACE: r"\s",
    sre.CATEGORY_NOT_SPACE: r"\S",
    sre.CATEGORY_WORD: r"\w",
    sre.CATEGORY_NOT_WORD: r"\W",
}


@lru_cache(maxsize=16)
def _category(category: Any) -> int:
    matches = re.compile(_CLASSES[category]).match
    below = (1 << code for code in range(256) if matches(chr(code)))
    return reduce(or_, (bit for example, bit in _KINDS.items() if matches(example)), reduce(or_, below))
