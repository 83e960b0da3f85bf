"""What a service is: what the actions of a plan share and somebody must close, such as a connection or a serial port.

``@service`` marks an async generator function that yields the thing once, or a function that gives an async context
manager; ``Service.of`` reads its signature once. Its parameters are ``ctx`` and other services of its plan.

Nothing here opens anything: when that happens, who shares it and who closes it is for ``services``.
"""

import inspect
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar, cast, overload

import msgspec

from aura.context import Context, ContextHost, Log
from aura.errors import ContextClosed, NoRun, ServiceFailed

F = TypeVar("F", bound=Callable[..., Any])

#: How long a service may take to open unless it says otherwise, in seconds.
OPEN_TIMEOUT = 30.0
_MARK = "__aura_service__"
#: What is to be said of a function that cannot be a service.
NO_GENERATOR = "a service is an `async def` that yields what it opened, once, or an async context manager"


class _Mark(msgspec.Struct, frozen=True):
    name: str | None
    broken_by: tuple[type[Exception], ...]
    open_timeout: float


@overload
def service(function: F, /) -> F: ...
@overload
def service(
    *, name: str | None = None, broken_by: tuple[type[Exception], ...] = (), open_timeout: float = OPEN_TIMEOUT
) -> Callable[[F], F]: ...


def service(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    broken_by: tuple[type[Exception], ...] = (),
    open_timeout: float = OPEN_TIMEOUT,
) -> Any:
    """Mark an async generator function as a service. Its name is the function's, unless ``name`` gives another.

    An action of its plan that has a parameter of that name is given what it yields. ``broken_by``: an action that uses
    it and fails with one of these has met a broken one; it is closed and opened anew at its next use. ``open_timeout``
    is in seconds.

    Raises:
        TypeError: ``broken_by`` is no tuple of exceptions, or ``open_timeout`` no positive number.
    """
    if not (isinstance(broken_by, tuple) and all(_is_error(kind) for kind in broken_by)):
        raise TypeError(f"@service: broken_by is {broken_by!r}: give a tuple of exceptions, such as (ConnectionError,)")
    if isinstance(open_timeout, bool) or not isinstance(open_timeout, int | float) or not open_timeout > 0:
        raise TypeError(f"@service: open_timeout is {open_timeout!r}: give a number of seconds")

    def mark(marked: F) -> F:
        setattr(marked, _MARK, _Mark(name, broken_by, float(open_timeout)))
        return marked

    return mark(function) if function is not None else mark


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


def is_service(candidate: object) -> bool:
    """Say whether ``@service`` marked this object."""
    return isinstance(getattr(candidate, _MARK, None), _Mark)


def service_name(function: Callable[..., Any]) -> str:
    """The name of what ``@service`` marked."""
    mark: _Mark = getattr(function, _MARK)
    return mark.name or function.__name__


class Service(msgspec.Struct, frozen=True):
    """One service, with what is known of its signature. ``needs`` are the services that it is given, by name."""

    name: str
    plan_name: str
    function: Callable[..., Any]
    wants_context: bool
    needs: tuple[str, ...]
    broken_by: tuple[type[Exception], ...]
    open_timeout: float
    description: str

    @classmethod
    def of(cls, function: Callable[..., Any], plan_name: str, known: Iterable[str]) -> "Service":
        """Read a service from a function that ``@service`` marked; ``known`` are the names of its plan's services.

        Raises:
            TypeError: it cannot be one; the message says why and what to change.
        """
        mark: _Mark = getattr(function, _MARK)
        name = service_name(function)
        if not name.isidentifier() or name == "ctx":
            raise TypeError(f"service {name}: no parameter of an action can have this name")
        if not inspect.isasyncgenfunction(inspect.unwrap(function)):
            raise TypeError(f"service {name}: {NO_GENERATOR}")
        wants_context, needs = _read_signature(name, function, frozenset(known))
        doc = inspect.cleandoc(function.__doc__).partition("\n")[0] if function.__doc__ else ""
        return cls(name, plan_name, function, wants_context, needs, mark.broken_by, mark.open_timeout, doc)

    @property
    def full_name(self) -> str:
        """Its name among the actions of all plans."""
        return f"{self.plan_name}.{self.name}"

    def __str__(self) -> str:
        return f"service {self.name} of plan {self.plan_name}"

    def made(self, context: Context, needs: Mapping[str, Any]) -> "Entering":
        """Call the function, and give what opens and closes what it makes."""
        return Entering(str(self), self.function(*((context,) if self.wants_context else ()), **needs))


