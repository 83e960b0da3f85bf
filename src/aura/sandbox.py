"""The sandbox in which expressions are evaluated: Jinja's, made to see plain JSON data and nothing else.

``a.b`` is always the key ``b``, never a method; what is asked of null is null; operators that could be asked for any
amount of memory are bounded. An unknown name stays an error until ``default`` or ``is defined`` takes it.
"""

import difflib
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from jinja2 import StrictUndefined, Undefined, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aura.duration import Duration
from aura.filters import FILTERS, GLOBALS, TESTS
from aura.plaindata import MAX_INT_BITS, OpenMapping, TooLarge, bounded_items, bounded_text, to_text
from aura.timefilters import shift, to_moment


class UnknownName(StrictUndefined):
    """The value of an unknown name or key: an error as soon as it is used, whose message names it."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return self._undefined_hint
        name = self._undefined_name
        if isinstance(self._undefined_obj, dict):
            return f"unknown key {name!r}{near(str(name), self._undefined_obj)}"
        return f"unknown name {name!r}"


def near(name: str, known: Iterable[str]) -> str:
    """Give ``; did you mean …?`` if a known name is close to this one, else nothing."""
    close = difflib.get_close_matches(name, [k for k in known if isinstance(k, str)], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class _Generator(CodeGenerator):
    """Jinja's compiler, but ``~`` and slices go through the environment as everything else does."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("environment.concat_texts((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Slice(self, node: nodes.Slice, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("slice(")
        for bound in (node.start, node.stop, node.step):
            self.visit(bound, frame) if bound is not None else self.write("None")
            self.write(", ")
        self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("environment.getitem(")
        self.visit(node.node, frame)
        self.write(", ")
        self.visit(node.arg, frame)
        self.write(")")


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox over plain data."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "-", "*", "/", "**", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=UnknownName, autoescape=False, optimized=False, cache_size=0)
        self.filters = dict(FILTERS)
        self.globals = dict(GLOBALS)
        self.tests = dict(TESTS)

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if obj is None:
            return None
        if isinstance(obj, dict):
            if argument in obj:
                return obj[argument]
            return None if isinstance(obj, OpenMapping) else self.undefined(obj=obj, name=argument)
        if isinstance(obj, list | tuple | str) and isinstance(argument, int | slice):
            return self._element(obj, argument)
        if isinstance(obj, Undefined):
            return obj[argument]  # raises, naming the unknown part before this one
        return self.undefined(hint=f"{_kind(obj)} has no key {argument!r}{_advice(argument)}")

    def _element(self, obj: Any, index: Any) -> Any:
        try:
            return obj[index]
        except IndexError:
            return self.undefined(hint=f"there is no element {index} in {_kind(obj)} of {len(obj)}")

    def concat_texts(self, parts: Iterable[Any]) -> str:
        texts = [to_text(part) for part in parts]
        bounded_text(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, _context: Context, operator: str, left: Any, right: Any) -> Any:
        for side in (left, right):
            if isinstance(side, Undefined):
                str(side)  # raises, naming it
        result = _OPERATORS[operator](left, right)
        if isinstance(result, int) and result.bit_length() > MAX_INT_BITS:
            raise TooLarge(f"the number would have more than {MAX_INT_BITS} bits")
        return result


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", datetime: "a time"}
    return names.get(type(value), f"a {type(value).__name__}")


def _advice(name: Any) -> str:
    return f"; use a filter, such as `| {name}`" if isinstance(name, str) and name in FILTERS else ""


def _add(left: Any, right: Any) -> Any:
    if isinstance(right, Duration) and isinstance(left, datetime | str):
        return shift(to_moment(left), right, 1)
    if isinstance(left, Duration) and isinstance(right, datetime | str):
        return shift(to_moment(right), left, 1)
    if isinstance(left, str) and isinstance(right, str):
        bounded_text(len(left) + len(right))
    if isinstance(left, list) and isinstance(right, list):
        bounded_items(len(left) + len(right))
    return _same_unit(left, right, left + right)


def _subtract(left: Any, right: Any) -> Any:
    if isinstance(right, Duration) and isinstance(left, datetime | str):
        return shift(to_moment(left), right, -1)
    if isinstance(left, datetime) or isinstance(right, datetime):
        return Duration((to_moment(left) - to_moment(right)).total_seconds())
    return _same_unit(left, right, left - right)


def _same_unit(left: Any, right: Any, result: Any) -> Any:
    both = isinstance(left, Duration) and isinstance(right, Duration)
    return Duration(result) if both else result


def _multiply(left: Any, right: Any) -> Any:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, str) and isinstance(other, int):
            bounded_text(len(one) * other)
        if isinstance(one, list) and isinstance(other, int):
            bounded_items(len(one) * other)
    product = left * right
    return Duration(product) if isinstance(left, Duration) or isinstance(right, Duration) else product


def _divide(left: Any, right: Any) -> Any:
    quotient = left / right
    return Duration(quotient) if isinstance(left, Duration) and not isinstance(right, Duration) else quotient


def _power(left: Any, right: Any) -> Any:
    if (
        isinstance(left, int)
        and isinstance(right, int)
        and abs(left) > 1
        and left.bit_length() * right > 2 * MAX_INT_BITS
    ):
        raise TooLarge(f"the number would have more than {MAX_INT_BITS} bits")
    return left**right


def _remainder(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        raise ValueError("% does not format text; use ~ to join, and filters to format")
    return left % right


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": _divide,
    "**": _power,
    "%": _remainder,
}
