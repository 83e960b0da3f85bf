"""Actions: what a step does, as a Python function with checked parameters.

``@action`` marks a function; ``Action.of`` reads its signature once. Parameters and result are checked against the
annotations by msgspec and appear as JSON Schema. An ``async def`` runs on the event loop and is stopped by a
cancellation at an await; a ``def`` runs in a worker thread and cannot be stopped, only waited for.

Nothing here starts anything: the attempt (``attempt.py``) owns the scopes and calls ``Action.function``.
"""

import inspect
import math
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, overload

import msgspec

from aura import duration
from aura.context import Context
from aura.errors import BadOutput, ParamsInvalid

F = TypeVar("F", bound=Callable[..., Any])

#: The largest result of an action, and so of a step's output, in bytes of JSON.
MAX_OUTPUT = 1024 * 1024
MAX_OUTPUT_DEPTH = 64
_MARK = "__aura_action__"


class _Mark(msgspec.Struct, frozen=True):
    name: str | None
    isolation: str | None


@overload
def action(function: F, /) -> F: ...
@overload
def action(*, name: str | None = None, isolation: Literal["process"] | None = None) -> Callable[[F], F]: ...


def action(function: Any = None, /, *, name: str | None = None, isolation: Literal["process"] | None = None) -> Any:
    """Mark a function as an action. Its name is the function's, unless ``name`` gives another.

    ``isolation="process"``: each call runs in a process of its own, so that it can be killed, whatever it does.
    The function stays what it was, so that Python code may call it as ever.
    """

    def mark(marked: F) -> F:
        setattr(marked, _MARK, _Mark(name, isolation))
        return marked

    return mark(function) if function is not None else mark


def is_action(candidate: object) -> bool:
    """Say whether ``@action`` marked this object."""
    return isinstance(getattr(candidate, _MARK, None), _Mark)