def _read_signature(name: str, function: Callable[..., Any], known: frozenset[str]) -> tuple[bool, tuple[str, ...]]:
    parameters = list(inspect.signature(function).parameters.values())
    wants_context = bool(parameters) and (parameters[0].name == "ctx" or _is_context(parameters[0].annotation))
    needs = []
    for parameter in parameters[1 if wants_context else 0 :]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"service {name}: parameter {parameter.name} must be an ordinary named one, not * or **")
        if parameter.name in known:
            needs.append(parameter.name)
        elif parameter.default is parameter.empty:
            raise TypeError(nobody_gives(name, parameter.name))
    return wants_context, tuple(needs)


def _is_context(annotation: Any) -> bool:
    """Whether it says ``Context``, perhaps as text: what a service's other annotations name need not be there."""
    if isinstance(annotation, str):
        return annotation.strip("'\"").rpartition(".")[2] == "Context"
    return annotation is Context


def nobody_gives(name: str, parameter: str) -> str:
    """What to say of a parameter of a service that is none of its plan's services."""
    return f"service {name}: nobody gives its parameter {parameter!r}: it is no service of this plan"


def find_circle(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """A circle of services that need each other, the first of it also last; empty if there is none."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        names: list[str] = error.args[1]
        return names[::-1]  # it has each behind what it needs
    return []


def circle_message(circle: Iterable[str]) -> str:
    """What to say of such a circle."""
    return f"services cannot need each other in a circle: {' -> '.join(circle)}"


class Entering:
    """Opens and closes what a service's function made, as an async context manager.

    Of a generator it says clearly what is wrong if it does not yield exactly once.
    """

    def __init__(self, label: str, made: Any) -> None:
        self._label = label
        self._made = made
        #: The generator in which it may hang, if it is known.
        self.generator: AsyncGenerator[Any, None] | None = getattr(made, "gen", made)

    async def __aenter__(self) -> Any:
        if hasattr(self._made, "__aenter__"):
            return await self._made.__aenter__()
        if not hasattr(self._made, "__anext__"):
            raise ServiceFailed(f"{self._label} is {type(self._made).__name__}: {NO_GENERATOR}")
        try:
            return await anext(self._made)
        except StopAsyncIteration:
            raise ServiceFailed(f"{self._label} ended without yielding anything") from None

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool | None:
        if hasattr(self._made, "__aexit__"):
            return cast("bool | None", await self._made.__aexit__(kind, error, trace))
        try:
            await (anext(self._made) if error is None else self._made.athrow(error))
        except StopAsyncIteration:
            return True  # what it swallowed came from a scope of its own: nothing else cancels it while it is open
        await self._made.aclose()
        raise ServiceFailed(f"{self._label} yields more than once")


class ServiceContext(Context):
    """The ``ctx`` of a service: its log, its plan's name, variables and secrets. It is part of no run."""

    __slots__ = ("_service_host",)

    def __init__(self, host: "ServiceHost", variables: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
        self._host = cast(ContextHost, host)
        self._service_host = host
        self.vars = variables
        self.secrets = secrets

    def close(self) -> None:
        """Refuse from now on: the service has ended, or was left behind."""
        self._service_host.live = False

    def _open(self) -> ContextHost:
        if not self._host.live:
            raise ContextClosed("ctx of a service was used after that had ended")
        return self._host

    def __getattr__(self, name: str) -> Any:
        """What only a run has was never set here."""
        raise NoRun(f"ctx.{name}: {_NO_RUN}") if hasattr(Context, name) else AttributeError(name)


class ServiceHost:
    """What stands behind the ``ctx`` of a service; all that it does not have needs a run."""

    def __init__(self, plan_name: str, log: Log, process_environment: Mapping[str, str]) -> None:
        self.live = True
        self.plan_name = plan_name
        self.log = log
        self.process_environment = process_environment

    def __getattr__(self, name: str) -> Any:
        raise NoRun(f"ctx.{name}: {_NO_RUN}")


_NO_RUN = "a service is part of no run; what needs one belongs into an action"
