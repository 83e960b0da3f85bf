"""Locks that a run has left held: those that can be reached from the plan's modules and from its open services.

Looked through are module globals, class attributes, objects of the plan's own classes, containers and what functions
close over: at most ``MOST`` values, ``DEEPEST`` steps from a module. A lock is a leak if more of it is taken than
before; of a semaphore without a bound that was made meanwhile nobody can say. While another run goes on nothing is
said: it may hold them.

Nothing tells who has taken a lock, so the line is that of the one ``….acquire()`` on its name in the plan's code, or,
if there are none or several, that where it is made.
"""

import _thread
import ast
import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from types import CellType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import anyio

from aura.engine.engine import Engine
from aura.loading.generations import Generations
from aura.loading.importing import PACKAGE
from aura.testing.detectors.detector import Leak

MOST, DEEPEST = 5_000, 6
#: How many values of one container are looked at.
_IN_ONE = 1_000
_ACQUIRES = ("acquire", "acquire_nowait", "acquire_on_behalf_of", "acquire_on_behalf_of_nowait")
#: Of these nothing is looked at.
_SKIPPED = (
    str,
    bytes,
    bytearray,
    int,
    float,
    complex,
    type(None),
    threading.Thread,
    asyncio.Future,
    asyncio.AbstractEventLoop,
)


def _bounded(value: Any, bound: str, left: str) -> float:
    taken: float = getattr(value, bound) - getattr(value, left)
    return taken


#: How much is taken, by class; of several that fit the first counts. It is negative for what has no bound.
_TAKEN: list[tuple[type, Callable[[Any], float]]] = [
    (_thread.LockType, lambda lock: lock.locked()),
    (type(threading.RLock()), lambda lock: repr(lock).startswith("<locked")),  # it has no other word for it
    (threading.Condition, lambda condition: taken_of(condition._lock) or 0),
    (threading.BoundedSemaphore, lambda one: _bounded(one, "_initial_value", "_value")),
    (threading.Semaphore, lambda one: -one._value),
    (asyncio.Lock, lambda lock: lock.locked()),
    (asyncio.Condition, lambda condition: condition.locked()),
    (asyncio.BoundedSemaphore, lambda one: _bounded(one, "_bound_value", "_value")),
    (asyncio.Semaphore, lambda one: -one._value),
    (anyio.Lock, lambda lock: lock.locked()),
    (anyio.Condition, lambda condition: condition.locked()),
    (anyio.Semaphore, lambda one: (one.max_value or 0) - one.value),
    (anyio.CapacityLimiter, lambda limiter: limiter.borrowed_tokens),
]


def taken_of(value: object) -> float | None:
    """How much of a lock is taken; None if it is none. Without a bound it is how much is left, negative."""
    kind = type(value)  # what ``__class__`` says may be a lie
    for known, taken in _TAKEN:
        if issubclass(kind, known):
            return taken(value)
    return None


class Place(NamedTuple):
    """Where a value was found: the file or service that it belongs to, and the way from there.

    ``modules`` are those in whose text its lines are looked for.
    """

    file: str
    path: str
    modules: Sequence[ModuleType]
    of_service: bool = False

    def at(self, more: str) -> "Place":
        return self._replace(path=f"{self.path}{more}" if self.path else more.removeprefix("."))


class _Found(NamedTuple):
    place: Place
    lock: object
    taken: float


class Locks:
    """Detects locks that are held."""

    def __init__(self, engine: Callable[[], Engine | None]) -> None:
        self._engine = engine
        self._before: dict[int, _Found] = {}

    def begin(self) -> None:
        self._before = {id(found.lock): found for found in self._all()}

    def left(self) -> list[Leak]:
        engine = self._engine()
        if engine is not None and any(not run.stuck for run in engine.runtime.open.values()):
            return []
        return [_leak(found) for found in self._all() if self._is_held(found)]

    def close(self) -> None:
        self._before = {}

    def _is_held(self, found: _Found) -> bool:
        before = self._before.get(id(found.lock))  # which is kept there: no other object has its id
        if before is None:
            return found.taken > 0
        return found.taken > before.taken

    def _all(self) -> list[_Found]:
        engine = self._engine()
        if engine is None:
            return []
        modules = _modules_of(engine.runtime.generations)
        roots: list[tuple[Place, Any]] = [(Place(_file_of(module), "", modules), module) for module in modules]
        for name, value in engine.runtime.services.opened():
            roots.append((Place(f"service {name}", "", modules, of_service=True), value))
        return list(_reachable(roots))


