"""A plan's Python read without running it: syntax errors, and the actions and services that it will define.

What cannot be known without running the code (an action made in a loop, a decorator of the plan's own) makes the scan
*incomplete*: then an action that it did not find is no error yet, and the import will tell. If there may be a service
that it did not find, the parameters of all actions are uncertain: one of them may be given by it.
"""

import ast
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import msgspec

from aura.actions import not_for_a_process
from aura.errors import Problem
from aura.servicedef import NO_GENERATOR, circle_message, find_circle, nobody_gives

_HOMES = ("aura", "aura.actions", "aura.servicedef")
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Kind = Literal["action", "service"]
_KINDS: tuple[_Kind, ...] = ("action", "service")


class Shape(msgspec.Struct, frozen=True):
    """The parameters of an action by name; ``loose`` says that they could not be read for certain."""

    parameters: tuple[str, ...]
    required: frozenset[str]
    loose: bool = False


class Scan(msgspec.Struct, frozen=True):
    """What was found in a plan's Python files: actions by bare name, where each begins, and problems.

    ``services`` are by name as well; none of the ``actions`` has a parameter that one of them gives.
    """

    actions: Mapping[str, Shape]
    places: Mapping[str, tuple[str, int, int]]
    complete: bool
    problems: tuple[Problem, ...]
    services: Mapping[str, Shape] = {}


class _Found(NamedTuple):
    """What a mark was found on, and where. ``odd``: it is no async generator; ``isolated``: see ``actions``."""

    name: str
    shape: Shape
    place: tuple[str, int, int]
    odd: bool
    isolated: bool


def scan(plan_name: str, files: Mapping[str, bytes]) -> Scan:
    """Look at the Python files of a plan."""
    found: dict[_Kind, dict[str, _Found]] = {"action": {}, "service": {}}
    problems: list[Problem] = []
    complete = sure = True
    for path, source in files.items():
        if not path.endswith(".py"):
            continue
        file = f"{plan_name}/{path}"
        tree = _parse(file, source)
        if isinstance(tree, Problem):
            problems.append(tree)
            continue
        module = _Module(tree)
        complete, sure = complete and module.complete, sure and module.knows_services
        for kind in _KINDS:
            for one in module.found[kind]:
                one = one._replace(place=(file, *one.place[1:]))
                if (former := found[kind].setdefault(one.name, one)) is not one:
                    message = f"the {kind} {one.name!r} is in {former.place[0]}:{former.place[1]} already"
                    problems.append(Problem(*one.place, f"{message}; its name is unique"))
    actions, services = found["action"], found["service"]
    problems += _service_problems(actions, services, sure=sure)
    shapes = {name: _without(one.shape, services, loose=not sure) for name, one in actions.items()}
    places = {name: one.place for name, one in actions.items()}
    needs = {name: one.shape for name, one in services.items()}
    return Scan(shapes, places, complete and not problems, tuple(problems), needs)


def _without(shape: Shape, services: Mapping[str, _Found], *, loose: bool) -> Shape:
    """An action's parameters but for those that are given by services."""
    if not loose and not services:
        return shape
    names = tuple(name for name in shape.parameters if name not in services)
    return Shape(names, shape.required - services.keys(), shape.loose or loose)


def _service_problems(
    actions: Mapping[str, _Found], services: Mapping[str, _Found], *, sure: bool
) -> Iterator[Problem]:
    """What is wrong with services as far as no import is needed to know it; ``sure`` says that there are no others."""
    for name, one in services.items():
        if one.odd:
            yield Problem(*one.place, f"service {name}: {NO_GENERATOR}")
        if not name.isidentifier() or name == "ctx":
            yield Problem(*one.place, f"service {name}: no parameter of an action can have this name")
        if name in actions:
            yield Problem(*one.place, f"service {name}: an action of this plan has that name; rename one of them")
        if sure and not one.shape.loose:
            unknown = [key for key in one.shape.parameters if key in one.shape.required and key not in services]
            yield from (Problem(*one.place, nobody_gives(name, key)) for key in unknown)
    circle = find_circle({n: [p for p in one.shape.parameters if p in services] for n, one in services.items()})
    if circle:
        yield Problem(*services[circle[0]].place, circle_message(circle))
    for name, one in actions.items():
        if one.isolated and (given := [key for key in one.shape.parameters if key in services]):
            yield Problem(*one.place, not_for_a_process(name, given[0]))