class Action(msgspec.Struct, frozen=True):
    """One action, with what is known of its signature.

    ``plan_name`` is None for a shipped one. ``params`` is a msgspec struct type with a field for each parameter;
    ``result`` is the annotation of the result (``Any`` if there is none).
    """

    name: str
    plan_name: str | None
    function: Callable[..., Any]
    is_async: bool
    wants_context: bool
    params: type[msgspec.Struct]
    result: Any
    description: str
    file: str
    line: int
    #: It runs in a process of its own.
    isolated: bool = False
    #: The services of its plan that it is given, by the parameters of their names.
    services: tuple[str, ...] = ()

    @classmethod
    def of(cls, function: Callable[..., Any], plan_name: str | None = None, services: Collection[str] = ()) -> "Action":
        """Read an action from a function that ``@action`` marked; ``services`` are those of its plan by name.

        Raises:
            TypeError: the signature cannot be an action's; the message says why and what to change.
        """
        mark: _Mark = getattr(function, _MARK)
        name = mark.name or function.__name__
        if mark.isolation not in (None, "process"):
            raise TypeError(f"action {name}: isolation={mark.isolation!r}: it is 'process', or not given")
        wants_context, given, fields, result = _read_signature(name, function, services)
        if given and mark.isolation:
            raise TypeError(not_for_a_process(name, given[0]))
        code = inspect.unwrap(function).__code__
        return cls(
            name=f"{plan_name}.{name}" if plan_name else name,
            plan_name=plan_name,
            function=function,
            is_async=inspect.iscoroutinefunction(function),
            wants_context=wants_context,
            params=msgspec.defstruct("Params", fields, kw_only=True, forbid_unknown_fields=True),
            result=result,
            description=_first_line(function.__doc__),
            file=code.co_filename,
            line=code.co_firstlineno,
            isolated=mark.isolation == "process",
            services=given,
        )

    def bind(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Check plain data against the signature and give the keyword arguments.

        Raises:
            ParamsInvalid: a parameter is missing, unknown, or of another type.
        """
        if not params and not self.params.__struct_fields__:
            return {}
        try:
            made = msgspec.convert(params, self.params, dec_hook=duration.decode_hook)
        except msgspec.ValidationError as error:
            raise ParamsInvalid(f"{self.name}: {error}; see `aura actions` for its parameters") from None
        return {field: getattr(made, field) for field in self.params.__struct_fields__}

    def check_result(self, value: Any) -> Any:
        """Give the result as plain JSON data.

        Raises:
            BadOutput: it is not JSON, nests too deeply, or is not what the annotation says.
        """
        data = plain_json(value)
        if self.result is Any or data is None:
            return data
        try:
            msgspec.convert(data, self.result, dec_hook=decode_result)
        except msgspec.ValidationError as error:
            raise BadOutput(f"{self.name} returned what its annotation does not allow: {error}") from None
        return data

    def params_schema(self) -> dict[str, Any]:
        """JSON Schema of the parameters."""
        return _schema(self.params)

    def result_schema(self) -> dict[str, Any]:
        """JSON Schema of the result."""
        return {} if self.result is Any else _schema(self.result)


def too_large(size: int) -> BadOutput:
    """What to raise for a result of so many bytes of JSON, which is more than ``MAX_OUTPUT``."""
    return BadOutput(f"the result is {size} bytes of JSON; at most {MAX_OUTPUT} are kept: write it to a file")


def plain_json(value: Any, depth: int = 0) -> Any:
    """Turn a value into plain JSON data: None, bool, int, finite float, str, list, dict with text keys.

    Structs, dataclasses, dates, UUIDs, enums and paths become what msgspec makes of them.

    Raises:
        BadOutput: the value has no exact JSON form (NaN, a set, an object), or nests deeper than 64.
    """
    match value:
        case None | bool() | str():
            return value if type(value) in (type(None), bool, str) else str(value)
        case int():
            return int(value)
        case float() if math.isfinite(value):
            return float(value)
        case float() | set() | frozenset() | bytes() | bytearray() | memoryview():
            raise BadOutput(f"{value!r:.80} is not JSON; return text, numbers, lists and mappings")
        case _ if depth >= MAX_OUTPUT_DEPTH:
            raise BadOutput(f"the value nests deeper than {MAX_OUTPUT_DEPTH} levels")
        case list() | tuple():
            return [plain_json(item, depth + 1) for item in value]
        case dict():
            return {_text_key(key): plain_json(item, depth + 1) for key, item in value.items()}
        case Path():
            return str(value)
    try:
        return plain_json(msgspec.to_builtins(value), depth + 1)
    except (TypeError, RecursionError):
        raise BadOutput(f"{type(value).__name__} is not JSON; return text, numbers, lists and mappings") from None


def _text_key(key: Any) -> str:
    if not isinstance(key, str):
        raise BadOutput(f"the key {key!r:.80} is not text; JSON has no other keys")
    return str(key)


def _first_line(doc: str | None) -> str:
    return inspect.cleandoc(doc).partition("\n")[0] if doc else ""


def not_for_a_process(name: str, service: str) -> str:
    """What to say of an action in a process of its own that is to be given a service."""
    return (
        f"action {name}: it runs in a process of its own, and the service {service} lives in the server's: "
        "what a service yields cannot be handed to another process"
    )


def _read_signature(
    name: str, function: Callable[..., Any], services: Collection[str]
) -> tuple[bool, tuple[str, ...], list[tuple[str, Any, Any]], Any]:
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())
    wants_context = bool(parameters) and (parameters[0].name == "ctx" or hints.get(parameters[0].name) is Context)
    others = parameters[1 if wants_context else 0 :]
    given = tuple(p.name for p in others if p.name in services)
    fields = [_field(name, p, hints) for p in others if p.name not in services]
    return wants_context, given, fields, _result(name, hints.get("return", Any))


def _result(name: str, annotation: Any) -> Any:
    if annotation in (None, type(None), typing.NoReturn, typing.Never):
        return Any
    try:
        _schema(annotation)
    except TypeError:
        raise TypeError(f"action {name}: its result: {annotation!r} is not a type that JSON can become") from None
    return annotation


def _field(name: str, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> tuple[str, Any, Any]:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
        raise TypeError(f"action {name}: parameter {parameter.name} must be an ordinary named one, not * or **")
    annotation = hints.get(parameter.name, Any)
    try:
        msgspec.json.schema(annotation, schema_hook=duration.schema_hook)
    except TypeError:
        message = f"action {name}: parameter {parameter.name}: {annotation!r} is not a type that JSON can become"
        raise TypeError(message) from None
    if parameter.default is parameter.empty:
        return parameter.name, annotation, msgspec.NODEFAULT
    default = parameter.default
    if isinstance(default, list | dict | set):
        return parameter.name, annotation, msgspec.field(default_factory=lambda: type(default)(default))
    if isinstance(default, duration.Duration):  # a schema can show only plain JSON as a default
        return parameter.name, annotation, msgspec.field(default_factory=lambda: default)
    return parameter.name, annotation, default


def _schema(kind: Any) -> dict[str, Any]:
    """The schema of a type, its own definition first, without the reference that msgspec puts round it."""
    schema = msgspec.json.schema(kind, schema_hook=_result_schema)
    definitions = schema.pop("$defs", {})
    if "$ref" in schema:
        schema = definitions.pop(schema["$ref"].rsplit("/", 1)[1])
        schema.pop("title", None)
    if definitions:
        schema["$defs"] = definitions
    return schema


def _result_schema(kind: type[Any]) -> dict[str, Any]:
    """As for parameters; ``plain_json`` makes text of a path, and ``object`` is anything."""
    if kind is object or issubclass(kind, PurePath):
        return {"description": "Anything"} if kind is object else {"type": "string"}  # an empty one counts as none
    return duration.schema_hook(kind)


def decode_result(kind: type[Any], value: Any) -> Any:
    """Make of plain data in a result what msgspec cannot make itself: paths and durations."""
    if kind is object:
        return value
    return kind(value) if issubclass(kind, PurePath) else duration.decode_hook(kind, value)