def _modules_of(generations: Generations) -> list[ModuleType]:
    """All modules of the versions of plans that are served, by name."""
    served = [generations.current(status.name) for status in generations.statuses() if status.generation]
    functions = [action.function for plan in served for action in plan.actions.values()]
    functions += [service.function for plan in served for service in plan.services.values()]
    packages = tuple({f"{str(function.__module__).partition('.')[0]}." for function in functions})
    return [sys.modules[name] for name in sorted(name for name in sys.modules if name.startswith(packages))]


def _file_of(module: ModuleType) -> str:
    path = "/".join(module.__name__.split(".")[1:])
    return f"{path}/__init__.py" if hasattr(module, "__path__") else f"{path}.py"


def _reachable(roots: Sequence[tuple[Place, Any]]) -> Iterator[_Found]:
    """The locks that are reached, those that are nearest to a module first, each once."""
    todo = deque((place, value, 0) for place, value in roots)
    seen: set[int] = {id(value) for _, value in roots}
    while todo and len(seen) < MOST:
        place, value, depth = todo.popleft()
        taken = taken_of(value)
        if taken is not None:
            yield _Found(place, value, taken)
        elif depth < DEEPEST:
            for more, inner in _inside(value):
                if id(inner) not in seen and not issubclass(type(inner), _SKIPPED):
                    seen.add(id(inner))
                    todo.append((place.at(more), inner, depth + 1))


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value leads to, with what is written behind its name for that."""
    kind = type(value)
    if issubclass(kind, dict):
        yield from ((f"[{key!r:.40}]", inner) for key, inner in islice(list(value.items()), _IN_ONE))
    elif issubclass(kind, list | tuple | set | frozenset | deque):
        yield from ((f"[{index}]", inner) for index, inner in enumerate(islice(list(value), _IN_ONE)))
    elif issubclass(kind, ModuleType):
        yield from _attributes(vars(value)) if value.__name__.startswith(PACKAGE) else ()
    elif issubclass(kind, type):
        yield from _attributes(vars(value)) if _is_a_plans(value) else ()
    elif kind is FunctionType:
        yield from _closed_over(value) if _is_a_plans(value) else ()
    elif kind is MethodType:
        yield ".__self__", value.__self__
    elif kind is partial:
        yield from ((".args", value.args), (".keywords", value.keywords), (".func", value.func))
    elif kind is SimpleNamespace or any(_is_a_plans(base) for base in kind.__mro__):
        yield from _attributes(getattr(value, "__dict__", {}))
        yield from _slots(value)


def _is_a_plans(defined: type | FunctionType) -> bool:
    """Whether a class or a function is of a plan. What libraries keep in their own objects is theirs."""
    return str(defined.__module__).startswith(PACKAGE)


def _attributes(names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((f".{name}", inner) for name, inner in list(names.items())[:_IN_ONE] if not name.startswith("__"))


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__") and (inner := getattr(value, name, None)) is not None:
                yield f".{name}", inner


def _closed_over(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        if (inner := _content(cell)) is not None:
            yield f".{name}", inner
    yield from _attributes(vars(function))
    if (wrapped := vars(function).get("__wrapped__")) is not None:
        yield "", wrapped


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


# -- the line


def _leak(found: _Found) -> Leak:
    place = found.place
    return Leak("lock", f"{place.file}: {place.path or 'its value'}", _line_of(place))


def _line_of(place: Place) -> str | None:
    """Where it was taken, else where it is made, as far as the text of the plan's modules tells that."""
    name = place.path.rpartition(".")[2].partition("[")[0]
    is_global = "." not in place.path and not place.of_service
    taken, made = [], []
    for module in place.modules:
        tree = _tree_of(module)
        for node in ast.walk(tree):
            if _takes(node, name, is_global):
                taken.append(_line(module, node))
            elif _makes(node, name) and (node in tree.body) == is_global:
                made.append(_line(module, node))
    return taken[0] if len(taken) == 1 else next(iter(made), None)


def _tree_of(module: ModuleType) -> ast.Module:
    loader: Any = module.__spec__.loader if module.__spec__ else None
    tree: ast.Module = ast.parse(loader.get_source(module.__name__))
    return tree


def _takes(node: ast.AST, name: str, is_global: bool) -> bool:
    """Whether a node calls ``name.acquire()``, or, of what is no global, ``….name.acquire()``."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _ACQUIRES):
        return False
    return _name_of(node.func.value) == name and isinstance(node.func.value, ast.Name) == is_global


def _makes(node: ast.AST, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return name in map(_name_of, targets)


def _name_of(node: ast.expr) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def _line(module: ModuleType, node: Any) -> str:
    plan = module.__name__.partition(".")[0].removeprefix(PACKAGE).partition("_")[2]
    return f"{plan}/{_file_of(module)}:{node.lineno}"
