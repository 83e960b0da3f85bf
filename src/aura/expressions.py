"""Expressions in plan files: finding ``{{ … }}``, checking it, and rendering a value in which it may stand.

Only ``{{ … }}`` is special. A value that is one whole ``{{ … }}`` keeps its type; anything else renders to text.
Text is rendered once: what an expression gives is data, whatever it looks like. A template is parsed when its plan is
loaded, for its syntax and the names that it uses, and compiled when it is first rendered; both are kept by source text.

``sandbox`` says what an expression may do, ``filters`` what it may call.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.environment import Template as JinjaTemplate
from jinja2.parser import Parser

from aura.errors import ExpressionError, SecretMissing, SecretUnknown
from aura.plaindata import bounded_text, to_plain, to_text
from aura.sandbox import Sandbox, near

#: The longest expression, in characters between ``{{`` and ``}}``.
MAX_EXPRESSION = 4000
#: How deep its operators, calls and brackets may nest.
MAX_EXPRESSION_DEPTH = 100
#: How deep lists and mappings in a plan file may nest.
MAX_DEPTH = 64

#: A name and the constant keys behind it: ``("steps", "a", "output", 0)``.
Keys = tuple[str | int, ...]

_SANDBOX = Sandbox()
_ADVANCE = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^'\"{}()\[\]]+|.", re.DOTALL)
#: A name, or keys after one; Jinja's own words are none.
_DOTTED = re.compile(
    r"(?!(and|else|if|in|is|not|or|true|false|none|True|False|None)\b)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII
)
_PAIRS = {"{": "}", "(": ")", "[": "]"}
#: What the compiled program calls its result; no expression can mean it, since the loader refuses unknown names.
_RESULT = "aura_result"


class ExpressionSyntax(ValueError):
    """A value of a plan file whose expression cannot be read."""


class Expression:
    """One ``{{ … }}``: its source, the names that it uses, and how to evaluate it.

    ``paths`` are the keys of every ``root.key.key`` in it, as ``("root", "key", "key")``, with all their beginnings of
    two keys or more; a key may stand in brackets as well, and be a whole number there.
    """

    __slots__ = ("_evaluate", "_tree", "names", "paths", "source")

    def __init__(self, source: str) -> None:
        self.source = source.strip()
        self._tree: nodes.Expr | None = None
        self._evaluate: Callable[[Mapping[str, Any]], Any] | None = None
        if _DOTTED.fullmatch(self.source):
            root, *keys = self.source.split(".")
            self._evaluate = partial(_follow, root, keys)
            self.names = frozenset({root}) - _SANDBOX.globals.keys()
            self.paths: frozenset[Keys] = frozenset((root, *keys[:end]) for end in range(1, len(keys) + 1))
        else:
            self._tree, uses = _parse(self.source)
            self.names = frozenset(uses.names)
            self.paths = frozenset(uses.paths)

    def evaluate(self, scope: Mapping[str, Any], at: str) -> Any:
        """Give the value, which may be a time, a duration or an iterator still.

        Raises:
            ExpressionError: it has none; the message names the unknown name, the expression and the place.
            SecretMissing, SecretUnknown: it names a secret that is not there.
        """
        try:
            evaluate = self._evaluate or self._compile()
            return evaluate(scope)
        except (SecretMissing, SecretUnknown) as error:
            raise type(error)(f"{error}, in {{{{ {self.source} }}}}: {at}") from None
        except Exception as error:
            raise self.failure(error, at) from None

    def failure(self, error: Exception, at: str) -> ExpressionError:
        """Describe what went wrong, and where."""
        return ExpressionError(f"{_reason(error)}, in {{{{ {self.source} }}}}: {at}")

    def _compile(self) -> Callable[[Mapping[str, Any]], Any]:
        tree = self._tree or _parse(self.source)[0]
        tree.set_environment(_SANDBOX)
        body: list[nodes.Node] = [nodes.Assign(nodes.Name(_RESULT, "store"), tree, lineno=1)]
        self._evaluate = partial(_run, _SANDBOX.from_string(nodes.Template(body, lineno=1)))
        self._tree = None
        return self._evaluate


def _follow(root: str, keys: list[str], scope: Mapping[str, Any]) -> Any:
    """Evaluate ``root.key.key``, which most expressions are, as Jinja would but without it."""
    if root in scope:
        value = scope[root]
    else:
        value = _SANDBOX.globals[root] if root in _SANDBOX.globals else _SANDBOX.undefined(name=root)
    for key in keys:
        value = _SANDBOX.getitem(value, key)
    return value


def _run(program: JinjaTemplate, scope: Mapping[str, Any]) -> Any:
    context = program.new_context(dict(scope))
    for _ in program.root_render_func(context):
        pass
    return context.vars[_RESULT]


def _parse(source: str) -> tuple[nodes.Expr, "_Uses"]:
    if not source:
        raise ExpressionSyntax("there is nothing between {{ and }}")
    if len(source) > MAX_EXPRESSION:
        raise ExpressionSyntax(f"an expression may have at most {MAX_EXPRESSION} characters")
    try:
        parser = Parser(_SANDBOX, source, state="variable")
        tree = parser.parse_expression()
        if not parser.stream.eos:
            raise ExpressionSyntax(f"{parser.stream.current.value!r} is not expected in {{{{ {source} }}}}")
        return tree, _Uses(tree)
    except TemplateError as error:
        raise ExpressionSyntax(f"{error.message} in {{{{ {source} }}}}") from None
    except RecursionError:
        raise ExpressionSyntax("the expression nests too deeply") from None


class _Uses:
    """What an expression uses: found in one walk over its tree."""

    def __init__(self, tree: nodes.Expr) -> None:
        self.names: set[str] = set()
        self.paths: set[Keys] = set()
        waiting: list[tuple[nodes.Node, int]] = [(tree, 0)]
        while waiting:
            node, depth = waiting.pop()
            if depth > MAX_EXPRESSION_DEPTH:
                raise RecursionError
            self._look_at(node)
            waiting += [(child, depth + 1) for child in node.iter_child_nodes()]

    def _look_at(self, node: nodes.Node) -> None:
        match node:
            case nodes.Name(name=name) if name not in _SANDBOX.globals:
                self.names.add(name)
            case nodes.Getattr() | nodes.Getitem():
                if keys := _keys_of(node):
                    self.paths.add(keys)
            case nodes.Filter(name=name):
                _check_known("filter", name, _SANDBOX.filters)
            case nodes.Test(name=name):
                _check_known("test", name, _SANDBOX.tests)


def _keys_of(node: nodes.Node) -> Keys:
    """The keys of ``root.key["key"][0]``; none if another thing than a name or a constant key is in it."""
    match node:
        case nodes.Name(name=name):
            return (name,)
        case (
            nodes.Getattr(node=inner, attr=str() as key)
            | nodes.Getitem(node=inner, arg=nodes.Const(value=str() | int() as key))
        ):
            before = _keys_of(inner)
            return (*before, key) if before else ()
    return ()


def _check_known(kind: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise ExpressionSyntax(f"there is no {kind} {name!r}{near(name, known)}")


def _reason(error: Exception) -> str:
    match error:
        case RecursionError():
            return "the expression nests too deeply"
        case ZeroDivisionError():
            return "division by zero"
        case TemplateError():
            return error.message or type(error).__name__
        case TypeError() | ValueError():
            return str(error)
    return f"{type(error).__name__}: {error}"


@lru_cache(maxsize=4096)
def expression(source: str) -> Expression:
    """Give the expression of a source text, parsed once.

    Raises:
        ExpressionSyntax: it is none.
    """
    return Expression(source)


# -- values -----------------------------------------------------------------------------------------------------------


def split(text: str) -> list[str | Expression]:
    """Split a text into what stays as it is and the expressions in it.

    Raises:
        ExpressionSyntax: a ``{{`` is never closed, or what is in it is no expression.
    """
    parts: list[str | Expression] = []
    position = 0
    while (opening := text.find("{{", position)) >= 0:
        closing = _find_end(text, opening + 2)
        if opening > position:
            parts.append(text[position:opening])
        parts.append(expression(text[opening + 2 : closing]))
        position = closing + 2
    if position < len(text):
        parts.append(text[position:])
    return parts


def _find_end(text: str, position: int) -> int:
    """Find the ``}}`` that closes an expression: outside of its own strings and brackets."""
    expected: list[str] = []
    while position < len(text):
        if not expected and text.startswith("}}", position):
            return position
        found = _ADVANCE.match(text, position)
        token = found.group() if found else text[position]
        if token in _PAIRS:
            expected.append(_PAIRS[token])
        elif expected and token == expected[-1]:
            expected.pop()
        position += len(token)
    raise ExpressionSyntax("a {{ is never closed; a literal one is written {{ '{{' }}")


class Template:
    """One value of a plan file, nested lists and mappings included.

    ``constant`` says that there is no ``{{ … }}`` in it: rendering gives the value itself. ``names`` are the root names
    that it uses, ``paths`` the keys of every ``root.key.key`` (see ``Expression``), ``at`` is its ``file:line``.
    """

    __slots__ = ("_render", "at", "constant", "names", "paths", "value")

    def __init__(self, value: Any, at: str) -> None:
        self.value = value
        self.at = at
        found: list[Expression] = []
        self._render = _renderer(value, at, found, 0)
        self.constant = not found
        self.names = frozenset().union(*(e.names for e in found))
        self.paths: frozenset[Keys] = frozenset().union(*(e.paths for e in found))

    @property
    def steps_named(self) -> frozenset[str]:
        """The ``x`` of every ``steps.x``."""
        return frozenset(str(path[1]) for path in self.paths if path[0] == "steps")

    def render(self, scope: Mapping[str, Any]) -> Any:
        """Give the value as plain JSON data.

        Raises:
            ExpressionError: an expression in it has no value; the message says why and where.
        """
        return self.value if self.constant else self._render(scope)

    def __repr__(self) -> str:
        return f"Template({self.value!r}, {self.at!r})"


_Render = Callable[[Mapping[str, Any]], Any]


def _renderer(value: Any, at: str, found: list[Expression], depth: int) -> _Render:
    if depth > MAX_DEPTH:
        raise ExpressionSyntax(f"the value nests deeper than {MAX_DEPTH} levels")
    match value:
        case str() if "{{" in value:
            return _text_renderer(value, at, found)
        case dict():
            members = {key: _renderer(item, at, found, depth + 1) for key, item in value.items()}
            return lambda scope: {key: render(scope) for key, render in members.items()}
        case list():
            items = [_renderer(item, at, found, depth + 1) for item in value]
            return lambda scope: [render(scope) for render in items]
    return lambda _: value


def _text_renderer(text: str, at: str, found: list[Expression]) -> _Render:
    parts = split(text)
    found.extend(part for part in parts if isinstance(part, Expression))
    if len(parts) == 1 and isinstance(parts[0], Expression):
        whole = parts[0]
        return lambda scope: _finish(whole, scope, at, to_plain)
    return lambda scope: _join(parts, scope, at)


def _finish(one: Expression, scope: Mapping[str, Any], at: str, into: Callable[[Any], Any]) -> Any:
    value = one.evaluate(scope, at)
    try:
        return into(value)
    except Exception as error:
        raise one.failure(error, at) from None


def _join(parts: list[str | Expression], scope: Mapping[str, Any], at: str) -> str:
    texts = [part if isinstance(part, str) else _finish(part, scope, at, to_text) for part in parts]
    try:
        bounded_text(sum(map(len, texts)))
    except ValueError as error:
        raise ExpressionError(f"{error}: {at}") from None
    return "".join(texts)


class Condition:
    """The value of ``when``: one whole ``{{ … }}``, or true or false. ``names`` and ``paths`` as a template's."""

    __slots__ = ("_template", "at", "constant", "names", "paths", "value")

    def __init__(self, value: Any, at: str) -> None:
        value = value.strip() if isinstance(value, str) else value
        if not isinstance(value, bool) and not is_whole(value):
            raise ExpressionSyntax("a condition is one whole {{ … }}, or true or false")
        self._template = Template(value, at)
        self.value = value
        self.at = at
        self.constant = self._template.constant
        self.names = self._template.names
        self.paths = self._template.paths

    @property
    def steps_named(self) -> frozenset[str]:
        """The ``x`` of every ``steps.x``."""
        return self._template.steps_named

    def test(self, scope: Mapping[str, Any]) -> bool:
        """Say whether it holds; null, 0 and what is empty count as false.

        Raises:
            ExpressionError: it has no value, or its value is text, which would always seem true.
        """
        result = self._template.render(scope)
        if isinstance(result, str):
            raise ExpressionError(f"a condition gave the text {result[:60]!r}; compare it with something: {self.at}")
        return bool(result)

    def __repr__(self) -> str:
        return f"Condition({self.value!r}, {self.at!r})"


def is_whole(value: Any) -> bool:
    """Say whether a value of a plan file is one whole ``{{ … }}``.

    Raises:
        ExpressionSyntax: an expression in it cannot be read.
    """
    if not isinstance(value, str):
        return False
    parts = split(value)
    return len(parts) == 1 and isinstance(parts[0], Expression)


def template(value: Any, at: str) -> Template:
    """Read a value of a plan file; ``at`` is its ``file:line``, for messages.

    Raises:
        ExpressionSyntax: an expression in it cannot be read.
    """
    return Template(value, at)


def condition(value: Any, at: str) -> Condition:
    """Read the value of ``when``.

    Raises:
        ExpressionSyntax: it is no condition.
    """
    return Condition(value, at)
