"""One YAML file as plain data with positions: YAML 1.2 core schema, and none of YAML's surprises.

The value is built straight from libyaml's events, so that every key and value has its line and column, in one pass.
Duplicate keys, ``<<``, tags, anchors that contain themselves or explode, keys that are not text and numbers without a
JSON form are problems. It owns nothing of what the keys mean: that is ``loader`` and ``taskfile``.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from _ruamel_yaml import CParser  # type: ignore[import-not-found]
from ruamel.yaml import events
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from aura.errors import PlanError, Problem

#: The largest file that is read, in bytes.
MAX_BYTES = 1024 * 1024
MAX_DEPTH = 64
#: How many values a file may have once its aliases are followed.
MAX_EXPANDED = 50_000

#: Keys and indices from the root of a file, as in ``("steps", "ping", "params")``.
Path = Sequence[str | int]
Position = tuple[int, int]

_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# The four patterns of YAML 1.2.2, section 10.3.2; infinities and NaN are found by the last.
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_QUOTES = "put quotes around it"
#: What a value must not begin with unless it is quoted, after ``key:`` or ``-``.
_UNQUOTED = re.compile(r"""(?:^|[:\-]\s)\s*(?P<value>\{\{|\*[^\s\w]|\*\s|[@`%*&!])""")
#: A value between brackets that is over, where something else follows: ``[0-9]+``.
_CLOSED = re.compile(r"""(?:^|[:\-]\s)\s*(?P<value>[\[{])[^\[\]{}]*[\]}]\s*$""")


class Document:
    """The plain data of a file, and where each part of it stands.

    A path is a sequence of keys and indices, as in ``("steps", "ping", "params")``. Lines and columns count from 1; a
    path that does not exist has the position of the nearest part that does.
    """

    def __init__(self, value: Any, file: str, root: Any, marks: dict[int, dict[str | int, tuple[Any, Any]]]) -> None:
        self.value = value
        self.file = file
        self._root = root
        # id of a container (all are kept alive by value) → key or index → marks of the key and of the value
        self._marks = marks

    def position(self, path: Path = ()) -> Position:
        """Line and column of the value at a path."""
        return self._find(path, 1)

    def key_position(self, path: Path) -> Position:
        """Line and column of the key at a path; of a list's element, those of the element."""
        return self._find(path, 0)

    def problem(self, path: Path, message: str, *, at_key: bool = False) -> Problem:
        """Make a problem of the value, or the key, at a path."""
        line, column = self.key_position(path) if at_key else self.position(path)
        return Problem(self.file, line, column, message)

    def at(self, path: Path) -> str:
        """``file:line`` of the value at a path."""
        return f"{self.file}:{self.position(path)[0]}"

    def _find(self, path: Path, which: int) -> Position:
        mark, value = self._root, self.value
        for number, part in enumerate(path):
            pair = self._marks.get(id(value), {}).get(part)
            if pair is None:
                break
            mark = pair[which if number == len(path) - 1 else 1]
            value = value[part]
        return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def load(text: str | bytes, file: str) -> Document:
    """Read one YAML file; ``file`` is its name for messages. An empty file has the value None.

    Raises:
        PlanError: it is too large, not UTF-8, not YAML, or uses something of YAML that plans may not.
    """
    return _Builder(_decode(text, file), file).build()


def _decode(text: str | bytes, file: str) -> str:
    if len(text) > MAX_BYTES:
        raise PlanError([Problem(file, 1, 1, f"the file is larger than {MAX_BYTES // 1024} KiB")])
    if isinstance(text, bytes):
        text = _decode_bytes(text, file)
    text = text.removeprefix("\ufeff")
    if found := _FORBIDDEN.search(text):
        line, column = _position_of(text, found.start())
        message = f"the character U+{ord(found.group()):04X} may not stand in YAML; write it in double quotes as \\x…"
        raise PlanError([Problem(file, line, column, message)])
    return text


def _decode_bytes(data: bytes, file: str) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or data[:4] == b"\x00\x00\xfe\xff":
        raise PlanError([Problem(file, 1, 1, "the file is in UTF-16 or UTF-32; save it as UTF-8")])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _position_of(data[: error.start].decode("utf-8"), error.start)
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise PlanError([Problem(file, line, column, message)]) from None


def _position_of(text: str, index: int) -> Position:
    before = text[:index]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


class _Open:
    """A mapping or list that has begun and not ended.

    ``size`` counts the values in it, ``height`` the levels, both with aliases followed. ``key`` and ``key_mark`` are
    of the key whose value comes next; the mark is None when a key comes next.
    """

    __slots__ = ("anchor", "height", "key", "key_mark", "mark", "marks", "size", "value")

    def __init__(self, value: Any, mark: Any, anchor: str | None) -> None:
        self.value = value
        self.mark = mark
        self.anchor = anchor
        self.marks: dict[str | int, tuple[Any, Any]] = {}
        self.size = 1
        self.height = 1
        self.key = ""
        self.key_mark: Any = None


class _Builder:
    """Builds one document from events, collecting problems as it goes."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._problems: list[Problem] = []
        self._stack: list[_Open] = []
        self._marks: dict[int, dict[str | int, tuple[Any, Any]]] = {}
        # name → value, size and height; None while the anchored value has not ended
        self._anchors: dict[str, tuple[Any, int, int] | None] = {}
        self._root: Any = None
        self._root_mark: Any = None
        self._documents = 0

    def build(self) -> Document:
        try:
            self._read_events()
        except YAMLError as error:
            self._problems.append(self._of_parser(error))
        if self._problems:
            raise PlanError(self._problems)
        return Document(self._root, self._file, self._root_mark, self._marks)

    def _read_events(self) -> None:
        parser = CParser(self._text)
        handlers = {
            events.ScalarEvent: self._scalar,
            events.MappingStartEvent: self._begin,
            events.SequenceStartEvent: self._begin,
            events.MappingEndEvent: self._end,
            events.SequenceEndEvent: self._end,
            events.AliasEvent: self._alias,
            events.DocumentStartEvent: self._document,
        }
        event = parser.get_event()
        while event is not None and type(event) is not events.StreamEndEvent:
            handler = handlers.get(type(event))
            if handler is not None:
                handler(event)
            event = parser.get_event()

    def _problem(self, mark: Any, message: str) -> None:
        self._problems.append(Problem(self._file, mark.line + 1, mark.column + 1, message))

    def _fatal(self, mark: Any, message: str) -> PlanError:
        self._problem(mark, message)
        return PlanError(self._problems)

    def _too_deep(self, mark: Any) -> PlanError:
        return self._fatal(mark, f"the file nests deeper than {MAX_DEPTH} levels")

    # -- events -------------------------------------------------------------------------------------------------------

    def _document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            raise self._fatal(event.start_mark, "a second document begins here; a plan file has one")
        if event.version not in (None, (1, 2)):
            raise self._fatal(event.start_mark, "only YAML 1.2 is read")

    def _scalar(self, event: Any) -> None:
        if event.tag is not None:
            self._report_tag(event)
        value, mark = event.value, event.start_mark
        plain = not event.style
        if plain and event.implicit[0]:
            value = self._resolve(value, mark)
        if event.anchor:
            self._anchors[event.anchor] = (value, 1, 0)
        self._add(value, mark, plain=plain)

    def _begin(self, event: Any) -> None:
        mark = event.start_mark
        if event.tag is not None:
            self._report_tag(event)
        self._check_key(event)
        if len(self._stack) >= MAX_DEPTH:
            raise self._too_deep(mark)
        if event.anchor:
            self._anchors[event.anchor] = None
        value: Any = {} if type(event) is events.MappingStartEvent else []
        self._stack.append(_Open(value, mark, event.anchor))

    def _end(self, _event: Any) -> None:
        ended = self._stack.pop()
        self._marks[id(ended.value)] = ended.marks
        if ended.anchor:
            self._anchors[ended.anchor] = (ended.value, ended.size, ended.height)
        self._add(ended.value, ended.mark, ended.size, ended.height)

    def _alias(self, event: Any) -> None:
        mark = event.start_mark
        if event.anchor not in self._anchors:
            raise self._fatal(mark, f"there is no anchor &{event.anchor} before this; if text is meant, {_QUOTES}")
        known = self._anchors[event.anchor]
        if known is None:
            raise self._fatal(mark, f"the anchor &{event.anchor} contains itself")
        value, size, height = known
        if len(self._stack) + height > MAX_DEPTH:
            raise self._too_deep(mark)
        self._add(value, mark, size, height)

    def _report_tag(self, event: Any) -> None:
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        message = f"tags such as {tag} are not part of plan files; if text is meant, {_QUOTES}"
        self._problem(event.start_mark, message)

    def _check_key(self, event: Any) -> None:
        """Refuse a mapping or list where a key is expected; ``{{ x }}`` without quotes is one."""
        if not self._stack:
            return
        parent = self._stack[-1]
        if isinstance(parent.value, dict) and parent.key_mark is None:
            mark = event.start_mark
            if (mark.line, mark.column) == (parent.mark.line, parent.mark.column + 1):
                raise self._fatal(parent.mark, f"a value that begins with {{{{ is no text yet: {_QUOTES}")
            raise self._fatal(mark, "a key must be text")

    # -- values -------------------------------------------------------------------------------------------------------

    def _add(self, value: Any, mark: Any, size: int = 1, height: int = 0, plain: bool = False) -> None:
        if not self._stack:
            self._root, self._root_mark = value, mark
            return
        parent = self._stack[-1]
        parent.size += size
        if height >= parent.height:
            parent.height = height + 1
        if parent.size > MAX_EXPANDED:
            raise self._fatal(mark, f"the file has more than {MAX_EXPANDED} values once its anchors are followed")
        if parent.key_mark is not None:
            self._add_member(parent, value, mark)
        elif isinstance(parent.value, dict):
            self._add_key(parent, value, mark, plain)
        else:
            parent.marks[len(parent.value)] = (mark, mark)
            parent.value.append(value)

    def _add_key(self, parent: _Open, key: Any, mark: Any, plain: bool) -> None:
        parent.key_mark = mark
        if not isinstance(key, str):
            self._problem(mark, f"the key {_shown(key)} is not text; {_QUOTES}")
            key = str(key)
        elif key == "<<" and plain:
            self._problem(mark, "merging with << is not part of plan files; write the keys out")
        elif key in parent.value:
            first = parent.marks[key][0].line + 1
            self._problem(mark, f"the key {key!r} is here a second time; the first is in line {first}")
        parent.key = key

    def _add_member(self, parent: _Open, value: Any, mark: Any) -> None:
        if parent.key not in parent.value:
            parent.value[parent.key] = value
            parent.marks[parent.key] = (parent.key_mark, mark)
        parent.key_mark = None

    def _resolve(self, text: str, mark: Any) -> Any:
        """Give a plain scalar its type by the YAML 1.2 core schema."""
        if text in _WORDS:
            return _WORDS[text]
        if text[0] not in "+-.0123456789":
            return text
        if _NOT_FINITE.fullmatch(text):
            self._problem(mark, f"the number {text} has no JSON form; if text is meant, {_QUOTES}")
            return text
        return self._number(text, mark)

    def _number(self, text: str, mark: Any) -> Any:
        number: int | float
        if len(text) > 400:
            return text if not _FLOAT.fullmatch(text) else self._too_large(text, mark)
        if _DECIMAL.fullmatch(text):
            number = int(text)
        elif _OCTAL.fullmatch(text):
            number = int(text[2:], 8)
        elif _HEX.fullmatch(text):
            number = int(text[2:], 16)
        elif _FLOAT.fullmatch(text):
            number = float(text)
        else:
            return text
        fits = -(2**63) <= number < 2**64 if isinstance(number, int) else math.isfinite(number)
        return number if fits else self._too_large(text, mark)

    def _too_large(self, text: str, mark: Any) -> str:
        self._problem(mark, f"the number {text[:30]} is too large; if text is meant, {_QUOTES}")
        return text

    # -- syntax errors ------------------------------------------------------------------------------------------------

    def _of_parser(self, error: YAMLError) -> Problem:
        if not isinstance(error, MarkedYAMLError):
            return Problem(self._file, 1, 1, f"this is not YAML: {error}")
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark is not None else (0, 0)
        lines = self._text.splitlines()
        return Problem(self._file, line + 1, column + 1, _explain(error, lines, line, column))


def _explain(error: MarkedYAMLError, lines: list[str], line: int, column: int) -> str:
    what = " ".join(part for part in (error.problem, error.context) if part)
    here = lines[line] if line < len(lines) else ""
    if here[column : column + 1] == "\t" or "\t" in here[: len(here) - len(here.lstrip())]:
        return "a tab stands where blanks are needed; indent with blanks"
    if "mapping values are not allowed" in what:
        if ": " in here[:column]:
            return f"a second ': ' in one line: if the value has a colon in it, {_QUOTES}"
        return "no ':' is expected here; check the indentation of this line and of the one before"
    if "unexpected ':'" in what:
        return f"a value between brackets has a colon in it: {_QUOTES}; behind a key, a blank follows the colon"
    letter, before = here[column : column + 1], lines[line - 1] if 0 < line <= len(lines) else ""
    found = _UNQUOTED.search(here) or _UNQUOTED.search(before) or (letter not in "]}" and _CLOSED.search(here[:column]))
    if found:
        return f"a value cannot begin with {found.group('value').strip()} like this: {_QUOTES} ({what})"
    return _unclosed(error, letter) or what + _ADVICE.get(error.problem or "", "")


def _unclosed(error: MarkedYAMLError, letter: str) -> str:
    """What to say of a bracket or a quote without its other half; nothing of anything else."""
    problem, context, mark = error.problem or "", error.context or "", error.context_mark
    at = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"
    if "end of stream" in problem and "quoted" in context and at:
        return f"the quote that begins in {at}, is never closed"
    if "while parsing a flow" in context and at:
        opening, closing = "{}" if "mapping" in context else "[]"
        if letter == ":":
            return f"a second ':' in one value: a comma is missing before it; if it belongs to the text, {_QUOTES}"
        return f"a comma or {closing} is missing before this; the {opening} is in {at}"
    return f"there is one {letter} too many" if letter and letter in "]}" else ""


_ADVICE = {
    "found unknown escape character": "; between single quotes a backslash is nothing special",
    "did not find expected key": "; check the indentation of this line",
    "did not find expected <document start>": "; check the indentation of this line",
}


def _shown(value: Any) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
