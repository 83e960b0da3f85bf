"""What an expression names, and which values that has: ``steps.a.output[0]``, not only ``steps``.

This is for explaining an expression to people after it was evaluated; nothing else needs it, so it is found at need, by
parsing the source once more. ``expressions`` is what evaluates.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from jinja2 import nodes
from jinja2.parser import Parser

from aura.plaindata import to_plain
from aura.sandbox import Sandbox

#: A name and the constant keys behind it: ``("steps", "a", "output", 0)``; ``now()`` counts as a name.
Path = tuple[str | int, ...]

_SANDBOX = Sandbox()
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def values_of(source: str, scope: Mapping[str, Any]) -> dict[Path, Any]:
    """Give the paths that an expression names, in the order in which they are written, and what they are in a scope.

    ``source`` is what stands between ``{{`` and ``}}``, known to be an expression. A path without a value, or whose
    value is no plain data, is left out.
    """
    found: dict[Path, Any] = {}
    for path in _paths(Parser(_SANDBOX, source, state="variable").parse_expression()):
        with suppress(Exception):  # what is wrong with it is said by whoever evaluates the whole
            found[path] = _value_at(path, scope)
    return found


def path_text(path: Path) -> str:
    """A path as an expression says it: ``steps.a.output[0]``, ``inputs["x-y"]``."""
    root, *keys = path
    return str(root) + "".join(_key_text(key) for key in keys)


def _paths(tree: nodes.Node) -> tuple[Path, ...]:
    """The longest paths in a tree, each once."""
    found: dict[Path, None] = {}
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        path = _path_of(node)
        if path is None:
            waiting += reversed(list(node.iter_child_nodes()))
        else:
            found[path] = None
    return tuple(found)


def _path_of(node: nodes.Node) -> Path | None:
    """The path that a node is as a whole, if it is one."""
    keys: list[str | int] = []
    while True:
        match node:
            case nodes.Getattr(node=inner, attr=key):
                keys.append(key)
            case nodes.Getitem(node=inner, arg=nodes.Const(value=str(key) | int(key))):
                keys.append(key)
            case nodes.Name(name=name) if name not in _SANDBOX.globals:
                return (name, *reversed(keys))
            case nodes.Call(node=nodes.Name(name=name), args=[], kwargs=[]) if name not in _SANDBOX.globals:
                return (f"{name}()", *reversed(keys))
            case _:
                return None
        node = inner


def _value_at(path: Path, scope: Mapping[str, Any]) -> Any:
    root, *keys = path
    name = str(root).removesuffix("()")
    value = scope[name] if name == root else scope[name]()
    for key in keys:
        value = _SANDBOX.getitem(value, key)
    return to_plain(value)


def _key_text(key: str | int) -> str:
    return f".{key}" if isinstance(key, str) and _WORD.fullmatch(key) else f"[{json.dumps(key, ensure_ascii=False)}]"
