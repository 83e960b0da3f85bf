"""Actions: what a step does, as a Python function with checked parameters, and ``Context``, what it is handed.

``@action`` marks a function; ``Action.of`` reads its signature once. Parameters and result are checked against the
annotations by msgspec and appear as JSON Schema. An ``async def`` runs on the event loop and is stopped by a
cancellation at an await; a ``def`` runs in a worker thread and cannot be stopped, only waited for.

Nothing here starts anything: the attempt (``attempt.py``) owns the scopes and calls ``Action.function``.
"""

import inspect
import math
import typing
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, Literal, Protocol, TypeVar, overload

import anyio
import anyio.from_thread
import msgspec

from aura import duration
from aura.errors import BadOutput, ContextClosed, ParamsInvalid
from aura.redaction import Stream

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

#: The largest result of an action, and so of a step's output, in bytes of JSON.
MAX_OUTPUT = 1024 * 1024
MAX_OUTPUT_DEPTH = 64
_MARK = "__aura_action__"


class Log(Protocol):
    """What ``ctx.log`` offers: one line of text, and fields beside it."""

    def debug(self, event: str, **fields: Any) -> Any: ...
    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...
    def exception(self, event: str, **fields: Any) -> Any: ...


class StateHost(Protocol):
    """What stands behind a ``State``."""

    async def get(self, key: str, default: Any) -> Any: ...
    async def set(self, key: str, value: Any, ttl: float | str | None) -> None: ...
    async def delete(self, key: str) -> bool: ...
    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl: float | str | None) -> bool: ...
    async def keys(self, prefix: str) -> list[str]: ...


class ContextHost(Protocol):
    """What stands behind a ``Context``: the attempt that made it. ``live`` is false once the attempt is over."""

    @property
    def live(self) -> bool: ...
    @property
    def plan_name(self) -> str: ...
    @property
    def log(self) -> Log: ...
    @property
    def stopping_because(self) -> str | None: ...
    @property
    def workdir(self) -> Path: ...
    @property
    def process_environment(self) -> Mapping[str, str]: ...
    def hiding(self) -> Stream: ...
    def grace_left(self) -> float: ...
    def time_left(self) -> float: ...
    def progress(self, done: float, total: float | None, message: str) -> None: ...
    async def run_task(self, task: str, inputs: Mapping[str, Any], plan: str | None) -> Any: ...
    async def start_task(self, task: str, inputs: Mapping[str, Any], plan: str | None) -> str: ...
    async def emit(self, event: str, payload: Any) -> str: ...
    @property
    def state(self) -> StateHost: ...
    async def checkpoint(self, value: Any) -> None: ...
    @property
    def checkpointed(self) -> Any: ...


class State:
    """What a plan remembers over its runs: values by key, each plain JSON. ``ctx.state`` gives it.

    A key is text of 1 to 200 characters that can be printed; a value has at most 64 KiB of JSON and no secret in it; a
    plan remembers at most 10,000 keys and 16 MiB. A ``ttl`` is in seconds, or text such as ``10m``: after so long the
    key is gone; without one it stays, whatever it had before.

    Each method but ``get`` and ``keys`` returns once what it did is stored.

    Raises:
        StateInvalid: a key, a value or a ttl cannot be one. StateFull: there is no room for more.

    Cancellation: what was asked for is stored as a whole, or not at all.
    """

    __slots__ = ("_ctx",)

    def __init__(self, ctx: "Context") -> None:
        self._ctx = ctx

    async def get(self, key: str, default: Any = None) -> Any:
        """The value of a key; ``default`` if there is none."""
        return await self._ctx._open().state.get(key, default)

    async def set(self, key: str, value: Any, ttl: float | str | None = None) -> None:
        """Give a key a value, whatever it had."""
        await self._ctx._open().state.set(key, value, ttl)

    async def delete(self, key: str) -> bool:
        """Forget a key; says whether there was one."""
        return await self._ctx._open().state.delete(key)

    async def compare_and_set(self, key: str, expected: Any, value: Any, ttl: float | str | None = None) -> bool:
        """Give a key a value if it has the ``expected`` one, and say whether it had.

        To expect None is to expect that there is no such key, or that its value is null. Of many that do this in the
        same moment one wins.
        """
        return await self._ctx._open().state.compare_and_set(key, expected, value, ttl)

    async def keys(self, prefix: str = "") -> list[str]:
        """All keys that begin so, sorted."""
        return await self._ctx._open().state.keys(prefix)


