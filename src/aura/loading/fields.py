"""Typed fields out of a YAML document, with every problem collected and none raised.

A ``Reader`` belongs to one document; ``Fields`` is one mapping in it whose keys are known. What a field gives when it
is absent or wrong is its default, so that checking goes on and all problems are found at once.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from aura.duration import parse_duration
from aura.errors import Problem
from aura.expressions import Condition, ExpressionSyntax, Template, condition, template
from aura.loading.yamlfile import Document
from aura.sandbox import near
from aura.task import IDENTIFIER_PATTERN, Source

Path = tuple[str | int, ...]
T = TypeVar("T")

_IDENTIFIER = re.compile(IDENTIFIER_PATTERN)


class Reader:
    """One document and the problems that were found in it. ``is_data``: nothing in it is meant as an expression."""

    is_data = False

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def problem(self, path: Path, message: str) -> None:
        """Note a problem of the value at a path."""
        self.problems.append(self.document.problem(path, message))

    def key_problem(self, path: Path, message: str) -> None:
        """Note a problem of the key at a path."""
        self.problems.append(self.document.problem(path, message, at_key=True))

    def source(self, path: Path) -> Source:
        """The place of the key at a path."""
        line, column = self.document.key_position(path)
        return Source(self.document.file, line, column)

    def mapping(self, path: Path, value: Any, what: str) -> dict[str, Any]:
        """Give a mapping as it is; anything else is a problem, and empty."""
        if isinstance(value, dict):
            return value
        self.problem(path, f"{what} must be a mapping, not {kind_of(value)}")
        return {}

    def identifiers(self, path: Path, mapping: Mapping[str, Any], what: str) -> Iterator[tuple[Path, str, Any]]:
        """Give the members of a mapping with their paths; a key that expressions cannot say is a problem."""
        for key, value in mapping.items():
            if not is_identifier(key):
                self.key_problem((*path, key), f"{key!r} cannot name {what}; {IDENTIFIER_RULE}")
            yield (*path, key), key, value

    def template(self, path: Path, value: Any) -> Template:
        """Read a value with expressions in it; the problems are at the innermost values that have one."""
        at = self.document.at(path)
        try:
            return template(value, at)
        except ExpressionSyntax as error:
            if isinstance(value, dict | list) and len(path) < 64:
                for inner, item in members(value):
                    self.template((*path, inner), item)
            else:
                self.problem(path, str(error))
        return template("{{ null }}", at)  # what is wrong with it was said: as an expression it is checked no further

    def condition(self, path: Path, value: Any) -> Condition | None:
        """Read a condition: one whole ``{{ … }}``, or true or false."""
        try:
            return condition(value, self.document.at(path))
        except ExpressionSyntax as error:
            self.problem(path, str(error))
            return None


IDENTIFIER_RULE = "a name is a small letter or _, then small letters, digits or _, 64 at most"


def is_identifier(name: str) -> bool:
    """Say whether expressions can say a name."""
    return _IDENTIFIER.fullmatch(name) is not None


class Fields:
    """One mapping of a document, with the keys that it may have."""

    def __init__(self, reader: Reader, path: Path, value: Any, what: str, known: Collection[str]) -> None:
        """Take the mapping at ``path``."""
        self.reader = reader
        self.path = path
        self.is_mapping = isinstance(value, dict)  # if not, that is reported, and no field is there
        self.value = reader.mapping(path, value, what)
        for key in self.value:
            if key not in known:
                reader.key_problem((*path, key), f"{what} has no key {key!r}{near(key, known)}")

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def get(self, key: str) -> Any:
        """The value as it is, None if it is absent."""
        return self.value.get(key)

    def at(self, key: str) -> Path:
        """The path of a field."""
        return (*self.path, key)

    def wrong(self, key: str, message: str) -> None:
        """Note a problem of a field's value."""
        self.reader.problem(self.at(key), f"{key}: {message}")

    def text(self, key: str, default: str = "") -> str:
        """A text."""
        value = self.value.get(key, default)
        if isinstance(value, str):
            return value
        self.wrong(key, f"text is needed, not {kind_of(value)}; put quotes around it")
        return default

    def boolean(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.value.get(key, default)
        if isinstance(value, bool):
            return value
        self.wrong(key, f"true or false is needed, not {kind_of(value)}")
        return default

    def integer(self, key: str, default: int, minimum: int, maximum: int) -> int:
        """A whole number within bounds."""
        value = self.value.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum:
            return value
        self.wrong(key, f"a whole number from {minimum} to {maximum} is needed, not {_shown(value)}")
        return default

    def number(self, key: str, default: float, minimum: float, maximum: float) -> float:
        """A number within bounds."""
        value = self.value.get(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and minimum <= value <= maximum:
            return float(value)
        self.wrong(key, f"a number from {minimum:g} to {maximum:g} is needed, not {_shown(value)}")
        return default

    def condition(self, key: str) -> Condition | None:
        """A condition; None if it is absent or wrong."""
        return self.reader.condition(self.at(key), self.value[key]) if key in self.value else None

    def choice(self, key: str, default: str, choices: Collection[str]) -> str:
        """One of some words."""
        value = self.value.get(key, default)
        if isinstance(value, str) and value in choices:
            return value
        hint = near(value, choices) if isinstance(value, str) else ""
        self.wrong(key, f"{' or '.join(choices)} is needed, not {_shown(value)}{hint}")
        return default

    def duration(self, key: str, default: T, *, zero: bool = False) -> float | T:
        """A duration in seconds; 0 only where ``zero`` allows it."""
        if key not in self.value:
            return default
        try:
            seconds = float(parse_duration(self.value[key]))
        except ValueError as error:
            self.wrong(key, str(error))
            return default
        if seconds == 0 and not zero:
            self.wrong(key, "0 would be over at once; leave it out for no limit")
            return default
        return seconds


def members(value: dict[str, Any] | list[Any]) -> Iterator[tuple[str | int, Any]]:
    """Give the members of a mapping or list with their keys or indices."""
    return iter(value.items()) if isinstance(value, dict) else iter(enumerate(value))


def kind_of(value: Any) -> str:
    """Name the kind of a value as a message says it: ``a list``, ``text``, ``nothing``."""
    names = {type(None): "nothing", bool: "true or false", int: "a number", float: "a number"}
    return {**names, str: "text", dict: "a mapping", list: "a list"}.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else kind_of(value)
