"""A plan's Python read without running it: syntax errors, and the actions that it will define.

What cannot be known without running the code (an action made in a loop, a decorator of the plan's own) makes the scan
*incomplete*: then an action that it did not find is no error yet, and the import will tell.
"""

import ast
from collections.abc import Iterator, Mapping

import msgspec

from aura.errors import Problem

_HOMES = ("aura", "aura.actions")


class Shape(msgspec.Struct, frozen=True):
    """The parameters of an action by name; ``loose`` says that they could not be read for certain."""

    parameters: tuple[str, ...]
    required: frozenset[str]
    loose: bool = False


class Scan(msgspec.Struct, frozen=True):
    """What was found in a plan's Python files: actions by bare name, where each begins, and problems."""

    actions: Mapping[str, Shape]
    places: Mapping[str, tuple[str, int, int]]
    complete: bool
    problems: tuple[Problem, ...]


def scan(plan_name: str, files: Mapping[str, bytes]) -> Scan:
    """Look at the Python files of a plan."""
    actions: dict[str, Shape] = {}
    places: dict[str, tuple[str, int, int]] = {}
    problems: list[Problem] = []
    complete = True
    for path, source in files.items():
        if not path.endswith(".py"):
            continue
        file = f"{plan_name}/{path}"
        tree = _parse(file, source)
        if isinstance(tree, Problem):
            problems.append(tree)
            continue
        module = _Module(tree)
        complete = complete and module.complete
        for name, shape, node in module.actions:
            place = (file, node.lineno, node.col_offset + 1)
            if name in places:
                first = f"{places[name][0]}:{places[name][1]}"
                problems.append(Problem(*place, f"the action {name!r} is in {first} already; its name is unique"))
            places.setdefault(name, place)
            actions.setdefault(name, shape)
    return Scan(actions, places, complete and not problems, tuple(problems))


def _parse(file: str, source: bytes) -> ast.Module | Problem:
    try:
        return ast.parse(source, file)
    except SyntaxError as error:
        return Problem(file, error.lineno or 1, error.offset or 1, f"{type(error).__name__}: {error.msg}")
    except (ValueError, MemoryError, RecursionError) as error:
        return Problem(file, 1, 1, f"this is not Python: {error or 'it nests too deeply'}")


class _Module:
    """One module: which names stand for ``action`` and ``Context`` in it, and the functions that are marked."""

    def __init__(self, tree: ast.Module) -> None:
        self._marks: set[str] = set()
        self._contexts: set[str] = {"Context"}
        self._modules: set[str] = set()
        self.complete = True
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._read_import(node)
        self.actions = [found for function in _functions(tree) if (found := self._read_function(function))]
        used = sum(isinstance(node, ast.Name) and node.id in self._marks for node in ast.walk(tree))
        if used > len(self.actions):
            self.complete = False

    def _read_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            self._modules.update(alias.asname or alias.name for alias in node.names if alias.name in _HOMES)
        elif node.module in _HOMES and not node.level:
            for alias in node.names:
                name = alias.asname or alias.name
                if alias.name == "action":
                    self._marks.add(name)
                elif alias.name == "Context":
                    self._contexts.add(name)
                elif alias.name == "*":
                    self._marks.add("action")

    def _read_function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef
    ) -> tuple[str, Shape, ast.FunctionDef | ast.AsyncFunctionDef] | None:
        marks = [decorator for decorator in node.decorator_list if self._is_mark(_called(decorator))]
        if len(marks) < len(node.decorator_list):
            self.complete = False
        if not marks:
            return None
        name = _given_name(marks[0], node.name)
        if name is None:
            self.complete = False
            return None
        return name, self._shape(node, loose=len(node.decorator_list) > 1), node

    def _is_mark(self, node: ast.expr) -> bool:
        match node:
            case ast.Name(id=name):
                return name in self._marks
            case ast.Attribute(attr="action"):
                return ast.unparse(node.value) in self._modules
        return False

    def _shape(self, node: ast.FunctionDef | ast.AsyncFunctionDef, *, loose: bool) -> Shape:
        arguments = node.args
        positional = [*arguments.posonlyargs, *arguments.args]
        optional = len(positional) - len(arguments.defaults)
        required = {argument.arg for argument in positional[:optional]}
        required |= {
            a.arg for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if not default
        }
        names = [argument.arg for argument in (*positional, *arguments.kwonlyargs)]
        if positional and self._is_context(positional[0]):
            required.discard(names.pop(0))
        return Shape(tuple(names), frozenset(required), loose)

    def _is_context(self, argument: ast.arg) -> bool:
        if argument.arg == "ctx" or argument.annotation is None:
            return argument.arg == "ctx"
        return ast.unparse(argument.annotation).strip("'\"").rsplit(".", 1)[-1] in self._contexts


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions that are names of the module: at its top, or in an ``if``, ``try`` or ``with`` there."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        elif not isinstance(node, ast.ClassDef):
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            waiting += [s for h in getattr(node, "handlers", ()) for s in h.body]


def _called(decorator: ast.expr) -> ast.expr:
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def _given_name(mark: ast.expr, default: str) -> str | None:
    """The action's name: the function's, or what ``name=`` says; None if that is no constant."""
    for keyword in mark.keywords if isinstance(mark, ast.Call) else ():
        if keyword.arg == "name":
            value = keyword.value
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
    return default