class Context:
    """What an action may know and do besides its parameters.

    It belongs to one start of one step. Once that has ended, or has been given up as stuck, every use of it raises
    ``ContextClosed``, so that a forgotten thread cannot act for a run that has gone on without it.
    """

    __slots__ = ("_host", "attempt", "cid", "secrets", "step", "vars")

    def __init__(
        self,
        host: ContextHost,
        *,
        cid: str,
        step: str,
        attempt: int,
        variables: Mapping[str, Any],
        secrets: Mapping[str, str],
    ) -> None:
        self._host = host
        self.cid = cid
        self.step = step
        self.attempt = attempt
        self.vars = variables
        self.secrets = secrets

    def _open(self) -> ContextHost:
        if not self._host.live:
            raise ContextClosed(f"ctx of step {self.step} of run {self.cid} was used after that attempt was over")
        return self._host

    @property
    def plan_name(self) -> str:
        """The plan whose action this is."""
        return self._open().plan_name

    @property
    def log(self) -> Log:
        """The run's log; every line carries the run, the step and the attempt. May be used from any thread."""
        return self._open().log

    @property
    def stopping_because(self) -> str | None:
        """Why this attempt is being stopped: ``interrupt shutdown timeout cancel``; None while it is not."""
        return self._open().stopping_because

    @property
    def workdir(self) -> Path:
        """The run's own folder, made at first use; relative paths of the shipped actions are below it."""
        return self._open().workdir

    @property
    def process_environment(self) -> Mapping[str, str]:
        """What a child process of this attempt must have in its environment, so that it can be found and ended."""
        return self._open().process_environment

    def hiding(self) -> Stream:
        """What hides secrets in bytes that come in chunks, such as the output of a process."""
        return self._open().hiding()

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far this step is: ``done`` of ``total``, in any unit. Cheap; may be called as often as one likes."""
        self._open().progress(done, total, message)

    def grace_left(self) -> float:
        """Seconds that remain for clean-up once a stop has come; infinite while none has."""
        return self._open().grace_left()

    def time_left(self) -> float:
        """Seconds until a time-out would stop this attempt: its own, its run's, or that of a run above it.

        Infinite if there is none. Once it is being stopped, what is left of its grace.
        """
        return self._open().time_left()

    async def run(self, task: str, inputs: Mapping[str, Any] | None = None, plan: str | None = None) -> Any:
        """Run a task in the place of this run and give its result once it has ended: a sub-task.

        ``plan``: of another plan, which this one's ``plan.yaml`` has to name in ``uses``. When this attempt is told to
        stop, the sub-task is; a step that was stopped to come back goes on with the same one, as long as it makes its
        calls in the same order.

        Raises:
            TaskFailed: it is refused, or did not succeed. TaskRecursion: this run is part of a run of that task.

        Cancellation: the sub-task is stopped, and its end is waited for.
        """
        return await self._open().run_task(task, inputs or {}, plan)

    async def start(self, task: str, inputs: Mapping[str, Any] | None = None, plan: str | None = None) -> str:
        """Ask for a run of a task, as any client would, and give its ``cid`` once it is accepted. It is not waited for.

        Raises:
            TaskFailed: it is refused.
        """
        return await self._open().start_task(task, inputs or {}, plan)

    @property
    def state(self) -> State:
        """What this plan remembers over its runs; of an action of another plan it is that one's."""
        self._open()
        return State(self)

    async def checkpoint(self, value: Any) -> None:
        """Put by how far this step, or this item of a loop, is; returns once that is stored.

        ``value`` is plain JSON of at most 64 KiB, without a secret in it; it takes the place of the last one. It is
        kept until the step or item has ended, over tries, stops and restarts of the server.

        Raises:
            CheckpointInvalid: it cannot be kept.
        """
        await self._open().checkpoint(value)

    @property
    def checkpointed(self) -> Any:
        """What this step or item has put by last (``checkpoint``); None if nothing."""
        return self._open().checkpointed

    async def emit(self, event: str, payload: Any = None) -> str:
        """Emit an event and give its id once it is on record, with what it starts or wakes.

        ``event`` is its dotted name, which may not begin as those of Aura's own do; the payload is JSON, of 64 KiB at
        most. It waits while too many events are on their way to the store.

        Raises:
            EventRefused: the name or the payload is none that it may have, or it could not be stored.

        Cancellation: once it has been handed over the event is stored all the same.
        """
        return await self._open().emit(event, payload)

    @contextmanager
    def cleanup(self, timeout: float = 5.0) -> Iterator[None]:
        """Shield what must not be cut off half-way, for ``timeout`` seconds at most.

        The shield cannot hang: when the time is over, what is inside is cancelled.
        """
        with anyio.move_on_after(timeout, shield=True):
            yield

    def from_thread(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run an async function on the event loop, from an action that is a plain ``def``, and wait for its result."""
        self._open()
        return anyio.from_thread.run(function, *args)


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