def _parse(file: str, source: bytes) -> ast.Module | Problem:
    try:
        return ast.parse(source, file)
    except SyntaxError as error:
        return Problem(file, error.lineno or 1, error.offset or 1, f"{type(error).__name__}: {error.msg}")
    except (ValueError, MemoryError, RecursionError) as error:
        return Problem(file, 1, 1, f"this is not Python: {error or 'it nests too deeply'}")


class _Module:
    """One module: which names stand for the marks and ``Context`` in it, and the functions that are marked.

    ``complete`` and ``knows_services`` say that it has no other actions, and no other services.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._marks: dict[str, _Kind] = {}
        self._contexts: set[str] = {"Context"}
        self._modules: set[str] = set()
        self.complete = self.knows_services = True
        self.found: dict[_Kind, list[_Found]] = {"action": [], "service": []}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._read_import(node)
        for function in _functions(tree):
            self._read_function(function)
        used = [self._marks[n.id] for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in self._marks]
        self.complete = self.complete and used.count("action") <= len(self.found["action"])
        self.knows_services = self.knows_services and used.count("service") <= len(self.found["service"])

    def _read_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            self._modules.update(alias.asname or alias.name for alias in node.names if alias.name in _HOMES)
        elif node.module in _HOMES and not node.level:
            for alias in node.names:
                name = alias.asname or alias.name
                if kind := _kind_of(alias.name):
                    self._marks[name] = kind
                elif alias.name == "Context":
                    self._contexts.add(name)
                elif alias.name == "*":
                    self._marks |= {kind: kind for kind in _KINDS}

    def _read_function(self, node: _Function) -> None:
        marks = [(kind, decorator) for decorator in node.decorator_list if (kind := self._mark(_called(decorator)))]
        if len(marks) < len(node.decorator_list) and not any(kind == "service" for kind, _ in marks):
            self.complete = False
        if not marks:
            return
        kind, mark = marks[0]
        name = _given_name(mark, node.name)
        alone = len(node.decorator_list) == 1
        if name is not None:
            odd = alone and kind == "service" and not _is_async_generator(node)
            place = ("", node.lineno, node.col_offset + 1)
            shape = self._shape(node, loose=not alone)
            self.found[kind].append(_Found(name, shape, place, odd, _is_isolated(mark)))
        elif kind == "action":
            self.complete = False
        else:
            self.knows_services = False

    def _mark(self, node: ast.expr) -> _Kind | None:
        match node:
            case ast.Name(id=name):
                return self._marks.get(name)
            case ast.Attribute(attr=attribute):
                return _kind_of(attribute) if ast.unparse(node.value) in self._modules else None
        return None

    def _shape(self, node: _Function, *, loose: bool) -> Shape:
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


def _kind_of(name: str) -> _Kind | None:
    return next((kind for kind in _KINDS if kind == name), None)


def _is_async_generator(node: _Function) -> bool:
    """Whether there is a ``yield`` in an ``async def``, and not only in a function inside it."""
    waiting: list[ast.AST] = list(node.body) if isinstance(node, ast.AsyncFunctionDef) else []
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, ast.Yield):
            return True
        if not isinstance(inner, _Function | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(inner)
    return False


def _is_isolated(mark: ast.expr) -> bool:
    keywords = mark.keywords if isinstance(mark, ast.Call) else ()
    return any(k.arg == "isolation" and isinstance(k.value, ast.Constant) and k.value.value for k in keywords)


def _functions(tree: ast.Module) -> Iterator[_Function]:
    """The functions that are names of the module: at its top, or in an ``if``, ``try`` or ``with`` there."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, _Function):
            yield node
        elif not isinstance(node, ast.ClassDef):
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            waiting += [s for h in getattr(node, "handlers", ()) for s in h.body]


def _called(decorator: ast.expr) -> ast.expr:
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def _given_name(mark: ast.expr, default: str) -> str | None:
    """The name of what is marked: the function's, or what ``name=`` says; None if that is no constant."""
    for keyword in mark.keywords if isinstance(mark, ast.Call) else ():
        if keyword.arg == "name":
            value = keyword.value
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
    return default
