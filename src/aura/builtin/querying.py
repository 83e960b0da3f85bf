"""The evaluation of JMESPath expressions, bounded. Imported at the first query.

JMESPath has no loops, but a short expression can ask for any amount of work (``[@, @] | [@, @] | …`` doubles with each
part). So what is done is counted while it is done, and ends at a limit.
"""

from typing import Any

import jmespath  # type: ignore[import-untyped]
from jmespath.exceptions import JMESPathError  # type: ignore[import-untyped]
from jmespath.visitor import TreeInterpreter  # type: ignore[import-untyped]

from aura.actions import MAX_OUTPUT

#: The longest expression, in characters.
MAX_PATH = 4096
#: How much one query may do: nodes of the expression evaluated, elements and texts looked at. About a second.
MAX_WORK = 2_000_000
_TOO_MUCH = "this is too much work for one step; ask for less at once"


def evaluate(data: Any, path: str) -> Any:
    """Give what an expression finds in plain JSON data, or makes of it.

    Raises:
        ValueError: it is no expression, or asks for what cannot be done, or for too much.
    """
    if len(path) > MAX_PATH:
        raise ValueError(f"the path has {len(path)} characters; at most {MAX_PATH} are read")
    try:
        found = _Counting().visit(jmespath.compile(path).parsed, data)
        _size(found, MAX_OUTPUT, "it gives more than a step can")
    except RecursionError:
        raise ValueError(f"{path!r:.100} nests too deeply") from None
    except (JMESPathError, ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{path!r:.100}: {str(error).partition(chr(10))[0][:300]}") from None
    return found


class _Counting(TreeInterpreter):  # type: ignore[misc]
    """Evaluates an expression and counts its work: each node of it, and what is looked at as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self._left = MAX_WORK

    def _count(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise ValueError(_TOO_MUCH)

    def _look_at(self, *values: Any) -> list[dict[str, Any]]:
        """Count values that are about to be looked at as a whole, and give them as nodes."""
        for value in values:
            self._count(_size(value, self._left, _TOO_MUCH, characters=8))
        return [{"type": "literal", "value": value} for value in values]

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self._count(1)
        return super().visit(node, *args, **kwargs)

    def visit_flatten(self, node: Any, value: Any) -> Any:
        base = self.visit(node["children"][0], value)
        if isinstance(base, list):  # before it is made: one long list may be in it many times
            self._count(sum(len(part) for part in base if isinstance(part, list)))
        return super().visit_flatten({"children": [{"type": "literal", "value": base}]}, value)

    def visit_comparator(self, node: Any, value: Any) -> Any:
        sides = [self.visit(child, value) for child in node["children"]]
        return super().visit_comparator({**node, "children": self._look_at(*sides)}, value)

    def visit_function_expression(self, node: Any, value: Any) -> Any:
        arguments = [self.visit(child, value) for child in node["children"]]
        match node["value"], arguments:
            case "join", [str() as separator, list() as texts]:  # the one function whose text is longer than its parts
                self._count(len(separator) * len(texts) // 8)
        return super().visit_function_expression({**node, "children": self._look_at(*arguments)}, value)


def _size(value: Any, limit: int, message: str, *, characters: int = 1) -> int:
    """Count all that is in a value, what stands in it twice twice; so many characters of text are one.

    Raises:
        ValueError: it is more than ``limit``.
    """
    size, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        size += 1
        if isinstance(one, str):
            size += len(one) // characters
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, dict):
            waiting.extend(one)
            waiting.extend(one.values())
        if size > limit:
            raise ValueError(message)
    return size
